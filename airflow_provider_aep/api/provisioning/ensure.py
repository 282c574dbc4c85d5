"""One step of an export, done exactly once: found, compared, reused, updated or made."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from airflow_provider_aep.api import calls
from airflow_provider_aep.api.calls import BASE_CONNECTIONS, DATAFLOWS, SOURCE_CONNECTIONS, TARGET_CONNECTIONS
from airflow_provider_aep.api.effects import Procedure, Sleep, gather
from airflow_provider_aep.api.entities import (
    VANISHING,
    BaseConnection,
    BaseConnectionId,
    Dataflow,
    DataflowId,
    Entity,
    SourceConnectionId,
    TargetConnection,
    TargetConnectionId,
)
from airflow_provider_aep.api.provisioning.desired import (
    DesiredBaseConnection,
    DesiredDataflow,
    DesiredSourceConnection,
    DesiredTargetConnection,
    SetupPolicy,
    server_time,
)
from airflow_provider_aep.api.provisioning.drift import compare, settle, warn_of_end
from airflow_provider_aep.api.provisioning.owner import is_managed, is_superseded, is_unconfirmed
from airflow_provider_aep.api.provisioning.resource import (
    RaceLost,
    Resource,
    agree,
    beside,
    change,
    create,
    delete,
    discard,
    find,
    find_named,
    is_gone,
    look_for,
    only,
    stand_back,
    withdraw,
)
from airflow_provider_aep.api.queries import all_items
from airflow_provider_aep.destinations import DestinationType
from airflow_provider_aep.errors import (
    EntityExists,
    EntityNotFound,
    InvalidArgument,
    PlatformUnavailable,
    RequestRefused,
)

log = logging.getLogger(__name__)

RACE_ROUNDS = 8


def ensure_base_connection(desired: DesiredBaseConnection, policy: SetupPolicy) -> Procedure[BaseConnectionId]:
    """Exactly one login of this name and destination. `update` sends its credentials anew, in place.

    Raises:
        EntityExists: it is for another account, or logs in in another way, which Adobe cannot change; or
            `if_exists="fail"`.
        AmbiguousName: others have made several of this name.
    """
    there = yield from find_or_make(desired.resource(), policy)
    if there.entity:
        settle([compare(BASE_CONNECTIONS, desired, there.entity)], policy)
        yield from send_credentials(desired, there.entity, policy)
    return BaseConnectionId(there.id)


def send_credentials(desired: DesiredBaseConnection, found: BaseConnection, policy: SetupPolicy) -> Procedure[None]:
    """Secrets are never compared, so an update always sends them."""
    if policy.if_exists == "update":
        now = yield from server_time()
        yield from change(BASE_CONNECTIONS, found.id, lambda fresh: desired.operations(fresh, policy.owner, now))


def ensure_source_connection(desired: DesiredSourceConnection, policy: SetupPolicy) -> Procedure[SourceConnectionId]:
    """Exactly one source connection of this name for these datasets.

    Its datasets are fixed once made, so `update` makes a new one under the same name; `ensure_dataflow` attaches it and
    removes the old one.

    Raises:
        EntityExists: `if_exists="fail"`.
        AmbiguousName: others have made several of this name.
    """
    there = yield from find_or_make(desired.resource(), policy, only_fitting=policy.if_exists == "update")
    if there.entity:
        settle([compare(SOURCE_CONNECTIONS, desired, there.entity)], policy)
    return SourceConnectionId(there.id)


def ensure_target_connection(desired: DesiredTargetConnection, policy: SetupPolicy) -> Procedure[TargetConnectionId]:
    """Exactly one target connection of this name and destination.

    Raises:
        EntityNotFound: Adobe knows no such base connection; nothing is made.
        EntityExists: it belongs to another base connection, which Adobe cannot change; or `if_exists="fail"`.
        AmbiguousName: others have made several of this name.
    """
    base = yield from calls.get_entity(BASE_CONNECTIONS, desired.base_connection_id)
    check_kind("base_connection_id", base, desired.destination_type)
    there = yield from find_or_make(desired.resource(), policy)
    found: TargetConnection | None = there.entity
    if found and (policy.if_exists == "fail" or found.base_connection_id == desired.base_connection_id):
        found = None
    if found and (yield from is_gone(BASE_CONNECTIONS, found.base_connection_id)):
        yield from remove_stranded(found, (yield from flows_of("targetConnectionIds", found.id)))
        there = yield from find_or_make(desired.resource(), policy)
    if there.entity:
        settle([compare(TARGET_CONNECTIONS, desired, there.entity)], policy)
        yield from update_target(desired, there.entity, policy, shares_name=policy.shares_name)
    return TargetConnectionId(there.id)


def check_kind(argument: str, given: BaseConnection | TargetConnection, destination_type: DestinationType) -> None:
    """Refuse a base or target connection, given by its ID, that is for another kind of storage.

    Raises:
        InvalidArgument: it is.
    """
    if given.spec_id != destination_type.connection_spec:
        rule = f"is {given.name!r}, which is not for {destination_type.name} (its connection spec is {given.spec_id!r})"
        raise InvalidArgument(argument, given.id, rule)


def update_target(
    desired: DesiredTargetConnection, found: TargetConnection, policy: SetupPolicy, *, shares_name: bool = False
) -> Procedure[None]:
    """Change a target connection as the user wants it."""

    def operations(fresh: TargetConnection) -> list[dict[str, Any]]:
        return desired.operations(fresh, policy.owner, shares_name=shares_name)

    if policy.if_exists == "update" and operations(found):
        yield from change(TARGET_CONNECTIONS, found.id, operations)


def remove_stranded(target: TargetConnection, dataflows: Sequence[Dataflow]) -> Procedure[None]:
    """Remove a target connection whose login is gone, and the dataflows that can write nowhere because of that.

    Neither can be attached anew: the base connection of a target connection and the target connection of a dataflow
    are fixed. Source: error catalogue, 1414; guide "Update destination dataflows" (paths of a PATCH).

    Raises:
        EntityExists: somebody else made one of them, so that it is not this provider's to delete.
    """
    for entity in (*dataflows, target):
        if not is_managed(entity):
            raise EntityExists(
                f"base connection {target.base_connection_id} is gone, so {entity.name!r} ({entity.id}) exports "
                "nothing; it was not made by this provider: delete it, or give the export another name"
            )
    for dataflow in dataflows:
        log.warning("dataflow %r (%s): its login is gone; making it anew", dataflow.name, dataflow.id)
        yield from delete(DATAFLOWS, dataflow.id)
    yield from delete(TARGET_CONNECTIONS, target.id)


def ensure_dataflow(desired: DesiredDataflow, policy: SetupPolicy) -> Procedure[DataflowId]:
    """Exactly one dataflow of this name and destination, enabled, with this source, target and schedule.

    Two tasks that make it at once look for each other's afterwards, and the younger one is removed.

    Raises:
        EntityNotFound: Adobe knows no such target connection; nothing is made.
        InvalidArgument: the target connection is for another kind of storage.
        EntityExists: it writes to another target connection, which Adobe cannot change; or `if_exists="fail"`.
        AmbiguousName: others have made several of this name.
    """
    target = yield from calls.get_target_connection(desired.target_connection_id)
    check_kind("target_connection_id", target, desired.destination_type)
    _check_place(desired, target)
    now = yield from server_time()
    there = yield from find_or_make(desired.resource(now), policy, elsewhere=lambda: _renamed(desired))
    if there.entity and policy.if_exists != "fail" and is_managed(there.entity):
        left = there.entity.target_connection_id
        if left != desired.target_connection_id and (yield from is_gone(TARGET_CONNECTIONS, left)):
            log.warning("dataflow %r (%s): its target connection is gone; making it anew", desired.name, there.id)
            yield from delete(DATAFLOWS, there.id)
            there = yield from find_or_make(desired.resource(now), policy)
    if there.entity:
        settle([compare(DATAFLOWS, desired, there.entity)], policy)
        yield from update_dataflow(desired, there.entity, policy, now)
        if policy.owner.again and policy.if_exists == "update":
            yield from _discard_unused_sources(desired.source_connection_id)
    return DataflowId(there.id)


def _check_place(desired: DesiredDataflow, target: TargetConnection) -> None:
    """Refuse a target connection for another place than the dataflow's destination names.

    Raises:
        InvalidArgument: it is.
    """
    for member, value in desired.place:
        there = str(target.params.get(member) or "")
        if there.rstrip("/") != value.rstrip("/"):
            rule = f"is {target.name!r}, whose {member} is {there!r}; the destination of the dataflow says {value!r}"
            raise InvalidArgument("target_connection_id", target.id, rule)


def update_dataflow(desired: DesiredDataflow, found: Dataflow, policy: SetupPolicy, now: datetime) -> Procedure[None]:
    """Change a dataflow as the user wants it, or tell that it is about to end."""
    if policy.if_exists != "update":
        warn_of_end(found, now)
        return
    if desired.operations(found, now, policy):
        last = yield from change(DATAFLOWS, found.id, lambda fresh: desired.operations(fresh, now, policy))
        # Only now are old source connections of no use. A death before they are gone leaves them to the next run.
        for old in {found.source_connection_id, last.source_connection_id} - {desired.source_connection_id}:
            yield from _discard_old_source(old, desired.source_connection_id)
    if found.state == "disabled":
        yield from _enable(DataflowId(found.id))


def _renamed(desired: DesiredDataflow) -> Procedure[Sequence[Entity]]:
    """A dataflow from this very source to this very target is the one that is meant, whatever it is called now."""
    flows = yield from flows_of("sourceConnectionIds", desired.source_connection_id)
    return [
        flow
        for flow in flows
        if flow.target_connection_id == desired.target_connection_id
        and flow.spec_id == desired.destination_type.flow_spec
    ]


def flows_of(member: str, connection: str) -> Procedure[list[Dataflow]]:
    """Dataflows of a connection; `member` is "sourceConnectionIds" or "targetConnectionIds".

    Source: guide "Sort and filter responses", flows.
    """
    items = yield from all_items(calls.list_page("/flows", filters=[f"{member}[]=={connection}"]))
    flows: list[Dataflow] = [DATAFLOWS.read(item) for item in items]
    return [
        flow
        for flow in flows
        if connection in (flow.source_connection_id, flow.target_connection_id) and flow.state != VANISHING
    ]


def _discard_old_source(old: SourceConnectionId, new: SourceConnectionId) -> Procedure[None]:
    """Remove the source connection that a dataflow has just left, if it is this provider's or of the same export."""
    try:
        before, after = yield from gather(
            iter(calls.get_source_connection(old)), iter(calls.get_source_connection(new))
        )
    except EntityNotFound:  # somebody was faster
        return
    if is_managed(before) or before.name == after.name:
        yield from discard(SOURCE_CONNECTIONS, old)


