"""A list of exports made true: everything is read once, and what differs is applied, several exports side by side."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, NamedTuple, TypeVar

from airflow_provider_aep.api import calls
from airflow_provider_aep.api.calls import BASE_CONNECTIONS, DATAFLOWS
from airflow_provider_aep.api.effects import Procedure, Sleep, dated, gather, in_sandbox
from airflow_provider_aep.api.entities import DataflowId
from airflow_provider_aep.api.provisioning.desired import DesiredBaseConnection, DesiredExport, ExportIds
from airflow_provider_aep.api.provisioning.ensure import RACE_ROUNDS, ensure_base_connection, given_up
from airflow_provider_aep.api.provisioning.export import set_up_export
from airflow_provider_aep.api.provisioning.inventory import Inventory, read_inventory
from airflow_provider_aep.api.provisioning.owner import is_passed_over, is_unconfirmed, owner_of
from airflow_provider_aep.api.provisioning.plan import (
    Plan,
    PlannedExport,
    UnlistedExport,
    check_limit,
    plan_export,
    unlisted_exports,
)
from airflow_provider_aep.api.provisioning.policy import SetupPolicy
from airflow_provider_aep.api.provisioning.removal import remove_export
from airflow_provider_aep.api.provisioning.resource import RaceLost, get_if_exists, has_gone
from airflow_provider_aep.api.queries import list_dataflows
from airflow_provider_aep.errors import AepError, InvalidArgument, PlatformUnavailable

log = logging.getLogger(__name__)
T = TypeVar("T")
W = TypeVar("W")

#: Exports set up at a time: as many as keep the few sockets of a session busy.
CONCURRENT_EXPORTS = 6
_NOT_TRIED = "not tried, since Adobe was unavailable to others; trying again is safe"


class SandboxExport(NamedTuple):
    """An export, and the sandbox where it shall be."""

    sandbox_name: str
    desired: DesiredExport


class SandboxLogin(NamedTuple):
    """A login of a sandbox, which many exports may share."""

    sandbox_name: str
    name: str
    spec_id: str


@dataclass
class SyncOutcome:
    """What a sync has found and done; exports by sandbox and name."""

    plan: Plan
    ids: dict[tuple[str, str], ExportIds] = field(default_factory=dict)
    failures: dict[tuple[str, str], AepError] = field(default_factory=dict)
    removed: list[dict[str, str]] = field(default_factory=list)

    def rows(self) -> list[dict[str, Any]]:
        """[{"sandbox_name", "name", "action", the IDs, "dataset_ids"}] of what is there, in the list's order."""
        return [
            {
                "sandbox_name": each.sandbox_name,
                "name": each.desired.name,
                "action": each.action,
                **self.ids[each.key]._asdict(),
                "dataset_ids": list(self.ids[each.key].dataset_ids),
            }
            for each in self.plan.exports
            if each.key in self.ids
        ]


def sync_exports(
    wanted: Sequence[SandboxExport],
    policy: SetupPolicy,
    *,
    sandbox_names: Iterable[str] = (),
    prune: bool = False,
    plan_only: bool = False,
    send_credentials: bool = False,
    is_stopped: Callable[[], bool] = lambda: False,
) -> Procedure[SyncOutcome]:
    """Make a list of exports true; `policy` is one that updates. Returns what was done, failures included.

    `sandbox_names` are read, too; `plan_only` changes nothing; `send_credentials` sends those of each login once; no
    export is begun any more once `is_stopped()`.

    Raises:
        InvalidArgument: two exports want one login differently, or a sandbox would hold too many destinations; nothing
            was made.
    """
    _check_logins(wanted)
    names = dict.fromkeys([*(each.sandbox_name for each in wanted), *sandbox_names])
    plan = yield from _read_and_plan(wanted, names, policy, prune=prune)
    if policy.owner.again and (prune or not plan.is_settled):
        # Lists may show late what an earlier try has made, or has noted of a removal.
        yield Sleep(policy.visibility_seconds)
        plan = yield from _read_and_plan(wanted, names, policy, prune=prune)
    log.info("%s", plan.table())
    check_limit(plan)
    outcome = SyncOutcome(plan)
    listed = {each.sandbox_name for each in plan.exports}
    outcome.failures |= {(name, ""): error for name, error in plan.unread.items() if name not in listed}
    for each in plan.exports:
        if each.refusal:
            outcome.failures[each.key] = each.refusal
        elif each.is_settled and each.ids:
            outcome.ids[each.key] = each.ids
    if not plan_only:
        yield from _Application(outcome, policy, is_stopped).perform(send_credentials=send_credentials)
        counts = Counter(row["action"] for row in outcome.rows())
        told = ", ".join(f"{action} {count}" for action, count in counts.items())
        log.info("done: %s; prune %d, failed %d", told or "nothing", len(outcome.removed), len(outcome.failures))
    return outcome


