"""The access token: asked for once for each credential and process, renewed before it ends."""

from __future__ import annotations

import asyncio
import math
import re
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

from airflow_provider_aep.errors import ReplyError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from airflow_provider_aep.api.settings import Settings

TOKEN_PATH = "/ims/token/v3"  # noqa: S105 - an address
LEAD_SECONDS = 300.0
UNTOLD_SECONDS = 3600.0  # RFC 6749, 5.1 only recommends `expires_in`; a token that ends earlier is renewed on its 401


class Token(NamedTuple):
    """An access token and the moment, by the session's clock, from which a new one is asked for."""

    value: str
    renew_at: float

    def __repr__(self) -> str:
        return f"Token(value='***', renew_at={self.renew_at})"


def token_form(settings: Settings) -> dict[str, str]:
    """The form of `POST /ims/token/v3`; secrets stand in the body, never in the query. Source: Adobe IMS guide."""
    return {
        "grant_type": "client_credentials",
        "client_id": settings.client_id,
        "client_secret": settings.client_secret,
        "scope": ",".join(scope.strip() for scope in settings.scopes.split(",")),
    }


def read_token(reply: Mapping[str, Any], *, now: float) -> Token:
    """`{"access_token": str, "expires_in": 86399}`; more than 10^6 means milliseconds, as the older JWT exchange said.

    Renewed five minutes before the end, or after nine tenths of a short life; after an hour where no life is told.

    Raises:
        ValueError: there is no token, or one that no header can hold; the message does not show it.
    """
    value = reply["access_token"]
    if not isinstance(value, str) or not re.fullmatch(r"[!-~]+", value):
        raise ValueError("access_token is not a text of printable ASCII without blanks")
    told = reply.get("expires_in")
    seconds = UNTOLD_SECONDS if told is None else float(told)
    if not math.isfinite(seconds):
        raise ValueError("expires_in is not a finite number")
    if seconds > 1e6:
        seconds /= 1000
    return Token(value, now + seconds - min(LEAD_SECONDS, seconds / 10))


class TokenCache:
    """The token of one credential, shared by every session of the process, with one renewal at a time."""

    def __init__(self) -> None:
        self._token: Token | None = None
        self._failure: ReplyError | None = None
        #: How many requests for a token have ended.
        self.flights = 0
        self.lock = threading.Lock()
        self._loop_locks: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()

    def take(self, *, now: float, instead_of: str | None = None) -> str | None:
        """The token, unless it is about to end or is the one that Adobe has just refused."""
        token = self._token
        if token is None or now >= token.renew_at or token.value == instead_of:
            return None
        return token.value

    def landed(self, flights: int, *, now: float, instead_of: str | None) -> str | None:
        """What a request has brought that ended while this one waited for the lock; `flights` is from before.

        Raises:
            ReplyError: it has failed; four calls side by side ask once, not one after the other.
        """
        known = self.take(now=now, instead_of=instead_of)
        if known is None and self._failure and self.flights != flights:
            raise self._failure.with_traceback(None)
        return known

    @contextmanager
    def flight(self) -> Iterator[None]:
        """A request for a token is under way."""
        self._failure = None
        try:
            yield
        except ReplyError as failure:
            self._failure = failure
            raise
        finally:
            self.flights += 1

    def put(self, token: Token) -> None:
        self._token = token

    def forget(self) -> None:
        """Let the next request ask for a new token, in sessions that are open already too."""
        self._token = None

    def loop_lock(self) -> asyncio.Lock:
        """The lock of the running event loop; two loops of one process may each ask once."""
        return self._loop_locks.setdefault(asyncio.get_running_loop(), asyncio.Lock())


#: One for each credential, in this process.
TOKEN_CACHES: dict[tuple[str, ...], TokenCache] = {}


def token_cache(settings: Settings) -> TokenCache:
    """The cache of this credential's token.

    The secret is part of the key: a connection with a wrong one must not work by a token that another has brought.
    """
    return TOKEN_CACHES.setdefault((*settings.who, settings.client_secret), TokenCache())
