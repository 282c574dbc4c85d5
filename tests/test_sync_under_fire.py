"""At every request of a sync something goes wrong, or others are at work; the list comes true, and nothing else."""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from airflow_provider_aep.api.effects import Procedure
from airflow_provider_aep.api.provisioning.owner import Owner
from airflow_provider_aep.api.provisioning.removal import remove_exports_named
from airflow_provider_aep.api.provisioning.sync import SandboxExport, SyncOutcome, sync_exports
from airflow_provider_aep.errors import AepError
from tests.adobe.in_process import Adobe
from tests.exports import DATASETS, desired, policy
from tests.syncs import are_there, listed, made_for_good, sync, sync_policy
from tests.test_exactly_once import FAULTS, Killed, Strike, general
from tests.test_races import Actor, Task, race

BEFORE = listed("kept", "changed", "gone")
WANTED = listed("kept", desired("changed", dataset_ids=(DATASETS[1],)), "new", "newer")


def a_few(adobe: Adobe) -> None:
    sync(adobe, BEFORE, run=0)
    adobe.clock.advance(20)


def nothing(adobe: Adobe) -> None: ...


STORIES: dict[str, tuple[Callable[[Adobe], None], list[SandboxExport]]] = {
    "first run": (nothing, listed("new", "newer")),
    "changes": (a_few, WANTED),
}


def dies(*, after: bool) -> Strike:
    """Let the worker die at a request, before or after Adobe did the work: none of its threads sends anything more."""

    def strike(adobe: Adobe, at: str, skip: int) -> None:
        respond, seen = adobe.respond, Counter[str]()
        is_dead = False

        def deadly(request: httpx.Request) -> httpx.Response:
            nonlocal is_dead
            asked = general(f"{request.method} {request.url.path.removeprefix('/data/foundation/flowservice')}")
            seen[asked] += 1
            if is_dead:
                raise Killed
            if asked == at and seen[asked] == skip + 1:
                is_dead = True
                if after:
                    respond(request)
                raise Killed
            return respond(request)

        adobe.respond = deadly  # type: ignore[method-assign]

    return strike


# Each set-up for itself is struck by all of them in test_exactly_once.
SOME = {name: FAULTS[name] for name in ("reply lost", "503 before", "503 after", "reply lost for good", "outage")}
DEATHS: dict[str, Strike] = {"dies before": dies(after=False), "dies after": dies(after=True)}


def walk(
    story: str, strikes: dict[str, Strike], **options: Any
) -> Iterator[tuple[str, Adobe, Counter[tuple[str, str]]]]:
    """The story once for each of its requests and each strike, up to the moment when the strike is set."""
    before, wanted = STORIES[story]
    adobe = Adobe(options)
    before(adobe)
    are_there(adobe, wanted, sync(adobe, wanted, prune=True))
    made = made_for_good(adobe)
    for request, count in Counter(map(general, adobe.requests())).items():
        for skip in range(count):
            for title, strike in strikes.items():
                if request.startswith("GET") and strikes is SOME and title != "outage":
                    continue
                adobe = Adobe(options)
                before(adobe)
                strike(adobe, request, skip)
                yield f"{title} at {request} number {skip + 1}", adobe, made


def is_quiet_now(adobe: Adobe, wanted: list[SandboxExport]) -> None:
    """Another DAG run has nothing left to do but to look."""
    adobe.faults.clear()
    adobe.clock.advance(20)
    outcome = sync(adobe, wanted, run=9, prune=True)
    are_there(adobe, wanted, outcome)
    assert len(adobe.requests()) == 4


@pytest.mark.parametrize("story", STORIES)
def test_no_fault_leaves_anything_but_the_list(story: str) -> None:
    wanted = STORIES[story][1]
    for case, adobe, made in walk(story, SOME):
        try:
            are_there(adobe, wanted, sync(adobe, wanted, prune=True))
            assert made_for_good(adobe) == made
            is_quiet_now(adobe, wanted)
        except BaseException as error:
            error.add_note(case)
            raise


@pytest.mark.parametrize("list_delay", [0, 5])
@pytest.mark.parametrize("story", STORIES)
def test_a_retry_completes_what_a_dead_worker_began(story: str, list_delay: float) -> None:
    wanted, killed = STORIES[story][1], 0
    for case, adobe, made in walk(story, DEATHS, list_delay=list_delay):
        try:
            try:
                sync(adobe, wanted, prune=True)
            except Killed:
                killed += 1
            vars(adobe).pop("respond")
            are_there(adobe, wanted, sync(adobe, wanted, prune=True, again=True))
            assert made_for_good(adobe) == made
            is_quiet_now(adobe, wanted)
        except BaseException as error:
            error.add_note(case)
            raise
    assert killed > 20  # how often lists are asked again differs from run to run, so that not every strike is met


