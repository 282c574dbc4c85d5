"""The emulator's settings: who may log in, how long things take, and how strict Adobe is."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

ORG_ID = "0123456789ABCDEF01234567@AdobeOrg"
CLIENT_ID = "5a1c0ffee0b24d7e9c3f6a8b1d2e4f60"
CLIENT_SECRET = "p8e-emulator-secret-AbCdEfGhIjKlMnOp"  # noqa: S105 - opens nothing but this emulator


@dataclass(frozen=True)
class Options:
    """The emulator's settings.

    Durations are in emulated seconds, but for three in real ones: `token_seconds` and `latency`, and `list_delay`
    when the emulator is served over HTTP.

    Raises:
        ValueError: a duration is negative, or a choice is unknown.
    """

    org_id: str = ORG_ID
    client_id: str = CLIENT_ID
    client_secrets: tuple[str, ...] = (CLIENT_SECRET,)
    """Every secret of the credential; a credential may have two while one replaces the other."""
    sandboxes: tuple[str, ...] = ("prod", "dev")
    token_seconds: float = 86_399
    latency: float = 0.0
    list_delay: float = 0.0
    """How long a new entity is missing from lists; a GET by its ID finds it at once."""
    page_size: int = 20
    """How many entities a list gives when no `limit` is sent. Adobe does not state its own figure."""
    shifting_pages: bool = False
    """Pages by position, so that a new entity moves all others; by default a page starts after the one before."""
    arrivals: float = 0.0
    """Rows that arrive in every dataset for each emulated hour."""
    adhoc_ready_seconds: float = 600
    adhoc_allowed: bool = True
    """Whether Adobe has allow-listed the storage for ad hoc runs."""
    run_seconds: float = 120
    run_start_seconds: float = 5
    """From a schedule's slot to the run that it starts."""
    first_run_seconds: float = 0
    """By how much the first run of a dataflow is later than that."""
    late_seconds: float = 5
    """From the end of a run to the moment when its record tells of it."""
    destination_limit: int = 100
    """How many dataflows a sandbox may have: a hard limit in Adobe's "Guardrails for data activation". No code for the
    refusal is documented, so it is a 400 in Flow Service's older shape, which has none."""
    settle_seconds: float = 0
    """How long entities stay in a transitional state after a change, refusing others with 1416, 1417, 1420 or 1421."""
    delete_seconds: float = 0
    """How long an entity that was deleted can still be seen, in the state `delete-finalizing`."""
    seed_rules: bool = False
    """Allow what the beta tutorial of 2023 shows and Adobe refuses today: JSON without GZIP, and 24 with `hour`."""
    repeated_actions: bool = False
    """Answer 200 to `enable` of an enabled dataflow, where the strict answer is 1422-400."""
    status_case: Literal["lower", "title"] = "lower"
    integer_error_codes: bool = False
    """The gateway's `error_code` as a number, as Adobe's OpenAPI has it; its guides have a string."""
    landing_zone: Literal["azure", "aws"] = "azure"
    write_files: bool = True

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type in ("float", "int") and not (isinstance(value, int | float) and value >= 0):
                raise ValueError(f"{field.name}={value!r}: a number, 0 or more, is expected")
        for name, allowed in (("status_case", ("lower", "title")), ("landing_zone", ("azure", "aws"))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r}: one of {', '.join(allowed)} is expected")
        if not self.sandboxes:
            raise ValueError("sandboxes=(): at least one name is expected")
        if not 1 <= self.page_size <= 100:
            raise ValueError(f"page_size={self.page_size!r}: 1 to 100 is expected")
