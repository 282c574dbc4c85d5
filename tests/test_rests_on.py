"""What the design rests on and Adobe does not promise: what happens where it does not hold, as the README tells it."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from airflow_provider_aep.api.entities import DataflowId
from airflow_provider_aep.api.provisioning.desired import ExportIds
from airflow_provider_aep.api.runs.selection import RunObservation, observe_run
from airflow_provider_aep.api.runs.slots import DagRunWindow, RunSelector, selector_for
from airflow_provider_aep.api.session import Session
from airflow_provider_aep.errors import AepError, AmbiguousName, EntityExists, EntityNotFound
from tests.adobe.in_process import Adobe
from tests.conftest import settings_for_tests
from tests.exports import KINDS, WAYS, desired, one_of_each, policy
from tests.openapi import OpenApiAdobe
from tests.test_races import Task, race
from tests.test_shared_things import creation_times, jittered_lists, nothing_dangles, true_results

SEEDS = 40
Spoil = Callable[[Adobe, random.Random], None]
Respond = Callable[[httpx.Request], httpx.Response]


def steps_of(request: httpx.Request) -> list[str]:
    return request.url.path.removeprefix("/data/foundation/flowservice").strip("/").split("/")


def wrap(adobe: Adobe, around: Callable[[httpx.Request, Respond], httpx.Response]) -> None:
    respond = adobe.respond
    adobe.respond = lambda request: around(request, respond)  # type: ignore[method-assign]


def flickering_lists(adobe: Adobe, chance: random.Random) -> None:
    """For six seconds a list may show an entity, and the next one not."""

    def around(request: httpx.Request, respond: Respond) -> httpx.Response:
        reply, steps = respond(request), steps_of(request)
        if request.method != "GET" or len(steps) != 1 or steps[0] not in KINDS:
            return reply
        now_ms = adobe.clock.now() * 1000
        body = reply.json()
        body["items"] = [each for each in body["items"] if now_ms - each["createdAt"] > 6000 or chance.random() < 0.5]
        return httpx.Response(200, json=body, headers={"Date": reply.headers["Date"]})

    wrap(adobe, around)


def nothing_is_protected(adobe: Adobe, chance: random.Random) -> None:
    """What a dataflow uses can be deleted, and a dataflow can be made of what is gone."""
    ever: dict[tuple[str, str], Any] = {}

    def around(request: httpx.Request, respond: Respond) -> httpx.Response:
        collections = adobe.platform.sandbox().collections
        for kind in KINDS[1:3]:
            ever.update({(kind, each["id"]): each for each in collections[kind]})
        match [request.method, *steps_of(request)]:
            case ["DELETE", ("sourceConnections" | "targetConnections") as kind, entity_id] if (
                entity_id in collections[kind].items
            ):
                collections[kind].remove(entity_id)
                return httpx.Response(202)
            case ["POST", "flows"]:
                body = json.loads(request.read())
                used = [("sourceConnections", each) for each in body["sourceConnectionIds"]]
                used += [("targetConnections", each) for each in body["targetConnectionIds"]]
                gone = [each for each in used if each in ever and each[1] not in collections[each[0]].items]
                for kind, entity_id in gone:
                    collections[kind].add(ever[kind, entity_id])
                reply = respond(request)
                for kind, entity_id in gone:
                    collections[kind].remove(entity_id)
                return reply
        return respond(request)

    wrap(adobe, around)


def etags_that_mean_nothing(adobe: Adobe, chance: random.Random) -> None:
    """Of two PATCHes with one etag both succeed; lists lag and creation times are wrong, so that tasks disagree."""
    creation_times(adobe, chance)
    jittered_lists(adobe, chance)

    def around(request: httpx.Request, respond: Respond) -> httpx.Response:
        steps = steps_of(request)
        if request.method == "PATCH":
            entity = adobe.platform.sandbox().collections[steps[0]].items.get(steps[1])
            request.headers["If-Match"] = entity["etag"] if entity else '"gone"'
        return respond(request)

    wrap(adobe, around)


def descriptions_that_cannot_be_changed(adobe: Adobe, chance: random.Random) -> None:
    refusal = {"type": "https://ns.adobe.com/aep/errors/FLOW-1445-400", "title": "PATCH is not enabled", "status": 400}

    def around(request: httpx.Request, respond: Respond) -> httpx.Response:
        if request.method == "PATCH" and b'"/description"' in request.read():
            return httpx.Response(400, json=refusal)
        return respond(request)

    wrap(adobe, around)


def descriptions_that_are_lost(adobe: Adobe, chance: random.Random) -> None:
    def around(request: httpx.Request, respond: Respond) -> httpx.Response:
        reply = respond(request)
        for kind in KINDS:
            for each in adobe.platform.live(kind):
                each["description"] = ""
        return reply

    wrap(adobe, around)


def raced(
    spoil: Spoil, seed: int, *, way: str, is_shared: bool, ghosts: int = 0
) -> tuple[Adobe, list[Task], list[AepError]]:
    """Two to four tasks at once: of different exports that share a new login, or of one export.

    Gives what became of them when each export is set up once more, ten minutes later.
    """
    adobe, chance = Adobe(), random.Random(seed)
    random.seed(seed)  # for the pauses of the tasks themselves
    spoil(adobe, chance)
    numbers = range(chance.randint(2, 4))
    with adobe.session() as session:
        ended = race(
            [
                Task(
                    adobe,
                    session,
                    desired(f"export {n}") if is_shared else desired(),
                    policy(f"dag.export, run {n}"),
                    way,
                )
                for n in numbers
            ],
            chance,
            ghosts=ghosts,
        )
    adobe.clock.advance(600)
    refused = []
    for name in dict.fromkeys(task.desired.name for task in ended):
        try:
            adobe.task(desired(name), name="dag.export, run 9", way=WAYS[way])
        except AepError as error:
            refused.append(error)
    return adobe, ended, refused


# Set-ups


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_list_that_shows_what_was_made_too_late(kind: str, way: str) -> None:
    """A reply is lost, and what the request made does not show: it is made twice, and the next run removes one."""
    adobe = Adobe({"list_delay": 60})
    adobe.faults.lose_reply(f"POST /{kind}")
    adobe.task(desired(), way=WAYS[way])
    assert adobe.made()[kind] == 2
    adobe.clock.advance(600)
    ids = adobe.task(desired(), name="dag.export, run 2", way=WAYS[way])
    adobe.is_one_export(desired(), ids)


@pytest.mark.parametrize("is_shared", [True, False], ids=["shared login", "one export"])
def test_lists_that_show_something_and_then_do_not(is_shared: bool) -> None:
    """Whole exports: of dataflows the older one is kept, of logins all stay, and work."""
    logins = set()
    for seed in range(SEEDS):
        adobe, ended, refused = raced(flickering_lists, seed, way="whole", is_shared=is_shared)
        assert refused == []
        nothing_dangles(adobe)
        exports = len({task.desired.name for task in ended})
        assert adobe.count() == {**dict.fromkeys(KINDS, exports), "connections": adobe.count()["connections"]}
        logins.add(adobe.count()["connections"])
    assert {1, 2} <= logins or not is_shared


def test_lists_that_show_something_and_then_do_not_in_steps() -> None:
    """The login of a target connection cannot be changed: its step says which one is in the way."""
    refused = [
        error for seed in range(SEEDS) for error in raced(flickering_lists, seed, way="steps", is_shared=True)[2]
    ]
    assert refused
    assert all(isinstance(error, EntityExists) and "base_connection_id is" in str(error) for error in refused)


@pytest.mark.parametrize("way", WAYS)
def test_nothing_protects_what_a_dataflow_uses(way: str) -> None:
    """Tasks that hang for half a minute, are taken for dead and go on: what they leave, the next run makes whole."""
    for seed in range(SEEDS):
        adobe, _, refused = raced(nothing_is_protected, seed, way=way, is_shared=False, ghosts=2)
        assert refused == []
        assert adobe.count() == one_of_each()
        nothing_dangles(adobe)


def test_a_dataflow_that_was_made_of_what_is_gone() -> None:
    """The creation of a task that was thought dead arrives after another has taken over."""
    adobe = Adobe()
    nothing_is_protected(adobe, random.Random(0))
    held: list[httpx.Request] = []

    class Killed(BaseException):
        pass

    def hold(request: httpx.Request, respond: Respond) -> httpx.Response:
        if not held and (request.method, steps_of(request)) == ("POST", ["flows"]):
            held.append(request)
            raise Killed
        return respond(request)

    wrap(adobe, hold)
    with pytest.raises(Killed):
        adobe.task(desired())
    adobe.task(desired(), name="dag.export, run 2")
    assert adobe.respond(held[0]).status_code == 201
    assert adobe.count()["flows"] == 2
    adobe.clock.advance(600)
    ids = adobe.task(desired(), name="dag.export, run 3")
    adobe.is_one_export(desired(), ids)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("is_shared", [True, False], ids=["shared login", "one export"])
def test_etags_that_do_not_keep_two_from_changing_the_same(is_shared: bool, way: str) -> None:
    """Two logins may stay, or one task fails; each export is whole after its next run."""
    for seed in range(SEEDS):
        adobe, ended, refused = raced(etags_that_mean_nothing, seed, way=way, is_shared=is_shared)
        assert refused == []
        nothing_dangles(adobe)
        assert adobe.count()["flows"] == len({task.desired.name for task in ended})


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("is_shared", [True, False], ids=["shared login", "one export"])
def test_descriptions_that_cannot_be_changed(is_shared: bool, way: str, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is confirmed and nothing superseded: each task has its export, and new logins of other tasks stay."""
    logins = set()
    for seed in range(SEEDS):
        adobe, ended, refused = raced(descriptions_that_cannot_be_changed, seed, way=way, is_shared=is_shared)
        true_results(adobe, ended)
        assert refused == []
        nothing_dangles(adobe)
        assert adobe.count()["flows"] == len({task.desired.name for task in ended})
        logins.add(adobe.count()["connections"])
    assert {1, 2} <= logins
    assert "so it stays as it is" in caplog.text


