"""Inspect and steer an emulator that runs in another process: everything under `/_emulator`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import httpx

from airflow_provider_aep.emulator.errors import Refusal, problem
from airflow_provider_aep.emulator.flow_service.request import ApiResponse, read_json
from airflow_provider_aep.emulator.platform import Outgoing, Platform

BASE = "/_emulator"

HELP = """\
GET    /_emulator/summary           time, options, entities by sandbox, runs, files with rows and bytes
GET    /_emulator/creations         every entity that was created: kind, id, name, sandbox, at_ms, deleted
GET    /_emulator/requests          every request: method, path, status, query; DELETE forgets
GET    /_emulator/faults            the faults that are set, with how often they struck; DELETE removes them
POST   /_emulator/faults            {"match": "POST /flows", "kind": "status|refuse|reset|lose_reply|truncate|hang|
                                    delay", "status": 503, "retry_after": "2", "body": "json|html|empty", "after":
                                    false, "seconds": 300, "skip": 0, "times": 1, "probability": 1, "seed": 0}
POST   /_emulator/faults/mix        {"probability": 0.2, "match": "*", "seed": 0, "kinds": [...]}
POST   /_emulator/filters           {"path": "updatedAt", "kind": "runs", "operator": ">", "several": null,
                                    "code": 1448}: refuse such filters; operator "orderby" refuses an order
POST   /_emulator/clock/advance     {"seconds": 3600}: move the emulated clock forward
POST   /_emulator/expire-tokens     make every token issued so far invalid
POST   /_emulator/client-secrets    {"secrets": ["..."]}: those that IMS takes from now on
POST   /_emulator/revoked-logins    {"connection_id": "..."}: the storage refuses what a base connection logs in with,
                                    and runs fail, until a PATCH gives it a login again
POST   /_emulator/states            {"flow_id": "...", "state": "enabled|disabled", "by": "...@AdobeID"}: as a colleague
                                    does in Adobe's user interface
POST   /_emulator/skipped-slots     {"flow_id": "...", "count": 1}: the next slots that start no run
POST   /_emulator/scripts           {"flow_id": "*", "outcome": "success|partial|failed|empty|stuck", "seconds": null,
                                    "late_seconds": null, "errors": [], "failed_records": 3, "status": null}: how the
                                    next run goes
