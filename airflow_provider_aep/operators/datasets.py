"""Find the datasets that may be exported."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException

from airflow_provider_aep.arguments import check_dataset_ids, check_decisions, check_texts, texts
from airflow_provider_aep.errors import InvalidArgument
from airflow_provider_aep.tasks import AepOperator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context

    from airflow_provider_aep.arguments import Datasets, Decision
    from airflow_provider_aep.destinations import Text

__all__ = ["AepListDatasetsOperator"]


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

    Raises:
        InvalidArgument: an ID or a name is not among the datasets, or a name means several.

    Source: Export datasets tutorial, https://experienceleague.adobe.com/en/docs/experience-platform/destinations/api/export-datasets
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
        found = self.hook().list_datasets(
            dataset_ids=self.dataset_ids, names=texts("names", self.names) or None, pattern=self.name_pattern or ""
        )
        self.check_not_killed()
        self.log.info("%d datasets found", len(found))
        if not found and self.on_empty != "succeed":
            what = f"name_pattern = {self.name_pattern!r}: no matching dataset" if self.name_pattern else "no dataset"
            sandbox_name = self.hook().settings().sandbox_name
            text = f"{what} may be exported from sandbox {sandbox_name!r} (on_empty={self.on_empty!r})"
            raise AirflowSkipException(text) if self.on_empty == "skip" else AirflowFailException(text)
        return [
            {"id": each.id, "name": each.name, "description": each.description, "state": each.state} for each in found
        ]
