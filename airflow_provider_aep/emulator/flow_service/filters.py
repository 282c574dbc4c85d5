"""Filters, order, page size and position of a list request.

Source: Adobe's guide "Sort and filter responses in the Flow Service API", and the list operations of the OpenAPI.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

from airflow_provider_aep.emulator.errors import flow_error

Document = dict[str, Any]

_OPERATOR = r"==|>=|<=|>|<|="
_FILTER = re.compile(rf"([A-Za-z_][\w.\[\]-]*?)\s*({_OPERATOR})(.*)", re.DOTALL)
# `a==1&b==2` is two filters; an ampersand inside a value is not followed by a path and an operator.
_JOINT = re.compile(rf"&\s*(?=[A-Za-z_][\w.\[\]-]*(?:{_OPERATOR}))")

_COMMON = ("id", "createdAt", "updatedAt", "createdBy", "updatedBy", "createdClient", "updatedClient", "sandboxId",
           "sandboxName", "imsOrgId")  # fmt: skip
_NAMED = (*_COMMON, "name", "description", "state", "version", "etag")
_FLOW = ("flowSpec", "sourceConnectionIds", "targetConnectionIds", "transformations", "scheduleParams",
         "inheritedAttributes", "runs", "lastOperation", "lastRunDetails", "policy", "labels")  # fmt: skip
FIELDS: Mapping[str, frozenset[str]] = {
    "connections": frozenset([*_NAMED, "connectionSpec", "auth", "encryption"]),
    "sourceConnections": frozenset(
        [*_NAMED, "connectionSpec", "baseConnectionId", "params", "data", "typeInfo", "inheritedAttributes"]
    ),
    "targetConnections": frozenset(
        [*_NAMED, "connectionSpec", "baseConnectionId", "params", "data", "inheritedAttributes"]
    ),
    "flows": frozenset([*_NAMED, *_FLOW]),
    "runs": frozenset([*_COMMON, "flowId", "flowSpec", "providerRefId", "etag", "state", "metrics", "activities"]),
    "connectionSpecs": frozenset(["id", "name", "providerId", "version", "attributes", "flowSpecId"]),
    "flowSpecs": frozenset(
        ["id", "name", "providerId", "version", "attributes", "sourceConnectionSpecIds", "targetConnectionSpecIds"]
    ),
}
"""The fields that a filter or an order may begin with, by collection."""


@dataclass(frozen=True)
class Filter:
    """One condition: a dotted path (`[]` steps into a list), an operator, and the values that it is compared with."""

    path: str
    operator: str
    values: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.path}{self.operator}{','.join(self.values)}"


@dataclass(frozen=True)
class Query:
    """A list request; `limit` is None where the emulator chooses, `order` pairs paths with descending or not."""

    filters: tuple[Filter, ...] = ()
    limit: int | None = None
    order: tuple[tuple[str, bool], ...] = ()
    count: bool = False
    token: str | None = None


@dataclass(frozen=True)
class RefusedFilter:
    """A filter or order that this Adobe does not take: `operator` "orderby" means an order; None means any.

    `several` restricts it to conditions with several values (True) or one (False).
    """

    kind: str
    path: str
    operator: str | None
    several: bool | None
    code: int

    def hits(self, kind: str, path: str, operator: str, several: bool) -> bool:
        return (
            self.kind in ("*", kind)
            and self.path in ("*", path)
            and self.operator in (None, operator)
            and self.several in (None, several)
        )


def read_query(
    collection: str, pairs: Iterable[tuple[str, str]], *, most: int = 100, refused: Sequence[RefusedFilter] = ()
) -> Query:
    """The query parameters of GET /{collection}, checked.

    Raises:
        Refusal: 1401, 1423, 1432, 1433, 1443, 1451, 1452 or 1453, each 400, as Adobe's error page lists them.
    """
    filters: list[Filter] = []
    limit: int | None = None
    order: tuple[tuple[str, bool], ...] = ()
    count = False
    token: str | None = None
    for name, value in pairs:
        if name == "property":
            filters += _filters(collection, value)
        elif name == "limit":
            limit = _limit(value, most)
        elif name == "orderby":
            order = _order(collection, value)
        elif name == "count":
            if value.lower() not in ("true", "false"):
                raise flow_error(1452, 400, f"count={value}: true or false is expected")
            count = value.lower() == "true"
        elif name == "continuationToken":
            token = value or None
        elif value.startswith("=") or re.search(r"[<>]", name):
            # An unencoded `&` between two filters makes the second look like a parameter of its own.
            filters += _filters(collection, f"{name}={value}" if value else name)
        else:
            raise flow_error(1451, 400, f"Unknown query parameter [{name}]")
    if count and limit is not None:
        raise flow_error(1401, 400, "limit and count cannot be requested together")
    for one in filters:
        _refuse(refused, collection, one.path, one.operator, len(one.values) > 1)
    for path, _ in order:
        _refuse(refused, collection, path, "orderby", False)
    return Query(tuple(filters), limit, order, count, token)


def read_search(
    collection: str, body: Mapping[str, Any], token: str | None, *, refused: Sequence[RefusedFilter] = ()
) -> Query:
    """The body of POST /{collection}/search: {"queryString", "limit" up to 1000, "orderby", "count"}.

    Raises:
        Refusal: as `read_query`.
    """
    text = str(body.get("queryString") or "").lstrip("?")
    pairs = [("property", part.removeprefix("property=")) for part in _JOINT.split(unquote(text)) if part]
    pairs += [(name, str(body[name])) for name in ("limit", "orderby", "count") if body.get(name) is not None]
    if token:
        pairs.append(("continuationToken", token))
    return read_query(collection, pairs, most=1000, refused=refused)


def _filters(collection: str, text: str) -> list[Filter]:
    found = []
    for part in _JOINT.split(text):
        part = part.removeprefix("property=").strip()
        match = _FILTER.fullmatch(part)
        if match is None:
            raise flow_error(1448, 400, f"Invalid filter [{part}]")
        path, operator, value = match.groups()
        first = re.split(r"[.\[]", path)[0]
        if first not in FIELDS[collection]:
            raise flow_error(1423, 400, f"Unhandled filter field [{path}]")
        # Adobe prints a single `=` for the attributes of a spec, and nowhere else.
        if operator == "=" and first != "attributes":
            raise flow_error(1449, 400, f"Invalid operator in filter [{part}]")
        values = tuple(one.strip() for one in value.split(","))
        if len(values) > 1 and operator not in ("==", "="):
            raise flow_error(1443, 400, f"Operator [{operator}] does not take several values")
        if path in ("createdAt", "updatedAt") and not all(_is_number(one) for one in values):
            raise flow_error(1452, 400, f"Invalid value [{value}] for [{path}]: milliseconds are expected")
        found.append(Filter(path, "==" if operator == "=" else operator, values))
    return found


def _limit(value: str, most: int) -> int:
    number = whole_number(value)
    if number is None or number < 1:
        raise flow_error(1453, 400, f"limit={value}: a positive number is expected")
    return min(number, most)


def _order(collection: str, text: str) -> tuple[tuple[str, bool], ...]:
    found = []
    for part in text.split(","):
        path = part.strip().removeprefix("+")  # a `+` that was not encoded arrives as a blank
        descending = path.startswith("-")
        path = path.removeprefix("-")
        if re.split(r"[.\[]", path)[0] not in FIELDS[collection]:
            raise flow_error(1432, 400, f"orderby: [{part.strip()}] is not a field that can be ordered by")
        found.append((path, descending))
    return tuple(found)


def _refuse(refused: Sequence[RefusedFilter], collection: str, path: str, operator: str, several: bool) -> None:
    for one in refused:
        if one.hits(collection, path, operator, several):
            raise flow_error(one.code, 400, f"Filter on [{path}] with [{operator}] is not supported")


def whole_number(text: str) -> int | None:
    """The number that a few ASCII digits stand for; Python itself refuses to read thousands of them."""
    return int(text) if re.fullmatch(r"[0-9]{1,20}", text) else None


def _is_number(text: str) -> bool:
    return re.fullmatch(r"-?\d+(\.\d+)?", text) is not None


def values_at(entity: Any, path: str) -> list[Any]:
    """All values under a dotted path; a list on the way counts for each of its members, with `[]` or without."""
    found = [entity]
    for step in path.split("."):
        key = step.removesuffix("[]")
        found = [one[key] for one in found if isinstance(one, dict) and key in one]
        found = [member for one in found for member in (one if isinstance(one, list) else [one])]
    return found


def predicate(condition: Filter) -> Callable[[Document], bool]:
    """The condition as a test of an entity."""
    path, operator = condition.path, condition.operator
    if operator == "==":
        wanted = frozenset(condition.values)
        if path == "state":
            return lambda entity: _state(entity) in wanted
        if path == "metrics.statusSummary.status":  # Adobe's pages filter by `Failed` and by `success`
            lower = {one.lower() for one in wanted}
            return lambda entity: any(str(value).lower() in lower for value in values_at(entity, path))
        if "." not in path and "[" not in path:
            return lambda entity: _text(entity.get(path)) in wanted or _any_in(entity.get(path), wanted)
        return lambda entity: any(_text(value) in wanted for value in values_at(entity, path))
    bound = condition.values[0]
    number = float(bound) if _is_number(bound) else None

    def compare(value: Any) -> bool:
        left: Any = value if number is not None and isinstance(value, int | float) else _text(value)
        right: Any = number if not isinstance(left, str) else bound
        if operator == ">":
            return bool(left > right)
        if operator == "<":
            return bool(left < right)
        return bool(left >= right) if operator == ">=" else bool(left <= right)

    if "." not in path and "[" not in path:
        return lambda entity: path in entity and compare(entity[path])
    return lambda entity: any(compare(value) for value in values_at(entity, path))


def _state(entity: Document) -> str:
    """The state of an entity. A run has no such member, yet Adobe's guide filters runs by it: `state==inProgress`."""
    if "flowId" not in entity:
        return str(entity.get("state"))
    found = entity["metrics"]
    if "completedAtUTC" not in found.get("durationSummary", {}):
        return "inProgress"
    return str(found["statusSummary"]["status"]).lower()


