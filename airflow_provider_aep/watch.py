"""One poll for every wait of this process that shares an organisation, a sandbox and a credential.

Airflow's shared streams (3.3) would do this for event triggers, but exist on no version before 3.3 and hand a stream to
each subscriber to filter, which costs every wait a wake-up for every poll. This watch serves deferred tasks and event
triggers alike, on every supported version, and wakes only the waits concerned.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from airflow_provider_aep.api.entities import DataflowId, FlowRun, FlowRunId
from airflow_provider_aep.api.errors import AccessDenied, AepError, PlatformUnavailable, RequestRefused
from airflow_provider_aep.api.polling import Awaited, Memory, poll

if TYPE_CHECKING:
    from airflow_provider_aep.api.session import AsyncSession
    from airflow_provider_aep.api.settings import Settings
    from airflow_provider_aep.hooks import AepHook

log = logging.getLogger(__name__)

#: Waits that are loaded together, as after a restart, are asked for together.
GATHER_SECONDS = 0.5
#: Refusals in a row that end the waits: one alone may be a gateway's whim.
MOST_REFUSALS = 3
#: Waits woken before other tasks of the loop have their turn.
WAKE_AT_ONCE = 200
#: A connection is looked up again for a wait that joins so much later; it may have been edited.
SETTINGS_SECONDS = 900
_GROWTH = 0.1  # a wait that has lasted an hour is looked at every six minutes, if its ceiling allows
_JITTER = 0.05

_memories: dict[tuple[str, str, str, str], Memory] = {}


class Wait:
    """One trigger's place in a watch."""

    __slots__ = ("_changed", "awaited", "ceiling_seconds", "error", "floor_seconds", "joined_at")

    def __init__(self, awaited: Awaited, *, floor_seconds: float, ceiling_seconds: float) -> None:
        self.awaited = awaited
        self.floor_seconds = min(floor_seconds, ceiling_seconds)
        self.ceiling_seconds = ceiling_seconds
        self.joined_at = time.monotonic()
        self.error: BaseException | None = None
        self._changed = asyncio.Event()

    async def change(self) -> FlowRun:
        """The run as it is now, once it is another one, or in another state, than at the last call."""
        await self._changed.wait()
        self._changed.clear()
        if self.error:
            raise self.error
        assert self.awaited.run
        return self.awaited.run

    def tell(self) -> None:
        self._changed.set()

    def fail(self, error: BaseException) -> None:
        self.error = error
        self._changed.set()

    @property
    def is_open(self) -> bool:
        return self.error is None and not (self.awaited.run and self.awaited.run.has_ended)


class Watch:
    """Polls once for all its waits, from the first that joins until the last has left."""

    def __init__(self, open_session: Callable[[bool], Awaitable[AsyncSession]], memory: Memory) -> None:
        self.waits: dict[Wait, None] = {}
        self._open_session = open_session
        self._memory = memory
        self._task: asyncio.Task[None] | None = None
        self._failures = 0
        self._refusals = 0

    def join(self, wait: Wait) -> None:
        self.waits[wait] = None
        if self._task is None:
            # A context of its own: what is logged here belongs to no single task's log.
            self._task = asyncio.get_running_loop().create_task(
                self._keep_polling(), name="aep-watch", context=contextvars.Context()
            )

    def leave(self, wait: Wait) -> None:
        self.waits.pop(wait, None)
        if not self.waits and self._task is not None:
            self._task.cancel()
            self._task = None

    async def _keep_polling(self) -> None:
        try:
            await asyncio.sleep(GATHER_SECONDS)
            denied = False
            while True:
                # After a denial the connection is read again: it may have been given another secret meanwhile.
                async with await self._open_session(denied) as session:
                    denied = False
                    while not denied:
                        seconds, denied = await self._poll(session)
                        await asyncio.sleep(seconds)
        except Exception as error:  # every wait shall show it, none shall hang
            for wait in list(self.waits):
                wait.fail(error)

    async def _poll(self, session: AsyncSession) -> tuple[float, bool]:
        """Poll once and wake whom it concerns. Returns the seconds to the next poll and whether Adobe denies access."""
        waits = [wait for wait in self.waits if wait.is_open]
        before = [(wait, wait.awaited.run) for wait in waits]
        asked, denied = 0.0, False
        try:
            await session.run(poll([wait.awaited for wait in waits], self._memory))
        except RequestRefused as refusal:
            denied = isinstance(refusal, AccessDenied)
            self._refused(refusal, waits)
        except PlatformUnavailable as trouble:
            asked = min(trouble.retry_after_seconds or 0, session.settings.max_retry_after_seconds)
            self._failed(trouble)
        else:
            if self._failures:
                log.info("Adobe answers again; %d waits go on", len(waits))
            self._failures = self._refusals = 0
        await self._wake(before)
        return max(self._interval(waits), asked), denied

    async def _wake(self, before: Sequence[tuple[Wait, FlowRun | None]]) -> None:
        woken = 0
        for wait, run in before:
            now = wait.awaited.run
            if now is None or (
                run and (run.id, run.raw_status, run.has_ended) == (now.id, now.raw_status, now.has_ended)
            ):
                continue
            wait.tell()
            woken += 1
            if woken % WAKE_AT_ONCE == 0:
                await asyncio.sleep(0)

    def _failed(self, trouble: AepError) -> None:
        self._failures += 1
        if self._failures == 1:
            log.warning("%s; %d waits go on and ask again", trouble, len(self.waits))

    def _refused(self, refusal: RequestRefused, waits: Sequence[Wait]) -> None:
        self._refusals += 1
        if self._refusals < MOST_REFUSALS:
            self._failed(refusal)
            return
        for wait in waits:
            wait.fail(refusal)

    def _interval(self, waits: Sequence[Wait]) -> float:
        """Seconds to the next poll: the shortest that any wait calls for; all are then asked for together."""
        now, now_ms = time.monotonic(), time.time() * 1000
        seconds = min((self._patience(wait, now, now_ms) for wait in waits if wait.is_open), default=GATHER_SECONDS)
        if self._failures:
            seconds = min(seconds, 2.0 ** min(self._failures, 10))
        return seconds * random.uniform(1 - _JITTER, 1)  # noqa: S311 - spreads the polls of several processes

    def _patience(self, wait: Wait, now: float, now_ms: float) -> float:
        """A tenth of the time waited so far, or until the run is as old as the last one of its dataflow became."""
        seconds = (now - wait.joined_at) * _GROWTH
        run = wait.awaited.run
        if run:
            seconds = max(seconds, (now_ms - run.created_ms) / 1000 * _GROWTH)
            usual_ms = self._memory.durations_ms.get(run.dataflow_id, 0)
            seconds = max(seconds, (run.created_ms + usual_ms - now_ms) / 1000)
        else:
            seconds = max(seconds, (wait.awaited.since_ms - now_ms) / 1000)
        return min(max(seconds, wait.floor_seconds), wait.ceiling_seconds)