@pytest.mark.parametrize("way", WAYS)
def test_descriptions_that_are_lost_for_a_task_alone(way: str) -> None:
    """It finds its export by its name."""
    adobe = Adobe()
    descriptions_that_are_lost(adobe, random.Random(0))
    ids = adobe.task(desired(), way=WAYS[way])
    adobe.is_one_export(desired(), ids)
    assert adobe.task(desired(), name="dag.export, run 2", way=WAYS[way]) == ids


def test_descriptions_that_are_lost_for_several_tasks_at_once() -> None:
    """Nobody knows whose anything is: several of one name are an error, with their IDs, until somebody deletes them."""
    outcomes = []
    for seed in range(SEEDS):
        adobe, ended, refused = raced(descriptions_that_are_lost, seed, way="whole", is_shared=False)
        outcomes += [task.outcome for task in ended] + refused
        assert adobe.count()["flows"] <= 1 or refused
    errors = [each for each in outcomes if not isinstance(each, ExportIds)]
    assert any(isinstance(each, AmbiguousName) and "are named" in str(each) for each in errors)
    assert all(isinstance(each, AmbiguousName | EntityExists) for each in errors)


def test_what_was_made_cannot_be_got_at_once() -> None:
    """The step after the login fails; cleared, it goes on. A whole export does not ask."""
    adobe = Adobe()
    adobe.faults.status("GET /connections/*", 404)
    with pytest.raises(EntityNotFound):
        adobe.task(desired(), way=WAYS["steps"])
    ids = adobe.task(desired(), way=WAYS["steps"], again=True)
    adobe.is_one_export(desired(), ids)
    other = Adobe()
    other.faults.status("GET /connections/*", 404)
    other.is_one_export(desired(), other.task(desired()))


