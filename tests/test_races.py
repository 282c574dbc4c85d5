"""Several tasks set up the same export at once, their requests in every order, some of them dying on the way."""

from __future__ import annotations

import random
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest

from airflow_provider_aep.api.effects import Call, Gather, ServerTime, Sleep
from airflow_provider_aep.api.provisioning.desired import DesiredExport, ExportIds
from airflow_provider_aep.api.provisioning.owner import Owner
from airflow_provider_aep.api.provisioning.policy import IfExists, SetupPolicy
from airflow_provider_aep.api.session import Session
from airflow_provider_aep.errors import AepError, EntityExists, first_of
from tests.adobe.in_process import Adobe
from tests.exports import DATASETS, WAYS, desired, one_of_each, policy

Steps = Generator[Any, Any, Any]


@dataclass
class Actor:
    """One line of work: a procedure, or one of those that it runs side by side."""

    steps: Steps
    task: Task
    parent: Actor | None = None
    step: Any = None
    wakes_at: float = 0
    children: list[Actor] = field(default_factory=list)
    outcome: Any = None

    def go_on(self, value: Any = None, error: AepError | None = None) -> None:
        try:
            self.step = self.steps.throw(error) if error else self.steps.send(value)
        except StopIteration as end:
            self._end(end.value)
        except AepError as failure:
            self._end(failure)
        else:
            if isinstance(self.step, Sleep):
                self.wakes_at = self.task.adobe.clock.now() + self.step.seconds
            elif isinstance(self.step, Gather):
                self.children = [Actor(each, self.task, self) for each in self.step.procedures]
                for child in self.children:
                    child.go_on()
                    self.task.actors.append(child)

    def _end(self, outcome: Any) -> None:
        self.outcome, self.step = outcome, "ended"
        self.task.actors = [actor for actor in self.task.actors if actor is not self]
        parent = self.parent
        if parent is None:
            self.task.outcome = outcome
        elif all(child.step == "ended" for child in parent.children) and isinstance(parent.step, Gather):
            self._hand_over(parent)

    @staticmethod
    def _hand_over(parent: Actor) -> None:
        outcomes = [child.outcome for child in parent.children]
        errors = [outcome for outcome in outcomes if isinstance(outcome, AepError)]
        parent.wakes_at = 0
        parent.step = ("answer", outcomes, first_of(errors) if errors else None)


@dataclass
class Task:
    """One try of a task of Airflow's: all its lines of work, and in the end what it returns or raises."""

    adobe: Adobe
    session: Session
    desired: DesiredExport
    policy: SetupPolicy
    way: str
    tries: int = 1
    outcome: Any = None
    actors: list[Actor] = field(default_factory=list)

    def begin(self) -> Task:
        actor = Actor(WAYS[self.way](self.desired, self.policy), self)
        self.actors.append(actor)
        actor.go_on()
        return self

    def again(self) -> Task:
        owner = Owner(self.policy.owner.task, self.policy.owner.session + "x", again=True)
        retry = SetupPolicy(self.policy.if_exists, owner, self.policy.visibility_seconds)
        return Task(self.adobe, self.session, self.desired, retry, self.way).begin()

    def ready(self, now: float) -> list[Actor]:
        return [actor for actor in self.actors if actor.wakes_at <= now and not isinstance(actor.step, Gather)]


def advance(task: Task, actor: Actor, chance: random.Random, *, dies: bool) -> None:
    """The actor's next step; a request takes 1 to 400 ms. One that dies may still have sent it."""
    step = actor.step
    if isinstance(step, Call):
        if dies and chance.random() < 0.5:
            return
        if task.adobe.request_seconds:
            task.adobe.clock.advance(chance.choice([0.001, 0.02, 0.4]))
        try:
            value, error = task.session.run(step), None
        except AepError as failure:
            value, error = None, failure
        if not dies:
            actor.go_on(value, error)
    elif isinstance(step, ServerTime):
        actor.go_on(int(task.adobe.clock.now() * 1000))
    elif isinstance(step, tuple):
        actor.go_on(step[1], step[2])
    else:
        actor.go_on()


