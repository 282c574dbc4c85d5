"""Both sessions: what they put on the line, how they judge what comes back, and that they leak nothing."""

from __future__ import annotations

import asyncio
import logging
import pickle
import socket
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from airflow_provider_aep.api import calls
from airflow_provider_aep.api.calls import list_page
from airflow_provider_aep.api.effects import Call, Gather, Procedure, ServerTime, Sleep
from airflow_provider_aep.api.queries import all_items
from airflow_provider_aep.api.session import IN_FLIGHT, AsyncSession, Session
from airflow_provider_aep.emulator import CLIENT_ID, ORG_ID, Clock, Platform
from airflow_provider_aep.errors import (
    AepError,
    EntityNotFound,
    OutcomeUnknown,
    PlatformUnavailable,
    RequestRefused,
    UnexpectedReply,
)
from tests.canned import Canned, answers, ok, raw
from tests.conftest import Runner, settings_for_tests

LIST = list_page("/flows")
EMPTY = ok({"items": []})
S3 = "4fce964d-3f37-408f-9778-e597338a21ee"
CREATE = calls.create_base_connection("b", S3, {"specName": "Access Key", "params": {"s3SecretKey": "planted-login"}})

# -- what is put on the line --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        LIST,
        CREATE,
        calls.patch_entity(calls.DATAFLOWS, "f", etag="1", operations=[]),
        calls.delete_entity(calls.DATAFLOWS, "f"),
        calls.enable_dataflow("f"),  # type: ignore[arg-type]
        calls.list_sandboxes(),
        calls.next_page("/runs?continuationToken=x"),
    ],
    ids=str,
)
def test_every_call_has_its_four_headers_and_a_type_only_with_a_body(run: Runner, call: Call[Any]) -> None:
    run.settings = settings_for_tests(sandbox_name="dev")
    canned = answers(run, ok({"id": "x", "items": [], "sandboxes": []}))
    run(call)
    (request,) = canned.requests
    assert request.headers.get_list("Authorization") == ["Bearer token-1"]
    assert request.headers.get_list("x-api-key") == [CLIENT_ID]
    assert request.headers.get_list("x-gw-ims-org-id") == [ORG_ID]
    assert request.headers.get_list("x-sandbox-name") == ["dev"]
    assert request.headers.get("Accept") == "application/json"
    assert request.headers.get("Content-Type") == (None if call.body is None else "application/json")
    assert bool(request.content) is (call.body is not None)


def test_an_empty_header_of_a_call_leaves_one_out(run: Runner) -> None:
    canned = answers(run, ok({}))
    run(Call("GET", "/x", headers={"Accept": "application/json; version=1", "x-sandbox-name": ""}))
    assert canned.requests[0].headers["Accept"] == "application/json; version=1"
    assert "x-sandbox-name" not in canned.requests[0].headers


@pytest.mark.parametrize("gateway", ["https://platform.adobe.io", "https://platform.adobe.io/", "http://[::1]:8585"])
def test_the_address_is_gateway_base_and_path(run: Runner, gateway: str) -> None:
    run.settings = settings_for_tests(gateway=gateway)
    canned = answers(run, EMPTY)
    run(Call("GET", "/flows"))
    assert str(canned.requests[0].url) == gateway.rstrip("/") + "/data/foundation/flowservice/flows"


# -- pages --------------------------------------------------------------------------------------------------------


def test_all_pages_are_read_from_an_adobe_that_gives_tokens_of_base64(run: Runner, platform: Platform) -> None:
    for number in range(7):
        run(calls.create_source_connection(f"s{number}", ["5ef3e3259ad2a1191ab7dd7d"]))  # type: ignore[list-item]
        run.clock.advance(1)
    items = run(all_items(list_page("/sourceConnections", limit=2)))
    assert [item["name"] for item in items] == [f"s{number}" for number in reversed(range(7))]
    assert [each.method for each in platform.requests].count("GET") == 4


