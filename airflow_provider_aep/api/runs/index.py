"""The runs that somebody waits for, by what Adobe is asked: a run ID, or a dataflow ID while no run is known."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any
from urllib.parse import quote

from airflow_provider_aep.api.entities import DataflowId, FlowRun, FlowRunId
from airflow_provider_aep.api.runs.selection import check_run_of, is_meant
from airflow_provider_aep.api.wire import read_flow_run
from airflow_provider_aep.errors import InvalidArgument, RequestRefused, UnexpectedReply

log = logging.getLogger(__name__)

Item = dict[str, Any]

BATCH_SIZE = 100  # IDs in one request: with 36 characters each, its address stays far below 8,000 characters
_ID_CHARACTERS = 6_000  # ... and where IDs are longer, so many characters of them at the most
_MOST_SINGLY = 100  # where Adobe takes one ID at a time, more requests than these cost more than the whole list
PAGE_ITEMS = 100  # the most that Adobe lists at once
_DAY_MS = 86_400_000
#: Adobe exports a dataset every three hours at most. Source: Export datasets tutorial, "Create a dataflow".
_SHORTEST_INTERVAL_MS = 10_800_000


@dataclass
class Capabilities:
    """Which requests Adobe answers in one sandbox, and how long each dataflow's runs take there."""

    is_plain: bool = False  # it refuses to compare or to sort runs
    batch_size: int = BATCH_SIZE  # 1 where it refuses several IDs in one request for runs ...
    dataflow_batch_size: int = BATCH_SIZE  # ... and for dataflows
    durations_ms: dict[DataflowId, int] = field(default_factory=dict)

    def ask_plainly(self, refusal: RequestRefused) -> None:
        """A request was refused with comparisons and an order, and answered without them."""
        if not self.is_plain:
            self.is_plain = True
            log.warning("Adobe refuses to compare or sort flow runs; asking without from now on: %s", refusal)

    def learn_duration(self, run: FlowRun) -> None:
        """A failed run tells nothing: it ends whenever it fails."""
        if run.completed_ms and run.outcome in ("success", "partial", "empty"):
            self.durations_ms[run.dataflow_id] = run.completed_ms - run.created_ms

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
        self.up_to_date_ms = 0  # when the last poll began that brought everything up to date; 0 before the first
        self.reads_changes = False  # everything known takes more than one request
        self._on_change = on_change
        self._new: dict[PendingRun, None] = {}  # not asked for yet
        self._by_run: dict[str, dict[PendingRun, None]] = {}
        self._by_dataflow: dict[str, dict[PendingRun, None]] = {}
        self._checked: set[str] = set()  # dataflows, in this round
        self._unknown: set[str] = set()  # dataflows whose earlier runs have not been looked at, and none has ended
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

    @property
    def awaits_new_runs(self) -> bool:
        """Whether somebody waits for a run that no list has shown yet."""
        return bool(self._by_dataflow)

    def awaits_run_of(self, dataflow_id: str) -> bool:
        return dataflow_id in self._by_dataflow

    def known(self, now_ms: int) -> list[Batch]:
        """Everything else."""
        groups = chain(self._by_run.values(), self._by_dataflow.values())
        return batches_of(chain.from_iterable(groups), self.capabilities, now_ms)

    def known_by_one(self, now_ms: int) -> list[Batch] | None:
        """The same, if one request or none is enough; else None.

        By dataflow ID it asks for runs and dataflows at once, and where the earlier runs of a dataflow tell how long
        this one will take.
        """
        if len(self._by_run) + len(self._by_dataflow) > BATCH_SIZE:
            return None  # without looking at each
        batches = self.known(now_ms)
        one = Batch.joined(batches)
        if len(batches) > 1 or not self._unknown.isdisjoint(one.ids):
            chunks = _chunks({key: [] for key in one.ids}, self.capabilities.batch_size)
            if one.most_items(now_ms) <= PAGE_ITEMS and len(list(chunks)) == 1:
                return [one]
        return batches if len(batches) <= 1 else None

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
        """The next hundred dataflows that have no run yet, in rounds; or only one of `first`.

        Not in the rotation of `next_batch`: each would take every other hundred and never come to the rest.
        """
        keys = [key for key in first if key in self._by_dataflow][:1]
        if not keys:
            if self._checked.issuperset(self._by_dataflow):
                self._checked.clear()
            unchecked = (key for key in self._by_dataflow if key not in self._checked)
            keys = list(islice(unchecked, self.capabilities.dataflow_batch_size))
            self._checked.update(keys)
        return {key: list(self._by_dataflow[key]) for key in keys}

    def take_changes(self, items: Iterable[Item]) -> dict[PendingRun, None]:
        """Take changed runs. Returns the pending ones without a run of whose dataflow one has appeared."""
        to_ask: dict[PendingRun, None] = {}
        for item in items:
            pending = self._by_run.get(item.get("id") or "")
            if pending:
                self._give(item, list(pending))
            for each in self._by_dataflow.get(item.get("flowId") or "", ()):
                if each.may_be(item):
                    to_ask[each] = None
        return to_ask

    def take_answer(self, batch: Batch, items: Collection[Item]) -> None:
        """Take the complete answer to the request for a batch."""
        earliest: dict[PendingRun, Item] = {}
        for item in items:
            if item.get("id") in batch.runs:
                self._give(item, batch.runs[item["id"]])
            for each in batch.dataflows.get(item.get("flowId") or "", ()):
                if each.may_be(item) and (each not in earliest or _sort_key(item) < _sort_key(earliest[each])):
                    earliest[each] = item
        if batch.dataflows or batch.by_dataflow:
            self._learn_durations(items)
            self._unknown -= {each.dataflow_id for each in batch}
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

    def _learn_durations(self, items: Iterable[Item]) -> None:
        """Learn how long a dataflow's runs take from its latest, where none has been seen to end yet."""
        unknown = [item for item in items if item.get("flowId") not in self.capabilities.durations_ms]
        for item in sorted(unknown, key=_created_ms):  # the latest counts
            with suppress(UnexpectedReply):
                self.capabilities.learn_duration(read_flow_run(item))

    def _index(self, pending: PendingRun) -> None:
        if pending.run_id:
            self._by_run.setdefault(pending.run_id, {})[pending] = None
            if pending.run and pending.run.dataflow_id not in self.capabilities.durations_ms:
                self._unknown.add(pending.run.dataflow_id)
        else:
            self._by_dataflow.setdefault(pending.dataflow_id, {})[pending] = None

    def _give(self, item: Item, pending: Iterable[PendingRun]) -> None:
        try:
            run = read_flow_run(item)
        except UnexpectedReply as error:  # the other runs of the list are none the worse for it
            self.fail(pending, error)
            return
        self.capabilities.learn_duration(run)
        for each in pending:
            try:
                check_run_of(run, each.dataflow_id)
            except InvalidArgument as error:
                self.fail([each], error)
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
    by_dataflow: bool = False  # asks for the runs, too, by the IDs of their dataflows

    def __iter__(self) -> Iterator[PendingRun]:
        return chain(*self.runs.values(), *self.dataflows.values())

    def __len__(self) -> int:
        return len(self.runs) + len(self.dataflows)

    @classmethod
    def joined(cls, batches: Iterable[Batch]) -> Batch:
        """One batch that asks for everything by dataflow ID."""
        runs: dict[str, list[PendingRun]] = {}
        dataflows: dict[str, list[PendingRun]] = {}
        for batch in batches:
            runs |= batch.runs
            dataflows |= batch.dataflows
        return cls(runs, dataflows, by_dataflow=True)

    @property
    def ids(self) -> list[str]:
        """What the request names."""
        if self.by_dataflow:
            return list(dict.fromkeys([*self.dataflows, *(each.dataflow_id for each in self._of_runs)]))
        return list(self.runs or self.dataflows)

    @property
    def _of_runs(self) -> Iterator[PendingRun]:
        return chain.from_iterable(self.runs.values())

    @property
    def filters(self) -> tuple[str, ...]:
        if self.whole:
            return ()
        return (("flowId==" if self.dataflows or self.by_dataflow else "id==") + ",".join(self.ids),)

    def most_items(self, now_ms: int) -> float:
        """How many runs a list by dataflow ID may hold that reaches as far back as it must; infinite if unknown.

        A run that names no dataflow is in no such list.
        """
        if not all(each.run and each.run.dataflow_id for each in self._of_runs):
            return math.inf
        return len(self.ids) * (1 + max(0, now_ms - self.since_ms) / _SHORTEST_INTERVAL_MS)

    @property
    def looks_back_to_ms(self) -> float:
        """The earliest that a pending run without an ID may have been created."""
        return min((each.since_ms for group in self.dataflows.values() for each in group), default=math.inf)

    @property
    def since_ms(self) -> int:
        """No run that is asked for was created before; 0 where that is not known."""
        created = (each.run.created_ms if each.run else 0 for each in self._of_runs)
        return int(min(min(created, default=math.inf), self.looks_back_to_ms))

    def halves(self) -> list[Batch]:
        if self.by_dataflow:
            return [Batch(runs=self.runs), Batch(dataflows=self.dataflows)]
        runs, dataflows = list(self.runs.items()), list(self.dataflows.items())
        middle = len(self) // 2
        return [Batch(dict(runs[at]), dict(dataflows[at])) for at in (slice(middle), slice(middle, None))]

    @property
    def order(self) -> str:
        """In which order to list the runs, to stop early: by creation, newest first, or oldest first to find any run.

        Runs that are asked for by their IDs need none.
        """
        if not (self.dataflows or self.whole or self.by_dataflow):
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
    for key, group in dataflows.items():
        age_ms = max(0, now_ms - min(each.since_ms for each in group))
        ages.setdefault((age_ms // _DAY_MS).bit_length(), {})[key] = group
    return [
        *(Batch(runs=chunk) for chunk in _chunks(runs, size)),
        *(Batch(dataflows=chunk) for groups in ages.values() for chunk in _chunks(groups, size)),
    ]


def _chunks(groups: Mapping[str, list[PendingRun]], size: int) -> Iterator[dict[str, list[PendingRun]]]:
    chunk: dict[str, list[PendingRun]] = {}
    characters = 0
    for key, group in groups.items():
        length = len(quote(key, safe="")) + 3  # a comma is sent as %2C
        if chunk and (len(chunk) == size or characters + length > _ID_CHARACTERS):
            yield chunk
            chunk, characters = {}, 0
        chunk[key] = group
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
