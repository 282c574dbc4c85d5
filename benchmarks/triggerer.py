"""A real `airflow triggerer` with 1,000 deferred tasks: its steady CPU, and how fast all are resumed when the runs end.

The tasks are real rows: a serialized DAG, a DAG run, task instances in state deferred with their triggers, as a worker
leaves them behind. Workers and scheduler would only add their own start-up, the same for all. A task counts as resumed
when the triggerer has put it back to scheduled. SQLite; each subject starts from its own copy of a migrated database.
`--fill` is what makes the rows, in a process of its own.
"""

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
from lab import PEERS, Child, Lab, Row, main, note, wait_until
from subjects import SUBJECTS

INTERVAL = 5.0


def __getattr__(name: str) -> Any:
    """What the triggerer loads from here: Fivetran with the host replaced that its code fixes, and the bare poller."""
    base_url = os.environ.get("BENCHMARK_BASE_URL", "")
    if name == "SharedPoller":
        import bare

        poller = bare.Poller(base_url, INTERVAL, changed_only=True)
        globals()[name] = lambda run_id, **_: bare.BareTrigger(run_id, poller)
        return globals()[name]
    if name != "FivetranTrigger":
        raise AttributeError(name)
    from fivetran_provider_async.hooks import FivetranHook
    from fivetran_provider_async.triggers import FivetranTrigger

    FivetranHook.api_protocol, FivetranHook.api_host = base_url.split("://")
    return FivetranTrigger


def fill(subject: str, n: int, base_url: str) -> None:
    """`n` deferred tasks of one DAG run, in the database that Airflow's configuration names."""
    from airflow import settings
    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.dag_processing.dagbag import BundleDagBag, sync_bag_to_db
    from airflow.models.taskinstance import TaskInstance
    from airflow.models.trigger import Trigger
    from airflow.sdk import timezone
    from airflow.serialization.serialized_objects import DagSerialization
    from airflow.utils.session import create_session
    from airflow.utils.state import DagRunState, TaskInstanceState
    from airflow.utils.types import DagRunTriggeredByType, DagRunType
    from sqlalchemy import select

    folder = Path(settings.DAGS_FOLDER)
    (folder / "waits.py").write_text(
        "from airflow.sdk import DAG\nfrom airflow.providers.standard.operators.empty import EmptyOperator\n"
        "with DAG('waits', schedule=None):\n    EmptyOperator(task_id='wait')\n"
    )
    manager = DagBundlesManager()
    manager.sync_bundles_to_db()
    [bundle] = manager.get_all_dag_bundles()
    bundle.initialize()
    bag = BundleDagBag(dag_folder=bundle.path, bundle_path=bundle.path, bundle_name=bundle.name)
    sync_bag_to_db(bag, bundle.name, bundle.version)
    now = timezone.utcnow()
    triggers = SUBJECTS[subject].triggers(n, base_url, INTERVAL)
    with create_session() as session:
        dag = DagSerialization.deserialize_dag(DagSerialization.serialize_dag(bag.dags["waits"]))
        dag.create_dagrun(
            run_id="manual__benchmark",
            logical_date=None,
            run_after=now,
            run_type=DagRunType.MANUAL,
            triggered_by=DagRunTriggeredByType.TEST,
            state=DagRunState.RUNNING,
            start_date=now,
            session=session,
        )
        session.flush()
        first = session.scalars(select(TaskInstance).where(TaskInstance.dag_id == "waits")).one()
        for number, trigger in enumerate(triggers):  # one task, mapped: the triggerer reads the DAG for each row
            task = TaskInstance(
                dag.get_task("wait"), dag_version_id=first.dag_version_id, run_id=first.run_id, map_index=number
            )
            session.add(task)
            path, arguments = trigger.serialize()
            path = {"fivetran": "triggerer.FivetranTrigger", "bare": "triggerer.SharedPoller"}.get(subject, path)
            task.trigger = Trigger(path, arguments)
            task.state, task.next_method, task.try_number = TaskInstanceState.DEFERRED, "execute_complete", 1
            task.next_kwargs, task.start_date = {}, now
        session.delete(first)
    print('{"filled": true}', flush=True)


