"""One step of an export, done exactly once: found, compared, reused, updated or made."""

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
    Pause,
    Procedure,
    together,
)
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
from airflow_provider_aep.api.errors import EntityNotFound, PlatformUnavailable, RequestRefused
from airflow_provider_aep.api.once import (
    VANISHING,
    RaceLost,
    Wanted,
    change,
    create,
    delete,
    discard,
    find,
    find_named,
    is_first,
    is_marked,
    look_for,
    only,
    stand_back,
)
from airflow_provider_aep.api.procedures import all_items
from airflow_provider_aep.api.wishes import (
    BaseWish,
    DataflowWish,
    Manner,
    SourceWish,
    TargetWish,
    adobe_now,
    compare,
    settle,
    warn_of_end,
)

log = logging.getLogger(__name__)

RACE_ROUNDS = 8


def ensure_base_connection(wish: BaseWish, manner: Manner) -> Procedure[BaseConnectionId]:
    """Exactly one login of this name and destination. `update` sends its credentials anew, in place.

    Raises:
        EntityExists: it logs in another way than wanted, which Adobe cannot change; or `if_exists="fail"`.
        SeveralEntities: others have made several of this name.
    """
    there = yield from find_or_make(wish.wanted(), manner)
    if there.entity:
        settle([compare(BASE_CONNECTIONS, wish, there.entity)], manner)
        yield from send_credentials(wish, there.entity, manner)
    return BaseConnectionId(there.id)


def send_credentials(wish: BaseWish, found: BaseConnection, manner: Manner) -> Procedure[None]:
    """Secrets are never compared, so an update always sends them.

    Source: guide "Edit destinations" (`add` on /auth/params replaces the whole set).
    """
    if manner.if_exists == "update" and wish.auth:
        operation = {"op": "add", "path": "/auth/params", "value": dict(wish.auth["params"])}
        yield from change(BASE_CONNECTIONS, found.id, lambda _found: [operation])


def ensure_source_connection(wish: SourceWish, manner: Manner) -> Procedure[SourceConnectionId]:
    """Exactly one source connection of this name for these datasets.

    Its datasets are fixed once made, so `update` makes a new one under the same name; `ensure_dataflow` attaches it and
    removes the old one.

    Raises:
        EntityExists: `if_exists="fail"`.
        SeveralEntities: others have made several of this name.
    """
    there = yield from find_or_make(wish.wanted(), manner, only_fitting=manner.if_exists == "update")
    if there.entity:
        settle([compare(SOURCE_CONNECTIONS, wish, there.entity)], manner)
    return SourceConnectionId(there.id)


def ensure_target_connection(wish: TargetWish, manner: Manner) -> Procedure[TargetConnectionId]:
    """Exactly one target connection of this name and destination.

    Raises:
        EntityExists: it belongs to another base connection, which Adobe cannot change; or `if_exists="fail"`.
        SeveralEntities: others have made several of this name.
    """
    there = yield from find_or_make(wish.wanted(), manner)
    if there.entity:
        settle([compare(TARGET_CONNECTIONS, wish, there.entity)], manner)
        yield from update_target(wish, there.entity, manner)
    return TargetConnectionId(there.id)


def update_target(wish: TargetWish, found: TargetConnection, manner: Manner) -> Procedure[None]:
    if manner.if_exists == "update" and wish.operations(found):
        yield from change(TARGET_CONNECTIONS, found.id, wish.operations)


def ensure_dataflow(wish: DataflowWish, manner: Manner) -> Procedure[DataflowId]:
    """Exactly one dataflow of this name and destination, enabled, with this source, target and schedule.

    Two tasks that make it at once look for each other's afterwards, and the younger one is removed.

    Raises:
        EntityExists: it writes to another target connection, which Adobe cannot change; or `if_exists="fail"`.
        SeveralEntities: others have made several of this name.
    """
    now = yield from adobe_now()
    there = yield from find_or_make(wish.wanted(now), manner, elsewhere=lambda: _renamed(wish))
    if there.entity:
        settle([compare(DATAFLOWS, wish, there.entity)], manner)
        yield from update_dataflow(wish, there.entity, manner, now)
        if manner.maker.again and manner.if_exists == "update":
            yield from _discard_unused_sources(wish.source_connection_id)
    return DataflowId(there.id)


def update_dataflow(wish: DataflowWish, found: Dataflow, manner: Manner, now: datetime) -> Procedure[None]:
    if manner.if_exists != "update":
        warn_of_end(found, now)
        return
    if wish.operations(found, now):
        last = yield from change(DATAFLOWS, found.id, lambda fresh: wish.operations(fresh, now))
        # Only now are old source connections of no use. A death before they are gone leaves them to the next run.
        for old in {found.source_connection_id, last.source_connection_id} - {wish.source_connection_id}:
            yield from _discard_old_source(old, wish.source_connection_id)
    if found.state == "disabled":
        yield from _enable(DataflowId(found.id))


