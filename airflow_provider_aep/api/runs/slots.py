"""Which slot of Adobe's schedule a DAG run waits for.

Slots are those of the dataflow as it is now: its start, and every interval after it, up to its end. Only Adobe's clock
and Adobe's schedule count; Airflow only says when a DAG run is due. Times are in milliseconds since 1970 UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from airflow_provider_aep.schedules import end_seconds, interval_seconds, start_seconds


class DagRunWindow(NamedTuple):
    """A DAG run's own time: from when it is due until the next DAG run is; None if there is no next one."""

    start_ms: int
    end_ms: int | None = None


class RunSelector(NamedTuple):
    """Which run to wait for: the earliest one created at or after `since_ms` and before `until_ms`.

    `missing` says why Adobe has no such slot; if `until_ms` is set all the same, a run that an earlier schedule made in
    that time will do. `next_ms` is the first slot after this one.
    """

    since_ms: int
    until_ms: int | None = None
    next_ms: int | None = None
    missing: str = ""


class Calendar(NamedTuple):
    """The slots of a dataflow; an interval of 0 means a single slot, without an end."""

    start_ms: int
    interval_ms: int
    end_ms: int | None

    @classmethod
    def of(cls, schedule: Mapping[str, Any]) -> Calendar | None:
        """The slots of Adobe's `scheduleParams`; None without a start, or an interval in hours or days."""
        start, interval, end = start_seconds(schedule), interval_seconds(schedule), end_seconds(schedule)
        if start is None or interval is None:
            return None
        return cls(start * 1000, interval * 1000, None if end is None else end * 1000)

    def slot_from(self, moment_ms: int) -> int | None:
        """The first slot at or after a moment; None after the last one."""
        slot = self.start_ms
        if moment_ms > slot:
            if not self.interval_ms:
                return None
            slot += -(-(moment_ms - slot) // self.interval_ms) * self.interval_ms
        return None if self.end_ms is not None and slot >= self.end_ms else slot

    def slot_until(self, moment_ms: int) -> int | None:
        """The last slot at or before a moment; None before the first one."""
        last_ms = moment_ms if self.end_ms is None else min(moment_ms, self.end_ms - 1)
        if last_ms < self.start_ms:
            return None
        return last_ms - (last_ms - self.start_ms) % self.interval_ms if self.interval_ms else self.start_ms


def selector_for(schedule: Mapping[str, Any], window: DagRunWindow, changed_ms: int = 0) -> RunSelector:
    """The run of a DAG run's slot: the first slot in its window, up to the next slot.

    Windows of one DAG do not overlap, so no two of its DAG runs have the same slot. The window itself stands for the
    slot if Adobe shows no schedule, or if the window was over when the schedule was changed (`changed_ms`).
    """
    calendar = Calendar.of(schedule)
    if calendar is None:
        return RunSelector(window.start_ms, window.end_ms, window.end_ms)
    if window.end_ms is not None and window.end_ms <= changed_ms:
        return RunSelector(window.start_ms, window.end_ms, calendar.slot_from(window.end_ms))
    slot = calendar.slot_from(window.start_ms)
    if slot is None:
        return RunSelector(
            window.start_ms, missing=f"its last slot was before {when(window.start_ms)}" + _end(calendar)
        )
    if window.end_ms is not None and slot >= window.end_ms:
        time_text = f"this DAG run's time is {when(window.start_ms)} to {when(window.end_ms)}"
        if slot > calendar.start_ms:
            why = f"Adobe has no slot in that time: {time_text}"
            return RunSelector(window.start_ms, next_ms=slot, missing=why)
        # An earlier schedule made any run of that time, and no slot of this one can claim it.
        why = f"its first slot is later: {time_text}"
        return RunSelector(window.start_ms, window.end_ms, slot, why)
    if not calendar.interval_ms:
        return RunSelector(slot)
    return RunSelector(slot, slot + calendar.interval_ms, calendar.slot_from(slot + 1))


def one_time_selector(schedule: Mapping[str, Any]) -> RunSelector | None:
    """The only slot of a `Once()` export; None if the schedule repeats."""
    calendar = Calendar.of(schedule)
    return RunSelector(calendar.start_ms) if calendar and not calendar.interval_ms else None


def fingerprint(schedule: Mapping[str, Any]) -> list[int | None]:
    """[start, interval, end] in seconds, as JSON; if it changes, the slots move and a task must select again."""
    return [start_seconds(schedule), interval_seconds(schedule), end_seconds(schedule)]


def when(moment_ms: int) -> str:
    """A moment for a reader: "2026-01-01T00:30:00Z"."""
    return datetime.fromtimestamp(moment_ms / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _end(calendar: Calendar) -> str:
    return f"; it ends at {when(calendar.end_ms)}" if calendar.end_ms is not None else ""
