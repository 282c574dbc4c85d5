"""Who manages an entity, read from and written into its description: the mark of this provider."""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass

from airflow_provider_aep.api.entities import Entity

MARK = "Made by airflow-provider-aep"

# What ends the mark of an entity that tasks have not agreed on yet, and of one that has lost. See `resource.agree`.
UNCONFIRMED = " (unconfirmed)"
SUPERSEDED = " (superseded)"
# What ends the mark of a login that is about to be deleted if nobody uses it. See `removal`.
RETIRING = " (retiring)"
#: What the mark of a source connection holds that a whole export was set up under. See `lease`.
LEASE = ", lease"
_MARKED = re.compile(
    rf"{MARK} for (?P<task>.*) \[[^\]]*\](?P<lease>{LEASE})?(?:, account (?P<account>.*?))?"
    r"(?:, slots since (?P<slots>\d+))?(?:, data since (?P<data>\d+))?(?: \(\w+\))?",
    re.DOTALL,
)
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

    def mark_for_change(self, dataflow: Entity, *, slots_ms: int = 0, data_ms: int = 0) -> str:
        """The mark of a dataflow that this task changes. Times in milliseconds since 1970 UTC.

        Adobe tells only of the last operation on a dataflow. So the mark keeps when the slots last changed, and when
        the data did (source connection or folders); 0 leaves what it says already.
        """
        slots, data = slots_ms or slots_since_ms(dataflow), data_ms or data_since_ms(dataflow)
        since = f", slots since {slots}" if slots else ""
        return self.mark + since + (f", data since {data}" if data else "")


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
