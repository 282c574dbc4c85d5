"""Every example DAG in a real Airflow, against the emulator in a process of its own; and what may show up nowhere."""

from __future__ import annotations

import gzip
import json
import re
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from airflow_provider_aep.emulator.flow_service.datasets import SEEDED
from tests.adobe.served import served
from tests.airflow_places import AIRFLOW
from tests.real_airflow import EXAMPLES, SECRETS, RealAirflow, airflow

MANY = "example_aep_many"
HEALTH = ("example_aep_health", "example_aep_health_monthly")
TRIGGERED = sorted(
    {path.stem for path in EXAMPLES.glob("example_*.py")} - {"example_aep_scheduled", "example_aep_health"}
)


@pytest.fixture(scope="module")
def adobe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The emulator, an hour in six seconds; a run takes long enough that no wait ends at its first look."""
    folder = tmp_path_factory.mktemp("real")
    with served(folder / "adobe", "--speed", "600", "--run-seconds", "9000") as url:
        yield url, folder


@pytest.fixture(scope="module")
def real(adobe: tuple[str, Path]) -> Iterator[RealAirflow]:
    url, folder = adobe
    with airflow(
        folder / "airflow",
        url,
        AIRFLOW__AEP__DATAFLOW_URL="https://ui/{sandbox_name}/{dataflow_id}",
        AIRFLOW__AEP__RUN_URL="https://ui/{sandbox_name}/{dataflow_id}/{run_id}",
    ) as running:
        running.wait_for_dags({*TRIGGERED, *HEALTH, "example_aep_scheduled"})
        yield running


@pytest.fixture(scope="module")
def triggered(real: RealAirflow) -> dict[str, str]:
    """The example DAGs, triggered at once: dag_id -> run_id. The scheduled one runs by its own schedule."""
    return {dag_id: real.trigger(dag_id) for dag_id in TRIGGERED if dag_id != MANY}


@pytest.fixture(scope="module")
def finished(real: RealAirflow, triggered: dict[str, str]) -> dict[str, str]:
    """And the one of many tasks, which would keep the others from their waits; all of it runs in tests/test_many.py."""
    return {**triggered, MANY: real.trigger(MANY, name_pattern="AAM*")}


def test_deferred_tasks_show_their_dataflow_and_their_run(real: RealAirflow, triggered: dict[str, str]) -> None:
    """While the examples run. The ad hoc export's run is made when the task is deferred already."""
    waits = {"example_aep_ad_hoc": "export", "example_aep_demo": "wait_for_run"}
    paths = {
        dag_id: f"/api/v2/dags/{dag_id}/dagRuns/{triggered[dag_id]}/taskInstances/{task}"
        for dag_id, task in waits.items()
    }
    buttons: dict[str, dict[str, str | None]] = {}
    while len(buttons) < len(waits):
        for dag_id in waits.keys() - buttons.keys():
            seen = real.api("GET", f"{paths[dag_id]}/links")["extra_links"]
            state = real.api("GET", paths[dag_id])["state"]
            assert state not in ("success", "failed"), f"{dag_id}: {seen}"
            if state == "deferred" and seen and all(seen.values()):
                buttons[dag_id] = seen
        time.sleep(0.2)

    for dag_id, task in waits.items():
        assert real.wait_for_run(dag_id, triggered[dag_id]) == "success"
        ended = real.xcom(dag_id, triggered[dag_id], task)
        page = f"https://ui/prod/{ended['dataflow_id']}"
        assert buttons[dag_id] == {"Dataflow at Adobe": page, "Flow run at Adobe": f"{page}/{ended['run_id']}"}
        assert real.api("GET", f"{paths[dag_id]}/links")["extra_links"] == buttons[dag_id]


@pytest.mark.parametrize("dag_id", TRIGGERED)
def test_an_example_runs(dag_id: str, real: RealAirflow, finished: dict[str, str]) -> None:
    state = real.wait_for_run(dag_id, finished[dag_id])

    states = {task: each["state"] for task, each in real.tasks(dag_id, finished[dag_id]).items()}
    assert (state, set(states.values())) == ("success", {"success"}), f"{states}\n{real.logs()[-5000:]}"


def test_the_first_run_of_the_scheduled_example_is_skipped(real: RealAirflow) -> None:
    """Adobe's first slot is later than this DAG run's time, so that it has no flow run; nothing is loaded for it."""
    run_id, *_ = real.wait_for_runs("example_aep_scheduled", 1)

    states = {task: each["state"] for task, each in real.tasks("example_aep_scheduled", run_id).items()}
    assert states == {"set_up": "success", "wait_for_run": "skipped", "load": "skipped"}
    assert "its first slot is later" in real.logs()


