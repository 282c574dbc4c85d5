"""One entity at Adobe: found, created, agreed on by all tasks, changed and deleted, whatever becomes of the replies."""

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
    is_passed_over,
    is_superseded,
    is_unconfirmed,
)
from airflow_provider_aep.api.provisioning.policy import SetupPolicy
from airflow_provider_aep.api.queries import all_items, keep_looking
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
IN_USE = (1418, 1447)


#: Takes the entities that a list shows, and returns those that count; may raise RaceLost.
Screen = Callable[[Sequence[Any]], Procedure[Sequence[Any]]]


class RaceLost(AepError):
    """Another task created, or deleted, what this one counted on; the set-up begins again with what is there now."""

    is_final = False


def back_off() -> Procedure[None]:
    """Wait a moment, not as long as others do, before beginning again."""
    yield Sleep(1 + random.random())  # noqa: S311 - nothing depends on its being unpredictable


@dataclass(frozen=True)
class Resource:
    """One entity that shall exist: where to look for it, how to create it, and whether one that is there will do."""

    collection: Collection
    name: str
    spec_id: str
    creation: Callable[[str], Call[Created]]  # takes the description
    fits: Callable[[Any], bool] = lambda _entity: True
    account: str = ""  # the storage account, where only the login tells which one is meant

    def mark(self, owner: Owner, *, ending: str = "", data_ms: int = 0) -> str:
        """The description of what `owner` creates, or points at another account at `data_ms`.

        `ending` is `UNCONFIRMED`, `LEASE`, or "".
        """
        account = f", account {self.account}" if self.account else ""
        since = f", data since {data_ms}" if data_ms else ""
        return owner.mark + account + since + ending

    def __str__(self) -> str:
        return f"{self.collection.title} {self.name!r}"


def find(resource: Resource) -> Procedure[list[Any]]:
    """Entities of its name and spec, the oldest first."""
    return (yield from find_named(resource.collection, resource.name, resource.spec_id))


def find_named(collection: Collection, name: str, *spec_ids: str) -> Procedure[list[Any]]:
    """Entities of a name and one of these specs, oldest first. Adobe is asked for the name; both are compared here."""
    items = yield from all_items(calls.named(collection, name))
    return same_named([collection.read(item) for item in items], name, *spec_ids)


def same_named(entities: Iterable[Any], name: str, *spec_ids: str) -> list[Any]:
    """Those of a name and one of these specs that are not being deleted, the oldest first."""
    same = [each for each in entities if each.name == name and each.spec_id in spec_ids and each.state != VANISHING]
    return sorted(same, key=lambda entity: (entity.created_ms, entity.id))


def look_for(
    resource: Resource, is_enough: Callable[[list[Any]], bool] = bool, *, seconds: float
) -> Procedure[list[Any]]:
    """What `find` finds, once it is enough, or after `seconds`."""
    return keep_looking(lambda: find(resource), is_enough, seconds=seconds)


def create(resource: Resource, policy: SetupPolicy, *, ending: str = "") -> Procedure[Created]:
    """Create an entity once, whatever becomes of the replies.

    After an ambiguous failure, look for what that request may have created; send it again only if there is nothing.

    Raises:
        RaceLost: another task has created one that will do meanwhile.
        OutcomeUnknown: ambiguous each time; the next try of the task finds what may still turn up.
    """
    owner = policy.owner
    for attempt in range(1, CREATE_ROUNDS + 1):
        try:
            created = yield from resource.creation(resource.mark(owner, ending=ending))
        except (OutcomeUnknown, UnexpectedReply) as unknown:
            log.info("%s; looking for what it may have created", unknown)
            found = yield from look_for(
                resource, lambda found: any(map(owner.created, found)), seconds=policy.visibility_seconds
            )
            ours = [entity for entity in found if owner.created(entity)]
            if ours:
                log.info("found %s (%s), created by that request", resource, ours[0].id)
                return Created(str(ours[0].id), ours[0].etag)
            if any(map(resource.fits, found)):
                raise RaceLost(f"{resource} was created by another task") from None
            if attempt == CREATE_ROUNDS:
                raise
            if unknown.retry_after_seconds:
                yield Sleep(min(unknown.retry_after_seconds, _LONGEST_WAIT_SECONDS))
        else:
            log.info("created %s (%s)", resource, created.id)
            return created
    raise AssertionError("unreachable")


def contenders(resource: Resource, created: Created, policy: SetupPolicy, *, ending: str = "") -> Procedure[list[Any]]:
    """The entities of its name that a list shows, oldest first, once it shows one; with the one just created.

    Of two tasks that create the same at once, at least one sees the other's: each list shows its reader's own entity,
    and what has been shown once stays shown, so the later of the two lists shows both. Creation times do not matter.
    An entity that does not show within `visibility_seconds` counts as alone; a superseded one says nothing of others.
    """

    def shows_one(found: list[Any]) -> bool:
        return any(resource.fits(entity) and not is_passed_over(entity) for entity in found)

    found = yield from look_for(resource, shows_one, seconds=policy.visibility_seconds)
    if created.id not in [entity.id for entity in found]:
        mark = resource.mark(policy.owner, ending=ending)
        found.append(
            Entity(created.id, resource.name, resource.spec_id, created.etag, description=mark, created_ms=_NEVER_MS)
        )
    return found