def _discard_unused_sources(used: SourceConnectionId) -> Procedure[None]:
    """Remove what an earlier try has left that died between attaching a new source connection and removing the old."""
    source = yield from calls.get_source_connection(used)
    same = yield from find_named(SOURCE_CONNECTIONS, source.name, source.spec_id)
    yield from discard_managed(SOURCE_CONNECTIONS, same, keep=used)


def _enable(dataflow: DataflowId) -> Procedure[None]:
    try:
        yield from calls.enable_dataflow(dataflow)
    except RequestRefused:
        # 1422: not applicable in its present state, as after a lost reply. Source: Flow Service error catalogue.
        if (yield from calls.get_dataflow(dataflow)).state not in ("enabled", "enabling"):
            raise
    log.info("enabled dataflow %s", dataflow)


class There(NamedTuple):
    """An entity that is there: found, or made just now as it is wanted (`entity` is None)."""

    id: str
    entity: Any | None


def find_or_make(
    resource: Resource,
    policy: SetupPolicy,
    *,
    only_fitting: bool = False,
    elsewhere: Callable[[], Procedure[Sequence[Entity]]] | None = None,
) -> Procedure[There]:
    """The one entity that is meant, made if there is none; `only_fitting` passes over those that will not do.

    `elsewhere` is another way to find it, tried before it is made. What is made is confirmed before it is returned, so
    that no task ever gets one that another takes back; see `agree`.
    """

    def counts(entity: Any) -> bool:
        return resource.fits(entity) if only_fitting else True

    reason = RaceLost("")
    for _ in range(RACE_ROUNDS):
        found = yield from look_for(
            resource, lambda found: any(map(counts, found)), visibility_seconds=policy.first_look_seconds
        )
        found = yield from without_rivals(resource, found, policy)
        try:
            entity = yield from agreed(resource, found, policy, among=counts)
            if not entity and elsewhere:
                others = yield from elsewhere()
                if any(other.name == resource.name for other in others):
                    raise RaceLost(f"{resource.collection.title} {resource.name!r} was made this very moment")
                entity = only(resource, others)
            if entity:
                rivals = found if only_fitting else [each for each in found if resource.fits(each)]
                yield from discard_managed(resource.collection, rivals, keep=entity.id)
                return There(entity.id, entity)
            made = yield from create(
                resource, policy.owner, visibility_seconds=policy.visibility_seconds, is_unconfirmed=True
            )
            found = yield from beside(
                resource, made, policy.owner, visibility_seconds=policy.visibility_seconds, is_unconfirmed=True
            )
            entity = yield from agreed(resource, found, policy, among=counts)
            if entity:
                return There(entity.id, None if entity.id == made.id else entity)
        except RaceLost as lost:
            reason = lost
        yield from stand_back()
    raise PlatformUnavailable(f"set-up of {resource.collection.title} {resource.name!r}", message=given_up(reason))


