"""The access token: asked for once, shared, renewed in time, renewed once when it is refused, never shown."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import parse_qs

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_aep.api.auth import Token, read_token, token_form
from airflow_provider_aep.api.calls import create_source_connection, list_page
from airflow_provider_aep.api.session import AsyncSession, Session
from airflow_provider_aep.api.settings import SCOPES
from airflow_provider_aep.emulator import CLIENT_ID, CLIENT_SECRET, Clock, Platform
from airflow_provider_aep.errors import (
    AccessDenied,
    AepError,
    PlatformUnavailable,
    ReplyError,
    RequestRefused,
    UnexpectedReply,
)
from tests.canned import Canned, answers, ok, raw
from tests.conftest import Runner, settings_for_tests

LIST = list_page("/flows")
EMPTY = ok({"items": []})
DAY = 86_399


def test_the_token_request_is_as_adobe_documents_it(run: Runner) -> None:
    """A form in the body, nothing in the query, where proxies would log it. Source: Adobe IMS guide."""
    canned = answers(run, EMPTY)
    run(LIST)
    (request,) = canned.token_requests
    assert (request.method, str(request.url)) == ("POST", "https://ims-na1.adobelogin.com/ims/token/v3")
    assert request.headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert {name: values[0] for name, values in parse_qs(request.content.decode()).items()} == {
        "grant_type": "client_credentials",
        "client_id": CLIENT_ID,
        "client_secret": CLIENT_SECRET,
        "scope": SCOPES,
    }
    assert "Authorization" not in request.headers


def test_blanks_in_the_scopes_are_stripped() -> None:
    """They stand in some of Adobe's pages, and IMS refuses them."""
    assert token_form(settings_for_tests(scopes="openid, session , AdobeID"))["scope"] == "openid,session,AdobeID"


def test_one_token_serves_all_calls_sessions_and_sandboxes(run: Runner, platform: Platform) -> None:
    for sandbox in ("prod", "dev", "prod"):
        run.settings = settings_for_tests(sandbox_name=sandbox)
        run(LIST)
        run(LIST)
    assert platform.gateway.issued == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"client_secret": "another-secret-of-it"},
        {"client_id": "0000ffee"},
        {"scopes": "openid"},
        {"ims": "https://ims-eu1.adobelogin.com"},
    ],
)
def test_another_credential_has_a_token_of_its_own(run: Runner, changes: dict[str, str]) -> None:
    """Another secret is another credential: a connection with a wrong one must not work by somebody else's token."""
    canned = answers(run, EMPTY)
    run(LIST)
    usual, run.settings = run.settings, settings_for_tests(**changes)
    run(LIST)
    run(LIST)
    run.settings = usual
    run(LIST)
    assert len(canned.token_requests) == 2
    used = [request.headers["Authorization"] for request in canned.requests]
    assert used == ["Bearer token-1", "Bearer token-2", "Bearer token-2", "Bearer token-1"]


@pytest.mark.parametrize(
    ("told", "renewed_after"),
    [
        (DAY, DAY - 300),
        (DAY * 1000, DAY - 300),
        (str(DAY), DAY - 300),
        (1_000_000, 1_000_000 - 300),
        (600, 540),
        (10, 9),
        (None, 3300),
    ],
    ids=["a day", "a day in ms", "as a text", "just no ms", "ten minutes", "ten seconds", "not told"],
)
def test_the_token_is_renewed_before_it_ends(run: Runner, clock: Clock, told: Any, renewed_after: float) -> None:
    token = {"access_token": "t", "expires_in": told} if told is not None else {"access_token": "t"}
    canned = answers(run, EMPTY, tokens=(ok(token),))
    run(LIST)
    clock.advance(renewed_after - 0.5)
    run(LIST)
    assert len(canned.token_requests) == 1
    clock.advance(1)
    run(LIST)
    assert len(canned.token_requests) == 2


