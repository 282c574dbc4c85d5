"""A task's wait for a flow run, as sensor and operators share it: from when, until when, and what its end means."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException

from airflow_provider_aep.arguments import entity_id, moment_ms
from airflow_provider_aep.errors import (
    AepError,
    FlowRunFailed,
    NotReady,
    PlatformUnavailable,
    ReplyError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from airflow_provider_aep.api.effects import Procedure
    from airflow_provider_aep.api.entities import Dataflow, FlowRun
    from airflow_provider_aep.api.runs.adhoc import Rerun
    from airflow_provider_aep.api.runs.selection import NoRun
    from airflow_provider_aep.api.runs.slots import DagRunWindow, RunSelector
    from airflow_provider_aep.api.settings import Settings
    from airflow_provider_aep.arguments import Decision
    from airflow_provider_aep.hooks import AepHook
    from airflow_provider_aep.triggers import AepDataflowRunTrigger

log = logging.getLogger(__name__)

#: `after` of a task that waits for its own DAG run's flow run.
OWN_RUN = "dag_run"
#: The types of DAG run that follow the DAG's timetable. Airflow's enum of them equals these texts.
SLOT_RUN_TYPES = ("scheduled", "backfill")
#: How long a task leaves Adobe alone that has found it down when it asked for a rerun.
RERUN_PAUSE_SECONDS = 60.0
#: While nothing changes, a wait on a worker logs a sign of life this often.
SIGN_OF_LIFE_SECONDS = 3600.0
#: A wait on a worker reads its dataflow at its first look and after so many; the others ask for its runs only. One that
#: looks more often than each minute reads it every time.
LOOKS_FOR_ONE_DATAFLOW = 20
MINUTE = 60.0
WHAT_NEXT = (
    "clearing this task finds the same flow run again; a new one comes with Adobe's next slot (the next DAG run), with "
    "a later `after`, or for a Once() export under a new `name`"
)
SAME_VERSION = "worker and triggerer must have the same version of airflow-provider-aep"
#: How much later than the trigger's deadline Airflow's own time-out comes, so that the trigger ends the wait.
BACKSTOP_SECONDS = 300


class WaitTimeout(AepError):
    """The run had not ended at the deadline. Trying again waits again."""

    is_final = False


class LookAgain(AepError):
    """The triggerer has seen that the wait may be over; the task decides. `deadline` is in seconds since 1970 UTC."""

    is_final = False

    def __init__(self, why: str, deadline: float) -> None:
        super().__init__(why)
        self.deadline = deadline


class NoRunWillCome(AepError):
    """The dataflow makes no run for this task until somebody changes it."""


class RunWait:
    """A task's wait: for which run, what was last seen of it, and what the user wants to happen at its end.

    `task` has the arguments of `AepDataflowRunSensor` that matter here. With `after="dag_run"` a scheduled DAG run, or
    one of a backfill, waits for the run of its own slot of Adobe's schedule (see `api.runs.slots`), every other DAG
    run for the next run from the moment it was due.

    Raises:
        InvalidArgument: an ID is empty or `after` is no moment.
    """

    def __init__(self, task: Any, dataflow_id: object, run_id: object = None, *, context: Any) -> None:
        self.dataflow_id = entity_id("dataflow_id", dataflow_id)
        self.run_id = None if run_id is None else entity_id("run_id", run_id)
        from airflow_provider_aep.api.runs.slots import DagRunWindow
        from airflow_provider_aep.timetables import next_due_ms

        self.window: DagRunWindow | None = None
        self.dag_run_id = str(context["ti"].run_id)
        # How the marks of what this DAG creates begin; one DAG's ID may be the beginning of another's.
        task_ids = task.dag.task_ids if task.has_dag() else [task.task_id]
        self.marks = tuple(f"{task.dag_id}.{task_id}, run " for task_id in task_ids)
        self.is_own = task.after == OWN_RUN
        if self.is_own:
            dag_run = context["dag_run"]
            self.after_ms = moment_ms("after", dag_run.run_after)
            if dag_run.run_type in SLOT_RUN_TYPES:
                self.window = DagRunWindow(self.after_ms, next_due_ms(task, dag_run))
        else:
            self.after_ms = moment_ms("after", task.after)
        self._show_links = partial(task.show_links, context, self.dataflow_id)
        self.aep_conn_id: str = task.aep_conn_id
        self.sandbox_name: str | None = task.sandbox_name
        self.poll_seconds: float = task.poke_interval
        self.on_missing: str = task.on_missing
        self.decisions: dict[str, Decision] = {
            "success": "succeed",
            "empty": task.on_empty,
            "partial": task.on_partial,
            "failed": task.on_failed,
        }
        self.rerun_failed: int = getattr(task, "rerun_failed", 0)
        self.what_next: str = getattr(task, "what_next", WHAT_NEXT)
        self.seen: FlowRun | None = None
        self._logged_line: tuple[int, str] | None = None
        self.selector: RunSelector | None = None
        self._schedule: list[int | None] | None = None
        self._is_deferrable: bool = task.deferrable
        self._dataflow: Dataflow | None = None  # as last read
        self._looks = 0
        self._next_ms: int | None = None  # with on_missing="next": from then on any run will do
        self._why_no_rerun = ""
        self._ask_again_at: float | None = None  # for a rerun, in seconds since 1970 UTC
        self._not_ready = ""
        self._outage: str | None = None  # "" is none; None: not looked up yet
        self._began_at = self._logged_at = time.monotonic()
        # Between two pokes of `mode="reschedule"` only Airflow's task state store lasts (3.3 and later).
        self._memory = context.get("task_state_store") if getattr(task, "reschedule", False) else None

    def look(self, hook: AepHook) -> FlowRun | None:
        """Ask once. Returns the run if it has ended; a run once found is kept, unless another takes its place.

        An outage does not end the wait, here as in the triggerer.

        Raises:
            EntityNotFound: Adobe knows no such dataflow or run.
            InvalidArgument: the given run is of another dataflow.
            NoRunWillCome: the dataflow is disabled or has ended.
            AirflowSkipException, AirflowFailException: Adobe has no run for the slot, and `on_missing` says so.
            RequestRefused: Adobe has refused three times.
        """
        from airflow_provider_aep.api.runs.selection import retry_refusals

        self._ask_again_at = None
        try:
            with hook.get_conn() as session:
                # Send each request once: the next look is the retry, and six log lines for each would drown the rest.
                session.settings = replace(session.settings, attempts=1)
                run = session.run(retry_refusals(lambda: self._ask(session.settings)))
                self._note(run, session.settings)
                while run and self.may_rerun(run):
                    self._ask_again_at = time.time() + RERUN_PAUSE_SECONDS
                    following = session.run(retry_refusals(self._rerun(run, session.settings)))
                    self._ask_again_at, self._not_ready, self._why_no_rerun = None, "", following.why_none
                    run = following.run
                    self._note(run, session.settings)
        except NotReady as early:
            self._note_outage("")
            seconds = early.retry_after_seconds or self.poll_seconds
            self._ask_again_at = time.time() + seconds
            if not self._not_ready:
                log.info("Adobe is not ready to run the dataflow; asking again in %.0f s: %s", seconds, early)
            self._not_ready = str(early)
            return None
        except PlatformUnavailable as outage:
            self._note_outage(str(outage))
            return None
        self._note_outage("")
        if time.monotonic() - self._logged_at >= SIGN_OF_LIFE_SECONDS:
            self._logged_at = time.monotonic()
            seconds = self._logged_at - self._began_at
            log.info("still waiting for %s; for %.0f s, Adobe has just answered", self, seconds)
        return run if run and run.has_ended else None

    def may_rerun(self, run: FlowRun) -> bool:
        """Whether another run may take the place of this one; only a worker starts one."""
        return self.rerun_failed > 0 and run.outcome == "failed" and not self._why_no_rerun

    def _rerun(self, failed: FlowRun, settings: Settings) -> Callable[[], Procedure[Rerun]]:
        from airflow_provider_aep.api.runs.adhoc import rerun

        return lambda: rerun(
            failed,
            self._select,
            at_most=self.rerun_failed,
            accept=settings.adhoc_accept,
            visibility_seconds=settings.visibility_seconds,
        )

    def _note(self, run: FlowRun | None, settings: Settings) -> None:
        """Keep to a run, and log what is new of it."""
        from airflow_provider_aep.api.runs.selection import state_line

        if run is None:
            return
        if (line := state_line(run)) != self._logged_line:
            log.log(line[0], "%s", line[1])
            self._logged_line = line
        if run.id != self.run_id:
            self._keep("run", run.id)
        self.run_id, self.seen = run.id, run
        self._show_links(run.id, settings=settings)

    def _ask(self, settings: Settings) -> Procedure[FlowRun | None]:
        """The run as it is now, or None if there is none yet."""
        from airflow_provider_aep.api.entities import DataflowId, FlowRunId
        from airflow_provider_aep.api.runs.selection import find_run, observe_run
        from airflow_provider_aep.api.runs.slots import fingerprint

        dataflow_id = DataflowId(self.dataflow_id)
        run_id = self.run_id or self._recall("run")
        self._show_links(run_id, settings=settings)
        if run_id:
            return (yield from find_run(dataflow_id, run=FlowRunId(run_id)))
        visibility_ms = int(settings.visibility_seconds * 1000)
        while True:
            known = self._dataflow if self._looks % LOOKS_FOR_ONE_DATAFLOW else None
            observation = yield from observe_run(dataflow_id, self._select, visibility_ms=visibility_ms, known=known)
            # A deferred wait looks once, and again only when something may have changed.
            if self.poll_seconds >= MINUTE and not self._is_deferrable:
                self._dataflow, self._looks = observation.dataflow, self._looks + 1
            self.selector, self._schedule = observation.selector, fingerprint(observation.dataflow.schedule)
            if observation.no_run is None:
                return observation.run
            self._end(observation.dataflow, observation.selector, observation.no_run)

    def _select(self, dataflow: Dataflow) -> RunSelector:
        from airflow_provider_aep.api.provisioning.owner import owner_of, slots_changed_ms
        from airflow_provider_aep.api.runs.slots import RunSelector, one_time_selector, selector_for

        if self._next_ms is not None:
            return RunSelector(self._next_ms)
        once = one_time_selector(dataflow.schedule)
        owner = owner_of(dataflow)
        if once and self.is_own and owner.startswith(self.marks):
            # Its only slot belongs to the DAG run that created it, whenever that was due.
            owner = owner.partition(", run ")[2].partition(", map index ")[0]
            if owner == self.dag_run_id:
                return once
            if self.window:
                why = f"it exports once, and that was for DAG run {owner}: give it name='… {{{{ run_id }}}}'"
                return RunSelector(self.after_ms, missing=why)
        if self.window is None:
            return RunSelector(self.after_ms)
        return selector_for(dataflow.schedule, self.window, slots_changed_ms(dataflow))

    def _end(self, dataflow: Dataflow, selector: RunSelector, no_run: NoRun) -> None:
        """No run will come: fail, skip, or wait for the next one.

        Raises: see `look`.
        """
        from airflow_provider_aep.api.runs.slots import when

        text = f"dataflow {dataflow.name!r} ({dataflow.id}) has no flow run for this DAG run: {no_run.why}"
        if not no_run.is_slot:
            raise NoRunWillCome(text)
        following = selector.next_ms
        text += f"; the next slot is {when(following)}" if following else "; there is no next slot"
        if self.on_missing == "next":
            if following is None:
                raise NoRunWillCome(text)
            log.warning("%s; waiting for that one (on_missing='next')", text)
            self._next_ms = following
        elif self.on_missing == "skip":
            log.info("%s", text)  # Airflow's web page folds its own line about a skip away
            raise AirflowSkipException(f"{text} (on_missing='skip')")
        else:
            raise AirflowFailException(f"{text} (on_missing={self.on_missing!r})")

    def _note_outage(self, outage: str) -> None:
        """Log one line when an outage begins and one when it ends, not one for each look."""
        if self._outage is None:
            self._outage = self._recall("outage")
        if outage and not self._outage:
            log.warning("%s; the wait goes on", outage)
            self._keep("outage", outage)
        elif self._outage and not outage:
            log.info("Adobe answers again; the wait goes on")
            self._keep("outage", "")
        self._outage = outage

    def _keep(self, what: str, text: str) -> None:
        """Keep a text for the next poke; without a store that finds the earliest run and logs an outage again."""
        if self._memory is not None:
            self._memory.set(self._key(what), text)

    def _recall(self, what: str) -> str:
        found = None if self._memory is None else self._memory.get(self._key(what))
        return found if isinstance(found, str) else ""

    def _key(self, what: str) -> str:
        return f"aep_{what}_{self.dataflow_id}_{self.after_ms}"

    def __str__(self) -> str:
        """For a log: which run it waits for, as far as that is known."""
        from airflow_provider_aep.api.runs.selection import run_text

        if self._ask_again_at:
            return f"an ad hoc run in place of flow run {self.run_id}"
        return f"flow run {self.run_id}" if self.run_id else f"a {run_text(self.dataflow_id, *self._span())}"

    def _span(self) -> tuple[int, int | None]:
        return (self.selector.since_ms, self.selector.until_ms) if self.selector else (self.after_ms, None)

    def last_seen(self) -> str:
        from airflow_provider_aep.api.runs.selection import seen_text

        seen = seen_text(self.dataflow_id, *self._span(), self.seen)
        return f"{seen}; {self._not_ready}" if self._not_ready else seen

    def finish(self, run: FlowRun) -> dict[str, Any]:
        """The flat dict of a run that ended as the user wants it.

        Raises:
            AirflowFailException: it did not; another try would find the same run, so Airflow need not retry.
            AirflowSkipException: the user wants such a run to skip the task.
        """
        self._show_links(run.id)
        decision = self.decisions.get(run.outcome, "fail")
        if decision == "succeed":
            return run.summary()
        why = {
            "failed": "has failed" + (f", and {self._why_no_rerun}" if self._why_no_rerun else ""),
            "partial": f"has exported a part only (on_partial={decision!r})",
            "empty": f"has exported nothing (on_empty={decision!r})",
        }.get(run.outcome, "has ended in a state that this provider does not know; please report it")
        failure = FlowRunFailed(run, why)
        choice = f"; `on_{run.outcome}` decides what such a run does" if run.outcome in self.decisions else ""
        log.info("%s%s", self.what_next, choice)
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
        """This wait as a trigger; `deadline` is in seconds since 1970 UTC."""
        from airflow_provider_aep.triggers import AepDataflowRunTrigger

        succeed_on = [outcome for outcome, decision in self.decisions.items() if decision == "succeed"]
        if self.rerun_failed and "failed" in succeed_on:
            succeed_on.remove("failed")
        return AepDataflowRunTrigger(
            aep_conn_id=self.aep_conn_id,
            sandbox_name=self.sandbox_name,
            dataflow_id=self.dataflow_id,
            run_id=self.run_id,
            after_ms=self._span()[0],
            until_ms=self._span()[1],
            schedule=self._schedule,
            deadline=deadline,
            poll_seconds=self.poll_seconds,
            succeed_on=succeed_on if end_in_triggerer else None,
            push_result=push_result,
            look_at=self._ask_again_at,
            carry=carry,
        )


def read_event(event: Mapping[str, Any] | None) -> FlowRun:
    """The run in a trigger's event.

    Raises:
        LookAgain: the dataflow or its slots have changed, so that the task has to decide again.
        WaitTimeout: the run had not ended at the deadline.
        ReplyError: Adobe refused the poll.
        AepError: the Airflow connection cannot be right.
        ValueError: this version does not know the event; trying again waits again.
    """
    from airflow_provider_aep.api.entities import FlowRun

    if not event or event.get("version") != 1:
        raise ValueError(f"the trigger's event cannot be read; {SAME_VERSION}: {event!r}")
    try:
        match event["status"]:
            case "ended":
                return FlowRun.from_event(event["run"])
            case "timeout":
                problem: AepError = WaitTimeout(f"the wait has timed out: {event['seen']}")
            case "look":
                problem = LookAgain(str(event["why"]), float(event["deadline"]))
            case "error":
                problem = ReplyError.from_event(event["error"])
            case "invalid":
                problem = AepError(event["error"])
            case other:
                raise LookupError(f"unknown status {other!r}")
    except (LookupError, TypeError, ValueError) as error:
        raise ValueError(f"the trigger's event cannot be read ({error!r}); {SAME_VERSION}: {event!r}") from None
    raise problem


def deadline_after(timeout: float, execution_timeout: timedelta | None) -> float:
    """Seconds since 1970 UTC; `execution_timeout` counts too, which Airflow does not do while a task is deferred."""
    limits = [timeout, *([execution_timeout.total_seconds()] if execution_timeout else [])]
    return time.time() + min(limits)


def deadline_of(event: Mapping[str, Any] | None, task: Any) -> float:
    """The deadline that an event carries on; a new one if its trigger was of an earlier version."""
    return (event or {}).get("deadline") or deadline_after(task.timeout, task.execution_timeout)


def backstop(deadline: float) -> timedelta:
    """Airflow's time-out of the deferral, for a trigger that cannot keep its deadline."""
    return timedelta(seconds=max(deadline - time.time(), 0) + BACKSTOP_SECONDS)
