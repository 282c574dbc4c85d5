"""One poll for every wait of this process that shares an Airflow connection and a sandbox.

Airflow's shared streams do not fit. They exist from 3.3 on, and only for `BaseEventTrigger`. A stream is opened with
the arguments of one trigger and never learns who else listens, so it can neither ask for known runs nor adapt its
interval; each of its events wakes every listener, and its first failure ends them all. Around them the same poller
would be needed, and another one on 3.1 and 3.2. This one serves deferred tasks and event triggers alike on every
supported version, and wakes only the waits concerned.
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

from airflow_provider_aep.api.effects import Procedure, ServerTime
from airflow_provider_aep.api.entities import DataflowId, FlowRunId
from airflow_provider_aep.api.runs.index import Capabilities, PendingRun, RunIndex
from airflow_provider_aep.api.runs.poll import poll, read_dataflows
from airflow_provider_aep.errors import PlatformUnavailable, ReplyError
from airflow_provider_aep.subscription import Subscription

if TYPE_CHECKING:
    from airflow_provider_aep.api.session import AsyncSession
    from airflow_provider_aep.api.settings import Settings
    from airflow_provider_aep.hooks import AepHook

log = logging.getLogger(__name__)

#: Airflow connection, and all that it says, its secret too: no wait rides on another connection's.
PollKey = tuple[str, "Settings"]

#: Triggers that are loaded together, as after a restart, are polled for together.
GATHER_SECONDS = 0.5
#: So many refusals in a row end the waits; one alone may be a gateway's whim.
MOST_REFUSALS = 3
REFUSED_TEXT = f"asking again; {MOST_REFUSALS} refusals in a row end the wait"
#: How many subscriptions are woken before other tasks of the loop have their turn.
WAKE_AT_ONCE = 20
#: How many subscriptions are looked at before other tasks of the loop have their turn.
LOOK_AT_ONCE = 1_000
#: From one refusal to the next request, and from poll to poll while nothing is left to ask for.
IDLE_SECONDS = 60.0
#: A connection is looked up again for a subscription that comes so much later; it may have been edited.
SETTINGS_SECONDS = 900
_JITTER = 0.05


class RunPoller:
    """Polls once for all its subscriptions, from the first until the last has ended."""

    def __init__(
        self,
        where: tuple[str, str, str, str],
        open_session: Callable[[bool], Awaitable[AsyncSession]],
        capabilities: Capabilities,
    ) -> None:
        self.subscriptions: dict[Subscription, None] = {}
        self._doubtful: set[str] = set()  # dataflows that the last list did not show
        self._name = f"sandbox {where[2]} of {where[1]}"
        self._open_session = open_session
        self._index = RunIndex(capabilities, self._changed)
        self._capabilities = capabilities
        self._loop = asyncio.get_running_loop()
        self._to_wake: dict[Subscription, bool] = {}  # True: its run has changed; False: there is only a notice
        self._sooner = asyncio.Event()
        self._polled_at = -math.inf
        self._next_at = math.inf  # a new subscription may ask for an earlier poll ...
        self._not_before = -math.inf  # ... but not for one that Adobe does not want yet
        self._failures = 0
        self._refusals = 0
        # A context of its own: what is logged here belongs to no single task's log.
        self.task = self._loop.create_task(self._run(), name="aep-run-poller", context=contextvars.Context())

    def subscribe(self, subscription: Subscription) -> None:
        self.subscriptions[subscription] = None
        self._index.add(subscription)
        at = max(self._polled_at + subscription.floor_seconds, self._loop.time() + GATHER_SECONDS)
        if at < self._next_at:
            self._next_at = at
            self._sooner.set()

    def unsubscribe(self, subscription: Subscription) -> None:
        self.subscriptions.pop(subscription, None)
        self._to_wake.pop(subscription, None)
        self._index.remove(subscription)

    def _changed(self, subscription: PendingRun) -> None:
        if subscription in self.subscriptions:
            assert isinstance(subscription, Subscription)
            self._wake(subscription, has_changed=True)

    def _wake(self, subscription: Subscription, *, has_changed: bool) -> None:
        if not self._to_wake:
            self._loop.call_soon(self._wake_some)
        self._to_wake[subscription] = has_changed or self._to_wake.get(subscription, False)

    def _notify_all(self, notice: str) -> None:
        """Log one line for each waiting task: an outage has begun, or has ended."""
        for subscription in self.subscriptions:
            subscription.notice = notice
            self._wake(subscription, has_changed=False)

    def _wake_some(self) -> None:
        for subscription in list(islice(self._to_wake, WAKE_AT_ONCE)):
            if self._to_wake.pop(subscription):
                subscription.notify()
            else:
                subscription.wake()
        if self._to_wake:
            self._loop.call_soon(self._wake_some)

    async def _run(self) -> None:
        try:
            await self._keep_polling()
        except asyncio.CancelledError:
            # Whoever did it: a wait that is still here must not hang.
            self._end(PlatformUnavailable("GET /runs", message="the poller was cancelled"))
            raise
        except Exception as error:
            log.exception(
                "the poll for %s has failed, and with it all its waits (%d)", self._name, len(self.subscriptions)
            )
            self._end(error)

    def _end(self, error: BaseException) -> None:
        self._index.fail([subscription for subscription in self.subscriptions if subscription.is_open], error)

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
        """Poll once, and decide when to poll again. Returns whether Adobe refuses."""
        self._polled_at = self._loop.time()
        trouble: ReplyError | None = None
        try:
            await session.run(poll(self._index))
        except ReplyError as error:
            trouble = error
            self._failed(error)
        else:
            if self._failures:
                log.info("%s answers again (waits: %d)", self._name, len(self.subscriptions))
                self._notify_all("Adobe answers again; the wait goes on")
            self._failures = self._refusals = 0
            for subscription in self.subscriptions:
                subscription.polled_at = self._polled_at
            with suppress(ReplyError):  # the poll itself reports trouble
                await self._check_dataflows(session)
        self._next_at = math.inf
        seconds = await self._interval(await session.run(_adobe_time()))
        if trouble and trouble.retry_after_seconds:
            asked = min(trouble.retry_after_seconds, session.settings.max_retry_after_seconds)
            self._not_before = self._loop.time() + asked
        self._next_at = min(self._next_at, max(self._polled_at + seconds, self._loop.time() + GATHER_SECONDS))
        return trouble is not None and not isinstance(trouble, PlatformUnavailable)

    async def _check_dataflows(self, session: AsyncSession) -> None:
        """End the waits whose dataflow makes no run any more; one request a poll, however many waits.

        A dataflow that a list does not show counts as gone once the next poll has asked for it by its ID.
        """
        asked = {
            key: waiting
            for key, waiting in self._index.next_dataflows(self._doubtful).items()
            if any(
                self._polled_at - subscription.subscribed_at >= subscription.floor_seconds
                for subscription in waiting
                if isinstance(subscription, Subscription)
            )
        }  # the tasks of new subscriptions have only just looked themselves
        if not asked:
            return
        found = await session.run(read_dataflows(list(asked), self._capabilities))
        now_ms = int(await session.run(_adobe_time()))
        visibility_ms = int(session.settings.visibility_seconds * 1000)
        is_sure = len(asked) == 1
        self._doubtful = set() if is_sure else {key for key in asked if key not in found}
        for key, waiting in asked.items():
            if key not in found and not is_sure:
                continue
            for subscription in waiting:
                assert isinstance(subscription, Subscription)
                subscription.over = subscription.why_over(found.get(key), now_ms, visibility_ms)
                if subscription.over:
                    self._index.remove(subscription)
                    self._changed(subscription)

    async def _pause(self) -> None:
        """Sleep until the next poll, which a new subscription may bring forward."""
        while (until := max(self._next_at, self._not_before)) > self._loop.time():
            self._sooner.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(until):
                    await self._sooner.wait()

    def _failed(self, trouble: ReplyError) -> None:
        self._failures += 1
        if self._failures == 1:
            log.warning("%s: %s; asking again (waits: %d)", self._name, trouble, len(self.subscriptions))
            is_outage = isinstance(trouble, PlatformUnavailable)
            self._notify_all(f"{trouble}; " + ("the wait goes on" if is_outage else REFUSED_TEXT))
        if not isinstance(trouble, PlatformUnavailable):
            self._refusals += 1
            if self._refusals == MOST_REFUSALS:
                self._refusals = 0
                self._end(trouble)

    async def _interval(self, now_ms: float) -> float:
        """Seconds to the next poll: the fewest that any subscription wants; it then serves all."""
        seconds = floor = math.inf
        for number, subscription in enumerate(list(self.subscriptions), start=1):
            if subscription.is_open:
                usual_ms = self._capabilities.durations_ms.get(subscription.dataflow_id, 0)
                seconds = min(seconds, subscription.poll_delay(self._polled_at, now_ms, usual_ms))
                floor = min(floor, subscription.floor_seconds)
            if number % LOOK_AT_ONCE == 0:
                await asyncio.sleep(0)
        if self._refusals or seconds == math.inf:
            return min(seconds, IDLE_SECONDS)
        if self._failures:
            return min(seconds, 2.0 ** min(self._failures, 10))  # a float ends at 2.0**1024, an outage may not
        return max(seconds * random.uniform(1 - _JITTER, 1), floor)  # noqa: S311 - spreads several processes


def _adobe_time() -> Procedure[float]:
    now_ms: float = yield ServerTime()
    return now_ms


class _LoopPollers:
    """The pollers of one event loop, and the settings that each Airflow connection has given."""

    def __init__(self) -> None:
        self.pollers: dict[PollKey, RunPoller] = {}
        self._settings: dict[tuple[str, str | None], tuple[float, Settings]] = {}
        self._look_ups: dict[tuple[str, str | None], asyncio.Task[Settings]] = {}

    async def settings_of(self, hook: AepHook, *, anew: bool = False) -> Settings:
        """What the connection says; looked up once for all subscriptions, and again once it may have been edited."""
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

    def subscribe(self, subscription: Subscription, settings: Settings, hook: AepHook) -> RunPoller:
        key = (hook.aep_conn_id, settings)
        poller = self.pollers.get(key)
        if poller is None or poller.task.done():
            capabilities = _capabilities.setdefault(settings.where, Capabilities())
            poller = RunPoller(settings.where, lambda anew: self._open(settings, hook, anew), capabilities)
            self.pollers[key] = poller
        poller.subscribe(subscription)
        return poller

    async def _open(self, settings: Settings, hook: AepHook, anew: bool) -> AsyncSession:
        """A session that sends each request once: a poll that fails is repeated as a whole, and later."""
        if anew:
            try:
                now = await self.settings_of(hook, anew=True)
            except Exception as error:  # whatever it is, Adobe's answer decides
                log.warning("Airflow connection %r cannot be read again: %s", hook.aep_conn_id, error)
            else:
                # Waits of another organisation, sandbox or client have a poller of their own.
                settings = now if now.where == settings.where else settings
        return hook.open_async_session(replace(settings, attempts=1))

    async def unsubscribe(self, subscription: Subscription, poller: RunPoller, key: PollKey) -> None:
        poller.unsubscribe(subscription)
        if poller.subscriptions:
            return
        if self.pollers.get(key) is poller:
            del self.pollers[key]
        if not self.pollers:
            self._settings.clear()
        if not poller.task.get_loop().is_closed():
            poller.task.cancel()
            await asyncio.wait([poller.task])  # until its sockets are closed


_capabilities: dict[tuple[str, ...], Capabilities] = {}
_loops: dict[asyncio.AbstractEventLoop, _LoopPollers] = {}


def _pollers_of_this_loop() -> _LoopPollers:
    for loop in [loop for loop in _loops if loop.is_closed()]:
        del _loops[loop]
    return _loops.setdefault(asyncio.get_running_loop(), _LoopPollers())


@asynccontextmanager
async def subscribe(
    hook: AepHook,
    *,
    dataflow_id: DataflowId,
    run_id: FlowRunId | None,
    since_ms: int,
    until_ms: int | None = None,
    schedule: list[int | None] | None = None,
    floor_seconds: float,
    ceiling_seconds: float,
) -> AsyncIterator[Subscription]:
    """Subscribe to the poller of the hook's Airflow connection and sandbox, until the block is left.

    Raises:
        InvalidArgument: the hook's connection cannot be right.
    """
    pollers = _pollers_of_this_loop()
    settings = await pollers.settings_of(hook)
    subscription = Subscription(
        dataflow_id,
        since_ms,
        run_id,
        until_ms=until_ms,
        schedule=schedule,
        floor_seconds=floor_seconds,
        ceiling_seconds=ceiling_seconds,
        subscribed_at=asyncio.get_running_loop().time(),
    )
    poller = pollers.subscribe(subscription, settings, hook)
    try:
        yield subscription
    finally:
        await pollers.unsubscribe(subscription, poller, (hook.aep_conn_id, settings))
