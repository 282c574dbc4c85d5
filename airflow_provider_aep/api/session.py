"""Session and AsyncSession: the only code that sends, sleeps or awaits."""

from __future__ import annotations

import asyncio
import functools
import logging
import re
import ssl
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import httpx
from tenacity import AsyncRetrying, RetryCallState, Retrying

from airflow_provider_aep.api.auth import TOKEN_PATH, Token, read_token, token_cache, token_form
from airflow_provider_aep.api.calls import FLOW_SERVICE
from airflow_provider_aep.api.effects import Call, Effect, Gather, Procedure, ServerTime, Sleep
from airflow_provider_aep.api.masking import logins_in, without_secrets
from airflow_provider_aep.api.retry import failure_of, moment, policy
from airflow_provider_aep.api.settings import Settings
from airflow_provider_aep.api.wire import NothingThere, Problem, read_problem, shortened
from airflow_provider_aep.errors import (
    AepError,
    EntityNotFound,
    OutcomeUnknown,
    PlatformUnavailable,
    ReplyError,
    UnexpectedReply,
    first_of,
    is_about_sandbox,
)

log = logging.getLogger(__name__)
T = TypeVar("T")

# With many requests queued on one pool, httpx's cost for each grows without bound; few in flight, few sockets.
IN_FLIGHT = 6
_LIMITS = httpx.Limits(max_connections=IN_FLIGHT, max_keepalive_connections=IN_FLIGHT)
_PORTS = {"http": 80, "https": 443}
_NEVER_LEFT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)


@functools.cache
def tls_context() -> ssl.SSLContext:
    """One TLS context for the process: loading the certificates costs more than a hundred requests."""
    return httpx.create_ssl_context()


class _Common:
    """What both sessions share: how a request is built and a reply is judged."""

    def __init__(self, settings: Settings, *, clock: Callable[[], float]) -> None:
        self.settings = settings
        self.clock = clock
        self._token_cache = token_cache(settings)
        self._adobe_time: tuple[float, float] | None = None  # in milliseconds, and when it was read by the clock

    def _options(self) -> dict[str, Any]:
        settings = self.settings
        timeout = httpx.Timeout(settings.read_seconds, connect=settings.connect_seconds)
        return {"timeout": timeout, "limits": _LIMITS, "follow_redirects": False, "verify": tls_context()}

    def _request(self, client: httpx.Client | httpx.AsyncClient, call: Call[Any], token: str) -> httpx.Request:
        settings = self.settings
        headers = {
            "Authorization": f"Bearer {token}",
            "x-api-key": settings.client_id,
            "x-gw-ims-org-id": settings.org_id,
            "x-sandbox-name": settings.sandbox_name,
            "Accept": "application/json",
            **call.headers,
        }
        headers = {name: value for name, value in headers.items() if value}
        url = address(settings.gateway, call)
        if call.query:
            url += "?" + urlencode(call.query, quote_via=quote, safe="")  # Adobe wants %20, not +, for a blank
        body = {} if call.body is None else {"json": call.body}
        try:
            return client.build_request(call.method, url, headers=headers, **body)
        except (httpx.InvalidURL, UnicodeError):  # both quote what may be a secret
            failure = UnexpectedReply(str(call), message="an address or an etag of Adobe's holds what HTTP cannot send")
        raise failure

    def _token_request(self, client: httpx.Client | httpx.AsyncClient) -> httpx.Request:
        return client.build_request("POST", self.settings.ims.rstrip("/") + TOKEN_PATH, data=token_form(self.settings))

    def _read_token(self, response: httpx.Response) -> Token:
        return self._judge(_TOKEN_CALL, response, read=lambda reply: read_token(reply, now=self.clock()))

    def _read(self, call: Call[T], response: httpx.Response) -> T:
        if "date" in response.headers:
            self._note_time(response.headers["date"])
        return self._judge(call, response, read=call.read)

    def _judge(self, call: Call[Any], response: httpx.Response, *, read: Callable[[Any], T] | None) -> T:
        """The value of a good reply, or the error that a bad one means."""
        request_id = response.headers.get("x-request-id", "")
        fields: dict[str, Any] = {"status": response.status_code, "request_id": request_id}
        if not response.is_success:
            if response.status_code < 400:
                raise UnexpectedReply(str(call), message="a redirection; none is followed with a token", **fields)
            problem = read_problem(response.content, status=response.status_code, request_id=request_id)
            told = self._without_secrets(problem.message, call, response.request)
            problem = Problem(shortened(problem.code), shortened(told), shortened(problem.request_id))
            sandbox = self.settings.sandbox_name
            if is_about_sandbox(problem.code) and not re.search(rf"\b{re.escape(sandbox)}\b", problem.message):
                problem = problem._replace(message=f"{problem.message} (sandbox {sandbox!r})")
            raise failure_of(call, status=response.status_code, problem=problem, headers=response.headers)
        unreadable = OutcomeUnknown(str(call), message="the reply is cut off or is not JSON", **fields)
        if read is None:
            if response.content.lstrip().startswith(b"<"):  # a page of some proxy in between
                raise unreadable
            return None  # type: ignore[return-value]  # a call without `read` is a Call[None]
        try:
            payload = response.json()
        except (ValueError, RecursionError):
            payload = unreadable
        if payload is unreadable:  # raised out here, since the error above holds the whole reply
            raise unreadable
        try:
            return read(payload)
        except NothingThere as nothing:
            raise EntityNotFound(str(call), message=str(nothing), **fields) from None
        except UnexpectedReply as unread:
            raise UnexpectedReply(str(call), message=f"{unread.request} {unread.message}", **fields) from unread
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            message = f"the reply lacks what it must hold ({type(error).__name__}: {error})"
            raise UnexpectedReply(str(call), message=message, **fields) from error

    def _without_secrets(self, text: str, call: Call[Any], request: httpx.Request) -> str:
        """Adobe's words, or a proxy's, without what they may quote of the request."""
        bearer = request.headers.get("Authorization", "").removeprefix("Bearer ")
        return without_secrets(text, [bearer, self.settings.client_secret, *logins_in(call.body)])

    def _note_time(self, date: str) -> None:
        now = moment(date)
        if now:
            self._adobe_time = (now.timestamp() * 1000, self.clock())

    def _now_ms(self) -> int:
        told = self._adobe_time  # read once: other threads set it
        if told is None:
            return int(time.time() * 1000)
        adobe_ms, read_at = told
        return int(adobe_ms + (self.clock() - read_at) * 1000)

    def _retry_options(self, call: Call[Any]) -> dict[str, Any]:
        return {**policy(call, self.settings), "before_sleep": functools.partial(_tell, self.settings.attempts)}


