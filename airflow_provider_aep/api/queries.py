"""Work made of several calls, written once as generators: lists, datasets, access, and which run is meant."""

from __future__ import annotations

import difflib
import fnmatch
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from airflow_provider_aep.api import calls
from airflow_provider_aep.api.auth import TOKEN_PATH
from airflow_provider_aep.api.calls import DATAFLOWS, Collection
from airflow_provider_aep.api.effects import Call, Procedure, Sleep
from airflow_provider_aep.api.entities import VANISHING, Dataflow, DataflowId, Dataset, FlowRun
from airflow_provider_aep.api.wire import Page, continuation_token, read_dataset, read_flow_run
from airflow_provider_aep.errors import (
    InvalidArgument,
    ReplyError,
    RequestRefused,
    UnexpectedReply,
)

__all__ = [
    "all_items",
    "check_access",
    "dataflows_of",
    "list_dataflows",
    "list_datasets",
    "list_runs",
    "reaches_back",
]

log = logging.getLogger(__name__)
T = TypeVar("T")


def all_items(
    first: Call[Page], *, enough: Callable[[list[dict[str, Any]]], bool] = lambda _items: False
) -> Procedure[list[dict[str, Any]]]:
    """The items of every page of a list, each once even if the list shifts while it is read.

    Stops early at a page of which `enough` says so.

    Raises:
        UnexpectedReply: a continuation token came twice, so the list would never end.
    """
    items: dict[str, dict[str, Any]] = {}
    seen: set[str] = set()
    page = yield from first
    while True:
        items.update({item["id"]: item for item in page.items})
        if not page.next_href or enough(page.items):
            return list(items.values())
        token = continuation_token(page.next_href)
        if token in seen:
            raise UnexpectedReply(str(first), message="a continuation token came twice; the list has no end")
        seen.add(token)
        page = yield from calls.next_page(page.next_href)


def keep_looking(
    look: Callable[[], Procedure[list[T]]], is_enough: Callable[[list[T]], bool] = bool, *, seconds: float
) -> Procedure[list[T]]:
    """What `look` finds, once it is enough, or after `seconds`: Adobe's lists may show an entity late."""
    waited, pause = 0.0, 0.5
    while True:
        found = yield from look()
        if is_enough(found) or waited >= seconds:
            return found
        pause = min(pause, seconds - waited)
        yield Sleep(pause)
        waited += pause
        pause *= 2


def list_datasets(
    *, dataset_ids: Sequence[str] = (), names: Sequence[str] = (), name_pattern: str = "", sandbox_name: str = ""
) -> Procedure[list[Dataset]]:
    """Datasets that may be exported: all, or those of the given IDs, names, or name pattern (`*`, `?`, `[…]`).

    `sandbox_name` is for the words of an error only; which sandbox is asked the session decides.

    Pages are asked for until Adobe says that there is no next one or, where it does not say, one brings nothing new.
    The next one begins after what came, since a server may give less than `limit`.

    Raises:
        InvalidArgument: an ID or a name is not among them, or a name means several datasets.
    """
    found: dict[str, Dataset] = {}
    start = 0
    while True:
        page = yield from calls.list_datasets(start=start)
        known = len(found)
        found.update({dataset.id: dataset for dataset in map(read_dataset, page.items)})
        if page.has_next is False or len(found) == known:
            break
        start += len(page.items)
    datasets = list(found.values())
    if dataset_ids:
        _demand("dataset_ids", dataset_ids, found, sandbox_name)
        return [found[dataset_id] for dataset_id in dict.fromkeys(dataset_ids)]
    if names:
        by_name: dict[str, list[Dataset]] = {}
        for dataset in datasets:
            by_name.setdefault(dataset.name, []).append(dataset)
        _demand("names", names, by_name, sandbox_name)
        for name in names:
            if len(by_name[name]) > 1:
                same = ", ".join(dataset.id for dataset in by_name[name])
                raise InvalidArgument("names", name, f"means several datasets ({same}); give dataset_ids instead")
        return [by_name[name][0] for name in dict.fromkeys(names)]
    return [dataset for dataset in datasets if not name_pattern or fnmatch.fnmatchcase(dataset.name, name_pattern)]


