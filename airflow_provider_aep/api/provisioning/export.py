"""A whole export set up exactly once, in the fewest round trips, whatever died before."""

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
from airflow_provider_aep.api.effects import Procedure, ServerTime, Sleep, gather
from airflow_provider_aep.api.entities import (
    Dataflow,
    SourceConnection,
    TargetConnection,
)
from airflow_provider_aep.api.provisioning.desired import (
    DesiredExport,
    Difference,
    ExportIds,
    SetupPolicy,
    export_ids,
    server_time,
)
from airflow_provider_aep.api.provisioning.drift import Comparison, cannot_change, compare, settle
from airflow_provider_aep.api.provisioning.ensure import (
    RACE_ROUNDS,
    agreed,
    discard_managed,
    find_or_make,
    given_up,
    remove_stranded,
    send_credentials,
    update_dataflow,
    update_target,
)
from airflow_provider_aep.api.provisioning.observed import ObservedExport, if_there, look
from airflow_provider_aep.api.provisioning.owner import is_managed, is_superseded, is_unconfirmed
from airflow_provider_aep.api.provisioning.resource import (
    RaceLost,
    Resource,
    beside,
    change,
    create,
    decide,
    delete,
    discard,
    find,
    is_gone,
    race_if_gone,
    stand_back,
    withdraw,
)
from airflow_provider_aep.errors import (
    AccessDenied,
    AmbiguousName,
    EntityExists,
    PlatformUnavailable,
    RequestRefused,
)

log = logging.getLogger(__name__)

WATCH_SECONDS = 3.0


def set_up_export(desired: DesiredExport, policy: SetupPolicy) -> Procedure[ExportIds]:
    """Exactly one base, source and target connection and one dataflow; nothing is sent that is not needed.

    A first run asks for the four at once, makes base and source side by side, makes the target while it looks whether
    they are the only ones of their name, and the dataflow last, while it confirms the base: five round trips with the
    token. Later runs ask for the four at once and are done.

    Two tasks never leave two dataflows, because the source connection is a ticket: only who sees no other one of the
    name beside its own makes a dataflow (see `beside`). A ticket without a dataflow is watched for a while; then its
    owner is taken to be dead and the ticket is deleted. Adobe refuses to delete one that a dataflow uses, and to make a
    dataflow of one that is deleted, so that either the owner or the one who takes over makes it, whatever is still on
    its way. A later try of the same task uses its own ticket again and, as everybody who did not make the ticket just
    now, looks afterwards whether its dataflow is the first.

    The base connection is shared with other exports, whose tasks do not know this one. It is agreed on before anything
    rests on it (see `agree`), but for the dataflow of its own maker, who takes that back if it loses.

    What this rests on and no document of Adobe's promises is listed in the README, "What this rests on".

    Raises:
        EntityExists: other data would be exported than the user wants; `if_exists="fail"`; or what differs cannot be
            changed.
        EntityNotFound: Adobe knows no base connection of the given ID; nothing is made.
        AmbiguousName: others have made several entities of this name.
        PlatformUnavailable: an outage; what has been made is found by the next try.
    """
    made: dict[str, Collection] = {}
    reason = RaceLost("")
    for _ in range(RACE_ROUNDS):
        try:
            found = yield from look(desired, policy)
            if found.dataflow is None:
                ids = yield from _complete(desired, found, policy, made)
            else:
                ids = yield from _reconcile(desired, found, found.dataflow, policy)
            # Of rounds that were lost something may be left that lists have not shown yet.
            yield from _discard_made(made, keep=ids)
            return ids
        except RaceLost as lost:
            reason = lost
            yield from stand_back()
        except (EntityExists, AmbiguousName):
            yield from _discard_made(made, keep=())  # in rounds before this one
            raise
    raise PlatformUnavailable(f"set-up of export {desired.name!r}", message=given_up(reason))


