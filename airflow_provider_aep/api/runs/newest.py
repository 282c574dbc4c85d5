"""The newest flow runs of many dataflows, in a few requests whatever their history.

1. `lastRunDetails` of a dataflow names its last run, so the last runs of a hundred dataflows are one request by IDs.
2. Who needs more is asked for by dataflow IDs, newest runs first, page by page. Dataflows that run about equally often
   share a list, and whoever has enough leaves it, so that a long history crowds out nobody else's.
3. Who is not answered after a bounded number of pages, is asked for alone.

Where Adobe refuses several IDs in one request, the list of all runs takes the place of those by IDs. A list shows that
a dataflow has no run, or no newer one, only if it has ended, or has been seen to put the newest first.

Source: `id`, `flowId` and several values in a filter,
https://experienceleague.adobe.com/en/docs/experience-platform/dataflows/api/sort-and-filter; `lastRunDetails` in GET
/flows, https://developer.adobe.com/experience-platform-apis/references/destinations/
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from airflow_provider_aep.api import calls
from airflow_provider_aep.api.effects import Call, Procedure, gather
from airflow_provider_aep.api.entities import Dataflow, FlowRun
from airflow_provider_aep.api.runs.index import BATCH_SIZE, Capabilities, Item, milliseconds
from airflow_provider_aep.api.runs.poll import CONCURRENT_REQUESTS, following_page, is_about_filter
from airflow_provider_aep.api.wire import Page, read_flow_run
from airflow_provider_aep.errors import RequestRefused
from airflow_provider_aep.schedules import interval_seconds

_HOUR = 3600
_SPARE_PAGES = 2  # of a list, beyond those that evenly spread runs would take

#: Takes a dataflow and its newest runs as far as they are known, newest first.
Judge = Callable[[Dataflow, Sequence[FlowRun]], bool]


class _KnownRuns:
    """The runs seen so far, by dataflow."""

    def __init__(self, dataflows: Sequence[Dataflow]) -> None:
        self._runs: dict[str, dict[str, FlowRun]] = {each.id: {} for each in dataflows}

    def take(self, items: Sequence[Item]) -> None:
        for item in items:
            if item.get("flowId") in self._runs:
                run = read_flow_run(item)
                self._runs[run.dataflow_id][run.id] = run

    def forget(self, dataflow: Dataflow) -> None:
        self._runs[dataflow.id].clear()

    def of(self, dataflow: Dataflow) -> list[FlowRun]:
        return sorted(self._runs[dataflow.id].values(), key=lambda run: (run.created_ms, run.id), reverse=True)


def newest_runs(
    dataflows: Sequence[Dataflow], is_enough: Judge, *, is_doubtful: Judge, most: int
) -> Procedure[Mapping[str, Sequence[FlowRun]]]:
    """{dataflow ID: its newest runs, newest first}: for each at least so many that `is_enough`, or all that it has.

    `most` is how many runs that takes at the most, 1 to 100. `is_doubtful` says where it cannot be that the run which a
    dataflow names as its last one is the newest: `lastRunDetails` tells of no run under way, and may be late.

    Raises:
        RequestRefused: Adobe refuses even to list the runs of a single dataflow.
    """
    known, capabilities = _KnownRuns(dataflows), Capabilities()
    left: list[Dataflow] = []
    for chunk in _chunks([each for each in dataflows if each.last_run_id]):
        known.take((yield from _last_runs(chunk)))
    unclear = [each for each in dataflows if is_doubtful(each, known.of(each)) or not is_enough(each, known.of(each))]
    for each in unclear:
        known.forget(each)  # so that only lists of the newest runs count
    for group in _alike(unclear):
        for chunk in _chunks(group):
            # The list of all runs, where Adobe refuses several IDs, has answered others on the way.
            open_ones = [each for each in chunk if not is_enough(each, known.of(each))]
            if open_ones:
                left += yield from _read_list(open_ones, known, is_enough, most, capabilities)
    remaining = iter(left)  # shared by workers that may be threads: each `next` gives a dataflow to one of them

    def work() -> Procedure[None]:
        for each in remaining:
            yield from _read_alone(each, known, is_enough, capabilities)

    yield from gather(*(work() for _ in range(min(CONCURRENT_REQUESTS, len(left)))))
    return {each.id: known.of(each) for each in dataflows}


def _chunks(dataflows: Sequence[Dataflow]) -> Iterator[Sequence[Dataflow]]:
    return (dataflows[at : at + BATCH_SIZE] for at in range(0, len(dataflows), BATCH_SIZE))


def _alike(dataflows: Sequence[Dataflow]) -> list[list[Dataflow]]:
    """Dataflows that run about equally often: every three hours, a few times a day, or less."""
    groups: dict[int, list[Dataflow]] = {}
    for each in dataflows:
        interval = interval_seconds(each.schedule) or 24 * _HOUR
        groups.setdefault((interval > 3 * _HOUR) + (interval > 12 * _HOUR), []).append(each)
    return list(groups.values())


def _last_runs(dataflows: Sequence[Dataflow]) -> Procedure[Sequence[Item]]:
    """The runs that the dataflows name as their last ones, as far as one page holds them.

    None where Adobe refuses to list runs by several IDs.
    """
    page = yield from _if_answered(calls.list_runs(f"id=={','.join(each.last_run_id for each in dataflows)}", order=""))
    return page.items if page else ()


def _read_list(
    dataflows: Sequence[Dataflow], known: _KnownRuns, is_enough: Judge, most: int, capabilities: Capabilities
) -> Procedure[list[Dataflow]]:
    """Read the newest runs of several dataflows from one list. Returns those that it has not answered in time."""
    waiting = {each.id: each for each in dataflows}
    page: Page | None = None
    items: list[Item] = []
    for _ in range(len(dataflows) * most // calls.PAGE_SIZE + 1 + _SPARE_PAGES):
        if page:
            page = yield from following_page(page)
        else:
            page, items = (yield from _first_page(list(waiting), capabilities)), []
        known.take(page.items)
        items += page.items
        if not page.next_href:
            return []
        if not _is_newest_first(items):
            continue
        waiting = {each.id: each for each in waiting.values() if not is_enough(each, known.of(each))}
        if not waiting:
            return []
        crowd = sum(item.get("flowId") not in waiting for item in page.items)
        if 2 * crowd > len(page.items) and capabilities.batch_size > 1:
            page = None  # ask again, without those that have enough
    return list(waiting.values())


def _read_alone(dataflow: Dataflow, known: _KnownRuns, is_enough: Judge, capabilities: Capabilities) -> Procedure[None]:
    page = yield from _first_page([dataflow.id], capabilities)
    items = list(page.items)
    while True:
        known.take(page.items)
        if not page.next_href or (_is_newest_first(items) and is_enough(dataflow, known.of(dataflow))):
            return
        page = yield from following_page(page)
        items += page.items


def _first_page(ids: Sequence[str], capabilities: Capabilities) -> Procedure[Page]:
    """The newest runs of these dataflows; of all where Adobe refuses several IDs, in its own order where it sorts not.

    Source of Adobe's own order, most recently created or updated first: parameter `orderby` of GET /runs.
    """
    while True:
        filters = [f"flowId=={','.join(ids)}"] if len(ids) == 1 or capabilities.batch_size > 1 else []
        try:
            return (yield from calls.list_runs(*filters, order="" if capabilities.is_plain else "-createdAt"))
        except RequestRefused as refusal:
            if not is_about_filter(refusal):
                raise
            plain = None
            if not capabilities.is_plain:
                plain = yield from _if_answered(calls.list_runs(*filters, order=""))
            if plain:
                capabilities.ask_plainly(refusal)
                return plain
            if len(ids) == 1 or capabilities.batch_size == 1:
                raise
            capabilities.ask_singly(refusal)


def _if_answered(call: Call[Page]) -> Procedure[Page | None]:
    try:
        return (yield from call)
    except RequestRefused as refusal:
        if not is_about_filter(refusal):
            raise
        return None


def _is_newest_first(items: Sequence[Item]) -> bool:
    """Whether a list is in the order asked for, or in Adobe's own; runs of one moment only do not show that."""
    orders = ([milliseconds(item, name) for item in items] for name in ("createdAt", "updatedAt"))
    return any(stamps == sorted(stamps, reverse=True) and stamps[:1] > stamps[-1:] for stamps in orders)
