"""Flow Service: connections, dataflows, runs and specs, as `/data/foundation/flowservice` offers them.

Source: Adobe's OpenAPI documents for destinations and for Flow Service. Where the two differ (202 or 204 for a
deletion), the one for destinations holds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from airflow_provider_aep.emulator.clock import Timer, Timers
from airflow_provider_aep.emulator.errors import Refusal, flow_error, problem
from airflow_provider_aep.emulator.flow_service.create import Maker
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
from airflow_provider_aep.emulator.flow_service.specs import CONNECTION_SPECS, FLOW_SPECS
from airflow_provider_aep.emulator.flow_service.store import KINDS, Creation, EntityCollection, Store
from airflow_provider_aep.emulator.flow_service.update import check_version, patched
from airflow_provider_aep.emulator.options import Options

BASE = "/data/foundation/flowservice"

# What GET …/configs gives whatever `properties` asks for, as in the tutorial's sample.
_DATASET_MEMBERS = ("id", "name", "description", "fileDescription", "aspect", "state")


class Scheduler(Protocol):
    """Who decides when a dataflow runs."""

    def plan(self, flow: Document, now: float, *, created: bool = False) -> None: ...

    def forget(self, flow_id: str) -> None: ...


class FlowService:
    """Answers calls to Flow Service.

    Raises:
        Refusal: from `answer`, whatever Adobe refuses.
    """

    def __init__(
        self, store: Store, timers: Timers, scheduler: Scheduler, options: Options, refused: list[RefusedFilter]
    ) -> None:
        self._store, self._timers, self._scheduler = store, timers, scheduler
        self._options, self._refused = options, refused
        self._specs = {
            "connectionSpecs": _spec_collection(
                "connectionSpecs", [one.document() for one in CONNECTION_SPECS.values()]
            ),
            "flowSpecs": _spec_collection("flowSpecs", [one.document() for one in FLOW_SPECS.values()]),
        }
        self._maker = Maker(store, options)
        self._routes: dict[tuple[str, ...], Callable[[ApiRequest, str, str], ApiResponse]] = {
            ("GET",): lambda request, kind, _: self._list(request, kind, request.collection(kind)),
            ("POST",): self._post,
            ("GET", "{id}"): lambda request, kind, entity_id: ApiResponse(
                200, {"items": [request.collection(kind).get(entity_id)]}
            ),
            ("PATCH", "{id}"): self._patch,
            ("DELETE", "{id}"): self._delete,
            ("PUT", "{id}"): self._write_run,
            ("GET", "{id}", "test"): self._test,
            ("POST", "{id}", "action"): self._action,
        }

    def answer(self, request: ApiRequest) -> ApiResponse:
        kind, *rest = request.steps or ("",)
        if kind in self._specs:
            return self._spec(request)
        if kind not in KINDS:
            raise problem(404, "Not Found", f"Flow Service has nothing at /{'/'.join(request.steps)}")
        if request.method == "POST" and rest == ["search"] and kind in ("connections", "flows"):
            return self._search(request, kind, request.collection(kind))
        entity_id = rest[0] if rest else ""
        shape = tuple("{id}" if step == entity_id else step for step in rest)
        work = self._routes.get((request.method, *shape))
        if work is None:
            known = any(route[1:] == shape for route in self._routes)
            status, title = (405, "Method Not Allowed") if known else (404, "Not Found")
            raise problem(status, title, f"{request.method} /{'/'.join(request.steps)}")
        return work(request, kind, entity_id)

    # -- lists ------------------------------------------------------------------------------------------------

    def _list(
        self, request: ApiRequest, kind: str, collection: EntityCollection, *, size: int | None = None
    ) -> ApiResponse:
        query = read_query(kind, request.pairs, refused=self._refused)
        return ApiResponse(
            200, self._page(collection, query, query.limit or size or self._options.page_size, kind, request)
        )

    def _search(self, request: ApiRequest, kind: str, collection: EntityCollection) -> ApiResponse:
        body = {} if request.body is None else request.body
        if not isinstance(body, dict):
            raise flow_error(1425, 400, "A JSON object is expected")
        query = read_search(kind, body, dict(request.pairs).get("continuationToken"), refused=self._refused)
        found = self._page(collection, query, query.limit or self._options.page_size, f"{kind}/search", request)
        wanted = [one.strip() for one in str(body.get("projectionFields") or "").split(",") if one.strip()]
        if wanted and "items" in found:
            found["items"] = [{name: one[name] for name in ("id", *wanted) if name in one} for one in found["items"]]
        return ApiResponse(200, found)

    def _page(
        self, collection: EntityCollection, query: Query, size: int, path: str, request: ApiRequest
    ) -> dict[str, Any]:
        if query.count:
            return {"count": collection.count(query)}
        items, token = collection.page(query, size, by_position=self._options.shifting_pages)
        links = {} if token is None else {"next": {"href": next_href(path, request.pairs, token)}}
        return {"items": items, "_links": links}

    # -- specs and datasets -----------------------------------------------------------------------------------

    def _spec(self, request: ApiRequest) -> ApiResponse:
        kind, *rest = request.steps
        specs = self._specs[kind]
        match request.method, rest:
            case "GET", []:
                return self._list(request, kind, specs, size=1000)
            case "GET", [spec_id]:
                return ApiResponse(200, {"items": [specs.get(spec_id)]})
            case "POST", ["search"] if kind == "flowSpecs":
                return self._search(request, kind, specs)
            case "GET", [spec_id, "configs"] if kind == "connectionSpecs":
                specs.get(spec_id)
                return ApiResponse(200, self._datasets(request))
            case (("POST" | "PUT"), _):
                raise flow_error(1426, 400, f"A user token may not write {kind}")
        raise problem(404, "Not Found", f"Flow Service has nothing at /{'/'.join(request.steps)} for {request.method}")

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
        wanted = [one.strip() for one in given.get("properties", "").split(",") if one.strip()]
        if wanted:
            page = [{name: one[name] for name in one if name in wanted or name in _DATASET_MEMBERS} for one in page]
        end = start + len(page)
        info = {"start": start, "end": max(end - 1, 0), "total": len(everything), "hasNext": end < len(everything)}
        return {"items": page, "pageInfo": info}

    # -- creation ---------------------------------------------------------------------------------------------

    def _post(self, request: ApiRequest, kind: str, _: str) -> ApiResponse:
        if kind == "runs":
            raise _runs_are_read()
        entity = self._maker.make(request, kind)
        delay = self._options.list_delay
        request.collection(kind).add(entity, self._store.visible_now() + delay if delay else None)
        self._store.note(Creation(kind, entity["id"], entity["name"], request.sandbox.name, request.now_ms))
        if kind in ("connections", "flows"):
            self._settle(request, kind, entity, "initializing")
        if kind == "flows":
            self._scheduler.plan(entity, request.now, created=True)
        location = ("Location", f"{BASE}/{kind}/{entity['id']}")
        return ApiResponse(201, {"id": entity["id"], "etag": entity["etag"]}, (location,))

    # -- change -----------------------------------------------------------------------------------------------

    def _write_run(self, request: ApiRequest, kind: str, _: str) -> ApiResponse:
        if kind != "runs":
            raise problem(405, "Method Not Allowed", f"{request.method} /{'/'.join(request.steps)}")
        raise _runs_are_read()

    def _patch(self, request: ApiRequest, kind: str, entity_id: str) -> ApiResponse:
        if kind == "runs":
            raise _runs_are_read()
        collection = request.collection(kind)
        entity = collection.get(entity_id)
        check_version(request, entity, required=True)
        if not request.body:
            raise flow_error(1405, 400, "The request body is empty")
        self._check_state(kind, entity, "updated")
        changed, touched = patched(request, kind, entity, self._options)
        changed["etag"] = changed["version"] = self._store.new_etag(request.now)
        entity.clear()
        entity.update(changed)  # in place: runs are listed by the very objects
        collection.changed()
        if "scheduleParams" in touched:
            self._scheduler.plan(entity, request.now)
        if kind in ("connections", "flows"):
            self._settle(request, kind, entity, "updating")
        return ApiResponse(200, {"id": entity["id"], "etag": entity["etag"]})

    def _test(self, request: ApiRequest, kind: str, entity_id: str) -> ApiResponse:
        if kind != "connections":
            raise problem(404, "Not Found", f"Flow Service has nothing at /{'/'.join(request.steps)}")
        request.collection(kind).get(entity_id)
        return ApiResponse(200, {"result": True})

    def _action(self, request: ApiRequest, kind: str, flow_id: str) -> ApiResponse:
        """Enable or disable a dataflow; Adobe's tutorial has the operation in lower case, its OpenAPI in upper."""
        flow = request.collection(kind).get(flow_id)
        if kind == "runs":
            raise _runs_are_read()
        if kind != "flows":
            raise flow_error(1402, 400, "finalize and publish are for providers only")
        given = dict(request.pairs)
        operation, step = given.get("op", "").lower(), given.get("subOp", "").upper()
        if operation in ("finalize", "finalize_update", "publish"):
            raise flow_error(1402, 400, "finalize and publish are for providers only")
        if operation not in ("enable", "disable"):
            raise flow_error(1435, 400, f"Action [{given.get('op')}] is not supported")
        if step not in ("", "APPLY", "ROLLBACK"):
            raise flow_error(1436, 400, f"subOp [{step}] is not supported for op [{operation}]")
        check_version(request, flow, required=False)
        self._check_state("flows", flow, "acted on")
        wanted = f"{operation}d"
        if flow["state"] == wanted:
            if self._options.repeated_actions:
                return ApiResponse(200, {"id": flow["id"], "etag": flow["etag"]})
            raise flow_error(1422, 400, f"Action [{operation}] is not applicable in the state [{wanted}]")
        flow["state"] = wanted
        flow["updatedAt"] = request.now_ms
        flow["etag"] = flow["version"] = self._store.new_etag(request.now)
        request.collection("flows").changed()
        self._settle(request, "flows", flow, f"{operation[:-1]}ing")
        return ApiResponse(200, {"id": flow["id"], "etag": flow["etag"]})

    def _delete(self, request: ApiRequest, kind: str, entity_id: str) -> ApiResponse:
        if kind == "runs":
            raise _runs_are_read()
        entity = request.collection(kind).get(entity_id)
        check_version(request, entity, required=False)
        self._check_state(kind, entity, "deleted")
        if kind == "connections":
            self._check_base_unused(request, entity_id)
        if kind in ("sourceConnections", "targetConnections"):
            member = f"{kind[:-1]}Ids"
            users = [flow["id"] for flow in request.collection("flows") if entity_id in flow[member]]
            if users:
                raise flow_error(1447, 400, f"Active flows {users} contain the id [{entity_id}]")
        key = f"{request.sandbox.name} {kind} {entity_id}"
        if self._options.delete_seconds:
            entity["state"] = "delete-finalizing"
            self._store.dirty = True
            self._timers.at(request.now + self._options.delete_seconds, "delete", key)
        else:
            self._finish("delete", key)
        return ApiResponse(202)

    def _check_base_unused(self, request: ApiRequest, base_id: str) -> None:
        """Only dataflows keep a base connection: Adobe's guide "Delete destination accounts" asks for no more."""
        ends = {
            one["id"]
            for kind in ("sourceConnections", "targetConnections")
            for one in request.collection(kind)
            if one["baseConnectionId"] == base_id
        }
        flows = [
            one["id"]
            for one in request.collection("flows")
            if ends.intersection((*one["sourceConnectionIds"], *one["targetConnectionIds"]))
        ]
        if flows:
            raise flow_error(1418, 400, f"Base connection [{base_id}] is used by flows {flows}")

    # -- states that pass -------------------------------------------------------------------------------------

    def _settle(self, request: ApiRequest, kind: str, entity: Document, state: str) -> None:
        if self._options.settle_seconds:
            final, entity["state"] = entity["state"], state
            key = f"{request.sandbox.name} {kind} {entity['id']}"
            self._timers.at(request.now + self._options.settle_seconds, f"settle {final}", key)

    def fire(self, timer: Timer) -> None:
        """Do what is due: an entity settles, or is gone at last."""
        self._finish(timer.step, timer.key)

    def _finish(self, step: str, key: str) -> None:
        sandbox, kind, entity_id = key.split(" ")
        collection = self._store.sandboxes[sandbox].collections[kind]
        if entity_id not in collection.items:
            return
        self._store.dirty = True
        if step == "delete":
            collection.remove(entity_id)
            self._store.note_deletion(entity_id)
            self._scheduler.forget(entity_id)
        elif collection.items[entity_id]["state"] != "delete-finalizing":
            collection.items[entity_id]["state"] = step.removeprefix("settle ")
            collection.changed()

    def _check_state(self, kind: str, entity: Document, what: str) -> None:
        state = entity["state"]
        if state == "delete-finalizing":
            raise flow_error({"updated": 1457, "deleted": 1458}.get(what, 1456), 400, f"State [{state}]: not {what}")
        if state in ("enabled", "disabled"):
            return
        if kind == "connections":
            code = 1417 if state == "initializing" else 1416
        else:
            code = 1420 if what == "updated" else 1421
        raise flow_error(code, 400, f"{kind} [{entity['id']}] cannot be {what} in the state [{state}]")


def _spec_collection(kind: str, documents: Sequence[Document]) -> EntityCollection:
    collection = EntityCollection(kind, lambda: 0.0)
    for document in documents:
        collection.add(document)
    return collection


def _runs_are_read() -> Refusal:
    return flow_error(1427, 400, "A user token may not write runs")


def _number(given: dict[str, str], name: str, default: int, least: int) -> int:
    value = given.get(name)
    if value is None:
        return default
    number = whole_number(value)
    if number is None or number < least:
        raise flow_error(1453, 400, f"{name}={value}: a number, {least} or more, is expected")
    return number
