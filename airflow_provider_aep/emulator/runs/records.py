"""What is known of dataflows and runs beside their records: what comes next, and how it is to go."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Outcome = Literal["success", "partial", "failed", "empty"]


@dataclass
class Script:
    """How the next run of a dataflow goes; `seconds` (emulated) replaces the usual duration."""

    outcome: Outcome = "success"
    seconds: float | None = None
    errors: list[dict[str, Any]] = field(default_factory=list)
    failed_records: int = 3
    status: str | None = None

    def __post_init__(self) -> None:
        if self.outcome not in get_args(Outcome):
            raise ValueError(f"outcome={self.outcome!r}: one of {', '.join(get_args(Outcome))} is expected")
        for name, value in (("seconds", self.seconds), ("failed_records", self.failed_records)):
            if value is not None and not (isinstance(value, int | float) and 0 <= value < math.inf):
                raise ValueError(f"{name}={value!r}: a number, 0 or more, is expected")
        if not isinstance(self.errors, list) or not all(isinstance(one, dict) for one in self.errors):
            raise ValueError(f"errors={self.errors!r}: a list of objects is expected")
        if not isinstance(self.status, str | None):
            raise ValueError(f"status={self.status!r}: a text is expected")


@dataclass
class FlowPlan:
    """What is known of a dataflow beside its record: its next slot and how far each dataset has been exported."""

    flow_id: str
    sandbox: str
    generation: int = 0
    runs: int = 0
    exported_until_ms: dict[str, int] = field(default_factory=dict)
    scripts: list[Script] = field(default_factory=list)


@dataclass
class RunPlan:
    """A run under way, with all that it needs to end, even when its dataflow has been deleted meanwhile."""

    run_id: str
    flow_id: str
    sandbox: str
    slot_ms: int
    dataset_ids: list[str]
    source_id: str
    target_id: str
    storage: str
    params: dict[str, Any]
    login: dict[str, Any]
    names: dict[str, str]
    template: str | None
    full: bool
    started_ms: int
    script: Script = field(default_factory=Script)
