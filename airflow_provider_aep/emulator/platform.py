"""The whole emulated Adobe behind one function: an HTTP request goes in, a response comes out."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
import threading
import time
import uuid
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from typing import Any

import httpx

from airflow_provider_aep.emulator.clock import Clock, Timers
from airflow_provider_aep.emulator.errors import Refusal, flow_error, ims_error, problem
from airflow_provider_aep.emulator.faults import Fault, Faults
from airflow_provider_aep.emulator.flow_service.datasets import Lake
from airflow_provider_aep.emulator.flow_service.endpoints import BASE, FlowService
from airflow_provider_aep.emulator.flow_service.filters import Document, RefusedFilter
from airflow_provider_aep.emulator.flow_service.gateway import Gateway
from airflow_provider_aep.emulator.flow_service.request import ApiRequest, ApiResponse, read_json
from airflow_provider_aep.emulator.flow_service.services import (
    LANDING_ZONE,
    SANDBOXES,
    SCHEMAS,
    LandingZone,
    sandbox_list,
    schema_classes,
)
from airflow_provider_aep.emulator.flow_service.store import Creation, Sandbox, Store
from airflow_provider_aep.emulator.options import Options
from airflow_provider_aep.emulator.persistence import StateFile
from airflow_provider_aep.emulator.runs.adhoc import ADHOC, AdhocRuns
from airflow_provider_aep.emulator.runs.lifecycle import Runs
from airflow_provider_aep.emulator.runs.records import Outcome, Script

COLLEAGUE = "5F2C41AB60A1D3B70A494005@AdobeID"
"""Who changes things behind our back."""


@dataclass(frozen=True)
class Logged:
    """One request that was answered; `status` is None when the caller never saw one."""

    method: str
    path: str
    status: int | None
    query: str = ""


@dataclass(frozen=True)
class Outgoing:
    """What happens on the line: wait, then send the response or do what the fault says."""

    response: httpx.Response | None
    fault: Fault | None
    delay: float


class Platform:
    """A local Adobe. `httpx.MockTransport(platform.respond)` puts it under a sync or an async client.

    `data` is the folder that exports are written to (a temporary one when not given); `clock` is its time; `seed`
    determines IDs and file names; `state` is a file that keeps everything over a restart. All other arguments are
    members of `Options`. Any number of threads may use one platform.

    Raises:
        TypeError: an unknown option.
        ValueError: an option out of range, or a state file that cannot be read.
    """

    def __init__(
        self,
        *,
        data: Path | None = None,
        clock: Clock | None = None,
        seed: int = 0,
        state: Path | None = None,
        visible_now: Callable[[], float] | None = None,
        **options: Any,
    ) -> None:
        self.options = Options(**options)
        self.clock = clock or Clock()
        self.faults: Faults = Faults()
        self.requests: deque[Logged] = deque(maxlen=200_000)
        self.refused_filters: list[RefusedFilter] = []
        self.data: Path | None = None
        if self.options.write_files:
            self.data = Path(data) if data is not None else self._temporary()
        self.lock = threading.RLock()
        # Delayed lists follow the emulated clock; a server lets them follow real time.
        self.store = Store(seed, visible_now or self.clock.now)
        self.lake = Lake(arrivals=self.options.arrivals, start_ms=int(self.clock.now() * 1000))
        self.timers = Timers()
        self.runs = Runs(self.store, self.timers, self.lake, self.options, self.data, seed)
        self.gateway = Gateway(self.options, self.store)
        self.adhoc = AdhocRuns(self.runs, self.options)
        self._landing_zone = LandingZone(self.options)
        self._flow_service = FlowService(self.store, self.timers, self.runs, self.options, self.refused_filters)
        for name in self.options.sandboxes:
            self.store.add_sandbox(name)
        self._saved_at = 0.0
        self._state = None
        if state is not None:
            self._state = StateFile(Path(state), self.clock, self.timers, self.store, self.runs, self.lake)
            self._state.load()

    # -- requests ---------------------------------------------------------------------------------------------

    def respond(self, request: httpx.Request) -> httpx.Response:
        """Answer a request in this process.

        Raises:
            httpx.TransportError: a fault breaks the line.
        """
        outgoing = self.handle(request)
        if outgoing.delay:
            time.sleep(outgoing.delay)
        return _deliver(outgoing, request)

    async def arespond(self, request: httpx.Request) -> httpx.Response:
        """As `respond`, for an async client when delays must not block its loop.

        Raises:
            httpx.TransportError: a fault breaks the line.
        """
        outgoing = self.handle(request)
        if outgoing.delay:
            await asyncio.sleep(outgoing.delay)
        return _deliver(outgoing, request)

    def handle(self, request: httpx.Request) -> Outgoing:
        """Do what a request asks for and say what happens on the line; never waits itself."""
        request.read()
        path = request.url.path.rstrip("/") or "/"
        with self.lock:
            self.clock.begin()
            now = self.tick()
            fault = self.faults.strike(request.method, (path, path.removeprefix(BASE)))
            delay = self.options.latency + (fault.seconds if fault and fault.kind == "delay" else 0.0)
            response = None
            if fault is None or fault.works_first:
                response = self.render(request, lambda: self._route(request, path, now))
                self._save(written=request.method not in ("GET", "HEAD"))
            if fault is not None and fault.kind == "status":
                status, headers, content = fault.answer()
                response = httpx.Response(status, headers={**headers, "x-request-id": _request_id()}, content=content)
            if response is not None:
                response.headers["Date"] = formatdate(now, usegmt=True)  # a client may learn Adobe's time from it
            broken = fault if fault is not None and fault.kind not in ("status", "delay") else None
            status_seen = response.status_code if response is not None and broken is None else None
            self.requests.append(Logged(request.method, path, status_seen, request.url.query.decode("ascii")))
            return Outgoing(response, broken, delay)

    def tick(self) -> float:
        """Do everything that is due by now and return the emulated moment."""
        with self.lock:
            now = self.clock.now()
            for timer in self.timers.pop_due(now):
                self.store.dirty = True
                if not self.runs.fire(timer):
                    self._flow_service.fire(timer)
            return now

    def _route(self, request: httpx.Request, path: str, now: float) -> ApiResponse:
        if path in ("/ims/token/v2", "/ims/token/v3"):
            if request.method != "POST":
                raise problem(405, "Method Not Allowed", f"{request.method} {path}")
            return ApiResponse(200, self.gateway.token(request))
        if path.startswith("/ims/"):
            raise ims_error(400, "invalid_request", "Only OAuth server-to-server credentials are served: /ims/token/v3")
        self.gateway.check_caller(request)
        body = _json(request)
        if path == SANDBOXES or path.startswith(f"{SANDBOXES}/"):
            return sandbox_list(_steps(path, SANDBOXES), request.method, self.store)
        for base, answer in (
            (BASE, self._flow_service.answer),
            (ADHOC, self.adhoc.answer),
            (LANDING_ZONE, self._landing_zone.answer),
            (SCHEMAS, schema_classes),
        ):
            if path == base or path.startswith(f"{base}/"):
                return answer(
                    ApiRequest(
                        request.method,
                        f"{request.url.scheme}://{request.url.netloc.decode()}",
                        _steps(path, base),
                        request.url.params.multi_items(),
                        request.headers,
                        body,
                        self.gateway.sandbox(request),
                        now,
                    )
                )
        raise problem(404, "Not Found", f"There is nothing at {path}")

    def render(self, request: httpx.Request, work: Callable[[], ApiResponse]) -> httpx.Response:
        request_id = _request_id()
        try:
            answer = work()
            status, body, headers = answer.status, answer.body, dict(answer.headers)
        except Refusal as refusal:
            status, body, headers = refusal.status, refusal.body, dict(refusal.headers)
            if isinstance(body, dict):
                body = self._finish(body, request_id)
        headers["x-request-id"] = request_id
        if body is None:
            return httpx.Response(status, headers=headers, request=request)
        headers.setdefault("Content-Type", "application/json")
        return httpx.Response(status, headers=headers, content=json.dumps(body).encode(), request=request)

    def _finish(self, body: dict[str, Any], request_id: str) -> dict[str, Any]:
        if "report" in body:
            return {**body, "report": {**body["report"], "request-id": request_id}}
        if "error_code" in body and self.options.integer_error_codes:
            return {**body, "error_code": int(body["error_code"])}
        return body

    # -- what tests read and set ------------------------------------------------------------------------------

    @property
    def creations(self) -> list[Creation]:
        """Every entity created through the API, oldest first, deleted ones included."""
        return self.store.creations

    def sandbox(self, name: str = "prod") -> Sandbox:
        return self.store.sandboxes[name]

    def live(self, collection: str, sandbox: str = "prod") -> list[Document]:
        """The entities of a collection that exist now, as a GET shows them."""
        with self.lock:
            self.tick()
            return list(self.sandbox(sandbox).collections[collection])

    def expire_tokens(self) -> None:
        """Invalidate every token issued so far; its next use is refused with 401013."""
        self.gateway.expire_tokens()

    def set_client_secrets(self, *secrets: str) -> None:
        """Let IMS take these secrets from now on and no others; tokens issued before stay valid."""
        self.gateway.client_secrets = secrets

    def revoke_login(self, connection_id: str) -> None:
        """Let the storage refuse what a base connection logs in with, until a PATCH gives it a login again.

        Raises:
            KeyError: there is no such base connection.
        """
        with self.lock:
            self.tick()
            self.runs.revoked.add(self._entity("connections", connection_id)["id"])
            self.store.dirty = True

    def refuse_filter(
        self, path: str, *, kind: str = "*", operator: str | None = None, several: bool | None = None, code: int = 1448
    ) -> None:
        """Refuse filters on `path` from now on with that code; `operator="orderby"` refuses an order.

        `several` restricts it to conditions with several values (True) or a single one (False).
        """
        self.refused_filters.append(RefusedFilter(kind, path, operator, several, code))

    def script_run(self, flow_id: str = "*", outcome: Outcome = "success", **members: Any) -> None:
        """Decide how the next run of a dataflow goes (of any dataflow: "*"); `members` are those of `Script`.

        Raises:
            KeyError: there is no such dataflow.
        """
        with self.lock:
            self.tick()  # a run that is already due is not the next one
            scripts = self.runs.scripts if flow_id == "*" else self.runs.flows[flow_id].scripts
            scripts.append(Script(outcome, **members))
            self.store.dirty = True

    def end_run(self, run_id: str, outcome: Outcome = "success", **members: Any) -> None:
        """End a run that is stuck (`script_run(…, "stuck")`) now; `members` are those of `Script`.

        Raises:
            KeyError: no run of that ID is under way.
            ValueError: it is not stuck.
        """
        with self.lock:
            self.runs.end(run_id, Script(outcome, **members), self.tick())
            self.tick()
            self.store.dirty = True

    def skip_slots(self, flow_id: str, count: int = 1) -> None:
        """Let the next `count` slots of a dataflow's schedule start no run; what they lack comes with the next run.

        Raises:
            KeyError: there is no such dataflow.
            ValueError: `count` is no whole number, 0 or more.
        """
        if type(count) is not int or count < 0:
            raise ValueError(f"count={count!r}: a whole number, 0 or more, is expected")
        with self.lock:
            self.tick()
            self.runs.flows[flow_id].skip = count
            self.store.dirty = True

    def set_state(self, flow_id: str, state: str, *, by: str = COLLEAGUE) -> None:
        """Enable or disable a dataflow as a colleague does in Adobe's user interface; `by` becomes its `updatedBy`.

        Raises:
            KeyError: there is no such dataflow.
            ValueError: `state` is neither "enabled" nor "disabled", or `by` is no text.
        """
        if state not in ("enabled", "disabled") or not isinstance(by, str):
            raise ValueError(f"state={state!r}, by={by!r}: enabled or disabled, by a user's ID, is expected")
        with self.lock:
            now, flow = self.tick(), self._entity("flows", flow_id)
            etag = self.store.new_etag(now)
            flow.update(state=state, updatedBy=by, updatedAt=int(now * 1000), etag=etag, version=etag)
            self.sandbox(flow["sandboxName"]).collections["flows"].changed()

    def start_run(self, flow_id: str) -> Document:
        """Start a run of a dataflow now, as if its schedule had fallen due."""
        with self.lock:
            now = self.tick()
            return self.runs.create(self._entity("flows", flow_id), now)

    def add_history(self, flow_id: str, count: int, *, every_seconds: float = 60.0) -> None:
        """Give a dataflow `count` finished empty runs of the past, the last one `every_seconds` ago."""
        with self.lock:
            self.runs.add_history(self._entity("flows", flow_id), count, every_seconds, self.tick())

    def add_rows(self, dataset_id: str, rows: list[dict[str, Any]]) -> None:
        """Add rows to a dataset; they arrive now."""
        with self.lock:
            self.lake.add_rows(dataset_id, rows, int(self.tick() * 1000))
            self.store.dirty = True

    def _entity(self, collection: str, entity_id: str) -> Document:
        for sandbox in self.store.sandboxes.values():
            if entity_id in sandbox.collections[collection].items:
                return sandbox.collections[collection].items[entity_id]
        raise KeyError(entity_id)

    # -- state ------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write the state file now, whole or not at all."""
        with self.lock:
            if self._state is not None:
                self._state.save()
                self.store.dirty = False

    def save_if_changed(self) -> None:
        with self.lock:
            if self.store.dirty:
                self.save()

    def _save(self, *, written: bool) -> None:
        """Save a write before it is acknowledged, and what else has changed twice a second."""
        late = time.monotonic() - self._saved_at > 0.5
        if self._state is not None and self.store.dirty and (written or late):
            self.save()
            self._saved_at = time.monotonic()

    def data_folder(self) -> None:
        """Create the folder of the exports, so that a wrong one fails now and not in a run.

        Raises:
            OSError: it cannot be created.
        """
        if self.data is not None:
            self.data.mkdir(parents=True, exist_ok=True)

    def _temporary(self) -> Path:
        folder = tempfile.mkdtemp(prefix="aep-emulator-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return Path(folder)


def _steps(path: str, base: str) -> tuple[str, ...]:
    return tuple(step for step in path[len(base) :].split("/") if step)


def _json(request: httpx.Request) -> Any:
    try:
        return read_json(request.content)
    except ValueError:
        raise flow_error(1425, 400, "The request body is not JSON") from None


def _request_id() -> str:
    return uuid.uuid4().hex[:24]


def _deliver(outgoing: Outgoing, request: httpx.Request) -> httpx.Response:
    """The outcome as httpx's own client would see it on a real line."""
    fault = outgoing.fault
    if fault is None:
        assert outgoing.response is not None  # absent only with a fault
        outgoing.response.request = request
        return outgoing.response
    if fault.kind == "refuse":
        raise httpx.ConnectError("[Errno 111] Connection refused", request=request)
    if fault.kind == "reset":
        raise httpx.ReadError("[Errno 104] Connection reset by peer", request=request)
    if fault.kind == "hang":
        raise httpx.ReadTimeout("The read operation timed out", request=request)
    if fault.kind == "truncate" and outgoing.response is not None and outgoing.response.content:
        size = len(outgoing.response.content)
        text = f"incomplete message body (received {size // 2} bytes, expected {size})"
        raise httpx.RemoteProtocolError(f"peer closed connection without sending {text}", request=request)
    raise httpx.RemoteProtocolError("Server disconnected without sending a response.", request=request)
