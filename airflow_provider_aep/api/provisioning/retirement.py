"""Whether a login stays, or a removal is about to delete it: asked once a target connection has begun to use it.

A removal marks the login first, then waits, and looks at its target connections a last time; see `removal`. So one that
was made before the mark is seen, and whoever makes one later sees the mark.
"""

from __future__ import annotations

from airflow_provider_aep.api import calls
from airflow_provider_aep.api.calls import BASE_CONNECTIONS
from airflow_provider_aep.api.effects import Procedure, Sleep
from airflow_provider_aep.api.entities import VANISHING, BaseConnection, BaseConnectionId
from airflow_provider_aep.api.provisioning.owner import is_passed_over
from airflow_provider_aep.api.provisioning.policy import SetupPolicy
from airflow_provider_aep.errors import EntityNotFound

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
