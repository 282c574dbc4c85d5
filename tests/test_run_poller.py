"""One poll for all waits of a process: who shares it, who is woken, when it asks, and what ends it.

Most tests run on a loop whose clock jumps to the next thing that is due, so that an hour takes milliseconds. Adobe is
the emulator, behind the real session; nothing is patched.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import selectors
import threading
import tracemalloc
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import format_datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from airflow_provider_aep import run_poller
from airflow_provider_aep.api.entities import DataflowId, FlowRun, FlowRunId
from airflow_provider_aep.api.runs.index import Batch, Capabilities
from airflow_provider_aep.api.runs.slots import fingerprint
from airflow_provider_aep.api.session import AsyncSession
from airflow_provider_aep.api.settings import Settings
from airflow_provider_aep.emulator import Clock
from airflow_provider_aep.errors import AccessDenied, InvalidArgument, RequestRefused
from airflow_provider_aep.hooks import AepHook
from airflow_provider_aep.run_poller import WAKE_AT_ONCE, RunPoller, subscribe
from airflow_provider_aep.subscription import NoRunExpected, Subscription
from tests.adobe.caller import START, Caller
from tests.conftest import settings_for_tests


async def next_run(subscription: Subscription) -> FlowRun:
    """The next change of its run; notices of outages are passed over."""
    while isinstance(update := await subscription.next_update(), str):
        pass
    return update


class JumpingSelector(selectors.DefaultSelector):
    """Never sleeps: where it would, the clock jumps."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready and timeout is None:
            raise RuntimeError("nothing will ever happen in this loop again")
        if not ready and timeout:
            self.now += timeout
        return ready


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop on that clock."""

    def __init__(self) -> None:
        self.jumping = JumpingSelector()
        super().__init__(self.jumping)

    def time(self) -> float:
        return self.jumping.now


class LoopClock(Clock):
    """Adobe's clock, which goes as a loop's does, and not as this machine's."""

    def __init__(self) -> None:
        super().__init__(speed=0, start=START)
        self.loop: asyncio.AbstractEventLoop | None = None

    def now(self) -> float:
        return START + (self.loop.time() if self.loop else 0)


class NightTransport(httpx.AsyncBaseTransport):
    """The line to the emulator: takes its time, bears Adobe's date, and is open until it is closed."""

    def __init__(self, night: Night) -> None:
        self.night = night
        self.is_open = True
        night.lines.append(self)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        assert self.is_open
        night = self.night
        if "/ims/" not in request.url.path:
            night.polls.append(night.clock.now() - START)
        await asyncio.sleep(night.latency)
        night.before_reply()
        reply = await night.adobe.platform.arespond(request)
        reply.headers["Date"] = format_datetime(datetime.fromtimestamp(night.clock.now(), UTC), usegmt=True)
        return reply

    async def aclose(self) -> None:
        await asyncio.sleep(0)
        self.is_open = False


