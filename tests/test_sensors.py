"""The sensor in its three modes: equal outcomes, the right run, a deadline, and words for the person on call."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG, BaseOperator
from airflow.sdk.api.datamodels._generated import DagRunType

from airflow_provider_aep.run_wait import LOOKS_FOR_ONE_DATAFLOW, RunWait
from airflow_provider_aep.schedules import Every, Once
from airflow_provider_aep.sensors import AepDataflowRunSensor
from tests.adobe.served import ServedAdobe
from tests.airflow_places import DeltaTriggerTimetable, TaskDeferralError, TaskDeferred
from tests.tasks import Ended, context, ended, later

MODES: dict[str, dict[str, Any]] = {
    "poke": {"mode": "poke"},
    "reschedule": {"mode": "reschedule"},
    "deferrable": {"deferrable": True},
}
POLICIES: dict[str, dict[str, Any]] = {
    "plain": {},
    "soft_fail": {"soft_fail": True},
    "never_fail": {"never_fail": True},
}


def sensor(**arguments: Any) -> AepDataflowRunSensor:
    given: dict[str, Any] = {"task_id": "wait", "after": None, "poke_interval": 0.5, "timeout": 60, "deferrable": False}
    make_dag = arguments.pop("make_dag", None)
    return AepDataflowRunSensor(**given | arguments, **({"dag": make_dag()} if make_dag else {}))


@dataclass(frozen=True)
class Case:
    """What Adobe has, and how the task ends under each policy."""

    prepare: Callable[[ServedAdobe, str], dict[str, Any]]
    plain: str
    soft_fail: str
    never_fail: str
    words: str = ""
    timeout: float = 60


def ran(outcome: str, **script: Any) -> Callable[[ServedAdobe, str], dict[str, Any]]:
    def prepare(adobe: ServedAdobe, flow: str) -> dict[str, Any]:
        adobe.run(flow, outcome, **script)
        return {}

    return prepare


def _running(adobe: ServedAdobe, flow: str) -> dict[str, Any]:
    adobe.run(flow, ended=False, seconds=100_000)
    return {}


def _running_in_an_unknown_state(adobe: ServedAdobe, flow: str) -> dict[str, Any]:
    adobe.line.rewrite = lambda text: text.replace(b'"processing"', b'"pondering"')
    adobe.run(flow, ended=False, seconds=1000)
    adobe.advance(700)
    return {}


def _only_an_older_one(adobe: ServedAdobe, flow: str) -> dict[str, Any]:
    adobe.run(flow)
    return {"after": adobe.now()}


def _by_its_id(adobe: ServedAdobe, flow: str) -> dict[str, Any]:
    adobe.run(flow, "failed")
    wanted = adobe.run(flow)
    adobe.run(flow, "failed")
    return {"run_id": wanted}


def _by_an_id_that_is_not_there(adobe: ServedAdobe, flow: str) -> dict[str, Any]:
    return {"run_id": "00000000-0000-4000-8000-000000000000"}


def _refused(adobe: ServedAdobe, flow: str) -> dict[str, Any]:
    adobe.fault("GET /runs*", status=403, times=None)
    return {}


def _down(adobe: ServedAdobe, flow: str) -> dict[str, Any]:
    adobe.run(flow)
    adobe.fault("GET /runs*", status=503, retry_after="1", times=None)
    return {}


CASES = {
    "success": Case(ran("success"), "success", "success", "success"),
    "empty": Case(ran("empty"), "success", "success", "success"),
    "partial": Case(ran("partial"), "failed", "skipped", "skipped", "exported a part only.*CONNECTOR-2001-500"),
    "failed": Case(ran("failed"), "failed", "skipped", "skipped", "has failed.*ACTIVATION_BATCH-0000-FAILED: Job abor"),
    "ended in an unknown state": Case(
        ran("success", status="pondered"), "failed", "skipped", "skipped", "does not know.*'pondered'"
    ),
    "running": Case(_running, "failed", "skipped", "skipped", "flow run .* was last seen with", timeout=1.2),
    "running in an unknown state": Case(
        _running_in_an_unknown_state,
        "failed",
        "skipped",
        "skipped",
        "was last seen with status 'pondering'",
        timeout=1.2,
    ),
    "no run yet": Case(
        lambda adobe, flow: {}, "failed", "skipped", "skipped", "no run of dataflow .*enabled", timeout=1.2
    ),
    "only an older one": Case(
        _only_an_older_one, "failed", "skipped", "skipped", r"no run .* created at or after 20\d\d-", timeout=1.2
    ),
    "a given run": Case(_by_its_id, "success", "success", "success"),
    "a given run that is not there": Case(
        _by_an_id_that_is_not_there, "failed", "retried", "skipped", "404.*FLOW-1439-404.*access label"
    ),
    "refused": Case(_refused, "failed", "retried", "skipped", "403"),
    "down all the time": Case(_down, "failed", "skipped", "skipped", "timed out", timeout=1.2),
}


@pytest.mark.parametrize("name", CASES)
def test_modes_end_alike(name: str, adobe: ServedAdobe) -> None:
    case = CASES[name]
    flow = adobe.dataflow(f"modes: {name}")
    arguments = {"dataflow_id": flow, "timeout": case.timeout, **case.prepare(adobe, flow)}
    combinations = list(itertools.product(POLICIES, MODES))

    def one(policy: str, mode: str) -> Ended:
        return ended(sensor, context(), **arguments, **POLICIES[policy], **MODES[mode])

    with ThreadPoolExecutor(len(combinations)) as pool:
        found = dict(zip(combinations, pool.map(lambda each: one(*each), combinations), strict=True))

    states = {each: end.state for each, end in found.items()}
    assert states == {(policy, mode): getattr(case, policy) for policy, mode in combinations}, found
    results = [end.result for end in found.values() if end.state == "success"]
    assert all(result == results[0] for result in results)
    if case.words:
        for mode in MODES:
            assert pytest.raises(Exception, match=f"(?s){case.words}").matches(_raisable(found["plain", mode]))


def _raisable(end: Ended) -> BaseException:
    assert end.error
    return type(end.error)(end.message)


@pytest.mark.parametrize("mode", MODES)
def test_it_waits_for_a_run_that_is_to_come(mode: str, adobe: ServedAdobe) -> None:
    """None at first; then it runs, Adobe is down for a moment, and it ends. An older one that failed is passed over."""
    flow = adobe.dataflow(f"to come: {mode}")
    adobe.run(flow, "failed")
    after = adobe.now()
    run_ids: list[str] = []

    def happens() -> None:
        run_ids.append(adobe.run(flow, ended=False))
        adobe.fault("GET /runs*", status=503)
        adobe.advance(200)
        adobe.run(flow, "failed")

    with later(0.7, happens):
        end = ended(sensor, context(), dataflow_id=flow, after=after, **MODES[mode])

    assert (end.state, end.result["run_id"]) == ("success", run_ids[0]), end


class StateStore(dict[str, str]):
    """What Airflow 3.3 keeps for a task instance between two pokes of `mode="reschedule"`."""

    set = dict.__setitem__


@pytest.mark.parametrize("mode", MODES)
def test_a_run_once_found_is_stayed_with(mode: str, adobe: ServedAdobe) -> None:
    """It is asked for by its ID, so that no other can take its place in a wait that goes on.

    The triggerer asks once for the dataflow's runs, of which the earlier ones tell how long this one may take.
    """
    flow = adobe.dataflow(f"pinned: {mode}")
    run_id = adobe.run(flow, ended=False, seconds=100)
    about = context(task_state_store=StateStore())

    def go_on() -> None:
        adobe.run(flow, ended=False, seconds=10)
        adobe.advance(200)

    with later(0.8, go_on):
        end = ended(sensor, about, dataflow_id=flow, after=None, **MODES[mode])

    assert end.result["run_id"] == run_id
    asked = [each for each in adobe.sent if "/runs" in each.path]
    assert "flowId" in str(asked[0].query)
    others = [each for each in asked[1:] if not each.path.endswith(run_id) and run_id not in str(each.query)]
    assert len(others) <= (mode == "deferrable")
    assert len(asked) > 1 + len(others)


def test_pokes_between_reschedules_tell_of_an_outage_once(adobe: ServedAdobe, caplog: pytest.LogCaptureFixture) -> None:
    flow = adobe.dataflow("outage between reschedules")
    adobe.run(flow, ended=False, seconds=100)
    about = context(task_state_store=StateStore())
    adobe.fault("GET /flows/*", status=503, times=3)

    with later(2.5, lambda: adobe.advance(200)):
        end = ended(sensor, about, dataflow_id=flow, after=None, mode="reschedule")

    assert end.state == "success"
    told = [record.getMessage() for record in caplog.records if "the wait goes on" in record.getMessage()]
    assert (len(told), told[-1]) == (2, "Adobe answers again; the wait goes on")
    assert told[0].startswith("GET /flows/")


def test_without_airflows_memory_each_poke_finds_the_earliest_run(adobe: ServedAdobe) -> None:
    """Before 3.3, where nothing lasts between two pokes of `mode="reschedule"`."""
    flow = adobe.dataflow("forgotten")
    run_id = adobe.run(flow, ended=False, seconds=100)

    with later(0.8, lambda: adobe.advance(200)):
        end = ended(sensor, context(), dataflow_id=flow, after=None, mode="reschedule")

    assert end.result["run_id"] == run_id


def test_the_result_is_flat_and_tells_the_run(adobe: ServedAdobe) -> None:
    flow = adobe.dataflow("flat")
    run_id = adobe.run(flow)

    result = ended(sensor, context(), dataflow_id=flow).result

    assert (result["run_id"], result["dataflow_id"], result["status"]) == (run_id, flow, "success")
    assert result["input_records"] == result["output_records"] > 0
    assert result["output_files"] > 0
    assert result["created_at"] <= result["started_at"] < result["completed_at"]
    assert json.loads(json.dumps(result)) == result
    assert all(isinstance(value, str | int | None) for value in result.values())


def test_a_finished_run_costs_two_requests_and_no_deferral(adobe: ServedAdobe) -> None:
    flow = adobe.dataflow("finished")
    adobe.run(flow)

    assert sensor(dataflow_id=flow, deferrable=True).execute(context())["status"] == "success"
    assert adobe.requests() == [f"GET /flows/{flow}", "GET /runs"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("outcome", "argument"), [("failed", "on_failed"), ("partial", "on_partial"), ("empty", "on_empty")]
)
def test_the_user_decides_what_an_end_means(outcome: str, argument: str, mode: str, adobe: ServedAdobe) -> None:
    flow = adobe.dataflow(f"decided: {outcome} {mode}")
    run_id = adobe.run(flow, outcome)

    ends = {
        decision: ended(sensor, context(), dataflow_id=flow, **{argument: decision}, **MODES[mode])
        for decision in ("fail", "succeed", "skip")
    }

    assert {decision: end.state for decision, end in ends.items()} == {
        "fail": "failed",
        "succeed": "success",
        "skip": "skipped",
    }
    assert ends["succeed"].result["status"] == outcome
    assert run_id in ends["fail"].message
    assert flow in ends["skip"].message


def test_the_deadline_is_the_shorter_of_timeout_and_execution_timeout(adobe: ServedAdobe) -> None:
    """Airflow itself does not count `execution_timeout` while a task is deferred."""
    flow = adobe.dataflow("deadline")

    with pytest.raises(TaskDeferred) as deferral:
        sensor(dataflow_id=flow, deferrable=True, timeout=3600, execution_timeout=timedelta(seconds=100)).execute(
            context()
        )

    trigger = deferral.value.trigger
    import time

    assert 90 < trigger.deadline - time.time() <= 100
    # Airflow's own limit must not be the first: its end of a deferral tells nothing of the run.
    assert deferral.value.timeout.total_seconds() > 300


def test_a_run_of_another_dataflow_is_refused(adobe: ServedAdobe) -> None:
    """Rather than to wait for it and to tell its success."""
    flow, other = adobe.dataflow("mine"), adobe.dataflow("another's")
    run_id = adobe.run(other)

    end = ended(sensor, context(), dataflow_id=flow, run_id=run_id)

    assert (end.state, "is a run of dataflow") == ("failed", end.message[end.message.index("is a run") :][:20])


def test_the_triggerer_may_end_the_task(adobe: ServedAdobe) -> None:
    flow = adobe.dataflow("short way")
    adobe.run(flow, ended=False)
    with later(0.2, lambda: adobe.advance(300)):
        end = ended(sensor, context(), dataflow_id=flow, deferrable=True, end_in_triggerer=True)

    assert (end.state, end.result["dataflow_id"]) == ("success", flow)


@pytest.mark.parametrize("do_xcom_push", [True, False])
def test_what_the_triggerer_pushes(do_xcom_push: bool, adobe: ServedAdobe) -> None:
    flow = adobe.dataflow(f"pushes {do_xcom_push}")
    adobe.run(flow, ended=False)
    with later(0.2, lambda: adobe.advance(300)):
        end = ended(
            sensor, context(), dataflow_id=flow, deferrable=True, end_in_triggerer=True, do_xcom_push=do_xcom_push
        )

    assert (end.state, bool(end.result)) == ("success", do_xcom_push), end.error


def test_a_bad_run_reaches_the_worker_even_then(adobe: ServedAdobe) -> None:
    """Only what the user calls a success may end a task without a word of its own."""
    flow = adobe.dataflow("short way of a failure")
    adobe.run(flow, "failed", ended=False)
    with later(0.2, lambda: adobe.advance(300)):
        end = ended(sensor, context(), dataflow_id=flow, deferrable=True, end_in_triggerer=True)

    assert end.state == "failed"
    assert "ACTIVATION_BATCH-0000-FAILED" in end.message


def test_after_sigterm_it_does_not_end_as_a_success(adobe: ServedAdobe) -> None:
    """Airflow calls `on_kill` and lets the task go on."""
    flow = adobe.dataflow("killed wait")
    adobe.run(flow, ended=False)
    task = sensor(dataflow_id=flow)

    def happens() -> None:
        task.on_kill()
        adobe.advance(300)

    with later(0.2, happens), pytest.raises(RuntimeError, match="told to stop"):
        task.execute(context())


def test_a_crashed_trigger_is_no_reason_to_skip(adobe: ServedAdobe) -> None:
    failed = {"error": "Trigger failure", "traceback": ["boom"]}
    with pytest.raises(TaskDeferralError):
        sensor(dataflow_id="a", soft_fail=True).resume_execution("__fail__", failed, context())
    timed_out = {"error": "Trigger timeout"}
    end = ended(_resuming(timed_out), context())
    assert end.state == "failed"
    assert ended(_resuming(timed_out, soft_fail=True), context()).state == "skipped"
    assert ended(_resuming(failed, never_fail=True), context()).state == "skipped"


def _resuming(next_kwargs: dict[str, Any], **arguments: Any) -> Any:
    class Resuming(AepDataflowRunSensor):
        def execute(self, context: Any) -> Any:
            return self.resume_execution("__fail__", next_kwargs, context)

    return lambda **_: Resuming(task_id="wait", dataflow_id="a", after=None, **arguments)


def test_deferrable_is_airflows_default(tmp_path: Any) -> None:
    """Read when the DAG file is, from `[operators] default_deferrable`."""
    import os
    import subprocess
    import sys

    code = (
        "from airflow_provider_aep.sensors import AepDataflowRunSensor as S\n"
        "from airflow_provider_aep.operators import AepExportDatasetsOperator as E\n"
        "import inspect\n"
        "print([inspect.signature(each.__init__).parameters['deferrable'].default for each in (S, E)])"
    )
    for wanted in ("True",):  # without it, the tests above would not wait on the worker
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "AIRFLOW__OPERATORS__DEFAULT_DEFERRABLE": wanted},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip().endswith(f"[{wanted}, {wanted}]")


@pytest.mark.parametrize("moment", ["", "soon", "2026-01-01", "2026-01-01T00:00:00", "None"])
def test_a_rendered_moment_without_a_zone_is_refused(moment: str, adobe: ServedAdobe) -> None:
    task = sensor(dataflow_id="a", after="{{ moment }}")
    task.render_template_fields(context(moment=moment))

    end = ended(lambda **_: task, context())

    assert (end.state, adobe.requests()) == ("failed", [])
    assert end.message.startswith("after = ")


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("value", ["", "None", "a,b", "a b"])
def test_an_id_that_upstream_did_not_give_is_refused(value: str, mode: str, policy: str, adobe: ServedAdobe) -> None:
    """Adobe lists no runs for it: the wait would last until its time-out. No policy skips it, nothing was awaited."""

    def make(**_: Any) -> AepDataflowRunSensor:
        task = sensor(dataflow_id="{{ upstream }}", **MODES[mode], **POLICIES[policy])
        task.render_template_fields(context(upstream=value))
        return task

    end = ended(make, context())

    assert (end.state, adobe.requests()) == ("failed", [])
    assert "dataflow_id" in end.message


# A wait that cannot end, ends

GONE = "5d9f1ae2-0000-4000-8000-000000000001"


@pytest.mark.parametrize("mode", MODES)
def test_a_wait_for_a_disabled_dataflow_fails_at_once(mode: str, adobe: ServedAdobe) -> None:
    flow = adobe.dataflow(f"disabled: {mode}")
    adobe.disable(flow)

    end = ended(sensor, context(), dataflow_id=flow, **MODES[mode])

    assert (end.state, "it is disabled: enable it in Adobe" in end.message) == ("failed", True)


@pytest.mark.parametrize("mode", MODES)
def test_a_wait_for_a_dataflow_that_is_disabled_meanwhile_fails(mode: str, adobe: ServedAdobe) -> None:
    flow = adobe.dataflow(f"disabled meanwhile: {mode}")

    with later(0.5, lambda: adobe.disable(flow)):
        end = ended(sensor, context(), dataflow_id=flow, timeout=20, **MODES[mode])

    assert (end.state, "it is disabled" in end.message) == ("failed", True)


@pytest.mark.parametrize(
    ("arguments", "each_minute"),
    [({"poke_interval": 60}, True), ({"poke_interval": 59}, False), ({"poke_interval": 60, "deferrable": True}, False)],
)
def test_a_look_each_minute_asks_one_thing(arguments: dict[str, Any], each_minute: bool, adobe: ServedAdobe) -> None:
    """The dataflow is read at first and after twenty looks, and again before anything is decided.

    A deferred wait looks only when something may have changed, and one that looks more often does not count requests.
    """
    flow = adobe.dataflow(f"one thing: {'; '.join(f'{name} {value}' for name, value in arguments.items())}")
    task = sensor(dataflow_id=flow, after=adobe.now(), **arguments)
    wait = RunWait(task, flow, context=context())

    def asked(looks: int) -> list[str]:
        before = len(adobe.sent)
        assert [wait.look(task.hook()) for _ in range(looks)] == [None] * looks
        return ["dataflow" if "/flows/" in each.path else "runs" for each in adobe.sent[before:]]

    both = ["dataflow", "runs"]
    assert asked(LOOKS_FOR_ONE_DATAFLOW) == (
        both + ["runs"] * (LOOKS_FOR_ONE_DATAFLOW - 1) if each_minute else both * LOOKS_FOR_ONE_DATAFLOW
    )
    assert asked(2) == (["dataflow", "runs", "runs"] if each_minute else both * 2)
    run_id = adobe.run(flow, ended=False)
    assert asked(2) == (["runs", *both, "runs"] if each_minute else [*both, "runs"])
    assert wait.run_id == run_id


def test_a_dataflow_that_was_rescheduled_between_two_looks_is_read_before_its_run_is_taken(adobe: ServedAdobe) -> None:
    flow = adobe.dataflow("read before", schedule=Every(hours=3, start=adobe.now() + timedelta(hours=1)))
    about, dag = scheduled(adobe.now(), adobe.now() + timedelta(hours=12))
    task = sensor(dataflow_id=flow, after="dag_run", poke_interval=60, make_dag=dag)
    wait = RunWait(task, flow, context=about)
    assert wait.look(task.hook()) is None
    assert wait.selector
    slot = wait.selector.since_ms

    adobe.dataflow("read before", schedule=Every(hours=3, start=adobe.now() + timedelta(hours=5)), if_exists="update")
    assert wait.look(task.hook()) is None
    assert wait.selector.since_ms == slot
    adobe.advance(7 * 3600)
    wait.look(task.hook())
    assert wait.selector.since_ms > slot


@pytest.mark.parametrize("mode", MODES)
def test_a_run_under_way_is_waited_for_when_its_dataflow_is_disabled(mode: str, adobe: ServedAdobe) -> None:
    flow = adobe.dataflow(f"under way: {mode}")
    run_id = adobe.run(flow, ended=False)

    def disabled_then_done() -> None:
        adobe.disable(flow)
        adobe.advance(300)

    with later(0.8, disabled_then_done):
        end = ended(sensor, context(), dataflow_id=flow, after=None, timeout=20, **MODES[mode])

    assert (end.state, end.result["run_id"]) == ("success", run_id)


@pytest.mark.parametrize("mode", MODES)
def test_an_unknown_dataflow_fails_at_once(mode: str, adobe: ServedAdobe) -> None:
    end = ended(sensor, context(), dataflow_id=GONE, **MODES[mode])

    assert (end.state, GONE in end.message) == ("failed", True)


@pytest.mark.parametrize("mode", MODES)
def test_a_dataflow_that_has_ended_fails_a_wait_for_its_next_run(mode: str, adobe: ServedAdobe) -> None:
    now = adobe.now()
    flow = adobe.dataflow(
        f"ended: {mode}", schedule=Every(hours=3, start=now + timedelta(hours=1), end=now + timedelta(hours=2))
    )
    adobe.advance(3 * 3600)

    end = ended(sensor, context(), dataflow_id=flow, after=adobe.now(), **MODES[mode])

    assert (end.state, "it has ended at" in end.message) == ("failed", True)


def test_a_one_time_export_that_has_run_is_not_waited_for_again(adobe: ServedAdobe) -> None:
    flow = adobe.dataflow("once", schedule=Once())
    adobe.advance(600)

    end = ended(sensor, context(), dataflow_id=flow, after=adobe.now())

    assert (end.state, "it exports once, and did so with flow run" in end.message) == ("failed", True)


@pytest.mark.parametrize("mode", ["poke", "deferrable"])
def test_the_only_slot_of_a_one_time_export_is_its_dag_runs_whatever_the_clocks_say(
    mode: str, adobe: ServedAdobe
) -> None:
    """Airflow's clock is an hour ahead of Adobe's, so that the run is created before its DAG run was due."""
    about = context()
    about["dag_run"].run_after = adobe.now() + timedelta(hours=1)
    name = f"clocks: {mode}"
    flow = adobe.dataflow(name, schedule=Once())
    adobe.advance(600)

    def dag_of_both() -> DAG:
        dag = DAG("adhoc_airflow", schedule=None)
        BaseOperator(task_id="set_up", dag=dag)
        return dag

    def make(**arguments: Any) -> AepDataflowRunSensor:
        return sensor(**arguments, make_dag=dag_of_both)

    end = ended(make, about, dataflow_id=flow, after="dag_run", **MODES[mode])

    assert end.state == "success", end


# The slot of a scheduled DAG run


def scheduled(due: datetime, following: datetime, **members: Any) -> Any:
    """The context of a scheduled DAG run, and what makes its DAG, which is due every so often."""
    dag_run = SimpleNamespace(
        run_after=due, logical_date=due, run_type=DagRunType.SCHEDULED, data_interval_start=due, data_interval_end=due
    )
    schedule = DeltaTriggerTimetable(following - due)
    return {**context(**members), "dag_run": dag_run}, lambda: DAG("dag", schedule=schedule, start_date=due)


@pytest.mark.parametrize("on_missing", ["skip", "fail", "next"])
@pytest.mark.parametrize("mode", MODES)
def test_what_a_dag_run_does_for_which_adobe_has_no_slot(mode: str, on_missing: str, adobe: ServedAdobe) -> None:
    """The export begins an hour after this DAG run's time."""
    now = adobe.now()
    first = now + timedelta(hours=2)
    flow = adobe.dataflow(f"no slot: {mode} {on_missing}", schedule=Every(hours=3, start=first))
    about, dag = scheduled(now, now + timedelta(hours=1))

    def the_slot_comes() -> None:
        adobe.advance(3 * 3600)
        adobe.advance(300)

    with later(0.8, the_slot_comes):
        end = ended(
            sensor,
            about,
            dataflow_id=flow,
            after="dag_run",
            on_missing=on_missing,
            make_dag=dag,
            timeout=20,
            **MODES[mode],
        )

    assert end.state == {"skip": "skipped", "fail": "failed", "next": "success"}[on_missing], end
    if on_missing != "next":
        assert "its first slot is later" in end.message
        assert "the next slot is " in end.message


