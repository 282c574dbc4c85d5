"""Look after all exports of a sandbox: tell each morning what is wrong with them, and let none of them end.

The daily check fails without a retry, and its message counts and names the problems: whatever your Airflow sends for a
failed task is all that its reader needs. The monthly one moves the end of exports that this provider made, and that end
within two months.
"""

from __future__ import annotations

import pendulum
from airflow.sdk import DAG, Context

from airflow_provider_aep.operators import AepCheckDataflowsOperator


def tell(context: Context) -> None:
    """Where your notification goes; an Airflow notifier may stand in its place."""
    print(f"{context['ti'].task_id}: {context.get('exception')}")  # noqa: T201


with DAG(
    "example_aep_health",
    schedule="0 6 * * *",
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    tags=["aep"],
    doc_md=__doc__,
):
    AepCheckDataflowsOperator(task_id="check", on_failure_callback=tell)

with DAG(
    "example_aep_health_monthly",
    schedule="0 5 1 * *",
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    tags=["aep"],
    doc_md=__doc__,
):
    AepCheckDataflowsOperator(task_id="extend", ends_within=60, extend_end=365, on_problem="warn", retries=3)
