"""Who manages an entity, read from and written into its description: the mark of this provider."""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass

from airflow_provider_aep.api.entities import Dataflow, Entity

MARK = "Made by airflow-provider-aep"

# What ends the mark of an entity that tasks have not agreed on yet, and of one that has lost. See `resource.agree`.
UNCONFIRMED = " (unconfirmed)"
SUPERSEDED = " (superseded)"
# What ends the mark of a login that is about to be deleted if nobody uses it. See `removal`.
RETIRING = " (retiring)"
#: What the mark of a source connection holds that a whole export was set up under. See `lease`.
LEASE = ", lease"
_MARKED = re.compile(
    rf"{MARK} for (?P<task>.*) \[(?P<session>[^\]]*)\](?P<lease>{LEASE})?(?:, account (?P<account>.*?))?"
    r"(?:, slots since (?P<slots>\d+))?(?:, data since (?P<data>\d+))?(?: \(\w+\))?",
    re.DOTALL,
)
_LONGEST_CHANGE_MS = 120_000  # from reading Adobe's time to the PATCH of a dataflow, with its repeats
_TASK = re.compile(r"(?P<task>.*), run (?P<run>.*?)(?:, map index \d+)?", re.DOTALL)


@dataclass(frozen=True)
class Owner:
    """One try of a task of one DAG run, as the marks of what it creates and changes name it.

    `task` is the same in every try, `session` is not. `again` says that this is a later try, so that an earlier one may
    have created something that lists do not show yet.
    """

    task: str
    session: str
    again: bool = False

    @classmethod
    def of_task(cls, dag_id: str, task_id: str, run_id: str, map_index: int | None, try_number: int) -> Owner:
        mapped = "" if map_index is None or map_index < 0 else f", map index {map_index}"
        return cls(f"{dag_id}.{task_id}, run {run_id}{mapped}", uuid.uuid4().hex[:8], again=try_number > 1)

    @property
    def mark(self) -> str:
        """ "Made by airflow-provider-aep for dag.task, run … [1a2b3c4d]"."""
        return f"{self._prefix}{self.session}]"

    @property
    def _prefix(self) -> str:
        return f"{MARK} for {self.task} ["

    def created(self, entity: Entity) -> bool:
        """Whether this very session created it."""
        return entity.description.startswith(self.mark)

    def may_have_created(self, entity: Entity) -> bool:
        """Whether this session or another try of the same task created it."""
        return entity.description.startswith(self._prefix)

    def owns(self, entity: Entity) -> bool:
        """Whether this task may use or delete it: this session created it, or an earlier try."""
        return self.created(entity) or (self.again and self.may_have_created(entity))

    def is_sibling(self, entity: Entity) -> bool:
        """Whether another mapped task of the same DAG run created it, or was the last to change it."""
        return self.is_of_this_run(entity) and owner_of(entity) != self.task

    def is_of_this_run(self, entity: Entity) -> bool:
        """Whether this task or another mapped one of the same DAG run created it, or was the last to change it."""
        other, own = _TASK.fullmatch(owner_of(entity)), _TASK.fullmatch(self.task)
        return bool(other and own and other.groupdict() == own.groupdict())

    def is_of_this_task(self, entity: Entity) -> bool:
        """Whether this task, in this DAG run or another one, created it, or was the last to change it."""
        own = _TASK.fullmatch(self.task)
        return bool(own and entity.description.startswith(f"{MARK} for {own['task']}, run "))

    def mark_for_change(self, dataflow: Dataflow, *, slots_ms: int = 0, data_ms: int = 0) -> str:
        """The mark of a dataflow that this task changes. Times in milliseconds since 1970 UTC.

        Adobe tells only of the last operation on a dataflow. So the mark keeps when the slots last changed, and when
        the data did (source connection or folders); 0 leaves what is known already.
        """
        marked_ms, changed_ms = slots_since_ms(dataflow), slots_changed_ms(dataflow)
        known_ms = marked_ms if _is_that_change(changed_ms, marked_ms) else changed_ms
        return self.mark + _since(slots_ms or known_ms, data_ms or data_since_ms(dataflow))


