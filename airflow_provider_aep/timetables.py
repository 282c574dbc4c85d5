"""When the next DAG run is due, by the DAG's own timetable. Loaded by a running task, never when a DAG is parsed."""

from __future__ import annotations

from typing import Any

import pendulum
from airflow.timetables.base import DataInterval, TimeRestriction
from airflow.timetables.simple import ContinuousTimetable

from airflow_provider_aep.errors import InvalidArgument


def next_due_ms(task: Any, dag_run: Any) -> int | None:
    """When the next DAG run is due, in milliseconds since 1970 UTC; None if there is none.

    Only the timetable knows, clock changes included. The scheduler's own is asked, which is installed wherever tasks
    run: Airflow 3.1 has it in the DAG, later versions make it from the DAG's.
    """
    due = dag_run.run_after
    start, end = dag_run.data_interval_start or due, dag_run.data_interval_end or due
    interval = DataInterval(pendulum.instance(start), pendulum.instance(end))  # a worker has plain datetimes
    everything = TimeRestriction(earliest=None, latest=None, catchup=True)
    timetable = task.dag.timetable
    try:
        try:
            from airflow.serialization.encoders import coerce_to_core_timetable
        except ImportError:  # 3.1
            pass
        else:
            timetable = coerce_to_core_timetable(timetable)
        if isinstance(timetable, ContinuousTimetable):
            return None  # the next one is due as soon as this one has ended
        following = timetable.next_dagrun_info(last_automated_data_interval=interval, restriction=everything)
    except Exception as error:  # a custom timetable, which may need a database
        rule = f"the DAG's timetable does not tell when the next DAG run is due ({error!r}): give a moment"
        raise InvalidArgument("after", "dag_run", rule) from error
    if following is None or following.run_after <= dag_run.run_after:
        return None
    return int(following.run_after.timestamp() * 1000)