# Waits: slots at 0, 3, 6 … o'clock

HOUR = 3600.0
LAG_MS = 10_000


class Scene:
    """A dataflow that runs every three hours, and a DAG run for each slot."""

    def __init__(self) -> None:
        self.adobe = OpenApiAdobe()
        self.zero = self.adobe.now // (3 * HOUR) * (3 * HOUR)
        schedule = {"interval": 3, "timeUnit": "hour", "startTime": int(self.zero)}
        self.flow = self.adobe.make("flows", {"scheduleParams": schedule, "description": ""})
        self.dated = True

    def at(self, hours: float, seconds: float = 0) -> float:
        return self.zero + hours * HOUR + seconds

    def run(self, hours: float, seconds: float = 0, **members: Any) -> str:
        """A run that was created then."""
        run = self.adobe.run_of(self.flow["id"], created=self.at(hours, seconds))
        run.update(members)
        return str(run["id"])

    def look(self, slot: int, now: float) -> RunObservation:
        """What the DAG run of a slot finds, at a moment of Adobe's."""
        self.adobe.now = now
        window = DagRunWindow(int(self.at(slot) * 1000), int(self.at(slot + 3) * 1000))

        def aim_at(dataflow: Any) -> RunSelector:
            return selector_for(dataflow.schedule, window)

        sight: RunObservation = self.perform(observe_run(DataflowId(self.flow["id"]), aim_at, visibility_ms=LAG_MS))
        return sight

    def perform(self, procedure: Any) -> Any:
        def respond(request: httpx.Request) -> httpx.Response:
            reply = self.adobe.respond(request)
            if not self.dated:
                del reply.headers["Date"]
            return reply

        transport = httpx.MockTransport(respond)
        with Session(settings_for_tests(), transport=transport, clock=self.adobe.time) as session:
            return session.run(procedure)