@given(st.floats(min_value=1, max_value=1e6), st.floats(min_value=0, max_value=1e9))
def test_the_lead_is_five_minutes_or_a_tenth(seconds: float, now: float) -> None:
    token = read_token({"access_token": "t", "expires_in": seconds}, now=now)
    assert token.renew_at == now + seconds - min(300, seconds / 10)


@pytest.mark.parametrize(
    "reply",
    [
        {},
        [],
        "eyJ-planted",
        None,
        {"access_token": None},
        {"access_token": ""},
        {"access_token": 5},
        {"access_token": "eyJ planted"},
        {"access_token": "eyJ-planted\n"},
        {"access_token": "eyJ-plant\u00e9d"},
        {"access_token": "eyJ-planted", "expires_in": "tomorrow"},
        {"access_token": "eyJ-planted", "expires_in": "nan"},
        {"access_token": "eyJ-planted", "expires_in": []},
    ],
)
def test_a_token_reply_that_cannot_be_used_is_told_without_the_token(run: Runner, reply: Any) -> None:
    canned = answers(run, EMPTY, tokens=(ok(reply, x_request_id="req-9"),))
    with pytest.raises(UnexpectedReply, match=r"POST /ims/token/v3.*req-9") as caught:
        run(LIST)
    assert "plant" not in str(caught.value)
    assert canned.requests == []
    assert len(canned.token_requests) == 1


def test_a_token_is_not_shown() -> None:
    assert "planted" not in repr(Token("planted", 5.0))
    assert "planted" not in repr(settings_for_tests(client_secret="planted-secret"))


# -- a refused token ----------------------------------------------------------------------------------------------


def test_an_expired_token_is_renewed_once_and_nobody_notices(run: Runner, platform: Platform) -> None:
    run(LIST)
    platform.expire_tokens()
    run(create_source_connection("s", {"5ef3e3259ad2a1191ab7dd7d": "x"}))  # type: ignore[dict-item]
    assert platform.gateway.issued == 2
    assert run.slept == []
    assert len(platform.creations) == 1


@pytest.mark.parametrize("code", ["FLOW-2114-400", "FLOW-2115-400"])
def test_the_flow_service_may_refuse_a_token_too(run: Runner, code: str) -> None:
    refused = ok({"type": f"https://ns.adobe.com/aep/errors/{code}", "status": 400}, status=400)
    canned = answers(run, refused, EMPTY)
    run(LIST)
    assert [request.headers["Authorization"] for request in canned.requests] == ["Bearer token-1", "Bearer token-2"]


def test_a_token_that_is_refused_for_good_makes_no_loop(run: Runner) -> None:
    refused = ok({"error_code": "401013", "message": "Oauth token is not valid"}, status=401, x_request_id="req-3")
    canned = answers(run, refused)
    with pytest.raises(AccessDenied, match=r"HTTP 401 401013 Oauth token is not valid.*req-3"):
        run(LIST)
    assert (len(canned.token_requests), len(canned.requests)) == (2, 2)
    assert run.slept == []


def test_a_token_is_renewed_once_in_each_attempt_at_the_most(run: Runner) -> None:
    """401, a new token, 503, a wait, 200: the wait does not forget the new token."""
    refused = ok({"error_code": "401013"}, status=401)
    canned = answers(run, refused, raw(status=503), EMPTY)
    run(LIST)
    used = [request.headers["Authorization"] for request in canned.requests]
    assert used == ["Bearer token-1", "Bearer token-2", "Bearer token-2"]


def test_a_403_is_not_answered_by_a_new_token(run: Runner) -> None:
    canned = answers(run, ok({"error_code": "403025"}, status=403))
    with pytest.raises(AccessDenied):
        run(LIST)
    assert (len(canned.token_requests), len(canned.requests)) == (1, 1)


