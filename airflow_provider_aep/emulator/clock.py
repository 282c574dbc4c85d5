"""The emulator's own time, which may run fast, stand still, or be moved by hand, and the timers set in it."""

from __future__ import annotations

import heapq
import itertools
import math
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

_END = 221_845_392_000.0  # the year 9000; Python has no dates of five-digit years


class Clock:
    """Emulated time in seconds since 1970 UTC; `speed` emulated seconds pass in each real one.

    With `speed=0` time stands still until `advance` moves it, which is what most tests want. With `until_now` it stands
    still at `start` until `begin`, then runs at its speed until it meets real time, and never overtakes it: a scheduler
    in real time finds its past days caught up.

    Raises:
        ValueError: `speed` is negative or not finite.
    """

    def __init__(self, speed: float = 1.0, start: float | None = None, *, until_now: bool = False) -> None:
        if not (math.isfinite(speed) and speed >= 0):
            raise ValueError(f"speed={speed!r}: expected emulated seconds per real second, 0 or more")
        self.speed = speed
        self._lock = threading.Lock()
        self._until_now = until_now
        self._origin: float | None = None if until_now else time.monotonic()
        self._start = time.time() if start is None else float(start)

    def now(self) -> float:
        """The emulated moment in seconds since 1970 UTC."""
        with self._lock:
            return self._now()

    def begin(self) -> None:
        """Start time, if it is not running yet."""
        with self._lock:
            if self._origin is None:
                self._origin = time.monotonic()

    def advance(self, seconds: float) -> float:
        """Move time forward by `seconds` and return the new moment.

        Raises:
            ValueError: `seconds` is negative or too large; runs that happened cannot unhappen.
        """
        if not (math.isfinite(seconds) and seconds >= 0):
            raise ValueError(f"seconds={seconds!r}: time moves forward only, by 0 seconds or more")
        with self._lock:
            if self._now() + seconds > _END:
                raise ValueError(f"seconds={seconds!r}: emulated time ends with the year 9000")
            self._start += seconds
            return self._now()

    def move_to(self, moment: float) -> None:
        """Move time forward to `moment` (seconds since 1970 UTC), unless that is past."""
        with self._lock:
            self._start += max(0.0, moment - self._now())

    def _now(self) -> float:
        passed = 0.0 if self._origin is None else time.monotonic() - self._origin
        return min(time.time() if self._until_now else _END, self._start + passed * self.speed)


@dataclass(order=True)
class Timer:
    """Something that is due at an emulated moment: `step` says what, `key` of which entity."""

    due: float
    serial: int
    step: str = field(compare=False)
    key: str = field(compare=False)
    generation: int = field(compare=False, default=0)


class Timers:
    """Everything that is still to happen, earliest first."""

    def __init__(self) -> None:
        self._heap: list[Timer] = []
        self._serials = itertools.count()

    def at(self, due: float, step: str, key: str, generation: int = 0) -> None:
        heapq.heappush(self._heap, Timer(due, next(self._serials), step, key, generation))

    def pop_due(self, now: float) -> Iterator[Timer]:
        """Each timer that is due by `now`, those included that are set meanwhile."""
        while self._heap and self._heap[0].due <= now:
            yield heapq.heappop(self._heap)

    def next_due(self) -> float | None:
        """The emulated moment of the earliest timer, if any."""
        try:  # read without the platform's lock: between the check and the read the last timer may go
            return self._heap[0].due
        except IndexError:
            return None

    def dump(self) -> list[list[Any]]:
        return [[timer.due, timer.step, timer.key, timer.generation] for timer in sorted(self._heap)]

    def load(self, saved: list[list[Any]]) -> None:
        for due, step, key, generation in saved:
            self.at(due, step, key, generation)
