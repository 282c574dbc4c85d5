"""Schedules: what may be said, what goes to Adobe for it, and how a dataflow's schedule is compared and put right."""

from __future__ import annotations

import copy
import pickle
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_aep.errors import InvalidArgument
from airflow_provider_aep.schedules import (
    DEFAULT_EXPORT_YEARS,
    START_DELAY_SECONDS,
    Every,
    Once,
    Schedule,
    check_folder_template,
    merged_params,
    schedule_differences,
    schedule_params,
    schedule_text,
)

NOW = datetime(2026, 1, 10, 12, 0, tzinfo=UTC)
BERLIN = ZoneInfo("Europe/Berlin")


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp())


# What may be said


@pytest.mark.parametrize(
    ("schedule", "interval", "unit"),
    [
        (Every(hours=3), 3, "hour"),
        (Every(hours=6), 6, "hour"),
        (Every(hours=9), 9, "hour"),
        (Every(hours="12"), 12, "hour"),
        (Every(hours=24), 1, "day"),
        (Every(days=1), 1, "day"),
        (Every(days="1"), 1, "day"),
    ],
)
def test_a_repeated_export_is_full_first_and_then_incremental(schedule: Every, interval: int, unit: str) -> None:
    params = schedule_params(schedule, now=NOW)

    assert params == {
        "interval": interval,
        "timeUnit": unit,
        "exportMode": "FIRST_FULL_THEN_INCREMENTAL",
        "startTime": at("2026-01-10T12:05Z"),
        "endTime": at("2031-01-10T12:05Z"),
    }


def test_a_single_export_is_full() -> None:
    assert schedule_params(Once(), now=NOW, folder_template="%DATASET_ID%") == {
        "interval": 0,
        "timeUnit": "day",
        "exportMode": "DAILY_FULL_EXPORT",
        "startTime": at("2026-01-10T12:05Z"),
        "endTime": at("2031-01-10T12:05Z"),
        "foldernameTemplate": "%DATASET_ID%",
    }


NAIVE = datetime(2026, 1, 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Every(hours=5), "schedule.hours = 5: must be 3, 6, 9, 12 or 24$"),
        (lambda: Every(hours=8), "schedule.hours = 8: .*user interface offers 3, 6, 8 and 12 hours, but its API"),
        (lambda: Every(hours=0), "schedule.hours = 0"),
        (lambda: Every(hours=-3), "schedule.hours = -3"),
        (lambda: Every(hours=3.0), "whole number"),  # type: ignore[arg-type]
        (lambda: Every(hours=True), "whole number"),
        (lambda: Every(hours="three"), "whole number"),
        (lambda: Every(days=2), "schedule.days = 2: must be 1"),
        (lambda: Every(), "give hours or days"),
        (lambda: Every(hours=3, days=1), "give hours or days"),
        (lambda: Every(hours="{{ a }}", days="{{ b }}"), "give hours or days"),
        (lambda: Every(hours=3, start=NAIVE), "schedule.start = '2026-01-01 00:00:00': has no zone"),
        (lambda: Every(hours=3, start="2026-01-01T00:00:00"), "schedule.start = .*has no zone"),
        (lambda: Every(hours=3, start="2026-01-01"), "has no zone"),
        (lambda: Every(hours=3, start=date(2026, 1, 1)), "schedule.start"),  # type: ignore[arg-type]
        (lambda: Every(hours=3, start=1767225600000), "not a count of seconds or milliseconds"),  # type: ignore[arg-type]
        (lambda: Once(start="1767225600"), "not a count of seconds or milliseconds"),
        (lambda: Once(start="tomorrow"), "ISO 8601"),
        (lambda: Once(start=""), "ISO 8601"),
        (lambda: Once(end=NAIVE), "schedule.end = .*has no zone"),
        (lambda: Once(start=NOW, end=NOW), "schedule.end = .*must be later than schedule.start"),
        (lambda: Every(days=1, start=NOW, end="2026-01-10T12:59:59+01:00"), "must be later"),
    ],
)
def test_a_wrong_literal_is_refused_when_the_dag_is_written(make: Any, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        make()


def test_order_is_judged_by_time_and_not_by_the_clock_on_the_wall() -> None:
    """On 25 October 2026 Berlin's clock shows 02:30 twice; Python compares datetimes of one zone by what it shows."""
    first, second = (datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=fold) for fold in (0, 1))

    assert Once(start=first, end=second).end == second
    with pytest.raises(InvalidArgument):
        Once(start=second, end=first.replace(minute=40))


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (datetime(2026, 7, 1, 2, tzinfo=BERLIN), "2026-07-01T00:00Z"),
        (datetime(2026, 12, 1, 2, tzinfo=BERLIN), "2026-12-01T01:00Z"),
        (datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=1), "2026-10-25T01:30Z"),
        (datetime(2026, 7, 1, tzinfo=timezone(timedelta(hours=-5))), "2026-07-01T05:00Z"),
        ("2026-07-01T02:00:00+02:00", "2026-07-01T00:00Z"),
        ("2026-07-01 00:00:00.250+00:00", "2026-07-01T00:00Z"),
        ("2026-07-01T00:00Z", "2026-07-01T00:00Z"),
    ],
)
def test_times_go_out_as_seconds_in_utc(start: Any, expected: str) -> None:
    for schedule in (Every(days=1, start=start), Once(start=start)):
        assert schedule_params(schedule, now=NOW)["startTime"] == at(expected)


