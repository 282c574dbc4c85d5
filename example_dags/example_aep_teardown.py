"""An export for one DAG run only: set it up, wait for its flow run, use the files, delete the export again.

Airflow runs a teardown only if one of its setups has succeeded. The look-up is a setup, too, so that the export is
deleted also where its own set-up has failed half-way, or its flow run. It is deleted by its name, which the DAG knows
before there are any IDs. The login stays for the next DAG run, and the files stay in the bucket. Leave the teardown's
`on_failure_fail_dagrun` alone: Airflow would look at the teardown only, and a DAG run whose export failed be green.
"""

from __future__ import annotations

import pendulum
from airflow.sdk import DAG, task

from airflow_provider_aep.destinations import AmazonS3
from airflow_provider_aep.operators import (
    AepDeleteExportOperator,
    AepExportDatasetsOperator,
    AepListDatasetsOperator,
)
from airflow_provider_aep.schedules import Once

NAME = "teardown {{ run_id }}"

with DAG(
    "example_aep_teardown",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    tags=["aep"],
    doc_md=__doc__,
) as dag:
    find = AepListDatasetsOperator(task_id="find", name_pattern="Loyalty*")

    export = AepExportDatasetsOperator(
        task_id="export",
        dataset_ids=find.output,
        destination=AmazonS3(bucket="lake-exports", path="teardown"),
        destination_conn_id="aws_exports",
        schedule=Once(),
        name=NAME,
        wait_for_completion=True,
        deferrable=True,
    )

    @task
    def use_files(run: dict[str, object]) -> str:
        """Stands for your work on the files of this flow run."""
        return f"{run['output_files']} files of flow run {run['run_id']}"

    delete = AepDeleteExportOperator(task_id="delete", name=NAME, retries=3).as_teardown(setups=[find, export])

    use_files(export.output) >> delete  # type: ignore[arg-type]
