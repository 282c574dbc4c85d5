"""An export removed in Adobe's order, whatever becomes of the replies and the worker; what others use stays.

Adobe wants the dataflow deleted first, then its connections. With the dataflow goes the knowledge of what its
connections were, so a removal writes that down before, see `journal`, and deletes the journal last. Source: the guides
"Delete destination dataflows" and "Delete destination accounts",
https://experienceleague.adobe.com/en/docs/experience-platform/destinations/api/delete-destination-account
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

from airflow_provider_aep.api import calls
from airflow_provider_aep.api.calls import (
    BASE_CONNECTIONS,
    DATAFLOWS,
    SOURCE_CONNECTIONS,
    TARGET_CONNECTIONS,
    Collection,
)
from airflow_provider_aep.api.effects import Procedure, Sleep, gather
from airflow_provider_aep.api.entities import (
    VANISHING,
    BaseConnection,
    Dataflow,
    DataflowId,
    SourceConnection,
    TargetConnection,
)
from airflow_provider_aep.api.provisioning import lease
from airflow_provider_aep.api.provisioning.desired import replacement
from airflow_provider_aep.api.provisioning.ensure import RACE_ROUNDS, given_up
from airflow_provider_aep.api.provisioning.journal import (
    Parts,
    journal_name,
    parts_of,
    read_journal,
    sources_named,
    write_journal,
)
from airflow_provider_aep.api.provisioning.owner import RETIRING, is_managed, is_unconfirmed
from airflow_provider_aep.api.provisioning.policy import SetupPolicy
from airflow_provider_aep.api.provisioning.resource import (
    IN_USE,
    RaceLost,
    back_off,
    change,
    delete,
    delete_leftover,
    find,
    find_named,
    get_if_exists,
    look_for,
    supersede,
)
from airflow_provider_aep.api.provisioning.state import delete_and_wait
from airflow_provider_aep.api.queries import all_items, dataflows_of
from airflow_provider_aep.destinations import DESTINATIONS
from airflow_provider_aep.errors import (
    AmbiguousName,
    EntityNotFound,
    InvalidArgument,
    PlatformUnavailable,
    RequestRefused,
)

log = logging.getLogger(__name__)

#: How the name of a journal begins that `remove_export` writes; the dataflow's ID follows.
JOURNAL_OF_DATAFLOW = journal_name("dataflow ")
_COLLECTIONS = (DATAFLOWS, SOURCE_CONNECTIONS, TARGET_CONNECTIONS)
_FLOW_SPECS = tuple(each.flow_spec for each in DESTINATIONS.values())
_MOST_USERS = 3  # told; a login may have a hundred
_NOT_OURS = "was not made by this provider"


class Kept(NamedTuple):
    """What a removal has left, and why."""

    collection: Collection
    id: str
    reason: str


class Removal(NamedTuple):
    """What a removal has deleted, which Adobe no longer knows, and what it has left; neither where all was gone."""

    deleted: tuple[tuple[Collection, str], ...] = ()
    kept: tuple[Kept, ...] = ()

    def and_then(self, other: Removal) -> Removal:
        deleted = self.deleted + other.deleted
        gone = {entity_id for _, entity_id in deleted}  # as what two dataflows of one name shared
        return Removal(deleted, tuple(each for each in self.kept + other.kept if each.id not in gone))

    def as_data(self) -> dict[str, list[dict[str, str]]]:
        """{"deleted": [{"kind": "dataflow", "id"}, …], "kept": [{"kind": "base connection", "id", "reason"}, …]}."""
        return {
            "deleted": [{"kind": collection.title, "id": entity_id} for collection, entity_id in self.deleted],
            "kept": [{"kind": each.collection.title, "id": each.id, "reason": each.reason} for each in self.kept],
        }


class _How(NamedTuple):
    policy: SetupPolicy
    with_base_connection: bool
    only_managed: bool


def remove_export(
    dataflow_id: DataflowId, policy: SetupPolicy, *, with_base_connection: bool = False, only_managed: bool = False
) -> Procedure[Removal]:
    """Delete a dataflow, then its target and source connection, then its login if asked to, unless others use these.

    `only_managed` leaves what this provider has not created. Of `policy` the owner and `visibility_seconds` count. What
    a killed try has begun the next call finishes; one whose owner says `again` waits for what lists show late.

    Raises:
        InvalidArgument: the dataflow exports no datasets, but audiences, or brings data in; nothing is deleted.
        PlatformUnavailable: an outage, or Adobe takes longer than five minutes; trying again is safe.
        RequestRefused: Adobe does not allow it, for another reason than that something is in use.
    """
    what = f"dataflow {dataflow_id}"
    dataflow, journals = yield from gather(
        get_if_exists(DATAFLOWS, dataflow_id),
        look_for(sources_named(journal_name(what)), seconds=policy.first_look_seconds),
    )
    if dataflow and dataflow.spec_id not in _FLOW_SPECS:
        rule = f"is {dataflow.name!r}, which is no export of datasets (its flow spec is {dataflow.spec_id!r})"
        raise InvalidArgument("dataflow_id", dataflow_id, rule)
    parts = [parts_of(dataflow)] if dataflow else []
    return (yield from _remove(what, parts, journals, _How(policy, with_base_connection, only_managed)))


def remove_exports_named(name: str, policy: SetupPolicy, *, with_base_connection: bool = False) -> Procedure[Removal]:
    """Delete every dataflow, source and target connection of a name that this provider made, also what is half made.

    A set-up under way is waited for, and its export deleted, too. What such a dataflow uses under another name goes
    with it, if this provider made it. Ends when lists show nothing more; where they never showed a dataflow, not before
    `visibility_seconds`, since a task that has just died may have created something.

    Raises:
        InvalidArgument: the dataflow of that name was not made by this provider; nothing is deleted.
        AmbiguousName: one of several was not; nothing is deleted.
        PlatformUnavailable, RequestRefused: as `remove_export`.
    """
    how = _How(policy, with_base_connection, only_managed=True)
    removal, seen, reason = Removal(), dict[str, Collection](), RaceLost("")
    is_whole = False
    for _ in range(RACE_ROUNDS):
        kept = {each.id for each in removal.kept}
        seconds = policy.first_look_seconds if is_whole else policy.visibility_seconds
        found = yield from _look(name, kept, seconds=seconds)
        if not any(found):
            if not seen and not any(removal):
                log.info("export %r is gone already", name)
            done = {entity_id for _, entity_id in removal.deleted} | kept
            gone = tuple((collection, each) for each, collection in seen.items() if each not in done)
            return removal.and_then(Removal(gone))  # the leases of dead tasks
        _check_is_ours(name, found.dataflows)
        is_whole = is_whole or bool(found.dataflows or found.journals)
        whole = [parts_of(each) for each in found.dataflows]
        attached = {each for parts in whole for each in parts}
        sources = [each for each in found.sources if each.id not in attached]
        targets = [each for each in found.targets if each.id not in attached]
        seen |= {each.id: SOURCE_CONNECTIONS for each in sources} | {each.id: TARGET_CONNECTIONS for each in targets}
        try:
            yield from lease.released(sources_named(name), sources, policy)
        except RaceLost as lost:
            reason = lost
            yield from back_off()
            continue
        loose = [*(Parts(target=each.id) for each in targets), *(Parts(source=each.id) for each in sources)]
        removed = yield from _remove(f"export {name}", [*whole, *loose], found.journals, how)
        removal = removal.and_then(removed)
        if not any(removed):  # a list shows what is gone
            yield from back_off()
    raise PlatformUnavailable(f"removal of export {name!r}", message=given_up(reason))


class _Found(NamedTuple):
    dataflows: list[Dataflow]
    sources: list[SourceConnection]
    targets: list[TargetConnection]
    journals: list[SourceConnection]


def _look(name: str, kept: set[str], *, seconds: float) -> Procedure[_Found]:
    """What lists show of that name, but for what is kept, once they show anything, or after `seconds`."""
    waited, pause = 0.0, 0.5
    while True:
        lists = yield from gather(
            find_named(DATAFLOWS, name, *_FLOW_SPECS),
            find(sources_named(name)),
            find_named(TARGET_CONNECTIONS, name, *(each.connection_spec for each in DESTINATIONS.values())),
            find(sources_named(journal_name(f"export {name}"))),
        )
        found = _Found(*([each for each in entities if each.id not in kept] for entities in lists))
        if any(found) or waited >= seconds:
            return found
        pause = min(pause, seconds - waited)
        yield Sleep(pause)
        waited += pause
        pause *= 2


def _check_is_ours(name: str, dataflows: Sequence[Dataflow]) -> None:
    if all(map(is_managed, dataflows)):
        return
    if len(dataflows) == 1:
        rule = f"dataflow {dataflows[0].id} of this name {_NOT_OURS}; to delete it all the same, give its dataflow_id"
        raise InvalidArgument("name", name, rule)
    listed = ", ".join(f"{each.id}{'' if is_managed(each) else f' ({_NOT_OURS})'}" for each in dataflows)
    raise AmbiguousName(
        f"{len(dataflows)} dataflows are named {name!r}: {listed}. Give the dataflow_id of the one meant."
    )


def _remove(what: str, parts: Sequence[Parts], journals: Sequence[SourceConnection], how: _How) -> Procedure[Removal]:
    """Delete what is there, and what journals tell of: one export after the other, then logins, then the journals."""
    present = {each.dataflow for each in parts} - {""}
    noted = [each for each in map(read_journal, journals) if each and each.dataflow not in present]
    if not parts and not noted:
        log.info("%s is gone already", what)
        if journals:  # whose description Adobe, or somebody, has changed
            log.warning("an earlier try to delete %s has ended half-way; its connections may be left", what)
    used = [each.id for each in journals]
    bases: dict[str, bool] = {}
    removal = Removal()
    for each in (*parts, *noted):
        removal = removal.and_then((yield from _remove_parts(each, how, what, journals, used, bases, each in noted)))
    for base, is_noted in bases.items():
        removal = removal.and_then((yield from _remove_base(base, how, is_noted=is_noted)))
    for journal in used:
        yield from delete(SOURCE_CONNECTIONS, journal)
    return removal


def _remove_parts(
    parts: Parts,
    how: _How,
    what: str,
    journals: Sequence[SourceConnection],
    used: list[str],
    bases: dict[str, bool],
    is_noted: bool,
) -> Procedure[Removal]:
    """Delete one export but for its login, whose ID is added to `bases` if it shall go, as journals are to `used`.

    `is_noted`: a journal tells of it, so that what is gone was deleted by an earlier try.
    """
    found = yield from gather(
        *(
            get_if_exists(collection, entity_id) if entity_id else None
            for collection, entity_id in zip(_COLLECTIONS, parts[:3], strict=True)
        )
    )
    dataflow, source, target = found
    if dataflow and dataflow.source_connection_id != parts.source:  # an update has just attached another one
        parts = parts._replace(source=dataflow.source_connection_id)
        return (yield from _remove_parts(parts, how, what, journals, used, bases, is_noted))
    if how.only_managed and dataflow and not is_managed(dataflow):
        return _keep(DATAFLOWS, dataflow.id, _NOT_OURS)
    base = target.base_connection_id if target else parts.base
    parts = parts._replace(base=base if how.with_base_connection else "")
    written = ""
    if (dataflow or parts.base) and parts not in map(read_journal, journals):
        written = yield from write_journal(what, parts, source, how.policy)
        used += [written] if written else []
        fresh = (yield from get_if_exists(DATAFLOWS, dataflow.id)) if dataflow else None
        if fresh and fresh.source_connection_id != parts.source:
            return (yield from _remove_parts(parts, how, what, journals, used, bases, is_noted))
    removal = Removal()
    if is_noted:
        ids = zip(_COLLECTIONS, parts[:3], found, strict=True)
        removal = Removal(tuple((collection, each) for collection, each, there in ids if each and not there))
    if dataflow:
        try:
            yield from delete_and_wait(DATAFLOWS, dataflow)
        except RequestRefused:
            if written:  # it stays whole, so nothing has to be remembered
                yield from delete_leftover(SOURCE_CONNECTIONS, written)
            raise
        removal = removal.and_then(Removal(((DATAFLOWS, dataflow.id),)))
    for collection, entity in ((TARGET_CONNECTIONS, target), (SOURCE_CONNECTIONS, source)):
        if entity:
            removal = removal.and_then((yield from _remove_unused(collection, entity, how, but_for=parts.dataflow)))
    if parts.base:
        bases[parts.base] = bases.get(parts.base, False) or is_noted
    return removal


def _remove_unused(
    collection: Collection, found: SourceConnection | TargetConnection, how: _How, *, but_for: str
) -> Procedure[Removal]:
    """Delete a source or target connection that no dataflow uses; `but_for` is the one just deleted."""
    if how.only_managed and not is_managed(found):
        return _keep(collection, found.id, _NOT_OURS)
    waited, pause = 0.0, 1.0
    while True:
        dataflows = yield from dataflows_of(collection, found.id)
        users = [f"dataflow {each.name!r} ({each.id})" for each in dataflows if each.id != but_for]
        if users:
            return _keep(collection, found.id, _used_by(users))
        try:
            yield from delete_and_wait(collection, found)
        except RequestRefused as refusal:
            # By a dataflow that lists do not show yet, or the one just deleted, which Adobe still counts.
            if refusal.number not in IN_USE:
                raise
            if waited >= how.policy.visibility_seconds:
                return _keep(collection, found.id, str(refusal))
        else:
            return Removal(((collection, found.id),))
        yield Sleep(pause)
        waited += pause
        pause *= 2


def _remove_base(base_id: str, how: _How, *, is_noted: bool) -> Procedure[Removal]:
    """Delete a base connection that no target connection uses; whether Adobe protects one in use nobody knows."""
    deleted = Removal(((BASE_CONNECTIONS, base_id),))
    base: BaseConnection | None = yield from get_if_exists(BASE_CONNECTIONS, base_id)
    if base is None:
        return deleted if is_noted else Removal()
    if how.only_managed and not is_managed(base):
        return _keep(BASE_CONNECTIONS, base_id, _NOT_OURS)
    try:
        users = yield from _targets_of(base_id)
        if not users:
            users = yield from _retire(base, how.policy)
        if not users:
            return deleted
        yield from change(BASE_CONNECTIONS, base_id, lambda fresh: _described(fresh, ending=""))
    except EntityNotFound:  # another removal was faster
        return deleted
    return _keep(BASE_CONNECTIONS, base_id, _used_by(users))


def _retire(base: BaseConnection, policy: SetupPolicy) -> Procedure[list[str]]:
    """Delete a base connection unless somebody begins to use it meanwhile; returns who does, in words.

    It is marked first, so that set-ups pass over it, and looked at again once those have shown what they were making.
    One that its creators have not agreed on yet is superseded, as among themselves; see `resource.agree`.
    """
    if is_unconfirmed(base) and (yield from supersede(BASE_CONNECTIONS, base)):
        return []
    if is_managed(base) and base.state != VANISHING:
        yield from change(BASE_CONNECTIONS, base.id, lambda fresh: _described(fresh, ending=RETIRING))
    # Set-ups that read the login up to `visibility_seconds` ago do not read it again, and lists lag as much.
    yield Sleep(2 * policy.visibility_seconds)
    users = yield from _targets_of(base.id)
    if not users:
        try:
            yield from delete_and_wait(BASE_CONNECTIONS, (yield from get_if_exists(BASE_CONNECTIONS, base.id)))
        except RequestRefused as refusal:
            if refusal.number not in IN_USE:
                raise
            return [str(refusal)]
    return users


def _targets_of(base_id: str) -> Procedure[list[str]]:
    """The target connections of a base connection, in words; asked for without a filter, which Adobe might ignore."""
    items = yield from all_items(calls.list_page(TARGET_CONNECTIONS.path))
    targets: list[TargetConnection] = [TARGET_CONNECTIONS.read(item) for item in items]
    return [
        f"target connection {each.name!r} ({each.id})"
        for each in targets
        if each.base_connection_id == base_id and each.state != VANISHING
    ]


def _described(base: BaseConnection, *, ending: str) -> list[dict[str, Any]]:
    description = base.description.removesuffix(RETIRING) + ending
    return [] if description == base.description else [replacement("/description", description)]


def _used_by(users: Sequence[str]) -> str:
    more = f" and {len(users) - _MOST_USERS} more" if len(users) > _MOST_USERS else ""
    return f"used by {', '.join(users[:_MOST_USERS])}{more}"


def _keep(collection: Collection, entity_id: str, reason: str) -> Removal:
    log.info("kept %s %s: %s", collection.title, entity_id, reason)
    return Removal(kept=(Kept(collection, entity_id, reason),))