def _any_in(value: Any, wanted: frozenset[str]) -> bool:
    return isinstance(value, list) and any(_text(one) in wanted for one in value)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


def sort_key(entity: Document, path: str) -> tuple[int, Any]:
    """A key that puts missing values first, then numbers, then texts."""
    value = entity.get(path)  # nearly always a plain member: twice as fast
    if value is None or isinstance(value, list | dict):
        value = next(iter(values_at(entity, path)), None)
    if value is None:
        return (0, 0)
    return (1, value) if isinstance(value, int | float) else (2, str(value))


def write_token(position: Sequence[Any]) -> str:
    """An opaque token: it holds `+`, `=` and `#`, so that a client that does not encode it fails here, too."""
    text = base64.b64encode(json.dumps(list(position), separators=(",", ":")).encode()).decode()
    return f"+RID:~{text}==#RT:{len(text)}"


def read_token(token: str) -> list[Any]:
    """The position that a token stands for.

    A token that was taken out of `href` without decoding it arrives encoded twice and with what followed it; at least
    one client in use (aepp) does so and works with Adobe, so it is read, too.

    Raises:
        Refusal: 1453-400, this emulator did not write it.
    """
    refusal = flow_error(1453, 400, f"continuationToken [{token}] is not valid")
    for text in (token, unquote(token.split("&")[0])):
        match = re.fullmatch(r"\+RID:~([A-Za-z0-9+/=]+)==#RT:(\d+)", text)
        if match and len(match[1]) == int(match[2]):
            try:
                position = json.loads(base64.b64decode(match[1]))
            except (ValueError, RecursionError):
                raise refusal from None
            if isinstance(position, list):
                return position
    raise refusal


def next_href(collection: str, pairs: Iterable[tuple[str, str]], token: str) -> str:
    """The address of the next page, relative to Flow Service, with the parameters of this one."""
    kept = [("continuationToken", token), *(pair for pair in pairs if pair[0] != "continuationToken")]
    return f"/{collection}?" + "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in kept)
