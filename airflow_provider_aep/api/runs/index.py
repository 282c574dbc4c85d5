"""What is awaited, by what it is asked for: who wants which run, and the parts of it that make one question each."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any
from urllib.parse import quote

from airflow_provider_aep.api.entities import DataflowId, FlowRun, FlowRunId, is_meant
from airflow_provider_aep.api.wire import read_flow_run
from airflow_provider_aep.errors import InvalidArgument, RequestRefused, UnexpectedReply

log = logging.getLogger(__name__)

Item = dict[str, Any]

PART = 100  # IDs in one question: with 36 characters each, its address stays far below 8,000
_ID_CHARACTERS = 6_000  # ... and where IDs are longer, this many characters of them at the most
_MOST_SINGLY = 100  # without lists of IDs, so many questions are put before the whole list of runs is read instead
_DAY_MS = 86_400_000


@dataclass(eq=False, slots=True)
class PendingRun:
    """One awaited run: a given one, or the earliest of a dataflow from `since_ms` to `until_ms`; then it is fixed."""

    dataflow_id: DataflowId
    since_ms: int
    run_id: FlowRunId | None = None
    run: FlowRun | None = None  # as last seen
    error: BaseException | None = None  # it cannot be asked for
    until_ms: int | None = None

    def may_mean(self, item: Item) -> bool:
        """Whether a run of the list may be the one; see `is_meant`."""
        dataflow, created_ms = item.get("flowId") or "", _created_ms(item)
        return is_meant(dataflow, created_ms, of=self.dataflow_id, since_ms=self.since_ms, until_ms=self.until_ms)

    @property
    def is_open(self) -> bool:
        """Whether there is something left to wait for."""
        return self.error is None and not (self.run and self.run.has_ended)


@dataclass
class Capabilities:
    """What a process has learned of Adobe: what it refuses, and how long the last run of each dataflow took."""

    refused: set[str] = field(default_factory=set)  # of "updatedAt", "createdAt", "orderby", "lists", "flow lists"
    durations_ms: dict[DataflowId, int] = field(default_factory=dict)

    def refuse(self, means: Iterable[str], refusal: RequestRefused) -> None:
        """A question was refused with these means and answered without them."""
        for each in set(means) - self.refused:
            self.refused.add(each)
            log.warning("Adobe refuses %s in a question; asking without from now on: %s", each, refusal)


class RunIndex:
    """What is awaited, by what it is asked for. Any of it may come and go while a poll is under way.

    `on_change` is told of each one that has another run, another state or an error. One whose run has ended, or that
    has an error, is not asked for again.
    """

    def __init__(self, learned: Capabilities, on_change: Callable[[PendingRun], object]) -> None:
        self.learned = learned
        self.since_ms = 0
        self._on_change = on_change
        self._fresh: dict[PendingRun, None] = {}  # not looked up yet
        self._by_run: dict[str, dict[PendingRun, None]] = {}
        self._by_dataflow: dict[str, dict[PendingRun, None]] = {}
        self._turn = 0

    @property
    def size(self) -> int:
        """How many IDs there are to ask for."""
        return len(self._fresh) + len(self._by_run) + len(self._by_dataflow)

    def add(self, awaited: PendingRun) -> None:
        self._fresh[awaited] = None

    def next_dataflows(self, first: Collection[str] = ()) -> dict[str, list[PendingRun]]:
        """A hundred dataflows, in rotation, of waits that were looked up and have no run; or only one of `first`."""
        doubtful = [key for key in first if key in self._by_dataflow]
        keys = doubtful[:1] or list(islice(self._by_dataflow, 1 if "flow lists" in self.learned.refused else PART))
        for key in keys:
            self._by_dataflow[key] = self._by_dataflow.pop(key)  # to the end
        return {key: list(self._by_dataflow[key]) for key in keys}

    def remove(self, awaited: PendingRun) -> None:
        self._fresh.pop(awaited, None)
        for index, key in ((self._by_run, awaited.run_id), (self._by_dataflow, awaited.dataflow_id)):
            group = index.get(key or "")
            if group is not None:
                group.pop(awaited, None)
                if not group:
                    del index[key or ""]

    def fresh(self, now_ms: int) -> list[Batch]:
        return parts_of(self._fresh, self.learned, now_ms)

    def known(self, now_ms: int, *, at_most: int | None = None) -> list[Batch] | None:
        """All that was looked up before; None if that takes more than `at_most` questions."""
        if at_most is not None and len(self._by_run) + len(self._by_dataflow) > at_most * PART:
            return None  # without looking at each
        groups = chain(self._by_run.values(), self._by_dataflow.values())
        parts = parts_of(chain.from_iterable(groups), self.learned, now_ms)
        return None if at_most is not None and len(parts) > at_most else parts

    def next_part(self, now_ms: int) -> list[Batch]:
        """The next hundred of what is known, given runs and dataflows by turns."""
        self._turn += 1
        indexes = [index for index in (self._by_run, self._by_dataflow) if index]
        if not indexes:
            return []
        index = indexes[self._turn % len(indexes)]
        keys = list(islice(index, 1 if "lists" in self.learned.refused else PART))
        part = parts_of(chain.from_iterable(index[key] for key in keys), self.learned, now_ms)[0]
        for key in part.runs or part.dataflows:
            index[key] = index.pop(key)  # to the end
        return [part]

    def note(self, items: Iterable[Item]) -> dict[PendingRun, None]:
        """Take changed runs. Returns those that have no run yet, and of whose dataflow one has appeared."""
        calling: dict[PendingRun, None] = {}
        for item in items:
            waiting = self._by_run.get(item.get("id") or "")
            if waiting:
                self._give(item, list(waiting))
            for each in self._by_dataflow.get(item.get("flowId") or "", ()):
                if each.may_mean(item):
                    calling[each] = None
        return calling

    def settle(self, part: Batch, items: Iterable[Item]) -> None:
        """Take the complete answer to a question."""
        earliest: dict[PendingRun, Item] = {}
        for item in items:
            if item.get("id") in part.runs:
                self._give(item, part.runs[item["id"]])
            for each in part.dataflows.get(item.get("flowId") or "", ()):
                if each.may_mean(item) and (each not in earliest or _sort_key(item) < _sort_key(earliest[each])):
                    earliest[each] = item
        for each in part:
            if each in self._fresh:
                del self._fresh[each]
                self._index(each)
        for each, item in earliest.items():
            if each.run_id is None:
                listed = each in self._by_dataflow.get(each.dataflow_id, ())
                self.remove(each)
                each.run_id = FlowRunId(item["id"])
                if listed:  # it has not left meanwhile
                    self._index(each)
            if each.run_id == item["id"]:
                self._give(item, [each])

    def _index(self, awaited: PendingRun) -> None:
        if awaited.run_id:
            self._by_run.setdefault(awaited.run_id, {})[awaited] = None
        else:
            self._by_dataflow.setdefault(awaited.dataflow_id, {})[awaited] = None

    def _give(self, item: Item, waiting: Iterable[PendingRun]) -> None:
        try:
            run = read_flow_run(item)
        except UnexpectedReply as error:  # nobody else's run is the worse for it
            self.fail(waiting, error)
            return
        if run.has_ended and run.completed_ms:
            self.learned.durations_ms[run.dataflow_id] = run.completed_ms - run.created_ms
        for each in waiting:
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

    def fail(self, waiting: Iterable[PendingRun], error: BaseException) -> None:
        for each in list(waiting):
            each.error = error
            self.remove(each)
            self._on_change(each)


@dataclass(slots=True)
class Batch:
    """What one question asks for: waits by run ID or by dataflow ID; by both where the `whole` list is read."""

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
        """The earliest that a wait without a run looks back to."""
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

    def is_answered(self, items: Sequence[Item], order: str, since_ms: int) -> bool:
        """Whether the first pages of a list hold all that matters, if they show the order asked for, or Adobe's own.

        Without an order Adobe lists first what was created or updated last; no run was created after its last update.
        """
        stamps = [milliseconds(item, order.lstrip("-") or "updatedAt") for item in items]
        ascending = order == "createdAt"
        if not stamps or stamps != sorted(stamps, reverse=not ascending):
            return False
        ids = {item.get("id") for item in items}
        has_runs = (not ascending and stamps[-1] < since_ms) or all(run_id in ids for run_id in self.runs)
        if not ascending:
            return has_runs and stamps[-1] < self.looks_back_to_ms
        latest = {item.get("flowId"): stamp for item, stamp in zip(items, stamps, strict=True) if stamp < stamps[-1]}
        return has_runs and all(
            latest.get(key, -1) >= each.since_ms for key, group in self.dataflows.items() for each in group
        )


def another_dataflows(run: FlowRun, dataflow_id: str) -> InvalidArgument:
    """The error for a run, given by its ID, that is not of the dataflow that was given."""
    return InvalidArgument("run_id", run.id, f"is a run of dataflow {run.dataflow_id}, not of {dataflow_id}")


def parts_of(awaited: Iterable[PendingRun], learned: Capabilities, now_ms: int) -> list[Batch]:
    """Questions of a hundred IDs each.

    Waits for a dataflow's run share one only with others that look about as far back, so that one that looks back for
    a year does not make Adobe list the history of all. Those of one dataflow are asked for together, as far back as the
    oldest of them looks: a rotation over dataflows would never come to the others.
    """
    runs: dict[str, list[PendingRun]] = {}
    dataflows: dict[str, list[PendingRun]] = {}
    for each in awaited:
        if each.run_id:
            runs.setdefault(each.run_id, []).append(each)
        else:
            dataflows.setdefault(each.dataflow_id, []).append(each)
    singly = "lists" in learned.refused
    if singly and len(runs) + len(dataflows) > _MOST_SINGLY:
        return [Batch(runs, dataflows, whole=True)]
    ages: dict[int, dict[str, list[PendingRun]]] = {}
    for key, waiting in dataflows.items():
        age_ms = max(0, now_ms - min(each.since_ms for each in waiting))
        ages.setdefault((age_ms // _DAY_MS).bit_length(), {})[key] = waiting
    most = 1 if singly else PART
    return [
        *(Batch(runs=chunk) for chunk in _chunks(runs, most)),
        *(Batch(dataflows=chunk) for group in ages.values() for chunk in _chunks(group, most)),
    ]


def _chunks(group: Mapping[str, list[PendingRun]], most: int) -> Iterator[dict[str, list[PendingRun]]]:
    chunk: dict[str, list[PendingRun]] = {}
    characters = 0
    for key, waiting in group.items():
        size = len(quote(key, safe="")) + 3  # a comma is sent as %2C
        if chunk and (len(chunk) == most or characters + size > _ID_CHARACTERS):
            yield chunk
            chunk, characters = {}, 0
        chunk[key] = waiting
        characters += size
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