TOKEN = "YW/Jj+ZGVm=="
ENCODED = "YW%2FJj%2BZGVm%3D%3D"
HERE = "https://platform.adobe.io/data/foundation/flowservice/runs?limit=2&continuationToken="


@pytest.mark.parametrize(
    ("href", "asked"),
    [
        (f"/runs?limit=2&continuationToken={ENCODED}", HERE + ENCODED),
        (f"/runs?limit=2&continuationToken={TOKEN}", HERE + TOKEN),
        (f"runs?limit=2&continuationToken={TOKEN}", HERE + TOKEN),
        (f"/data/foundation/flowservice/runs?limit=2&continuationToken={TOKEN}", HERE + TOKEN),
        (HERE + ENCODED, HERE + ENCODED),
        (HERE.replace("adobe.io", "adobe.io:443") + TOKEN, HERE + TOKEN),
        (HERE.replace("platform.adobe", "PLATFORM.Adobe") + TOKEN, HERE + TOKEN),
        # A gateway that sees itself without TLS: the token still goes by TLS only.
        (HERE.replace("https", "http") + TOKEN, HERE + TOKEN),
        # Somebody's tricks: of an absolute one only path and query are used, all others are relative to Flow Service.
        ("https://evil.example\\@platform.adobe.io/runs?a=b", "https://platform.adobe.io/runs?a=b"),
        ("//evil.example/runs", "https://platform.adobe.io/data/foundation/flowservice/evil.example/runs"),
        (
            "/runs?to=https://evil.example/",
            "https://platform.adobe.io/data/foundation/flowservice/runs?to=https://evil.example/",
        ),
    ],
)
def test_a_next_reference_is_followed_as_it_came(run: Runner, href: str, asked: str) -> None:
    """The token is opaque: neither decoded nor encoded again."""
    canned = answers(run, ok({"items": [{"id": "1"}], "_links": {"next": {"href": href}}}), EMPTY)
    assert run(all_items(list_page("/runs"))) == [{"id": "1"}]
    assert str(canned.requests[1].url) == asked
    assert canned.requests[1].headers["Authorization"] == "Bearer token-1"


@pytest.mark.parametrize(
    "href",
    [
        "https://evil.example/data/foundation/flowservice/runs?continuationToken=1",
        "https://platform.adobe.io.evil.example/runs",
        "https://platform.adobe.io@evil.example/runs",
        "https://platform.adobe.io:8443/runs",
        "http://platform.adobe.io:80/runs",
        "HTTPS://evil.example/runs",
        "ftp://evil.example/runs",
        "https://[::1/runs",
        "https://platform.adobe.io:99999/runs",
        "https:///runs",
    ],
)
def test_the_token_is_never_shown_to_another_host(run: Runner, href: str) -> None:
    canned = answers(run, ok({"items": [], "_links": {"next": {"href": href}}}), EMPTY)
    with pytest.raises(UnexpectedReply, match="another host"):
        run(all_items(list_page("/runs")))
    assert len(canned.requests) == 1


@pytest.mark.parametrize("href", ["/runs?x=\x00", "/runs?continuationToken=" + "x" * 70_000, "/runs\n?a=b"])
def test_a_next_reference_that_is_no_address_is_an_unexpected_reply(run: Runner, href: str) -> None:
    canned = answers(run, ok({"items": [], "_links": {"next": {"href": href}}}), EMPTY)
    with pytest.raises(UnexpectedReply):
        run(all_items(list_page("/runs")))
    assert len(canned.requests) == 1


def test_a_list_without_end_is_an_error_not_a_loop(run: Runner) -> None:
    """The same token in another dress is the same token."""
    first = ok({"items": [{"id": "1"}], "_links": {"next": {"href": f"/runs?continuationToken={ENCODED}"}}})
    second = ok({"items": [{"id": "2"}], "_links": {"next": {"href": f"{HERE}{ENCODED}&limit=3"}}})
    canned = answers(run, first, second)
    with pytest.raises(UnexpectedReply, match="a continuation token came twice"):
        run(all_items(list_page("/runs")))
    assert len(canned.requests) == 2


