"""A removal beside set-ups, and beside another removal: whichever wins, one whole export is left, or none."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

import httpx
import pytest

from airflow_provider_aep.api.effects import Procedure, Sleep
from airflow_provider_aep.api.entities import DataflowId
from airflow_provider_aep.api.provisioning.desired import ExportIds
from airflow_provider_aep.api.provisioning.observed import LATE_SECONDS
from airflow_provider_aep.api.provisioning.owner import Owner
from airflow_provider_aep.api.provisioning.policy import IfExists, SetupPolicy
from airflow_provider_aep.api.provisioning.removal import Removal, remove_export, remove_exports_named
from airflow_provider_aep.api.session import Session
from airflow_provider_aep.errors import EntityNotFound
from tests.adobe.in_process import Adobe
from tests.exports import WAYS, desired, policy
from tests.test_races import Actor, Task, race, tasks_of

SEEDS = range(15)


@dataclass
class Remover(Task):
    """A task that removes the export, by the ID of its dataflow or by its name."""

    dataflow_id: str = ""
    with_login: bool = False

    def begin(self) -> Remover:
        if self.way == "id":
            steps = remove_export(DataflowId(self.dataflow_id), self.policy, with_base_connection=self.with_login)
        else:
            steps = remove_exports_named(self.desired.name, self.policy, with_base_connection=self.with_login)
        actor = Actor(steps, self)
        self.actors.append(actor)
        actor.go_on()
        return self

    def again(self) -> Remover:
        owner = Owner(self.policy.owner.task, self.policy.owner.session + "x", again=True)
        retry = SetupPolicy("reuse", owner, self.policy.visibility_seconds)
        return Remover(
            self.adobe,
            self.session,
            self.desired,
            retry,
            self.way,
            dataflow_id=self.dataflow_id,
            with_login=self.with_login,
        ).begin()


@dataclass
class Latecomer(Task):
    """A set-up that begins so many seconds later."""

    seconds: float = 0

    def begin(self) -> Latecomer:
        def steps() -> Procedure[ExportIds]:
            yield Sleep(self.seconds)
            return (yield from WAYS[self.way](self.desired, self.policy))

        actor = Actor(steps(), self)
        self.actors.append(actor)
        actor.go_on()
        return self


def whole_or_nothing(adobe: Adobe, *, login: bool) -> None:
    """Nothing is left half; no journal, no mark of what is about to be deleted."""
    count = adobe.count()
    flows = count["flows"]
    assert flows in (0, 1), count
    assert count["sourceConnections"] == count["targetConnections"] == flows, count
    if not login or flows:
        assert count["connections"] == 1, count
    for flow in adobe.platform.live("flows"):
        (source,) = (each["id"] for each in adobe.platform.live("sourceConnections"))
        (target,) = adobe.platform.live("targetConnections")
        assert flow["sourceConnectionIds"] == [source]
        assert flow["targetConnectionIds"] == [target["id"]]
        assert target["baseConnectionId"] in [each["id"] for each in adobe.platform.live("connections")]


def ended_well(ended: list[Task]) -> None:
    for task in ended:
        if isinstance(task.outcome, BaseException):
            raise task.outcome
        assert isinstance(task.outcome, Removal if isinstance(task, Remover) else ExportIds)


def remover(adobe: Adobe, session: Session, by: str, dataflow_id: str, *, with_login: bool = False) -> Remover:
    how = policy("dag.remove")
    return Remover(adobe, session, desired(), how, by, dataflow_id=dataflow_id, with_login=with_login)


@pytest.mark.parametrize("if_exists", ["reuse", "update"])
@pytest.mark.parametrize("list_delay", [0, 4])
@pytest.mark.parametrize("by", ["id", "name"])
def test_a_removal_beside_set_ups(by: str, list_delay: float, if_exists: IfExists) -> None:
    for seed in SEEDS:
        adobe, chance = Adobe({"list_delay": list_delay}), random.Random(seed)
        dataflow_id = adobe.task(desired()).dataflow_id
        adobe.clock.advance(chance.choice([0, 20]))
        with adobe.session() as session:
            tasks = tasks_of(adobe, session, 2, if_exists=if_exists)
            ended = race([*tasks, remover(adobe, session, by, dataflow_id)], chance)
        try:
            ended_well(ended)
            adobe.clock.advance(20)
            whole_or_nothing(adobe, login=False)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise


@pytest.mark.parametrize("if_exists", ["reuse", "update"])
@pytest.mark.parametrize("by", ["id", "name"])
def test_no_set_up_ends_with_a_dataflow_that_was_removed_long_before(by: str, if_exists: IfExists) -> None:
    """Longer ago than lists are believed; Adobe's dates are of whole seconds. Requests take long here, up to 0.4 s."""
    outcomes = Counter[bool]()
    for seed in range(100):
        adobe, chance = Adobe(), random.Random(seed)
        dataflow_id = adobe.task(desired()).dataflow_id
        removed_at = deletions(adobe)
        with adobe.session() as session:
            (task,) = tasks_of(adobe, session, 1, if_exists=if_exists)
            both = [task, remover(adobe, session, by, dataflow_id)]
            race(both, chance, until=lambda ended, task=task: task in ended)  # type: ignore[misc]
        left_at = removed_at.get(f"/flows/{task.outcome.dataflow_id}")
        assert left_at is None or adobe.clock.now() - left_at <= LATE_SECONDS + 1, seed
        outcomes[task.outcome.dataflow_id == dataflow_id] += 1
    assert outcomes[True]
    assert outcomes[False]


