"""Find the datasets that Adobe lets you export."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException

from airflow_provider_aep.arguments import check_decisions, check_selection
from airflow_provider_aep.tasks import AepOperator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context

    from airflow_provider_aep.arguments import Datasets, Decision
    from airflow_provider_aep.destinations import Text

__all__ = ["AepListDatasetsOperator"]


class AepListDatasetsOperator(AepOperator):
    """Lists the datasets that Adobe lets you export from the sandbox, all or some; feeds `.expand(dataset_ids=…)`.

    :param dataset_ids: these IDs, in this order (templated)
    :param names: or those with these names, in this order; a name must belong to one dataset only (templated)
    :param name_pattern: or all whose name matches; `*`, `?` and `[…]` as in file names, case counts (templated)
    :param on_empty: what happens to the task if there is no such dataset: "fail" (default), "skip" or "succeed"
    :param aep_conn_id: Airflow connection of type `aep` (templated)
    :param sandbox_name: instead of the connection's (templated)

    Without the first three it lists all; an empty one is refused, so that an upstream task that finds nothing does not
    come to mean all.

    Returns [{"id", "name", "description", "state"}, …], all text.

    Raises:
        InvalidArgument: an ID or name is not among the datasets, or a name belongs to several.

    Source: "Retrieve a list of eligible datasets" in
    https://experienceleague.adobe.com/en/docs/experience-platform/destinations/api/export-datasets
    """

    template_fields: Sequence[str] = ("aep_conn_id", "sandbox_name", "dataset_ids", "names", "name_pattern", "options")
    shown_options = ("on_empty",)

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
        check_selection(self.dataset_ids, self.names, self.name_pattern)
        check_decisions(on_empty=self.on_empty)

    def work(self, context: Context) -> list[dict[str, str]]:
        hook = self.hook()
        found = hook.list_datasets(dataset_ids=self.dataset_ids, names=self.names, name_pattern=self.name_pattern)
        self.check_not_killed()
        self.log.info("found %d dataset%s", len(found), "" if len(found) == 1 else "s")
        if not found and self.on_empty != "succeed":
            what = f"name_pattern = {self.name_pattern!r}: no matching dataset" if self.name_pattern else "no dataset"
            sandbox_name = hook.settings().sandbox_name
            text = f"{what} may be exported from sandbox {sandbox_name!r} (on_empty={self.on_empty!r})"
            raise AirflowSkipException(text) if self.on_empty == "skip" else AirflowFailException(text)
        return [
            {"id": each.id, "name": each.name, "description": each.description, "state": each.state} for each in found
        ]
