"""The emulator in a process of its own behind a line, steered over HTTP."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx

from airflow_provider_aep.api.calls import enable_dataflow
from airflow_provider_aep.api.effects import Call
from airflow_provider_aep.api.entities import DataflowId
from airflow_provider_aep.destinations import AmazonS3
from airflow_provider_aep.emulator.flow_service.datasets import SEEDED
from airflow_provider_aep.hooks import AepHook
from airflow_provider_aep.operators import AepExportDatasetsOperator
from airflow_provider_aep.schedules import Every
from tests.adobe.line import Line, Sent
from tests.real_airflow import connections
from tests.tasks import context

DATASET = SEEDED[0].id
OTHER_DATASET = SEEDED[1].id


class ServedAdobe:
    """A running emulator: its address (the line's), its data folder, and the means to steer it."""

    def __init__(self, url: str, data: Path) -> None:
        self.line = Line(url)
        self.url = self.line.url
        self.data = data
        self._admin = httpx.Client(base_url=f"{url}/_emulator", timeout=30)

    def close(self) -> None:
        self.line.close()
        self._admin.close()

    def reset(self) -> None:
        """Forget requests and faults; entities and the clock stay as they are."""
        self.line.sent.clear()
        self.line.rewrite = lambda text: text
        self.admin("DELETE", "faults")

    def admin(self, method: str, path: str, **body: Any) -> Any:
        reply = self._admin.request(method, f"/{path}", json=body or None)
        assert reply.status_code == 200, reply.text
        return reply.json()

    @property
    def sent(self) -> list[Sent]:
        """What was sent to Flow Service, tokens left out."""
        return [each for each in self.line.sent if "/ims/" not in each.path]

    def requests(self) -> list[str]:
        """["GET /flows", …]."""
        return [str(each) for each in self.sent]

    def token_requests(self) -> int:
        return sum("/ims/" in each.path for each in self.line.sent)

    @property
    def connection(self) -> dict[str, Any]:
        """The Airflow connection to it."""
        found: dict[str, Any] = json.loads(connections(self.url)["AIRFLOW_CONN_AEP_DEFAULT"])
        return found

    def bodies(self, request: str) -> list[Any]:
        """The bodies of all requests that are called so, as "POST /flows"."""
        return [each.json for each in self.sent if str(each) == request]

    def creations(self, name: str) -> list[str]:
        """The kinds of what was made under a name."""
        return [each["kind"] for each in self.admin("GET", "creations")["creations"] if each["name"] == name]

    def fault(self, match: str, kind: str = "status", **members: Any) -> None:
        self.admin("POST", "faults", match=match, kind=kind, **members)

    def advance(self, seconds: float) -> None:
        self.admin("POST", "clock/advance", seconds=seconds)

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.admin("GET", "summary")["now"], UTC)

    def dataflow(self, name: str, **arguments: Any) -> str:
        """A new dataflow to Amazon S3; what it took to make it is not among the requests."""
        given: dict[str, Any] = {
            "dataset_ids": DATASET,
            "destination": AmazonS3("lake-exports", "waits"),
            "destination_conn_id": "aws_exports",
            "schedule": Every(hours=12, start=self.now() + timedelta(days=300)),
            "name": name,
        }
        task = AepExportDatasetsOperator(task_id="set_up", **given | arguments)
        dataflow_id = str(task.execute(context())["dataflow_id"])
        self.line.sent.clear()
        return dataflow_id

    def disable(self, dataflow_id: str) -> None:
        """As a colleague does it in Adobe's user interface."""
        AepHook().run(Call("POST", f"/flows/{dataflow_id}/action", query=[("op", "disable")]))

    def enable(self, dataflow_id: str) -> None:
        AepHook().run(enable_dataflow(DataflowId(dataflow_id)))

    def run(self, dataflow_id: str, outcome: str = "success", *, ended: bool = True, **script: Any) -> str:
        """A run of it that starts now; with `ended` Adobe's clock is moved past its end. Gives its ID."""
        self.admin("POST", "scripts", flow_id=dataflow_id, outcome=outcome, **script)
        run_id = str(self.admin("POST", "runs", flow_id=dataflow_id)["run"]["id"])
        if ended:
            self.advance(200)
        return run_id

    def landed(self) -> dict[str, dict[str, int]]:
        """{flow run: {dataset: rows}}, as written to the files."""
        found: dict[str, dict[str, int]] = {}
        for file in self.admin("GET", "summary")["files"]:
            rows = found.setdefault(file["run_id"], Counter())
            rows[file["dataset_id"]] += file["rows"]
        return found

    def paths(self, run_id: str) -> set[str]:
        return {file["path"] for file in self.admin("GET", "summary")["files"] if file["run_id"] == run_id}

    def is_true(self, result: Mapping[str, Any], datasets: list[str]) -> None:
        """What a green task has returned is what it was asked for, and what landed."""
        assert result["dataset_ids"] == datasets
        rows = self.landed()[result["run_id"]]
        assert set(rows) == set(datasets)
        assert sum(rows.values()) == result["output_records"]


@contextlib.contextmanager
def served(data: Path, *options: str) -> Iterator[str]:
    """`python -m airflow_provider_aep.emulator` on a free port; gives its address."""
    command = [sys.executable, "-m", "airflow_provider_aep.emulator", "--port", "0", "--data", str(data), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            assert process.stdout
            yield process.stdout.readline().split()[-1]
        finally:
            process.terminate()


@contextlib.contextmanager
def served_adobe(data: Path, *options: str) -> Iterator[ServedAdobe]:
    """The same, behind a line and with the means to steer it."""
    with served(data, *options) as url:
        adobe = ServedAdobe(url, data)
        yield adobe
        adobe.close()
