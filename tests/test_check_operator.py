"""The task that checks exports: what it takes, tells, returns and does to its DAG run."""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from airflow.sdk import DAG, task

from airflow_provider_aep.api import calls
from airflow_provider_aep.api.entities import DataflowId
from airflow_provider_aep.arguments import PROBLEMS
from airflow_provider_aep.errors import InvalidArgument
from airflow_provider_aep.hooks import AepHook
from airflow_provider_aep.operators import AepCheckDataflowsOperator, AepExportDatasetsOperator
from airflow_provider_aep.operators.check import summary_text, table
from airflow_provider_aep.schedules import Every
from airflow_provider_aep.sensors import AepDataflowRunSensor
from tests.adobe.served import ServedAdobe
from tests.airflow_places import AirflowFailException
from tests.dag_runs import Finished
from tests.tasks import context, ended, later
from tests.test_readme import table as table_of
from tests.test_sensors import GONE, MODES, scheduled, sensor

START = datetime(2026, 1, 1, tzinfo=UTC)
RunDag = Callable[..., Finished]


def check(**arguments: Any) -> AepCheckDataflowsOperator:
    return AepCheckDataflowsOperator(**{"task_id": "check", **arguments})


def printed(capfd: pytest.CaptureFixture[str]) -> str:
    """What a task has logged: Airflow's own loggers print."""
    told = capfd.readouterr()
    return told.out + told.err


def ends_in(adobe: ServedAdobe, days: float) -> Every:
    begin = adobe.now() + timedelta(hours=1)
    return Every(days=1, start=begin, end=begin + timedelta(days=days))


def end_of(dataflow_id: str) -> float:
    flow = AepHook().run(calls.get_dataflow(DataflowId(dataflow_id)))
    return float(flow.schedule["endTime"])


# -- arguments --------------------------------------------------------------------------------------------------------

WRONG: dict[str, dict[str, Any]] = {
    "dataflow_ids = \\[\\]: must name at least one": {"dataflow_ids": []},
    "dataflow_ids = None: must be an ID": {"dataflow_ids": [{"name": "no ID"}]},
    "dataflow_ids = 'a b': must be an ID": {"dataflow_ids": ["a b"]},
    "name_pattern = 'x': give it or dataflow_ids, not both": {"dataflow_ids": "a", "name_pattern": "x"},
    "name_pattern = '': must be a text": {"name_pattern": ""},
    "name_pattern = \\['a'\\]: must be one text": {"name_pattern": ["a"]},
    "on_problem = 'ignore': must be one of fail, warn, skip": {"on_problem": "ignore"},
    "ends_within = 0: must be a timedelta or a number of days": {"ends_within": 0},
    "ends_within = '30': must be": {"ends_within": "30"},
    "extend_end = True: must be": {"extend_end": True},
    "extend_end = inf: must be": {"extend_end": float("inf")},
    "extend_end = 30: must be more than ends_within \\(30 days": {"extend_end": 30},
    "grace = -1: must be": {"grace": -1},
    "empty_runs = 0: must be a number of runs, 1 to 100": {"empty_runs": 0},
    "empty_runs = True: must be": {"empty_runs": True},
    "ignore = 'unmanged': must be one of gone, disabled": {"ignore": ["failed", "unmanged"]},
    "ignore = 5: must be": {"ignore": 5},
}


@pytest.mark.parametrize("message", WRONG)
def test_a_wrong_argument_is_refused_when_the_dag_is_parsed(message: str) -> None:
    with pytest.raises(InvalidArgument, match=f"^{message}"):
        check(**WRONG[message])


@pytest.mark.parametrize("nothing", [None, [], ()])
def test_nothing_may_be_ignored(nothing: Any, adobe: ServedAdobe) -> None:
    task = check(name_pattern="nothing like it*", on_problem="warn", ignore=nothing)
    assert task.execute(context()) == []


