"""One step of an export, done exactly once: found, compared, reused, updated or made."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime
from typing import Any

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
    SourceConnectionId,
    TargetConnection,
    TargetConnectionId,
)
from airflow_provider_aep.api.errors import EntityExists, EntityNotFound, PlatformUnavailable, RequestRefused
from airflow_provider_aep.api.procedures import (
    RaceLost,
    Wanted,
    change,
    create,
    discard,
    find,
    find_settled,
    is_first,
    is_marked,
    only,
)
from airflow_provider_aep.api.wishes import (
    BaseWish,
    DataflowWish,
    Difference,
    Manner,
    SourceWish,
    TargetWish,
    adobe_now,
    cannot_change,
    replacement,
    settle_differences,
    warn_of_end,
)

log = logging.getLogger(__name__)

RACE_ROUNDS = 5


def ensure_base_connection(wish: BaseWish, manner: Manner) -> Procedure[BaseConnectionId]:
    """Exactly one login of this name and destination. `update` sends its credentials anew, in place.

    Raises:
        EntityExists: it logs in another way than wanted, which Adobe cannot change; or `if_exists="fail"`.
    """
    found = yield from make_or_find(wish.wanted(), manner)
    if isinstance(found, str):
        return BaseConnectionId(found)
    return (yield from reconcile_base_connection(wish, found, manner))


def reconcile_base_connection(wish: BaseWish, found: BaseConnection, manner: Manner) -> Procedure[BaseConnectionId]:
    spec = str(wish.auth["specName"]) if wish.auth else ""
    different = [Difference("auth.specName", spec, found.auth_spec)] if spec != found.auth_spec else []
    settle_differences(BASE_CONNECTIONS, found, different, manner)
    if manner.if_exists == "update" and wish.auth:
        if different:
            raise EntityExists(cannot_change(BASE_CONNECTIONS, found, different))
        params = dict(wish.auth["params"])
        # Secrets are never compared, so an update always sends them. Source: guide "Edit destinations" (`add` on
        # /auth/params replaces the whole set).
        yield from change(
            BASE_CONNECTIONS, found.id, lambda _found: [{"op": "add", "path": "/auth/params", "value": params}]
        )
    return BaseConnectionId(found.id)


def ensure_source_connection(wish: SourceWish, manner: Manner) -> Procedure[SourceConnectionId]:
    """Exactly one source connection of this name for these datasets.

    Its datasets are fixed once made, so `update` makes a new one under the same name; `ensure_dataflow` attaches it and
    removes the old one.
    """
    found = yield from make_or_find(wish.wanted(), manner)
    if isinstance(found, str):
        return SourceConnectionId(found)
    different = wish.differences(found)
    settle_differences(SOURCE_CONNECTIONS, found, different, manner)
    if different and manner.if_exists == "update":
        return SourceConnectionId((yield from make_one(wish.wanted(), manner)))
    return SourceConnectionId(found.id)


def ensure_target_connection(wish: TargetWish, manner: Manner) -> Procedure[TargetConnectionId]:
    """Exactly one target connection of this name and destination.

    Raises:
        EntityExists: it belongs to another base connection, which Adobe cannot change; or `if_exists="fail"`.
    """
    found = yield from make_or_find(wish.wanted(), manner)
    if isinstance(found, str):
        return TargetConnectionId(found)
    return (yield from reconcile_target_connection(wish, found, manner))


def reconcile_target_connection(
    wish: TargetWish, found: TargetConnection, manner: Manner
) -> Procedure[TargetConnectionId]:
    different = wish.differences(found)
    settle_differences(TARGET_CONNECTIONS, found, different, manner)
    if different and manner.if_exists == "update":
        fixed = [each for each in different if each.what == "base_connection_id"]
        if fixed:
            raise EntityExists(cannot_change(TARGET_CONNECTIONS, found, fixed))
        yield from change(
            TARGET_CONNECTIONS,
            found.id,
            lambda now: [replacement("/params", wish.whole_params(now))] if wish.differences(now) else [],
        )
    return TargetConnectionId(found.id)


def ensure_dataflow(wish: DataflowWish, manner: Manner) -> Procedure[DataflowId]:
    """Exactly one dataflow of this name and destination, enabled, with this source, target and schedule.

    Raises:
        EntityExists: it writes to another target connection, which Adobe cannot change; or `if_exists="fail"`.
    """
    now = yield from adobe_now()
    found = yield from make_or_find(wish.wanted(now), manner)
    if isinstance(found, str):
        return DataflowId(found)
    yield from reconcile_dataflow(wish, found, manner, now)
    if manner.if_exists == "update" and found.source_connection_id != wish.source_connection_id:
        # Only now is the old source connection of no use. A death before this line leaves it beside the new one.
        yield from _discard_old_source(found.source_connection_id, wish.source_connection_id)
    return DataflowId(found.id)


def reconcile_dataflow(wish: DataflowWish, found: Dataflow, manner: Manner, now: datetime) -> Procedure[None]:
    different = wish.differences(found)
    settle_differences(DATAFLOWS, found, different, manner)
    if manner.if_exists != "update":
        warn_of_end(found, now)
        return
    fixed = [each for each in different if each.what == "target_connection_id"]
    if fixed:
        raise EntityExists(cannot_change(DATAFLOWS, found, fixed))
    if wish.operations(found, now):
        yield from change(DATAFLOWS, found.id, lambda fresh: wish.operations(fresh, now))
    if found.state == "disabled":
        yield from _enable(DataflowId(found.id))


def _discard_old_source(old: SourceConnectionId, new: SourceConnectionId) -> Procedure[None]:
    """Remove the source connection that a dataflow has just left, if it is this provider's and of the same export."""
    try:
        before, after = yield from together(
            iter(calls.get_source_connection(old)), iter(calls.get_source_connection(new))
        )
    except EntityNotFound:  # somebody was faster
        return
    if is_marked(before) and before.name == after.name:
        yield from discard(SOURCE_CONNECTIONS, old)


