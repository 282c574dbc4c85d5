"""One step of an export, done exactly once: found, compared, reused, updated or created."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from airflow_provider_aep.api import calls
from airflow_provider_aep.api.calls import (
    BASE_CONNECTIONS,
    DATAFLOWS,
    SOURCE_CONNECTIONS,
    TARGET_CONNECTIONS,
    Collection,
)
from airflow_provider_aep.api.effects import Procedure, Sleep, gather
from airflow_provider_aep.api.entities import (
    BaseConnection,
    BaseConnectionId,
    Dataflow,
    DataflowId,
    Entity,
    SourceConnectionId,
    TargetConnection,
    TargetConnectionId,
)
from airflow_provider_aep.api.provisioning import lease
from airflow_provider_aep.api.provisioning.desired import (
    DesiredBaseConnection,
    DesiredDataflow,
    DesiredSourceConnection,
    DesiredTargetConnection,
    server_time,
)
from airflow_provider_aep.api.provisioning.drift import check_drift, compare, warn_of_end
from airflow_provider_aep.api.provisioning.owner import (
    UNCONFIRMED,
    is_managed,
    is_superseded,
    is_unconfirmed,
)
from airflow_provider_aep.api.provisioning.policy import SetupPolicy
from airflow_provider_aep.api.provisioning.resource import (
    RaceLost,
    Resource,
    Screen,
    agree,
    back_off,
    change,
    contenders,
    create,
    delete,
    delete_leftover,
    find,
    find_named,
    get_if_exists,
    has_gone,
    is_gone,
    look_for,
    pick,
    supersede,
)
from airflow_provider_aep.api.provisioning.retirement import delete_stranded, staying_login
from airflow_provider_aep.api.provisioning.state import ensure_enabled
from airflow_provider_aep.api.queries import dataflows_of
from airflow_provider_aep.destinations import DestinationType
from airflow_provider_aep.errors import (
    EntityNotFound,
    InvalidArgument,
    PlatformUnavailable,
)

log = logging.getLogger(__name__)

RACE_ROUNDS = 8


def ensure_base_connection(desired: DesiredBaseConnection, policy: SetupPolicy) -> Procedure[BaseConnectionId]:
    """Exactly one login of this name and destination. `update` sends its credentials again, in place.

    Raises:
        EntityExists: it is for another account, or logs in another way, which Adobe cannot change; or
            `if_exists="fail"`.
        AmbiguousName: others have created several of this name.
    """
    ensured = yield from find_or_create(desired.resource(), policy)
    if ensured.found:
        check_drift([compare(BASE_CONNECTIONS, desired, ensured.found)], policy)
        yield from send_credentials(desired, ensured.found, policy)
    return BaseConnectionId(ensured.id)


def send_credentials(desired: DesiredBaseConnection, found: BaseConnection, policy: SetupPolicy) -> Procedure[None]:
    """Secrets are never compared, so an update sends them, unless the policy says that they are as they were."""
    if policy.if_exists == "update" and (policy.sends_credentials or desired.differences(found)):
        now = yield from server_time()
        yield from change(BASE_CONNECTIONS, found.id, lambda fresh: desired.operations(fresh, policy.owner, now))


def ensure_source_connection(desired: DesiredSourceConnection, policy: SetupPolicy) -> Procedure[SourceConnectionId]:
    """Exactly one source connection of this name for these datasets.

    Its datasets are fixed once it exists, so `update` creates a new one under the same name; `ensure_dataflow` attaches
    it and deletes the old one.

    Raises:
        EntityExists: `if_exists="fail"`.
        AmbiguousName: others have created several of this name.
    """
    resource = desired.resource()
    ensured = yield from find_or_create(
        resource,
        policy,
        only_fitting=policy.if_exists == "update",
        screen=lambda found: lease.released(resource, found, policy),
    )
    if ensured.found:
        check_drift([compare(SOURCE_CONNECTIONS, desired, ensured.found)], policy)
    return SourceConnectionId(ensured.id)


def ensure_target_connection(desired: DesiredTargetConnection, policy: SetupPolicy) -> Procedure[TargetConnectionId]:
    """Exactly one target connection of this name and destination.

    Raises:
        EntityNotFound: Adobe knows no such base connection; nothing is created.
        EntityExists: it belongs to another base connection, which Adobe cannot change; or `if_exists="fail"`.
        AmbiguousName: others have created several of this name.
    """
    base = yield from staying_login(desired.base_connection_id, policy)
    check_destination_type("base_connection_id", base, desired.destination_type)
    resource = desired.resource()

    def screen(found: Sequence[Any]) -> Procedure[Sequence[Any]]:
        return (yield from _used_first((yield from lease.released(resource, found, policy))))

    ensured = yield from find_or_create(resource, policy, screen=screen)
    found: TargetConnection | None = ensured.found
    if found and (policy.if_exists == "fail" or found.base_connection_id == desired.base_connection_id):
        found = None
    if found and (yield from is_gone(BASE_CONNECTIONS, found.base_connection_id)):
        yield from delete_stranded(found, (yield from dataflows_of(TARGET_CONNECTIONS, found.id)))
        ensured = yield from find_or_create(resource, policy)
    if not ensured.found:
        try:  # a removal may have begun before the target connection was there
            yield from staying_login(desired.base_connection_id, policy)
        except EntityNotFound:
            yield from delete_leftover(TARGET_CONNECTIONS, ensured.id)
            raise
    if ensured.found:
        check_drift([compare(TARGET_CONNECTIONS, desired, ensured.found)], policy)
        yield from update_target(desired, ensured.found, policy, shares_name=policy.shares_name)
    return TargetConnectionId(ensured.id)


def check_destination_type(
    argument: str, found: BaseConnection | TargetConnection, destination_type: DestinationType
) -> None:
    """Refuse a base or target connection, given by its ID, that is for another type of destination.

    Raises:
        InvalidArgument: it is.
    """
    if found.spec_id != destination_type.connection_spec:
        rule = f"is {found.name!r}, which is not for {destination_type.name} (its connection spec is {found.spec_id!r})"
        raise InvalidArgument(argument, found.id, rule)


def update_target(
    desired: DesiredTargetConnection, found: TargetConnection, policy: SetupPolicy, *, shares_name: bool = False
) -> Procedure[None]:
    """Turn a target connection into the desired one."""

    def operations(fresh: TargetConnection) -> list[dict[str, Any]]:
        return desired.operations(fresh, policy.owner, shares_name=shares_name)

    if policy.if_exists == "update" and operations(found):
        yield from change(TARGET_CONNECTIONS, found.id, operations)


def ensure_dataflow(desired: DesiredDataflow, policy: SetupPolicy) -> Procedure[DataflowId]:
    """Exactly one dataflow of this name and destination, enabled, with this source, target and schedule.

    Raises:
        EntityNotFound: Adobe knows no such target connection; nothing is created.
        InvalidArgument: the target connection is for another type of destination, or another place.
        EntityExists: it writes to another target connection, which Adobe cannot change; or `if_exists="fail"`.
        AmbiguousName: others have created several of this name.
    """
    target = yield from calls.get_target_connection(desired.target_connection_id)
    check_destination_type("target_connection_id", target, desired.destination_type)
    _check_place(desired, target)
    now = yield from server_time()
    resource = desired.resource(now)

    def screen(found: Sequence[Any]) -> Procedure[Sequence[Any]]:
        return without_twins(resource, found, policy)

    ensured = yield from find_or_create(resource, policy, screen=screen, elsewhere=lambda: _renamed(desired))
    found: Dataflow | None = ensured.found
    if found and policy.if_exists != "fail" and is_managed(found):
        left = found.target_connection_id
        if left != desired.target_connection_id and (yield from is_gone(TARGET_CONNECTIONS, left)):
            log.warning("dataflow %r (%s): its target connection is gone; creating it again", desired.name, found.id)
            yield from delete(DATAFLOWS, found.id)
            ensured = yield from find_or_create(resource, policy, screen=screen)
    if ensured.found:
        check_drift([compare(DATAFLOWS, desired, ensured.found)], policy)
        if policy.if_exists == "update" and ensured.found.source_connection_id != desired.source_connection_id:
            yield from _rename_source(ensured.found.source_connection_id, desired.source_connection_id)
        yield from update_dataflow(desired, ensured.found, policy, now)
        if policy.owner.again and policy.if_exists == "update":
            yield from _delete_unused_sources(desired.source_connection_id)
    return DataflowId(ensured.id)


def _check_place(desired: DesiredDataflow, target: TargetConnection) -> None:
    """Refuse a target connection for another place than the dataflow's destination names.

    Raises:
        InvalidArgument: it is.
    """
    for member, value in desired.place:
        actual = str(target.params.get(member) or "")
        if actual.rstrip("/") != value.rstrip("/"):
            rule = f"is {target.name!r}, whose {member} is {actual!r}; the destination of the dataflow says {value!r}"
            raise InvalidArgument("target_connection_id", target.id, rule)


def update_dataflow(desired: DesiredDataflow, found: Dataflow, policy: SetupPolicy, now: datetime) -> Procedure[None]:
    """Turn a dataflow into the desired one, or warn that it is about to end."""
    if policy.if_exists != "update":
        warn_of_end(found, now)
        return
    if desired.operations(found, now, policy):
        sources = {found.source_connection_id}  # also what another task attached meanwhile, if the reply was lost

        def operations(fresh: Dataflow) -> list[dict[str, Any]]:
            sources.add(fresh.source_connection_id)
            return desired.operations(fresh, now, policy)

        yield from change(DATAFLOWS, found.id, operations)
        # Only now are old source connections of no use. A death before they are gone leaves them to the next run.
        for old in sources - {desired.source_connection_id}:
            yield from _delete_old_source(old, desired.source_connection_id)
    if found.state == "disabled":
        yield from ensure_enabled(DataflowId(found.id))


def _renamed(desired: DesiredDataflow) -> Procedure[Sequence[Entity]]:
    """The dataflow that is meant, whatever it is called now: to this very target, from this very source.

    Or from one of its name: `update` makes another source connection for other datasets, which is not attached yet.
    """
    dataflows = yield from dataflows_of(TARGET_CONNECTIONS, desired.target_connection_id)
    same_type = [each for each in dataflows if each.spec_id == desired.destination_type.flow_spec]
    same_source = [each for each in same_type if each.source_connection_id == desired.source_connection_id]
    if same_source or not same_type:
        return same_source
    source, *others = yield from gather(
        get_if_exists(SOURCE_CONNECTIONS, desired.source_connection_id),
        *(get_if_exists(SOURCE_CONNECTIONS, each.source_connection_id) for each in same_type),
    )
    return [
        each for each, other in zip(same_type, others, strict=True) if source and other and other.name == source.name
    ]


def _rename_source(old: SourceConnectionId, new: SourceConnectionId) -> Procedure[None]:
    """Give the source connection that a dataflow is about to leave its name back, so that it can be found and deleted.

    A step that somebody's renaming has made create another one may die before it has deleted the one of another name.
    """
    before, after = yield from gather(get_if_exists(SOURCE_CONNECTIONS, old), get_if_exists(SOURCE_CONNECTIONS, new))
    if before and after and is_managed(before):
        desired = DesiredSourceConnection(after.name, before.dataset_ids)
        if desired.operations(before):
            yield from change(SOURCE_CONNECTIONS, old, desired.operations)


def _delete_old_source(old: SourceConnectionId, new: SourceConnectionId) -> Procedure[None]:
    """Delete the source connection that a dataflow has just left, if it is this provider's or of the same export.

    Raises:
        RaceLost: another task has deleted the new one before the dataflow used it.
    """
    before, after = yield from gather(get_if_exists(SOURCE_CONNECTIONS, old), get_if_exists(SOURCE_CONNECTIONS, new))
    if has_gone(after):
        raise RaceLost(f"source connection {new} is gone")
    if before and (is_managed(before) or before.name == after.name):
        yield from delete_leftover(SOURCE_CONNECTIONS, old)


def _delete_unused_sources(used: SourceConnectionId) -> Procedure[None]:
    """Delete what an earlier try has left that died between attaching a new source connection and deleting the old."""
    source = yield from calls.get_source_connection(used)
    same = yield from find_named(SOURCE_CONNECTIONS, source.name, source.spec_id)
    yield from delete_managed(SOURCE_CONNECTIONS, same, keep=used)


class Ensured(NamedTuple):
    """An entity that exists now; `found` is None if it was created just now, as desired."""

    id: str
    found: Any | None


def find_or_create(
    resource: Resource,
    policy: SetupPolicy,
    *,
    only_fitting: bool = False,
    mark: str = "",
    screen: Screen | None = None,
    elsewhere: Callable[[], Procedure[Sequence[Entity]]] | None = None,
) -> Procedure[Ensured]:
    """The one entity that is meant, created if there is none; `only_fitting` passes over those that will not do.

    `elsewhere` is another way to find the entity, tried before it is created. `mark` is added to its mark. What is
    created is agreed on before it is returned, so that no task ever gets one that another takes back; see `agree`.
    """

    def counts(entity: Any) -> bool:
        return resource.fits(entity) if only_fitting else True

    def agreed(found: Sequence[Any]) -> Procedure[Any | None]:
        return agree(resource, found, policy, among=counts, screen=screen)

    ending = mark + UNCONFIRMED
    reason = RaceLost("")
    for _ in range(RACE_ROUNDS):
        try:
            found = yield from look_for(
                resource, lambda found: any(map(counts, found)), seconds=policy.first_look_seconds
            )
            entity = yield from agreed(found)
            if not entity and elsewhere:
                others = yield from elsewhere()
                if any(other.name == resource.name for other in others):
                    raise RaceLost(f"{resource} was created this very moment")
                entity = pick(resource, others)
            if entity:
                rivals = found if only_fitting else [each for each in found if resource.fits(each)]
                yield from delete_managed(resource.collection, rivals, keep=entity.id)
                return Ensured(entity.id, entity)
            created = yield from create(resource, policy, ending=ending)
            entity = yield from agreed((yield from contenders(resource, created, policy, ending=ending)))
            if entity:
                return Ensured(entity.id, None if entity.id == created.id else entity)
        except RaceLost as lost:
            reason = lost
        yield from back_off()
    raise PlatformUnavailable(f"set-up of {resource}", message=given_up(reason))


def given_up(reason: RaceLost) -> str:
    """What an error says that ends a set-up which has lost every round."""
    return f"gave up after {RACE_ROUNDS} rounds, the last one because {reason}; trying again is safe"


def without_twins(resource: Resource, found: Sequence[Any], policy: SetupPolicy) -> Procedure[Sequence[Any]]:
    """Of several dataflows, all created by this provider, keep the oldest: a task died before it could see the others.

    Their owners are given time to see each other first; then the younger ones are deleted.
    """
    confirmed = [entity for entity in found if not is_unconfirmed(entity) and not is_superseded(entity)]
    if len(confirmed) < 2 or not all(map(is_managed, found)):
        return found
    yield Sleep(policy.visibility_seconds + 1)
    found = yield from find(resource)
    if not all(map(is_managed, found)):
        return found
    for younger in found[1:]:
        log.warning("dataflow %r was created twice by tasks that died; deleting %s", resource.name, younger.id)
        yield from delete(DATAFLOWS, younger.id)
    return found[:1]


def _used_first(found: Sequence[Any]) -> Procedure[Sequence[Any]]:
    """Pass over target connections that no dataflow uses where one does: a dataflow cannot leave its own."""
    confirmed = [entity for entity in found if not is_unconfirmed(entity) and not is_superseded(entity)]
    if len(confirmed) < 2 or not all(map(is_managed, found)):
        return found
    users = yield from gather(*(dataflows_of(TARGET_CONNECTIONS, each.id) for each in confirmed))
    unused = [each.id for each, dataflows in zip(confirmed, users, strict=True) if not dataflows]
    return found if len(unused) == len(confirmed) else [each for each in found if each.id not in unused]


def delete_managed(collection: Collection, found: Sequence[Entity], *, keep: str) -> Procedure[None]:
    """Delete what interrupted tries have left beside the one that is kept; Adobe refuses it for one that is in use.

    Nobody knows whether it refuses that for a login, so a login that tasks may rely on stays.
    """
    for entity in found:
        if entity.id == keep or not is_managed(entity):
            continue
        if is_unconfirmed(entity):
            yield from supersede(collection, entity)
        elif collection is not BASE_CONNECTIONS or is_superseded(entity):
            yield from delete_leftover(collection, entity.id)