def race(
    tasks: list[Task],
    chance: random.Random,
    *,
    deaths: int = 0,
    retried: float = 1,
    ghosts: int = 0,
    tries: int = 1,
    until: Callable[[list[Task]], bool] = lambda _ended: False,
) -> list[Task]:
    """Run tasks until all have ended, or until `until` says so of those that have; gives back those not killed.

    `retried` is how likely a dead one is retried; one that fails, and not for good, is retried up to `tries`.
    A ghost is a task that hangs for a while, is taken for dead and retried, and then goes on beside its retry.
    """
    clock = tasks[0].adobe.clock
    begins = {index: clock.now() + chance.uniform(0, 2) for index in range(len(tasks))}
    waiting = dict(enumerate(tasks))
    running: list[Task] = []
    ended: list[Task] = []
    retries: list[tuple[float, Task]] = []
    while (waiting or running or retries) and not until(ended):
        now = clock.now()
        running += [waiting.pop(index).begin() for index in list(waiting) if begins[index] <= now]
        for moment, dead in [each for each in retries if each[0] <= now]:
            retries.remove((moment, dead))
            running.append(dead.again())
        choices = [(task, actor) for task in running for actor in task.ready(now)]
        if not choices:
            moments = [actor.wakes_at for task in running for actor in task.actors if actor.wakes_at > now]
            moments += [begins[index] for index in waiting] + [moment for moment, _ in retries]
            clock.advance(max(0.001, min(moments) - now))
            continue
        task, actor = chance.choice(choices)
        if ghosts and chance.random() < 0.08:
            ghosts -= 1
            retries.append((now, task))
            for each in task.actors:
                each.wakes_at = now + chance.choice([1, 15, 40])
            continue
        dies = deaths > 0 and chance.random() < 0.08
        advance(task, actor, chance, dies=dies)
        if dies:
            deaths -= 1
            running.remove(task)
            if retried == 1 or chance.random() < retried:
                retries.append((clock.now() + chance.choice([0, 1, 30, 300]), task))
        elif task.outcome is not None:
            running.remove(task)
            if may_go_well_yet(task.outcome) and task.tries < tries:
                retries.append((clock.now() + chance.choice([1, 60]), task))
            else:
                ended.append(task)
    return ended


def may_go_well_yet(outcome: object) -> bool:
    return isinstance(outcome, AepError) and not outcome.is_final


def tasks_of(
    adobe: Adobe,
    session: Session,
    count: int,
    *,
    way: str = "whole",
    if_exists: IfExists = "reuse",
    exports: list[DesiredExport] | None = None,
) -> list[Task]:
    wanted = exports or [desired()]
    return [
        Task(adobe, session, wanted[n % len(wanted)], policy(f"dag.export, run {n}", if_exists=if_exists), way)
        for n in range(count)
    ]


def one_export(adobe: Adobe, ended: list[Task]) -> None:
    """Who came to an end got the four IDs that are all there is, or was told that others want other datasets."""
    assert adobe.count() == one_of_each()
    flow, source = adobe.the("flows"), adobe.the("sourceConnections")
    there = {each["dataSetId"] for each in source["params"]["datasets"]}
    assert flow["sourceConnectionIds"] == [source["id"]]
    for task in ended:
        if set(task.desired.dataset_ids) == there:
            if isinstance(task.outcome, BaseException):
                raise task.outcome
            assert task.outcome.dataflow_id == flow["id"]
            assert set(task.outcome.dataset_ids) == there
        else:
            assert isinstance(task.outcome, EntityExists)


SEEDS = range(15)
WISHES = {"alike": [desired()], "with other datasets": [desired(), desired(dataset_ids=(DATASETS[1],))]}


@pytest.mark.parametrize("count", [2, 5])
@pytest.mark.parametrize("list_delay", [0, 4])
@pytest.mark.parametrize("exports", WISHES)
def test_tasks_that_race_end_with_one_export(exports: str, list_delay: float, count: int) -> None:
    for seed in SEEDS:
        adobe, chance = Adobe({"list_delay": list_delay}), random.Random(seed)
        with adobe.session() as session:
            ended = race(tasks_of(adobe, session, count, exports=WISHES[exports]), chance)
        try:
            assert len(ended) == count
            one_export(adobe, ended)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise


@pytest.mark.parametrize("retried", [True, False])
@pytest.mark.parametrize("list_delay", [0, 4])
@pytest.mark.parametrize("exports", WISHES)
def test_tasks_that_die_in_a_race_leave_one_export(exports: str, list_delay: float, retried: bool) -> None:
    """Retried or not: the next DAG run finds one dataflow at the most, and nothing else is left after it."""
    for seed in SEEDS:
        adobe, chance = Adobe({"list_delay": list_delay}), random.Random(seed)
        with adobe.session() as session:
            ended = race(tasks_of(adobe, session, 3, exports=WISHES[exports]), chance, deaths=2, retried=retried)
        try:
            flow = adobe.the("flows")
            adobe.clock.advance(20)
            source = next(
                each for each in adobe.platform.live("sourceConnections") if [each["id"]] == flow["sourceConnectionIds"]
            )
            there = {each["dataSetId"] for each in source["params"]["datasets"]}
            (wanted,) = (each for each in WISHES[exports] if set(each.dataset_ids) == there)
            assert adobe.task(wanted, name="dag.export, run 9").dataflow_id == flow["id"]
            one_export(adobe, ended)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("list_delay", [0, 4])
def test_a_try_that_was_only_taken_for_dead_does_no_harm(list_delay: float, way: str) -> None:
    """Airflow starts another try when it has not heard of one for long; the two are the same task."""
    tries = 0
    for seed in (*SEEDS, 193):  # that one has once left a source connection behind
        adobe, chance = Adobe({"list_delay": list_delay}), random.Random(seed)
        with adobe.session() as session:
            ended = race(tasks_of(adobe, session, 2, way=way), chance, ghosts=2)
        try:
            one_export(adobe, ended)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
        tries += len(ended)
    assert tries > 3 * len(SEEDS)


