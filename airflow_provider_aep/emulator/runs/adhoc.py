"""Runs on request.

Source: Adobe's OpenAPI for ad hoc activation has the variant for audiences; the one for datasets is known from aepp, a
Python client.
"""

from __future__ import annotations

from typing import Any

from airflow_provider_aep.emulator.errors import Refusal, adhoc_error, problem
from airflow_provider_aep.emulator.flow_service.endpoints import BASE
from airflow_provider_aep.emulator.flow_service.filters import Document, values_at
from airflow_provider_aep.emulator.flow_service.request import ApiRequest, ApiResponse
from airflow_provider_aep.emulator.flow_service.specs import FLOW_SPECS
from airflow_provider_aep.emulator.options import Options
from airflow_provider_aep.emulator.runs.lifecycle import Runs

ADHOC = "/data/core/activation/disflowprovider/adhocrun"

_ADHOC_DATASETS = "adhoc.dataset.activation"
_ADHOC_AUDIENCES_V2 = "adhoc.activation+json"
_AUDIENCES_AT_ONCE = 80


class AdhocRuns:
    """Runs on request. The variant for audiences is in Adobe's OpenAPI; the one for datasets is known from aepp."""

    def __init__(self, runs: Runs, options: Options) -> None:
        self._runs, self._options = runs, options

    def answer(self, request: ApiRequest) -> ApiResponse:
        if request.method != "POST":
            raise problem(405, "Method Not Allowed", f"{request.method} {ADHOC}")
        given = request.body.get("activationInfo") if isinstance(request.body, dict) else None
        if not isinstance(given, dict) or not given:
            raise adhoc_error(400, "Invalid parameter: activationInfo is required")
        accept = request.headers.get("accept", "")
        if _ADHOC_DATASETS in accept:
            return ApiResponse(200, {"destinations": self._datasets(request, given)})
        if _ADHOC_AUDIENCES_V2 not in accept and not request.body.get("exportIds"):
            raise adhoc_error(400, "Invalid parameter: exportIds is required")
        return ApiResponse(200, {"order": self._audiences(request, given)})

    def _datasets(self, request: ApiRequest, given: dict[str, Any]) -> list[dict[str, Any]]:
        asked: list[tuple[Document, list[str]]] = []
        waiting = []
        destinations = given.get("destinations")
        for one in destinations if isinstance(destinations, list) else []:
            if not isinstance(one, dict) or not isinstance(one.get("datasets"), list) or not one["datasets"]:
                raise adhoc_error(400, "Invalid parameter: each destination needs a flowId and datasets")
            flow = self._flow(request, str(one.get("flowId")))
            if not FLOW_SPECS[flow["flowSpec"]["id"]].datasets:
                spec = flow["flowSpec"]["id"]
                reason = f"Adhoc run can not be executed for Flow spec={spec}"
                raise adhoc_error(400, f"Invalid parameter: Flow for id {flow['id']} is incorrect. Error is [{reason}]")
            ids = [str(dataset.get("id")) if isinstance(dataset, dict) else "" for dataset in one["datasets"]]
            self._check_datasets(request, flow, ids)
            if request.now - flow["createdAt"] / 1000 < self._options.adhoc_ready_seconds:
                waiting.append(flow["id"])
            asked.append((flow, ids))
        if not asked:
            raise adhoc_error(400, "Invalid parameter: destinations is required")
        if waiting:
            raise adhoc_error(
                400,
                "Invalid parameter: Following order ID(s) are not ready for dataset export, please wait for 10 minutes"
                f" and retry. {waiting}",
            )
        return [self._start(request, flow, ids) for flow, ids in asked]

    def _check_datasets(self, request: ApiRequest, flow: Document, dataset_ids: list[str]) -> None:
        if flow["state"] != "enabled":
            raise adhoc_error(400, f"Invalid parameter: order {flow['id']} is not enabled")
        source = request.collection("sourceConnections").get(flow["sourceConnectionIds"][0])
        known = {one["dataSetId"] for one in source["params"]["datasets"]}
        for dataset_id in dataset_ids:
            if dataset_id not in known:
                raise adhoc_error(400, f"Invalid parameter: dataset {dataset_id} is not part of order {flow['id']}")
            for plan in self._runs.run_plans.values():
                if plan.flow_id == flow["id"] and dataset_id in plan.dataset_ids:
                    raise adhoc_error(
                        400,
                        f"Invalid parameter: Run already exists for dataset {dataset_id} for order {flow['id']}"
                        f" with run id {plan.run_id}",
                    )

    def _start(self, request: ApiRequest, flow: Document, dataset_ids: list[str]) -> dict[str, Any]:
        run = self._runs.create(flow, request.now, dataset_ids=dataset_ids)
        return {
            "datasets": [
                {"id": one, "statusURL": _status_url(request, run), "flowId": flow["id"]} for one in dataset_ids
            ]
        }

    def _audiences(self, request: ApiRequest, given: dict[str, Any]) -> list[dict[str, Any]]:
        asked: list[tuple[Document, str]] = []
        for flow_id, audience_ids in given.items():
            flow = self._flow(request, flow_id)
            mapped = {str(one) for one in values_at(flow, "transformations.params.segmentSelectors.selectors.value.id")}
            if not isinstance(audience_ids, list) or not audience_ids:
                raise adhoc_error(400, f"Invalid parameter: audiences of order {flow_id} are expected")
            missing = [str(one) for one in audience_ids if str(one) not in mapped]
            if missing:
                text = f"Segments {', '.join(missing)} are not part of this dataflow or out of schedule range!"
                raise adhoc_error(400, text)
            for plan in self._runs.run_plans.values():
                if plan.flow_id == flow_id:
                    raise adhoc_error(
                        400,
                        f"Run already going on for audience {audience_ids[0]} for order {flow_id}"
                        f" with run id {plan.run_id}",
                    )
            asked += [(flow, str(one)) for one in audience_ids]
        if len(asked) > _AUDIENCES_AT_ONCE:
            raise adhoc_error(400, f"Invalid parameter: at most {_AUDIENCES_AT_ONCE} audiences at once")
        return [
            {
                "segment": audience,
                "order": flow["id"],
                "statusURL": _status_url(request, self._runs.create(flow, request.now)),
            }
            for flow, audience in asked
        ]

    def _flow(self, request: ApiRequest, flow_id: str) -> Document:
        try:
            return request.collection("flows").get(flow_id)
        except Refusal:
            raise adhoc_error(404, f"Invalid parameter: order {flow_id} not found") from None


def _status_url(request: ApiRequest, run: Document) -> str:
    return f"{request.origin}{BASE}/runs/{run['id']}"
