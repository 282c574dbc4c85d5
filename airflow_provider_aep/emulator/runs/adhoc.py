"""Ad hoc runs, outside a dataflow's schedule.

Adobe's published reference has the call for audiences only. The variant for datasets, which is emulated here, is known
from aepp, https://github.com/adobe/aepp.
"""

from __future__ import annotations

from typing import Any

from airflow_provider_aep.emulator.errors import Refusal, bad_parameter, problem
from airflow_provider_aep.emulator.flow_service.endpoints import BASE
from airflow_provider_aep.emulator.flow_service.filters import Document
from airflow_provider_aep.emulator.flow_service.request import ApiRequest, ApiResponse
from airflow_provider_aep.emulator.options import Options
from airflow_provider_aep.emulator.runs.lifecycle import Runs

ADHOC = "/data/core/activation/disflowprovider/adhocrun"


class AdhocRuns:
    """Starts runs of datasets. Without their Accept header Adobe takes the call for one of audiences, and so do we."""

    def __init__(self, runs: Runs, options: Options) -> None:
        self._runs, self._options = runs, options

    def answer(self, request: ApiRequest) -> ApiResponse:
        if request.method != "POST":
            raise problem(405, "Method Not Allowed", f"{request.method} {ADHOC}")
        given = request.body.get("activationInfo") if isinstance(request.body, dict) else None
        if not isinstance(given, dict) or not given:
            raise bad_parameter("activationInfo is required")
        if "adhoc.dataset.activation" not in request.headers.get("accept", ""):
            raise bad_parameter("exportIds is required")
        destinations = given.get("destinations")
        if not isinstance(destinations, list) or not destinations:
            raise bad_parameter("destinations is required")
        asked = [self._checked(request, one) for one in destinations]
        if not self._options.adhoc_allowed:
            flow = asked[0][0]
            text = f"Adhoc run can not be executed for Flow spec={flow['flowSpec']['id']}]"
            raise bad_parameter(f"Flow for id {flow['id']} is incorrect. Error is [{text}")
        ready_ms = request.now_ms - self._options.adhoc_ready_seconds * 1000
        waiting = [flow["id"] for flow, _ in asked if flow["createdAt"] > ready_ms]
        if waiting:
            raise bad_parameter(
                "Following order ID(s) are not ready for dataset export, please wait for 10 minutes and retry."
                f" {waiting}"
            )
        return ApiResponse(200, {"destinations": [self._start(request, flow, ids) for flow, ids in asked]})

    def _checked(self, request: ApiRequest, destination: Any) -> tuple[Document, list[str]]:
        """The dataflow and the dataset IDs of one destination."""
        listed = destination.get("datasets") if isinstance(destination, dict) else None
        if not isinstance(listed, list) or not listed:
            raise bad_parameter("each destination needs a flowId and datasets")
        flow_id = str(destination.get("flowId"))
        try:
            flow = request.entities("flows").get(flow_id)
        except Refusal:
            raise bad_parameter(f"order {flow_id} not found", status=404) from None
        if flow["state"] != "enabled":
            raise bad_parameter(f"order {flow_id} is not enabled")
        source = request.entities("sourceConnections").get(flow["sourceConnectionIds"][0])
        known = {one["dataSetId"] for one in source["params"]["datasets"]}
        ids = [str(one.get("id")) if isinstance(one, dict) else "" for one in listed]
        for dataset_id in ids:
            if dataset_id not in known:
                raise bad_parameter(f"dataset {dataset_id} is not part of order {flow_id}")
            for run in self._runs.active.values():
                if run.flow_id == flow_id and dataset_id in run.dataset_ids:
                    text = f"Run already exists for dataset {dataset_id} for order {flow_id} with run id {run.run_id}"
                    raise bad_parameter(text)
        return flow, ids

    def _start(self, request: ApiRequest, flow: Document, dataset_ids: list[str]) -> dict[str, Any]:
        run = self._runs.create(flow, request.now, dataset_ids=dataset_ids)
        url = f"{request.origin}{BASE}/runs/{run['id']}"
        return {"datasets": [{"id": one, "statusURL": url, "flowId": flow["id"]} for one in dataset_ids]}