@pytest.mark.parametrize("deaths", [0, 2])
@pytest.mark.parametrize("list_delay", [0, 4])
def test_step_operators_that_race_end_with_one_export(list_delay: float, deaths: int) -> None:
    for seed in SEEDS:
        adobe, chance = Adobe({"list_delay": list_delay}), random.Random(seed)
        with adobe.session() as session:
            ended = race(tasks_of(adobe, session, 3, way="steps"), chance, deaths=deaths)
        try:
            adobe.clock.advance(20)
            if deaths:
                adobe.task(desired(), way=WAYS["steps"], name="dag.export, run 9")
            one_export(adobe, ended)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise


@pytest.mark.parametrize("deaths", [0, 2])
@pytest.mark.parametrize("way", WAYS)
def test_updates_that_race_end_with_one_export(way: str, deaths: int) -> None:
    """Which list of datasets wins is decided by who is last."""
    lists = [desired(dataset_ids=(DATASETS[1],)), desired(dataset_ids=(DATASETS[2],))]
    for seed in SEEDS:
        adobe, chance = Adobe(), random.Random(seed)
        dataflow = adobe.task(desired(), way=WAYS[way]).dataflow_id
        with adobe.session() as session:
            tasks = tasks_of(
                adobe, session, 3, way=way, if_exists="update", exports=lists if way == "whole" else lists[:1]
            )
            ended = race(tasks, chance, deaths=deaths)
        try:
            assert {task.outcome.dataflow_id for task in ended} == {dataflow}
            assert adobe.the("flows")["id"] == dataflow
            adobe.task(lists[0], way=WAYS[way], name="dag.export, run 9", if_exists="update")
            assert adobe.count() == one_of_each()
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise


def test_those_that_may_not_share_get_a_clear_error() -> None:
    for seed in SEEDS:
        adobe, chance = Adobe(), random.Random(seed)
        with adobe.session() as session:
            ended = race(tasks_of(adobe, session, 3, if_exists="fail"), chance)
        winners = [task.outcome for task in ended if isinstance(task.outcome, ExportIds)]
        assert len(winners) == 1, seed
        assert all(isinstance(task.outcome, EntityExists) for task in ended if task.outcome not in winners), seed
        assert adobe.count() == one_of_each(), seed


def test_exports_that_share_a_login_make_it_once() -> None:
    for seed in SEEDS:
        adobe, chance = Adobe(), random.Random(seed)
        with adobe.session() as session:
            tasks = [
                Task(adobe, session, desired(f"dag.export {n}"), policy(f"dag.export {n}"), "whole") for n in range(5)
            ]
            ended = race(tasks, chance, deaths=1)
        assert {task.outcome.base_connection_id for task in ended} == {adobe.the("connections")["id"]}, seed
        assert adobe.count() == {"connections": 1, "sourceConnections": 5, "targetConnections": 5, "flows": 5}, seed


def test_mapped_exports_that_send_one_login_anew_do_not_stand_in_each_others_way() -> None:
    """Each changes the same base connection at the same moment, and has three rounds to do so."""
    for seed in SEEDS:
        adobe, chance = Adobe(), random.Random(seed)
        random.seed(seed)  # for the pauses of the tasks themselves
        adobe.task(desired("dag.export 0"))
        with adobe.session() as session:
            mapped = [(f"dag.export {n}", policy(f"dag.export {n}", if_exists="update")) for n in range(6)]
            ended = race([Task(adobe, session, desired(name), how, "whole") for name, how in mapped], chance)
        assert all(isinstance(task.outcome, ExportIds) for task in ended), seed


@pytest.mark.parametrize("way", WAYS)
def test_equal_creation_times_do_not_let_two_believe_that_they_are_first(way: str) -> None:
    """Time stands still while requests are answered, so that nothing tells who was earlier; both give way."""
    for seed in SEEDS:
        adobe, chance = Adobe(request_seconds=0), random.Random(seed)
        with adobe.session() as session:
            tasks = [task.begin() for task in tasks_of(adobe, session, 2, way=way)]
            while any(task.outcome is None for task in tasks):
                ready = [(task, actor) for task in tasks for actor in task.ready(adobe.clock.now())]
                if ready:
                    advance(*chance.choice(ready), chance, dies=False)
                else:
                    adobe.clock.advance(0.001)
        try:
            one_export(adobe, tasks)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise


def test_threads_on_one_platform() -> None:
    """The same with the scheduler of the operating system."""
    for _ in range(20):
        adobe = Adobe()
        with ThreadPoolExecutor(5) as pool:
            ids = list(pool.map(lambda n, adobe=adobe: adobe.task(desired(), name=f"dag.export, run {n}"), range(5)))
        assert len(set(ids)) == 1
        adobe.is_one_export(desired(), ids[0])
