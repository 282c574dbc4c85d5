"""An export to set up, tasks that do so on an emulated Adobe, and what must be true of it afterwards."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import httpx

from airflow_provider_aep.api.auth import TOKEN_CACHES
from airflow_provider_aep.api.credentials import S3AccessKey, auth
from airflow_provider_aep.api.effects import Procedure
from airflow_provider_aep.api.entities import DatasetId
from airflow_provider_aep.api.provisioning.desired import (
    DesiredBaseConnection,
    DesiredExport,
    ExportIds,
    IfExists,
    SetupPolicy,
    export_ids,
)
from airflow_provider_aep.api.provisioning.ensure import (
    ensure_base_connection,
    ensure_dataflow,
    ensure_source_connection,
    ensure_target_connection,
)
from airflow_provider_aep.api.provisioning.export import set_up_export
from airflow_provider_aep.api.provisioning.owner import Owner
from airflow_provider_aep.api.session import Session
from airflow_provider_aep.destinations import AmazonS3, destination_type, target_params
from airflow_provider_aep.emulator import Clock, Platform
from airflow_provider_aep.emulator.datasets import SEEDED
from airflow_provider_aep.errors import AepError
from airflow_provider_aep.schedules import Every
from tests.conftest import settings_for_tests

DATASETS = [DatasetId(each.id) for each in SEEDED]
KINDS = ("connections", "sourceConnections", "targetConnections", "flows")
SECRET = "s3cr3t" + "a" * 34
S3 = AmazonS3(bucket="lake-exports", path="nightly")
START = 1_800_000_000.0
BEGINS_ON = "2029-01-01T00:00:00Z"  # so late that no run takes the tests' time
ENDS_ON = "2031-01-01T00:00:00Z"
REQUEST_SECONDS = 0.05  # what a request takes
_sessions = itertools.count()


def desired(name: str = "dag.export", **changes: Any) -> DesiredExport:
    """An export to Amazon S3 every three hours, with a login of its own unless told otherwise."""

    given: dict[str, Any] = {
        "name": name,
        "dataset_ids": (DATASETS[0],),
        "destination_type": destination_type(S3),
        "target_params": target_params(S3, file_type="PARQUET", compression="GZIP"),
        "schedule": Every(hours=3, start=BEGINS_ON, end=ENDS_ON),
        "base": desired_base(),
    }
    return DesiredExport(**{**given, **changes})


def desired_base(name: str = "airflow s3", secret: str = SECRET) -> DesiredBaseConnection:
    return DesiredBaseConnection(name, destination_type(S3), auth(S3AccessKey(access_key="A" * 20, secret_key=secret)))


def policy(
    task: str = "dag.export, run 1", *, again: bool = False, if_exists: IfExists = "reuse", **more: bool
) -> SetupPolicy:
    """How one try of a task sets up; each try is a session of its own."""
    return SetupPolicy(if_exists, Owner(task, f"{next(_sessions):08x}", again), 10, **more)


def in_steps(desired: DesiredExport, policy: SetupPolicy) -> Procedure[ExportIds]:
    """The same by the four step operators' procedures, one after the other."""
    assert desired.base
    base = yield from ensure_base_connection(desired.base, policy)
    source = yield from ensure_source_connection(desired.source, policy)
    target = yield from ensure_target_connection(desired.target(base), policy)
    dataflow = yield from ensure_dataflow(desired.dataflow(source, target), policy)
    return export_ids(base, source, target, dataflow, desired.dataset_ids)


WAYS: dict[str, Callable[[DesiredExport, SetupPolicy], Procedure[ExportIds]]] = {
    "whole": set_up_export,
    "steps": in_steps,
}


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

    def requests(self) -> list[str]:
        """Those so far, without the ones for tokens: ["GET /flows", …]."""
        base = "/data/foundation/flowservice"
        return [
            f"{each.method} {each.path.removeprefix(base)}"
            for each in self.platform.requests
            if "/ims/" not in each.path
        ]

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


def one_of_each() -> dict[str, int]:
    return dict.fromkeys(KINDS, 1)
