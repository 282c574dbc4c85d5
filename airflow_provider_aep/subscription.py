"""A trigger's place in a poller: for which run it waits, how often it wants a poll, and what it is notified of."""

from __future__ import annotations

import asyncio

from airflow_provider_aep.api.entities import Dataflow, DataflowId, FlowRun, FlowRunId
from airflow_provider_aep.api.runs.index import PendingRun
from airflow_provider_aep.api.runs.selection import why_no_run
from airflow_provider_aep.api.runs.slots import fingerprint

_GROWTH = 0.1  # a wait that has lasted an hour is polled every six minutes, if its ceiling allows


class WaitIsOver(Exception):
    """The run may never come; the task has to look and decide."""


class Subscription(PendingRun):
    """A pending run that one trigger waits for."""

    __slots__ = (
        "_has_changed",
        "_waiter",
        "ceiling_seconds",
        "floor_seconds",
        "notice",
        "over",
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
        self.notice = ""  # that an outage has begun or ended
        self.over = ""  # why no run may come
        self.polled_at = subscribed_at  # when Adobe last answered
        self.floor_seconds = min(floor_seconds, ceiling_seconds)
        self.ceiling_seconds = ceiling_seconds
        self.subscribed_at = subscribed_at  # seconds, by the loop's clock
        self._has_changed = False
        self._waiter: asyncio.Future[None] | None = None

    async def next_change(self) -> FlowRun | str:
        """Wait for a change: the run, once it is another one or in another state than at the last call, or a notice.

        Raises:
            WaitIsOver: no run may come.
            ReplyError: Adobe refuses the poll again and again, or what this subscription asks for.
        """
        while not (self._has_changed or self.notice):
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        if self.notice:
            notice, self.notice = self.notice, ""
            return notice
        self._has_changed = False
        if self.over:
            raise WaitIsOver(self.over)
        if self.error and not (self.run and self.run.has_ended):
            raise self.error.with_traceback(None)  # one error may be raised in many tasks
        assert self.run
        return self.run

    def notify(self) -> None:
        self._has_changed = True
        self.wake()

    def wake(self) -> None:
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)

    def age_text(self) -> str:
        """For a sign of life in the log: how long the wait has lasted, and when Adobe last answered."""
        now = asyncio.get_running_loop().time()
        return f"for {now - self.subscribed_at:.0f} s, Adobe last answered {now - self.polled_at:.0f} s ago"

    def why_over(self, dataflow: Dataflow | None, now_ms: int, visibility_ms: int) -> str:
        """Why the task has to look whether its run will ever come, or ""."""
        if dataflow is None:
            return f"dataflow {self.dataflow_id} is gone"
        if self.schedule is not None and fingerprint(dataflow.schedule) != self.schedule:
            return f"the schedule of dataflow {self.dataflow_id} was changed"
        end = why_no_run(
            dataflow, since_ms=self.since_ms, until_ms=self.until_ms, now_ms=now_ms, visibility_ms=visibility_ms
        )
        return f"dataflow {self.dataflow_id}: {end.why}" if end else ""

    def poll_delay(self, now: float, now_ms: float, usual_ms: int) -> float:
        """Seconds to the next poll that this subscription wants: a tenth of its age, between floor and ceiling.

        Not later than the moment from which its run can exist, or at which it has taken as long as the last run of its
        dataflow; around that moment, the floor.
        """
        passed = now - self.subscribed_at
        if self.run is None:
            seconds = max(passed * _GROWTH, (self.since_ms - now_ms) / 1000)
        else:
            age = (now_ms - self.run.created_ms) / 1000
            passed = max(passed, age)
            seconds = passed * _GROWTH
            left = usual_ms / 1000 - age
            if usual_ms and left > -usual_ms / 1000 * _GROWTH:
                seconds = min(seconds, left)
        return min(max(seconds, self.floor_seconds), self.ceiling_seconds)
