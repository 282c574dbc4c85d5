"""Profiles to Google Cloud Storage every day, with a list of the files and folders of one's own."""

from __future__ import annotations

import pendulum
from airflow.sdk import DAG

from airflow_provider_aep.destinations import GoogleCloudStorage
from airflow_provider_aep.operators import AepExportDatasetsOperator
from airflow_provider_aep.schedules import Every

with DAG(
    "example_aep_google_cloud_storage",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    tags=["aep"],
    doc_md=__doc__,
) as dag:
    AepExportDatasetsOperator(
        task_id="export",
        dataset_ids=["5ef3e3259ad2a1191ab7dd7d"],
        destination=GoogleCloudStorage(bucket="lake-exports", path="profiles"),
        destination_conn_id="gcs_exports",
        schedule=Every(days=1),
        include_file_manifest=True,
        folder_template="%DESTINATION%/%DATASET_ID%/%EXPORT_TIME%",
        wait_for_completion=True,
        deferrable=True,
    )
