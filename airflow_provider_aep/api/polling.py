"""One question to Adobe for many awaited runs: the cheapest sound one, and a simpler one where Adobe refuses it.

The rule. Let W be Adobe's time at the beginning of the previous complete poll, less `OVERLAP_MS`. A poll reads

1. every run changed since W (`updatedAt>=W`), on all its pages, or else every awaited run by its ID;
2. what is awaited since the last poll, by ID or by dataflow, however old the run is;
3. one more part of a hundred of what is awaited, in rotation, so that even a change that Adobe does not date is found.

A change is missed only if Adobe's lists show it more than `OVERLAP_MS` after the date that it bears, and then only
until the rotation comes round. Equal times, a list that shifts while it is read and clocks that differ by less than
the overlap change nothing: each change is read by every poll for ten minutes, and to read it twice does no harm. The
time of this machine is never compared with Adobe's.

Source: destinations OpenAPI, parameter `property` of GET /runs; sorting and filtering guide (operators, OR by commas,
times in milliseconds). Which fields of a run may be compared is not listed there, hence the fall-back.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from airflow_provider_aep.api import calls
from airflow_provider_aep.api.calls import Now, Procedure, together
from airflow_provider_aep.api.entities import DataflowId, FlowRun, FlowRunId
from airflow_provider_aep.api.errors import AepError, RequestRefused
from airflow_provider_aep.api.procedures import all_items
from airflow_provider_aep.api.wire import read_flow_run

log = logging.getLogger(__name__)
T = TypeVar("T")

OVERLAP_MS = 600_000
PART = 100  # IDs in one question: with 36 characters each, its address stays far below 8,000
_ID_CHARACTERS = 6_000  # ... and where IDs are longer, this many characters of them at the most
PAGES_BEFORE_SWEEP = 2
MOST_SINGLY = 20  # so many waits are asked for one by one before the whole listing is read instead

# Refusals of a filter or an order. Source: Flow Service error catalogue.
_ORDER_CODES = frozenset({1424, 1432, 1433})
_FILTER_CODES = frozenset({*range(1440, 1444), *range(1448, 1455), 1423}) | _ORDER_CODES


@dataclass(eq=False, slots=True)
class Awaited:
    """One awaited run: a given one, or the earliest of a dataflow created at or after `since_ms`; then pinned."""

    dataflow_id: DataflowId
    since_ms: int
    run_id: FlowRunId | None = None
    run: FlowRun | None = None  # as last seen
    looked_up: bool = False

    def take(self, run: FlowRun) -> None:
        """Note a newer reading; an older one, from a slower page, is passed over."""
        self.run_id = run.id
        if self.run is None or (run.updated_ms, run.has_ended) >= (self.run.updated_ms, self.run.has_ended):
            self.run = run


@dataclass
class Memory:
    """What a watch has learned: since when to ask, what Adobe refuses, how long runs take."""

    since_ms: int = 0
    refused: set[str] = field(default_factory=set)  # of "updatedAt", "createdAt", "lists", "orderby"
    durations_ms: dict[DataflowId, int] = field(default_factory=dict)
    turn: int = 0


class _AskAgain(AepError):
    """Adobe refused a means of asking; it is noted in the memory, and the question is put without it."""


def poll(awaited: Sequence[Awaited], memory: Memory) -> Procedure[None]:
    """Bring what is awaited up to date: each gets its `run` as Adobe has it now.

    Raises:
        AepError: a question failed; what the others have answered is noted all the same.
    """
    began_ms = yield Now()
    while True:
        try:
            yield from _ask(awaited, memory)
        except _AskAgain:
            continue
        break
    memory.since_ms = began_ms - OVERLAP_MS


def _using(memory: Memory, means: Sequence[str], question: Procedure[T]) -> Procedure[T]:
    """Put a question that uses these means, the most demanding first; a refusal is remembered for the process."""
    try:
        return (yield from question)
    except RequestRefused as refusal:
        number = refusal.code.removeprefix("FLOW-").partition("-")[0]
        if not means or not number.isdecimal() or int(number) not in _FILTER_CODES:
            raise
        refused = "orderby" if int(number) in _ORDER_CODES and "orderby" in means else means[0]
        if refused not in memory.refused:
            memory.refused.add(refused)
            log.warning("Adobe refuses a filter; asking without %s from now on: %s", refused, refusal)
        raise _AskAgain from None


def _ask(awaited: Sequence[Awaited], memory: Memory) -> Procedure[None]:
    if "lists" in memory.refused and len(awaited) > MOST_SINGLY:
        yield from _read_listing(awaited, memory)
        return
    fresh = [each for each in awaited if not each.looked_up]
    known = [each for each in awaited if each.looked_up]
    if "updatedAt" in memory.refused or not memory.since_ms or len(fresh) == len(awaited):
        yield from _look_up(awaited, memory)
        return
    yield from _look_up(fresh, memory)
    if len(known) <= PART:
        # As many requests as for the changes, and nothing to infer.
        yield from _look_up(known, memory)
    elif (yield from _read_changes(known, memory)):
        yield from _look_up(_in_turn(known, memory), memory)
    else:
        yield from _look_up(known, memory)


def _in_turn(known: Sequence[Awaited], memory: Memory) -> Sequence[Awaited]:
    """The next hundred, pinned ones apart from the others so that it is one question."""
    groups = [[each for each in known if each.run_id], [each for each in known if not each.run_id]]
    parts = [group[at : at + PART] for group in groups for at in range(0, len(group), PART)]
    memory.turn += 1
    return parts[memory.turn % len(parts)]


def _read_changes(known: Sequence[Awaited], memory: Memory) -> Procedure[bool]:
    """Read the runs changed since the last poll; False where they are so many that asking by ID is cheaper."""
    most = PAGES_BEFORE_SWEEP + len(known) // PART // 8
    order = "" if "orderby" in memory.refused else "-updatedAt"
    means = ["updatedAt", *(["orderby"] if order else [])]
    first = calls.list_runs(f"updatedAt>={memory.since_ms}", order=order)
    pages = [(yield from _using(memory, means, iter(first)))]
    while pages[-1].next_href and len(pages) < most:
        pages.append((yield from calls.next_page(pages[-1].next_href)))
    _note([item for page in pages for item in page.items], known, memory)
    return not pages[-1].next_href


def _look_up(awaited: Sequence[Awaited], memory: Memory) -> Procedure[None]:
    """Ask by run ID for what is pinned and by dataflow for the rest, a hundred at a time, side by side."""
    pinned = [each for each in awaited if each.run_id]
    unpinned = [each for each in awaited if not each.run_id]
    yield from together(
        *(_look_up_pinned(part, memory) for part in _parts(pinned, memory, lambda each: each.run_id or "")),
        *(_look_up_unpinned(part, memory) for part in _parts(unpinned, memory, lambda each: each.dataflow_id)),
    )


def _look_up_pinned(part: Sequence[Awaited], memory: Memory) -> Procedure[None]:
    ids = list(dict.fromkeys(str(each.run_id) for each in part))
    means = ["lists"] if len(ids) > 1 else []
    items = yield from _using(memory, means, all_items(calls.list_runs("id==" + ",".join(ids), order="")))
    _note(items, part, memory)
    _mark(part)


def _look_up_unpinned(part: Sequence[Awaited], memory: Memory) -> Procedure[None]:
    ids = list(dict.fromkeys(each.dataflow_id for each in part))
    means = ["lists"] if len(ids) > 1 else []
    filters = ["flowId==" + ",".join(ids)]
    since_ms = min(each.since_ms for each in part)
    if since_ms > 0 and "createdAt" not in memory.refused:
        filters.append(f"createdAt>={since_ms}")
        means.insert(0, "createdAt")
    items = yield from _using(memory, means, all_items(calls.list_runs(*filters, order="")))
    _note(items, part, memory)
    _mark(part)


def _read_listing(awaited: Sequence[Awaited], memory: Memory) -> Procedure[None]:
    """The last resort: the list itself, newest first as far back as anything is awaited, or whole."""
    oldest = min(each.run.created_ms if each.run else each.since_ms for each in awaited)
    ordered = "orderby" not in memory.refused and all(each.run or not each.run_id for each in awaited)

    def reaches_back(items: list[dict[str, Any]]) -> bool:
        created = [int(item.get("createdAt") or 0) for item in items]
        return ordered and bool(created) and created[-1] < oldest and created == sorted(created, reverse=True)

    order = "" if "orderby" in memory.refused else "-createdAt"
    listing = all_items(calls.list_runs(order=order), enough=reaches_back)
    _note((yield from _using(memory, ["orderby"] if order else [], listing)), awaited, memory)
    _mark(awaited)


def _note(items: Iterable[dict[str, Any]], awaited: Sequence[Awaited], memory: Memory) -> None:
    """Give each awaited one its run. Only runs that concern somebody are read at all.

    Candidates are taken in the order of their creation, so that the earliest of several pins.
    """
    by_run: dict[str, list[Awaited]] = {}
    by_dataflow: dict[str, list[Awaited]] = {}
    for each in awaited:
        if each.run_id:
            by_run.setdefault(each.run_id, []).append(each)
        else:
            by_dataflow.setdefault(each.dataflow_id, []).append(each)
    concerned = [item for item in items if item["id"] in by_run or item.get("flowId") in by_dataflow]
    for item in sorted(concerned, key=lambda item: (int(item.get("createdAt") or 0), item["id"])):
        run = read_flow_run(item)
        if run.completed_ms and run.has_ended:
            memory.durations_ms[run.dataflow_id] = run.completed_ms - run.created_ms
        for each in by_run.get(run.id, ()):
            each.take(run)
        for each in by_dataflow.get(run.dataflow_id, ()):
            if run.created_ms >= each.since_ms and each.run_id in (None, run.id):
                each.take(run)


def _mark(part: Sequence[Awaited]) -> None:
    for each in part:
        each.looked_up = True


def _parts(awaited: Sequence[Awaited], memory: Memory, id_of: Callable[[Awaited], str]) -> Iterator[list[Awaited]]:
    most = 1 if "lists" in memory.refused else PART
    part: list[Awaited] = []
    characters = 0
    for each in awaited:
        size = len(id_of(each)) + 3  # a comma is sent as %2C
        if part and (len(part) == most or characters + size > _ID_CHARACTERS):
            yield part
            part, characters = [], 0
        part.append(each)
        characters += size
    if part:
        yield part
