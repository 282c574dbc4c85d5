"""Wait for a flow run: on the worker, between reschedules, or deferred; with equal outcomes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseSensorOperator, conf

from airflow_provider_aep.api.errors import InvalidExport

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from airflow.sdk import Context
    from airflow.sdk.bases.sensor import PokeReturnValue

    from airflow_provider_aep.api.entities import FlowRun
    from airflow_provider_aep.waiting import Decision, RunWait

__all__ = ["AepDataflowRunSensor"]


class AepDataflowRunSensor(BaseSensorOperator):
    """Waits for a flow run of a dataflow to end and returns it as a flat dict.

    Without `run_id` it waits for the earliest run created at or after `after` and stays with that run; an older run
    never satisfies it. A run that has ended already costs no deferral.

    :param dataflow_id: the dataflow (templated)
    :param run_id: exactly this run (templated)
    :param after: a datetime with a zone or its ISO 8601 text (templated); by default the moment from which the DAG run
        could run, which exists for every kind of DAG run
    :param on_failed: what a failed run does to the task: "fail" (default), "succeed" or "skip"
    :param on_partial: the same for a success with errors or failed records; default "fail"
    :param on_empty: the same for a success without any record; default "succeed"
    :param deferrable: wait in the triggerer, without a worker slot; default `[operators] default_deferrable`
    :param end_in_triggerer: let the triggerer end the task, without starting a worker again. Nothing runs after the
        wait then: no outlet asset events, no callbacks on the worker, so neither may be set
    :param poke_interval: seconds between two polls at the most; the triggerer polls more often while a wait is young,
        but never below `[aep] poll_floor_seconds` (60) or this, whichever is less
    :param timeout: seconds until the wait fails, in the triggerer too
    :param aep_conn_id: Airflow connection of type `aep`
    :param sandbox_name: instead of the connection's (templated)

    Returns {"run_id", "dataflow_id", "status", "created_at", "started_at", "completed_at", "input_records",
    "output_records", "skipped_records", "failed_records", "input_bytes", "output_bytes", "output_files"}.
    """

    template_fields: Sequence[str] = ("aep_conn_id", "sandbox_name", "dataflow_id", "run_id", "after")
    ui_color = "#f5d0d0"

    def __init__(
        self,
        *,
        dataflow_id: str,
        run_id: str | None = None,
        after: datetime | str | None = "{{ dag_run.run_after }}",
        on_failed: Decision = "fail",
        on_partial: Decision = "fail",
        on_empty: Decision = "succeed",
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
        self.on_failed = on_failed
        self.on_partial = on_partial
        self.on_empty = on_empty
        self.deferrable = deferrable
        self.end_in_triggerer = end_in_triggerer
        self.aep_conn_id = aep_conn_id
        self.sandbox_name = sandbox_name
        for argument in ("on_failed", "on_partial", "on_empty"):
            if getattr(self, argument) not in ("fail", "succeed", "skip"):
                raise InvalidExport(argument, getattr(self, argument), "must be one of fail, succeed, skip")
        if end_in_triggerer:
            self._check_nothing_follows()

    def _check_nothing_follows(self) -> None:
        if not self.deferrable:
            raise InvalidExport("end_in_triggerer", True, "needs deferrable=True")
        for argument in ("outlets", "on_success_callback", "post_execute"):
            own = getattr(self, argument)
            if own and getattr(own, "__func__", own) is not BaseSensorOperator.post_execute:
                rule = f"ends the task in the triggerer, where {argument} would be left out in silence"
                raise InvalidExport("end_in_triggerer", True, rule)

    def _wait(self) -> RunWait:
        from airflow_provider_aep.waiting import RunWait, milliseconds

        if not self.dataflow_id:
            raise InvalidExport(
                "dataflow_id", self.dataflow_id, "must be a dataflow's ID; is the upstream output empty?"
            )
        return RunWait(
            aep_conn_id=self.aep_conn_id,
            sandbox_name=self.sandbox_name,
            dataflow_id=self.dataflow_id,
            run_id=self.run_id,
            after_ms=milliseconds("after", self.after),
            poll_seconds=self.poke_interval,
            on_failed=self.on_failed,
            on_partial=self.on_partial,
            on_empty=self.on_empty,
        )

    def _look(self, wait: RunWait) -> FlowRun | None:
        """The run as it is now. An outage is no answer: the wait goes on, as it does in the triggerer."""
        from airflow.providers.common.compat.sdk import AirflowFailException

        from airflow_provider_aep.api.errors import AepError, PlatformUnavailable
        from airflow_provider_aep.hooks import AepHook

        try:
            run = wait.look(AepHook(self.aep_conn_id, sandbox_name=self.sandbox_name))
        except PlatformUnavailable as trouble:
            self.log.warning("%s; the wait goes on", trouble)
            return None
        except AepError as error:
            if self.soft_fail or not error.is_final:  # an AirflowFailException would be taken for a reason to skip
                raise
            raise AirflowFailException(str(error)) from error
        if run:
            self.log.info("flow run %s: %s", run.id, run.outcome)
            self.run_id = run.id  # from now on this run and no other
        return run

    def poke(self, context: Context) -> bool | PokeReturnValue:
        from airflow.sdk.bases.sensor import PokeReturnValue

        wait = self._wait()
        run = self._look(wait)
        if run is None or not run.has_ended:
            return False
        return PokeReturnValue(is_done=True, xcom_value=wait.finish(run))

    def execute(self, context: Context) -> Any:
        if not self.deferrable:
            return super().execute(context)
        from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException

        from airflow_provider_aep.waiting import backstop, deadline_after

        deadline = deadline_after(self.timeout, self.execution_timeout)
        try:
            run = self._look(self._wait())
            if run and run.has_ended:
                return self._wait().finish(run)
        except AirflowFailException as failure:
            if self.soft_fail or self.never_fail:
                raise AirflowSkipException(str(failure)) from failure
            raise
        wait = self._wait()
        self.log.info("waiting for %s", f"run {wait.run_id}" if wait.run_id else f"a run created after {self.after}")
        self.defer(
            trigger=wait.trigger(
                deadline=deadline, end_in_triggerer=self.end_in_triggerer, push_result=self.do_xcom_push
            ),
            method_name="execute_complete",
            timeout=backstop(deadline),
        )
        return None  # type: ignore[unreachable]  # never reached: defer raises

    def execute_complete(self, context: Context, event: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """What the trigger's event means; the same as `poke` would have decided."""
        from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSensorTimeout

        from airflow_provider_aep.api.errors import AepError
        from airflow_provider_aep.waiting import WaitTimeout, read_event

        try:
            run = read_event(event)
        except WaitTimeout as timeout:
            raise AirflowSensorTimeout(f"{timeout}, after {self.timeout:.0f} s") from timeout
        except AepError as error:
            if self.soft_fail or not error.is_final:
                raise
            raise AirflowFailException(str(error)) from error
        return self._wait().finish(run)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Skip on the same ends as in the other modes: a time-out or a bad run, not a crashed trigger or an outage."""
        from airflow.providers.common.compat.sdk import (
            AirflowFailException,
            AirflowSensorTimeout,
            AirflowSkipException,
        )
        from airflow.sdk import BaseOperator
        from airflow.sdk.exceptions import TaskDeferralTimeout

        try:
            return BaseOperator.resume_execution(self, next_method, next_kwargs, context)
        except AirflowSkipException:
            raise
        except (TaskDeferralTimeout, AirflowSensorTimeout, AirflowFailException) as end:
            if self.soft_fail or self.never_fail:
                raise AirflowSkipException(str(end)) from end
            if isinstance(end, TaskDeferralTimeout):
                raise AirflowSensorTimeout(*end.args) from end
            raise
        except Exception as error:
            if self.never_fail:
                raise AirflowSkipException(str(error)) from error
            raise
