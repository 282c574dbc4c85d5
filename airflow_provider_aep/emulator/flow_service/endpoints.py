"""Flow Service: connections, dataflows, runs and specs, as `/data/foundation/flowservice` offers them.

Source: Adobe's OpenAPI documents for destinations and for Flow Service. Where the two differ (202 or 204 for a
deletion), the one for destinations holds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from airflow_provider_aep.emulator.clock import Timer, Timers
from airflow_provider_aep.emulator.errors import flow_error, problem, too_many
from airflow_provider_aep.emulator.flow_service.create import Creator
from airflow_provider_aep.emulator.flow_service.datasets import DATASETS, catalog_record
from airflow_provider_aep.emulator.flow_service.filters import (
    Document,
    Query,
    RefusedFilter,
    next_href,
    read_query,
    read_search,
    whole_number,
)
from airflow_provider_aep.emulator.flow_service.request import ApiRequest, ApiResponse
from airflow_provider_aep.emulator.flow_service.specs import CONNECTION_SPECS, FLOW_SPECS, flow_spec_document
from airflow_provider_aep.emulator.flow_service.store import COLLECTIONS, Creation, EntityCollection, Store
from airflow_provider_aep.emulator.flow_service.update import check_version, patched
from airflow_provider_aep.emulator.options import Options

BASE = "/data/foundation/flowservice"

# What GET …/configs returns whatever `properties` asks for, as in the tutorial's sample.
_DATASET_MEMBERS = ("id", "name", "description", "fileDescription", "aspect", "state")

_RUN_WRITES = {("POST",), ("PUT", "{id}"), ("PATCH", "{id}"), ("DELETE", "{id}")}


class Scheduler(Protocol):
    """Who decides when a dataflow runs."""

    def plan(self, flow: Document, now: float, *, created: bool = False) -> None: ...

    def forget(self, flow_id: str) -> None: ...

    def accept_login(self, connection_id: str) -> None: ...


class FlowService:
    """Answers requests below `BASE`.

    Raises:
        Refusal: from `answer`, whatever Adobe refuses.
    """

    def __init__(
        self, store: Store, timers: Timers, scheduler: Scheduler, options: Options, refused: list[RefusedFilter]
    ) -> None:
        self._store, self._timers, self._scheduler = store, timers, scheduler
        self._options, self._refused = options, refused
        self._creator = Creator(store, options)
        self._specs = {
            "connectionSpecs": _spec_collection(
                "connectionSpecs", [one.document() for one in CONNECTION_SPECS.values()]
            ),
            "flowSpecs": _spec_collection("flowSpecs", [flow_spec_document(one) for one in FLOW_SPECS.values()]),
        }
        self._routes: dict[tuple[str, ...], Callable[[ApiRequest, str, str], ApiResponse]] = {
            ("GET",): self._list,
            ("POST",): self._create,
            ("GET", "{id}"): self._get,
            ("PATCH", "{id}"): self._update,
            ("DELETE", "{id}"): self._delete,
            ("GET", "{id}", "test"): self._test,
            ("POST", "{id}", "action"): self._action,
        }

    def answer(self, request: ApiRequest) -> ApiResponse:
        collection, *rest = request.steps or ("",)
        if collection in self._specs:
            return self._spec(request)
        if collection not in COLLECTIONS:
            raise _nothing_at(request)
        entities = request.entities(collection)
        if request.method == "POST" and rest == ["search"] and collection in ("connections", "flows"):
            return self._search(request, entities)
        entity_id = rest[0] if rest else ""
        shape = tuple("{id}" if step == entity_id else step for step in rest)
        work = self._routes.get((request.method, *shape))
        if collection == "runs" and (request.method, *shape) in _RUN_WRITES:
            raise _runs_are_read()
        if work is None:
            known = any(route[1:] == shape for route in self._routes)
            status, title = (405, "Method Not Allowed") if known else (404, "Not Found")
            raise problem(status, title, f"{request.method} /{'/'.join(request.steps)}")
        return work(request, collection, entity_id)

    # -- lists ------------------------------------------------------------------------------------------------

    def _list(self, request: ApiRequest, collection: str, _: str) -> ApiResponse:
        return self._list_of(request, request.entities(collection), self._options.page_size)

    def _list_of(self, request: ApiRequest, entities: EntityCollection, size: int) -> ApiResponse:
        query = read_query(entities.name, request.pairs, refused=self._refused)
        return ApiResponse(200, self._page(request, entities, query, query.limit or size, entities.name))

    def _search(self, request: ApiRequest, entities: EntityCollection) -> ApiResponse:
        body = {} if request.body is None else request.body
        if not isinstance(body, dict):
            raise flow_error(1425, 400, "A JSON object is expected")
        token = dict(request.pairs).get("continuationToken")
        query = read_search(entities.name, body, token, refused=self._refused)
        size = query.limit or self._options.page_size
        found = self._page(request, entities, query, size, f"{entities.name}/search")
        wanted = _names(body.get("projectionFields"))
        if wanted and "items" in found:
            found["items"] = [{name: one[name] for name in ("id", *wanted) if name in one} for one in found["items"]]
        return ApiResponse(200, found)

    def _page(
        self, request: ApiRequest, entities: EntityCollection, query: Query, size: int, path: str
    ) -> dict[str, Any]:
        if query.count:
            return {"count": entities.count(query)}
        items, token = entities.page(query, size, by_position=self._options.shifting_pages)
        links = {} if token is None else {"next": {"href": next_href(path, request.pairs, token)}}
        return {"items": items, "_links": links}

    # -- specs and datasets -----------------------------------------------------------------------------------

    def _spec(self, request: ApiRequest) -> ApiResponse:
        collection, *rest = request.steps
        specs = self._specs[collection]
        match request.method, rest:
            case "GET", []:
                return self._list_of(request, specs, 1000)
            case "GET", [spec_id]:
                return ApiResponse(200, {"items": [specs.get(spec_id)]})
            case "POST", ["search"] if collection == "flowSpecs":
                return self._search(request, specs)
            case "GET", [spec_id, "configs"] if collection == "connectionSpecs":
                specs.get(spec_id)
                return ApiResponse(200, self._datasets(request))
            case (("POST" | "PUT"), _):
                raise flow_error(1426, 400, f"A user token may not write {collection}")
        raise _nothing_at(request)

    def _datasets(self, request: ApiRequest) -> dict[str, Any]:
        """The datasets that can be exported, paged as Catalog does.

        Source: tutorial "Export datasets by using the Flow Service API", "Retrieve a list of available datasets".
        """
        given = dict(request.pairs)
        for name, expected in (("outputType", "activationDatasets"), ("outputField", "datasets")):
            if given.get(name) != expected:
                raise flow_error(1452, 400, f"{name} [{given.get(name)}]: {expected} is expected")
        start, limit = _number(given, "start", 0, 0), min(_number(given, "limit", 20, 1), 100)
        everything = list(DATASETS.values())
        page = [
            catalog_record(one, ims_org=self._options.org_id, sandbox_id=request.sandbox.id)
            for one in everything[start : start + limit]
        ]
        wanted = _names(given.get("properties"))
        if wanted:
            page = [{name: one[name] for name in one if name in wanted or name in _DATASET_MEMBERS} for one in page]
        end = start + len(page)
        info = {"start": start, "end": max(end - 1, 0), "total": len(everything), "hasNext": end < len(everything)}
        return {"items": page, "pageInfo": info}

    # -- entities ---------------------------------------------------------------------------------------------

    def _get(self, request: ApiRequest, collection: str, entity_id: str) -> ApiResponse:
        return ApiResponse(200, {"items": [request.entities(collection).get(entity_id)]})

    def _create(self, request: ApiRequest, collection: str, _: str) -> ApiResponse:
        entity = self._creator.create(request, collection)
        limit = self._options.destination_limit
        if collection == "flows" and len(request.entities(collection)) >= limit:
            raise too_many(limit, request.sandbox.name)
        request.entities(collection).add(entity, self._store.visible_from(self._options.list_delay))
        self._store.note(Creation(collection, entity["id"], entity["name"], request.sandbox.name, request.now_ms))
        self._settle(request, collection, entity, "initializing")
        if collection == "flows":
            self._scheduler.plan(entity, request.now, created=True)
        location = ("Location", f"{BASE}/{collection}/{entity['id']}")
        return ApiResponse(201, _id_and_etag(entity), (location,))

    def _update(self, request: ApiRequest, collection: str, entity_id: str) -> ApiResponse:
        entities = request.entities(collection)
        entity = entities.get(entity_id)
        check_version(request, entity, required=True)
        if not request.body:
            raise flow_error(1405, 400, "The request body is empty")
        _check_state(collection, entity, "updated")
        changed, touched = patched(request, collection, entity, self._options)
        changed["etag"] = changed["version"] = self._store.new_etag(request.now)
        entity.clear()
        entity.update(changed)  # in place: runs are listed by the very objects
        entities.changed()
        if "scheduleParams" in touched:
            self._scheduler.plan(entity, request.now)
        if "auth" in touched:
            self._scheduler.accept_login(entity_id)
        self._settle(request, collection, entity, "updating")
        return ApiResponse(200, _id_and_etag(entity))

    def _test(self, request: ApiRequest, collection: str, entity_id: str) -> ApiResponse:
        if collection != "connections":
            raise _nothing_at(request)
        request.entities(collection).get(entity_id)
        return ApiResponse(200, {"result": True})

    def _action(self, request: ApiRequest, collection: str, flow_id: str) -> ApiResponse:
        """Enable or disable a dataflow; Adobe's tutorial has the operation in lower case, its OpenAPI in upper."""
        flow = request.entities(collection).get(flow_id)
        if collection == "runs":
            raise _runs_are_read()
        given = dict(request.pairs)
        operation, step = given.get("op", "").lower(), given.get("subOp", "").upper()
        if collection != "flows" or operation in ("finalize", "finalize_update", "publish"):
            raise flow_error(1402, 400, "finalize and publish are for providers only")
        if operation not in ("enable", "disable"):
            raise flow_error(1435, 400, f"Action [{given.get('op')}] is not supported")
        if step not in ("", "APPLY", "ROLLBACK"):
            raise flow_error(1436, 400, f"subOp [{step}] is not supported for op [{operation}]")
        check_version(request, flow, required=False)
        _check_state("flows", flow, "acted on")
        wanted = f"{operation}d"
        if flow["state"] == wanted:
            if self._options.repeated_actions:
                return ApiResponse(200, _id_and_etag(flow))
            raise flow_error(1422, 400, f"Action [{operation}] is not applicable in the state [{wanted}]")
        flow["state"] = wanted
        flow["updatedAt"] = request.now_ms
        flow["etag"] = flow["version"] = self._store.new_etag(request.now)
        request.entities("flows").changed()
        self._settle(request, "flows", flow, f"{operation[:-1]}ing")
        return ApiResponse(200, _id_and_etag(flow))

    def _delete(self, request: ApiRequest, collection: str, entity_id: str) -> ApiResponse:
        entity = request.entities(collection).get(entity_id)
        check_version(request, entity, required=False)
        _check_state(collection, entity, "deleted")
        _check_unused(request, collection, entity_id)
        key = f"{request.sandbox.name} {collection} {entity_id}"
        if self._options.delete_seconds:
            entity["state"] = "delete-finalizing"
            self._store.dirty = True
            self._timers.at(request.now + self._options.delete_seconds, "delete", key)
        else:
            self._finish("delete", key)
        return ApiResponse(202)

    # -- states that pass -------------------------------------------------------------------------------------

    def _settle(self, request: ApiRequest, collection: str, entity: Document, state: str) -> None:
        """Show a transitional state for a while; source and target connections have none."""
        if self._options.settle_seconds and collection in ("connections", "flows"):
            final, entity["state"] = entity["state"], state
            key = f"{request.sandbox.name} {collection} {entity['id']}"
            self._timers.at(request.now + self._options.settle_seconds, f"settle {final}", key)

    def fire(self, timer: Timer) -> None:
        """Do what is due: an entity settles, or is gone."""
        self._finish(timer.step, timer.key)

    def _finish(self, step: str, key: str) -> None:
        sandbox, collection, entity_id = key.split(" ")
        entities = self._store.sandboxes[sandbox].collections[collection]
        if entity_id not in entities.items:
            return
        self._store.dirty = True
        if step == "delete":
            entities.remove(entity_id)
            self._store.note_deletion(entity_id)
            self._scheduler.forget(entity_id)
        elif entities.items[entity_id]["state"] != "delete-finalizing":
            entities.items[entity_id]["state"] = step.removeprefix("settle ")
            entities.changed()