class _Loop:
    """The watches of one event loop, and the settings that each Airflow connection has given."""

    def __init__(self) -> None:
        self.watches: dict[tuple[str, str, str, str], Watch] = {}
        self._settings: dict[tuple[str, str | None], tuple[float, asyncio.Task[Settings]]] = {}

    async def settings_of(self, hook: AepHook, *, anew: bool = False) -> Settings:
        """What the connection says: one look-up for all waits, and another when it may have been edited."""
        key = (hook.aep_conn_id, hook.sandbox_name)
        read_at, task = self._settings.get(key, (0.0, None))
        if task is None or anew or time.monotonic() - read_at > SETTINGS_SECONDS:
            task = asyncio.get_running_loop().create_task(hook.asettings())
            self._settings[key] = (time.monotonic(), task)
        try:
            return await asyncio.shield(task)
        except Exception:
            self._settings.pop(key, None)
            raise

    def watch_of(self, settings: Settings, hook: AepHook) -> Watch:
        watch = self.watches.get(settings.where)
        if watch is None:
            memory = _memories.setdefault(settings.where, Memory())
            watch = self.watches[settings.where] = Watch(lambda anew: self._open(hook, anew), memory)
        return watch

    async def _open(self, hook: AepHook, anew: bool) -> AsyncSession:
        """A session that sends each request once: a poll that fails is repeated as a whole, and later."""
        settings = await self.settings_of(hook, anew=anew)
        return hook.open_async_session(replace(settings, attempts=1))

    def leave(self, settings: Settings, watch: Watch, wait: Wait) -> None:
        watch.leave(wait)
        if not watch.waits and self.watches.get(settings.where) is watch:
            del self.watches[settings.where]
        if not self.watches:
            self._settings.clear()


_loops: WeakKeyDictionary[asyncio.AbstractEventLoop, _Loop] = WeakKeyDictionary()


@asynccontextmanager
async def joined(
    hook: AepHook,
    *,
    dataflow_id: DataflowId,
    run_id: FlowRunId | None,
    since_ms: int,
    floor_seconds: float,
    ceiling_seconds: float,
) -> AsyncIterator[Wait]:
    """A wait in the watch of the hook's organisation, sandbox and credential; left when the block is.

    Raises:
        AepError: from `Wait.change`: Adobe refuses the poll again and again.
    """
    here = _loops.setdefault(asyncio.get_running_loop(), _Loop())
    settings = await here.settings_of(hook)
    wait = Wait(
        Awaited(dataflow_id, since_ms, run_id),
        floor_seconds=floor_seconds,
        ceiling_seconds=ceiling_seconds,
    )
    watch = here.watch_of(settings, hook)
    watch.join(wait)
    try:
        yield wait
    finally:
        here.leave(settings, watch, wait)
