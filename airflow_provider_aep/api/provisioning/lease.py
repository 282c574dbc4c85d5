"""The lease under which one session sets up a whole export: its source connection, until a dataflow uses it.

To agree on an entity (see `resource.agree`) takes two requests more, one after the other. Agreeing on each of the four
would make a first run of seven round trips, about 1.8 times a bare client's; a lease makes it five, 1.3 times. So a
whole export marks its source connection as a lease and goes on only if no list shows another of the name: then it alone
creates target connection and dataflow, and only the base connection, which other exports share, has to be agreed on.

The dataflow releases the lease. Adobe refuses to delete a source connection that a dataflow uses, and to create a
dataflow on one that is deleted. So either the holder creates the dataflow, or whoever deletes the lease takes over,
whatever is still on its way. A step cannot hold a lease, since nobody could tell how long its DAG takes to the next
step; it waits for a lease, and a lease gives way to it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from airflow_provider_aep.api.effects import Procedure, Sleep, gather
from airflow_provider_aep.api.entities import SourceConnection
from airflow_provider_aep.api.provisioning.owner import is_leased, is_unconfirmed
from airflow_provider_aep.api.provisioning.policy import SetupPolicy
from airflow_provider_aep.api.provisioning.resource import RaceLost, Resource, delete, find
from airflow_provider_aep.api.queries import dataflows_of
from airflow_provider_aep.errors import AccessDenied, RequestRefused

log = logging.getLogger(__name__)

WATCH_SECONDS = 3.0


def released(resource: Resource, found: Sequence[Any], policy: SetupPolicy) -> Procedure[Sequence[Any]]:
    """The source or target connections found, those first that were created under a lease, once a dataflow uses these.

    Raises:
        RaceLost: one of them was released or deleted meanwhile, or its holder was dead, and it is deleted now.
    """
    leased = list(filter(is_leased, found))
    users = yield from gather(*(dataflows_of(resource.collection, each.id) for each in leased))
    held = [each for each, dataflows in zip(leased, users, strict=True) if not dataflows]
    if held:
        yield from take_over(resource, held, policy)
    return sorted(found, key=lambda each: not is_leased(each))


def take_over(resource: Resource, leased: Sequence[Any], policy: SetupPolicy) -> Procedure[None]:
    """Wait while whoever created these under a lease may still be at work, then delete what the dead have left.

    Raises:
        RaceLost: always; what is there has to be looked at again.
    """
    ids = [each.id for each in leased]
    log.info("another task is setting up export %r (%s); waiting for it", resource.name, ", ".join(ids))
    waited = 0.0
    while waited < policy.takeover_seconds:
        yield Sleep(WATCH_SECONDS)
        waited += WATCH_SECONDS
        found, *dataflows = yield from gather(
            find(resource), *(dataflows_of(resource.collection, each) for each in ids)
        )
        if any(dataflows):
            raise RaceLost("another task has created the dataflow")
        if not {each.id for each in found}.issuperset(ids):
            raise RaceLost(f"another task has deleted its {resource.collection.title}")
    log.warning("export %r: the task that created %s is dead; taking over", resource.name, ", ".join(ids))
    for each in ids:
        try:
            yield from delete(resource.collection, each)
        except AccessDenied:
            raise
        except RequestRefused as refusal:  # a dataflow uses it, which lists do not show yet
            log.info("%s %s is in use after all: %s", resource.collection.title, each, refusal)
    raise RaceLost("what dead tasks had left was deleted")


def is_own(lease: SourceConnection, policy: SetupPolicy) -> bool:
    """Whether this task, in this session or an earlier try, holds the lease."""
    return is_leased(lease) and policy.owner.owns(lease) and not is_unconfirmed(lease)
