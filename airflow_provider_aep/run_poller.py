"""One poller for all triggers of a process that wait through the same Airflow connection and sandbox.

Airflow's shared streams do not fit. They exist from 3.3 on, and only for `BaseEventTrigger`. A stream is opened with
the arguments of one trigger and never learns who else listens, so it can neither ask for known runs nor adapt its
interval; each event wakes every listener, and the first failure ends them all. They would need the same poller around
them, and 3.1 and 3.2 another one. This one serves every supported version and wakes only those concerned.
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
from airflow_provider_aep.poll_budget import PollBudget
from airflow_provider_aep.subscription import Subscription

if TYPE_CHECKING:
    from airflow_provider_aep.api.session import AsyncSession
    from airflow_provider_aep.api.settings import Settings
    from airflow_provider_aep.hooks import AepHook

log = logging.getLogger(__name__)

#: An Airflow connection and all that it says, so that no trigger uses another connection's secret.
PollKey = tuple[str, "Settings"]

#: Triggers that are loaded together, as after a restart, share the first poll.
GATHER_SECONDS = 0.5
#: Refusals in a row that end the waits; a single one may be a gateway's fluke.
MOST_REFUSALS = 3
REFUSED_TEXT = f"asking again; {MOST_REFUSALS} refusals in a row end the wait"
#: Subscriptions woken before the loop's other tasks get their turn.
WAKE_AT_ONCE = 20
#: Subscriptions looked at before the loop's other tasks get their turn.
LOOK_AT_ONCE = 500
#: From a refusal to the next poll, and between polls while nothing is left to ask for.
IDLE_SECONDS = 60.0
#: Age at which a connection is looked up again for a new subscription, since somebody may have edited it.
SETTINGS_SECONDS = 900
_JITTER = 0.05
#: How much sooner than the next poll an early one must be to be worth a request; a share of the interval.
_WORTHWHILE = 0.1


class RunPoller:
    """Polls for all its subscriptions at once, from the first to the last."""

    def __init__(
        self,
        where: tuple[str, str, str, str],
        open_session: Callable[[bool], Awaitable[AsyncSession]],
        capabilities: Capabilities,
    ) -> None:
        self.subscriptions: dict[Subscription, None] = {}
        self._unlisted: set[str] = set()  # dataflows that a list did not show
        self._name = f"sandbox {where[2]} of {where[1]}"
        self._open_session = open_session
        self._index = RunIndex(capabilities, self._on_change)
        self._capabilities = capabilities
        self._loop = asyncio.get_running_loop()
        self._to_wake: dict[Subscription, bool] = {}  # True: its run has changed; False: there is only a notice
        self._budget = PollBudget(self._loop.time())
        self._turns = ["dataflows", "rotation"]  # of upkeep; to the end once it had its turn
        self._interval = IDLE_SECONDS  # the shortest between two regular polls that any subscription allows
        self._is_due_sooner = asyncio.Event()
        self._polled_at = -math.inf
        self._early_at = math.inf  # the next poll is an early one, in addition to the regular one ...
        self._regular_at = math.inf  # ... which comes then
        self._next_at = math.inf  # a new subscription may ask for an earlier poll ...
        self._not_before = -math.inf  # ... but not before Adobe's Retry-After
        self._failures = 0
        self._refusals = 0
        # In a context of its own, since what it logs belongs to no single task's log.
        self.task = self._loop.create_task(self._run(), name="aep-run-poller", context=contextvars.Context())

    def subscribe(self, subscription: Subscription) -> None:
        self.subscriptions[subscription] = None
        self._index.add(subscription)
        at = max(self._polled_at + subscription.floor_seconds, self._loop.time() + GATHER_SECONDS)
        if at < self._next_at:
            self._next_at = at
            self._is_due_sooner.set()

    def unsubscribe(self, subscription: Subscription) -> None:
        self.subscriptions.pop(subscription, None)
        self._to_wake.pop(subscription, None)
        self._index.remove(subscription)

    def _on_change(self, subscription: PendingRun) -> None:
        if subscription in self.subscriptions:
            assert isinstance(subscription, Subscription)
            self._wake_soon(subscription, has_changed=True)

    def _wake_soon(self, subscription: Subscription, *, has_changed: bool) -> None:
        if not self._to_wake:
            self._loop.call_soon(self._wake_some)
        self._to_wake[subscription] = has_changed or self._to_wake.get(subscription, False)

    def _notify_all(self, notice: str) -> None:
        """One line in the log of each waiting task: an outage has begun or ended."""
        for subscription in self.subscriptions:
            subscription.notice = notice
            self._wake_soon(subscription, has_changed=False)

    def _wake_some(self) -> None:
        for subscription in list(islice(self._to_wake, WAKE_AT_ONCE)):
            subscription.wake(has_changed=self._to_wake.pop(subscription))
        if self._to_wake:
            self._loop.call_soon(self._wake_some)

    async def _run(self) -> None:
        try:
            await self._keep_polling()
        except asyncio.CancelledError:
            # Whoever did it: no subscription that is still here may hang.
            self._fail_all(PlatformUnavailable("GET /runs", message="the poller was cancelled"))
            raise
        except Exception as error:
            log.exception(
                "the poll for %s has failed, and with it all its waits (%d)", self._name, len(self.subscriptions)
            )
            self._fail_all(error)

    def _fail_all(self, error: BaseException) -> None:
        self._index.fail([subscription for subscription in self.subscriptions if subscription.is_open], error)

    async def _keep_polling(self) -> None:
        await asyncio.sleep(GATHER_SECONDS * random.uniform(1, 2))  # noqa: S311 - spreads several processes
        is_refused = False
        while True:
            # After a refusal the connection is read again, since its secret may have been changed.
            async with await self._open_session(is_refused) as session:
                is_refused = False
                while not is_refused:
                    is_refused = await self._poll(session)
                    await self._pause()

    async def _poll(self, session: AsyncSession) -> bool:
        """Poll once, and decide when to poll again. Returns whether Adobe refuses."""
        self._polled_at = self._loop.time()
        failure: ReplyError | None = None
        upkeep = self._next_upkeep()
        try:
            await session.run(poll(self._index, rotates=upkeep == "rotation"))
        except ReplyError as error:
            failure = error
            self._note_failure(error)
        else:
            if self._failures:
                log.info("%s answers again (waits: %d)", self._name, len(self.subscriptions))
                self._notify_all("Adobe answers again; the wait goes on")
            self._failures = self._refusals = 0
            for subscription in self.subscriptions:
                subscription.polled_at = self._polled_at
            with suppress(ReplyError):  # the poll itself reports an outage
                await self._check_dataflows(session, is_due=upkeep == "dataflows")
        self._next_at = math.inf
        now_ms = await session.run(_adobe_time())
        visibility_ms = int(session.settings.visibility_seconds * 1000)
        at = await self._next_poll_at(now_ms, None if failure else visibility_ms)
        if failure and failure.retry_after_seconds:
            asked = min(failure.retry_after_seconds, session.settings.max_retry_after_seconds)
            self._not_before = self._loop.time() + asked
        self._next_at = min(self._next_at, at)
        return failure is not None and not isinstance(failure, PlatformUnavailable)

    def _next_upkeep(self) -> str:
        """What this poll may ask for beyond its one request, in turns; "" if there is nothing, or none to spare."""
        wanted = {"dataflows": self._index.awaits_new_runs, "rotation": self._index.reads_changes}
        kind = next((kind for kind in self._turns if wanted[kind]), "")
        self._budget.fill(self._polled_at, self._interval)
        if not kind or not self._budget.take_for_upkeep():
            return ""
        self._turns.remove(kind)
        self._turns.append(kind)
        return kind

    async def _check_dataflows(self, session: AsyncSession, *, is_due: bool) -> None:
        """End the waits for dataflows that make no run any more, with one request for any number of waits.

        A dataflow that a list does not show counts as gone once a poll has asked for it by its ID.
        """
        self._unlisted = {key for key in self._unlisted if self._index.awaits_run_of(key)}
        if not (is_due or self._unlisted):
            return
        asked = {
            key: pending
            for key, pending in self._index.next_dataflows(self._unlisted).items()
            if any(self._has_waited(subscription) for subscription in pending)
        }
        if not asked:
            return
        found = await session.run(read_dataflows(list(asked), self._capabilities))
        now_ms = int(await session.run(_adobe_time()))
        visibility_ms = int(session.settings.visibility_seconds * 1000)
        is_sure = len(asked) == 1
        if not is_sure:
            self._unlisted = {key for key in asked if key not in found}
        elif found:
            self._unlisted.clear()  # it is there, so that the list is not to be trusted
        else:
            self._unlisted -= asked.keys()
        for key, pending in asked.items():
            if key not in found and not is_sure:
                continue
            for subscription in pending:
                assert isinstance(subscription, Subscription)
                self._send_back(subscription, subscription.reason_to_look(found.get(key), now_ms, visibility_ms))

    def _has_waited(self, pending: PendingRun) -> bool:
        """Whether it is worth a look; the task of a new subscription has just looked itself."""
        return isinstance(pending, Subscription) and self._polled_at - pending.subscribed_at >= pending.floor_seconds

    def _send_back(self, subscription: Subscription, why: str) -> None:
        """End a wait whose run may never come, so that its task looks and decides; not while `why` is ""."""
        if why:
            subscription.no_run = why
            self._index.remove(subscription)
            self._on_change(subscription)

    async def _pause(self) -> None:
        """Sleep until the next poll, which a new subscription may bring forward."""
        while (until := max(self._next_at, self._not_before)) > self._loop.time():
            self._is_due_sooner.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(until):
                    await self._is_due_sooner.wait()

    def _note_failure(self, failure: ReplyError) -> None:
        self._failures += 1
        if self._failures == 1:
            log.warning("%s: %s; asking again (waits: %d)", self._name, failure, len(self.subscriptions))
            is_outage = isinstance(failure, PlatformUnavailable)
            self._notify_all(f"{failure}; " + ("the wait goes on" if is_outage else REFUSED_TEXT))
        if not isinstance(failure, PlatformUnavailable):
            self._refusals += 1
            if self._refusals == MOST_REFUSALS:
                self._refusals = 0
                self._fail_all(failure)

    async def _next_poll_at(self, now_ms: float, visibility_ms: int | None) -> float:
        """When to poll next, by the loop's clock; with `visibility_ms` also end the waits whose slot has passed.

        That is after the shortest delay of any subscription, since one poll serves them all; and once more before that
        if a run usually ends then and the budget allows it.
        """
        seconds = floor = ends_in = math.inf
        for number, subscription in enumerate(list(self.subscriptions), start=1):
            if subscription.is_open and not subscription.no_run:
                usual_ms = self._capabilities.durations_ms.get(subscription.dataflow_id, 0)
                seconds = min(seconds, subscription.poll_delay(self._polled_at, now_ms, usual_ms))
                floor = min(floor, subscription.floor_seconds)
                if usual_ms:
                    ends_in = min(ends_in, subscription.ends_in(now_ms, usual_ms))
                if visibility_ms is not None and subscription.until_ms and self._has_waited(subscription):
                    self._send_back(subscription, subscription.slot_passed(int(now_ms), visibility_ms))
            if number % LOOK_AT_ONCE == 0:
                await asyncio.sleep(0)
        self._interval = min(floor, IDLE_SECONDS)
        if self._refusals or seconds == math.inf:
            seconds = min(seconds, IDLE_SECONDS)
        elif self._failures:
            seconds = min(seconds, 2.0 ** min(self._failures, 10))  # a float ends at 2.0**1024, an outage may not
        else:
            seconds = max(seconds * random.uniform(1 - _JITTER, 1), floor)  # noqa: S311 - spreads several processes
        soonest = self._loop.time() + GATHER_SECONDS
        regular_at = max(self._polled_at + seconds, soonest)
        if self._early_at <= self._polled_at < self._regular_at:
            regular_at = min(regular_at, max(self._regular_at, soonest))
        early_at = max(self._polled_at + ends_in, soonest)
        is_worthwhile = regular_at - early_at >= seconds * _WORTHWHILE and not self._failures
        is_early = is_worthwhile and self._budget.take_for_early_poll()
        self._regular_at, self._early_at = regular_at, early_at if is_early else math.inf
        return min(regular_at, self._early_at)


def _adobe_time() -> Procedure[float]:
    now_ms: float = yield ServerTime()
    return now_ms


class _LoopPollers:
    """The pollers of one event loop, and the settings that each Airflow connection has given."""

    def __init__(self) -> None:
        self.pollers: dict[PollKey, RunPoller] = {}
        self._settings: dict[tuple[str, str | None], tuple[float, Settings]] = {}
        self._look_ups: dict[tuple[str, str | None], asyncio.Task[Settings]] = {}

    async def settings_of(self, hook: AepHook, *, refresh: bool = False) -> Settings:
        """What the connection says; looked up once for all subscriptions, and again once it may have been edited."""
        key = (hook.aep_conn_id, hook.sandbox_name)
        loop = asyncio.get_running_loop()
        read_at, settings = self._settings.get(key, (-math.inf, None))
        if settings and not refresh and loop.time() - read_at < SETTINGS_SECONDS:
            return settings
        look_up = self._look_ups.get(key)
        if look_up is None:
            # A task of its own, so that a cancelled trigger does not cancel it for the others.
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
            poller = RunPoller(settings.where, lambda refresh: self._open(settings, hook, refresh), capabilities)
            self.pollers[key] = poller
        poller.subscribe(subscription)
        return poller

    async def _open(self, settings: Settings, hook: AepHook, refresh: bool) -> AsyncSession:
        """A session that sends each request once, since the next poll repeats a failed one."""
        if refresh:
            try:
                now = await self.settings_of(hook, refresh=True)
            except Exception as error:  # whatever it is, Adobe's answer decides
                log.warning("Airflow connection %r cannot be read again: %s", hook.aep_conn_id, error)
            else:
                # Another organisation, sandbox or client has a poller of its own.
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


_capabilities: dict[tuple[str, str, str, str], Capabilities] = {}  # by `Settings.where`
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