def deletions(adobe: Adobe) -> dict[str, float]:
    """{"/flows/…": when it was deleted}, filled from now on."""
    moments: dict[str, float] = {}
    respond = adobe.respond

    def noting(request: httpx.Request) -> httpx.Response:
        response = respond(request)
        if request.method == "DELETE":
            moments.setdefault(request.url.path.removeprefix("/data/foundation/flowservice"), adobe.clock.now())
        return response

    adobe.respond = noting  # type: ignore[method-assign]
    return moments


@pytest.mark.parametrize("retried", [True, False])
@pytest.mark.parametrize("by", ["id", "name"])
def test_a_removal_that_dies_beside_a_set_up(by: str, retried: bool) -> None:
    """Retried, it leaves nothing half; otherwise the next DAG run completes what is left, and its removal ends all."""
    for seed in SEEDS:
        adobe, chance = Adobe({"list_delay": chance_delay(seed)}), random.Random(seed)
        dataflow_id = adobe.task(desired()).dataflow_id
        adobe.clock.advance(20)
        with adobe.session() as session:
            tasks = [*tasks_of(adobe, session, 1), remover(adobe, session, by, dataflow_id)]
            ended = race(tasks, chance, deaths=2, retried=retried)
        try:
            ended_well(ended)
            adobe.clock.advance(20)
            if not retried:
                adobe.task(desired(), name="dag.export, run 9")
                adobe.run(remove_export(DataflowId(dataflow_id), policy("dag.remove", again=True)))
                adobe.run(remove_exports_named(desired().name, policy("dag.remove", again=True)))
            whole_or_nothing(adobe, login=False)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise


def chance_delay(seed: int) -> float:
    return 4 if seed % 2 else 0


@pytest.mark.parametrize("with_login", [True, False])
@pytest.mark.parametrize("by", ["id", "name"])
def test_removals_at_once(by: str, with_login: bool) -> None:
    for seed in SEEDS:
        adobe, chance = Adobe({"delete_seconds": chance_delay(seed)}), random.Random(seed)
        dataflow_id = adobe.task(desired()).dataflow_id
        adobe.clock.advance(20)
        with adobe.session() as session:
            both = [remover(adobe, session, way, dataflow_id, with_login=with_login) for way in (by, "id")]
            ended = race(list(both), chance, deaths=seed % 2)
        try:
            ended_well(ended)
            adobe.clock.advance(20)
            whole_or_nothing(adobe, login=with_login)
            assert adobe.count()["flows"] == 0
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise


