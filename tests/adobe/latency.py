"""How long a procedure takes where each request takes one round trip and only a few are on their way at a time."""

from __future__ import annotations

import functools
import heapq
import itertools
from collections import deque
from collections.abc import Callable, Generator
from typing import Any

from airflow_provider_aep.api.effects import Call, Gather, ServerTime, Sleep
from airflow_provider_aep.api.session import IN_FLIGHT, Session
from airflow_provider_aep.errors import AepError, first_of

Steps = Generator[Any, Any, Any]
Done = Callable[[Any, AepError | None], None]


class RoundTrips:
    """Performs procedures as a session does, side by side what they gather, and counts round trips.

    Tokens cost nothing here, and sleeping, in seconds, is as long as so many round trips.
    """

    def __init__(self, session: Session, in_flight: int = IN_FLIGHT) -> None:
        self.session = session
        self.now = 0.0
        self._free = in_flight
        self._queue: deque[Callable[[], None]] = deque()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = itertools.count()

    def run(self, procedure: Steps) -> Any:
        ended: list[Any] = []
        self._go_on(procedure, functools.partial(next, procedure), lambda *outcome: ended.append(outcome))
        while not ended:
            self.now, _, happen = heapq.heappop(self._events)
            happen()
        result, error = ended[0]
        if error:
            raise error
        return result

    def _at(self, moment: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._events, (moment, next(self._number), happen))

    def _go_on(self, steps: Steps, resume: Callable[[], Any], done: Done) -> None:
        try:
            step = resume()
        except StopIteration as end:
            return done(end.value, None)
        except AepError as error:
            return done(None, error)
        if isinstance(step, Call):
            self._queue.append(lambda: self._at(self.now + 1, lambda: self._answer(steps, step, done)))
            return self._send()
        if isinstance(step, Gather):
            return self._gather(steps, step, done)
        value = int(self.session.clock() * 1000) if isinstance(step, ServerTime) else None
        later = self.now + (step.seconds if isinstance(step, Sleep) else 0)
        return self._at(later, lambda: self._go_on(steps, lambda: steps.send(value), done))

    def _send(self) -> None:
        while self._queue and self._free:
            self._free -= 1
            self._queue.popleft()()

    def _answer(self, steps: Steps, call: Call[Any], done: Done) -> None:
        self._free += 1
        try:
            value = self.session.run(call)
        except AepError as error:
            resume = functools.partial(steps.throw, error)
        else:
            resume = functools.partial(steps.send, value)
        self._go_on(steps, resume, done)
        self._send()

    def _gather(self, steps: Steps, step: Gather, done: Done) -> None:
        outcomes: dict[int, tuple[Any, AepError | None]] = {}

        def end(number: int, value: Any, error: AepError | None) -> None:
            outcomes[number] = (value, error)
            if len(outcomes) < len(step.procedures):
                return
            errors = [failure for _, failure in outcomes.values() if failure]
            if errors:
                self._go_on(steps, lambda: steps.throw(first_of(errors)), done)
            else:
                results = [outcomes[each][0] for each in range(len(step.procedures))]
                self._go_on(steps, lambda: steps.send(results), done)

        for number, procedure in enumerate(step.procedures):
            self._go_on(procedure, functools.partial(next, procedure), functools.partial(end, number))
