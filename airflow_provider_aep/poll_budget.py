"""What a poller may ask beyond one request for each interval: upkeep, and polls when a run usually ends."""

from __future__ import annotations

#: Whoever wants polls more often than this does not count requests, and may be on a clock that runs faster.
MINUTE = 60.0
#: One more request in so many intervals. With a poll a minute: 63 requests an hour, and never more than 65.
INTERVALS = 20
#: Requests saved up, for two runs that end soon one after the other. Upkeep leaves one of them ...
MOST_SAVED = 2.0
#: ... unless it was last done so many intervals ago, so that thousands of runs do not keep it off.
MOST_INTERVALS = 2 * INTERVALS


class PollBudget:
    """A token bucket that upkeep and early polls share, however many waits there are."""

    def __init__(self, now: float) -> None:
        self._saved = MOST_SAVED
        self._filled_at = now
        self._since_upkeep = 0.0  # intervals

    def fill(self, now: float, interval: float) -> None:
        """Let time pass; `now` and `interval` are in seconds, by the loop's. Below a minute each poll gets one."""
        intervals = (now - self._filled_at) / interval
        self._filled_at = now
        self._saved = min(self._saved + intervals / (INTERVALS if interval >= MINUTE else 1), MOST_SAVED)
        self._since_upkeep += intervals

    def take_for_upkeep(self) -> bool:
        """Take a request; False if there is none to spare. To be asked before early polls are."""
        if self._saved < (MOST_SAVED if self._since_upkeep < MOST_INTERVALS else 1):
            return False
        self._saved -= 1
        self._since_upkeep = 0.0
        return True

    def take_for_early_poll(self) -> bool:
        """Take a request; False if there is none to spare."""
        if self._saved < 1:
            return False
        self._saved -= 1
        return True
