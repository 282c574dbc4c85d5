"""One wait of an hour: how many requests it sends, and how long after the run's end it knows.

The hour passes in seconds: service and trigger share one event loop whose clock jumps over each idle stretch, so the
triggers run as they are. Each subject has a process of its own. `--child` is what that process runs.
"""

import argparse
import asyncio
import json
import os
import selectors
import sys
import time
from typing import Any

from lab import PEERS, Child, Lab, Row, main
from server import Connection, Service
from subjects import SUBJECTS, connections

GRACE = 0.005  # real seconds for a thread of the trigger to answer before idle time is skipped
ENDS = [3600, 3333, 2718, 1234, 600]  # seconds after which the run ends; requests are those of the first
MORE_ENDS = range(3300, 3900, 23)  # ours also, for a median over all seconds of a minute


class Clock:
    """`time.time` and `time.monotonic`, some way ahead of the machine's once `skips` is set."""

    def __init__(self) -> None:
        self.ahead, self.skips = 0.0, False
        real_time, real_monotonic = time.time, time.monotonic
        time.time = lambda: real_time() + self.ahead
        time.monotonic = lambda: real_monotonic() + self.ahead


class SkippingSelector(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
    """Where a loop would sleep, the clock jumps."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None or not self.clock.skips:
            return super().select(timeout)
        patience = max(0.0, min(GRACE, timeout))
        ready = super().select(patience)
        if not ready and timeout > patience:
            self.clock.ahead += timeout - patience
        return ready


async def wait(subject: str, interval: float, end: float) -> tuple[int, float]:
    """One wait for a run that ends after `end` seconds: requests sent, seconds from its end to the event."""
    service = Service(1, latency=0, pause=1, age_seconds=0)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(service), "127.0.0.1", 0)
    base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    os.environ |= connections(base_url)
    ended: list[float] = []

    def finish() -> None:
        ended.append(time.monotonic())
        service.runs.finish()

    loop.call_later(end, finish)
    [trigger] = SUBJECTS[subject].triggers(1, base_url, interval)
    async for _ in trigger.run():
        if not ended:
            raise RuntimeError(f"{subject} ended before its run")
        delay = time.monotonic() - ended[0]
        break
    server.close()
    return service.figures["requests"], delay


def child(subject: str, interval: float) -> None:
    clock = Clock()

    def run(interval: float, end: float) -> tuple[int, float]:
        with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(SkippingSelector(clock))) as runner:
            return runner.run(wait(subject, interval, end))

    run(0.5, 2)  # imports in threads would take longer than the grace
    clock.skips = True
    figures = [run(interval, end) for end in [*ENDS, *(MORE_ENDS if subject == "aep" else ())]]
    print(json.dumps({"requests": figures[0][0], "delays": [delay for _, delay in figures]}))


def one_hour(lab: Lab) -> list[Row]:
    """Peers at 5 s as in the other figures and at 60 s; ours in both as it comes, a poll a minute."""
    environment = lab.environment("http://127.0.0.1:1")
    del environment["AIRFLOW__AEP__POLL_FLOOR_SECONDS"]

    def figures(name: str, interval: int) -> dict[str, Any]:
        command = [sys.executable, "one_hour.py", "--child", name, str(interval)]
        process = Child(command, environment, lab.folder / "one_hour.log")
        said = process.read("requests")
        process.close()
        return said

    ours = {name: figures(name, 60) for name in lab.subjects(["aep"])}
    rows = []
    for interval in [60] if lab.quick else [5, 60]:
        found = {name: figures(name, interval) for name in lab.subjects(PEERS)} | ours
        requests = {name: [float(said["requests"])] for name, said in found.items()}
        delays = {name: said["delays"] for name, said in found.items()}
        rows.append(Row(f"one wait of an hour, peers at {interval} s", "requests", "<= 65", requests))
        rows.append(Row(f"delay of detection, peers at {interval} s", "s", "<= 30", delays))
    return rows


if __name__ == "__main__":
    if "--child" in sys.argv:
        parser = argparse.ArgumentParser()
        parser.add_argument("--child")
        parser.add_argument("interval", type=float)
        given = parser.parse_args()
        child(given.child, given.interval)
    else:
        main(one_hour)
