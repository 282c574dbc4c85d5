"""`make demo`: a local Adobe, a real Airflow that exports two datasets from it, and what landed."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any, TextIO

import httpx

from airflow_provider_aep.emulator.flow_service.datasets import SEEDED

DAG_ID = "example_aep_demo"
SPEED = 60  # an emulated minute in a second: Adobe's five minutes until the first run become five seconds
EXPORTED = ("AAM Devices Data", "Web and App Events")


def main() -> int:
    """Run the demo in ./demo-data; 0 if every row that the emulator was seeded with has landed."""
    folder = Path("demo-data").absolute()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    say(f"This demo writes to {folder}; Airflow's log is {folder / 'airflow.log'}")
    options = ["--port", "0", "--speed", str(SPEED), "--data", str(folder / "adobe")]
    emulator = subprocess.Popen(
        [sys.executable, "-m", "airflow_provider_aep.emulator", *options], stdout=subprocess.PIPE, text=True
    )
    try:
        assert emulator.stdout
        url, connection = read_greeting(emulator.stdout)
        say(f"A local Adobe runs at {url}, {SPEED} times as fast as the real one")
        with (folder / "airflow.log").open("w") as log:
            environment = airflow_environment(folder, connection)
            run_airflow(["db", "migrate"], environment, log, "Airflow sets up its database")
            began = time.monotonic()
            code = run_airflow(["dags", "test", DAG_ID], environment, log, f"Airflow runs the DAG {DAG_ID}")
        if code:
            say((folder / "airflow.log").read_text()[-3000:])
            return code
        show_waits(folder / "airflow.log", time.monotonic() - began)
        return show_files(folder, httpx.get(f"{url}/_emulator/requests").json()["requests"])
    finally:
        emulator.terminate()
        emulator.wait(10)


def read_greeting(lines: IO[str]) -> tuple[str, str]:
    """The emulator's address and the Airflow connection to it, from what it prints first."""
    url = connection = ""
    for line in lines:
        if " at http" in line:
            url = line.split()[-1]
        if "AIRFLOW_CONN_AEP_DEFAULT=" in line:
            connection = line.split("=", 1)[1].strip().strip("'")
        if url and connection:
            return url, connection
    raise SystemExit("the emulator did not start; see its message above")


def airflow_environment(folder: Path, connection: str) -> dict[str, str]:
    """The environment of a separate Airflow; one that is configured here is neither used nor changed."""
    package = Path(__file__).parents[2]
    dags = package / "example_dags"  # in a wheel; in a checkout they are beside the package
    own = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")}
    # The S3 login is the one in Adobe's documentation; the emulator checks its form only.
    login = {
        "conn_type": "aws",
        "login": "AKIAIOSFODNN7EXAMPLE",
        "password": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
    }
    return own | {
        "AIRFLOW_HOME": str(folder / "airflow"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags if dags.is_dir() else package.parent / "example_dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW_CONN_AEP_DEFAULT": connection,
        "AIRFLOW_CONN_AWS_EXPORTS": json.dumps(login),
        "AEP_EMULATOR_DATA": str(folder / "adobe"),
    }


def run_airflow(command: list[str], environment: dict[str, str], log: TextIO, what: str) -> int:
    say(f"{what} …")
    log.write(f"$ airflow {' '.join(command)}\n")
    log.flush()
    done = subprocess.run(
        [sys.executable, "-m", "airflow", *command],
        env=environment,
        stdout=log,
        stderr=subprocess.STDOUT,
        timeout=300,
        check=False,
    )
    return done.returncode


def show_waits(log: Path, seconds: float) -> None:
    text = log.read_text()
    deferred = "deferred" if "AepDataflowRunTrigger" in text else "without deferral"
    say(f"The DAG took {seconds:.0f} s; the wait for the flow run was {deferred}")


def show_files(folder: Path, requests: list[dict[str, Any]]) -> int:
    """Print what the DAG's last task found in the storage, and compare it with the seed."""
    with sqlite3.connect(folder / "airflow" / "airflow.db") as database:
        query = "select value from xcom where task_id = 'read_files' and key = 'return_value'"
        (value,) = database.execute(query).fetchone()
    database.close()
    files = json.loads(value)
    files = json.loads(files) if isinstance(files, str) else files
    names = {dataset.id: dataset.name for dataset in SEEDED}
    say(f"\nFlow run {files[0]['run'] if files else 'none'} wrote to s3://lake-exports:\n")
    say(f"{'dataset':<20} {'file':<78} {'rows':>6} {'bytes':>9}")
    for file in files:
        say(f"{names[file['dataset']]:<20} {file['file']:<78} {file['rows']:>6} {file['bytes']:>9}")
    landed = sum(file["rows"] for file in files)
    seeded = sum(dataset.rows for dataset in SEEDED if dataset.name in EXPORTED)
    size = sum(file["bytes"] for file in files)
    say(f"{'in all':<20} {f'{len(files)} files':<78} {landed:>6} {size:>9}")
    posts = [request["path"].rsplit("/", 1)[-1] for request in requests if request["method"] == "POST"]
    made = ", ".join(path for path in posts if path != "v3")
    say(f"\nRequests to Adobe: {len(requests)}; created, each once: {made}")
    say(f"Seeded rows: {seeded}; landed: {landed}; {'equal' if seeded == landed else 'NOT EQUAL'}")
    return 0 if seeded == landed else 1


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - a program for a person


if __name__ == "__main__":
    sys.exit(main())
