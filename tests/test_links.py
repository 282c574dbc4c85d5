"""The links on a task's page: to which address they lead, when they show up, and that they never harm the task."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from airflow.sdk import DAG

from airflow_provider_aep import get_provider_info
from airflow_provider_aep.destinations import AmazonS3
from airflow_provider_aep.links import AepDataflowLink, AepDataflowRunLink
from airflow_provider_aep.operators import (
    AepCreateBaseConnectionOperator,
    AepCreateDataflowOperator,
    AepCreateSourceConnectionOperator,
    AepCreateTargetConnectionOperator,
    AepDisableDataflowOperator,
    AepEnableDataflowOperator,
    AepExportDatasetsOperator,
    AepRunDataflowOperator,
)
from airflow_provider_aep.schedules import Every, Once
from airflow_provider_aep.sensors import AepDataflowRunSensor
from tests.adobe.served import DATASET, OTHER_DATASET, ServedAdobe
from tests.airflow_places import DagSerialization, import_string
from tests.conftest import settings_for_tests
from tests.dag_runs import Finished
from tests.tasks import context, ended, later
from tests.test_sensors import MODES, sensor

DATAFLOW, RUN = AepDataflowLink(), AepDataflowRunLink()
FAR = Every(days=1, start="2099-01-01T00:00:00Z", end="2100-01-01T00:00:00Z")
S3: dict[str, Any] = {"destination": AmazonS3("lake-exports", "links"), "destination_conn_id": "aws_exports"}


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Addresses of a UI, which the emulator has not."""
    monkeypatch.setenv("AIRFLOW__AEP__DATAFLOW_URL", "https://ui/{sandbox_name}/{dataflow_id}")
    monkeypatch.setenv("AIRFLOW__AEP__RUN_URL", "https://ui/{sandbox_name}/{dataflow_id}/{run_id}")


@pytest.mark.parametrize("gateway", ["https://platform.adobe.io", "https://platform-nld2.adobe.io"])
def test_the_addresses_of_adobes_ui(gateway: str) -> None:
    settings = settings_for_tests(gateway=gateway, org_id="A" * 24 + "@AdobeOrg", sandbox_name="dev-1")
    page = (
        f"https://experience.adobe.com/#/@{'A' * 24}@AdobeOrg/sname:dev-1/platform/destination/browse/flow-1/activity"
    )

    assert DATAFLOW.address(settings, "flow-1", "run-1") == page
    assert RUN.address(settings, "flow-1", "run-1") == f"{page}/run-1"


