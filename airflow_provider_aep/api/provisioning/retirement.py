"""A login that goes: whether a removal is about to delete one, and what is stranded without it.

A removal marks the login first, then waits, and looks at its target connections a last time; see `removal`. So one that
was made before the mark is seen, and whoever makes one later, and then asks, sees the mark.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from airflow_provider_aep.api import calls
from airflow_provider_aep.api.calls import BASE_CONNECTIONS, DATAFLOWS, TARGET_CONNECTIONS
from airflow_provider_aep.api.effects import Procedure, Sleep
from airflow_provider_aep.api.entities import VANISHING, BaseConnection, BaseConnectionId, Dataflow, TargetConnection
from airflow_provider_aep.api.provisioning.owner import is_managed, is_passed_over
from airflow_provider_aep.api.provisioning.policy import SetupPolicy
from airflow_provider_aep.api.provisioning.resource import delete
from airflow_provider_aep.errors import EntityExists, EntityNotFound

log = logging.getLogger(__name__)

WATCH_SECONDS = 3.0


def is_leaving(base_id: str) -> Procedure[bool]:
    """Whether a removal may delete a login without having seen a target connection that was made just now."""
    try:
        return _is_going((yield from calls.get_entity(BASE_CONNECTIONS, base_id)))
    except EntityNotFound:
        return True


def staying_login(base_id: BaseConnectionId, policy: SetupPolicy) -> Procedure[BaseConnection]:
    """A login, once no removal is about to delete it.

    Raises:
        EntityNotFound: it is gone, or a removal has died before it could decide.
    """
    waited = 0.0
    while True:
        base: BaseConnection = yield from calls.get_entity(BASE_CONNECTIONS, base_id)
        if not _is_going(base):
            return base
        if waited >= policy.takeover_seconds:
            raise EntityNotFound(f"GET /connections/{base_id}", message=f"base connection {base_id} is being deleted")
        yield Sleep(WATCH_SECONDS)
        waited += WATCH_SECONDS


def _is_going(base: BaseConnection) -> bool:
    return is_passed_over(base) or base.state == VANISHING


def delete_stranded(target: TargetConnection, dataflows: Sequence[Dataflow]) -> Procedure[None]:
    """Delete a target connection whose login is gone, and the dataflows that can write nowhere because of that.

    Neither can be attached anew: the base connection of a target connection and the target connection of a dataflow
    are fixed. Source: error catalogue, 1414; guide "Update destination dataflows" (paths of a PATCH),
    https://experienceleague.adobe.com/en/docs/experience-platform/destinations/api/update-destination-dataflows

    Raises:
        EntityExists: somebody else created one of them, so that this provider must not delete it.
    """
    for entity in (*dataflows, target):
        if not is_managed(entity):
            raise EntityExists(
                f"base connection {target.base_connection_id} is gone, so {entity.name!r} ({entity.id}) exports "
                "nothing; it was not made by this provider: delete it, or give the export another name"
            )
    for dataflow in dataflows:
        log.warning("dataflow %r (%s): its login is gone; deleting it to create it again", dataflow.name, dataflow.id)
        yield from delete(DATAFLOWS, dataflow.id)
    yield from delete(TARGET_CONNECTIONS, target.id)
