"""One entity, found, made, changed and removed so that there is exactly one, whatever becomes of the replies."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from airflow_provider_aep.api import calls
from airflow_provider_aep.api.calls import Collection, Created
from airflow_provider_aep.api.effects import Call, Procedure, ServerTime, Sleep
from airflow_provider_aep.api.entities import VANISHING, Entity
from airflow_provider_aep.api.provisioning.owner import (
    SUPERSEDED,
    UNCONFIRMED,
    Owner,
    is_managed,
    is_superseded,
    is_unconfirmed,
)
from airflow_provider_aep.api.queries import all_items
from airflow_provider_aep.errors import (
    AccessDenied,
    AepError,
    AmbiguousName,
    EntityNotFound,
    OutcomeUnknown,
    RequestRefused,
    UnexpectedReply,
    VersionConflict,
)

log = logging.getLogger(__name__)

CHANGE_ROUNDS = 3
CREATE_ROUNDS = 4
_LONGEST_WAIT_SECONDS = 300  # that a Retry-After is obeyed before an ambiguous creation is sent again
_NEVER_MS = 2**63  # the creation time of an entity that no list has shown: younger than all that have been

# Source: Flow Service error catalogue.
_IN_USE = (1418, 1447)


class RaceLost(AepError):
    """Another task made, or removed, what this one counted on; the set-up begins again with what is there now."""

    is_final = False

    def __init__(self, what: str) -> None:
        super().__init__(what)


def stand_back() -> Procedure[None]:
    """Wait a moment, not as long as others do, before beginning again."""
    yield Sleep(1 + random.random())  # noqa: S311 - nothing depends on its being unpredictable


@dataclass(frozen=True)
class Resource:
    """One entity as the user wants it: where to look for it, how to make it, and whether a found one will do."""

    collection: Collection
    name: str
    spec_id: str
    create: Callable[[str], Call[Created]]  # takes the description
    fits: Callable[[Any], bool] = lambda _entity: True
    account: str = ""  # the storage account, where only the login tells which one is meant

    def mark(self, owner: Owner, *, is_unconfirmed: bool = False, data_ms: int = 0) -> str:
        """The description of what this task makes, or points at another account at `data_ms`."""
        account = f", account {self.account}" if self.account else ""
        since = f", data since {data_ms}" if data_ms else ""
        return owner.description + account + since + (UNCONFIRMED if is_unconfirmed else "")


def find(resource: Resource) -> Procedure[list[Any]]:
    """Entities of the wanted name and spec, the oldest first."""
    return (yield from find_named(resource.collection, resource.name, resource.spec_id))


def find_named(collection: Collection, name: str, spec_id: str) -> Procedure[list[Any]]:
    """Entities of a name and spec, the oldest first. Adobe is asked for the name; both are compared here."""
    items = yield from all_items(calls.named(collection, name))
    entities = [collection.read(item) for item in items]
    same = [each for each in entities if each.name == name and each.spec_id == spec_id and each.state != VANISHING]
    return sorted(same, key=lambda entity: (entity.created_ms, entity.id))


def look_for(
    resource: Resource, is_enough: Callable[[list[Any]], bool] = bool, *, visibility_seconds: float
) -> Procedure[list[Any]]:
    """What `find` finds, once it is enough, or after `visibility_seconds`: lists may show an entity late."""
    waited, pause = 0.0, 0.5
    while True:
        found = yield from find(resource)
        if is_enough(found) or waited >= visibility_seconds:
            return found
        pause = min(pause, visibility_seconds - waited)
        yield Sleep(pause)
        waited += pause
        pause *= 2


def create(
    resource: Resource, owner: Owner, *, visibility_seconds: float, is_unconfirmed: bool = False
) -> Procedure[Created]:
    """Make an entity once, whatever becomes of the replies.

    After an ambiguous failure it looks for what that request may have made, and sends again only when there is nothing.

    Raises:
        RaceLost: another task has made one that will do meanwhile.
        OutcomeUnknown: ambiguous each time; the next try of the task finds what may still turn up.
    """
    note = resource.mark(owner, is_unconfirmed=is_unconfirmed)
    for attempt in range(1, CREATE_ROUNDS + 1):
        try:
            made = yield from resource.create(note)
        except (OutcomeUnknown, UnexpectedReply) as unknown:
            log.info("%s; looking for what it may have made", unknown)
            found = yield from look_for(
                resource, lambda found: any(map(owner.made, found)), visibility_seconds=visibility_seconds
            )
            ours = [entity for entity in found if owner.made(entity)]
            if ours:
                log.info("found %s %s %r, made by that request", resource.collection.title, ours[0].id, resource.name)
                return Created(str(ours[0].id), ours[0].etag)
            if any(map(resource.fits, found)):
                raise RaceLost(f"{resource.collection.title} {resource.name!r} was made by another task") from None
            if attempt == CREATE_ROUNDS:
                raise
            if unknown.retry_after_seconds:
                yield Sleep(min(unknown.retry_after_seconds, _LONGEST_WAIT_SECONDS))
        else:
            log.info("created %s %s %r", resource.collection.title, made.id, resource.name)
            return made
    raise AssertionError("unreachable")


def beside(
    resource: Resource, made: Created, owner: Owner, *, visibility_seconds: float, is_unconfirmed: bool = False
) -> Procedure[list[Any]]:
    """What a list shows of the wanted name once it shows what was made just now, or another one; that one is in it.

    Of two tasks that make the same at once, at least one sees the other's: each list shows its reader's own entity, and
    what has been shown once stays shown, so the later of the two lists shows both. Creation times do not matter.
    An entity that does not show within `visibility_seconds` is taken to be alone; a superseded one tells nothing of
    others.
    """

    def shows_one(found: list[Any]) -> bool:
        return any(resource.fits(entity) and not is_superseded(entity) for entity in found)

    found = yield from look_for(resource, shows_one, visibility_seconds=visibility_seconds)
    if made.id not in [entity.id for entity in found]:
        note = resource.mark(owner, is_unconfirmed=is_unconfirmed)
        found.append(
            Entity(made.id, resource.name, resource.spec_id, made.etag, description=note, created_ms=_NEVER_MS)
        )
    return found


def agree(
    resource: Resource, found: Sequence[Any], owner: Owner, *, poll_delay: float, among: Callable[[Any], bool]
) -> Procedure[Any | None]:
    """The one entity of those found that every task uses from now on, or None.

    What several tasks may share is made unconfirmed, and nothing rests on it until it is confirmed. An unconfirmed
    entity becomes confirmed or superseded by a PATCH with `If-Match`, so that it becomes one of the two and never
    changes again, whoever asks first. A confirmed one is never deleted by a task that has lost a race. Before a task
    confirms one, it supersedes every other that it sees; as at least one of two tasks sees both (see `beside`), no two
    are confirmed. This holds whatever the creation times are: they only help all to choose the same one.

    Whoever has not made the chosen one gives its owner `poll_delay` to confirm it, and then does so itself; one
    that bears an older creation time is not waited for. Haste does no harm: only one of the two PATCHes succeeds.
    Where Adobe refuses to change descriptions, all choose by creation time, and what others have made stays.

    Raises:
        RaceLost: another task has decided otherwise.
        AmbiguousName: others have made several of this name.
    """
    waited = 0.0
    fixed: set[str] = set()  # what Adobe has refused to supersede
    while True:
        counting = [entity for entity in found if owner.made(entity) or among(entity)]
        live = [entity for entity in counting if not is_superseded(entity)]
        confirmed = [entity for entity in live if not is_unconfirmed(entity)]
        chosen = only(resource, confirmed) if confirmed else next(iter(live), None)
        if chosen is None:
            return None
        rivals = [
            entity for entity in live if is_unconfirmed(entity) and entity.id != chosen.id and entity.id not in fixed
        ]
        yield from _supersede(resource, filter(owner.owns, rivals), fixed)
        if confirmed:
            return chosen
        now_ms: int = yield ServerTime()
        waited = max(waited, (now_ms - chosen.created_ms) / 1000)
        if owner.owns(chosen) or waited >= poll_delay:
            yield from _supersede(resource, [rival for rival in rivals if not owner.owns(rival)], fixed)
            if (yield from decide(resource.collection, chosen, "")) is False:
                raise RaceLost(f"another task has given up {resource.collection.title} {chosen.id}")
            return chosen
        pause = 1 + random.random()  # noqa: S311 - nothing depends on its being unpredictable
        yield Sleep(pause)
        waited += pause
        found = yield from find(resource)


def _supersede(resource: Resource, rivals: Iterable[Any], fixed: set[str]) -> Procedure[None]:
    for rival in rivals:
        is_withdrawn = yield from withdraw(resource.collection, rival)
        if is_withdrawn is False:
            raise RaceLost(f"another task has confirmed {resource.collection.title} {rival.id}")
        if is_withdrawn is None:
            fixed.add(rival.id)


def withdraw(collection: Collection, entity: Any) -> Procedure[bool | None]:
    """Supersede and delete an unconfirmed entity, whoever made it; for what is returned see `decide`."""
    verdict = yield from decide(collection, entity, SUPERSEDED)
    if verdict:
        yield from discard(collection, entity.id)
    return verdict


def decide(collection: Collection, entity: Any, verdict: str) -> Procedure[bool | None]:
    """Confirm ("") or supersede an unconfirmed entity. Returns whether that is what it is now, by whomever.

    None where Adobe refuses to change its description, as its OpenAPI documents do: then it stays, and may be used.

    Raises:
        VersionConflict: it was changed by others three times in a row.
    """
    undecided = entity.description.removesuffix(UNCONFIRMED)
    for attempt in range(1, CHANGE_ROUNDS + 1):
        operation = {"op": "replace", "path": "/description", "value": undecided + verdict}
        try:
            yield from calls.patch_entity(collection, entity.id, etag=entity.etag, operations=[operation])
        except EntityNotFound:
            return verdict == SUPERSEDED
        except VersionConflict:
            try:
                entity = yield from calls.get_entity(collection, entity.id)
            except EntityNotFound:
                return verdict == SUPERSEDED
            if not is_unconfirmed(entity):
                return is_superseded(entity) == (verdict == SUPERSEDED)
            if attempt == CHANGE_ROUNDS:
                raise
        except AccessDenied:
            raise
        except RequestRefused as refusal:
            what = "be confirmed" if verdict == "" else "give way to another"
            log.warning("%s %s cannot %s, so it stays as it is: %s", collection.title, entity.id, what, refusal)
            return None
        else:
            return True
    raise AssertionError("unreachable")


def only(resource: Resource, found: Sequence[Any], *, attached_to: str = "") -> Any | None:
    """The one of those found that is meant, or None.

    Several of one name are in order only where this provider made them: an interrupted change leaves two source
    connections, a lost race two of anything. Then the one in use is meant, or the oldest that will do.

    Raises:
        AmbiguousName: somebody else made one of them, and it is not the one in use.
    """
    if len(found) > 1 and not all(is_managed(entity) or entity.id == attached_to for entity in found):
        listed = ", ".join(f"{entity.id} ({entity.state or 'no state'})" for entity in found)
        raise AmbiguousName(
            f"{len(found)} {resource.collection.title}s are named {resource.name!r}: {listed}. "
            "Delete or rename all but one, or give the export another name."
        )
    in_use = [entity for entity in found if entity.id == attached_to]
    fitting = [entity for entity in found if resource.fits(entity)]
    return next(iter([*in_use, *fitting, *found]), None)


def delete(collection: Collection, entity_id: str) -> Procedure[None]:
    """Delete an entity; one that is gone already is deleted.

    Raises:
        RequestRefused: it is in use, for example.
    """
    try:
        yield from calls.delete_entity(collection, entity_id)
    except EntityNotFound:
        return
    log.info("deleted %s %s", collection.title, entity_id)


def discard(collection: Collection, entity_id: str) -> Procedure[None]:
    """Delete what is of no use any more; a refusal is told and costs nobody the export."""
    try:
        yield from delete(collection, entity_id)
    except RequestRefused as error:
        level = logging.INFO if error.number in _IN_USE else logging.WARNING
        log.log(level, "%s %s is not needed here and could not be deleted: %s", collection.title, entity_id, error)


def change(
    collection: Collection, entity_id: str, operations_for: Callable[[Any], Sequence[Mapping[str, Any]]]
) -> Procedure[Any]:
    """Change an entity by JSON Patch with `If-Match`, from a fresh copy each time. Returns the last copy read.

    `operations_for` is given the entity as it is and answers what is left to be done; nothing left means done, which
    is also how a PATCH whose reply was lost is recognised.

    Raises:
        VersionConflict: it was changed by others three times in a row.
    """
    conflict: VersionConflict | None = None
    for attempt in range(1, CHANGE_ROUNDS + 2):
        entity = yield from calls.get_entity(collection, entity_id)
        operations = operations_for(entity)
        if not operations:
            break
        if conflict and attempt > CHANGE_ROUNDS:
            raise conflict
        try:
            yield from calls.patch_entity(collection, entity_id, etag=entity.etag, operations=operations)
        except VersionConflict as error:
            conflict = error
            log.info("%s %s was changed meanwhile; reading it again", collection.title, entity_id)
            if attempt < CHANGE_ROUNDS:  # mapped tasks that send one login anew would else meet again and again
                yield Sleep(random.random() * 4**attempt)  # noqa: S311 - nothing depends on its being unpredictable
        except RequestRefused as refusal:
            rest = [operation for operation in operations if operation["path"] != "/description"]
            if isinstance(refusal, AccessDenied | EntityNotFound) or len(rest) == len(operations):
                raise
            log.warning("the description of %s %s cannot be changed: %s", collection.title, entity_id, refusal)
            if rest:
                yield from calls.patch_entity(collection, entity.id, etag=entity.etag, operations=rest)
            break
        else:
            paths = ", ".join(str(operation["path"]) for operation in operations)
            log.info("changed %s of %s %s", paths, collection.title, entity_id)
            break
    return entity


def race_if_gone(refusal: RequestRefused, *needed: tuple[Collection, str]) -> Procedure[NoReturn]:
    """Explain a refusal by what another task may have removed.

    Raises:
        RaceLost: one of the entities that the request needs is gone.
        RequestRefused: none is; the refusal stands.
    """
    for collection, entity_id in needed:
        if (yield from is_gone(collection, entity_id)):
            raise RaceLost(f"{collection.title} {entity_id} is gone") from refusal
    raise refusal


def is_gone(collection: Collection, entity_id: str) -> Procedure[bool]:
    """Whether an entity has been deleted, or is about to be."""
    try:
        entity = yield from calls.get_entity(collection, entity_id)
    except EntityNotFound:
        return True
    return entity.state == VANISHING or is_superseded(entity)