@pytest.mark.parametrize(
    "gateway",
    ["http://127.0.0.1:8080", "https://gateway.example.org", "https://evil-adobe.io", "https://adobe.io.x.org"],
)
def test_another_gateway_has_no_pages_unless_they_are_configured(gateway: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_for_tests(gateway=gateway)
    assert (DATAFLOW.address(settings, "flow-1"), RUN.address(settings, "flow-1", "run-1")) == ("", "")

    monkeypatch.setenv("AIRFLOW__AEP__DATAFLOW_URL", "https://ui/{org_id}/{sandbox_name}?flow={dataflow_id}&{other}")
    assert DATAFLOW.address(settings, "flow-1") == f"https://ui/{settings.org_id}/prod?flow=flow-1&{{other}}"
    assert RUN.address(settings, "flow-1", "run-1") == ""


def test_an_id_cannot_change_where_a_link_leads() -> None:
    settings = settings_for_tests(gateway="https://platform.adobe.io")
    assert RUN.address(settings, "flow-1", "{org_id}/../?#").endswith("/flow-1/activity/%7Borg_id%7D%2F..%2F%3F%23")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("begins", ["before", "while"])
def test_a_wait_shows_dataflow_and_run(mode: str, begins: str, adobe: ServedAdobe, pages: None) -> None:
    flow = adobe.dataflow(f"shows {mode} {begins}")
    if begins == "before":
        adobe.run(flow)
    task_context = context()
    run_ids: list[str] = []

    with later(0.3, lambda: run_ids.append(adobe.run(flow)) if begins == "while" else None):
        end = ended(sensor, task_context, dataflow_id=flow, **MODES[mode])

    assert end.state == "success"
    assert task_context["ti"].pushed == {
        DATAFLOW.xcom_key: f"https://ui/prod/{flow}",
        RUN.xcom_key: f"https://ui/prod/{flow}/{end.result['run_id']}",
    }


def test_a_given_run_is_shown_while_it_goes_on(adobe: ServedAdobe, pages: None) -> None:
    """The sandbox is the task's; whether or not results are pushed, links are, as Airflow's own."""
    flow = adobe.dataflow("given")
    run_id = adobe.run(flow, ended=False, seconds=100_000)
    task_context = context()

    ended(sensor, task_context, dataflow_id=flow, run_id=run_id, timeout=0.1, mode="poke", do_xcom_push=False)

    assert task_context["ti"].pushed[RUN.xcom_key] == f"https://ui/prod/{flow}/{run_id}"


def test_a_link_costs_no_request_and_is_pushed_once(adobe: ServedAdobe, pages: None) -> None:
    flow = adobe.dataflow("costs nothing")
    adobe.run(flow)
    pushed: list[str] = []
    task_context = context()
    task_context["ti"].xcom_push = lambda key, value: pushed.append(key)

    sensor(dataflow_id=flow).execute(task_context)
    with_links = adobe.requests()
    adobe.line.sent.clear()
    task = sensor(dataflow_id=flow)
    task.show_links = lambda *_, **__: None  # type: ignore[method-assign]  # the task without its links
    task.execute(task_context)

    assert sorted(pushed) == [DATAFLOW.xcom_key, RUN.xcom_key]
    assert with_links == adobe.requests()


def test_no_link_fails_a_task(adobe: ServedAdobe, pages: None, caplog: pytest.LogCaptureFixture) -> None:
    """As where the API server does not answer at that moment."""
    flow = adobe.dataflow("broken")
    adobe.run(flow)
    task_context = context()
    task_context["ti"].xcom_push = None

    with caplog.at_level(logging.WARNING):
        assert sensor(dataflow_id=flow).execute(task_context)["dataflow_id"] == flow

    assert caplog.text.count("lacks a link to Adobe's UI") == 2


def test_what_changes_or_runs_a_dataflow_shows_it(adobe: ServedAdobe, pages: None) -> None:
    flow = adobe.dataflow("linked life")
    adobe.advance(700)  # until Adobe takes ad hoc runs of it
    pushed: list[dict[str, Any]] = []
    for operator in (AepDisableDataflowOperator, AepEnableDataflowOperator, AepRunDataflowOperator):
        about = context()
        operator(task_id="life", dataflow_id=flow).execute(about)
        pushed.append({key: value for key, value in about["ti"].pushed.items() if key.startswith("_link_")})

    dataflow = {DATAFLOW.xcom_key: f"https://ui/prod/{flow}"}
    assert pushed[:2] == [dataflow, dataflow]
    assert pushed[2].pop(RUN.xcom_key).startswith(f"https://ui/prod/{flow}/")
    assert pushed[2] == dataflow


def run_now(**arguments: Any) -> AepRunDataflowOperator:
    return AepRunDataflowOperator(task_id="run", **arguments)


def test_a_run_that_cannot_start_shows_its_dataflow(adobe: ServedAdobe, pages: None) -> None:
    """While it waits for a new dataflow to be ready, and where it is refused: whoever looks goes there first."""
    flow = adobe.dataflow("linked and too new")
    for state, change in (("retried", None), ("failed", adobe.disable)):
        if change:
            change(flow)
        about = context()
        end = ended(run_now, about, dataflow_id=flow, timeout=0.1)
        assert (end.state, about["ti"].pushed) == (state, {DATAFLOW.xcom_key: f"https://ui/prod/{flow}"})


@contextlib.contextmanager
def hours_pass(adobe: ServedAdobe) -> Iterator[None]:
    """Adobe's clock runs ahead meanwhile, so that what is set up runs and ends."""
    over = threading.Event()

    def move() -> None:
        while not over.wait(0.5):
            adobe.advance(400)

    thread = threading.Thread(target=move)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_airflow_keeps_what_was_pushed(adobe: ServedAdobe, pages: None, run_dag: Callable[..., Finished]) -> None:
    """Of mapped tasks too, and of each step that has a dataflow; the others have no page to lead to."""
    with DAG("links", schedule=None) as dag:
        AepExportDatasetsOperator.partial(
            task_id="mapped", schedule=Once(), wait_for_completion=True, deferrable=True, poke_interval=1, **S3
        ).expand(dataset_ids=[DATASET, OTHER_DATASET])
        source = AepCreateSourceConnectionOperator(task_id="source", dataset_ids=DATASET, name="linked steps")
        base = AepCreateBaseConnectionOperator(task_id="base", **S3)
        target = AepCreateTargetConnectionOperator(
            task_id="target", base_connection_id=base.output, destination=S3["destination"], name="linked steps"
        )
        AepCreateDataflowOperator(
            task_id="dataflow",
            source_connection_id=source.output,
            target_connection_id=target.output,
            destination=S3["destination"],
            schedule=FAR,
            name="linked steps",
        )
    with hours_pass(adobe):
        finished = run_dag(dag)

    assert finished.state == "success"
    xcoms = finished.xcoms()
    for task in ("mapped[0]", "mapped[1]"):
        ids = xcoms[task, "return_value"]
        assert xcoms[task, DATAFLOW.xcom_key] == f"https://ui/prod/{ids['dataflow_id']}"
        assert xcoms[task, RUN.xcom_key] == f"https://ui/prod/{ids['dataflow_id']}/{ids['run_id']}"
    assert xcoms["dataflow", DATAFLOW.xcom_key] == f"https://ui/prod/{xcoms['dataflow', 'return_value']}"
    assert {task for task, key in xcoms if key.startswith("_link_")} == {"mapped[0]", "mapped[1]", "dataflow"}


def test_the_buttons_are_known_without_this_provider() -> None:
    """The scheduler and the API server read names and XCom keys from the stored DAG."""
    with DAG("stored", schedule=None) as dag:
        AepDataflowRunSensor(task_id="wait", dataflow_id="flow-1")
        AepExportDatasetsOperator.partial(task_id="mapped", schedule=FAR, **S3).expand(dataset_ids=[DATASET])
    stored = json.loads(json.dumps(DagSerialization.to_dict(dag)))

    buttons = {DATAFLOW.name: DATAFLOW.xcom_key, RUN.name: RUN.xcom_key}
    for task in stored["dag"]["tasks"]:
        assert task["__var"]["_operator_extra_links"] == buttons
    read = DagSerialization.from_dict(stored)
    assert all(set(task.extra_links) == set(buttons) for task in read.tasks)


def test_every_link_is_registered() -> None:
    registered: Any = get_provider_info()["extra-links"]
    assert [import_string(path) for path in registered] == [AepDataflowLink, AepDataflowRunLink]
