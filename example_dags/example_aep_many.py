"""Many exports at once: every dataset of the sandbox goes to two destinations every day, one mapped task for each pair.

With 50 datasets these are 100 exports, as many as Adobe lets a sandbox have. One export may also carry many datasets; a
task for each is worth while where folder, schedule or retries are to differ. Another DAG run changes nothing: an export
that is there costs four requests. A dataset that turns up later gets its exports from the next DAG run.
"""

from __future__ import annotations

import pendulum
from airflow.sdk import DAG, Param, task

from airflow_provider_aep.destinations import AmazonS3
from airflow_provider_aep.operators import AepExportDatasetsOperator, AepListDatasetsOperator
from airflow_provider_aep.schedules import Every

with DAG(
    "example_aep_many",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    tags=["aep"],
    doc_md=__doc__,
    default_args={"retries": 2},
    params={
        "name_pattern": Param(
            "*", type="string", minLength=1, description="Names of datasets, with * and ? as in files"
        )
    },
) as dag:
    datasets = AepListDatasetsOperator(task_id="find_datasets", name_pattern="{{ params.name_pattern }}")

    export = AepExportDatasetsOperator.partial(
        task_id="export",
        destination_conn_id="aws_exports",
        schedule=Every(days=1, start="2026-01-01T00:00:00Z", end="2036-01-01T00:00:00Z"),
        max_active_tis_per_dag=16,  # so that other DAGs get workers, too
    ).expand(
        dataset_ids=datasets.output,
        destination=[AmazonS3("lake-exports", "all"), AmazonS3("partner-exports", "all")],
    )

    @task
    def count(dataflow_ids: list[str]) -> int:
        """Where your pipeline goes on: each export's dataflow is there now."""
        return len(set(dataflow_ids))

    count(export.output["dataflow_id"])
