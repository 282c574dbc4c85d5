"""Pause, resume and remove as Airflow tasks: what they return, what they refuse, and how they tear down."""

from __future__ import annotations

import importlib.util
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG

from airflow_provider_aep.errors import InvalidArgument
from airflow_provider_aep.operators import (
    AepDeleteExportOperator,
    AepDisableDataflowOperator,
    AepEnableDataflowOperator,
    AepExportDatasetsOperator,
)
from airflow_provider_aep.tasks import InvalidTaskArgument
from tests.adobe.served import ServedAdobe
from tests.airflow_places import AirflowFailException
from tests.dag_runs import Finished
from tests.tasks import context, ended, later

EXAMPLES = Path(__file__).parents[1] / "example_dags"
RunDag = Callable[..., Finished]


@pytest.fixture(autouse=True)
def _lists_are_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the emulator's are, so that nothing that is gone is waited for."""
    monkeypatch.setenv("AIRFLOW__AEP__VISIBILITY_SECONDS", "0.2")
    monkeypatch.setenv("AIRFLOW__AEP__POLL_FLOOR_SECONDS", "0.5")


def left(adobe: ServedAdobe, name: str) -> list[str]:
    """The kinds of what is left of a name, and of removals."""
    creations = adobe.admin("GET", "creations")["creations"]
    return [
        each["kind"]
        for each in creations
        if not each["deleted"] and (each["name"] == name or each["name"].startswith("removal of "))
    ]


def disable(**arguments: Any) -> AepDisableDataflowOperator:
    return AepDisableDataflowOperator(task_id="disable", **arguments)


def enable(**arguments: Any) -> AepEnableDataflowOperator:
    return AepEnableDataflowOperator(task_id="enable", **arguments)


def delete(**arguments: Any) -> AepDeleteExportOperator:
    return AepDeleteExportOperator(task_id="delete", **arguments)


# ---------------------------------------------------------------------------------------------------- states


def test_pause_and_resume(adobe: ServedAdobe) -> None:
    flow = adobe.dataflow("pause and resume")
    for make, state in ((disable, "disabled"), (disable, "disabled"), (enable, "enabled"), (enable, "enabled")):
        end = ended(make, context(), dataflow_id=flow)
        assert end.result == {"dataflow_id": flow, "name": "pause and resume", "state": state}
    assert adobe.requests().count(f"POST /flows/{flow}/action") == 2
    assert all(each.body == b"" for each in adobe.sent)


@pytest.mark.parametrize("make", [disable, enable])
def test_an_unknown_dataflow_is_not_tried_again(make: Any, adobe: ServedAdobe) -> None:
    end = ended(make, context(), dataflow_id="00000000-0000-4000-8000-000000000000")
    assert end.state == "failed"
    assert "FLOW-1439-404" in end.message
    assert isinstance(end.error, AirflowFailException)


@pytest.mark.parametrize("wrong", ["", "None", "a/b", None, 7])
@pytest.mark.parametrize("make", [disable, enable])
def test_a_wrong_id_is_refused_when_the_dag_is_parsed(make: Any, wrong: Any) -> None:
    with pytest.raises(InvalidTaskArgument, match=r"^dataflow_id = .*is the upstream output empty\?"):
        make(dataflow_id=wrong)


# ---------------------------------------------------------------------------------------------------- removal


@pytest.mark.parametrize("by", ["dataflow_id", "name"])
def test_an_export_is_deleted_and_then_gone(
    by: str, adobe: ServedAdobe, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    name = f"deleted by {by}"
    flow = adobe.dataflow(name)
    assert left(adobe, name) == ["sourceConnections", "targetConnections", "flows"]
    given = {"dataflow_id": flow} if by == "dataflow_id" else {"name": name}
    with caplog.at_level(logging.INFO):
        end = ended(delete, context(), **given)
    assert [each["kind"] for each in end.result["deleted"]] == ["dataflow", "target connection", "source connection"]
    assert end.result["deleted"][0]["id"] == flow
    assert end.result["kept"] == []
    assert left(adobe, name) == []
    printed = capfd.readouterr()  # where Airflow's own loggers write
    summary = ", ".join(f"{each['kind']} {each['id']}" for each in end.result["deleted"])
    assert f"deleted: {summary}; kept: nothing" in printed.out + printed.err
    for each in end.result["deleted"]:
        assert f"deleted {each['kind']} {each['id']}" in caplog.text
    with caplog.at_level(logging.INFO):
        again = ended(delete, context(), **given)
    assert again.result == {"deleted": [], "kept": []}
    assert f"{flow if by == 'dataflow_id' else repr(name)} is gone already" in caplog.text


def test_the_login_goes_only_when_asked_and_unused(adobe: ServedAdobe, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (adobe.dataflow(f"one login {n}", base_connection_name="a login of two") for n in (1, 2))
    end = ended(delete, context(), dataflow_id=first, delete_base_connection=True)
    (kept,) = end.result["kept"]
    assert kept["kind"] == "base connection"
    assert "target connection 'one login 2' (" in kept["reason"]
    end = ended(delete, context(), name="one login 2", delete_base_connection=True)
    assert end.result["deleted"][-1] == {"kind": "base connection", "id": kept["id"]}
    assert left(adobe, "a login of two") == []
    assert second == end.result["deleted"][0]["id"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "dataflow_id = None: give either the dataflow's ID or the export's name"),
        ({"dataflow_id": "f", "name": "n"}, "dataflow_id = 'f': give either the dataflow's ID or the export's name"),
        ({"dataflow_id": ""}, "dataflow_id = '': must be an ID as Adobe gives it"),
        ({"name": ""}, "name = '': must be 1 to 255 characters"),
        ({"name": "n", "delete_base_connection": "yes"}, "delete_base_connection = 'yes': must be True or False"),
    ],
)
def test_what_cannot_be_right_is_refused_when_the_dag_is_parsed(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidTaskArgument) as refusal:
        delete(**arguments)
    assert str(refusal.value).startswith(message)