def _check_logins(wanted: Sequence[SandboxExport]) -> None:
    """Refuse exports that would change one login to and fro."""
    seen: dict[SandboxLogin, tuple[str, DesiredBaseConnection]] = {}
    for sandbox_name, desired in wanted:
        if desired.base:
            first, base = seen.setdefault(_login(sandbox_name, desired.base), (desired.name, desired.base))
            if base != desired.base:
                rule = f"is another login in export {first!r}: give each login a base_connection_name of its own"
                raise InvalidArgument(f"export {desired.name!r}: base_connection_name", base.name, rule)


def _login(sandbox_name: str, base: DesiredBaseConnection) -> SandboxLogin:
    return SandboxLogin(sandbox_name, base.name, base.destination_type.connection_spec)


def _read_and_plan(
    wanted: Sequence[SandboxExport], sandbox_names: Iterable[str], policy: SetupPolicy, *, prune: bool
) -> Procedure[Plan]:
    """Read all sandboxes side by side; the exports of one that cannot be read are refused for that reason."""
    plan = Plan()

    def read(sandbox_name: str) -> Procedure[None]:
        inventory, failure = yield from _attempt(in_sandbox(sandbox_name, read_inventory()))
        if inventory:
            plan.inventories[sandbox_name] = inventory
        if failure:
            plan.unread[sandbox_name] = failure

    yield from _side_by_side(list(sandbox_names), read)
    for sandbox_name, desired in wanted:
        if sandbox_name in plan.unread:
            refusal = plan.unread[sandbox_name]
            plan.exports.append(PlannedExport(sandbox_name, desired, "refuse", (str(refusal),), refusal=refusal))
        else:
            planned = plan_export(sandbox_name, desired, policy, plan.inventories[sandbox_name])
            plan.exports.append((yield from in_sandbox(sandbox_name, planned)))
    for name, inventory in sorted(plan.inventories.items()):
        listed = {desired.name for sandbox_name, desired in wanted if sandbox_name == name}
        plan.unlisted += unlisted_exports(name, listed, inventory, policy.owner, prune=prune)
    return plan


@dataclass
class _Application:
    """A plan that is being applied: logins first, then exports, then what is to be pruned."""

    outcome: SyncOutcome
    policy: SetupPolicy
    is_stopped: Callable[[], bool]
    outages: list[PlatformUnavailable] = field(default_factory=list)

    def perform(self, *, send_credentials: bool) -> Procedure[None]:
        plan = self.outcome.plan
        yield from self._ensure_logins(send_credentials=send_credentials)
        crowded = {name for name in plan.inventories if plan.excess(name) > 0}
        yield from self._prune(crowded)
        work = [each for each in plan.exports if not each.is_settled and each.key not in self.outcome.failures]
        yield from _side_by_side(work, self._set_up)
        yield from self._prune(plan.inventories.keys() - crowded)
        if work or self.outcome.removed:
            yield from self._make_sure()

    def _make_sure(self) -> Procedure[None]:
        """Set up again what somebody has removed or changed meanwhile."""
        for _ in range(RACE_ROUNDS):
            gone = yield from self._gone()
            if not gone:
                return
            yield from _side_by_side(gone, self._set_up)
        for each in gone:
            reason = RaceLost("another task has removed or changed it")
            what = f"set-up of export {each.desired.name!r}"
            self.outcome.failures[each.key] = PlatformUnavailable(what, message=given_up(reason))
            self.outcome.ids.pop(each.key, None)

    def _ensure_logins(self, *, send_credentials: bool) -> Procedure[None]:
        plan = self.outcome.plan
        policy = replace(self.policy, sends_credentials=send_credentials)
        failed: dict[SandboxLogin, AepError] = {}

        def ensure(item: tuple[SandboxLogin, DesiredBaseConnection]) -> Procedure[None]:
            login, desired = item
            ensured = _ensure_login(desired, policy, plan.inventories[login.sandbox_name])
            failure = (yield from _attempt(in_sandbox(login.sandbox_name, ensured))).failure
            if failure:
                failed[login] = failure

        logins = _logins_to_ensure(plan, send_credentials=send_credentials)
        yield from _side_by_side(list(logins.items()), ensure)
        for each in plan.exports:  # also of those that are as they shall be: their credentials were not sent
            failure = failed.get(_login(each.sandbox_name, each.desired.base)) if each.desired.base else None
            if failure:
                self.outcome.failures.setdefault(each.key, failure)

    def _set_up(self, planned: PlannedExport) -> Procedure[None]:
        sandbox_name, desired = planned.sandbox_name, planned.desired
        self.outcome.ids.pop(planned.key, None)  # of what is gone
        if len(self.outages) >= CONCURRENT_EXPORTS:  # each further one would only wait for half a minute
            what = f"set-up of export {desired.name!r}"
            self.outcome.failures[planned.key] = PlatformUnavailable(what, message=_NOT_TRIED)
        elif not self.is_stopped():
            policy = replace(self.policy, sends_credentials=False)
            work = set_up_export(desired, policy, self.outcome.plan.inventories[sandbox_name])
            ids, failure = yield from _attempt(in_sandbox(sandbox_name, work))
            if ids:
                self.outcome.ids[planned.key] = ids
            if failure:
                log.error("export %r in sandbox %r failed: %s", desired.name, sandbox_name, failure)
                self.outcome.failures[planned.key] = failure
                self.outages += [failure] if isinstance(failure, PlatformUnavailable) else []

    def _gone(self) -> Procedure[list[PlannedExport]]:
        """The exports that are there no longer, or no longer so: a list for each sandbox says so, or a GET."""
        gone: list[PlannedExport] = []

        def look(sandbox_name: str) -> Procedure[None]:
            listed = {each.id: each for each in (yield from list_dataflows())}
            for each in self.outcome.plan.exports:
                ids = self.outcome.ids.get(each.key)
                if each.sandbox_name != sandbox_name or not ids:
                    continue
                found = listed.get(ids.dataflow_id) or (yield from get_if_exists(DATAFLOWS, ids.dataflow_id))
                if found is None or has_gone(found) or found.source_connection_id != ids.source_connection_id:
                    gone.append(each)

        def look_there(sandbox_name: str) -> Procedure[None]:
            failure = (yield from _attempt(in_sandbox(sandbox_name, look(sandbox_name)))).failure
            if failure:
                self.outcome.failures[sandbox_name, ""] = failure

        yield from _side_by_side(list({sandbox_name for sandbox_name, _ in self.outcome.ids}), look_there)
        return gone

    def _prune(self, sandbox_names: Collection[str]) -> Procedure[None]:
        """Remove what the list no longer holds, but not where an export has failed, which may be its successor."""
        to_remove: list[UnlistedExport] = []
        for name in sorted(sandbox_names):
            unlisted = self.outcome.plan.to_prune(name)
            failed = [export or "its list" for sandbox_name, export in self.outcome.failures if sandbox_name == name]
            if unlisted and failed:
                told = ", ".join(failed)
                log.warning("nothing is pruned in sandbox %r, since something has failed there: %s", name, told)
            else:
                to_remove += unlisted
        yield from _side_by_side(to_remove, self._remove)

    def _remove(self, unlisted: UnlistedExport) -> Procedure[None]:
        if self.is_stopped():
            return
        work = in_sandbox(unlisted.sandbox_name, _remove_if_ours(unlisted.dataflow_id, self.policy))
        is_gone_now, failure = yield from _attempt(work)
        if failure:
            self.outcome.failures[unlisted.sandbox_name, unlisted.name] = failure
        elif is_gone_now:
            row = {"sandbox_name": unlisted.sandbox_name, "name": unlisted.name, "dataflow_id": unlisted.dataflow_id}
            self.outcome.removed.append(row)


