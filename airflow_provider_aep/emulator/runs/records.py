"""What is known of dataflows and runs beside the entities that Adobe shows: how far exported, under way, scripted."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Outcome = Literal["success", "partial", "failed", "empty", "stuck"]


@dataclass
class Script:
    """How the next run of a dataflow goes.

    `seconds` and `late_seconds` (emulated) replace the option `run_seconds` and the option `late_seconds`: how long it
    takes, and how much later its record tells of its end. A "stuck" run is in progress until it is ended by hand.
    """

    outcome: Outcome = "success"
    seconds: float | None = None
    late_seconds: float | None = None
    errors: list[dict[str, Any]] = field(default_factory=list)
    failed_records: int = 3
    status: str | None = None

    def __post_init__(self) -> None:
        if self.outcome not in get_args(Outcome):
            raise ValueError(f"outcome={self.outcome!r}: one of {', '.join(get_args(Outcome))} is expected")
        for name in ("seconds", "late_seconds", "failed_records"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int | float) and 0 <= value < math.inf):
                raise ValueError(f"{name}={value!r}: a number, 0 or more, is expected")
        if not isinstance(self.errors, list) or not all(isinstance(one, dict) for one in self.errors):
            raise ValueError(f"errors={self.errors!r}: a list of objects is expected")
        if not isinstance(self.status, str | None):
            raise ValueError(f"status={self.status!r}: a text is expected")


@dataclass
class FlowProgress:
    """How often a dataflow has run, how far each dataset is exported, and the scripts for its next runs.

    The next `skip` slots of its schedule start no run. `generation` counts its schedules, so that a timer of an old one
    is recognised.
    """

    flow_id: str
    sandbox: str
    generation: int = 0
    runs: int = 0
    exported_until_ms: dict[str, int] = field(default_factory=dict)
    scripts: list[Script] = field(default_factory=list)
    skip: int = 0


@dataclass
class ActiveRun:
    """A run under way, with everything that it needs to end, even after its dataflow was deleted."""

    run_id: str
    flow_id: str
    sandbox: str
    slot_ms: int
    dataset_ids: list[str]
    source_id: str
    target_id: str
    base_id: str
    spec_id: str
    target: dict[str, Any]
    login: dict[str, Any]
    names: dict[str, str]
    template: str | None
    full: bool
    started_ms: int
    script: Script = field(default_factory=Script)
