"""A DAG through `dag.test()`, and what it leaves in Airflow's database."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow.dag_processing.bundles.manager import DagBundlesManager
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.models.xcom import XComModel
from airflow.sdk import DAG
from airflow.utils.session import create_session
from sqlalchemy import select

from tests.airflow_places import AIRFLOW

if not TYPE_CHECKING and AIRFLOW < (3, 2):
    from airflow.models.dagbag import DagBag, sync_bag_to_db

    BUNDLE: dict[str, Any] = {}
else:
    from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db

    BUNDLE: dict[str, Any] = {"bundle_name": "dags-folder"}


@dataclass(frozen=True)
class Finished:
    """A DAG run that has ended."""

    dag_run: DagRun

    @property
    def state(self) -> str:
        return str(self.dag_run.state)

    @property
    def run_id(self) -> str:
        return self.dag_run.run_id

    def states(self) -> dict[str, str]:
        """{"task" or "task[2]": "success"}."""
        return {_key(ti): str(ti.state) for ti in self._instances()}

    def tries(self) -> dict[str, int]:
        return {_key(ti): ti.try_number for ti in self._instances()}

    def _instances(self) -> list[TaskInstance]:
        with create_session() as session:
            return list(session.scalars(select(TaskInstance).where(TaskInstance.run_id == self.run_id)))

    def xcoms(self) -> dict[tuple[str, str], Any]:
        """{("task" or "task[2]", key): value}."""
        with create_session() as session:
            rows = list(session.scalars(select(XComModel).where(XComModel.run_id == self.run_id)))
            return {(_key(row), row.key): XComModel.deserialize_value(row) for row in rows}

    def result(self, task: str) -> Any:
        return self.xcoms()[task, "return_value"]


def _key(row: Any) -> str:
    return str(row.task_id) if row.map_index < 0 else f"{row.task_id}[{row.map_index}]"


def run_dag(dag: DAG, **arguments: Any) -> Finished:
    """Run it once; `arguments` are those of `dag.test()`."""
    DagBundlesManager().sync_bundles_to_db()  # type: ignore[no-untyped-call]  # Airflow's is not typed
    bag = DagBag(dag_folder=os.devnull, **BUNDLE)
    bag.bag_dag(dag)
    sync_bag_to_db(bag, bundle_name="dags-folder", bundle_version=None)
    with warnings.catch_warnings():
        # Airflow's own API server, in this process: Starlette wants its test client to be moved to httpx2.
        warnings.filterwarnings("ignore", message="Using `httpx` with `starlette.testclient`")
        return Finished(dag.test(**arguments))
