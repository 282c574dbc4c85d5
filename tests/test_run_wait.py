"""What the end of a wait is made of: events that are read, deadlines, and the words of a time-out."""

from __future__ import annotations

import logging
import re
import time
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from airflow.sdk import DAG

from airflow_provider_aep.api.entities import DataflowId, FlowRun, FlowRunId, RunError, RunStatus
from airflow_provider_aep.api.runs.selection import seen_text, state_line
from airflow_provider_aep.api.session import Session
from airflow_provider_aep.errors import AccessDenied, AepError, EntityNotFound, RequestRefused
from airflow_provider_aep.hooks import AepHook
from airflow_provider_aep.run_wait import RunWait, WaitTimeout, backstop, deadline_after, read_event
from airflow_provider_aep.sensors import AepDataflowRunSensor
from tests.adobe.in_process import Adobe
from tests.exports import desired
from tests.tasks import context

RUN = FlowRun(
    FlowRunId("run-1"),
    DataflowId("flow-1"),
    RunStatus.FAILED,
    raw_status="Failed",
    created_ms=1,
    errors=(RunError("CODE-1", "it broke"),),
)


def event(**members: Any) -> dict[str, Any]:
    return {"version": 1, "carry": None, **members}


def test_a_run_comes_through_unchanged() -> None:
    assert read_event(event(status="ended", run=RUN.as_event())) == RUN


def test_a_refusal_comes_through_unchanged() -> None:
    sent = EntityNotFound("GET /runs/1", status=404, code="FLOW-1439-404", message="gone", request_id="r-1")

    with pytest.raises(EntityNotFound) as found:
        read_event(event(status="error", error=sent.as_event()))

    assert (str(found.value), found.value.is_final) == (str(sent), True)
    with pytest.raises(AccessDenied):
        read_event(event(status="error", error=AccessDenied("GET /runs", status=403).as_event()))


def test_a_time_out_and_a_connection_that_cannot_be_right() -> None:
    with pytest.raises(WaitTimeout, match="no run of dataflow flow-1"):
        read_event(event(status="timeout", seen=seen_text("flow-1", 0, None, None)))
    with pytest.raises(AepError, match="org_id") as found:
        read_event(event(status="invalid", error="org_id = '': must be"))
    assert found.value.is_final
    assert not isinstance(found.value, RequestRefused)


@pytest.mark.parametrize(
    "garbage",
    [
        None,
        {},
        {"status": "ended", "run": RUN.as_event()},
        {"version": 2, "status": "ended", "run": RUN.as_event()},
        event(),
        event(status="done"),
        event(status="ended"),
        event(status="ended", run=None),
        event(status="ended", run={"id": "run-1"}),
        event(status="ended", run={**RUN.as_event(), "status": "splendid"}),
        event(status="ended", run={**RUN.as_event(), "colour": "red"}),
        event(status="error", error={"kind": "KeyboardInterrupt"}),
        event(status="error", error="403"),
        event(status="timeout"),
    ],
)
def test_an_event_that_is_none_of_ours_is_loud(garbage: Any) -> None:
    """And shows itself; ValueError, since another try, that waits anew, may well be right."""
    with pytest.raises(ValueError, match="event cannot be read") as found:
        read_event(garbage)
    assert not isinstance(found.value, AepError)


def test_a_deadline_is_the_nearer_limit() -> None:
    assert deadline_after(100, None) == pytest.approx(time.time() + 100, abs=1)
    assert deadline_after(100, timedelta(seconds=50)) == pytest.approx(time.time() + 50, abs=1)
    assert deadline_after(100, timedelta(hours=1)) == pytest.approx(time.time() + 100, abs=1)


def test_airflows_own_limit_comes_later() -> None:
    assert 390 < backstop(time.time() + 100).total_seconds() <= 400
    assert backstop(time.time() - 1000).total_seconds() == 300


def test_a_time_out_says_what_was_seen_and_where_to_look() -> None:
    text = seen_text("flow-1", 1767225600000, None, None)
    assert "no run of dataflow flow-1 created at or after 2026-01-01T00:00:00Z" in text
    assert "whether the dataflow is enabled" in text
    assert seen_text("flow-1", 0, None, RUN) == (
        "flow run run-1 of dataflow flow-1 was last seen with status 'Failed'; clearing the task waits for it again, a "
        "higher `timeout` waits longer"
    )
    assert "with no status;" in seen_text("flow-1", 0, None, replace(RUN, raw_status=""))


# What a wait says in its task's log


def test_a_status_that_adobe_does_not_document_is_a_warning() -> None:
    run = replace(RUN, status=RunStatus.RUNNING, raw_status="Pondering")
    assert state_line(run) == (
        logging.WARNING,
        "flow run run-1 has a status that Adobe does not document: 'Pondering'",
    )
    assert state_line(replace(run, raw_status="Processing"))[0] == logging.INFO


def test_a_wait_on_a_worker_speaks_of_changes_and_not_of_looks(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    adobe = Adobe()
    flow = adobe.task(desired()).dataflow_id
    caplog.clear()
    caplog.set_level(logging.INFO)

    class Hook(AepHook):
        def get_conn(self) -> Session:
            return adobe.session()

    task = AepDataflowRunSensor(task_id="wait", dataflow_id=flow, after=None, dag=DAG("dag", schedule=None))
    wait, hook = RunWait(task, flow, context=context()), Hook()

    def told(looks: int = 20) -> list[str]:
        caplog.clear()
        for _ in range(looks):
            wait.look(hook)
        return [record.getMessage() for record in caplog.records if record.name.startswith("airflow_provider_aep")]

    assert told() == []
    adobe.faults.status("GET /runs", 503, times=3)
    assert [text.partition(":")[0] for text in told(3)] == ["GET /runs"]
    assert told() == ["Adobe answers again; the wait goes on"]
    with monkeypatch.context() as hours:
        hours.setattr("airflow_provider_aep.run_wait.SIGN_OF_LIFE_SECONDS", 0)
        (sign,) = told(1)
    assert sign.startswith(f"still waiting for a run of dataflow {flow}; for ")
    run_id = adobe.platform.start_run(flow)["id"]
    assert told() == [f"flow run {run_id} of dataflow {flow}: no status yet"]
    adobe.clock.advance(600)
    (ended,) = told(1)
    assert re.fullmatch(
        rf"flow run {run_id} of dataflow {flow} has ended: success "
        r"\(\d+ records, \d+ bytes, \d+ files, \d+ seconds\)",
        ended,
    )
