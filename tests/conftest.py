"""Fixtures: an emulated Adobe in the same process, and both sessions on it; nothing is patched."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Before anything imports Airflow: a home of its own, and its unit-test mode for operators that are executed directly.
os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="aep-tests-")
os.environ["AIRFLOW__CORE__UNIT_TEST_MODE"] = "True"
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"

import httpx
import pytest
from hypothesis import settings

from airflow_provider_aep.api.auth import TOKEN_CACHES
from airflow_provider_aep.api.session import AsyncSession, Session
from airflow_provider_aep.api.settings import Settings
from airflow_provider_aep.emulator import CLIENT_ID, CLIENT_SECRET, ORG_ID, Clock, Platform

if TYPE_CHECKING:
    from airflow.sdk import DAG

    from tests.adobe.served import ServedAdobe
    from tests.dag_runs import Finished

# `make test` draws the same examples each time, so that a red one is red for the change at hand; a search draws others,
# and more where a test does not say how many: `pytest --hypothesis-profile=search`.
settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("search", max_examples=20_000, deadline=None)
settings.load_profile("same")


@pytest.fixture(autouse=True)
def _no_token_of_another_test() -> Iterator[None]:
    TOKEN_CACHES.clear()
    yield
    TOKEN_CACHES.clear()


@pytest.fixture
def clock() -> Clock:
    """Adobe's clock: it stands still until a test or a sleeping session moves it."""
    return Clock(speed=0)


@pytest.fixture
def platform(clock: Clock, tmp_path: Path) -> Platform:
    return Platform(data=tmp_path / "adobe", clock=clock)


def settings_for_tests(**changes: Any) -> Settings:
    """The emulator's credential."""
    given: dict[str, Any] = {"client_id": CLIENT_ID, "client_secret": CLIENT_SECRET, "org_id": ORG_ID}
    return Settings(**{**given, **changes})


@dataclass
class Runner:
    """Performs procedures on a platform through one of the two sessions; sleeping moves Adobe's clock."""

    platform: Platform
    clock: Clock
    is_async: bool = False
    slept: list[float] = field(default_factory=list)
    settings: Settings = field(default_factory=settings_for_tests)

    def __call__(self, procedure: Any) -> Any:
        return asyncio.run(self._arun(procedure)) if self.is_async else self._run(procedure)

    def _run(self, procedure: Any) -> Any:
        transport = httpx.MockTransport(self.platform.respond)
        with Session(self.settings, transport=transport, sleep=self._sleep, clock=self.clock.now) as session:
            return session.run(procedure)

    async def _arun(self, procedure: Any) -> Any:
        transport = httpx.MockTransport(self.platform.respond)
        async with AsyncSession(
            self.settings, transport=transport, sleep=self._asleep, clock=self.clock.now
        ) as session:
            return await session.run(procedure)

    def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.clock.advance(seconds)

    async def _asleep(self, seconds: float) -> None:
        self._sleep(seconds)
        await asyncio.sleep(0)


@pytest.fixture(params=["sync", "async"])
def run(request: pytest.FixtureRequest, platform: Platform, clock: Clock) -> Runner:
    """`run(procedure)`: through the worker's session and through the triggerer's."""
    return Runner(platform, clock, is_async=request.param == "async")


@pytest.fixture
def requests_of(platform: Platform) -> Callable[[], list[str]]:
    """The requests so far, without those for tokens: ["GET /flows", …]."""

    from tests.adobe.in_process import requests_to

    return lambda: requests_to(platform)


@pytest.fixture(scope="session")
def _adobe_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedAdobe]:
    from tests.adobe.served import served_adobe

    options = ("--late-seconds", "0", "--run-start-seconds", "0", "--destination-limit", "100000")  # for all tests
    with served_adobe(tmp_path_factory.mktemp("adobe"), *options) as adobe:
        yield adobe


@pytest.fixture
def adobe(_adobe_process: ServedAdobe, monkeypatch: pytest.MonkeyPatch) -> ServedAdobe:
    """The emulator in a process of its own, shared by all tests, and Airflow connections to it and to every storage."""
    from tests.real_airflow import connections

    for name, value in connections(_adobe_process.url).items():
        monkeypatch.setenv(name, value)
    _adobe_process.reset()
    return _adobe_process


@pytest.fixture(scope="session")
def _metadata() -> None:
    """Airflow's database, on SQLite in the home of these tests."""
    from airflow.utils.db import initdb

    initdb()


@pytest.fixture
def run_dag(_metadata: None) -> Callable[..., Finished]:
    """`run_dag(dag)`: the DAG through `dag.test()`, with a scheduler's database and triggers run in place."""
    from tests.dag_runs import run_dag

    def run(dag: DAG, **arguments: Any) -> Finished:
        return run_dag(dag, **arguments)

    return run