_TOKEN_CALL: Call[Token] = Call("POST", TOKEN_PATH, repeatable=True)  # stands for the token request in errors


def _not_sent(error: OutcomeUnknown) -> PlatformUnavailable:
    """Whatever became of the token request, the call that it was for has not been sent."""
    again = PlatformUnavailable(
        error.request, status=error.status, code=error.code, message=error.message, request_id=error.request_id
    )
    again.retry_after_seconds = error.retry_after_seconds
    return again


def _not_masked(error: Exception) -> None:
    """No log shows a token on purpose, so that one that Airflow could not be told of ends nothing."""
    log.warning("Airflow could not be told to mask a new token in logs (%s); going on", type(error).__name__)


def _tell(attempts: int, state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    seconds = state.next_action.sleep if state.next_action else 0
    log.info("%s; trying again in %.0f s (attempt %d of %d)", error, seconds, state.attempt_number, attempts)


def address(gateway: str, call: Call[Any]) -> str:
    """The full address of a call. Adobe's `next` references are relative to the Flow Service; absolute ones are read.

    Of an absolute one only path and query are used: the token goes to the gateway by the gateway's own scheme.

    Raises:
        UnexpectedReply: an absolute one names another host, which must not be shown our token.
    """
    base = gateway.rstrip("/")
    if "://" in call.path.partition("?")[0]:
        try:
            here, there = urlsplit(base), urlsplit(call.path)
            same = there.hostname == here.hostname and there.port in (None, here.port or _PORTS[here.scheme])
        except ValueError:
            same = False
        if not same:
            raise UnexpectedReply("GET next page", message="the reference to it names another host")
        return f"{here.scheme}://{here.netloc}{there.path}" + (f"?{there.query}" if there.query else "")
    if call.path.startswith("/data/"):
        return base + call.path
    return f"{base}{FLOW_SERVICE}/{call.path.lstrip('/')}"


def _is_stale_token(response: httpx.Response) -> bool:
    """401 means that the token ended (401013) or that it is no good; once, a new one is tried.

    The Flow Service has words of its own for it, with 400. Source: Flow Service error catalogue, 2114 and 2115.
    """
    if response.status_code != 400:
        return response.status_code == 401
    code = read_problem(response.content, status=400, request_id="").code
    return code.removeprefix("FLOW-") in ("2114-400", "2115-400")


def request_failure(call: Call[Any], error: httpx.RequestError) -> ReplyError:
    """A failure below HTTP. httpx's own words are shown except where they quote a header, which may be the token."""
    words = "" if isinstance(error, httpx.LocalProtocolError) else f": {error}" if str(error) else ""
    kind = PlatformUnavailable if isinstance(error, _NEVER_LEFT) else OutcomeUnknown
    return kind(str(call), message=f"no reply ({type(error).__name__}{words})")


class Session(_Common):
    """Runs procedures on a worker. `clock` counts seconds, `sleep` takes them; both can be given for tests.

    Raises:
        AepError: see `errors`; failures are thrown into the procedure first.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        on_token: Callable[[str], object] | None = None,
    ) -> None:
        super().__init__(settings, clock=clock)
        self._on_token = on_token
        self._sleep = sleep
        self._client = httpx.Client(transport=transport, **self._options())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._client.close()

    def run(self, procedure: Procedure[T] | Call[T]) -> T:
        """Perform a procedure and return its result."""
        steps = iter(procedure)
        go_on = functools.partial(next, steps)
        while True:
            try:
                step = go_on()
            except StopIteration as end:
                result: T = end.value
                return result
            try:
                go_on = functools.partial(steps.send, self._take(step))
            except AepError as error:
                go_on = functools.partial(steps.throw, error)

    def _take(self, step: Effect) -> Any:
        if isinstance(step, Sleep):
            return self._sleep(step.seconds)
        if isinstance(step, ServerTime):
            return self._now_ms()
        if isinstance(step, Gather):
            with ThreadPoolExecutor(len(step.procedures)) as pool:
                futures = [pool.submit(self.run, procedure) for procedure in step.procedures]
            return _results([future.exception() or future.result() for future in futures])
        return Retrying(sleep=self._sleep, **self._retry_options(step))(self._send, step)

    def _send(self, call: Call[T]) -> T:
        token = self._token()
        response = self._exchange(call, self._request(self._client, call, token))
        if _is_stale_token(response):
            token = self._token(instead_of=token)
            response = self._exchange(call, self._request(self._client, call, token))
        return self._read(call, response)

    def _exchange(self, call: Call[Any], request: httpx.Request) -> httpx.Response:
        try:
            return self._client.send(request)
        except httpx.RequestError as error:
            failure = request_failure(call, error)
        raise failure  # out here, so that it does not carry httpx's error, which may quote a header

    def _token(self, *, instead_of: str | None = None) -> str:
        known = self._token_cache.take(now=self.clock(), instead_of=instead_of)
        if known:
            return known
        flights = self._token_cache.flights
        with self._token_cache.lock:
            known = self._token_cache.landed(flights, now=self.clock(), instead_of=instead_of)
            if known:  # another thread was faster
                return known
            with self._token_cache.flight():
                token = self._ask_token()
            try:
                if self._on_token:
                    self._on_token(token.value)
            except Exception as error:
                _not_masked(error)
            self._token_cache.put(token)
            return token.value

    def _ask_token(self) -> Token:
        try:
            return self._read_token(self._exchange(_TOKEN_CALL, self._token_request(self._client)))
        except OutcomeUnknown as error:
            raise _not_sent(error) from None


class AsyncSession(_Common):
    """Runs procedures in an event loop; the twin of `Session`, with `await`."""

    def __init__(
        self,
        settings: Settings,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
        on_token: Callable[[str], Awaitable[object]] | None = None,
    ) -> None:
        super().__init__(settings, clock=clock)
        self._on_token = on_token
        self._sleep = sleep
        self._client = httpx.AsyncClient(transport=transport, **self._options())
        self._in_flight = asyncio.Semaphore(IN_FLIGHT)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def run(self, procedure: Procedure[T] | Call[T]) -> T:
        """Perform a procedure and return its result."""
        steps = iter(procedure)
        go_on = functools.partial(next, steps)
        while True:
            try:
                step = go_on()
            except StopIteration as end:
                result: T = end.value
                return result
            try:
                go_on = functools.partial(steps.send, await self._take(step))
            except AepError as error:
                go_on = functools.partial(steps.throw, error)

    async def _take(self, step: Effect) -> Any:
        if isinstance(step, Sleep):
            return await self._sleep(step.seconds)
        if isinstance(step, ServerTime):
            return self._now_ms()
        if isinstance(step, Gather):
            runs = (self.run(procedure) for procedure in step.procedures)
            return _results(await asyncio.gather(*runs, return_exceptions=True))
        return await AsyncRetrying(sleep=self._sleep, **self._retry_options(step))(self._send, step)

    async def _send(self, call: Call[T]) -> T:
        token = await self._token()
        response = await self._exchange(call, self._request(self._client, call, token))
        if _is_stale_token(response):
            token = await self._token(instead_of=token)
            response = await self._exchange(call, self._request(self._client, call, token))
        return self._read(call, response)

    async def _exchange(self, call: Call[Any], request: httpx.Request) -> httpx.Response:
        try:
            async with self._in_flight:
                return await self._client.send(request)
        except httpx.RequestError as error:
            failure = request_failure(call, error)
        raise failure  # out here, so that it does not carry httpx's error, which may quote a header

    async def _token(self, *, instead_of: str | None = None) -> str:
        known = self._token_cache.take(now=self.clock(), instead_of=instead_of)
        if known:
            return known
        flights = self._token_cache.flights
        async with self._token_cache.loop_lock():
            known = self._token_cache.landed(flights, now=self.clock(), instead_of=instead_of)
            if known:  # another task was faster
                return known
            with self._token_cache.flight():
                token = await self._ask_token()
            try:
                if self._on_token:
                    await self._on_token(token.value)
            except Exception as error:
                _not_masked(error)
            self._token_cache.put(token)
            return token.value

    async def _ask_token(self) -> Token:
        try:
            return self._read_token(await self._exchange(_TOKEN_CALL, self._token_request(self._client)))
        except OutcomeUnknown as error:
            raise _not_sent(error) from None


def _results(outcomes: list[Any]) -> list[Any]:
    """What ran side by side, or the most telling of its failures; an error of ours comes first."""
    errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    if errors:
        raise next((error for error in errors if not isinstance(error, AepError)), first_of(errors))
    return outcomes