def test_what_a_template_renders_to_is_checked_as_well(adobe: ServedAdobe) -> None:
    empty: list[Any] = [[], "None", [None]]
    for rendered in empty:
        late = check(dataflow_ids="{{ nothing }}")
        late.dataflow_ids = rendered  # as Airflow renders it
        with pytest.raises(AirflowFailException, match=r"^dataflow_ids = "):
            late.execute(context())
    assert adobe.requests() == []


def test_docstring_and_readme_explain_every_word_and_every_argument() -> None:
    text = AepCheckDataflowsOperator.__doc__ or ""
    assert [word for word in PROBLEMS if f'"{word}"' not in text] == []
    assert re.findall(r"`(\w+)`", " ".join(table_of("Health", "problem"))) == list(PROBLEMS)
    own = {
        name: each.default
        for name, each in inspect.signature(AepCheckDataflowsOperator.__init__).parameters.items()
        if name not in ("self", "kwargs")
    }
    assert [name for name in own if f":param {name}:" not in text] == []
    told = {
        name: default
        for cell, (default, *_) in table_of("Health", "argument").items()
        for name, default in zip(re.findall(r"`(\w+)`", cell), re.findall(r"`([^`]*)`", default), strict=True)
    }
    assert told == {name: f'"{value}"' if isinstance(value, str) else str(value) for name, value in own.items()}


# -- what it makes of what it finds -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("on_problem", "state"), [("fail", "failed"), ("warn", "success"), ("skip", "skipped")])
def test_what_a_problem_does_to_the_task(
    on_problem: Any, state: str, adobe: ServedAdobe, capfd: pytest.CaptureFixture[str]
) -> None:
    name = f"health: {on_problem}"
    bad = adobe.dataflow(f"{name} bad", schedule=ends_in(adobe, 5))
    good = adobe.dataflow(f"{name} good", schedule=ends_in(adobe, 500))
    about = context()
    end = ended(check, about, name_pattern=f"{name}*", on_problem=on_problem)
    assert end.state == state
    rows = end.result if state == "success" else about["ti"].pushed["return_value"]
    assert [(row["dataflow_id"], row["problems"]) for row in rows] == [(bad, ["ending"]), (good, [])]
    log = printed(capfd)
    told = log if state == "success" else end.message
    assert "problems with 1 of 2 dataset exports of sandbox 'prod' (1 ending):\n" in told
    assert f"\ndataflow '{name} bad' ({bad}): " in told
    lines = log.partition("the exports:\n")[2].splitlines()
    assert lines[0].split() == ["problems", "dataflow", "ID", "state", "ends", "last", "run", "outcome"]
    assert [line.split()[0] for line in lines[1:3]] == ["ending", "none"], "problems first"


def test_without_a_problem_it_says_so(adobe: ServedAdobe, capfd: pytest.CaptureFixture[str]) -> None:
    flow_id = adobe.dataflow("health: fine")
    end = ended(check, context(), dataflow_ids=flow_id)
    assert (end.state, [row["dataflow_id"] for row in end.result]) == ("success", [flow_id])
    assert "no problem with 1 dataset export of sandbox 'prod'" in printed(capfd)


@pytest.mark.parametrize(("on_problem", "state"), [("fail", "failed"), ("warn", "success"), ("skip", "skipped")])
def test_no_export_at_all_is_a_problem(on_problem: Any, state: str, adobe: ServedAdobe) -> None:
    """Whoever deletes all of them by mistake is not to be told that all is well."""
    end = ended(check, context(), name_pattern="nothing like it*", on_problem=on_problem)
    assert end.state == state
    told = "there is no dataset export of a name like 'nothing like it*' in sandbox 'prod'"
    assert end.message == ("" if state == "success" else told)