def test_an_empty_page_with_a_next_one_is_not_the_end(run: Runner) -> None:
    answers(
        run,
        ok({"items": [], "_links": {"next": {"href": "/runs?continuationToken=a"}}}),
        ok({"items": [{"id": "1"}], "_links": {}}),
    )
    assert run(all_items(list_page("/runs"))) == [{"id": "1"}]


# -- how a reply is judged ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 201, 202, 203, 206, 299])
def test_any_2xx_is_success(run: Runner, status: int) -> None:
    answers(run, ok({"id": "new", "etag": '"1"'}, status=status))
    assert run(CREATE).id == "new"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("call", [LIST, CREATE], ids=str)
def test_no_redirection_is_followed(run: Runner, call: Call[Any], status: int) -> None:
    """It would carry the token to wherever it points."""
    reply = raw(status=status, location="https://evil.example/", x_request_id="req-5")
    canned = answers(run, reply)
    with pytest.raises(UnexpectedReply, match=f"HTTP {status} a redirect; .*req-5"):
        run(call)
    assert [request.url.host for request in canned.requests] == ["platform.adobe.io"]


PAGE = "<!DOCTYPE html><html><body>Log in to the corporate proxy</body></html>"


@pytest.mark.parametrize("call", [LIST, calls.delete_entity(calls.DATAFLOWS, "f")], ids=str)
def test_a_proxys_page_is_no_success(run: Runner, call: Call[Any]) -> None:
    """A deletion is told by its status alone, but not by that of a log-in page."""
    canned = answers(run, raw(PAGE, content_type="text/html"))
    with pytest.raises(OutcomeUnknown, match="is not JSON") as caught:
        run(call)
    assert "corporate" not in str(caught.value)
    assert len(canned.requests) == run.settings.attempts


def test_a_proxys_page_after_a_creation_is_not_answered_by_a_second_one(run: Runner) -> None:
    canned = answers(run, raw(PAGE))
    with pytest.raises(OutcomeUnknown):
        run(CREATE)
    assert len(canned.requests) == 1


@pytest.mark.parametrize("status", [502, 503, 504])
@pytest.mark.parametrize("body", ["", PAGE, "upstream connect error"])
def test_an_outage_is_told_in_one_line_without_markup(run: Runner, status: int, body: str) -> None:
    run.settings = settings_for_tests(attempts=1)
    answers(run, raw(body, status=status))
    with pytest.raises(PlatformUnavailable, match=f"GET /flows: HTTP {status} ") as caught:
        run(LIST)
    assert "<" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("status", [200, 204])
def test_an_empty_success_where_something_must_come_is_an_unknown_outcome(run: Runner, status: int) -> None:
    answers(run, raw(status=status))
    with pytest.raises(OutcomeUnknown):
        run(CREATE)


@pytest.mark.parametrize("reply", [[], {}, "text", 5, None, {"id": None, "etag": 1}][:5])
def test_a_creation_without_an_id_is_an_unexpected_reply(run: Runner, reply: Any) -> None:
    answers(run, ok(reply, x_request_id="req-6"))
    with pytest.raises(UnexpectedReply, match=r"POST /connections.*req-6"):
        run(CREATE)


def test_a_body_that_cannot_be_unpacked_is_an_unknown_outcome(run: Runner) -> None:
    answers(run, raw(b"no gzip at all", content_encoding="gzip"))
    run.settings = settings_for_tests(attempts=1)
    with pytest.raises(OutcomeUnknown, match="DecodingError"):
        run(CREATE)


def test_the_errors_of_the_emulator_carry_code_and_request_id(run: Runner) -> None:
    with pytest.raises(EntityNotFound) as caught:
        run(calls.get_dataflow("7a6e996c-afcc-48ff-ab14-594321147cdd"))  # type: ignore[arg-type]
    assert caught.value.code == "FLOW-1439-404"
    assert len(caught.value.request_id) == 24
    assert caught.value.request_id in str(caught.value)


