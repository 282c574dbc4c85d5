"""Wait for each of Adobe's own runs: the dataflow exports every six hours, and this DAG goes on when a run is complete.

Adobe's slots are counted from the schedule's start, so the DAG's cron names the same hours. Setting up is part of every
DAG run: it finds the export, tells of changes that somebody made in Adobe's UI, and costs four requests.
"""

from __future__ import annotations

import pendulum
from airflow.sdk import DAG, task

from airflow_provider_aep.destinations import AmazonS3
from airflow_provider_aep.operators import AepExportDatasetsOperator
from airflow_provider_aep.schedules import Every
from airflow_provider_aep.sensors import AepDataflowRunSensor

with DAG(
    "example_aep_scheduled",
    schedule="0 0,6,12,18 * * *",
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    tags=["aep"],
    doc_md=__doc__,
) as dag:
    export = AepExportDatasetsOperator(
        task_id="set_up",
        dataset_ids=["5ef3e3259ad2a1191ab7dd7d", "5f1a2c7b8e4d91194b6f0a21"],
        destination=AmazonS3(bucket="lake-exports", path="scheduled"),
        destination_conn_id="aws_exports",
        schedule=Every(hours=6, start="2026-01-01T00:00:00Z", end="2036-01-01T00:00:00Z"),
    )
    run = AepDataflowRunSensor(
        task_id="wait_for_run",
        dataflow_id=export.output["dataflow_id"],
        deferrable=True,
        timeout=9 * 3600,  # the very first run comes a whole slot after the DAG run that has made the dataflow
    )

    @task
    def load(run: dict[str, object]) -> None:
        """Where your pipeline goes on: the run's files are complete now."""
        print(f"run {run['run_id']} wrote {run['output_records']} records in {run['output_files']} files")  # noqa: T201

    load(run.output)  # type: ignore[arg-type]
