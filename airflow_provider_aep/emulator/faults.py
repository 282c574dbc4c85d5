"""Scripted trouble: refusals, lost replies, dropped lines, half an answer, silence and delay, at chosen requests."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from fnmatch import fnmatchcase
from functools import partialmethod
from typing import Any, Literal, get_args

FaultKind = Literal["status", "refuse", "reset", "lose_reply", "truncate", "hang", "delay"]
MIXED = ("status", "refuse", "reset", "lose_reply", "truncate")


_TYPES: dict[str, tuple[type, ...]] = {
    "match": (str,),
    "status": (int,),
    "retry_after": (str, type(None)),
    "after": (bool,),
    "seconds": (float, int),
    "skip": (int,),
    "times": (int, type(None)),
    "probability": (float, int),
}


@dataclass
class Fault:
    """One kind of trouble and the requests that it strikes.

    `match` is "POST /flows", "* /runs*" or "*": a method and a path with `*` and `?`; the path may be given in full
    or from Flow Service's base on. The first `skip` matching requests are spared, each later one is struck with
    `probability`, until `times` were (None: no end).

    | kind | what happens |
    | --- | --- |
    | status | `status` is answered instead of doing the work, with `after` once it is done |
    | refuse | no connection is made (over HTTP: as reset) |
    | reset | the line is cut before any work is done |
    | lose_reply | the work is done and the line is cut before the answer |
    | truncate | the work is done and half of the answer arrives |
    | hang | nothing arrives for `seconds`; with `after` the work has been done |
    | delay | the answer takes `seconds` longer |

    Raises:
        ValueError: a member has a value that makes no sense.
    """

    match: str = "*"
    kind: FaultKind = "status"
    status: int = 503
    retry_after: str | None = None
    """Sent as it is; "date:3" stands for the HTTP date in three seconds."""
    body: Literal["json", "html", "empty"] = "json"
    after: bool = False
    seconds: float = 300.0
    skip: int = 0
    times: int | None = 1
    probability: float = 1.0
    seed: int = 0
    hits: int = 0

    def __post_init__(self) -> None:
        for name, kinds in _TYPES.items():
            value = getattr(self, name)
            if not isinstance(value, kinds) or (isinstance(value, int | float) and not 0 <= value < math.inf):
                raise ValueError(f"{name}={value!r}: {kinds[0].__name__} is expected, a number from 0 on")
        if self.kind not in get_args(FaultKind):
            raise ValueError(f"kind={self.kind!r}: one of {', '.join(get_args(FaultKind))} is expected")
        if self.body not in ("json", "html", "empty"):
            raise ValueError(f"body={self.body!r}: json, html or empty is expected")
        if not 400 <= self.status <= 599:
            raise ValueError(f"status={self.status!r}: 400 to 599 is expected")
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability={self.probability!r}: 0 to 1 is expected")
        if self.retry_after is not None:
            if not self.retry_after.isascii() or not self.retry_after.isprintable():
                raise ValueError(f"retry_after={self.retry_after!r}: no header can say that")
            self.answer()  # fails if "date:…" holds no number
        self._seen = 0
        self._chance = random.Random(self.seed)

    def strikes(self, method: str, paths: Sequence[str]) -> bool:
        """Whether this request is struck; counts it."""
        wanted, _, pattern = self.match.partition(" ") if " " in self.match else ("*", "", self.match)
        if wanted not in ("*", method) or not any(fnmatchcase(path, pattern) for path in paths):
            return False
        if self.times is not None and self.hits >= self.times:
            return False
        self._seen += 1
        if self._seen <= self.skip or self._chance.random() >= self.probability:
            return False
        self.hits += 1
        return True

    @property
    def works_first(self) -> bool:
        """Whether the work is done before the trouble."""
        return self.kind in ("lose_reply", "truncate", "delay") or (self.after and self.kind in ("status", "hang"))

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of a `status` fault."""
        headers = {}
        if self.retry_after is not None:
            value = self.retry_after
            if value.startswith("date:"):
                # A header of whole seconds; one more, so that the wait is never shorter than asked for.
                moment = datetime.now(UTC) + timedelta(seconds=float(value.removeprefix("date:")) + 1)
                value = format_datetime(moment, usegmt=True)
            headers["Retry-After"] = value
        if self.body == "empty":
            return self.status, headers, b""
        if self.body == "html":
            headers["Content-Type"] = "text/html"
            return self.status, headers, b"<html><body><h1>Service trouble</h1></body></html>"
        headers["Content-Type"] = "application/json"
        code = "429050" if self.status == 429 else f"{self.status}000"
        text = "Too many requests" if self.status == 429 else "Emulated trouble"
        return self.status, headers, b'{"error_code":"%b","message":"%b"}' % (code.encode(), text.encode())


class Faults:
    """The faults in force, in the order in which they were added; the first that strikes wins.

    There is a method for each kind; `members` are those of `Fault`.
    """

    def __init__(self) -> None:
        self.all: list[Fault] = []

    def add(self, **members: Any) -> Fault:
        """Set a fault by the members of `Fault`.

        Raises:
            ValueError: a member is unknown or has a value that makes no sense.
        """
        unknown = set(members) - {field.name for field in fields(Fault)}
        if unknown:
            raise ValueError(f"unknown: {', '.join(sorted(unknown))}; a fault has {', '.join(_MEMBERS)}")
        fault = Fault(**members)
        self.all.append(fault)
        return fault

    def status(self, match: str, status: int, **members: Any) -> Fault:
        return self.add(match=match, kind="status", status=status, **members)

    def delay(self, match: str, seconds: float, **members: Any) -> Fault:
        return self.add(match=match, kind="delay", seconds=seconds, **members)

    def _of_kind(self, kind: FaultKind, match: str, **members: Any) -> Fault:
        return self.add(match=match, kind=kind, **members)

    refuse = partialmethod(_of_kind, "refuse")
    reset = partialmethod(_of_kind, "reset")
    lose_reply = partialmethod(_of_kind, "lose_reply")
    truncate = partialmethod(_of_kind, "truncate")
    hang = partialmethod(_of_kind, "hang")

    def mix(
        self, probability: float, kinds: Sequence[str] = MIXED, *, match: str = "*", seed: int = 0, **members: Any
    ) -> list[Fault]:
        """Strike about that share of all further requests, by one fault of each kind in equal parts."""
        # A fault is asked only when those before it spared the request, so later ones must strike more often.
        left, found = 1.0, []
        for number, kind in enumerate(kinds):
            share = probability / len(kinds)
            chance = {"times": None, "probability": min(1.0, share / left), "seed": seed + number}
            found.append(self.add(match=match, kind=kind, **chance, **members))
            left -= share
        return found

    def clear(self) -> None:
        self.all.clear()

    def strike(self, method: str, paths: Sequence[str]) -> Fault | None:
        """The fault that strikes this request, if any."""
        return next((fault for fault in self.all if fault.strikes(method, paths)), None)

    def describe(self) -> list[dict[str, Any]]:
        return [asdict(fault) for fault in self.all]


_MEMBERS = sorted(field.name for field in fields(Fault) if field.name != "hits")
