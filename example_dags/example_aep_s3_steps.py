"""The five steps of Adobe's tutorial by hand, for Amazon S3: datasets, source, base and target connection, dataflow."""

from __future__ import annotations

import pendulum
from airflow.sdk import DAG

from airflow_provider_aep.destinations import AmazonS3
from airflow_provider_aep.operators import (
    AepCreateBaseConnectionOperator,
    AepCreateDataflowOperator,
    AepCreateSourceConnectionOperator,
    AepCreateTargetConnectionOperator,
    AepListDatasetsOperator,
)
from airflow_provider_aep.schedules import Every
from airflow_provider_aep.sensors import AepDataflowRunSensor

with DAG(
    "example_aep_s3_steps",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    tags=["aep"],
    doc_md=__doc__,
) as dag:
    place = AmazonS3(bucket="lake-exports", path="steps")

    datasets = AepListDatasetsOperator(task_id="list_datasets", name_pattern="Loyalty Members*")
    source = AepCreateSourceConnectionOperator(task_id="source_connection", dataset_ids=datasets.output)
    base = AepCreateBaseConnectionOperator(
        task_id="base_connection", destination=place, destination_conn_id="aws_exports"
    )
    target = AepCreateTargetConnectionOperator(
        task_id="target_connection",
        base_connection_id=base.output,
        destination=place,
        file_type="PARQUET",
        compression="GZIP",
    )
    dataflow = AepCreateDataflowOperator(
        task_id="dataflow",
        source_connection_id=source.output,
        target_connection_id=target.output,
        destination=place,
        schedule=Every(hours=3),
    )
    AepDataflowRunSensor(task_id="first_run", dataflow_id=dataflow.output, deferrable=True)