def _complete(
    desired: DesiredExport, found: ObservedExport, policy: SetupPolicy, made: dict[str, Collection]
) -> Procedure[ExportIds]:
    """There is no dataflow yet: make what is missing, the dataflow last. `made` collects what this session makes."""
    seconds = policy.visibility_seconds
    source = yield from _claim(desired, found, policy)
    if desired.base and not found.base:
        found.base = yield from agreed(desired.base.resource(), found.bases, policy)
    target = yield from _usable_target(desired, found)
    settle(_comparisons(desired, found, source, target), policy)
    if desired.base and found.base:
        yield from send_credentials(desired.base, found.base, policy)

    began_ms = yield ServerTime()
    base = desired.base.resource() if desired.base and not found.base else None
    ticket = replace(desired.source.resource(), fits=lambda _source: True)
    base_made, source_made = yield from gather(
        _make(base, policy, made, is_unconfirmed=True) if base else None,
        None if source else _make(ticket, policy, made),
    )
    base_id = found.base.id if found.base else base_made.id
    held = Created(source.id, source.etag) if source else source_made

    target_wish = desired.target(base_id)
    base_needed = [] if desired.base_connection_id else [(BASE_CONNECTIONS, base_id)]
    target_made, bases, sources = yield from gather(
        None if target else _make(target_wish.resource(), policy, made, needs=base_needed),
        beside(base, base_made, policy.owner, visibility_seconds=seconds, is_unconfirmed=True) if base else None,
        beside(ticket, held, policy.owner, visibility_seconds=seconds),
    )
    if len(sources) > 1:
        yield from _contest(desired, held.id, sources, policy, made)
    if base and len(bases) > 1:
        chosen = yield from agreed(base, bases, policy)
        if chosen is None or chosen.id != base_id:
            raise RaceLost(f"base connection {base.name!r} was made by another task")
    if target:
        yield from update_target(target_wish, target, policy)
    target_id = target.id if target else target_made.id

    flow = desired.dataflow(held.id, target_id).resource((yield from server_time()))
    needs = [(SOURCE_CONNECTIONS, held.id), (TARGET_CONNECTIONS, target_id)]
    dataflow, is_confirmed = yield from gather(
        _make(flow, policy, made, needs=needs),
        decide(BASE_CONNECTIONS, bases[0], "") if bases and len(bases) == 1 else None,
    )
    if is_confirmed is False:
        yield from delete(DATAFLOWS, dataflow.id)
        yield from _discard_made(made, keep=())
        raise RaceLost(f"another task has given up base connection {base_id}")
    # Whoever has not made the ticket just now may not be alone with it: others of the same task may have it, too.
    # Airflow starts another try while this one still runs, if it has heard nothing of it for long.
    is_late = (yield ServerTime()) - began_ms > (seconds - 1) * 1000
    if source or is_late:
        first, *_ = yield from beside(flow, dataflow, policy.owner, visibility_seconds=seconds)
        if first.id != dataflow.id:
            yield from delete(DATAFLOWS, dataflow.id)
            yield from _discard_made(made, keep=[base_id, held.id])
            raise RaceLost(f"dataflow {desired.name!r} was made by another try of this task")
    # What Adobe shows of it, or what it has accepted where no list shows it.
    listed = next(each for each in sources if each.id == held.id)
    datasets = listed.dataset_ids if isinstance(listed, SourceConnection) else desired.dataset_ids
    ids = export_ids(base_id, held.id, target_id, dataflow.id, datasets)
    yield from _discard_leftovers(found, ids, policy)
    return ids


def _claim(desired: DesiredExport, found: ObservedExport, policy: SetupPolicy) -> Procedure[SourceConnection | None]:
    """The ticket: one that is there and ours to use, or None, then one has to be made.

    Raises:
        RaceLost: another task had it, and has used it or given it up, or it has been taken from it.
        EntityExists: it is another's and `if_exists="fail"`, or has other datasets and is not this provider's.
    """
    source = found.source
    if source is None:
        return None
    different = desired.source.differences(source)
    if policy.owner.owns(source):
        if not different:
            return source
        yield from discard(SOURCE_CONNECTIONS, source.id)  # an earlier try, with other datasets
        return None
    comparison = compare(SOURCE_CONNECTIONS, desired.source, source)
    if not is_managed(source):
        if different and policy.if_exists == "update":
            raise EntityExists(cannot_change(comparison))
        return source
    if policy.if_exists == "fail":
        settle([comparison], policy)
    log.info("another task is setting up export %r (source connection %s); waiting for it", desired.name, source.id)
    yield from _watch(desired, [source.id], policy)
    log.warning(
        "export %r: the task that made source connection %s has not gone on; taking over", desired.name, source.id
    )
    yield from _take_tickets([each for each in found.sources if not policy.owner.owns(each)])
    raise RaceLost(f"source connection {source.id} was taken from its maker")


