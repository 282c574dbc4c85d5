"""What the README claims: its code runs, its tables name the arguments, its links and figures are true."""

from __future__ import annotations

import asyncio
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from airflow.sdk import DAG

from airflow_provider_aep import destinations, get_provider_info, links, operators, schedules, sensors
from airflow_provider_aep.api import credentials
from airflow_provider_aep.api.provisioning.plan import UNLISTED, Action
from airflow_provider_aep.api.settings import GATEWAY, IMS, Settings
from airflow_provider_aep.arguments import NamedExport
from airflow_provider_aep.hooks import AepHook
from tests.adobe.served import ServedAdobe
from tests.airflow_places import AIRFLOW
from tests.compat import PYTHONS, airflow_of
from tests.dag_runs import Finished
from tests.tasks import context

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def section(title: str) -> str:
    found = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#|\Z)", README, re.DOTALL | re.MULTILINE)
    assert found, title
    return found.group(1)


def table(title: str, header: str) -> dict[str, list[str]]:
    """The rows of a section's table whose header starts so, by their first cell."""
    rows: dict[str, list[str]] = {}
    within = False
    for line in section(title).splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if line.startswith(f"| {header}"):
            within = True
        elif within and not line.startswith("|"):
            break
        elif within and not line.startswith("| ---"):
            rows[cells[0]] = [cell.strip(" |") for cell in cells[1:]]
    assert rows, title
    return rows


@pytest.mark.parametrize("code", blocks("python"))
def test_code_runs(code: str) -> None:
    if "retry_policy" in code and AIRFLOW < (3, 3):
        pytest.skip("Airflow has retry policies since 3.3, as the section says")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_the_connection_shown_is_json() -> None:
    (value,) = re.findall(r"AIRFLOW_CONN_AEP_DEFAULT='(.*?)'", README, re.DOTALL)
    assert json.loads(value)["conn_type"] == "aep"


def test_the_connection_table_tells_the_defaults() -> None:
    rows = table("Connect", "field")
    assert rows["host"][1].strip("`") == GATEWAY
    assert rows["extra `ims_host`"][1].strip("`") == IMS
    limits = Settings("client", "secret", "0" * 24 + "@AdobeOrg")
    told = rows["extra `connect_timeout`, `read_timeout`, `max_retry_after`"][1]
    assert told == f"{limits.connect_seconds}, {limits.read_seconds}, {limits.max_retry_after_seconds}"


def test_every_form_field_is_explained() -> None:
    info: Any = get_provider_info()
    for name in info["connection-types"][0]["conn-fields"]:
        assert f"extra `{name}`" in README


def test_every_operator_and_sensor_is_in_the_table() -> None:
    names = {name.strip("`") for name in table("Operators and sensor", "class")}
    assert names == {*operators.__all__, *sensors.__all__}


def test_the_argument_table_is_the_signature() -> None:
    rows = table("Operators and sensor", "argument")
    named = {name for cell in rows for name in re.findall(r"`(\w+)`", cell)}
    signature = inspect.signature(operators.AepExportDatasetsOperator.__init__).parameters
    own = {name for name in signature if name not in ("self", "kwargs")}
    assert named == own | {"name", "if_exists"}
    for cell, (default, *_) in rows.items():
        names = re.findall(r"`(\w+)`", cell)
        for name, told in zip(names, re.findall(r"`([^`]*)`", default), strict=False):
            parameter = signature.get(name)
            if parameter is None or parameter.default is inspect.Parameter.empty or name == "deferrable":
                continue
            assert told.strip('"') == str(parameter.default), name


def test_the_arguments_of_a_sync_are_its_signature() -> None:
    signature = inspect.signature(operators.AepSyncExportsOperator.__init__).parameters
    rows = table("Exports as code", "argument")
    assert [cell.strip("`") for cell in rows] == [name for name in signature if name not in ("self", "kwargs")]
    for cell, (default, *_) in rows.items():
        told = re.match(r"`(.*)`", default)
        assert str(signature[cell.strip("`")].default) == (told[1] if told else "<class 'inspect._empty'>")


