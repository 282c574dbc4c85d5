"""Export one dataset now, for whoever triggers the DAG: the form asks for the dataset and the folder.

`airflow dags trigger example_aep_ad_hoc --conf '{"dataset_id": "…", "path": "…"}'` does the same. What cannot be right
is refused before anything is made: a wrong form when it is sent, a dataset that Adobe does not let you export by the
first task. Each DAG run has an export of its own, named after it, which a teardown deletes at the end, come what may
(see example_aep_teardown): the next click finds nothing of it, and the sandbox does not fill up. The files stay.
"""

from __future__ import annotations

import pendulum
from airflow.sdk import DAG, Param

from airflow_provider_aep.destinations import AmazonS3
from airflow_provider_aep.operators import (
    AepDeleteExportOperator,
    AepExportDatasetsOperator,
    AepListDatasetsOperator,
)
from airflow_provider_aep.schedules import Once

NAME = "ad hoc {{ run_id }}"

with DAG(
    "example_aep_ad_hoc",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    tags=["aep"],
    doc_md=__doc__,
    params={
        "dataset_id": Param(
            "5ef3e3259ad2a1191ab7dd7d", type="string", pattern="^[0-9A-Fa-f]{24}$", description="The dataset's ID"
        ),
        "path": Param(
            "adhoc",
            type="string",
            pattern="^[0-9A-Za-z/!_.*'()-]+$",
            maxLength=255,
            description="Folder in the bucket lake-exports",
        ),
    },
) as dag:
    check = AepListDatasetsOperator(task_id="check", dataset_ids="{{ params.dataset_id }}")

    export = AepExportDatasetsOperator(
        task_id="export",
        dataset_ids=check.output,
        destination=AmazonS3(bucket="lake-exports", path="{{ params.path }}"),
        destination_conn_id="aws_exports",
        schedule=Once(),
        name=NAME,
        wait_for_completion=True,
        deferrable=True,
    )

    AepDeleteExportOperator(task_id="delete", name=NAME, retries=3).as_teardown(setups=[check, export])