def _watch(desired: DesiredExport, tickets: Sequence[str], policy: SetupPolicy) -> Procedure[None]:
    """Wait while the makers of these source connections may still be at it.

    Raises:
        RaceLost: there is a dataflow now, or one of the source connections is gone.
    """
    flow = desired.dataflow("", "").resource((yield from server_time()))
    waited = 0.0
    while waited < policy.takeover_seconds:
        yield Sleep(WATCH_SECONDS)
        waited += WATCH_SECONDS
        flows, sources = yield from gather(find(flow), find(desired.source.resource()))
        if flows:
            raise RaceLost(f"dataflow {flows[0].name!r} ({flows[0].id}) was made by another task")
        if not {each.id for each in sources}.issuperset(tickets):
            raise RaceLost("another task has removed its source connection")


def _take_tickets(tickets: Sequence[SourceConnection]) -> Procedure[None]:
    """Delete the source connections of tasks that are taken to be dead; Adobe refuses it for one that is in use."""
    for dead in tickets:
        if is_managed(dead):
            try:
                yield from delete(SOURCE_CONNECTIONS, dead.id)
            except AccessDenied:
                raise
            except RequestRefused as refusal:  # a dataflow uses it, which lists do not show yet
                log.info("source connection %s is in use after all: %s", dead.id, refusal)


def _contest(
    desired: DesiredExport,
    own: str,
    sources: Sequence[SourceConnection],
    policy: SetupPolicy,
    made: dict[str, Collection],
) -> Procedure[None]:
    """Others are setting up the same export: the first in the list waits until it is alone, the others give way.

    Raises:
        RaceLost: always; what is there is looked at anew.
    """
    first, others = sources[0], [each for each in sources if each.id != own]
    if first.id != own:
        yield from _discard_made(made, keep=())
        if any(each.id == own and policy.owner.owns(each) for each in sources):
            yield from discard(SOURCE_CONNECTIONS, own)
        raise RaceLost(f"source connection {desired.name!r} was made by another task: {first.id}")
    log.info("other tasks are setting up export %r, too; waiting for them to give way", desired.name)
    yield from _watch(desired, [each.id for each in others], policy)
    yield from _take_tickets(others)
    raise RaceLost("tickets of other tasks were deleted")


def _usable_target(desired: DesiredExport, found: ObservedExport) -> Procedure[TargetConnection | None]:
    """The target connection, unless it is one that an interrupted set-up has left otherwise than it is resource now."""
    target = found.target
    if not target or not is_managed(target):
        return target
    if all(each.may_stay for each in _compare_target(desired, found, target).differences):
        return target
    yield from discard(TARGET_CONNECTIONS, target.id)
    return None


def _compare_target(desired: DesiredExport, found: ObservedExport, target: TargetConnection) -> Comparison:
    comparison = compare(TARGET_CONNECTIONS, desired.target(found.base.id if found.base else ""), target)
    if found.base is None:
        missing = Difference(
            "base connection", repr(desired.base and desired.base.name), target.base_connection_id, is_fixed=True
        )
        return comparison._replace(differences=[missing, *comparison.differences])
    return comparison


def _comparisons(
    desired: DesiredExport, found: ObservedExport, source: SourceConnection | None, target: TargetConnection | None
) -> list[Comparison]:
    comparisons = []
    if desired.base and found.base:
        comparisons.append(compare(BASE_CONNECTIONS, desired.base, found.base, is_shared=True))
    if source:
        comparisons.append(compare(SOURCE_CONNECTIONS, desired.source, source))
    if target:
        comparisons.append(_compare_target(desired, found, target))
    return comparisons


def _make(
    resource: Resource,
    policy: SetupPolicy,
    made: dict[str, Collection],
    *,
    needs: Sequence[tuple[Collection, str]] = (),
    is_unconfirmed: bool = False,
) -> Procedure[Created]:
    """`create` for an entity that may need others, which another task may remove meanwhile."""
    try:
        entity = yield from create(
            resource, policy.owner, visibility_seconds=policy.visibility_seconds, is_unconfirmed=is_unconfirmed
        )
    except RequestRefused as refusal:
        yield from race_if_gone(refusal, *needs)
    made[entity.id] = resource.collection
    return entity


