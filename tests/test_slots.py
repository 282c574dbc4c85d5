"""Which slot a DAG run is bound to, against an oracle that counts one by one; and when a wait can bring no run."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pendulum
import pytest
from airflow.sdk import DAG
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_aep.api.entities import Dataflow, DataflowId, FlowRun, FlowRunId, RunStatus
from airflow_provider_aep.api.runs.selection import earliest_run, why_no_run
from airflow_provider_aep.api.runs.slots import DagRunWindow, RunSelector, fingerprint, one_time_selector, selector_for
from airflow_provider_aep.timetables import next_due_ms
from tests.airflow_places import (
    CronDataIntervalTimetable,
    CronTriggerTimetable,
    DeltaDataIntervalTimetable,
    DeltaTriggerTimetable,
)

HOUR = 3_600_000
DAY = 24 * HOUR
FLOW = DataflowId("f")


def schedule(start_h: int, interval: int, unit: str = "hour", end_h: int | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {"startTime": start_h * 3600, "interval": interval, "timeUnit": unit}
    return found if end_h is None else {**found, "endTime": end_h * 3600}


def slots_of(found: dict[str, Any], until_ms: int) -> list[int]:
    """Every slot, one by one."""
    step = int(found["interval"]) * (HOUR if found["timeUnit"] == "hour" else DAY)
    slots, slot = [], found["startTime"] * 1000
    end = found.get("endTime", 10**9) * 1000
    while slot < min(end, until_ms):
        slots.append(slot)
        if not step:
            break
        slot += step
    return slots


schedules = st.builds(
    schedule,
    st.integers(0, 100),
    st.sampled_from([3, 6, 9, 12]),
    st.just("hour"),
    st.one_of(st.none(), st.integers(1, 200)),
) | st.builds(schedule, st.integers(0, 100), st.just(1), st.just("day"), st.one_of(st.none(), st.integers(1, 200)))


@settings(max_examples=300)
@given(schedules, st.integers(0, 60), st.integers(1, 30))
def test_the_slot_of_each_dag_run_is_that_of_the_oracle(found: dict[str, Any], first_h: int, step_h: int) -> None:
    windows = [DagRunWindow((first_h + n * step_h) * HOUR, (first_h + (n + 1) * step_h) * HOUR) for n in range(12)]
    every = slots_of(found, 2_000 * HOUR)
    taken = []
    for window in windows:
        aim = selector_for(found, window)
        own = [slot for slot in every if window.start_ms <= slot < (window.end_ms or 0)]
        later = [slot for slot in every if slot >= window.start_ms]
        if own:
            step = every[1] - every[0] if len(every) > 1 else aim.until_ms and aim.until_ms - own[0]
            assert (aim.since_ms, aim.missing) == (own[0], "")
            assert aim.until_ms == own[0] + (step or 0)
            taken.append(aim.since_ms)
        else:
            assert aim.missing
            assert aim.next_ms == (later[0] if later else None)
    assert len(taken) == len(set(taken))


@settings(max_examples=200)
@given(
    schedules,
    st.integers(1, 30),
    st.lists(st.integers(0, 300 * 60), max_size=40),
    st.randoms(use_true_random=False),
)
def test_no_two_dag_runs_get_the_same_flow_run(
    found: dict[str, Any], step_h: int, made: list[int], chance: Any
) -> None:
    """Whatever runs there are, late or missing, and in whatever order the DAG runs look, as in a backfill."""
    runs = [
        FlowRun(FlowRunId(f"r{n}"), FLOW, RunStatus.SUCCEEDED, created_ms=minute * 60_000)
        for n, minute in enumerate(made)
    ]
    windows = [DagRunWindow(n * step_h * HOUR, (n + 1) * step_h * HOUR) for n in range(20)]
    chance.shuffle(windows)
    taken = []
    for window in windows:
        aim = selector_for(found, window)
        if not aim.missing:
            run = earliest_run(runs, dataflow_id=FLOW, since_ms=aim.since_ms, until_ms=aim.until_ms)
            in_slot = [each for each in runs if aim.since_ms <= each.created_ms < (aim.until_ms or 10**15)]
            assert (run is None) == (not in_slot)
            if run:
                assert run.created_ms == min(each.created_ms for each in in_slot)
                taken.append(run.id)
    assert len(taken) == len(set(taken))


@settings(max_examples=300)
@given(
    st.lists(st.tuples(st.integers(0, 200), schedules), max_size=3),
    schedules,
    st.integers(1, 30),
    st.lists(st.booleans(), min_size=40, max_size=40),
    st.randoms(use_true_random=False),
)
def test_no_two_dag_runs_get_the_same_flow_run_while_the_schedule_changes(
    changes: list[tuple[int, dict[str, Any]]], first: dict[str, Any], step_h: int, skipped: list[bool], chance: Any
) -> None:
    """Adobe makes the runs of the schedule in force, a few minutes late or, disabled, not at all.

    DAG runs look when they please from their time on, again when cleared, and several at a time; each look knows only
    the schedule of its own moment.
    """
    history = [(0, first), *((hour * HOUR, found) for hour, found in sorted(changes, key=lambda each: each[0]))]
    runs = []
    for (since, found), (until, _) in itertools.pairwise([*history, (300 * HOUR, first)]):
        due = [slot for slot in slots_of(found, until) if slot >= since]
        runs += [slot + chance.randint(0, 10) * 60_000 for slot, skip in zip(due, skipped, strict=False) if not skip]

    def look(window: DagRunWindow, now_ms: int) -> FlowRun | None:
        changed_ms, found = next(each for each in reversed(history) if each[0] <= now_ms)
        aim = selector_for(found, window, changed_ms)
        listed = [
            FlowRun(FlowRunId(f"r{n}"), FLOW, RunStatus.SUCCEEDED, created_ms=created)
            for n, created in enumerate(runs)
            if created <= now_ms
        ]
        run = earliest_run(listed, dataflow_id=FLOW, since_ms=aim.since_ms, until_ms=aim.until_ms)
        return None if aim.missing and not aim.until_ms else run

    owners: dict[str, int] = {}
    for _ in range(60):
        number = chance.randint(0, 200 // step_h)
        window = DagRunWindow(number * step_h * HOUR, (number + 1) * step_h * HOUR)
        run = look(window, window.start_ms + chance.randint(0, 60) * HOUR)
        if run:
            assert owners.setdefault(run.id, number) == number
            assert window.start_ms <= run.created_ms < window.end_ms + 10 * 60_000  # type: ignore[operator]


def test_a_run_of_no_known_dataflow_is_never_meant() -> None:
    run = FlowRun(FlowRunId("r"), DataflowId(""), RunStatus.SUCCEEDED, created_ms=5)
    assert earliest_run([run], dataflow_id=FLOW, since_ms=0) is None


def test_a_one_time_export_has_one_slot() -> None:
    once = schedule(5, 0, "day")
    assert one_time_selector(once) == RunSelector(5 * HOUR)
    assert one_time_selector(schedule(5, 3)) is None
    assert selector_for(once, DagRunWindow(4 * HOUR, 6 * HOUR)) == RunSelector(5 * HOUR)
    assert selector_for(once, DagRunWindow(6 * HOUR, 8 * HOUR)).missing
    assert "its first slot is later" in selector_for(once, DagRunWindow(0, HOUR)).missing


def test_texts_and_twenty_four_hours_are_read_and_an_unknown_schedule_leaves_the_window() -> None:
    assert (
        selector_for({"startTime": "3600", "interval": "24", "timeUnit": "hour"}, DagRunWindow(0, DAY)).until_ms
        == HOUR + DAY
    )
    assert selector_for({}, DagRunWindow(5, 9)) == RunSelector(5, 9, 9)
    assert fingerprint({"startTime": "7", "interval": "3", "timeUnit": "HOUR", "endTime": ""}) == [7, 10_800, None]


@pytest.mark.parametrize(
    ("members", "until_ms", "why", "is_slot"),
    [
        ({}, None, None, False),
        ({"state": "disabled"}, None, "it is disabled", False),
        ({"state": "disabled"}, 10 * HOUR, "it is disabled", False),
        ({"schedule": {"endTime": 4 * 3600}}, None, "it has ended at 1970-01-01T04:00:00Z", False),
        ({"schedule": {"endTime": 4 * 3600}}, 6 * HOUR, None, False),
        ({}, 5 * HOUR, "Adobe has made no run for the slot of 1970-01-01T01:00:00Z", True),
        ({"state": "disabled"}, 5 * HOUR, "Adobe has made no run for the slot", True),
        ({}, 5 * HOUR + 1, None, False),
        ({"schedule": {"endTime": ""}}, None, None, False),
    ],
)
def test_when_no_run_is_to_be_expected(
    members: dict[str, Any], until_ms: int | None, why: str | None, is_slot: bool
) -> None:
    flow = Dataflow("f", "name", "spec", **{"state": "enabled", **members})
    end = why_no_run(flow, since_ms=HOUR, until_ms=until_ms, now_ms=5 * HOUR + 10_000, visibility_ms=10_000)
    assert (end is None) == (why is None)
    if end and why:
        assert end.why.startswith(why)
        assert end.is_slot == is_slot


# The DAG run's own time, as its timetable tells


def due(timetable: Any, start: datetime, end: datetime, run_after: datetime) -> datetime | None:
    with DAG("dag", schedule=timetable, start_date=pendulum.datetime(2026, 1, 1, tz="UTC"), max_active_runs=1) as dag:
        pass
    dag_run = SimpleNamespace(data_interval_start=start, data_interval_end=end, run_after=run_after)
    found = next_due_ms(SimpleNamespace(dag=dag), dag_run)
    return None if found is None else datetime.fromtimestamp(found / 1000, UTC)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


@pytest.mark.parametrize(
    ("timetable", "run_after", "following"),
    [
        (CronTriggerTimetable("@daily", timezone="UTC"), "2026-01-05T00:00:00Z", "2026-01-06T00:00:00Z"),
        (CronTriggerTimetable("@hourly", timezone="UTC"), "2026-01-05T07:00:00Z", "2026-01-05T08:00:00Z"),
        (DeltaTriggerTimetable(timedelta(hours=5)), "2026-01-05T07:00:00Z", "2026-01-05T12:00:00Z"),
        (CronTriggerTimetable("30 2 * * *", timezone="Europe/Berlin"), "2026-03-28T01:30:00Z", "2026-03-29T01:30:00Z"),
        (CronTriggerTimetable("0 12 * * *", timezone="Europe/Berlin"), "2026-10-24T10:00:00Z", "2026-10-25T11:00:00Z"),
        ("@once", "2026-01-05T00:00:00Z", None),
        ("@continuous", "2026-01-05T00:00:00Z", None),
    ],
    ids=str,
)
def test_when_the_next_dag_run_is_due(timetable: Any, run_after: str, following: str | None) -> None:
    found = due(timetable, at(run_after), at(run_after), at(run_after))
    assert found == (None if following is None else at(following))


@pytest.mark.parametrize(
    "timetable",
    [CronDataIntervalTimetable("0 0 * * *", timezone="UTC"), DeltaDataIntervalTimetable(timedelta(days=1))],
    ids=["cron", "delta"],
)
def test_when_the_next_dag_run_of_an_interval_is_due(timetable: Any) -> None:
    day, night = at("2026-01-05T00:00:00Z"), at("2026-01-06T00:00:00Z")
    assert due(timetable, day, night, night) == at("2026-01-07T00:00:00Z")
