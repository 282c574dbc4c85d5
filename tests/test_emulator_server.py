"""The emulator as a process of its own, over real HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from airflow_provider_aep.emulator.__main__ import main, parser
from tests.adobe.caller import (
    DLZ,
    FLOW_SERVICE,
    HEADERS,
    LOYALTY,
    S3,
    S3_FLOW,
    S3_LOGIN,
    S3_PARAMS,
    TOKEN_FORM,
    version,
)

ROOT = Path(__file__).parents[1]
BODY = {"name": "b", "connectionSpec": version(DLZ)}


@dataclass
class Served:
    """A running emulator: its process, the lines that it greeted with, and a caller with a token."""

    process: subprocess.Popen[str]
    greeting: list[str]
    http: httpx.Client

    def call(self, method: str, path: str, body: Any = None) -> httpx.Response:
        url = path if path.startswith("/_emulator") else FLOW_SERVICE + path
        return self.http.request(method, url, **({} if body is None else {"json": body}))

    def post(self, path: str, body: Any) -> str:
        reply = self.call("POST", path, body)
        assert reply.status_code == 201, reply.text
        return str(reply.json()["id"])

    def steer(self, page: str, **body: Any) -> Any:
        reply = self.call("POST", f"/_emulator/{page}", body)
        assert reply.status_code == 200, reply.text
        return reply.json()

    def look(self, page: str) -> Any:
        return self.call("GET", f"/_emulator/{page}").json()

    def made(self) -> int:
        return len(self.look("creations")["creations"])

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.http.close()
        self.process.send_signal(number)
        return self.process.wait(10)


def start(folder: Path, *arguments: str) -> Served:
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "airflow_provider_aep.emulator",
            "--port",
            "0",
            "--data",
            str(folder / "data"),
            *arguments,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    greeting = [process.stdout.readline() for _ in range(6)]
    url = re.search(r"http://127\.0\.0\.1:\d+", greeting[0])
    assert url, greeting
    http = httpx.Client(base_url=url[0], headers=HEADERS, timeout=10)
    token = http.post("/ims/token/v3", data=TOKEN_FORM).json()["access_token"]
    http.headers["Authorization"] = f"Bearer {token}"
    return Served(process, greeting, http)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    running = start(tmp_path_factory.mktemp("server"), "--speed", "3600")
    yield running
    assert running.process.stdout is not None
    assert running.stop() == 0
    rest = running.process.stdout.read()
    running.process.stdout.close()
    assert "Traceback" not in rest


@pytest.fixture(autouse=True)
def _no_faults(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "served" in request.fixturenames:
        request.getfixturevalue("served").call("DELETE", "/_emulator/faults")


def test_the_greeting_can_be_pasted(served: Served) -> None:
    match = re.fullmatch(r"export AIRFLOW_CONN_AEP_DEFAULT='(.*)'\n", served.greeting[1])
    assert match
    connection = json.loads(match[1])

    assert connection["conn_type"] == "aep"
    assert connection["host"] == connection["extra"]["ims_host"] == str(served.http.base_url).rstrip("/")
    assert connection["login"] == TOKEN_FORM["client_id"]
    assert connection["password"] == TOKEN_FORM["client_secret"]
    assert connection["extra"]["org_id"] == HEADERS["x-gw-ims-org-id"]


def test_an_export_lands_without_anybody_asking(served: Served) -> None:
    """An emulated hour passes each second; only the summary is looked at, and only for the files."""
    base = served.post("/connections", {"name": "b", "connectionSpec": version(S3), "auth": S3_LOGIN})
    params = {"datasets": [{"dataSetId": LOYALTY}]}
    lake = version("23598e46-f560-407b-88d5-ea6207e49db0")
    source = served.post("/sourceConnections", {"name": "s", "connectionSpec": lake, "params": params})
    target = served.post(
        "/targetConnections",
        {"name": "t", "baseConnectionId": base, "connectionSpec": version(S3), "params": S3_PARAMS},
    )
    schedule = {
        "exportMode": "DAILY_FULL_EXPORT",
        "timeUnit": "day",
        "interval": 0,
        "startTime": int(served.look("summary")["now"]) + 1800,
    }
    flow = served.post(
        "/flows",
        {
            "name": "f",
            "flowSpec": version(S3_FLOW),
            "sourceConnectionIds": [source],
            "targetConnectionIds": [target],
            "scheduleParams": schedule,
        },
    )
    folder = Path(served.look("summary")["data"])

    deadline = time.monotonic() + 10
    while not list(folder.rglob("*.json.gz")) and time.monotonic() < deadline:
        time.sleep(0.05)

    while not (files := served.look("summary")["files"]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert sum(one["rows"] for one in files) == 1100
    assert sum(one["bytes"] for one in files) == sum(Path(one["path"]).stat().st_size for one in files)
    runs = served.call("GET", f"/runs?property=flowId=={flow}").json()["items"]
    assert [run["flowId"] for run in runs] == [flow]


@pytest.mark.parametrize(
    ("kind", "error", "work"),
    [
        ("refuse", httpx.NetworkError, 0),
        ("reset", httpx.NetworkError, 0),
        ("lose_reply", httpx.NetworkError, 1),
        ("truncate", httpx.RemoteProtocolError, 1),
    ],
)
def test_lines_really_break(served: Served, kind: str, error: type[Exception], work: int) -> None:
    before = served.made()
    served.steer("faults", match="POST /connections", kind=kind)

    with pytest.raises((error, httpx.RemoteProtocolError)):
        served.call("POST", "/connections", BODY)

    assert served.made() == before + work
    served.post("/connections", BODY)
    assert served.look("faults")["faults"][0]["hits"] == 1


@pytest.mark.parametrize("after", [False, True])
def test_silence_is_real(served: Served, after: bool) -> None:
    before = served.made()
    served.steer("faults", match="POST /connections", kind="hang", after=after)

    with pytest.raises(httpx.ReadTimeout):
        served.http.post(f"{FLOW_SERVICE}/connections", json=BODY, timeout=0.3)

    assert served.made() == before + after


def test_statuses_and_waiting_times(served: Served) -> None:
    served.steer("faults", match="GET /flows", status=429, retry_after="3", times=2)

    reply = served.call("GET", "/flows")
    assert (reply.status_code, reply.headers["retry-after"]) == (429, "3")
    served.call("DELETE", "/_emulator/faults")
    assert served.call("GET", "/flows").status_code == 200


def test_slow_answers_wait_side_by_side(served: Served) -> None:
    served.steer("faults", match="GET /flows", kind="delay", seconds=0.3, times=None)

    async def ask() -> list[int]:
        headers = dict(served.http.headers)
        async with httpx.AsyncClient(base_url=served.http.base_url, headers=headers) as http:
            replies = await asyncio.gather(*(http.get(f"{FLOW_SERVICE}/flows") for _ in range(30)))
        return [reply.status_code for reply in replies]

    started = time.perf_counter()
    assert asyncio.run(ask()) == [200] * 30
    assert time.perf_counter() - started < 3


def test_steering_and_looking_in(served: Served) -> None:
    before = served.look("summary")["now"]
    assert served.steer("clock/advance", seconds=86_400)["now"] >= before + 86_400
    assert served.steer("rows", dataset_id=LOYALTY, rows=[{"_id": "1"}])["rows"] == 1101
    served.steer("filters", path="description", kind="flows", code=1450)
    assert "FLOW-1450-400" in served.call("GET", "/flows?property=description==x").text
    served.steer("faults/mix", probability=0, seed=1)
    assert len(served.look("faults")["faults"]) == 5
    assert served.look("requests")["requests"][-1] == {
        "method": "GET",
        "path": f"{FLOW_SERVICE}/flows",
        "status": 400,
        "query": "property=description==x",
    }
    served.call("DELETE", "/_emulator/requests")
    assert served.look("requests") == {"requests": []}
    for page, body in (
        ("faults", {"kind": "x"}),
        ("clock/advance", {"seconds": -1}),
        ("clock/advance", {}),
        ("scripts", {"flow_id": "nowhere"}),
        ("runs", {"flow_id": "nowhere"}),
    ):
        assert served.call("POST", f"/_emulator/{page}", body).status_code == 400
    assert served.call("GET", "/_emulator/nothing").status_code == 404


def test_runs_can_be_started_and_scripted(served: Served) -> None:
    flow = served.call("GET", "/flows").json()["items"][0]["id"]
    served.steer("runs", flow_id=flow, history=150)
    served.steer("scripts", flow_id=flow, outcome="failed", errors=[{"code": "X", "message": "y"}])
    run = served.steer("runs", flow_id=flow)["run"]["id"]
    served.steer("clock/advance", seconds=600)

    found = served.call("GET", f"/runs/{run}").json()["items"][0]
    assert found["metrics"]["statusSummary"]["errors"] == [{"code": "X", "message": "y"}]
    count = served.call("GET", f"/runs?count=true&property=flowId=={flow}").json()["count"]
    assert count >= 151


def test_tokens_can_be_ended(served: Served) -> None:
    served.steer("expire-tokens")

    assert served.call("GET", "/flows").json()["error_code"] == "401013"
    token = served.http.post("/ims/token/v2", params=TOKEN_FORM).json()["access_token"]
    served.http.headers["Authorization"] = f"Bearer {token}"


def test_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    state = ["--state", str(tmp_path / "state.json"), "--latency", "1ms", "--list-delay", "30s"]
    first = start(tmp_path, *state)
    made = [first.post("/connections", BODY) for _ in range(5)]
    assert first.call("GET", "/connections").json()["items"] == []
    assert first.stop(signal.SIGINT) == 0
    assert first.process.stdout is not None
    first.process.stdout.close()

    second = start(tmp_path, *state)
    found = second.call("GET", "/connections").json()["items"]
    assert second.stop() == 0
    assert second.process.stdout is not None
    second.process.stdout.close()
    assert {one["id"] for one in found} == set(made)


def test_a_port_that_is_taken(tmp_path: Path, served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    port = str(httpx.URL(served.http.base_url).port)

    assert main(["--port", port, "--data", str(tmp_path)]) == 2
    assert "cannot start" in capsys.readouterr().err


def test_a_state_file_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "state").write_text("x")

    assert main(["--port", "0", "--data", str(tmp_path / "d"), "--state", str(tmp_path / "state")]) == 2
    assert "state=" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "seconds"), [("200ms", 0.2), ("5", 5), ("5s", 5), ("1.5s", 1.5), ("10m", 600), ("2h", 7200)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parser().parse_args(["--latency", text]).latency == seconds


@pytest.mark.parametrize("arguments", [["--latency", "soon"], ["--port", "70000"], ["--port", "x"], ["--speed", "x"]])
def test_arguments_that_mean_nothing(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(arguments)
    assert arguments[1] in capsys.readouterr().err


def test_help_tells_of_every_page() -> None:
    text = parser().format_help()

    for word in ("/_emulator/faults", "--speed", "--list-delay", "--state", "--run-seconds", "POST   /_emulator/rows"):
        assert word in text


@pytest.mark.parametrize("package", ["uvicorn", "pyarrow"])
def test_a_package_that_is_missing_is_named(package: str) -> None:
    code = f"import sys; sys.modules[{package!r}] = None; from {main.__module__} import main; sys.exit(main([]))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )

    assert done.returncode == 2
    assert package in done.stderr
    assert "airflow-provider-aep[emulator]" in done.stderr


def test_importing_the_emulator_loads_neither_server_nor_pyarrow() -> None:
    code = "import sys, airflow_provider_aep.emulator as e; e.Platform; print([m for m in sys.modules if m in %r])"
    heavy = ("uvicorn", "starlette", "pyarrow", "airflow", "anyio._backends")
    done = subprocess.run(
        [sys.executable, "-c", code % (heavy,)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )

    assert done.stdout.strip() == "[]"
