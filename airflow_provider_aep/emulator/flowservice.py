"""Flow Service: connections, dataflows, runs and specs, as `/data/foundation/flowservice` offers them.

Source: Adobe's OpenAPI documents for destinations and for Flow Service. Where the two differ (202 or 204 for a
deletion), the one for destinations holds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from airflow_provider_aep.emulator.call import Answer, Call
from airflow_provider_aep.emulator.changing import check_version, patched
from airflow_provider_aep.emulator.datasets import catalog_record
from airflow_provider_aep.emulator.errors import Refusal, flow_service, problem
from airflow_provider_aep.emulator.making import Maker
from airflow_provider_aep.emulator.options import Options
from airflow_provider_aep.emulator.query import (
    Entity,
    Query,
    RefusedFilter,
    next_href,
    read_query,
    read_search,
    whole_number,
)
from airflow_provider_aep.emulator.runs import DATASETS, Runs
from airflow_provider_aep.emulator.specs import CONNECTION_SPECS, FLOW_SPECS
from airflow_provider_aep.emulator.store import KINDS, Collection, Creation, Store

BASE = "/data/foundation/flowservice"

# What GET …/configs gives whatever `properties` asks for, as in the tutorial's sample.
_DATASET_MEMBERS = ("id", "name", "description", "fileDescription", "aspect", "state")


class FlowService:
    """Answers calls to Flow Service.

    Raises:
        Refusal: from `answer`, whatever Adobe refuses.
    """

    def __init__(self, store: Store, runs: Runs, options: Options, refused: list[RefusedFilter]) -> None:
        self._store, self._runs, self._options, self._refused = store, runs, options, refused
        self._specs = {
            "connectionSpecs": _spec_collection(
                "connectionSpecs", [one.document() for one in CONNECTION_SPECS.values()]
            ),
            "flowSpecs": _spec_collection("flowSpecs", [one.document() for one in FLOW_SPECS.values()]),
        }
        self._maker = Maker(store, options)
        self._routes: dict[tuple[str, ...], Callable[[Call, str, str], Answer]] = {
            ("GET",): lambda call, kind, _: self._list(call, kind, call.collection(kind)),
            ("POST",): self._post,
            ("GET", "{id}"): lambda call, kind, entity_id: Answer(
                200, {"items": [call.collection(kind).get(entity_id)]}
            ),
            ("PATCH", "{id}"): self._patch,
            ("DELETE", "{id}"): self._delete,
            ("PUT", "{id}"): self._write_run,
            ("GET", "{id}", "test"): self._test,
            ("POST", "{id}", "action"): self._action,
        }

    def answer(self, call: Call) -> Answer:
        kind, *rest = call.steps or ("",)
        if kind in self._specs:
            return self._spec(call)
        if kind not in KINDS:
            raise problem(404, "Not Found", f"Flow Service has nothing at /{'/'.join(call.steps)}")
        if call.method == "POST" and rest == ["search"] and kind in ("connections", "flows"):
            return self._search(call, kind, call.collection(kind))
        entity_id = rest[0] if rest else ""
        shape = tuple("{id}" if step == entity_id else step for step in rest)
        work = self._routes.get((call.method, *shape))
        if work is None:
            known = any(route[1:] == shape for route in self._routes)
            status, title = (405, "Method Not Allowed") if known else (404, "Not Found")
            raise problem(status, title, f"{call.method} /{'/'.join(call.steps)}")
        return work(call, kind, entity_id)

    # -- lists ------------------------------------------------------------------------------------------------

    def _list(self, call: Call, kind: str, collection: Collection, *, size: int | None = None) -> Answer:
        query = read_query(kind, call.pairs, refused=self._refused)
        return Answer(200, self._page(collection, query, query.limit or size or self._options.page_size, kind, call))

    def _search(self, call: Call, kind: str, collection: Collection) -> Answer:
        body = {} if call.body is None else call.body
        if not isinstance(body, dict):
            raise flow_service(1425, 400, "A JSON object is expected")
        query = read_search(kind, body, dict(call.pairs).get("continuationToken"), refused=self._refused)
        found = self._page(collection, query, query.limit or self._options.page_size, f"{kind}/search", call)
        wanted = [one.strip() for one in str(body.get("projectionFields") or "").split(",") if one.strip()]
        if wanted and "items" in found:
            found["items"] = [{name: one[name] for name in ("id", *wanted) if name in one} for one in found["items"]]
        return Answer(200, found)

    def _page(self, collection: Collection, query: Query, size: int, path: str, call: Call) -> dict[str, Any]:
        if query.count:
            return {"count": collection.count(query)}
        items, token = collection.page(query, size, by_position=self._options.shifting_pages)
        links = {} if token is None else {"next": {"href": next_href(path, call.pairs, token)}}
        return {"items": items, "_links": links}

    # -- specs and datasets -----------------------------------------------------------------------------------

    def _spec(self, call: Call) -> Answer:
        kind, *rest = call.steps
        specs = self._specs[kind]
        match call.method, rest:
            case "GET", []:
                return self._list(call, kind, specs, size=1000)
            case "GET", [spec_id]:
                return Answer(200, {"items": [specs.get(spec_id)]})
            case "POST", ["search"] if kind == "flowSpecs":
                return self._search(call, kind, specs)
            case "GET", [spec_id, "configs"] if kind == "connectionSpecs":
                specs.get(spec_id)
                return Answer(200, self._datasets(call))
            case (("POST" | "PUT"), _):
                raise flow_service(1426, 400, f"A user token may not write {kind}")
        raise problem(404, "Not Found", f"Flow Service has nothing at /{'/'.join(call.steps)} for {call.method}")

    def _datasets(self, call: Call) -> dict[str, Any]:
        """The datasets that can be exported, paged as Catalog does.

        Source: tutorial "Export datasets by using the Flow Service API", "Retrieve a list of available datasets".
        """
        given = dict(call.pairs)
        for name, expected in (("outputType", "activationDatasets"), ("outputField", "datasets")):
            if given.get(name) != expected:
                raise flow_service(1452, 400, f"{name} [{given.get(name)}]: {expected} is expected")
        start, limit = _number(given, "start", 0, 0), min(_number(given, "limit", 20, 1), 100)
        everything = list(DATASETS.values())
        page = [
            catalog_record(one, ims_org=self._options.org_id, sandbox_id=call.sandbox.id)
            for one in everything[start : start + limit]
        ]
        wanted = [one.strip() for one in given.get("properties", "").split(",") if one.strip()]
        if wanted:
            page = [{name: one[name] for name in one if name in wanted or name in _DATASET_MEMBERS} for one in page]
        end = start + len(page)
        info = {"start": start, "end": max(end - 1, 0), "total": len(everything), "hasNext": end < len(everything)}
        return {"items": page, "pageInfo": info}

    # -- creation ---------------------------------------------------------------------------------------------

    def _post(self, call: Call, kind: str, _: str) -> Answer:
        if kind == "runs":
            raise _runs_are_read()
        entity = self._maker.make(call, kind)
        delay = self._options.list_delay
        call.collection(kind).add(entity, self._store.visible_now() + delay if delay else None)
        self._store.note(Creation(kind, entity["id"], entity["name"], call.sandbox.name, call.now_ms))
        if kind in ("connections", "flows"):
            self._settle(call, kind, entity, "initializing")
        if kind == "flows":
            self._runs.plan(entity, call.now, created=True)
        location = ("Location", f"{BASE}/{kind}/{entity['id']}")
        return Answer(201, {"id": entity["id"], "etag": entity["etag"]}, (location,))

    # -- change -----------------------------------------------------------------------------------------------

    def _write_run(self, call: Call, kind: str, _: str) -> Answer:
        if kind != "runs":
            raise problem(405, "Method Not Allowed", f"{call.method} /{'/'.join(call.steps)}")
        raise _runs_are_read()

    def _patch(self, call: Call, kind: str, entity_id: str) -> Answer:
        if kind == "runs":
            raise _runs_are_read()
        collection = call.collection(kind)
        entity = collection.get(entity_id)
        check_version(call, entity, required=True)
        if not call.body:
            raise flow_service(1405, 400, "The request body is empty")
        self._check_state(kind, entity, "updated")
        changed, touched = patched(call, kind, entity, self._options)
        changed["etag"] = changed["version"] = self._store.new_etag(call.now)
        entity.clear()
        entity.update(changed)  # in place: runs are listed by the very objects
        collection.changed()
        if "scheduleParams" in touched:
            self._runs.plan(entity, call.now)
        if kind in ("connections", "flows"):
            self._settle(call, kind, entity, "updating")
        return Answer(200, {"id": entity["id"], "etag": entity["etag"]})

    def _test(self, call: Call, kind: str, entity_id: str) -> Answer:
        if kind != "connections":
            raise problem(404, "Not Found", f"Flow Service has nothing at /{'/'.join(call.steps)}")
        call.collection(kind).get(entity_id)
        return Answer(200, {"result": True})

    def _action(self, call: Call, kind: str, flow_id: str) -> Answer:
        """Enable or disable a dataflow; Adobe's tutorial has the operation in lower case, its OpenAPI in upper."""
        flow = call.collection(kind).get(flow_id)
        if kind == "runs":
            raise _runs_are_read()
        if kind != "flows":
            raise flow_service(1402, 400, "finalize and publish are for providers only")
        given = dict(call.pairs)
        operation, step = given.get("op", "").lower(), given.get("subOp", "").upper()
        if operation in ("finalize", "finalize_update", "publish"):
            raise flow_service(1402, 400, "finalize and publish are for providers only")
        if operation not in ("enable", "disable"):
            raise flow_service(1435, 400, f"Action [{given.get('op')}] is not supported")
        if step not in ("", "APPLY", "ROLLBACK"):
            raise flow_service(1436, 400, f"subOp [{step}] is not supported for op [{operation}]")
        check_version(call, flow, required=False)
        self._check_state("flows", flow, "acted on")
        wanted = f"{operation}d"
        if flow["state"] == wanted:
            if self._options.repeated_actions:
                return Answer(200, {"id": flow["id"], "etag": flow["etag"]})
            raise flow_service(1422, 400, f"Action [{operation}] is not applicable in the state [{wanted}]")
        flow["state"] = wanted
        flow["updatedAt"] = call.now_ms
        flow["etag"] = flow["version"] = self._store.new_etag(call.now)
        call.collection("flows").changed()
        self._settle(call, "flows", flow, f"{operation[:-1]}ing")
        return Answer(200, {"id": flow["id"], "etag": flow["etag"]})

    def _delete(self, call: Call, kind: str, entity_id: str) -> Answer:
        if kind == "runs":
            raise _runs_are_read()
        entity = call.collection(kind).get(entity_id)
        check_version(call, entity, required=False)
        self._check_state(kind, entity, "deleted")
        if kind == "connections":
            self._check_base_unused(call, entity_id)
        if kind in ("sourceConnections", "targetConnections"):
            member = f"{kind[:-1]}Ids"
            users = [flow["id"] for flow in call.collection("flows") if entity_id in flow[member]]
            if users:
                raise flow_service(1447, 400, f"Active flows {users} contain the id [{entity_id}]")
        key = f"{call.sandbox.name} {kind} {entity_id}"
        if self._options.delete_seconds:
            entity["state"] = "delete-finalizing"
            self._store.dirty = True
            self._runs.at(call.now + self._options.delete_seconds, "delete", key)
        else:
            self.later("delete", key)
        return Answer(202)

    def _check_base_unused(self, call: Call, base_id: str) -> None:
        """Only dataflows keep a base connection: Adobe's guide "Delete destination accounts" asks for no more."""
        ends = {
            one["id"]
            for kind in ("sourceConnections", "targetConnections")
            for one in call.collection(kind)
            if one["baseConnectionId"] == base_id
        }
        flows = [
            one["id"]
            for one in call.collection("flows")
            if ends.intersection((*one["sourceConnectionIds"], *one["targetConnectionIds"]))
        ]
        if flows:
            raise flow_service(1418, 400, f"Base connection [{base_id}] is used by flows {flows}")

    # -- states that pass -------------------------------------------------------------------------------------

    def _settle(self, call: Call, kind: str, entity: Entity, state: str) -> None:
        if self._options.settle_seconds:
            final, entity["state"] = entity["state"], state
            key = f"{call.sandbox.name} {kind} {entity['id']}"
            self._runs.at(call.now + self._options.settle_seconds, f"settle {final}", key)

    def later(self, step: str, key: str) -> None:
        """Let something come to pass that `Runs.at` was told of: an entity settles, or is gone at last."""
        sandbox, kind, entity_id = key.split(" ")
        collection = self._store.sandboxes[sandbox].collections[kind]
        if entity_id not in collection.items:
            return
        self._store.dirty = True
        if step == "delete":
            collection.remove(entity_id)
            self._store.note_deletion(entity_id)
            self._runs.forget(entity_id)
        elif collection.items[entity_id]["state"] != "delete-finalizing":
            collection.items[entity_id]["state"] = step.removeprefix("settle ")
            collection.changed()

    def _check_state(self, kind: str, entity: Entity, what: str) -> None:
        state = entity["state"]
        if state == "delete-finalizing":
            raise flow_service({"updated": 1457, "deleted": 1458}.get(what, 1456), 400, f"State [{state}]: not {what}")
        if state in ("enabled", "disabled"):
            return
        if kind == "connections":
            code = 1417 if state == "initializing" else 1416
        else:
            code = 1420 if what == "updated" else 1421
        raise flow_service(code, 400, f"{kind} [{entity['id']}] cannot be {what} in the state [{state}]")


def _spec_collection(kind: str, documents: Sequence[Entity]) -> Collection:
    collection = Collection(kind, lambda: 0.0)
    for document in documents:
        collection.add(document)
    return collection


def _runs_are_read() -> Refusal:
    return flow_service(1427, 400, "A user token may not write runs")


def _number(given: dict[str, str], name: str, default: int, least: int) -> int:
    value = given.get(name)
    if value is None:
        return default
    number = whole_number(value)
    if number is None or number < least:
        raise flow_service(1453, 400, f"{name}={value}: a number, {least} or more, is expected")
    return number
