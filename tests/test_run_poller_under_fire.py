"""A night of everything at once: each wait ends exactly once, with its own run, and nobody asks too often.

On the clock of `test_run_poller`, against the emulator: waits join, leave and are cancelled, the token ends, the secret
is rotated, requests fail at random, Adobe asks to be left alone, is away for ten minutes, refuses filters, and shows
runs late, among twenty thousand others.
"""

from __future__ import annotations

import asyncio
import logging
import random
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_aep.api.entities import FlowRun
from tests.adobe.caller import START
from tests.test_run_poller import EmulatorHook, Night, told

RUN_SECONDS = 900


class Duty:
    """The tasks of one night, and what became of each."""

    def __init__(self, night: Night, seed: int) -> None:
        self.night = night
        self.chance = random.Random(seed)
        self.ends: dict[str, list[FlowRun]] = {}
        self.cancelled = 0

    async def given(self, run_id: str, delay: float) -> None:
        """A trigger that knows its run."""
        await asyncio.sleep(delay)
        connection = self.chance.choice(["aep_default", "aep_other"])
        ceiling = self.chance.choice([60, 300, 3_600])
        run = await self.night.end(run_id, hook=EmulatorHook(self.night, connection), ceiling=ceiling)
        self.ends.setdefault(run_id, []).append(run)

    async def awaited(self, delay: float) -> None:
        """A trigger that waits for the next run of its dataflow; several of one moment mean the same run."""
        await asyncio.sleep(delay)
        since = asyncio.get_running_loop().time()
        run = await self.night.end(since=since, ceiling=300)
        runs = [run for run in self.night.adobe.platform.live("runs") if run["flowId"] == self.night.dataflow]
        later = [each for each in runs if each["createdAt"] >= int((START + since) * 1000)]
        assert run.id == min(later, key=lambda each: (each["createdAt"], each["id"]))["id"]
        self.ends.setdefault(f"since {delay}", []).append(run)

    async def fickle(self, run_id: str, delay: float) -> None:
        """A trigger whose task is cleared after a while."""
        await asyncio.sleep(delay)
        try:
            async with asyncio.timeout(self.chance.uniform(0, 600)):
                await self.night.end(run_id)
        except TimeoutError:
            self.cancelled += 1


@pytest.mark.parametrize("refused", [(), ("updatedAt",), ("createdAt", "orderby"), ("lists",)])
def test_each_wait_ends_once_with_its_own_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, refused: tuple[str, ...]
) -> None:
    caplog.set_level(logging.INFO)
    night = Night(tmp_path, run_seconds=RUN_SECONDS, late_seconds=120, list_delay=45)
    platform, faults = night.adobe.platform, night.adobe.platform.faults
    platform.add_history(night.dataflow, 20_000, every_seconds=600)
    duty = Duty(night, seed=len(refused))
    for path in refused:
        if path == "lists":
            platform.refuse_filter("*", kind="runs", several=True, code=1443)
        else:
            operator = {"orderby": "orderby"}.get(path)
            platform.refuse_filter("*" if operator else path, kind="runs", operator=operator, code=1448)

    async def trouble() -> None:
        await asyncio.sleep(60)
        faults.mix(0.1, match="GET /runs", seed=1)
        await asyncio.sleep(120)
        platform.expire_tokens()
        await asyncio.sleep(60)
        faults.status("GET /runs", 429, retry_after="150", times=3)
        await asyncio.sleep(120)
        night.secret = "p8e-the-next-secret"
        platform.set_client_secrets(night.secret)
        platform.expire_tokens()
        await asyncio.sleep(120)
        faults.clear()
        faults.refuse("*", times=None)
        await asyncio.sleep(600)
        faults.clear()

    async def work() -> list[Any]:
        runs = [night.start() for _ in range(150)]
        tasks = [duty.given(run_id, duty.chance.choice([0, 0, duty.chance.uniform(0, 1_500)])) for run_id in runs]
        tasks += [duty.fickle(duty.chance.choice(runs), duty.chance.uniform(0, 1_000)) for _ in range(40)]
        tasks += [duty.awaited(number * 37.0) for number in range(30)]
        ended = await asyncio.gather(trouble(), *tasks, return_exceptions=True)
        assert [None] * len(ended) == ended
        return runs

    runs = night.run(work())
    for run_id in runs:
        assert [run_id] == [run.id for run in duty.ends[run_id]]
    assert all(len(each) == 1 for each in duty.ends.values())
    assert len(duty.ends) == 180
    assert duty.cancelled
    assert len(told(caplog, logging.WARNING)) < 60
    night.adobe.http.close()
