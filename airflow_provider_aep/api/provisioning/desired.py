"""The desired state of an export: how to create it, how it differs from what exists, how to change that into it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from airflow_provider_aep.api import calls
from airflow_provider_aep.api.calls import BASE_CONNECTIONS, DATAFLOWS, SOURCE_CONNECTIONS, TARGET_CONNECTIONS
from airflow_provider_aep.api.effects import Call, Procedure, ServerTime
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
from airflow_provider_aep.api.provisioning.owner import Owner, account_of, data_since_ms, is_managed
from airflow_provider_aep.api.provisioning.policy import SetupPolicy
from airflow_provider_aep.api.provisioning.resource import Resource
from airflow_provider_aep.destinations import DATA_LAKE_SPEC, DestinationType
from airflow_provider_aep.schedules import (
    Schedule,
    end_seconds,
    folders_of,
    interval_seconds,
    merged_params,
    schedule_differences,
    schedule_params,
    schedule_text,
    start_seconds,
)

log = logging.getLogger(__name__)

WARN_BEFORE_END_DAYS = 30
# What of a schedule decides which data lands where; the rest only decides when.
_WHAT_LANDS = ("exportMode", "foldernameTemplate")


class Difference(NamedTuple):
    """A member that is not as desired, with both values as a person reads them."""

    what: str
    wanted: str
    found: str
    is_fixed: bool = False  # Adobe cannot change it
    may_stay: bool = False  # the same data still lands in the same place

    def __str__(self) -> str:
        return f"{self.what} is {self.found}, the DAG says {self.wanted}"


class DesiredBaseConnection(NamedTuple):
    """A login at a storage account. `auth` is `{"specName": …, "params": {…}}` or None for the Data Landing Zone."""

    name: str
    destination_type: DestinationType
    auth: Mapping[str, Any] | None
    account: str = ""  # see `credentials.account`

    def __repr__(self) -> str:
        told = f"destination_type={self.destination_type.name!r}, account={self.account!r}"
        return f"DesiredBaseConnection(name={self.name!r}, {told})"

    def resource(self) -> Resource:
        return Resource(
            BASE_CONNECTIONS,
            self.name,
            self.destination_type.connection_spec,
            lambda mark: calls.create_base_connection(
                self.name, self.destination_type.connection_spec, self.auth, description=mark
            ),
            account=self.account,
        )

    def differences(self, found: BaseConnection) -> list[Difference]:
        """Auth spec and account, where Adobe or the mark tells them; secrets are never compared."""
        different = []
        spec = str(self.auth["specName"]) if self.auth else ""
        if found.auth_spec not in ("", spec):
            different.append(Difference("auth.specName", spec or "none", found.auth_spec, is_fixed=True))
        there = found.account or account_of(found)
        is_same = self.account.lower().startswith(f"{there.lower()}:") or self.account.lower() == there.lower()
        if self.account and there and not is_same:  # Adobe may leave out the port
            different.append(Difference("account", self.account, there))
        return different

    def operations(self, found: BaseConnection, owner: Owner, now: datetime) -> list[dict[str, Any]]:
        """JSON Patch that sends the credentials again; `add` on /auth/params replaces the whole set.

        Another account goes into the mark, with the time of the change. Source: guide "Edit destination connections",
        https://experienceleague.adobe.com/en/docs/experience-platform/destinations/api/edit-destination
        """
        if not self.auth:
            return []
        operations = [{"op": "add", "path": "/auth/params", "value": dict(self.auth["params"])}]
        is_other = any(each.what == "account" for each in self.differences(found))
        if is_managed(found) and (is_other or account_of(found) != self.account):
            data_ms = int(now.timestamp() * 1000) if is_other else data_since_ms(found)
            operations.append(replacement("/description", self.resource().mark(owner, data_ms=data_ms)))
        return operations


class DesiredSourceConnection(NamedTuple):
    """The data lake side of an export: which datasets."""

    name: str
    dataset_ids: tuple[DatasetId, ...]

    def resource(self) -> Resource:
        return Resource(
            SOURCE_CONNECTIONS,
            self.name,
            DATA_LAKE_SPEC,
            lambda mark: calls.create_source_connection(self.name, self.dataset_ids, description=mark),
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


class DesiredTargetConnection(NamedTuple):
    """The storage side of an export: which folder at which account, in which format."""

    name: str
    destination_type: DestinationType
    base_connection_id: BaseConnectionId
    params: Mapping[str, Any]

    def resource(self) -> Resource:
        return Resource(
            TARGET_CONNECTIONS,
            self.name,
            self.destination_type.connection_spec,
            lambda mark: calls.create_target_connection(
                self.name, self.base_connection_id, self.destination_type.connection_spec, self.params, description=mark
            ),
        )

    def differences(self, found: TargetConnection) -> list[Difference]:
        base = self.base_connection_id
        different = []
        if base and found.base_connection_id != base:
            different.append(Difference("base_connection_id", base, found.base_connection_id, is_fixed=True))
        different += [
            # No user chooses the mode: every dataset export has the same.
            Difference(member, repr(value), repr(found.params.get(member)), may_stay=member == "mode")
            for member, value in self._asked.items()
            if not _is_same(value, found.params.get(member, False))
        ]
        return different

    def operations(self, found: TargetConnection, owner: Owner, *, shares_name: bool = False) -> list[dict[str, Any]]:
        """JSON Patch that turns a found target connection into the desired one, and marks who did so.

        `shares_name`: see `DesiredDataflow.operations`; of a whole export the dataflow bears that mark.
        """
        operations = _rename(self.name, found)
        if not all(_is_same(value, found.params.get(member, False)) for member, value in self._asked.items()):
            # Everything, since a JSON Patch `replace` drops what it does not name; members that are not ours stay.
            operations.append(replacement("/params", {**found.params, **self._asked}))
        asked = shares_name and not owner.is_of_this_run(found)
        if (operations or asked) and is_managed(found):  # so no other mapped task of this DAG run changes it back
            operations.append(replacement("/description", owner.mark))
        return operations

    @property
    def _asked(self) -> dict[str, Any]:
        """The params, with the default of what the DAG leaves out."""
        return {"includeFileManifest": False, **self.params}


class DesiredDataflow(NamedTuple):
    """What goes where, and how often."""

    name: str
    destination_type: DestinationType
    source_connection_id: SourceConnectionId
    target_connection_id: TargetConnectionId
    schedule: Schedule
    folder_template: str | None = None
    place: Sequence[tuple[str, str]] = ()  # params that the target connection must have, for a step operator

    def resource(self, now: datetime) -> Resource:
        def creation(mark: str) -> Call[calls.Created]:
            params = schedule_params(self.schedule, now=now, folder_template=self.folder_template)
            log.info("dataflow %r will run %s", self.name, schedule_text(self.schedule, params))
            return calls.create_dataflow(
                self.name,
                self.destination_type.flow_spec,
                self.source_connection_id,
                self.target_connection_id,
                params,
                description=mark,
            )

        return Resource(DATAFLOWS, self.name, self.destination_type.flow_spec, creation)

    def differences(self, found: Dataflow) -> list[Difference]:
        different = [
            Difference(*each, may_stay=each[0] not in _WHAT_LANDS) for each in self.schedule_differences(found)
        ]
        source, target = self.source_connection_id, self.target_connection_id
        if source != found.source_connection_id:
            different.append(Difference("source_connection_id", source, found.source_connection_id))
        if target != found.target_connection_id:
            different.append(Difference("target_connection_id", target, found.target_connection_id, is_fixed=True))
        if found.state == "disabled":
            different.append(Difference("state", "enabled", found.state, may_stay=True))
        return different

    def schedule_differences(self, found: Dataflow) -> list[tuple[str, str, str]]:
        return schedule_differences(self.schedule, self.folder_template, found.schedule)

    def operations(self, found: Dataflow, now: datetime, policy: SetupPolicy) -> list[dict[str, Any]]:
        """JSON Patch that turns a found dataflow into the desired one, and marks who did so.

        Whole objects, because of how `replace` works. A mapped task whose name others may bear leaves its mark even if
        nothing else changes, so that no other task of its DAG run changes the dataflow back.
        """
        operations = _rename(self.name, found)
        moved: dict[str, int] = {}
        now_ms = int(now.timestamp() * 1000)
        if self.source_connection_id != found.source_connection_id:
            moved["data_ms"] = now_ms
            operations.append(replacement("/sourceConnectionIds", [self.source_connection_id]))
        there = dict(found.schedule)
        is_ending = self.schedule.end is None and ends_soon(found, now)
        if is_ending:
            there.pop("endTime", None)  # so that a new one is chosen
        if is_ending or self.schedule_differences(found):
            params = merged_params(self.schedule, self.folder_template, there, now)
            if params != found.schedule:
                operations.append(replacement("/scheduleParams", params))
                moved |= _moved(found.schedule, params, now_ms)
        asked = policy.shares_name and not policy.owner.is_of_this_run(found)
        if is_managed(found) and (asked or any(each["path"] != "/name" for each in operations)):
            operations.append(replacement("/description", policy.owner.mark_for_change(found, **moved)))
        return operations


class DesiredExport(NamedTuple):
    """A whole export. `base` is a login found or created by name; `base_connection_id` names one that exists."""

    name: str
    dataset_ids: tuple[DatasetId, ...]
    destination_type: DestinationType
    target_params: Mapping[str, Any]
    schedule: Schedule
    folder_template: str | None = None
    base: DesiredBaseConnection | None = None
    base_connection_id: BaseConnectionId = BaseConnectionId("")

    @property
    def source(self) -> DesiredSourceConnection:
        return DesiredSourceConnection(self.name, self.dataset_ids)

    def target(self, base: str) -> DesiredTargetConnection:
        return DesiredTargetConnection(self.name, self.destination_type, BaseConnectionId(base), self.target_params)

    def dataflow(self, source: str, target: str) -> DesiredDataflow:
        return DesiredDataflow(
            self.name,
            self.destination_type,
            SourceConnectionId(source),
            TargetConnectionId(target),
            self.schedule,
            self.folder_template,
        )


class ExportIds(NamedTuple):
    """What a set-up leaves at Adobe, as read from Adobe."""

    base_connection_id: BaseConnectionId
    source_connection_id: SourceConnectionId
    target_connection_id: TargetConnectionId
    dataflow_id: DataflowId
    dataset_ids: tuple[DatasetId, ...] = ()


def ends_soon(found: Dataflow, now: datetime) -> bool:
    """Whether a dataflow ends within 30 days, or has ended.

    Exports without a chosen end stop in silence six months after their creation. Source: Export datasets tutorial,
    `endTime`, https://experienceleague.adobe.com/en/docs/experience-platform/destinations/api/export-datasets
    """
    end = end_seconds(found.schedule)
    return end is not None and end - now.timestamp() < WARN_BEFORE_END_DAYS * 86_400


def _is_same(wanted: object, found: object) -> bool:
    """Whether Adobe has what was asked for, though it may spell it differently: a path without its last slash."""
    if isinstance(wanted, str) and isinstance(found, str):
        return (wanted.rstrip("/") or wanted[:1]) == (found.rstrip("/") or found[:1])
    return str(wanted).lower() == str(found).lower()


def _rename(name: str, found: Entity) -> list[dict[str, Any]]:
    return [replacement("/name", name)] if found.name != name else []


def replacement(path: str, value: Any) -> dict[str, Any]:
    return {"op": "replace", "path": path, "value": value}


def _moved(before: Mapping[str, Any], after: Mapping[str, Any], now_ms: int) -> dict[str, int]:
    """Whether another schedule has other slots or folders, as arguments of `Owner.mark_for_change`."""
    start_and_interval = (start_seconds(before), interval_seconds(before))
    moved = {} if start_and_interval == (start_seconds(after), interval_seconds(after)) else {"slots_ms": now_ms}
    return moved if folders_of(before) == folders_of(after) else {**moved, "data_ms": now_ms}


def server_time() -> Procedure[datetime]:
    return datetime.fromtimestamp((yield ServerTime()) / 1000, UTC)


def _listed(ids: Sequence[str]) -> str:
    return ", ".join(sorted(ids))


def export_ids(base: str, source: str, target: str, dataflow: str, datasets: Sequence[DatasetId] = ()) -> ExportIds:
    return ExportIds(
        BaseConnectionId(base),
        SourceConnectionId(source),
        TargetConnectionId(target),
        DataflowId(dataflow),
        tuple(datasets),
    )
