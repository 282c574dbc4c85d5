"""The process that is measured: `n` waits of one subject in one event loop, run by Airflow's own trigger runner.

Started by `lab`. Prints a JSON line when all triggers are started, one for each line of its input (CPU seconds of this
process, resident bytes, event-loop lags since the last one), and one when every wait has ended.
Log lines are made as in a triggerer and go nowhere; what shipping them costs is measured by `triggerer`.
"""

import argparse
import asyncio
import gc
import json
import os
import resource
import sys
import threading
import time
from typing import Any

from subjects import SUBJECTS

PROBE_SECONDS = 0.05
# Triggers started between two turns of the loop. A triggerer starts one; 10,000 peers would take minutes to start so.
BATCH = 1000


class Probe:
    """How late the loop runs what is due. A hold is counted at each tick it swallowed, not once."""

    def __init__(self) -> None:
        self.lags: list[float] = []

    async def run(self) -> None:
        due = time.monotonic()
        while True:
            due += PROBE_SECONDS
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            late = time.monotonic() - due
            self.lags.append(late)
            while late > PROBE_SECONDS:
                late -= PROBE_SECONDS
                due += PROBE_SECONDS
                self.lags.append(late)


def say(**figures: Any) -> None:
    print(json.dumps(figures), flush=True)


def answer_marks(probe: Probe, loop: asyncio.AbstractEventLoop) -> None:
    """In a thread, so that a loop that is held cannot delay the clock readings."""
    import bare
    import psutil

    process = psutil.Process()
    for line in sys.stdin:
        if line.strip() == "collect":
            gc.collect()
        elif line.strip() == "fire":
            loop.call_soon_threadsafe(bare.NOW.set)
        lags, probe.lags = probe.lags, []
        say(cpu=time.process_time(), rss=process.memory_info().rss, now=time.monotonic(), lags=lags)


async def waits(triggers: list[Any]) -> list[tuple[float, str]]:
    """Run the triggers as a triggerer does; returns when each fired, and with which status."""
    from airflow.jobs.triggerer_job_runner import TriggerRunner

    runner = TriggerRunner()

    async def one(number: int, trigger: Any) -> tuple[float, str]:
        await runner.run_trigger(number, trigger)
        return time.monotonic(), "fired" if runner.triggers[number]["events"] else "lost"

    tasks = []
    begin = time.monotonic()
    for number, trigger in enumerate(triggers):
        if number % BATCH == 0:
            await asyncio.sleep(0)
        runner.triggers[number] = {"name": f"benchmark {number}", "events": 0, "is_watcher": False, "task": None}
        tasks.append(asyncio.create_task(one(number, trigger), name=f"benchmark {number}"))
    say(started=time.monotonic() - begin)
    try:
        return await asyncio.gather(*tasks)
    finally:
        bad = [entry.event.payload for entry in runner.events if not good(entry.event.payload)]
        if bad:
            say(bad=len(bad), example=str(bad[0])[:300])


def good(payload: Any) -> bool:
    return payload is True or (isinstance(payload, dict) and payload.get("status") in {"success", "completed", "ended"})


async def measure(arguments: argparse.Namespace) -> None:
    probe = Probe()
    probing = asyncio.create_task(probe.run())
    threading.Thread(target=answer_marks, args=(probe, asyncio.get_running_loop()), daemon=True).start()
    triggers = SUBJECTS[arguments.subject].triggers(arguments.n, arguments.base_url, arguments.interval)
    ends = await waits(triggers)
    lost = sum(status == "lost" for _, status in ends)
    say(ends=[when for when, _ in ends], lost=lost, lags=probe.lags)
    probing.cancel()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("subject", choices=SUBJECTS)
    parser.add_argument("n", type=int)
    parser.add_argument("base_url")
    parser.add_argument("interval", type=float)
    arguments = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    from airflow.sdk.log import configure_logging

    with open(os.devnull, "wb", buffering=0) as nowhere:
        configure_logging(json_output=True, output=nowhere, sending_to_supervisor=True)
        asyncio.run(measure(arguments))


if __name__ == "__main__":
    main()
