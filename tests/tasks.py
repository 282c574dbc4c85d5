"""Tasks executed as Airflow does it: through deferrals and reschedules, each with a context of its own."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, Protocol

from airflow.sdk import BaseOperator
from airflow.sdk.api.datamodels._generated import DagRunType  # what a worker is handed
from airflow.triggers.base import BaseTrigger, TaskSuccessEvent, TriggerEvent

from tests.airflow_places import (
    AirflowFailException,
    AirflowRescheduleException,
    AirflowSensorTimeout,
    AirflowSkipException,
    TaskDeferred,
    deserialize,
    import_string,
    serialize,
)


class DeferralEnded(Exception):
    """The triggerer has ended the task: nothing is left for a worker."""

    def __init__(self, xcoms: Any) -> None:
        self.xcoms = xcoms


@dataclass
class TaskInstance:
    """As much of a running task instance as operators ask of one."""

    run_id: str = "manual__2026-01-01"
    try_number: int = 1
    map_index: int = -1
    pushed: dict[str, Any] = field(default_factory=dict)
    first_reschedule: datetime | None = None

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = value

    def get_first_reschedule_date(self, context: Any) -> datetime | None:
        return self.first_reschedule


def context(**members: Any) -> Any:
    """A task's context: "ti" and what a test adds."""
    about_ti = {name: members.pop(name) for name in ("map_index", "try_number") if name in members}
    dag_run = SimpleNamespace(run_after=datetime.now(UTC), logical_date=datetime.now(UTC), run_type=DagRunType.MANUAL)
    return {"ti": TaskInstance(**about_ti), "run_id": "manual__2026-01-01", "dag_run": dag_run, **members}


def rebuilt(trigger: BaseTrigger) -> BaseTrigger:
    """A trigger as the triggerer gets it: serialized, stored as JSON, read and made anew."""
    path, arguments = trigger.serialize()
    stored = json.dumps(serialize(arguments))
    read: Any = deserialize(json.loads(stored))
    made = import_string(path)(**read)
    assert isinstance(made, BaseTrigger)
    return made


async def events_of(trigger: BaseTrigger) -> list[TriggerEvent]:
    return [event async for event in trigger.run()]


class MakesTask(Protocol):
    def __call__(self, **arguments: Any) -> BaseOperator: ...


def finish(make: MakesTask, task_context: Any, **arguments: Any) -> Any:
    """Execute a task until it ends, through as many processes as it would see; each has a task object of its own.

    Raises:
        DeferralEnded: the trigger has ended the task.
    """
    ti = task_context["ti"]
    go_on: Callable[[BaseOperator], Any] = lambda task: task.execute(task_context)  # noqa: E731 - replaced below
    while True:
        try:
            return go_on(make(**arguments))
        except AirflowRescheduleException as reschedule:
            ti.first_reschedule = ti.first_reschedule or datetime.now(UTC)
            _sleep_until(reschedule.reschedule_date)
        except TaskDeferred as deferred:
            (event,) = asyncio.run(events_of(rebuilt(deferred.trigger)))
            if isinstance(event, TaskSuccessEvent):
                raise DeferralEnded(event.xcoms) from None
            payload = deserialize(json.loads(json.dumps(serialize(event.payload))))
            go_on = functools.partial(_resume, deferred.method_name, payload, task_context)


def _resume(method: str, payload: Any, task_context: Any, task: BaseOperator) -> Any:
    return task.resume_execution(method, {"event": payload}, task_context)


def _sleep_until(moment: datetime) -> None:
    threading.Event().wait(max((moment - datetime.now(UTC)).total_seconds(), 0))


@dataclass(frozen=True)
class Ended:
    """How Airflow would book a task: "success", "skipped", "failed" (for good) or "retried"."""

    state: str
    result: Any = None
    message: str = ""
    error: BaseException | None = field(default=None, compare=False)


def ended(make: MakesTask, task_context: Any, **arguments: Any) -> Ended:
    """Execute as `finish` does and judge the end as Airflow's task runner does."""
    try:
        return Ended("success", finish(make, task_context, **arguments))
    except DeferralEnded as end:
        return Ended("success", (end.xcoms or {}).get("return_value"))
    except AirflowSkipException as skip:
        return Ended("skipped", message=str(skip), error=skip)
    except (AirflowFailException, AirflowSensorTimeout) as failure:
        return Ended("failed", message=str(failure), error=failure)
    except Exception as error:
        return Ended("retried", message=str(error), error=error)


@contextlib.contextmanager
def later(seconds: float, work: Callable[[], object]) -> Iterator[None]:
    """Let something happen while a task waits."""
    timer = threading.Timer(seconds, work)
    timer.start()
    try:
        yield
    finally:
        timer.join()