def test_what_is_not_rendered_is_not_sent() -> None:
    for schedule in (Every(hours="{{ h }}"), Every(hours=3, start="{{ s }}"), Once(end="{{ e }}")):
        with pytest.raises(InvalidArgument, match="Airflow has not rendered it"):
            schedule_params(schedule, now=NOW)
    with pytest.raises(InvalidArgument, match=r"folder_template = .*Airflow has not rendered it"):
        schedule_params(Once(), now=NOW, folder_template="{{ t }}")


@pytest.mark.parametrize("other", [(3, None, None, None), [3], {"hours": 3}, 3, None])
def test_anything_else_is_no_schedule(other: Any) -> None:
    with pytest.raises(InvalidArgument, match=r"must be Every\(…\) or Once\(…\)"):
        schedule_params(other, now=NOW)


def test_copies_and_pickles_keep_type_and_value() -> None:
    for schedule in (Every(hours=6, start=NOW), Once(end="2027-01-01T00:00Z")):
        for twin in (copy.deepcopy(schedule), pickle.loads(pickle.dumps(schedule)), type(schedule)(*schedule)):
            assert (type(twin), twin) == (type(schedule), schedule)


# Start and end


def test_a_start_ahead_is_sent_as_it_is() -> None:
    assert schedule_params(Every(hours=9, start="2026-03-01T00:00Z"), now=NOW)["startTime"] == at("2026-03-01T00:00Z")


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Every(hours=6, start="2026-01-01T00:30Z"), "2026-01-10T12:30Z"),
        (Every(hours=6, start="2026-01-01T00:04:59Z"), "2026-01-10T18:04:59Z"),
        (Every(hours=6, start="2026-01-01T00:05Z"), "2026-01-10T12:05Z"),
        (Every(days=1, start="2020-02-29T06:00Z"), "2026-01-11T06:00Z"),
        (Once(start="2020-02-29T06:00Z"), "2026-01-10T12:05Z"),
        (Once(start="2026-01-10T12:01Z"), "2026-01-10T12:05Z"),
    ],
)
def test_a_start_that_has_passed_moves_on(schedule: Schedule, expected: str) -> None:
    assert schedule_params(schedule, now=NOW)["startTime"] == at(expected)


INSTANTS = st.datetimes(min_value=datetime(2000, 1, 1), max_value=datetime(2100, 1, 1), timezones=st.just(UTC))


