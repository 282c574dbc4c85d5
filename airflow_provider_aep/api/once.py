"""One entity, found, made, changed and removed so that there is exactly one, whatever becomes of the replies."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from airflow_provider_aep.api import calls
from airflow_provider_aep.api.calls import Call, Created, Kind, Pause, Procedure
from airflow_provider_aep.api.entities import Entity
from airflow_provider_aep.api.errors import (
    AepError,
    EntityNotFound,
    OutcomeUnknown,
    RequestRefused,
    SeveralEntities,
    UnexpectedReply,
    VersionConflict,
)
from airflow_provider_aep.api.procedures import all_items

log = logging.getLogger(__name__)

MARK = "Made by airflow-provider-aep"
CHANGE_ROUNDS = 3
CREATE_ROUNDS = 4
_LONGEST_WAIT_SECONDS = 300  # that a Retry-After is obeyed before an ambiguous creation is sent again

# An entity that a DELETE has been accepted for may still be listed. Source: Flow Service error catalogue, 1456 to 1458.
VANISHING = "delete-finalizing"
# Source: Flow Service error catalogue.
_IN_USE = ("1418", "1447")


@dataclass(frozen=True)
class Maker:
    """Who sets something up, written into the description of what it makes.

    `task` is the same in every try of one task of one DAG run, `session` is not; `again` says that an earlier try may
    have made something that lists do not show yet.
    """

    task: str
    session: str
    again: bool = False

    @property
    def description(self) -> str:
        return f"{self._prefix}{self.session}]"

    @property
    def _prefix(self) -> str:
        return f"{MARK} for {self.task} ["

    def made(self, entity: Entity) -> bool:
        """This very session made it."""
        return entity.description == self.description

    def may_have_made(self, entity: Entity) -> bool:
        """This session or another try of the same task made it."""
        return entity.description.startswith(self._prefix)

    def owns(self, entity: Entity) -> bool:
        """It is this task's to use or to remove: this session made it, or a try that has ended."""
        return self.made(entity) or (self.again and self.may_have_made(entity))


def is_marked(entity: Entity) -> bool:
    """It was made by this provider, for whatever task."""
    return entity.description.startswith(MARK)


class RaceLost(AepError):
    """Another task made, or removed, what this one counted on; the set-up begins again with what is there now."""

    is_final = False


def stand_back() -> Procedure[None]:
    """Wait a moment, not as long as others do, before beginning again."""
    yield Pause(1 + random.random())  # noqa: S311 - nothing depends on its being unpredictable


@dataclass(frozen=True)
class Wanted:
    """One entity as the user wants it: where to look for it, how to make it, and whether a found one will do."""

    kind: Kind
    name: str
    spec_id: str
    create: Callable[[str], Call[Created]]  # takes the description
    fits: Callable[[Any], bool] = lambda _entity: True


def find(wanted: Wanted) -> Procedure[list[Any]]:
    """Entities of the wanted name and spec, the oldest first."""
    return (yield from find_named(wanted.kind, wanted.name, wanted.spec_id))


def find_named(kind: Kind, name: str, spec_id: str) -> Procedure[list[Any]]:
    """Entities of a name and spec, the oldest first. Both are compared again here, letter by letter."""
    items = yield from all_items(calls.named(kind, name, spec_id))
    entities = [kind.read(item) for item in items]
    same = [each for each in entities if each.name == name and each.spec_id == spec_id and each.state != VANISHING]
    return sorted(same, key=lambda entity: (entity.created_ms, entity.id))


def look_for(
    wanted: Wanted, is_enough: Callable[[list[Any]], bool] = bool, *, settle_seconds: float
) -> Procedure[list[Any]]:
    """What `find` finds, once it is enough, or after `settle_seconds`: lists may show an entity late."""
    waited, pause = 0.0, 0.5
    while True:
        found = yield from find(wanted)
        if is_enough(found) or waited >= settle_seconds:
            return found
        pause = min(pause, settle_seconds - waited)
        yield Pause(pause)
        waited += pause
        pause *= 2


def create(wanted: Wanted, maker: Maker, *, settle_seconds: float) -> Procedure[str]:
    """Make an entity once, whatever becomes of the replies. Returns its ID.

    After an ambiguous failure it looks for what that request may have made, and sends again only when there is nothing.

    Raises:
        RaceLost: another task has made one that will do meanwhile.
        OutcomeUnknown: ambiguous each time; the next try of the task finds what may still turn up.
    """
    for attempt in range(1, CREATE_ROUNDS + 1):
        try:
            made = yield from wanted.create(maker.description)
        except (OutcomeUnknown, UnexpectedReply) as unknown:
            log.info("%s; looking for what it may have made", unknown)
            found = yield from look_for(
                wanted, lambda found: any(map(maker.made, found)), settle_seconds=settle_seconds
            )
            ours = [entity for entity in found if maker.made(entity)]
            if ours:
                log.info("found %s %s %r, made by that request", wanted.kind.title, ours[0].id, wanted.name)
                return str(ours[0].id)
            if any(map(wanted.fits, found)):
                raise RaceLost from None
            if attempt == CREATE_ROUNDS:
                raise
            if unknown.retry_after_seconds:
                yield Pause(min(unknown.retry_after_seconds, _LONGEST_WAIT_SECONDS))
        else:
            log.info("created %s %s %r", wanted.kind.title, made.id, wanted.name)
            return made.id
    raise AssertionError("unreachable")


