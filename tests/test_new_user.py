"""A new user's DAGs in a real Airflow: each task's state and XCom, compared with the files that landed."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from airflow_provider_aep.api.effects import Call
from airflow_provider_aep.emulator.flow_service.datasets import SEEDED
from airflow_provider_aep.hooks import AepHook
from tests.adobe.served import ServedAdobe, served_adobe
from tests.real_airflow import RealAirflow, airflow, connections

DAYS = 7
# The DAG runs are due at an hour that is past wherever in the day the tests run, and so is the slot of the last one.
LAST = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=2)
FIRST = LAST - timedelta(days=DAYS)
LEFT, RIGHT = SEEDED[0].id, SEEDED[1].id
TRIGGERED = ("one_name", "names_apart", "places", "changed", "rescheduled", "disabled")

DAGS = f"""
import pendulum
from airflow.sdk import DAG, Param, task

try:
    from airflow.sdk import CronTriggerTimetable
except ImportError:  # 3.1
    from airflow.timetables.trigger import CronTriggerTimetable

from airflow_provider_aep.destinations import AmazonS3, AzureBlob
from airflow_provider_aep.schedules import Every, Once
from airflow_provider_aep.operators import AepExportDatasetsOperator
from airflow_provider_aep.sensors import AepDataflowRunSensor

FIRST = pendulum.parse("{FIRST.isoformat()}")
LEFT, RIGHT = "{LEFT}", "{RIGHT}"
EACH_DAY = CronTriggerTimetable("0 {LAST.hour} * * *", timezone="UTC")
# Airflow's scheduler may take a wait that goes on after a few seconds for one that has died, and then retries it.
PATIENT = dict(poke_interval=2, retries=2, retry_delay=1)
AT_ONCE = dict(aep_conn_id="aep_fast", destination_conn_id="aws_exports", **PATIENT)
WAITING = dict(wait_for_completion=True, deferrable=True, **AT_ONCE)

with DAG("daily", schedule=EACH_DAY, start_date=FIRST, catchup=False, max_active_runs=3):
    given = dict(
        name="daily",
        dataset_ids=LEFT,
        destination=AmazonS3(bucket="lake-exports", path="daily"),
        destination_conn_id="aws_exports",
        schedule=Every(days=1, start=FIRST.add(minutes=30)),
        **PATIENT,
    )
    AepExportDatasetsOperator(task_id="export", wait_for_completion=True, deferrable=True, **given)
    set_up = AepExportDatasetsOperator(task_id="set_up", **given)
    wait = AepDataflowRunSensor(
        task_id="wait",
        dataflow_id=set_up.output["dataflow_id"],
        deferrable=True,
        end_in_triggerer=True,
        **PATIENT,
    )

    @task
    def count(run):
        return run["output_records"] + 0

    count(wait.output)

with DAG("one_name", schedule=None):
    AepExportDatasetsOperator.partial(
        task_id="export",
        name="perds {{{{ run_id }}}}",
        destination=AmazonS3(bucket="lake-exports", path="one-name"),
        schedule=Once(),
        **WAITING,
    ).expand(dataset_ids=[LEFT, RIGHT])

with DAG("names_apart", schedule=None):
    AepExportDatasetsOperator.partial(
        task_id="export",
        name="perds {{{{ run_id }}}} {{{{ ti.map_index }}}}",
        destination=AmazonS3(bucket="lake-exports", path="names-apart"),
        schedule=Once(),
        **WAITING,
    ).expand(dataset_ids=[LEFT, RIGHT])

with DAG("places", schedule=None):
    AepExportDatasetsOperator.partial(
        task_id="export", dataset_ids=LEFT, schedule=Once(), wait_for_completion=True, aep_conn_id="aep_fast", **PATIENT
    ).expand_kwargs(
        [
            dict(destination=AmazonS3(bucket="lake-exports", path="place-a"), destination_conn_id="aws_exports"),
            dict(destination=AmazonS3(bucket="lake-exports", path="place-b"), destination_conn_id="aws_exports"),
            dict(destination=AzureBlob(container="lake-exports", path="place-c"), destination_conn_id="wasb_exports"),
        ]
    )

with DAG("changed", schedule=None, params={{"dataset": Param(LEFT, type="string")}}):
    AepExportDatasetsOperator(
        task_id="export",
        dataset_ids="{{{{ params.dataset }}}}",
        destination=AmazonS3(bucket="lake-exports", path="changed"),
        schedule=Every(hours=3),
        **WAITING,
    )

with DAG("rescheduled", schedule=None):
    once = AepExportDatasetsOperator(
        task_id="export",
        dataset_ids=RIGHT,
        destination=AmazonS3(bucket="lake-exports", path="rescheduled"),
        schedule=Once(),
        **AT_ONCE,
    )
    AepDataflowRunSensor(
        task_id="wait",
        dataflow_id=once.output["dataflow_id"],
        aep_conn_id="aep_fast",
        mode="reschedule",
        **PATIENT | dict(poke_interval=5),
    )

