"""How often an export runs, what each run carries, and Adobe's `scheduleParams` for it.

Both types are named tuples, for the reason that `destinations` gives: Airflow renders them and finds upstream outputs
in them. Adobe's rules are those of the tutorial, "Create a dataflow", and of the destinations OpenAPI, POST /flows:
https://experienceleague.adobe.com/en/docs/experience-platform/destinations/api/export-datasets
https://developer.adobe.com/experience-platform-apis/references/destinations/
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_provider_aep.destinations import is_literal
from airflow_provider_aep.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self, TypeAlias

    from airflow_provider_aep.destinations import Upstream

    Number: TypeAlias = int | str | Upstream | None
    Instant: TypeAlias = datetime | str | Upstream | None

__all__ = [
    "DEFAULT_EXPORT_YEARS",
    "START_DELAY_SECONDS",
    "Every",
    "Once",
    "Schedule",
    "check_folder_template",
    "end_seconds",
    "folders_of",
    "interval_seconds",
    "merged_params",
    "schedule_differences",
    "schedule_params",
    "schedule_text",
    "start_seconds",
]

#: How long after its start an export ends if the user names no end. Adobe would end it six months after its creation,
#: in silence, so an end is always sent.
DEFAULT_EXPORT_YEARS = 5
#: The nearest start that is sent: Adobe does not say what it does with a start that has passed.
START_DELAY_SECONDS = 300
#: Where files land below the path without a folder template. Source: tutorial, "Verify successful dataset export".
DEFAULT_FOLDERS = "%DATASET_ID%/%EXPORT_TIME%"

_HOURS = (3, 6, 9, 12)
_NOT_RENDERED = "is still a template or an upstream output: Airflow has not rendered it"


class Every(NamedTuple("Every", [("hours", Any), ("days", Any), ("start", Any), ("end", Any)])):
    """A full export first, then what is new: Every(hours=3), 6, 9 or 12, or daily as Every(days=1) or Every(hours=24).

    `start` and `end` are datetimes with a zone, ISO 8601 texts with one, or templates. Slots are counted from `start`
    in UTC, so a daily export does not follow a change to summer time. Without `start` the first slot is five minutes
    after the dataflow is created; a start that has passed (or is nearer than that) moves on by whole intervals. Without
    `end` the export ends `DEFAULT_EXPORT_YEARS` later.

    Raises:
        InvalidArgument: an interval that Adobe does not offer, or a time without a zone or in the wrong order.
    """

    __slots__ = ()

    def __new__(cls, hours: Number = None, days: Number = None, start: Instant = None, end: Instant = None) -> Self:
        if (hours is None) == (days is None):
            raise InvalidArgument(
                "schedule", f"Every(hours={hours!r}, days={days!r})", "give hours or days, one of them"
            )
        hours = _hours(hours) if is_literal(hours) else hours
        days = _days(days) if is_literal(days) else days
        _check_times(start, end)
        return super().__new__(cls, hours, days, start, end)


class Once(NamedTuple("Once", [("start", Any), ("end", Any)])):
    """One full export: at `start`, or five minutes after the dataflow is created where that is missing or has passed.

    `start` and `end` as for `Every`.
    """

    __slots__ = ()

    def __new__(cls, start: Instant = None, end: Instant = None) -> Self:
        _check_times(start, end)
        return super().__new__(cls, start, end)


Schedule = Every | Once


def schedule_params(schedule: Schedule, *, now: datetime, folder_template: str | None = None) -> dict[str, str | int]:
    """The `scheduleParams` of a new dataflow, times in seconds since 1970 UTC.

    {"interval": 3, "timeUnit": "hour", "exportMode": "FIRST_FULL_THEN_INCREMENTAL", "startTime": 1675901210,
    "endTime": 1833667610}, and "foldernameTemplate" with a folder template. `now` has a zone.

    Raises:
        InvalidArgument: not a schedule, still a template, or no slot is left before the end.
    """
    params: dict[str, str | int] = {**_frequency(schedule), **_times(schedule, now, None, None)}
    if folder_template is not None:
        # The tutorial's spelling; the OpenAPI document writes folderNameTemplate.
        params["foldernameTemplate"] = _rendered_template(folder_template)
    return params


def merged_params(
    schedule: Schedule, folder_template: str | None, found: Mapping[str, Any], now: datetime
) -> dict[str, Any]:
    """The whole `scheduleParams` for an update: ours over those that the dataflow has now (`found`).

    Whole, since Adobe does not say whether a PATCH of a part drops the rest. Members that we do not know are kept, and
    so are start and end if the user named none; an end that has passed or was never set becomes the default. A start
    that has passed is kept too, as in Adobe's own PATCH sample, unless a repeated export becomes a one-time one. No
    folder template means Adobe's default, so another one is removed.
    """
    frequency = _frequency(schedule)
    start, end = _seconds(found.get("startTime")), _seconds(found.get("endTime"))
    if start is not None and isinstance(schedule, Once) and found.get("exportMode") != frequency["exportMode"]:
        start = None if start < now.timestamp() else start
    if schedule.start is not None and (start is None or not _same_start(schedule, start, now)):
        start = None
    params = {**found, **frequency, **_times(schedule, now, start, end)}
    if folder_template is not None:
        params[_folder_member(found)] = _rendered_template(folder_template)
    elif folders_of(found) != DEFAULT_FOLDERS:
        del params[_folder_member(found)]
    return params


def schedule_differences(
    schedule: Schedule, folder_template: str | None, found: Mapping[str, Any], now: datetime | None = None
) -> list[tuple[str, str, str]]:
    """Where a dataflow's `scheduleParams` are not as desired: [(member, desired, found)], times in UTC.

    No folder template means Adobe's default folders; start and end count only if the user named them. A start that
    differs by whole intervals (`Every`) or is later (`Once`) is no difference, since a start that had passed was moved
    so; with `now`, a start still ahead must be the very same.
    """
    desired = _frequency(schedule)
    present = _found_frequency(found)
    differences = [(name, str(desired[name]), str(present[name])) for name in desired if desired[name] != present[name]]
    start, end = _seconds(found.get("startTime")), _seconds(found.get("endTime"))
    if schedule.start is not None and (start is None or not _same_start(schedule, start, now)):
        differences.append(("startTime", _text(_epoch("schedule.start", schedule.start)), _text(start)))
    if schedule.end is not None and (desired_end := _epoch("schedule.end", schedule.end)) != end:
        differences.append(("endTime", _text(desired_end), _text(end)))
    folders = DEFAULT_FOLDERS if folder_template is None else _rendered_template(folder_template)
    if folders != folders_of(found):
        present_folders = str(found.get(_folder_member(found)) or "none")
        differences.append(("foldernameTemplate", folder_template or "none", present_folders))
    return differences


def end_seconds(found: Mapping[str, Any]) -> int | None:
    """The end of a dataflow's `scheduleParams`, in seconds since 1970 UTC; None if it has none."""
    return _seconds(found.get("endTime"))


