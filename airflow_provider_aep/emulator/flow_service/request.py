"""A request that passed the gateway, and the answer to it, as the services see them."""

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
    """One request: `steps` is its path below the service's base, `origin` scheme and host as the caller knows them."""

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

    def collection(self, kind: str) -> EntityCollection:
        return self.sandbox.collections[kind]


def read_json(content: bytes) -> Any:
    """The value of a JSON body; None for an empty one.

    Raises:
        ValueError: it is not JSON, or nested deeper than anything that Adobe documents.
    """
    if not content:
        return None
    try:
        value = json.loads(content, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > _DEEPEST:
            raise ValueError("nested too deeply")
        level = [
            below
            for one in level
            if isinstance(one, dict | list)
            for below in (one.values() if isinstance(one, dict) else one)
        ]
    return value


def _no_constant(name: str) -> None:
    """Refuse NaN and Infinity, which Python reads and JSON does not know."""
    raise ValueError(name)


@dataclass(frozen=True)
class ApiResponse:
    status: int
    body: Any = None
    headers: tuple[tuple[str, str], ...] = ()
