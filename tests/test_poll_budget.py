"""What waits cost, and how soon they notice: a poll a minute and little more, however many wait for whatever.

On the clock of `test_run_poller`, with the defaults of operator, sensor and trigger: a poll every 60 s at the most and
at the least.
"""

from __future__ import annotations

import asyncio
import inspect
import statistics
from bisect import bisect_left
from collections.abc import Callable, Coroutine
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import BaseSensorOperator
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_aep import run_poller
from airflow_provider_aep.api.entities import DataflowId
from airflow_provider_aep.operators import AepExportDatasetsOperator
from airflow_provider_aep.poll_budget import MOST_INTERVALS, PollBudget
from airflow_provider_aep.subscription import NoRunExpected
from airflow_provider_aep.triggers import AepDataflowRunTrigger
from tests.test_run_poller import Night

HOUR = 3_600
DAY = 24 * HOUR
MOST_AN_HOUR = 65

Wait = Callable[[Night, str], Coroutine[Any, Any, Any]]


@pytest.fixture(autouse=True)
def _no_durations_of_another_test() -> None:
    run_poller._capabilities.clear()


def test_all_defaults_are_a_poll_a_minute() -> None:
    def default(of: Any, argument: str) -> Any:
        return inspect.signature(of).parameters[argument].default

    assert default(AepExportDatasetsOperator, "poke_interval") == 60
    assert default(BaseSensorOperator, "poke_interval") == 60
    assert default(AepDataflowRunTrigger, "poll_seconds") == 60


# -- requests -------------------------------------------------------------------------------------------------------


async def for_a_run(night: Night, dataflow: str) -> None:
    """It is under way and takes longer than the test."""
    await night.end(night.start(dataflow), dataflow=dataflow, ceiling=60)


async def for_the_next_run(night: Night, dataflow: str) -> None:
    """Which may come at any moment, and does not."""
    since = asyncio.get_running_loop().time()
    await night.end(dataflow=dataflow, since=since, until=since + DAY, ceiling=60)


async def for_tomorrow(night: Night, dataflow: str) -> None:
    """For a slot that is a day away."""
    await night.end(dataflow=dataflow, since=DAY, until=2 * DAY, ceiling=60)


WAITS: dict[str, tuple[Wait, ...]] = {
    "a run": (for_a_run,),
    "the next run": (for_the_next_run,),
    "all sorts": (for_a_run, for_the_next_run, for_tomorrow),
}


def most_in_an_hour(moments: list[float]) -> int:
    """Of all hours that one may look at."""
    return max(bisect_left(moments, begin + HOUR) - number for number, begin in enumerate(moments))


def spend(night: Night, kinds: tuple[Wait, ...], count: int, seconds: float) -> None:
    """Let so many wait for so long."""

    async def work() -> None:
        pairs = zip(cycle(kinds), night.dataflows(count), strict=False)
        waits = [asyncio.create_task(wait(night, dataflow)) for wait, dataflow in pairs]
        await asyncio.sleep(seconds)
        assert not any(wait.done() for wait in waits)
        for wait in waits:
            wait.cancel()
        await asyncio.wait(waits)

    night.run(work())
    night.adobe.http.close()


@pytest.mark.parametrize("waiting_for", WAITS)
@pytest.mark.parametrize("count", [1, 100, 1_000])
def test_any_number_of_waits_costs_65_requests_an_hour(tmp_path: Path, count: int, waiting_for: str) -> None:
    """Once all have been asked for, a hundred at a time, and while nothing changes at Adobe."""
    night = Night(tmp_path, run_seconds=10 * DAY)
    spend(night, WAITS[waiting_for], count, 3 * HOUR)
    first = count / 100 + len(WAITS[waiting_for])
    assert most_in_an_hour([moment for moment in night.polls if moment > 300]) <= MOST_AN_HOUR
    if count <= 100:
        assert len([moment for moment in night.polls if moment < HOUR]) <= MOST_AN_HOUR + first


def test_ten_thousand_waits_cost_65_requests_an_hour(tmp_path: Path) -> None:
    night = Night(tmp_path, run_seconds=10 * DAY)
    spend(night, WAITS["all sorts"], 10_000, 300 + HOUR)
    assert most_in_an_hour([moment for moment in night.polls if moment > 300]) <= MOST_AN_HOUR


@pytest.mark.parametrize("count", [1, 100, 1_000])
def test_a_slot_that_is_a_day_away_costs_eight_requests_an_hour(tmp_path: Path, count: int) -> None:
    """The dataflow may be disabled or deleted meanwhile; its runs cannot begin."""
    night = Night(tmp_path)
    spend(night, (for_tomorrow,), count, 3 * HOUR)
    assert most_in_an_hour([moment for moment in night.polls if moment > 300]) <= 8


def test_a_thousand_runs_that_should_end_at_any_moment_get_no_poll_each(tmp_path: Path) -> None:
    """Each was expected to end at a moment of its own; none does."""
    night = Night(tmp_path, run_seconds=10 * DAY)
    spend(night, (for_a_run,), 1, 5)
    ((_, capabilities),) = run_poller._capabilities.items()
    for number, dataflow in enumerate(night.dataflows(1_000)):
        capabilities.durations_ms[DataflowId(dataflow)] = number * 10_000
    night.polls.clear()
    spend(night, (for_a_run,), 1_000, 3 * HOUR)
    assert 63 <= most_in_an_hour([moment for moment in night.polls if moment > 300]) <= MOST_AN_HOUR