@pytest.mark.parametrize("story", STORIES)
def test_another_dag_run_completes_what_a_dead_worker_began(story: str) -> None:
    wanted = STORIES[story][1]
    for case, adobe, _ in walk(story, DEATHS):
        try:
            with contextlib.suppress(Killed):
                sync(adobe, wanted, prune=True)
            vars(adobe).pop("respond")
            are_there(adobe, wanted, sync(adobe, wanted, run=2, prune=True))
            is_quiet_now(adobe, wanted)
        except BaseException as error:
            error.add_note(case)
            raise


@dataclass
class Sync(Task):
    """A sync in a race; `desired` and `way` count for nothing."""

    wanted: tuple[SandboxExport, ...] = ()

    def begin(self) -> Task:
        actor = Actor(sync_exports(self.wanted, self.policy, prune=True), self)
        self.actors.append(actor)
        actor.go_on()
        return self

    def again(self) -> Task:
        owner = Owner(self.policy.owner.task, self.policy.owner.session + "x", again=True)
        retry = sync_policy(again=True)
        retry = type(retry)("update", owner, retry.visibility_seconds)
        return Sync(self.adobe, self.session, self.desired, retry, self.way, wanted=self.wanted).begin()


SEEDS = range(10)
LIST = tuple(listed("a", "b", "c"))


def outcome_of(task: Task) -> SyncOutcome:
    if isinstance(task.outcome, BaseException):
        raise task.outcome
    assert isinstance(task.outcome, SyncOutcome)
    if task.outcome.failures:
        raise next(iter(task.outcome.failures.values()))
    return task.outcome


@pytest.mark.parametrize("deaths", [0, 2])
@pytest.mark.parametrize("list_delay", [0, 4])
def test_two_syncs_at_once_end_with_one_list(list_delay: float, deaths: int) -> None:
    for seed in SEEDS:
        adobe, chance = Adobe({"list_delay": list_delay}), random.Random(seed)
        with adobe.session() as session:
            tasks: list[Task] = [
                Sync(adobe, session, desired(), sync_policy(run), "sync", wanted=LIST) for run in (1, 2)
            ]
            ended = race(tasks, chance, deaths=deaths)
        try:
            for task in ended:
                are_there(adobe, LIST, outcome_of(task))
            adobe.clock.advance(20)
            is_quiet_now(adobe, list(LIST))
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise


@pytest.mark.parametrize("way", ["whole", "steps"])
@pytest.mark.parametrize("list_delay", [0, 4])
def test_a_sync_beside_a_single_export_of_its_list(list_delay: float, way: str) -> None:
    for seed in SEEDS:
        adobe, chance = Adobe({"list_delay": list_delay}), random.Random(seed)
        with adobe.session() as session:
            tasks: list[Task] = [
                Sync(adobe, session, desired(), sync_policy(), "sync", wanted=LIST),
                Task(adobe, session, desired("b"), policy("dag.single, run 1"), way),
            ]
            ended = race(tasks, chance)
        try:
            assert len(ended) == 2
            for task in ended:
                if isinstance(task, Sync):
                    are_there(adobe, LIST, outcome_of(task))
                else:
                    assert not isinstance(task.outcome, BaseException)
                    assert task.outcome.dataflow_id == adobe.the("flows", "b")["id"]
            adobe.clock.advance(20)
            is_quiet_now(adobe, list(LIST))
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise


@dataclass
class Removal(Task):
    """The removal of an export in a race."""

    def begin(self) -> Task:
        actor = Actor(self._removal(), self)
        self.actors.append(actor)
        actor.go_on()
        return self

    def _removal(self) -> Procedure[Any]:
        return remove_exports_named(self.desired.name, self.policy)


def test_a_removal_beside_a_sync_leaves_whole_exports_or_none() -> None:
    for seed in SEEDS:
        adobe, chance = Adobe(), random.Random(seed)
        sync(adobe, LIST[:2], run=0)
        with adobe.session() as session:
            tasks: list[Task] = [
                Sync(adobe, session, desired(), sync_policy(), "sync", wanted=LIST),
                Removal(adobe, session, desired("b"), policy("dag.remove, run 1"), "remove"),
            ]
            race(tasks, chance)
        try:
            adobe.clock.advance(20)
            counts = adobe.count()
            assert counts["flows"] == counts["sourceConnections"] == counts["targetConnections"]
            are_there(adobe, LIST, sync(adobe, LIST, run=9))
            assert all(not isinstance(task.outcome, AepError) for task in tasks)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
