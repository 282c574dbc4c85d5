"""Profiles to Adobe's own Data Landing Zone, which needs no login; files vanish there after seven days."""

from __future__ import annotations

import pendulum
from airflow.sdk import DAG

from airflow_provider_aep.destinations import DataLandingZone
from airflow_provider_aep.operators import AepExportDatasetsOperator
from airflow_provider_aep.schedules import Every

with DAG(
    "example_aep_data_landing_zone",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    tags=["aep"],
    doc_md=__doc__,
) as dag:
    AepExportDatasetsOperator(
        task_id="export",
        dataset_ids=["5ef3e3259ad2a1191ab7dd7d"],
        destination=DataLandingZone(path="profiles"),
        schedule=Every(hours=6),
        file_type="JSON",
        compression="GZIP",
        wait_for_completion=True,
        deferrable=True,
    )
