"""The access token: one for each credential and process, renewed before it ends.

Source: https://developer.adobe.com/developer-console/docs/guides/authentication/ServerToServerAuthentication/IMS
"""

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
#: How long a token is used whose life is not stated: RFC 6749, 5.1, only recommends `expires_in`. One that ends earlier
#: is renewed on its 401. Source: https://www.rfc-editor.org/rfc/rfc6749#section-5.1
DEFAULT_LIFE_SECONDS = 3600.0


class Token(NamedTuple):
    """An access token, and from when on, by the session's clock, a new one is requested."""

    value: str
    renew_at: float

    def __repr__(self) -> str:
        return f"Token(value='***', renew_at={self.renew_at})"


def token_form(settings: Settings) -> dict[str, str]:
    """The form of `POST /ims/token/v3`; secrets go into the body, never into the query."""
    return {
        "grant_type": "client_credentials",
        "client_id": settings.client_id,
        "client_secret": settings.client_secret,
        "scope": ",".join(scope.strip() for scope in settings.scopes.split(",")),
    }


def read_token(reply: Mapping[str, Any], *, now: float) -> Token:
    """Read `{"access_token": str, "expires_in": 86399}`; more than 10^6 means milliseconds, as in the JWT exchange.

    The token is renewed five minutes before its end, a short-lived one after nine tenths of its life.

    Raises:
        ValueError: no token, or one that no header can hold; the message does not show it.
    """
    value = reply["access_token"]
    if not isinstance(value, str) or not re.fullmatch(r"[!-~]+", value):
        raise ValueError("access_token is not a text of printable ASCII without blanks")
    stated = reply.get("expires_in")
    seconds = DEFAULT_LIFE_SECONDS if stated is None else float(stated)
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
        """The token, or None if it is about to end or is the one that Adobe has just refused."""
        token = self._token
        if token is None or now >= token.renew_at or token.value == instead_of:
            return None
        return token.value

    def landed(self, flights: int, *, now: float, instead_of: str | None) -> str | None:
        """The token of a request that ended while this one waited for the lock; None if there was none.

        `flights` is their number before the wait.

        Raises:
            ReplyError: that request failed; four calls side by side then fail by one request, not by four.
        """
        known = self.take(now=now, instead_of=instead_of)
        if known is None and self._failure and self.flights != flights:
            raise self._failure.with_traceback(None)
        return known

    @contextmanager
    def flight(self) -> Iterator[None]:
        """Around a request for a token: remember how it ended."""
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
        """Make the next call request a new token, also in sessions that are open."""
        self._token = None

    def loop_lock(self) -> asyncio.Lock:
        """The lock of the running event loop; two loops of one process may each request a token."""
        return self._loop_locks.setdefault(asyncio.get_running_loop(), asyncio.Lock())


#: One for each credential, in this process.
TOKEN_CACHES: dict[tuple[str, ...], TokenCache] = {}


def token_cache(settings: Settings) -> TokenCache:
    """The cache of this credential's token.

    The secret is part of the key: a connection with a wrong one must not work by a token that another has brought.
    """
    return TOKEN_CACHES.setdefault((*settings.who, settings.client_secret), TokenCache())
