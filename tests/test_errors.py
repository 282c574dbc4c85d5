"""The tree of errors: what each says, that it survives a process border, and that none of them hides."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import pytest

from airflow_provider_aep import errors
from airflow_provider_aep.api.entities import DataflowId, FlowRun, FlowRunId, RunError, RunStatus
from airflow_provider_aep.errors import (
    AccessDenied,
    AepError,
    AmbiguousName,
    EntityExists,
    EntityNotFound,
    ExportChanged,
    FlowRunFailed,
    InvalidArgument,
    OutcomeUnknown,
    PlatformUnavailable,
    ReplyError,
    RequestRefused,
    UnexpectedReply,
    VersionConflict,
    first_of,
    refusal,
)

FIELDS: dict[str, Any] = {"status": 403, "code": "403025", "message": "Profile is not valid.", "request_id": "req-1"}
REPLY_ERRORS = [
    RequestRefused,
    AccessDenied,
    EntityNotFound,
    VersionConflict,
    PlatformUnavailable,
    OutcomeUnknown,
    UnexpectedReply,
]
RUN = FlowRun(
    FlowRunId("r1"),
    DataflowId("f1"),
    RunStatus.FAILED,
    raw_status="failed",
    input_records=10,
    failed_records=10,
    errors=(RunError("ACTIVATION_BATCH-0000-FAILED", "Job aborted."), RunError("CONNECTOR-2001-500", "No access")),
)
EVERY: list[AepError] = [
    InvalidArgument("interval", 5, "must be 3, 6, 9 or 12"),
    EntityExists("dataflow 'nightly' exists"),
    AmbiguousName("two"),
    FlowRunFailed(RUN, "failed"),
    ExportChanged("changed"),
    *[kind("GET /flows", **FIELDS) for kind in REPLY_ERRORS],
]


@pytest.mark.parametrize("error", EVERY, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("through", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy, copy.deepcopy])
def test_an_error_survives_pickling_and_copying(error: AepError, through: Any) -> None:
    again = through(error)
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)


@pytest.mark.parametrize("kind", REPLY_ERRORS)
def test_an_error_crosses_from_trigger_to_task_as_json(kind: type[ReplyError]) -> None:
    error = kind("GET /flows", **FIELDS)
    again = ReplyError.from_event(json.loads(json.dumps(error.as_event())))
    assert type(again) is kind
    assert str(again) == str(error)
    assert again.is_final is error.is_final


@pytest.mark.parametrize("event", [{}, {"kind": "Unheard"}, {"kind": "AccessDenied", "request": "GET /x"}])
def test_an_event_that_is_none_is_told(event: dict[str, Any]) -> None:
    with pytest.raises(LookupError):
        ReplyError.from_event(event)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            AccessDenied("GET /flows", **FIELDS),
            "GET /flows: HTTP 403 403025 Profile is not valid. Check the Airflow connection, the sandbox name, and the "
            "technical account's role and permissions (Adobe request req-1)",
        ),
        (RequestRefused("POST /flows", status=400, code="400", message="no"), "POST /flows: HTTP 400 no"),
        (PlatformUnavailable("GET /runs", message="no reply"), "GET /runs: no reply"),
        (PlatformUnavailable("GET /runs", status=503), "GET /runs: HTTP 503 no message"),
        (
            EntityNotFound("GET /flows/1", status=404, code="FLOW-1439-404", message="not found", request_id="r"),
            "GET /flows/1: HTTP 404 FLOW-1439-404 not found. It was deleted, lies in another sandbox, or an access "
            "label hides it (Adobe request r)",
        ),
        (InvalidArgument("interval", 5, "must be 3, 6, 9 or 12"), "interval = 5: must be 3, 6, 9 or 12"),
    ],
)
def test_what_an_error_says(error: AepError, text: str) -> None:
    assert str(error) == text


def test_a_failed_run_is_told_with_all_of_adobes_words() -> None:
    text = str(FlowRunFailed(RUN, "failed"))
    for part in ("r1", "f1", "'failed'", "records read: 10, written: not given", "Job aborted.", "No access"):
        assert part in text
    assert "ACTIVATION_BATCH-0000-FAILED: Job aborted." in text
    silent = FlowRun(FlowRunId("r"), DataflowId("f"), RunStatus.UNKNOWN, raw_status="odd")
    assert "Adobe gave no error" in str(FlowRunFailed(silent, "ended"))


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (401, "401013", AccessDenied),
        (403, "", AccessDenied),
        (404, "", EntityNotFound),
        (400, "FLOW-1439-400", EntityNotFound),
        (400, "1439-400", EntityNotFound),
        (412, "", VersionConflict),
        (400, "FLOW-1413-400", RequestRefused),
        (400, "invalid_client", AccessDenied),
        (418, "", RequestRefused),
    ],
)
def test_the_kind_of_a_refusal(status: int, code: str, kind: type[RequestRefused]) -> None:
    assert type(refusal("GET /x", status, code=code, message="", request_id="")) is kind


def test_whose_move_it_is() -> None:
    """Final: Airflow need not try again before somebody has changed something."""
    final = {type(error): error.is_final for error in EVERY}
    assert final == {
        InvalidArgument: True,
        EntityExists: True,
        AmbiguousName: True,
        FlowRunFailed: True,
        ExportChanged: True,
        RequestRefused: True,
        AccessDenied: True,
        EntityNotFound: True,
        VersionConflict: False,
        PlatformUnavailable: False,
        OutcomeUnknown: False,
        UnexpectedReply: False,
    }
    assert {error.__name__ for error in final} == set(errors.__all__) - {"AepError"}


def test_an_invalid_export_is_a_value_error_too() -> None:
    """What a constructor raises for a wrong argument, in DAG code that knows nothing of this package."""
    with pytest.raises(ValueError, match="x = 1"):
        raise InvalidArgument("x", 1, "no")


def test_of_several_failures_a_refusal_comes_first() -> None:
    outage, refused = PlatformUnavailable("a"), AccessDenied("b")
    assert first_of([outage, refused]) is refused
    assert first_of([outage, UnexpectedReply("c")]) is outage
