"""What there is of an export at Adobe before it is set up, looked for by as few questions as possible."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from airflow_provider_aep.api import calls
from airflow_provider_aep.api.calls import (
    BASE_CONNECTIONS,
    DATAFLOWS,
    SOURCE_CONNECTIONS,
    TARGET_CONNECTIONS,
    Collection,
)
from airflow_provider_aep.api.effects import Procedure, gather
from airflow_provider_aep.api.entities import (
    BaseConnection,
    Dataflow,
    DataflowId,
    SourceConnection,
    TargetConnection,
)
from airflow_provider_aep.api.provisioning.desired import DesiredExport, SetupPolicy, server_time
from airflow_provider_aep.api.provisioning.ensure import check_kind, flows_of, without_rivals
from airflow_provider_aep.api.provisioning.owner import is_managed, is_superseded, is_unconfirmed
from airflow_provider_aep.api.provisioning.resource import RaceLost, delete, look_for, only
from airflow_provider_aep.errors import EntityExists, EntityNotFound

log = logging.getLogger(__name__)


@dataclass
class ObservedExport:
    """Of each collection all of the name, oldest first, and the one that is meant."""

    dataflow: Dataflow | None = None
    base: BaseConnection | None = None
    source: SourceConnection | None = None
    target: TargetConnection | None = None
    flows: Sequence[Dataflow] = ()
    bases: Sequence[BaseConnection] = ()
    sources: Sequence[SourceConnection] = ()
    targets: Sequence[TargetConnection] = ()


def look(desired: DesiredExport, policy: SetupPolicy) -> Procedure[ObservedExport]:
    """What there is, by four questions side by side.

    Raises:
        EntityNotFound: Adobe knows no base connection of the given ID.
        RaceLost: what a dataflow is attached to is gone; where it is the dataflow that is left over, that is gone, too.
    """
    now = yield from server_time()
    flow, source, target = (
        desired.dataflow("", "").resource(now),
        desired.source.resource(),
        desired.target("").resource(),
    )
    base = desired.base.resource() if desired.base else None
    is_enough = (lambda found: any(map(source.fits, found))) if policy.if_exists == "update" else bool
    seconds = policy.first_look_seconds
    flows, sources, targets, bases, given = yield from gather(
        look_for(flow, visibility_seconds=seconds),
        look_for(source, is_enough, visibility_seconds=seconds),
        look_for(target, visibility_seconds=seconds),
        look_for(base, visibility_seconds=seconds) if base else None,
        iter(calls.get_entity(BASE_CONNECTIONS, desired.base_connection_id)) if desired.base_connection_id else None,
    )
    if given:
        check_kind("base_connection_id", given, desired.destination_type)
    flows = yield from without_rivals(flow, flows, policy)
    dataflow = only(flow, flows)
    if dataflow is None and sources:
        dataflow = yield from _flow_of_another_name(desired, sources, targets)
    found = ObservedExport(dataflow, flows=flows, base=given, bases=bases or (), sources=sources, targets=targets)
    logins = [each for each in found.bases if not is_superseded(each)]
    if dataflow is None:
        # Whose source connection is the oldest counts then, whether it fits or not.
        found.source = only(replace(source, fits=lambda _source: True), sources)
        found.target = only(target, targets)
        if base:
            found.base = only(base, [each for each in logins if not is_unconfirmed(each)])
        return found
    # What the dataflow is attached to counts, even where somebody has renamed it.
    found.source = only(source, sources, attached_to=dataflow.source_connection_id)
    if found.source is None or found.source.id != dataflow.source_connection_id:
        found.source = yield from _attached(SOURCE_CONNECTIONS, dataflow.source_connection_id, dataflow)
    found.target = only(target, targets, attached_to=dataflow.target_connection_id)
    if found.target is None or found.target.id != dataflow.target_connection_id:
        found.target = yield from _attached(TARGET_CONNECTIONS, dataflow.target_connection_id, dataflow)
    if base:
        attached_to = found.target.base_connection_id
        found.base = only(base, logins, attached_to=attached_to)
        if found.base is None or found.base.id != attached_to:
            # The four lists are not of one moment: it may have been made since this one was read.
            attached = yield from if_there(BASE_CONNECTIONS, attached_to)
            if attached and (attached.name, attached.spec_id) == (base.name, base.spec_id):
                found.base = attached
    return found


def if_there(collection: Collection, entity_id: str) -> Procedure[Any | None]:
    try:
        return (yield from calls.get_entity(collection, entity_id))
    except EntityNotFound:
        return None


def _attached(collection: Collection, entity_id: str, dataflow: Dataflow) -> Procedure[Any]:
    """The source or target connection of a dataflow.

    Raises:
        RaceLost: it is gone. Where the dataflow is still there and this provider made it, it has been deleted now.
        EntityExists: it is gone, and somebody else made the dataflow.
    """
    entity = yield from if_there(collection, entity_id)
    if entity:
        return entity
    what = f"{collection.title} {entity_id} of dataflow {dataflow.name!r} ({dataflow.id}) is gone"
    try:  # only now, since another task may have attached another one before it removed this one
        dataflow = yield from calls.get_dataflow(DataflowId(dataflow.id))
    except EntityNotFound:
        raise RaceLost(what) from None
    if entity_id in (dataflow.source_connection_id, dataflow.target_connection_id):
        if not is_managed(dataflow):
            raise EntityExists(f"{what}; delete that dataflow, or give the export another name")
        log.warning("%s; making it anew", what)
        yield from delete(DATAFLOWS, dataflow.id)
    raise RaceLost(what)


def _flow_of_another_name(
    desired: DesiredExport, sources: Sequence[SourceConnection], targets: Sequence[TargetConnection]
) -> Procedure[Dataflow | None]:
    """The dataflow of this export where somebody has renamed it; making another would export everything twice.

    Raises:
        EntityExists: the source connections belong only to dataflows to somewhere else.
    """
    others: list[tuple[SourceConnection, Dataflow]] = []
    for source in sources:
        for flow in (yield from flows_of("sourceConnectionIds", source.id)):
            same_kind = flow.spec_id == desired.destination_type.flow_spec
            if same_kind and flow.name == desired.name:
                raise RaceLost(f"dataflow {flow.name!r} ({flow.id}) was made this very moment")
            if same_kind and flow.target_connection_id in [each.id for each in targets]:
                return flow
            others.append((source, flow))
    for source, flow in others:
        raise EntityExists(
            f"source connection {source.name!r} ({source.id}) belongs to dataflow {flow.name!r} ({flow.id}), which "
            f"writes to another destination; delete that dataflow, or give the export another name"
        )
    return None
