"""A list of exports compared with what its sandboxes hold: what is to be created, changed, kept, refused or pruned."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

from airflow_provider_aep.api.calls import BASE_CONNECTIONS, SOURCE_CONNECTIONS, TARGET_CONNECTIONS
from airflow_provider_aep.api.effects import Procedure
from airflow_provider_aep.api.entities import VANISHING, Dataflow, DataflowId
from airflow_provider_aep.api.provisioning.desired import (
    DesiredExport,
    ExportIds,
    ends_soon,
    export_ids,
    server_time,
)
from airflow_provider_aep.api.provisioning.drift import refuse_drift
from airflow_provider_aep.api.provisioning.inventory import Inventory
from airflow_provider_aep.api.provisioning.observed import ObservedExport, look_up, observe, reconciliation
from airflow_provider_aep.api.provisioning.owner import (
    Owner,
    is_managed,
    is_superseded,
    is_unconfirmed,
    owner_of,
)
from airflow_provider_aep.api.provisioning.policy import SetupPolicy
from airflow_provider_aep.api.provisioning.removal import JOURNAL_OF_DATAFLOW
from airflow_provider_aep.api.provisioning.resource import RaceLost
from airflow_provider_aep.errors import AepError, InvalidArgument
from airflow_provider_aep.schedules import end_seconds

#: Source: "Maximum number of destinations", a limit that Adobe enforces, in
#: https://experienceleague.adobe.com/en/docs/experience-platform/destinations/guardrails
MOST_DESTINATIONS = 100

Action = Literal["create", "change", "keep", "refuse"]
#: What becomes of a dataflow that the list does not hold, and why.
UNLISTED = {
    "prune": "made by this task; the list no longer holds it",
    "unlisted": "made by this task; the list no longer holds it: prune=True removes it",
    "other": "made for {owner}",
    "unmanaged": "not made by this provider",
}
_HALF_REMOVED = "an earlier try has begun to remove it"


class PlannedExport(NamedTuple):
    """An export of the list, and what is to be done about it.

    `why` is what differs, with both values; `ids` are those of an export that is there; `is_settled` means that no
    request is needed.
    """

    sandbox_name: str
    desired: DesiredExport
    action: Action
    why: tuple[str, ...] = ()
    ids: ExportIds | None = None
    is_settled: bool = False
    refusal: AepError | None = None

    @property
    def key(self) -> tuple[str, str]:
        """Sandbox and name."""
        return self.sandbox_name, self.desired.name


class UnlistedExport(NamedTuple):
    """A dataflow that exports datasets and is not in the list; `action` is a key of `UNLISTED`."""

    sandbox_name: str
    name: str
    dataflow_id: DataflowId
    action: str
    why: str


@dataclass
class Plan:
    """What is to be done in all sandboxes, and what they held when it was made."""

    inventories: dict[str, Inventory] = field(default_factory=dict)
    unread: dict[str, AepError] = field(default_factory=dict)  # sandboxes, and why
    exports: list[PlannedExport] = field(default_factory=list)
    unlisted: list[UnlistedExport] = field(default_factory=list)

    @property
    def is_settled(self) -> bool:
        return all(each.is_settled for each in self.exports)

    def to_prune(self, sandbox_name: str) -> list[UnlistedExport]:
        return [each for each in self.unlisted if (each.sandbox_name, each.action) == (sandbox_name, "prune")]

    def to_create(self, sandbox_name: str) -> int:
        return sum((each.sandbox_name, each.action) == (sandbox_name, "create") for each in self.exports)

    def excess(self, sandbox_name: str) -> int:
        """By how much a sandbox would exceed the limit of destinations before anything is pruned, if it creates any."""
        more = self.to_create(sandbox_name)
        return more and self.inventories[sandbox_name].destinations() + more - MOST_DESTINATIONS

    def rows(self) -> list[dict[str, Any]]:
        """[{"sandbox_name", "name", "action", "why": [text], "dataflow_id"}]: the list, then what it does not hold."""
        exports = [
            {
                "sandbox_name": each.sandbox_name,
                "name": each.desired.name,
                "action": each.action,
                "why": list(each.why),
                "dataflow_id": each.ids.dataflow_id if each.ids else None,
            }
            for each in self.exports
        ]
        unlisted = [
            {
                "sandbox_name": each.sandbox_name,
                "name": each.name,
                "action": each.action,
                "why": [each.why],
                "dataflow_id": each.dataflow_id,
            }
            for each in self.unlisted
        ]
        return [*exports, *unlisted]

    def table(self) -> str:
        """The plan for a log; of exports that are kept it only says how many."""
        rows = self.rows()
        counts = Counter(row["action"] for row in rows)
        lines = [(row["action"], row["sandbox_name"], row["name"], why) for row, why in _told(rows)]
        kept = Counter(row["sandbox_name"] for row in rows if row["action"] == "keep")
        lines += [("keep", name, f"{count} as they are", "") for name, count in kept.items()]
        head = ("action", "sandbox", "export", "why")
        widths = [max(len(line[at]) for line in (head, *lines)) for at in range(3)]
        text = "\n".join(
            "  ".join([*(cell.ljust(width) for cell, width in zip(line, widths, strict=False)), line[3]]).rstrip()
            for line in (head, *lines)
        )
        summary = ", ".join(f"{count} {action}" for action, count in counts.items())
        return f"plan for {len(self.exports)} exports: {summary or 'nothing'}\n{text}"


def _told(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Mapping[str, Any], str]]:
    """A line for each reason, the name in the first one only."""
    for row in rows:
        if row["action"] == "keep":
            continue
        first, *more = row["why"] or [""]
        yield row, first
        yield from (({**row, "action": "", "sandbox_name": "", "name": ""}, each) for each in more)


def check_limit(plan: Plan) -> None:
    """Refuse a plan that needs more destinations than Adobe allows.

    Raises:
        InvalidArgument: a sandbox would hold more than `MOST_DESTINATIONS`.
    """
    for name, inventory in plan.inventories.items():
        fewer = len(plan.to_prune(name))
        if plan.excess(name) > fewer:
            rule = (
                f"Adobe allows {MOST_DESTINATIONS} destinations in a sandbox, and there are {inventory.destinations()}"
                f"{f', {fewer} of which are to be pruned' if fewer else ''}; nothing was made"
            )
            raise InvalidArgument(f"exports to create in sandbox {name!r}", plan.to_create(name), rule)


def plan_export(
    sandbox_name: str, desired: DesiredExport, policy: SetupPolicy, inventory: Inventory
) -> Procedure[PlannedExport]:
    """What is to be done about an export. Changes nothing, and asks only for what no list shows."""
    try:
        action, why, ids, is_settled = yield from _judge(desired, policy, inventory)
    except RaceLost as lost:
        return PlannedExport(sandbox_name, desired, "change", (str(lost),))
    except AepError as refusal:
        return PlannedExport(sandbox_name, desired, "refuse", (str(refusal),), refusal=refusal)
    return PlannedExport(sandbox_name, desired, action, tuple(why), ids, is_settled)


def _judge(
    desired: DesiredExport, policy: SetupPolicy, inventory: Inventory
) -> Procedure[tuple[Action, Sequence[str], ExportIds | None, bool]]:
    now = yield from server_time()
    flows = inventory.find(desired.dataflow("", "").resource(now))
    if flows and all(map(is_managed, flows)):  # what `observe` would mend before it could tell
        broken = yield from _is_broken(flows, inventory)
        if broken:
            return "change", [broken], None, False
    observed = yield from observe(desired, policy, inventory)
    dataflow, source, target = observed.dataflow, observed.source, observed.target
    if dataflow is None or source is None or target is None:
        return "create", [], None, False
    ids = export_ids(target.base_connection_id, source.id, target.id, dataflow.id, source.dataset_ids)
    if observed.base is None or observed.base.id != ids.base_connection_id:
        base = yield from look_up(BASE_CONNECTIONS, ids.base_connection_id, inventory)
        if base is None or base.state == VANISHING or is_superseded(base):
            return "change", [f"its base connection {ids.base_connection_id} is gone: it is made anew"], ids, False
    comparisons = reconciliation(desired, observed)
    refuse_drift(comparisons, policy)
    why = [f"{each.collection.title}: {difference}" for each in comparisons for difference in each.differences]
    if desired.schedule.end is None and ends_soon(dataflow, now):
        end = datetime.fromtimestamp(end_seconds(dataflow.schedule) or 0, UTC)
        why.append(f"dataflow: it ends at {end:%Y-%m-%dT%H:%M:%SZ} and gets a later end")
    operations = [
        *desired.target(target.base_connection_id).operations(target, policy.owner),
        *desired.dataflow(source.id, target.id).operations(dataflow, now, policy),
    ]
    return "change" if why else "keep", why, ids, not (why or operations or _has_leftovers(observed))


def _is_broken(flows: Sequence[Dataflow], inventory: Inventory) -> Procedure[str]:
    """What of dataflows that this provider has made is to be mended first; "" if nothing."""
    if len(flows) > 1 or any(is_unconfirmed(each) or is_superseded(each) for each in flows):
        return f"an interrupted task has left it unfinished ({', '.join(each.id for each in flows)})"
    for collection, entity_id in (
        (SOURCE_CONNECTIONS, flows[0].source_connection_id),
        (TARGET_CONNECTIONS, flows[0].target_connection_id),
    ):
        if not (yield from look_up(collection, entity_id, inventory)):
            return f"its {collection.title} {entity_id} is gone: it is made anew"
    return ""


def _has_leftovers(observed: ObservedExport) -> bool:
    """Whether more is there than one of each, so that a set-up may find something to delete or to confirm."""
    several = any(len(each) > 1 for each in (observed.dataflows, observed.sources, observed.targets))
    return several or any(is_unconfirmed(each) or is_superseded(each) for each in observed.bases)


def unlisted_exports(
    sandbox_name: str, names: set[str], inventory: Inventory, owner: Owner, *, prune: bool
) -> list[UnlistedExport]:
    """The dataflows that export datasets and are not in the list, whose names are `names`.

    One whose source or target connection bears a name of the list is that export, whoever has renamed the dataflow.
    """
    found = []
    for dataflow in inventory.exports():
        own_names = {
            dataflow.name,
            inventory.name_of(SOURCE_CONNECTIONS, dataflow.source_connection_id),
            inventory.name_of(TARGET_CONNECTIONS, dataflow.target_connection_id),
        }
        if own_names & names:
            continue
        action = "unmanaged"
        if is_managed(dataflow):
            own = "prune" if prune else "unlisted"
            action = own if owner.is_of_this_task(dataflow) else "other"
        why = UNLISTED[action].format(owner=owner_of(dataflow) or "another task")
        found.append(UnlistedExport(sandbox_name, dataflow.name, DataflowId(dataflow.id), action, why))
    known = {each.dataflow_id for each in found}
    for journal in inventory.find_prefixed(SOURCE_CONNECTIONS, JOURNAL_OF_DATAFLOW) if prune else ():
        dataflow_id = DataflowId(journal.name.removeprefix(JOURNAL_OF_DATAFLOW))
        if owner.is_of_this_task(journal) and dataflow_id not in known:
            found.append(UnlistedExport(sandbox_name, journal.name, dataflow_id, "prune", _HALF_REMOVED))
            known.add(dataflow_id)
    return found