@given(start=INSTANTS, now=INSTANTS, hours=st.sampled_from([3, 6, 9, 12, 24]))
def test_the_first_slot_is_the_next_one_in_phase(start: datetime, now: datetime, hours: int) -> None:
    interval = hours * 3600
    soonest = int(now.timestamp()) + START_DELAY_SECONDS

    sent = int(schedule_params(Every(hours=hours, start=start), now=now)["startTime"])

    assert (sent - int(start.timestamp())) % interval == 0
    assert sent == int(start.timestamp()) or soonest <= sent < soonest + interval
    assert sent >= soonest


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Every(days=1, end="2026-06-01T00:00+02:00"), "2026-05-31T22:00Z"),
        (Every(days=1, start="2028-02-29T00:00Z"), "2033-02-28T00:00Z"),
        (Once(start="2030-01-01T00:00Z"), "2035-01-01T00:00Z"),
    ],
)
def test_an_end_is_always_sent(schedule: Schedule, expected: str) -> None:
    assert schedule_params(schedule, now=NOW)["endTime"] == at(expected)
    assert DEFAULT_EXPORT_YEARS == 5


def test_an_end_before_the_first_slot_is_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"schedule.end = .*leaves no slot: the first would be 2026-01-11T00"):
        schedule_params(Every(days=1, start="2025-01-01T00:00Z", end="2026-01-10T23:00Z"), now=NOW)


def test_the_log_says_what_was_decided_for_the_user() -> None:
    def text(schedule: Schedule) -> str:
        return schedule_text(schedule, schedule_params(schedule, now=NOW))

    assert text(Every(hours=6)) == (
        "every 6 hours from 2026-01-10T12:05:00Z to 2031-01-10T12:05:00Z (end not given: 5 years)"
    )
    assert text(Every(hours=24, start="2026-01-01T00:00Z", end="2027-01-01T00:00Z")) == (
        "daily from 2026-01-11T00:00:00Z to 2027-01-01T00:00:00Z (start given as 2026-01-01T00:00:00Z)"
    )
    assert text(Once(start="2026-02-01T00:00Z", end="2027-01-01T00:00Z")) == (
        "once from 2026-02-01T00:00:00Z to 2027-01-01T00:00:00Z"
    )


# Folder template


@pytest.mark.parametrize(
    "text",
    [
        "%DESTINATION%_%DATASET_ID%_%DATETIME(YYYYMMdd_HHmmss)%",
        "%DESTINATION_NAME%_%DATASET_ID%_%DATASET_NAME%_%DATETIME(YYYYMMdd_HHmmss)%",
        "%DATASET_NAME%/%EXPORT_TIME%",
        "%SANDBOX_NAME%/%ORGANIZATION_NAME%/%DESTINATION_INSTANCE_ID%/%DESTINATION_INSTANCE_NAME%",
        "plain..name/day=1",
        "{{ dag.dag_id }}/%WHATEVER%",
    ],
)
def test_folder_templates_of_known_macros(text: str) -> None:
    check_folder_template(text)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("%SEGMENT_NAME%/x", "%SEGMENT_NAME% is none of Adobe's macros: %DESTINATION%, "),
        ("%dataset_id%", "is none of Adobe's macros"),
        ("%DATETIME()%", "is none of Adobe's macros"),
        ("%DATETIME%", "is none of Adobe's macros"),
        ("a%%b", "is none of Adobe's macros"),
        ("100%", "is part of no macro"),
        ("%DATASET_ID%_%", "is part of no macro"),
        ("a/../b", "must not hold .."),
        ("..", "must not hold .."),
        (" ", "not empty"),
        (3, "must be a text"),
    ],
)
def test_other_folder_templates_are_refused(text: Any, rule: str) -> None:
    with pytest.raises(InvalidArgument, match=rule):
        check_folder_template(text)


# What a dataflow has now

FOUND = {
    "interval": 6,
    "timeUnit": "hour",
    "exportMode": "FIRST_FULL_THEN_INCREMENTAL",
    "startTime": at("2026-01-01T00:00Z"),
    "endTime": at("2030-01-01T00:00Z"),
    "foldernameTemplate": "%DATASET_ID%/%EXPORT_TIME%",
    "foundryAlias": "kept",
}


