"""Profiles to Azure Data Lake Storage Gen2 every twelve hours; the container is part of the login."""

from __future__ import annotations

import pendulum
from airflow.sdk import DAG

from airflow_provider_aep.destinations import AdlsGen2
from airflow_provider_aep.operators import AepExportDatasetsOperator
from airflow_provider_aep.schedules import Every

with DAG(
    "example_aep_adls_gen2",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    tags=["aep"],
    doc_md=__doc__,
) as dag:
    AepExportDatasetsOperator(
        task_id="export",
        dataset_ids=["5ef3e3259ad2a1191ab7dd7d"],
        destination=AdlsGen2(path="profiles"),
        destination_conn_id="adls_exports",
        schedule=Every(hours=12),
        wait_for_completion=True,
        deferrable=True,
    )
