"""A dataflow enabled or disabled, an entity deleted: done once a GET shows it, however long Adobe takes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from airflow_provider_aep.api import calls
from airflow_provider_aep.api.calls import DATAFLOWS, Collection
from airflow_provider_aep.api.effects import Call, Procedure, Sleep
from airflow_provider_aep.api.entities import VANISHING, Dataflow, DataflowId
from airflow_provider_aep.api.provisioning.resource import CHANGE_ROUNDS, delete, get_if_exists
from airflow_provider_aep.errors import EntityNotFound, PlatformUnavailable, RequestRefused

log = logging.getLogger(__name__)

#: How long a state in transit is waited for; Adobe says no more than that a new dataflow takes some minutes.
TRANSIT_SECONDS = 300.0
_LONGEST_PAUSE_SECONDS = 15.0

# States that pass by themselves, and refuse every action meanwhile. Source: error catalogue, 1416, 1420, 1421, 1444,
# https://experienceleague.adobe.com/en/docs/experience-platform/sources/errors/flow-service-errors; flow-service
# OpenAPI, `state` of source and target connections.
_IN_TRANSIT = frozenset(
    {"initializing", "updating", "enabling", "disabling", "enabled-finalizing", "pending", "inProgress"}
)
_NOT_APPLICABLE = 1422  # an action in the present state, as after a lost reply; source: error catalogue


def ensure_enabled(dataflow: DataflowId) -> Procedure[Dataflow]:
    """Enable a dataflow, unless it is so already. Returns it as it is then.

    Raises:
        EntityNotFound: there is no such dataflow, or it is being deleted.
        PlatformUnavailable: an outage, or it stays in transit for five minutes; trying again is safe.
    """
    return (yield from _ensure(dataflow, "enabled", calls.enable_dataflow(dataflow)))


def ensure_disabled(dataflow: DataflowId) -> Procedure[Dataflow]:
    """Disable a dataflow, so that it makes no run until it is enabled; otherwise as `ensure_enabled`."""
    return (yield from _ensure(dataflow, "disabled", calls.disable_dataflow(dataflow)))


def _ensure(dataflow: DataflowId, state: str, action: Call[None]) -> Procedure[Dataflow]:
    for attempt in range(1, CHANGE_ROUNDS + 1):
        found: Dataflow = yield from _wait(DATAFLOWS, dataflow, _is_steady_or_gone)
        if found.state == state:
            log.info("dataflow %r (%s) is %s already", found.name, dataflow, state)
            return found
        if found.state == VANISHING:
            raise EntityNotFound(str(action), message=f"dataflow {dataflow} is being deleted")
        try:
            yield from action
        except RequestRefused as refusal:
            found = yield from _wait(DATAFLOWS, dataflow, _is_steady_or_gone)
            if found.state == state and refusal.number == _NOT_APPLICABLE:
                break
            if refusal.number != _NOT_APPLICABLE or attempt == CHANGE_ROUNDS:  # else others have changed it meanwhile
                raise refusal from None
        except PlatformUnavailable as error:  # it was changed meanwhile
            if not _is_in_transit(error) or attempt == CHANGE_ROUNDS:
                raise
        else:
            found = yield from _wait(DATAFLOWS, dataflow, lambda entity: entity.state == state)
            break
    log.info("dataflow %r (%s) is %s now", found.name, dataflow, state)
    return found


def delete_and_wait(collection: Collection, found: Any) -> Procedure[None]:
    """Delete an entity that has just been read, and wait until Adobe no longer knows it.

    Adobe answers a deletion with 202, so it may come later. Source: destinations OpenAPI, DELETE /flows/{id}.

    Raises:
        RequestRefused: it is in use, for example.
        PlatformUnavailable: an outage, or it is still there after five minutes; trying again is safe.
    """
    for attempt in range(1, CHANGE_ROUNDS + 1):
        if found is not None and found.state in _IN_TRANSIT:
            found = yield from _wait(collection, found.id, _is_steady_or_gone, read=get_if_exists)
        if found is None:
            return
        try:
            if found.state != VANISHING:
                yield from delete(collection, found.id)
            break
        except PlatformUnavailable as error:  # it was changed meanwhile
            if not _is_in_transit(error) or attempt == CHANGE_ROUNDS:
                raise
            found = yield from get_if_exists(collection, found.id)
    yield from _wait(collection, found.id, lambda entity: entity is None, read=get_if_exists)


def _is_steady_or_gone(entity: Any) -> bool:
    return entity is None or entity.state not in _IN_TRANSIT


def _wait(
    collection: Collection,
    entity_id: str,
    is_so: Callable[[Any], bool],
    *,
    read: Callable[[Collection, str], Call[Any] | Procedure[Any]] = calls.get_entity,
) -> Procedure[Any]:
    """Read an entity again, with pauses, until it is as asked for."""
    waited, pause = 0.0, 1.0
    while True:
        entity = yield from read(collection, entity_id)
        if is_so(entity):
            return entity
        what = f"{collection.title} {entity_id} is {entity.state!r}"
        if waited >= TRANSIT_SECONDS:
            message = f"{what}, after {waited:.0f} s still; trying again is safe"
            raise PlatformUnavailable(f"GET {collection.path}/{entity_id}", message=message)
        log.info("%s; waiting", what)
        yield Sleep(pause)
        waited += pause
        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


def _is_in_transit(error: PlatformUnavailable) -> bool:
    """Whether Adobe has refused a request because of a state in transit; see `api.replies`. An outage has no number."""
    return type(error) is PlatformUnavailable and error.number is not None
