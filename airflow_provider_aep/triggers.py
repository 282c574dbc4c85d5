"""The wait for a flow run in the triggerer: it only reads, shares one poll with others, and ends by its deadline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from airflow.providers.common.compat.sdk import conf
from airflow.sdk.execution_time.xcom import XCom
from airflow.triggers.base import BaseTrigger, TaskSuccessEvent, TriggerEvent
from asgiref.sync import sync_to_async

from airflow_provider_aep.api.entities import DataflowId, FlowRun, FlowRunId, is_known_status
from airflow_provider_aep.api.runs.selection import ended_text, run_text, seen_text
from airflow_provider_aep.errors import AepError, ReplyError
from airflow_provider_aep.hooks import AepHook
from airflow_provider_aep.run_poller import subscribe
from airflow_provider_aep.subscription import Subscription, WaitIsOver

__all__ = ["AepDataflowRunTrigger"]

#: How long a trigger may still look that is loaded after its deadline, as after a long outage of the triggerer.
LAST_LOOK_SECONDS = 15
#: While nothing changes, a wait logs a sign of life this often.
SIGN_OF_LIFE_SECONDS = 3600.0
#: Even a `poke_interval` of nothing must not become a poll that never pauses.
SHORTEST_POLL_SECONDS = 1


class AepDataflowRunTrigger(BaseTrigger):
    """Waits for a flow run: the given one, or the earliest created at or after `after_ms`.

    All arguments are JSON. `after_ms` and `until_ms` (before which the run must be created) are in milliseconds since
    1970 UTC, `schedule` is the `slots.fingerprint` that the task saw, `deadline` is in seconds since 1970 UTC,
    `poll_seconds` is the longest time between two polls; the shortest is `[aep] poll_floor_seconds`. `succeed_on` lists
    outcomes ("success", "empty" …) that end the task here, without a worker. `carry` comes back in the event as it is;
    `dag.test()` would lose what `defer(kwargs=…)` is given.

    Yields one event: {"version": 1, "status": …, "carry": {…}} with "ended" and "run", "timeout" and "seen", "look",
    "why" and "deadline" (the dataflow or the slot has changed: the task decides anew), "error" and "error" (see
    `ReplyError.as_event`), or "invalid" and "error" (a text). Nothing is created, changed or cancelled
    at Adobe, whatever becomes of the task: Adobe has no call that cancels a run.

    Source: GET /runs, https://developer.adobe.com/experience-platform-apis/references/destinations/
    """

    def __init__(
        self,
        *,
        aep_conn_id: str,
        dataflow_id: str,
        deadline: float,
        sandbox_name: str | None = None,
        run_id: str | None = None,
        after_ms: int = 0,
        until_ms: int | None = None,
        schedule: list[int | None] | None = None,
        poll_seconds: float = 60,
        succeed_on: list[str] | None = None,
        push_result: bool = True,
        carry: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow's is not typed
        self.aep_conn_id = aep_conn_id
        self.dataflow_id = dataflow_id
        self.deadline = deadline
        self.sandbox_name = sandbox_name
        self.run_id = run_id
        self.after_ms = after_ms
        self.until_ms = until_ms
        self.schedule = schedule
        self.poll_seconds = poll_seconds
        self.succeed_on = succeed_on
        self.push_result = push_result
        self.carry = carry

    def serialize(self) -> tuple[str, dict[str, Any]]:
        names = (
            "aep_conn_id",
            "dataflow_id",
            "deadline",
            "sandbox_name",
            "run_id",
            "after_ms",
            "until_ms",
            "schedule",
            "poll_seconds",
            "succeed_on",
            "push_result",
            "carry",
        )
        kind = type(self)
        return f"{kind.__module__}.{kind.__qualname__}", {name: getattr(self, name) for name in names}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        yield await self._event()

    async def _event(self) -> TriggerEvent:
        self._seen: FlowRun | None = None
        seconds_left = self.deadline - time.time()
        try:
            async with asyncio.timeout(seconds_left if seconds_left > 0 else LAST_LOOK_SECONDS) as limit:
                run = await self._ended_run()
        except TimeoutError:
            if not limit.expired():  # another one, such as that of a look-up
                raise
            seen = seen_text(self.dataflow_id, self.after_ms, self.until_ms, self._seen)
            return self._told(status="timeout", seen=seen)
        except WaitIsOver as over:
            return self._told(status="look", why=str(over), deadline=self.deadline)
        except ReplyError as error:
            return self._told(status="error", error=error.as_event())
        except AepError as error:  # from the connection, which another try would find as wrong
            return self._told(status="invalid", error=str(error))
        if run.outcome in (self.succeed_on or ()) and (not self.push_result or await self._push(run.summary())):
            return TaskSuccessEvent()
        return self._told(status="ended", run=run.as_event())

    async def _push(self, result: dict[str, Any]) -> bool:
        """Push what the task returns, as a worker would. Returns whether that was possible; if not, a worker has to.

        The scheduler would store what a `TaskSuccessEvent` carries as JSON text, which comes back as text.
        """
        ti = self.task_instance
        if ti is None:  # `dag.test()`
            return False
        try:
            await sync_to_async(XCom.set)(
                key="return_value",
                value=result,
                dag_id=ti.dag_id,
                task_id=ti.task_id,
                run_id=ti.run_id,
                map_index=-1 if ti.map_index is None else ti.map_index,
            )
        except Exception as error:
            self.log.info("the triggerer cannot push the result (%s); a worker does", type(error).__name__)
            return False
        return True

    def _told(self, **payload: object) -> TriggerEvent:
        payload = {"version": 1, **payload, "carry": self.carry}
        return TriggerEvent(payload)  # type: ignore[no-untyped-call]  # Airflow's is not typed

    async def _ended_run(self) -> FlowRun:
        floor_seconds = conf.getfloat("aep", "poll_floor_seconds", fallback=60.0)
        if time.time() >= self.deadline:
            floor_seconds = SHORTEST_POLL_SECONDS  # the last look may not take until the next poll of all others
        async with subscribe(
            AepHook(self.aep_conn_id, sandbox_name=self.sandbox_name),
            dataflow_id=DataflowId(self.dataflow_id),
            run_id=FlowRunId(self.run_id) if self.run_id else None,
            since_ms=self.after_ms,
            until_ms=self.until_ms,
            schedule=self.schedule,
            floor_seconds=floor_seconds,
            ceiling_seconds=max(self.poll_seconds, SHORTEST_POLL_SECONDS),
        ) as subscription:
            while True:
                news = await self._news(subscription)
                if isinstance(news, str):
                    self.log.warning("%s", news)
                    continue
                self._seen = run = news
                if run.has_ended:
                    self.log.info("%s", ended_text(run))
                    return run
                state = run.raw_status or "no status yet"
                if is_known_status(run.raw_status):
                    self.log.info("flow run %s of dataflow %s: %s", run.id, run.dataflow_id, state)
                else:
                    self.log.warning("flow run %s has a status that Adobe does not document: %r", run.id, state)

    async def _news(self, subscription: Subscription) -> FlowRun | str:
        """The next change; a sign of life once an hour until it comes."""
        while True:
            try:
                async with asyncio.timeout(SIGN_OF_LIFE_SECONDS) as sign:
                    return await subscription.next_change()
            except TimeoutError:
                if not sign.expired():
                    raise
                self.log.info("still waiting for %s; %s", self._awaited(), subscription.age_text())

    def _awaited(self) -> str:
        if self._seen:
            return f"flow run {self._seen.id} ({self._seen.raw_status or 'no status yet'})"
        return f"a {run_text(self.dataflow_id, self.after_ms, self.until_ms)}"
