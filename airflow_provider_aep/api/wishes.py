"""What a user wants at Adobe, as values that can be made, compared with what is there, and changed into it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple, get_args

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
    BaseConnectionId,
    Dataflow,
    DataflowId,
    DatasetId,
    SourceConnection,
    SourceConnectionId,
    TargetConnection,
    TargetConnectionId,
)
from airflow_provider_aep.api.errors import EntityExists, InvalidExport
from airflow_provider_aep.api.procedures import Maker, Wanted
from airflow_provider_aep.api.schedule import Schedule, merged_params, schedule_differences, schedule_params

log = logging.getLogger(__name__)

IfExists = Literal["reuse", "update", "fail"]
WARN_BEFORE_END_DAYS = 30


def check_if_exists(value: str) -> IfExists:
    """Raises InvalidExport where it is none of reuse, update, fail."""
    if value not in get_args(IfExists):
        raise InvalidExport("if_exists", value, "must be one of reuse, update, fail")
    return value  # type: ignore[return-value]  # checked by the line above


def check_name(argument: str, name: str) -> str:
    """A name that Adobe's filters can find again: in them a comma means "or" and `&` "and".

    Raises:
        InvalidExport: empty, longer than 255, with a blank at either end, or with one of those.
    """
    if not name or name != name.strip() or len(name) > 255 or any(sign in name for sign in ",&\n\r\t"):
        rule = "must be 1 to 255 characters without comma, &, tab or line break, and not begin or end with a blank"
        raise InvalidExport(argument, name, rule)
    return name


class Difference(NamedTuple):
    """A member that is not as the user wants it, with both values as a person reads them."""

    what: str
    wanted: str
    found: str

    def __str__(self) -> str:
        return f"{self.what} is {self.found}, the DAG says {self.wanted}"


@dataclass(frozen=True)
class Manner:
    """How to set something up: what to do with one that exists, who makes it, how long lists may lag behind."""

    if_exists: IfExists
    maker: Maker
    settle_seconds: float
    patient: bool = False  # another task was seen making the same

    def sharing(self) -> Manner:
        """The same for a base connection, which many exports share: that it exists is no reason to fail."""
        return replace(self, if_exists="reuse") if self.if_exists == "fail" else self

    @property
    def first_look_seconds(self) -> float:
        """A first try believes an empty list; a later one waits for what an earlier one may have made."""
        return self.settle_seconds if self.maker.again else 0


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
        different = [
            Difference(member, repr(value), repr(found.params.get(member)))
            for member, value in self.params.items()
            if found.params.get(member) != value
        ]
        if self.base_connection_id and found.base_connection_id != self.base_connection_id:
            different.insert(
                0, Difference("base_connection_id", self.base_connection_id, str(found.base_connection_id))
            )
        return different

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
            if not self.schedule.end:
                end = datetime.fromtimestamp(int(params["endTime"]), UTC)
                log.info("dataflow %r: no end given; it will end at %s", self.name, end.isoformat())
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
        for what, wanted, there in (
            ("source_connection_id", self.source_connection_id, found.source_connection_id),
            ("target_connection_id", self.target_connection_id, found.target_connection_id),
        ):
            if wanted != there:
                different.append(Difference(what, wanted, there))
        if found.state == "disabled":
            different.append(Difference("state", "enabled", found.state))
        return different

    def schedule_differences(self, found: Dataflow) -> list[tuple[str, str, str]]:
        return schedule_differences(self.schedule, self.folder_template, found.schedule)

    def operations(self, found: Dataflow, now: datetime) -> list[dict[str, Any]]:
        """JSON Patch that makes a found dataflow as it is wanted; whole objects, because of how `replace` works."""
        operations: list[dict[str, Any]] = []
        if self.source_connection_id != found.source_connection_id:
            operations.append(replacement("/sourceConnectionIds", [self.source_connection_id]))
        if self.schedule_differences(found) or (self.schedule.end is None and ends_soon(found, now)):
            params = merged_params(self.schedule, self.folder_template, found.schedule, now)
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


def settle_differences(kind: Collection, found: Any, different: Sequence[Difference], manner: Manner) -> None:
    """Tell or refuse what differs. What the task itself made in an earlier try is no reason to refuse."""
    title = f"{kind.title} {found.name!r} ({found.id})"
    if manner.if_exists == "fail" and (different or not manner.maker.may_have_made(found)):
        told = "; ".join(map(str, different)) or "it does not differ from what the DAG says"
        raise EntityExists(f"{title} exists and if_exists is 'fail': {told}")
    for each in different:
        if manner.if_exists == "update":
            log.info("%s: %s; updating it", title, each)
        else:
            log.warning("%s is reused as it is: %s", title, each)


def cannot_change(kind: Collection, found: Any, different: Sequence[Difference]) -> str:
    told = "; ".join(map(str, different))
    return f"{kind.title} {found.name!r} ({found.id}): {told}. Adobe cannot change that; give the export another name."


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


def replacement(path: str, value: Any) -> dict[str, Any]:
    return {"op": "replace", "path": path, "value": value}


def adobe_now() -> Procedure[datetime]:
    return datetime.fromtimestamp((yield Now()) / 1000, UTC)


def _listed(ids: Sequence[str]) -> str:
    return ", ".join(sorted(ids))


def _ids(base: str, source: str, target: str, dataflow: str) -> ExportIds:
    return ExportIds(
        BaseConnectionId(base), SourceConnectionId(source), TargetConnectionId(target), DataflowId(dataflow)
    )
