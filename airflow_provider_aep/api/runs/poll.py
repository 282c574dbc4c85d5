"""One question to Adobe for many awaited runs: the cheapest sound one, and a simpler one where Adobe refuses it.

The rule. Let W be Adobe's time at the beginning of the last poll that brought all that was known up to date, less
`OVERLAP_MS`. A poll

1. looks up what nobody has asked for yet, by run ID or, where the run is not known yet, by dataflow;
2. reads every run changed since W (`updatedAt>=W`, all pages), or looks up everything where that costs no more: where
   it is two questions at most, where the changes are many, or where Adobe refuses the filter;
3. looks up one more part of a hundred of what is known, in rotation.

A wait without a run gets one only from a complete list of its own dataflow; a change merely says whom to look up. So it
is the earliest run that Adobe shows, however late others appear, and it is never changed for another. A change is seen
by the next poll if Adobe's lists show it within `OVERLAP_MS` of the date that it bears, and by the rotation otherwise.
Equal times do no harm, since a change is read again and again until W has passed it; nor does a list that shifts while
it is read: it is sorted by a date that never changes, or what moves has just been changed and is read by the next poll.
A failed question leaves W where it was. This machine's time is used only until Adobe's is known, and only to ask for
more than is needed.

Source: destinations OpenAPI, parameter `property` of GET /runs; sorting and filtering guide (operators, OR by commas,
times in milliseconds). Which fields of a run may be compared is not listed there, hence the simpler questions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain, combinations

from airflow_provider_aep.api import calls
from airflow_provider_aep.api.effects import Call, Procedure, ServerTime, gather
from airflow_provider_aep.api.entities import Dataflow, DataflowId
from airflow_provider_aep.api.runs.index import PART, Batch, Capabilities, Item, RunIndex, milliseconds, parts_of
from airflow_provider_aep.api.wire import Page, continuation_token
from airflow_provider_aep.errors import (
    AepError,
    EntityNotFound,
    PlatformUnavailable,
    ReplyError,
    RequestRefused,
    UnexpectedReply,
)

OVERLAP_MS = 600_000
ABREAST = 6  # questions on their way at a time
_MOST_QUESTIONS = 2  # so many are cheaper than to ask for changes
_MOST_ROUNDS = 5  # so often the front of an unsorted list is read again while it goes on changing
_MOST_TROUBLES = 3  # failures in one poll after which it is given up: Adobe has an outage

# Refusals of a filter, an order, or an ID in it. Source: Flow Service error catalogue.
_FILTER_CODES = frozenset({1401, 1423, 1424, 1429, 1430, 1432, 1433, 1439, *range(1440, 1444), *range(1448, 1455)})


class _ListsRefused(AepError):
    """Adobe takes one ID in a question but not two; the poll begins anew without."""


def poll(watched: RunIndex) -> Procedure[None]:
    """Bring what is awaited up to date.

    Raises:
        ReplyError: a question failed; what the others have answered is taken all the same.
    """
    began_ms: int = yield ServerTime()
    while True:
        troubles: list[ReplyError] = []
        try:
            complete = yield from _ask(watched, began_ms, troubles)
        except _ListsRefused:
            continue
        break
    if complete:
        # Before its first reply a session knows this machine's time only; the second look is at Adobe's.
        ended_ms: int = yield ServerTime()
        watched.since_ms = min(began_ms, ended_ms) - OVERLAP_MS
    if troubles:
        raise max(troubles, key=lambda each: (isinstance(each, RequestRefused), each.retry_after_seconds or 0))


def read_dataflows(ids: Sequence[str], learned: Capabilities) -> Procedure[dict[str, Dataflow]]:
    """Those of the dataflows that there are, by one request: a list of several, or one by its ID.

    Source: sorting and filtering guide (flows by `id`, OR by commas).
    """
    if len(ids) == 1:
        try:
            found = yield from calls.get_dataflow(DataflowId(ids[0]))
        except EntityNotFound:
            return {}
        return {found.id: found}
    try:
        page = yield from calls.list_page("/flows", filters=["id==" + ",".join(ids)], order="")
    except RequestRefused as refusal:
        if _refuses_filter(refusal):
            learned.refuse({"flow lists"}, refusal)
        raise
    return {item["id"]: calls.DATAFLOWS.read(item) for item in page.items}


def _ask(watched: RunIndex, now_ms: int, troubles: list[ReplyError]) -> Procedure[bool]:
    """Put the questions of one poll. Returns whether what was known is up to date."""
    learned = watched.learned
    known = watched.known(now_ms, at_most=_MOST_QUESTIONS)
    yield from _look_up(watched, watched.fresh(now_ms), troubles)
    if known == []:
        return True
    if _is_hopeless(troubles):
        return False
    refusal = None
    if known is None:
        if watched.since_ms and "updatedAt" not in learned.refused:
            try:
                known = yield from _read_changes(watched, now_ms)
            except ReplyError as error:
                if not (isinstance(error, RequestRefused) and _refuses_filter(error)):
                    troubles.append(error)
                    return False
                refusal = error
        if known is None:
            known = watched.known(now_ms) or []
    before = len(troubles)
    yield from _look_up(watched, known, troubles)
    if refusal and len(troubles) == before:
        learned.refuse({"updatedAt"}, refusal)
    return len(troubles) == before


def _read_changes(watched: RunIndex, now_ms: int) -> Procedure[list[Batch] | None]:
    """Take the runs changed since W. Returns what is left to look up; None if there are too many changes to read."""
    most = _MOST_QUESTIONS + watched.size // PART // 16
    changed = f"updatedAt>={watched.since_ms}"
    page, _ = yield from _first_page(
        ["orderby"], watched.learned, lambda used: calls.list_runs(changed, order="-updatedAt" if used else "")
    )
    calling = watched.note(page.items)
    for _ in range(most):
        if not page.next_href:
            return [*parts_of(calling, watched.learned, now_ms), *watched.next_part(now_ms)]
        page = yield from _next_page(page)
        calling |= watched.note(page.items)
    return None


def _look_up(watched: RunIndex, parts: Iterable[Batch], troubles: list[ReplyError]) -> Procedure[None]:
    """Put a question for each part, a few side by side; once Adobe is in trouble no more are begun."""
    asked = list(parts)
    remaining = iter(
        asked
    )  # shared by the lines of work, which may be threads: each `next` gives a part to one of them

    def some() -> Procedure[None]:
        for part in remaining:
            if _is_hopeless(troubles):
                return
            try:
                yield from _look_up_part(watched, part)
            except ReplyError as error:
                troubles.append(error)

    yield from gather(*(some() for _ in range(min(ABREAST, len(asked)))))


def _is_hopeless(troubles: Sequence[ReplyError]) -> bool:
    return len(troubles) >= _MOST_TROUBLES or any(
        isinstance(each, RequestRefused) or each.retry_after_seconds is not None for each in troubles
    )


def _look_up_part(watched: RunIndex, part: Batch) -> Procedure[None]:
    """Put one question; one that is refused is halved until it is known which ID, or any list, is refused."""
    try:
        items = yield from _list(part, watched.learned)
    except RequestRefused as refusal:
        if part.whole or not _refuses_filter(refusal):
            raise
        if len(part) == 1:
            if _is_without_code(refusal):
                raise  # perhaps about something else altogether, so that no wait ends by it alone
            watched.fail(part, refusal)
            return
        for half in part.halves():
            yield from _look_up_part(watched, half)
        if len(part) == 2 and not any(each.error for each in part):
            watched.learned.refuse({"lists"}, refusal)
            raise _ListsRefused from None
    else:
        watched.settle(part, items)


def _list(part: Batch, learned: Capabilities) -> Procedure[list[Item]]:
    """The runs that a part asks for: all of them, or so many that the others do not matter."""
    since_ms = part.since_ms
    means = [] if part.runs and not part.whole else ["orderby", *(["createdAt"] if since_ms > 0 else [])]

    def order(used: set[str]) -> str:
        if "orderby" not in used:
            return ""
        # Oldest first, to stop at the earliest; newest first where the list goes back further than any wait does.
        return "createdAt" if part.dataflows and ("createdAt" in used or part.looks_back_to_ms <= 0) else "-createdAt"

    def question(used: set[str]) -> Call[Page]:
        recent = (f"createdAt>={since_ms}",) if "createdAt" in used else ()
        return calls.list_runs(*part.filters, *recent, order=order(used))

    items: dict[str, Item] = {}
    began_ms: int = yield ServerTime()
    page, used = yield from _first_page(means, learned, question)
    is_long = bool(page.next_href)
    yield from _read(page, items, lambda _page: part.is_answered(list(items.values()), order(used), since_ms))
    if is_long and not order(used):
        replied_ms: int = yield ServerTime()
        yield from _read_front_again(items, question(used), since_ms=min(began_ms, replied_ms) - OVERLAP_MS)
    return list(items.values())


def _first_page(
    means: Sequence[str], learned: Capabilities, question: Callable[[set[str]], Call[Page]]
) -> Procedure[tuple[Page, set[str]]]:
    """The first page of a question that uses these means, or as many of them as Adobe takes. Returns those used, too.

    Raises:
        RequestRefused: the question is refused without any of them.
    """
    taken = [each for each in means if each not in learned.refused]
    refusal: RequestRefused | None = None
    for lacking in chain.from_iterable(combinations(taken, number) for number in range(len(taken) + 1)):
        used = set(taken) - set(lacking)
        try:
            page = yield from question(used)
        except RequestRefused as error:
            if not _refuses_filter(error):
                raise
            refusal = refusal or error
        else:
            if refusal:
                learned.refuse(lacking, refusal)
            return page, used
    assert refusal
    raise refusal


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
        page = yield from _next_page(page)


def _next_page(page: Page) -> Procedure[Page]:
    """The page after this one. As the first was answered, a refusal is about the token and says nothing of filters."""
    try:
        return (yield from calls.next_page(page.next_href))
    except RequestRefused as error:
        if not _refuses_filter(error):
            raise
        raise PlatformUnavailable(
            error.request,
            status=error.status,
            code=error.code,
            message=f"the list broke off: {error.message}",
            request_id=error.request_id,
        ) from None


def _read_front_again(items: dict[str, Item], question: Call[Page], *, since_ms: int) -> Procedure[None]:
    """Where Adobe takes no order, what changed while the list was read may have moved to its front, out of our way.

    The front is read, back to `since_ms` for changes that Adobe shows late, until it shows nothing new. Source of
    Adobe's own order, most recently created or updated first: destinations OpenAPI, parameter `orderby`.
    """

    def stamps() -> dict[str, object]:
        return {run_id: item.get("updatedAt") for run_id, item in items.items()}

    for _ in range(_MOST_ROUNDS):
        before = stamps()

        def is_known(page: Page, before: Mapping[str, object] = before) -> bool:
            goes_back = all(milliseconds(item, "updatedAt") < since_ms for item in page.items[-1:])
            return goes_back and all(before.get(item.get("id") or "") == item.get("updatedAt") for item in page.items)

        yield from _read((yield from question), items, is_known)
        if stamps() == before:
            return


def _refuses_filter(error: RequestRefused) -> bool:
    """Whether a simpler question may be answered: by Adobe's code, or where a 400 or 422 bears none.

    The destinations OpenAPI has `property` as one string, so what is made from it answers two with a bare 422.
    """
    if _is_without_code(error):
        return error.status in (400, 422)
    number = error.code.removeprefix("FLOW-").partition("-")[0]
    return number.isdecimal() and int(number) in _FILTER_CODES


def _is_without_code(error: RequestRefused) -> bool:
    return error.code in ("", str(error.status))