class Night:
    """An emulated Adobe, the Airflow connections to it, and what a triggerer does with them."""

    def __init__(self, data: Path, **options: Any) -> None:
        self.clock = LoopClock()
        given = {"write_files": False, "run_seconds": 600, "late_seconds": 0, **options}
        self.adobe = Caller(data, clock=self.clock, **given)
        self.dataflow = self.adobe.flow()
        self.latency = 0.05
        self.lines: list[NightTransport] = []
        self.polls: list[float] = []  # when each request but those for tokens was sent, in seconds
        self.look_ups: list[str] = []
        self.secret = settings_for_tests().client_secret
        self.connection_trouble: Exception | None = None
        self.session_trouble: Exception | None = None
        self.before_reply: Callable[[], object] = lambda: None
        self.adobe.platform.requests.clear()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run it on a loop of its own, and see that nothing is left over."""
        loop = JumpingLoop()
        self.clock.loop = loop
        try:
            result = loop.run_until_complete(asyncio.wait_for(work, 100_000))
            assert not asyncio.all_tasks(loop)
            assert not [line for line in self.lines if line.is_open]
            return result
        finally:
            loop.close()
            self.clock.loop = None

    def start(self, dataflow: str = "") -> str:
        return str(self.adobe.platform.start_run(dataflow or self.dataflow)["id"])

    def dataflows(self, count: int) -> list[str]:
        """So many dataflows; all but the first are copies of it that run only when they are told to."""
        platform = self.adobe.platform
        items = platform.sandbox().collections["flows"].items
        for number in range(1, count):
            copy = {**items[self.dataflow], "id": f"{number:08d}-bbbb-4bbb-8bbb-bbbbbbbbbbbb"}
            items[copy["id"]] = copy
            platform.runs.plan({**copy, "scheduleParams": None}, START)
        return list(items)

    def tokens(self) -> int:
        return sum("/ims/" in request.path for request in self.adobe.platform.requests)

    @asynccontextmanager
    async def subscribe(
        self,
        run_id: str | None = None,
        *,
        hook: EmulatorHook | None = None,
        floor: float = 60,
        ceiling: float = 3600,
        dataflow: str = "",
        since: float = 0,
        until: float | None = None,
        schedule: list[int | None] | None = None,
    ) -> AsyncIterator[Subscription]:
        async with subscribe(
            hook or EmulatorHook(self),
            dataflow_id=DataflowId(dataflow or self.dataflow),
            run_id=FlowRunId(run_id) if run_id else None,
            since_ms=int((START + since) * 1000),
            until_ms=None if until is None else int((START + until) * 1000),
            schedule=schedule,
            floor_seconds=floor,
            ceiling_seconds=ceiling,
        ) as subscription:
            yield subscription

    async def end(self, run_id: str | None = None, **more: Any) -> FlowRun:
        """What a trigger does."""
        async with self.subscribe(run_id, **more) as subscription:
            while True:
                run = await next_run(subscription)
                if run.has_ended:
                    return run


class EmulatorHook(AepHook):
    """A hook whose line leads to the emulator of this process."""

    def __init__(
        self,
        night: Night,
        aep_conn_id: str = "aep_default",
        *,
        sandbox_name: str | None = None,
        secret: str | None = None,
    ) -> None:
        super().__init__(aep_conn_id, sandbox_name=sandbox_name)
        self.night = night
        self.secret = secret

    async def asettings(self) -> Settings:
        self.night.look_ups.append(self.aep_conn_id)
        await asyncio.sleep(0.2)
        if self.night.connection_trouble:
            raise self.night.connection_trouble
        secret = self.secret or self.night.secret
        return settings_for_tests(sandbox_name=self.sandbox_name or "prod", client_secret=secret)

    def open_async_session(self, settings: Settings) -> AsyncSession:
        if self.night.session_trouble:
            raise self.night.session_trouble
        return AsyncSession(settings, transport=NightTransport(self.night), clock=asyncio.get_running_loop().time)


@pytest.fixture(autouse=True)
def _no_durations_of_another_test() -> None:
    """Each night's dataflow has the same ID."""
    run_poller._capabilities.clear()


@pytest.fixture
def night(tmp_path: Path) -> Iterator[Night]:
    tonight = Night(tmp_path)
    yield tonight
    tonight.adobe.http.close()


# -- who shares it --------------------------------------------------------------------------------------------------


def test_a_thousand_waits_share_a_look_up_a_token_and_a_poll(night: Night) -> None:
    """As after a restart of the triggerer: no burst of requests, and all are asked for within a second or two."""
    runs = [night.start() for _ in range(1_000)]

    async def work() -> list[FlowRun]:
        waits = [asyncio.create_task(night.end(run_id)) for run_id in runs]
        await asyncio.sleep(5)
        assert len(night.polls) == 10
        assert max(night.polls) < 2
        return await asyncio.gather(*waits)

    ended = night.run(work())
    assert runs == [run.id for run in ended]
    assert night.look_ups == ["aep_default"]
    assert night.tokens() == 1
    assert len(night.lines) == 1
    # Eleven polls: while a thousand runs begin, report and end, a poll reads as many pages as there are changes.
    assert len(night.polls) < 170


