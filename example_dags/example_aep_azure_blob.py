"""Profiles to a container of Azure Blob Storage every day, in Adobe's default folders."""

from __future__ import annotations

import pendulum
from airflow.sdk import DAG

from airflow_provider_aep.destinations import AzureBlob
from airflow_provider_aep.operators import AepExportDatasetsOperator
from airflow_provider_aep.schedules import Every

with DAG(
    "example_aep_azure_blob",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    tags=["aep"],
    doc_md=__doc__,
) as dag:
    AepExportDatasetsOperator(
        task_id="export",
        dataset_ids=["5ef3e3259ad2a1191ab7dd7d"],
        destination=AzureBlob(container="lake-exports", path="profiles"),
        destination_conn_id="wasb_exports",
        schedule=Every(days=1),
        file_type="PARQUET",
        compression="NONE",
        wait_for_completion=True,
        deferrable=True,
    )
