"""A line to an emulator that records what is sent, may rewrite replies, and breaks at a chosen request or by chance."""

from __future__ import annotations

import json
import random
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

import httpx

BASE = "/data/foundation/flowservice"
Trouble = Literal[
    "none", "hang before", "hang after", "reset before", "reply lost", "reply cut", "503 before", "503 after"
]
BY_CHANCE: tuple[Trouble, ...] = ("reset before", "reply lost", "reply cut", "503 before", "503 after")


@dataclass(frozen=True)
class Sent:
    """A request as it arrived."""

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def __str__(self) -> str:
        return f"{self.method} {self.path.removeprefix(BASE)}"


class Line:
    """Hands HTTP requests on to `target`; `choose` says for each, by its number from 0 on, what goes wrong."""

    def __init__(self, target: str, choose: Callable[[int], Trouble] = lambda _: "none") -> None:
        self.choose = choose
        self.rewrite: Callable[[bytes], bytes] = lambda text: text
        self.sent: list[Sent] = []
        self.hanging = threading.Event()
        self.released = threading.Event()
        self.struck = 0
        self._count = 0
        self._lock = threading.Lock()
        self._client = httpx.Client(base_url=target, timeout=120)
        self._server = _Server(self)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._client.close()

    def _take(self, sent: Sent) -> Trouble:
        with self._lock:
            self.sent.append(sent)
            trouble = self.choose(self._count)
            self._count += 1
            self.struck += trouble != "none"
            return trouble


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, line: Line) -> None:
        self.line = line
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    """One connection to a line."""

    server: _Server

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        address = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        trouble = self.server.line._take(Sent(self.command, address.path, parse_qs(address.query), headers, body))
        if not trouble.endswith("before"):
            passed = {name: value for name, value in headers.items() if name not in ("host", "connection")}
            try:
                reply = self.server.line._client.request(self.command, self.path, content=body, headers=passed)
            except httpx.TransportError:
                self.close_connection = True
                return
        if trouble.startswith("503"):
            self._send(503, b"", {})
        elif trouble in ("none", "reply cut"):
            self._send(
                reply.status_code, self.server.line.rewrite(reply.content), reply.headers, cut=trouble == "reply cut"
            )
        else:
            self._break(hang=trouble.startswith("hang"))

    def _send(self, status: int, content: bytes, headers: Mapping[str, str], *, cut: bool = False) -> None:
        self.send_response_only(status)
        for name, value in headers.items():  # its date, too: the emulator's time is Adobe's
            if name not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if cut else content)
        if cut:
            self._break(hang=False)

    def _break(self, *, hang: bool) -> None:
        if hang:
            self.server.line.hanging.set()
            self.server.line.released.wait(60)
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_: Any) -> None: ...

    do_GET = do_POST = do_PATCH = do_DELETE = _answer  # noqa: N815 - http.server calls them so


def by_chance(seed: int, share: float) -> Callable[[int], Trouble]:
    """Trouble at that share of requests, of every kind."""
    chance = random.Random(seed)
    return lambda _: chance.choice(BY_CHANCE) if chance.random() < share else "none"
