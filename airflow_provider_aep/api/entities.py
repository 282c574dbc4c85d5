"""What Adobe keeps: datasets, connections, dataflows and flow runs, as far as an export needs them.

Times are in milliseconds since 1970 UTC. Sources, by the names used below:
destinations OpenAPI: https://developer.adobe.com/experience-platform-apis/references/destinations/
flow-service OpenAPI: https://developer.adobe.com/experience-platform-apis/references/flow-service/
error catalogue: https://experienceleague.adobe.com/en/docs/experience-platform/sources/errors/flow-service-errors
UI guide: https://experienceleague.adobe.com/en/docs/experience-platform/destinations/ui/activate/export-datasets
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NewType

if TYPE_CHECKING:
    from collections.abc import Mapping

DatasetId = NewType("DatasetId", str)
BaseConnectionId = NewType("BaseConnectionId", str)
SourceConnectionId = NewType("SourceConnectionId", str)
TargetConnectionId = NewType("TargetConnectionId", str)
DataflowId = NewType("DataflowId", str)
FlowRunId = NewType("FlowRunId", str)


#: The state of an entity whose deletion Adobe has accepted, and which may still be listed.
#: Source: error catalogue, 1456 to 1458.
VANISHING = "delete-finalizing"


@dataclass(frozen=True, slots=True)
class Dataset:
    """A dataset that may be exported."""

    id: DatasetId
    name: str
    description: str = ""
    state: str = ""


@dataclass(frozen=True, slots=True)
class Entity:
    """What connections and dataflows have in common."""

    id: str
    name: str
    spec_id: str
    etag: str = ""
    state: str = ""
    description: str = ""
    created_ms: int = 0
    updated_ms: int = 0


@dataclass(frozen=True, slots=True)
class BaseConnection(Entity):
    """A login at a storage account.

    Of its `auth` only the spec's name is read, and which account it opens, if Adobe shows that (see `Login.account`):
    nothing that may be a secret.
    """

    auth_spec: str = ""
    account: str = ""


@dataclass(frozen=True, slots=True)
class SourceConnection(Entity):
    """The data lake side of an export: which datasets."""

    dataset_ids: tuple[DatasetId, ...] = ()


@dataclass(frozen=True, slots=True)
class TargetConnection(Entity):
    """The storage side of an export: which place, in which format."""

    base_connection_id: BaseConnectionId = BaseConnectionId("")
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Dataflow(Entity):
    """An export: source, target and schedule. `schedule` is Adobe's `scheduleParams`, times in seconds.

    `schedule_changed_ms`, `source_changed_ms` and `description_changed_ms` are when these were last changed; 0 if
    unknown, since Adobe shows only the last operation. `last_run_id` is the last flow run that has ended, as far as
    Adobe tells in `lastRunDetails`.
    """

    source_connection_id: SourceConnectionId = SourceConnectionId("")
    target_connection_id: TargetConnectionId = TargetConnectionId("")
    schedule: Mapping[str, Any] = field(default_factory=dict)
    schedule_changed_ms: int = 0
    source_changed_ms: int = 0
    description_changed_ms: int = 0
    last_run_id: FlowRunId = FlowRunId("")


class RunStatus(StrEnum):
    """How far a flow run is. Adobe has no word for a partial success: see `FlowRun.is_partial`."""

    RUNNING = "running"
    SUCCEEDED = "success"
    FAILED = "failed"
    UNKNOWN = "unknown"  # it has ended, with a word that is in none of Adobe's documents


# Source: destinations OpenAPI, GET /runs (schema "Success", examples "success"); flow-service OpenAPI, StatusDTO.
# Compared in lower case, since Adobe uses both.
_SUCCEEDED = frozenset({"success", "completed", "partial_success"})
_FAILED = frozenset({"failed", "failure", "partial_failure", "canceled", "cancelled", "aborted", "error"})
_RUNNING = frozenset({"", "processing", "waiting", "in_progress", "inprogress", "queued", "scheduled", "started"})


def run_status(text: str | None, *, ended: bool) -> RunStatus:
    """Judge Adobe's `statusSummary.status`; nobody else does.

    A run in progress may have no status at all. A word we do not know means "running" while the run has no end time
    (its deadline then ends the wait at the latest) and `UNKNOWN`, which fails the wait, once it has one.
    """
    word = (text or "").lower()
    if word in _SUCCEEDED:
        return RunStatus.SUCCEEDED
    if word in _FAILED:
        return RunStatus.FAILED
    if word in _RUNNING or not ended:
        return RunStatus.RUNNING
    return RunStatus.UNKNOWN


def is_known_status(text: str) -> bool:
    """Whether the word is in Adobe's documents; any other is worth a warning."""
    return text.lower() in _SUCCEEDED | _FAILED | _RUNNING


