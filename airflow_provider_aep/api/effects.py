"""What a procedure may ask a session for: a call, a sleep, Adobe's time, or several procedures side by side."""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request to Adobe and how to read its reply; nothing is sent until a session runs it.

    `path` is relative to the Flow Service unless it starts with /data. `read` is None if the reply does not matter.
    """

    method: str
    path: str
    read: Callable[[Any], T] | None = None
    query: Sequence[tuple[str, str]] = ()
    body: Any = field(default=None, repr=False)  # a base connection's holds a secret
    headers: Mapping[str, str] = field(default_factory=dict)  # "" leaves out a default one
    repeatable: bool = False  # may be sent twice without doing anything twice
    sandbox_name: str = ""  # "" means the session's

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
    """Adobe's time in milliseconds since 1970 UTC, reckoned from its last reply."""


@dataclass(frozen=True)
class Gather:
    """Procedures that do not depend on one another, to run side by side; answered by the list of their results.

    All of them end before the failure of one is raised, so that it is known what was created.
    """

    procedures: Sequence[Procedure[Any]]


Effect = Call[Any] | Sleep | ServerTime | Gather
Procedure = Generator[Effect, Any, T]


def gather(*procedures: Procedure[Any] | None) -> Procedure[list[Any]]:
    """The results of procedures run side by side, None for None; a single one costs no thread and no task."""
    present = [procedure for procedure in procedures if procedure is not None]
    if len(present) > 1:
        results: list[Any] = yield Gather(present)
    else:
        results = []
        for procedure in present:
            results.append((yield from procedure))
    remaining = iter(results)
    return [None if procedure is None else next(remaining) for procedure in procedures]


def dated(procedure: Procedure[T]) -> Procedure[tuple[T, int]]:
    """What a procedure returns, and Adobe's time then, in milliseconds since 1970 UTC."""
    result = yield from procedure
    return result, (yield ServerTime())


def in_sandbox(sandbox_name: str, procedure: Procedure[T]) -> Procedure[T]:
    """The same procedure in another sandbox than the session's, so that one session serves several sandboxes."""
    with closing(procedure):
        go_on = functools.partial(next, procedure)
        while True:
            try:
                step = go_on()
            except StopIteration as end:
                result: T = end.value
                return result
            try:
                reply = yield _in_sandbox(sandbox_name, step)
            except Exception as error:
                go_on = functools.partial(procedure.throw, error)
            else:
                go_on = functools.partial(procedure.send, reply)


def _in_sandbox(sandbox_name: str, step: Effect) -> Effect:
    if isinstance(step, Call):
        return replace(step, sandbox_name=step.sandbox_name or sandbox_name)
    if isinstance(step, Gather):
        return Gather([in_sandbox(sandbox_name, procedure) for procedure in step.procedures])
    return step
