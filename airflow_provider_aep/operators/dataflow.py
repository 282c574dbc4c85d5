"""Set up the dataflow, which Adobe then runs on its schedule."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_provider_aep.arguments import check_destination, check_entity_id, check_schedule, entity_id
from airflow_provider_aep.destinations import destination_type, place_params
from airflow_provider_aep.tasks import AepSetupOperator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context

    from airflow_provider_aep.destinations import Destination, Text
    from airflow_provider_aep.schedules import Schedule

__all__ = ["AepCreateDataflowOperator"]


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
