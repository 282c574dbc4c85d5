"""A dataflow run now by a task, and a failed run followed by another: once, in every mode, whatever is killed."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from airflow.sdk import DAG

from airflow_provider_aep.operators import AepExportDatasetsOperator, AepRunDataflowOperator
from airflow_provider_aep.run_wait import deadline_of
from airflow_provider_aep.schedules import Every
from tests.adobe.served import DATASET, OTHER_DATASET, ServedAdobe
from tests.dag_runs import Finished
from tests.tasks import Ended, context, ended, later
from tests.test_sensors import MODES, StateStore, scheduled, sensor

POST = "POST /data/core/activation/disflowprovider/adhocrun"
PLACES: dict[str, dict[str, Any]] = {"worker": {"deferrable": False}, "triggerer": {"deferrable": True}}


class Store(StateStore):
    """What Airflow 3.3 keeps for a task instance over its tries, and over being cleared."""

    def delete(self, key: str) -> None:
        self.pop(key, None)


def operator(**arguments: Any) -> AepRunDataflowOperator:
    given: dict[str, Any] = {"task_id": "run", "poke_interval": 0.3, "timeout": 60, "deferrable": False}
    return AepRunDataflowOperator(**given | arguments)


def ready(adobe: ServedAdobe, name: str, **arguments: Any) -> str:
    """A dataflow that is old enough for an ad hoc run."""
    flow = adobe.dataflow(name, **arguments)
    adobe.advance(600)
    return flow


def runs_of(adobe: ServedAdobe, flow: str) -> list[str]:
    """The IDs of its runs, the oldest first."""
    from airflow_provider_aep.hooks import AepHook

    return [run.id for run in reversed(AepHook().list_runs(flow))]


@contextlib.contextmanager
def passing(adobe: ServedAdobe) -> Iterator[None]:
    """Let Adobe's time pass, twenty seconds at a time, while a task waits."""
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(0.4):
            adobe.advance(20)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def side_by_side(ways: Iterable[str], work: Callable[[str], Ended]) -> dict[str, Ended]:
    """How a task ends in each way; all at once, so that the test waits once."""
    with ThreadPoolExecutor(20) as pool:
        names = list(ways)
        return dict(zip(names, pool.map(work, names), strict=True))


def end_of_run(adobe: ServedAdobe, flow: str, count: int, *, seconds: float = 20) -> None:
    """Let Adobe's time pass a run's end, as soon as there are so many."""
    deadline = time.monotonic() + seconds
    while len(runs_of(adobe, flow)) < count and time.monotonic() < deadline:
        time.sleep(0.3)
    time.sleep(0.5)
    adobe.advance(200)


# What it returns


def test_it_starts_a_run_and_tells_it(adobe: ServedAdobe) -> None:
    flow = ready(adobe, "run now", dataset_ids=[DATASET, OTHER_DATASET])

    result = operator(dataflow_id=flow, dataset_ids=OTHER_DATASET).execute(context())

    (run_id,) = runs_of(adobe, flow)
    assert result == {
        "run_id": run_id,
        "run_ids": [run_id],
        "dataflow_id": flow,
        "dataset_ids": [OTHER_DATASET],
        "is_new": True,
    }
    adobe.advance(200)
    assert set(adobe.landed()[run_id]) == {OTHER_DATASET}


@pytest.mark.parametrize("place", PLACES)
def test_it_waits_for_that_run(place: str, adobe: ServedAdobe) -> None:
    flow = ready(adobe, f"waits: {place}", dataset_ids=[DATASET, OTHER_DATASET])
    about = context()

    with later(0.7, lambda: adobe.advance(200)):
        end = ended(operator, about, dataflow_id=flow, wait_for_completion=True, **PLACES[place])

    (run_id,) = runs_of(adobe, flow)
    assert (end.state, end.result["run_id"], end.result["status"], end.result["is_new"]) == (
        "success",
        run_id,
        "success",
        True,
    )
    adobe.is_true(end.result, [DATASET, OTHER_DATASET])
    assert about["ti"].pushed["run_id"] == run_id  # before the wait


@pytest.mark.parametrize("place", PLACES)
def test_a_run_under_way_is_taken_and_told(place: str, adobe: ServedAdobe) -> None:
    flow = ready(adobe, f"under way: {place}")
    run_id = adobe.run(flow, ended=False)

    with later(0.7, lambda: adobe.advance(200)):
        end = ended(operator, context(), dataflow_id=flow, wait_for_completion=True, **PLACES[place])

    assert (end.result["run_id"], end.result["is_new"], runs_of(adobe, flow)) == (run_id, False, [run_id])


