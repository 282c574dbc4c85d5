"""The providers that are measured: the connection each needs, and how it makes the triggers for `n` waits.

Every subject runs in a process of its own that imports nothing of the others. Where a provider fixes its host or
its scheme in code (dbt Cloud, Fivetran) the class attribute or static method that holds it is replaced, nothing else.
"""

import json
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal, NamedTuple

from server import dataflow_id, run_id

Triggers = list[Any]


def http(n: int, _: str, interval: float) -> Triggers:
    from airflow.providers.http.triggers.http import HttpSensorTrigger

    return [HttpSensorTrigger(endpoint=f"wait/{i}", poke_interval=interval) for i in range(n)]


def dbt_cloud(n: int, base_url: str, interval: float) -> Triggers:
    from airflow.providers.dbt.cloud.hooks.dbt import DbtCloudHook
    from airflow.providers.dbt.cloud.triggers.dbt import DbtCloudRunJobTrigger

    if base_url.startswith("http:"):

        def plain(tenant: str, endpoint: str, *_: Any) -> tuple[str, dict[str, Any]]:
            return f"http://{tenant}/api/v2/accounts/{endpoint}", {}

        DbtCloudHook.get_request_url_params = staticmethod(plain)
    end = time.time() + 86_400
    return [DbtCloudRunJobTrigger("dbt_cloud_default", i, end, interval, account_id=1) for i in range(n)]


def fivetran(n: int, base_url: str, interval: float) -> Triggers:
    import pendulum
    from fivetran_provider_async.hooks import FivetranHook
    from fivetran_provider_async.triggers import FivetranTrigger

    FivetranHook.api_protocol, FivetranHook.api_host = base_url.split("://")
    before = pendulum.datetime(2025, 1, 1)
    return [FivetranTrigger("wait", str(i), "fivetran_default", before, poke_interval=interval) for i in range(n)]


def census(n: int, _: str, interval: float) -> Triggers:
    from airflow_provider_census.triggers.census import CensusTrigger

    return [CensusTrigger(i, poll_interval=interval) for i in range(n)]


def bare(*, changed_only: bool) -> Callable[[int, str, float], Triggers]:
    def triggers(n: int, base_url: str, interval: float) -> Triggers:
        from bare import BareTrigger, Poller

        poller = Poller(base_url, interval, changed_only=changed_only)
        return [BareTrigger(run_id(i), poller) for i in range(n)]

    return triggers


def floor(n: int, *_: object) -> Triggers:
    from bare import BareTrigger

    return [BareTrigger(run_id(i), None) for i in range(n)]


def aep(n: int, _: str, interval: float) -> Triggers:
    from airflow_provider_aep.triggers import AepDataflowRunTrigger

    deadline = time.time() + 86_400
    return [
        AepDataflowRunTrigger(
            aep_conn_id="aep_default",
            sandbox_name=None,
            dataflow_id=dataflow_id(i),
            run_id=run_id(i),
            after_ms=0,
            deadline=deadline,
            poll_seconds=interval,
        )
        for i in range(n)
    ]


class Subject(NamedTuple):
    """One provider. `request_tells`: how many waits learn their state from one request."""

    label: str
    distribution: str | None
    request_tells: Literal["one wait", "a page", "all waits", "nothing"]
    triggers: Callable[[int, str, float], Triggers]
    parse: str | None = None  # what a DAG file imports
    conn: str | None = None


SUBJECTS = {
    "http": Subject(
        "http",
        "apache-airflow-providers-http",
        "one wait",
        http,
        "from airflow.providers.http.operators.http import HttpOperator\n"
        "from airflow.providers.http.sensors.http import HttpSensor",
        "HTTP_DEFAULT",
    ),
    "dbt_cloud": Subject(
        "dbt-cloud",
        "apache-airflow-providers-dbt-cloud",
        "one wait",
        dbt_cloud,
        "from airflow.providers.dbt.cloud.operators.dbt import DbtCloudRunJobOperator\n"
        "from airflow.providers.dbt.cloud.sensors.dbt import DbtCloudJobRunSensor",
        "DBT_CLOUD_DEFAULT",
    ),
    "fivetran": Subject(
        "fivetran-async",
        "airflow-provider-fivetran-async",
        "one wait",
        fivetran,
        "from fivetran_provider_async.operators import FivetranOperator\n"
        "from fivetran_provider_async.sensors import FivetranSensor",
        "FIVETRAN_DEFAULT",
    ),
    "census": Subject(
        "census",
        "airflow-provider-census",
        "one wait",
        census,
        "from airflow_provider_census.operators.census import CensusOperator\n"
        "from airflow_provider_census.sensors.census import CensusSensor",
        "CENSUS_DEFAULT",
    ),
    "bare_pages": Subject("bare, all pages", None, "a page", bare(changed_only=False)),
    "bare": Subject("bare", None, "all waits", bare(changed_only=True)),
    "floor": Subject("Airflow alone", None, "nothing", floor),
    "aep": Subject(
        "aep",
        "airflow-provider-aep",
        "all waits",
        aep,
        "from airflow_provider_aep.operators import *\n"
        "from airflow_provider_aep.sensors import *\n"
        "from airflow_provider_aep.destinations import *\n"
        "from airflow_provider_aep.schedules import *",
        "AEP_DEFAULT",
    ),
}
PEERS = ["http", "dbt_cloud", "fivetran", "census"]


def versions() -> dict[str, str]:
    """Distribution -> version, of the subjects and of what they stand on."""
    names = [subject.distribution for subject in SUBJECTS.values() if subject.distribution]
    found = {}
    for name in [*names, "apache-airflow", "httpx", "aiohttp", "requests"]:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "from this checkout"
    return found


def connections(base_url: str) -> dict[str, str]:
    """The Airflow connections of all subjects as environment variables."""
    host = base_url.split("://")[1]
    extra = {"org_id": "0123456789ABCDEF01234567@AdobeOrg", "sandbox_name": "prod", "ims_host": base_url}
    rows: dict[str, dict[str, Any]] = {
        "HTTP_DEFAULT": {"conn_type": "http", "host": base_url},
        "DBT_CLOUD_DEFAULT": {"conn_type": "dbt_cloud", "host": host, "login": "1", "password": "benchmark-token"},
        "FIVETRAN_DEFAULT": {"conn_type": "fivetran", "login": "benchmark", "password": "benchmark-token"},
        "CENSUS_DEFAULT": {"conn_type": "census", "host": base_url, "password": "benchmark-token"},
        "AEP_DEFAULT": {
            "conn_type": "aep",
            "host": base_url,
            "login": "benchmark-client",
            "password": "benchmark-secret",
            "extra": extra,
        },
    }
    return {f"AIRFLOW_CONN_{name}": json.dumps(row) for name, row in rows.items()}
