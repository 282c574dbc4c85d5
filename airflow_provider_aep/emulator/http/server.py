"""The emulator on a port of this machine: HTTP in, HTTP out, and connections that break when a fault says so."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import httpx
import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from airflow_provider_aep.emulator.platform import Outgoing, Platform

Message = Mapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_TICK_SECONDS = 0.05
_SAVE_SECONDS = 0.5
_PROTOCOL: Any = AutoHTTPProtocol


class Application:
    """The platform as an ASGI application; requests that wait for their latency do so side by side."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self.lines: dict[tuple[str, int], asyncio.Transport] = {}
        """The open connections by the caller's address: ASGI itself has no way to cut one."""

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        query = scope["query_string"].decode("latin-1")
        target = scope["raw_path"].decode("latin-1") + (f"?{query}" if query else "")
        address = httpx.URL("http://{}:{}".format(*scope["server"]))
        if host := dict(scope["headers"]).get(b"host"):
            # The addresses in our replies carry the caller's name for us, if it is a valid one.
            with contextlib.suppress(httpx.InvalidURL):
                address = httpx.URL(f"http://{host.decode('latin-1')}")
        url = address.copy_with(raw_path=b"/" + target.encode("ascii", "replace").removeprefix(b"/"))
        request = httpx.Request(scope["method"], url, headers=scope["headers"], content=body)
        # In a thread, because a request may have to write the files of a run that has just ended.
        outgoing = await asyncio.to_thread(self._platform.handle, request)
        if outgoing.delay:
            await asyncio.sleep(outgoing.delay)
        await self._deliver(outgoing, scope, receive, send)

    async def _deliver(self, outgoing: Outgoing, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        fault, response = outgoing.fault, outgoing.response
        if fault is not None and fault.kind == "hang":
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(_gone(receive), fault.seconds)
        cut = fault is not None
        if response is not None and (not cut or (fault is not None and fault.kind == "truncate")):
            content = response.content
            headers = [
                (name.lower(), value) for name, value in response.headers.raw if name.lower() != b"content-length"
            ]
            if response.status_code not in (204, 304):
                headers.append((b"content-length", b"%d" % len(content)))
            await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
            sent = content[: len(content) // 2] if cut else content
            await send({"type": "http.response.body", "body": sent, "more_body": cut})
        if cut:
            await asyncio.sleep(0)  # lets the half that was written leave
            line = self.lines.get(tuple(scope["client"]))
            if line is not None and fault is not None and fault.kind == "truncate":
                line.close()  # flushes first
            elif line is not None:
                line.abort()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _protocol(lines: dict[tuple[str, int], asyncio.Transport]) -> type[asyncio.Protocol]:
    class Protocol(_PROTOCOL):  # type: ignore[misc]  # which of uvicorn's two is decided when it is imported
        """Uvicorn's own protocol, that also remembers its line by the address that ASGI gives as `client`."""

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            self._caller = tuple(transport.get_extra_info("peername")[:2])
            lines[self._caller] = transport

        def connection_lost(self, exc: Exception | None) -> None:
            lines.pop(self._caller, None)
            super().connection_lost(exc)

    return Protocol


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 picks a free one.

    Raises:
        OSError: the address is not available.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named: asyncio switches Nagle's delay (40 ms for each answer) off only where it is.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except OSError:
        listener.close()
        raise
    return listener


async def serve(platform: Platform, listener: socket.socket, ready: Callable[[], None]) -> None:
    """Serve until SIGTERM or SIGINT; `ready` is called once requests are taken. The state is saved at the end."""
    application = Application(platform)
    config = uvicorn.Config(
        application,
        http=_protocol(application.lines),
        ws="none",
        lifespan="off",
        log_level="critical",
        access_log=False,
        proxy_headers=False,  # the caller's address is the key of its line
        server_header=False,
        date_header=False,  # the platform's replies bear the emulated time
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    # Uvicorn raises a caught signal again when it has ended, which would kill us before the state is saved.
    server.capture_signals = contextlib.nullcontext  # type: ignore[assignment,method-assign]

    def stop(*_: object) -> None:
        server.should_exit = True

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    ticking = asyncio.create_task(_tick(platform, server, ready))
    ticking.add_done_callback(stop)  # without its clock the emulator would only look alive
    try:
        await server.serve(sockets=[listener])
    finally:
        ticking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await ticking
        platform.save()


async def _tick(platform: Platform, server: uvicorn.Server, ready: Callable[[], None]) -> None:
    """Start and end runs, and save the state, while no request comes."""
    while not server.started:
        await asyncio.sleep(0.01)
    ready()
    saved = time.monotonic()
    while True:
        await asyncio.sleep(_TICK_SECONDS)
        due = platform.timers.next_due()
        if due is not None and due <= platform.clock.now():
            await asyncio.to_thread(platform.tick)
        if time.monotonic() - saved > _SAVE_SECONDS:
            await asyncio.to_thread(platform.save_if_changed)
            saved = time.monotonic()