POST   /_emulator/runs              {"flow_id": "...", "history": 0}: start a run now, or add finished runs
POST   /_emulator/runs/end          {"run_id": "...", "outcome": "success", ...}: end a run that is stuck
POST   /_emulator/rows              {"dataset_id": "...", "rows": [...]}: rows that arrive now
"""


class SteeredPlatform(Platform):
    """A platform that also answers under `/_emulator`; time does not begin with such a request."""

    def handle(self, request: httpx.Request) -> Outgoing:
        if not request.url.path.startswith(BASE):
            return super().handle(request)
        request.read()
        with self.lock:
            self.tick()
            return Outgoing(self.render(request, lambda: _answer(self, request, request.url.path)), None, 0.0)


def _answer(platform: Platform, request: httpx.Request, path: str) -> ApiResponse:
    """Answer a request under `/_emulator`; no token is needed.

    Raises:
        Refusal: 404 for a path that is not there, 400 for a body that makes no sense.
    """
    try:
        body = read_json(request.content) or {}
    except ValueError:
        raise problem(400, "Bad Request", "The body is not JSON") from None
    if not isinstance(body, dict):
        raise problem(400, "Bad Request", "The body is not a JSON object")
    work = _PAGES.get((request.method, path.removeprefix(BASE).strip("/")))
    if work is None:
        raise Refusal(404, {"message": "No such page", "pages": HELP.splitlines()})
    try:
        return ApiResponse(200, work(platform, body) or {})
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as trouble:
        raise problem(400, "Bad Request", f"{type(trouble).__name__}: {trouble}") from None


def _summary(platform: Platform, _: dict[str, Any]) -> dict[str, Any]:
    return {
        "now": platform.clock.now(),
        "data": str(platform.data),
        "options": {**asdict(platform.options), "client_secrets": len(platform.gateway.client_secrets)},
        "sandboxes": {
            name: {collection: len(entities) for collection, entities in sandbox.collections.items()}
            for name, sandbox in platform.store.sandboxes.items()
        },
        "tokens_issued": platform.gateway.issued,
        "runs_under_way": len(platform.runs.active),
        "next_due": platform.timers.next_due(),
        "files": list(platform.runs.written),
    }


def _mix(platform: Platform, body: dict[str, Any]) -> dict[str, Any]:
    platform.faults.mix(**body)
    return {"faults": platform.faults.describe()}


def _add_fault(platform: Platform, body: dict[str, Any]) -> dict[str, Any]:
    platform.faults.add(**body)
    return {"faults": platform.faults.describe()}


def _clear_faults(platform: Platform, _: dict[str, Any]) -> dict[str, Any]:
    platform.faults.clear()
    return {"faults": []}


def _clear_requests(platform: Platform, _: dict[str, Any]) -> dict[str, Any]:
    platform.requests.clear()
    return {"requests": []}


def _advance(platform: Platform, body: dict[str, Any]) -> dict[str, Any]:
    platform.clock.advance(float(body["seconds"]))
    return {"now": platform.tick()}


def _refuse_filter(platform: Platform, body: dict[str, Any]) -> dict[str, Any]:
    platform.refuse_filter(body.pop("path"), **body)
    return {"filters": [asdict(one) for one in platform.refused_filters]}


def _set_secrets(platform: Platform, body: dict[str, Any]) -> dict[str, Any]:
    secrets = body["secrets"]
    if not isinstance(secrets, list) or not secrets or not all(isinstance(one, str) for one in secrets):
        raise ValueError("secrets: a list of texts is expected")
    platform.set_client_secrets(*secrets)
    return {"secrets": len(secrets)}


def _start_run(platform: Platform, body: dict[str, Any]) -> dict[str, Any]:
    if body.get("history"):
        platform.add_history(body["flow_id"], int(body["history"]))
        return {}
    return {"run": platform.start_run(body["flow_id"])}


def _add_rows(platform: Platform, body: dict[str, Any]) -> dict[str, Any]:
    platform.add_rows(body["dataset_id"], body["rows"])
    return {"rows": platform.lake.row_count(body["dataset_id"], int(platform.clock.now() * 1000))}


_PAGES: dict[tuple[str, str], Callable[[Platform, dict[str, Any]], dict[str, Any] | None]] = {
    ("GET", "summary"): _summary,
    ("GET", "creations"): lambda platform, _: {"creations": [asdict(one) for one in platform.creations]},
    ("GET", "requests"): lambda platform, _: {"requests": [asdict(one) for one in platform.requests]},
    ("DELETE", "requests"): _clear_requests,
    ("GET", "faults"): lambda platform, _: {"faults": platform.faults.describe()},
    ("POST", "faults"): _add_fault,
    ("POST", "faults/mix"): _mix,
    ("DELETE", "faults"): _clear_faults,
    ("POST", "filters"): _refuse_filter,
    ("POST", "clock/advance"): _advance,
    ("POST", "expire-tokens"): lambda platform, _: platform.expire_tokens(),
    ("POST", "client-secrets"): _set_secrets,
    ("POST", "revoked-logins"): lambda platform, body: platform.revoke_login(**body),
    ("POST", "states"): lambda platform, body: platform.set_state(**body),
    ("POST", "skipped-slots"): lambda platform, body: platform.skip_slots(**body),
    ("POST", "scripts"): lambda platform, body: platform.script_run(body.pop("flow_id", "*"), **body),
    ("POST", "runs"): _start_run,
    ("POST", "runs/end"): lambda platform, body: platform.end_run(**body),
    ("POST", "rows"): _add_rows,
}
