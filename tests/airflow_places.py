"""What tests take from inside Airflow, from its place in each supported version; `AIRFLOW` says which one is here."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

#: (3, 3) for 3.3.2.
AIRFLOW = tuple(int(number) for number in version("apache-airflow-core").split(".")[:2])

if not TYPE_CHECKING and AIRFLOW < (3, 2):
    from airflow.exceptions import (
        AirflowFailException,
        AirflowRescheduleException,
        AirflowSensorTimeout,
        AirflowSkipException,
        TaskDeferralError,
        TaskDeferred,
    )
    from airflow.serialization.serde import deserialize, serialize
    from airflow.serialization.serialized_objects import SerializedDAG as DagSerialization
    from airflow.timetables.interval import CronDataIntervalTimetable, DeltaDataIntervalTimetable
    from airflow.timetables.trigger import CronTriggerTimetable, DeltaTriggerTimetable
    from airflow.utils.module_loading import import_string
else:
    from airflow.sdk import (
        CronDataIntervalTimetable,
        CronTriggerTimetable,
        DeltaDataIntervalTimetable,
        DeltaTriggerTimetable,
    )
    from airflow.sdk._shared.module_loading import import_string
    from airflow.sdk.exceptions import (
        AirflowFailException,
        AirflowRescheduleException,
        AirflowSensorTimeout,
        AirflowSkipException,
        TaskDeferralError,
        TaskDeferred,
    )
    from airflow.sdk.serde import deserialize, serialize
    from airflow.serialization.serialized_objects import DagSerialization

__all__ = [
    "AIRFLOW",
    "AirflowFailException",
    "AirflowRescheduleException",
    "AirflowSensorTimeout",
    "AirflowSkipException",
    "CronDataIntervalTimetable",
    "CronTriggerTimetable",
    "DagSerialization",
    "DeltaDataIntervalTimetable",
    "DeltaTriggerTimetable",
    "TaskDeferralError",
    "TaskDeferred",
    "deserialize",
    "import_string",
    "serialize",
]
