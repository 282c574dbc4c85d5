"""Session and AsyncSession: the only code that sends, sleeps or awaits.

What a session does for one call (a token, the request, once more with a new token) is itself a generator, `_attempt`,
which performs nothing. So the two sessions differ only in how they perform a step.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import ssl
import time
from collections.abc import Awaitable, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any, Generic, NamedTuple, Self, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import httpx
from tenacity import AsyncRetrying, RetryCallState, Retrying

from airflow_provider_aep.api.auth import TOKEN_PATH, Token, read_token, token_cache, token_form
from airflow_provider_aep.api.calls import FLOW_SERVICE
from airflow_provider_aep.api.effects import Call, Effect, Gather, Procedure, ServerTime, Sleep
from airflow_provider_aep.api.masking import logins_in, without_secrets
from airflow_provider_aep.api.replies import Reply, http_date, refuses_token, value_of
from airflow_provider_aep.api.retry import policy
from airflow_provider_aep.api.settings import Settings
from airflow_provider_aep.errors import (
    AepError,
    OutcomeUnknown,
    PlatformUnavailable,
    ReplyError,
    RequestRefused,
    UnexpectedReply,
    first_of,
)

log = logging.getLogger(__name__)
T = TypeVar("T")
C = TypeVar("C", httpx.Client, httpx.AsyncClient)

# With many requests queued on one pool, httpx's cost for each grows without bound; few in flight, few sockets.
IN_FLIGHT = 6
_LIMITS = httpx.Limits(max_connections=IN_FLIGHT, max_keepalive_connections=IN_FLIGHT)
_PORTS = {"http": 80, "https": 443}
_NEVER_LEFT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)


@functools.cache
def tls_context() -> ssl.SSLContext:
    """One TLS context for the process: loading the certificates costs more than a hundred requests."""
    return httpx.create_ssl_context()


class _Locked(NamedTuple):
    """Steps to perform while nobody else asks for a token of this credential."""

    steps: _Steps[str]


#: A session's own steps: a request to send, steps to perform under the lock, a new token to be masked in logs.
_Steps = Generator[httpx.Request | _Locked | Token, Any, T]


class _Common(Generic[C]):
    """What both sessions share: all but the sending, the sleeping and the awaiting."""

    def __init__(self, settings: Settings, client: C, clock: Callable[[], float]) -> None:
        self.settings = settings
        self.clock = clock
        self._client: C = client
        self._token_cache = token_cache(settings)
        self._adobe_time: tuple[float, float] | None = None  # in milliseconds, and when it was read by the clock

    def _attempt(self, call: Call[T]) -> _Steps[T]:
        """Send a call, and once more with a new token if Adobe refuses the one it had."""
        token = yield from self._token()
        try:
            return (yield from self._exchange(call, self._request(call, token)))
        except RequestRefused as error:
            if not refuses_token(error):
                raise
        token = yield from self._token(instead_of=token)
        return (yield from self._exchange(call, self._request(call, token)))

    def _token(self, *, instead_of: str | None = None) -> _Steps[str]:
        cache = self._token_cache
        known = cache.take(now=self.clock(), instead_of=instead_of)
        if known is None:
            known = yield _Locked(self._new_token(cache.flights, instead_of))
        return known

    def _new_token(self, flights: int, instead_of: str | None) -> _Steps[str]:
        cache = self._token_cache
        known = cache.landed(flights, now=self.clock(), instead_of=instead_of)
        if known:  # another thread or task was faster
            return known
        with cache.flight():
            token = yield from self._ask_token()
        try:
            yield token
        except Exception as error:  # no log shows a token on purpose, so one that stays unmasked does no harm
            log.warning("Airflow could not mask a new token in logs (%s); going on", type(error).__name__)
        cache.put(token)
        return token.value

    def _ask_token(self) -> _Steps[Token]:
        settings = self.settings
        call = Call("POST", TOKEN_PATH, lambda reply: read_token(reply, now=self.clock()))
        request = self._client.build_request("POST", settings.ims.rstrip("/") + TOKEN_PATH, data=token_form(settings))
        try:
            return (yield from self._exchange(call, request))
        except OutcomeUnknown as error:  # whatever became of it, the call that needs the token has not been sent
            unavailable = PlatformUnavailable.like(error)
        raise unavailable

    def _exchange(self, call: Call[T], request: httpx.Request) -> _Steps[T]:
        try:
            response = yield request
        except httpx.RequestError as error:
            failure = request_failure(call, error)
        else:
            return self._read(call, response)
        raise failure  # out here, so that it does not carry httpx's error, which may quote a header

    def _request(self, call: Call[Any], token: str) -> httpx.Request:
        settings = self.settings
        headers = {
            "Authorization": f"Bearer {token}",
            "x-api-key": settings.client_id,
            "x-gw-ims-org-id": settings.org_id,
            "x-sandbox-name": call.sandbox_name or settings.sandbox_name,
            "Accept": "application/json",
            **call.headers,
        }
        headers = {name: value for name, value in headers.items() if value}
        url = address(settings.gateway, call)
        if call.query:
            url += "?" + urlencode(call.query, quote_via=quote, safe="")  # Adobe wants %20, not +, for a blank
        body = {} if call.body is None else {"json": call.body}
        try:
            return self._client.build_request(call.method, url, headers=headers, **body)
        except (httpx.InvalidURL, UnicodeError):  # both quote what may be a secret
            failure = UnexpectedReply(str(call), message="Adobe gave an address or an etag that HTTP cannot send")
        raise failure

    def _read(self, call: Call[T], response: httpx.Response) -> T:
        """The value of a reply; its error shows nothing secret that Adobe, or a proxy, quotes of the request."""
        if call.path != TOKEN_PATH:
            self._note_time(response.headers.get("Date"))
        bearer = response.request.headers.get("Authorization", "").removeprefix("Bearer ")
        return value_of(
            call,
            Reply(response.status_code, response.headers, response.content),
            hide=lambda text: without_secrets(text, [bearer, self.settings.client_secret, *logins_in(call.body)]),
            sandbox_name=call.sandbox_name or self.settings.sandbox_name,
        )

    def _note_time(self, date: str | None) -> None:
        now = http_date(date)
        if now:
            self._adobe_time = (now.timestamp() * 1000, self.clock())

    def _now_ms(self) -> int:
        noted = self._adobe_time  # read once: other threads set it
        if noted is None:
            return int(time.time() * 1000)
        adobe_ms, read_at = noted
        return int(adobe_ms + (self.clock() - read_at) * 1000)

    def _retry_options(self, call: Call[Any]) -> dict[str, Any]:
        return {**policy(call, self.settings), "before_sleep": functools.partial(_log_retry, self.settings.attempts)}


def _client_options(settings: Settings) -> dict[str, Any]:
    timeout = httpx.Timeout(settings.read_seconds, connect=settings.connect_seconds)
    return {"timeout": timeout, "limits": _LIMITS, "follow_redirects": False, "verify": tls_context()}


def _log_retry(attempts: int, state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    seconds = state.next_action.sleep if state.next_action else 0
    log.info("%s; trying again in %.0f s (attempt %d of %d)", error, seconds, state.attempt_number, attempts)


def address(gateway: str, call: Call[Any]) -> str:
    """The full address of a call. Adobe gives that of a next page relative to the Flow Service; absolute ones work too.

    Of an absolute one only path and query are used: the token goes to the gateway by the gateway's own scheme.

    Raises:
        UnexpectedReply: an absolute one names another host, which must not see our token.
    """
    base = gateway.rstrip("/")
    if "://" in call.path.partition("?")[0]:
        try:
            ours, next_page = urlsplit(base), urlsplit(call.path)
            same = next_page.hostname == ours.hostname and next_page.port in (None, ours.port or _PORTS[ours.scheme])
        except ValueError:
            same = False
        if not same:
            raise UnexpectedReply("GET next page", message="its address names another host than the gateway")
        return f"{ours.scheme}://{ours.netloc}{next_page.path}" + (f"?{next_page.query}" if next_page.query else "")
    if call.path.startswith("/data/"):
        return base + call.path
    return f"{base}{FLOW_SERVICE}/{call.path.lstrip('/')}"


def request_failure(call: Call[Any], error: httpx.RequestError) -> ReplyError:
    """A failure below HTTP. httpx's own words are shown except where they quote a header, which may be the token."""
    words = "" if isinstance(error, httpx.LocalProtocolError) else f": {error}" if str(error) else ""
    failure = PlatformUnavailable if isinstance(error, _NEVER_LEFT) else OutcomeUnknown
    return failure(str(call), message=f"no reply ({type(error).__name__}{words})")


