"""A server of scripted replies, for what the emulator would never say; it records what it was asked."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, cast

import httpx

from tests.conftest import Runner

Reply = httpx.Response | Exception | Callable[[httpx.Request], httpx.Response]


def ok(body: Any = None, status: int = 200, **headers: str) -> httpx.Response:
    """A reply of JSON; underscores in a header's name become hyphens."""
    return raw(json.dumps(body), status, **headers)


def raw(content: str | bytes = b"", status: int = 200, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    body = httpx.ByteStream(content.encode() if isinstance(content, str) else content)
    return httpx.Response(status, headers=named, stream=body)


class Canned:
    """Answers the requests to IMS and all others by two lists of replies; the last reply of a list is for ever."""

    def __init__(self, *replies: Reply, tokens: tuple[Reply, ...] = ()) -> None:
        self._replies = list(replies)
        self._token_replies = list(tokens)
        self.requests: list[httpx.Request] = []
        self.token_requests: list[httpx.Request] = []

    def respond(self, request: httpx.Request) -> httpx.Response:
        request.read()
        if "/ims/" in request.url.path:
            self.token_requests.append(request)
            if not self._token_replies:
                return ok({"access_token": f"token-{len(self.token_requests)}", "expires_in": 86399})
            return _give(self._token_replies, request)
        self.requests.append(request)
        return _give(self._replies, request)


def _give(replies: list[Reply], request: httpx.Request) -> httpx.Response:
    reply = replies[0] if len(replies) == 1 else replies.pop(0)
    if isinstance(reply, Exception):
        raise reply
    given = reply if isinstance(reply, httpx.Response) else reply(request)
    # A response can be read once, and this one may be given often.
    return httpx.Response(given.status_code, headers=given.headers, stream=given.stream)


def answers(run: Runner, *replies: Reply, tokens: tuple[Reply, ...] = ()) -> Canned:
    """Put the scripted server in the place of the emulated Adobe."""
    canned = Canned(*replies, tokens=tokens)
    run.platform = cast(Any, canned)
    return canned
