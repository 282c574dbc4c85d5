"""Set up a whole export in one task, and wait for its flow run if asked to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from airflow.providers.common.compat.sdk import conf

from airflow_provider_aep.arguments import (
    ExportArguments,
    base_connection_name,
    check_export,
    check_wait,
    dataset_ids,
    entity_id,
    seconds,
)
from airflow_provider_aep.destinations import destination_type
from airflow_provider_aep.links import AepDataflowLink, AepDataflowRunLink
from airflow_provider_aep.run_wait import OWN_RUN, LookAgain, RunWait, deadline_after, deadline_of, read_event
from airflow_provider_aep.tasks import AepSetupOperator, AepWaitingOperator, fail_without_retry

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime, timedelta

    from airflow.sdk import Context

    from airflow_provider_aep.api.entities import FlowRun
    from airflow_provider_aep.api.provisioning.desired import DesiredExport
    from airflow_provider_aep.arguments import Datasets, Decision
    from airflow_provider_aep.destinations import Destination, Text
    from airflow_provider_aep.schedules import Schedule

__all__ = ["AepExportDatasetsOperator"]


class AepExportDatasetsOperator(AepSetupOperator, AepWaitingOperator):
    """Sets up a whole export exactly once: base, source and target connection, and dataflow.

    Retried, cleared, run again or killed at any point, it leaves one of each. With `wait_for_completion` it then waits
    for the flow run, on the worker or deferred.

    :param dataset_ids: an ID, several, what `AepListDatasetsOperator` returns, or one item of that (templated)
    :param destination: where the files go: one of the six types of `destinations` (templated)
    :param destination_conn_id: Airflow connection that holds the login; None for the Data Landing Zone (templated)
    :param base_connection_id: instead of that, a base connection that exists at Adobe (templated)
    :param base_connection_name: name of the base connection, default "airflow <destination_conn_id>" (templated)
    :param schedule: `Every(hours=3)`, 6, 9 or 12, `Every(days=1)`, or `Once()`; see `schedules` (templated)
    :param file_type: "PARQUET" or "JSON" (templated)
    :param compression: "GZIP" or "NONE"; Adobe exports JSON only compressed (templated)
    :param include_file_manifest: let Adobe write a list of the files beside them; None means no
    :param folder_template: Adobe's `foldernameTemplate`, such as "%DESTINATION%/%DATASET_ID%/%EXPORT_TIME%" (templated)
    :param name: of source connection, target connection and dataflow; default "<dag_id>.<task_id>" (templated)
    :param if_exists: "reuse" (refuse an export of other data or to another place, warn of another schedule or state),
        "update" (change what Adobe can change, replace the source connection if the datasets differ, replace the
        credentials) or "fail"
    :param wait_for_completion: wait for the flow run that `after` means
    :param after, on_missing: see `AepDataflowRunSensor` (`after` templated)
    :param on_failed, on_partial, on_empty: see `AepDataflowRunSensor`
    :param rerun_failed: see `AepDataflowRunSensor`
    :param deferrable: wait in the triggerer; default `[operators] default_deferrable`
    :param poke_interval: the longest time between two polls, a timedelta or a number of seconds; see
        `AepDataflowRunSensor`
    :param timeout: a timedelta or a number of seconds until the wait fails; a first run may take hours to start
    :param aep_conn_id: Airflow connection of type `aep` (templated)
    :param sandbox_name: instead of the connection's (templated)

    Returns {"base_connection_id", "source_connection_id", "target_connection_id", "dataflow_id", "dataset_ids"}, the
    last as Adobe lists them, and with `wait_for_completion` also what `AepDataflowRunSensor` returns. Each value is
    pushed to XCom under its own key, too.

    Raises:
        InvalidArgument: an argument cannot be right, or the Airflow connection does not hold the login.
        AirflowFailException: an export of this name differs, and `if_exists` or Adobe does not let it be changed; or
            the flow run failed, or may not hold what this task asked for. A retry cannot help.
        AepError: an outage; a retry is safe.

    Source: https://experienceleague.adobe.com/en/docs/experience-platform/destinations/api/export-datasets
    """

    template_fields: Sequence[str] = (
        "aep_conn_id",
        "sandbox_name",
        "name",
        "dataset_ids",
        "destination",
        "destination_conn_id",
        "base_connection_id",
        "base_connection_name",
        "schedule",
        "file_type",
        "compression",
        "folder_template",
        "after",
        "options",
    )
    shown_options = (
        "include_file_manifest",
        "if_exists",
        "wait_for_completion",
        "on_missing",
        "on_failed",
        "on_partial",
        "on_empty",
        "rerun_failed",
    )
    operator_extra_links = (AepDataflowLink(), AepDataflowRunLink())

    def __init__(
        self,
        *,
        dataset_ids: Datasets,
        destination: Destination,
        schedule: Schedule,
        destination_conn_id: str | None = None,
        base_connection_id: Text | None = None,
        base_connection_name: str | None = None,
        file_type: str = "PARQUET",
        compression: str = "GZIP",
        include_file_manifest: bool | None = None,
        folder_template: str | None = None,
        wait_for_completion: bool = False,
        after: datetime | str | None = "dag_run",
        on_missing: Literal["skip", "fail", "next"] = "skip",
        on_failed: Decision = "fail",
        on_partial: Decision = "fail",
        on_empty: Decision = "succeed",
        rerun_failed: int = 0,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        poke_interval: timedelta | float = 60,
        timeout: timedelta | float = 604_800,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("multiple_outputs", True)
        super().__init__(**kwargs)
        self.dataset_ids = dataset_ids
        self.destination = destination
        self.schedule = schedule
        self.destination_conn_id = destination_conn_id
        self.base_connection_id = base_connection_id
        self.base_connection_name = base_connection_name
        self.file_type = file_type
        self.compression = compression
        self.include_file_manifest = include_file_manifest
        self.folder_template = folder_template
        self.wait_for_completion = wait_for_completion
        self.after = after
        self.on_missing = on_missing
        self.on_failed = on_failed
        self.on_partial = on_partial
        self.on_empty = on_empty
        self.rerun_failed = rerun_failed
        self.deferrable = deferrable
        with fail_without_retry():
            self.poke_interval = seconds("poke_interval", poke_interval)
            self.timeout = seconds("timeout", timeout)
        self._check()

    def check_arguments(self) -> None:
        super().check_arguments()
        check_export(**self._export_arguments())
        check_wait(self)

    def _export_arguments(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ExportArguments.__annotations__}

    def _desired_export(self, context: Context) -> DesiredExport:
        if self.base_connection_id is None:
            login = base_connection_name(self.destination, self.destination_conn_id, self.base_connection_name)
        else:
            login = entity_id("base_connection_id", self.base_connection_id)
        destination = (destination_type(self.destination).name, *self.destination)
        name = self.entity_name(context, sorted(dataset_ids(self.dataset_ids)), login, *destination)
        return self.hook().desired_export(name=name, **self._export_arguments())

    def work(self, context: Context) -> dict[str, Any]:
        from airflow_provider_aep.api.provisioning.export import set_up_export

        policy = self.policy(context, waits=self.wait_for_completion and self.after == OWN_RUN)
        ids = self.perform(set_up_export(self._desired_export(context), policy))
        self.show_links(context, ids.dataflow_id)
        result = {**ids._asdict(), "dataset_ids": list(ids.dataset_ids)}
        if self.wait_for_completion:
            return self._wait_for_run(context, result)
        return result

    def _wait_for_run(self, context: Context, result: dict[str, Any]) -> dict[str, Any]:
        if self.do_xcom_push:
            # Push before the wait, so that links, monitors and later tasks need not wait for its end.
            for name, value in result.items():
                context["ti"].xcom_push(key=name, value=value)
        return self._wait_until(context, result, deadline_after(self.timeout, self.execution_timeout))

    def _wait_until(
        self, context: Context, result: dict[str, Any], deadline: float, failed: FlowRun | None = None
    ) -> dict[str, Any]:
        """Wait for the run, or for the one that takes the place of a `failed` one."""
        wait = RunWait(self, result["dataflow_id"], failed.id if failed else None, context=context)
        return self._finish(context, result, wait, self.ended_run(wait, deadline=deadline, carry=result))

    def execute_complete(self, context: Context, event: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Decide by the trigger's event what a wait on the worker would have decided."""
        result = (event or {}).get("carry")
        if not isinstance(result, dict) or "dataflow_id" not in result:
            raise ValueError(f"the trigger's event does not hold what was set up: {event!r}")
        with fail_without_retry():
            try:
                run = read_event(event)
            except LookAgain as again:
                self.log.info("looking again: %s", again)
                return self._wait_until(context, result, again.deadline)
            wait = RunWait(self, result["dataflow_id"], context=context)
            if wait.may_rerun(run):
                return self._wait_until(context, result, deadline_of(event, self), failed=run)
            return self._finish(context, result, wait, run)

    def _finish(self, context: Context, result: dict[str, Any], wait: RunWait, run: FlowRun) -> dict[str, Any]:
        """Return the export's IDs and the run, once it is certain that the run exported what this task asked for."""
        from airflow_provider_aep.api.provisioning.desired import ExportIds
        from airflow_provider_aep.api.provisioning.drift import check_run_is_of

        summary = wait.finish(run)
        ids = ExportIds(**{name: result[name] for name in ExportIds._fields})
        self.perform(check_run_is_of(self._desired_export(context), ids, run))
        return {**result, **summary}
