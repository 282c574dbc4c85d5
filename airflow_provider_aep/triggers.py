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

from airflow_provider_aep.api.entities import DataflowId, FlowRun, FlowRunId
from airflow_provider_aep.api.runs.selection import run_text, seen_text, state_line
from airflow_provider_aep.errors import AepError, ReplyError
from airflow_provider_aep.hooks import AepHook
from airflow_provider_aep.links import AepDataflowRunLink
from airflow_provider_aep.run_poller import subscribe
from airflow_provider_aep.subscription import NoRunExpected, Subscription

__all__ = ["AepDataflowRunTrigger"]

#: How long a trigger may still look that is loaded after its deadline, as after a long outage of the triggerer.
LAST_LOOK_SECONDS = 15
#: While nothing changes, a wait logs a sign of life this often.
SIGN_OF_LIFE_SECONDS = 3600.0
#: Even a `poke_interval` of nothing must not become a poll that never pauses.
SHORTEST_POLL_SECONDS = 1


class AepDataflowRunTrigger(BaseTrigger):
    """Wait for a flow run: the given one, or the earliest of a dataflow created in a span of time.

    Reads only: Adobe has no call that cancels a run, so nothing changes at Adobe whatever happens to the task. All
    arguments are plain JSON.

    :param aep_conn_id: Airflow connection of type `aep`
    :param dataflow_id: the dataflow
    :param deadline: when the wait times out, in seconds since 1970 UTC
    :param sandbox_name: instead of the connection's
    :param run_id: exactly this run
    :param after_ms: the run is created at or after this, in milliseconds since 1970 UTC
    :param until_ms: … and before this
    :param schedule: `slots.fingerprint` of the schedule by which the task selected the run; a change ends the wait
    :param poll_seconds: the longest time between two polls; the shortest is `[aep] poll_floor_seconds`
    :param succeed_on: outcomes ("success", "empty", …) that end the task in the triggerer, without a worker
    :param push_result: push the run's summary to XCom if the task ends in the triggerer
    :param look_at: only sleep until then, in seconds since 1970 UTC; the task looks again
    :param carry: returned in the event unchanged; `dag.test()` would lose `defer(kwargs=…)`

    Yields one event, {"version": 1, "status": …, "deadline": …, "carry": {…}} with, by status:

    - "ended": "run", see `FlowRun.as_event`
    - "timeout": "seen", a text: what was last seen of the run
    - "look": "why": the dataflow or the slot has changed, or `look_at` has come, so the task must decide again
    - "error": "error", see `ReplyError.as_event`: Adobe refused the polls
    - "invalid": "error", a text: the Airflow connection cannot be right

    `run_wait.read_event` reads it. For an outcome in `succeed_on` it yields Airflow's `TaskSuccessEvent` instead.

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
        look_at: float | None = None,
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
        self.look_at = look_at
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
            "look_at",
            "carry",
        )
        kind = type(self)
        return f"{kind.__module__}.{kind.__qualname__}", {name: getattr(self, name) for name in names}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        yield await self._event()

    async def _event(self) -> TriggerEvent:
        if self.look_at is not None:
            await asyncio.sleep(min(self.look_at, self.deadline) - time.time())
            return self._trigger_event(status="look", why="it is time to ask again")
        self._seen: FlowRun | None = None
        self._linked = self.run_id
        seconds_left = self.deadline - time.time()
        try:
            async with asyncio.timeout(seconds_left if seconds_left > 0 else LAST_LOOK_SECONDS) as limit:
                run = await self._ended_run()
        except TimeoutError:
            if not limit.expired():  # another one, such as that of a look-up
                raise
            seen = seen_text(self.dataflow_id, self.after_ms, self.until_ms, self._seen)
            return self._trigger_event(status="timeout", seen=seen)
        except NoRunExpected as reason:
            return self._trigger_event(status="look", why=str(reason))
        except ReplyError as error:
            return self._trigger_event(status="error", error=error.as_event())
        except AepError as error:  # from the connection, which another try would find as wrong
            return self._trigger_event(status="invalid", error=str(error))
        if run.outcome in (self.succeed_on or ()) and (
            not self.push_result or await self._push("return_value", run.summary())
        ):
            return TaskSuccessEvent()
        return self._trigger_event(status="ended", run=run.as_event())

    async def _push(self, key: str, value: object) -> bool:
        """Push to XCom as a worker would. Returns whether that was possible; if not, a worker has to.

        The scheduler would store what a `TaskSuccessEvent` carries as JSON text, which comes back as text.
        """
        ti = self.task_instance
        if ti is None:  # `dag.test()`
            return False
        try:
            await sync_to_async(XCom.set)(
                key=key,
                value=value,
                dag_id=ti.dag_id,
                task_id=ti.task_id,
                run_id=ti.run_id,
                map_index=-1 if ti.map_index is None else ti.map_index,
            )
        except Exception as error:
            self.log.info("the triggerer cannot push %r (%s); a worker does", key, type(error).__name__)
            return False
        return True

    async def _show_link(self, run_id: str) -> None:
        """Give the page of the deferred task its link to the run; the worker has done so with one that it knew."""
        if run_id == self._linked or self.task_instance is None:
            return
        self._linked = run_id
        try:
            settings = await AepHook(self.aep_conn_id, sandbox_name=self.sandbox_name).asettings()
            link = AepDataflowRunLink()
            if address := link.address(settings, self.dataflow_id, run_id):
                await self._push(link.xcom_key, address)
        except Exception as error:  # it must not end the wait
            self.log.warning("the task's page lacks a link to Adobe's UI: %r", error)

    def _trigger_event(self, **payload: object) -> TriggerEvent:
        payload = {"version": 1, **payload, "deadline": self.deadline, "carry": self.carry}
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
                update = await self._next_update(subscription)
                if isinstance(update, str):
                    self.log.warning("%s", update)
                    continue
                self._seen = run = update
                level, text = state_line(run)
                self.log.log(level, "%s", text)
                if self.succeed_on or not run.has_ended:  # else a worker follows at once
                    await self._show_link(run.id)
                if run.has_ended:
                    return run

    async def _next_update(self, subscription: Subscription) -> FlowRun | str:
        """The next update; until it comes, log once an hour that the wait goes on."""
        while True:
            try:
                async with asyncio.timeout(SIGN_OF_LIFE_SECONDS) as sign:
                    return await subscription.next_update()
            except TimeoutError:
                if not sign.expired():
                    raise
                self.log.info("still waiting for %s; %s", self._run_text(), subscription.age_text())

    def _run_text(self) -> str:
        if self._seen:
            return f"flow run {self._seen.id} ({self._seen.raw_status or 'no status yet'})"
        return f"a {run_text(self.dataflow_id, self.after_ms, self.until_ms)}"