# -- IMS in trouble -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "error"),
    [(400, "invalid_client"), (401, "invalid_client"), (400, "invalid_scope"), (403, "unauthorized_client")],
)
def test_a_wrong_credential_is_the_administrators_move(run: Runner, status: int, error: str) -> None:
    reply = ok({"error": error, "error_description": "said by IMS"}, status=status, x_request_id="req-4")
    canned = answers(run, EMPTY, tokens=(reply,))
    with pytest.raises(AccessDenied) as caught:
        run(LIST)
    assert caught.value.is_final
    assert (caught.value.status, caught.value.code, caught.value.request_id) == (status, error, "req-4")
    assert "said by IMS" in str(caught.value)
    assert "Check the Airflow connection" in str(caught.value)
    assert len(canned.token_requests) == 1
    assert canned.requests == []


def test_another_refusal_of_ims_keeps_its_words(run: Runner) -> None:
    answers(run, EMPTY, tokens=(ok({"error": "invalid_request"}, status=400),))
    with pytest.raises(RequestRefused, match="invalid_request"):
        run(LIST)


TROUBLE: dict[str, Callable[[], Any]] = {
    "503": lambda: raw(status=503),
    "500 of a proxy": lambda: raw("<html>", status=500),
    "a page with 200": lambda: raw("<html>log in</html>"),
    "half a token": lambda: raw('{"access_token": "eyJ'),
    "a lost reply": lambda: httpx.ReadError("gone"),
    "silence": lambda: httpx.ReadTimeout("slow"),
    "no connection": lambda: httpx.ConnectError("refused"),
}


@pytest.mark.parametrize("trouble", TROUBLE)
def test_a_creation_waits_for_its_token_whatever_becomes_of_the_token_request(run: Runner, trouble: str) -> None:
    """A token asked for twice does no harm, and the creation itself has not been sent."""
    good = ok({"access_token": "t", "expires_in": DAY})
    canned = answers(run, ok({"id": "new"}, status=201), tokens=(TROUBLE[trouble](), good))
    assert run(create_source_connection("s", [])).id == "new"
    assert (len(canned.token_requests), len(canned.requests)) == (2, 1)
    assert len(run.slept) == 1


def test_ims_may_ask_to_wait(run: Runner) -> None:
    good = ok({"access_token": "t", "expires_in": DAY})
    answers(run, EMPTY, tokens=(raw(status=429, retry_after="40"), raw(status=503, retry_after="50"), good))
    run(LIST)
    assert run.slept == [40, 50]


def test_ims_out_of_order_is_an_outage_that_names_ims(run: Runner) -> None:
    canned = answers(run, EMPTY, tokens=(raw(status=503),))
    with pytest.raises(PlatformUnavailable, match="POST /ims/token/v3: HTTP 503") as caught:
        run(LIST)
    assert caught.value.is_final is False
    assert len(canned.token_requests) == run.settings.attempts
    assert canned.requests == []


def test_a_redirecting_ims_gets_the_secret_once_only(run: Runner) -> None:
    canned = answers(run, EMPTY, tokens=(raw(status=307, location="https://evil.example/token"),))
    with pytest.raises(UnexpectedReply):
        run(LIST)
    assert [request.url.host for request in canned.token_requests] == ["ims-na1.adobelogin.com"]


# -- one renewal at a time ----------------------------------------------------------------------------------------


class Slow(Canned):
    """Gives each token only after a while, so that everybody who asks meanwhile has to wait or ask as well."""

    def __init__(self, *replies: Any, seconds: float = 0.05) -> None:
        super().__init__(*replies)
        self.seconds = seconds
        self.lock = threading.Lock()

    def respond(self, request: httpx.Request) -> httpx.Response:
        if "/ims/" in request.url.path:
            threading.Event().wait(self.seconds)
        with self.lock:
            return super().respond(request)

    async def arespond(self, request: httpx.Request) -> httpx.Response:
        if "/ims/" in request.url.path:
            await asyncio.sleep(self.seconds)
        return super().respond(request)


