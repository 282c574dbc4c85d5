"""How what exists differs from what is desired, and which of that is refused, which only logged."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from airflow_provider_aep.api import calls
from airflow_provider_aep.api.calls import (
    BASE_CONNECTIONS,
    DATAFLOWS,
    SOURCE_CONNECTIONS,
    TARGET_CONNECTIONS,
    Collection,
)
from airflow_provider_aep.api.effects import Procedure, gather
from airflow_provider_aep.api.entities import Dataflow, FlowRun
from airflow_provider_aep.api.provisioning.desired import (
    DesiredBaseConnection,
    DesiredDataflow,
    DesiredExport,
    DesiredSourceConnection,
    DesiredTargetConnection,
    Difference,
    ExportIds,
    ends_soon,
)
from airflow_provider_aep.api.provisioning.owner import data_changed_ms, data_since_ms, owner_of
from airflow_provider_aep.api.provisioning.policy import SetupPolicy
from airflow_provider_aep.api.runs.slots import when
from airflow_provider_aep.errors import EntityExists, ExportChanged
from airflow_provider_aep.schedules import end_seconds

log = logging.getLogger(__name__)


class Comparison(NamedTuple):
    """An entity at Adobe, and how it differs from the desired one."""

    collection: Collection
    found: Any
    differences: Sequence[Difference]
    is_shared: bool = False  # with other exports, so its mere existence is no reason to refuse

    @property
    def title(self) -> str:
        return f"{self.collection.title} {self.found.name!r} ({self.found.id})"


def compare(
    collection: Collection,
    desired: DesiredBaseConnection | DesiredSourceConnection | DesiredTargetConnection | DesiredDataflow,
    found: Any,
    *,
    is_shared: bool = False,
) -> Comparison:
    renamed = [Difference("name", desired.name, found.name, may_stay=True)] if found.name != desired.name else []
    return Comparison(collection, found, [*renamed, *desired.differences(found)], is_shared)


def check_drift(comparisons: Sequence[Comparison], policy: SetupPolicy) -> None:
    """Log what differs, or refuse all of it at once; nothing has been changed by then.

    Raises:
        EntityExists: see `refuse_drift`.
    """
    refuse_drift(comparisons, policy)
    for each in comparisons:
        for difference in each.differences:
            if policy.if_exists == "update":
                log.info("%s: %s; updating it", each.title, difference)
            else:
                log.warning("%s is reused as it is: %s", each.title, difference)


def refuse_drift(comparisons: Sequence[Comparison], policy: SetupPolicy) -> None:
    """Refuse what differs, all of it at once, if the policy or Adobe does not let it be changed.

    Raises:
        EntityExists: under "fail", unless the task itself created it in an earlier try and it is as desired; under
            "reuse", if other data would be exported than desired, or to another place; under "update", if Adobe cannot
            change a difference, or another mapped task of the same DAG run has just made it.
    """
    if policy.if_exists == "fail":
        refused = [
            f"{each.title}: {'; '.join(map(str, each.differences)) or 'it does not differ from what the DAG says'}"
            for each in comparisons
            if not each.is_shared and (each.differences or not policy.owner.may_have_created(each.found))
        ]
        if refused:
            raise EntityExists(f"if_exists is 'fail' and there is already {'; '.join(refused)}")
    drifted = [
        each._replace(differences=[difference for difference in each.differences if not _may_stay(difference, policy)])
        for each in comparisons
    ]
    for each in drifted:
        fixed = [difference for difference in each.differences if difference.is_fixed]
        if fixed and policy.if_exists == "update":
            raise EntityExists(cannot_change(each._replace(differences=fixed)))
    drifted = [each for each in drifted if each.differences]
    # Any entity's mark counts: each mapped task wants the whole export its own way.
    would_change = policy.if_exists == "update" and any(
        difference.what != "name" for each in comparisons for difference in each.differences
    )
    own = [each.found for each in comparisons if not each.is_shared] if drifted or would_change else []
    siblings = [owner_of(found) for found in own if policy.owner.is_sibling(found)]
    if siblings and not drifted:
        drifted = [each for each in comparisons if each.differences]
    if siblings or (drifted and policy.if_exists == "reuse"):
        raise EntityExists(_would_export_other_data(drifted, siblings, policy))


def _may_stay(difference: Difference, policy: SetupPolicy) -> bool:
    """Whether the same data still lands in the same place, and the run comes that the task waits for."""
    return difference.may_stay and not (policy.waits and difference.what in ("interval", "timeUnit"))


def _would_export_other_data(comparisons: Sequence[Comparison], siblings: Sequence[str], policy: SetupPolicy) -> str:
    drift = "; ".join(f"{each.title}: {'; '.join(map(str, each.differences))}" for each in comparisons)
    if siblings:
        way_out = (
            f"it was set up by another mapped task of this DAG run ({siblings[0]}): give each its own name, such as "
            'name="… {{ ti.map_index }}"'
        )
    elif any(difference.is_fixed for each in comparisons for difference in each.differences):
        way_out = "Adobe cannot change that: give the export another name, or delete this one"
    else:
        way_out = "set if_exists='update' to change it, or give the export another name"
    return f"if_exists is {policy.if_exists!r}, and other data would be exported than the DAG says: {drift}; {way_out}"


def cannot_change(comparison: Comparison) -> str:
    differences = "; ".join(map(str, comparison.differences))
    return f"{comparison.title}: {differences}. Adobe cannot change that; give the export another name."


def check_run_is_of(desired: DesiredExport, ids: ExportIds, run: FlowRun) -> Procedure[None]:
    """Make sure that a run has exported what is desired: the export is so now, and was so when the run was created.

    Raises:
        ExportChanged: the export was changed while the task waited, or after the run was created.
        EntityNotFound: a part of the export is gone.
    """
    base, source, target, dataflow = yield from gather(
        iter(calls.get_entity(BASE_CONNECTIONS, ids.base_connection_id)),
        iter(calls.get_source_connection(ids.source_connection_id)),
        iter(calls.get_target_connection(ids.target_connection_id)),
        iter(calls.get_dataflow(ids.dataflow_id)),
    )
    comparisons = (
        compare(BASE_CONNECTIONS, desired.base, base) if desired.base else Comparison(BASE_CONNECTIONS, base, ()),
        compare(SOURCE_CONNECTIONS, desired.source, source),
        compare(TARGET_CONNECTIONS, desired.target(ids.base_connection_id), target),
        compare(DATAFLOWS, desired.dataflow(source.id, target.id), dataflow),
    )
    for each in comparisons:
        differences = [str(difference) for difference in each.differences if not difference.may_stay]
        if differences:
            why = f"{each.title} was changed while the task waited: {'; '.join(differences)}"
            raise ExportChanged(f"flow run {run.id} may have exported other data than the DAG says: {why}")
    since = (data_since_ms(base), source.created_ms, target.updated_ms, data_changed_ms(dataflow))
    for since_ms, each in zip(since, comparisons, strict=True):
        if run.created_ms < since_ms:
            raise ExportChanged(
                f"flow run {run.id} was created at {when(run.created_ms)}, before {each.title} was changed at "
                f"{when(since_ms)}: it may have exported other data than the DAG says; a sensor waits for such a run "
                "without asking what it has exported"
            )


def warn_of_end(found: Dataflow, now: datetime) -> None:
    """Log a warning for a dataflow that ends within 30 days, or has ended."""
    end_s = end_seconds(found.schedule)
    if end_s is not None and ends_soon(found, now):
        end = datetime.fromtimestamp(end_s, UTC)
        word = "ended" if end <= now else "will end"
        log.warning(
            "dataflow %r (%s) %s at %s; if_exists='update' gives it a later end", found.name, found.id, word, end
        )
