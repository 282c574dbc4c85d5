"""What a DAG author writes: find datasets, and set up an export in one task or step by step."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Literal

from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException, conf

from airflow_provider_aep.arguments import (
    check_after,
    check_choice,
    check_dataset_ids,
    check_decisions,
    check_destination,
    check_entity_id,
    check_entity_name,
    check_login,
    check_schedule,
    check_target,
    check_texts,
    dataset_ids,
    entity_id,
    entity_name,
    seconds,
    texts,
)
from airflow_provider_aep.destinations import destination_type, place_params, target_params
from airflow_provider_aep.errors import InvalidArgument
from airflow_provider_aep.run_wait import OWN_RUN, LookAgain, RunWait, WaitTimeout, backstop, deadline_after, read_event
from airflow_provider_aep.tasks import AepOperator, fail_without_retry

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime, timedelta

    from airflow.sdk import Context

    from airflow_provider_aep.api.entities import FlowRun
    from airflow_provider_aep.api.provisioning.desired import DesiredBaseConnection, DesiredExport
    from airflow_provider_aep.api.provisioning.policy import IfExists, SetupPolicy
    from airflow_provider_aep.arguments import Datasets, Decision
    from airflow_provider_aep.destinations import Destination, Text
    from airflow_provider_aep.schedules import Schedule

__all__ = [
    "AepCreateBaseConnectionOperator",
    "AepCreateDataflowOperator",
    "AepCreateSourceConnectionOperator",
    "AepCreateTargetConnectionOperator",
    "AepExportDatasetsOperator",
    "AepListDatasetsOperator",
]


class _EnsureOperator(AepOperator):
    """What the setting-up operators share: a name, and what to do with what bears it already."""

    def __init__(self, *, name: str | None = None, if_exists: IfExists = "reuse", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.name = name
        self.if_exists = if_exists

    def check_arguments(self) -> None:
        super().check_arguments()
        if self.name is not None:
            check_entity_name("name", self.name)
        check_choice("if_exists", self.if_exists, ("reuse", "update", "fail"))

    def policy(self, context: Context, *, waits: bool = False) -> SetupPolicy:
        """How to set up, and the mark that tells what this task has made from what others have."""
        import uuid

        from airflow_provider_aep.api.provisioning.owner import Owner
        from airflow_provider_aep.api.provisioning.policy import SetupPolicy

        ti = context["ti"]
        task = f"{self.dag_id}.{self.task_id}, run {ti.run_id}" + _map_text(context)
        owner = Owner(task, uuid.uuid4().hex[:8], again=ti.try_number > 1)
        shares_name = self.name is not None and bool(_map_text(context))
        return SetupPolicy(self.if_exists, owner, self.hook().settings().visibility_seconds, shares_name, waits)

    def entity_name(self, context: Context, *content: object) -> str:
        """The name given, or one that no other task of this Airflow bears: dag_id.task_id.

        Mapped tasks of one operator are told apart by what they export and to where, not by their index, which another
        order of the same list would change, nor by what `if_exists="update"` may change, such as the format.
        """
        if self.name is not None:
            return entity_name("name", self.name)
        name = f"{self.dag_id}.{self.task_id}"
        if _map_text(context):
            import hashlib

            name += f" {hashlib.sha256(repr(content).encode()).hexdigest()[:8]}"
        return entity_name("name (default: dag_id.task_id)", name)


def _map_text(context: Context) -> str:
    map_index = context["ti"].map_index
    return "" if map_index is None or map_index < 0 else f", map index {map_index}"


class AepListDatasetsOperator(AepOperator):
    """The datasets that may be exported from the sandbox, all or some; the result feeds `.expand(dataset_ids=…)`.

    :param dataset_ids: these IDs, in this order (templated)
    :param names: or these names, each of which must mean one dataset (templated)
    :param name_pattern: or all whose name matches, with `*`, `?` and `[…]`; letter case counts (templated)
    :param on_empty: what it does to the task if no dataset matches: "fail" (default), "skip" or "succeed"
    :param aep_conn_id: Airflow connection of type `aep` (templated)
    :param sandbox_name: instead of the connection's (templated)

    Without the first three it returns all; one that is given and empty is refused.

    Returns [{"id", "name", "description", "state"}, …].
    """

    template_fields: Sequence[str] = ("aep_conn_id", "sandbox_name", "dataset_ids", "names", "name_pattern")

    def __init__(
        self,
        *,
        dataset_ids: Datasets | None = None,
        names: Sequence[Text] | Text | None = None,
        name_pattern: str | None = None,
        on_empty: Decision = "fail",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.dataset_ids = dataset_ids
        self.names = names
        self.name_pattern = name_pattern
        self.on_empty = on_empty
        self._check()

    def check_arguments(self) -> None:
        super().check_arguments()
        given = [name for name in ("dataset_ids", "names", "name_pattern") if getattr(self, name) is not None]
        if len(given) > 1:
            raise InvalidArgument(given[1], getattr(self, given[1]), f"give it or {given[0]}, not both")
        if self.dataset_ids is not None:
            check_dataset_ids(self.dataset_ids)
        check_texts("names", self.names)
        check_texts("name_pattern", self.name_pattern)
        check_decisions(on_empty=self.on_empty)

    def work(self, context: Context) -> list[dict[str, str]]:
        from airflow_provider_aep.api.queries import list_datasets

        sandbox_name = self.hook().settings().sandbox_name
        found = self.perform(
            list_datasets(
                ids=() if self.dataset_ids is None else dataset_ids(self.dataset_ids),
                names=texts("names", self.names),
                pattern=self.name_pattern or "",
                sandbox_name=sandbox_name,
            )
        )
        self.log.info("%d datasets found", len(found))
        if not found and self.on_empty != "succeed":
            what = f"name_pattern = {self.name_pattern!r}: no matching dataset" if self.name_pattern else "no dataset"
            text = f"{what} may be exported from sandbox {sandbox_name!r} (on_empty={self.on_empty!r})"
            raise AirflowSkipException(text) if self.on_empty == "skip" else AirflowFailException(text)
        return [
            {"id": each.id, "name": each.name, "description": each.description, "state": each.state} for each in found
        ]


class AepCreateBaseConnectionOperator(_EnsureOperator):
    """Exactly one login at a storage account, found by name and destination; many exports may share it.

    :param destination: one of the six types of `destinations`; only its kind matters here (templated)
    :param destination_conn_id: Airflow connection that holds the login; none for the Data Landing Zone (templated)
    :param name: default "airflow <destination_conn_id>" (templated)
    :param if_exists: "reuse", "update" (send the credentials anew, in place) or "fail"
    :param aep_conn_id: Airflow connection of type `aep` (templated)
    :param sandbox_name: instead of the connection's (templated)

    Returns the base connection's ID.
    """

    template_fields: Sequence[str] = (
        "aep_conn_id",
        "sandbox_name",
        "name",
        "destination",
        "destination_conn_id",
        "options",
    )
    shown_options = ("if_exists",)

    def __init__(self, *, destination: Destination, destination_conn_id: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.destination = destination
        self.destination_conn_id = destination_conn_id
        self._check()

    def check_arguments(self) -> None:
        super().check_arguments()
        check_destination(self.destination)
        check_login(self.destination, self.destination_conn_id)

    def work(self, context: Context) -> str:
        from airflow_provider_aep.api.provisioning.ensure import ensure_base_connection

        desired = _base_wish(self, "name", self.name)
        return str(self.perform(ensure_base_connection(desired, self.policy(context))))


def _base_wish(
    task: AepCreateBaseConnectionOperator | AepExportDatasetsOperator, argument: str, name: str | None
) -> DesiredBaseConnection:
    from airflow_provider_aep.api.credentials import auth
    from airflow_provider_aep.api.provisioning.desired import DesiredBaseConnection

    kind = destination_type(task.destination)
    credential = task.hook().destination_login(task.destination_conn_id, kind)
    name = f"airflow {task.destination_conn_id or kind.name}" if name is None else name
    if credential is None:
        return DesiredBaseConnection(entity_name(argument, name), kind, None)
    return DesiredBaseConnection(entity_name(argument, name), kind, auth(credential), credential.account)


class AepCreateSourceConnectionOperator(_EnsureOperator):
    """Exactly one source connection for a list of datasets.

    :param dataset_ids: one ID or several, or what `AepListDatasetsOperator` returns, or one item of it (templated)
    :param name: default "<dag_id>.<task_id>" (templated)
    :param if_exists: "reuse" (refuse one with other datasets), "update" (make a new one, which
        `AepCreateDataflowOperator` attaches; Adobe cannot change the datasets of one) or "fail"
    :param aep_conn_id: Airflow connection of type `aep` (templated)
    :param sandbox_name: instead of the connection's (templated)

    Returns the source connection's ID.
    """

    template_fields: Sequence[str] = ("aep_conn_id", "sandbox_name", "name", "dataset_ids")

    def __init__(self, *, dataset_ids: Datasets, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dataset_ids = dataset_ids
        self._check()

    def check_arguments(self) -> None:
        super().check_arguments()
        check_dataset_ids(self.dataset_ids)

    def work(self, context: Context) -> str:
        from airflow_provider_aep.api.provisioning.desired import DesiredSourceConnection
        from airflow_provider_aep.api.provisioning.ensure import ensure_source_connection

        datasets = dataset_ids(self.dataset_ids)
        desired = DesiredSourceConnection(self.entity_name(context, sorted(datasets)), datasets)
        return str(self.perform(ensure_source_connection(desired, self.policy(context))))


class AepCreateTargetConnectionOperator(_EnsureOperator):
    """Exactly one target connection: a folder at a storage account, and the format of the files.

    :param base_connection_id: the login (templated)
    :param destination: where the files go (templated)
    :param file_type: "PARQUET" or "JSON" (templated)
    :param compression: "GZIP" or "NONE"; JSON is exported only compressed (templated)
    :param include_file_manifest: let Adobe write a list of the files beside them
    :param name: default "<dag_id>.<task_id>" (templated)
    :param if_exists: "reuse" (refuse one for another place or format), "update" (change it) or "fail"
    :param aep_conn_id: Airflow connection of type `aep` (templated)
    :param sandbox_name: instead of the connection's (templated)

    Returns the target connection's ID.
    """

    template_fields: Sequence[str] = (
        "aep_conn_id",
        "sandbox_name",
        "name",
        "base_connection_id",
        "destination",
        "file_type",
        "compression",
        "options",
    )
    shown_options = ("include_file_manifest", "if_exists")

    def __init__(
        self,
        *,
        base_connection_id: Text,
        destination: Destination,
        file_type: str = "PARQUET",
        compression: str = "GZIP",
        include_file_manifest: bool | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.base_connection_id = base_connection_id
        self.destination = destination
        self.file_type = file_type
        self.compression = compression
        self.include_file_manifest = include_file_manifest
        self._check()

    def check_arguments(self) -> None:
        super().check_arguments()
        check_entity_id("base_connection_id", self.base_connection_id)
        check_target(self.destination, self.file_type, self.compression, self.include_file_manifest)

    def work(self, context: Context) -> str:
        from airflow_provider_aep.api.entities import BaseConnectionId
        from airflow_provider_aep.api.provisioning.desired import DesiredTargetConnection
        from airflow_provider_aep.api.provisioning.ensure import ensure_target_connection

        kind = destination_type(self.destination)
        params = target_params(
            self.destination,
            file_type=self.file_type,
            compression=self.compression,
            include_file_manifest=self.include_file_manifest,
        )
        base = BaseConnectionId(entity_id("base_connection_id", self.base_connection_id))
        desired = DesiredTargetConnection(
            self.entity_name(context, base, kind.name, *self.destination), kind, base, params
        )
        return str(self.perform(ensure_target_connection(desired, self.policy(context))))


class AepCreateDataflowOperator(_EnsureOperator):
    """Exactly one dataflow: what goes where, how often. Adobe then runs it by itself.

    :param source_connection_id: what (templated)
    :param target_connection_id: where (templated)
    :param destination: where the target connection's files go (templated)
    :param schedule: `Every(hours=3)`, 6, 9 or 12, `Every(days=1)`, or `Once()`; see `schedules` (templated)
    :param folder_template: Adobe's `foldernameTemplate`, such as "%DESTINATION%/%DATASET_ID%/%EXPORT_TIME%" (templated)
    :param name: default "<dag_id>.<task_id>" (templated)
    :param if_exists: "reuse" (refuse one for other data or another folder, warn of another schedule or state), "update"
        (change it, enable it) or "fail"
    :param aep_conn_id: Airflow connection of type `aep` (templated)
    :param sandbox_name: instead of the connection's (templated)

    Returns the dataflow's ID.
    """

    template_fields: Sequence[str] = (
        "aep_conn_id",
        "sandbox_name",
        "name",
        "source_connection_id",
        "target_connection_id",
        "destination",
        "schedule",
        "folder_template",
        "options",
    )
    shown_options = ("if_exists",)

    def __init__(
        self,
        *,
        source_connection_id: Text,
        target_connection_id: Text,
        destination: Destination,
        schedule: Schedule,
        folder_template: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.source_connection_id = source_connection_id
        self.target_connection_id = target_connection_id
        self.destination = destination
        self.schedule = schedule
        self.folder_template = folder_template
        self._check()

    def check_arguments(self) -> None:
        super().check_arguments()
        check_entity_id("source_connection_id", self.source_connection_id)
        check_entity_id("target_connection_id", self.target_connection_id)
        check_destination(self.destination)
        check_schedule(self.schedule, self.folder_template)

    def work(self, context: Context) -> str:
        from airflow_provider_aep.api.entities import SourceConnectionId, TargetConnectionId
        from airflow_provider_aep.api.provisioning.desired import DesiredDataflow
        from airflow_provider_aep.api.provisioning.ensure import ensure_dataflow

        source = SourceConnectionId(entity_id("source_connection_id", self.source_connection_id))
        target = TargetConnectionId(entity_id("target_connection_id", self.target_connection_id))
        desired = DesiredDataflow(
            self.entity_name(context, source, target),
            destination_type(self.destination),
            source,
            target,
            self.schedule,
            self.folder_template,
            place_params(self.destination),
        )
        return str(self.perform(ensure_dataflow(desired, self.policy(context))))


class AepExportDatasetsOperator(_EnsureOperator):
    """A whole export in one task: base, source and target connection and dataflow, each exactly once.

    Run again, retried, cleared or killed at any point, it leaves one of each. With `wait_for_completion` it then waits
    for the run, deferred if possible.

    :param dataset_ids: one ID or several, or what `AepListDatasetsOperator` returns, or one item of it (templated)
    :param destination: where the files go: one of the six types of `destinations` (templated)
    :param destination_conn_id: Airflow connection that holds the login; none for the Data Landing Zone (templated)
    :param base_connection_id: instead of it, a base connection that exists at Adobe (templated)
    :param base_connection_name: name of the base connection, default "airflow <destination_conn_id>" (templated)
    :param schedule: `Every(hours=3)`, 6, 9 or 12, `Every(days=1)`, or `Once()`; see `schedules` (templated)
    :param file_type: "PARQUET" or "JSON" (templated)
    :param compression: "GZIP" or "NONE"; JSON is exported only compressed (templated)
    :param include_file_manifest: let Adobe write a list of the files beside them
    :param folder_template: Adobe's `foldernameTemplate`, such as "%DESTINATION%/%DATASET_ID%/%EXPORT_TIME%" (templated)
    :param name: of source connection, target connection and dataflow; default "<dag_id>.<task_id>" (templated)
    :param if_exists: "reuse" (refuse where other data would be exported, or to another place; warn of another schedule
        or state), "update" (change what Adobe can change, replace the source connection for another list of datasets,
        send the credentials anew) or "fail"
    :param wait_for_completion: wait for the flow run of this DAG run's slot, or after `after`
    :param after, on_missing: see `AepDataflowRunSensor` (`after` templated)
    :param on_failed, on_partial, on_empty: see `AepDataflowRunSensor`
    :param deferrable: wait in the triggerer; default `[operators] default_deferrable`
    :param poke_interval: seconds between two polls at the most
    :param timeout: seconds until the wait fails; a first run may take hours to begin
    :param aep_conn_id: Airflow connection of type `aep` (templated)
    :param sandbox_name: instead of the connection's (templated)

    Returns {"base_connection_id", "source_connection_id", "target_connection_id", "dataflow_id", "dataset_ids"}, the
    last as Adobe lists them, and with `wait_for_completion` also what `AepDataflowRunSensor` returns; each is pushed by
    name too.
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
    )

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
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        poke_interval: timedelta | float = 300,
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
        self.deferrable = deferrable
        with fail_without_retry():
            self.poke_interval = seconds("poke_interval", poke_interval)
            self.timeout = seconds("timeout", timeout)
        self._check()

    def check_arguments(self) -> None:
        super().check_arguments()
        check_dataset_ids(self.dataset_ids)
        check_target(self.destination, self.file_type, self.compression, self.include_file_manifest)
        check_schedule(self.schedule, self.folder_template)
        check_after(self.after)
        check_choice("on_missing", self.on_missing, ("skip", "fail", "next"))
        check_decisions(on_failed=self.on_failed, on_partial=self.on_partial, on_empty=self.on_empty)
        if self.base_connection_id is None:
            check_login(self.destination, self.destination_conn_id)
            if self.base_connection_name is not None:
                check_entity_name("base_connection_name", self.base_connection_name)
            return
        check_entity_id("base_connection_id", self.base_connection_id)
        if self.destination_conn_id is not None or self.base_connection_name is not None:
            rule = "names the login already: leave out destination_conn_id and base_connection_name"
            raise InvalidArgument("base_connection_id", self.base_connection_id, rule)

    def _desired(self, context: Context) -> DesiredExport:
        from airflow_provider_aep.api.entities import BaseConnectionId
        from airflow_provider_aep.api.provisioning.desired import DesiredExport

        datasets = dataset_ids(self.dataset_ids)
        kind = destination_type(self.destination)
        params = target_params(
            self.destination,
            file_type=self.file_type,
            compression=self.compression,
            include_file_manifest=self.include_file_manifest,
        )
        base, base_id = None, ""
        if self.base_connection_id is None:
            base = _base_wish(self, "base_connection_name", self.base_connection_name)
        else:
            base_id = entity_id("base_connection_id", self.base_connection_id)
        return DesiredExport(
            name=self.entity_name(
                context, sorted(datasets), base.name if base else base_id, kind.name, *self.destination
            ),
            dataset_ids=datasets,
            destination_type=kind,
            target_params=params,
            schedule=self.schedule,
            folder_template=self.folder_template,
            base=base,
            base_connection_id=BaseConnectionId(base_id),
        )

    def work(self, context: Context) -> dict[str, Any]:
        from airflow_provider_aep.api.provisioning.export import set_up_export

        policy = self.policy(context, waits=self.wait_for_completion and self.after == OWN_RUN)
        ids = self.perform(set_up_export(self._desired(context), policy))
        result = {**ids._asdict(), "dataset_ids": list(ids.dataset_ids)}
        if self.wait_for_completion:
            return self._wait_for_run(context, result)
        return result

    def _wait_for_run(self, context: Context, result: dict[str, Any]) -> dict[str, Any]:
        if self.do_xcom_push:
            # What is known is pushed before the wait: links, monitors and later tasks need not wait for its end.
            for name, value in result.items():
                context["ti"].xcom_push(key=name, value=value)
        return self._wait_until(context, result, deadline_after(self.timeout, self.execution_timeout))

    def _wait_until(self, context: Context, result: dict[str, Any], deadline: float) -> dict[str, Any]:
        wait = RunWait(self, result["dataflow_id"], context=context)
        while True:
            run = wait.look(self.hook())
            self.check_not_killed()
            if run:
                return self._finish(context, result, wait, run)
            if time.time() >= deadline:
                raise WaitTimeout(f"the wait has timed out: {wait.last_seen()}")
            if self.deferrable:
                self.log.info("waiting in the triggerer for %s", wait)
                self.defer(
                    trigger=wait.trigger(deadline=deadline, carry=result),
                    method_name="execute_complete",
                    timeout=backstop(deadline),
                )
            self._sleep_until(min(deadline, time.time() + self.poke_interval))

    def _sleep_until(self, moment: float) -> None:
        """In short pieces, since SIGTERM sets a flag and does not end a sleep."""
        while (left := moment - time.time()) > 0:
            self.check_not_killed()
            time.sleep(min(left, 1))

    def execute_complete(self, context: Context, event: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """What the trigger's event means; the same as the wait on the worker would have decided."""
        result = (event or {}).get("carry")
        if not isinstance(result, dict) or "dataflow_id" not in result:
            raise ValueError(f"the trigger's event does not carry what was set up: {event!r}")
        with fail_without_retry():
            try:
                run = read_event(event)
            except LookAgain as again:
                self.log.info("looking again: %s", again)
                return self._wait_until(context, result, again.deadline)
            return self._finish(context, result, RunWait(self, result["dataflow_id"], context=context), run)

    def _finish(self, context: Context, result: dict[str, Any], wait: RunWait, run: FlowRun) -> dict[str, Any]:
        """What was set up and the run, if that is what the run has exported."""
        from airflow_provider_aep.api.provisioning.desired import ExportIds
        from airflow_provider_aep.api.provisioning.drift import check_run_is_of

        told = wait.finish(run)
        ids = ExportIds(**{name: result[name] for name in ExportIds._fields})
        self.perform(check_run_is_of(self._desired(context), ids, run))
        return {**result, **told}
