"""An export is removed whole, in Adobe's order, whatever goes wrong at whichever request; what others use stays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from airflow_provider_aep.api.entities import DataflowId
from airflow_provider_aep.api.provisioning.desired import ExportIds
from airflow_provider_aep.api.provisioning.removal import Removal, remove_export, remove_exports_named
from airflow_provider_aep.errors import AepError
from tests.adobe.in_process import Adobe
from tests.exports import desired, policy
from tests.test_exactly_once import DEATHS, FAULTS, OF_A_QUESTION, Killed, Strike, general

OURS = "Made by airflow-provider-aep for dag.export, run 1 [00000000]"


def remove(adobe: Adobe, dataflow_id: str, *, again: bool = False, **how: Any) -> Removal:
    removal: Removal = adobe.run(
        remove_export(DataflowId(dataflow_id), policy("dag.remove, run 1", again=again), **how)
    )
    return removal


def remove_named(adobe: Adobe, name: str = "dag.export", *, again: bool = False, **how: Any) -> Removal:
    removal: Removal = adobe.run(remove_exports_named(name, policy("dag.remove, run 1", again=again), **how))
    return removal


def tried(adobe: Adobe, work: Callable[[bool], Removal], *, again: bool = False) -> Removal:
    """As Airflow runs a task: after a failure that is not final it is tried again."""
    for attempt in (1, 2, 3):
        try:
            return work(again or attempt > 1)
        except AepError as error:
            if error.is_final or attempt == 3:
                raise
            adobe.clock.advance(1)
    raise AssertionError("unreachable")


BY: dict[str, Callable[[Adobe, str, bool], Removal]] = {
    "dataflow_id": lambda adobe, flow, again: remove(adobe, flow, again=again),
    "dataflow_id, with the login": lambda adobe, flow, again: remove(
        adobe, flow, again=again, with_base_connection=True
    ),
    "name": lambda adobe, _, again: remove_named(adobe, again=again),
    "name, with the login": lambda adobe, _, again: remove_named(adobe, again=again, with_base_connection=True),
}


def is_removed(adobe: Adobe, by: str) -> None:
    """Nothing is left but the login, unless that was asked for, too; and nothing was made but the journals."""
    there = adobe.count()
    assert there.pop("connections") == ("login" not in by)
    assert not any(there.values())


def removals(by: str, strikes: dict[str, Strike], **options: Any) -> Iterator[tuple[str, Adobe, ExportIds]]:
    """An export for each request of its removal and each strike, up to the moment when the strike is set."""
    adobe = Adobe(options)
    ids = adobe.task(desired())
    adobe.clock.advance(20)
    adobe.platform.requests.clear()
    BY[by](adobe, ids.dataflow_id, False)
    adobe.clock.advance(20)
    is_removed(adobe, by)
    seen: Counter[str] = Counter()
    for request in map(general, adobe.requests()):
        skip = seen[request]
        seen[request] += 1
        for title, strike in strikes.items():
            if request.startswith("GET") and strikes is FAULTS and title not in OF_A_QUESTION:
                continue
            adobe = Adobe(options)
            ids = adobe.task(desired())
            adobe.clock.advance(20)
            strike(adobe, request, skip)
            yield f"{title} at {request} number {skip + 1}", adobe, ids


@pytest.mark.parametrize("by", BY)
def test_no_fault_leaves_anything(by: str) -> None:
    for case, adobe, ids in removals(by, FAULTS):
        try:
            tried(adobe, lambda again, adobe=adobe, ids=ids: BY[by](adobe, ids.dataflow_id, again))  # type: ignore[misc]
            is_removed(adobe, by)
        except BaseException as error:
            error.add_note(case)
            raise


@pytest.mark.parametrize("list_delay", [0, 5])
@pytest.mark.parametrize("by", BY)
def test_a_retry_finishes_what_a_dead_worker_began(by: str, list_delay: float) -> None:
    for case, adobe, ids in removals(by, DEATHS, list_delay=list_delay):
        try:
            with pytest.raises(Killed):
                BY[by](adobe, ids.dataflow_id, False)
            removal = BY[by](adobe, ids.dataflow_id, True)
            adobe.clock.advance(20)
            is_removed(adobe, by)
            assert not removal.kept
        except BaseException as error:
            error.add_note(case)
            raise


@pytest.mark.parametrize("by", BY)
def test_states_in_transit_are_waited_for(by: str) -> None:
    """Entities that are settling refuse everything for minutes, and a deletion takes minutes, too."""
    adobe = Adobe({"settle_seconds": 100, "delete_seconds": 100})
    ids = adobe.task(desired(), tries=9)
    removal = tried(adobe, lambda again: BY[by](adobe, ids.dataflow_id, again))
    assert {entity_id for _, entity_id in removal.deleted} >= {*ids[1:4]}
    adobe.clock.advance(200)
    is_removed(adobe, by)