@pytest.mark.parametrize("dag_id", HEALTH)
def test_a_check_finds_all_exports_of_the_examples(dag_id: str, real: RealAirflow, finished: dict[str, str]) -> None:
    """Once they are there: a sandbox without any is a problem."""
    for each, run_id in finished.items():
        real.wait_for_run(each, run_id)
    run_id = real.trigger(dag_id)
    state = real.wait_for_run(dag_id, run_id)
    ((task, about),) = real.tasks(dag_id, run_id).items()
    assert (state, about["state"]) == ("success", "success"), real.logs()[-5000:]
    rows = real.xcom(dag_id, run_id, task)
    assert len(rows) >= 7
    assert {row["last_run_status"] for row in rows} <= {"success", "empty", "running", None}


def test_what_landed_is_what_was_seeded(real: RealAirflow, finished: dict[str, str], adobe: tuple[str, Path]) -> None:
    """The demo's own task has read the files; here they are read again, and compared with the run's figures."""
    assert real.wait_for_run("example_aep_demo", finished["example_aep_demo"]) == "success"
    files = real.xcom("example_aep_demo", finished["example_aep_demo"], "read_files")
    run = real.xcom("example_aep_demo", finished["example_aep_demo"], "wait_for_run")

    rows = 0
    for path in (adobe[1] / "adobe" / "s3" / "lake-exports" / "demo").rglob("*.json.gz"):
        with gzip.open(path, "rt") as lines:
            rows += sum(1 for line in lines if json.loads(line))
    seeded = sum(dataset.rows for dataset in SEEDED if dataset.name in ("AAM Devices Data", "Web and App Events"))

    assert (rows, sum(file["rows"] for file in files)) == (seeded, seeded)
    assert (run["output_records"], run["output_files"]) == (seeded, len(files))


def test_the_wait_was_deferred(real: RealAirflow, finished: dict[str, str]) -> None:
    """In the triggerer, with one line for each change of the run's state."""
    run_id = finished["example_aep_demo"]
    assert real.wait_for_run("example_aep_demo", run_id) == "success"
    run = real.xcom("example_aep_demo", run_id, "wait_for_run")
    told = "\n".join(path.read_text() for path in (real.home / "logs").rglob("*task_id=wait_for_run/*trigger*.log"))

    assert f"trigger example_aep_demo/{run_id}/wait_for_run/-1/1" in told
    assert told.count(f"flow run {run['run_id']} of dataflow {run['dataflow_id']} has ended: success") == 1


def test_each_entity_was_made_once(real: RealAirflow, finished: dict[str, str], adobe: tuple[str, Path]) -> None:
    """Eight exports to S3 share one login; no name was given to two entities of a kind."""
    for dag_id, run_id in finished.items():
        real.wait_for_run(dag_id, run_id)
    creations: list[dict[str, Any]] = httpx.get(f"{adobe[0]}/_emulator/creations").json()["creations"]
    # What a lost race has removed again does not count.
    names = [(each["kind"], each["name"]) for each in creations if not each["deleted"]]

    assert sorted(set(names)) == sorted(names)
    assert [name for _, name in names if name == "airflow aws_exports"] == ["airflow aws_exports"]


def test_the_rendered_fields_tell_types_and_options(real: RealAirflow, finished: dict[str, str]) -> None:
    """In Airflow's own list of rendered templates a destination is a bare list of its fields."""
    run_id = finished["example_aep_demo"]
    assert real.wait_for_run("example_aep_demo", run_id) == "success"
    told = real.rendered("example_aep_demo", run_id, "export")["options"]
    assert told["destination"].startswith("AmazonS3(bucket='lake-exports', path='demo/manual__")
    assert (told["schedule"], told["if_exists"]) == ("Once(start=None, end=None)", "reuse")
    assert real.rendered("example_aep_demo", run_id, "wait_for_run")["options"]["on_missing"] == "skip"


def test_airflow_knows_the_provider(real: RealAirflow) -> None:
    listed = json.loads(real.cli("providers", "list", "-o", "json"))
    assert "airflow-provider-aep" in {each["package_name"] for each in listed}
    assert "airflow-provider-aep" in real.cli("providers", "get", "airflow-provider-aep", "--full", "-o", "json")
    hooks = json.loads(real.cli("providers", "hooks", "-o", "json"))
    assert [each["hook_name"] for each in hooks if each["connection_type"] == "aep"] == ["Adobe Experience Platform"]


