"""An emulator in a process of its own, and lines to it that break: at one chosen request, or by chance."""

from __future__ import annotations

import random
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

import httpx

Trouble = Literal[
    "none", "hang before", "hang after", "reset before", "reply lost", "reply cut", "503 before", "503 after"
]
BY_CHANCE: tuple[Trouble, ...] = ("reset before", "reply lost", "reply cut", "503 before", "503 after")


class FaultyLine:
    """Hands HTTP requests on to `target`; `choose` says for each, by its number from 0 on, what goes wrong."""

    def __init__(self, target: str, choose: Callable[[int], Trouble]) -> None:
        self.choose = choose
        self.hanging = threading.Event()
        self.released = threading.Event()
        self.count = 0
        self.struck = 0
        self._lock = threading.Lock()
        self._http = httpx.Client(base_url=target, timeout=30)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> FaultyLine:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._http.close()

    def _next(self) -> Trouble:
        with self._lock:
            trouble = self.choose(self.count)
            self.count += 1
            self.struck += trouble != "none"
            return trouble

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        line = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                trouble = line._next()
                if not trouble.endswith("before"):
                    headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
                    reply = line._http.request(self.command, self.path, headers=headers, content=body)
                if trouble.startswith("503"):
                    self._send(503, b"", {})
                elif trouble in ("none", "reply cut"):
                    names = ("content-type", "date", "x-request-id", "retry-after")
                    kept = {name: reply.headers[name] for name in names if name in reply.headers}
                    self._send(reply.status_code, reply.content, kept, cut=trouble == "reply cut")
                else:
                    self._break(hang=trouble.startswith("hang"))

            def _send(self, status: int, content: bytes, headers: dict[str, str], *, cut: bool = False) -> None:
                self.send_response_only(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if status != 204:
                    self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[: len(content) // 2] if cut else content)
                if cut:
                    self._break(hang=False)

            def _break(self, *, hang: bool) -> None:
                if hang:
                    line.hanging.set()
                    line.released.wait(60)
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)

            def log_message(self, *_: Any) -> None: ...

            do_GET = do_POST = do_PATCH = do_DELETE = _answer  # noqa: N815

        return Handler


def by_chance(seed: int, share: float) -> Callable[[int], Trouble]:
    """Trouble at that share of requests, of every kind."""
    chance = random.Random(seed)
    return lambda _: chance.choice(BY_CHANCE) if chance.random() < share else "none"


@contextmanager
def served_emulator(folder: Path, *arguments: str) -> Iterator[str]:
    """`python -m airflow_provider_aep.emulator` on a free port; gives its address."""
    command = [sys.executable, "-m", "airflow_provider_aep.emulator", "--port", "0", "--data", str(folder), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            yield process.stdout.readline().split()[-1]
        finally:
            process.terminate()
