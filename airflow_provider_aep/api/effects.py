"""What a procedure may ask a session for: a call, a sleep, Adobe's time, or several procedures side by side."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request to Adobe and how to read its reply; nothing is sent until a session runs it.

    `path` is relative to the Flow Service unless it starts with /data. `read` is None where the reply is not looked at.
    """

    method: str
    path: str
    read: Callable[[Any], T] | None = None
    query: Sequence[tuple[str, str]] = ()
    body: Any = field(default=None, repr=False)  # a base connection's holds a secret
    headers: Mapping[str, str] = field(default_factory=dict)  # "" leaves out one that is sent otherwise
    repeatable: bool = False  # may be sent twice without doing anything twice

    def __iter__(self) -> Procedure[T]:
        reply: T = yield self
        return reply

    def __str__(self) -> str:
        return f"{self.method} {self.path.partition('?')[0]}"


@dataclass(frozen=True)
class Sleep:
    """A wait between two requests."""

    seconds: float


@dataclass(frozen=True)
class ServerTime:
    """Adobe's present time in milliseconds since 1970 UTC, as its last reply told it."""


@dataclass(frozen=True)
class Gather:
    """Procedures that do not depend on one another: run side by side, answered by the list of their results.

    All are run to their end before a failure of one is raised, so that it is known what was made.
    """

    procedures: Sequence[Procedure[Any]]


Effect = Call[Any] | Sleep | ServerTime | Gather
Procedure = Generator[Effect, Any, T]


def gather(*procedures: Procedure[Any] | None) -> Procedure[list[Any]]:
    """Run procedures side by side; None answers None, and a single one costs no thread and no task."""
    given = [procedure for procedure in procedures if procedure is not None]
    if len(given) > 1:
        results: list[Any] = yield Gather(given)
    else:
        results = []
        for procedure in given:
            results.append((yield from procedure))
    remaining = iter(results)
    return [None if procedure is None else next(remaining) for procedure in procedures]