with DAG("broken", schedule=None):
    AepExportDatasetsOperator(
        task_id="export",
        dataset_ids=LEFT,
        destination=AmazonS3(bucket="lake-exports", path="broken"),
        schedule=Once(),
        **WAITING,
    )

with DAG("disabled", schedule=None):
    AepExportDatasetsOperator(
        task_id="export",
        dataset_ids=LEFT,
        destination=AmazonS3(bucket="lake-exports", path="disabled"),
        schedule=Every(hours=12, start="2100-01-01T00:00Z", end="2101-01-01T00:00Z"),
        **WAITING,
    )
"""


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedAdobe]:
    """Its clock begins a day before the first slot and never overtakes Airflow's: a day in 17 seconds."""
    began = FIRST - timedelta(days=1)
    options = ("--start", began.isoformat(), "--speed", "8000", "--arrivals", "9")
    with served_adobe(tmp_path_factory.mktemp("past"), *options) as adobe:
        yield adobe


@pytest.fixture(scope="module")
def fast(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedAdobe]:
    with served_adobe(tmp_path_factory.mktemp("fast"), "--speed", "600", "--run-seconds", "4800") as adobe:
        yield adobe


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, past: ServedAdobe, fast: ServedAdobe) -> Iterator[RealAirflow]:
    home = tmp_path_factory.mktemp("new-user")
    (home / "dags").mkdir()
    (home / "dags" / "new_user.py").write_text(DAGS)
    more = {
        "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags"),
        "AIRFLOW_CONN_AEP_FAST": connections(fast.url)["AIRFLOW_CONN_AEP_DEFAULT"],
    }
    with airflow(home / "airflow", past.url, before_scheduling=backfill, **more) as running:
        yield running


def backfill(real: RealAirflow) -> None:
    """A week of days gone by, three DAG runs at a time, beside the one that the scheduler makes."""
    real.wait_for_dags({"daily", "broken", *TRIGGERED})
    days = {"from_date": FIRST.isoformat(), "to_date": (LAST - timedelta(days=1)).isoformat()}
    for _ in range(10):
        try:
            real.api(
                "POST", "/api/v2/backfills", dag_id="daily", max_active_runs=3, reprocess_behavior="failed", **days
            )
        except httpx.HTTPStatusError:  # SQLite takes one writer at a time; what has been made of it is begun anew
            time.sleep(1)
            for each in real.api("GET", "/api/v2/backfills?dag_id=daily")["backfills"]:
                with contextlib.suppress(httpx.HTTPStatusError):
                    real.api("PUT", f"/api/v2/backfills/{each['id']}/cancel")
        else:
            return
    raise AssertionError(real.server_log())


@pytest.fixture(scope="module")
def triggered(real: RealAirflow) -> dict[str, str]:
    """One DAG run each, all at once: {dag_id: run_id}."""
    return {dag_id: real.trigger(dag_id) for dag_id in TRIGGERED}