def test_the_user_decides_what_an_end_means(adobe: ServedAdobe) -> None:
    states = {"fail": "failed", "succeed": "success", "skip": "skipped"}
    ways = {
        f"{outcome} {decision} {place}": (outcome, decision, place)
        for outcome in ("failed", "partial", "empty")
        for decision in states
        for place in PLACES
    }
    flows = {way: adobe.dataflow(f"decided: {way}") for way in ways}
    adobe.advance(600)

    def one(way: str) -> Ended:
        outcome, decision, place = ways[way]
        adobe.admin("POST", "scripts", flow_id=flows[way], outcome=outcome, seconds=10)
        given = {"wait_for_completion": True, f"on_{outcome}": decision, **PLACES[place]}
        return ended(operator, context(), dataflow_id=flows[way], **given)

    with passing(adobe):
        ends = side_by_side(ways, one)

    assert {way: end.state for way, end in ends.items()} == {way: states[ways[way][1]] for way in ways}
    assert all(end.result["status"] == ways[way][0] for way, end in ends.items() if end.state == "success")


@pytest.mark.parametrize("place", PLACES)
def test_runs_of_one_dataset_each_are_waited_for_one_after_the_other(place: str, adobe: ServedAdobe) -> None:
    """Adobe's reply names a run for each dataset, mostly the same; here the second has failed records."""
    flow = ready(adobe, f"several: {place}", dataset_ids=[DATASET, OTHER_DATASET])
    others = ready(adobe, f"several of another: {place}")

    second = adobe.run(others, "partial")

    def two_runs(text: bytes) -> bytes:
        if b"statusURL" not in text:
            return text.replace(others.encode(), flow.encode())
        reply = json.loads(text)
        listed = reply["destinations"][0]["datasets"]
        listed[1]["statusURL"] = listed[1]["statusURL"].rpartition("/")[0] + f"/{second}"
        return json.dumps(reply).encode()

    adobe.line.rewrite = two_runs
    with later(0.7, lambda: adobe.advance(200)):
        end = ended(
            operator, context(), dataflow_id=flow, wait_for_completion=True, on_partial="succeed", **PLACES[place]
        )

    adobe.line.rewrite = lambda text: text
    (first,) = runs_of(adobe, flow)
    assert (end.state, end.result["run_ids"], end.result["run_id"]) == ("success", [first, second], first), end
    assert end.result["status"] == "partial"
    rows = adobe.landed()
    assert end.result["output_records"] == sum(sum(rows[run_id].values()) for run_id in (first, second))
    assert end.result["created_at"] <= end.result["started_at"] < end.result["completed_at"]


