"""A whole export set up exactly once, in the fewest round trips, whatever died before."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from airflow_provider_aep.api import calls
from airflow_provider_aep.api.calls import (
    BASE_CONNECTIONS,
    DATAFLOWS,
    SOURCE_CONNECTIONS,
    TARGET_CONNECTIONS,
    Kind,
    Now,
    Pause,
    Procedure,
    together,
)
from airflow_provider_aep.api.entities import BaseConnection, Dataflow, SourceConnection, TargetConnection
from airflow_provider_aep.api.errors import (
    AccessDenied,
    EntityExists,
    EntityNotFound,
    PlatformUnavailable,
    RequestRefused,
)
from airflow_provider_aep.api.once import (
    RaceLost,
    Wanted,
    change,
    create,
    delete,
    discard,
    find,
    is_first,
    is_marked,
    look_for,
    only,
    race_if_gone,
    stand_back,
)
from airflow_provider_aep.api.steps import (
    RACE_ROUNDS,
    discard_marked,
    find_or_make,
    flows_of,
    send_credentials,
    update_dataflow,
    update_target,
    without_rivals,
)
from airflow_provider_aep.api.wishes import (
    Comparison,
    Difference,
    ExportIds,
    ExportWish,
    Manner,
    adobe_now,
    cannot_change,
    compare,
    export_ids,
    settle,
)

log = logging.getLogger(__name__)

WATCH_SECONDS = 3.0


def set_up_export(wish: ExportWish, manner: Manner) -> Procedure[ExportIds]:
    """Exactly one base, source and target connection and one dataflow; nothing is sent that is not needed.

    A first run asks for the four at once, makes base and source side by side, makes the target while it looks whether
    they are the only ones of their name, and the dataflow last: five round trips with the token. Later runs ask for the
    four at once and are done.

    Two tasks never leave two dataflows, because the source connection is a ticket: only who holds the oldest one of the
    name makes a dataflow. A ticket without a dataflow is watched for a while; then its maker is taken to be dead and
    the ticket is deleted. Adobe refuses to delete one that a dataflow uses, and to make a dataflow of one that is
    deleted, so that either the maker or the one who takes over makes it, whatever is still on its way. A later try of
    the same task uses its own ticket again and, as everybody who did not make the ticket just now, looks afterwards
    whether its dataflow is the first.

    This rests on three things: a list that shows an entity shows all made before it, it shows each within
    `settle_seconds`, and Adobe's creation times (milliseconds) follow the order of making. Where one does not hold,
    two dataflows are possible; the next run of any of the tasks keeps the older one.

    Raises:
        EntityExists: `if_exists="fail"`; or what differs cannot be changed.
        SeveralEntities: others have made several entities of this name.
        PlatformUnavailable: an outage; what has been made is found by the next try.
    """
    made: dict[str, Kind] = {}
    for _ in range(RACE_ROUNDS):
        try:
            found = yield from _look(wish, manner)
            if found.dataflow is None:
                ids = yield from _complete(wish, found, manner, made)
            else:
                ids = yield from _reconcile(wish, found, found.dataflow, manner)
            # Of rounds that were lost something may be left that lists have not shown yet.
            yield from _discard_made(made, keep=ids)
            return ids
        except (RaceLost, EntityNotFound) as lost:  # what was there a moment ago is there no more
            reason = lost
            yield from stand_back()
    if isinstance(reason, EntityNotFound):
        raise reason
    raise PlatformUnavailable(
        f"set-up of export {wish.name!r}", message="other tasks are setting up the same export all the time"
    )


@dataclass
class _Found:
    """What is at Adobe already: of each kind all of the name, oldest first, and the one that is meant."""

    dataflow: Dataflow | None = None
    base: BaseConnection | None = None
    source: SourceConnection | None = None
    target: TargetConnection | None = None
    bases: Sequence[BaseConnection] = ()
    sources: Sequence[SourceConnection] = ()
    targets: Sequence[TargetConnection] = ()


def _look(wish: ExportWish, manner: Manner) -> Procedure[_Found]:
    now = yield from adobe_now()
    flow, source, target = wish.dataflow("", "").wanted(now), wish.source.wanted(), wish.target("").wanted()
    base = wish.base.wanted() if wish.base else None
    is_enough = (lambda found: any(map(source.fits, found))) if manner.if_exists == "update" else bool
    seconds = manner.first_look_seconds
    flows, sources, targets, bases = yield from together(
        look_for(flow, settle_seconds=seconds),
        look_for(source, is_enough, settle_seconds=seconds),
        look_for(target, settle_seconds=seconds),
        look_for(base, settle_seconds=seconds) if base else None,
    )
    flows = yield from without_rivals(flow, flows, manner)
    dataflow = only(flow, flows)
    if dataflow is None and sources:
        dataflow = yield from _flow_of_another_name(wish, sources, targets)
    found = _Found(dataflow, bases=bases or (), sources=sources, targets=targets)
    if dataflow is None:
        # Whose source connection is the oldest counts then, whether it fits or not.
        found.source = only(replace(source, fits=lambda _source: True), sources)
        found.target = only(target, targets)
        found.base = only(base, found.bases) if base else None
        return found
    # What the dataflow is attached to counts, even where somebody has renamed it.
    found.source = only(source, sources, attached_to=dataflow.source_connection_id)
    if found.source is None or found.source.id != dataflow.source_connection_id:
        found.source = yield from calls.get_source_connection(dataflow.source_connection_id)
    found.target = only(target, targets, attached_to=dataflow.target_connection_id)
    if found.target is None or found.target.id != dataflow.target_connection_id:
        found.target = yield from calls.get_target_connection(dataflow.target_connection_id)
    found.base = only(base, found.bases, attached_to=found.target.base_connection_id) if base else None
    return found


def _flow_of_another_name(
    wish: ExportWish, sources: Sequence[SourceConnection], targets: Sequence[TargetConnection]
) -> Procedure[Dataflow | None]:
    """The dataflow of this export where somebody has renamed it; making another would export everything twice.

    Raises:
        EntityExists: the source connection belongs to a dataflow to somewhere else.
    """
    for source in sources:
        for flow in (yield from flows_of(source.id)):
            same_kind = flow.spec_id == wish.kind.flow_spec
            if same_kind and flow.name == wish.name:
                raise RaceLost  # made this very moment; the look-up by name tells more of it
            if same_kind and flow.target_connection_id in [each.id for each in targets]:
                return flow
            raise EntityExists(
                f"source connection {source.name!r} ({source.id}) belongs to dataflow {flow.name!r} ({flow.id}), which "
                f"writes to another destination; delete that dataflow, or give the export another name"
            )
    return None


def _complete(wish: ExportWish, found: _Found, manner: Manner, made: dict[str, Kind]) -> Procedure[ExportIds]:
    """There is no dataflow yet: make what is missing, the dataflow last. `made` collects what this session makes."""
    seconds = manner.settle_seconds
    source = yield from _claim(wish, found, manner)
    target = yield from _usable_target(wish, found)
    settle(_comparisons(wish, found, source, target), manner)
    if wish.base and found.base:
        yield from send_credentials(wish.base, found.base, manner)

    began_ms = yield Now()
    base = wish.base.wanted() if wish.base and not found.base and not target else None
    ticket = replace(wish.source.wanted(), fits=lambda _source: True)
    base_made, source_made = yield from together(
        _make(base, manner, made) if base else None,
        None if source else _make(ticket, manner, made),
    )
    known_base = wish.base_connection_id or (found.base.id if found.base else "")
    base_id = base_made or known_base or (target.base_connection_id if target else "")
    source_id = source.id if source else source_made

    target_wish = wish.target(base_id)
    base_needed = [] if wish.base_connection_id else [(BASE_CONNECTIONS, base_id)]
    target_made, base_first, source_first = yield from together(
        None if target else _make(target_wish.wanted(), manner, made, needs=base_needed),
        is_first(base, base_id, settle_seconds=seconds) if base else None,
        is_first(ticket, source_id, settle_seconds=seconds),
    )
    if base_first is False or not source_first:
        yield from _discard_made(
            made, keep=[*([base_id] if base_first else []), *([source_id] if source_first else [])]
        )
        if source and not source_first and manner.maker.owns(source):
            yield from discard(SOURCE_CONNECTIONS, source_id)
        raise RaceLost
    if target:
        yield from update_target(target_wish, target, manner)
    target_id = target.id if target else target_made

    flow = wish.dataflow(source_id, target_id).wanted((yield from adobe_now()))
    needs = [(SOURCE_CONNECTIONS, source_id), (TARGET_CONNECTIONS, target_id)]
    dataflow_id = yield from _make(flow, manner, made, needs=needs)
    # Whoever has not made the ticket just now may not be alone with it: others of the same task may have it, too.
    # Airflow starts another try while this one still runs, if it has heard nothing of it for long.
    is_late = (yield Now()) - began_ms > (seconds - 1) * 1000
    if (source or is_late) and not (yield from is_first(flow, dataflow_id, settle_seconds=seconds)):
        yield from delete(DATAFLOWS, dataflow_id)
        yield from _discard_made(made, keep=[base_id, source_id, dataflow_id])
        raise RaceLost
    ids = export_ids(base_id, source_id, target_id, dataflow_id)
    yield from _discard_leftovers(found, ids)
    return ids


def _claim(wish: ExportWish, found: _Found, manner: Manner) -> Procedure[SourceConnection | None]:
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
    yield from _watch(wish, source, manner)
    log.warning("export %r: who made source connection %s has not gone on; taking over", wish.name, source.id)
    for dead in found.sources:
        if is_marked(dead) and not manner.maker.owns(dead):
            try:
                yield from delete(SOURCE_CONNECTIONS, dead.id)
            except AccessDenied:
                raise
            except RequestRefused as refusal:  # a dataflow uses it, which lists do not show yet
                log.info("source connection %s is in use after all: %s", dead.id, refusal)
    raise RaceLost


def _watch(wish: ExportWish, source: SourceConnection, manner: Manner) -> Procedure[None]:
    """Wait while the maker of a source connection may still be at it.

    Raises:
        RaceLost: there is a dataflow now, or the source connection is gone.
    """
    log.info("another task is setting up export %r (source connection %s); waiting for it", wish.name, source.id)
    flow = wish.dataflow("", "").wanted((yield from adobe_now()))
    waited = 0.0
    while waited < manner.takeover_seconds:
        yield Pause(WATCH_SECONDS)
        waited += WATCH_SECONDS
        flows, sources = yield from together(find(flow), find(wish.source.wanted()))
        if flows or source.id not in [each.id for each in sources]:
            raise RaceLost


def _usable_target(wish: ExportWish, found: _Found) -> Procedure[TargetConnection | None]:
    """The target connection, unless it is one that an interrupted set-up has left at another login."""
    target = found.target
    if target and is_marked(target) and any(each.is_fixed for each in _compare_target(wish, found, target).differences):
        yield from discard(TARGET_CONNECTIONS, target.id)
        return None
    return target


def _compare_target(wish: ExportWish, found: _Found, target: TargetConnection) -> Comparison:
    base = wish.base_connection_id or (found.base.id if found.base else "")
    comparison = compare(TARGET_CONNECTIONS, wish.target(base), target)
    if wish.base and not found.base:
        missing = Difference("base connection", repr(wish.base.name), target.base_connection_id, is_fixed=True)
        return comparison._replace(differences=[missing, *comparison.differences])
    return comparison


def _comparisons(
    wish: ExportWish, found: _Found, source: SourceConnection | None, target: TargetConnection | None
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
    wanted: Wanted, manner: Manner, made: dict[str, Kind], *, needs: Sequence[tuple[Kind, str]] = ()
) -> Procedure[str]:
    """`create` for an entity that may need others, which another task may remove meanwhile."""
    try:
        entity_id = yield from create(wanted, manner.maker, settle_seconds=manner.settle_seconds)
    except RequestRefused as refusal:
        yield from race_if_gone(refusal, *needs)
    made[entity_id] = wanted.kind
    return entity_id


def _discard_made(made: dict[str, Kind], *, keep: Sequence[str]) -> Procedure[None]:
    """Remove what this session has made in vain, the last first: Adobe deletes nothing that others are attached to."""
    for entity_id in [each for each in reversed(made) if each not in keep]:
        yield from discard(made.pop(entity_id), entity_id)


def _reconcile(wish: ExportWish, found: _Found, dataflow: Dataflow, manner: Manner) -> Procedure[ExportIds]:
    """The dataflow is there: compare, and change what differs if that is wanted."""
    source, target = found.source, found.target
    assert source
    assert target
    # That its source connection has other datasets is told once, not also as another source connection.
    as_it_is = compare(DATAFLOWS, wish.dataflow(source.id, target.id), dataflow)
    settle([*_comparisons(wish, found, source, target), as_it_is], manner)
    source_id: str = source.id
    if manner.if_exists == "update":
        if wish.base and found.base:
            yield from send_credentials(wish.base, found.base, manner)
        yield from update_target(wish.target(target.base_connection_id), target, manner)
        if wish.source.differences(source):
            source_id = (yield from find_or_make(wish.source.wanted(), manner, only_fitting=True)).id
        elif source.name != wish.name:
            yield from change(SOURCE_CONNECTIONS, source.id, wish.source.operations)
    try:
        yield from update_dataflow(wish.dataflow(source_id, target.id), dataflow, manner, (yield from adobe_now()))
    except RequestRefused as refusal:
        yield from race_if_gone(refusal, (SOURCE_CONNECTIONS, source_id), (DATAFLOWS, dataflow.id))
    ids = export_ids(target.base_connection_id, source_id, target.id, dataflow.id)
    if source_id != source.id:  # the dataflow has left it, and `update_dataflow` has removed it
        found.sources = [each for each in found.sources if each.id != source.id]
    yield from _discard_leftovers(found, ids)
    return ids


def _discard_leftovers(found: _Found, ids: ExportIds) -> Procedure[None]:
    """Remove what interrupted set-ups and changes have left beside the entities in use, whoever made it."""
    yield from discard_marked(TARGET_CONNECTIONS, found.targets, keep=ids.target_connection_id)
    yield from discard_marked(SOURCE_CONNECTIONS, found.sources, keep=ids.source_connection_id)
    # Other exports share a base connection: of several the oldest stays, which is the one that they choose.
    yield from discard_marked(BASE_CONNECTIONS, found.bases[1:], keep=ids.base_connection_id)
