"""What a DAG author writes: find datasets, and set up an export in one task or step by step."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowFailException, BaseOperator, conf

from airflow_provider_aep.api.destinations import check_format, is_literal, kind_of
from airflow_provider_aep.api.errors import AepError, InvalidExport
from airflow_provider_aep.api.schedule import Every, Once, check_folder_template

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from airflow.sdk import Context

    from airflow_provider_aep.api.calls import Procedure
    from airflow_provider_aep.api.destinations import Destination
    from airflow_provider_aep.api.entities import DatasetId
    from airflow_provider_aep.api.schedule import Schedule
    from airflow_provider_aep.api.wishes import BaseWish, IfExists, Manner
    from airflow_provider_aep.hooks import AepHook
    from airflow_provider_aep.waiting import Decision, RunWait

__all__ = [
    "AepCreateBaseConnectionOperator",
    "AepCreateDataflowOperator",
    "AepCreateSourceConnectionOperator",
    "AepCreateTargetConnectionOperator",
    "AepExportDatasetsOperator",
    "AepListDatasetsOperator",
]


class _AepOperator(BaseOperator):
    """What all operators share: the connection, and how an error of ours looks to Airflow."""

    ui_color = "#f5d0d0"

    def __init__(self, *, aep_conn_id: str = "aep_default", sandbox_name: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.aep_conn_id = aep_conn_id
        self.sandbox_name = sandbox_name
        self._killed = False

    def hook(self) -> AepHook:
        from airflow_provider_aep.hooks import AepHook

        return AepHook(self.aep_conn_id, sandbox_name=self.sandbox_name)

    def execute(self, context: Context) -> Any:
        """Do the work.

        Raises:
            AirflowFailException: the DAG, a permission or an entity must change first; Airflow need not try again.
            AepError: an outage; trying again is safe.
        """
        try:
            return self.work(context)
        except AepError as error:
            if not error.is_final:
                raise
            raise AirflowFailException(str(error)) from error

    def work(self, context: Context) -> Any:
        raise NotImplementedError

    def perform(self, procedure: Procedure[Any]) -> Any:
        result = self.hook().run(procedure)
        self.check_not_killed()
        return result

    def check_not_killed(self) -> None:
        """After SIGTERM Airflow lets the task go on, and it would end as a success."""
        if self._killed:
            raise RuntimeError("the task was told to stop; what it has set up will be found by the next try")

    def on_kill(self) -> None:
        self._killed = True
        self.log.info("told to stop; nothing is changed or cancelled at Adobe by that")


class _EnsureOperator(_AepOperator):
    """What the setting-up operators share: a name, and what to do with what bears it already."""

    def __init__(self, *, name: str | None = None, if_exists: IfExists = "reuse", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.name = name
        self.if_exists = if_exists
        if if_exists not in ("reuse", "update", "fail"):
            raise InvalidExport("if_exists", if_exists, "must be one of reuse, update, fail")

    def manner(self, context: Context) -> Manner:
        """How to set up, and the mark that tells what this task has made from what others have."""
        import uuid

        from airflow_provider_aep.api.procedures import Maker
        from airflow_provider_aep.api.wishes import Manner

        ti: Any = context.get("ti")
        task = f"{self.dag_id}.{self.task_id}"
        if ti is not None:
            task = f"{task}, run {ti.run_id}" + (f", map index {ti.map_index}" if ti.map_index >= 0 else "")
        maker = Maker(task, uuid.uuid4().hex[:8], again=ti is not None and ti.try_number > 1)
        return Manner(self.if_exists, maker, self.hook().settings().visibility_seconds)

    def entity_name(self, context: Context, *parts: object) -> str:
        """The name given, or one that no other task of this Airflow bears: dag_id.task_id.

        Mapped tasks of one operator are told apart by what they export, not by their index, which another order of
        the same list would change.
        """
        from airflow_provider_aep.api.wishes import check_name

        if self.name is not None:
            return check_name("name", self.name)
        ti: Any = context.get("ti")
        name = f"{self.dag_id}.{self.task_id}"
        if ti is None or ti.map_index < 0:
            return name
        import hashlib

        return f"{name} {hashlib.sha256(repr(parts).encode()).hexdigest()[:8]}"


def _checked_dataset_ids(datasets: object) -> tuple[DatasetId, ...]:
    """IDs from an ID, a listed dataset ({"id": …}), or a list of either; in their order.

    Raises:
        InvalidExport: none, one twice, or one that is not an ID (24 hexadecimal digits; source: tutorial).
    """
    import re

    listed = list(datasets) if isinstance(datasets, (list, tuple)) else [datasets]
    ids = [str(each.get("id") if isinstance(each, dict) else each) for each in listed]
    for each in ids:
        if not re.fullmatch(r"[0-9A-Fa-f]{24}", each):
            raise InvalidExport("dataset_ids", each, "must be a dataset's ID, 24 hexadecimal digits")
        if ids.count(each) > 1:
            raise InvalidExport("dataset_ids", each, "is named twice")
    if not ids:
        raise InvalidExport("dataset_ids", datasets, "must name at least one dataset")
    return tuple(ids)  # type: ignore[arg-type]  # checked by the lines above


def _check_literal_dataset_ids(datasets: object) -> None:
    parts = datasets if isinstance(datasets, (list, tuple)) else [datasets]
    if is_literal(datasets) and all(is_literal(part) for part in parts):
        _checked_dataset_ids(datasets)


def _check_schedule(schedule: object) -> None:
    if is_literal(schedule) and not isinstance(schedule, (Every, Once)):
        raise InvalidExport("schedule", schedule, "must be Every(…) or Once(…)")


def _check_destination(destination: object) -> None:
    if is_literal(destination):
        kind_of(destination)


def _check_template(folder_template: str | None) -> None:
    if folder_template is not None and is_literal(folder_template):
        check_folder_template(folder_template)


class AepListDatasetsOperator(_AepOperator):
    """The datasets that may be exported from the sandbox, all or some; the result feeds `.expand(dataset_ids=…)`.

    :param dataset_ids: these IDs, in this order (templated)
    :param names: or these names, each of which must mean one dataset (templated)
    :param name_pattern: or all whose name matches, with `*`, `?` and `[…]`; letter case counts (templated)
    :param aep_conn_id: Airflow connection of type `aep`
    :param sandbox_name: instead of the connection's (templated)

    Returns [{"id", "name", "description", "state"}, …].
    """

    template_fields: Sequence[str] = ("aep_conn_id", "sandbox_name", "dataset_ids", "names", "name_pattern")

    def __init__(
        self,
        *,
        dataset_ids: Sequence[str] | str | None = None,
        names: Sequence[str] | str | None = None,
        name_pattern: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.dataset_ids = dataset_ids
        self.names = names
        self.name_pattern = name_pattern
        if sum(each is not None for each in (dataset_ids, names, name_pattern)) > 1:
            raise InvalidExport("names", names, "give one of dataset_ids, names and name_pattern, not several")

    def work(self, context: Context) -> list[dict[str, str]]:
        from airflow_provider_aep.api.procedures import list_datasets

        found = self.perform(
            list_datasets(ids=_listed(self.dataset_ids), names=_listed(self.names), pattern=self.name_pattern or "")
        )
        self.log.info("%d datasets found", len(found))
        return [
            {"id": each.id, "name": each.name, "description": each.description, "state": each.state} for each in found
        ]


def _listed(value: Sequence[str] | str | None) -> list[str]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else list(value)


class AepCreateBaseConnectionOperator(_EnsureOperator):
    """Exactly one login at a storage account, found by name and destination; many exports may share it.

    :param destination: one of the six types of `api.destinations`; only its kind matters here (templated)
    :param destination_conn_id: Airflow connection that holds the login; none for the Data Landing Zone (templated)
    :param name: default "airflow <destination_conn_id>" (templated)
    :param if_exists: "reuse", "update" (send the credentials anew, in place) or "fail"
    :param aep_conn_id: Airflow connection of type `aep`
    :param sandbox_name: instead of the connection's (templated)

    Returns the base connection's ID.
    """

    template_fields: Sequence[str] = ("aep_conn_id", "sandbox_name", "name", "destination", "destination_conn_id")

    def __init__(self, *, destination: Destination, destination_conn_id: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.destination = destination
        self.destination_conn_id = destination_conn_id
        _check_destination(destination)

    def work(self, context: Context) -> str:
        from airflow_provider_aep.api.steps import ensure_base_connection

        wish = _base_wish(self.hook(), self.destination, self.destination_conn_id, self.name)
        return str(self.perform(ensure_base_connection(wish, self.manner(context))))


def _base_wish(hook: AepHook, destination: Destination, conn_id: str | None, name: str | None) -> BaseWish:
    from airflow_provider_aep.api.credentials import auth
    from airflow_provider_aep.api.wishes import BaseWish, check_name

    kind = kind_of(destination)
    credential = hook.destination_login(conn_id, kind)
    name = check_name("base connection name", f"airflow {conn_id or kind.name}" if name is None else name)
    return BaseWish(name, kind, auth(credential) if credential else None)


class AepCreateSourceConnectionOperator(_EnsureOperator):
    """Exactly one source connection for a list of datasets.

    :param dataset_ids: one ID or several, or what `AepListDatasetsOperator` returns, or one item of it (templated)
    :param name: default "<dag_id>.<task_id>" (templated)
    :param if_exists: "reuse" (warn where the datasets differ), "update" (make a new one, which
        `AepCreateDataflowOperator` attaches; Adobe cannot change the datasets of one) or "fail"
    :param aep_conn_id: Airflow connection of type `aep`
    :param sandbox_name: instead of the connection's (templated)

    Returns the source connection's ID.
    """

    template_fields: Sequence[str] = ("aep_conn_id", "sandbox_name", "name", "dataset_ids")

    def __init__(self, *, dataset_ids: Sequence[str] | str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dataset_ids = dataset_ids
        _check_literal_dataset_ids(dataset_ids)

    def work(self, context: Context) -> str:
        from airflow_provider_aep.api.steps import ensure_source_connection
        from airflow_provider_aep.api.wishes import SourceWish

        datasets = _checked_dataset_ids(self.dataset_ids)
        wish = SourceWish(self.entity_name(context, datasets), datasets)
        return str(self.perform(ensure_source_connection(wish, self.manner(context))))


class AepCreateTargetConnectionOperator(_EnsureOperator):
    """Exactly one target connection: a folder at a storage account, and the format of the files.

    :param base_connection_id: the login (templated)
    :param destination: where the files go (templated)
    :param file_type: "PARQUET" or "JSON" (templated)
    :param compression: "GZIP" or "NONE"; JSON is exported only compressed (templated)
    :param include_file_manifest: let Adobe write a list of the files beside them
    :param name: default "<dag_id>.<task_id>" (templated)
    :param if_exists: "reuse" (warn of each difference), "update" (change it) or "fail"
    :param aep_conn_id: Airflow connection of type `aep`
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
    )

    def __init__(
        self,
        *,
        base_connection_id: str,
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
        _check_destination(destination)
        check_format(file_type, compression)

    def work(self, context: Context) -> str:
        from airflow_provider_aep.api.destinations import target_params
        from airflow_provider_aep.api.entities import BaseConnectionId
        from airflow_provider_aep.api.steps import ensure_target_connection
        from airflow_provider_aep.api.wishes import TargetWish

        kind = kind_of(self.destination)
        params = target_params(
            self.destination,
            file_type=self.file_type,
            compression=self.compression,
            include_file_manifest=self.include_file_manifest,
        )
        name = self.entity_name(context, kind.name, params)
        wish = TargetWish(name, kind, BaseConnectionId(_given("base_connection_id", self.base_connection_id)), params)
        return str(self.perform(ensure_target_connection(wish, self.manner(context))))


def _given(argument: str, value: str | None) -> str:
    if not value:
        raise InvalidExport(argument, value, "must be an ID; is the upstream output empty?")
    return value


class AepCreateDataflowOperator(_EnsureOperator):
    """Exactly one dataflow: what goes where, how often. Adobe then runs it by itself.

    :param source_connection_id: what (templated)
    :param target_connection_id: where (templated)
    :param destination: the kind of destination that the target connection is for (templated)
    :param schedule: `Every(hours=3)`, 6, 9 or 12, `Every(days=1)`, or `Once()`; see `api.schedule` (templated)
    :param folder_template: Adobe's `foldernameTemplate`, such as "%DESTINATION%/%DATASET_ID%/%EXPORT_TIME%" (templated)
    :param name: default "<dag_id>.<task_id>" (templated)
    :param if_exists: "reuse" (warn of each difference), "update" (change it, enable it) or "fail"
    :param aep_conn_id: Airflow connection of type `aep`
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
    )

    def __init__(
        self,
        *,
        source_connection_id: str,
        target_connection_id: str,
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
        _check_destination(destination)
        _check_schedule(schedule)
        _check_template(folder_template)

    def work(self, context: Context) -> str:
        from airflow_provider_aep.api.entities import SourceConnectionId, TargetConnectionId
        from airflow_provider_aep.api.steps import ensure_dataflow
        from airflow_provider_aep.api.wishes import DataflowWish

        _check_schedule(self.schedule)
        wish = DataflowWish(
            self.entity_name(context, self.source_connection_id, self.target_connection_id),
            kind_of(self.destination),
            SourceConnectionId(_given("source_connection_id", self.source_connection_id)),
            TargetConnectionId(_given("target_connection_id", self.target_connection_id)),
            self.schedule,
            self.folder_template,
        )
        return str(self.perform(ensure_dataflow(wish, self.manner(context))))


class AepExportDatasetsOperator(_EnsureOperator):
    """A whole export in one task: base, source and target connection and dataflow, each exactly once.

    Run again, retried, cleared or killed at any point, it leaves one of each. With `wait_for_completion` it then waits
    for the run, deferred if possible.

    :param dataset_ids: one ID or several, or what `AepListDatasetsOperator` returns, or one item of it (templated)
    :param destination: where the files go: one of the six types of `api.destinations` (templated)
    :param destination_conn_id: Airflow connection that holds the login; none for the Data Landing Zone (templated)
    :param base_connection_id: instead of it, a base connection that exists at Adobe (templated)
    :param base_connection_name: name of the base connection, default "airflow <destination_conn_id>" (templated)
    :param schedule: `Every(hours=3)`, 6, 9 or 12, `Every(days=1)`, or `Once()`; see `api.schedule` (templated)
    :param file_type: "PARQUET" or "JSON" (templated)
    :param compression: "GZIP" or "NONE"; JSON is exported only compressed (templated)
    :param include_file_manifest: let Adobe write a list of the files beside them
    :param folder_template: Adobe's `foldernameTemplate`, such as "%DESTINATION%/%DATASET_ID%/%EXPORT_TIME%" (templated)
    :param name: of source connection, target connection and dataflow; default "<dag_id>.<task_id>" (templated)
    :param if_exists: "reuse" (warn of each difference), "update" (change what Adobe can change, replace the source
        connection for another list of datasets, send the credentials anew) or "fail"
    :param wait_for_completion: wait for the earliest run created at or after `after`
    :param after: see `AepDataflowRunSensor` (templated)
    :param on_failed, on_partial, on_empty: see `AepDataflowRunSensor`
    :param deferrable: wait in the triggerer; default `[operators] default_deferrable`
    :param poke_interval: seconds between two polls at the most
    :param timeout: seconds until the wait fails; a first run may take hours to begin
    :param aep_conn_id: Airflow connection of type `aep`
    :param sandbox_name: instead of the connection's (templated)

    Returns {"base_connection_id", "source_connection_id", "target_connection_id", "dataflow_id", "dataset_ids"}, and
    with `wait_for_completion` also what `AepDataflowRunSensor` returns; each is pushed by name too.
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
    )

    def __init__(
        self,
        *,
        dataset_ids: Sequence[str] | str,
        destination: Destination,
        schedule: Schedule,
        destination_conn_id: str | None = None,
        base_connection_id: str | None = None,
        base_connection_name: str | None = None,
        file_type: str = "PARQUET",
        compression: str = "GZIP",
        include_file_manifest: bool | None = None,
        folder_template: str | None = None,
        wait_for_completion: bool = False,
        after: datetime | str | None = "{{ dag_run.run_after }}",
        on_failed: Decision = "fail",
        on_partial: Decision = "fail",
        on_empty: Decision = "succeed",
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        poke_interval: float = 300,
        timeout: float = 86_400,
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
        self.on_failed = on_failed
        self.on_partial = on_partial
        self.on_empty = on_empty
        self.deferrable = deferrable
        self.poke_interval = poke_interval
        self.timeout = timeout
        _check_literal_dataset_ids(dataset_ids)
        _check_destination(destination)
        _check_schedule(schedule)
        _check_template(folder_template)
        check_format(file_type, compression)
        if base_connection_id is not None and (destination_conn_id is not None or base_connection_name is not None):
            rule = "names the login already: leave out destination_conn_id and base_connection_name"
            raise InvalidExport("base_connection_id", base_connection_id, rule)

    def work(self, context: Context) -> dict[str, Any]:
        from airflow_provider_aep.api.destinations import target_params
        from airflow_provider_aep.api.entities import BaseConnectionId
        from airflow_provider_aep.api.exports import set_up_export
        from airflow_provider_aep.api.wishes import ExportWish

        datasets = _checked_dataset_ids(self.dataset_ids)
        _check_schedule(self.schedule)
        kind = kind_of(self.destination)
        params = target_params(
            self.destination,
            file_type=self.file_type,
            compression=self.compression,
            include_file_manifest=self.include_file_manifest,
        )
        base = None
        if not self.base_connection_id:
            base = _base_wish(self.hook(), self.destination, self.destination_conn_id, self.base_connection_name)
        wish = ExportWish(
            name=self.entity_name(context, sorted(datasets), kind.name, params),
            dataset_ids=datasets,
            kind=kind,
            target_params=params,
            schedule=self.schedule,
            folder_template=self.folder_template,
            base=base,
            base_connection_id=BaseConnectionId(self.base_connection_id or ""),
        )
        ids = self.perform(set_up_export(wish, self.manner(context)))
        result = {**ids._asdict(), "dataset_ids": list(datasets)}
        if self.wait_for_completion:
            return self._wait_for_run(context, result)
        return result

    def _run_wait(self, dataflow_id: str) -> RunWait:
        from airflow_provider_aep.waiting import RunWait, milliseconds

        return RunWait(
            aep_conn_id=self.aep_conn_id,
            sandbox_name=self.sandbox_name,
            dataflow_id=dataflow_id,
            run_id=None,
            after_ms=milliseconds("after", self.after),
            poll_seconds=self.poke_interval,
            on_failed=self.on_failed,
            on_partial=self.on_partial,
            on_empty=self.on_empty,
        )

    def _wait_for_run(self, context: Context, result: dict[str, Any]) -> dict[str, Any]:
        from airflow_provider_aep.api.errors import PlatformUnavailable
        from airflow_provider_aep.waiting import WaitTimeout, backstop, deadline_after

        # What is known is pushed before the wait: links, monitors and later tasks need not wait for its end.
        for name, value in result.items():
            context["ti"].xcom_push(key=name, value=value)
        deadline = deadline_after(self.timeout, self.execution_timeout)
        wait = self._run_wait(result["dataflow_id"])
        while True:
            try:
                run = wait.look(self.hook())
            except PlatformUnavailable as trouble:
                self.log.warning("%s; the wait goes on", trouble)
                run = None
            if run and run.has_ended:
                return {**result, **wait.finish(run)}
            wait = wait._replace(run_id=run.id if run else None)
            if self.deferrable:
                self.log.info("waiting for %s", f"run {wait.run_id}" if run else f"a run created after {self.after}")
                self.defer(
                    trigger=wait.trigger(deadline=deadline, carry=result),
                    method_name="execute_complete",
                    timeout=backstop(deadline),
                )
            self._sleep_until(min(deadline, time.time() + self.poke_interval))
            if time.time() >= deadline:
                state = f"run {run.id}, {run.raw_status or 'no status yet'}" if run else "no run"
                raise WaitTimeout(f"the wait has timed out; last seen: {state}")

    def _sleep_until(self, moment: float) -> None:
        """In short pieces, since SIGTERM sets a flag and does not end a sleep."""
        while (left := moment - time.time()) > 0:
            self.check_not_killed()
            time.sleep(min(left, 1))

    def execute_complete(self, context: Context, event: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """What the trigger's event means; the same as the wait on the worker would have decided."""
        from airflow_provider_aep.waiting import read_event

        try:
            run = read_event(event)
        except AepError as error:
            if not error.is_final:
                raise
            raise AirflowFailException(str(error)) from error
        result = dict((event or {}).get("carry") or {})
        return {**result, **self._run_wait(result["dataflow_id"]).finish(run)}
