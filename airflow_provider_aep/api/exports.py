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
    Now,
    Pause,
    Procedure,
    together,
)
from airflow_provider_aep.api.entities import BaseConnection, Dataflow, SourceConnection, TargetConnection
from airflow_provider_aep.api.errors import EntityExists, PlatformUnavailable
from airflow_provider_aep.api.procedures import RaceLost, create, discard, find, find_settled, is_first, is_marked, only
from airflow_provider_aep.api.steps import (
    RACE_ROUNDS,
    discard_leftovers,
    make_one,
    reconcile_base_connection,
    reconcile_dataflow,
    reconcile_target_connection,
)
from airflow_provider_aep.api.wishes import (
    Difference,
    ExportIds,
    ExportWish,
    Manner,
    _ids,
    adobe_now,
    cannot_change,
    settle_differences,
)

log = logging.getLogger(__name__)

# A half-made export without a dataflow is left to whoever is at it until its source connection is this old. A maker
# that needs more than LATE_SECONDS itself looks whether somebody else has taken over. The one must exceed the other by
# the time that one POST may be under way.
TAKEOVER_SECONDS = 180
LATE_SECONDS = 60


def set_up_export(wish: ExportWish, manner: Manner) -> Procedure[ExportIds]:
    """Exactly one base, source and target connection and one dataflow; nothing is sent that is not needed.

    A first run asks for the four at once, makes base and source side by side, makes the target while it looks whether
    they are the only ones of their name, and the dataflow last: five round trips with the token. The oldest source
    connection of the name decides who makes the dataflow, so that two tasks never leave two.

    Raises:
        AepError: see the four steps above.
    """
    for _ in range(RACE_ROUNDS):
        try:
            return (yield from _set_up_once(wish, manner))
        except RaceLost:
            manner = replace(manner, patient=True)
            yield Pause(1)
    raise PlatformUnavailable(
        f"set-up of export {wish.name!r}", message="other tasks are setting up the same export all the time"
    )


@dataclass
class _Found:
    """What is at Adobe already, by name, and what the dataflow is attached to."""

    dataflow: Dataflow | None
    base: BaseConnection | None
    source: SourceConnection | None
    target: TargetConnection | None
    sources: Sequence[SourceConnection]

    @property
    def base_connection_id(self) -> str:
        if self.base:
            return self.base.id
        return self.target.base_connection_id if self.target else ""


def _set_up_once(wish: ExportWish, manner: Manner) -> Procedure[ExportIds]:
    found = yield from _look(wish, manner)
    if found.dataflow is None:
        return (yield from _complete(wish, found, manner))
    return (yield from _reconcile_export(wish, found, found.dataflow, manner))


def _look(wish: ExportWish, manner: Manner) -> Procedure[_Found]:
    now = yield from adobe_now()
    flow, source, target = wish.dataflow("", "").wanted(now), wish.source.wanted(), wish.target("").wanted()
    base = wish.base.wanted() if wish.base else None
    seconds = manner.first_look_seconds
    flows, sources, targets, bases = yield from together(
        *(find_settled(each, settle_seconds=seconds) if each else None for each in (flow, source, target, base))
    )
    dataflow = only(flow, flows)
    found = _Found(
        dataflow=dataflow,
        base=only(base, bases) if base else None,
        source=only(source, sources, attached_to=dataflow.source_connection_id if dataflow else ""),
        target=only(target, targets, attached_to=dataflow.target_connection_id if dataflow else ""),
        sources=sources,
    )
    if dataflow:
        # What a dataflow is attached to counts, even where somebody has renamed it.
        if found.source is None or found.source.id != dataflow.source_connection_id:
            found.source = yield from calls.get_source_connection(dataflow.source_connection_id)
        if found.target is None or found.target.id != dataflow.target_connection_id:
            found.target = yield from calls.get_target_connection(dataflow.target_connection_id)
    for wanted, several, kept in (
        (target, targets, found.target),
        (source, sources, found.source),
        (base, bases or (), found.base),
    ):
        if wanted and kept:
            yield from discard_leftovers(wanted, several, keep=kept.id, manner=manner)
    return found


