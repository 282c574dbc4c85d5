"""The first run of a whole export against the emulator with 200 ms of latency: the operator and a bare httpx script.

The bare script sends the five requests that cannot be left out (token, base, source and target connection, dataflow),
those that do not need each other at the same time, and checks nothing. `--child` runs both in one warm process.
"""

import argparse
import asyncio
import json
import os
import re
import sys
import time
from typing import Any

from lab import Child, Lab, Row, main

LATENCY = 0.2
S3_SPEC, S3_FLOW_SPEC = "4fce964d-3f37-408f-9778-e597338a21ee", "269ba276-16fc-47db-92b0-c1049a3c131f"
LAKE_SPEC = "23598e46-f560-407b-88d5-ea6207e49db0"
LOGIN, PASSWORD = "ABCDEFGHIJKLMNOP2345", "benchmark" * 4 + "abcd"  # the form of an access key, and of its secret


async def bare_export(url: str, login: dict[str, Any], dataset: str, name: str) -> None:
    import httpx

    async with httpx.AsyncClient() as client:

        async def send(path: str, **body: Any) -> str:
            reply = await client.post(f"{url}/data/foundation/flowservice{path}", headers=headers, json=body)
            return str(reply.raise_for_status().json()["id"])

        form = {"grant_type": "client_credentials", "client_id": login["login"], "client_secret": login["password"]}
        form["scope"] = "openid,session,AdobeID,read_organizations,additional_info.projectedProductContext"
        token = (await client.post(f"{url}/ims/token/v3", data=form)).raise_for_status().json()["access_token"]
        headers = {"Authorization": f"Bearer {token}", "x-api-key": login["login"], "x-sandbox-name": "prod"}
        headers["x-gw-ims-org-id"] = login["extra"]["org_id"]
        spec = {"id": S3_SPEC, "version": "1.0"}
        keys = {"s3AccessKey": LOGIN, "s3SecretKey": PASSWORD}
        base, source = await asyncio.gather(
            send("/connections", name=name, connectionSpec=spec, auth={"specName": "Access Key", "params": keys}),
            send(
                "/sourceConnections",
                name=name,
                connectionSpec={"id": LAKE_SPEC, "version": "1.0"},
                params={"datasets": [{"dataSetId": dataset, "name": "benchmark"}]},
            ),
        )
        place = {"mode": "Server-to-server", "bucketName": "benchmark", "path": name}
        params = place | {"compression": "GZIP", "datasetFileType": "PARQUET"}
        target = await send("/targetConnections", name=name, baseConnectionId=base, connectionSpec=spec, params=params)
        await send(
            "/flows",
            name=name,
            flowSpec={"id": S3_FLOW_SPEC, "version": "1.0"},
            sourceConnectionIds=[source],
            targetConnectionIds=[target],
            transformations=[],
            scheduleParams={"interval": 3, "timeUnit": "hour", "startTime": int(time.time()) + 86_400},
        )


def define(number: int, dataset: str) -> Any:
    """A DAG with one export of its own name, bucket and login; its operator notes how long it took."""
    from airflow.sdk import DAG

    from airflow_provider_aep.destinations import AmazonS3
    from airflow_provider_aep.operators import AepExportDatasetsOperator
    from airflow_provider_aep.schedules import Every

    class Timed(AepExportDatasetsOperator):
        def execute(self, context: Any) -> Any:
            begin = time.perf_counter()
            result = super().execute(context)
            os.environ["BENCHMARK_SECONDS"] = str(time.perf_counter() - begin)
            return result

    with DAG(f"first_run_{number}", schedule=None) as dag:
        Timed(
            task_id="export",
            dataset_ids=dataset,
            destination=AmazonS3(bucket="benchmark", path=f"exports/{number}"),
            destination_conn_id=f"benchmark_{number}",
            schedule=Every(hours=3),
        )
    return dag


def child(url: str, dataset: str, rounds: int) -> None:
    from airflow_provider_aep.api.auth import TOKEN_CACHES

    login = json.loads(os.environ["AIRFLOW_CONN_AEP_DEFAULT"])
    said = sys.stdout
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115  Airflow's log lines, until the process ends
    took: dict[str, list[float]] = {"bare": [], "aep": []}
    for number in range(rounds + 1):
        begin = time.perf_counter()
        asyncio.run(bare_export(url, login, dataset, f"bare-{number}"))
        bare = time.perf_counter() - begin
        TOKEN_CACHES.clear()
        result = define(number, dataset).test()
        if str(result.state) != "success":
            raise RuntimeError(f"the export ended as {result.state}")
        if number:  # the first round imports
            took["bare"].append(bare / LATENCY)
            took["aep"].append(float(os.environ["BENCHMARK_SECONDS"]) / LATENCY)
    print(json.dumps({"trips": took}), file=said)


def first_run(lab: Lab) -> list[Row]:
    """In round trips: seconds divided by the latency."""
    if not lab.subjects(["aep"]):
        return []
    rounds = 1 if lab.quick else 5
    command = [sys.executable, "-m", "airflow_provider_aep.emulator", "--port", "0"]
    command += ["--latency", f"{LATENCY * 1000:g}ms", "--data", str(lab.folder / "exports")]
    emulator = Child(command, lab.environment("http://127.0.0.1:1"), lab.folder / "emulator.log")
    try:
        greeting = [emulator.line() for _ in range(8)]
        url = greeting[0].split()[-1]
        [adobe] = re.findall(r"AIRFLOW_CONN_AEP_DEFAULT='(.*)'", greeting[1])
        [dataset, *_] = [found for line in greeting if (found := re.match(r"  ([0-9a-f]{24}) ", line))]
        folder = lab.airflow()
        lines = ["# airflow DAG", "from first_run import define"]
        lines += [f"dag_{number} = define({number}, {dataset[1]!r})" for number in range(rounds + 1)]
        (folder / "first.py").write_text("\n".join(lines))
        storage = json.dumps({"conn_type": "aws", "login": LOGIN, "password": PASSWORD})
        connections = {f"AIRFLOW_CONN_BENCHMARK_{number}": storage for number in range(rounds + 1)}
        environment = lab.environment(
            url, AIRFLOW_CONN_AEP_DEFAULT=adobe, AIRFLOW__CORE__DAGS_FOLDER=str(folder), **connections
        )
        command = [sys.executable, "first_run.py", "--child", url, dataset[1], str(rounds)]
        process = Child(command, environment, lab.folder / "first_run.log")
        trips = process.read("trips")["trips"]
        process.close()
    finally:
        emulator.close()
        (lab.airflow() / "first.py").unlink(missing_ok=True)
    return [Row("first run of a whole export, 200 ms", "round trips", "<= 1.3 x bare", trips)]


if __name__ == "__main__":
    if "--child" in sys.argv:
        parser = argparse.ArgumentParser()
        parser.add_argument("--child", nargs=3)
        url, dataset, rounds = parser.parse_args().child
        child(url, dataset, int(rounds))
    else:
        main(first_run)