def start_seconds(found: Mapping[str, Any]) -> int | None:
    """The first slot of a dataflow's `scheduleParams`, in seconds since 1970 UTC; None if it has none."""
    return _seconds(found.get("startTime"))


def interval_seconds(found: Mapping[str, Any]) -> int | None:
    """Seconds from slot to slot by a dataflow's `scheduleParams`; 0 for a one-time export, None if Adobe shows none."""
    frequency = _found_frequency(found)
    unit = {"hour": 3600, "day": 86400}.get(str(frequency["timeUnit"]))
    number = frequency["interval"]
    return number * unit if unit and isinstance(number, int) else None


def schedule_text(schedule: Schedule, params: Mapping[str, Any]) -> str:
    """For a log: "every 6 hours from 2026-01-01T00:00:00Z to 2031-01-01T00:00:00Z (end not given: 5 years)"."""
    if isinstance(schedule, Once):
        what = "once"
    else:
        interval = _frequency(schedule)
        what = "daily" if interval["timeUnit"] == "day" else f"every {interval['interval']} hours"
    start, end = _seconds(params.get("startTime")), _seconds(params.get("endTime"))
    notes = []
    if schedule.start is not None and (asked := _epoch("schedule.start", schedule.start)) != start:
        notes.append(f"start given as {_text(asked)}")
    if schedule.end is None:
        notes.append(f"end not given: {DEFAULT_EXPORT_YEARS} years")
    return f"{what} from {_text(start)} to {_text(end)}" + (f" ({'; '.join(notes)})" if notes else "")