def test_threads_with_sessions_of_their_own_ask_for_one_token() -> None:
    server, many = Slow(EMPTY), 16
    ready = threading.Barrier(many)

    def work(_: int) -> None:
        with Session(settings_for_tests(), transport=httpx.MockTransport(server.respond)) as session:
            ready.wait()
            session.run(LIST)

    with ThreadPoolExecutor(many) as pool:
        list(pool.map(work, range(many)))
    assert (len(server.token_requests), len(server.requests)) == (1, many)


def test_tasks_of_a_loop_ask_for_one_token() -> None:
    server, many = Slow(EMPTY), 50

    async def work() -> None:
        async with AsyncSession(settings_for_tests(), transport=httpx.MockTransport(server.arespond)) as session:
            await session.run(LIST)

    async def all_of_them() -> None:
        await asyncio.gather(*(work() for _ in range(many)))

    asyncio.run(all_of_them())
    assert (len(server.token_requests), len(server.requests)) == (1, many)


class Revoked(Slow):
    """Refuses the first token whenever it is used."""

    def respond(self, request: httpx.Request) -> httpx.Response:
        reply = super().respond(request)
        if request.headers.get("Authorization") == "Bearer token-1":
            return ok({"error_code": "401013"}, status=401)
        return reply

    async def arespond(self, request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0.01)
        return self.respond(request)


def test_all_whose_token_is_refused_at_once_share_one_new_token() -> None:
    server, many = Revoked(EMPTY), 12

    async def all_of_them() -> None:
        async with AsyncSession(settings_for_tests(), transport=httpx.MockTransport(server.arespond)) as session:
            await asyncio.gather(*(session.run(LIST) for _ in range(many)))

    asyncio.run(all_of_them())
    assert len(server.token_requests) == 2

    with Session(settings_for_tests(), transport=httpx.MockTransport(server.respond)) as session:
        session.run(LIST)  # a worker of the same process goes on with the loop's token
    assert len(server.token_requests) == 2


def test_a_failed_renewal_does_not_hold_up_the_next(run: Runner) -> None:
    canned = answers(run, EMPTY, tokens=(ok({"error": "invalid_client"}, status=401), ok({"access_token": "t"})))
    with pytest.raises(AepError):
        run(LIST)
    run(LIST)
    assert len(canned.token_requests) == 2


def test_a_loop_that_ended_while_asking_leaves_no_lock_behind() -> None:
    async def cancelled() -> None:
        async with AsyncSession(
            settings_for_tests(), transport=httpx.MockTransport(Slow(EMPTY, seconds=30).arespond)
        ) as session:
            await asyncio.wait_for(session.run(LIST), timeout=0.05)

    async def works() -> None:
        async with AsyncSession(settings_for_tests(), transport=httpx.MockTransport(Slow(EMPTY).arespond)) as session:
            await asyncio.wait_for(session.run(LIST), timeout=5)

    with pytest.raises(TimeoutError):
        asyncio.run(cancelled())
    asyncio.run(works())


def test_the_owner_is_told_of_each_new_token_before_it_is_used() -> None:
    """So that it can be masked in logs before any log line can hold it."""
    told: list[str] = []

    def respond(request: httpx.Request) -> httpx.Response:
        if "/ims/" in request.url.path:
            return ok({"access_token": "fresh", "expires_in": DAY})
        assert told == ["fresh"]
        return ok({"items": []})

    with Session(settings_for_tests(), transport=httpx.MockTransport(respond), on_token=told.append) as session:
        session.run(LIST)
    assert told == ["fresh"]


def test_an_error_of_the_token_names_what_failed(run: Runner) -> None:
    answers(run, EMPTY, tokens=(raw(status=503),))
    with pytest.raises(ReplyError) as caught:
        run(LIST)
    assert caught.value.request == "POST /ims/token/v3"
