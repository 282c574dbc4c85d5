"""An emulated Adobe in this process, workers' tasks on it, and what must be true of it afterwards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import httpx

from airflow_provider_aep.api.auth import TOKEN_CACHES
from airflow_provider_aep.api.effects import Procedure
from airflow_provider_aep.api.provisioning.desired import DesiredExport, ExportIds
from airflow_provider_aep.api.provisioning.export import set_up_export
from airflow_provider_aep.api.provisioning.policy import IfExists, SetupPolicy
from airflow_provider_aep.api.session import Session
from airflow_provider_aep.emulator import Clock, Platform
from airflow_provider_aep.errors import AepError
from airflow_provider_aep.schedules import Every
from tests.conftest import settings_for_tests
from tests.exports import KINDS, policy

START = 1_800_000_000.0
REQUEST_SECONDS = 0.05  # what a request takes


def requests_to(platform: Platform) -> list[str]:
    """Those so far, without the ones for tokens: ["GET /flows", …]."""
    base = "/data/foundation/flowservice"
    return [f"{each.method} {each.path.removeprefix(base)}" for each in platform.requests if "/ims/" not in each.path]


@dataclass
class Adobe:
    """An emulated Adobe, and a worker's session on it. Time passes by requests and by sleeping."""

    options: dict[str, Any] = field(default_factory=dict)
    request_seconds: float = REQUEST_SECONDS

    def __post_init__(self) -> None:
        self.clock = Clock(speed=0, start=START)
        self.platform = Platform(clock=self.clock, write_files=False, **self.options)
        self.faults = self.platform.faults
        TOKEN_CACHES.clear()  # those of another emulator

    def respond(self, request: httpx.Request) -> httpx.Response:
        now = self.clock.advance(self.request_seconds)
        response = self.platform.respond(request)
        response.headers["Date"] = format_datetime(datetime.fromtimestamp(now, UTC), usegmt=True)
        return response

    def session(self) -> Session:
        return Session(
            settings_for_tests(),
            transport=httpx.MockTransport(self.respond),
            sleep=self._sleep,
            clock=self.clock.now,
        )

    def _sleep(self, seconds: float) -> None:
        self.clock.advance(seconds)

    def run(self, procedure: Any) -> Any:
        with self.session() as session:
            return session.run(procedure)

    def task(
        self,
        desired: DesiredExport,
        *,
        name: str = "dag.export, run 1",
        way: Callable[[DesiredExport, SetupPolicy], Procedure[ExportIds]] = set_up_export,
        if_exists: IfExists = "reuse",
        tries: int = 3,
        again: bool = False,
        **more: bool,
    ) -> ExportIds:
        """A task as Airflow runs it: after a failure that is not final it is tried again, in a new session."""
        for attempt in range(1, tries + 1):
            try:
                ids: ExportIds = self.run(
                    way(desired, policy(name, again=again or attempt > 1, if_exists=if_exists, **more))
                )
            except AepError as error:
                if error.is_final or attempt == tries:
                    raise
                self.clock.advance(1)
            else:
                return ids
        raise AssertionError("unreachable")

    def unprotected(self) -> None:
        """Let Adobe delete a login whoever uses it, which no document of its own rules out."""
        respond = self.respond

        def deleting(request: httpx.Request) -> httpx.Response:
            response = respond(request)
            if request.method == "DELETE" and response.status_code == 400 and "FLOW-1418" in response.text:
                self.platform.sandbox().collections["connections"].remove(request.url.path.rpartition("/")[2])
                return httpx.Response(202)
            return response

        self.respond = deleting  # type: ignore[method-assign]

    def requests(self) -> list[str]:
        """Those so far, without the ones for tokens: ["GET /flows", …]."""
        return requests_to(self.platform)

    def the(self, kind: str, name: str | None = None) -> Any:
        """The only live entity of a kind."""
        (only,) = (each for each in self.platform.live(kind) if name in (None, each["name"]))
        return only

    def count(self) -> dict[str, int]:
        return {kind: len(self.platform.live(kind)) for kind in KINDS}

    def made(self) -> dict[str, int]:
        """How many of each kind were ever made."""
        counted = Counter(each.kind for each in self.platform.creations)
        return {kind: counted[kind] for kind in KINDS}

    def is_one_export(self, desired: DesiredExport, ids: ExportIds) -> None:
        """One of each, attached to one another, as wished, and what the task has returned."""
        assert self.count() == dict.fromkeys(KINDS, 1)
        base, source, target, flow = (self.the(kind) for kind in KINDS)
        assert ids[:4] == (base["id"], source["id"], target["id"], flow["id"])
        assert set(ids.dataset_ids) == set(desired.dataset_ids)
        assert not any(each["description"].endswith(")") for each in (base, source, target, flow))
        assert flow["sourceConnectionIds"] == [source["id"]]
        assert flow["targetConnectionIds"] == [target["id"]]
        assert target["baseConnectionId"] == base["id"]
        assert flow["state"] == "enabled"
        assert {each["dataSetId"] for each in source["params"]["datasets"]} == set(desired.dataset_ids)
        assert desired.target_params.items() <= target["params"].items()
        assert isinstance(desired.schedule, Every)
        assert flow["scheduleParams"]["interval"] == desired.schedule.hours