def test_connections_and_sandboxes_have_a_poller_each(night: Night) -> None:
    async def work() -> None:
        run_id = night.start()
        hooks = [EmulatorHook(night, "one"), EmulatorHook(night, "two"), EmulatorHook(night, sandbox_name="dev")]
        waits = [asyncio.create_task(night.end(run_id, hook=hook, ceiling=60)) for hook in hooks]
        await asyncio.wait(waits[:2])
        assert {"one", "two", "aep_default"} == set(night.look_ups)
        assert len(night.lines) == 3
        assert not waits[2].done(), "the other sandbox has no such run"
        waits[2].cancel()
        await asyncio.wait(waits)

    night.run(work())


def test_two_event_loops_of_one_process_each_have_a_poller(night: Night) -> None:
    run_id = night.start()

    def other() -> None:
        loop = JumpingLoop()
        ended.append(loop.run_until_complete(night.end(run_id)).id)
        loop.close()

    ended: list[str] = []

    async def work() -> None:
        wait = asyncio.create_task(night.end(run_id))
        await asyncio.sleep(30)
        thread = threading.Thread(target=other)
        night.clock.loop, ours = None, night.clock.loop
        thread.start()
        while thread.is_alive():
            night.clock.loop = ours
            await asyncio.sleep(1)
        thread.join()
        ended.append((await wait).id)

    night.run(work())
    assert [run_id, run_id] == ended
    assert len(night.lines) == 2


def test_the_last_to_leave_closes_the_line_and_a_later_wait_opens_another(night: Night) -> None:
    async def work() -> None:
        for _ in range(2):
            run_id = night.start()
            async with night.subscribe(run_id) as subscription:
                assert (await next_run(subscription)).id == run_id
                assert [line.is_open for line in night.lines if line.is_open] == [True]
            assert not any(line.is_open for line in night.lines)
            assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("aep-")]

    night.run(work())
    assert len(night.lines) == 2


def test_a_cancelled_wait_takes_nothing_from_the_others(night: Night) -> None:
    """Not even while the look-up that it began, or a poll, is under way."""
    runs = [night.start() for _ in range(6)]

    async def work() -> None:
        waits = [asyncio.create_task(night.end(run_id)) for run_id in runs]
        await asyncio.sleep(0.1)
        waits[0].cancel()
        night.before_reply = lambda: waits[1].cancel()
        await asyncio.sleep(5)
        night.before_reply = lambda: None
        waits[2].cancel()
        ended = await asyncio.gather(*waits, return_exceptions=True)
        assert [isinstance(each, asyncio.CancelledError) for each in ended[:3]] == [True] * 3
        assert runs[3:] == [each.id for each in ended[3:] if isinstance(each, FlowRun)]

    night.run(work())
    assert night.look_ups == ["aep_default"]


def test_a_wait_that_joins_during_a_poll_is_asked_for_soon(night: Night) -> None:
    night.latency = 30
    runs = [night.start(), night.start()]

    async def work() -> None:
        first = asyncio.create_task(night.end(runs[0]))
        await asyncio.sleep(15)
        async with night.subscribe(runs[1]) as subscription, asyncio.timeout(120):
            assert runs[1] == (await next_run(subscription)).id
        assert runs[0] == (await first).id

    night.run(work())


def test_a_wait_that_joins_an_idle_poller_does_not_wait_for_its_long_interval(night: Night) -> None:
    """The others have waited for hours and are looked at every hour; the newcomer is asked for after its floor."""

    async def work() -> None:
        old = asyncio.create_task(night.end("00000000-0000-4000-8000-000000000000"))
        await asyncio.sleep(40_000)
        run_id = night.start()
        began = asyncio.get_running_loop().time()
        async with night.subscribe(run_id) as subscription:
            await next_run(subscription)
            assert asyncio.get_running_loop().time() - began <= 61
        old.cancel()
        await asyncio.wait([old])

    night.run(work())