def test_the_connection_can_be_tested(real: RealAirflow) -> None:
    assert "Connection success!" in real.cli("connections", "test", "aep_default")


def press_test(real: RealAirflow, conn_id: str, **fields: Any) -> tuple[int, Any]:
    """Save a connection, then send what Airflow 3.3.2's list of connections sends for its *Test Connection* button."""
    adobe = json.loads(real.environment["AIRFLOW_CONN_AEP_DEFAULT"])
    given = adobe | fields | {"extra": json.dumps(adobe["extra"] | fields.get("extra", {}))}
    stored = real.api("POST", "/api/v2/connections", connection_id=conn_id, **given)
    # The secret comes as ***; a field that is not stored goes out as an empty text, the port as 0.
    texts = ("conn_type", "connection_id", "description", "host", "login", "password", "schema")
    body = {name: stored[name] or "" for name in texts} | {"extra": stored["extra"], "port": stored["port"] or 0}
    assert body["password"] == "***"
    reply = httpx.post(
        f"http://127.0.0.1:{real.port}/api/v2/connections/test",
        headers={"Authorization": f"Bearer {real.token}"},
        json=body,
        timeout=30,
    )
    return reply.status_code, reply.json()


@pytest.mark.parametrize(
    ("conn_id", "fields", "fine", "message"),
    [
        ("good", {}, True, "Token, organisation, sandbox 'prod' .* and Flow Service right are in order"),
        ("wrong_secret", {"password": "p8e-wrong"}, False, "The token request failed: .* HTTP 401 invalid_client .*"),
        # Whoever leaves the gateway empty gets as far as IMS here, and so past Airflow's own comparison.
        (
            "no_gateway",
            {"password": "p8e-wrong", "host": None},
            False,
            "The token request failed: .* invalid_client .*",
        ),
        (
            "wrong_sandbox",
            {"extra": {"sandbox_name": "nowhere"}},
            False,
            r"The sandbox failed: .* HTTP 404 FLOW-2100-404 Sandbox \[nowhere\] not found.*",
        ),
    ],
)
def test_the_test_button_tells_which_step_failed(
    conn_id: str, fields: dict[str, Any], fine: bool, message: str, real: RealAirflow
) -> None:
    """The port is the one that the form asks for, beside the emulator's own in the gateway's address."""
    status, told = press_test(real, conn_id, port=443, **fields)
    assert (status, told["status"]) == (200, fine), told
    asked = "" if fine else r"\(Adobe request \w+\)"
    assert re.fullmatch(message + asked, told["message"]), told


@pytest.mark.skipif(AIRFLOW < (3, 3), reason="before 3.3 Airflow does not compare host and port with the stored ones")
def test_airflow_itself_refuses_to_test_a_connection_without_a_port(real: RealAirflow) -> None:
    """Why the form asks for the port. Where this fails, Airflow is mended: hide the port and drop the README's row."""
    status, told = press_test(real, "no_port")
    assert status == 400, told
    assert told["detail"].startswith("The host or port to test differs from the stored connection")


@pytest.mark.skipif(AIRFLOW < (3, 2), reason="the form of 3.1 does not read what a provider says of its fields")
def test_the_form_hides_no_field_that_is_needed_and_never_blocks_save(real: RealAirflow) -> None:
    """As the UI gets it: Save is grey while a field without `null` is empty, also in a section that is folded."""
    (form,) = [each for each in real.api("GET", "/ui/connections/hook_meta") if each["connection_type"] == "aep"]
    standard = form["standard_fields"]
    assert {name: field["title"] for name, field in standard.items() if field and not field["hidden"]} == {
        "host": "Gateway",
        "login": "Client ID (x-api-key), required",
        "password": "Client secret, required",
        "port": "Port, required to test",
    }
    assert [name for name, field in form["extra_fields"].items() if "null" not in field["schema"]["type"]] == []
    headings = {name: field["schema"]["section"] for name, field in form["extra_fields"].items()}
    assert "(required)" in headings["org_id"]
    assert "(optional)" in headings["ims_host"]


def test_no_secret_shows_up_anywhere(real: RealAirflow, finished: dict[str, str], adobe: tuple[str, Path]) -> None:
    """Logs of all components and tasks, and every text in Airflow's database: XCom, rendered fields, trigger rows."""
    for dag_id, run_id in finished.items():
        real.wait_for_run(dag_id, run_id)
    told = real.logs()
    with sqlite3.connect(real.home / "airflow.db") as database:
        told += "\n".join(line for line in database.iterdump() if "INSERT" in line)
    database.close()
    assert "read_files" in told

    assert [what for what, secret in SECRETS.items() if secret in told] == []