# -- procedures ---------------------------------------------------------------------------------------------------


def test_a_failure_is_thrown_into_the_procedure(run: Runner) -> None:
    def procedure() -> Procedure[str]:
        try:
            yield from LIST
        except RequestRefused as error:
            yield Sleep(3)
            return f"went on after {error.status}"
        return "not reached"

    answers(run, ok({}, status=400))
    assert run(procedure()) == "went on after 400"
    assert run.slept == [3]


def test_side_by_side_all_end_before_one_fails(run: Runner) -> None:
    """So that it is known what was made; and a refusal says more than an outage."""
    done = []

    def slow() -> Procedure[None]:
        yield from LIST
        done.append("slow")

    def refused() -> Procedure[None]:
        yield Call("GET", "/refused")

    def out() -> Procedure[None]:
        yield Call("POST", "/out")

    def procedure() -> Procedure[Any]:
        return (yield Gather([out(), slow(), refused()]))

    def respond(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/refused"):
            return ok({}, status=403)
        return raw(status=503) if request.url.path.endswith("/out") else EMPTY

    answers(run, respond)
    with pytest.raises(RequestRefused, match="GET /refused"):
        run(procedure())
    assert done == ["slow"]


def test_side_by_side_results_stand_in_order(run: Runner) -> None:
    def one(number: int) -> Procedure[int]:
        yield Sleep(1 / (number + 1))
        yield from LIST
        return number

    def procedure() -> Procedure[list[int]]:
        results: list[int] = yield Gather([one(number) for number in range(20)])
        return results

    assert run(procedure()) == list(range(20))


def test_a_bug_in_a_procedure_is_not_hidden_by_a_refusal(run: Runner) -> None:
    def refused() -> Procedure[None]:
        yield Call("GET", "/refused")

    def bug() -> Procedure[None]:
        yield Sleep(0)
        raise ZeroDivisionError

    def procedure() -> Procedure[Any]:
        return (yield Gather([refused(), bug()]))

    answers(run, ok({}, status=403))
    with pytest.raises(ZeroDivisionError):
        run(procedure())


def test_adobes_time_is_taken_from_its_last_reply(run: Runner) -> None:
    def procedure() -> Procedure[list[int]]:
        yield from LIST
        first: int = yield ServerTime()
        yield Sleep(2)
        second: int = yield ServerTime()
        return [first, second]

    answers(run, raw('{"items": []}', date="Wed, 21 Oct 2015 07:28:00 -0000"))
    assert run(procedure()) == [1445412480000, 1445412482000]


@pytest.mark.parametrize("date", ["never", "", "Wed, 21 Oct 99999999999 07:28:00 GMT"])
def test_a_date_that_is_none_leaves_the_own_clock(run: Runner, date: str) -> None:
    def procedure() -> Procedure[int]:
        yield from LIST
        now: int = yield ServerTime()
        return now

    answers(run, raw('{"items": []}', date=date))
    before = time.time() * 1000
    assert before - 1 <= run(procedure()) <= time.time() * 1000 + 1


def test_few_requests_are_in_flight_at_once() -> None:
    flying, most = 0, 0

    async def respond(request: httpx.Request) -> httpx.Response:
        nonlocal flying, most
        flying += 1
        most = max(most, flying)
        await asyncio.sleep(0.005)
        flying -= 1
        return ok({"access_token": "t", "expires_in": 100}) if "/ims/" in request.url.path else ok({"items": []})

    async def work() -> None:
        async with AsyncSession(settings_for_tests(), transport=httpx.MockTransport(respond)) as session:
            await asyncio.gather(*(session.run(LIST) for _ in range(40)))

    asyncio.run(work())
    assert 1 < most <= IN_FLIGHT


# -- time limits --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "limits"),
    [
        ({}, {"connect": 10, "read": 65, "write": 65, "pool": 65}),
        (
            {"connect_seconds": 3, "read_seconds": 5},
            {"connect": 3, "read": 5, "write": 5, "pool": 5},
        ),
    ],
)
def test_the_time_limits_reach_every_request(run: Runner, changes: Any, limits: dict[str, float]) -> None:
    run.settings = settings_for_tests(**changes)
    canned = answers(run, EMPTY)
    run(LIST)
    for request in (*canned.requests, *canned.token_requests):
        assert request.extensions["timeout"] == limits


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A port that takes connections and never says anything."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        yield server