def test_a_closed_loop_is_forgotten(night: Night) -> None:
    """Its waits never left; a new loop starts afresh, and what is left of the old one is collected in silence."""

    async def begin() -> AsyncGenerator[None, None]:
        async with night.subscribe(night.start()) as subscription:
            await next_run(subscription)
            yield

    loop = JumpingLoop()
    night.clock.loop = loop
    left_over = begin()
    loop.run_until_complete(anext(left_over))
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.get_coro().close()  # as the interpreter does at its end
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.close()
    night.lines.clear()
    night.run(night.end(night.start()))
    with pytest.raises(StopIteration):
        left_over.aclose().send(None)
    del tasks, left_over
    gc.collect()


# -- who is woken ---------------------------------------------------------------------------------------------------


def test_a_wait_is_woken_once_for_each_change(night: Night) -> None:
    """No status, none yet, processing, success: the emulator's run has three states that can be told apart."""
    run_id = night.start()

    async def work() -> list[tuple[str, bool]]:
        states: list[tuple[str, bool]] = []
        async with night.subscribe(run_id, floor=20, ceiling=20) as subscription:
            while not states or not states[-1][1]:
                run = await next_run(subscription)
                states.append((run.raw_status, run.has_ended))
        return states

    assert night.run(work()) == [("", False), ("processing", False), ("success", True)]


def test_no_change_is_lost_between_two_looks(night: Night) -> None:
    """A trigger may be busy with its log while the next change comes."""
    run_id = night.start()

    async def work() -> None:
        async with night.subscribe(run_id, floor=20, ceiling=20) as subscription:
            await next_run(subscription)
            await asyncio.sleep(1_000)
            assert (await next_run(subscription)).has_ended
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(next_run(subscription), 1_000)

    night.run(work())


def test_ten_thousand_that_end_at_once_are_woken_a_few_at_a_time() -> None:
    """Between two turns of any other task of the loop; `benchmarks/loop_lag.py` says how long that is."""
    done = 0
    most = 0

    async def never(_refresh: bool) -> AsyncSession:
        await asyncio.sleep(100_000)
        raise AssertionError

    async def one(subscription: Subscription) -> None:
        nonlocal done
        await next_run(subscription)
        done += 1

    async def work() -> None:
        nonlocal most
        poller = RunPoller(("", "", "", ""), never, Capabilities())
        subscriptions = [
            Subscription(DataflowId("x"), 0, FlowRunId(str(n)), floor_seconds=1, ceiling_seconds=1, subscribed_at=0)
            for n in range(10_000)
        ]
        for each in subscriptions:
            poller.subscribe(each)
        ends = [asyncio.create_task(one(each)) for each in subscriptions]
        await asyncio.sleep(1)
        run = {"id": "", "flowId": "x", "metrics": {"statusSummary": {"status": "success"}}}
        poller._index.take_answer(Batch(runs={"": list(subscriptions)}), [run])
        while done < len(subscriptions):
            before = done
            await asyncio.sleep(0)
            most = max(most, done - before)
        await asyncio.gather(*ends)
        poller.task.cancel()
        await asyncio.wait([poller.task])

    loop = JumpingLoop()
    loop.run_until_complete(work())
    loop.close()
    assert 0 < most <= WAKE_AT_ONCE


# -- when it asks ---------------------------------------------------------------------------------------------------


def gaps(night: Night) -> list[float]:
    """Seconds between one poll and the next."""
    return [later - sooner for sooner, later in pairwise(night.polls)]


@pytest.mark.parametrize("run_seconds", [130, 900, 3_600, 14_400])
def test_a_run_is_seen_within_a_tenth_of_its_time_and_for_few_requests(tmp_path: Path, run_seconds: int) -> None:
    night = Night(tmp_path, run_seconds=run_seconds)

    async def work() -> float:
        await night.end(night.start())
        return asyncio.get_running_loop().time()

    late = night.run(work()) - run_seconds
    assert 0 <= late <= max(60, run_seconds / 10) + 2
    assert len(night.polls) <= 80
    assert min(gaps(night)) >= 60 - 0.1
    night.adobe.http.close()


