"""What exists of an export at Adobe before it is set up, by as few requests as possible, and how it differs."""

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
from airflow_provider_aep.api.effects import Procedure, ServerTime, dated, gather
from airflow_provider_aep.api.entities import BaseConnection, Dataflow, DataflowId, SourceConnection, TargetConnection
from airflow_provider_aep.api.provisioning.desired import DesiredExport, Difference, ExportIds, server_time
from airflow_provider_aep.api.provisioning.drift import Comparison, compare
from airflow_provider_aep.api.provisioning.ensure import check_destination_type, without_twins
from airflow_provider_aep.api.provisioning.inventory import Inventory
from airflow_provider_aep.api.provisioning.owner import is_leased, is_managed, is_passed_over, is_unconfirmed
from airflow_provider_aep.api.provisioning.policy import SetupPolicy
from airflow_provider_aep.api.provisioning.resource import (
    RaceLost,
    agree,
    delete,
    get_if_exists,
    has_gone,
    look_for,
    pick,
)
from airflow_provider_aep.api.queries import dataflows_of
from airflow_provider_aep.errors import EntityExists, EntityNotFound

log = logging.getLogger(__name__)

#: What lists said of a dataflow longer ago, others may have overtaken. Adobe dates its replies in whole seconds.
LATE_SECONDS = 2


@dataclass
class ObservedExport:
    """Of each collection the entity that is meant, and all of its name, the oldest first."""

    dataflow: Dataflow | None = None
    base: BaseConnection | None = None
    source: SourceConnection | None = None
    target: TargetConnection | None = None
    dataflows: Sequence[Dataflow] = ()
    bases: Sequence[BaseConnection] = ()
    sources: Sequence[SourceConnection] = ()
    targets: Sequence[TargetConnection] = ()
    # When Adobe told of the dataflow and of the logins, by its own clock; 0 if that was before this set-up.
    read_ms: int = 0
    logins_read_ms: int = 0


def observe(
    desired: DesiredExport, policy: SetupPolicy, inventory: Inventory | None = None
) -> Procedure[ObservedExport]:
    """What exists, by four requests side by side; by none where an inventory has been read.

    Raises:
        EntityNotFound: Adobe knows no base connection of the given ID.
        RaceLost: what a dataflow is attached to is gone; if the dataflow was the leftover, it is gone now, too.
    """
    now = yield from server_time()
    flow, source, target = (
        desired.dataflow("", "").resource(now),
        desired.source.resource(),
        desired.target("").resource(),
    )
    base = desired.base.resource() if desired.base else None
    dataflows: Sequence[Dataflow]
    if inventory:
        dataflows, sources, targets, bases = (
            inventory.find(each) if each else [] for each in (flow, source, target, base)
        )
        given, read_ms, logins_read_ms = (yield from _given(desired, inventory)), 0, 0
    else:
        is_enough = (lambda found: any(map(source.fits, found))) if policy.if_exists == "update" else bool
        seconds = policy.first_look_seconds
        (dataflows, read_ms), sources, targets, listed, given = yield from gather(
            dated(look_for(flow, seconds=seconds)),
            look_for(source, is_enough, seconds=seconds),
            look_for(target, seconds=seconds),
            dated(look_for(base, seconds=seconds)) if base else None,
            _given(desired, None) if desired.base_connection_id else None,
        )
        bases, logins_read_ms = listed or ([], read_ms)
    if given:
        check_destination_type("base_connection_id", given, desired.destination_type)
    dataflows = yield from without_twins(flow, dataflows, policy)
    dataflow: Dataflow | None = yield from agree(flow, dataflows, policy)
    if dataflow is None and sources:
        dataflow = yield from _dataflow_of_another_name(desired, sources, targets, inventory)
    observed = ObservedExport(
        dataflow,
        dataflows=dataflows,
        base=given,
        bases=bases,
        sources=sources,
        targets=targets,
        read_ms=read_ms,
        logins_read_ms=logins_read_ms,
    )
    logins = [each for each in observed.bases if not is_passed_over(each)]
    if dataflow is None:
        # A source connection that is no lease counts first, then the oldest, whether it fits or not.
        oldest = replace(source, fits=lambda _source: True)
        observed.source = pick(oldest, [each for each in sources if not is_leased(each)] or sources)
        observed.target = pick(target, targets)
        if base:
            observed.base = pick(base, [each for each in logins if not is_unconfirmed(each)])
        if inventory and observed.base:
            observed.logins_read_ms = inventory.login_told_ms(observed.base.id)
        return observed
    # What the dataflow is attached to counts, even where somebody has renamed it.
    observed.source = pick(source, sources, attached_to=dataflow.source_connection_id)
    if observed.source is None or observed.source.id != dataflow.source_connection_id:
        observed.source = yield from _attached(SOURCE_CONNECTIONS, dataflow.source_connection_id, dataflow, inventory)
    observed.target = pick(target, targets, attached_to=dataflow.target_connection_id)
    if observed.target is None or observed.target.id != dataflow.target_connection_id:
        observed.target = yield from _attached(TARGET_CONNECTIONS, dataflow.target_connection_id, dataflow, inventory)
    if base:
        attached_to = observed.target.base_connection_id
        observed.base = pick(base, logins, attached_to=attached_to)
        if observed.base is None or observed.base.id != attached_to:
            # The four lists are not of one moment: it may have been created since this one was read.
            attached = yield from look_up(BASE_CONNECTIONS, attached_to, inventory)
            if attached and (attached.name, attached.spec_id) == (base.name, base.spec_id):
                observed.base = attached
    return observed


