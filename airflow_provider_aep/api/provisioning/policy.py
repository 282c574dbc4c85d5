"""How a task wants an export to be set up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from airflow_provider_aep.api.provisioning.owner import Owner

IfExists = Literal["reuse", "update", "fail"]


@dataclass(frozen=True)
class SetupPolicy:
    """What to do with what exists, on whose behalf, and how many seconds lists may lag behind."""

    if_exists: IfExists
    owner: Owner
    visibility_seconds: float
    shares_name: bool = False  # a mapped task whose name was given, so that others may bear it, too
    waits: bool = False  # for the run of its own slot, which another interval would take away
    sends_credentials: bool = True  # with each update, since secrets are never compared

    @property
    def first_look_seconds(self) -> float:
        """A first try believes an empty list; a later one waits for what an earlier one may have created."""
        return self.visibility_seconds if self.owner.again else 0

    @property
    def takeover_seconds(self) -> float:
        """How long this task waits for what another one has begun before it takes that over."""
        return max(3.0, 3 * self.visibility_seconds)
