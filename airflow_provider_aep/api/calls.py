"""One function per endpoint: method, path, body, and how to read the reply. Nothing here sends anything.

Sources, by the names used below:
tutorial: https://experienceleague.adobe.com/en/docs/experience-platform/destinations/api/export-datasets
destinations OpenAPI: https://developer.adobe.com/experience-platform-apis/references/destinations/
flow-service OpenAPI: https://developer.adobe.com/experience-platform-apis/references/flow-service/
sandbox API: https://developer.adobe.com/experience-platform-apis/references/sandbox/
sorting guide: https://experienceleague.adobe.com/en/docs/experience-platform/dataflows/api/sort-and-filter
update guide: https://experienceleague.adobe.com/en/docs/experience-platform/destinations/api/update-destination-dataflows
aepp: https://github.com/adobe/aepp, Adobe's own client
edit guide: https://experienceleague.adobe.com/en/docs/experience-platform/destinations/api/edit-destination
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from airflow_provider_aep.api import wire
from airflow_provider_aep.api.effects import Call
from airflow_provider_aep.api.entities import (
    BaseConnectionId,
    Dataflow,
    DataflowId,
    DatasetId,
    Entity,
    FlowRun,
    FlowRunId,
    SourceConnection,
    SourceConnectionId,
    TargetConnection,
    TargetConnectionId,
)
from airflow_provider_aep.destinations import DATA_LAKE_SPEC, SPEC_VERSION
from airflow_provider_aep.errors import InvalidArgument

T = TypeVar("T")
E = TypeVar("E", bound=Entity)

FLOW_SERVICE = "/data/foundation/flowservice"
PAGE_SIZE = 100  # the most that Adobe returns at once; source: destinations OpenAPI, parameter `limit`


class Created(NamedTuple):
    """What Adobe answers to a creation."""

    id: str
    etag: str


def _read_created(reply: Mapping[str, Any]) -> Created:
    return Created(str(reply["id"]), str(reply.get("etag") or ""))


class Collection(NamedTuple):
    """A collection of the Flow Service."""

    path: str
    title: str  # what one of its entities is called
    spec: str  # the member that names an entity's spec
    read: Callable[[Mapping[str, Any]], Any]


BASE_CONNECTIONS = Collection("/connections", "base connection", "connectionSpec", wire.read_base_connection)
SOURCE_CONNECTIONS = Collection(
    "/sourceConnections", "source connection", "connectionSpec", wire.read_source_connection
)
TARGET_CONNECTIONS = Collection(
    "/targetConnections", "target connection", "connectionSpec", wire.read_target_connection
)
DATAFLOWS = Collection("/flows", "dataflow", "flowSpec", wire.read_dataflow)


def list_page(
    path: str, *, filters: Iterable[str] = (), order: str = "-createdAt", limit: int = PAGE_SIZE
) -> Call[wire.Page]:
    """The first page of a list. `filters` are conditions such as "name==nightly", all of which must hold.

    `count` is never sent: together with `limit` Adobe refuses it (1401).

    Source: destinations OpenAPI, parameters `property`, `orderby` and `limit`; sorting guide.
    """
    query = [("property", condition) for condition in filters]
    if order:
        query.append(("orderby", order))
    query.append(("limit", str(limit)))
    return Call("GET", path, wire.read_page, query=query, repeatable=True)


def next_page(href: str) -> Call[wire.Page]:
    """The page at the address that the one before gave; sent as it came, since its token is opaque."""
    return Call("GET", href, wire.read_page, repeatable=True)


def named(collection: Collection, name: str) -> Call[wire.Page]:
    """Entities of one name, of every spec.

    One `property` only: the sorting guide allows several, but in the destinations OpenAPI it is one string.
    """
    return list_page(collection.path, filters=(f"name=={name}",))


def _path_of(collection: Collection, entity_id: str) -> str:
    return _path(collection.path, f"{collection.title} ID", entity_id)


def _path(collection: str, argument: str, entity_id: str) -> str:
    """The path of one entity. An empty ID would name the whole list, one with a slash something else.

    Raises:
        InvalidArgument: no entity of Adobe's can have this ID.
    """
    if not re.fullmatch(r"[0-9A-Za-z][0-9A-Za-z_.~-]*", entity_id or ""):
        raise InvalidArgument(argument, entity_id, "must be an ID as Adobe gives it: letters, digits and hyphens")
    return f"{collection}/{entity_id}"


def get_entity(collection: Collection, entity_id: str) -> Call[Any]:
    """One connection or dataflow. Source: destinations OpenAPI, GET /{collection}/{id}."""
    return Call("GET", _path_of(collection, entity_id), wire.unwrapped(collection.read), repeatable=True)


def get_source_connection(connection: SourceConnectionId) -> Call[SourceConnection]:
    return get_entity(SOURCE_CONNECTIONS, connection)


def get_target_connection(connection: TargetConnectionId) -> Call[TargetConnection]:
    return get_entity(TARGET_CONNECTIONS, connection)


def get_dataflow(dataflow: DataflowId) -> Call[Dataflow]:
    return get_entity(DATAFLOWS, dataflow)


def delete_entity(collection: Collection, entity_id: str) -> Call[None]:
    """Delete a connection or dataflow.

    Adobe answers without a body, with 202 (destinations OpenAPI) or 204 (flow-service OpenAPI).
    """
    return Call("DELETE", _path_of(collection, entity_id), repeatable=True)


def patch_entity(
    collection: Collection, entity_id: str, *, etag: str, operations: Sequence[Mapping[str, Any]]
) -> Call[None]:
    """Change an entity that is still as `etag` says: `[{"op": "replace", "path": "/scheduleParams", "value": {…}}]`.

    `If-Match` holds the etag with its quotes, which are added if they are missing. Sent twice, the second request finds
    another etag and is refused with 412, so it is safe. The new etag in the reply is not read: a change of Adobe's own
    may have overtaken it, so the next change must ask for it anyway.

    Source: destinations OpenAPI, PATCH /flows/{id} and /connections/{id}; edit guide, which also patches targets.
    """
    quoted = etag if etag.endswith('"') else f'"{etag}"'  # a weak one begins with W/
    return Call(
        "PATCH",
        _path_of(collection, entity_id),
        body=[dict(operation) for operation in operations],
        headers={"If-Match": quoted},
        repeatable=True,
    )


def create_base_connection(
    name: str, connection_spec: str, auth: Mapping[str, Any] | None, *, description: str = ""
) -> Call[Created]:
    """A login at a storage account; `auth` is `{"specName": …, "params": {…}}`, or None if the destination has none.

    Source: tutorial, "Create base connection".
    """
    return _create(BASE_CONNECTIONS, name, connection_spec, description, {"auth": dict(auth)} if auth else {})


def create_source_connection(
    name: str, datasets: Mapping[DatasetId, str] | Sequence[DatasetId], *, description: str = ""
) -> Call[Created]:
    """The data lake side of an export. `datasets` may map IDs to names; the ID stands in for an unknown name.

    Source: tutorial, "Create a source connection"; destinations OpenAPI, which requires a name for each dataset.
    """
    names = datasets if isinstance(datasets, Mapping) else {dataset: dataset for dataset in datasets}
    listed = [{"dataSetId": dataset, "name": title} for dataset, title in names.items()]
    return _create(SOURCE_CONNECTIONS, name, DATA_LAKE_SPEC, description, {"params": {"datasets": listed}})


def create_target_connection(
    name: str,
    base_connection: BaseConnectionId,
    connection_spec: str,
    params: Mapping[str, Any],
    *,
    description: str = "",
) -> Call[Created]:
    """The storage side of an export; `params` are those of `destinations.target_params`.

    Source: tutorial, "Create a target connection".
    """
    members = {"baseConnectionId": base_connection, "params": dict(params)}
    return _create(TARGET_CONNECTIONS, name, connection_spec, description, members)


def create_dataflow(
    name: str,
    flow_spec: str,
    source: SourceConnectionId,
    target: TargetConnectionId,
    schedule_params: Mapping[str, Any],
    *,
    description: str = "",
) -> Call[Created]:
    """The export itself; `schedule_params` are those of `schedules.schedule_params`.

    Source: tutorial, "Create a dataflow".
    """
    members = {
        "sourceConnectionIds": [source],
        "targetConnectionIds": [target],
        "transformations": [],
        "scheduleParams": dict(schedule_params),
    }
    return _create(DATAFLOWS, name, flow_spec, description, members)


def _create(
    collection: Collection, name: str, spec_id: str, description: str, members: Mapping[str, Any]
) -> Call[Created]:
    body: dict[str, Any] = {"name": name, collection.spec: {"id": spec_id, "version": SPEC_VERSION}, **members}
    if description:
        body["description"] = description
    return Call("POST", collection.path, _read_created, body=body)


def enable_dataflow(dataflow: DataflowId) -> Call[None]:
    """Let a disabled dataflow run again. Source: update guide, whose `op` is in lower case, without a body."""
    return _action(dataflow, "enable")


def disable_dataflow(dataflow: DataflowId) -> Call[None]:
    """Let a dataflow make no run until it is enabled. Source: as `enable_dataflow`."""
    return _action(dataflow, "disable")


def _action(dataflow: DataflowId, op: str) -> Call[None]:
    return Call("POST", f"{_path_of(DATAFLOWS, dataflow)}/action", query=[("op", op)], repeatable=True)


def list_runs(*filters: str, order: str = "-createdAt") -> Call[wire.Page]:
    """Flow runs, newest first. Source: destinations OpenAPI, GET /runs."""
    return list_page("/runs", filters=filters, order=order)


def get_run(run: FlowRunId) -> Call[FlowRun]:
    """One flow run. Source: flow-service OpenAPI, GET /runs/{RUN_ID}."""
    return Call("GET", _path("/runs", "flow run ID", run), wire.unwrapped(wire.read_flow_run), repeatable=True)


def start_adhoc_run(dataflow: DataflowId, datasets: Sequence[DatasetId], *, accept: str) -> Call[list[wire.AdhocRun]]:
    """Run a dataflow now, outside its schedule; several datasets may come in one flow run. Not to be sent twice.

    Source: aepp, `createAdHocDatasetExport`. Adobe's published reference has this call for audiences only; the `Accept`
    header tells the two apart.
    """
    destination = {"flowId": dataflow, "datasets": [{"id": dataset} for dataset in datasets]}
    return Call(
        "POST",
        "/data/core/activation/disflowprovider/adhocrun",
        wire.read_adhoc_runs,
        body={"activationInfo": {"destinations": [destination]}},
        headers={"Accept": accept},
    )


class DatasetPage(NamedTuple):
    """A page of datasets as Adobe sent it; `has_next` is None without page information."""

    items: list[dict[str, Any]]
    has_next: bool | None


def _read_dataset_page(reply: Mapping[str, Any]) -> DatasetPage:
    return DatasetPage(list(reply["items"]), (reply.get("pageInfo") or {}).get("hasNext"))


def list_datasets(*, start: int = 0, limit: int = PAGE_SIZE) -> Call[DatasetPage]:
    """Datasets that may be exported, from the `start`-th on.

    Source: tutorial, "Retrieve a list of eligible datasets"; destinations OpenAPI, GET /connectionSpecs/{id}/configs.
    """
    return Call(
        "GET",
        f"/connectionSpecs/{DATA_LAKE_SPEC}/configs",
        _read_dataset_page,
        query=[
            ("outputType", "activationDatasets"),
            ("outputField", "datasets"),
            ("start", str(start)),
            ("limit", str(limit)),
        ],
        repeatable=True,
    )


def list_sandboxes() -> Call[list[dict[str, Any]]]:
    """Sandboxes that the credential may use: [{"name", "type", "state", …}]. Needs no right of the Flow Service.

    Source: sandbox API, GET /data/foundation/sandbox-management/.
    """
    return Call("GET", "/data/foundation/sandbox-management/", lambda reply: list(reply["sandboxes"]), repeatable=True)
