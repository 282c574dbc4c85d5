"""Every example DAG in a real Airflow, against the emulator in a process of its own; and what may show up nowhere."""

from __future__ import annotations

import gzip
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from airflow_provider_aep.emulator.datasets import SEEDED
from tests.real_airflow import EXAMPLES, SECRETS, RealAirflow, airflow, emulator

TRIGGERED = sorted({path.stem for path in EXAMPLES.glob("example_*.py")} - {"example_aep_scheduled"})


@pytest.fixture(scope="module")
def adobe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The emulator, an hour in six seconds; a run takes long enough that no wait ends at its first look."""
    folder = tmp_path_factory.mktemp("real")
    with emulator(folder / "adobe", "--speed", "600", "--run-seconds", "9000") as url:
        yield url, folder


@pytest.fixture(scope="module")
def real(adobe: tuple[str, Path]) -> Iterator[RealAirflow]:
    url, folder = adobe
    with airflow(folder / "airflow", url) as running:
        running.wait_for_dags({*TRIGGERED, "example_aep_scheduled"})
        yield running


@pytest.fixture(scope="module")
def finished(real: RealAirflow) -> dict[str, str]:
    """All example DAGs, triggered at once: dag_id -> run_id. The scheduled one runs by its own schedule."""
    return {dag_id: real.trigger(dag_id) for dag_id in TRIGGERED}


@pytest.mark.parametrize("dag_id", TRIGGERED)
def test_an_example_runs(dag_id: str, real: RealAirflow, finished: dict[str, str]) -> None:
    state = real.wait_for_run(dag_id, finished[dag_id])

    states = {task: each["state"] for task, each in real.tasks(dag_id, finished[dag_id]).items()}
    assert (state, set(states.values())) == ("success", {"success"}), f"{states}\n{real.logs()[-5000:]}"


def test_the_first_run_of_the_scheduled_example_is_skipped(real: RealAirflow) -> None:
    """Adobe's first slot is later than this DAG run's time, so that it has no flow run; nothing is loaded for it."""
    run_id, *_ = real.wait_for_runs("example_aep_scheduled", 1)

    states = {task: each["state"] for task, each in real.tasks("example_aep_scheduled", run_id).items()}
    assert states == {"set_up": "success", "wait_for_run": "skipped", "load": "skipped"}
    assert "its first slot is later" in real.logs()


def test_what_landed_is_what_was_seeded(real: RealAirflow, finished: dict[str, str], adobe: tuple[str, Path]) -> None:
    """The demo's own task has read the files; here they are read again, and compared with the run's figures."""
    assert real.wait_for_run("example_aep_demo", finished["example_aep_demo"]) == "success"
    files = real.xcom("example_aep_demo", finished["example_aep_demo"], "read_files")
    run = real.xcom("example_aep_demo", finished["example_aep_demo"], "wait_for_run")

    rows = 0
    for path in (adobe[1] / "adobe" / "s3" / "lake-exports" / "demo").rglob("*.json.gz"):
        with gzip.open(path, "rt") as lines:
            rows += sum(1 for line in lines if json.loads(line))
    seeded = sum(dataset.rows for dataset in SEEDED if dataset.name in ("AAM Devices Data", "Web and App Events"))

    assert (rows, sum(file["rows"] for file in files)) == (seeded, seeded)
    assert (run["output_records"], run["output_files"]) == (seeded, len(files))


def test_the_wait_was_deferred(real: RealAirflow, finished: dict[str, str]) -> None:
    """In the triggerer, with one line for each change of the run's state."""
    run_id = finished["example_aep_demo"]
    assert real.wait_for_run("example_aep_demo", run_id) == "success"
    run = real.xcom("example_aep_demo", run_id, "wait_for_run")
    told = "\n".join(path.read_text() for path in (real.home / "logs").rglob("*task_id=wait_for_run/*trigger*.log"))

    assert f"trigger example_aep_demo/{run_id}/wait_for_run/-1/1" in told
    assert told.count(f"flow run {run['run_id']} of dataflow {run['dataflow_id']} has ended: success") == 1


def test_each_entity_was_made_once(real: RealAirflow, finished: dict[str, str], adobe: tuple[str, Path]) -> None:
    """Seven exports to S3 share one login; no name was given to two entities of a kind."""
    for dag_id, run_id in finished.items():
        real.wait_for_run(dag_id, run_id)
    creations: list[dict[str, Any]] = httpx.get(f"{adobe[0]}/_emulator/creations").json()["creations"]
    # What a lost race has removed again does not count.
    names = [(each["kind"], each["name"]) for each in creations if not each["deleted"]]

    assert sorted(set(names)) == sorted(names)
    assert [name for _, name in names if name == "airflow aws_exports"] == ["airflow aws_exports"]


def test_the_rendered_fields_tell_types_and_options(real: RealAirflow, finished: dict[str, str]) -> None:
    """In Airflow's own list of rendered templates a destination is a bare list of its fields."""
    run_id = finished["example_aep_demo"]
    assert real.wait_for_run("example_aep_demo", run_id) == "success"
    tasks = real.tasks("example_aep_demo", run_id)
    told = tasks["export"]["rendered_fields"]["options"]
    assert told["destination"].startswith("AmazonS3(bucket='lake-exports', path='demo/manual__")
    assert (told["schedule"], told["if_exists"]) == ("Once(start=None, end=None)", "reuse")
    assert tasks["wait_for_run"]["rendered_fields"]["options"]["on_missing"] == "skip"


def test_airflow_knows_the_provider(real: RealAirflow) -> None:
    listed = json.loads(real.cli("providers", "list", "-o", "json"))
    assert "airflow-provider-aep" in {each["package_name"] for each in listed}
    assert "airflow-provider-aep" in real.cli("providers", "get", "airflow-provider-aep", "--full", "-o", "json")
    hooks = json.loads(real.cli("providers", "hooks", "-o", "json"))
    assert [each["hook_name"] for each in hooks if each["connection_type"] == "aep"] == ["Adobe Experience Platform"]


def test_the_connection_can_be_tested(real: RealAirflow) -> None:
    assert "Connection success!" in real.cli("connections", "test", "aep_default")


def test_no_secret_shows_up_anywhere(real: RealAirflow, finished: dict[str, str], adobe: tuple[str, Path]) -> None:
    """Logs of all components and tasks, and every text in Airflow's database: XCom, rendered fields, trigger rows."""
    for dag_id, run_id in finished.items():
        real.wait_for_run(dag_id, run_id)
    told = real.logs()
    with sqlite3.connect(real.home / "airflow.db") as database:
        told += "\n".join(line for line in database.iterdump() if "INSERT" in line)
    database.close()
    assert "read_files" in told

    assert [what for what, secret in SECRETS.items() if secret in told] == []