# The destinations OpenAPI's list of folder macros and the tutorial's; DESTINATION_NAME stands only in its example.
_MACROS = (
    "DESTINATION",
    "DESTINATION_NAME",
    "DESTINATION_INSTANCE_ID",
    "DESTINATION_INSTANCE_NAME",
    "DATASET_ID",
    "DATASET_NAME",
    "EXPORT_TIME",
    "SANDBOX_NAME",
    "ORGANIZATION_NAME",
)


def check_folder_template(text: str) -> None:
    """Check the template of the folders below a destination's path, such as "%DATASET_NAME%/%EXPORT_TIME%".

    A Jinja template or upstream output passes until it is rendered.

    Raises:
        InvalidArgument: empty, a macro that Adobe does not know, a stray %, or a step up (..).

    Source: destinations OpenAPI, `folderNameTemplate`.
    """
    if not is_literal(text):
        return
    if not isinstance(text, str) or not text.strip():
        raise InvalidArgument("folder_template", text, "must be a text that is not empty")
    if ".." in text.split("/"):
        raise InvalidArgument("folder_template", text, "must not hold .., which would lead out of the path")
    pieces = text.split("%")
    if len(pieces) % 2 == 0:
        raise InvalidArgument("folder_template", text, "holds a % that is part of no macro")
    allowed = ", ".join(f"%{macro}%" for macro in _MACROS) + ", %DATETIME(YYYYMMdd_HHmmss)%"
    for macro in pieces[1::2]:
        form = macro.removeprefix("DATETIME(").removesuffix(")")
        is_datetime = macro == f"DATETIME({form})" and form.translate({95: None, 45: None}).isalpha()
        if macro not in _MACROS and not is_datetime:
            raise InvalidArgument("folder_template", text, f"%{macro}% is none of Adobe's macros: {allowed}")


def _rendered_template(folder_template: str) -> str:
    if not is_literal(folder_template):
        raise InvalidArgument("folder_template", folder_template, _NOT_RENDERED)
    check_folder_template(folder_template)
    return folder_template


def _hours(hours: object) -> int | None:
    number = _number("schedule.hours", hours)
    if number in (None, 24, *_HOURS):
        return number
    rule = "must be 3, 6, 9, 12 or 24"
    if number == 8:
        rule += "; Adobe's user interface offers 3, 6, 8 and 12 hours, but its API takes 9 and refuses 8"
    raise InvalidArgument("schedule.hours", hours, rule)


def _days(days: object) -> int | None:
    number = _number("schedule.days", days)
    if number in (None, 1):
        return number
    raise InvalidArgument("schedule.days", days, "must be 1: Adobe exports daily or every 3, 6, 9 or 12 hours")


def _number(argument: str, value: object) -> int | None:
    """A whole number; a text of digits too, which is what a template renders to."""
    if isinstance(value, str) and value.strip().isascii() and value.strip().isdigit():
        return int(value)
    if value is None or type(value) is int:
        return value
    raise InvalidArgument(argument, value, "must be a whole number")


def _check_times(start: object, end: object) -> None:
    """Check two times as far as they are known: a template or upstream output is not, until it is rendered."""
    start_known, end_known = (value is not None and is_literal(value) for value in (start, end))
    start_seconds = _epoch("schedule.start", start) if start_known else None
    end_seconds = _epoch("schedule.end", end) if end_known else None
    # Compared in seconds: two datetimes of one zone would compare by their wall clocks, wrong across a clock change.
    if start_seconds is not None and end_seconds is not None and end_seconds <= start_seconds:
        raise InvalidArgument("schedule.end", str(end), f"must be later than schedule.start = {start}")


def _epoch(argument: str, value: object) -> int:
    """Seconds since 1970 UTC."""
    example = "a datetime with a zone, or an ISO 8601 text with one such as 2026-01-01T00:00:00Z"
    if isinstance(value, int | float) or (isinstance(value, str) and value.strip().isdigit()):
        raise InvalidArgument(argument, value, f"must be {example}; not a count of seconds or milliseconds")
    instant = value
    if isinstance(value, str):
        try:
            instant = datetime.fromisoformat(value.strip())
        except ValueError:
            raise InvalidArgument(argument, value, f"must be {example}") from None
    if not isinstance(instant, datetime):
        raise InvalidArgument(argument, value, f"must be {example}")
    if instant.utcoffset() is None:
        raise InvalidArgument(argument, str(value), f"has no zone: must be {example}")
    return int(instant.timestamp())


