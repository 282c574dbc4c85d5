"""Work made of several calls, written once as generators: lists, look-ups, safe creation, change and removal."""

from __future__ import annotations

import fnmatch
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_provider_aep.api import calls
from airflow_provider_aep.api.auth import TOKEN_PATH
from airflow_provider_aep.api.calls import Call, Created, Kind, Pause, Procedure
from airflow_provider_aep.api.entities import DataflowId, Dataset, Entity, FlowRun, FlowRunId, awaited_run
from airflow_provider_aep.api.errors import (
    AepError,
    EntityNotFound,
    InvalidExport,
    OutcomeUnknown,
    PlatformUnavailable,
    ReplyError,
    RequestRefused,
    SeveralEntities,
    UnexpectedReply,
    VersionConflict,
)
from airflow_provider_aep.api.wire import Page, continuation_token, read_dataset, read_flow_run

log = logging.getLogger(__name__)

MARK = "Made by airflow-provider-aep"
CHANGE_ROUNDS = 3
CREATE_ROUNDS = 4


def all_items(
    first: Call[Page], *, enough: Callable[[list[dict[str, Any]]], bool] = lambda _items: False
) -> Procedure[list[dict[str, Any]]]:
    """The items of every page of a list, each once even if the list shifts while it is read.

    Stops early at a page of which `enough` says so.

    Raises:
        UnexpectedReply: a continuation token came twice, so the list would never end.
    """
    items: dict[str, dict[str, Any]] = {}
    seen: set[str] = set()
    page = yield from first
    while True:
        items.update({item["id"]: item for item in page.items})
        if not page.next_href or enough(page.items):
            return list(items.values())
        token = continuation_token(page.next_href)
        if token in seen:
            raise UnexpectedReply(str(first), message="a continuation token came twice; the list has no end")
        seen.add(token)
        page = yield from calls.next_page(page.next_href)


def list_datasets(*, ids: Sequence[str] = (), names: Sequence[str] = (), pattern: str = "") -> Procedure[list[Dataset]]:
    """Datasets that may be exported: all, or those of the given IDs, names, or name pattern (`*`, `?`, `[…]`).

    Pages are asked for until Adobe says that there is no next one or, where it does not say, one is not full.

    Raises:
        InvalidExport: an ID or a name is not among them, or a name means several datasets.
    """
    found: dict[str, Dataset] = {}
    start = 0
    while True:
        page = yield from calls.list_datasets(start=start)
        found.update({dataset.id: dataset for dataset in map(read_dataset, page.items)})
        more = len(page.items) == calls.PAGE_SIZE if page.has_next is None else page.has_next
        if not more or not page.items:
            break
        start += calls.PAGE_SIZE
    datasets = list(found.values())
    if ids:
        _demand("dataset_ids", ids, found)
        return [found[dataset_id] for dataset_id in dict.fromkeys(ids)]
    if names:
        by_name: dict[str, list[Dataset]] = {}
        for dataset in datasets:
            by_name.setdefault(dataset.name, []).append(dataset)
        _demand("names", names, by_name)
        for name in names:
            if len(by_name[name]) > 1:
                same = ", ".join(dataset.id for dataset in by_name[name])
                raise InvalidExport("names", name, f"means several datasets ({same}); give dataset_ids instead")
        return [by_name[name][0] for name in dict.fromkeys(names)]
    return [dataset for dataset in datasets if not pattern or fnmatch.fnmatchcase(dataset.name, pattern)]


def _demand(argument: str, wanted: Sequence[str], known: Mapping[str, object]) -> None:
    missing = [each for each in wanted if each not in known]
    if missing:
        rule = (
            f"{', '.join(missing)} is not among the {len(known)} datasets that may be exported from this sandbox "
            "(a dataset may be missing because it is not enabled for Profile, or an access label hides it)"
        )
        raise InvalidExport(argument, list(wanted), rule)


# Which step of the way an error code stands for. Source: gateway codes of the troubleshooting guide; Flow Service error
# catalogue, 2000 to 2121.
_STEPS = {
    "organisation": ("400003", "2000", "2001", "2002", "403027"),
    "API key": ("403000", "403003"),
    "sandbox": ("2100", "2101", "2102", "2103", "2104", "2105", "2106", "2107", "2108", "2111", "2112", "2113"),
}