@given(st.lists(st.tuples(st.floats(0, 400), st.sampled_from(["upkeep", "early", "both"])), max_size=200))
def test_whatever_is_asked_of_it_the_budget_gives_five_an_hour(asks: list[tuple[float, str]]) -> None:
    budget, now = PollBudget(0), 0.0
    given_at: list[float] = []
    for pause, purpose in asks:
        now += pause
        budget.fill(now, 60)
        if purpose in ("upkeep", "both") and budget.take_for_upkeep():
            given_at.append(now)
        if purpose in ("early", "both") and budget.take_for_early_poll():
            given_at.append(now)
    assert not given_at or most_in_an_hour(given_at) <= 5


def test_early_polls_do_not_keep_upkeep_off_nor_upkeep_early_polls() -> None:
    budget = PollBudget(0)
    kept_up, early = [], []
    for minute in range(10 * 60):
        budget.fill(minute * 60, 60)
        if budget.take_for_upkeep():
            kept_up.append(minute)
        if budget.take_for_early_poll():
            early.append(minute)
    assert max(later - sooner for sooner, later in pairwise(kept_up)) <= MOST_INTERVALS + 21
    assert len(early) >= 10


# -- how soon -------------------------------------------------------------------------------------------------------


def notice(folder: Path, run_seconds: float, *, history: bool, is_known: bool, waits: int = 1) -> list[float]:
    """Seconds from the end of a run to its event, in a process that has just started."""
    run_poller._capabilities.clear()
    night = Night(folder, run_seconds=run_seconds)
    delays: list[float] = []
    began = 0.0
    if history:
        night.start()
        night.clock.loop = None

    async def one(run_id: str | None) -> None:
        await night.end(run_id, since=began, ceiling=60)
        delays.append(asyncio.get_running_loop().time() - began - run_seconds)

    async def work() -> None:
        nonlocal began
        if history:
            await asyncio.sleep(2 * HOUR)
            night.adobe.platform.tick()
        began = asyncio.get_running_loop().time()
        run_id = night.start()
        await asyncio.gather(*(one(run_id if is_known else None) for _ in range(waits)))

    night.run(work())
    night.adobe.http.close()
    return delays


@pytest.mark.parametrize("is_known", [True, False])
def test_the_end_of_a_run_of_an_hour_is_noticed_after_30_seconds(tmp_path: Path, is_known: bool) -> None:
    """Median of runs that end at any second of a minute, which tells it to a second; 60 s at the most."""
    ends = range(HOUR, HOUR + 60, 2)
    delays = [delay for end in ends for delay in notice(tmp_path / str(end), end, history=False, is_known=is_known)]
    assert statistics.median(delays) <= 31
    assert max(delays) <= 61


@pytest.mark.parametrize("is_known", [True, False])
def test_a_run_that_takes_as_long_as_the_last_one_is_noticed_after_seconds(tmp_path: Path, is_known: bool) -> None:
    """Adobe's list of the dataflow's runs tells how long that was, even to a process that has just started."""
    ends = range(HOUR, HOUR + 60, 6)
    delays = [delay for end in ends for delay in notice(tmp_path / str(end), end, history=True, is_known=is_known)]
    assert max(delays) <= 12
    assert statistics.median(delays) <= 7


def test_an_early_poll_is_one_more_and_leaves_the_minutes_as_they_are(tmp_path: Path) -> None:
    """The run takes much longer than the last one."""
    night = Night(tmp_path, run_seconds=2_000)

    async def work() -> None:
        await night.end(night.start(), ceiling=60)
        night.adobe.platform.script_run(night.dataflow, seconds=6_000)
        night.polls.clear()
        await night.end(night.start(), ceiling=60)

    night.run(work())
    night.adobe.http.close()
    gaps = [later - sooner for sooner, later in pairwise(night.polls)]
    early = [number for number, gap in enumerate(gaps) if gap < 59]
    assert len(early) == 2
    assert early[1] == early[0] + 1
    assert gaps[early[0]] + gaps[early[1]] == pytest.approx(60, abs=0.1)
    assert night.polls[early[1]] - night.polls[0] == pytest.approx(2_005, abs=2)


# -- slots ----------------------------------------------------------------------------------------------------------


def test_a_slot_that_passes_ends_its_waits_without_a_request(tmp_path: Path) -> None:
    """Within a minute of the moment from which a run cannot be shown late any more."""
    night = Night(tmp_path)
    _, idle = night.dataflows(2)

    async def sent_back() -> None:
        with pytest.raises(NoRunExpected, match="the next slot has come"):
            await night.end(dataflow=idle, since=30, until=2_000, ceiling=60)

    async def work() -> float:
        await asyncio.gather(*(sent_back() for _ in range(300)))
        return asyncio.get_running_loop().time()

    assert 2_010 <= night.run(work()) <= 2_010 + 61
    requests = [
        each.path.rpartition("flowservice")[2].split("/")[1] for each in list(night.adobe.platform.requests)[1:]
    ]
    assert requests.count("flows") <= 2
    # The task of a wait that begins after that has just looked, and is not sent to look again at once.
    began = 3_000

    async def late() -> float:
        await asyncio.sleep(began)
        await sent_back()
        return asyncio.get_running_loop().time()

    assert began + 60 <= night.run(late()) <= began + 122
    night.adobe.http.close()
