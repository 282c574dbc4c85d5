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
    Created,
    Kind,
    Now,
    Pause,
    Procedure,
    together,
)
from airflow_provider_aep.api.entities import (
    Dataflow,
    SourceConnection,
    TargetConnection,
)
from airflow_provider_aep.api.errors import (
    AccessDenied,
    EntityExists,
    PlatformUnavailable,
    RequestRefused,
    SeveralEntities,
)
from airflow_provider_aep.api.found import Found, if_there, look
from airflow_provider_aep.api.marks import is_marked, is_superseded, is_unconfirmed
from airflow_provider_aep.api.once import (
    RaceLost,
    Wanted,
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
from airflow_provider_aep.api.settling import Comparison, cannot_change, compare, settle
from airflow_provider_aep.api.steps import (
    RACE_ROUNDS,
    agreed,
    discard_marked,
    find_or_make,
    given_up,
    remove_stranded,
    send_credentials,
    update_dataflow,
    update_target,
)
from airflow_provider_aep.api.wishes import Difference, ExportIds, ExportWish, Manner, adobe_now, export_ids

log = logging.getLogger(__name__)

WATCH_SECONDS = 3.0


def set_up_export(wish: ExportWish, manner: Manner) -> Procedure[ExportIds]:
    """Exactly one base, source and target connection and one dataflow; nothing is sent that is not needed.

    A first run asks for the four at once, makes base and source side by side, makes the target while it looks whether
    they are the only ones of their name, and the dataflow last, while it confirms the base: five round trips with the
    token. Later runs ask for the four at once and are done.

    Two tasks never leave two dataflows, because the source connection is a ticket: only who sees no other one of the
    name beside its own makes a dataflow (see `beside`). A ticket without a dataflow is watched for a while; then its
    maker is taken to be dead and the ticket is deleted. Adobe refuses to delete one that a dataflow uses, and to make a
    dataflow of one that is deleted, so that either the maker or the one who takes over makes it, whatever is still on
    its way. A later try of the same task uses its own ticket again and, as everybody who did not make the ticket just
    now, looks afterwards whether its dataflow is the first.

    The base connection is shared with other exports, whose tasks do not know this one. It is agreed on before anything
    rests on it (see `agree`), but for the dataflow of its own maker, who takes that back if it loses.

    What this rests on and no document of Adobe's promises is listed in the README, "What this rests on".

    Raises:
        EntityExists: other data would be exported than the user wants; `if_exists="fail"`; or what differs cannot be
            changed.
        EntityNotFound: Adobe knows no base connection of the given ID; nothing is made.
        SeveralEntities: others have made several entities of this name.
        PlatformUnavailable: an outage; what has been made is found by the next try.
    """
    made: dict[str, Kind] = {}
    reason = RaceLost("")
    for _ in range(RACE_ROUNDS):
        try:
            found = yield from look(wish, manner)
            if found.dataflow is None:
                ids = yield from _complete(wish, found, manner, made)
            else:
                ids = yield from _reconcile(wish, found, found.dataflow, manner)
            # Of rounds that were lost something may be left that lists have not shown yet.
            yield from _discard_made(made, keep=ids)
            return ids
        except RaceLost as lost:
            reason = lost
            yield from stand_back()
        except (EntityExists, SeveralEntities):
            yield from _discard_made(made, keep=())  # in rounds before this one
            raise
    raise PlatformUnavailable(f"set-up of export {wish.name!r}", message=given_up(reason))


def _complete(wish: ExportWish, found: Found, manner: Manner, made: dict[str, Kind]) -> Procedure[ExportIds]:
    """There is no dataflow yet: make what is missing, the dataflow last. `made` collects what this session makes."""
    seconds = manner.settle_seconds
    source = yield from _claim(wish, found, manner)
    if wish.base and not found.base:
        found.base = yield from agreed(wish.base.wanted(), found.bases, manner)
    target = yield from _usable_target(wish, found)
    settle(_comparisons(wish, found, source, target), manner)
    if wish.base and found.base:
        yield from send_credentials(wish.base, found.base, manner)

    began_ms = yield Now()
    base = wish.base.wanted() if wish.base and not found.base else None
    ticket = replace(wish.source.wanted(), fits=lambda _source: True)
    base_made, source_made = yield from together(
        _make(base, manner, made, is_unconfirmed=True) if base else None,
        None if source else _make(ticket, manner, made),
    )
    base_id = found.base.id if found.base else base_made.id
    held = Created(source.id, source.etag) if source else source_made

    target_wish = wish.target(base_id)
    base_needed = [] if wish.base_connection_id else [(BASE_CONNECTIONS, base_id)]
    target_made, bases, sources = yield from together(
        None if target else _make(target_wish.wanted(), manner, made, needs=base_needed),
        beside(base, base_made, manner.maker, settle_seconds=seconds, is_unconfirmed=True) if base else None,
        beside(ticket, held, manner.maker, settle_seconds=seconds),
    )
    if len(sources) > 1:
        yield from _contest(wish, held.id, sources, manner, made)
    if base and len(bases) > 1:
        chosen = yield from agreed(base, bases, manner)
        if chosen is None or chosen.id != base_id:
            raise RaceLost(f"base connection {base.name!r} was made by another task")
    if target:
        yield from update_target(target_wish, target, manner)
    target_id = target.id if target else target_made.id

    flow = wish.dataflow(held.id, target_id).wanted((yield from adobe_now()))
    needs = [(SOURCE_CONNECTIONS, held.id), (TARGET_CONNECTIONS, target_id)]
    dataflow, is_confirmed = yield from together(
        _make(flow, manner, made, needs=needs),
        decide(BASE_CONNECTIONS, bases[0], "") if bases and len(bases) == 1 else None,
    )
    if is_confirmed is False:
        yield from delete(DATAFLOWS, dataflow.id)
        yield from _discard_made(made, keep=())
        raise RaceLost(f"another task has given up base connection {base_id}")
    # Whoever has not made the ticket just now may not be alone with it: others of the same task may have it, too.
    # Airflow starts another try while this one still runs, if it has heard nothing of it for long.
    is_late = (yield Now()) - began_ms > (seconds - 1) * 1000
    if source or is_late:
        first, *_ = yield from beside(flow, dataflow, manner.maker, settle_seconds=seconds)
        if first.id != dataflow.id:
            yield from delete(DATAFLOWS, dataflow.id)
            yield from _discard_made(made, keep=[base_id, held.id])
            raise RaceLost(f"dataflow {wish.name!r} was made by another try of this task")
    # What Adobe shows of it, or what it has accepted where no list shows it.
    listed = next(each for each in sources if each.id == held.id)
    datasets = listed.dataset_ids if isinstance(listed, SourceConnection) else wish.dataset_ids
    ids = export_ids(base_id, held.id, target_id, dataflow.id, datasets)
    yield from _discard_leftovers(found, ids, manner)
    return ids


def _claim(wish: ExportWish, found: Found, manner: Manner) -> Procedure[SourceConnection | None]:
    """The ticket: one that is there and ours to use, or None, then one has to be made.

    Raises:
        RaceLost: another task had it, and has used it or given it up, or it has been taken from it.
        EntityExists: it is another's and `if_exists="fail"`, or has other datasets and is not this provider's.
    """
    source = found.source
    if source is None:
        return None
    different = wish.source.differences(source)
    if manner.maker.owns(source):
        if not different:
            return source
        yield from discard(SOURCE_CONNECTIONS, source.id)  # an earlier try, with other datasets
        return None
    comparison = compare(SOURCE_CONNECTIONS, wish.source, source)
    if not is_marked(source):
        if different and manner.if_exists == "update":
            raise EntityExists(cannot_change(comparison))
        return source
    if manner.if_exists == "fail":
        settle([comparison], manner)
    log.info("another task is setting up export %r (source connection %s); waiting for it", wish.name, source.id)
    yield from _watch(wish, [source.id], manner)
    log.warning("export %r: the task that made source connection %s has not gone on; taking over", wish.name, source.id)
    yield from _take_tickets([each for each in found.sources if not manner.maker.owns(each)])
    raise RaceLost(f"source connection {source.id} was taken from its maker")


def _watch(wish: ExportWish, tickets: Sequence[str], manner: Manner) -> Procedure[None]:
    """Wait while the makers of these source connections may still be at it.

    Raises:
        RaceLost: there is a dataflow now, or one of the source connections is gone.
    """
    flow = wish.dataflow("", "").wanted((yield from adobe_now()))
    waited = 0.0
    while waited < manner.takeover_seconds:
        yield Pause(WATCH_SECONDS)
        waited += WATCH_SECONDS
        flows, sources = yield from together(find(flow), find(wish.source.wanted()))
        if flows:
            raise RaceLost(f"dataflow {flows[0].name!r} ({flows[0].id}) was made by another task")
        if not {each.id for each in sources}.issuperset(tickets):
            raise RaceLost("another task has removed its source connection")


def _take_tickets(tickets: Sequence[SourceConnection]) -> Procedure[None]:
    """Delete the source connections of tasks that are taken to be dead; Adobe refuses it for one that is in use."""
    for dead in tickets:
        if is_marked(dead):
            try:
                yield from delete(SOURCE_CONNECTIONS, dead.id)
            except AccessDenied:
                raise
            except RequestRefused as refusal:  # a dataflow uses it, which lists do not show yet
                log.info("source connection %s is in use after all: %s", dead.id, refusal)


def _contest(
    wish: ExportWish, own: str, sources: Sequence[SourceConnection], manner: Manner, made: dict[str, Kind]
) -> Procedure[None]:
    """Others are setting up the same export: the first in the list waits until it is alone, the others give way.

    Raises:
        RaceLost: always; what is there is looked at anew.
    """
    first, others = sources[0], [each for each in sources if each.id != own]
    if first.id != own:
        yield from _discard_made(made, keep=())
        if any(each.id == own and manner.maker.owns(each) for each in sources):
            yield from discard(SOURCE_CONNECTIONS, own)
        raise RaceLost(f"source connection {wish.name!r} was made by another task: {first.id}")
    log.info("other tasks are setting up export %r, too; waiting for them to give way", wish.name)
    yield from _watch(wish, [each.id for each in others], manner)
    yield from _take_tickets(others)
    raise RaceLost("tickets of other tasks were deleted")


def _usable_target(wish: ExportWish, found: Found) -> Procedure[TargetConnection | None]:
    """The target connection, unless it is one that an interrupted set-up has left otherwise than it is wanted now."""
    target = found.target
    if not target or not is_marked(target):
        return target
    if all(each.may_stay for each in _compare_target(wish, found, target).differences):
        return target
    yield from discard(TARGET_CONNECTIONS, target.id)
    return None


def _compare_target(wish: ExportWish, found: Found, target: TargetConnection) -> Comparison:
    comparison = compare(TARGET_CONNECTIONS, wish.target(found.base.id if found.base else ""), target)
    if found.base is None:
        missing = Difference(
            "base connection", repr(wish.base and wish.base.name), target.base_connection_id, is_fixed=True
        )
        return comparison._replace(differences=[missing, *comparison.differences])
    return comparison


def _comparisons(
    wish: ExportWish, found: Found, source: SourceConnection | None, target: TargetConnection | None
) -> list[Comparison]:
    comparisons = []
    if wish.base and found.base:
        comparisons.append(compare(BASE_CONNECTIONS, wish.base, found.base, is_shared=True))
    if source:
        comparisons.append(compare(SOURCE_CONNECTIONS, wish.source, source))
    if target:
        comparisons.append(_compare_target(wish, found, target))
    return comparisons


def _make(
    wanted: Wanted,
    manner: Manner,
    made: dict[str, Kind],
    *,
    needs: Sequence[tuple[Kind, str]] = (),
    is_unconfirmed: bool = False,
) -> Procedure[Created]:
    """`create` for an entity that may need others, which another task may remove meanwhile."""
    try:
        entity = yield from create(
            wanted, manner.maker, settle_seconds=manner.settle_seconds, is_unconfirmed=is_unconfirmed
        )
    except RequestRefused as refusal:
        yield from race_if_gone(refusal, *needs)
    made[entity.id] = wanted.kind
    return entity


def _discard_made(made: dict[str, Kind], *, keep: Sequence[object]) -> Procedure[None]:
    """Remove what this session has made in vain, the last first: Adobe deletes nothing that others are attached to."""
    for entity_id in [each for each in reversed(made) if each not in keep]:
        kind = made.pop(entity_id)
        if kind is not BASE_CONNECTIONS:
            yield from discard(kind, entity_id)
            continue
        base = yield from if_there(kind, entity_id)
        if base and is_unconfirmed(base):  # otherwise another task relies on it
            yield from withdraw(kind, base)


def _reconcile(wish: ExportWish, found: Found, dataflow: Dataflow, manner: Manner) -> Procedure[ExportIds]:
    """The dataflow is there: compare, and change what differs if that is wanted."""
    source, target = found.source, found.target
    assert source
    assert target
    yield from _mend_login(found, dataflow, target, manner)
    # That its source connection has other datasets is told once, not also as another source connection.
    as_it_is = compare(DATAFLOWS, wish.dataflow(source.id, target.id), dataflow)
    settle([*_comparisons(wish, found, source, target), as_it_is], manner)
    kept = source
    if manner.if_exists == "update":
        if wish.base and found.base:
            yield from send_credentials(wish.base, found.base, manner)
        if wish.source.differences(source):
            there = yield from find_or_make(wish.source.wanted(), manner, only_fitting=True)
            made = there.entity or (yield from if_there(SOURCE_CONNECTIONS, there.id))
            if made is None:
                raise RaceLost(f"source connection {there.id} is gone")
            kept = made
        elif source.name != wish.name:
            yield from change(SOURCE_CONNECTIONS, source.id, wish.source.operations)
    yield from update_target(wish.target(target.base_connection_id), target, manner)
    try:
        yield from update_dataflow(wish.dataflow(kept.id, target.id), dataflow, manner, (yield from adobe_now()))
    except RequestRefused as refusal:
        yield from race_if_gone(refusal, (SOURCE_CONNECTIONS, kept.id), (DATAFLOWS, dataflow.id))
    ids = export_ids(target.base_connection_id, kept.id, target.id, dataflow.id, kept.dataset_ids)
    if kept.id != source.id:  # the dataflow has left it, and `update_dataflow` has removed it
        found.sources = [each for each in found.sources if each.id != source.id]
    yield from _discard_leftovers(found, ids, manner)
    return ids


def _mend_login(found: Found, dataflow: Dataflow, target: TargetConnection, manner: Manner) -> Procedure[None]:
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
    elif manner.if_exists == "fail" or not (yield from is_gone(BASE_CONNECTIONS, target.base_connection_id)):
        return
    yield from remove_stranded(target, [dataflow])
    if found.source and is_marked(found.source):
        yield from discard(SOURCE_CONNECTIONS, found.source.id)
    raise RaceLost(f"base connection {target.base_connection_id} of export {dataflow.name!r} was gone")


def _discard_leftovers(found: Found, ids: ExportIds, manner: Manner) -> Procedure[None]:
    """Remove what interrupted set-ups and changes have left beside the entities in use, whoever made it.

    Of dataflows only what a step operator has made and not confirmed in time: it would export everything twice.
    """
    now_ms: int = yield Now()
    for flow in found.flows:
        is_late = now_ms - flow.created_ms > manner.takeover_seconds * 1000
        if flow.id != ids.dataflow_id and (is_superseded(flow) or (is_unconfirmed(flow) and is_late)):
            log.warning("dataflow %r (%s) was left by a task that died; removing it", flow.name, flow.id)
            yield from withdraw(DATAFLOWS, flow) if is_unconfirmed(flow) else discard(DATAFLOWS, flow.id)
    yield from discard_marked(TARGET_CONNECTIONS, found.targets, keep=ids.target_connection_id)
    yield from discard_marked(SOURCE_CONNECTIONS, found.sources, keep=ids.source_connection_id)
    yield from discard_marked(BASE_CONNECTIONS, found.bases, keep=ids.base_connection_id)