@pytest.mark.parametrize("where", ["connection", "configuration", "nowhere"])
def test_the_accept_header_can_be_set(where: str, adobe: ServedAdobe, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the operator and for a rerun; the connection's comes first."""
    usual = "application/vnd.adobe.adhoc.dataset.activation+json; version="
    if where != "nowhere":
        monkeypatch.setenv("AIRFLOW__AEP__ADHOC_ACCEPT", f"{usual}2")
    if where == "connection":
        connection = json.loads(os.environ["AIRFLOW_CONN_AEP_DEFAULT"])
        connection["extra"]["adhoc_accept"] = f"{usual}3"
        monkeypatch.setenv("AIRFLOW_CONN_AEP_DEFAULT", json.dumps(connection))
    flow = ready(adobe, f"accept: {where}")
    operator(dataflow_id=flow).execute(context())
    adobe.advance(200)
    since = adobe.now()
    adobe.run(flow, "failed")
    sensor(dataflow_id=flow, after=since, rerun_failed=1).poke(context())
    sent = [each.headers["accept"] for each in adobe.sent if str(each) == POST]
    assert sent == [usual + {"nowhere": "1", "configuration": "2", "connection": "3"}[where]] * 2


# What it refuses


def test_a_disabled_dataflow_and_a_strange_dataset_are_refused_in_plain_words(adobe: ServedAdobe) -> None:
    flow = ready(adobe, "refused in words")
    end = ended(operator, context(), dataflow_id=flow, dataset_ids=[OTHER_DATASET])
    assert (end.state, f"does not export {OTHER_DATASET}, only {DATASET}" in end.message) == ("failed", True)
    adobe.disable(flow)
    end = ended(operator, context(), dataflow_id=flow)
    assert (end.state, "is disabled, so Adobe does not run it: enable it first" in end.message) == ("failed", True)
    assert POST not in adobe.requests()


# A dataflow that is not ready


@pytest.mark.parametrize("place", PLACES)
def test_a_new_dataflow_is_waited_for(place: str, adobe: ServedAdobe) -> None:
    """To the second when it is ten minutes old, on the worker or deferred."""
    flow = adobe.dataflow(f"not ready: {place}")
    adobe.advance(597)

    end = ended(operator, context(task_state_store=Store()), dataflow_id=flow, **PLACES[place])

    assert (end.state, end.result["run_ids"], end.result["is_new"]) == ("success", runs_of(adobe, flow), True)
    assert adobe.requests().count(POST) in (2, 3)


@pytest.mark.parametrize("place", PLACES)
def test_the_wait_for_it_ends_at_the_deadline(place: str, adobe: ServedAdobe) -> None:
    flow = adobe.dataflow(f"never ready: {place}")
    end = ended(operator, context(), dataflow_id=flow, timeout=1, **PLACES[place])
    assert end.state == "retried"
    assert end.message.startswith("the wait has timed out: POST /data/core/activation")
    assert "not ready for dataset export" in end.message
    assert runs_of(adobe, flow) == []


def test_sigterm_ends_the_wait_for_it(adobe: ServedAdobe) -> None:
    flow = adobe.dataflow("never ready: killed")
    task = operator(dataflow_id=flow)
    with later(0.5, task.on_kill), pytest.raises(RuntimeError, match="told to stop"):
        task.execute(context())


# Tries


class Killed(BaseException):
    """The worker process is no more."""


def dies_at(adobe: ServedAdobe, monkeypatch: pytest.MonkeyPatch, wanted: str, *, after: bool) -> None:
    """Let the worker die once at a request, before or after Adobe did the work."""
    import httpx

    send, struck = httpx.Client.send, threading.Event()

    def deadly(self: httpx.Client, request: httpx.Request, **arguments: Any) -> httpx.Response:
        at = f"{request.method} {request.url.path}"
        if struck.is_set() or not at.startswith(wanted):
            return send(self, request, **arguments)
        struck.set()
        if after:
            send(self, request, **arguments)
        raise Killed

    monkeypatch.setattr(httpx.Client, "send", deadly)


FLOW_SERVICE = "GET /data/foundation/flowservice"
DEATHS = [
    *((f"{FLOW_SERVICE}/{kind}", False) for kind in ("flows", "sourceConnections", "runs")),  # a question does no work
    (POST, False),
    (POST, True),
]


@pytest.mark.parametrize(("at", "after"), DEATHS)
def test_a_try_after_a_kill_starts_no_second_run(
    at: str, after: bool, adobe: ServedAdobe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__AEP__VISIBILITY_SECONDS", "0.5")
    flow = ready(adobe, f"killed at {at} {after}")
    store = Store()
    dies_at(adobe, monkeypatch, at, after=after)
    with pytest.raises(Killed):
        operator(dataflow_id=flow, wait_for_completion=True).execute(context(task_state_store=store))

    again = context(task_state_store=store, try_number=2)
    with passing(adobe):
        end = ended(operator, again, dataflow_id=flow, wait_for_completion=True)

    assert (end.state, [end.result["run_id"]]) == ("success", runs_of(adobe, flow))
    assert end.result["is_new"]
    assert store == {}


def test_a_try_after_a_long_pause_takes_no_later_run_for_its_own(
    adobe: ServedAdobe, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = ready(adobe, "killed long ago")
    store = Store()
    dies_at(adobe, monkeypatch, POST, after=False)
    with pytest.raises(Killed):
        operator(dataflow_id=flow).execute(context(task_state_store=store))
    adobe.advance(3600)
    by_schedule = adobe.run(flow)

    result = operator(dataflow_id=flow).execute(context(task_state_store=store, try_number=2))

    assert result["run_id"] != by_schedule
    assert result["is_new"]


@pytest.mark.parametrize("end", ["success", "failed"])
def test_a_task_that_has_ended_and_is_cleared_starts_another_run(end: str, adobe: ServedAdobe) -> None:
    flow = ready(adobe, f"cleared: {end}")
    store = Store()
    found = []
    for number in (1, 2):
        adobe.admin("POST", "scripts", flow_id=flow, outcome=end, seconds=0)
        with later(0.5, lambda: adobe.advance(5)):
            about = context(task_state_store=store, try_number=number)
            found.append(ended(operator, about, dataflow_id=flow, wait_for_completion=True))
    assert [each.state for each in found] == [end, end]
    assert (len(runs_of(adobe, flow)), store) == (2, {})


def test_a_wait_that_timed_out_finds_its_run_again(adobe: ServedAdobe) -> None:
    flow = ready(adobe, "timed out")
    store = Store()
    first = ended(operator, context(task_state_store=store), dataflow_id=flow, wait_for_completion=True, timeout=0.5)
    adobe.advance(200)
    again = context(task_state_store=store, try_number=2)
    second = ended(operator, again, dataflow_id=flow, wait_for_completion=True)
    assert (first.state, second.state) == ("retried", "success")
    assert [second.result["run_id"]] == runs_of(adobe, flow)


def test_a_try_finds_its_run_though_the_dataflow_was_disabled_meanwhile(adobe: ServedAdobe) -> None:
    flow = ready(adobe, "disabled after the start")
    about = context(task_state_store=Store())
    assert ended(operator, about, dataflow_id=flow, wait_for_completion=True, timeout=0.5).state == "retried"
    adobe.disable(flow)
    adobe.advance(200)
    end = ended(operator, about, dataflow_id=flow, wait_for_completion=True)
    assert (end.state, end.result["run_ids"]) == ("success", runs_of(adobe, flow))


def test_without_airflows_store_a_later_try_takes_the_run_under_way(adobe: ServedAdobe) -> None:
    """Before Airflow 3.3; only a run that was created since the DAG run began."""
    flow = ready(adobe, "no store")
    about = context()
    about["dag_run"].start_date = adobe.now() - timedelta(seconds=1)
    first = operator(dataflow_id=flow).execute(about)

    about["ti"].try_number = 2
    second = operator(dataflow_id=flow).execute(about)
    adobe.advance(200)
    third = operator(dataflow_id=flow).execute(about)

    assert (second["run_id"], second["is_new"]) == (first["run_id"], False)
    assert adobe.requests().count(POST) == 2
    assert third["run_id"] != first["run_id"]


def test_in_a_dag(adobe: ServedAdobe, run_dag: Callable[..., Finished]) -> None:
    """In Airflow itself: deferred until Adobe is ready, then deferred until the run has ended."""
    flow = adobe.dataflow("run now in a DAG")
    adobe.advance(598)
    with DAG("run_now", schedule=None) as dag:
        AepRunDataflowOperator(
            task_id="run", dataflow_id=flow, wait_for_completion=True, deferrable=True, poke_interval=1, timeout=60
        )
    with later(0, lambda: end_of_run(adobe, flow, 1)):
        finished = run_dag(dag)
    assert finished.states() == {"run": "success"}
    assert finished.result("run")["run_ids"] == runs_of(adobe, flow)
    assert finished.xcoms()["run", "run_id"] == finished.result("run")["run_id"]


# A failed run is run again


def reruns(adobe: ServedAdobe, flow: str, *outcomes: str) -> None:
    """How its next runs go."""
    for outcome in outcomes:
        adobe.admin("POST", "scripts", flow_id=flow, outcome=outcome, seconds=10)


@pytest.mark.parametrize(
    ("outcomes", "rerun_failed", "state", "made"),
    [
        (["failed", "success"], 1, "success", 2),
        (["failed", "failed", "success"], 2, "success", 3),
        (["failed", "failed"], 1, "failed", 2),
        (["success"], 1, "success", 1),
        (["failed"], 0, "failed", 1),
    ],
)
def test_a_failed_run_is_run_again(
    outcomes: list[str], rerun_failed: int, state: str, made: int, adobe: ServedAdobe
) -> None:
    flows = {mode: adobe.dataflow(f"rerun: {mode} {' '.join(outcomes)} {rerun_failed}") for mode in MODES}
    adobe.advance(600)
    for flow in flows.values():
        adobe.run(flow, outcomes[0])
        reruns(adobe, flow, *outcomes[1:])

    def one(mode: str) -> Ended:
        return ended(sensor, context(), dataflow_id=flows[mode], rerun_failed=rerun_failed, **MODES[mode])

    with passing(adobe):
        ends, cleared = side_by_side(MODES, one), side_by_side(MODES, one)

    for mode, end in ends.items():
        runs = runs_of(adobe, flows[mode])
        assert (end.state, len(runs)) == (state, made), end
        assert (cleared[mode].state, cleared[mode].result) == (end.state, end.result)
        if state == "success":
            assert end.result["run_id"] == runs[-1]
        elif rerun_failed:
            assert f"has failed, and {made} flow runs of its slot have failed (rerun_failed=1)" in end.message


@pytest.mark.parametrize("on_failed", ["succeed", "fail"])
def test_a_worker_starts_the_rerun_even_if_the_triggerer_may_end_the_task(on_failed: str, adobe: ServedAdobe) -> None:
    flow = ready(adobe, f"rerun ended in the triggerer {on_failed}")
    adobe.run(flow, "failed", ended=False, seconds=10)
    reruns(adobe, flow, "success")
    with passing(adobe):
        end = ended(
            sensor,
            context(),
            dataflow_id=flow,
            rerun_failed=1,
            on_failed=on_failed,
            deferrable=True,
            end_in_triggerer=True,
        )
    assert (end.state, end.result["status"], end.result["run_id"]) == ("success", "success", runs_of(adobe, flow)[-1])
    assert len(runs_of(adobe, flow)) == 2


def test_a_rerun_waits_until_adobe_is_ready(adobe: ServedAdobe) -> None:
    flows = {mode: adobe.dataflow(f"rerun of a new one: {mode}") for mode in MODES}
    for flow in flows.values():
        adobe.admin("POST", "scripts", flow_id=flow, outcome="failed", seconds=1)
        adobe.admin("POST", "runs", flow_id=flow)
    adobe.advance(597)

    def one(mode: str) -> Ended:
        return ended(sensor, context(), dataflow_id=flows[mode], rerun_failed=1, **MODES[mode])

    def the_reruns_end() -> None:
        for flow in flows.values():
            end_of_run(adobe, flow, 2, seconds=5)

    with later(0, the_reruns_end):
        ends = side_by_side(MODES, one)

    assert {mode: (end.state, len(runs_of(adobe, flows[mode]))) for mode, end in ends.items()} == dict.fromkeys(
        MODES, ("success", 2)
    ), ends
    assert adobe.requests().count(POST) >= 6


def test_a_wait_for_a_rerun_that_adobe_is_never_ready_for_ends(adobe: ServedAdobe) -> None:
    flow = adobe.dataflow("rerun never ready")
    adobe.run(flow, "failed", seconds=1)
    ends = side_by_side(
        MODES,
        lambda mode: ended(sensor, context(), dataflow_id=flow, rerun_failed=1, timeout=1.5, **MODES[mode]),
    )
    assert {end.state for end in ends.values()} == {"failed"}
    assert all("the wait has timed out" in end.message for end in ends.values())
    assert all("not ready for dataset export" in end.message for end in ends.values())


def test_an_outage_at_the_rerun_does_not_end_the_wait(adobe: ServedAdobe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airflow_provider_aep.run_wait.RERUN_PAUSE_SECONDS", 0.5)
    monkeypatch.setenv("AIRFLOW__AEP__VISIBILITY_SECONDS", "0.2")
    flows = {mode: ready(adobe, f"rerun in an outage: {mode}") for mode in MODES}
    for flow in flows.values():
        adobe.run(flow, "failed")
        reruns(adobe, flow, "success")
    adobe.fault(POST, "reset", times=15)  # more than one look of each has patience for

    def one(mode: str) -> Ended:
        return ended(sensor, context(), dataflow_id=flows[mode], rerun_failed=1, **MODES[mode])

    with passing(adobe):
        ends = side_by_side(MODES, one)
    found = {mode: (end.state, len(runs_of(adobe, flows[mode]))) for mode, end in ends.items()}
    assert found == dict.fromkeys(MODES, ("success", 2)), ends


@pytest.mark.parametrize("place", PLACES)
def test_two_tasks_that_wait_for_one_run_start_one_rerun(place: str, adobe: ServedAdobe) -> None:
    flow = ready(adobe, f"two waits: {place}")
    adobe.run(flow, "failed")
    adobe.admin("POST", "scripts", flow_id=flow, outcome="success", seconds=100)

    def one(_: int) -> Ended:
        return ended(sensor, context(), dataflow_id=flow, rerun_failed=2, **PLACES[place])

    with ThreadPoolExecutor(4) as pool, passing(adobe):
        ends = list(pool.map(one, range(4)))

    assert {end.state for end in ends} == {"success"}
    assert {end.result["run_id"] for end in ends} == {runs_of(adobe, flow)[-1]}
    assert len(runs_of(adobe, flow)) == 2


@pytest.mark.parametrize("place", PLACES)
def test_the_whole_export_runs_again_too(place: str, adobe: ServedAdobe) -> None:
    """And returns the rerun, once it is certain that it exported what the DAG says."""
    name = f"export runs again: {place}"
    flow = ready(adobe, name)
    schedule = Every(hours=12, start=adobe.now() + timedelta(days=299, seconds=-600))
    adobe.run(flow, "failed")
    reruns(adobe, flow, "success")

    def export(**arguments: Any) -> AepExportDatasetsOperator:
        from airflow_provider_aep.destinations import AmazonS3

        return AepExportDatasetsOperator(
            task_id="export",
            dataset_ids=DATASET,
            destination=AmazonS3("lake-exports", "waits"),
            destination_conn_id="aws_exports",
            schedule=schedule,
            name=name,
            wait_for_completion=True,
            after=None,
            poke_interval=0.5,
            timeout=60,
            rerun_failed=1,
            **arguments,
        )

    with passing(adobe):
        end = ended(export, context(), **PLACES[place])

    assert (end.state, len(runs_of(adobe, flow))) == ("success", 2), end
    assert end.result["run_id"] == runs_of(adobe, flow)[-1]
    adobe.is_true(end.result, [DATASET])


@pytest.mark.parametrize("mode", MODES)
def test_each_dag_run_keeps_to_its_own_slot(mode: str, adobe: ServedAdobe) -> None:
    """The first slot's run fails and is run again in its time; the next DAG run takes the next slot's own."""
    now = adobe.now().replace(microsecond=0)
    slot = now + timedelta(hours=1)
    flow = adobe.dataflow(f"slots: {mode}", schedule=Every(hours=3, start=slot))
    reruns(adobe, flow, "failed", "success", "success")
    adobe.advance(3600 + 60)
    found = []
    for number in range(2):
        about, dag = scheduled(now + timedelta(hours=3 * number), now + timedelta(hours=3 * number + 3))
        given = {"dataflow_id": flow, "after": "dag_run", "make_dag": dag, "rerun_failed": 1, **MODES[mode]}
        with passing(adobe):
            end = ended(sensor, about, **given)
        assert end.state == "success", end
        found.append(end.result["run_id"])
        if number == 0:
            adobe.advance((slot + timedelta(hours=3, seconds=60) - adobe.now()).total_seconds())
    assert found == runs_of(adobe, flow)[1:]

    about, dag = scheduled(now, now + timedelta(hours=3))
    cleared = ended(
        sensor, about, dataflow_id=flow, after="dag_run", make_dag=dag, rerun_failed=1, timeout=20, **MODES[mode]
    )
    assert cleared.result["run_id"] == found[0]


@pytest.mark.parametrize("mode", MODES)
def test_a_slot_that_is_over_is_not_run_again(mode: str, adobe: ServedAdobe) -> None:
    now = adobe.now().replace(microsecond=0)
    flow = adobe.dataflow(f"slot over: {mode}", schedule=Every(hours=3, start=now + timedelta(hours=1)))
    reruns(adobe, flow, "failed", "success")
    adobe.advance(5 * 3600)
    about, dag = scheduled(now, now + timedelta(hours=3))
    end = ended(
        sensor, about, dataflow_id=flow, after="dag_run", make_dag=dag, rerun_failed=1, timeout=20, **MODES[mode]
    )
    assert end.state == "failed"
    assert "it is too late for another, since the next slot is" in end.message
    assert POST not in adobe.requests()


def test_an_event_of_before_an_upgrade_has_no_deadline() -> None:
    task = operator(dataflow_id="a", timeout=100)
    assert deadline_of({"deadline": 5.0}, task) == 5
    assert deadline_of({"status": "ended"}, task) == pytest.approx(time.time() + 100, abs=1)
