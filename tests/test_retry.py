"""Which request is sent again after which failure, and after how long."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from airflow_provider_aep.api.calls import create_source_connection, list_page
from airflow_provider_aep.api.effects import Call
from airflow_provider_aep.emulator import Platform
from airflow_provider_aep.errors import (
    AccessDenied,
    EntityNotFound,
    OutcomeUnknown,
    PlatformUnavailable,
    RequestRefused,
    UnexpectedReply,
    VersionConflict,
)
from tests.canned import answers, ok, raw
from tests.conftest import Runner, settings_for_tests

CREATE = create_source_connection("nightly", {"5ef3e3259ad2a1191ab7dd7d": "Profiles"})  # type: ignore[dict-item]
LIST = list_page("/sourceConnections")

# How a failure is set at the emulator, and whether the request may have been done when it happens.
FAILURES: dict[str, tuple[Callable[[Platform, str], Any], bool]] = {
    "refused connection": (lambda adobe, at: adobe.faults.refuse(at), False),
    "429": (lambda adobe, at: adobe.faults.status(at, 429), True),
    "429 without a body": (lambda adobe, at: adobe.faults.status(at, 429, body="empty"), True),
    "reset": (lambda adobe, at: adobe.faults.reset(at), True),
    "lost reply": (lambda adobe, at: adobe.faults.lose_reply(at), True),
    "truncated reply": (lambda adobe, at: adobe.faults.truncate(at), True),
    "silence": (lambda adobe, at: adobe.faults.hang(at), True),
    "408": (lambda adobe, at: adobe.faults.status(at, 408), True),
    "500": (lambda adobe, at: adobe.faults.status(at, 500), True),
    "502 of a proxy": (lambda adobe, at: adobe.faults.status(at, 502, body="html"), True),
    "503": (lambda adobe, at: adobe.faults.status(at, 503), True),
    "504 after the work": (lambda adobe, at: adobe.faults.status(at, 504, after=True), True),
    "an unknown 5xx": (lambda adobe, at: adobe.faults.status(at, 599), True),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_creation_is_sent_again_only_if_it_cannot_have_been_done(
    run: Runner, platform: Platform, requests_of: Callable[[], list[str]], failure: str
) -> None:
    """A second POST after a lost reply would make a second entity: Adobe knows no idempotency key."""
    strike, may_be_done = FAILURES[failure]
    strike(platform, "POST /sourceConnections")
    if may_be_done:
        with pytest.raises(OutcomeUnknown) as caught:
            run(CREATE)
        assert caught.value.is_final is False
        assert requests_of() == ["POST /sourceConnections"]
        assert run.slept == []
        assert len(platform.creations) <= 1
    else:
        assert run(CREATE).id
        assert requests_of() == ["POST /sourceConnections"] * 2
        assert len(platform.creations) == 1
        assert len(run.slept) == 1


@pytest.mark.parametrize("failure", FAILURES)
def test_a_question_is_asked_again_after_any_of_them(
    run: Runner, platform: Platform, requests_of: Callable[[], list[str]], failure: str
) -> None:
    FAILURES[failure][0](platform, "GET /sourceConnections")
    assert run(LIST).items == []
    assert requests_of() == ["GET /sourceConnections"] * 2
    assert len(run.slept) == 1
    assert 1 <= run.slept[0] <= 2


@pytest.mark.parametrize("failure", ["503", "429", "refused connection", "silence"])
def test_in_the_end_the_last_failure_is_raised(run: Runner, platform: Platform, failure: str) -> None:
    FAILURES[failure][0](platform, "GET /flows").times = None
    with pytest.raises(PlatformUnavailable, match="GET /flows"):
        run(list_page("/flows"))
    assert len(run.slept) == run.settings.attempts - 1
    assert all(1 <= seconds <= 31 for seconds in run.slept)
    assert run.slept == sorted(run.slept)  # each wait is longer than the one before


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, RequestRefused),
        (401, AccessDenied),
        (403, AccessDenied),
        (404, EntityNotFound),
        (405, RequestRefused),
        (409, RequestRefused),
        (412, VersionConflict),
        (422, RequestRefused),
        (300, UnexpectedReply),
        (304, UnexpectedReply),
    ],
)
def test_a_refusal_is_not_argued_with(run: Runner, status: int, kind: type[Exception]) -> None:
    canned = answers(run, ok({"error_code": "4", "message": "no"}, status=status))
    with pytest.raises(kind) as caught:
        run(list_page("/flows"))
    assert type(caught.value) is kind
    assert run.slept == []
    assert len(canned.requests) == (2 if status == 401 else 1)  # 401: once more with a new token


@pytest.mark.parametrize("code", ["1416", "1417", "1420", "1421", "1444", "1456", "1457", "1458"])
def test_a_state_in_transit_is_waited_for(run: Runner, code: str) -> None:
    """A 400, yet it passes by itself; nothing has been done, so even a creation is sent again."""
    refusal = ok({"type": f"https://ns.adobe.com/aep/errors/FLOW-{code}-400", "title": "in transit"}, status=400)
    canned = answers(run, refusal, refusal, ok({"id": "new"}, status=201))
    assert run(CREATE).id == "new"
    assert len(canned.requests) == 3


@pytest.mark.parametrize(
    ("text", "slept"),
    [("7", 7), (" 7 ", 7), ("300", 300), ("301", 300), ("86400", 300), ("9" * 400, 300)],
)
@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_in_seconds_is_kept_to_the_cap(run: Runner, text: str, slept: float, status: int) -> None:
    answers(run, raw(status=status, retry_after=text), ok({"items": []}))
    run(LIST)
    assert run.slept == [slept]


def test_the_cap_is_the_settings(run: Runner) -> None:
    run.settings = settings_for_tests(max_retry_after_seconds=20)
    answers(run, raw(status=429, retry_after="60"), ok({"items": []}))
    run(LIST)
    assert run.slept == [20]


@pytest.mark.parametrize(
    ("until", "slept"),
    [
        ("Wed, 21 Oct 2015 07:29:30 GMT", 90),
        ("Wed, 21 Oct 2015 07:29:30 -0000", 90),
        ("Wed, 21 Oct 2015 09:29:30 +0200", 90),
        ("Wed, 21 Oct 2015 23:28:00 GMT", 300),
    ],
)
def test_retry_after_as_a_date_counts_from_the_replys_own_date(run: Runner, until: str, slept: float) -> None:
    """A worker whose clock is wrong would otherwise not wait at all, or for the longest time allowed."""
    answers(run, raw(status=429, retry_after=until, date="Wed, 21 Oct 2015 07:28:00 GMT"), ok({"items": []}))
    run(LIST)
    assert run.slept == [slept]


@pytest.mark.parametrize("text", ["", "soon", "-5", "1.5", "0", "Wed, 21 Oct 2015 07:00:00 GMT", "Wed, 99 Oct 99999"])
def test_a_retry_after_that_says_nothing_useful_leaves_the_usual_wait(run: Runner, text: str) -> None:
    """0 and a date gone by as well: all attempts would be over in an instant."""
    answers(run, raw(status=429, retry_after=text, date="Wed, 21 Oct 2015 07:28:00 GMT"), ok({"items": []}))
    run(LIST)
    assert len(run.slept) == 1
    assert 1 <= run.slept[0] <= 2


def test_a_request_that_never_left_is_told_from_one_that_may_have_been_done(run: Runner) -> None:
    """Whatever httpx says of the way down; what it adds one day counts as possibly done."""
    never_left = {httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError}
    run.settings = settings_for_tests(attempts=1)
    for kind in _all_kinds(httpx.RequestError):
        answers(run, kind("words"))
        with pytest.raises(PlatformUnavailable, match=kind.__name__) as caught:
            run(CREATE)
        assert isinstance(caught.value, OutcomeUnknown) is (kind not in never_left), kind


def _all_kinds(kind: type[httpx.RequestError]) -> list[type[httpx.RequestError]]:
    children = kind.__subclasses__()
    return [each for child in children for each in _all_kinds(child)] if children else [kind]


def test_a_call_may_be_repeatable_though_it_is_a_post(run: Runner) -> None:
    answers(run, raw(status=503), ok({}))
    run(Call("POST", "/flows/f/action", repeatable=True))
    assert len(run.slept) == 1
