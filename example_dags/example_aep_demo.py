"""A whole export: find two datasets, export them once, wait for the run without a worker slot, read what landed.

`make demo` runs this DAG against the embedded emulator. It runs against Adobe too, but for its last task, which
reads the emulator's folder; yours would read your bucket.
"""

from __future__ import annotations

import os
from pathlib import Path

import pendulum
from airflow.sdk import DAG, task

from airflow_provider_aep.destinations import AmazonS3
from airflow_provider_aep.operators import AepExportDatasetsOperator, AepListDatasetsOperator
from airflow_provider_aep.schedules import Once
from airflow_provider_aep.sensors import AepDataflowRunSensor

with DAG(
    "example_aep_demo",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    tags=["aep"],
    doc_md=__doc__,
) as dag:
    datasets = AepListDatasetsOperator(task_id="find_datasets", names=["AAM Devices Data", "Web and App Events"])

    export = AepExportDatasetsOperator(
        task_id="export",
        dataset_ids=datasets.output,
        destination=AmazonS3(bucket="lake-exports", path="demo/{{ run_id.replace(':', '-').replace('+', '-') }}"),
        destination_conn_id="aws_exports",
        schedule=Once(),
        file_type="JSON",
        compression="GZIP",
        name="demo {{ run_id }}",
    )

    run = AepDataflowRunSensor(
        task_id="wait_for_run",
        dataflow_id=export.output["dataflow_id"],
        deferrable=True,
        poke_interval=2,
        timeout=600,
    )

    @task
    def read_files(run: dict[str, object], path: str) -> list[dict[str, object]]:
        """Count the rows of every exported file: one JSON object in each line."""
        import gzip

        folder = Path(os.environ["AEP_EMULATOR_DATA"], "s3", "lake-exports", path)
        files = sorted(folder.rglob("*.json.gz"))
        counted: list[dict[str, object]] = []
        for file in files:
            with gzip.open(file, "rt") as lines:
                rows = sum(1 for _ in lines)
            counted.append(
                {
                    "dataset": file.parent.parent.name,
                    "file": file.name,
                    "rows": rows,
                    "bytes": file.stat().st_size,
                    "run": run["run_id"],
                }
            )
        return counted

    read_files(run.output, path="demo/{{ run_id.replace(':', '-').replace('+', '-') }}")  # type: ignore[arg-type]
