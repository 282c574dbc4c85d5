"""One poll for every wait of this process that shares an organisation, a sandbox and a credential.

Airflow's shared streams do not fit. They exist from 3.3 on, and only for `BaseEventTrigger`. A stream is opened with
the arguments of one trigger and never learns who else listens, so it can neither ask for known runs nor adapt its
interval; each of its events wakes every listener, and its first failure ends them all. Around them the same watch would
be needed, and another way on 3.1 and 3.2. This one serves deferred tasks and event triggers alike on every supported
version, and wakes only the waits concerned.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

from airflow_provider_aep.api.calls import Now, Procedure
from airflow_provider_aep.api.entities import DataflowId, FlowRun, FlowRunId
from airflow_provider_aep.api.errors import PlatformUnavailable, ReplyError
from airflow_provider_aep.api.polling import poll
from airflow_provider_aep.api.watchlist import Awaited, Learned, Watchlist

if TYPE_CHECKING:
    from airflow_provider_aep.api.session import AsyncSession
    from airflow_provider_aep.api.settings import Settings
    from airflow_provider_aep.hooks import AepHook

log = logging.getLogger(__name__)

Place = tuple[str, str, str, str]  # gateway, organisation, sandbox, client ID

#: Waits that are loaded together, as after a restart, are asked for together.
GATHER_SECONDS = 0.5
#: Refusals in a row that end the waits: one alone may be a gateway's whim.
MOST_REFUSALS = 3
#: Waits woken before other tasks of the loop have their turn.
WAKE_AT_ONCE = 20
#: Waits looked at before other tasks of the loop have their turn.
LOOK_AT_ONCE = 1_000
#: From one refusal to the next question, and from poll to poll while nothing is left to ask for.
IDLE_SECONDS = 60.0
#: A connection is looked up again for a wait that joins so much later; it may have been edited.
SETTINGS_SECONDS = 900
_GROWTH = 0.1  # a wait that has lasted an hour is looked at every six minutes, if its ceiling allows
_JITTER = 0.05


class Wait(Awaited):
    """One trigger's place in a watch."""

    __slots__ = ("_has_changed", "_waiter", "ceiling_seconds", "floor_seconds", "joined_at")

    def __init__(
        self,
        dataflow_id: DataflowId,
        since_ms: int,
        run_id: FlowRunId | None,
        *,
        floor_seconds: float,
        ceiling_seconds: float,
        joined_at: float,
    ) -> None:
        super().__init__(dataflow_id, since_ms, run_id)
        self.floor_seconds = min(floor_seconds, ceiling_seconds)
        self.ceiling_seconds = ceiling_seconds
        self.joined_at = joined_at  # seconds, by the loop's clock
        self._has_changed = False
        self._waiter: asyncio.Future[None] | None = None

    async def change(self) -> FlowRun:
        """The run as it is now, once it is another one, or in another state, than at the last call.

        Raises:
            ReplyError: Adobe refuses the poll again and again, or what this wait asks for.
        """
        while not self._has_changed:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        self._has_changed = False
        if self.error and not (self.run and self.run.has_ended):
            raise self.error.with_traceback(None)  # one error may be raised in many tasks
        assert self.run
        return self.run

    def tell(self) -> None:
        self._has_changed = True
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)

    def patience_seconds(self, now: float, now_ms: float, usual_ms: int) -> float:
        """How long this wait can do without a poll: a tenth of the time that has passed, between floor and ceiling.

        Not beyond the moment from which its run can exist, or at which a run as old as the last one of its dataflow
        became is to be expected; around that moment, no longer than the floor.
        """
        passed = now - self.joined_at
        if self.run is None:
            seconds = max(passed * _GROWTH, (self.since_ms - now_ms) / 1000)
        else:
            age = (now_ms - self.run.created_ms) / 1000
            passed = max(passed, age)
            seconds = passed * _GROWTH
            left = usual_ms / 1000 - age
            if usual_ms and left > -usual_ms / 1000 * _GROWTH:
                seconds = min(seconds, left)
        return min(max(seconds, self.floor_seconds), self.ceiling_seconds)


