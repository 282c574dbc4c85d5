"""Entities in memory: for each sandbox its connections, dataflows and runs, listed, filtered and paged."""

from __future__ import annotations

import random
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from airflow_provider_aep.emulator.errors import flow_error, not_found
from airflow_provider_aep.emulator.flow_service.filters import (
    Document,
    Query,
    predicate,
    read_token,
    sort_key,
    write_token,
)

COLLECTIONS = ("connections", "sourceConnections", "targetConnections", "flows", "runs")

# The order when a request names none. Source: the OpenAPI's text on lists, most recently created or updated first.
_DEFAULT_ORDER = (("updatedAt", True),)
_KEPT_LISTINGS = 16


class EntityCollection:
    """The entities of one sandbox under one path of the API, such as "flows"."""

    def __init__(self, name: str, visible_now: Callable[[], float]) -> None:
        self.name = name
        self.items: dict[str, Document] = {}
        self._by_flow: dict[str, list[Document]] = {}
        self._hidden: dict[str, float] = {}
        self._visible_now = visible_now
        # A listing that is read page by page is filtered and sorted once, until something changes.
        self._listings: OrderedDict[object, list[Document]] = OrderedDict()

    def __iter__(self) -> Iterator[Document]:
        return iter(self.items.values())

    def __len__(self) -> int:
        return len(self.items)

    def get(self, entity_id: str, *, in_path: bool = True) -> Document:
        """The entity of that ID.

        Raises:
            Refusal: there is none: 404, or 400 when the ID stood in a body.
        """
        if entity_id not in self.items:
            raise not_found(self.name, entity_id, in_path=in_path)
        return self.items[entity_id]

    def add(self, entity: Document, visible_from: float | None = None) -> None:
        """Add an entity; lists leave it out until `visible_from`, a GET by its ID finds it at once."""
        self.items[entity["id"]] = entity
        if "flowId" in entity:
            self._by_flow.setdefault(entity["flowId"], []).append(entity)
        if visible_from is not None:
            self._hidden[entity["id"]] = visible_from
        self._listings.clear()

    def remove(self, entity_id: str) -> None:
        del self.items[entity_id]
        self._hidden.pop(entity_id, None)
        self._listings.clear()

    def changed(self) -> None:
        """Note that an entity was changed in place."""
        self._listings.clear()

    def runs_of(self, flow_id: str) -> list[Document]:
        """The runs of a dataflow, oldest first."""
        return self._by_flow.get(flow_id, [])

    def count(self, query: Query) -> int:
        return len(self._matching(query))

    def page(self, query: Query, size: int, *, by_position: bool = False) -> tuple[list[Document], str | None]:
        """One page of what the query asks for, and the token of the next one.

        Raises:
            Refusal: 1453-400, the query's token is not valid.
        """
        order = (*(query.order or _DEFAULT_ORDER), ("id", False))
        found = self._ordered(query, order)
        start = 0
        if query.token is not None:
            position = read_token(query.token)
            try:
                start = int(position[0]) if by_position else _start_after(found, order, position)
            except (TypeError, ValueError, IndexError):  # a token of another order, or an invented one
                raise flow_error(1453, 400, f"continuationToken [{query.token}] does not fit") from None
        page = found[start : start + size]
        if start + size >= len(found):
            return page, None
        after: Any = [start + size] if by_position else [list(sort_key(page[-1], path)) for path, _ in order]
        return page, write_token(after)

    def _ordered(self, query: Query, order: tuple[tuple[str, bool], ...]) -> list[Document]:
        self._show()
        key = (query.filters, order)
        found = self._listings.get(key)
        if found is None:
            found = self._matching(query)
            for path, descending in reversed(order):  # stable, so the last sort counts most
                found.sort(key=partial(sort_key, path=path), reverse=descending)
            if not self._hidden:
                self._listings[key] = found
                while len(self._listings) > _KEPT_LISTINGS:
                    self._listings.popitem(last=False)
        else:
            self._listings.move_to_end(key)
        return found

    def _matching(self, query: Query) -> list[Document]:
        self._show()
        candidates: Iterable[Document] = self.items.values()
        remaining = list(query.filters)
        for condition in query.filters:
            if condition.operator == "==" and condition.path == "id":
                candidates = [self.items[one] for one in dict.fromkeys(condition.values) if one in self.items]
            elif condition.operator == "==" and condition.path == "flowId" and self.name == "runs":
                candidates = [run for one in dict.fromkeys(condition.values) for run in self.runs_of(one)]
            else:
                continue
            remaining.remove(condition)
            break
        tests = [predicate(condition) for condition in remaining]
        if self._hidden:
            tests.append(lambda entity: entity["id"] not in self._hidden)
        return [entity for entity in candidates if all(test(entity) for test in tests)]

    def _show(self) -> None:
        """Forget about hidden entities whose time has come."""
        if self._hidden:
            now = self._visible_now()
            self._hidden = {one: moment for one, moment in self._hidden.items() if moment > now}


def _start_after(found: list[Document], order: tuple[tuple[str, bool], ...], position: list[Any]) -> int:
    """Where a page starts that follows the entity of these sort keys, whether that one is still there or not."""
    wanted = [tuple(key) for key in position]
    low, high = 0, len(found)
    while low < high:
        middle = (low + high) // 2
        keys = [sort_key(found[middle], path) for path, _ in order]
        comes_after = False
        for key, bound, (_, descending) in zip(keys, wanted, order, strict=True):
            if key != bound:
                comes_after = (key < bound) if descending else (key > bound)
                break
        if comes_after:
            high = middle
        else:
            low = middle + 1
    return low


@dataclass
class Sandbox:
    """A part of the platform, isolated from the others."""

    name: str
    id: str
    collections: dict[str, EntityCollection]


@dataclass
class Creation:
    """One entity that was created, for tests that count; `at_ms` is emulated time."""

    kind: str
    id: str
    name: str
    sandbox: str
    at_ms: int
    deleted: bool = False


@dataclass
class Store:
    """Every sandbox, and the numbers that new entities get."""

    seed: int
    visible_now: Callable[[], float]
    sandboxes: dict[str, Sandbox] = field(default_factory=dict)
    creations: list[Creation] = field(default_factory=list)
    serial: int = 0
    dirty: bool = False
    made: dict[str, Creation] = field(default_factory=dict)

    def add_sandbox(self, name: str) -> None:
        number = random.Random(f"{self.seed} sandbox {name}").getrandbits(128)
        collections = {collection: EntityCollection(collection, self.visible_now) for collection in COLLECTIONS}
        self.sandboxes[name] = Sandbox(name, str(uuid.UUID(int=number, version=4)), collections)

    def new_id(self) -> str:
        """A UUID determined by the seed and the number of IDs before it."""
        self.serial += 1
        return str(uuid.UUID(int=random.Random(f"{self.seed} id {self.serial}").getrandbits(128), version=4))

    def new_etag(self, now: float) -> str:
        """An etag with its quotes. Its last group starts with the second of the write, as in Adobe's examples."""
        self.serial += 1
        self.dirty = True
        return f'"{(self.serial * 0x9E3779B1) & 0xFFFFFFFF:08x}-0000-0200-0000-{int(now):08x}0000"'

    def visible_from(self, delay: float) -> float | None:
        """When lists show an entity that is added now."""
        return self.visible_now() + delay if delay else None

    def note(self, creation: Creation) -> None:
        self.creations.append(creation)
        self.made[creation.id] = creation

    def note_deletion(self, entity_id: str) -> None:
        if entity_id in self.made:
            self.made[entity_id].deleted = True
