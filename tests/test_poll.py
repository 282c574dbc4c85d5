"""The question put to Adobe: each wait gets its own run and no other, for few requests, whatever Adobe does meanwhile.

The Adobe of these tests answers the calls of `poll` one by one in memory. It can hold back what happened, refuse
filters, fail, and change between two pages; it knows what any list shows at any moment, which is the oracle.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from airflow_provider_aep.api.effects import Call, Gather, ServerTime
from airflow_provider_aep.api.entities import DataflowId, FlowRunId
from airflow_provider_aep.api.runs.index import BATCH_SIZE, Capabilities, PendingRun, RunIndex
from airflow_provider_aep.api.runs.poll import CONCURRENT_REQUESTS, OVERLAP_MS, RECENT_MS, poll
from airflow_provider_aep.errors import (
    AccessDenied,
    AepError,
    OutcomeUnknown,
    PlatformUnavailable,
    ReplyError,
    RequestRefused,
    UnexpectedReply,
)

START_MS = 1_800_000_000_000
MINUTE, DAY = 60_000, 86_400_000


@dataclass
class Version:
    """A run as it was from `at_ms` on; lists show it from `shown_ms` on."""

    at_ms: int
    shown_ms: int
    status: str = ""
    dated: bool = True


@dataclass
class Run:
    id: str
    dataflow_id: str
    created_ms: int
    versions: list[Version]
    odd: dict[str, Any] = field(default_factory=dict)

    def shown(self, now_ms: int) -> dict[str, Any] | None:
        """The run as a list shows it now."""
        visible = [each for each in self.versions if each.shown_ms <= now_ms]
        if not visible or self.versions[0].shown_ms > now_ms:
            return None
        last = max(visible, key=lambda each: (each.at_ms, self.versions.index(each)))
        updated = max(each.at_ms for each in visible if each.dated)
        metrics: dict[str, Any] = {"statusSummary": {"status": last.status}} if last.status else {}
        if last.status in ("success", "failed"):
            metrics["durationSummary"] = {"startedAtUTC": self.created_ms, "completedAtUTC": last.at_ms}
        named = {"id": self.id, "flowId": self.dataflow_id}
        return {**named, "createdAt": self.created_ms, "updatedAt": updated, "metrics": metrics, **self.odd}

    @property
    def has_ended(self) -> bool:
        return self.versions[-1].status in ("success", "failed")


@dataclass
class ModelAdobe:
    """Adobe's list of runs, at a time of its own."""

    now_ms: int = START_MS
    local_skew_ms: int = 0
    page_size: int = 100
    by_position: bool = True
    keeps_order: bool = True
    refused: frozenset[str] = frozenset()
    bad_ids: frozenset[str] = frozenset()
    coded: bool = True  # a refusal says why, as Adobe does and a mock of its OpenAPI does not
    is_endless: bool = False
    runs: dict[str, Run] = field(default_factory=dict)
    by_dataflow: dict[str, list[Run]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    most_abreast: int = 0
    between: Callable[[], object] = lambda: None
    problem: AepError | None = None
    trouble: Callable[[str], AepError | None] = lambda _url: None
    chance: random.Random = field(default_factory=lambda: random.Random(0))
    _tokens: list[tuple[Call[Any], Any]] = field(default_factory=list)
    _has_replied: bool = False

    def create(self, dataflow_id: str, *, late_ms: int = 0, created_ms: int | None = None, run_id: str = "") -> Run:
        created = self.now_ms if created_ms is None else created_ms
        shown = max(created, self.now_ms) if created_ms is None else created
        name = run_id or f"{self.chance.getrandbits(64):016x}-{len(self.runs):08d}"
        run = Run(name, dataflow_id, created, [Version(created, shown + late_ms)])
        self.runs[run.id] = run
        self.by_dataflow.setdefault(dataflow_id, []).append(run)
        return run

    def change(self, run: Run, status: str, *, late_ms: int = 0, dated: bool = True) -> None:
        run.versions.append(Version(self.now_ms, self.now_ms + late_ms, status, dated))

    def perform(self, procedure: Any) -> Any:
        """Run a procedure as a session would; those side by side take turns at random."""
        return self._finish(iter(procedure))

    def _finish(self, steps: Any) -> Any:
        reply: Any = None
        error: AepError | None = None
        try:
            while True:
                step = steps.throw(error) if error else steps.send(reply)
                reply, error = self._step(step)
        except StopIteration as end:
            return end.value

    def _step(self, step: Any) -> tuple[Any, AepError | None]:
        if isinstance(step, ServerTime):
            return self.now_ms + (0 if self._has_replied else self.local_skew_ms), None
        if isinstance(step, Gather):
            return self._side_by_side(step)
        try:
            return self._answer(step), None
        except AepError as error:
            return None, error

    def _side_by_side(self, step: Gather) -> tuple[Any, AepError | None]:
        errors: list[AepError] = []
        active: list[list[Any]] = [[procedure, None, None] for procedure in step.procedures]
        self.most_abreast = max(self.most_abreast, len(active))
        while active:
            task = self.chance.choice(active)
            procedure, reply, error = task
            try:
                asked = procedure.throw(error) if error else procedure.send(reply)
                task[1:] = self._step(asked)
            except StopIteration:
                active.remove(task)
            except AepError as problem:
                active.remove(task)
                errors.append(problem)
        return [None] * len(step.procedures), errors[0] if errors else None

    def _answer(self, call: Call[Any]) -> Any:
        base = "https://platform.adobe.io/data/foundation/flowservice"
        query = "?" + urlencode(call.query, quote_via=quote, safe="") if call.query else ""
        self.requests.append(base + call.path + query)
        assert len(self.requests[-1]) < 8_000
        self.between()
        problem = self.problem or self.trouble(self.requests[-1])
        if problem:
            raise problem
        self._has_replied = True
        assert call.read
        return call.read(self._page(call))

    def _page(self, call: Call[Any]) -> dict[str, Any]:
        after: Any = None
        if "continuationToken=" in call.path:
            call, after = self._tokens[int(call.path.rpartition("=")[2])]
        query = list(call.query)
        order = dict(query).get("orderby", "")
        self._check(query, order)
        filters = [value for name, value in query if name == "property"]
        candidates = self._candidates(filters)
        items = [shown for run in candidates if (shown := run.shown(self.now_ms)) and matches(shown, filters)]
        path = (order.lstrip("-") or "updatedAt") if self.keeps_order else "createdAt"
        sign = -1 if order.startswith("-") or not order else 1

        def key(item: dict[str, Any]) -> tuple[int, str]:
            return sign * item[path], item["id"]

        items.sort(key=key)
        start = after or 0
        if not self.by_position:
            start = sum(1 for item in items if after is not None and key(item) <= after)
        page = items[start : start + self.page_size]
        if self.is_endless:
            self._tokens.append((call, start))
            return {"items": page, "_links": {"next": {"href": "/runs?limit=100&continuationToken=0"}}}
        if start + self.page_size >= len(items):
            return {"items": page, "_links": {}}
        self._tokens.append((call, start + self.page_size if self.by_position else key(page[-1])))
        return {
            "items": page,
            "_links": {"next": {"href": f"/runs?limit=100&continuationToken={len(self._tokens) - 1}"}},
        }

    def _candidates(self, filters: list[str]) -> Iterable[Run]:
        """The runs among which a list looks; merely a short cut."""
        for condition in filters:
            path, is_equal, values = condition.partition("==")
            if is_equal:
                ids = values.split(",")
                if path == "id":
                    return [self.runs[run_id] for run_id in ids if run_id in self.runs]
                return [run for dataflow_id in ids for run in self.by_dataflow.get(dataflow_id, ())]
        return self.runs.values()

    def _check(self, query: list[tuple[str, str]], order: str) -> None:
        if order and "orderby" in self.refused:
            raise refusal("FLOW-1432-400" if self.coded else "400")
        for name, value in query:
            if name != "property":
                continue
            path = value.replace(">=", "==").partition("==")[0]
            if path in self.refused or (path in ("createdAt", "updatedAt") and "==" in value):
                raise refusal("FLOW-1448-400" if self.coded else "400")
            ids = value.partition("==")[2].split(",")
            if "lists" in self.refused and len(ids) > 1:
                raise refusal("FLOW-1443-400" if self.coded else "400")
            if self.bad_ids & set(ids):
                raise refusal("FLOW-1452-400")

    def earliest(
        self, dataflow_id: str, since_ms: int, *, at_ms: int, among: Collection[str] | None = None
    ) -> Run | None:
        """The oracle: what a wait for a dataflow's run should find."""
        found = [
            run
            for run in self.by_dataflow.get(dataflow_id, ())
            if run.created_ms >= since_ms and run.shown(at_ms) and (among is None or run.id in among)
        ]
        return min(found, key=lambda run: (run.created_ms, run.id), default=None)


def matches(item: dict[str, Any], filters: list[str]) -> bool:
    for condition in filters:
        if ">=" in condition:
            path, _, bound = condition.partition(">=")
            if item[path] < int(bound):
                return False
        else:
            path, _, values = condition.partition("==")
            if item[path] not in values.split(","):
                return False
    return True


def refusal(code: str) -> RequestRefused:
    return RequestRefused("GET /runs", status=400, code=code, message="refused")


@dataclass
class Scene:
    """An Adobe and an index of pending runs, with a note of each change."""

    adobe: ModelAdobe
    told: list[tuple[PendingRun, str, bool]] = field(default_factory=list)
    rotates: bool = True

    def __post_init__(self) -> None:
        self.index = RunIndex(Capabilities(), self._note)

    def _note(self, each: PendingRun) -> None:
        self.told.append((each, each.run.raw_status if each.run else "", bool(each.run and each.run.has_ended)))

    def wait(self, dataflow_id: str = "", *, since_ms: int = 0, run_id: str = "") -> PendingRun:
        pending = PendingRun(DataflowId(dataflow_id), since_ms, FlowRunId(run_id) if run_id else None)
        self.index.add(pending)
        return pending

    def poll(self) -> int:
        """One poll; returns the number of requests."""
        before = len(self.adobe.requests)
        self.adobe.perform(poll(self.index, rotates=self.rotates))
        return len(self.adobe.requests) - before


@pytest.fixture
def adobe() -> ModelAdobe:
    return ModelAdobe()


@pytest.fixture
def scene(adobe: ModelAdobe) -> Scene:
    return Scene(adobe)


# -- the rule -------------------------------------------------------------------------------------------------------


class Script:
    """A night at random: runs come, change and end, waits come and go, polls fail, and all of it while pages are read.

    After each poll the script compares every wait with what the lists of `ModelAdobe` show.
    """

    def __init__(
        self, adobe: ModelAdobe, seed: int, *, failing: float, late_ms: int, dataflows: int, waits: int = 0
    ) -> None:
        self.adobe = adobe
        self.scene = Scene(adobe)
        self.chance = adobe.chance = random.Random(seed)
        self.failing, self.late_ms = failing, late_ms
        self.waits: list[PendingRun] = []
        self.owners: dict[PendingRun, str] = {}
        self.dataflows = [f"flow-{number:04d}" for number in range(dataflows)]
        for name in self.dataflows[:: self.chance.randint(2, 5)]:
            for _ in range(self.chance.randint(1, 2)):
                self.adobe.create(name, created_ms=START_MS - self.chance.randint(0, 90) * MINUTE)
        busy = self.chance.choice(self.dataflows)
        for number in range(self.chance.choice([0, 0, 150])):
            self.adobe.create(busy, created_ms=START_MS - number * MINUTE)
        for _ in range(waits or self.chance.choice([3, 60, 350])):
            self.join()

    def late(self) -> int:
        return self.chance.choice([0, 0, 0, self.chance.randint(0, self.late_ms)])

    def join(self) -> None:
        run = self.chance.choice([None, self.chance.choice(list(self.adobe.runs.values()) or [None])])
        if run:
            wait = self.scene.wait(run.dataflow_id, run_id=run.id)
        else:
            name = self.chance.choice(self.dataflows)
            since = self.adobe.now_ms + self.chance.choice([-400 * DAY, -60 * MINUTE, -MINUTE, 0, 5 * MINUTE])
            wait = self.scene.wait(name, since_ms=self.chance.choice([since, since, 0]))
        self.waits.append(wait)
        if run:
            self.owners[wait] = run.id

    def event(self) -> None:
        kind = self.chance.choice(["create", "create", "change", "change", "end", "join", "leave", "pass", "pass"])
        running = [run for run in self.adobe.runs.values() if not run.has_ended]
        if kind == "create":
            self.adobe.create(self.chance.choice(self.dataflows), late_ms=self.late())
        elif kind in ("change", "end") and running:
            status = self.chance.choice(["success", "failed"]) if kind == "end" else "processing"
            self.adobe.change(self.chance.choice(running), status, late_ms=self.late())
        elif kind == "join":
            self.join()
        elif kind == "leave" and self.waits:
            wait = self.waits.pop(self.chance.randrange(len(self.waits)))
            self.scene.index.remove(wait)
        else:
            self.adobe.now_ms += self.chance.choice([0, 1, 1000, MINUTE])

    def events(self, most: int) -> None:
        for _ in range(self.chance.randint(0, most)):
            self.event()

    def trouble(self, _url: str) -> AepError | None:
        if self.chance.random() >= self.failing:
            return None
        return self.chance.choice([PlatformUnavailable, OutcomeUnknown])("GET /runs", status=503)

    def poll(self, *, quiet: bool) -> None:
        """One poll, and what must be true after it."""
        self.adobe.between = (lambda: None) if quiet else lambda: self.events(2)
        self.adobe.trouble = (lambda _url: None) if quiet else self.trouble
        began_ms, known = self.adobe.now_ms, set(self.adobe.runs)
        try:
            self.scene.poll()
        except PlatformUnavailable:
            assert not quiet
        for wait in self.waits:
            if wait.run_id and wait not in self.owners:
                self.owners[wait] = wait.run_id
                self._check_first_sight(wait, began_ms, known)
            assert wait.run_id == self.owners.get(wait), "a wait never changes its run"
            assert wait.error is None
            assert wait.run is None or wait.run.id == wait.run_id
            if quiet:
                self._check_now(wait)

    def _check_first_sight(self, wait: PendingRun, began_ms: int, known: set[str]) -> None:
        """It is the earliest of the runs that a list showed when the poll began; some are made in that same moment."""
        run = self.adobe.runs[str(wait.run_id)]
        assert run.dataflow_id == wait.dataflow_id
        assert run.created_ms >= wait.since_ms
        before = self.adobe.earliest(wait.dataflow_id, wait.since_ms, at_ms=began_ms, among=known)
        assert before is None or (run.created_ms, run.id) <= (before.created_ms, before.id)

    def _check_now(self, wait: PendingRun) -> None:
        if wait.run_id is None:
            assert self.adobe.earliest(wait.dataflow_id, wait.since_ms, at_ms=self.adobe.now_ms) is None
            return
        shown = self.adobe.runs[wait.run_id].shown(self.adobe.now_ms)
        if shown:
            assert wait.run
            assert wait.run.raw_status == shown["metrics"].get("statusSummary", {}).get("status", "")

    def check_told(self) -> None:
        """Every change was told once, and the end of a run last."""
        states: dict[PendingRun, list[tuple[str, bool]]] = {}
        for wait, status, ended in self.scene.told:
            states.setdefault(wait, []).append((status, ended))
        for wait in self.waits:
            told = states.get(wait, [])
            assert all(one != other for one, other in pairwise(told))
            assert not any(ended for _, ended in told[:-1])
            assert bool(wait.run) == bool(told)
            assert wait.run is None or told[-1] == (wait.run.raw_status, wait.run.has_ended)


def blames_nothing_else(scene: Scene, refused: Collection[str]) -> None:
    capabilities = scene.index.capabilities
    assert not capabilities.is_plain or {"updatedAt", "orderby"} & set(refused)
    assert capabilities.batch_size == BATCH_SIZE or "lists" in refused


GENERATE = (Phase.explicit, Phase.generate)  # a seed means nothing when it is made smaller
MEANS = ["updatedAt", "lists", "orderby"]


@settings(max_examples=100, phases=GENERATE)
@given(
    seed=st.integers(0, 2**32),
    refused=st.frozensets(st.sampled_from(MEANS)),
    failing=st.sampled_from([0.0, 0.1, 0.5]),
    by_position=st.booleans(),
    page_size=st.sampled_from([100, 100, 7]),
    late_ms=st.sampled_from([0, MINUTE, OVERLAP_MS]),
    skew_ms=st.sampled_from([0, 20 * DAY, -20 * DAY]),
    coded=st.booleans(),
    rotates=st.booleans(),
)
@example(
    12499, frozenset(), 0.0, True, 100, OVERLAP_MS, 20 * DAY, True, True
)  # two runs of one moment, one of them mid-poll
# A change mid-poll that is shown late, behind newer ones that the list's front has shown already.
@example(6, frozenset(MEANS), 0.0, True, 7, OVERLAP_MS, 0, True, True)
def test_each_wait_gets_its_own_run_and_no_other(
    seed: int,
    refused: frozenset[str],
    failing: float,
    by_position: bool,
    page_size: int,
    late_ms: int,
    skew_ms: int,
    coded: bool,
    rotates: bool,
) -> None:
    """Whatever is refused, fails, comes late or moves while pages are read, and however wrong this machine's clock."""
    adobe = ModelAdobe(
        refused=refused, by_position=by_position, page_size=page_size, local_skew_ms=skew_ms, coded=coded
    )
    script = Script(adobe, seed, failing=failing, late_ms=late_ms, dataflows=320)
    script.scene.rotates = rotates
    for _ in range(6):
        script.events(12)
        script.poll(quiet=script.chance.random() < 0.4)
        adobe.now_ms += script.chance.choice([MINUTE, 5 * MINUTE, 45 * MINUTE])
    script.poll(quiet=True)
    script.check_told()
    blames_nothing_else(script.scene, refused)


@settings(max_examples=12, phases=GENERATE)
@given(seed=st.integers(0, 2**32), refused=st.frozensets(st.sampled_from(MEANS)))
def test_what_no_date_tells_is_found_by_the_rotation(seed: int, refused: frozenset[str]) -> None:
    """A change that Adobe does not date, or shows hours after its date, waits for its turn and is not lost."""
    adobe = ModelAdobe(refused=refused)
    waits = 30 if "lists" in refused else 260
    script = Script(adobe, seed, failing=0, late_ms=0, dataflows=320, waits=waits)
    script.poll(quiet=True)
    for run in list(adobe.runs.values()):
        if not run.has_ended:
            adobe.change(run, "success", dated=script.chance.random() < 0.5, late_ms=300 * MINUTE)
    for name in script.dataflows:
        adobe.create(name, late_ms=300 * MINUTE)
    for _ in range(3):
        adobe.now_ms += 150 * MINUTE
        script.scene.poll()
    turns = 2 * waits if "lists" in refused else 2 * 10  # parts: three, and more for those that look far back
    for _ in range(turns):
        adobe.now_ms += MINUTE
        script.scene.poll()
    script.poll(quiet=True)


@pytest.mark.parametrize(("refused", "others", "turns"), [({"lists"}, 30, 31), (set(), 300, 5)])
def test_the_rotation_comes_to_each_wait_of_a_dataflow(refused: set[str], others: int, turns: int) -> None:
    """However differently far back they look: nothing but the rotation tells of a run that Adobe shows hours late."""
    adobe = ModelAdobe(refused=frozenset(refused))
    scene = Scene(adobe)
    shared = [scene.wait("shared", since_ms=START_MS - days * DAY) for days in (2, 30)]
    for number in range(others):
        scene.wait(f"flow-{number:04d}", since_ms=START_MS)
    scene.poll()
    runs = [
        adobe.create("shared", created_ms=START_MS - days * DAY, late_ms=days * DAY + 60 * MINUTE) for days in (1, 10)
    ]
    adobe.now_ms += 60 * MINUTE
    for _ in range(turns):
        adobe.now_ms += MINUTE
        scene.poll()
    assert [wait.run_id for wait in shared] == [run.id for run in runs]


@pytest.mark.parametrize("dataflows", [300, 400, 1_000])
def test_every_dataflow_is_checked_and_asked_for_in_turn(scene: Scene, dataflows: int) -> None:
    """Each by turns of its own: in one rotation both would see the same half of four hundred for ever."""
    waits = [scene.wait(f"flow-{number:04d}", since_ms=START_MS) for number in range(dataflows)]
    scene.poll()
    scene.adobe.requests.clear()
    checked: set[str] = set()
    for _ in range(dataflows // BATCH_SIZE):
        scene.adobe.now_ms += MINUTE
        checked |= scene.index.next_dataflows().keys()
        scene.poll()
    assert checked == {wait.dataflow_id for wait in waits}
    asked = "".join(scene.adobe.requests)
    assert all(wait.dataflow_id in asked for wait in waits)


# -- what it costs --------------------------------------------------------------------------------------------------


def many(scene: Scene, count: int, *, pinned: bool) -> list[PendingRun]:
    waits = []
    for number in range(count):
        name = f"{number:08d}-bbbb-4bbb-8bbb-bbbbbbbbbbbb"
        begun_ms = START_MS - 20 * MINUTE
        run = scene.adobe.create(name, created_ms=begun_ms, run_id=f"{number:08d}-aaaa-4aaa-8aaa-aaaaaaaaaaaa")
        waits.append(scene.wait(name, run_id=run.id) if pinned else scene.wait(name, since_ms=START_MS + DAY))
    return waits


@pytest.mark.parametrize("pinned", [True, False])
@pytest.mark.parametrize("count", [1, 100, 1_000, 10_000])
def test_nothing_changing_costs_two_requests_for_any_number_of_waits(scene: Scene, count: int, pinned: bool) -> None:
    """The first poll asks a hundred at a time, a few abreast."""
    many(scene, count, pinned=pinned)
    assert max(1, count // 100) == scene.poll()
    assert scene.adobe.most_abreast <= CONCURRENT_REQUESTS

    scene.adobe.now_ms += 60 * MINUTE
    for _ in range(3):
        scene.adobe.now_ms += MINUTE
        assert scene.poll() <= 2


@pytest.mark.parametrize("pinned", [True, False])
@pytest.mark.parametrize("count", [1, 100, 1_000, 10_000])
def test_without_a_request_to_spare_it_costs_one(scene: Scene, count: int, pinned: bool) -> None:
    many(scene, count, pinned=pinned)
    scene.poll()
    scene.rotates = False
    for _ in range(3):
        scene.adobe.now_ms += 10 * MINUTE
        assert scene.poll() == 1


@pytest.mark.parametrize("runs", [1, 10, 25])
def test_runs_under_way_and_runs_to_come_are_one_request(scene: Scene, runs: int) -> None:
    """By the IDs of their dataflows, as long as a page holds what those have made meanwhile."""
    under_way = many(scene, runs, pinned=True)
    to_come = [scene.wait(f"flow-{number:04d}", since_ms=START_MS) for number in range(runs)]
    scene.poll()
    for _ in range(60):
        scene.adobe.now_ms += MINUTE
        assert scene.poll() == 1

    assert "updatedAt" not in scene.adobe.requests[-1]
    scene.adobe.change(scene.adobe.runs[str(under_way[0].run_id)], "success")
    made = scene.adobe.create("flow-0000")
    scene.poll()
    assert [each for each in under_way if each.run and each.run.has_ended] == under_way[:1]
    assert [each.run_id for each in to_come if each.run_id] == [made.id]


def test_many_dataflows_with_a_long_history_are_not_listed_for_one_run(scene: Scene) -> None:
    """Each may have made eight runs since yesterday; what has changed is one page."""
    for number in range(90):
        for hours in range(3, 24, 3):
            scene.adobe.create(f"flow-{number:04d}", created_ms=START_MS - hours * 60 * MINUTE)
    old = scene.adobe.create("old", created_ms=START_MS - DAY)
    scene.wait("old", run_id=old.id)
    for number in range(90):
        scene.wait(f"flow-{number:04d}", since_ms=START_MS)
    scene.poll()
    scene.rotates = False
    assert scene.poll() == 1
    assert "updatedAt" in scene.adobe.requests[-1]


def test_thousands_of_changes_are_read_once_and_not_ten_minutes_long(scene: Scene) -> None:
    """Of what the last poll has read, a page is read again, and what is so recent that some may still be hidden."""
    waits = many(scene, 1_000, pinned=True)
    scene.poll()
    scene.rotates = False
    for number, wait in enumerate(waits):
        if number % 50 == 0:
            scene.adobe.now_ms += MINUTE // 10
        scene.adobe.change(scene.adobe.runs[str(wait.run_id)], "processing")
    costs = []
    for _ in range(4):
        costs.append(scene.poll())
        scene.adobe.now_ms += MINUTE
    assert max(costs) <= 15  # too many: all are asked for, after a few pages
    assert costs[2:] == [1, 1]
    assert all(wait.run and wait.run.raw_status == "processing" for wait in waits)


@pytest.mark.parametrize(
    ("others", "late_ms", "page_size"), [(300, RECENT_MS, 100), (90, OVERLAP_MS, 100), (90, OVERLAP_MS, 50)]
)
def test_a_change_that_is_shown_late_is_seen_by_the_next_poll(
    scene: Scene, others: int, late_ms: int, page_size: int
) -> None:
    """Behind hundreds of newer ones within a minute, behind fewer within ten; without the rotation."""
    scene.adobe.page_size = page_size
    waits = many(scene, 400, pinned=True)
    scene.poll()
    scene.rotates = False
    run = scene.adobe.runs[str(waits[0].run_id)]
    scene.adobe.now_ms += MINUTE
    scene.adobe.change(run, "success", late_ms=late_ms)
    before_ms = min(late_ms // 2, 2 * RECENT_MS)
    scene.adobe.now_ms += late_ms - before_ms
    for wait in waits[100 : 100 + others]:
        scene.adobe.change(scene.adobe.runs[str(wait.run_id)], "processing")
    scene.adobe.now_ms += before_ms - 1
    scene.poll()
    assert waits[0].run
    assert not waits[0].run.has_ended
    scene.adobe.now_ms += 1
    scene.poll()
    assert waits[0].run.has_ended


@pytest.mark.parametrize("count", [1, 100, 1_000, 10_000])
def test_without_comparisons_a_poll_costs_a_request_for_a_hundred_waits(scene: Scene, count: int) -> None:
    scene.adobe.refused = frozenset({"updatedAt"})
    many(scene, count, pinned=True)
    scene.poll()
    scene.poll()  # learns of the refusal

    assert scene.poll() <= count // 100 + 1
    blames_nothing_else(scene, {"updatedAt"})


def test_a_refusal_is_remembered_and_blamed_on_nothing_else(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(300):
        scene.wait(f"flow-{number}", since_ms=START_MS)
    scene.adobe.refused = frozenset({"orderby"})
    for _ in range(3):
        scene.adobe.now_ms += MINUTE
        scene.poll()

    blames_nothing_else(scene, {"orderby"})
    assert scene.index.capabilities.is_plain
    (record,) = caplog.records
    assert "refuses to compare or sort flow runs" in record.getMessage()


def test_many_waits_for_one_run_are_one_question(scene: Scene) -> None:
    run = scene.adobe.create("flow")
    for _ in range(1_000):
        scene.wait("flow", run_id=run.id)
        scene.wait("flow", since_ms=START_MS)

    assert scene.poll() == 2
    assert len(scene.told) == 2_000


def test_a_wait_that_looks_far_back_does_not_list_the_history_of_others(scene: Scene) -> None:
    """Together they would be asked for since the first of January, and answered by years of hourly runs."""
    for number in range(5_000):
        scene.adobe.create("busy", created_ms=START_MS - number * 60 * MINUTE)
    busy = scene.wait("busy", since_ms=START_MS + 1)
    idle = scene.wait("idle", since_ms=0)

    assert scene.poll() == 2
    assert busy.run is None
    assert idle.run is None


def test_the_earliest_of_twenty_thousand_runs_is_found_on_the_first_page(scene: Scene) -> None:
    for number in range(20_000):
        scene.adobe.create("busy", created_ms=START_MS - number * MINUTE)
    wait = scene.wait("busy", since_ms=0)

    assert scene.poll() == 1
    assert wait.run
    assert wait.run.created_ms == START_MS - 19_999 * MINUTE


def test_long_ids_do_not_make_a_long_address(scene: Scene) -> None:
    """Checked for every request by `ModelAdobe`."""
    for number in range(100):
        scene.wait("f", run_id=f"{number:0200d}")

    assert scene.poll() == 4


# -- trouble --------------------------------------------------------------------------------------------------------


def test_one_id_that_adobe_refuses_costs_nobody_else_his_run(scene: Scene) -> None:
    """Such as a dataflow ID with a typing error in one of a hundred DAGs."""
    waits = [scene.wait(f"flow-{number}") for number in range(100)]
    for number in range(100):
        scene.adobe.create(f"flow-{number}")
    scene.adobe.bad_ids = frozenset({"flow-42"})
    scene.poll()

    assert [waits[42]] == [wait for wait in waits if wait.error]
    assert isinstance(waits[42].error, RequestRefused)
    assert sum(1 for wait in waits if wait.run) == 99
    blames_nothing_else(scene, ())
    assert scene.poll() == 1


def test_a_refusal_without_a_code_ends_no_wait(scene: Scene) -> None:
    """It may come from something in between, and be about something else; three in a row end all waits."""
    waits = [scene.wait(f"flow-{number}") for number in range(3)]
    scene.adobe.problem = RequestRefused("GET /runs", status=400, code="400")
    with pytest.raises(RequestRefused):
        scene.poll()

    assert not any(wait.error for wait in waits)
    blames_nothing_else(scene, ())


def test_two_ids_that_adobe_refuses_are_not_taken_for_a_refusal_of_lists(scene: Scene) -> None:
    waits = [scene.wait("flow-1"), scene.wait("flow-2")]
    scene.adobe.bad_ids = frozenset({"flow-1", "flow-2"})
    scene.poll()

    assert all(wait.error for wait in waits)
    blames_nothing_else(scene, ())


def test_what_others_answered_is_kept_when_a_question_fails(scene: Scene) -> None:
    waits = many(scene, 400, pinned=True)
    scene.adobe.trouble = lambda url: PlatformUnavailable("GET /runs", status=503) if "00000350-aaaa" in url else None
    with pytest.raises(PlatformUnavailable):
        scene.poll()
    assert sum(1 for wait in waits if wait.run) == 300

    scene.adobe.trouble = lambda _url: None
    scene.poll()
    assert all(wait.run for wait in waits)


def test_an_outage_is_not_asked_ten_thousand_times(scene: Scene) -> None:
    """Six are on their way when it shows; no more are sent."""
    many(scene, 10_000, pinned=True)
    for problem in (OutcomeUnknown("GET /runs", status=503), AccessDenied("GET /runs", status=403)):
        scene.adobe.problem = problem
        before = len(scene.adobe.requests)
        with pytest.raises(type(problem)):
            scene.poll()
        assert len(scene.adobe.requests) - before <= CONCURRENT_REQUESTS


def test_the_longest_retry_after_is_the_one_that_is_told(scene: Scene) -> None:
    many(scene, 600, pinned=True)

    def trouble(url: str) -> AepError:
        error = PlatformUnavailable("GET /runs", status=429 if "00000250" in url else 503)
        error.retry_after_seconds = 120 if "00000250" in url else None
        return error

    scene.adobe.trouble = trouble
    with pytest.raises(ReplyError) as caught:
        scene.poll()
    assert caught.value.retry_after_seconds in (120, None)


def test_a_list_that_breaks_off_refuses_no_filter_and_ends_no_wait(scene: Scene) -> None:
    """A continuation token may end too; Adobe's code for it is the same as for a bad filter."""
    for number in range(250):
        scene.adobe.create("flow", created_ms=START_MS - number)
    wait = scene.wait("flow", since_ms=START_MS - 1_000)
    other = scene.wait("none", since_ms=START_MS - 1_000)
    scene.adobe.trouble = lambda url: refusal("FLOW-1453-400") if "continuationToken" in url else None
    with pytest.raises(PlatformUnavailable, match="broke off"):
        scene.poll()

    blames_nothing_else(scene, ())
    assert wait.run_id is None
    assert (wait.error, other.error) == (None, None)
    scene.adobe.trouble = lambda _url: None
    scene.poll()
    assert wait.run
    assert wait.run.created_ms == START_MS - 249


def test_a_run_that_cannot_be_read_fails_its_own_wait_only(scene: Scene) -> None:
    good, bad = scene.adobe.create("good"), scene.adobe.create("bad")
    bad.odd = {"createdAt": ["no number"]}
    waits = [scene.wait("good", run_id=good.id), scene.wait("bad", run_id=bad.id)]
    scene.poll()

    assert waits[0].run
    assert isinstance(waits[1].error, UnexpectedReply)


def test_a_list_without_end_is_told(scene: Scene) -> None:
    """Rather than read for ever."""
    for number in range(300):
        scene.adobe.create("flow", created_ms=START_MS + number)
    scene.wait("flow", since_ms=START_MS)
    scene.wait("none", since_ms=START_MS)
    scene.adobe.is_endless = True
    with pytest.raises(UnexpectedReply, match="token came twice"):
        scene.poll()


def test_a_run_that_vanishes_is_waited_for_without_noise(scene: Scene) -> None:
    """Its wait ends by its deadline."""
    run = scene.adobe.create("flow")
    wait = scene.wait("flow", run_id=run.id)
    scene.poll()
    del scene.adobe.runs[run.id]
    scene.poll()

    assert wait.run
    assert not wait.run.has_ended
    assert len(scene.told) == 1


def test_an_older_reading_does_not_undo_a_newer_one(scene: Scene) -> None:
    """Adobe's copies need not agree; one may still show what another has moved on from."""
    run = scene.adobe.create("flow")
    wait = scene.wait("flow", run_id=run.id)
    scene.adobe.now_ms += 1
    scene.adobe.change(run, "processing")
    scene.poll()
    del run.versions[1]
    scene.poll()

    assert wait.run
    assert wait.run.raw_status == "processing"


def test_how_long_runs_take_is_learned_from_the_same_answers(scene: Scene) -> None:
    run = scene.adobe.create("flow")
    scene.wait("flow", run_id=run.id)
    scene.adobe.now_ms += 7 * MINUTE
    scene.adobe.change(run, "success")
    scene.poll()

    assert scene.index.capabilities.durations_ms == {"flow": 7 * MINUTE}


@pytest.mark.parametrize("is_known", [True, False])
def test_how_long_runs_take_is_learned_from_those_before(scene: Scene, is_known: bool) -> None:
    """For no request more, from the latest that did not fail, whether the run is known or yet to come."""
    for minutes, status in ((5, "success"), (7, "success"), (1, "failed")):
        run = scene.adobe.create("flow")
        scene.adobe.now_ms += minutes * MINUTE
        scene.adobe.change(run, status)
        scene.adobe.now_ms += 180 * MINUTE
    run = scene.adobe.create("flow")
    scene.wait("flow", run_id=run.id if is_known else "", since_ms=run.created_ms)
    assert scene.poll() == 1
    for _ in range(3):
        scene.adobe.now_ms += MINUTE
        assert scene.poll() == 1

    assert scene.index.capabilities.durations_ms == {"flow": 7 * MINUTE}
    assert "?property=id%3D%3D" in scene.adobe.requests[-1]


def test_changes_that_come_in_no_order_are_read_to_the_end(scene: Scene) -> None:
    """Adobe does not refuse the order, but does not keep it: the last of the first page is an old change."""
    waits = many(scene, 400, pinned=True)
    scene.poll()
    scene.rotates = False
    scene.adobe.keeps_order = False
    for changed in (waits[99:100], waits[:99] + waits[100:150]):
        for wait in changed:
            scene.adobe.change(scene.adobe.runs[str(wait.run_id)], "processing")
            scene.adobe.now_ms += 1
        scene.adobe.now_ms += 2 * MINUTE
        scene.poll()
    assert [wait for wait in waits if wait.run and wait.run.raw_status] == waits[:150]


def test_a_run_that_names_no_dataflow_is_asked_for_by_its_own_id(scene: Scene) -> None:
    run = scene.adobe.create("flow")
    run.odd = {"flowId": ""}
    wait = scene.wait("flow", run_id=run.id)
    scene.wait("another", since_ms=START_MS)
    for _ in range(3):
        scene.adobe.now_ms += MINUTE
        scene.poll()
    scene.adobe.change(run, "success")
    scene.poll()
    assert wait.run
    assert wait.run.has_ended


def test_where_lists_are_refused_nothing_else_is_blamed_for_asking_by_dataflow(scene: Scene) -> None:
    scene.adobe.refused = frozenset({"lists"})
    waits = many(scene, 3, pinned=True)
    waits += [scene.wait(f"flow-{number}", since_ms=START_MS) for number in range(3)]
    for _ in range(3):
        scene.adobe.now_ms += MINUTE
        scene.poll()

    assert not any(wait.error for wait in waits)
    assert not scene.index.capabilities.is_plain


def test_a_run_of_a_dataflow_that_adobe_refuses_is_asked_for_by_its_own_id(scene: Scene) -> None:
    """Asking by dataflow is our short cut, so that a refusal of it must not end the wait."""
    (wait,) = many(scene, 1, pinned=True)
    scene.poll()
    scene.adobe.bad_ids = frozenset({str(wait.dataflow_id)})
    scene.adobe.change(scene.adobe.runs[str(wait.run_id)], "success")
    scene.poll()

    assert wait.error is None
    assert wait.run
    assert wait.run.has_ended