def _complete(wish: ExportWish, found: _Found, manner: Manner) -> Procedure[ExportIds]:
    """There is no dataflow yet: make what is missing, and the dataflow last."""
    maker, settle = manner.maker, manner.settle_seconds
    source = found.source
    if source and wish.source.differences(source) and is_marked(source):
        source = None  # an interrupted set-up with another list of datasets; nothing uses it
    if source:
        yield from _leave_to_its_maker(wish, source, manner)
        settle_differences(SOURCE_CONNECTIONS, source, wish.source.differences(source), manner)
    base_known = wish.base_connection_id or found.base_connection_id
    if found.base and wish.base:
        yield from reconcile_base_connection(wish.base, found.base, manner.sharing())
    new_base = None if base_known or not wish.base else wish.base.wanted()
    new_source = None if source else wish.source.wanted()
    base_made, source_made = yield from together(
        create(new_base, maker, settle_seconds=settle) if new_base else None,
        create(new_source, maker, settle_seconds=settle) if new_source else None,
    )
    started_ms = yield Now()
    base_id = base_made or base_known
    source_id = source_made or (source.id if source else "")

    target_wish = wish.target(base_id)
    target_id, base_first, source_first = yield from together(
        reconcile_target_connection(target_wish, found.target, manner)
        if found.target
        else create(target_wish.wanted(), maker, settle_seconds=settle),
        is_first(new_base, base_id, settle_seconds=settle) if new_base else None,
        is_first(new_source, source_id, settle_seconds=settle) if new_source else None,
    )
    if source and not found.target and base_first is not False:  # taken over: somebody may be at it after all
        source_first = yield from is_first(target_wish.wanted(), target_id, settle_seconds=settle)
    if base_first is False or source_first is False:
        if not found.target:
            yield from discard(TARGET_CONNECTIONS, target_id)
        if new_source and source_first is False:
            yield from discard(SOURCE_CONNECTIONS, source_id)
        if base_first is False:
            yield from discard(BASE_CONNECTIONS, base_id)
        raise RaceLost

    flow = wish.dataflow(source_id, target_id).wanted((yield from adobe_now()))
    dataflow_id = yield from create(flow, maker, settle_seconds=settle)
    late = (yield Now()) - started_ms > LATE_SECONDS * 1000
    if (source or late) and not (yield from is_first(flow, dataflow_id, settle_seconds=settle)):
        yield from discard(DATAFLOWS, dataflow_id)
        raise RaceLost
    yield from _discard_unused_sources(found, keep=source_id, manner=manner)
    return _ids(base_id, source_id, target_id, dataflow_id)


def _leave_to_its_maker(wish: ExportWish, source: SourceConnection, manner: Manner) -> Procedure[None]:
    """A source connection without a dataflow: wait while its maker may still be at it, unless that is ourselves.

    Raises:
        RaceLost: the maker has finished.
    """
    maker = manner.maker
    if maker.made(source) or (maker.again and maker.may_have_made(source) and not manner.patient):
        return
    told = False
    while (yield Now()) - source.created_ms < TAKEOVER_SECONDS * 1000:
        if not told:
            log.info(
                "another task is setting up export %r (source connection %s); waiting for it", wish.name, source.id
            )
            told = True
        yield Pause(3)
        if (yield from find(wish.dataflow("", "").wanted((yield from adobe_now())))):
            raise RaceLost


def _reconcile_export(wish: ExportWish, found: _Found, dataflow: Dataflow, manner: Manner) -> Procedure[ExportIds]:
    """The dataflow is there: compare, and change what differs if that is wanted."""
    now = yield from adobe_now()
    assert found.source
    assert found.target
    if wish.base and found.base:
        yield from reconcile_base_connection(wish.base, found.base, manner.sharing())
    elif wish.base:
        missing = Difference("base connection", repr(wish.base.name), found.target.base_connection_id)
        if manner.if_exists == "update":
            raise EntityExists(cannot_change(TARGET_CONNECTIONS, found.target, [missing]))
        settle_differences(TARGET_CONNECTIONS, found.target, [missing], manner)
    target_wish = wish.target(wish.base_connection_id or (found.base.id if found.base else ""))
    yield from reconcile_target_connection(target_wish, found.target, manner)

    source_id: str = found.source.id
    different = wish.source.differences(found.source)
    settle_differences(SOURCE_CONNECTIONS, found.source, different, manner)
    if different and manner.if_exists == "update":
        ready = [source.id for source in found.sources if not wish.source.differences(source)]
        source_id = ready[0] if ready else (yield from make_one(wish.source.wanted(), manner))
    flow_wish = wish.dataflow(source_id, dataflow.target_connection_id)
    yield from reconcile_dataflow(flow_wish, dataflow, manner, now)
    if source_id != found.source.id and is_marked(found.source):
        yield from discard(SOURCE_CONNECTIONS, found.source.id)
    yield from _discard_unused_sources(found, keep=source_id, manner=manner)
    return _ids(found.target.base_connection_id, source_id, dataflow.target_connection_id, dataflow.id)


def _discard_unused_sources(found: _Found, *, keep: str, manner: Manner) -> Procedure[None]:
    """Remove source connections that an interrupted change has left beside the one in use.

    Those of other tasks only when they are old enough for their makers to be done with them.
    """
    now_ms = yield Now()
    for source in found.sources:
        unused = source.id not in (keep, found.source.id if found.source and found.dataflow else "")
        old = now_ms - source.created_ms > TAKEOVER_SECONDS * 1000
        if unused and is_marked(source) and (old or manner.maker.may_have_made(source)):
            yield from discard(SOURCE_CONNECTIONS, source.id)
