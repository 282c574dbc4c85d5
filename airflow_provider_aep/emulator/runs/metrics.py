"""What a dataflow run reports: its metrics and activities, in the shape of the OpenAPI's examples."""

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


def in_progress(started_ms: int, status: str | None) -> dict[str, Any]:
    """Metrics of a run under way; Adobe may leave the status out."""
    found: dict[str, Any] = {"durationSummary": {"startedAtUTC": started_ms}}
    return found if status is None else {**found, "statusSummary": {"status": status}}


def failed(
    started_ms: int,
    ended_ms: int,
    source_id: str,
    dataset_ids: Sequence[str],
    errors: Sequence[dict[str, Any]],
    status: str,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Metrics and activities of a run that failed: nothing was written, sizes and files are absent."""
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
        "statusSummary": {"status": status, "errors": problems, "activityRefs": [PROCESSOR[0]]},
    }
    return found, [_activity(PROCESSOR, duration, {"status": status, "errors": problems, "extensions": {}})]


def succeeded(
    started_ms: int,
    ended_ms: int,
    source_id: str,
    target_id: str,
    results: Sequence[DatasetResult],
    errors: Sequence[dict[str, Any]],
    status: str,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Metrics and activities of a run that succeeded, in whole or, when records failed, in part."""
    read, written = sum(one.read for one in results), sum(one.written for one in results)
    size, files = sum(one.bytes for one in results), sum(one.files for one in results)
    records = {**_read(read), **_written(written)}
    problems: dict[str, Any] = {}
    if errors:
        records["failedRecordCount"] = read - written
        records["failedInfo"] = [{**error, "count": read - written} for error in errors]
        problems = {"errors": [dict(error) for error in errors]}
    sizes = {"inputBytes": size, "outputBytes": size}
    counts = {"inputFileCount": files, "outputFileCount": files}
    sources = [{"id": f"dataset:{one.dataset_id}", **_read(one.read)} for one in results]
    targets = [{"id": f"dataset:{one.dataset_id}", **_written(one.written)} for one in results]
    found = {
        "durationSummary": {"startedAtUTC": started_ms, "completedAtUTC": ended_ms},
        "sizeSummary": sizes,
        "recordSummary": {
            **records,
            "sourceSummaries": [{"id": source_id, **_read(read), "entitySummaries": sources}],
            "targetSummaries": [{"id": target_id, **_written(written), "entitySummaries": targets}],
        },
        "fileSummary": counts,
        "statusSummary": {"status": status, "activityRefs": [PROCESSOR[0]], **problems},
    }
    middle = started_ms + (ended_ms - started_ms) // 2
    done = {"status": status, "extensions": {}}
    processed = {"startedAtUTC": started_ms, "completedAtUTC": middle}
    published = {"startedAtUTC": middle, "completedAtUTC": ended_ms}
    return found, [
        _activity(PROCESSOR, processed, {**problems, **done}, sizes, records, counts),
        _activity(
            PUBLISHER,
            published,
            done,
            {"outputBytes": size},
            {**records, "inputRecordCount": written},
            {"outputFileCount": files},
        ),
    ]


def _read(count: int) -> dict[str, Any]:
    return {"inputRecordCount": count, "skippedRecordCount": 0}


def _written(count: int) -> dict[str, Any]:
    return {"createdRecordCount": count, "outputRecordCount": count}


def _activity(
    named: tuple[str, str],
    duration: dict[str, Any],
    status: dict[str, Any],
    size: dict[str, Any] | None = None,
    records: dict[str, Any] | None = None,
    files: dict[str, Any] | None = None,
) -> dict[str, Any]:
    return {
        "id": named[0],
        "name": named[1],
        "updatedAtUTC": 0,
        "durationSummary": duration,
        "latencySummary": {},
        "sizeSummary": size or {},
        "recordSummary": records or {},
        "fileSummary": files or {},
        "statusSummary": status,
    }