def _demand(argument: str, wanted: Sequence[str], known: Mapping[str, object], sandbox_name: str) -> None:
    missing = [each for each in wanted if each not in known]
    if missing:
        folded = {each.casefold(): each for each in known}
        alike = (difflib.get_close_matches(each.casefold(), folded, n=3) for each in missing)
        near = sorted({folded[like] for found in alike for like in found})
        rule = (
            f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not among the {len(known)} datasets that may "
            f"be exported from {f'sandbox {sandbox_name!r}' if sandbox_name else 'this sandbox'} "
            "(a dataset may be missing because it is not enabled for Profile, or an access label hides it)"
        )
        if near:
            rule += f"; did you mean {' or '.join(near)}?"
        raise InvalidArgument(argument, list(wanted), rule)


# Which step of the way an error code stands for. Source: gateway codes of the troubleshooting guide; Flow Service error
# catalogue, 2000 to 2121.
_STEPS = {
    "organisation": (400003, 2000, 2001, 2002, 403027),
    "API key": (403000, 403003),
    "sandbox": (2100, 2101, 2102, 2103, 2104, 2105, 2106, 2107, 2108, 2111, 2112, 2113),
}


def check_access(sandbox_name: str) -> Procedure[tuple[bool, str]]:
    """Whether the credential may do what an export needs, and in words for a person what works or which step fails.

    One dataflow is asked for, which needs a token, the organisation, the sandbox and the Flow Service right; the list
    of sandboxes only adds to the message, since a technical account may be kept from it.
    """
    try:
        yield from calls.list_page("/flows", order="", limit=1)
    except ReplyError as error:
        return False, f"{_step_of(error)} failed: {error}"
    try:
        sandboxes = yield from calls.list_sandboxes()
    except ReplyError:
        sandboxes = []
    kinds = [f"{each.get('type')}, {each.get('state')}" for each in sandboxes if each.get("name") == sandbox_name]
    told = f"sandbox {sandbox_name!r} ({kinds[0]})" if kinds else f"sandbox {sandbox_name!r}"
    return True, f"Token, organisation, {told} and Flow Service right are in order"


def _step_of(error: ReplyError) -> str:
    named = next((step for step, numbers in _STEPS.items() if error.number in numbers), "")
    if named:
        return f"The {named}"
    if error.request.endswith(TOKEN_PATH):
        return "The token request"
    return "The Flow Service right" if isinstance(error, RequestRefused) else "The way to Adobe"


def reaches_back(items: Sequence[Mapping[str, Any]], since_ms: int) -> bool:
    """Whether a page that Adobe has really put newest first ends before `since_ms`."""
    return bool(items) and int(items[-1].get("createdAt") or 0) < since_ms and _is_newest_first(items)


def _is_newest_first(items: Sequence[Mapping[str, Any]]) -> bool:
    created = [int(item.get("createdAt") or 0) for item in items]
    return created == sorted(created, reverse=True)


def dataflows_of(collection: Collection, connection_id: str) -> Procedure[list[Dataflow]]:
    """The dataflows that use a source or target connection.

    Source: guide "Sort and filter responses", flows,
    https://experienceleague.adobe.com/en/docs/experience-platform/dataflows/api/sort-and-filter
    """
    member = f"{collection.path.removeprefix('/').removesuffix('s')}Ids"
    items = yield from all_items(calls.list_page("/flows", filters=[f"{member}[]=={connection_id}"]))
    dataflows: list[Dataflow] = [DATAFLOWS.read(item) for item in items]
    return [
        each
        for each in dataflows
        if connection_id in (each.source_connection_id, each.target_connection_id) and each.state != VANISHING
    ]


def list_dataflows() -> Procedure[list[Dataflow]]:
    """The dataflows of the sandbox, newest first."""
    items = yield from all_items(calls.list_page("/flows"))
    return [each for each in map(DATAFLOWS.read, items) if each.state != VANISHING]


def list_runs(dataflow: DataflowId, *, since_ms: int = 0, limit: int | None = None) -> Procedure[list[FlowRun]]:
    """The flow runs of a dataflow, newest first: those created at or after `since_ms`, at most the newest `limit`.

    `since_ms` is in milliseconds since 1970 UTC.
    """

    def enough(items: list[dict[str, Any]]) -> bool:
        ours = [item for item in items if item.get("flowId") == dataflow]
        return reaches_back(items, since_ms) or (limit is not None and len(ours) >= limit and _is_newest_first(items))

    items = yield from all_items(calls.list_runs(f"flowId=={dataflow}"), enough=enough)
    runs = [run for run in map(read_flow_run, items) if run.dataflow_id == dataflow and run.created_ms >= since_ms]
    return sorted(runs, key=lambda run: (run.created_ms, run.id), reverse=True)[:limit]
