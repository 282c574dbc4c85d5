"""The messages of the README that few users will meet: what is set right by itself, races, proxies, killed tasks."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import httpx
import pytest
from airflow.sdk import DAG

from airflow_provider_aep import run_poller
from airflow_provider_aep.api import calls, queries
from airflow_provider_aep.api.entities import DataflowId, FlowRunId, SourceConnectionId, TargetConnectionId
from airflow_provider_aep.api.provisioning.ensure import ensure_target_connection
from airflow_provider_aep.api.provisioning.owner import LEASE, RETIRING, UNCONFIRMED
from airflow_provider_aep.api.provisioning.removal import remove_export, remove_exports_named
from airflow_provider_aep.api.provisioning.state import ensure_enabled
from airflow_provider_aep.api.runs.index import Capabilities, PendingRun, RunIndex
from airflow_provider_aep.api.runs.poll import poll
from airflow_provider_aep.api.session import Session
from airflow_provider_aep.operators import AepExportDatasetsOperator, AepListDatasetsOperator, AepSyncExportsOperator
from airflow_provider_aep.schedules import Every
from airflow_provider_aep.sensors import AepDataflowRunSensor
from airflow_provider_aep.triggers import AepDataflowRunTrigger
from tests.adobe.in_process import Adobe
from tests.adobe.served import OTHER_DATASET
from tests.canned import Canned, Reply, ok, raw
from tests.conftest import settings_for_tests
from tests.exports import S3, desired, desired_base, in_steps, policy
from tests.syncs import listed, sync
from tests.tasks import context, events_of, later
from tests.test_messages import FAR, PROVOCATIONS, Provocation, Stage, provokes, says, stage
from tests.test_rests_on import descriptions_that_cannot_be_changed, wrap
from tests.test_sensors import GONE

__all__ = ["stage"]  # the fixture

RARE: dict[str, Provocation] = {}
rarely = functools.partial(provokes, into=RARE)
REQUEST = calls.list_page("/flows")


def told_of(procedure: Any, *replies: Reply) -> str:
    """What is said of a server that is not Adobe."""
    transport = httpx.MockTransport(Canned(*replies).respond)
    with Session(settings_for_tests(), transport=transport, sleep=lambda _: None) as session:
        with pytest.raises(Exception) as failure:  # noqa: PT011 - the caller compares what it says
            session.run(procedure)
        return str(failure.value)


def made_by_hand(adobe: Adobe, source: str, target: str, *, name: str = "dag.export", mark: str = "") -> None:
    """A dataflow like that of `desired()`."""
    about = desired().dataflow(source, target)
    schedule = adobe.the("flows")["scheduleParams"] if adobe.count()["flows"] else {"interval": 3, "timeUnit": "hour"}
    params = {"startTime": 1_900_000_000, "exportMode": "FIRST_FULL_THEN_INCREMENTAL", **schedule}
    spec = about.destination_type.flow_spec
    ids = SourceConnectionId(source), TargetConnectionId(target)
    adobe.run(calls.create_dataflow(name, spec, *ids, params, description=mark))


def ends_by_hand(adobe: Adobe, name: str = "dag.export") -> tuple[str, str]:
    """A source and a target connection that somebody made in Adobe's user interface."""
    wanted = desired()
    source = adobe.run(calls.create_source_connection("dag.export", wanted.dataset_ids))
    base = adobe.run(desired_base("by hand").resource().creation(""))
    spec = wanted.destination_type.connection_spec
    target = adobe.run(calls.create_target_connection(name, base.id, spec, wanted.target_params))
    return source.id, target.id


def lost(adobe: Adobe, kind: str) -> None:
    """Somebody deletes what a dataflow uses; whether Adobe protects it is nowhere promised."""
    adobe.platform.sandbox().collections[kind].remove(adobe.the(kind)["id"])


# -- set-ups ----------------------------------------------------------------------------------------------------------


@rarely("… = …: …")
def _wrong_argument(stage: Stage) -> str:
    return stage.failure(lambda: AepListDatasetsOperator(task_id="find", on_empty="ignore"))  # type: ignore[arg-type]


@rarely("if_exists is 'fail' and there is already …")
def _fail(stage: Stage) -> str:
    stage.export("fail")
    return stage.failure(lambda: stage.export("fail", if_exists="fail", ti={"map_index": 1}))


@rarely("… Adobe cannot change that; give the export another name")
def _fixed(stage: Stage) -> str:
    adobe = Adobe()
    adobe.task(desired())
    other = desired(base=desired_base("another login"))
    return stage.failure(lambda: adobe.task(other, if_exists="update"))


