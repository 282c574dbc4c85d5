"""Flow runs: how far they are, which one is awaited, and what a task hands on of them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_aep.api.entities import (
    DataflowId,
    FlowRun,
    FlowRunId,
    RunError,
    RunStatus,
    is_known_status,
    run_status,
)
from airflow_provider_aep.api.runs.selection import earliest_run

RUN = FlowRun(FlowRunId("r"), DataflowId("f"), RunStatus.SUCCEEDED, "success", created_ms=1658340453699)
NUMBERS = st.none() | st.integers(0, 10**15)
RUNS = st.builds(
    FlowRun,
    id=st.text(min_size=1).map(FlowRunId),
    dataflow_id=st.text().map(DataflowId),
    status=st.sampled_from(RunStatus),
    raw_status=st.text(),
    created_ms=st.integers(0, 4_000_000_000_000),
    updated_ms=st.integers(0, 4_000_000_000_000),
    started_ms=st.none() | st.integers(0, 4_000_000_000_000),
    completed_ms=st.none() | st.integers(0, 4_000_000_000_000),
    input_records=NUMBERS,
    output_records=NUMBERS,
    failed_records=NUMBERS,
    output_files=NUMBERS,
    errors=st.lists(st.builds(RunError, st.text(), st.text())).map(tuple),
)


@pytest.mark.parametrize(
    ("word", "ended", "status"),
    [
        ("success", True, "success"),
        ("Success", True, "success"),
        ("COMPLETED", True, "success"),
        ("failed", True, "failed"),
        ("Canceled", True, "failed"),
        ("partial_failure", True, "failed"),
        ("processing", False, "running"),
        ("inProgress", False, "running"),
        (None, False, "running"),
        ("", True, "running"),
        ("exploded", False, "running"),
        ("exploded", True, "unknown"),
    ],
)
def test_a_status_is_judged_whatever_its_letters(word: str | None, ended: bool, status: str) -> None:
    assert run_status(word, ended=ended).value == status


@given(st.text())
def test_an_unknown_word_is_loud_once_the_run_has_ended(word: str) -> None:
    if not is_known_status(word):
        assert run_status(word, ended=False) is RunStatus.RUNNING
        assert run_status(word, ended=True) is RunStatus.UNKNOWN


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({"output_records": 5}, "success"),
        ({}, "success"),  # Adobe gave no numbers, so it cannot be called empty
        ({"output_records": 0}, "empty"),
        ({"output_records": 0, "input_records": 3}, "success"),
        ({"output_records": 0, "output_files": 1}, "success"),
        ({"output_records": 0, "failed_records": 2}, "partial"),
        ({"output_records": 5, "errors": (RunError("C", "m"),)}, "partial"),
        ({"output_records": 5, "failed_records": 0}, "success"),
        ({"status": RunStatus.FAILED, "errors": (RunError("C", "m"),)}, "failed"),
        ({"status": RunStatus.RUNNING, "output_records": 0}, "running"),
        ({"status": RunStatus.UNKNOWN}, "unknown"),
    ],
)
def test_the_outcome_of_a_run(changes: dict[str, Any], outcome: str) -> None:
    run = replace(RUN, **changes)
    assert run.outcome == outcome
    assert run.has_ended is (outcome != "running")


@given(RUNS)
def test_a_run_crosses_from_trigger_to_task_as_json(run: FlowRun) -> None:
    assert FlowRun.from_event(json.loads(json.dumps(run.as_event()))) == run


@pytest.mark.parametrize("event", [{"errors": []}, {**RUN.as_event(), "status": "odd"}, {**RUN.as_event(), "new": 1}])
def test_an_event_of_another_version_is_refused(event: dict[str, Any]) -> None:
    with pytest.raises((LookupError, TypeError, ValueError)):
        FlowRun.from_event(event)


@given(RUNS)
def test_the_summary_is_flat_and_json(run: FlowRun) -> None:
    summary = run.summary()
    assert json.loads(json.dumps(summary)) == summary
    assert all(value is None or isinstance(value, str | int) for value in summary.values())


def test_the_summary_has_times_in_utc() -> None:
    assert RUN.summary()["created_at"] == "2022-07-20T18:07:33.699+00:00"
    assert RUN.summary()["completed_at"] is None


@given(st.lists(st.tuples(st.integers(0, 20), st.text("abc", min_size=1))), st.integers(0, 20))
def test_the_earliest_run_that_is_not_older(made: list[tuple[int, str]], since_ms: int) -> None:
    runs = [replace(RUN, id=FlowRunId(name), created_ms=at) for at, name in made]
    found = earliest_run(runs, dataflow_id=runs[0].dataflow_id if runs else DataflowId("f"), since_ms=since_ms)
    candidates = sorted((at, name) for at, name in made if at >= since_ms)
    assert (found and (found.created_ms, found.id)) == (candidates[0] if candidates else None)


def test_a_failed_run_is_not_passed_over() -> None:
    failed = replace(RUN, status=RunStatus.FAILED, created_ms=5)
    good = replace(RUN, id=FlowRunId("later"), created_ms=6)
    assert earliest_run([good, failed], dataflow_id=good.dataflow_id, since_ms=5) is failed