@dataclass(frozen=True, slots=True)
class RunError:
    """A code and message that Adobe gives for a run, such as ACTIVATION_BATCH-0000-FAILED "Job aborted."."""

    code: str
    message: str

    def __str__(self) -> str:
        """Code and message, either of which may be missing or be part of the other."""
        if self.code in self.message:
            return self.message
        return f"{self.code}: {self.message}" if self.message else self.code


@dataclass(frozen=True, slots=True)
class FlowRun:
    """One execution of a dataflow. A number that Adobe does not give is None.

    Report the numbers, never rely on them: those of dataset runs may be combined with those of profile exports.
    Source: UI guide, "Known limitations".
    """

    id: FlowRunId
    dataflow_id: DataflowId
    status: RunStatus
    raw_status: str = ""
    created_ms: int = 0
    updated_ms: int = 0
    started_ms: int | None = None
    completed_ms: int | None = None
    input_records: int | None = None
    output_records: int | None = None
    skipped_records: int | None = None
    failed_records: int | None = None
    input_bytes: int | None = None
    output_bytes: int | None = None
    output_files: int | None = None
    errors: tuple[RunError, ...] = ()

    @property
    def has_ended(self) -> bool:
        return self.status is not RunStatus.RUNNING

    @property
    def is_partial(self) -> bool:
        """Adobe calls it a success, yet lists errors or failed records."""
        return self.status is RunStatus.SUCCEEDED and bool(self.errors or self.failed_records)

    @property
    def is_empty(self) -> bool:
        """A success that read and wrote nothing, such as an increment without changes."""
        return (
            self.status is RunStatus.SUCCEEDED
            and not self.is_partial
            and self.output_records is not None
            and not (self.input_records or self.output_records or self.output_files)
        )

    @property
    def outcome(self) -> str:
        """ "running", "success", "partial", "empty", "failed" or "unknown"."""
        if self.is_partial:
            return "partial"
        return "empty" if self.is_empty else self.status.value

    @property
    def problems(self) -> str:
        """Its errors as one text; "" if Adobe gives none."""
        return "; ".join(filter(None, map(str, self.errors)))

    def as_event(self) -> dict[str, Any]:
        """The run as plain JSON, to cross from a trigger to a task; `from_event` reads it."""
        return {
            **asdict(self),
            "status": self.status.value,
            "errors": [[each.code, each.message] for each in self.errors],
        }

    @classmethod
    def from_event(cls, event: Mapping[str, Any]) -> FlowRun:
        """Raises LookupError, TypeError or ValueError if the event is not one of `as_event`."""
        errors = tuple(RunError(*each) for each in event["errors"])
        return cls(**{**event, "status": RunStatus(event["status"]), "errors": errors})

    def summary(self) -> dict[str, str | int | None]:
        """The run as a flat dict for XCom; times as ISO 8601 in UTC.

        {"run_id", "dataflow_id", "status" (see `outcome`), "created_at", "started_at", "completed_at", "input_records",
        "output_records", "skipped_records", "failed_records", "input_bytes", "output_bytes", "output_files"}
        """
        return {
            "run_id": self.id,
            "dataflow_id": self.dataflow_id,
            "status": self.outcome,
            "created_at": iso_text(self.created_ms),
            "started_at": iso_text(self.started_ms),
            "completed_at": iso_text(self.completed_ms),
            "input_records": self.input_records,
            "output_records": self.output_records,
            "skipped_records": self.skipped_records,
            "failed_records": self.failed_records,
            "input_bytes": self.input_bytes,
            "output_bytes": self.output_bytes,
            "output_files": self.output_files,
        }


def iso_text(moment_ms: int | None) -> str | None:
    """A moment for XCom: "2026-01-01T00:30:00.000+00:00"; None if it is not known."""
    return datetime.fromtimestamp(moment_ms / 1000, UTC).isoformat(timespec="milliseconds") if moment_ms else None