@rarely("source connection … belongs to dataflow …, which writes to another destination")
def _taken(stage: Stage) -> str:
    adobe = Adobe()
    made_by_hand(adobe, *ends_by_hand(adobe, "elsewhere"), name="another")
    return stage.failure(lambda: adobe.task(desired()))


@rarely("… is gone; delete that dataflow, or give the export another name")
def _half_gone(stage: Stage) -> str:
    adobe = Adobe()
    made_by_hand(adobe, *ends_by_hand(adobe))
    lost(adobe, "targetConnections")
    return stage.failure(lambda: adobe.task(desired()))


# -- removals ---------------------------------------------------------------------------------------------------------


def removing(adobe: Adobe) -> Any:
    """Remove the export of `desired()`."""
    return adobe.run(remove_export(adobe.the("flows")["id"], policy("dag.remove, run 1")))


@rarely("… dataflows are named …: … Give the dataflow_id of the one meant")
def _whose(stage: Stage) -> str:
    adobe = Adobe()
    ids = adobe.task(desired())
    made_by_hand(adobe, ids.source_connection_id, ids.target_connection_id)
    return stage.failure(lambda: adobe.run(remove_exports_named("dag.export", policy())))


@rarely("dataflow … is being deleted")
def _being_deleted(stage: Stage) -> str:
    adobe = Adobe({"delete_seconds": 60})
    flow = adobe.task(desired()).dataflow_id
    adobe.run(calls.delete_entity(calls.DATAFLOWS, flow))
    return stage.failure(lambda: adobe.run(ensure_enabled(flow)))


@rarely("base connection … is being deleted")
def _login_being_deleted(stage: Stage) -> str:
    adobe = Adobe()
    adobe.task(desired())
    base = adobe.the("connections")
    base["description"] += RETIRING
    target = desired("another").target(base["id"])
    return stage.failure(lambda: adobe.run(ensure_target_connection(target, policy())))


@rarely("…, after … s still; trying again is safe")
def _still_there(stage: Stage) -> str:
    adobe = Adobe({"delete_seconds": 4000})
    adobe.task(desired())
    return stage.failure(lambda: removing(adobe))


@rarely("…: if this task is killed, a retry may not find the connections: …")
def _no_journal(stage: Stage) -> str:
    adobe = Adobe()
    adobe.task(desired())
    adobe.faults.status("POST /sourceConnections", 400)
    return stage.logged(lambda: removing(adobe))


@rarely("an earlier try to delete … has ended half-way; its connections may be left")
def _unreadable_journal(stage: Stage) -> str:
    adobe = Adobe()
    flow = adobe.task(desired()).dataflow_id
    adobe.faults.status("DELETE /targetConnections/*", 503, times=6)
    stage.failure(lambda: removing(adobe))
    journal = next(each for each in adobe.platform.live("sourceConnections") if each["name"].startswith("removal of "))
    journal["description"] = "what is this?"
    return stage.logged(lambda: adobe.run(remove_export(flow, policy("dag.remove, run 1", again=True))))


def set_right(kind: str, way: Any = None) -> Callable[[Stage], str]:
    def provocation(stage: Stage) -> str:
        adobe = Adobe()
        more = {"way": way} if way else {}
        adobe.task(desired(), **more)
        lost(adobe, kind)
        told = stage.logged(lambda: adobe.task(desired(), name="dag.export, run 2", **more))
        assert set(adobe.count().values()) == {1}
        return told

    return provocation


rarely("…: its login is gone; deleting it to create it again")(set_right("connections"))
rarely("…: its target connection is gone; creating it again")(set_right("targetConnections", in_steps))
rarely("… is gone; creating it again")(set_right("targetConnections"))


@rarely("dataflow … was created twice by tasks that died; deleting …")
def _twice(stage: Stage) -> str:
    adobe = Adobe()
    ids = adobe.task(desired())
    made_by_hand(adobe, ids.source_connection_id, ids.target_connection_id, mark=policy().owner.mark)
    return stage.logged(lambda: adobe.task(desired()))


@rarely("dataflow … was left by a task that died; deleting it")
def _left(stage: Stage) -> str:
    adobe = Adobe()
    ids = adobe.task(desired())
    mark = policy("dag.step, run 1").owner.mark + UNCONFIRMED
    made_by_hand(adobe, ids.source_connection_id, ids.target_connection_id, mark=mark)
    adobe.clock.advance(600)
    return stage.logged(lambda: adobe.task(desired()))


