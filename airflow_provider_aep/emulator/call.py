"""A request that passed the gateway, and the answer to it, as the services see them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx

from airflow_provider_aep.emulator.store import Collection, Sandbox


@dataclass(frozen=True)
class Call:
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

    def collection(self, kind: str) -> Collection:
        return self.sandbox.collections[kind]


@dataclass(frozen=True)
class Answer:
    status: int
    body: Any = None
    headers: tuple[tuple[str, str], ...] = ()