@pytest.mark.parametrize("mode", MODES)
def test_a_slot_that_passes_without_a_run_ends_the_wait(mode: str, adobe: ServedAdobe) -> None:
    """It was disabled at the slot and is enabled again; the next slot's run belongs to the next DAG run."""
    now = adobe.now()
    flow = adobe.dataflow(f"skipped slot: {mode}", schedule=Every(hours=3, start=now + timedelta(hours=1)))
    adobe.disable(flow)
    adobe.advance(2 * 3600)
    adobe.enable(flow)
    about, dag = scheduled(now, now + timedelta(hours=3))

    with later(0.8, lambda: adobe.advance(3 * 3600)):
        end = ended(sensor, about, dataflow_id=flow, after="dag_run", make_dag=dag, timeout=20, **MODES[mode])

    assert (end.state, "Adobe has made no run for the slot of" in end.message) == ("skipped", True), end


@pytest.mark.parametrize("mode", MODES)
def test_a_cleared_dag_run_finds_the_run_of_its_slot_and_no_later_one(mode: str, adobe: ServedAdobe) -> None:
    now = adobe.now()
    flow = adobe.dataflow(f"cleared: {mode}", schedule=Every(hours=3, start=now + timedelta(hours=1)))
    found = []
    adobe.advance(12 * 3600)
    for number in range(3):
        due = now + timedelta(hours=3 * number)
        about, dag = scheduled(due, due + timedelta(hours=3))
        end = ended(sensor, about, dataflow_id=flow, after="dag_run", make_dag=dag, timeout=20, **MODES[mode])
        slot = (due + timedelta(hours=1)).replace(microsecond=0)  # Adobe's schedules have whole seconds
        assert end.state == "success"
        assert slot <= datetime.fromisoformat(end.result["created_at"])
        assert datetime.fromisoformat(end.result["created_at"]) < slot + timedelta(hours=3)
        found.append(end.result["run_id"])
    assert len(set(found)) == 3


@pytest.mark.parametrize("mode", MODES)
def test_a_cleared_dag_run_finds_its_run_after_the_schedule_was_changed(mode: str, adobe: ServedAdobe) -> None:
    """Its time was over by then, so that the new schedule says nothing about it."""
    now = adobe.now()
    name = f"changed: {mode}"
    flow = adobe.dataflow(name, schedule=Every(hours=3, start=now + timedelta(hours=1)))
    adobe.advance(5 * 3600)
    about, dag = scheduled(now, now + timedelta(hours=3))
    arguments = {"dataflow_id": flow, "after": "dag_run", "make_dag": dag, "timeout": 20, **MODES[mode]}

    before = ended(sensor, about, **arguments)
    adobe.dataflow(name, schedule=Every(hours=12, start=adobe.now() + timedelta(hours=9)), if_exists="update")
    after = ended(sensor, about, **arguments)

    assert (before.state, after) == ("success", before)