@rarely("export …: the task that created … is dead; taking over")
def _dead(stage: Stage) -> str:
    adobe = Adobe()
    mark = policy("dag.export, run 0").owner.mark + LEASE
    adobe.run(calls.create_source_connection("dag.export", desired().dataset_ids, description=mark))
    return stage.logged(lambda: adobe.task(desired()))


@rarely("gave up after … rounds, the last one because …; trying again is safe")
def _gave_up(stage: Stage) -> str:
    """Each time that it looks, the target connection of the dataflow has just gone."""
    adobe = Adobe()
    adobe.task(desired())

    def around(request: httpx.Request, respond: Callable[[httpx.Request], httpx.Response]) -> httpx.Response:
        if request.method != "GET" or "/targetConnections" not in request.url.path:
            return respond(request)
        adobe.platform.live("flows")[0]["targetConnectionIds"] = [f"gone-{adobe.clock.now():.0f}"]
        is_list = request.url.path.endswith("s")
        return httpx.Response(200 if is_list else 404, json={"items": []} if is_list else {"errorMessage": "not found"})

    wrap(adobe, around)
    return stage.failure(lambda: adobe.task(desired(), tries=1))


@rarely("… cannot …, so it stays as it is: …")
def _unconfirmed(stage: Stage) -> str:
    adobe = Adobe()
    descriptions_that_cannot_be_changed(adobe, None)  # type: ignore[arg-type]  # leaves nothing to chance
    return stage.logged(lambda: adobe.task(desired()))


@rarely("the description of … cannot be changed: …")
def _undescribed(stage: Stage) -> str:
    adobe = Adobe()
    adobe.task(desired())
    descriptions_that_cannot_be_changed(adobe, None)  # type: ignore[arg-type]  # leaves nothing to chance
    other = desired(schedule=Every(hours=6, start="2029-01-01T00:00:00Z"))
    return stage.logged(lambda: adobe.task(other, if_exists="update"))


# -- waits ------------------------------------------------------------------------------------------------------------


@rarely("the wait has timed out, and no triggerer has said so: is one running?")
def _no_triggerer(stage: Stage) -> str:
    task = AepDataflowRunSensor(task_id="wait", dataflow_id=GONE, after=None)
    return stage.failure(lambda: task.resume_execution("__fail__", {"error": "Trigger timeout"}, context()))


@rarely("the trigger's event cannot be read…")
def _another_version(stage: Stage) -> str:
    task = AepDataflowRunSensor(task_id="wait", dataflow_id=GONE, after=None)
    return stage.failure(lambda: task.execute_complete(context(), {"version": 99}))


@rarely("the trigger's event does not hold what was set up: …")
def _an_event_without_ids(stage: Stage) -> str:
    task = AepExportDatasetsOperator(
        task_id="export", dataset_ids=OTHER_DATASET, destination=S3, destination_conn_id="aws", schedule=Every(days=1)
    )
    return stage.failure(lambda: task.execute_complete(context(), {"version": 1, "carry": None}))


@rarely("the task was told to stop; the next try finds what it has set up")
def _killed(stage: Stage) -> str:
    task = AepListDatasetsOperator(task_id="find")
    task.on_kill()
    return stage.failure(lambda: task.execute(context()))


@rarely("dataflow … has no flow run for this DAG run: …")
def _no_run(stage: Stage) -> str:
    flow = stage.adobe.dataflow("rare messages: no run")
    stage.adobe.disable(flow)
    return stage.failure(lambda: stage.wait(flow))


@rarely("has no flow run for this DAG run: it is being deleted")
def _vanishing(stage: Stage) -> str:
    flow = stage.adobe.dataflow("rare messages: vanishing")
    stage.adobe.line.rewrite = lambda text: text.replace(b'"state": "enabled"', b'"state": "delete-finalizing"')
    return stage.failure(lambda: stage.wait(flow))


@rarely("has no flow run for this DAG run: its last slot was before …")
def _after_its_end(stage: Stage) -> str:
    now = stage.adobe.now()
    schedule = Every(hours=3, start=now + timedelta(hours=1), end=now + timedelta(hours=2))
    flow = stage.adobe.dataflow("rare messages: last slot", schedule=schedule)
    return stage.failure(lambda: stage.wait_of_a_dag_run(flow, now + timedelta(hours=9), timedelta(hours=3)))


@rarely("has no flow run for this DAG run: Adobe has no slot in that time: …")
def _between_slots(stage: Stage) -> str:
    now = stage.adobe.now()
    flow = stage.adobe.dataflow("rare messages: between", schedule=Every(days=1, start=now + timedelta(hours=1)))
    return stage.failure(lambda: stage.wait_of_a_dag_run(flow, now + timedelta(hours=9), timedelta(hours=3)))