def _frequency(schedule: Schedule) -> dict[str, str | int]:
    """The members that every schedule has.

    Raises:
        InvalidArgument: not a schedule, or still a template.
    """
    if not isinstance(schedule, Every | Once):
        raise InvalidArgument("schedule", schedule, "must be Every(…) or Once(…)")
    for name, value in schedule._asdict().items():
        if not is_literal(value):
            raise InvalidArgument(f"schedule.{name}", value, _NOT_RENDERED)
    if isinstance(schedule, Once):
        return {"interval": 0, "timeUnit": "day", "exportMode": "DAILY_FULL_EXPORT"}
    hours = 24 * schedule.days if schedule.days else schedule.hours
    interval, unit = (1, "day") if hours == 24 else (hours, "hour")
    return {"interval": interval, "timeUnit": unit, "exportMode": "FIRST_FULL_THEN_INCREMENTAL"}


def _found_frequency(found: Mapping[str, Any]) -> dict[str, str | int]:
    """The same members as Adobe returns them: clients send the interval as text, samples of 2023 24 hours for a day."""
    interval = _seconds(found.get("interval"))
    unit = str(found.get("timeUnit") or "none").lower()
    if (interval, unit) == (24, "hour"):
        interval, unit = 1, "day"
    shown = str(found.get("interval", "none")) if interval is None else interval
    return {"interval": shown, "timeUnit": unit, "exportMode": str(found.get("exportMode") or "none")}


def _interval_seconds(schedule: Schedule) -> int | None:
    if isinstance(schedule, Once):
        return None
    frequency = _frequency(schedule)
    return int(frequency["interval"]) * (86400 if frequency["timeUnit"] == "day" else 3600)


def _times(schedule: Schedule, now: datetime, found_start: int | None, found_end: int | None) -> dict[str, int]:
    """Start and end to send; those that the dataflow has stand unless the user named others."""
    now_seconds = int(now.timestamp())
    soonest = now_seconds + START_DELAY_SECONDS
    if found_start is not None:
        start = found_start
    elif schedule.start is None:
        start = soonest
    else:
        start = _epoch("schedule.start", schedule.start)
        if start < soonest:
            interval = _interval_seconds(schedule)
            start = soonest if interval is None else start - (start - soonest) // interval * interval
    if schedule.end is not None:
        end = _epoch("schedule.end", schedule.end)
        if end <= start:
            raise InvalidArgument(
                "schedule.end", str(schedule.end), f"leaves no slot: the first would be {_text(start)}"
            )
    elif found_end is not None and found_end > max(start, now_seconds):
        end = found_end
    else:
        end = _years_later(max(start, now_seconds))
    return {"startTime": start, "endTime": end}


def _years_later(start: int) -> int:
    begin = datetime.fromtimestamp(start, UTC)
    year = begin.year + DEFAULT_EXPORT_YEARS
    try:
        return int(begin.replace(year=year).timestamp())
    except ValueError:  # 29 February
        return int(begin.replace(year=year, day=28).timestamp())


def _same_start(schedule: Schedule, found: int, now: datetime | None) -> bool:
    wanted = _epoch("schedule.start", schedule.start)
    if found == wanted:
        return True
    if now is not None and wanted >= int(now.timestamp()) + START_DELAY_SECONDS:
        return False
    interval = _interval_seconds(schedule)
    return found > wanted if interval is None else (found - wanted) % interval == 0


def _seconds(value: object) -> int | None:
    """A number as Adobe may return it: a number, or a text of digits."""
    if isinstance(value, str) and value.strip().isascii() and value.strip().isdigit():
        return int(value)
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _text(seconds: int | None) -> str:
    if seconds is None:
        return "none"
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def folders_of(found: Mapping[str, Any]) -> str:
    """The folder template of a dataflow's `scheduleParams`, in either spelling, or Adobe's default."""
    return str(found.get(_folder_member(found)) or DEFAULT_FOLDERS)


def _folder_member(found: Mapping[str, Any]) -> str:
    return "folderNameTemplate" if "folderNameTemplate" in found else "foldernameTemplate"