def is_first(wanted: Wanted, entity_id: str, *, settle_seconds: float) -> Procedure[bool]:
    """Whether what has just been made is older than all others of its name that would do.

    Of two tasks that make the same thing at once, the younger sees the older one: its list shows its own entity, and
    so everything made before. Two of the same millisecond both give way, since neither can know. An entity that does
    not show within `settle_seconds` is taken to be alone.
    """
    found = yield from look_for(wanted, lambda found: any(map(wanted.fits, found)), settle_seconds=settle_seconds)
    fitting = [entity for entity in found if wanted.fits(entity)]
    own_ms = next((entity.created_ms for entity in fitting if entity.id == entity_id), None)
    for other in fitting:
        if other.id != entity_id and (own_ms is None or other.created_ms <= own_ms):
            log.info("%s %r was made by another task, too: %s", wanted.kind.title, wanted.name, other.id)
            return False
    return True


def only(wanted: Wanted, found: Sequence[Any], *, attached_to: str = "") -> Any | None:
    """The one of those found that is meant, or None.

    Several of one name are in order only where this provider made them: an interrupted change leaves two source
    connections, a lost race two of anything. Then the one in use is meant, or the oldest that will do.

    Raises:
        SeveralEntities: somebody else made one of them, and it is not the one in use.
    """
    if len(found) > 1 and not all(is_marked(entity) or entity.id == attached_to for entity in found):
        listed = ", ".join(f"{entity.id} ({entity.state or 'no state'})" for entity in found)
        raise SeveralEntities(
            f"{len(found)} {wanted.kind.title}s are named {wanted.name!r}: {listed}. "
            "Delete or rename all but one, or give the export another name."
        )
    in_use = [entity for entity in found if entity.id == attached_to]
    fitting = [entity for entity in found if wanted.fits(entity)]
    return next(iter([*in_use, *fitting, *found]), None)


def delete(kind: Kind, entity_id: str) -> Procedure[None]:
    """Delete an entity; one that is gone already is deleted.

    Raises:
        RequestRefused: it is in use, for example.
    """
    try:
        yield from calls.delete_entity(kind, entity_id)
    except EntityNotFound:
        return
    log.info("deleted %s %s", kind.title, entity_id)


def discard(kind: Kind, entity_id: str) -> Procedure[None]:
    """Delete what is of no use any more; a refusal is told and costs nobody the export."""
    try:
        yield from delete(kind, entity_id)
    except RequestRefused as error:
        in_use = any(number in error.code for number in _IN_USE)
        level = logging.INFO if in_use else logging.WARNING
        log.log(level, "%s %s is not needed here and could not be deleted: %s", kind.title, entity_id, error)


def change(kind: Kind, entity_id: str, operations_for: Callable[[Any], Sequence[Mapping[str, Any]]]) -> Procedure[Any]:
    """Change an entity by JSON Patch with `If-Match`, from a fresh copy each time. Returns the last copy read.

    `operations_for` is given the entity as it is and answers what is left to be done; nothing left means done, which
    is also how a PATCH whose reply was lost is recognised.

    Raises:
        VersionConflict: it was changed by others three times in a row.
    """
    conflict: VersionConflict | None = None
    for attempt in range(1, CHANGE_ROUNDS + 2):
        entity = yield from calls.get_entity(kind, entity_id)
        operations = operations_for(entity)
        if not operations:
            break
        if conflict and attempt > CHANGE_ROUNDS:
            raise conflict
        try:
            yield from calls.patch_entity(kind, entity_id, etag=entity.etag, operations=operations)
        except VersionConflict as error:
            conflict = error
            log.info("%s %s was changed meanwhile; reading it again", kind.title, entity_id)
            if attempt < CHANGE_ROUNDS:  # mapped tasks that send one login anew would else meet again and again
                yield Pause(random.random() * 4**attempt)  # noqa: S311 - nothing depends on its being unpredictable
        else:
            paths = ", ".join(str(operation["path"]) for operation in operations)
            log.info("changed %s of %s %s", paths, kind.title, entity_id)
            break
    return entity


def race_if_gone(refusal: RequestRefused, *needed: tuple[Kind, str]) -> Procedure[NoReturn]:
    """Explain a refusal by what another task may have removed.

    Raises:
        RaceLost: one of the entities that the request needs is gone.
        RequestRefused: none is; the refusal stands.
    """
    for kind, entity_id in needed:
        try:
            entity = yield from calls.get_entity(kind, entity_id)
        except EntityNotFound:
            raise RaceLost from refusal
        if entity.state == VANISHING:
            raise RaceLost from refusal
    raise refusal
