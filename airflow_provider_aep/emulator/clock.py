"""The emulator's own time, which may run fast, stand still, or be moved by hand."""

from __future__ import annotations

import math
import threading
import time

_END = 221_845_392_000.0  # the year 9000: dates of five digits are none to Python


class Clock:
    """Emulated time in seconds since 1970 UTC; `speed` emulated seconds pass in each real one.

    With `speed=0` time stands still until `advance` moves it, which is what most tests want. With `until_now` it stands
    still at `start` until `begin`, then runs at its speed until it meets the real time, and never overtakes it: so a
    scheduler of real time finds its past days made up for.

    Raises:
        ValueError: `speed` is negative or not finite.
    """

    def __init__(self, speed: float = 1.0, start: float | None = None, *, until_now: bool = False) -> None:
        if not (math.isfinite(speed) and speed >= 0):
            raise ValueError(f"speed={speed!r}: emulated seconds for each real second, 0 or more, are expected")
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
        """Let time run, if it does not yet."""
        with self._lock:
            if self._origin is None:
                self._origin = time.monotonic()

    def advance(self, seconds: float) -> float:
        """Move time forward by `seconds` and return the new moment.

        Raises:
            ValueError: `seconds` is negative or too many; runs that happened cannot unhappen.
        """
        if not (math.isfinite(seconds) and seconds >= 0):
            raise ValueError(f"seconds={seconds!r}: time moves forward only, by 0 seconds or more")
        with self._lock:
            if self._now() + seconds > _END:
                raise ValueError(f"seconds={seconds!r}: emulated time ends with the year 9000")
            self._start += seconds
            return self._now()

    def move_to(self, moment: float) -> None:
        """Move time forward to `moment` (seconds since 1970 UTC), if it is still to come."""
        with self._lock:
            self._start += max(0.0, moment - self._now())

    def _now(self) -> float:
        passed = 0.0 if self._origin is None else time.monotonic() - self._origin
        return min(time.time() if self._until_now else _END, self._start + passed * self.speed)