def cpu_seconds(process: psutil.Process) -> float:
    """Of a process and all its children."""
    times = [each.cpu_times() for each in [process, *process.children(recursive=True)]]
    return sum(each.user + each.system for each in times)


def left(database: Path) -> int:
    """Tasks that still wait."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=60)) as line:
        return int(line.execute("SELECT count(*) FROM task_instance WHERE state = 'deferred'").fetchone()[0])


def one(lab: Lab, subject: str, n: int) -> tuple[float, float]:
    """Percent of a core in the steady state, and seconds from the end of all runs to the last task resumed."""
    waiting = subject != "floor"
    database = lab.folder / f"{subject}.db"
    dags = lab.airflow()
    shutil.copy(lab.folder / "airflow" / "airflow.db", database)
    log = lab.folder / f"triggerer-{subject}.log"
    with lab.service(n, tls=True, interval=INTERVAL) as service:
        environment = lab.environment(
            service.base_url,
            BENCHMARK_BASE_URL=service.base_url,
            AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=f"sqlite:///{database}",
            AIRFLOW__CORE__DAGS_FOLDER=str(dags),
            AIRFLOW__LOGGING__BASE_LOG_FOLDER=str(lab.folder / "logs" / subject),
        )
        filler = Child([sys.executable, "triggerer.py", "--fill", subject, str(n), service.base_url], environment, log)
        filler.read("filled")
        filler.close()
        command = [sys.executable, "-m", "airflow", "triggerer", "--capacity", str(n + 100), "--skip-serve-logs"]
        with log.open("ab") as sink:
            started = subprocess.Popen(command, env=environment, stdout=sink, stderr=sink, cwd=lab.folder)
        process = psutil.Process(started.pid)
        try:
            one_each = SUBJECTS[subject].request_tells == "one wait"
            wait_until(lambda: not waiting or service.ask()["requests"] >= (n if one_each else 1), 300)
            time.sleep((2 if waiting else 5) * INTERVAL)
            seconds = (2 if lab.quick else 5) * INTERVAL
            begin, before = time.monotonic(), cpu_seconds(process)
            time.sleep(seconds)
            percent = (cpu_seconds(process) - before) / (time.monotonic() - begin) * 100
            if not waiting:
                return percent, 0.0
            if lost := n - left(database):
                note(f"{subject}: {lost} of {n} tasks had been ended before their runs")
            done = time.monotonic()
            service.ask("/finish")
            wait_until(lambda: left(database) == 0, 180)
            return percent, time.monotonic() - done
        finally:
            children = process.children(recursive=True)
            started.terminate()
            try:
                started.wait(10)
            except subprocess.TimeoutExpired:
                started.kill()
                started.wait()
            for each in children:
                if each.is_running():
                    each.kill()


def triggerer(lab: Lab) -> list[Row]:
    n = 30 if lab.quick else 1000
    percent: dict[str, list[float]] = {}
    resumed: dict[str, list[float]] = {}
    for subject in lab.subjects(["floor", *PEERS, "bare", "aep"]):
        begin = time.monotonic()
        cpu, after = one(lab, subject, n)
        percent[subject] = [cpu]
        if subject != "floor":
            resumed[subject] = [after]
        note(f"triggerer {subject}: {time.monotonic() - begin:.0f} s")
    return [
        Row(f"real triggerer, steady, N={n:,}, TLS", "% of a core", "<= 4", percent),
        Row(f"runs done to all resumed, real triggerer, N={n:,}", "s", f"<= {INTERVAL:g} + 10", resumed),
    ]


if __name__ == "__main__":
    if "--fill" in sys.argv:
        fill(sys.argv[2], int(sys.argv[3]), sys.argv[4])
    else:
        main(triggerer)
