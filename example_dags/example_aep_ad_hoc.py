"""Export one dataset now, for whoever triggers the DAG: the form asks for the dataset and the folder.

Each DAG run is an export of its own, named after it; a second click never changes the first one's.
"""

from __future__ import annotations

import pendulum
from airflow.sdk import DAG, Param

from airflow_provider_aep.destinations import AmazonS3
from airflow_provider_aep.operators import AepExportDatasetsOperator
from airflow_provider_aep.schedules import Once

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
        "path": Param("adhoc", type="string", description="Folder in the bucket lake-exports"),
    },
) as dag:
    AepExportDatasetsOperator(
        task_id="export",
        dataset_ids="{{ params.dataset_id }}",
        destination=AmazonS3(bucket="lake-exports", path="{{ params.path }}"),
        destination_conn_id="aws_exports",
        schedule=Once(),
        name="ad hoc {{ run_id }}",
        wait_for_completion=True,
        deferrable=True,
    )
