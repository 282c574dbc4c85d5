"""How the body of a POST becomes an entity, and what that inherits from others.

Source: the request and response examples of the destinations OpenAPI.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from airflow_provider_aep.emulator.errors import flow_error, missing
from airflow_provider_aep.emulator.flow_service import validation
from airflow_provider_aep.emulator.flow_service.filters import Document
from airflow_provider_aep.emulator.flow_service.request import ApiRequest
from airflow_provider_aep.emulator.flow_service.specs import DATA_LAKE
from airflow_provider_aep.emulator.flow_service.store import Store
from airflow_provider_aep.emulator.options import Options

_USER = "0A4334FA556585B77F000101@AdobeID"


class Creator:
    """Creates entities, without adding them to their collection.

    Raises:
        Refusal: from `create`, for a body that breaks a rule.
    """

    def __init__(self, store: Store, options: Options) -> None:
        self._store, self._options = store, options
        self._connections: dict[str, Callable[[ApiRequest, dict[str, Any]], Document]] = {
            "connections": self._connection,
            "sourceConnections": self._source_connection,
            "targetConnections": self._target_connection,
        }

    def create(self, request: ApiRequest, collection: str) -> Document:
        body = validation.body_object(request.body)
        if collection != "flows":
            return self._connections[collection](request, body)
        with validation.missing_is(1425):
            return self._flow(request, body)

    def _entity(self, request: ApiRequest, body: dict[str, Any]) -> Document:
        etag = self._store.new_etag(request.now)
        client = self._options.client_id
        entity: Document = {
            "id": self._store.new_id(),
            "createdAt": request.now_ms,
            "updatedAt": request.now_ms,
            "createdBy": _USER,
            "updatedBy": _USER,
            "createdClient": client,
            "updatedClient": client,
            "sandboxId": request.sandbox.id,
            "sandboxName": request.sandbox.name,
            "imsOrgId": self._options.org_id,
            "name": validation.name_of(body),
            "state": "enabled",
            "version": etag,
            "etag": etag,
        }
        if body.get("description") is not None:
            entity["description"] = validation.text("description", body["description"], empty=True)
        return entity

    def _connection(self, request: ApiRequest, body: dict[str, Any]) -> Document:
        entity = self._entity(request, body)
        spec = validation.connection_spec(body)
        # Adobe's first destination tutorials create a base connection for the source, too; later ones do not.
        entity["connectionSpec"] = {"id": spec.id, "version": "1.0"}
        login = validation.auth(spec, body.get("auth"), today=date(request.now))
        if login is not None:
            entity["auth"] = login
        if body.get("encryption") is not None:
            entity["encryption"] = copy.deepcopy(body["encryption"])
        return entity

    def _source_connection(self, request: ApiRequest, body: dict[str, Any]) -> Document:
        entity = self._entity(request, body)
        spec = validation.connection_spec(body)
        if spec.id != DATA_LAKE:
            raise flow_error(1413, 400, f"Connection spec [{spec.id}] is not one of a source")
        entity["connectionSpec"] = {"id": spec.id, "version": "1.0"}
        if body.get("baseConnectionId") is not None:
            entity["baseConnectionId"] = _base(request, body, spec.id)["id"]
        else:
            entity["baseConnectionId"] = self._store.new_id()  # the service creates it; no list shows it
        entity["params"] = {"datasets": validation.datasets(body.get("params"))}
        if body.get("data") is not None:
            entity["data"] = copy.deepcopy(body["data"])
        entity["inheritedAttributes"] = _inherited(entity["baseConnectionId"], entity)
        return entity

    def _target_connection(self, request: ApiRequest, body: dict[str, Any]) -> Document:
        entity = self._entity(request, body)
        spec = validation.connection_spec(body)
        if spec.id == DATA_LAKE:
            raise flow_error(1413, 400, f"Connection spec [{spec.id}] is not one of a destination")
        base = _base(request, body, spec.id)
        entity["baseConnectionId"] = base["id"]
        entity["connectionSpec"] = {"id": spec.id, "version": "1.0"}
        entity["params"] = validation.target_params(spec, body.get("params"), self._options)
        entity["inheritedAttributes"] = _inherited(base["id"], base)
        return entity

    def _flow(self, request: ApiRequest, body: dict[str, Any]) -> Document:
        entity = self._entity(request, body)
        entity.setdefault("description", "")
        spec_id = validation.flow_spec(body)
        entity["flowSpec"] = {"id": spec_id, "version": "1.0"}
        for member in ("sourceConnectionIds", "targetConnectionIds"):
            entity[member] = [validation.one_id(member, body.get(member))]
        validation.check_ends(spec_id, *ends(request, entity))
        entity["transformations"] = validation.transformations(body.get("transformations"))
        # The OpenAPI's own example has no schedule: a dataflow rests until one is patched in.
        if "scheduleParams" in body:
            schedule = body["scheduleParams"]
            entity["scheduleParams"] = validation.schedule(schedule, now=request.now, options=self._options)
        inherit(request, entity)
        entity["runs"] = f"/runs?property=flowId=={entity['id']}"
        entity["lastOperation"] = operation("create", request.now_ms, [])
        return entity


def _base(request: ApiRequest, body: dict[str, Any], spec_id: str) -> Document:
    """The base connection that a body names, which has to have the same connection spec."""
    base_id = body.get("baseConnectionId")
    if not base_id:
        raise missing("baseConnectionId 'baseConnectionId' is required")
    base = request.entities("connections").get(str(base_id), in_path=False)
    used = base["connectionSpec"]["id"]
    if used != spec_id:
        raise flow_error(1413, 400, f"Base connection [{base_id}] has connection spec [{used}]")
    return base


def ends(request: ApiRequest, flow: Document) -> tuple[Document, Document]:
    source = request.entities("sourceConnections").get(flow["sourceConnectionIds"][0], in_path=False)
    return source, request.entities("targetConnections").get(flow["targetConnectionIds"][0], in_path=False)


def inherit(request: ApiRequest, flow: Document) -> None:
    source, target = ends(request, flow)
    base = target["inheritedAttributes"]["baseConnection"]
    flow["inheritedAttributes"] = {
        "properties": {"isDestinationFlow": True},
        "sourceConnections": [{"id": source["id"], "connectionSpec": source["connectionSpec"]}],
        "targetConnections": [{"id": target["id"], "connectionSpec": target["connectionSpec"], "baseConnection": base}],
    }


def _inherited(base_id: str, entity: Document) -> dict[str, Any]:
    return {"baseConnection": {"id": base_id, "connectionSpec": entity["connectionSpec"]}}


def operation(name: str, now_ms: int, operations: Any) -> dict[str, Any]:
    """`lastOperation` of a dataflow."""
    status: dict[str, Any] = {"value": "completed", "properties": None, "errors": []}
    return {
        "started": now_ms,
        "updated": now_ms,
        "percentCompleted": 100,
        "status": status,
        "ops": operations,
        "operation": name,
    }


def date(now: float) -> str:
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d")