@pytest.mark.parametrize(
    ("schedule", "folder", "found"),
    [
        (Every(hours=6), None, FOUND),
        (Every(hours=6), None, FOUND | {"interval": "6", "timeUnit": "HOUR"}),
        (Every(hours=24), None, FOUND | {"interval": 24}),
        (Every(days=1), None, FOUND | {"interval": 24}),
        (Every(hours=24), None, FOUND | {"interval": "1", "timeUnit": "day"}),
        (Every(hours=6, start="2025-06-01T18:00Z"), None, FOUND),
        (Every(hours=6, start="2026-01-08T06:00Z", end="2030-01-01T01:00+01:00"), "%DATASET_ID%/%EXPORT_TIME%", FOUND),
        (Every(hours=6), None, {name: value for name, value in FOUND.items() if name != "foldernameTemplate"}),
        (Every(hours=6), "%DATASET_ID%/%EXPORT_TIME%", {**FOUND, "foldernameTemplate": ""}),
        (Every(hours=6), "%DATASET_NAME%", {**FOUND, "folderNameTemplate": "%DATASET_NAME%"}),
        (
            Once(start="2025-01-01T00:00Z"),
            None,
            FOUND | {"interval": 0, "timeUnit": "day", "exportMode": "DAILY_FULL_EXPORT"},
        ),
    ],
)
def test_what_fulfils_the_users_wishes_is_no_difference(schedule: Schedule, folder: str | None, found: Any) -> None:
    assert schedule_differences(schedule, folder, found, NOW) == []
    assert schedule_differences(schedule, folder, found) == []


@pytest.mark.parametrize(
    ("schedule", "folder", "found", "expected"),
    [
        (Every(hours=3), None, FOUND, [("interval", "3", "6")]),
        (Every(days=1), None, FOUND, [("interval", "1", "6"), ("timeUnit", "day", "hour")]),
        (
            Once(),
            None,
            FOUND,
            [
                ("interval", "0", "6"),
                ("timeUnit", "day", "hour"),
                ("exportMode", "DAILY_FULL_EXPORT", "FIRST_FULL_THEN_INCREMENTAL"),
            ],
        ),
        (
            Every(hours=6),
            None,
            {"interval": 6, "timeUnit": "hour"},
            [("exportMode", "FIRST_FULL_THEN_INCREMENTAL", "none")],
        ),
        (
            Every(hours=6, start="2026-01-01T01:00+00:00"),
            None,
            FOUND,
            [("startTime", "2026-01-01T01:00:00Z", "2026-01-01T00:00:00Z")],
        ),
        (
            Every(hours=6, start="2026-02-01T00:00Z"),
            None,
            FOUND,
            [("startTime", "2026-02-01T00:00:00Z", "2026-01-01T00:00:00Z")],
        ),
        (
            Every(hours=6, end="2027-01-01T00:00Z"),
            None,
            FOUND,
            [("endTime", "2027-01-01T00:00:00Z", "2030-01-01T00:00:00Z")],
        ),
        (
            Every(hours=6, end="2027-01-01T00:00Z"),
            None,
            {**FOUND, "endTime": None},
            [("endTime", "2027-01-01T00:00:00Z", "none")],
        ),
        (
            Every(hours=6),
            "%EXPORT_TIME%",
            FOUND,
            [("foldernameTemplate", "%EXPORT_TIME%", "%DATASET_ID%/%EXPORT_TIME%")],
        ),
        (Every(hours=6), None, {**FOUND, "foldernameTemplate": "x"}, [("foldernameTemplate", "none", "x")]),
        (Every(hours=6), "x", {**FOUND, "foldernameTemplate": None}, [("foldernameTemplate", "x", "none")]),
        (
            Once(start="2026-01-02T00:00Z"),
            None,
            FOUND | {"interval": 0, "timeUnit": "day", "exportMode": "DAILY_FULL_EXPORT"},
            [("startTime", "2026-01-02T00:00:00Z", "2026-01-01T00:00:00Z")],
        ),
        (Every(hours=6), None, {**FOUND, "interval": "often"}, [("interval", "6", "often")]),
    ],
)
def test_differences_show_what_was_wanted_and_found(
    schedule: Schedule, folder: str | None, found: Any, expected: list[tuple[str, str, str]]
) -> None:
    assert schedule_differences(schedule, folder, found, NOW) == expected


