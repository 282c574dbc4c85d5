"""The mark in an entity's description: who made it, for which account, and what tasks have agreed on about it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from airflow_provider_aep.api.entities import Entity

MARK = "Made by airflow-provider-aep"

# What follows the mark of an entity on which the tasks have not agreed yet, and of one that has lost. See `agree`.
UNCONFIRMED = " (unconfirmed)"
SUPERSEDED = " (superseded)"
_MARKED = re.compile(
    rf"{MARK} for (?P<task>.*) \[[^\]]*\](?:, account (?P<account>.*?))?(?:, slots since (?P<slots>\d+))?"
    r"(?:, data since (?P<data>\d+))?(?: \(\w+\))?",
    re.DOTALL,
)
_TASK = re.compile(r"(?P<task>.*), run (?P<run>.*?)(?:, map index \d+)?", re.DOTALL)


@dataclass(frozen=True)
class Owner:
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
        return entity.description.startswith(self.description)

    def may_have_made(self, entity: Entity) -> bool:
        """This session or another try of the same task made it."""
        return entity.description.startswith(self._prefix)

    def owns(self, entity: Entity) -> bool:
        """It is this task's to use or to remove: this session made it, or a try that has ended."""
        return self.made(entity) or (self.again and self.may_have_made(entity))

    def is_sibling(self, entity: Entity) -> bool:
        """Another mapped task of the same DAG run made it, or was the last to change it."""
        return self.is_of_this_run(entity) and owner_of(entity) != self.task

    def is_of_this_run(self, entity: Entity) -> bool:
        """This task or another mapped one of the same DAG run made it, or was the last to change it."""
        other, own = _TASK.fullmatch(owner_of(entity)), _TASK.fullmatch(self.task)
        return bool(other and own and other.groupdict() == own.groupdict())

    def remark(self, entity: Entity, *, slots_ms: int = 0, data_ms: int = 0) -> str:
        """The description of a dataflow that this task changes; what was told of earlier changes stays told.

        Adobe tells only of the last operation on a dataflow, so that the mark says when its slots were last changed,
        and when its data were (its source connection or its folders), in milliseconds since 1970 UTC.
        """
        slots, data = slots_ms or slots_since_ms(entity), data_ms or data_since_ms(entity)
        told = f", slots since {slots}" if slots else ""
        return self.description + told + (f", data since {data}" if data else "")


def is_managed(entity: Entity) -> bool:
    """It was made by this provider, for whatever task."""
    return entity.description.startswith(MARK)


def owner_of(entity: Entity) -> str:
    """The task that made an entity, or was the last to change it: "dag.task, run …"; "" if it bears no mark."""
    return _told(entity, "task")


def account_of(entity: Entity) -> str:
    """The storage account that a login was made for, as its mark tells; "" where it does not."""
    return _told(entity, "account")


def slots_since_ms(entity: Entity) -> int:
    """When this provider last changed the slots of a dataflow; 0 if it never did."""
    return int(_told(entity, "slots") or 0)


def data_since_ms(entity: Entity) -> int:
    """When this provider last changed the source connection or the folders of a dataflow, or the account of a login;
    0 if it never did.
    """
    return int(_told(entity, "data") or 0)


def _told(entity: Entity, what: str) -> str:
    """A part of the mark; "" where there is none."""
    marked = _MARKED.fullmatch(entity.description)
    return (marked[what] or "") if marked else ""


def is_unconfirmed(entity: Entity) -> bool:
    """Its maker may still take it back, so nothing may rest on it yet."""
    return is_managed(entity) and entity.description.endswith(UNCONFIRMED)


def is_superseded(entity: Entity) -> bool:
    """Tasks have agreed on another one; this one is about to be deleted."""
    return is_managed(entity) and entity.description.endswith(SUPERSEDED)