class Watch:
    """Polls once for all its waits, from the first that joins until the last has left."""

    def __init__(self, place: Place, open_session: Callable[[bool], Awaitable[AsyncSession]], learned: Learned) -> None:
        self.waits: dict[Wait, None] = {}
        self._name = f"sandbox {place[2]} of {place[1]}"
        self._open_session = open_session
        self._watched = Watchlist(learned, self._changed)
        self._learned = learned
        self._loop = asyncio.get_running_loop()
        self._to_wake: dict[Wait, None] = {}
        self._sooner = asyncio.Event()
        self._polled_at = -math.inf
        self._next_at = math.inf  # a wait that joins may ask for an earlier poll ...
        self._not_before = -math.inf  # ... but not for one that Adobe does not want yet
        self._failures = 0
        self._refusals = 0
        # A context of its own: what is logged here belongs to no single task's log.
        self.task = self._loop.create_task(self._run(), name="aep-watch", context=contextvars.Context())

    def join(self, wait: Wait) -> None:
        self.waits[wait] = None
        self._watched.add(wait)
        at = max(self._polled_at + wait.floor_seconds, self._loop.time() + GATHER_SECONDS)
        if at < self._next_at:
            self._next_at = at
            self._sooner.set()

    def leave(self, wait: Wait) -> None:
        self.waits.pop(wait, None)
        self._to_wake.pop(wait, None)
        self._watched.remove(wait)

    def _changed(self, wait: Awaited) -> None:
        if wait in self.waits:
            assert isinstance(wait, Wait)
            if not self._to_wake:
                self._loop.call_soon(self._wake_some)
            self._to_wake[wait] = None

    def _wake_some(self) -> None:
        for wait in list(islice(self._to_wake, WAKE_AT_ONCE)):
            del self._to_wake[wait]
            wait.tell()
        if self._to_wake:
            self._loop.call_soon(self._wake_some)

    async def _run(self) -> None:
        try:
            await self._keep_polling()
        except asyncio.CancelledError:
            # By whoever: a wait that is still here must not hang.
            self._end(PlatformUnavailable("GET /runs", message="the watch was cancelled"))
            raise
        except Exception as error:
            log.exception("the watch of %s has failed; %d waits end", self._name, len(self.waits))
            self._end(error)

    def _end(self, error: BaseException) -> None:
        self._watched.fail([wait for wait in self.waits if wait.is_open], error)

    async def _keep_polling(self) -> None:
        await asyncio.sleep(GATHER_SECONDS * random.uniform(1, 2))  # noqa: S311 - spreads several processes
        is_refused = False
        while True:
            # After a refusal the connection is read again: it may have been given another secret meanwhile.
            async with await self._open_session(is_refused) as session:
                is_refused = False
                while not is_refused:
                    is_refused = await self._poll(session)
                    await self._pause()

    async def _poll(self, session: AsyncSession) -> bool:
        """Poll once, and settle when to do so again. Returns whether Adobe refuses."""
        self._polled_at = self._loop.time()
        trouble: ReplyError | None = None
        try:
            await session.run(poll(self._watched))
        except ReplyError as error:
            trouble = error
            self._failed(error)
        else:
            if self._failures:
                log.info("%s answers again; %d waits go on", self._name, len(self.waits))
            self._failures = self._refusals = 0
        self._next_at = math.inf
        seconds = await self._interval(await session.run(_adobe_time()))
        if trouble and trouble.retry_after_seconds:
            asked = min(trouble.retry_after_seconds, session.settings.max_retry_after_seconds)
            self._not_before = self._loop.time() + asked
        self._next_at = min(self._next_at, max(self._polled_at + seconds, self._loop.time() + GATHER_SECONDS))
        return trouble is not None and not isinstance(trouble, PlatformUnavailable)

    async def _pause(self) -> None:
        """Sleep until the next poll, which a wait that joins may bring forward."""
        while (until := max(self._next_at, self._not_before)) > self._loop.time():
            self._sooner.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(until):
                    await self._sooner.wait()

    def _failed(self, trouble: ReplyError) -> None:
        self._failures += 1
        if self._failures == 1:
            log.warning("%s: %s; %d waits go on and ask again", self._name, trouble, len(self.waits))
        if not isinstance(trouble, PlatformUnavailable):
            self._refusals += 1
            if self._refusals == MOST_REFUSALS:
                self._refusals = 0
                self._end(trouble)

    async def _interval(self, now_ms: float) -> float:
        """Seconds between two polls: the fewest that any wait calls for; all are then asked for together."""
        seconds = floor = math.inf
        for number, wait in enumerate(list(self.waits), start=1):
            if wait.is_open:
                usual_ms = self._learned.durations_ms.get(wait.dataflow_id, 0)
                seconds = min(seconds, wait.patience_seconds(self._polled_at, now_ms, usual_ms))
                floor = min(floor, wait.floor_seconds)
            if number % LOOK_AT_ONCE == 0:
                await asyncio.sleep(0)
        if self._refusals or seconds == math.inf:
            return min(seconds, IDLE_SECONDS)
        if self._failures:
            return min(seconds, 2.0 ** min(self._failures, 10))  # a float ends at 2.0**1024, an outage may not
        return max(seconds * random.uniform(1 - _JITTER, 1), floor)  # noqa: S311 - spreads several processes


