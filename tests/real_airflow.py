"""A real Airflow for tests: API server, scheduler, DAG processor and triggerer in processes of their own."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from airflow_provider_aep.emulator import CLIENT_ID, CLIENT_SECRET, ORG_ID

EXAMPLES = Path(__file__).parents[1] / "example_dags"

#: Planted in the connections of the example DAGs; none of them may show up anywhere.
SECRETS = {
    "client secret": CLIENT_SECRET,
    "S3 secret key": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYPLANTEDKEY",
    "Azure account key": "UGxhbnRlZEFjY291bnRLZXlPZkF6dXJlQmxvYg==",
    "service principal key": "planted-service-principal-key",
    "HMAC secret": "plantedHmacSecretOfGoogleCloudStorage001",
    "SFTP password": "planted-sftp-password",
}


def connections(adobe_url: str) -> dict[str, str]:
    """The Airflow connections that the example DAGs name, as environment variables."""
    aep = {"org_id": ORG_ID, "sandbox_name": "prod", "ims_host": adobe_url}
    given: dict[str, dict[str, Any]] = {
        "aep_default": {
            "conn_type": "aep",
            "login": CLIENT_ID,
            "password": CLIENT_SECRET,
            "host": adobe_url,
            "extra": aep,
        },
        "aws_exports": {"conn_type": "aws", "login": "AKIAIOSFODNN7EXAMPLE", "password": SECRETS["S3 secret key"]},
        "wasb_exports": {"conn_type": "wasb", "login": "lakeaccount", "password": SECRETS["Azure account key"]},
        "adls_exports": {
            "conn_type": "adls",
            "host": "abfss://lake-exports@lakeaccount.dfs.core.windows.net",
            "login": "0a1b2c3d-service-principal",
            "password": SECRETS["service principal key"],
            "extra": {"tenant_id": "contoso.onmicrosoft.com"},
        },
        "gcs_exports": {
            "conn_type": "generic",
            "login": "GOOG1EPLANTEDACCESSIDPLANTEDACCESSIDPLANTEDACCESSIDPLANTED000"[:61],
            "password": SECRETS["HMAC secret"],
        },
        "sftp_exports": {
            "conn_type": "sftp",
            "host": "sftp.example.org",
            "login": "exporter",
            "password": SECRETS["SFTP password"],
            "port": 2222,
        },
    }
    return {f"AIRFLOW_CONN_{name.upper()}": json.dumps(fields) for name, fields in given.items()}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@dataclass
class RealAirflow:
    """A running Airflow and how to speak to it."""

    home: Path
    environment: Mapping[str, str]
    port: int
    token: str = ""
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def cli(self, *arguments: str) -> str:
        """What `airflow …` prints."""
        done = subprocess.run(
            [sys.executable, "-m", "airflow", *arguments],
            env=dict(self.environment),
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def api(self, method: str, path: str, **body: Any) -> Any:
        for _ in range(10):
            response = httpx.request(
                method,
                f"http://127.0.0.1:{self.port}{path}",
                headers={"Authorization": f"Bearer {self.token}"} if self.token else {},
                json=body or None,
                timeout=90,
            )
            if response.status_code not in (httpx.codes.INTERNAL_SERVER_ERROR, httpx.codes.SERVICE_UNAVAILABLE):
                break
            time.sleep(0.5)  # SQLite takes one writer at a time; Airflow commits before it replies, so nothing was made
        if response.is_error:
            told = f"{method} {path}: HTTP {response.status_code} {response.text}\n{self.server_log()}"
            raise httpx.HTTPStatusError(told, request=response.request, response=response)
        return response.json() if response.content else None

    def start(self, component: str, *arguments: str) -> None:
        log = (self.home / f"{component}.log").open("wb")
        command = [sys.executable, "-m", "airflow", component, *arguments]
        self.processes.append(
            subprocess.Popen(command, env=dict(self.environment), stdout=log, stderr=subprocess.STDOUT)
        )
        log.close()

    def log_in(self) -> None:
        """Wait for the API server and take a token; every user is an administrator here."""
        for _ in range(240):
            with contextlib.suppress(httpx.HTTPError):
                self.token = self.api("GET", "/auth/token")["access_token"]
                return
            time.sleep(0.5)
        raise AssertionError(self.server_log())

    def server_log(self) -> str:
        """The end of what the API server has written."""
        return (self.home / "api-server.log").read_text()[-3000:]

    def wait_for_dags(self, names: set[str], seconds: float = 90) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            there = {each["dag_id"] for each in self.api("GET", "/api/v2/dags?limit=100")["dags"]}
            if names <= there:
                return
            time.sleep(1)
        raise AssertionError(self.api("GET", "/api/v2/importErrors"))

    def trigger(self, dag_id: str, **conf: Any) -> str:
        run = self.api("POST", f"/api/v2/dags/{dag_id}/dagRuns", logical_date=None, conf=conf)
        return str(run["dag_run_id"])

    def wait_for_run(self, dag_id: str, run_id: str, seconds: float = 180) -> str:
        deadline = time.monotonic() + seconds
        state = ""
        while time.monotonic() < deadline:
            state = str(self.api("GET", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}")["state"])
            if state in ("success", "failed"):
                return state
            time.sleep(0.5)
        return state

    def wait_for_runs(self, dag_id: str, count: int, seconds: float = 180) -> list[str]:
        """The IDs of so many runs of a DAG that have ended, the earliest due first."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            runs = self.api("GET", f"/api/v2/dags/{dag_id}/dagRuns?limit=100")["dag_runs"]
            ended = [run for run in runs if run["state"] in ("success", "failed")]
            if len(ended) >= count:
                return [str(run["dag_run_id"]) for run in sorted(ended, key=lambda run: str(run["run_after"]))]
            time.sleep(0.5)
        raise AssertionError(f"{dag_id}: {[(run['dag_run_id'], run['state']) for run in runs]}\n{self.logs()[-5000:]}")

    def tasks(self, dag_id: str, run_id: str) -> dict[str, dict[str, Any]]:
        listed = self.api("GET", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances")
        return {each["task_id"]: each for each in listed["task_instances"]}

    def rendered(self, dag_id: str, run_id: str, task_id: str) -> dict[str, Any]:
        """A task's rendered templates; the list of task instances leaves them out on 3.1."""
        fields: dict[str, Any] = self.api("GET", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}")[
            "rendered_fields"
        ]
        return fields

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str = "return_value") -> Any:
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/{key}"
        return self.api("GET", path)["value"]

    def logs(self) -> str:
        """All that its components and tasks have written."""
        files = [path for path in self.home.rglob("*.log") if path.is_file()]
        return "\n".join(path.read_text(errors="replace") for path in files)

    def stop(self) -> None:
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def airflow(
    home: Path, adobe_url: str, before_scheduling: Callable[[RealAirflow], object] | None = None, **settings: str
) -> Iterator[RealAirflow]:
    """A running Airflow on SQLite with the example DAGs; `settings` are AIRFLOW__… variables."""
    home.mkdir(parents=True, exist_ok=True)
    port = free_port()
    own = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")}
    own |= {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__API__BASE_URL": f"http://127.0.0.1:{port}",
        "AIRFLOW__API__SECRET_KEY": "a-key-for-this-test",
        "AIRFLOW__API_AUTH__JWT_SECRET": "another-key-for-this-test-of-enough-length-for-hs512-which-is-64-bytes",
        "AIRFLOW__CORE__DAGS_FOLDER": str(EXAMPLES),
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
        # On a busy machine a writer may hold the database for longer than SQLite's 5 seconds.
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db?timeout=60",
        "AIRFLOW__AEP__POLL_FLOOR_SECONDS": "1",
        "AEP_EMULATOR_DATA": str(home.parent / "adobe"),
    }
    real = RealAirflow(home, own | connections(adobe_url) | settings, port)
    try:
        real.cli("db", "migrate")
        real.start("api-server", "--port", str(port), "--workers", "1")
        real.start("dag-processor")
        real.start("triggerer")
        real.log_in()
        if before_scheduling:
            before_scheduling(real)
        real.start("scheduler")  # last: a task that starts before the API server answers has failed
        yield real
    finally:
        real.stop()