def agreed(
    resource: Resource,
    found: Sequence[Any],
    policy: SetupPolicy,
    *,
    among: Callable[[Any], bool] = lambda _entity: True,
) -> Procedure[Any | None]:
    """`agree` with the patience of this set-up."""
    return (yield from agree(resource, found, policy.owner, poll_delay=policy.takeover_seconds, among=among))


def given_up(reason: RaceLost) -> str:
    """What an error says that ends a set-up which has lost every round."""
    return f"gave up after {RACE_ROUNDS} rounds, the last one because {reason}; trying again is safe"


def without_rivals(resource: Resource, found: list[Any], policy: SetupPolicy) -> Procedure[list[Any]]:
    """Of several dataflows, all made by this provider, one is of a task that died before it could look for others.

    Their makers are given time to see each other first; then the younger ones are removed.
    """
    agreed_on = [entity for entity in found if not is_unconfirmed(entity) and not is_superseded(entity)]
    if resource.collection is not DATAFLOWS or len(agreed_on) < 2 or not all(map(is_managed, found)):
        return found
    yield Sleep(policy.visibility_seconds + 1)
    found = yield from find(resource)
    if not all(map(is_managed, found)):
        return found
    for younger in found[1:]:
        log.warning("dataflow %r was made twice by tasks that died; deleting %s", resource.name, younger.id)
        yield from delete(DATAFLOWS, younger.id)
    return found[:1]


def discard_managed(collection: calls.Collection, found: Sequence[Entity], *, keep: str) -> Procedure[None]:
    """Remove what interrupted tries have left beside the one that is kept; Adobe refuses it for one that is in use.

    Nobody knows whether it refuses that for a login, so a login that tasks may rely on stays.
    """
    for entity in found:
        if entity.id == keep or not is_managed(entity):
            continue
        if is_unconfirmed(entity):
            yield from withdraw(collection, entity)
        elif collection is not BASE_CONNECTIONS or is_superseded(entity):
            yield from discard(collection, entity.id)
