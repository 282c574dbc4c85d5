"""The runs that somebody waits for, by what Adobe is asked: a run ID, or a dataflow ID while no run is known."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any
from urllib.parse import quote

from airflow_provider_aep.api.entities import DataflowId, FlowRun, FlowRunId
from airflow_provider_aep.api.runs.selection import another_dataflows, is_meant
from airflow_provider_aep.api.wire import read_flow_run
from airflow_provider_aep.errors import RequestRefused, UnexpectedReply

log = logging.getLogger(__name__)

Item = dict[str, Any]

BATCH_SIZE = 100  # IDs in one request: with 36 characters each, its address stays far below 8,000 characters
_ID_CHARACTERS = 6_000  # ... and where IDs are longer, so many characters of them at the most
_MOST_SINGLY = 100  # where Adobe takes one ID at a time, more requests than these cost more than the whole list
_DAY_MS = 86_400_000


@dataclass
class Capabilities:
    """What a process has learned of an Adobe: which requests it refuses, and how long runs of each dataflow take."""

    is_plain: bool = False  # it refuses to compare or to sort runs
    batch_size: int = BATCH_SIZE  # 1 where it refuses several IDs in one request for runs ...
    dataflow_batch_size: int = BATCH_SIZE  # ... and for dataflows
    durations_ms: dict[DataflowId, int] = field(default_factory=dict)

    def ask_plainly(self, refusal: RequestRefused) -> None:
        """A request was refused with comparisons and an order, and answered without them."""
        if not self.is_plain:
            self.is_plain = True
            log.warning("Adobe refuses to compare or sort flow runs; asking without from now on: %s", refusal)

    def ask_singly(self, refusal: RequestRefused) -> None:
        """A request for two runs or dataflows was refused, and one for each was answered."""
        if self.batch_size > 1:
            self.batch_size = 1
            log.warning("Adobe refuses several IDs in one request; asking for one at a time from now on: %s", refusal)


@dataclass(eq=False, slots=True)
class PendingRun:
    """A run that somebody waits for: a given one, or the earliest of a dataflow from `since_ms`, before `until_ms`."""

    dataflow_id: DataflowId
    since_ms: int
    run_id: FlowRunId | None = None  # fixed once it is known
    run: FlowRun | None = None  # as last seen
    error: BaseException | None = None  # why it cannot be asked for
    until_ms: int | None = None

    def may_be(self, item: Item) -> bool:
        """Whether a run of a list may be the one; see `is_meant`."""
        dataflow, created_ms = item.get("flowId") or "", _created_ms(item)
        return is_meant(dataflow, created_ms, of=self.dataflow_id, since_ms=self.since_ms, until_ms=self.until_ms)

    @property
    def is_open(self) -> bool:
        """Whether there is something left to wait for."""
        return self.error is None and not (self.run and self.run.has_ended)


class RunIndex:
    """All pending runs of one poller. They may come and go while a poll is under way.

    `on_change` is called for each that has another run, another state or an error. One whose run has ended, or that has
    an error, is not asked for again.
    """

    def __init__(self, capabilities: Capabilities, on_change: Callable[[PendingRun], object]) -> None:
        self.capabilities = capabilities
        self.since_ms = 0  # of the changes that the next poll reads; 0 before everything was read once
        self._on_change = on_change
        self._new: dict[PendingRun, None] = {}  # not asked for yet
        self._by_run: dict[str, dict[PendingRun, None]] = {}
        self._by_dataflow: dict[str, dict[PendingRun, None]] = {}
        self._turn = 0

    @property
    def size(self) -> int:
        """How many IDs there are to ask for."""
        return len(self._new) + len(self._by_run) + len(self._by_dataflow)

    def add(self, pending: PendingRun) -> None:
        self._new[pending] = None

    def remove(self, pending: PendingRun) -> None:
        self._new.pop(pending, None)
        for index, key in ((self._by_run, pending.run_id), (self._by_dataflow, pending.dataflow_id)):
            group = index.get(key or "")
            if group is not None:
                group.pop(pending, None)
                if not group:
                    del index[key or ""]

    def new(self, now_ms: int) -> list[Batch]:
        """What nobody has asked for yet."""
        return batches_of(self._new, self.capabilities, now_ms)

    def known(self, now_ms: int, *, at_most: int | None = None) -> list[Batch] | None:
        """Everything else; None if that takes more than `at_most` requests."""
        if at_most is not None and len(self._by_run) + len(self._by_dataflow) > at_most * BATCH_SIZE:
            return None  # without looking at each
        groups = chain(self._by_run.values(), self._by_dataflow.values())
        batches = batches_of(chain.from_iterable(groups), self.capabilities, now_ms)
        return None if at_most is not None and len(batches) > at_most else batches

    def next_batch(self, now_ms: int) -> list[Batch]:
        """The next hundred of what is known, in rotation; runs and dataflows take turns."""
        self._turn += 1
        indexes = [index for index in (self._by_run, self._by_dataflow) if index]
        if not indexes:
            return []
        index = indexes[self._turn % len(indexes)]
        keys = list(islice(index, self.capabilities.batch_size))
        batch = batches_of(chain.from_iterable(index[key] for key in keys), self.capabilities, now_ms)[0]
        for key in batch.runs or batch.dataflows:
            index[key] = index.pop(key)  # to the end
        return [batch]

    def next_dataflows(self, first: Collection[str] = ()) -> dict[str, list[PendingRun]]:
        """The next hundred dataflows, in rotation, that have no run yet; or only one of `first`."""
        doubtful = [key for key in first if key in self._by_dataflow]
        keys = doubtful[:1] or list(islice(self._by_dataflow, self.capabilities.dataflow_batch_size))
        for key in keys:
            self._by_dataflow[key] = self._by_dataflow.pop(key)  # to the end
        return {key: list(self._by_dataflow[key]) for key in keys}

    def take_changes(self, items: Iterable[Item]) -> dict[PendingRun, None]:
        """Take changed runs. Returns the pending ones without a run of whose dataflow one has appeared."""
        to_ask: dict[PendingRun, None] = {}
        for item in items:
            waiting = self._by_run.get(item.get("id") or "")
            if waiting:
                self._give(item, list(waiting))
            for each in self._by_dataflow.get(item.get("flowId") or "", ()):
                if each.may_be(item):
                    to_ask[each] = None
        return to_ask

    def take_answer(self, batch: Batch, items: Iterable[Item]) -> None:
        """Take the complete answer to the request for a batch."""
        earliest: dict[PendingRun, Item] = {}
        for item in items:
            if item.get("id") in batch.runs:
                self._give(item, batch.runs[item["id"]])
            for each in batch.dataflows.get(item.get("flowId") or "", ()):
                if each.may_be(item) and (each not in earliest or _sort_key(item) < _sort_key(earliest[each])):
                    earliest[each] = item
        for each in batch:
            if each in self._new:
                del self._new[each]
                self._index(each)
        for each, item in earliest.items():
            if each.run_id is None:
                is_here = each in self._by_dataflow.get(each.dataflow_id, ())  # it may have left meanwhile
                self.remove(each)
                each.run_id = FlowRunId(item["id"])
                if is_here:
                    self._index(each)
            if each.run_id == item["id"]:
                self._give(item, [each])

    def fail(self, pending: Iterable[PendingRun], error: BaseException) -> None:
        for each in list(pending):
            each.error = error
            self.remove(each)
            self._on_change(each)

    def _index(self, pending: PendingRun) -> None:
        if pending.run_id:
            self._by_run.setdefault(pending.run_id, {})[pending] = None
        else:
            self._by_dataflow.setdefault(pending.dataflow_id, {})[pending] = None

    def _give(self, item: Item, pending: Iterable[PendingRun]) -> None:
        try:
            run = read_flow_run(item)
        except UnexpectedReply as error:  # the other runs of the list are none the worse for it
            self.fail(pending, error)
            return
        if run.has_ended and run.completed_ms:
            self.capabilities.durations_ms[run.dataflow_id] = run.completed_ms - run.created_ms
        for each in pending:
            if run.dataflow_id not in ("", each.dataflow_id):
                self.fail([each], another_dataflows(run, each.dataflow_id))
                continue
            before = each.run
            if before and (run.updated_ms, run.has_ended) < (before.updated_ms, before.has_ended):
                continue  # an older reading, from a slower page
            each.run = run
            if run.has_ended:
                self.remove(each)
            if before is None or (before.raw_status, before.has_ended) != (run.raw_status, run.has_ended):
                self._on_change(each)


@dataclass(slots=True)
class Batch:
    """What one request asks for: pending runs by run ID or by dataflow ID; by both where it reads the `whole` list."""

    runs: dict[str, list[PendingRun]] = field(default_factory=dict)
    dataflows: dict[str, list[PendingRun]] = field(default_factory=dict)
    whole: bool = False

    def __iter__(self) -> Iterator[PendingRun]:
        return chain(*self.runs.values(), *self.dataflows.values())

    def __len__(self) -> int:
        return len(self.runs) + len(self.dataflows)

    @property
    def filters(self) -> tuple[str, ...]:
        if self.whole:
            return ()
        return (("id==" if self.runs else "flowId==") + ",".join(self.runs or self.dataflows),)

    @property
    def looks_back_to_ms(self) -> float:
        """The earliest that a pending run without an ID may have been created."""
        return min((each.since_ms for group in self.dataflows.values() for each in group), default=math.inf)

    @property
    def since_ms(self) -> int:
        """No run that is asked for was created before; 0 where that is not known."""
        created = (each.run.created_ms if each.run else 0 for group in self.runs.values() for each in group)
        return int(min(min(created, default=math.inf), self.looks_back_to_ms))

    def halves(self) -> list[Batch]:
        runs, dataflows = list(self.runs.items()), list(self.dataflows.items())
        middle = len(self) // 2
        return [Batch(dict(runs[at]), dict(dataflows[at])) for at in (slice(middle), slice(middle, None))]

    @property
    def order(self) -> str:
        """In which order to list the runs, to stop early: by creation, newest first, or oldest first to find any run.

        Runs that are asked for by their IDs need none.
        """
        if not (self.dataflows or self.whole):
            return ""
        return "createdAt" if self.looks_back_to_ms <= 0 and not self.runs else "-createdAt"

    def is_answered(self, items: Sequence[Item], order: str, since_ms: int) -> bool:
        """Whether the first pages of a list hold all that matters, if they are really in the order asked for.

        Without an order Adobe lists first what was created or updated last; no run was created after its last update.
        """
        oldest_first = order == "createdAt"
        stamps = [milliseconds(item, order.lstrip("-") or "updatedAt") for item in items]
        if not stamps or stamps != sorted(stamps, reverse=not oldest_first):
            return False
        ids = {item.get("id") for item in items}
        has_runs = (not oldest_first and stamps[-1] < since_ms) or all(run_id in ids for run_id in self.runs)
        if not oldest_first:
            return has_runs and stamps[-1] < self.looks_back_to_ms
        latest = {item.get("flowId"): stamp for item, stamp in zip(items, stamps, strict=True) if stamp < stamps[-1]}
        return has_runs and all(
            latest.get(key, -1) >= each.since_ms for key, group in self.dataflows.items() for each in group
        )


def batches_of(pending: Iterable[PendingRun], capabilities: Capabilities, now_ms: int) -> list[Batch]:
    """Batches of a hundred IDs each.

    Pending runs without an ID share a batch only with others that look about as far back, so that one that looks back a
    year does not make Adobe list the history of all. Those of one dataflow stay together, as far back as the oldest of
    them looks: a rotation over dataflows would never come to the others.
    """
    runs: dict[str, list[PendingRun]] = {}
    dataflows: dict[str, list[PendingRun]] = {}
    for each in pending:
        if each.run_id:
            runs.setdefault(each.run_id, []).append(each)
        else:
            dataflows.setdefault(each.dataflow_id, []).append(each)
    size = capabilities.batch_size
    if size == 1 and len(runs) + len(dataflows) > _MOST_SINGLY:
        return [Batch(runs, dataflows, whole=True)]
    ages: dict[int, dict[str, list[PendingRun]]] = {}
    for key, waiting in dataflows.items():
        age_ms = max(0, now_ms - min(each.since_ms for each in waiting))
        ages.setdefault((age_ms // _DAY_MS).bit_length(), {})[key] = waiting
    return [
        *(Batch(runs=chunk) for chunk in _chunks(runs, size)),
        *(Batch(dataflows=chunk) for group in ages.values() for chunk in _chunks(group, size)),
    ]


def _chunks(group: Mapping[str, list[PendingRun]], size: int) -> Iterator[dict[str, list[PendingRun]]]:
    chunk: dict[str, list[PendingRun]] = {}
    characters = 0
    for key, waiting in group.items():
        length = len(quote(key, safe="")) + 3  # a comma is sent as %2C
        if chunk and (len(chunk) == size or characters + length > _ID_CHARACTERS):
            yield chunk
            chunk, characters = {}, 0
        chunk[key] = waiting
        characters += length
    if chunk:
        yield chunk


def milliseconds(item: Item, name: str) -> int:
    """A time of a run in milliseconds; 0 where Adobe gives none."""
    value = item.get(name)
    return value if isinstance(value, int) else 0


def _created_ms(item: Item) -> int:
    return milliseconds(item, "createdAt")


def _sort_key(item: Item) -> tuple[int, str]:
    return _created_ms(item), item["id"]