def _adobe_time() -> Procedure[float]:
    now_ms: float = yield Now()
    return now_ms


class _Loop:
    """The watches of one event loop, and the settings that each Airflow connection has given."""

    def __init__(self) -> None:
        self.watches: dict[Place, Watch] = {}
        self._settings: dict[tuple[str, str | None], tuple[float, Settings]] = {}
        self._look_ups: dict[tuple[str, str | None], asyncio.Task[Settings]] = {}

    async def settings_of(self, hook: AepHook, *, anew: bool = False) -> Settings:
        """What the connection says: one look-up for all waits, and another when it may have been edited."""
        key = (hook.aep_conn_id, hook.sandbox_name)
        loop = asyncio.get_running_loop()
        read_at, settings = self._settings.get(key, (-math.inf, None))
        if settings and not anew and loop.time() - read_at < SETTINGS_SECONDS:
            return settings
        look_up = self._look_ups.get(key)
        if look_up is None:
            # A task of its own, so that a cancelled trigger does not take the others' look-up with it.
            look_up = self._look_ups[key] = loop.create_task(hook.asettings(), name="aep-connection")

            def keep(done: asyncio.Task[Settings]) -> None:
                del self._look_ups[key]
                if not done.cancelled() and done.exception() is None:
                    self._settings[key] = (loop.time(), done.result())

            look_up.add_done_callback(keep)
        return await asyncio.shield(look_up)

    def join(self, wait: Wait, settings: Settings, hook: AepHook) -> Watch:
        watch = self.watches.get(settings.where)
        if watch is None or watch.task.done():
            learned = _learned.setdefault(settings.where, Learned())
            watch = Watch(settings.where, lambda anew: self._open(settings, hook, anew), learned)
            self.watches[settings.where] = watch
        watch.join(wait)
        return watch

    async def _open(self, settings: Settings, hook: AepHook, anew: bool) -> AsyncSession:
        """A session that sends each request once: a poll that fails is repeated as a whole, and later."""
        if anew:
            try:
                now = await self.settings_of(hook, anew=True)
            except Exception as error:  # whatever keeps Airflow from telling; Adobe's own answer decides
                log.warning("Airflow connection %r cannot be read again: %s", hook.aep_conn_id, error)
            else:
                # Waits of another organisation, sandbox or client have a watch of their own.
                settings = now if now.where == settings.where else settings
        return hook.open_async_session(replace(settings, attempts=1))

    async def leave(self, wait: Wait, watch: Watch, settings: Settings) -> None:
        watch.leave(wait)
        if watch.waits:
            return
        if self.watches.get(settings.where) is watch:
            del self.watches[settings.where]
        if not self.watches:
            self._settings.clear()
        if not watch.task.get_loop().is_closed():
            watch.task.cancel()
            await asyncio.wait([watch.task])  # until its sockets are closed


_learned: dict[Place, Learned] = {}
_loops: dict[asyncio.AbstractEventLoop, _Loop] = {}


def _here() -> _Loop:
    for loop in [loop for loop in _loops if loop.is_closed()]:
        del _loops[loop]
    return _loops.setdefault(asyncio.get_running_loop(), _Loop())


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
        InvalidExport: the hook's connection cannot be right.
    """
    here = _here()
    settings = await here.settings_of(hook)
    wait = Wait(
        dataflow_id,
        since_ms,
        run_id,
        floor_seconds=floor_seconds,
        ceiling_seconds=ceiling_seconds,
        joined_at=asyncio.get_running_loop().time(),
    )
    watch = here.join(wait, settings, hook)
    try:
        yield wait
    finally:
        await here.leave(wait, watch, settings)
