"""An export to set up, as values for the tests, and the two ways to do so: whole, or step by step."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from airflow_provider_aep.api.credentials import S3AccessKey, auth
from airflow_provider_aep.api.effects import Procedure
from airflow_provider_aep.api.entities import DatasetId
from airflow_provider_aep.api.provisioning.desired import DesiredBaseConnection, DesiredExport, ExportIds, export_ids
from airflow_provider_aep.api.provisioning.ensure import (
    ensure_base_connection,
    ensure_dataflow,
    ensure_source_connection,
    ensure_target_connection,
)
from airflow_provider_aep.api.provisioning.export import set_up_export
from airflow_provider_aep.api.provisioning.owner import Owner
from airflow_provider_aep.api.provisioning.policy import IfExists, SetupPolicy
from airflow_provider_aep.destinations import AmazonS3, destination_type, target_params
from airflow_provider_aep.emulator.flow_service.datasets import SEEDED
from airflow_provider_aep.schedules import Every

DATASETS = [DatasetId(each.id) for each in SEEDED]
KINDS = ("connections", "sourceConnections", "targetConnections", "flows")
SECRET = "s3cr3t" + "a" * 34
S3 = AmazonS3(bucket="lake-exports", path="nightly")
BEGINS_ON = "2029-01-01T00:00:00Z"  # so late that no run takes the tests' time
ENDS_ON = "2031-01-01T00:00:00Z"
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


def one_of_each() -> dict[str, int]:
    return dict.fromkeys(KINDS, 1)
