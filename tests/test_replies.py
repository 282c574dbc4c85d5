"""What a reply means: every shape of an error, which error it is, and what its headers say."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_provider_aep.api.replies import (
    Problem,
    Reply,
    error_of,
    http_date,
    read_problem,
    retry_after_seconds,
    shortened,
)
from airflow_provider_aep.errors import (
    AccessDenied,
    EntityNotFound,
    OutcomeUnknown,
    PlatformUnavailable,
    ReplyError,
    RequestRefused,
    UnexpectedReply,
    VersionConflict,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
# Adobe's own member names with any values at all.
ERROR = st.dictionaries(
    st.sampled_from(
        [
            "error_code",
            "message",
            "type",
            "title",
            "status",
            "report",
            "errorMessage",
            "errorDetails",
            "errorCode",
            "error",
            "error_description",
            "error-chain",
            "detail",
        ]
    ),
    JSON,
)
ERRORS = "https://ns.adobe.com/aep/errors/"


@pytest.mark.parametrize(
    ("body", "code", "message", "request_id"),
    [
        # gateway, code as a text and as a number
        ({"error_code": "401013", "message": "Oauth token is not valid"}, "401013", "Oauth token is not valid", "head"),
        ({"error_code": 429050, "message": "Too many requests"}, "429050", "Too many requests", "head"),
        # Flow Service, today's shape, whole and with parts missing
        (
            {
                "type": ERRORS + "FLOW-1439-404",
                "title": "Resource not found",
                "status": 404,
                "report": {"detailed-message": "long", "id": "x", "request-id": "inner"},
                "errorMessage": "flows not found",
                "errorDetails": "with id = [1]",
            },
            "FLOW-1439-404",
            "flows not found: with id = [1]",
            "inner",
        ),
        (
            {"type": ERRORS + "FLOW-1404-412", "title": "t", "report": {"detailed-message": "long"}},
            "FLOW-1404-412",
            "long",
            "head",
        ),
        ({"type": ERRORS + "FLOW-1413-400", "title": "Bad", "status": 400}, "FLOW-1413-400", "Bad", "head"),
        # the same text twice, as it is or with details behind it
        ({"errorMessage": "no such flow", "errorDetails": "no such flow"}, "400", "no such flow", "head"),
        ({"errorMessage": "no such flow", "errorDetails": "no such flow: 7"}, "400", "no such flow: 7", "head"),
        # Flow Service, older; ad hoc; problem+json; error chain; IMS
        ({"errorMessage": "Supplied version"}, "400", "Supplied version", "head"),
        ({"message": "Following order ID(s) are not ready"}, "400", "Following order ID(s) are not ready", "head"),
        (
            {"type": "about:blank", "title": "BadRequestError", "status": 400, "detail": "no type"},
            "400",
            "no type",
            "head",
        ),
        ({"error-chain": [{"errorCode": "CAT-7", "serviceId": "catalog"}], "title": "t"}, "CAT-7", "t", "head"),
        (
            {"error": "invalid_client", "error_description": "invalid client_secret parameter"},
            "invalid_client",
            "invalid client_secret parameter",
            "head",
        ),
        # nothing that is known
        ({}, "400", "", "head"),
        ({"report": "a text", "error-chain": {}, "message": None}, "400", "", "head"),
    ],
)
def test_every_shape_of_an_error(body: Any, code: str, message: str, request_id: str) -> None:
    """Source: reference of the API, section "Errors": shapes, and the order of places to look at."""
    assert read_problem(json.dumps(body).encode(), status=400, request_id="head") == Problem(code, message, request_id)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"<html><body><h1>502</h1></body></html>", "no JSON in the reply"),
        (b"\n  <!DOCTYPE html>", "no JSON in the reply"),
        (b"\xef\xbb\xbf<html>", "no JSON in the reply"),
        (b"", "no JSON in the reply"),
        (b"upstream\nconnect   error", "upstream connect error"),
        (b"\xff\xfe\x00", "\ufffd\ufffd\x00"),
        (b"[" * 100_000, "[" * 100_000),
        (b'["a list"]', '["a list"]'),
    ],
)
def test_error_bodies_that_are_no_json_object(body: bytes, message: str) -> None:
    assert read_problem(body, status=502, request_id="r") == Problem("", message, "r")


def test_a_long_text_is_cut_for_the_log() -> None:
    assert shortened("short") == "short"
    assert shortened("x" * 5000) == "x" * 1000 + " …"


@given(ERROR)
def test_no_error_reply_breaks_its_reader(body: dict[str, Any]) -> None:
    problem = read_problem(json.dumps(body).encode(), status=500, request_id="r")
    assert problem.code
    assert all("\n" not in part for part in problem)


@given(st.binary())
def test_no_bytes_break_the_reader_of_errors(body: bytes) -> None:
    assert "\n" not in read_problem(body, status=500, request_id="r").message


@pytest.mark.parametrize(
    ("status", "code", "error"),
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
        (404, "FLOW-2103-404", AccessDenied),
        (400, "FLOW-1416-400", PlatformUnavailable),
        (400, "FLOW-1416", PlatformUnavailable),
        (408, "", OutcomeUnknown),
        (429, "429050", OutcomeUnknown),
        (503, "FLOW-1103-503", OutcomeUnknown),
        (302, "", UnexpectedReply),
        (200, "FLOW-1416-400", type(None)),
    ],
)
def test_which_error_a_reply_is(status: int, code: str, error: type[ReplyError]) -> None:
    reply = Reply(status, {}, json.dumps({"error_code": code}).encode())
    assert type(error_of("GET /x", reply)) is error


def test_an_unknown_sandbox_is_named_once() -> None:
    def message(detail: str) -> str:
        body = json.dumps({"error_code": "FLOW-2103-404", "message": detail}).encode()
        error = error_of("GET /flows", Reply(404, {}, body), sandbox_name="dev")
        return error.message if error else ""

    assert message("no such sandbox") == "no such sandbox (sandbox 'dev')"
    assert message("no sandbox dev") == "no sandbox dev"
    assert message("no sandbox devil") == "no sandbox devil (sandbox 'dev')"


def test_a_refusal_is_not_waited_out() -> None:
    for status, seconds in ((403, None), (429, 7.0)):
        error = error_of("GET /flows", Reply(status, {"Retry-After": "7"}, b""))
        assert isinstance(error, ReplyError)
        assert error.retry_after_seconds == seconds


@example("0\x1f")
@given(st.text())
def test_no_header_breaks_the_reader_of_dates(text: str) -> None:
    assert http_date(text) is None or http_date(text).tzinfo is not None  # type: ignore[union-attr]
    seconds = retry_after_seconds(text, now=datetime(2026, 1, 1, tzinfo=UTC))
    assert seconds is None or seconds >= 0


@pytest.mark.parametrize("date", ["Wed, 21 Oct 99999999999999999999 07:28:00 GMT", "1 Jan 2026 00:00:00 +99999", None])
def test_dates_that_break_the_standard_library(date: str | None) -> None:
    assert http_date(date) is None