@rarely("…; waiting for that one (on_missing='next')")
def _next(stage: Stage) -> str:
    now = stage.adobe.now()
    flow = stage.adobe.dataflow("rare messages: next", schedule=Every(days=1, start=now + timedelta(hours=1)))
    due, every = now + timedelta(hours=9), timedelta(hours=3)
    arguments: dict[str, Any] = {"on_missing": "next", "timeout": 0.5}
    return stage.logged(lambda: stage.failure(lambda: stage.wait_of_a_dag_run(flow, due, every, **arguments)))


@rarely("has no flow run for this DAG run: …: give each export a name of its own, …")
def _ran_once(stage: Stage) -> str:
    return PROVOCATIONS["has no flow run for this DAG run: it exports once, …"](stage)


@rarely("flow run … has exported nothing …")
def _empty(stage: Stage) -> str:
    flow = stage.adobe.dataflow("rare messages: empty")
    stage.adobe.run(flow, "empty")
    return stage.failure(lambda: stage.wait(flow, on_empty="fail"))


@rarely("flow run … has ended in a state that this provider does not know")
def _pondered(stage: Stage) -> str:
    flow = stage.adobe.dataflow("rare messages: pondered")
    stage.adobe.run(flow, status="pondered")
    return stage.failure(lambda: stage.wait(flow))


# -- in the triggerer -------------------------------------------------------------------------------------------------


def waited(stage: Stage, meanwhile: Callable[[], object], seconds: float = 4) -> str:
    """What the triggerer logs and yields of a wait while something happens."""
    flow = stage.adobe.dataflow(f"rare messages: {meanwhile.__name__}")
    stage.monkeypatch.setenv("AIRFLOW__AEP__POLL_FLOOR_SECONDS", "1")
    events: list[Any] = []

    def wait() -> None:
        trigger = AepDataflowRunTrigger(
            aep_conn_id="aep_default", dataflow_id=flow, deadline=time.time() + seconds, poll_seconds=1
        )
        with later(1, meanwhile):
            events.extend(asyncio.run(events_of(trigger)))

    told = stage.logged(wait)
    return told + str([each.payload for each in events])


@rarely("…: …; asking again (waits: …)")
def _asking_again(stage: Stage) -> str:
    return waited(stage, lambda: stage.adobe.fault("GET /runs*", status=503))


@rarely("Airflow connection … cannot be read again: …")
def _unreadable_connection(stage: Stage) -> str:
    def refuse() -> None:
        stage.monkeypatch.delenv("AIRFLOW_CONN_AEP_DEFAULT")
        stage.adobe.fault("GET /runs*", status=403)

    return waited(stage, refuse)


@rarely("the poller was cancelled")
def _cancelled(stage: Stage) -> str:
    def cancel() -> None:
        for loop, pollers in list(run_poller._loops.items()):
            for poller in list(pollers.pollers.values()):
                loop.call_soon_threadsafe(poller.task.cancel)

    return waited(stage, cancel)


# -- what is not Adobe ------------------------------------------------------------------------------------------------


@rarely("no reply (…)")
def _no_reply(stage: Stage) -> str:
    return told_of(REQUEST, httpx.ConnectError("refused"))


@rarely("the reply is cut off or is not JSON")
def _no_json(stage: Stage) -> str:
    return told_of(REQUEST, raw("<html>Welcome</html>"))


@rarely("the reply lacks what it must hold …")
def _no_items(stage: Stage) -> str:
    return told_of(REQUEST, ok({"things": []}))


@rarely("a redirect; none is followed, …")
def _redirect(stage: Stage) -> str:
    return told_of(REQUEST, ok(status=302, location="https://login.example.org"))


def page(href: str) -> httpx.Response:
    return ok({"items": [{"id": "a"}], "_links": {"next": {"href": href}}})


@rarely("a continuation token came twice; the list has no end")
def _endless(stage: Stage) -> str:
    return told_of(queries.list_dataflows(), page("/flows?continuationToken=x"))


@rarely("its address names another host than the gateway")
def _elsewhere(stage: Stage) -> str:
    return told_of(queries.list_dataflows(), page("https://example.org/flows?continuationToken=x"))


@rarely("Adobe gave an address or an etag that HTTP cannot send")
def _unspeakable(stage: Stage) -> str:
    patch = calls.patch_entity(calls.DATAFLOWS, GONE, etag='"naïve\u2028"', operations=[])
    return told_of(patch, ok({"id": GONE}))