def test_polls_gather_where_the_last_run_ended(tmp_path: Path) -> None:
    """The second night's run takes as long as the first one's and is seen within the floor."""
    night = Night(tmp_path, run_seconds=7_200)

    async def work() -> float:
        await night.end(night.start())
        began = asyncio.get_running_loop().time()
        await night.end(night.start())
        return asyncio.get_running_loop().time() - began - 7_200

    assert 0 <= night.run(work()) <= 62
    night.adobe.http.close()


def test_nothing_is_asked_for_before_a_run_can_exist(night: Night) -> None:
    """A wait for a slot in six hours asks once, then when the slot has come; its ceiling bounds that, too."""

    async def work(ceiling: float) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(night.end(since=6 * 3600, ceiling=ceiling), 6 * 3600 - 10)

    night.run(work(86_400))
    assert len(night.polls) <= 3  # two polls, at the second of which the dataflow is asked for, too
    night.polls.clear()
    night.run(work(3_600))
    assert len(night.polls) in (11, 12, 13)


def test_the_ceiling_is_the_users_even_below_the_floor(night: Night) -> None:
    """`poke_interval` = 5 means 5 s, whatever the floor; and no gap is longer than the ceiling."""
    night.run(night.end(night.start(), ceiling=5))
    assert max(gaps(night)) <= 5 + 0.1
    assert min(gaps(night)) >= 5 - 0.1


def test_intervals_differ_between_processes(night: Night) -> None:
    """So that triggerers that were restarted together do not ask together for ever."""
    for _ in range(2):
        with pytest.raises(TimeoutError):
            night.run(asyncio.wait_for(night.end("00000000-0000-4000-8000-000000000000"), 20_000))
    again = next(number for number, gap in enumerate(gaps(night)) if gap < 0) + 1
    assert night.polls[:again] != night.polls[again:]


# -- what goes wrong ------------------------------------------------------------------------------------------------


