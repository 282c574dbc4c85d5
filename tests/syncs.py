"""A list of exports to sync, as values for the tests, a task that does so, and what must be true afterwards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from airflow_provider_aep.api.provisioning.desired import DesiredExport
from airflow_provider_aep.api.provisioning.policy import SetupPolicy
from airflow_provider_aep.api.provisioning.removal import JOURNAL_OF_DATAFLOW
from airflow_provider_aep.api.provisioning.sync import SandboxExport, SyncOutcome, sync_exports
from airflow_provider_aep.errors import AepError
from tests.adobe.in_process import Adobe
from tests.exports import desired, policy

RUN = "dag.sync, run {}"


def listed(*exports: DesiredExport | str, sandbox: str = "prod") -> list[SandboxExport]:
    """Exports of a sandbox; of one that is given by its name all else is usual."""
    return [SandboxExport(sandbox, desired(each) if isinstance(each, str) else each) for each in exports]


def sync_policy(run: int = 1, *, again: bool = False, **more: bool) -> SetupPolicy:
    return policy(RUN.format(run), again=again, if_exists="update", **more)


def sync(
    adobe: Adobe, wanted: Sequence[SandboxExport], *, run: int = 1, again: bool = False, tries: int = 3, **options: Any
) -> SyncOutcome:
    """As Airflow runs the task: tried again in a new session while a failure is not final; the requests are of the last
    try."""
    for attempt in range(1, tries + 1):
        adobe.platform.requests.clear()
        try:
            how = sync_policy(run, again=again or attempt > 1)
            outcome: SyncOutcome = adobe.run(sync_exports(wanted, how, **options))
        except AepError as error:
            if error.is_final or attempt == tries:
                raise
        else:
            if attempt == tries or all(each.is_final for each in outcome.failures.values()):
                return outcome
        adobe.clock.advance(1)
    raise AssertionError("unreachable")


def actions(outcome: SyncOutcome) -> dict[str, str]:
    """{name: action}, of the list and beside it."""
    return {row["name"]: row["action"] for row in outcome.plan.rows()}


def why(outcome: SyncOutcome, name: str) -> str:
    (row,) = (row for row in outcome.plan.rows() if row["name"] == name)
    return "; ".join(row["why"])


def are_there(adobe: Adobe, wanted: Sequence[SandboxExport], outcome: SyncOutcome | None = None) -> None:
    """One of each for each export of the list, attached to one another and as wished; nothing else; one login."""
    assert not (outcome and outcome.failures)
    for sandbox in {each.sandbox_name for each in wanted}:
        here = {each.desired.name: each.desired for each in wanted if each.sandbox_name == sandbox}
        (base,) = adobe.platform.live("connections", sandbox)
        assert not base["description"].endswith(")")
        parts = {
            kind: {each["name"]: each for each in adobe.platform.live(kind, sandbox)}
            for kind in ("sourceConnections", "targetConnections", "flows")
        }
        for kind in parts:
            assert Counter(each["name"] for each in adobe.platform.live(kind, sandbox)) == Counter(list(here)), kind
        for name, export in here.items():
            source, target, flow = (found[name] for found in parts.values())
            assert flow["sourceConnectionIds"] == [source["id"]]
            assert flow["targetConnectionIds"] == [target["id"]]
            assert flow["state"] == "enabled"
            assert target["baseConnectionId"] == base["id"]
            assert {each["dataSetId"] for each in source["params"]["datasets"]} == set(export.dataset_ids)
            assert export.target_params.items() <= target["params"].items()
            if outcome:
                assert outcome.ids[sandbox, name][:4] == (base["id"], source["id"], target["id"], flow["id"])


def made_for_good(adobe: Adobe) -> Counter[tuple[str, str]]:
    """What was ever made, by kind and name, without the journals of removals."""
    return Counter(
        (each.kind, each.name) for each in adobe.platform.creations if not each.name.startswith(JOURNAL_OF_DATAFLOW)
    )