@pytest.fixture
def scene() -> Scene:
    return Scene()


def found(sight: RunObservation) -> str | None:
    assert sight.no_run is None
    return sight.run.id if sight.run else None


def test_runs_that_begin_late_but_before_the_next_slot(scene: Scene) -> None:
    runs = {slot: scene.run(slot + 2.9) for slot in (0, 3, 6)}
    assert {slot: found(scene.look(slot, scene.at(20))) for slot in runs} == runs


def test_runs_that_begin_before_their_slot(scene: Scene) -> None:
    """Each DAG run waits for the run of the slot after its own; none is given to two."""
    runs = {slot: scene.run(slot, -120) for slot in (0, 3)}
    assert found(scene.look(3, scene.at(5))) is None  # the run of its own slot, of 2:58, is too early
    runs |= {slot: scene.run(slot, -120) for slot in (6, 9)}
    assert [found(scene.look(slot, scene.at(20))) for slot in (0, 3, 6)] == [runs[3], runs[6], runs[9]]


def test_a_run_that_begins_after_the_next_slot(scene: Scene) -> None:
    """Its DAG run has no run, so that `on_missing` decides; the next DAG run is given it."""
    late = scene.run(6, 60)
    sight = scene.look(3, scene.at(6, 20))
    assert sight.no_run
    assert sight.no_run.is_slot
    assert found(scene.look(6, scene.at(7))) == late


def test_a_run_that_lists_show_after_the_next_slot(scene: Scene) -> None:
    """By more than `visibility_seconds`: `on_missing` decides. Cleared later, the task finds it."""
    sight = scene.look(3, scene.at(6, 11))
    assert sight.no_run
    assert sight.no_run.is_slot
    last = scene.run(6, -1)
    assert found(scene.look(3, scene.at(7))) == last


@pytest.mark.parametrize("member", [{"flowId": "another"}, {"flowId": ""}])
def test_a_run_that_names_another_dataflow(scene: Scene, member: dict[str, str]) -> None:
    """It is nobody's, so that the wait ends as if there were none."""
    scene.adobe.filters = False
    scene.run(3, 5, **member)
    assert found(scene.look(3, scene.at(4))) is None
    assert scene.look(3, scene.at(6, 20)).no_run


def test_a_disabled_dataflow_that_runs_all_the_same(scene: Scene) -> None:
    """The wait has ended by then. Cleared, the task finds the run."""
    scene.flow["state"] = "disabled"
    sight = scene.look(3, scene.at(3, 60))
    assert sight.no_run
    assert "it is disabled" in sight.no_run.why
    run = scene.run(3, 300)
    assert found(scene.look(3, scene.at(4))) == run


@pytest.mark.parametrize(("dated", "is_over"), [(True, False), (False, True)])
def test_without_adobes_date_this_machines_time_counts(scene: Scene, dated: bool, is_over: bool) -> None:
    """It is said to be later here than the end of the slot."""
    scene.dated = dated
    ends = int(time.time() * 1000) - LAG_MS - 1000
    scene.adobe.now = ends / 1000 - 600
    aim = RunSelector(ends - 1, ends)
    sight = scene.perform(observe_run(DataflowId(scene.flow["id"]), lambda _flow: aim, visibility_ms=LAG_MS))
    assert bool(sight.no_run) is is_over


def test_default_folders_that_adobe_spells_in_its_own_way() -> None:
    """The second DAG run is refused, and tells what to put into the DAG."""
    adobe = Adobe()
    ids = adobe.task(desired())
    spelt = "%DESTINATION%/%DATASET_NAME%"
    adobe.the("flows")["scheduleParams"]["foldernameTemplate"] = spelt

    with pytest.raises(EntityExists, match=rf"foldernameTemplate is {spelt}, the DAG says none"):
        adobe.task(desired(), name="dag.export, run 2")

    assert adobe.task(desired(folder_template=spelt), name="dag.export, run 3") == ids
