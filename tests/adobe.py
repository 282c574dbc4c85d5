"""The emulator in a process of its own behind a line that writes down what is sent, and tasks to try on it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

import httpx
from airflow.sdk import BaseOperator
from airflow.sdk.api.datamodels._generated import DagRunType  # what a worker is handed
from airflow.triggers.base import BaseTrigger, TaskSuccessEvent, TriggerEvent

from airflow_provider_aep.api.calls import enable_dataflow
from airflow_provider_aep.api.effects import Call
from airflow_provider_aep.api.entities import DataflowId
from airflow_provider_aep.destinations import AmazonS3
from airflow_provider_aep.emulator.datasets import SEEDED
from airflow_provider_aep.hooks import AepHook
from airflow_provider_aep.operators import AepExportDatasetsOperator
from airflow_provider_aep.schedules import Every
from tests.airflow_places import (
    AirflowFailException,
    AirflowRescheduleException,
    AirflowSensorTimeout,
    AirflowSkipException,
    TaskDeferred,
    deserialize,
    import_string,
    serialize,
)

BASE = "/data/foundation/flowservice"
DATASET = SEEDED[0].id
OTHER_DATASET = SEEDED[1].id


@dataclass(frozen=True)
class Sent:
    """A request as it arrived."""

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def __str__(self) -> str:
        return f"{self.method} {self.path.removeprefix(BASE)}"


class Line:
    """Hands requests on to a server and its replies back; `rewrite` may change a reply's text on its way."""

    def __init__(self, target: str) -> None:
        self.sent: list[Sent] = []
        self.rewrite: Callable[[bytes], bytes] = lambda text: text
        self._client = httpx.Client(base_url=target, timeout=120)
        line = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                address = urlsplit(self.path)
                headers = {name.lower(): value for name, value in self.headers.items()}
                line.sent.append(Sent(self.command, address.path, parse_qs(address.query), headers, body))
                passed = {name: value for name, value in headers.items() if name not in ("host", "connection")}
                try:
                    reply = line._client.request(self.command, self.path, content=body, headers=passed)
                except httpx.TransportError:
                    self.close_connection = True
                    return
                text = line.rewrite(reply.content)
                self.send_response_only(reply.status_code)
                for name, value in reply.headers.items():  # its date, too: the emulator's time is Adobe's
                    if name not in ("content-length", "transfer-encoding", "connection"):
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_POST = do_PATCH = do_DELETE = handle_any  # noqa: N815 - http.server calls them so

            def log_message(self, *args: Any) -> None:
                """Not a word."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._client.close()


class Adobe:
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

    @property
    def requests(self) -> list[str]:
        """["GET /flows", …]."""
        return [str(each) for each in self.sent]

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


class DeferralEnded(Exception):
    """The triggerer has ended the task: nothing is left for a worker."""

    def __init__(self, xcoms: Any) -> None:
        self.xcoms = xcoms


@dataclass
class TaskInstance:
    """As much of a running task instance as operators ask of one."""

    run_id: str = "manual__2026-01-01"
    try_number: int = 1
    map_index: int = -1
    pushed: dict[str, Any] = field(default_factory=dict)
    first_reschedule: datetime | None = None

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = value

    def get_first_reschedule_date(self, context: Any) -> datetime | None:
        return self.first_reschedule


def context(**members: Any) -> Any:
    """A task's context: "ti" and what a test adds."""
    about_ti = {name: members.pop(name) for name in ("map_index", "try_number") if name in members}
    dag_run = SimpleNamespace(run_after=datetime.now(UTC), logical_date=datetime.now(UTC), run_type=DagRunType.MANUAL)
    return {"ti": TaskInstance(**about_ti), "run_id": "manual__2026-01-01", "dag_run": dag_run, **members}


def rebuilt(trigger: BaseTrigger) -> BaseTrigger:
    """A trigger as the triggerer gets it: serialized, stored as JSON, read and made anew."""
    path, arguments = trigger.serialize()
    stored = json.dumps(serialize(arguments))
    read: Any = deserialize(json.loads(stored))
    made = import_string(path)(**read)
    assert isinstance(made, BaseTrigger)
    return made


async def events_of(trigger: BaseTrigger) -> list[TriggerEvent]:
    return [event async for event in trigger.run()]


class MakesTask(Protocol):
    def __call__(self, **arguments: Any) -> BaseOperator: ...


def finish(make: MakesTask, task_context: Any, **arguments: Any) -> Any:
    """Execute a task until it ends, through as many processes as it would see; each has a task object of its own.

    Raises:
        DeferralEnded: the trigger has ended the task.
    """
    ti = task_context["ti"]
    go_on: Callable[[BaseOperator], Any] = lambda task: task.execute(task_context)  # noqa: E731 - replaced below
    while True:
        try:
            return go_on(make(**arguments))
        except AirflowRescheduleException as reschedule:
            ti.first_reschedule = ti.first_reschedule or datetime.now(UTC)
            _sleep_until(reschedule.reschedule_date)
        except TaskDeferred as deferred:
            (event,) = asyncio.run(events_of(rebuilt(deferred.trigger)))
            if isinstance(event, TaskSuccessEvent):
                raise DeferralEnded(event.xcoms) from None
            payload = deserialize(json.loads(json.dumps(serialize(event.payload))))
            go_on = functools.partial(_resume, deferred.method_name, payload, task_context)


def _resume(method: str, payload: Any, task_context: Any, task: BaseOperator) -> Any:
    return task.resume_execution(method, {"event": payload}, task_context)


def _sleep_until(moment: datetime) -> None:
    threading.Event().wait(max((moment - datetime.now(UTC)).total_seconds(), 0))


@dataclass(frozen=True)
class Ended:
    """How Airflow would book a task: "success", "skipped", "failed" (for good) or "retried"."""

    state: str
    result: Any = None
    message: str = ""
    error: BaseException | None = field(default=None, compare=False)


def ended(make: MakesTask, task_context: Any, **arguments: Any) -> Ended:
    """Execute as `finish` does and judge the end as Airflow's task runner does."""
    try:
        return Ended("success", finish(make, task_context, **arguments))
    except DeferralEnded as end:
        return Ended("success", (end.xcoms or {}).get("return_value"))
    except AirflowSkipException as skip:
        return Ended("skipped", message=str(skip), error=skip)
    except (AirflowFailException, AirflowSensorTimeout) as failure:
        return Ended("failed", message=str(failure), error=failure)
    except Exception as error:
        return Ended("retried", message=str(error), error=error)


@contextlib.contextmanager
def later(seconds: float, work: Callable[[], object]) -> Iterator[None]:
    """Let something happen while a task waits."""
    timer = threading.Timer(seconds, work)
    timer.start()
    try:
        yield
    finally:
        timer.join()