def test_a_skip_says_why_in_the_log(adobe: ServedAdobe, capfd: pytest.CaptureFixture[str]) -> None:
    """Airflow's web page folds its own line about a skip away. A table without a row says nothing."""
    for given, why in (
        ({"dataflow_ids": GONE}, f"dataflow {GONE}: is unknown to Adobe"),
        ({"name_pattern": "no such export*"}, "no such export*"),
    ):
        assert ended(check, context(), on_problem="skip", **given).state == "skipped"
        log = printed(capfd)
        assert why in log
        assert ("the exports:" in log) == ("dataflow_ids" in given)


def test_ids_come_as_an_id_several_or_what_set_ups_return(adobe: ServedAdobe) -> None:
    one, two = adobe.dataflow("health: one"), adobe.dataflow("health: two")
    result = {"dataflow_id": one, "dataset_ids": ["x"]}
    for given in (one, result, [one, one], [result, {"dataflow_id": one}]):
        end = ended(check, context(), dataflow_ids=given)
        assert [row["dataflow_id"] for row in end.result] == [one]
    assert {row["dataflow_id"] for row in ended(check, context(), dataflow_ids=[result, two]).result} == {one, two}


def test_a_message_names_twenty_and_counts_the_rest() -> None:
    row = {"name": "n", "dataflow_id": "i", "problems": ["failed", "ending"], "details": ["has failed", "will end"]}
    told = summary_text([row] * 25, "prod", None)
    assert told.startswith(
        "problems with 25 of 25 dataset exports of sandbox 'prod' (25 failed, 25 ending):\ndataflow 'n'"
    )
    assert told.count("dataflow 'n' (i): has failed; will end") == 20
    assert told.endswith("\n5 more stand in the log's table")


def test_the_table_of_nothing_has_a_head() -> None:
    assert table([]).count("\n") == 1


# -- the end is moved -------------------------------------------------------------------------------------------------


def test_an_end_is_moved_and_the_log_tells_both_values(
    adobe: ServedAdobe, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    flow_id = adobe.dataflow("health: extended", schedule=ends_in(adobe, 5))
    before = end_of(flow_id)
    with caplog.at_level(logging.INFO):
        end = ended(check, context(), dataflow_ids=flow_id, extend_end=timedelta(days=365))
    (row,) = end.result
    assert (end.state, row["problems"]) == ("success", [])
    assert end_of(flow_id) == pytest.approx(adobe.now().timestamp() + 365 * 86_400, abs=60)
    assert datetime.fromisoformat(row["extended_from"]).timestamp() == before
    assert datetime.fromisoformat(row["ends_at"]).timestamp() == end_of(flow_id)
    log = printed(capfd)
    assert (
        f"its end was {datetime.fromtimestamp(before, UTC).isoformat().replace('+00:00', 'Z')} and is " in caplog.text
    )
    assert f"(was {row['extended_from'][:10]})" in log


@pytest.mark.parametrize("mode", MODES)
def test_a_wait_for_an_own_slot_goes_on_while_the_end_is_moved(mode: str, adobe: ServedAdobe) -> None:
    """And a DAG run that is cleared afterwards finds the same run again."""
    flow_id = adobe.dataflow(f"health: waits {mode}", schedule=ends_in(adobe, 5))
    begin = AepHook().run(calls.get_dataflow(DataflowId(flow_id))).schedule["startTime"]
    due = datetime.fromtimestamp(begin, UTC)
    about, make_dag = scheduled(due, due + timedelta(days=1))

    def happens() -> None:
        assert ended(check, context(), dataflow_ids=flow_id, extend_end=365).state == "success"
        adobe.advance(3600 + 200)

    arguments = {"dataflow_id": flow_id, "after": "dag_run", "poke_interval": 0.3, "timeout": 30, **MODES[mode]}

    def make(**given: Any) -> AepDataflowRunSensor:
        made: AepDataflowRunSensor = sensor(**given, dag=make_dag())
        return made

    with later(1, happens):
        first = ended(make, about, **arguments)
    assert first.state == "success", first
    assert end_of(flow_id) > begin + 300 * 86_400
    again, _ = scheduled(due, due + timedelta(days=1))
    adobe.advance(86_400 * 3)
    assert ended(make, again, **arguments).result["run_id"] == first.result["run_id"]


# -- through a scheduler's database -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("on_problem", "states"),
    [
        ("fail", {"check": "failed", "alarm": "success", "look": "upstream_failed"}),
        ("skip", {"check": "skipped", "alarm": "success", "look": "skipped"}),
        ("warn", {"check": "success", "alarm": "success", "look": "success"}),
    ],
)
def test_the_result_is_in_xcom_however_the_task_ends(
    on_problem: Any, states: dict[str, str], adobe: ServedAdobe, run_dag: RunDag
) -> None:
    """Two exports of one task, checked by the output of both, whose first is about to end."""
    ids = [
        adobe.dataflow(f"health: dag {number}", schedule=ends_in(adobe, days)) for number, days in enumerate((9, 99))
    ]
    with DAG(f"health_{on_problem}", schedule=None, start_date=START) as dag:

        @task
        def exports() -> list[dict[str, str]]:
            return [{"dataflow_id": each} for each in ids]

        limits = {"ends_within": timedelta(days=30), "grace": timedelta(hours=6), "ignore": ["empty"]}
        retries = {"retries": 3, "retry_delay": timedelta(days=1)}
        checked = check(dataflow_ids=exports(), on_problem=on_problem, **limits, **retries)

        @task(trigger_rule="all_done")
        def alarm(rows: list[dict[str, Any]]) -> list[str]:
            return [row["dataflow_id"] for row in rows if row["problems"]]

        @task
        def look(rows: list[dict[str, Any]]) -> int:
            return len(rows)

        alarm(checked.output)  # type: ignore[arg-type]
        look(checked.output)  # type: ignore[arg-type]

    finished = run_dag(dag)
    told = finished.states()
    assert {name: told[name] for name in states} == states
    assert finished.result("alarm") == [ids[0]]
    assert finished.tries()["check"] == 1
    assert [row["problems"] for row in finished.result("check")] == [["ending"], []]