def test_the_yaml_of_a_sync_comes_true(adobe: ServedAdobe) -> None:
    (text,) = blocks("yaml")
    in_the_dag = operators.AepSyncExportsOperator(task_id="sync", exports=text, sandbox_name="dev")
    told = in_the_dag.execute(context())
    assert [(row["sandbox_name"], row["name"]) for row in told] == [
        ("dev", "profiles for analytics"),
        ("dev", "events for analytics"),
    ]
    plan = operators.AepSyncExportsOperator(task_id="sync", exports=text, sandbox_name="dev", plan_only=True)
    actions = {row["action"] for row in plan.execute(context())}
    told_actions = {name for cell in table("Exports as code", "in the plan") for name in re.findall(r"`(\w+)`", cell)}
    assert actions <= told_actions == {*get_args(Action), *UNLISTED}


def test_destinations_and_schedules_are_the_types() -> None:
    rows = table("Destinations", "type")
    assert {name.strip("`") for name in rows} == {kind.__name__ for kind in destinations.DESTINATIONS}
    for kind in destinations.DESTINATIONS:
        assert re.findall(r"`(\w+)`", rows[f"`{kind.__name__}`"][0]) == list(kind._fields)  # type: ignore[attr-defined]
    for cell in table("Schedules", "you write"):
        for code in re.findall(r"`(.*?)`", cell):
            assert eval(code, vars(schedules))
    assert "five years" in section("Schedules")
    assert schedules.DEFAULT_EXPORT_YEARS == 5
    assert schedules.START_DELAY_SECONDS == 300


def test_each_destination_says_where_its_login_comes_from() -> None:
    text = section("Connect")
    assert len(table("Connect", "destination")) == len(destinations.DESTINATIONS)
    for field in ("role_arn", "connection_string", "tenant_id", "private_key"):
        assert field in text
        assert field in inspect.getsource(credentials)


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_every_example_is_listed() -> None:
    for path in (ROOT / "example_dags").glob("*.py"):
        assert f"example_dags/{path.name}" in README


def test_the_commands_are_targets() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`make (\w+)`", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_the_versions_claimed_are_those_tried() -> None:
    tried = {airflow_of(pins): pins for pins in (ROOT / "tests").glob("constraints*.txt")}
    lines = [line.strip("| ").split(" | ") for line in section("Compatibility").splitlines() if line.startswith("| 3.")]
    assert {airflow for airflow, *_ in lines} == set(tried)
    newest = airflow_of(ROOT / "tests" / "constraints.txt")
    pythons = {tuple(map(int, python.split(".")[:2])) for airflow, python, *_ in lines if airflow == newest}
    assert pythons == set(PYTHONS)


@pytest.mark.parametrize("option", sorted(set(re.findall(r"`\[aep\] (\w+)`", README))))
def test_options_exist(option: str) -> None:
    info: Any = get_provider_info()
    assert option in info["config"]["aep"]["options"]


def test_the_links_are_those_of_the_code() -> None:
    rows = table("Links on a task's page", "option")
    assert rows["`dataflow_url`"] == [f"`{links.AepDataflowLink.pattern}`"]
    assert links.AepDataflowRunLink.pattern == f"{links.AepDataflowLink.pattern}/{{run_id}}"
    text = " ".join(section("Links on a task's page").split())
    for link in (links.AepDataflowLink, links.AepDataflowRunLink):
        assert f"*{link.name}*" in text
        assert f"`[aep] {link.option}`" in text


def test_the_tasks_of_ones_own_run(adobe: ServedAdobe, run_dag: Callable[..., Finished]) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", section("In your own tasks"), re.DOTALL)
    code: dict[str, Any] = {}
    exec(block, code)
    with DAG("own_tasks", schedule=None) as dag:
        dataflow_id = code["export"]("Loyalty*")
        if AIRFLOW >= (3, 2):  # as the section says
            code["failed_runs"](dataflow_id)
    with asyncio.Runner() as runner:
        runner.get_loop()  # an async task takes the thread's; without one Airflow makes one and may leave it open
        finished = run_dag(dag)
    assert finished.state == "success"
    assert adobe.creations("loyalty") == ["sourceConnections", "targetConnections", "flows"]
    assert AIRFLOW < (3, 2) or finished.result("failed_runs") == []


def test_the_methods_are_the_hooks() -> None:
    rows = table("In your own tasks", "method")
    for cell in rows:
        method, named = re.fullmatch(r"`(\w+)\((.*)\)`", cell).groups()  # type: ignore[union-attr]
        for name in (method, f"a{method}"):
            assert callable(getattr(AepHook, name))
        taken = {*inspect.signature(getattr(AepHook, method)).parameters, *NamedExport.__annotations__}
        assert set(re.findall(r"\w+", named)) <= taken, method