def told(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    return [
        each.getMessage() for each in caplog.records if each.name.endswith("aep.run_poller") and each.levelno == level
    ]


def test_an_outage_of_ten_minutes_is_survived_with_one_warning(night: Night, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    runs = [night.start() for _ in range(300)]

    async def work() -> None:
        waits = [asyncio.create_task(night.end(run_id, ceiling=60)) for run_id in runs]
        await asyncio.sleep(100)
        fault = night.adobe.platform.faults.status("* *", 503, times=None, body="html")
        before = len(night.polls)
        await asyncio.sleep(600)
        assert len(night.polls) - before < 30
        night.adobe.platform.faults.all.remove(fault)
        assert runs == [run.id for run in await asyncio.gather(*waits)]
        assert asyncio.get_running_loop().time() < 700 + 61 + 5

    night.run(work())
    assert len(told(caplog, logging.WARNING)) == 1
    assert "asking again (waits: 300)" in told(caplog, logging.WARNING)[0]
    assert len(told(caplog, logging.INFO)) == 1


def test_an_outage_of_more_than_a_thousand_polls_is_survived(night: Night) -> None:
    """The pause doubles with each failure, and a float ends at 2.0**1024."""

    async def work() -> None:
        wait = asyncio.create_task(night.end(run_id, floor=1, ceiling=1))
        await asyncio.sleep(5)
        night.adobe.platform.faults.status("* *", 503, times=1_100, body="html")
        assert (await wait).id == run_id

    run_id = night.start()
    night.run(work())


def test_retry_after_delays_the_whole_poller(night: Night) -> None:
    """Nobody asks before, not even a wait that joins meanwhile."""
    runs = [night.start(), night.start()]

    async def work() -> None:
        waits = [asyncio.create_task(night.end(runs[0], ceiling=60))]
        await asyncio.sleep(70)
        night.adobe.platform.faults.status("GET /runs", 429, retry_after="200")
        await asyncio.sleep(60)
        waits.append(asyncio.create_task(night.end(runs[1], ceiling=60)))
        await asyncio.gather(*waits)

    night.run(work())
    assert 199 < max(gaps(night)) < 202


def test_a_token_that_ends_is_renewed_without_a_word(night: Night, caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        wait = asyncio.create_task(night.end(night.start()))
        await asyncio.sleep(100)
        night.adobe.platform.expire_tokens()
        await wait

    night.run(work())
    assert night.tokens() == 2
    assert told(caplog, logging.WARNING) == []


def test_a_secret_that_was_rotated_is_read_again(night: Night, caplog: pytest.LogCaptureFixture) -> None:
    """IMS answers 400 or 401 to the old one; the connection has been given the new one meanwhile."""

    async def work() -> None:
        wait = asyncio.create_task(night.end(night.start()))
        await asyncio.sleep(100)
        night.secret = "p8e-a-new-secret"
        night.adobe.platform.set_client_secrets(night.secret)
        night.adobe.platform.expire_tokens()
        await wait

    night.run(work())
    assert len(night.look_ups) == 2
    assert len(told(caplog, logging.WARNING)) == 1
    assert night.secret not in caplog.text


def test_a_connection_that_cannot_be_read_again_is_used_as_it_was(night: Night) -> None:
    """Airflow's own trouble must not end what Adobe's would not have."""

    async def work() -> None:
        wait = asyncio.create_task(night.end(night.start()))
        await asyncio.sleep(100)
        night.connection_trouble = RuntimeError("Airflow's API server is away")
        night.adobe.platform.faults.status("GET /runs", 403)
        await wait

    night.run(work())
    assert len(night.look_ups) == 2


def test_one_refusal_is_a_whim_and_three_end_the_waits(night: Night) -> None:
    runs = [night.start() for _ in range(5)]

    async def work(times: int) -> list[Any]:
        faults = night.adobe.platform.faults
        faults.status("GET /runs", 403, times=times)
        ended = await asyncio.gather(*(night.end(run_id) for run_id in runs), return_exceptions=True)
        faults.clear()
        return ended

    assert runs == [run.id for run in night.run(work(2))]
    refusals = night.run(work(9))
    assert all(isinstance(error, AccessDenied) for error in refusals)
    assert all("403" in str(error) for error in refusals)


def test_a_connection_that_is_wrong_ends_its_waits_with_one_look_up(night: Night) -> None:
    night.connection_trouble = InvalidArgument("org_id", "", "must be 24 hexadecimal digits and @AdobeOrg")

    async def work() -> list[Any]:
        return await asyncio.gather(*(night.end("x") for _ in range(100)), return_exceptions=True)

    assert {InvalidArgument} == {type(error) for error in night.run(work())}
    assert len(night.look_ups) == 1


def test_a_bug_of_ours_reaches_every_wait_and_no_later_one(night: Night) -> None:
    """Nobody hangs, and the next wait does not join a poller that is dead."""
    night.session_trouble = ZeroDivisionError("a bug")

    async def work() -> None:
        run_id = night.start()
        ended = await asyncio.gather(*(night.end(run_id) for _ in range(10)), return_exceptions=True)
        assert {ZeroDivisionError} == {type(error) for error in ended}
        async with night.subscribe(run_id):
            await asyncio.sleep(2)
            night.session_trouble = None
            assert run_id == (await night.end(run_id)).id

    night.run(work())


def test_an_id_that_adobe_refuses_ends_one_wait(night: Night) -> None:
    night.adobe.platform.refuse_filter("id", several=False, code=1452)
    runs = [night.start(), night.start()]

    async def work() -> list[Any]:
        pair = asyncio.gather(*(night.end(run_id) for run_id in runs), return_exceptions=True)
        await asyncio.sleep(10)
        ended = await asyncio.gather(
            night.end("x", hook=EmulatorHook(night, sandbox_name="dev")), return_exceptions=True
        )
        return [*ended, *await pair]

    alone, first, second = night.run(work())
    assert isinstance(alone, RequestRefused)
    assert runs == [first.id, second.id]


# -- what it costs --------------------------------------------------------------------------------------------------


def test_a_wait_takes_less_than_six_kilobytes(night: Night) -> None:
    """With the task that waits, and what the emulator makes of it; Airflow's own part comes on top."""
    runs = [night.start() for _ in range(1_000)]

    async def work() -> float:
        first = asyncio.create_task(night.end(runs[0], ceiling=60))
        await asyncio.sleep(30)
        gc.collect()
        tracemalloc.start()
        waits = [asyncio.create_task(night.end(run_id, ceiling=60)) for run_id in runs]
        await asyncio.sleep(200)
        gc.collect()
        size = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        await asyncio.gather(first, *waits)
        return size / len(waits)

    assert night.run(work()) < 6_144


def test_a_wait_says_nothing_while_nothing_changes(night: Night, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    night.run(night.end(night.start()))
    assert [each for each in caplog.records if each.name.startswith("airflow_provider_aep")] == []


# -- waits that cannot end, and secrets of others -------------------------------------------------------------------


@pytest.mark.parametrize("is_first", [True, False])
def test_a_wrong_secret_in_one_connection_ends_only_its_own_waits(night: Night, is_first: bool) -> None:
    """Neither does it end another's, nor does it ride on another's token; same client ID, same sandbox."""
    run_id = night.start()
    hooks = {"good": EmulatorHook(night, "good"), "wrong": EmulatorHook(night, "wrong", secret="p8e-wrong")}
    names = ["wrong", "good"] if is_first else ["good", "wrong"]

    async def work() -> None:
        waits = {}
        for name in names:
            waits[name] = asyncio.create_task(night.end(run_id, hook=hooks[name], ceiling=60))
            await asyncio.sleep(20)
        with pytest.raises(AccessDenied):
            await waits["wrong"]
        assert (await waits["good"]).id == run_id

    night.run(work())


def gone(night: Night) -> None:
    assert night.adobe.call("DELETE", f"/flows/{night.dataflow}").is_success


def disabled(night: Night) -> None:
    night.adobe.platform.sandbox().collections["flows"].items[night.dataflow]["state"] = "disabled"


def rescheduled(night: Night) -> None:
    night.adobe.platform.sandbox().collections["flows"].items[night.dataflow]["scheduleParams"]["interval"] = 12


@pytest.mark.parametrize(
    ("happen", "why"), [(gone, "is gone"), (disabled, "it is disabled"), (rescheduled, "was changed")]
)
def test_waits_for_a_dataflow_that_makes_no_run_any_more_are_sent_back(
    night: Night, happen: Callable[[Night], None], why: str
) -> None:
    """To their tasks, which decide; for one request a poll, however many they are."""
    there = night.adobe.platform.sandbox().collections["flows"].items[night.dataflow]["scheduleParams"]

    async def sent_back() -> str:
        with pytest.raises(NoRunExpected) as reason:
            await night.end(since=10**6, ceiling=60, schedule=fingerprint(there))
        return str(reason.value)

    async def work() -> list[str]:
        waits = [asyncio.create_task(sent_back()) for _ in range(300)]
        await asyncio.sleep(400)
        happen(night)
        return list(await asyncio.gather(*waits))

    assert all(why in text for text in night.run(work()))
    paths = [each.path.rpartition("flowservice")[2].split("/")[1] for each in list(night.adobe.platform.requests)[1:]]
    assert 1 <= paths.count("flows") <= paths.count("runs")


def test_an_outage_is_told_to_each_wait_once_and_its_end(night: Night) -> None:
    async def work() -> list[str]:
        told: list[str] = []
        async with night.subscribe(night.start(), ceiling=60) as subscription:
            await subscription.next_update()
            night.adobe.platform.faults.status("GET /runs", 503, times=4)
            while True:
                update = await subscription.next_update()
                if not isinstance(update, str):
                    return told
                told.append(update)

    told = night.run(work())
    assert len(told) == 2
    assert "HTTP 503" in told[0]
    assert told[0].endswith("; the wait goes on")
    assert told[1] == "Adobe answers again; the wait goes on"
