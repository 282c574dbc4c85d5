"""What sensors and operators share when they wait for a flow run: since when, until when, and what its end means."""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException

from airflow_provider_aep.api.errors import AepError, FlowRunFailed, InvalidExport, PlatformUnavailable, ReplyError
from airflow_provider_aep.arguments import entity_id, moment_ms

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_provider_aep.api.entities import FlowRun
    from airflow_provider_aep.arguments import Decision
    from airflow_provider_aep.hooks import AepHook
    from airflow_provider_aep.triggers import AepDataflowRunTrigger

log = logging.getLogger(__name__)

#: Given to Airflow's own time-out on top of the trigger's, which should always be the one that ends the wait.
BACKSTOP_SECONDS = 300


class WaitTimeout(AepError):
    """The awaited run had not ended at the deadline. Trying again waits again."""

    is_final = False


class RunWait:
    """One wait of a task: for which run, what was seen of it, and what the user wants to happen at its end.

    `task` has the arguments of `AepDataflowRunSensor` that bear on it.

    Raises:
        InvalidExport: an ID is empty or `after` is no moment.
    """

    def __init__(self, task: Any, dataflow_id: object, run_id: object = None) -> None:
        self.dataflow_id = entity_id("dataflow_id", dataflow_id)
        self.run_id = None if run_id is None else entity_id("run_id", run_id)
        self.after_ms = moment_ms("after", task.after)
        self.aep_conn_id: str = task.aep_conn_id
        self.sandbox_name: str | None = task.sandbox_name
        self.poll_seconds: float = task.poke_interval
        self.decisions: dict[str, Decision] = {
            "success": "succeed",
            "empty": task.on_empty,
            "partial": task.on_partial,
            "failed": task.on_failed,
        }
        self.seen: FlowRun | None = None

    def look(self, hook: AepHook) -> FlowRun | None:
        """Ask once, with one request or a page of them; the run if it has ended. A run once found is stayed with.

        An outage is no answer: the wait goes on, as it does in the triggerer.
        """
        from airflow_provider_aep.api.entities import DataflowId, FlowRunId
        from airflow_provider_aep.api.procedures import find_run

        run_id = FlowRunId(self.run_id) if self.run_id else None
        try:
            run = hook.run(find_run(DataflowId(self.dataflow_id), run=run_id, since_ms=self.after_ms))
        except PlatformUnavailable as trouble:
            log.warning("%s; the wait goes on", trouble)
            return None
        if run is None:
            return None
        if run.dataflow_id not in ("", self.dataflow_id):
            raise InvalidExport("run_id", run.id, f"is a run of dataflow {run.dataflow_id}, not of {self.dataflow_id}")
        if (run.id, run.raw_status, run.outcome) != self._last_seen():
            log.info("flow run %s: %s", run.id, run.outcome)
        self.run_id, self.seen = run.id, run
        return run if run.has_ended else None

    def _last_seen(self) -> tuple[str, str, str] | None:
        return (self.seen.id, self.seen.raw_status, self.seen.outcome) if self.seen else None

    def __str__(self) -> str:
        """What is waited for, as far as it is known."""
        return f"flow run {self.run_id}" if self.run_id else f"a {_run_text(self.dataflow_id, self.after_ms)}"

    def last_seen(self) -> str:
        return seen_text(self.dataflow_id, self.after_ms, self.seen)

    def finish(self, run: FlowRun) -> dict[str, Any]:
        """The flat dict of a run that has ended as it should.

        Raises:
            AirflowFailException: it has not; waiting again would find the same run, so Airflow need not retry.
            AirflowSkipException: the user wants such a run to skip the task.
        """
        decision = self.decisions.get(run.outcome, "fail")
        if decision == "succeed":
            return run.summary()
        why = {
            "failed": "has failed",
            "partial": f"has exported a part only (on_partial={decision!r})",
            "empty": f"has exported nothing (on_empty={decision!r})",
        }.get(run.outcome, "has ended in a state that this provider does not know")
        failure = FlowRunFailed(run, why)
        if decision == "skip":
            raise AirflowSkipException(str(failure)) from failure
        raise AirflowFailException(str(failure)) from failure

    def trigger(
        self,
        *,
        deadline: float,
        end_in_triggerer: bool = False,
        push_result: bool = True,
        carry: dict[str, Any] | None = None,
    ) -> AepDataflowRunTrigger:
        """The same wait for the triggerer; `deadline` in seconds since 1970 UTC."""
        from airflow_provider_aep.triggers import AepDataflowRunTrigger

        succeed_on = [outcome for outcome, decision in self.decisions.items() if decision == "succeed"]
        return AepDataflowRunTrigger(
            aep_conn_id=self.aep_conn_id,
            sandbox_name=self.sandbox_name,
            dataflow_id=self.dataflow_id,
            run_id=self.run_id,
            after_ms=self.after_ms,
            deadline=deadline,
            poll_seconds=self.poll_seconds,
            succeed_on=succeed_on if end_in_triggerer else None,
            push_result=push_result,
            carry=carry,
        )


def seen_text(dataflow_id: str, after_ms: int, run: FlowRun | None) -> str:
    """What was last seen, for whoever is woken by a time-out, and where to look next."""
    if run:
        return f"flow run {run.id} of dataflow {dataflow_id} was last seen with {run.raw_status or 'no status'!r}"
    return (
        f"there is no {_run_text(dataflow_id, after_ms)}; look in Adobe whether the dataflow is enabled "
        "and its schedule has begun and not ended"
    )


def _run_text(dataflow_id: str, after_ms: int) -> str:
    since = datetime.fromtimestamp(after_ms / 1000, UTC).isoformat(timespec="seconds")
    return f"run of dataflow {dataflow_id}" + (f" created at or after {since}" if after_ms else "")


def read_event(event: Mapping[str, Any] | None) -> FlowRun:
    """The run that a trigger's event tells of.

    Raises:
        WaitTimeout: it had not ended at the deadline.
        ReplyError: Adobe refused the poll.
        AepError: the Airflow connection cannot be right.
        ValueError: the event is none of ours, as after an update of one side only; trying again waits again.
    """
    from airflow_provider_aep.api.entities import FlowRun

    if not event or event.get("version") != 1:
        raise ValueError(f"the trigger's event cannot be read: {event!r}")
    try:
        match event["status"]:
            case "ended":
                return FlowRun.from_event(event["run"])
            case "timeout":
                problem: AepError = WaitTimeout(f"the wait has timed out: {event['seen']}")
            case "error":
                problem = ReplyError.from_event(event["error"])
            case "invalid":
                problem = AepError(event["error"])
            case other:
                raise LookupError(f"unknown status {other!r}")
    except (LookupError, TypeError, ValueError) as error:
        raise ValueError(f"the trigger's event cannot be read ({error!r}): {event!r}") from None
    raise problem


def deadline_after(timeout: float, execution_timeout: timedelta | None) -> float:
    """Seconds since 1970 UTC; `execution_timeout` counts too, which Airflow does not do while a task is deferred."""
    limits = [timeout, *([execution_timeout.total_seconds()] if execution_timeout else [])]
    return time.time() + min(limits)


def backstop(deadline: float) -> timedelta:
    """Airflow's own limit of the deferral, for the case that the trigger cannot keep its deadline."""
    return timedelta(seconds=max(deadline - time.time(), 0) + BACKSTOP_SECONDS)
