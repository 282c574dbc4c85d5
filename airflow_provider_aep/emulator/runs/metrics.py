"""What a dataflow run tells of itself: its metrics and activities, in the shape that the OpenAPI's examples have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

PROCESSOR = ("c4f238e3-7334-4933-8b56-64d7ea43ea54", "Activation Batch XdmProcessor Activity")
PUBLISHER = ("51d82b36-6b8f-11eb-9439-0242ac130002", "Activation Batch Publisher Activity")
ABORTED = {"code": "ACTIVATION_BATCH-0000-FAILED", "message": "Job aborted."}
PARTLY = {"code": "CONNECTOR-2001-500", "message": "Some of the records could not be written to the destination."}


@dataclass(frozen=True)
class DatasetResult:
    """What a run did with one dataset."""

    dataset_id: str
    read: int
    written: int
    files: int
    bytes: int

    @property
    def failed(self) -> int:
        return self.read - self.written


def in_progress(started_ms: int, status: str | None) -> dict[str, Any]:
    """Metrics of a run at work; Adobe may leave the status out."""
    found: dict[str, Any] = {"durationSummary": {"startedAtUTC": started_ms}}
    if status is not None:
        found["statusSummary"] = {"status": status}
    return found


def failed(
    started_ms: int,
    ended_ms: int,
    source_id: str,
    dataset_ids: Sequence[str],
    errors: Sequence[dict[str, Any]],
    word: str,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Metrics and activities of a run that failed: nothing was written, sizes and files are not told."""
    duration = {"startedAtUTC": started_ms, "completedAtUTC": ended_ms}
    problems = [dict(error) for error in errors] or [dict(ABORTED)]
    nothing = {"inputRecordCount": 0, "skippedRecordCount": 0}
    entities = [{"id": f"dataset:{one}", **nothing} for one in dataset_ids]
    found = {
        "durationSummary": duration,
        "recordSummary": {
            "sourceSummaries": [{"id": source_id, **nothing, "entitySummaries": entities}],
            "failedInfo": problems,
        },
        "statusSummary": {"status": word, "errors": problems, "activityRefs": [PROCESSOR[0]]},
    }
    activity = _activity(PROCESSOR, duration, {}, {}, {}, {"status": word, "errors": problems, "extensions": {}})
    return found, [activity]


def succeeded(
    started_ms: int,
    ended_ms: int,
    source_id: str,
    target_id: str,
    results: Sequence[DatasetResult],
    errors: Sequence[dict[str, Any]],
    word: str,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Metrics and activities of a run that ended well, in whole or, when records failed, in part."""
    read, written = sum(one.read for one in results), sum(one.written for one in results)
    size, files = sum(one.bytes for one in results), sum(one.files for one in results)
    records: dict[str, Any] = {
        "inputRecordCount": read,
        "createdRecordCount": written,
        "outputRecordCount": written,
        "skippedRecordCount": 0,
    }
    status: dict[str, Any] = {"status": word, "activityRefs": [PROCESSOR[0]]}
    if errors:
        records["failedRecordCount"] = read - written
        records["failedInfo"] = [{**error, "count": read - written} for error in errors]
        status["errors"] = [dict(error) for error in errors]
    sizes = {"inputBytes": size, "outputBytes": size}
    counts = {"inputFileCount": files, "outputFileCount": files}
    duration = {"startedAtUTC": started_ms, "completedAtUTC": ended_ms}
    sources = [
        {"id": f"dataset:{one.dataset_id}", "inputRecordCount": one.read, "skippedRecordCount": 0} for one in results
    ]
    targets = [
        {"id": f"dataset:{one.dataset_id}", "createdRecordCount": one.written, "outputRecordCount": one.written}
        for one in results
    ]
    summaries = {
        "sourceSummaries": [
            {"id": source_id, "inputRecordCount": read, "skippedRecordCount": 0, "entitySummaries": sources}
        ],
        "targetSummaries": [
            {"id": target_id, "createdRecordCount": written, "outputRecordCount": written, "entitySummaries": targets}
        ],
    }
    found = {
        "durationSummary": duration,
        "sizeSummary": sizes,
        "recordSummary": {**records, **summaries},
        "fileSummary": counts,
        "statusSummary": status,
    }
    middle = started_ms + (ended_ms - started_ms) // 2
    processing = {"startedAtUTC": started_ms, "completedAtUTC": middle}
    publishing = {"startedAtUTC": middle, "completedAtUTC": ended_ms}
    done = {"status": word, "extensions": {}}
    published = {**records, "inputRecordCount": written}
    return found, [
        _activity(
            PROCESSOR, processing, sizes, records, counts, {key: status[key] for key in ("errors",) if errors} | done
        ),
        _activity(PUBLISHER, publishing, {"outputBytes": size}, published, {"outputFileCount": files}, done),
    ]


def _activity(
    named: tuple[str, str],
    duration: dict[str, Any],
    size: dict[str, Any],
    records: dict[str, Any],
    files: dict[str, Any],
    status: dict[str, Any],
) -> dict[str, Any]:
    return {
        "id": named[0],
        "name": named[1],
        "updatedAtUTC": 0,
        "durationSummary": duration,
        "latencySummary": {},
        "sizeSummary": size,
        "recordSummary": records,
        "fileSummary": files,
        "statusSummary": status,
    }