class Session(_Common[httpx.Client]):
    """Runs procedures on a worker. `clock` counts seconds, `sleep` spends them.

    `on_token` hears of each new token before it is used, so that logs can mask it.

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
        on_token: Callable[[str], object] = lambda _token: None,
    ) -> None:
        super().__init__(settings, httpx.Client(transport=transport, **_client_options(settings)), clock)
        self._sleep = sleep
        self._on_token = on_token

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def run(self, procedure: Procedure[T] | Call[T]) -> T:
        """Perform a procedure and return its result."""
        return self._drive(iter(procedure))

    def _drive(self, steps: Generator[Any, Any, T]) -> T:
        with closing(steps):
            go_on = functools.partial(next, steps)
            while True:
                try:
                    step = go_on()
                except StopIteration as end:
                    result: T = end.value
                    return result
                try:
                    go_on = functools.partial(steps.send, self._perform(step))
                except Exception as error:
                    go_on = functools.partial(steps.throw, error)

    def _perform(self, step: Effect | httpx.Request | _Locked | Token) -> Any:
        match step:
            case httpx.Request():
                return self._client.send(step)
            case Token():
                return self._on_token(step.value)
            case _Locked():
                with self._token_cache.lock:
                    return self._drive(step.steps)
            case Sleep():
                return self._sleep(step.seconds)
            case ServerTime():
                return self._now_ms()
            case Gather():
                with ThreadPoolExecutor(len(step.procedures)) as pool:
                    futures = [pool.submit(self.run, procedure) for procedure in step.procedures]
                return _results([future.exception() or future.result() for future in futures])
            case call:
                return Retrying(sleep=self._sleep, **self._retry_options(call))(self._send, call)

    def _send(self, call: Call[T]) -> T:
        return self._drive(self._attempt(call))


class AsyncSession(_Common[httpx.AsyncClient]):
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
        super().__init__(settings, httpx.AsyncClient(transport=transport, **_client_options(settings)), clock)
        self._sleep = sleep
        self._on_token = on_token
        self._in_flight = asyncio.Semaphore(IN_FLIGHT)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def run(self, procedure: Procedure[T] | Call[T]) -> T:
        """Perform a procedure and return its result."""
        return await self._drive(iter(procedure))

    async def _drive(self, steps: Generator[Any, Any, T]) -> T:
        with closing(steps):
            go_on = functools.partial(next, steps)
            while True:
                try:
                    step = go_on()
                except StopIteration as end:
                    result: T = end.value
                    return result
                try:
                    go_on = functools.partial(steps.send, await self._perform(step))
                except Exception as error:
                    go_on = functools.partial(steps.throw, error)

    async def _perform(self, step: Effect | httpx.Request | _Locked | Token) -> Any:
        match step:
            case httpx.Request():
                async with self._in_flight:
                    return await self._client.send(step)
            case Token():
                return await self._on_token(step.value) if self._on_token else None
            case _Locked():
                async with self._token_cache.loop_lock():
                    return await self._drive(step.steps)
            case Sleep():
                return await self._sleep(step.seconds)
            case ServerTime():
                return self._now_ms()
            case Gather():
                runs = (self.run(procedure) for procedure in step.procedures)
                return _results(await asyncio.gather(*runs, return_exceptions=True))
            case call:
                return await AsyncRetrying(sleep=self._sleep, **self._retry_options(call))(self._send, call)

    async def _send(self, call: Call[T]) -> T:
        return await self._drive(self._attempt(call))


def _results(outcomes: list[Any]) -> list[Any]:
    """What ran side by side, or the failure that says most: a bug first, then a refusal, then an outage."""
    errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    if errors:
        raise next((error for error in errors if not isinstance(error, AepError)), first_of(errors))
    return outcomes
