"""Create the login, the source and the target of an export."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_provider_aep.arguments import (
    check_dataset_ids,
    check_destination,
    check_entity_id,
    check_login,
    check_target,
    dataset_ids,
    entity_id,
)
from airflow_provider_aep.destinations import destination_type, target_params
from airflow_provider_aep.tasks import AepSetupOperator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context

    from airflow_provider_aep.arguments import Datasets
    from airflow_provider_aep.destinations import Destination, Text

__all__ = [
    "AepCreateBaseConnectionOperator",
    "AepCreateSourceConnectionOperator",
    "AepCreateTargetConnectionOperator",
]


class AepCreateBaseConnectionOperator(AepSetupOperator):
    """Exactly one login at a storage account, found by name and destination; many exports may share it.

    :param destination: one of the six types of `destinations`; only its kind matters here (templated)
    :param destination_conn_id: Airflow connection that holds the login; none for the Data Landing Zone (templated)
    :param name: default "airflow <destination_conn_id>" (templated)
    :param if_exists: "reuse", "update" (send the credentials again, in place) or "fail"
    :param aep_conn_id: Airflow connection of type `aep` (templated)
    :param sandbox_name: instead of the connection's (templated)

    Returns the base connection's ID.

    Raises:
        AirflowFailException: there is one, and it is for another account, logs in otherwise, or `if_exists="fail"`.

    Source: Export datasets tutorial, https://experienceleague.adobe.com/en/docs/experience-platform/destinations/api/export-datasets
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
    """Exactly one source connection for a list of datasets.

    :param dataset_ids: one ID or several, or what `AepListDatasetsOperator` returns, or one item of it (templated)
    :param name: default "<dag_id>.<task_id>" (templated)
    :param if_exists: "reuse" (refuse one with other datasets), "update" (make a new one, which
        `AepCreateDataflowOperator` attaches; Adobe cannot change the datasets of one) or "fail"
    :param aep_conn_id: Airflow connection of type `aep` (templated)
    :param sandbox_name: instead of the connection's (templated)

    Returns the source connection's ID.

    Raises:
        AirflowFailException: there is one, and `if_exists` does not allow for it.

    Source: Export datasets tutorial, https://experienceleague.adobe.com/en/docs/experience-platform/destinations/api/export-datasets
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


class AepCreateTargetConnectionOperator(AepSetupOperator):
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

    Raises:
        AirflowFailException: there is one, and `if_exists` does not allow for it, or Adobe cannot change it as asked.

    Source: Export datasets tutorial, https://experienceleague.adobe.com/en/docs/experience-platform/destinations/api/export-datasets
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
