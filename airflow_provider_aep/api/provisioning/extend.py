"""Moves the end of a dataflow forward, once, whatever becomes of the replies."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from airflow_provider_aep.api import calls
from airflow_provider_aep.api.calls import DATAFLOWS
from airflow_provider_aep.api.effects import Procedure
from airflow_provider_aep.api.entities import Dataflow, DataflowId
from airflow_provider_aep.api.provisioning.desired import replacement
from airflow_provider_aep.api.provisioning.owner import is_managed, mark_of_same_owner
from airflow_provider_aep.api.provisioning.resource import change
from airflow_provider_aep.api.runs.slots import when
from airflow_provider_aep.schedules import end_seconds

log = logging.getLogger(__name__)


def extend_end(dataflow: Dataflow, *, ends_before: int, new_end: int) -> Procedure[Dataflow]:
    """A dataflow that ends before a moment, or shows no end, ends at another one from now on; times in seconds.

    Decided by a fresh copy before each PATCH: one that ends later by now, since somebody else or a request whose reply
    was lost has moved it, is left alone. Everything else of its schedule stays; so do its slots, and its mark says so.
    Returns the dataflow as Adobe shows it afterwards.

    Raises:
        EntityNotFound: it is gone.
        VersionConflict: others changed it three times in a row.
        RequestRefused: Adobe refuses the change.

    Source: PATCH of /scheduleParams,
    https://experienceleague.adobe.com/en/docs/experience-platform/destinations/api/update-destination-dataflows
    """

    def operations(fresh: Dataflow) -> Sequence[Mapping[str, Any]]:
        end = end_seconds(fresh.schedule)
        if end is not None and end >= ends_before:
            return []
        found = [replacement("/scheduleParams", {**fresh.schedule, "endTime": new_end})]
        if is_managed(fresh):
            found.append(replacement("/description", mark_of_same_owner(fresh)))
        return found

    yield from change(DATAFLOWS, dataflow.id, operations)
    extended = yield from calls.get_dataflow(DataflowId(dataflow.id))
    before, after = end_seconds(dataflow.schedule), end_seconds(extended.schedule)
    log.info("dataflow %r (%s): its end was %s and is %s", dataflow.name, dataflow.id, _told(before), _told(after))
    return extended


def _told(end_s: int | None) -> str:
    return "not shown" if end_s is None else when(end_s * 1000)