def look_up(collection: Collection, entity_id: str, inventory: Inventory | None) -> Procedure[Any | None]:
    """An entity by its ID: from the inventory, or from Adobe where no list has shown it; None if it is gone."""
    listed = inventory.get(collection, entity_id) if inventory else None
    return listed or (yield from get_if_exists(collection, entity_id))


def _given(desired: DesiredExport, inventory: Inventory | None) -> Procedure[BaseConnection | None]:
    """The base connection that is given by its ID.

    Raises:
        EntityNotFound: Adobe knows none.
    """
    if not desired.base_connection_id:
        return None
    listed: BaseConnection | None = inventory.get(BASE_CONNECTIONS, desired.base_connection_id) if inventory else None
    return listed or (yield from calls.get_entity(BASE_CONNECTIONS, desired.base_connection_id))


def _attached(
    collection: Collection, entity_id: str, dataflow: Dataflow, inventory: Inventory | None
) -> Procedure[Any]:
    """The source or target connection of a dataflow.

    Raises:
        RaceLost: it is gone. If the dataflow is still there and this provider created it, it has been deleted now.
        EntityExists: it is gone, and somebody else created the dataflow.
    """
    entity = yield from look_up(collection, entity_id, inventory)
    if not has_gone(entity):
        return entity
    what = f"{collection.title} {entity_id} of dataflow {dataflow.name!r} ({dataflow.id}) is gone"
    try:  # only now, since another task may have attached another one before it deleted this one
        dataflow = yield from calls.get_dataflow(DataflowId(dataflow.id))
    except EntityNotFound:
        raise RaceLost(what) from None
    if entity_id in (dataflow.source_connection_id, dataflow.target_connection_id):
        if not is_managed(dataflow):
            raise EntityExists(f"{what}; delete that dataflow, or give the export another name")
        log.warning("%s; creating it again", what)
        yield from delete(DATAFLOWS, dataflow.id)
    raise RaceLost(what)


def _dataflow_of_another_name(
    desired: DesiredExport,
    sources: Sequence[SourceConnection],
    targets: Sequence[TargetConnection],
    inventory: Inventory | None,
) -> Procedure[Dataflow | None]:
    """The dataflow of this export where somebody has renamed it; to create another would export everything twice.

    Raises:
        EntityExists: the source connections belong only to dataflows to somewhere else.
    """
    others: list[tuple[SourceConnection, Dataflow]] = []
    for source in sources:
        listed = inventory.dataflows_of(source.id) if inventory else None
        for dataflow in (yield from dataflows_of(SOURCE_CONNECTIONS, source.id)) if listed is None else listed:
            same_type = dataflow.spec_id == desired.destination_type.flow_spec
            if same_type and dataflow.name == desired.name:
                raise RaceLost(f"dataflow {dataflow.name!r} ({dataflow.id}) was created this very moment")
            if same_type and dataflow.target_connection_id in [each.id for each in targets]:
                return dataflow
            others.append((source, dataflow))
    for source, dataflow in others:
        raise EntityExists(
            f"source connection {source.name!r} ({source.id}) belongs to dataflow {dataflow.name!r} ({dataflow.id}), "
            "which writes to another destination; delete that dataflow, or give the export another name"
        )
    return None


def compare_target(desired: DesiredExport, observed: ObservedExport, target: TargetConnection) -> Comparison:
    comparison = compare(TARGET_CONNECTIONS, desired.target(observed.base.id if observed.base else ""), target)
    if observed.base is None:
        missing = Difference(
            "base connection", repr(desired.base and desired.base.name), target.base_connection_id, is_fixed=True
        )
        return comparison._replace(differences=[missing, *comparison.differences])
    return comparison


def comparisons(
    desired: DesiredExport,
    observed: ObservedExport,
    source: SourceConnection | None,
    target: TargetConnection | None,
) -> list[Comparison]:
    found = []
    if desired.base and observed.base:
        found.append(compare(BASE_CONNECTIONS, desired.base, observed.base, is_shared=True))
    if source:
        found.append(compare(SOURCE_CONNECTIONS, desired.source, source))
    if target:
        found.append(compare_target(desired, observed, target))
    return found


def reconciliation(desired: DesiredExport, observed: ObservedExport) -> list[Comparison]:
    """How an export whose dataflow is there differs from the desired one."""
    dataflow, source, target = observed.dataflow, observed.source, observed.target
    assert dataflow
    assert source
    assert target
    # That its source connection has other datasets is reported once, not also as another source connection.
    as_it_is = compare(DATAFLOWS, desired.dataflow(source.id, target.id), dataflow)
    return [*comparisons(desired, observed, source, target), as_it_is]


def check_still_there(observed: ObservedExport, ids: ExportIds) -> Procedure[None]:
    """Ask again for a dataflow that others may have removed or changed since Adobe told of it, unless just now.

    Raises:
        RaceLost: they have.
    """
    now_ms: int = yield ServerTime()
    if now_ms - observed.read_ms <= LATE_SECONDS * 1000:
        return
    dataflow: Dataflow | None = yield from get_if_exists(DATAFLOWS, ids.dataflow_id)
    if dataflow is None or has_gone(dataflow):
        raise RaceLost(f"dataflow {ids.dataflow_id} was deleted by another task")
    if dataflow.source_connection_id != ids.source_connection_id:
        raise RaceLost(f"another task has changed what dataflow {ids.dataflow_id} exports")
