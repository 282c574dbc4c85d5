"""One poll for many pending runs: the cheapest sound requests, and plain ones where Adobe refuses those.

The rule. Let W be Adobe's time at the beginning of the last poll that brought all that was known up to date. A poll

1. asks for what nobody has asked for yet, by run ID or, where the run is not known yet, by dataflow ID;
2. asks for everything known, if that takes one request;
3. otherwise reads the runs that have changed, newest first: all since W - `RECENT_MS`, and of those since
   W - `OVERLAP_MS` the last hundred, which fit on one page; or it asks for everything known, if there are too many
   changes, or if Adobe has refused to compare;
4. then asks for one more batch of what is known, in rotation, if the poller can spare a request.

A pending run gets its ID only from a complete list of its dataflow's runs; a change merely says whom to ask for. So it
is the earliest run that Adobe shows, however late others appear, and it never changes. The next poll sees a change if
Adobe's lists show it within `RECENT_MS` of the time that it bears, or within `OVERLAP_MS` and before a hundred newer
ones; the rotation sees it otherwise. Equal times do no harm, since a change is read again and again until W has passed
it. Nor does a list that shifts while it is read: it is sorted by a time that never changes, or what moves has just
changed and is read by the next poll. A failed request leaves W where it was. This machine's time is used only until
Adobe's is known, and only to ask for more than is needed.

Two rungs. Adobe's documents do not list which members of a run may be compared or sorted by. An Adobe that refuses is
asked plainly from then on: for batches of IDs, or for one ID at a time if it refuses those, too. Where that would take
more than a hundred requests, one list of all runs is read instead.

Source: parameter `property` of GET /runs, https://developer.adobe.com/experience-platform-apis/references/destinations/;
operators, OR by commas and times in milliseconds,
https://experienceleague.adobe.com/en/docs/experience-platform/dataflows/api/sort-and-filter
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from airflow_provider_aep.api import calls
from airflow_provider_aep.api.effects import Call, Procedure, ServerTime, gather
from airflow_provider_aep.api.entities import Dataflow, DataflowId
from airflow_provider_aep.api.runs.index import (
    BATCH_SIZE,
    PAGE_ITEMS,
    Batch,
    Capabilities,
    Item,
    PendingRun,
    RunIndex,
    batches_of,
    milliseconds,
)
from airflow_provider_aep.api.wire import Page, continuation_token
from airflow_provider_aep.errors import (
    AepError,
    EntityNotFound,
    PlatformUnavailable,
    ReplyError,
    RequestRefused,
    UnexpectedReply,
)

RECENT_MS = 60_000
OVERLAP_MS = 600_000
CONCURRENT_REQUESTS = 6  # requests on their way at a time
_FEW_PAGES = 3  # of changes are read in any case; a quarter of what asking for everything known takes comes on top
_MOST_FRONTS = 5  # so often the front of an unsorted list is read again while it goes on changing
_MOST_FAILURES = 3  # failures in one poll after which it is given up: Adobe has an outage

# Refusals of a filter, an order, or an ID in it. Source: Flow Service error catalogue,
# https://experienceleague.adobe.com/en/docs/experience-platform/sources/errors/flow-service-errors
_FILTER_NUMBERS = frozenset({1401, 1423, 1424, 1429, 1430, 1432, 1433, 1439, *range(1440, 1444), *range(1448, 1455)})


class _BatchRefused(AepError):
    """Adobe takes one ID in a request but not two; the poll begins again without batches."""


def poll(index: RunIndex, *, rotates: bool = True) -> Procedure[None]:
    """Bring all pending runs up to date; one that `rotates` asks for one more batch of those whose changes it reads.

    Raises:
        ReplyError: a request failed; what the others have brought is taken all the same.
    """
    began_ms: int = yield ServerTime()
    while True:
        failures: list[ReplyError] = []
        try:
            is_complete = yield from _ask_once(index, began_ms, rotates, failures)
        except _BatchRefused:
            continue
        break
    if is_complete:
        # Before its first reply a session knows this machine's time only; the second look is at Adobe's.
        ended_ms: int = yield ServerTime()
        index.up_to_date_ms = min(began_ms, ended_ms)
    if failures:
        raise max(failures, key=lambda each: (isinstance(each, RequestRefused), each.retry_after_seconds or 0))


def read_dataflows(ids: Sequence[str], capabilities: Capabilities) -> Procedure[dict[str, Dataflow]]:
    """Those of the dataflows that exist, by one request: a list of several, or one by its ID."""
    if len(ids) == 1:
        try:
            found = yield from calls.get_dataflow(DataflowId(ids[0]))
        except EntityNotFound:
            return {}
        return {found.id: found}
    try:
        page = yield from calls.list_page("/flows", filters=["id==" + ",".join(ids)], order="")
    except RequestRefused as refusal:
        if is_about_filter(refusal):
            capabilities.dataflow_batch_size = 1
        raise
    return {item["id"]: calls.DATAFLOWS.read(item) for item in page.items}


def _ask_once(index: RunIndex, now_ms: int, rotates: bool, failures: list[ReplyError]) -> Procedure[bool]:
    """Send the requests of one poll. Returns whether what was known is up to date."""
    known = index.known_by_one(now_ms)
    index.reads_changes = known is None and not index.capabilities.is_plain
    yield from _ask_all(index, index.new(now_ms), failures)
    if known == []:
        return True
    if _is_hopeless(failures):
        return False
    refusal = None
    if index.reads_changes and index.up_to_date_ms:
        try:
            to_ask = yield from _read_changes(index)
        except RequestRefused as error:
            if not is_about_filter(error):
                failures.append(error)
                return False
            refusal = error
        except ReplyError as error:
            failures.append(error)
            return False
        else:
            if to_ask is not None:
                known = batches_of(to_ask, index.capabilities, now_ms)
                if rotates:
                    known += index.next_batch(now_ms)
    if known is None:
        known = index.known(now_ms)
    before = len(failures)
    yield from _ask_all(index, known, failures)
    if refusal and len(failures) == before:
        index.capabilities.ask_plainly(refusal)
    return len(failures) == before


def _read_changes(index: RunIndex) -> Procedure[dict[PendingRun, None] | None]:
    """Take the runs that have changed. Returns those to ask for; None if there are too many changes to read."""
    page = yield from calls.list_runs(f"updatedAt>={index.up_to_date_ms - OVERLAP_MS}", order="-updatedAt")
    to_ask: dict[PendingRun, None] = {}
    stamps: list[int] = []
    for left in reversed(range(_FEW_PAGES + index.size // BATCH_SIZE // 4)):
        to_ask |= index.take_changes(page.items)
        stamps += [milliseconds(item, "updatedAt") for item in page.items]
        if not page.next_href or _reaches_back(stamps, index.up_to_date_ms - RECENT_MS):
            return to_ask
        if left:
            page = yield from following_page(page)
    return None


def _reaches_back(stamps: Sequence[int], to_ms: int) -> bool:
    """Whether the first pages of a list, newest first, hold all since then and a hundred; if it is in that order."""
    return len(stamps) >= PAGE_ITEMS and stamps[-1] < to_ms and list(stamps) == sorted(stamps, reverse=True)


def _ask_all(index: RunIndex, batches: Iterable[Batch], failures: list[ReplyError]) -> Procedure[None]:
    """Ask for each batch, a few side by side; no more begin once Adobe fails."""
    asked = list(batches)
    remaining = iter(asked)  # shared by workers that may be threads: each `next` gives a batch to one of them

    def work() -> Procedure[None]:
        for batch in remaining:
            if _is_hopeless(failures):
                return
            try:
                yield from _ask(index, batch)
            except ReplyError as error:
                failures.append(error)

    yield from gather(*(work() for _ in range(min(CONCURRENT_REQUESTS, len(asked)))))


def _is_hopeless(failures: Sequence[ReplyError]) -> bool:
    return len(failures) >= _MOST_FAILURES or any(
        isinstance(each, RequestRefused) or each.retry_after_seconds is not None for each in failures
    )


def _ask(index: RunIndex, batch: Batch) -> Procedure[None]:
    """Ask for a batch; halve one that is refused until it is clear which ID, or whether any batch, is refused."""
    try:
        items = yield from _list(batch, index.capabilities)
    except RequestRefused as refusal:
        if batch.whole or not is_about_filter(refusal):
            raise
        if len(batch) == 1 and not batch.by_dataflow:
            if refusal.number is None:
                raise  # perhaps about something else altogether, so that it alone ends no wait
            index.fail(batch, refusal)
            return
        for half in batch.halves():
            if len(half):
                yield from _ask(index, half)
        if len(batch) == 2 and not batch.by_dataflow and not any(each.error for each in batch):
            index.capabilities.ask_singly(refusal)
            raise _BatchRefused from None
    else:
        index.take_answer(batch, items)


def _list(batch: Batch, capabilities: Capabilities) -> Procedure[list[Item]]:
    """The runs that a batch asks for: all of them, or so many that the others do not matter."""
    order = "" if capabilities.is_plain else batch.order
    plain = calls.list_runs(*batch.filters, order="")
    began_ms: int = yield ServerTime()
    try:
        page = yield from calls.list_runs(*batch.filters, order=order)
    except RequestRefused as refusal:
        if not order or not is_about_filter(refusal):
            raise
        page = yield from plain
        capabilities.ask_plainly(refusal)
        order = ""
    items: dict[str, Item] = {}
    is_long = bool(page.next_href)
    yield from _read(page, items, lambda _page: batch.is_answered(list(items.values()), order, batch.since_ms))
    if is_long and not order:
        replied_ms: int = yield ServerTime()
        yield from _read_front_again(items, plain, since_ms=min(began_ms, replied_ms) - OVERLAP_MS)
    return list(items.values())


def _read(page: Page, items: dict[str, Item], enough: Callable[[Page], bool]) -> Procedure[None]:
    """Add the items of this page and of those after it, until one is enough or the last."""
    seen: set[str] = set()
    while True:
        items.update({item["id"]: item for item in page.items if item.get("id")})
        if not page.next_href or enough(page):
            return
        token = continuation_token(page.next_href)
        if token in seen:
            raise UnexpectedReply("GET /runs", message="a continuation token came twice; the list has no end")
        seen.add(token)
        page = yield from following_page(page)


def following_page(page: Page) -> Procedure[Page]:
    """The page after this one. As the first was answered, a refusal is about the token and says nothing of filters."""
    try:
        return (yield from calls.next_page(page.next_href))
    except RequestRefused as error:
        if not is_about_filter(error):
            raise
        raise PlatformUnavailable.like(error, message=f"the list broke off: {error.message}") from None


def _read_front_again(items: dict[str, Item], plain: Call[Page], *, since_ms: int) -> Procedure[None]:
    """What changed while an unsorted list was read may have moved to its front, out of our way.

    The front is read, back to `since_ms` for changes that Adobe shows late, until it shows nothing new. Source of
    Adobe's own order, most recently created or updated first: parameter `orderby` of GET /runs.
    """

    def stamps() -> dict[str, object]:
        return {run_id: item.get("updatedAt") for run_id, item in items.items()}

    for _ in range(_MOST_FRONTS):
        before = stamps()

        def is_known(page: Page, before: Mapping[str, object] = before) -> bool:
            goes_back = all(milliseconds(item, "updatedAt") < since_ms for item in page.items[-1:])
            return goes_back and all(before.get(item.get("id") or "") == item.get("updatedAt") for item in page.items)

        yield from _read((yield from plain), items, is_known)
        if stamps() == before:
            return


def is_about_filter(error: RequestRefused) -> bool:
    """Whether a plainer request may be answered: by Adobe's number, or where a 400 or 422 bears none.

    The destinations OpenAPI has `property` as one string, so a mock made from it answers two with a bare 422.
    """
    return error.status in (400, 422) if error.number is None else error.number in _FILTER_NUMBERS