def _enable(dataflow: DataflowId) -> Procedure[None]:
    try:
        yield from calls.enable_dataflow(dataflow)
    except RequestRefused:
        # 1422: not applicable in its present state, as after a lost reply. Source: Flow Service error catalogue.
        if (yield from calls.get_dataflow(dataflow)).state != "enabled":
            raise
    log.info("enabled dataflow %s", dataflow)


def make_or_find(wanted: Wanted, manner: Manner) -> Procedure[Any]:
    """The ID (a string) of what was made just now, or the entity that was there."""
    found = yield from find_settled(wanted, settle_seconds=manner.first_look_seconds)
    entity = only(wanted, found)
    if entity is None:
        return (yield from make_one(wanted, manner))
    yield from discard_leftovers(wanted, found, keep=entity.id, manner=manner)
    return entity


def make_one(wanted: Wanted, manner: Manner) -> Procedure[Any]:
    """Make one; where another task was first, give way to what it made."""
    for _ in range(RACE_ROUNDS):
        try:
            made = yield from create(wanted, manner.maker, settle_seconds=manner.settle_seconds)
        except RaceLost:
            pass
        else:
            if (yield from is_first(wanted, made, settle_seconds=manner.settle_seconds)):
                return made
            yield from discard(wanted.kind, made)
        fitting = [entity for entity in (yield from find(wanted)) if wanted.fits(entity)]
        if fitting:
            return fitting[0].id
        yield Pause(1)
    raise PlatformUnavailable(
        f"set-up of {wanted.kind.title} {wanted.name!r}", message="other tasks are making and removing it all the time"
    )


def discard_leftovers(wanted: Wanted, found: Sequence[Any], *, keep: str, manner: Manner) -> Procedure[None]:
    """Remove what an interrupted try of this very task has left: the younger of two that fit equally."""
    for entity in found:
        if entity.id != keep and wanted.fits(entity) and manner.maker.may_have_made(entity):
            yield from discard(wanted.kind, entity.id)