@pytest.mark.parametrize("list_delay", [0, 4])
@pytest.mark.parametrize("protected", [True, False])
def test_a_login_that_another_export_begins_to_use_meanwhile_stays(list_delay: float, protected: bool) -> None:
    """Also where Adobe does not protect it."""
    lasted = Counter[bool]()
    for seed in range(40):
        adobe, chance = Adobe({"list_delay": list_delay}), random.Random(seed)
        _, _, _, dataflow_id, _ = ids = adobe.task(desired())
        adobe.clock.advance(20)
        if not protected:
            adobe.unprotected()
        with adobe.session() as session:
            after = chance.uniform(0, 20)
            other = Latecomer(adobe, session, desired("dag.other"), policy("dag.other"), "whole", seconds=after)
            ended = race([other, remover(adobe, session, "id", dataflow_id, with_login=True)], chance)
        try:
            ended_well(ended)
            (target,) = adobe.platform.live("targetConnections")
            assert target["baseConnectionId"] == other.outcome.base_connection_id
            bases = {each["id"]: each["description"] for each in adobe.platform.live("connections")}
            assert not bases[other.outcome.base_connection_id].endswith(")")
            lasted[ids.base_connection_id in bases] += 1
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
    assert lasted[True]
    assert lasted[False]


def test_step_operators_beside_a_removal_fail_or_complete_the_export() -> None:
    """A step whose source or target connection was removed says so; cleared from the first step on, all is there."""
    failed = 0
    for seed in SEEDS:
        adobe, chance = Adobe(), random.Random(seed)
        dataflow_id = adobe.task(desired(), way=WAYS["steps"]).dataflow_id
        with adobe.session() as session:
            (task,) = tasks_of(adobe, session, 1, way="steps")
            ended = race([task, remover(adobe, session, "id", dataflow_id)], chance)
        try:
            ended_well([each for each in ended if each is not task])
            assert isinstance(task.outcome, ExportIds | EntityNotFound)
            failed += isinstance(task.outcome, EntityNotFound)
            adobe.task(desired(), way=WAYS["steps"], again=True)
            whole_or_nothing(adobe, login=False)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
    assert failed < len(SEEDS)


@pytest.mark.parametrize("list_delay", [0, 8])
@pytest.mark.parametrize("protected", [True, False])
def test_no_step_ends_with_a_login_that_a_removal_deletes(list_delay: float, protected: bool) -> None:
    """A step gets its login from the one before, so that it may be marked by then; cleared, the steps make another."""
    outcomes = Counter[str]()
    for seed in range(40):
        adobe, chance = Adobe({"list_delay": list_delay}), random.Random(seed)
        dataflow_id = adobe.task(desired()).dataflow_id
        adobe.clock.advance(20)
        if not protected:
            adobe.unprotected()
        with adobe.session() as session:
            other = Latecomer(adobe, session, desired("dag.other"), policy("dag.other"), "steps", seconds=seed / 4)
            race([other, remover(adobe, session, "id", dataflow_id, with_login=True)], chance)
        outcomes[type(other.outcome).__name__] += 1
        assert isinstance(other.outcome, ExportIds | EntityNotFound), seed
        adobe.clock.advance(20)
        adobe.task(desired("dag.other"), way=WAYS["steps"], name="dag.other", again=True)
        adobe.clock.advance(20)
        assert adobe.count()["flows"] == 1, seed
        (target,) = adobe.platform.live("targetConnections")
        assert target["baseConnectionId"] in [each["id"] for each in adobe.platform.live("connections")], seed
        if isinstance(other.outcome, ExportIds):
            assert other.outcome.target_connection_id == target["id"], seed
    assert outcomes["ExportIds"]
