"""A whole export set up exactly once: created under a lease, completed in steps, or reconciled with what exists."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from airflow_provider_aep.api.calls import (
    BASE_CONNECTIONS,
    DATAFLOWS,
    SOURCE_CONNECTIONS,
    TARGET_CONNECTIONS,
    Collection,
    Created,
)
from airflow_provider_aep.api.effects import Procedure, ServerTime, dated, gather
from airflow_provider_aep.api.entities import Dataflow, SourceConnection, TargetConnection
from airflow_provider_aep.api.provisioning import lease
from airflow_provider_aep.api.provisioning.desired import (
    DesiredExport,
    ExportIds,
    export_ids,
    server_time,
)
from airflow_provider_aep.api.provisioning.drift import cannot_change, check_drift, compare
from airflow_provider_aep.api.provisioning.ensure import (
    RACE_ROUNDS,
    delete_managed,
    ensure_base_connection,
    ensure_dataflow,
    ensure_source_connection,
    ensure_target_connection,
    find_or_create,
    given_up,
    send_credentials,
    update_dataflow,
    update_target,
)
from airflow_provider_aep.api.provisioning.inventory import Inventory
from airflow_provider_aep.api.provisioning.observed import (
    ObservedExport,
    check_still_there,
    compare_target,
    comparisons,
    observe,
    reconciliation,
)
from airflow_provider_aep.api.provisioning.owner import (
    LEASE,
    UNCONFIRMED,
    is_leased,
    is_managed,
    is_superseded,
    is_unconfirmed,
)
from airflow_provider_aep.api.provisioning.policy import SetupPolicy
from airflow_provider_aep.api.provisioning.resource import (
    RaceLost,
    Resource,
    agree,
    back_off,
    change,
    confirm,
    contenders,
    create,
    delete,
    delete_leftover,
    get_if_exists,
    is_gone,
    race_if_gone,
    supersede,
)
from airflow_provider_aep.api.provisioning.retirement import delete_stranded, is_leaving
from airflow_provider_aep.errors import AmbiguousName, EntityExists, EntityNotFound, PlatformUnavailable, RequestRefused

log = logging.getLogger(__name__)

#: What a step has created, and no dataflow uses after so many seconds, its DAG has abandoned.
ABANDONED_SECONDS = 86_400


def set_up_export(
    desired: DesiredExport, policy: SetupPolicy, inventory: Inventory | None = None
) -> Procedure[ExportIds]:
    """Exactly one base, source and target connection and one dataflow; nothing is sent that is not needed.

    Four lists, read side by side, decide what follows:

    - A dataflow is there: compare, and change what differs if the policy says so. An export as desired costs no more.
    - A source connection without a dataflow, which is no lease: a step, or somebody else, has begun. The steps of
      `ensure` complete the export.
    - Neither: create it under a lease (see `lease`). Base and source connection side by side, then the target
      connection while lists show whether they are the only ones, then the dataflow while the base connection is
      confirmed: five round trips with the token.

    An inventory that was read before replaces the four lists at first. It may be old: what tasks agree on is decided by
    lists read after a creation and by PATCHes with `If-Match`, never by the first look.

    What this rests on and no document of Adobe's promises is listed in the README, "What this rests on".

    Raises:
        EntityExists: other data would be exported than desired; `if_exists="fail"`; or Adobe cannot change what
            differs.
        EntityNotFound: Adobe knows no base connection of the given ID; nothing is created.
        AmbiguousName: others have created several entities of this name.
        PlatformUnavailable: an outage; the next try finds what has been created.
    """
    created: dict[str, Collection] = {}  # by this session
    reason = RaceLost("")
    for _ in range(RACE_ROUNDS):
        known, inventory = inventory, None
        try:
            observed = yield from observe(desired, policy, known)
            if observed.dataflow:
                ids = yield from _reconcile(desired, observed, observed.dataflow, policy, created)
            elif observed.source and not is_leased(observed.source):
                yield from _delete_created(created, keep=())
                yield from _complete_in_steps(desired, observed, observed.source, policy)
                reason = RaceLost(f"no list shows dataflow {desired.name!r}, which is there now")
                continue  # to return what is read, not what was asked for
            else:
                ids = yield from _create_under_lease(desired, observed, policy, created, known)
            # Of rounds that were lost something may be left that lists have not shown yet.
            yield from _delete_created(created, keep=ids)
            yield from check_still_there(observed, ids)
            return ids
        except RaceLost as lost:
            reason = lost
            yield from back_off()
        except (EntityExists, AmbiguousName, EntityNotFound) as refusal:
            if known:  # which may be old
                reason = RaceLost(str(refusal))
                continue
            if not isinstance(refusal, EntityNotFound):
                yield from _delete_created(created, keep=())  # in rounds before this one
            raise
    raise PlatformUnavailable(f"set-up of export {desired.name!r}", message=given_up(reason))


def _complete_in_steps(
    desired: DesiredExport, observed: ObservedExport, source: SourceConnection, policy: SetupPolicy
) -> Procedure[None]:
    """Complete what a step, or somebody else, has begun; refuse it first if it is not what is desired."""
    if policy.if_exists == "update" and not is_managed(source) and desired.source.differences(source):
        raise EntityExists(cannot_change(compare(SOURCE_CONNECTIONS, desired.source, source)))
    target = observed.target if observed.base or not desired.base else None
    target = None if target and is_leased(target) else target
    check_drift(comparisons(desired, observed, source, target), policy)
    base_id = desired.base_connection_id
    if desired.base:  # others share it, so its mere existence is no reason to fail
        shared = replace(policy, if_exists="reuse") if policy.if_exists == "fail" else policy
        base_id = yield from ensure_base_connection(desired.base, shared)
    source_id = yield from ensure_source_connection(desired.source, policy)
    target_id = yield from ensure_target_connection(desired.target(base_id), policy)
    try:
        yield from ensure_dataflow(desired.dataflow(source_id, target_id), policy)
    except RequestRefused as refusal:
        yield from race_if_gone(refusal, (SOURCE_CONNECTIONS, source_id), (TARGET_CONNECTIONS, target_id))


def _create_under_lease(
    desired: DesiredExport,
    observed: ObservedExport,
    policy: SetupPolicy,
    created: dict[str, Collection],
    inventory: Inventory | None,
) -> Procedure[ExportIds]:
    """Create what is missing, the dataflow last. `created` collects what this session creates."""
    held = yield from _lease_of_an_earlier_try(desired, observed, policy)
    if desired.base and not observed.base:
        observed.base = yield from agree(desired.base.resource(), observed.bases, policy)
    target = yield from _usable_target(desired, observed, policy)
    check_drift(comparisons(desired, observed, held, target), policy)
    if desired.base and observed.base:
        yield from send_credentials(desired.base, observed.base, policy)

    began_ms: int = yield ServerTime()
    base = desired.base.resource() if desired.base and not observed.base else None
    source = replace(desired.source.resource(), fits=lambda _source: True)
    base_created, source_created = yield from gather(
        _create(base, policy, created, ending=UNCONFIRMED) if base else None,
        None if held else _create(source, policy, created, ending=LEASE),
    )
    base_id = observed.base.id if observed.base else base_created.id
    leased = Created(held.id, held.etag) if held else source_created

    desired_target = desired.target(base_id)
    base_needed = [] if desired.base_connection_id else [(BASE_CONNECTIONS, base_id)]
    target_created, bases, sources = yield from gather(
        None if target else _create(desired_target.resource(), policy, created, ending=LEASE, needs=base_needed),
        contenders(base, base_created, policy, ending=UNCONFIRMED) if base else None,
        contenders(source, leased, policy, ending=LEASE),
    )
    if len(sources) > 1:
        yield from _contest(source, leased.id, sources, policy, created)
    if base and len(bases) > 1:
        chosen = yield from agree(base, bases, policy)
        if chosen is None or chosen.id != base_id:
            raise RaceLost(f"{base} was created by another task")
    if target:
        yield from update_target(desired_target, target, policy)
    target_id = target.id if target else target_created.id

    now = yield from server_time()
    flow = desired.dataflow(leased.id, target_id).resource(now)
    needs = [(SOURCE_CONNECTIONS, leased.id), (TARGET_CONNECTIONS, target_id)]
    is_old = now.timestamp() - observed.logins_read_ms / 1000 > policy.visibility_seconds
    (dataflow, observed.read_ms), is_confirmed, is_lost = yield from gather(
        dated(_create(flow, policy, created, needs=needs)),
        confirm(BASE_CONNECTIONS, bases[0]) if bases and len(bases) == 1 else None,
        is_leaving(base_id) if target_created and not base and is_old else None,
    )
    if inventory and is_lost is False:
        inventory.note_login(base_id, int(now.timestamp() * 1000))
    if is_confirmed is False or is_lost:
        yield from delete(DATAFLOWS, dataflow.id)
        yield from _delete_created(created, keep=())
        raise RaceLost(f"another task has given up base connection {base_id}")
    # Airflow starts another try while this one still runs, if it has heard nothing of it for long; the two share the
    # lease, as one task. So whoever has not created it just now looks whether its dataflow is the first.
    is_late = (yield ServerTime()) - began_ms > (policy.visibility_seconds - 1) * 1000
    if held or is_late:
        first, *_ = yield from contenders(flow, dataflow, policy)
        if first.id != dataflow.id:
            yield from delete(DATAFLOWS, dataflow.id)
            yield from _delete_created(created, keep=[base_id, leased.id])
            raise RaceLost(f"{flow} was created by another try of this task")
    # What Adobe shows of it, or what it has accepted where no list shows it.
    listed = next(each for each in sources if each.id == leased.id)
    datasets = listed.dataset_ids if isinstance(listed, SourceConnection) else desired.dataset_ids
    ids = export_ids(base_id, leased.id, target_id, dataflow.id, datasets)
    yield from _delete_leftovers(observed, ids, policy)
    return ids


def _lease_of_an_earlier_try(
    desired: DesiredExport, observed: ObservedExport, policy: SetupPolicy
) -> Procedure[SourceConnection | None]:
    """Return the lease if this task may use it, or None if one must be created.

    Raises:
        RaceLost: another task holds it, and has used it or given it up, or it has been taken from a dead task.
        EntityExists: another task holds it, and `if_exists="fail"`.
    """
    source = observed.source
    if source is None:
        return None
    if policy.owner.owns(source):
        if lease.is_own(source, policy) and not desired.source.differences(source):
            return source
        yield from delete_leftover(SOURCE_CONNECTIONS, source.id)  # of an earlier try, with other datasets
        return None
    if policy.if_exists == "fail":
        check_drift([compare(SOURCE_CONNECTIONS, desired.source, source)], policy)
    others = [each for each in observed.sources if not policy.owner.owns(each)]
    yield from lease.take_over(desired.source.resource(), others, policy)
    return None


def _contest(
    source: Resource,
    own: str,
    sources: Sequence[SourceConnection],
    policy: SetupPolicy,
    created: dict[str, Collection],
) -> Procedure[None]:
    """Others are setting up the same export: the first lease in the list waits until it is alone, all others give way.

    Raises:
        RaceLost: always; what is there has to be looked at again.
    """
    others = [each for each in sources if each.id != own]
    if sources[0].id == own and all(map(is_leased, others)):
        yield from lease.take_over(source, others, policy)
    yield from _delete_created(created, keep=())
    if any(each.id == own and policy.owner.owns(each) for each in sources):
        yield from delete_leftover(SOURCE_CONNECTIONS, own)
    raise RaceLost(f"{source} was created by another task: {others[0].id}")


def _usable_target(
    desired: DesiredExport, observed: ObservedExport, policy: SetupPolicy
) -> Procedure[TargetConnection | None]:
    """The target connection, unless a set-up that was interrupted has left it otherwise than it is desired now."""
    target: TargetConnection | None = yield from agree(desired.target("").resource(), observed.targets, policy)
    if not target or not is_leased(target):
        return target
    if all(each.may_stay for each in compare_target(desired, observed, target).differences):
        return target
    yield from delete_leftover(TARGET_CONNECTIONS, target.id)
    return None


def _create(
    resource: Resource,
    policy: SetupPolicy,
    created: dict[str, Collection],
    *,
    ending: str = "",
    needs: Sequence[tuple[Collection, str]] = (),
) -> Procedure[Created]:
    """`create` for an entity that may need others, which another task may delete meanwhile."""
    try:
        entity = yield from create(resource, policy, ending=ending)
    except RequestRefused as refusal:
        yield from race_if_gone(refusal, *needs)
    created[entity.id] = resource.collection
    return entity


def _delete_created(created: dict[str, Collection], *, keep: Sequence[object]) -> Procedure[None]:
    """Delete what this session has created in vain, the last first: Adobe deletes nothing that is in use."""
    for entity_id in [each for each in reversed(created) if each not in keep]:
        collection = created.pop(entity_id)
        if collection is not BASE_CONNECTIONS:
            yield from delete_leftover(collection, entity_id)
            continue
        base = yield from get_if_exists(collection, entity_id)
        if base and is_unconfirmed(base):  # otherwise another task relies on it
            yield from supersede(collection, base)


def _reconcile(
    desired: DesiredExport,
    observed: ObservedExport,
    dataflow: Dataflow,
    policy: SetupPolicy,
    created: dict[str, Collection],
) -> Procedure[ExportIds]:
    """The dataflow is there: compare, and change what differs if the policy says so."""
    source, target = observed.source, observed.target
    assert source
    assert target
    yield from _mend_login(observed, dataflow, target, policy)
    check_drift(reconciliation(desired, observed), policy)
    kept = source
    if policy.if_exists == "update":
        if desired.base and observed.base:
            yield from send_credentials(desired.base, observed.base, policy)
        if desired.source.differences(source):
            ensured = yield from find_or_create(desired.source.resource(), policy, only_fitting=True, mark=LEASE)
            created |= {} if ensured.found else {ensured.id: SOURCE_CONNECTIONS}
            fresh = ensured.found or (yield from get_if_exists(SOURCE_CONNECTIONS, ensured.id))
            if fresh is None:
                raise RaceLost(f"source connection {ensured.id} is gone")
            kept = fresh
        elif source.name != desired.name:
            yield from change(SOURCE_CONNECTIONS, source.id, desired.source.operations)
    yield from update_target(desired.target(target.base_connection_id), target, policy)
    try:
        yield from update_dataflow(desired.dataflow(kept.id, target.id), dataflow, policy, (yield from server_time()))
    except RequestRefused as refusal:
        yield from race_if_gone(refusal, (SOURCE_CONNECTIONS, kept.id), (DATAFLOWS, dataflow.id))
    ids = export_ids(target.base_connection_id, kept.id, target.id, dataflow.id, kept.dataset_ids)
    if kept.id != source.id:  # the dataflow has left it, and `update_dataflow` has deleted it
        observed.sources = [each for each in observed.sources if each.id != source.id]
    yield from _delete_leftovers(observed, ids, policy)
    return ids


def _mend_login(
    observed: ObservedExport, dataflow: Dataflow, target: TargetConnection, policy: SetupPolicy
) -> Procedure[None]:
    """Make sure that the dataflow writes with a login that is there and stays.

    Raises:
        RaceLost: it was gone; dataflow and target connection are gone now, too.
        EntityExists: it was gone, and somebody else created what is left.
    """
    base = observed.base
    if base and base.id == target.base_connection_id:
        # Its owner died before it could confirm it, or is about to.
        if not is_unconfirmed(base) or (yield from confirm(BASE_CONNECTIONS, base)) is not False:
            return
    elif policy.if_exists == "fail" or not (yield from is_gone(BASE_CONNECTIONS, target.base_connection_id)):
        return
    yield from delete_stranded(target, [dataflow])
    if observed.source and is_managed(observed.source):
        yield from delete_leftover(SOURCE_CONNECTIONS, observed.source.id)
    raise RaceLost(f"base connection {target.base_connection_id} of export {dataflow.name!r} was gone")


def _delete_leftovers(observed: ObservedExport, ids: ExportIds, policy: SetupPolicy) -> Procedure[None]:
    """Delete what interrupted set-ups and changes have left beside the entities in use.

    A step's source or target connection waits for the step after it, so only one that is abandoned is a leftover. Of
    dataflows only what a step has not confirmed in time is one: it would export everything twice.
    """
    now_ms: int = yield ServerTime()

    def is_older(entity: Dataflow | SourceConnection | TargetConnection, seconds: float) -> bool:
        return now_ms - entity.created_ms > seconds * 1000

    for flow in observed.dataflows:
        is_late = is_older(flow, policy.takeover_seconds)
        if flow.id != ids.dataflow_id and (is_superseded(flow) or (is_unconfirmed(flow) and is_late)):
            log.warning("dataflow %r (%s) was left by a task that died; deleting it", flow.name, flow.id)
            yield from supersede(DATAFLOWS, flow) if is_unconfirmed(flow) else delete_leftover(DATAFLOWS, flow.id)
    for collection, found, keep in (
        (TARGET_CONNECTIONS, observed.targets, ids.target_connection_id),
        (SOURCE_CONNECTIONS, observed.sources, ids.source_connection_id),
    ):
        left = [each for each in found if is_leased(each) or is_superseded(each) or is_older(each, ABANDONED_SECONDS)]
        yield from delete_managed(collection, left, keep=keep)
    yield from delete_managed(BASE_CONNECTIONS, observed.bases, keep=ids.base_connection_id)
