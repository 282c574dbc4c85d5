"""What a user wants at Adobe, as values that can be made, compared with what is there, and changed into it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

from airflow_provider_aep.api import calls
from airflow_provider_aep.api.calls import (
    BASE_CONNECTIONS,
    DATAFLOWS,
    SOURCE_CONNECTIONS,
    TARGET_CONNECTIONS,
    Now,
    Procedure,
)
from airflow_provider_aep.api.calls import Kind as Collection
from airflow_provider_aep.api.destinations import DATA_LAKE_SPEC, Kind
from airflow_provider_aep.api.entities import (
    BaseConnection,
    BaseConnectionId,
    Dataflow,
    DataflowId,
    DatasetId,
    Entity,
    SourceConnection,
    SourceConnectionId,
    TargetConnection,
    TargetConnectionId,
)
from airflow_provider_aep.api.errors import EntityExists
from airflow_provider_aep.api.once import Maker, Wanted
from airflow_provider_aep.api.schedule import (
    Schedule,
    merged_params,
    schedule_differences,
    schedule_params,
    schedule_text,
)

log = logging.getLogger(__name__)

IfExists = Literal["reuse", "update", "fail"]
WARN_BEFORE_END_DAYS = 30


class Difference(NamedTuple):
    """A member that is not as the user wants it, with both values as a person reads them."""

    what: str
    wanted: str
    found: str
    is_fixed: bool = False  # Adobe cannot change it

    def __str__(self) -> str:
        return f"{self.what} is {self.found}, the DAG says {self.wanted}"


@dataclass(frozen=True)
class Manner:
    """How to set something up: what to do with one that exists, who makes it, how long lists may lag behind."""

    if_exists: IfExists
    maker: Maker
    settle_seconds: float

    @property
    def first_look_seconds(self) -> float:
        """A first try believes an empty list; a later one waits for what an earlier one may have made."""
        return self.settle_seconds if self.maker.again else 0

    @property
    def takeover_seconds(self) -> float:
        """How long a half-made export of another task is watched before this one takes it over."""
        return max(3.0, 3 * self.settle_seconds)


class BaseWish(NamedTuple):
    """A login at a storage account. `auth` is `{"specName": …, "params": {…}}` or None for the Data Landing Zone."""

    name: str
    kind: Kind
    auth: Mapping[str, Any] | None

    def __repr__(self) -> str:
        return f"BaseWish(name={self.name!r}, kind={self.kind.name!r})"

    def wanted(self) -> Wanted:
        return Wanted(
            BASE_CONNECTIONS,
            self.name,
            self.kind.connection_spec,
            lambda note: calls.create_base_connection(
                self.name, self.kind.connection_spec, self.auth, description=note
            ),
        )

    def differences(self, found: BaseConnection) -> list[Difference]:
        """The way of logging in, if Adobe tells it; what is secret is never compared."""
        spec = str(self.auth["specName"]) if self.auth else ""
        if found.auth_spec in ("", spec):
            return []
        return [Difference("auth.specName", spec or "none", found.auth_spec, is_fixed=True)]


class SourceWish(NamedTuple):
    """Which datasets."""

    name: str
    dataset_ids: tuple[DatasetId, ...]

    def wanted(self) -> Wanted:
        return Wanted(
            SOURCE_CONNECTIONS,
            self.name,
            DATA_LAKE_SPEC,
            lambda note: calls.create_source_connection(self.name, self.dataset_ids, description=note),
            fits=lambda found: not self.differences(found),
        )

    def differences(self, found: SourceConnection) -> list[Difference]:
        """The order of datasets means nothing."""
        if set(found.dataset_ids) == set(self.dataset_ids):
            return []
        return [Difference("dataset_ids", _listed(self.dataset_ids), _listed(found.dataset_ids))]

    def operations(self, found: SourceConnection) -> list[dict[str, Any]]:
        """JSON Patch for its name, which is all that Adobe can change."""
        return _rename(self.name, found)


class TargetWish(NamedTuple):
    """Which place at which account, and in which format."""

    name: str
    kind: Kind
    base_connection_id: BaseConnectionId
    params: Mapping[str, Any]

    def wanted(self) -> Wanted:
        return Wanted(
            TARGET_CONNECTIONS,
            self.name,
            self.kind.connection_spec,
            lambda note: calls.create_target_connection(
                self.name, self.base_connection_id, self.kind.connection_spec, self.params, description=note
            ),
        )

    def differences(self, found: TargetConnection) -> list[Difference]:
        base = self.base_connection_id
        different = []
        if base and found.base_connection_id != base:
            different.append(Difference("base_connection_id", base, found.base_connection_id, is_fixed=True))
        different += [
            Difference(member, repr(value), repr(found.params.get(member)))
            for member, value in self.params.items()
            if found.params.get(member) != value
        ]
        return different

    def operations(self, found: TargetConnection) -> list[dict[str, Any]]:
        """JSON Patch that makes a found target connection as it is wanted."""
        operations = _rename(self.name, found)
        if any(found.params.get(member) != value for member, value in self.params.items()):
            operations.append(replacement("/params", self.whole_params(found)))
        return operations

    def whole_params(self, found: TargetConnection) -> dict[str, Any]:
        """Everything, since a JSON Patch `replace` drops what it does not name; members that are not ours stay."""
        return {**found.params, **self.params}


class DataflowWish(NamedTuple):
    """What goes where, how often."""

    name: str
    kind: Kind
    source_connection_id: SourceConnectionId
    target_connection_id: TargetConnectionId
    schedule: Schedule
    folder_template: str | None = None

    def wanted(self, now: datetime) -> Wanted:
        def make(note: str) -> calls.Call[calls.Created]:
            params = schedule_params(self.schedule, now=now, folder_template=self.folder_template)
            log.info("dataflow %r will run %s", self.name, schedule_text(self.schedule, params))
            return calls.create_dataflow(
                self.name,
                self.kind.flow_spec,
                self.source_connection_id,
                self.target_connection_id,
                params,
                description=note,
            )

        return Wanted(DATAFLOWS, self.name, self.kind.flow_spec, make)

    def differences(self, found: Dataflow) -> list[Difference]:
        different = [Difference(*each) for each in self.schedule_differences(found)]
        source, target = self.source_connection_id, self.target_connection_id
        if source != found.source_connection_id:
            different.append(Difference("source_connection_id", source, found.source_connection_id))
        if target != found.target_connection_id:
            different.append(Difference("target_connection_id", target, found.target_connection_id, is_fixed=True))
        if found.state == "disabled":
            different.append(Difference("state", "enabled", found.state))
        return different

    def schedule_differences(self, found: Dataflow) -> list[tuple[str, str, str]]:
        return schedule_differences(self.schedule, self.folder_template, found.schedule)

    def operations(self, found: Dataflow, now: datetime) -> list[dict[str, Any]]:
        """JSON Patch that makes a found dataflow as it is wanted; whole objects, because of how `replace` works."""
        operations = _rename(self.name, found)
        if self.source_connection_id != found.source_connection_id:
            operations.append(replacement("/sourceConnectionIds", [self.source_connection_id]))
        there = dict(found.schedule)
        is_ending = self.schedule.end is None and ends_soon(found, now)
        if is_ending:
            there.pop("endTime", None)  # so that it is chosen anew
        if is_ending or self.schedule_differences(found):
            params = merged_params(self.schedule, self.folder_template, there, now)
            if params != found.schedule:
                operations.append(replacement("/scheduleParams", params))
        return operations


class ExportWish(NamedTuple):
    """A whole export. `base` makes or finds the login by name; `base_connection_id` names one that exists."""

    name: str
    dataset_ids: tuple[DatasetId, ...]
    kind: Kind
    target_params: Mapping[str, Any]
    schedule: Schedule
    folder_template: str | None = None
    base: BaseWish | None = None
    base_connection_id: BaseConnectionId = BaseConnectionId("")

    @property
    def source(self) -> SourceWish:
        return SourceWish(self.name, self.dataset_ids)

    def target(self, base: str) -> TargetWish:
        return TargetWish(self.name, self.kind, BaseConnectionId(base), self.target_params)

    def dataflow(self, source: str, target: str) -> DataflowWish:
        return DataflowWish(
            self.name,
            self.kind,
            SourceConnectionId(source),
            TargetConnectionId(target),
            self.schedule,
            self.folder_template,
        )


class ExportIds(NamedTuple):
    """What a set-up leaves at Adobe."""

    base_connection_id: BaseConnectionId
    source_connection_id: SourceConnectionId
    target_connection_id: TargetConnectionId
    dataflow_id: DataflowId


class Comparison(NamedTuple):
    """What is at Adobe, and in what it differs from a wish."""

    kind: Collection
    found: Any
    differences: Sequence[Difference]
    is_shared: bool = False  # with other exports, so that its mere existence is no reason to refuse

    @property
    def title(self) -> str:
        return f"{self.kind.title} {self.found.name!r} ({self.found.id})"


def compare(
    kind: Collection, wish: BaseWish | SourceWish | TargetWish | DataflowWish, found: Any, *, is_shared: bool = False
) -> Comparison:
    different = [Difference("name", wish.name, found.name)] if found.name != wish.name else []
    return Comparison(kind, found, [*different, *wish.differences(found)], is_shared)


def settle(comparisons: Sequence[Comparison], manner: Manner) -> None:
    """Tell what differs, or refuse it all at once; nothing has been changed by then.

    Raises:
        EntityExists: `if_exists="fail"`, except for what the task itself made in an earlier try and still is as wanted;
            or "update", and a difference is one that Adobe cannot change.
    """
    if manner.if_exists == "fail":
        refused = [
            f"{each.title}: {'; '.join(map(str, each.differences)) or 'it does not differ from what the DAG says'}"
            for each in comparisons
            if not each.is_shared and (each.differences or not manner.maker.may_have_made(each.found))
        ]
        if refused:
            raise EntityExists(f"if_exists is 'fail' and there is already {'; '.join(refused)}")
    for each in comparisons:
        fixed = [different for different in each.differences if different.is_fixed]
        if fixed and manner.if_exists == "update":
            raise EntityExists(cannot_change(each._replace(differences=fixed)))
    for each in comparisons:
        for different in each.differences:
            if manner.if_exists == "update":
                log.info("%s: %s; updating it", each.title, different)
            else:
                log.warning("%s is reused as it is: %s", each.title, different)


def cannot_change(comparison: Comparison) -> str:
    told = "; ".join(map(str, comparison.differences))
    return f"{comparison.title}: {told}. Adobe cannot change that; give the export another name."


def warn_of_end(found: Dataflow, now: datetime) -> None:
    if ends_soon(found, now):
        end = datetime.fromtimestamp(int(found.schedule["endTime"]), UTC)
        word = "ended" if end <= now else "will end"
        log.warning(
            "dataflow %r (%s) %s at %s; if_exists='update' gives it a later end", found.name, found.id, word, end
        )


def ends_soon(found: Dataflow, now: datetime) -> bool:
    """Exports without a chosen end stop in silence, six months after they were made. Source: tutorial, endTime."""
    end = found.schedule.get("endTime")
    return end is not None and int(end) - now.timestamp() < WARN_BEFORE_END_DAYS * 86_400


def _rename(name: str, found: Entity) -> list[dict[str, Any]]:
    return [replacement("/name", name)] if found.name != name else []


def replacement(path: str, value: Any) -> dict[str, Any]:
    return {"op": "replace", "path": path, "value": value}


def adobe_now() -> Procedure[datetime]:
    return datetime.fromtimestamp((yield Now()) / 1000, UTC)


def _listed(ids: Sequence[str]) -> str:
    return ", ".join(sorted(ids))


def export_ids(base: str, source: str, target: str, dataflow: str) -> ExportIds:
    return ExportIds(
        BaseConnectionId(base), SourceConnectionId(source), TargetConnectionId(target), DataflowId(dataflow)
    )