def ended(real: RealAirflow, dag_id: str, run_id: str) -> dict[int, dict[str, Any]]:
    """The task instances of `export` by map index, once the DAG run has ended."""
    assert real.wait_for_run(dag_id, run_id) in ("success", "failed")
    listed = real.api("GET", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances")["task_instances"]
    return {each["map_index"]: each for each in listed if each["task_id"] == "export"}


def log_of(real: RealAirflow, dag_id: str) -> str:
    return "\n".join(path.read_text() for path in (real.home / "logs" / f"dag_id={dag_id}").rglob("*.log"))


def result(real: RealAirflow, dag_id: str, run_id: str, map_index: int = -1) -> Any:
    path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/export/xcomEntries/return_value"
    return real.api("GET", f"{path}?map_index={map_index}")["value"]


def test_a_failed_run_fails_the_task_once(real: RealAirflow, fast: ServedAdobe) -> None:
    errors = [{"code": "ACTIVATION_BATCH-0000-FAILED", "message": "Job aborted."}]
    fast.admin("POST", "scripts", outcome="failed", errors=errors)
    run_id = real.trigger("broken")

    (task,) = ended(real, "broken", run_id).values()

    assert task["state"] == "failed"
    told = log_of(real, "broken")
    assert told.count("Task failed with exception") == 1, "it has two retries, which would meet the same run"
    assert "has failed (status 'failed', records read: " in told
    assert "ACTIVATION_BATCH-0000-FAILED: Job aborted." in told
    assert "clearing this task finds the same flow run again" in told


def test_mapped_tasks_of_one_name_do_not_pass_for_each_other(
    real: RealAirflow, fast: ServedAdobe, triggered: dict[str, str]
) -> None:
    run_id = triggered["one_name"]

    tasks = ended(real, "one_name", run_id)

    assert sorted(task["state"] for task in tasks.values()) == ["failed", "success"]
    (green,) = (index for index, task in tasks.items() if task["state"] == "success")
    fast.is_true(result(real, "one_name", run_id, green), [[LEFT, RIGHT][green]])
    assert tasks[1 - green]["try_number"] == 1
    assert "it was set up by another mapped task of this DAG run" in log_of(real, "one_name")


def test_mapped_tasks_with_names_of_their_own_each_export_their_dataset(
    real: RealAirflow, fast: ServedAdobe, triggered: dict[str, str]
) -> None:
    """The very name that the README recommends."""
    assert 'name="… {{ run_id }} {{ ti.map_index }}"' in (Path(__file__).parents[1] / "README.md").read_text()
    run_id = triggered["names_apart"]

    tasks = ended(real, "names_apart", run_id)

    assert {task["state"] for task in tasks.values()} == {"success"}
    for index, dataset in enumerate((LEFT, RIGHT)):
        fast.is_true(result(real, "names_apart", run_id, index), [dataset])


def test_mapped_tasks_without_a_name_each_export_to_their_place(
    real: RealAirflow, fast: ServedAdobe, triggered: dict[str, str]
) -> None:
    run_id = triggered["places"]

    tasks = ended(real, "places", run_id)

    assert {task["state"] for task in tasks.values()} == {"success"}
    results = [result(real, "places", run_id, index) for index in range(3)]
    for place, each in zip(("place-a", "place-b", "place-c"), results, strict=True):
        fast.is_true(each, [LEFT])
        assert all(f"/{place}/" in path for path in fast.paths(each["run_id"]))
    assert len({each["dataflow_id"] for each in results}) == 3
    assert len({each["base_connection_id"] for each in results}) == 2


def test_a_changed_dataset_is_not_exported_in_green(
    real: RealAirflow, fast: ServedAdobe, triggered: dict[str, str]
) -> None:
    first = triggered["changed"]
    (task,) = ended(real, "changed", first).values()
    assert task["state"] == "success"
    fast.is_true(result(real, "changed", first), [LEFT])

    second = real.trigger("changed", dataset=RIGHT)
    (task,) = ended(real, "changed", second).values()

    assert (task["state"], task["try_number"]) == ("failed", 1)
    assert f"dataset_ids is {LEFT}, the DAG says {RIGHT}" in log_of(real, "changed")


def test_a_wait_between_reschedules_finds_its_run(
    real: RealAirflow, fast: ServedAdobe, triggered: dict[str, str]
) -> None:
    run_id = triggered["rescheduled"]

    assert real.wait_for_run("rescheduled", run_id) == "success"

    fast.is_true(result(real, "rescheduled", run_id) | real.xcom("rescheduled", run_id, "wait"), [RIGHT])


def test_a_wait_ends_when_somebody_disables_the_dataflow(
    real: RealAirflow, fast: ServedAdobe, triggered: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = triggered["disabled"]
    path = f"/api/v2/dags/disabled/dagRuns/{run_id}/taskInstances/export"
    for _ in range(60):
        if real.api("GET", path)["state"] == "deferred":
            break
        time.sleep(0.5)
    flow = real.xcom("disabled", run_id, "export", "dataflow_id")
    monkeypatch.setenv("AIRFLOW_CONN_AEP_FAST", connections(fast.url)["AIRFLOW_CONN_AEP_DEFAULT"])
    AepHook("aep_fast").run(Call("POST", f"/flows/{flow}/action", query=[("op", "disable")]))

    (task,) = ended(real, "disabled", run_id).values()

    assert (task["state"], task["try_number"]) == ("failed", 1)
    assert "has no flow run for this DAG run: it is disabled: enable it" in log_of(real, "disabled")


def test_each_day_of_a_backfill_and_the_scheduled_one_get_their_own_flow_run(
    real: RealAirflow, past: ServedAdobe
) -> None:
    """However many run at a time; in the triggerer's own end as in the worker's."""
    runs = real.wait_for_runs("daily", DAYS + 1, seconds=300)
    listed = {each["dag_run_id"]: each for each in real.api("GET", "/api/v2/dags/daily/dagRuns?limit=100")["dag_runs"]}
    assert [listed[run]["state"] for run in runs] == ["success"] * (DAYS + 1), real.logs()[-5000:]
    assert Counter(listed[run]["run_type"] for run in runs) == {"backfill": DAYS, "scheduled": 1}
    due = [datetime.fromisoformat(listed[run]["run_after"]) for run in runs]
    assert due == [FIRST + timedelta(days=day) for day in range(DAYS + 1)]

    found = []
    for moment, run_id in zip(due, runs, strict=True):
        exported, waited = result(real, "daily", run_id), real.xcom("daily", run_id, "wait")
        past.is_true(exported, [LEFT])
        assert waited == {name: exported[name] for name in waited}
        assert real.xcom("daily", run_id, "count") == waited["output_records"]
        slot = moment + timedelta(minutes=30)
        assert slot <= datetime.fromisoformat(exported["created_at"]) < slot + timedelta(days=1)
        assert all(f"exportTime={slot:%Y%m%d%H%M}" in path for path in past.paths(exported["run_id"]))
        found.append(exported["run_id"])
    assert len(set(found)) == DAYS + 1
    told = log_of(real, "daily")
    assert "cannot push the result" not in told
    # Of a day whose run was not there yet at the first look; on a busy machine that need not be the first day.
    next_slots = [FIRST + timedelta(days=day, minutes=30) for day in range(1, DAYS + 2)]
    assert any(f"and before {slot.isoformat().replace('+00:00', 'Z')}" in told for slot in next_slots)