@pytest.mark.parametrize("empty", [None, "", "None"])
@pytest.mark.parametrize("argument", ["dataflow_id", "name"])
def test_an_upstream_output_that_is_empty_is_no_guess(argument: str, empty: Any, adobe: ServedAdobe) -> None:
    """A set-up that never got an ID has pushed none; to delete nothing would be green, and wrong."""

    def make(**arguments: Any) -> AepDeleteExportOperator:
        operator = delete(**{argument: "{{ upstream }}"}, **arguments)
        setattr(operator, argument, empty)
        return operator

    if (argument, empty) == ("name", "None"):  # a name like any other
        return
    end = ended(make, context())
    assert end.state == "failed"
    assert isinstance(end.error, InvalidArgument)
    assert end.message.startswith(f"{argument} = {empty!r}: ")
    assert adobe.requests() == []


# ---------------------------------------------------------------------------------------------------- as a teardown


def example_dag(dag_id: str) -> DAG:
    spec = importlib.util.spec_from_file_location(dag_id, EXAMPLES / f"{dag_id}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    dag: DAG = module.dag
    return dag


@pytest.fixture(params=["example_aep_teardown", "example_aep_ad_hoc"])
def example(request: pytest.FixtureRequest) -> DAG:
    dag = example_dag(request.param)
    export = dag.get_task("export")
    assert isinstance(export, AepExportDatasetsOperator)
    export.poke_interval = 0.5
    return dag


def name_of(dag: DAG, finished: Finished) -> str:
    return f"{dag.dag_id.removeprefix('example_aep_').replace('_', ' ')} {finished.run_id}"


def runs(adobe: ServedAdobe) -> Callable[[], None]:
    """Wait for the next dataflow to be made, and let the time of its run pass."""

    def made() -> int:
        return sum(each["kind"] == "flows" for each in adobe.admin("GET", "creations")["creations"])

    before = made()

    def pass_time() -> None:
        while made() == before:
            time.sleep(0.05)
        adobe.advance(1000)

    return pass_time


def test_an_example_leaves_nothing_at_adobe(example: DAG, adobe: ServedAdobe, run_dag: RunDag) -> None:
    with later(0, runs(adobe)):
        finished = run_dag(example)
    assert (finished.state, set(finished.states().values())) == ("success", {"success"})
    assert [each["kind"] for each in finished.result("delete")["deleted"]] == [
        "dataflow",
        "target connection",
        "source connection",
    ]
    assert left(adobe, name_of(example, finished)) == []
    assert adobe.landed()[finished.result("export")["run_id"]]


def test_an_example_leaves_nothing_where_the_run_failed(example: DAG, adobe: ServedAdobe, run_dag: RunDag) -> None:
    adobe.admin("POST", "scripts", flow_id="*", outcome="failed")
    with later(0, runs(adobe)):
        finished = run_dag(example)
    assert finished.state == "failed"
    assert (finished.states()["export"], finished.states()["delete"]) == ("failed", "success")
    assert left(adobe, name_of(example, finished)) == []


@pytest.mark.parametrize("request_", ["POST /sourceConnections", "POST /targetConnections", "POST /flows"])
def test_an_example_leaves_nothing_where_the_set_up_failed(
    request_: str, example: DAG, adobe: ServedAdobe, run_dag: RunDag
) -> None:
    adobe.fault(request_, status=403)
    finished = run_dag(example)
    assert finished.state == "failed"
    assert (finished.states()["export"], finished.states()["delete"]) == ("failed", "success")
    assert left(adobe, name_of(example, finished)) == []


def test_a_form_that_cannot_be_right_is_refused_before_anything_is_made(adobe: ServedAdobe, run_dag: RunDag) -> None:
    dag = example_dag("example_aep_ad_hoc")
    for conf in ({"dataset_id": "5ef3"}, {"path": ""}, {"path": "a b"}, {"path": "x" * 256}, {"path": 7}):
        with pytest.raises(ValueError, match="Invalid input for param"):
            run_dag(dag, run_conf=conf)
    finished = run_dag(dag, run_conf={"dataset_id": "f" * 24})
    states = {"check": "failed", "export": "upstream_failed", "delete": "upstream_failed"}
    assert (finished.state, finished.states()) == ("failed", states)
    assert {each.method for each in adobe.sent} == {"GET"}
