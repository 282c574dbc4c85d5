"""Pause, resume and remove an export that exists."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_provider_aep.arguments import check_entity_id, check_entity_name, entity_id, entity_name
from airflow_provider_aep.errors import InvalidArgument
from airflow_provider_aep.links import AepDataflowLink
from airflow_provider_aep.tasks import AepOperator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context

    from airflow_provider_aep.api.effects import Procedure
    from airflow_provider_aep.api.entities import Dataflow, DataflowId
    from airflow_provider_aep.destinations import Text

__all__ = ["AepDeleteExportOperator", "AepDisableDataflowOperator", "AepEnableDataflowOperator"]


class _StateOperator(AepOperator):
    """The base of operators that bring a dataflow into a state."""

    template_fields: Sequence[str] = ("aep_conn_id", "sandbox_name", "dataflow_id")
    operator_extra_links = (AepDataflowLink(),)

    def __init__(self, *, dataflow_id: Text, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dataflow_id = dataflow_id
        self._check()

    def check_arguments(self) -> None:
        super().check_arguments()
        check_entity_id("dataflow_id", self.dataflow_id)

    def work(self, context: Context) -> dict[str, str]:
        from airflow_provider_aep.api.entities import DataflowId

        dataflow_id = DataflowId(entity_id("dataflow_id", self.dataflow_id))
        self.show_links(context, dataflow_id)
        found = self.perform(self.change(dataflow_id))
        return {"dataflow_id": found.id, "name": found.name, "state": found.state}

    def change(self, dataflow: DataflowId) -> Procedure[Dataflow]:
        raise NotImplementedError


class AepEnableDataflowOperator(_StateOperator):
    """Enables a dataflow, so that Adobe runs it on its schedule again; one that is enabled stays as it is.

    A state in transit is waited for, up to five minutes. What becomes of the slots that passed while it was disabled,
    Adobe does not say; a wait for one of them ends by `on_missing`.

    :param dataflow_id: the dataflow (templated)
    :param aep_conn_id: Airflow connection of type `aep` (templated)
    :param sandbox_name: instead of the connection's (templated)

    Returns {"dataflow_id", "name", "state"} as Adobe then shows them, all text.

    Raises:
        InvalidArgument: the ID cannot be right.
        AirflowFailException: there is no such dataflow, or it is being deleted. A retry cannot help.
        AepError: an outage, or Adobe takes longer; a retry is safe.

    Source: https://experienceleague.adobe.com/en/docs/experience-platform/destinations/api/update-destination-dataflows
    """

    def change(self, dataflow: DataflowId) -> Procedure[Dataflow]:
        from airflow_provider_aep.api.provisioning.state import ensure_enabled

        return ensure_enabled(dataflow)


class AepDisableDataflowOperator(_StateOperator):
    """Disables a dataflow, so that Adobe makes no run of it until it is enabled; one that is disabled stays as it is.

    Otherwise as `AepEnableDataflowOperator`. Waits for a run of it end at once, unless a run is under way.

    :param dataflow_id: the dataflow (templated)
    :param aep_conn_id: Airflow connection of type `aep` (templated)
    :param sandbox_name: instead of the connection's (templated)

    Returns {"dataflow_id", "name", "state"} as Adobe then shows them, all text.

    Source: https://experienceleague.adobe.com/en/docs/experience-platform/destinations/api/update-destination-dataflows
    """

    def change(self, dataflow: DataflowId) -> Procedure[Dataflow]:
        from airflow_provider_aep.api.provisioning.state import ensure_disabled

        return ensure_disabled(dataflow)


class AepDeleteExportOperator(AepOperator):
    """Deletes an export: the dataflow, then its target and source connection, and its base connection if asked to.

    What others still use stays, and is told. Gone already is success. Retried after an outage or a kill, it
    finishes what it began. For a teardown see the example `example_aep_teardown`.

    :param dataflow_id: the export of this dataflow, whoever made it (templated)
    :param name: or all exports of this name that this provider made, with what set-ups that failed have left; one under
        way is waited for, and then deleted (templated)
    :param delete_base_connection: also delete the login if no target connection uses it any more; with `name` only one
        that this provider made. It is not found where a set-up died before its target connection
    :param aep_conn_id: Airflow connection of type `aep` (templated)
    :param sandbox_name: instead of the connection's (templated)

    Returns {"deleted": [{"kind": "dataflow", "id"}, …], "kept": [{"kind": "source connection", "id", "reason"}, …]},
    all text; what is in "deleted" Adobe no longer knows. Both are empty if nothing was there.

    Raises:
        InvalidArgument: an argument cannot be right, the dataflow exports no datasets, or the one of that name was not
            made by this provider.
        AirflowFailException: somebody else made one of several dataflows of that name, or Adobe refuses.
        AepError: an outage, or Adobe takes longer than five minutes; a retry is safe.

    Source: https://experienceleague.adobe.com/en/docs/experience-platform/destinations/api/delete-destination-account
    """

    template_fields: Sequence[str] = ("aep_conn_id", "sandbox_name", "dataflow_id", "name", "options")
    shown_options = ("delete_base_connection",)

    def __init__(
        self,
        *,
        dataflow_id: Text | None = None,
        name: Text | None = None,
        delete_base_connection: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.dataflow_id = dataflow_id
        self.name = name
        self.delete_base_connection = delete_base_connection
        # An upstream output that turns out to be empty must not come to mean the other way, or none.
        self._by_id, self._by_name = dataflow_id is not None, name is not None
        self._check()

    def check_arguments(self) -> None:
        super().check_arguments()
        if self._by_id == self._by_name:
            given = self.dataflow_id if self._by_id else None
            raise InvalidArgument("dataflow_id", given, "give either the dataflow's ID or the export's name")
        if self._by_id:
            check_entity_id("dataflow_id", self.dataflow_id)
        else:
            check_entity_name("name", self.name)
        if not isinstance(self.delete_base_connection, bool):
            raise InvalidArgument("delete_base_connection", self.delete_base_connection, "must be True or False")

    def work(self, context: Context) -> dict[str, list[dict[str, str]]]:
        from airflow_provider_aep.api.entities import DataflowId
        from airflow_provider_aep.api.provisioning.policy import SetupPolicy
        from airflow_provider_aep.api.provisioning.removal import remove_export, remove_exports_named

        policy = SetupPolicy("reuse", self.owner_of_try(context), self.hook().settings().visibility_seconds)
        with_login = self.delete_base_connection
        if self._by_id:
            dataflow = DataflowId(entity_id("dataflow_id", self.dataflow_id))
            removal = self.perform(remove_export(dataflow, policy, with_base_connection=with_login))
        else:
            name = entity_name("name", self.name)
            removal = self.perform(remove_exports_named(name, policy, with_base_connection=with_login))
        result: dict[str, list[dict[str, str]]] = removal.as_data()
        deleted, kept = (", ".join(f"{each['kind']} {each['id']}" for each in result[key]) for key in result)
        self.log.info("deleted: %s; kept: %s", deleted or "nothing", kept or "nothing")
        return result