@rarely("Airflow could not mask a new token in logs …")
def _no_mask(stage: Stage) -> str:
    def mask(_token: str) -> None:
        raise RuntimeError("no supervisor")

    transport = httpx.MockTransport(Canned(ok({"items": []})).respond)

    def ask() -> None:
        with Session(settings_for_tests(), transport=transport, on_token=mask) as session:
            session.run(REQUEST)

    return stage.logged(ask)


@rarely("Adobe refuses to compare or sort flow runs; …")
def _plainly(stage: Stage) -> str:
    return refused(stage, operator="orderby")


@rarely("Adobe refuses several IDs in one request; …")
def _singly(stage: Stage) -> str:
    return refused(stage, several=True)


def refused(stage: Stage, **filters: Any) -> str:
    """What is logged of a poll for several runs where Adobe refuses such filters."""
    adobe = Adobe()
    flow = DataflowId(adobe.task(desired()).dataflow_id)
    adobe.platform.refuse_filter("*", **filters)
    index = RunIndex(Capabilities(), lambda _pending: None)
    for run_id in ("a", "b"):
        index.add(PendingRun(flow, 1, FlowRunId(run_id)))
        index.add(PendingRun(DataflowId(f"{flow[:-1]}{run_id}"), 1))
    return stage.logged(lambda: adobe.run(poll(index)))


# -- exports as code --------------------------------------------------------------------------------------------------


@rarely("… failed, … of … exports are as the list says:")
def _failures(stage: Stage) -> str:
    entry = {
        "name": "sync",
        "dataset_ids": "f" * 24,
        "destination": S3,
        "destination_conn_id": "aws_exports",
        "schedule": FAR,
        "sandbox_name": "dev",
    }
    return stage.failure(lambda: AepSyncExportsOperator(task_id="sync", exports=[entry]).execute(context()))


@rarely("nothing is pruned in sandbox …, since something has failed there: …")
def _not_pruned(stage: Stage) -> str:
    adobe = Adobe()
    sync(adobe, listed("old"))
    adobe.faults.status("POST /targetConnections", 400)
    return stage.logged(lambda: sync(adobe, listed("new"), run=2, prune=True, tries=1))


@rarely("dataflow … is kept: … has changed it")
def _taken_over(stage: Stage) -> str:
    adobe = Adobe()
    sync(adobe, listed("a"))

    def changed_meanwhile() -> bool:  # between the lists and the removal the sync asks whether it is to stop
        adobe.the("flows")["description"] = policy("dag.another, run 1").owner.mark
        return False

    how: dict[str, Any] = {"sandbox_names": ["prod"], "prune": True, "is_stopped": changed_meanwhile}
    return stage.logged(lambda: sync(adobe, [], run=2, **how))


@rarely("exports to create in sandbox … = …: Adobe allows 100 destinations in a sandbox, and there are …")
def _too_many(stage: Stage) -> str:
    adobe = Adobe()
    return stage.failure(lambda: sync(adobe, listed(*(f"export {number}" for number in range(101)))))


@rarely("not tried, since Adobe was unavailable to others")
def _not_tried(stage: Stage) -> str:
    adobe = Adobe()
    adobe.faults.status("POST /sourceConnections", 503, times=None)
    outcome = sync(adobe, listed(*(f"export {number}" for number in range(40))), tries=1)
    return " ".join(map(str, outcome.failures.values()))


@rarely("exports = …: with prune=True, removes every export of this task")
def _empty_list(stage: Stage) -> str:
    return stage.failure(lambda: AepSyncExportsOperator(task_id="sync", exports=[], prune=True))


@rarely("exports, line …: cannot be read as YAML: …")
def _no_yaml(stage: Stage) -> str:
    return stage.failure(lambda: AepSyncExportsOperator(task_id="sync", exports="- {name: a"))


@rarely("file = …: there is no such file beside the DAG or in its template_searchpath")
def _no_file(stage: Stage) -> str:
    with DAG("no_file", schedule=None):
        lost_file = AepSyncExportsOperator(task_id="sync", exports="no-such.yaml")
    return stage.failure(lambda: lost_file.render_template_fields(context()))


@rarely("… is another login in export …: give each login a base_connection_name of its own")
def _two_logins(stage: Stage) -> str:
    wanted = listed("a", desired("b", base=desired_base(secret="z" * 40)))
    return stage.failure(lambda: sync(Adobe(), wanted))


@pytest.mark.parametrize("quote", RARE)
def test_what_is_said_is_what_the_readme_quotes(quote: str, stage: Stage) -> None:
    text = RARE[quote](stage)
    assert says(text, quote), text