def fails_in(seconds: float, is_async: bool, **settings: Any) -> PlatformUnavailable:
    """The failure of one attempt at a real port."""
    given = settings_for_tests(attempts=1, **settings)

    async def work() -> None:
        async with AsyncSession(given) as session:
            await session.run(LIST)

    def work_here() -> None:
        with Session(given) as session:
            session.run(LIST)

    began = time.monotonic()
    with pytest.raises(PlatformUnavailable) as caught:
        asyncio.run(work()) if is_async else work_here()
    assert time.monotonic() - began < seconds
    return caught.value


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_silent_adobe_is_given_up_after_the_read_limit(listener: socket.socket, is_async: bool) -> None:
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    error = fails_in(5, is_async, gateway=url, ims=url, read_seconds=0.2)
    assert "POST /ims/token/v3: no reply (ReadTimeout" in str(error)


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_an_unreachable_adobe_is_given_up_after_the_connect_limit(listener: socket.socket, is_async: bool) -> None:
    address = listener.getsockname()
    waiting = []
    for _ in range(4):  # fill the queue of those who wait to be let in; the next one is left outside
        each = socket.socket()
        each.setblocking(False)
        each.connect_ex(address)
        waiting.append(each)
    try:
        url = f"http://127.0.0.1:{address[1]}"
        error = fails_in(5, is_async, gateway=url, ims=url, connect_seconds=0.2, read_seconds=30)
    finally:
        for each in waiting:
            each.close()
    assert "(ConnectTimeout" in str(error)
    assert not isinstance(error, OutcomeUnknown)


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_closed_port_is_told(listener: socket.socket, is_async: bool) -> None:
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    listener.close()
    assert "(ConnectError" in str(fails_in(5, is_async, gateway=url, ims=url))


# -- secrets ------------------------------------------------------------------------------------------------------

SECRET, LOGIN, BEARER = "planted-client-secret", "planted-login", "planted-token"
PLANTED = (SECRET, LOGIN, BEARER)


def echo(request: httpx.Request) -> httpx.Response:
    """A refusal that quotes everything it was sent, as a debugging proxy or a schema validator might."""
    quoted = f"{request.headers.get('Authorization')} {request.content.decode()} {SECRET}"
    return ok({"errorMessage": f"cannot accept {quoted}"}, status=400)


FAILING: dict[str, Any] = {
    "an echo": echo,
    "an echo as plain text": lambda request: raw(f"bad {request.headers['Authorization']}", status=400),
    "an echo in an outage": lambda request: raw(f"bad {request.headers['Authorization']}", status=503),
    "an illegal header": httpx.LocalProtocolError(f"Illegal header value b'Bearer {BEARER}'"),
    "a lost reply": httpx.ReadError("gone"),
    "half a reply": raw(f'{{"token": "{BEARER}", "login": "{LOGIN}"'),
    "no JSON": raw(f"Bearer {BEARER}"),
    "a reply of another form": lambda _: ok([BEARER, LOGIN]),
    "a redirection": raw(status=307, location=f"https://x.example/?token={BEARER}"),
    "a stale token": ok({"error_code": "401013", "message": f"{BEARER} is not valid"}, status=401),
}


