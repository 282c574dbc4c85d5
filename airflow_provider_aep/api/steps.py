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
from airflow_provider_aep.api.destinations import Kind
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
from airflow_provider_aep.api.errors import (
    EntityExists,
    EntityNotFound,
    InvalidExport,
    PlatformUnavailable,
    RequestRefused,
)
from airflow_provider_aep.api.marks import is_marked, is_superseded, is_unconfirmed
from airflow_provider_aep.api.once import (
    RaceLost,
    Wanted,
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
from airflow_provider_aep.api.procedures import all_items
from airflow_provider_aep.api.settling import compare, settle, warn_of_end
from airflow_provider_aep.api.wishes import BaseWish, DataflowWish, Manner, SourceWish, TargetWish, adobe_now

log = logging.getLogger(__name__)

RACE_ROUNDS = 8


def ensure_base_connection(wish: BaseWish, manner: Manner) -> Procedure[BaseConnectionId]:
    """Exactly one login of this name and destination. `update` sends its credentials anew, in place.

    Raises:
        EntityExists: it is for another account, or logs in in another way, which Adobe cannot change; or
            `if_exists="fail"`.
        SeveralEntities: others have made several of this name.
    """
    there = yield from find_or_make(wish.wanted(), manner)
    if there.entity:
        settle([compare(BASE_CONNECTIONS, wish, there.entity)], manner)
        yield from send_credentials(wish, there.entity, manner)
    return BaseConnectionId(there.id)


def send_credentials(wish: BaseWish, found: BaseConnection, manner: Manner) -> Procedure[None]:
    """Secrets are never compared, so an update always sends them."""
    if manner.if_exists == "update":
        now = yield from adobe_now()
        yield from change(BASE_CONNECTIONS, found.id, lambda fresh: wish.operations(fresh, manner.maker, now))


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
        EntityNotFound: Adobe knows no such base connection; nothing is made.
        EntityExists: it belongs to another base connection, which Adobe cannot change; or `if_exists="fail"`.
        SeveralEntities: others have made several of this name.
    """
    base = yield from calls.get_entity(BASE_CONNECTIONS, wish.base_connection_id)
    check_kind("base_connection_id", base, wish.kind)
    there = yield from find_or_make(wish.wanted(), manner)
    found: TargetConnection | None = there.entity
    if found and (manner.if_exists == "fail" or found.base_connection_id == wish.base_connection_id):
        found = None
    if found and (yield from is_gone(BASE_CONNECTIONS, found.base_connection_id)):
        yield from remove_stranded(found, (yield from flows_of("targetConnectionIds", found.id)))
        there = yield from find_or_make(wish.wanted(), manner)
    if there.entity:
        settle([compare(TARGET_CONNECTIONS, wish, there.entity)], manner)
        yield from update_target(wish, there.entity, manner, shares_name=manner.shares_name)
    return TargetConnectionId(there.id)


def check_kind(argument: str, given: BaseConnection | TargetConnection, kind: Kind) -> None:
    """Refuse a base or target connection, given by its ID, that is for another kind of storage.

    Raises:
        InvalidExport: it is.
    """
    if given.spec_id != kind.connection_spec:
        rule = f"is {given.name!r}, which is not for {kind.name} (its connection spec is {given.spec_id!r})"
        raise InvalidExport(argument, given.id, rule)


def update_target(
    wish: TargetWish, found: TargetConnection, manner: Manner, *, shares_name: bool = False
) -> Procedure[None]:
    """Change a target connection as the user wants it."""

    def operations(fresh: TargetConnection) -> list[dict[str, Any]]:
        return wish.operations(fresh, manner.maker, shares_name=shares_name)

    if manner.if_exists == "update" and operations(found):
        yield from change(TARGET_CONNECTIONS, found.id, operations)


def remove_stranded(target: TargetConnection, dataflows: Sequence[Dataflow]) -> Procedure[None]:
    """Remove a target connection whose login is gone, and the dataflows that can write nowhere because of that.

    Neither can be attached anew: the base connection of a target connection and the target connection of a dataflow
    are fixed. Source: error catalogue, 1414; guide "Update destination dataflows" (paths of a PATCH).

    Raises:
        EntityExists: somebody else made one of them, so that it is not this provider's to delete.
    """
    for entity in (*dataflows, target):
        if not is_marked(entity):
            raise EntityExists(
                f"base connection {target.base_connection_id} is gone, so {entity.name!r} ({entity.id}) exports "
                "nothing; it was not made by this provider: delete it, or give the export another name"
            )
    for dataflow in dataflows:
        log.warning("dataflow %r (%s): its login is gone; making it anew", dataflow.name, dataflow.id)
        yield from delete(DATAFLOWS, dataflow.id)
    yield from delete(TARGET_CONNECTIONS, target.id)


def ensure_dataflow(wish: DataflowWish, manner: Manner) -> Procedure[DataflowId]:
    """Exactly one dataflow of this name and destination, enabled, with this source, target and schedule.

    Two tasks that make it at once look for each other's afterwards, and the younger one is removed.

    Raises:
        EntityNotFound: Adobe knows no such target connection; nothing is made.
        InvalidExport: the target connection is for another kind of storage.
        EntityExists: it writes to another target connection, which Adobe cannot change; or `if_exists="fail"`.
        SeveralEntities: others have made several of this name.
    """
    target = yield from calls.get_target_connection(wish.target_connection_id)
    check_kind("target_connection_id", target, wish.kind)
    _check_place(wish, target)
    now = yield from adobe_now()
    there = yield from find_or_make(wish.wanted(now), manner, elsewhere=lambda: _renamed(wish))
    if there.entity and manner.if_exists != "fail" and is_marked(there.entity):
        left = there.entity.target_connection_id
        if left != wish.target_connection_id and (yield from is_gone(TARGET_CONNECTIONS, left)):
            log.warning("dataflow %r (%s): its target connection is gone; making it anew", wish.name, there.id)
            yield from delete(DATAFLOWS, there.id)
            there = yield from find_or_make(wish.wanted(now), manner)
    if there.entity:
        settle([compare(DATAFLOWS, wish, there.entity)], manner)
        yield from update_dataflow(wish, there.entity, manner, now)
        if manner.maker.again and manner.if_exists == "update":
            yield from _discard_unused_sources(wish.source_connection_id)
    return DataflowId(there.id)


def _check_place(wish: DataflowWish, target: TargetConnection) -> None:
    """Refuse a target connection for another place than the dataflow's destination names.

    Raises:
        InvalidExport: it is.
    """
    for member, value in wish.place:
        there = str(target.params.get(member) or "")
        if there.rstrip("/") != value.rstrip("/"):
            rule = f"is {target.name!r}, whose {member} is {there!r}; the destination of the dataflow says {value!r}"
            raise InvalidExport("target_connection_id", target.id, rule)


def update_dataflow(wish: DataflowWish, found: Dataflow, manner: Manner, now: datetime) -> Procedure[None]:
    """Change a dataflow as the user wants it, or tell that it is about to end."""
    if manner.if_exists != "update":
        warn_of_end(found, now)
        return
    if wish.operations(found, now, manner):
        last = yield from change(DATAFLOWS, found.id, lambda fresh: wish.operations(fresh, now, manner))
        # Only now are old source connections of no use. A death before they are gone leaves them to the next run.
        for old in {found.source_connection_id, last.source_connection_id} - {wish.source_connection_id}:
            yield from _discard_old_source(old, wish.source_connection_id)
    if found.state == "disabled":
        yield from _enable(DataflowId(found.id))


def _renamed(wish: DataflowWish) -> Procedure[Sequence[Entity]]:
    """A dataflow from this very source to this very target is the one that is meant, whatever it is called now."""
    flows = yield from flows_of("sourceConnectionIds", wish.source_connection_id)
    return [
        flow
        for flow in flows
        if flow.target_connection_id == wish.target_connection_id and flow.spec_id == wish.kind.flow_spec
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

    `elsewhere` is another way to find it, tried before it is made. What is made is confirmed before it is returned, so
    that no task ever gets one that another takes back; see `agree`.
    """

    def counts(entity: Any) -> bool:
        return wanted.fits(entity) if only_fitting else True

    reason = RaceLost("")
    for _ in range(RACE_ROUNDS):
        found = yield from look_for(
            wanted, lambda found: any(map(counts, found)), settle_seconds=manner.first_look_seconds
        )
        found = yield from without_rivals(wanted, found, manner)
        try:
            entity = yield from agreed(wanted, found, manner, among=counts)
            if not entity and elsewhere:
                others = yield from elsewhere()
                if any(other.name == wanted.name for other in others):
                    raise RaceLost(f"{wanted.kind.title} {wanted.name!r} was made this very moment")
                entity = only(wanted, others)
            if entity:
                rivals = found if only_fitting else [each for each in found if wanted.fits(each)]
                yield from discard_marked(wanted.kind, rivals, keep=entity.id)
                return There(entity.id, entity)
            made = yield from create(wanted, manner.maker, settle_seconds=manner.settle_seconds, is_unconfirmed=True)
            found = yield from beside(
                wanted, made, manner.maker, settle_seconds=manner.settle_seconds, is_unconfirmed=True
            )
            entity = yield from agreed(wanted, found, manner, among=counts)
            if entity:
                return There(entity.id, None if entity.id == made.id else entity)
        except RaceLost as lost:
            reason = lost
        yield from stand_back()
    raise PlatformUnavailable(f"set-up of {wanted.kind.title} {wanted.name!r}", message=given_up(reason))


def agreed(
    wanted: Wanted, found: Sequence[Any], manner: Manner, *, among: Callable[[Any], bool] = lambda _entity: True
) -> Procedure[Any | None]:
    """`agree` with the patience of this set-up."""
    return (yield from agree(wanted, found, manner.maker, patience_seconds=manner.takeover_seconds, among=among))


def given_up(reason: RaceLost) -> str:
    """What an error says that ends a set-up which has lost every round."""
    return f"gave up after {RACE_ROUNDS} rounds, the last one because {reason}; trying again is safe"


def without_rivals(wanted: Wanted, found: list[Any], manner: Manner) -> Procedure[list[Any]]:
    """Of several dataflows, all made by this provider, one is of a task that died before it could look for others.

    Their makers are given time to see each other first; then the younger ones are removed.
    """
    agreed_on = [entity for entity in found if not is_unconfirmed(entity) and not is_superseded(entity)]
    if wanted.kind is not DATAFLOWS or len(agreed_on) < 2 or not all(map(is_marked, found)):
        return found
    yield Pause(manner.settle_seconds + 1)
    found = yield from find(wanted)
    if not all(map(is_marked, found)):
        return found
    for younger in found[1:]:
        log.warning("dataflow %r was made twice by tasks that died; deleting %s", wanted.name, younger.id)
        yield from delete(DATAFLOWS, younger.id)
    return found[:1]


def discard_marked(kind: calls.Kind, found: Sequence[Entity], *, keep: str) -> Procedure[None]:
    """Remove what interrupted tries have left beside the one that is kept; Adobe refuses it for one that is in use.

    Nobody knows whether it refuses that for a login, so a login that tasks may rely on stays.
    """
    for entity in found:
        if entity.id == keep or not is_marked(entity):
            continue
        if is_unconfirmed(entity):
            yield from withdraw(kind, entity)
        elif kind is not BASE_CONNECTIONS or is_superseded(entity):
            yield from discard(kind, entity.id)
