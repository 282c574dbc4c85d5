"""Exports as code: one task keeps all exports of a YAML file as the file says, whatever happens to them in Adobe's UI.

The log tells in one table what differs, and only that is changed.
"""

from __future__ import annotations

import pendulum
from airflow.sdk import DAG, task

from airflow_provider_aep.operators import AepSyncExportsOperator

with DAG(
    "example_aep_sync",
    schedule="@daily",
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    tags=["aep"],
    doc_md=__doc__,
) as dag:
    sync = AepSyncExportsOperator(
        task_id="sync",
        exports="example_aep_sync.yaml",  # beside this file, or in the DAG's template_searchpath
        prune=True,
    )

    @task
    def tell(export: dict[str, object]) -> None:
        """Where each export goes on by itself; an `AepDataflowRunSensor` expands in the same way."""
        print(f"{export['name']} in sandbox {export['sandbox_name']}: dataflow {export['dataflow_id']}")  # noqa: T201

    tell.expand(export=sync.output)