def test_a_mapped_task_for_each_export_that_was_checked(adobe: ServedAdobe, run_dag: RunDag) -> None:
    """`expand` over the output, and over the sandboxes."""
    ids = [adobe.dataflow(f"health: mapped {number}") for number in range(2)]
    with DAG("health_mapped", schedule=None, start_date=START) as dag:
        checked = check(dataflow_ids=ids, on_problem="warn")

        @task
        def name_of(row: dict[str, Any]) -> str:
            return str(row["name"])

        name_of.expand(row=checked.output)
        AepCheckDataflowsOperator.partial(task_id="each", name_pattern="nothing*", on_problem="warn").expand(
            sandbox_name=["prod", "dev"]
        )
    finished = run_dag(dag)
    assert set(finished.states().values()) == {"success"}
    assert {finished.result(f"name_of[{at}]") for at in (0, 1)} == {"health: mapped 0", "health: mapped 1"}
    assert [finished.result(f"each[{at}]") for at in (0, 1)] == [[], []]


def test_the_output_of_an_export_is_checked(adobe: ServedAdobe, run_dag: RunDag) -> None:
    from airflow_provider_aep.destinations import AmazonS3

    with DAG("health_of_export", schedule=None, start_date=START) as dag:
        export = AepExportDatasetsOperator(
            task_id="export",
            dataset_ids="5ef3e3259ad2a1191ab7dd7d",
            destination=AmazonS3("lake-exports", "health"),
            destination_conn_id="aws_exports",
            schedule=Every(days=1),
        )
        check(dataflow_ids=export.output)
    finished = run_dag(dag)
    assert finished.states() == {"export": "success", "check": "success"}
    assert [row["dataflow_id"] for row in finished.result("check")] == [finished.result("export")["dataflow_id"]]