@pytest.mark.parametrize(
    "schedule",
    [Every(hours=3), Every(days=1, start="2025-01-01T07:00+02:00"), Every(hours=9, end="2027-01-01T00:00Z"), Once()],
)
def test_what_was_just_sent_is_no_difference_later(schedule: Schedule) -> None:
    sent = schedule_params(schedule, now=NOW, folder_template="%DATASET_ID%")

    for later in (NOW, NOW + timedelta(days=100)):
        assert schedule_differences(schedule, "%DATASET_ID%", sent, later) == []


# Putting it right


def test_an_update_keeps_what_the_user_did_not_speak_about() -> None:
    assert merged_params(Every(hours=12), None, FOUND, NOW) == FOUND | {"interval": 12}
    assert merged_params(Every(hours=6, start="2026-01-08T18:00Z"), None, FOUND, NOW) == FOUND


def test_an_update_takes_out_folders_that_the_user_does_not_want_any_more() -> None:
    for member in ("foldernameTemplate", "folderNameTemplate"):
        found = {"interval": 6, "timeUnit": "hour", "startTime": 7, member: "x"}
        assert member not in merged_params(Every(hours=6), None, found, NOW)


@pytest.mark.parametrize("end", [None, at("2026-01-10T11:59Z"), at("2025-01-01T00:00Z")])
def test_an_export_that_ended_gets_a_new_end(end: int | None) -> None:
    merged = merged_params(Every(hours=6), None, {**FOUND, "endTime": end}, NOW)

    assert merged["endTime"] == at("2031-01-10T12:00Z")
    assert merged["startTime"] == FOUND["startTime"]


def test_an_update_writes_what_the_user_gave() -> None:
    schedule = Every(days=1, start="2026-01-05T03:00Z", end="2028-01-01T00:00Z")

    assert merged_params(schedule, "%EXPORT_TIME%", FOUND, NOW) == FOUND | {
        "interval": 1,
        "timeUnit": "day",
        "startTime": at("2026-01-11T03:00Z"),
        "endTime": at("2028-01-01T00:00Z"),
        "foldernameTemplate": "%EXPORT_TIME%",
    }


def test_an_update_uses_the_spelling_that_the_dataflow_has() -> None:
    found = {"interval": 6, "timeUnit": "hour", "folderNameTemplate": "old"}

    merged = merged_params(Every(hours=6), "%DATASET_ID%", found, NOW)

    assert merged["folderNameTemplate"] == "%DATASET_ID%"
    assert "foldernameTemplate" not in merged
    assert merged["startTime"] == at("2026-01-10T12:05Z")


def test_a_repeated_export_that_becomes_a_single_one_starts_anew() -> None:
    assert merged_params(Once(), None, FOUND, NOW)["startTime"] == at("2026-01-10T12:05Z")
    single = merged_params(Once(), None, FOUND, NOW)
    assert merged_params(Once(), "%DATASET_NAME%", single, NOW + timedelta(days=1))["startTime"] == single["startTime"]


@given(
    interval=st.sampled_from([3, 6, 9, 12, 24]),
    start=st.none() | INSTANTS,
    found_start=st.none() | INSTANTS,
    found_interval=st.sampled_from([0, 1, 3, "6", None]),
)
def test_after_an_update_no_difference_is_left(
    interval: int, start: datetime | None, found_start: datetime | None, found_interval: Any
) -> None:
    found = {
        "interval": found_interval,
        "timeUnit": "hour",
        "startTime": found_start and int(found_start.timestamp()),
        "folderNameTemplate": "x",
    }
    schedule = Every(hours=interval, start=start)

    for folder in ("%DATASET_ID%", None):
        merged = merged_params(schedule, folder, found, NOW)

        assert schedule_differences(schedule, folder, merged, NOW) == []
        assert merged["endTime"] > max(merged["startTime"], NOW.timestamp())
