"""What sensors and operators share when they wait for a flow run: since when, until when, and what its end means."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException

from airflow_provider_aep.api.entities import DataflowId, FlowRun, FlowRunId
from airflow_provider_aep.api.errors import AepError, FlowRunFailed, InvalidExport, ReplyError
from airflow_provider_aep.api.procedures import find_run

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_provider_aep.hooks import AepHook
    from airflow_provider_aep.triggers import AepDataflowRunTrigger

Decision = Literal["fail", "succeed", "skip"]

#: Given to Airflow's own time-out on top of the trigger's, which should always be the one that ends the wait.
BACKSTOP_SECONDS = 300


class WaitTimeout(AepError):
    """The awaited run had not ended at the deadline. Trying again waits again."""

    is_final = False


class RunWait(NamedTuple):
    """One wait: where, for which run, and what the user wants to happen at its end. Times as their names say."""

    aep_conn_id: str
    sandbox_name: str | None
    dataflow_id: str
    run_id: str | None
    after_ms: int
    poll_seconds: float
    on_failed: str
    on_partial: str
    on_empty: str

    def look(self, hook: AepHook) -> FlowRun | None:
        """The run as it is now, or None if there is none yet; one request, or a page of them."""
        run_id = FlowRunId(self.run_id) if self.run_id else None
        return hook.run(find_run(DataflowId(self.dataflow_id), run=run_id, since_ms=self.after_ms))

    def decision(self, outcome: str) -> str:
        return {
            "success": "succeed",
            "empty": self.on_empty,
            "partial": self.on_partial,
            "failed": self.on_failed,
        }.get(outcome, "fail")

    def finish(self, run: FlowRun) -> dict[str, Any]:
        """The flat dict of a run that has ended as it should.

        Raises:
            AirflowFailException: it has not; waiting again would find the same run, so Airflow need not retry.
            AirflowSkipException: the user wants such a run to skip the task.
        """
        decision = self.decision(run.outcome)
        if decision == "succeed":
            return run.summary()
        why = {
            "failed": "has failed",
            "partial": "has exported a part only",
            "empty": "has exported nothing",
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

        outcomes = [
            outcome for outcome in ("success", "empty", "partial", "failed") if self.decision(outcome) == "succeed"
        ]
        return AepDataflowRunTrigger(
            aep_conn_id=self.aep_conn_id,
            sandbox_name=self.sandbox_name,
            dataflow_id=self.dataflow_id,
            run_id=self.run_id,
            after_ms=self.after_ms,
            deadline=deadline,
            poll_seconds=self.poll_seconds,
            succeed_on=outcomes if end_in_triggerer else None,
            push_result=push_result,
            carry=carry,
        )


def read_event(event: Mapping[str, Any] | None) -> FlowRun:
    """The run that a trigger's event tells of.

    Raises:
        WaitTimeout: it had not ended at the deadline.
        ReplyError: Adobe refused the poll.
        ValueError: the event is none of ours, as after an update of one side only.
    """
    if not event or event.get("version") != 1:
        raise ValueError(f"the trigger's event cannot be read: {event!r}")
    match event.get("status"):
        case "ended":
            return FlowRun.from_event(event["run"])
        case "timeout":
            raise WaitTimeout(f"the wait has timed out; last seen: {event['seen']}")
        case "error":
            raise ReplyError.from_event(event["error"])
        case "invalid":
            raise AirflowFailException(event["error"])
        case other:
            raise ValueError(f"the trigger's event has an unknown status: {other!r}")


def milliseconds(argument: str, moment: object) -> int:
    """A datetime with a zone, or its ISO 8601 text, as milliseconds since 1970 UTC; None and "" mean any time.

    Raises:
        InvalidExport: neither, or without a zone.
    """
    if moment in (None, ""):
        return 0
    try:
        time_given = moment if isinstance(moment, datetime) else datetime.fromisoformat(str(moment))
    except ValueError:
        raise InvalidExport(argument, moment, "must be a datetime or ISO 8601 text, with a zone") from None
    if time_given.tzinfo is None:
        raise InvalidExport(argument, moment, "must have a zone, such as 2026-01-01T00:00:00+00:00")
    return int(time_given.timestamp() * 1000)


def deadline_after(timeout: float, execution_timeout: timedelta | None) -> float:
    """Seconds since 1970 UTC; `execution_timeout` counts too, which Airflow does not do while a task is deferred."""
    limits = [timeout, *([execution_timeout.total_seconds()] if execution_timeout else [])]
    return time.time() + min(limits)


def backstop(deadline: float) -> timedelta:
    """Airflow's own limit of the deferral, for the case that the trigger cannot keep its deadline."""
    return timedelta(seconds=max(deadline - time.time(), 0) + BACKSTOP_SECONDS)
