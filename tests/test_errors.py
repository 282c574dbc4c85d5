"""The tree of errors: what each says, that it survives a process border, and that none of them hides."""

from __future__ import annotations

import copy
import json
import pickle
import re
from typing import Any

import pytest

from airflow_provider_aep import errors
from airflow_provider_aep.api.entities import DataflowId, FlowRun, FlowRunId, RunError, RunStatus
from airflow_provider_aep.errors import (
    AccessDenied,
    AdhocRefused,
    AepError,
    AmbiguousName,
    EntityExists,
    EntityNotFound,
    ExportChanged,
    FlowRunFailed,
    InvalidArgument,
    NotReady,
    OutcomeUnknown,
    PlatformUnavailable,
    ReplyError,
    RequestRefused,
    RunExists,
    SyncFailed,
    UnexpectedReply,
    VersionConflict,
    first_of,
)

FIELDS: dict[str, Any] = {"status": 403, "code": "403025", "message": "Profile is not valid.", "request_id": "req-1"}
REPLY_ERRORS = [
    RequestRefused,
    AccessDenied,
    EntityNotFound,
    VersionConflict,
    RunExists,
    AdhocRefused,
    NotReady,
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
    SyncFailed("1 failed"),
    *[kind("GET /flows", **FIELDS) for kind in REPLY_ERRORS],
    PlatformUnavailable("GET /flows", **FIELDS, retry_after_seconds=7.5),
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


@pytest.mark.parametrize(
    ("code", "number"),
    [
        ("FLOW-1433-400", 1433),
        ("1433-400", 1433),
        ("1433", 1433),
        ("401013", 401013),
        ("400", None),
        ("", None),
        ("CAT-7", None),
        ("invalid_client", None),
        ("ACTIVATION_BATCH-0000-FAILED", None),
        ("XFLOW-1433-400", None),
        ("FLOW-1433-400x", None),
        ("\u0661\u0664\u0663\u0663", None),
    ],
)
def test_the_number_of_a_code_crosses_every_border(code: str, number: int | None) -> None:
    error = RequestRefused("GET /flows", status=400, code=code)
    assert error.number == number
    for again in (
        pickle.loads(pickle.dumps(error)),
        ReplyError.from_event(json.loads(json.dumps(error.as_event()))),
        PlatformUnavailable.like(error),
    ):
        assert again.number == number


def test_the_same_reply_as_another_error() -> None:
    error = OutcomeUnknown("POST /ims", **FIELDS, retry_after_seconds=5)
    again = PlatformUnavailable.like(error, message="no token")
    assert type(again) is PlatformUnavailable
    assert vars(again) == {**vars(error), "message": "no token"}


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


def test_the_diagram_is_the_tree() -> None:
    drawn: dict[str, str] = {}
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r" {4}((?:[│ ] {3})*(?:[├└]── )?)(\w+)", line)
        if found:
            depth = len(found[1]) // 4
            above[depth:] = [found[2]]
            drawn[found[2]] = above[depth - 1] if depth else "Exception"
    named: list[type[Exception]] = [ReplyError, *(getattr(errors, name) for name in errors.__all__)]
    assert drawn == {each.__name__: each.__bases__[0].__name__ for each in named}


def test_whose_move_it_is() -> None:
    """Final: Airflow need not try again before somebody has changed something."""
    final = {type(error): error.is_final for error in EVERY}
    assert final == {
        InvalidArgument: True,
        EntityExists: True,
        AmbiguousName: True,
        FlowRunFailed: True,
        ExportChanged: True,
        SyncFailed: False,
        RequestRefused: True,
        AccessDenied: True,
        EntityNotFound: True,
        VersionConflict: False,
        RunExists: True,
        AdhocRefused: True,
        NotReady: False,
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