def mark_of_same_owner(dataflow: Dataflow) -> str:
    """The description of a dataflow for a change that moves neither slots nor data: its owner stays.

    It says when they moved last, where only the operation before this one, which Adobe forgets now, has told that.
    """
    marked = _MARKED.fullmatch(dataflow.description)
    if not marked:
        return dataflow.description
    mark = f"{MARK} for {marked['task']} [{marked['session']}]"
    return mark + _since(slots_changed_ms(dataflow), data_changed_ms(dataflow))


def _since(slots_ms: int, data_ms: int) -> str:
    slots = f", slots since {slots_ms}" if slots_ms else ""
    return slots + (f", data since {data_ms}" if data_ms else "")


def is_managed(entity: Entity) -> bool:
    """Whether this provider created it, for whatever task."""
    return entity.description.startswith(MARK)


def owner_of(entity: Entity) -> str:
    """The task that created an entity, or was the last to change it: "dag.task, run …"; "" without a mark."""
    return _part(entity, "task")


def account_of(entity: Entity) -> str:
    """The storage account that a login was created for; "" where the mark does not say."""
    return _part(entity, "account")


def slots_since_ms(entity: Entity) -> int:
    """When this provider last changed the slots of a dataflow; 0 if it never did."""
    return int(_part(entity, "slots") or 0)


def data_since_ms(entity: Entity) -> int:
    """When this provider last changed what a dataflow exports, or the account of a login; 0 if it never did."""
    return int(_part(entity, "data") or 0)


def slots_changed_ms(dataflow: Dataflow) -> int:
    """When the slots of a dataflow last changed; 0 if nothing says so.

    Adobe says when its schedule was last changed, but not what of it. Where that operation wrote a mark as well, it was
    this provider's, and the mark says when the slots changed: a later end moves none.
    """
    marked_ms, schedule_ms = slots_since_ms(dataflow), dataflow.schedule_changed_ms
    is_ours = is_managed(dataflow) and dataflow.description_changed_ms == schedule_ms
    return marked_ms if is_ours and not _is_that_change(schedule_ms, marked_ms) else max(marked_ms, schedule_ms)


def data_changed_ms(dataflow: Dataflow) -> int:
    """When a dataflow last got another source connection or other folders; 0 if nothing says so.

    Adobe says exactly when, but only of the last operation, and not what of a schedule that changed. The mark keeps it,
    but was written some requests before Adobe made the change, and a run may have been created between the two.
    """
    marked_ms, schedule_ms = data_since_ms(dataflow), dataflow.schedule_changed_ms
    changed_ms = max(marked_ms, dataflow.source_changed_ms)
    return max(changed_ms, schedule_ms) if _is_that_change(schedule_ms, marked_ms) else changed_ms


def _is_that_change(operation_ms: int, marked_ms: int) -> bool:
    """Whether the last operation may be the one that the mark was written for."""
    return operation_ms - marked_ms < _LONGEST_CHANGE_MS


def is_leased(entity: Entity) -> bool:
    """Whether a whole export created it, so that it is of no use before its dataflow is there. See `lease`."""
    return bool(_part(entity, "lease"))


def _part(entity: Entity, name: str) -> str:
    """A part of the mark; "" where there is none."""
    marked = _MARKED.fullmatch(entity.description)
    return (marked[name] or "") if marked else ""


def is_unconfirmed(entity: Entity) -> bool:
    """Whether its creator may still take it back, so that nothing may rest on it yet."""
    return is_managed(entity) and entity.description.endswith(UNCONFIRMED)


def is_superseded(entity: Entity) -> bool:
    """Whether tasks have agreed on another one, so that it is about to be deleted."""
    return is_managed(entity) and entity.description.endswith(SUPERSEDED)


def is_passed_over(entity: Entity) -> bool:
    """Whether no task may begin to use it: it is superseded, or a login that a removal is about to delete."""
    return is_superseded(entity) or is_retiring(entity)


def is_retiring(entity: Entity) -> bool:
    """Whether a removal is about to delete this login, or has died before it could decide."""
    return is_managed(entity) and entity.description.endswith(RETIRING)
