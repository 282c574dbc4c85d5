"""The emulator's own time, which may run fast, stand still, or be moved by hand."""

from __future__ import annotations

import math
import threading
import time

_END = 221_845_392_000.0  # the year 9000: dates of five digits are none to Python


class Clock:
    """Emulated time in seconds since 1970 UTC; `speed` emulated seconds pass in each real one.

    With `speed=0` time stands still until `advance` moves it, which is what most tests want.

    Raises:
        ValueError: `speed` is negative or not finite.
    """

    def __init__(self, speed: float = 1.0, start: float | None = None) -> None:
        if not (math.isfinite(speed) and speed >= 0):
            raise ValueError(f"speed={speed!r}: emulated seconds for each real second, 0 or more, are expected")
        self.speed = speed
        self._lock = threading.Lock()
        self._origin = time.monotonic()
        self._start = time.time() if start is None else float(start)

    def now(self) -> float:
        """The emulated moment in seconds since 1970 UTC."""
        with self._lock:
            return self._now()

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
        return min(_END, self._start + (time.monotonic() - self._origin) * self.speed)
