"""Profiles to an SFTP server every nine hours; the connection holds a password or a private key."""

from __future__ import annotations

import pendulum
from airflow.sdk import DAG

from airflow_provider_aep.destinations import Sftp
from airflow_provider_aep.operators import AepExportDatasetsOperator
from airflow_provider_aep.schedules import Every

with DAG(
    "example_aep_sftp",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    tags=["aep"],
    doc_md=__doc__,
) as dag:
    AepExportDatasetsOperator(
        task_id="export",
        dataset_ids=["5ef3e3259ad2a1191ab7dd7d"],
        destination=Sftp(remote_path="/uploads/profiles"),
        destination_conn_id="sftp_exports",
        schedule=Every(hours=9),
        file_type="JSON",
        compression="GZIP",
        wait_for_completion=True,
        deferrable=True,
    )
