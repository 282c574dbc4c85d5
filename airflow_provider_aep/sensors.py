"""Wait for a flow run: on the worker, between reschedules, or deferred, with the same outcome."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
    BaseOperator,
    BaseSensorOperator,
    PokeReturnValue,
    conf,
)

from airflow_provider_aep.arguments import check_entity_id, check_wait, check_where
from airflow_provider_aep.errors import AepError, InvalidArgument
from airflow_provider_aep.links import AepDataflowLink, AepDataflowRunLink
from airflow_provider_aep.run_wait import (
    LookAgain,
    RunWait,
    WaitTimeout,
    backstop,
    deadline_after,
    deadline_of,
    read_event,
)
from airflow_provider_aep.tasks import AepTask, fail_without_retry

try:
    from airflow.sdk.exceptions import AirflowRescheduleException, TaskDeferralTimeout
except ImportError:
    from airflow.exceptions import (  # type: ignore[no-redef]  # the same, at its place in 3.1
        AirflowRescheduleException,
        TaskDeferralTimeout,
    )

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

    from airflow.sdk import Context

    from airflow_provider_aep.api.entities import FlowRun
    from airflow_provider_aep.arguments import Decision
    from airflow_provider_aep.destinations import Text

__all__ = ["AepDataflowRunSensor"]


class AepDataflowRunSensor(AepTask, BaseSensorOperator):
    """Waits for a flow run of a dataflow to end and returns it as a flat dict.

    Without `run_id` it waits for the flow run of its own DAG run, or for the earliest one created at or after `after`,
    and keeps to that run; an older run never satisfies it. If the run has already ended, the task does not defer.

    A scheduled DAG run, catch-up and backfill included, owns one slot of Adobe's schedule: the first between the moment
    it is due and the moment the next DAG run is due, up to Adobe's next slot. So no two DAG runs get the same flow run,
    however many wait at once. Every other DAG run (manual, by an asset, without a logical date) waits for the next one.

    If the dataflow is unknown, disabled or past its end, the task fails at once, unless a run is under way.

    After a failed run, a refusal by Adobe or a time-out the task fails without a retry, which would meet the same. An
    outage never ends the wait. `soft_fail` skips after a bad run or a time-out, `never_fail` after any error while
    waiting; a wrong argument fails the task in any case.

    :param dataflow_id: the dataflow (templated)
    :param run_id: exactly this run (templated)
    :param after: "dag_run" (default), see above; or the earliest run from a moment on: a datetime with a zone, its ISO
        8601 text, or None for any time (templated)
    :param on_missing: what happens to the task if Adobe has no run for its slot (before the first slot, after the end,
        or while disabled): "skip" (default), "fail", or "next" (wait for the next run, which the next DAG run may get,
        too)
    :param on_failed: what a failed run does to the task: "fail" (default), "succeed" or "skip"
    :param on_partial: the same for a success with errors or failed records; default "fail"
    :param on_empty: the same for a success without any record; default "succeed"
    :param rerun_failed: so many times, default 0, a failed run is followed by one that this task starts now, which then
        counts as the slot's: by Adobe's ad hoc call, which is outside its published reference (see
        `AepRunDataflowOperator`). Not with a `run_id`
    :param deferrable: wait in the triggerer, without a worker slot; default `[operators] default_deferrable`
    :param end_in_triggerer: let the triggerer end the task, without starting a worker again. Nothing on the worker
        follows then: no asset events, no callbacks, no listeners. Outlets and success callbacks are refused
    :param poke_interval: the longest time between two polls, in seconds (60); a longer one the triggerer reaches as a
        wait grows old, from `[aep] poll_floor_seconds` (60) on, and before its slot a wait is polled less often
    :param timeout: seconds until the wait fails, in the triggerer too
    :param aep_conn_id: Airflow connection of type `aep` (templated)
    :param sandbox_name: instead of the connection's (templated)

    Returns {"run_id", "dataflow_id", "status", "created_at", "started_at", "completed_at", "input_records",
    "output_records", "skipped_records", "failed_records", "input_bytes", "output_bytes", "output_files"}: times as
    ISO 8601 text in UTC, a number that Adobe does not give as None.

    Raises:
        InvalidArgument: an argument cannot be right; a literal one when the DAG is parsed.

    Source: GET /runs in https://developer.adobe.com/experience-platform-apis/references/destinations/
    """

    template_fields: Sequence[str] = ("aep_conn_id", "sandbox_name", "dataflow_id", "run_id", "after", "options")
    shown_options = ("on_missing", "on_failed", "on_partial", "on_empty", "rerun_failed")
    operator_extra_links = (AepDataflowLink(), AepDataflowRunLink())
    ui_color = "#f5d0d0"

    def __init__(
        self,
        *,
        dataflow_id: Text,
        run_id: Text | None = None,
        after: datetime | str | None = "dag_run",
        on_missing: Literal["skip", "fail", "next"] = "skip",
        on_failed: Decision = "fail",
        on_partial: Decision = "fail",
        on_empty: Decision = "succeed",
        rerun_failed: int = 0,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        end_in_triggerer: bool = False,
        aep_conn_id: str = "aep_default",
        sandbox_name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.dataflow_id = dataflow_id
        self.run_id = run_id
        self.after = after
        self.on_missing = on_missing
        self.on_failed = on_failed
        self.on_partial = on_partial
        self.on_empty = on_empty
        self.rerun_failed = rerun_failed
        self.deferrable = deferrable
        self.end_in_triggerer = end_in_triggerer
        self.aep_conn_id = aep_conn_id
        self.sandbox_name = sandbox_name
        self._wait: RunWait | None = None
        self._own_skip: AirflowSkipException | None = None  # raised by `poke`, not by Airflow's loop around it
        self._check()

    def _check(self) -> None:
        with fail_without_retry():
            check_where(self.aep_conn_id, self.sandbox_name)
            check_entity_id("dataflow_id", self.dataflow_id)
            if self.run_id is not None:
                check_entity_id("run_id", self.run_id)
            check_wait(self)
            if self.run_id is not None and self.rerun_failed:
                rule = "another run cannot be exactly this one: leave out one of the two"
                raise InvalidArgument("rerun_failed", self.rerun_failed, f"run_id = {self.run_id!r}: {rule}")
            if self.end_in_triggerer:
                self._check_nothing_follows()

    def _check_nothing_follows(self) -> None:
        if not self.deferrable:
            raise InvalidArgument("end_in_triggerer", True, "needs deferrable=True")
        follows = {
            "outlets": self.outlets,
            "on_success_callback": self.on_success_callback,
            "post_execute": self._post_execute_hook or type(self).post_execute is not BaseOperator.post_execute,
            "multiple_outputs": self.multiple_outputs,
        }
        for argument, is_set in follows.items():
            if is_set:
                rule = f"ends the task in the triggerer, where {argument} would be ignored silently"
                raise InvalidArgument("end_in_triggerer", True, rule)

    def execute(self, context: Context) -> Any:
        self._check()
        with self._same_end_in_all_modes():
            if self.deferrable:
                return self._wait_deferred(context, deadline_after(self.timeout, self.execution_timeout))
            return self._wait_on_worker(context)

    def _wait_on_worker(self, context: Context) -> Any:
        """Airflow's own loop, but a skip says what happened; Airflow's own says which of its arguments was set."""
        try:
            return super().execute(context)
        except AirflowSkipException as skip:
            if skip is self._own_skip:
                raise
            # Airflow skips for `soft_fail` and `never_fail`: without a cause after `timeout`, else because of an error.
            cause = skip.__cause__
            if cause is None or isinstance(cause, AirflowTaskTimeout):
                raise AirflowSkipException(self._timeout_text(skip)) from skip
            raise AirflowSkipException(str(cause)) from cause

    def poke(self, context: Context) -> bool | PokeReturnValue:
        try:
            run = self._look(context)
            return PokeReturnValue(is_done=True, xcom_value=self._current_wait(context).finish(run)) if run else False
        except AirflowSkipException as skip:
            self._own_skip = skip
            raise

    def _wait_deferred(self, context: Context, deadline: float) -> dict[str, Any]:  # noqa: RET503 - `defer` does not return
        run = self._look(context)
        wait = self._current_wait(context)
        if run:
            return wait.finish(run)
        if time.time() >= deadline:  # in an outage the look itself may take long
            raise AirflowSensorTimeout
        self.log.info("waiting in the triggerer for %s", wait)
        self.defer(
            trigger=wait.trigger(
                deadline=deadline, end_in_triggerer=self.end_in_triggerer, push_result=self.do_xcom_push
            ),
            method_name="execute_complete",
            timeout=backstop(deadline),
        )

    def execute_complete(self, context: Context, event: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Decide by the trigger's event what `poke` would have decided."""
        try:
            with self._fail_on_refusal():
                run = read_event(event)
        except WaitTimeout as timeout:
            raise AirflowSensorTimeout(str(timeout)) from None
        except LookAgain as again:
            self.log.info("looking again: %s", again)
            return self._wait_deferred(context, again.deadline)
        wait = self._current_wait(context)
        if wait.may_rerun(run):
            wait.run_id = run.id
            return self._wait_deferred(context, deadline_of(event, self))
        return wait.finish(run)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Resume after a deferral; Airflow's own way skips for `soft_fail` after any error, even a crashed trigger."""
        with self._same_end_in_all_modes():
            return BaseOperator.resume_execution(self, next_method, next_kwargs, context)

    def _look(self, context: Context) -> FlowRun | None:
        """Return the run if it has ended."""
        self.check_not_killed()
        wait = self._current_wait(context)
        with self._fail_on_refusal():
            run = wait.look(self.hook())
        self.check_not_killed()
        return run

    def _current_wait(self, context: Context) -> RunWait:
        """Return this process's one wait, which keeps to the run that it has found."""
        if self._wait is None:
            with fail_without_retry():
                self._wait = RunWait(self, self.dataflow_id, self.run_id, context=context)
        return self._wait

    @contextmanager
    def _fail_on_refusal(self) -> Iterator[None]:
        """Fail without a retry if Adobe refuses; with `soft_fail`, which would skip the task then, with one."""
        try:
            with fail_without_retry():
                yield
        except AirflowFailException as failure:
            if self.soft_fail:
                raise AepError(str(failure)) from failure
            raise

    @contextmanager
    def _same_end_in_all_modes(self) -> Iterator[None]:
        """Skip after a time-out or a bad run with `soft_fail`, after any error with `never_fail`, in every mode."""
        try:
            yield
        except (AirflowRescheduleException, AirflowSkipException):
            raise
        except TaskDeferralTimeout as end:
            self._end_by_timeout(f"the wait has timed out, and no triggerer has said so: is one running? ({end})", end)
        except AirflowSensorTimeout as end:
            self._end_by_timeout(self._timeout_text(end), end)
        except AirflowFailException as failure:
            if self.soft_fail or self.never_fail:
                raise AirflowSkipException(str(failure)) from failure
            raise
        except Exception as error:
            if self.never_fail:
                raise AirflowSkipException(str(error)) from error
            raise

    def _end_by_timeout(self, message: str, end: Exception) -> NoReturn:
        if self.soft_fail or self.never_fail:
            raise AirflowSkipException(message) from end
        raise AirflowSensorTimeout(message) from end

    def _timeout_text(self, end: Exception) -> str:
        """One text in all modes; Airflow's own says how long the task has waited, but not for what."""
        return f"the wait has timed out: {self._wait.last_seen()}" if self._wait else str(end)