def check_access(sandbox_name: str) -> Procedure[tuple[bool, str]]:
    """Whether the credential may do what an export needs, and in words for a person what works or which step fails.

    One dataflow is asked for, which needs a token, the organisation, the sandbox and the Flow Service right; the list
    of sandboxes only adds to the message, since a technical account may be kept from it.
    """
    try:
        yield from calls.list_page("/flows", order="", limit=1)
    except ReplyError as error:
        return False, f"{_step_of(error)} failed: {error}"
    try:
        sandboxes = yield from calls.list_sandboxes()
    except ReplyError:
        sandboxes = []
    kinds = [f"{each.get('type')}, {each.get('state')}" for each in sandboxes if each.get("name") == sandbox_name]
    told = f"sandbox {sandbox_name!r} ({kinds[0]})" if kinds else f"sandbox {sandbox_name!r}"
    return True, f"Token, organisation, {told} and Flow Service right are in order"


def _step_of(error: ReplyError) -> str:
    number = error.code.removeprefix("FLOW-").partition("-")[0]
    named = next((step for step, codes in _STEPS.items() if number in codes), "")
    if named:
        return f"The {named}"
    if error.request.endswith(TOKEN_PATH):
        return "The token request"
    return "The Flow Service right" if isinstance(error, RequestRefused) else "The way to Adobe"


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
        return f"{self.prefix} [{self.session}]"

    @property
    def prefix(self) -> str:
        return f"{MARK} for {self.task}"

    def made(self, entity: Entity) -> bool:
        """This very session made it."""
        return entity.description == self.description

    def may_have_made(self, entity: Entity) -> bool:
        """This session or an earlier try of the same task made it."""
        return entity.description.startswith(self.prefix + " [")


def is_marked(entity: Entity) -> bool:
    """It was made by this provider, for whatever task."""
    return entity.description.startswith(MARK)


class RaceLost(AepError):
    """Another task made the same entity a little earlier; the set-up begins again with what that one made."""

    is_final = False


@dataclass(frozen=True)
class Wanted:
    """One entity as the user wants it: where to look for it, how to make it, and whether a found one fits."""

    kind: Kind
    name: str
    spec_id: str
    create: Callable[[str], Call[Created]]  # takes the description
    fits: Callable[[Any], bool] = lambda _entity: True


def find(wanted: Wanted) -> Procedure[list[Any]]:
    """Entities of this name and spec, the oldest first. The name is compared again here, letter by letter."""
    items = yield from all_items(calls.named(wanted.kind, wanted.name, wanted.spec_id))
    entities = [wanted.kind.read(item) for item in items]
    same = [entity for entity in entities if entity.name == wanted.name and entity.spec_id == wanted.spec_id]
    return sorted(same, key=lambda entity: (entity.created_ms, entity.id))


def find_settled(wanted: Wanted, *, settle_seconds: float) -> Procedure[list[Any]]:
    """The same, but an empty list is believed only after `settle_seconds`: lists may show an entity late."""
    waited, pause = 0.0, 0.5
    while True:
        found = yield from find(wanted)
        if found or waited >= settle_seconds:
            return found
        pause = min(pause * 2, settle_seconds - waited)
        yield Pause(pause)
        waited += pause


def create(wanted: Wanted, maker: Maker, *, settle_seconds: float) -> Procedure[str]:
    """Make an entity exactly once, whatever becomes of the replies. Returns its ID.

    After an ambiguous failure it looks for what it may have made, and sends again only when there is nothing.

    Raises:
        RaceLost: another task has made an entity of this name meanwhile.
    """
    for attempt in range(1, CREATE_ROUNDS + 1):
        try:
            made = yield from wanted.create(maker.description)
        except OutcomeUnknown as unknown:
            log.info("%s; looking for what it may have made", unknown)
            found = yield from find_settled(wanted, settle_seconds=settle_seconds)
            ours = [entity for entity in found if maker.made(entity)]
            if ours:
                log.info("found %s %s %r, made by that request", wanted.kind.title, ours[0].id, wanted.name)
                return str(ours[0].id)
            if any(wanted.fits(entity) for entity in found):
                raise RaceLost from None
            if attempt == CREATE_ROUNDS:
                raise
        else:
            log.info("created %s %s %r", wanted.kind.title, made.id, wanted.name)
            return made.id
    raise AssertionError("unreachable")


