"""A DAG through `dag.test()`, and what it leaves in Airflow's database."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from airflow.dag_processing.bundles.manager import DagBundlesManager
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance, clear_task_instances
from airflow.models.xcom import XComModel
from airflow.sdk import DAG
from airflow.sdk.definitions.dag import _run_task
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState, TaskInstanceState
from airflow.utils.types import DagRunTriggeredByType, DagRunType
from sqlalchemy import select

from tests.airflow_places import AIRFLOW, DagSerialization

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


def install(dag: DAG) -> None:
    """Make a DAG known to the scheduler's database, as the DAG processor does."""
    DagBundlesManager().sync_bundles_to_db()  # type: ignore[no-untyped-call]  # Airflow's is not typed
    bag = DagBag(dag_folder=os.devnull, **BUNDLE)
    bag.bag_dag(dag)
    sync_bag_to_db(bag, bundle_name="dags-folder", bundle_version=None)


def run_dag(dag: DAG, **arguments: Any) -> Finished:
    """Run it once; `arguments` are those of `dag.test()`."""
    install(dag)
    with warnings.catch_warnings():
        # Airflow's own API server, in this process: Starlette wants its test client to be moved to httpx2.
        warnings.filterwarnings("ignore", message="Using `httpx` with `starlette.testclient`")
        return Finished(dag.test(**arguments))


def run_scheduled(dag: DAG, due: datetime, between_tries: Callable[[], object] = lambda: None) -> Finished:
    """The run of an installed DAG that the scheduler makes for `due`; `dag.test()` makes manual ones only.

    Tasks run as in `dag.test()`, through Airflow's own task runner, execution API and in-line triggers. Before a task
    is tried again, `between_tries` is called.
    """
    scheduler_dag = DagSerialization.deserialize_dag(DagSerialization.serialize_dag(dag))
    with create_session() as session:
        dag_run = scheduler_dag.create_dagrun(
            run_id=DagRun.generate_run_id(run_type=DagRunType.SCHEDULED, logical_date=due, run_after=due),
            logical_date=due,
            data_interval=(due, due),
            run_after=due,
            run_type=DagRunType.SCHEDULED,
            state=DagRunState.RUNNING,
            triggered_by=DagRunTriggeredByType.TIMETABLE,
            start_date=due,
            session=session,
        )
        run_id = dag_run.run_id
    return _finish(dag, run_id, between_tries)


def run_cleared(
    dag: DAG, finished: Finished, *task_ids: str, between_tries: Callable[[], object] = lambda: None
) -> Finished:
    """Clear tasks of a DAG run, as a person does in the UI, and run them."""
    with create_session() as session:
        chosen = TaskInstance.run_id == finished.run_id, TaskInstance.dag_id == dag.dag_id
        tis = [ti for ti in session.scalars(select(TaskInstance).where(*chosen)) if ti.task_id in task_ids]
        clear_task_instances(tis, session, dag_run_state=DagRunState.RUNNING)
    return _finish(dag, finished.run_id, between_tries)


def _finish(dag: DAG, run_id: str, between_tries: Callable[[], object]) -> Finished:
    """What `dag.test()` does to a DAG run once it exists."""
    scheduler_dag = DagSerialization.deserialize_dag(DagSerialization.serialize_dag(dag))
    with create_session() as session, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Using `httpx` with `starlette.testclient`")
        dag_run = session.scalars(select(DagRun).where(DagRun.dag_id == dag.dag_id, DagRun.run_id == run_id)).one()
        dag_run.dag = scheduler_dag
        while dag_run.state == DagRunState.RUNNING:
            session.expire_all()
            ready, _ = dag_run.update_state(session=session)
            if any(ti.state == TaskInstanceState.UP_FOR_RETRY for ti in ready):
                between_tries()
            for ti in ready:
                ti.try_number += 1
                ti.state = TaskInstanceState.SCHEDULED
            session.commit()
            for ti in ready:
                _run_task(ti=ti, task=dag.task_dict[ti.task_id], run_triggerer=True)
        session.commit()
        session.expunge_all()
        return Finished(dag_run)