def agree(
    resource: Resource,
    found: Sequence[Any],
    policy: SetupPolicy,
    *,
    among: Callable[[Any], bool] = lambda _entity: True,
    screen: Screen | None = None,
) -> Procedure[Any | None]:
    """The one entity of those found that every task uses from now on, or None.

    What tasks may share is created unconfirmed, and nothing rests on it until it is confirmed. A PATCH with `If-Match`
    confirms or supersedes it, so that it becomes one of the two and never changes again, whoever asks first. No task
    that has lost a race deletes a confirmed one. Before a task confirms one, it supersedes every other that it sees;
    as at least one of two tasks sees both (see `contenders`), no two are confirmed. This holds whatever the creation
    times are: they only help all to choose the same one.

    Whoever has not created the chosen one gives its owner `takeover_seconds` to confirm it, and then does so itself.
    Haste does no harm: only one of the two PATCHes succeeds. Where Adobe refuses to change descriptions, all choose by
    creation time, and what others have created stays. `screen` is given what lists show, and returns what of it counts.

    Raises:
        RaceLost: another task has decided otherwise.
        AmbiguousName: others have created several of this name.
    """
    owner, waited = policy.owner, 0.0
    fixed: set[str] = set()  # what Adobe has refused to supersede
    while True:
        if screen:
            found = yield from screen(found)
        counting = [entity for entity in found if owner.created(entity) or among(entity)]
        live = [entity for entity in counting if not is_passed_over(entity)]
        confirmed = [entity for entity in live if not is_unconfirmed(entity)]
        chosen = pick(resource, confirmed) if confirmed else next(iter(live), None)
        if chosen is None:
            return None
        rivals = [
            entity for entity in live if is_unconfirmed(entity) and entity.id != chosen.id and entity.id not in fixed
        ]
        yield from _supersede_all(resource, filter(owner.owns, rivals), fixed)
        if confirmed:
            return chosen
        now_ms: int = yield ServerTime()
        waited = max(waited, (now_ms - chosen.created_ms) / 1000)
        if owner.owns(chosen) or waited >= policy.takeover_seconds:
            yield from _supersede_all(resource, [rival for rival in rivals if not owner.owns(rival)], fixed)
            if (yield from confirm(resource.collection, chosen)) is False:
                raise RaceLost(f"another task has given up {resource.collection.title} {chosen.id}")
            return chosen
        pause = 1 + random.random()  # noqa: S311 - nothing depends on its being unpredictable
        yield Sleep(pause)
        waited += pause
        found = yield from find(resource)


def _supersede_all(resource: Resource, rivals: Iterable[Any], fixed: set[str]) -> Procedure[None]:
    for rival in rivals:
        is_gone = yield from supersede(resource.collection, rival)
        if is_gone is False:
            raise RaceLost(f"another task has confirmed {resource.collection.title} {rival.id}")
        if is_gone is None:
            fixed.add(rival.id)


def confirm(collection: Collection, entity: Any) -> Procedure[bool | None]:
    """Confirm an unconfirmed entity, whoever created it; for what is returned see `_decide`."""
    return (yield from _decide(collection, entity, ""))


def supersede(collection: Collection, entity: Any) -> Procedure[bool | None]:
    """Supersede and delete an unconfirmed entity, whoever created it; for what is returned see `_decide`."""
    is_superseded_now = yield from _decide(collection, entity, SUPERSEDED)
    if is_superseded_now:
        yield from delete_leftover(collection, entity.id)
    return is_superseded_now


def _decide(collection: Collection, entity: Any, verdict: str) -> Procedure[bool | None]:
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


def pick(resource: Resource, found: Sequence[Any], *, attached_to: str = "") -> Any | None:
    """The one of those found that is meant, or None.

    Several of one name are in order only where this provider created them: an interrupted change leaves two source
    connections, a lost race two of anything. Then the one in use is meant, or the oldest that will do.

    Raises:
        AmbiguousName: somebody else created one of them, and it is not the one in use.
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


def delete_leftover(collection: Collection, entity_id: str) -> Procedure[None]:
    """Delete what is of no use any more; a refusal is logged, never raised."""
    try:
        yield from delete(collection, entity_id)
    except RequestRefused as error:
        level = logging.INFO if error.number in IN_USE else logging.WARNING
        log.log(level, "%s %s is not needed here and could not be deleted: %s", collection.title, entity_id, error)


def change(
    collection: Collection, entity_id: str, operations_for: Callable[[Any], Sequence[Mapping[str, Any]]]
) -> Procedure[Any]:
    """Change an entity by JSON Patch with `If-Match`, from a fresh copy each time. Returns the last copy read.

    `operations_for` takes the entity as it is and returns what is left to do; nothing left means done, which is also
    how a PATCH whose reply was lost is recognised.

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
                yield Sleep(random.random() * 5**attempt)  # noqa: S311 - nothing depends on its being unpredictable
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
    """Explain a refusal by what another task may have deleted.

    Raises:
        RaceLost: one of the entities that the request needs is gone.
        RequestRefused: none is; the refusal stands.
    """
    for collection, entity_id in needed:
        if (yield from is_gone(collection, entity_id)):
            raise RaceLost(f"{collection.title} {entity_id} is gone") from refusal
    raise refusal


def get_if_exists(collection: Collection, entity_id: str) -> Procedure[Any | None]:
    try:
        return (yield from calls.get_entity(collection, entity_id))
    except EntityNotFound:
        return None


def is_gone(collection: Collection, entity_id: str) -> Procedure[bool]:
    """Whether an entity has been deleted, or is about to be."""
    return has_gone((yield from get_if_exists(collection, entity_id)))


def has_gone(entity: Any | None) -> bool:
    """Whether what was just read says so, where None means that Adobe does not know it."""
    return entity is None or entity.state == VANISHING or is_superseded(entity)
