"""A trigger's place in a poller: the run that it waits for, how often to poll for it, and the updates it gets."""

from __future__ import annotations

import asyncio
import math

from airflow_provider_aep.api.entities import Dataflow, DataflowId, FlowRun, FlowRunId
from airflow_provider_aep.api.runs.index import PendingRun
from airflow_provider_aep.api.runs.selection import why_no_run, why_slot_passed
from airflow_provider_aep.api.runs.slots import fingerprint
from airflow_provider_aep.poll_budget import MINUTE

_GROWTH = 0.1  # a wait that has lasted an hour is polled every six minutes, if its ceiling allows
#: From the moment at which a run usually ends to the poll for it, since Adobe's lists may show the end a little late.
_END_LAG_SECONDS = 5.0
#: Adobe tells its time in whole seconds: a poll at that moment may seem to have come too soon by this.
_CLOCK_SECONDS = 2.0
#: Between two polls while a run cannot exist yet: they only show that all is well. Not for those who want more polls.
_IDLE_SECONDS = 900.0


class NoRunExpected(Exception):
    """The run may never come; the task must look and decide."""


class Subscription(PendingRun):
    """One trigger's place in a poller: its pending run, its polling interval, and the updates it has yet to read."""

    __slots__ = (
        "_has_changed",
        "_reader",
        "ceiling_seconds",
        "floor_seconds",
        "no_run",
        "notice",
        "polled_at",
        "schedule",
        "subscribed_at",
    )

    def __init__(
        self,
        dataflow_id: DataflowId,
        since_ms: int,
        run_id: FlowRunId | None,
        *,
        until_ms: int | None = None,
        schedule: list[int | None] | None = None,
        floor_seconds: float,
        ceiling_seconds: float,
        subscribed_at: float,
    ) -> None:
        super().__init__(dataflow_id, since_ms, run_id, until_ms=until_ms)
        self.schedule = schedule
        self.notice = ""  # an outage has begun or ended
        self.no_run = ""  # why no run may come
        self.polled_at = subscribed_at  # when Adobe last answered
        self.floor_seconds = min(floor_seconds, ceiling_seconds)
        self.ceiling_seconds = ceiling_seconds
        self.subscribed_at = subscribed_at  # seconds, by the loop's clock
        self._has_changed = False
        self._reader: asyncio.Future[None] | None = None

    async def next_update(self) -> FlowRun | str:
        """Wait until the run, or its state, differs from the last update and return it; or the text of a notice.

        Raises:
            NoRunExpected: no run may come.
            ReplyError: Adobe refuses poll after poll, or refuses this run's ID.
        """
        while not (self._has_changed or self.notice):
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        if self.notice:
            notice, self.notice = self.notice, ""
            return notice
        self._has_changed = False
        if self.no_run:
            raise NoRunExpected(self.no_run)
        if self.error and not (self.run and self.run.has_ended):
            raise self.error.with_traceback(None)  # many tasks may raise the same error
        assert self.run
        return self.run

    def wake(self, *, has_changed: bool) -> None:
        """Let `next_update` return: the run has changed, or there is only a notice."""
        self._has_changed |= has_changed
        if self._reader and not self._reader.done():
            self._reader.set_result(None)

    def age_text(self) -> str:
        """For a log: how long the wait has lasted, and when Adobe last answered."""
        now = asyncio.get_running_loop().time()
        return f"for {now - self.subscribed_at:.0f} s, Adobe last answered {now - self.polled_at:.0f} s ago"

    def reason_to_look(self, dataflow: Dataflow | None, now_ms: int, visibility_ms: int) -> str:
        """Why the task must look whether its run will ever come; "" if there is no reason."""
        if dataflow is None:
            return f"dataflow {self.dataflow_id} is gone"
        if self.schedule is not None and fingerprint(dataflow.schedule) != self.schedule:
            return f"the schedule of dataflow {self.dataflow_id} was changed"
        no_run = why_no_run(
            dataflow, since_ms=self.since_ms, until_ms=self.until_ms, now_ms=now_ms, visibility_ms=visibility_ms
        )
        return f"dataflow {self.dataflow_id}: {no_run.why}" if no_run else ""

    def slot_passed(self, now_ms: int, visibility_ms: int) -> str:
        """That the next slot has come while no run was there; "" otherwise."""
        if self.run_id:
            return ""
        why = why_slot_passed(
            since_ms=self.since_ms, until_ms=self.until_ms, now_ms=now_ms, visibility_ms=visibility_ms
        )
        return why and f"dataflow {self.dataflow_id}: {why}"

    def ends_in(self, now_ms: float, usual_ms: int) -> float:
        """Seconds until a poll should see the end of the run, if it takes as long as usual; else, or later, infinite.

        `now_ms` is Adobe's time, `usual_ms` how long the dataflow's last run took.
        """
        if self.run is None:
            return math.inf
        seconds = (self.run.created_ms + usual_ms - now_ms) / 1000 + _END_LAG_SECONDS
        return seconds if seconds > _CLOCK_SECONDS else math.inf

    def poll_delay(self, now: float, now_ms: float, usual_ms: int) -> float:
        """Seconds until the next poll that this run needs: a tenth of the time waited, between floor and ceiling.

        `now` is the loop's time in seconds; for the others see `ends_in` (`usual_ms` is 0 if unknown). A poll is due
        when the run can first exist and when it should end; around then, after the floor.
        """
        waited = now - self.subscribed_at
        if self.run is None:
            seconds = min(waited * _GROWTH, self.ceiling_seconds)
            longest = max(self.ceiling_seconds, _IDLE_SECONDS if self.ceiling_seconds >= MINUTE else 0)
            return max(seconds, min((self.since_ms - now_ms) / 1000, longest), self.floor_seconds)
        age = (now_ms - self.run.created_ms) / 1000
        seconds = max(waited, age) * _GROWTH
        late = age - usual_ms / 1000
        if usual_ms and late < usual_ms / 1000 * _GROWTH:
            seconds = min(seconds, _END_LAG_SECONDS - late)
        return min(max(seconds, self.floor_seconds), self.ceiling_seconds)