def is_first(wanted: Wanted, entity_id: str, *, settle_seconds: float) -> Procedure[bool]:
    """Whether what we have just made is the oldest of its name.

    The list is read until it shows our own entity: if lists show entities in the order of their making, it then shows
    an older one too. So of two tasks that make the same thing at once both agree whose stays. One that does not show
    within `settle_seconds` is taken to be alone.
    """
    waited, pause = 0.0, 0.5
    while True:
        found = [entity for entity in (yield from find(wanted)) if wanted.fits(entity)]
        if found or waited >= settle_seconds:
            break
        yield Pause(pause)
        waited += pause
        pause *= 2
    first = not found or found[0].id == entity_id
    if not first:
        log.info("%s %r was made by another task first: %s", wanted.kind.title, wanted.name, found[0].id)
    return first


def only(wanted: Wanted, found: Sequence[Any], *, attached_to: str = "") -> Any | None:
    """The one of those found that is meant, or None.

    Several of one name are in order only where this provider made them: an interrupted change leaves two source
    connections, a lost race two of anything. Then the one in use is meant, or the oldest that fits.

    Raises:
        SeveralEntities: somebody else made one of them.
    """
    if len(found) > 1 and not all(is_marked(entity) for entity in found):
        listed = ", ".join(f"{entity.id} ({entity.state or 'no state'})" for entity in found)
        raise SeveralEntities(
            f"{len(found)} {wanted.kind.title}s are named {wanted.name!r}: {listed}. "
            "Delete or rename all but one, or give the export another name."
        )
    in_use = [entity for entity in found if entity.id == attached_to]
    fitting = [entity for entity in found if wanted.fits(entity)]
    return next(iter([*in_use, *fitting, *found]), None)


def delete(kind: Kind, entity_id: str) -> Procedure[None]:
    """Delete an entity; one that is gone already is deleted."""
    try:
        yield from calls.delete_entity(kind, entity_id)
    except EntityNotFound:
        pass
    else:
        log.info("deleted %s %s", kind.title, entity_id)


def discard(kind: Kind, entity_id: str) -> Procedure[None]:
    """Delete what is of no use any more; a refusal is told and costs nobody the export."""
    try:
        yield from delete(kind, entity_id)
    except (RequestRefused, PlatformUnavailable) as error:
        log.warning("%s %s is left over and could not be deleted: %s", kind.title, entity_id, error)


def change(kind: Kind, entity_id: str, operations_for: Callable[[Any], Sequence[Mapping[str, Any]]]) -> Procedure[Any]:
    """Change an entity by JSON Patch with `If-Match`, from a fresh copy each time. Returns the last copy read.

    `operations_for` is given the entity as it is and answers what is left to be done; nothing left means done, which
    is also how a PATCH whose reply was lost is recognised.

    Raises:
        VersionConflict: it was changed by others three times in a row.
    """
    conflict: VersionConflict | None = None
    for attempt in range(CHANGE_ROUNDS + 1):
        entity = yield from calls.get_entity(kind, entity_id)
        operations = operations_for(entity)
        if not operations:
            return entity
        if attempt == CHANGE_ROUNDS:
            break
        try:
            yield from calls.patch_entity(kind, entity_id, etag=entity.etag, operations=operations)
        except VersionConflict as error:
            conflict = error
            log.info("%s %s was changed meanwhile; reading it again", kind.title, entity_id)
        else:
            paths = ", ".join(str(operation["path"]) for operation in operations)
            log.info("changed %s of %s %s", paths, kind.title, entity_id)
            return entity
    assert conflict
    raise conflict


def find_run(dataflow: DataflowId, *, run: FlowRunId | None = None, since_ms: int = 0) -> Procedure[FlowRun | None]:
    """The awaited run of a dataflow as it is now: the given one, or the earliest created at or after `since_ms`.

    None means that there is no such run yet; `GET /runs` is empty until the first slot of a schedule.
    """
    if run:
        return (yield from calls.get_run(run))
    items = yield from all_items(
        calls.list_runs(f"flowId=={dataflow}"), enough=lambda items: _reaches_back(items, since_ms)
    )
    runs = (read_flow_run(item) for item in items)
    return awaited_run((each for each in runs if each.dataflow_id in (dataflow, "")), since_ms=since_ms)


def _reaches_back(items: Sequence[Mapping[str, Any]], since_ms: int) -> bool:
    """Whether a page that Adobe has really put newest first ends before `since_ms`."""
    created = [int(item.get("createdAt") or 0) for item in items]
    return bool(created) and created[-1] < since_ms and created == sorted(created, reverse=True)