def _check_state(collection: str, entity: Document, what: str) -> None:
    state = entity["state"]
    if state == "delete-finalizing":
        raise flow_error({"updated": 1457, "deleted": 1458}.get(what, 1456), 400, f"State [{state}]: not {what}")
    if state in ("enabled", "disabled"):
        return
    if collection == "connections":
        code = 1417 if state == "initializing" else 1416
    else:
        code = 1420 if what == "updated" else 1421
    raise flow_error(code, 400, f"{collection} [{entity['id']}] cannot be {what} in the state [{state}]")


def _check_unused(request: ApiRequest, collection: str, entity_id: str) -> None:
    """Refuse to delete a connection that a dataflow uses, a base connection by way of its source or target.

    Source: Adobe's guide "Delete destination accounts".
    """
    if collection == "flows":
        return
    ends = {entity_id}
    if collection == "connections":
        connections = [*request.entities("sourceConnections"), *request.entities("targetConnections")]
        ends = {one["id"] for one in connections if one["baseConnectionId"] == entity_id}
    users = [
        flow["id"]
        for flow in request.entities("flows")
        if ends.intersection((*flow["sourceConnectionIds"], *flow["targetConnectionIds"]))
    ]
    if users and collection == "connections":
        raise flow_error(1418, 400, f"Base connection [{entity_id}] is used by flows {users}")
    if users:
        raise flow_error(1447, 400, f"Active flows {users} contain the id [{entity_id}]")


def _id_and_etag(entity: Document) -> dict[str, Any]:
    return {"id": entity["id"], "etag": entity["etag"]}


def _runs_are_read() -> Exception:
    return flow_error(1427, 400, "A user token may not write runs")


def _nothing_at(request: ApiRequest) -> Exception:
    text = f"Flow Service has nothing at /{'/'.join(request.steps)} for {request.method}"
    return problem(404, "Not Found", text)


def _spec_collection(name: str, documents: Sequence[Document]) -> EntityCollection:
    specs = EntityCollection(name, lambda: 0.0)
    for document in documents:
        specs.add(document)
    return specs


def _names(text: Any) -> list[str]:
    """The names in a comma-separated list."""
    return [one.strip() for one in str(text or "").split(",") if one.strip()]


def _number(given: dict[str, str], name: str, default: int, least: int) -> int:
    value = given.get(name)
    if value is None:
        return default
    number = whole_number(value)
    if number is None or number < least:
        raise flow_error(1453, 400, f"{name}={value}: a number, {least} or more, is expected")
    return number