def _remove_if_ours(dataflow_id: DataflowId, policy: SetupPolicy) -> Procedure[bool]:
    """Remove an export, unless another task has taken it over since the lists were read. Returns whether it is gone."""
    dataflow = yield from get_if_exists(DATAFLOWS, dataflow_id)
    if dataflow and not policy.owner.is_of_this_task(dataflow):
        log.warning("dataflow %r (%s) is kept: %s has changed it", dataflow.name, dataflow.id, owner_of(dataflow))
        return False
    yield from remove_export(dataflow_id, policy, only_managed=True)
    return True


def _logins_to_ensure(plan: Plan, *, send_credentials: bool) -> dict[SandboxLogin, DesiredBaseConnection]:
    """The logins that exports need and that are missing, for another account, or to be sent anew."""
    logins: dict[SandboxLogin, DesiredBaseConnection] = {}
    for each in plan.exports:
        base = each.desired.base
        if base is None or each.refusal:
            continue
        found = plan.inventories[each.sandbox_name].find(base.resource())
        usable = [one for one in found if not (is_unconfirmed(one) or is_passed_over(one))]
        is_missing = not (each.is_settled or usable)
        if is_missing or send_credentials or any(map(base.differences, usable)):
            logins[_login(each.sandbox_name, base)] = base
    return logins


def _ensure_login(desired: DesiredBaseConnection, policy: SetupPolicy, inventory: Inventory) -> Procedure[None]:
    base_id = yield from ensure_base_connection(desired, policy)
    base, told_ms = yield from dated(iter(calls.get_entity(BASE_CONNECTIONS, base_id)))
    inventory.put(BASE_CONNECTIONS, base)
    inventory.note_login(base.id, told_ms)


class Attempt(NamedTuple, Generic[T]):
    """How a procedure has ended: its result, or its failure."""

    result: T | None
    failure: AepError | None


def _attempt(procedure: Procedure[T]) -> Procedure[Attempt[T]]:
    """Let the failure of a procedure end none of those beside it."""
    try:
        return Attempt((yield from procedure), None)
    except AepError as failure:
        return Attempt(None, failure)


def _side_by_side(items: Sequence[W], work: Callable[[W], Procedure[None]]) -> Procedure[None]:
    """Do the work for each item, a few at a time."""
    remaining = iter(items)  # shared by workers that may be threads: each `next` gives an item to one of them

    def worker() -> Procedure[None]:
        for each in remaining:
            yield from work(each)

    yield from gather(*(worker() for _ in range(min(CONCURRENT_EXPORTS, len(items)))))