def _renamed(wish: DataflowWish) -> Procedure[Sequence[Entity]]:
    """A dataflow from this very source to this very target is the one that is meant, whatever it is called now."""
    flows = yield from flows_of(wish.source_connection_id)
    return [
        flow
        for flow in flows
        if flow.target_connection_id == wish.target_connection_id and flow.spec_id == wish.kind.flow_spec
    ]


def flows_of(source: str) -> Procedure[list[Dataflow]]:
    """Dataflows that read from a source connection. Source: guide "Sort and filter responses", flows."""
    items = yield from all_items(calls.list_page("/flows", filters=[f"sourceConnectionIds[]=={source}"]))
    flows: list[Dataflow] = [DATAFLOWS.read(item) for item in items]
    return [flow for flow in flows if flow.source_connection_id == source and flow.state != VANISHING]


def _discard_old_source(old: SourceConnectionId, new: SourceConnectionId) -> Procedure[None]:
    """Remove the source connection that a dataflow has just left, if it is this provider's or of the same export."""
    try:
        before, after = yield from together(
            iter(calls.get_source_connection(old)), iter(calls.get_source_connection(new))
        )
    except EntityNotFound:  # somebody was faster
        return
    if is_marked(before) or before.name == after.name:
        yield from discard(SOURCE_CONNECTIONS, old)


def _discard_unused_sources(used: SourceConnectionId) -> Procedure[None]:
    """Remove what an earlier try has left that died between attaching a new source connection and removing the old."""
    source = yield from calls.get_source_connection(used)
    same = yield from find_named(SOURCE_CONNECTIONS, source.name, source.spec_id)
    yield from discard_marked(SOURCE_CONNECTIONS, same, keep=used)


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
    wanted: Wanted,
    manner: Manner,
    *,
    only_fitting: bool = False,
    elsewhere: Callable[[], Procedure[Sequence[Entity]]] | None = None,
) -> Procedure[There]:
    """The one entity that is meant, made if there is none; `only_fitting` passes over those that will not do.

    `elsewhere` is another way to find it, tried before it is made.
    """
    for _ in range(RACE_ROUNDS):
        found = yield from look_for(
            wanted,
            (lambda found: any(map(wanted.fits, found))) if only_fitting else bool,
            settle_seconds=manner.first_look_seconds,
        )
        found = yield from without_rivals(wanted, found, manner)
        entity = only(wanted, found)
        if not entity and elsewhere:
            others = yield from elsewhere()
            if any(other.name == wanted.name for other in others):
                continue  # made this very moment, and the look-up by name tells more of it
            entity = only(wanted, others)
        if entity and (wanted.fits(entity) or not only_fitting):
            rivals = found if only_fitting else [each for each in found if wanted.fits(each)]
            yield from discard_marked(wanted.kind, rivals, keep=entity.id)
            return There(entity.id, entity)
        try:
            made = yield from create(wanted, manner.maker, settle_seconds=manner.settle_seconds)
        except RaceLost:
            pass
        else:
            if (yield from is_first(wanted, made, settle_seconds=manner.settle_seconds)):
                return There(made, None)
            yield from delete(wanted.kind, made)
        yield from stand_back()
    raise PlatformUnavailable(
        f"set-up of {wanted.kind.title} {wanted.name!r}", message="other tasks are making and removing it all the time"
    )


def without_rivals(wanted: Wanted, found: list[Any], manner: Manner) -> Procedure[list[Any]]:
    """Several that would do, all made by this provider: their makers are given time to see each other first.

    Where two dataflows are left then, one of a task that died before it could look, the younger one is removed.
    """
    if sum(map(wanted.fits, found)) < 2 or not all(map(is_marked, found)):
        return found
    yield Pause(manner.settle_seconds + 1)
    found = yield from find(wanted)
    if wanted.kind is not DATAFLOWS or not all(map(is_marked, found)):
        return found
    for younger in found[1:]:
        log.warning("dataflow %r was made twice by tasks that died; deleting %s", wanted.name, younger.id)
        yield from delete(DATAFLOWS, younger.id)
    return found[:1]


def discard_marked(kind: calls.Kind, found: Sequence[Entity], *, keep: str) -> Procedure[None]:
    """Remove what interrupted tries have left beside the one that is kept; Adobe refuses it for one that is in use."""
    for entity in found:
        if entity.id != keep and is_marked(entity):
            yield from discard(kind, entity.id)
