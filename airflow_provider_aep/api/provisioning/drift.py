"""How what is at Adobe differs from what the user wants, what of that is refused, and what is only told."""

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
from airflow_provider_aep.api.provisioning.owner import data_since_ms, owner_of
from airflow_provider_aep.api.provisioning.policy import SetupPolicy
from airflow_provider_aep.api.runs.slots import when
from airflow_provider_aep.errors import EntityExists, ExportChanged
from airflow_provider_aep.schedules import end_seconds

log = logging.getLogger(__name__)

_LONGEST_CHANGE_MS = 120_000  # from reading Adobe's time to the PATCH of a dataflow, with its repeats


class Comparison(NamedTuple):
    """What is at Adobe, and in what it differs from a desired."""

    collection: Collection
    found: Any
    differences: Sequence[Difference]
    is_shared: bool = False  # with other exports, so that its mere existence is no reason to refuse

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
    different = [Difference("name", desired.name, found.name, may_stay=True)] if found.name != desired.name else []
    return Comparison(collection, found, [*different, *desired.differences(found)], is_shared)


def check_drift(comparisons: Sequence[Comparison], policy: SetupPolicy) -> None:
    """Tell what differs, or refuse it all at once; nothing has been changed by then.

    Raises:
        EntityExists: `if_exists="fail"`, except for what the task itself made in an earlier try and still is as wanted;
            "reuse", and other data would be exported than the user wants, or to another place; "update", and a
            difference is one that Adobe cannot change, or that another mapped task of the same DAG run has just made.
    """
    if policy.if_exists == "fail":
        refused = [
            f"{each.title}: {'; '.join(map(str, each.differences)) or 'it does not differ from what the DAG says'}"
            for each in comparisons
            if not each.is_shared and (each.differences or not policy.owner.may_have_created(each.found))
        ]
        if refused:
            raise EntityExists(f"if_exists is 'fail' and there is already {'; '.join(refused)}")
    telling = [
        each._replace(differences=[different for different in each.differences if not _may_stay(different, policy)])
        for each in comparisons
    ]
    for each in telling:
        fixed = [different for different in each.differences if different.is_fixed]
        if fixed and policy.if_exists == "update":
            raise EntityExists(cannot_change(each._replace(differences=fixed)))
    telling = [each for each in telling if each.differences]
    # Whichever of its entities tells of it: each mapped task has the whole export be as it asks for.
    is_asked = any(each.what != "name" for comparison in comparisons for each in comparison.differences)
    asked = telling or (is_asked and policy.if_exists == "update")
    own = [each.found for each in comparisons if not each.is_shared] if asked else []
    siblings = [owner_of(found) for found in own if policy.owner.is_sibling(found)]
    if siblings and not telling:
        telling = [each for each in comparisons if each.differences]
    if siblings or (telling and policy.if_exists == "reuse"):
        raise EntityExists(_would_export_otherwise(telling, siblings, policy))
    for each in comparisons:
        for different in each.differences:
            if policy.if_exists == "update":
                log.info("%s: %s; updating it", each.title, different)
            else:
                log.warning("%s is reused as it is: %s", each.title, different)


def _may_stay(different: Difference, policy: SetupPolicy) -> bool:
    """Whether the same data lands in the same place all the same, and a run comes for the task to wait for."""
    return different.may_stay and not (policy.waits and different.what in ("interval", "timeUnit"))


def _would_export_otherwise(comparisons: Sequence[Comparison], siblings: Sequence[str], policy: SetupPolicy) -> str:
    told = "; ".join(f"{each.title}: {'; '.join(map(str, each.differences))}" for each in comparisons)
    if siblings:
        way_out = (
            f"it was set up by another mapped task of this DAG run ({siblings[0]}): give each its own name, such as "
            'name="… {{ ti.map_index }}"'
        )
    elif any(different.is_fixed for each in comparisons for different in each.differences):
        way_out = "Adobe cannot change that: give the export another name, or delete this one"
    else:
        way_out = "set if_exists='update' to change it, or give the export another name"
    return f"if_exists is {policy.if_exists!r}, and other data would be exported than the DAG says: {told}; {way_out}"


def cannot_change(comparison: Comparison) -> str:
    told = "; ".join(map(str, comparison.differences))
    return f"{comparison.title}: {told}. Adobe cannot change that; give the export another name."


def check_run_is_of(desired: DesiredExport, ids: ExportIds, run: FlowRun) -> Procedure[None]:
    """What a run has exported is what the task asked for: the export is so now, and was so when the run was created.

    Raises:
        ExportChanged: somebody has changed it meanwhile, or it was changed after the run was created.
        EntityNotFound: a part of it is gone.
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
        different = [str(different) for different in each.differences if not different.may_stay]
        if different:
            why = f"{each.title} was changed while the task waited: {'; '.join(different)}"
            raise ExportChanged(f"flow run {run.id} may have exported other data than the DAG says: {why}")
    since = (data_since_ms(base), source.created_ms, target.updated_ms, _data_changed_ms(dataflow))
    for since_ms, each in zip(since, comparisons, strict=True):
        if run.created_ms < since_ms:
            told = f"flow run {run.id} was created at {when(run.created_ms)}, before {each.title} became what it is now"
            advice = "wait for it with a sensor, which tells what became of it and not what it has exported"
            raise ExportChanged(
                f"{told}, at {when(since_ms)}: it may have exported other data than the DAG says; {advice}"
            )


def _data_changed_ms(dataflow: Dataflow) -> int:
    """When a dataflow was last given another source connection or other folders; 0 if nothing tells.

    Adobe tells exactly, but of the last operation only, and not what of the schedule that changed. The mark keeps it,
    but was written some requests before Adobe made the change, and a run may have been made between the two.
    """
    marked_ms, schedule_ms = data_since_ms(dataflow), dataflow.schedule_changed_ms
    is_that_change = schedule_ms - marked_ms < _LONGEST_CHANGE_MS
    return max(marked_ms, dataflow.source_changed_ms, schedule_ms if is_that_change else 0)


def warn_of_end(found: Dataflow, now: datetime) -> None:
    end_s = end_seconds(found.schedule)
    if end_s is not None and ends_soon(found, now):
        end = datetime.fromtimestamp(end_s, UTC)
        word = "ended" if end <= now else "will end"
        log.warning(
            "dataflow %r (%s) %s at %s; if_exists='update' gives it a later end", found.name, found.id, word, end
        )