@pytest.mark.parametrize("failure", FAILING)
def test_no_secret_in_any_error_or_log_line(run: Runner, failure: str, caplog: pytest.LogCaptureFixture) -> None:
    """Nor in what an error carries along: its arguments, causes, traceback and pickled form."""
    caplog.set_level(logging.INFO)
    logging.getLogger("airflow_provider_aep").setLevel(logging.DEBUG)
    run.settings = settings_for_tests(client_secret=SECRET, attempts=2)
    answers(run, FAILING[failure], tokens=(ok({"access_token": BEARER, "expires_in": 900}),))
    shown = []
    for call in (
        CREATE,
        LIST,
        calls.patch_entity(
            calls.BASE_CONNECTIONS,
            "b",
            etag="1",
            operations=[{"op": "replace", "path": "/auth/params", "value": {"s3SecretKey": LOGIN}}],
        ),
    ):
        try:
            run(call)
        except AepError as error:
            shown += ["".join(traceback.format_exception(error)), repr(pickle.dumps(error))]
            shown += [f"{each!r} {each} {vars(each)}" for each in _chain(error)]
    assert shown
    shown.append(caplog.text)
    for planted in PLANTED:
        assert not any(planted in text for text in shown), [text for text in shown if planted in text]


def _chain(error: BaseException | None) -> list[BaseException]:
    """The error with all that hangs on it, suppressed or not."""
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


def test_what_is_cut_out_leaves_the_rest_readable(run: Runner) -> None:
    answers(run, echo, tokens=(ok({"access_token": BEARER, "expires_in": 900}),))
    with pytest.raises(RequestRefused, match=r"HTTP 400 cannot accept Bearer \*\*\* .*s3SecretKey"):
        run(CREATE)


def test_an_ims_that_quotes_the_secret(run: Runner) -> None:
    run.settings = settings_for_tests(client_secret=SECRET)
    reply = ok({"error": "invalid_client", "error_description": f"{SECRET} is wrong"}, status=401)
    answers(run, EMPTY, tokens=(reply,))
    with pytest.raises(AepError, match=r"\*\*\* is wrong"):
        run(LIST)


def test_a_session_shows_nothing() -> None:
    transport = httpx.MockTransport(Canned(EMPTY).respond)
    with Session(settings_for_tests(client_secret=SECRET), transport=transport) as session:
        session.run(LIST)
        assert SECRET not in repr(session)
        assert SECRET not in repr(vars(session))
        assert "token-1" not in repr(vars(session))


def test_an_etag_that_no_header_can_hold(run: Runner) -> None:
    canned = answers(run, ok({}))
    with pytest.raises(UnexpectedReply, match="PATCH /flows/f"):
        run(calls.patch_entity(calls.DATAFLOWS, "f", etag="é", operations=[]))
    assert canned.requests == []


# -- side effects -------------------------------------------------------------------------------------------------


def test_a_session_holds_no_loop_and_no_thread_after_its_end() -> None:
    before = threading.active_count()

    def procedure() -> Procedure[Any]:
        return (yield Gather([iter(LIST), iter(LIST)]))

    with Session(settings_for_tests(), transport=httpx.MockTransport(Canned(EMPTY).respond)) as session:
        session.run(procedure())
    assert threading.active_count() == before


def test_the_loop_is_not_held_while_waiting() -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    async def work() -> None:
        ticking = asyncio.create_task(tick())
        transport = httpx.MockTransport(Canned(raw(status=429, retry_after="1"), EMPTY).respond)
        async with AsyncSession(settings_for_tests(max_retry_after_seconds=0.3), transport=transport) as session:
            await session.run(LIST)
        ticking.cancel()

    asyncio.run(work())
    assert ticks >= 15


def test_retries_are_told_in_the_log_with_their_reason(
    run: Runner, platform: Platform, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="airflow_provider_aep")
    platform.faults.status("GET /flows", 429, retry_after="5")
    run(LIST)
    (line,) = [record.getMessage() for record in caplog.records if "airflow_provider_aep" in record.name]
    assert "GET /flows: HTTP 429 429050 Too many requests" in line
    assert "trying again in 5 s (attempt 1 of 6)" in line