def _discard_made(made: dict[str, Collection], *, keep: Sequence[object]) -> Procedure[None]:
    """Remove what this session has made in vain, the last first: Adobe deletes nothing that others are attached to."""
    for entity_id in [each for each in reversed(made) if each not in keep]:
        collection = made.pop(entity_id)
        if collection is not BASE_CONNECTIONS:
            yield from discard(collection, entity_id)
            continue
        base = yield from if_there(collection, entity_id)
        if base and is_unconfirmed(base):  # otherwise another task relies on it
            yield from withdraw(collection, base)


def _reconcile(
    desired: DesiredExport, found: ObservedExport, dataflow: Dataflow, policy: SetupPolicy
) -> Procedure[ExportIds]:
    """The dataflow is there: compare, and change what differs if that is resource."""
    source, target = found.source, found.target
    assert source
    assert target
    yield from _mend_login(found, dataflow, target, policy)
    # That its source connection has other datasets is told once, not also as another source connection.
    as_it_is = compare(DATAFLOWS, desired.dataflow(source.id, target.id), dataflow)
    settle([*_comparisons(desired, found, source, target), as_it_is], policy)
    kept = source
    if policy.if_exists == "update":
        if desired.base and found.base:
            yield from send_credentials(desired.base, found.base, policy)
        if desired.source.differences(source):
            there = yield from find_or_make(desired.source.resource(), policy, only_fitting=True)
            made = there.entity or (yield from if_there(SOURCE_CONNECTIONS, there.id))
            if made is None:
                raise RaceLost(f"source connection {there.id} is gone")
            kept = made
        elif source.name != desired.name:
            yield from change(SOURCE_CONNECTIONS, source.id, desired.source.operations)
    yield from update_target(desired.target(target.base_connection_id), target, policy)
    try:
        yield from update_dataflow(desired.dataflow(kept.id, target.id), dataflow, policy, (yield from server_time()))
    except RequestRefused as refusal:
        yield from race_if_gone(refusal, (SOURCE_CONNECTIONS, kept.id), (DATAFLOWS, dataflow.id))
    ids = export_ids(target.base_connection_id, kept.id, target.id, dataflow.id, kept.dataset_ids)
    if kept.id != source.id:  # the dataflow has left it, and `update_dataflow` has removed it
        found.sources = [each for each in found.sources if each.id != source.id]
    yield from _discard_leftovers(found, ids, policy)
    return ids


def _mend_login(
    found: ObservedExport, dataflow: Dataflow, target: TargetConnection, policy: SetupPolicy
) -> Procedure[None]:
    """See to it that the dataflow writes with a login that is there and stays.

    Raises:
        RaceLost: it was gone; dataflow and target connection are gone now, too.
        EntityExists: it was gone, and somebody else made what is left.
    """
    base = found.base
    if base and base.id == target.base_connection_id:
        # Its maker died before it could confirm it, or is about to.
        if not is_unconfirmed(base) or (yield from decide(BASE_CONNECTIONS, base, "")) is not False:
            return
    elif policy.if_exists == "fail" or not (yield from is_gone(BASE_CONNECTIONS, target.base_connection_id)):
        return
    yield from remove_stranded(target, [dataflow])
    if found.source and is_managed(found.source):
        yield from discard(SOURCE_CONNECTIONS, found.source.id)
    raise RaceLost(f"base connection {target.base_connection_id} of export {dataflow.name!r} was gone")


def _discard_leftovers(found: ObservedExport, ids: ExportIds, policy: SetupPolicy) -> Procedure[None]:
    """Remove what interrupted set-ups and changes have left beside the entities in use, whoever made it.

    Of dataflows only what a step operator has made and not confirmed in time: it would export everything twice.
    """
    now_ms: int = yield ServerTime()
    for flow in found.flows:
        is_late = now_ms - flow.created_ms > policy.takeover_seconds * 1000
        if flow.id != ids.dataflow_id and (is_superseded(flow) or (is_unconfirmed(flow) and is_late)):
            log.warning("dataflow %r (%s) was left by a task that died; removing it", flow.name, flow.id)
            yield from withdraw(DATAFLOWS, flow) if is_unconfirmed(flow) else discard(DATAFLOWS, flow.id)
    yield from discard_managed(TARGET_CONNECTIONS, found.targets, keep=ids.target_connection_id)
    yield from discard_managed(SOURCE_CONNECTIONS, found.sources, keep=ids.source_connection_id)
    yield from discard_managed(BASE_CONNECTIONS, found.bases, keep=ids.base_connection_id)
