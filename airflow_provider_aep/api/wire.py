"""JSON -> entities: field names, letter case, units and pages, as Adobe writes them.

Times are in milliseconds since 1970 UTC, but for those inside `scheduleParams`, which are in seconds. Sources:
destinations OpenAPI: https://developer.adobe.com/experience-platform-apis/references/destinations/
monitoring guide: https://experienceleague.adobe.com/en/docs/experience-platform/dataflows/api/monitor
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import parse_qs

from airflow_provider_aep.api.credentials import account_in
from airflow_provider_aep.api.entities import (
    BaseConnection,
    BaseConnectionId,
    Dataflow,
    DataflowId,
    Dataset,
    DatasetId,
    FlowRun,
    FlowRunId,
    RunError,
    SourceConnection,
    SourceConnectionId,
    TargetConnection,
    TargetConnectionId,
    run_status,
)
from airflow_provider_aep.errors import UnexpectedReply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


T = TypeVar("T")


class Page(NamedTuple):
    """A page of a list as Adobe sent it, and the address of the next one ("" after the last)."""

    items: list[dict[str, Any]]
    next_href: str


def read_page(reply: Mapping[str, Any]) -> Page:
    """Read `{"items": […], "_links": {"next": {"href": …}}}`; `_links` may be empty or missing on the last page.

    Only the IDs of the items are checked here.

    Raises:
        LookupError, TypeError, ValueError: it is no page, or an item has no ID.
    """
    items = [dict(item) for item in reply["items"]]
    if not all(item["id"] for item in items):
        raise ValueError("an item without an id")
    links = reply.get("_links") or {}
    return Page(items, str((links.get("next") or {}).get("href") or ""))


def continuation_token(href: str) -> str:
    """The token in the address of a next page, to see whether it repeats. Tokens may hold `=`, `+` and `/`."""
    query = href.partition("?")[2].partition("#")[0]
    return "".join(parse_qs(query).get("continuationToken", [href]))


class EmptyList(LookupError):
    """A GET by ID was answered by an empty list."""


def read_one(reply: Mapping[str, Any]) -> dict[str, Any]:
    """Read the reply to a GET by ID, `{"items": [entity]}`; a bare entity is read as well.

    Raises:
        EmptyList: Adobe knows no such entity.
        ValueError: it holds several, so it is unknown which is meant.
    """
    items = reply.get("items")
    if items is None:
        return dict(reply)
    if not items:
        raise EmptyList("Adobe answers with an empty list")
    if len(items) > 1:
        raise ValueError(f"{len(items)} items where one is expected")
    return dict(items[0])


def _reader(title: str) -> Callable[[Callable[[Mapping[str, Any]], T]], Callable[[Mapping[str, Any]], T]]:
    """Make an entity that cannot be read, alone or in a list, an UnexpectedReply rather than our KeyError."""

    def decorate(read: Callable[[Mapping[str, Any]], T]) -> Callable[[Mapping[str, Any]], T]:
        @functools.wraps(read)
        def checked(raw: Mapping[str, Any]) -> T:
            try:
                return read(raw)
            except (LookupError, TypeError, ValueError, AttributeError) as error:
                reason = f"lacks what it must hold ({type(error).__name__}: {error})"
                raise UnexpectedReply(f"a {title} in Adobe's reply", message=reason) from error

        return checked

    return decorate


def _common(raw: Mapping[str, Any], spec: str) -> dict[str, Any]:
    return {
        "id": raw["id"],
        "name": raw.get("name") or "",
        "spec_id": str((raw.get(spec) or {}).get("id") or ""),
        "etag": raw.get("etag") or raw.get("version") or "",
        "state": raw.get("state") or "",
        "description": raw.get("description") or "",
        "created_ms": int(raw.get("createdAt") or 0),
        "updated_ms": int(raw.get("updatedAt") or 0),
    }


@_reader("base connection")
def read_base_connection(raw: Mapping[str, Any]) -> BaseConnection:
    auth = raw.get("auth") or {}
    return BaseConnection(
        **_common(raw, "connectionSpec"),
        auth_spec=str(auth.get("specName") or ""),
        account=account_in(auth.get("params") or {}),
    )


@_reader("source connection")
def read_source_connection(raw: Mapping[str, Any]) -> SourceConnection:
    datasets = (raw.get("params") or {}).get("datasets") or []
    return SourceConnection(
        **_common(raw, "connectionSpec"), dataset_ids=tuple(DatasetId(dataset["dataSetId"]) for dataset in datasets)
    )


@_reader("target connection")
def read_target_connection(raw: Mapping[str, Any]) -> TargetConnection:
    return TargetConnection(
        **_common(raw, "connectionSpec"),
        base_connection_id=BaseConnectionId(raw.get("baseConnectionId") or ""),
        params=dict(raw.get("params") or {}),
    )


@_reader("dataflow")
def read_dataflow(raw: Mapping[str, Any]) -> Dataflow:
    return Dataflow(
        **_common(raw, "flowSpec"),
        source_connection_id=SourceConnectionId((raw.get("sourceConnectionIds") or [""])[0]),
        target_connection_id=TargetConnectionId((raw.get("targetConnectionIds") or [""])[0]),
        schedule=dict(raw.get("scheduleParams") or {}),
        schedule_changed_ms=_changed_ms("/scheduleParams", raw.get("lastOperation")),
        source_changed_ms=_changed_ms("/sourceConnectionIds", raw.get("lastOperation")),
        description_changed_ms=_changed_ms("/description", raw.get("lastOperation")),
        last_run_id=FlowRunId(str((raw.get("lastRunDetails") or {}).get("id") or "")),
    )


def _changed_ms(member: str, operation: Any) -> int:
    """When the last operation on a dataflow began, if it changed this member, else 0.

    Source: destinations OpenAPI, GET /flows, `lastOperation`.
    """
    if not isinstance(operation, dict) or not isinstance(operation.get("ops"), list):
        return 0
    paths = [str(each.get("path")) for each in operation["ops"] if isinstance(each, dict)]
    started = operation.get("started")
    changed = any(path.startswith(member) for path in paths)
    return started if changed and isinstance(started, int) else 0


@_reader("dataset")
def read_dataset(raw: Mapping[str, Any]) -> Dataset:
    return Dataset(
        id=DatasetId(raw["id"]),
        name=raw.get("name") or "",
        description=raw.get("description") or "",
        state=raw.get("state") or "",
    )


@_reader("flow run")
def read_flow_run(raw: Mapping[str, Any]) -> FlowRun:
    """Read a run as GET /runs lists it. Any part of `metrics` may be missing.

    Source: destinations OpenAPI, GET /runs, whose schema calls the end `stoppedAtUTC` and whose examples call it
    `completedAtUTC`; both are read.
    """
    metrics = raw.get("metrics") or {}
    duration = metrics.get("durationSummary") or {}
    records = metrics.get("recordSummary") or {}
    sizes = metrics.get("sizeSummary") or {}
    status = str((metrics.get("statusSummary") or {}).get("status") or "")
    completed_ms = duration.get("completedAtUTC") or duration.get("stoppedAtUTC")
    return FlowRun(
        id=FlowRunId(raw["id"]),
        dataflow_id=DataflowId(raw.get("flowId") or ""),
        status=run_status(status, ended=bool(completed_ms)),
        raw_status=status,
        created_ms=int(raw.get("createdAt") or 0),
        updated_ms=int(raw.get("updatedAt") or raw.get("createdAt") or 0),
        started_ms=_number(duration.get("startedAtUTC")),
        completed_ms=_number(completed_ms),
        input_records=_number(records.get("inputRecordCount")),
        output_records=_number(records.get("outputRecordCount")),
        skipped_records=_number(records.get("skippedRecordCount")),
        failed_records=_number(records.get("failedRecordCount")),
        input_bytes=_number(sizes.get("inputBytes")),
        output_bytes=_number(sizes.get("outputBytes")),
        output_files=_number((metrics.get("fileSummary") or {}).get("outputFileCount")),
        errors=tuple(dict.fromkeys(_run_errors(raw, metrics, records))),
    )


class AdhocRun(NamedTuple):
    """Which flow run exports a dataset."""

    dataset_id: DatasetId
    run_id: FlowRunId


def read_adhoc_runs(reply: Mapping[str, Any]) -> list[AdhocRun]:
    """Read `{"destinations": [{"datasets": [{"id", "statusURL", "flowId"}]}]}`; a run's ID ends its `statusURL`.

    Source: aepp, https://github.com/adobe/aepp, the sample reply in its tests of `ExportDatasetToDataLandingZone`.
    """
    listed = [each for destination in reply["destinations"] for each in destination["datasets"]]
    runs = [AdhocRun(DatasetId(each["id"]), FlowRunId(each["statusURL"].rpartition("/")[2])) for each in listed]
    if not runs or not all(re.fullmatch(r"[0-9A-Za-z-]+", run.run_id) for run in runs):
        raise ValueError("no statusURL that ends in a flow run's ID")
    return runs


def _number(value: Any) -> int | None:
    return None if value in (None, "") else int(value)


def _run_errors(raw: Mapping[str, Any], metrics: Mapping[str, Any], records: Mapping[str, Any]) -> Iterator[RunError]:
    """The errors of a run, some of them twice. Source of the four places: destinations OpenAPI; monitoring guide."""
    activities = [activity.get("statusSummary") or {} for activity in raw.get("activities") or []]
    for summary in [metrics.get("statusSummary") or {}, *activities]:
        for found in [*(summary.get("errors") or []), *((summary.get("extensions") or {}).get("errors") or [])]:
            yield RunError(str(found.get("code") or ""), str(found.get("message") or ""))
    for found in records.get("failedInfo") or []:
        yield RunError(str(found.get("code") or ""), str(found.get("message") or ""))


def unwrapped(read: Callable[[Mapping[str, Any]], T]) -> Callable[[Mapping[str, Any]], T]:
    """The reader of a reply that wraps what `read` reads."""
    return lambda reply: read(read_one(reply))
