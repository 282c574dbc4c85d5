"""Set up an export step by step: the login at a storage account, the source, the target, and the dataflow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_provider_aep.arguments import (
    check_dataset_ids,
    check_destination,
    check_entity_id,
    check_login,
    check_schedule,
    check_target,
    dataset_ids,
    entity_id,
)
from airflow_provider_aep.destinations import destination_type, place_params, target_params
from airflow_provider_aep.links import AepDataflowLink
from airflow_provider_aep.tasks import AepSetupOperator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context

    from airflow_provider_aep.arguments import Datasets
    from airflow_provider_aep.destinations import Destination, Text
    from airflow_provider_aep.schedules import Schedule

__all__ = [
    "AepCreateBaseConnectionOperator",
    "AepCreateDataflowOperator",
    "AepCreateSourceConnectionOperator",
    "AepCreateTargetConnectionOperator",
]


class AepCreateBaseConnectionOperator(AepSetupOperator):
    """Sets up a base connection, a login at a storage account, exactly once; many exports can share it.

    :param destination: one of the six types of `destinations`; only the type matters here (templated)
    :param destination_conn_id: Airflow connection that holds the login; None for the Data Landing Zone (templated)
    :param name: default "airflow <destination_conn_id>" (templated)
    :param if_exists: "reuse", "update" (replace the credentials in place) or "fail"
    :param aep_conn_id: Airflow connection of type `aep` (templated)
    :param sandbox_name: instead of the connection's (templated)

    Returns the base connection's ID.

    Raises:
        InvalidArgument: an argument cannot be right, or the Airflow connection does not hold the login.
        AirflowFailException: one of this name differs, and `if_exists` or Adobe does not let it be changed.

    Source: "Create a base connection" in
    https://experienceleague.adobe.com/en/docs/experience-platform/destinations/api/export-datasets
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

        desired = self.hook().desired_base_connection(self.destination, self.destination_conn_id, self.name)
        return str(self.perform(ensure_base_connection(desired, self.policy(context))))


class AepCreateSourceConnectionOperator(AepSetupOperator):
    """Sets up a source connection, which datasets to export, exactly once.

    :param dataset_ids: an ID, several, what `AepListDatasetsOperator` returns, or one item of that (templated)
    :param name: default "<dag_id>.<task_id>" (templated)
    :param if_exists: "reuse" (refuse one with other datasets), "update" (create another one, which
        `AepCreateDataflowOperator` attaches, since Adobe cannot change the datasets of one) or "fail"
    :param aep_conn_id: Airflow connection of type `aep` (templated)
    :param sandbox_name: instead of the connection's (templated)

    Returns the source connection's ID.

    Raises:
        InvalidArgument: an argument cannot be right.
        AirflowFailException: one of this name differs, and `if_exists` does not let it be replaced.

    Source: "Create a source connection" in
    https://experienceleague.adobe.com/en/docs/experience-platform/destinations/api/export-datasets
    """

    template_fields: Sequence[str] = ("aep_conn_id", "sandbox_name", "name", "dataset_ids", "options")
    shown_options = ("if_exists",)

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


class AepCreateTargetConnectionOperator(AepSetupOperator):
    """Sets up a target connection, a folder at a storage account and the format of its files, exactly once.

    :param base_connection_id: the login (templated)
    :param destination: where the files go (templated)
    :param file_type: "PARQUET" or "JSON" (templated)
    :param compression: "GZIP" or "NONE"; Adobe exports JSON only compressed (templated)
    :param include_file_manifest: let Adobe write a list of the files beside them; None means no
    :param name: default "<dag_id>.<task_id>" (templated)
    :param if_exists: "reuse" (refuse one with another place or format), "update" (change it) or "fail"
    :param aep_conn_id: Airflow connection of type `aep` (templated)
    :param sandbox_name: instead of the connection's (templated)

    Returns the target connection's ID.

    Raises:
        InvalidArgument: an argument cannot be right.
        AirflowFailException: one of this name differs, and `if_exists` or Adobe does not let it be changed.

    Source: "Create a target connection" in
    https://experienceleague.adobe.com/en/docs/experience-platform/destinations/api/export-datasets
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

        row = destination_type(self.destination)
        params = target_params(
            self.destination,
            file_type=self.file_type,
            compression=self.compression,
            include_file_manifest=self.include_file_manifest,
        )
        base = BaseConnectionId(entity_id("base_connection_id", self.base_connection_id))
        name = self.entity_name(context, base, row.name, *self.destination)
        desired = DesiredTargetConnection(name, row, base, params)
        return str(self.perform(ensure_target_connection(desired, self.policy(context))))


class AepCreateDataflowOperator(AepSetupOperator):
    """Sets up a dataflow, what goes where and how often, exactly once. Adobe runs it on its schedule from then on.

    :param source_connection_id: what to export (templated)
    :param target_connection_id: where to (templated)
    :param destination: the place that the target connection was set up for (templated)
    :param schedule: `Every(hours=3)`, 6, 9 or 12, `Every(days=1)`, or `Once()`; see `schedules` (templated)
    :param folder_template: Adobe's `foldernameTemplate`, such as "%DESTINATION%/%DATASET_ID%/%EXPORT_TIME%" (templated)
    :param name: default "<dag_id>.<task_id>" (templated)
    :param if_exists: "reuse" (refuse one with other data or another folder, warn of another schedule or state),
        "update" (change and enable it) or "fail"
    :param aep_conn_id: Airflow connection of type `aep` (templated)
    :param sandbox_name: instead of the connection's (templated)

    Returns the dataflow's ID.

    Raises:
        InvalidArgument: an argument cannot be right, or the target connection was set up for another place.
        AirflowFailException: one of this name differs, and `if_exists` or Adobe does not let it be changed.

    Source: "Create a dataflow" in
    https://experienceleague.adobe.com/en/docs/experience-platform/destinations/api/export-datasets
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
    operator_extra_links = (AepDataflowLink(),)

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
        dataflow_id = str(self.perform(ensure_dataflow(desired, self.policy(context))))
        self.show_links(context, dataflow_id)
        return dataflow_id
