"""Buttons on a task's page that lead to its dataflow and its flow run in Adobe's UI."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar
from urllib.parse import quote, urlsplit

from airflow.providers.common.compat.sdk import BaseOperatorLink, conf

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey

    from airflow_provider_aep.api.settings import Settings

__all__ = ["AepDataflowLink", "AepDataflowRunLink"]

# Adobe documents no address of these pages. It prints those of a source's dataflow and run, as …/platform/source/
# dataflows/<dataflow>/activity/<run>, in samples of alerts; a destination's page lies below Destinations > Browse and
# has the dataflow's ID in its address.
# Sources: "url" in https://experienceleague.adobe.com/en/docs/experience-platform/observability/alerts/rules;
# https://experienceleague.adobe.com/en/docs/experience-platform/destinations/ui/destinations-workspace; "Prerequisites"
# in https://experienceleague.adobe.com/en/docs/experience-platform/destinations/destination-sdk/testing-api/batch-destinations/file-based-destination-testing-api
_PAGE = (
    "https://experience.adobe.com/#/@{org_id}/sname:{sandbox_name}/platform/destination/browse/{dataflow_id}/activity"
)


class AepLink(BaseOperatorLink):
    """A link to a page of Adobe's UI; Airflow's UI reads its address from XCom, under `xcom_key`."""

    #: The option of `[aep]` that holds another pattern, and the pattern that holds without it.
    option: ClassVar[str]
    pattern: ClassVar[str]

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """What the task or its trigger has pushed, or "".

        Airflow asks on the worker, whenever a process of the task ends, and stores the answer where it came from.
        """
        from airflow.sdk.execution_time.xcom import XCom

        return XCom.get_value(ti_key=ti_key, key=self.xcom_key) or ""

    def address(self, settings: Settings, dataflow_id: str, run_id: str = "") -> str:
        """The page's address; "" if the gateway is not Adobe's, as the emulator's, and no pattern is configured."""
        host = urlsplit(settings.gateway).hostname or ""
        built_in = self.pattern if host.endswith(".adobe.io") else ""
        address = conf.get("aep", self.option, fallback="") or built_in
        values = {
            "dataflow_id": dataflow_id,
            "run_id": run_id,
            "sandbox_name": settings.sandbox_name,
            "org_id": settings.org_id,
        }
        for name, value in values.items():
            address = address.replace(f"{{{name}}}", quote(value, safe="@"))
        return address


class AepDataflowLink(AepLink):
    """To the page of the dataflow that a task sets up, changes or waits for."""

    name = "Dataflow at Adobe"
    option = "dataflow_url"
    pattern = _PAGE


class AepDataflowRunLink(AepLink):
    """To the page of the flow run that a task has found or started."""

    name = "Flow run at Adobe"
    option = "run_url"
    pattern = f"{_PAGE}/{{run_id}}"
