"""What goes on at once: threads of a session, replies that tell the time, tokens, and work that is shared."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from airflow_provider_aep.api.calls import list_page
from airflow_provider_aep.api.effects import Call, Procedure, ServerTime
from airflow_provider_aep.api.entities import DataflowId, FlowRunId
from airflow_provider_aep.api.runs.index import BATCH_SIZE, Capabilities, PendingRun, RunIndex
from airflow_provider_aep.api.runs.poll import ABREAST, poll
from airflow_provider_aep.api.session import AsyncSession, Session
from airflow_provider_aep.errors import AccessDenied, PlatformUnavailable
from airflow_provider_aep.schedules import Every
from tests.adobe.in_process import Adobe
from tests.canned import Canned, answers, ok, raw
from tests.conftest import Runner, settings_for_tests
from tests.exports import BEGINS_ON, desired

LIST = list_page("/flows")
EMPTY = ok({"items": []})
README = (Path(__file__).parents[1] / "README.md").read_text()


@pytest.fixture
def hurried_threads() -> Iterator[None]:
    """Threads that take turns as often as they can."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


def test_an_iterator_that_ends_within_a_request_is_no_result(run: Runner) -> None:
    """A procedure ends by StopIteration; one from the reading of a reply must not be taken for that."""
    answers(run, EMPTY)
    with pytest.raises((StopIteration, RuntimeError)):
        run(Call("GET", "/flows", read=lambda _: next(iter(()))))


def test_adobes_time_is_that_of_one_reply() -> None:
    """While one thread works out the time, another one's reply tells a later one."""
    first = datetime(2026, 1, 1, tzinfo=UTC)
    elapsed = 0.0
    is_overtaken = False

    def respond(request: httpx.Request) -> httpx.Response:
        if "/ims/" in request.url.path:
            return ok({"access_token": "t", "expires_in": 86399})
        return raw('{"items": []}', date=format_datetime(first + timedelta(seconds=elapsed), usegmt=True))

    def clock() -> float:
        nonlocal elapsed, is_overtaken
        if is_overtaken:
            is_overtaken = False
            elapsed = 1000.0
            other = threading.Thread(target=session.run, args=[LIST])
            other.start()
            other.join()
        return elapsed

    def now() -> Procedure[int]:
        told: int = yield ServerTime()
        return told

    with Session(settings_for_tests(), transport=httpx.MockTransport(respond), clock=clock) as session:
        session.run(LIST)
        is_overtaken = True
        assert session.run(now()) == (first.timestamp() + 1000) * 1000


def slowly(reply: httpx.Response) -> Callable[[httpx.Request], httpx.Response]:
    """So that all lines of work come for their next part at the same moment."""

    def respond(request: httpx.Request) -> httpx.Response:
        time.sleep(0.002)
        return reply

    return respond


@pytest.mark.usefixtures("hurried_threads")
def test_each_part_of_a_poll_is_asked_for_once_by_threads(run: Runner) -> None:
    """Six lines of work share what is to be asked; the worker's session runs them in threads."""
    for _ in range(20):
        watched = RunIndex(Capabilities(), lambda _: None)
        ids = [f"run-{number:05d}" for number in range((ABREAST + 1) * BATCH_SIZE)]
        for run_id in ids:
            watched.add(PendingRun(DataflowId("flow"), 0, FlowRunId(run_id)))
        canned = answers(run, slowly(EMPTY))
        run(poll(watched))
        asked = Counter(
            run_id
            for request in canned.requests
            for run_id in request.url.params["property"].partition("id==")[2].split(",")
        )
        assert asked == Counter(ids)


class SlowAdobe(Adobe):
    """Takes a moment for each token, so that whoever asks meanwhile has to wait or to ask as well."""

    def respond(self, request: httpx.Request) -> httpx.Response:
        if "/ims/" in request.url.path:
            time.sleep(0.05)
        return super().respond(request)

    def tokens_asked_for(self) -> int:
        return sum("/ims/" in each.path for each in self.platform.requests)


def test_a_set_up_begins_with_one_request_for_a_token() -> None:
    """Its four first questions are put at once."""
    adobe = SlowAdobe()
    adobe.task(desired())
    assert adobe.tokens_asked_for() == 1


def test_a_set_up_whose_token_is_refused_asks_once() -> None:
    adobe = SlowAdobe()
    adobe.faults.status("POST /ims/token/v3", 401, times=None)
    with pytest.raises(AccessDenied):
        adobe.task(desired(), tries=1)
    assert adobe.tokens_asked_for() == 1
    assert adobe.requests() == []


def test_a_token_that_airflow_cannot_mask_ends_no_wait() -> None:
    """In the triggerer, where one token serves all waits of a sandbox."""

    async def fail(token: str) -> None:
        raise RuntimeError(token)

    async def work() -> Any:
        transport = httpx.MockTransport(Canned(EMPTY).respond)
        async with AsyncSession(settings_for_tests(), transport=transport, on_token=fail) as session:
            return await session.run(LIST)

    assert asyncio.run(work()).items == []


def test_an_outage_is_given_up_when_the_readme_says(run: Runner) -> None:
    canned = answers(run, raw(status=503))
    with pytest.raises(PlatformUnavailable):
        run(LIST)
    assert "six times in about half a minute" in README
    assert len(canned.requests) == run.settings.attempts == 6
    assert 30 <= sum(run.slept) <= 37


@pytest.mark.parametrize("if_exists", ["reuse", "update"])
def test_a_dataflow_whose_end_is_an_empty_text_has_none(if_exists: Any) -> None:
    adobe = Adobe()
    endless = desired(schedule=Every(hours=3, start=BEGINS_ON))
    ids = adobe.task(endless)
    adobe.the("flows")["scheduleParams"]["endTime"] = ""
    assert adobe.task(endless, name="dag.export, run 2", if_exists=if_exists) == ids
