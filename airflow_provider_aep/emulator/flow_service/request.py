"""A request that has passed the gateway, and the response to it, as the services see them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import httpx

from airflow_provider_aep.emulator.flow_service.store import EntityCollection, Sandbox

# Far deeper than any of Adobe's bodies, and shallow enough to be copied, compared and written again.
_DEEPEST = 64


@dataclass(frozen=True)
class ApiRequest:
    """`steps` is the path below the service's base, `origin` the scheme and host that the caller used."""

    method: str
    origin: str
    steps: tuple[str, ...]
    pairs: list[tuple[str, str]]
    headers: httpx.Headers
    body: Any
    sandbox: Sandbox
    now: float

    @property
    def now_ms(self) -> int:
        return int(self.now * 1000)

    def entities(self, collection: str) -> EntityCollection:
        return self.sandbox.collections[collection]


@dataclass(frozen=True)
class ApiResponse:
    status: int
    body: Any = None
    headers: tuple[tuple[str, str], ...] = ()


def read_json(content: bytes) -> Any:
    """The value of a JSON body; None for an empty one.

    Raises:
        ValueError: it is not JSON, or nested deeper than anything that Adobe documents.
    """
    if not content:
        return None
    try:
        value = json.loads(content, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > _DEEPEST:
            raise ValueError("nested too deeply")
        containers = [one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list)]
        level = [below for one in containers for below in one]
    return value


def _refuse_constant(name: str) -> None:
    """Refuse NaN and Infinity, which Python reads and JSON does not know."""
    raise ValueError(name)
