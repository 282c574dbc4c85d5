"""What a sandbox holds at one moment, read page by page, so that no export needs look-ups of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow_provider_aep.api import calls
from airflow_provider_aep.api.calls import (
    BASE_CONNECTIONS,
    DATAFLOWS,
    SOURCE_CONNECTIONS,
    TARGET_CONNECTIONS,
    Collection,
)
from airflow_provider_aep.api.effects import Procedure, dated, gather
from airflow_provider_aep.api.entities import VANISHING, Dataflow, Entity
from airflow_provider_aep.api.provisioning.resource import Resource, same_named
from airflow_provider_aep.api.queries import all_items
from airflow_provider_aep.destinations import DESTINATIONS

#: Connection spec of the profile store, the source of every audience export. Source: guide "Activate audiences to
#: file-based destinations by using the Flow Service API", "Create a source connection",
#: https://experienceleague.adobe.com/en/docs/experience-platform/destinations/api/activate-segments-file-based-destinations
PROFILE_STORE_SPEC = "8a9c3494-9708-43d7-ae3f-cda01e5030e1"
_EXPORT_FLOW_SPECS = frozenset(row.flow_spec for row in DESTINATIONS.values())


class Inventory:
    """All connections and dataflows of a sandbox, by ID and by name.

    A connection is read from Adobe's JSON when it is asked for: what other people keep there need not be as we expect.
    """

    def __init__(self, items: Mapping[Collection, Sequence[Mapping[str, Any]]], logins_read_ms: int) -> None:
        self._told_ms: dict[str, int] = {}
        self._logins_read_ms = logins_read_ms
        self._entities: dict[tuple[str, str], Any] = {}
        self._items: dict[tuple[str, str], Mapping[str, Any]] = {}
        self._ids: dict[tuple[str, str], list[str]] = {}
        for collection, listed in items.items():
            for item in listed:
                self._items[collection.path, item["id"]] = item
                self._ids.setdefault((collection.path, item.get("name") or ""), []).append(item["id"])
        flows: list[Dataflow] = [self._read(DATAFLOWS, item["id"]) for item in items[DATAFLOWS]]
        #: Not those that are being deleted.
        self.dataflows = [each for each in flows if each.state != VANISHING]

    def get(self, collection: Collection, entity_id: str) -> Any | None:
        """An entity, or None if no list has shown it; a GET by its ID may find it all the same."""
        key = (collection.path, entity_id)
        return self._read(collection, entity_id) if key in self._items else self._entities.get(key)

    def _read(self, collection: Collection, entity_id: str) -> Any:
        key = (collection.path, entity_id)
        if key not in self._entities:
            self._entities[key] = collection.read(self._items[key])
        return self._entities[key]

    def name_of(self, collection: Collection, entity_id: str) -> str:
        """Its name, "" where no list has shown it; asked for without reading the rest."""
        return str(self._items.get((collection.path, entity_id), {}).get("name") or "")

    def find(self, resource: Resource) -> list[Any]:
        """What `resource.find` would find, without a request."""
        ids = self._ids.get((resource.collection.path, resource.name), [])
        return same_named([self.get(resource.collection, each) for each in ids], resource.name, resource.spec_id)

    def find_prefixed(self, collection: Collection, prefix: str) -> list[Any]:
        """Entities whose name begins so and that are not being deleted."""
        ids = [
            each
            for (path, name), found in self._ids.items()
            if path == collection.path and name.startswith(prefix)
            for each in found
        ]
        return [entity for each in ids if (entity := self._read(collection, each)).state != VANISHING]

    def put(self, collection: Collection, entity: Entity) -> None:
        """Note an entity that was made or changed since."""
        self._entities[collection.path, entity.id] = entity
        ids = self._ids.setdefault((collection.path, entity.name), [])
        if entity.id not in ids:
            ids.append(entity.id)

    def login_told_ms(self, base_id: str) -> int:
        """When Adobe has last told that a login is there and stays, by its own clock."""
        return self._told_ms.get(base_id, self._logins_read_ms)

    def note_login(self, base_id: str, told_ms: int) -> None:
        """Note that Adobe has just told so."""
        self._told_ms[base_id] = told_ms

    def dataflows_of(self, connection_id: str) -> list[Dataflow]:
        """The dataflows that use a source or target connection."""
        return [
            each for each in self.dataflows if connection_id in (each.source_connection_id, each.target_connection_id)
        ]

    def exports(self) -> list[Dataflow]:
        """The dataflows that export datasets, whoever made them."""
        return [each for each in self.dataflows if each.spec_id in _EXPORT_FLOW_SPECS]

    def destinations(self) -> int:
        """How many dataflows export something, datasets or audiences; the others bring data into the platform."""
        return len(self.exports()) + sum(self._exports_audiences(each) for each in self.dataflows)

    def _exports_audiences(self, dataflow: Dataflow) -> bool:
        source = self._items.get((SOURCE_CONNECTIONS.path, dataflow.source_connection_id), {})
        return (source.get("connectionSpec") or {}).get("id") == PROFILE_STORE_SPEC


def read_inventory() -> Procedure[Inventory]:
    """Four lists side by side, in pages of 100."""
    collections = (DATAFLOWS, SOURCE_CONNECTIONS, TARGET_CONNECTIONS, BASE_CONNECTIONS)
    lists = yield from gather(*(dated(all_items(calls.list_page(each.path))) for each in collections))
    items = {collection: listed for collection, (listed, _) in zip(collections, lists, strict=True)}
    return Inventory(items, logins_read_ms=lists[-1][1])
