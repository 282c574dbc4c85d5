"""`AepSyncExportsOperator` through Airflow: YAML files, results for other tasks, and how a task with failures ends."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG, task

from airflow_provider_aep.destinations import AmazonS3, destination_type
from airflow_provider_aep.errors import InvalidArgument, SyncFailed
from airflow_provider_aep.hooks import AepHook
from airflow_provider_aep.operators import AepSyncExportsOperator
from airflow_provider_aep.schedules import Every
from airflow_provider_aep.sensors import AepDataflowRunSensor
from airflow_provider_aep.tasks import InvalidTaskArgument
from tests.adobe.served import DATASET, OTHER_DATASET, ServedAdobe, served_adobe
from tests.dag_runs import Finished
from tests.real_airflow import EXAMPLES, SECRETS, connections
from tests.tasks import Ended, context, ended

FAR = Every(days=1, start="2099-01-01T00:00:00Z", end="2100-01-01T00:00:00Z")  # no run of Adobe's own meanwhile


@pytest.fixture(scope="module")
def _own_adobe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedAdobe]:
    """Of its own, since the exports of all tests together may be more than a sandbox takes."""
    options = ("--late-seconds", "0", "--run-start-seconds", "0", "--sandboxes", "prod,dev,empty")
    with served_adobe(tmp_path_factory.mktemp("sync"), *options) as adobe:
        yield adobe


@pytest.fixture
def adobe(_own_adobe: ServedAdobe, monkeypatch: pytest.MonkeyPatch) -> ServedAdobe:
    for name, value in connections(_own_adobe.url).items():
        monkeypatch.setenv(name, value)
    _own_adobe.reset()
    return _own_adobe


def export(name: str, **changes: Any) -> dict[str, Any]:
    return {
        "name": name,
        "dataset_ids": DATASET,
        "destination": AmazonS3("lake-exports", "sync"),
        "destination_conn_id": "aws_exports",
        "schedule": FAR,
        **changes,
    }


def make_sync(**arguments: Any) -> AepSyncExportsOperator:
    return AepSyncExportsOperator(**arguments)


def syncs(
    *exports: Any, ti: dict[str, Any] | None = None, task_id: str = "sync", **arguments: Any
) -> tuple[Ended, Any]:
    """How a sync ends, and what it has pushed to XCom by then."""
    about = context(**(ti or {}))
    done = ended(make_sync, about, task_id=task_id, exports=list(exports), **arguments)
    return done, about["ti"].pushed


def test_a_list_comes_true_and_tells_what_is_there(adobe: ServedAdobe) -> None:
    done, pushed = syncs(export("list a"), export("list b", sandbox_name="dev", dataset_ids=[DATASET, OTHER_DATASET]))
    assert done.state == "success"
    first, second = done.result
    assert (first["sandbox_name"], first["name"], first["action"]) == ("prod", "list a", "create")
    assert (second["sandbox_name"], second["dataset_ids"]) == ("dev", [DATASET, OTHER_DATASET])
    assert set(first) == {
        *("sandbox_name", "name", "action", "dataset_ids", "dataflow_id"),
        *("base_connection_id", "source_connection_id", "target_connection_id"),
    }
    assert pushed == {"failed": [], "pruned": []}
    adobe.line.sent.clear()
    again, _ = syncs(export("list a"), export("list b", sandbox_name="dev", dataset_ids=[DATASET, OTHER_DATASET]))
    assert again.result == [{**row, "action": "keep"} for row in done.result]
    assert len(adobe.requests()) == 8
    assert {each.headers["x-sandbox-name"] for each in adobe.sent} == {"prod", "dev"}


def test_all_results_are_pushed_before_the_task_fails(adobe: ServedAdobe) -> None:
    unknown = export("fail b", dataset_ids="f" * 24)
    done, pushed = syncs(export("fail a"), unknown)
    assert done.state == "failed"
    assert done.message.startswith(
        "1 failed, 1 of 2 exports are as the list says:\nexport 'fail b' in sandbox 'prod': POST /sourceConnections"
    )
    (row,) = pushed["return_value"]
    assert row["name"] == "fail a"
    (failed,) = pushed["failed"]
    assert (failed["sandbox_name"], failed["name"]) == ("prod", "fail b")
    assert "not found" in failed["error"]


def test_it_is_retried_if_one_failure_may_pass(adobe: ServedAdobe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__AEP__VISIBILITY_SECONDS", "0.1")
    adobe.fault("POST /targetConnections", status=503, times=60)
    done, pushed = syncs(export("outage a"), export("outage b", dataset_ids="f" * 24), ti={"try_number": 1})
    assert done.state == "retried"
    assert isinstance(done.error, SyncFailed)
    assert "2 failed, 0 of 2 exports are as the list says" in done.message
    assert len(pushed["failed"]) == 2
    adobe.reset()
    done, _ = syncs(export("outage a"), ti={"try_number": 2})
    assert done.state == "success"


def test_a_plan_alone_changes_nothing_and_tells_refusals(adobe: ServedAdobe) -> None:
    syncs(export("plan a"), export("plan b"), task_id="plan")
    other = export("plan b", destination_conn_id=None, base_connection_id=_another_login(adobe))
    adobe.line.sent.clear()
    done, _ = syncs(export("plan a"), other, export("plan c"), task_id="plan", plan_only=True)
    assert done.state == "success"
    assert {row["name"]: row["action"] for row in done.result[:3]} == {
        "plan a": "keep",
        "plan b": "refuse",
        "plan c": "create",
    }
    assert "Adobe cannot change that" in done.result[1]["why"][0]
    assert all(each.method == "GET" for each in adobe.sent)
    done, _ = syncs(export("plan a", sandbox_name="no-such"), plan_only=True)
    assert (done.state, "no-such" in done.message) == ("failed", True)


def _another_login(adobe: ServedAdobe) -> str:
    from airflow_provider_aep.operators import AepCreateBaseConnectionOperator

    make = AepCreateBaseConnectionOperator(
        task_id="login", name="another", destination=AmazonS3("lake-exports", "a"), destination_conn_id="aws_exports"
    )
    return str(make.execute(context()))


def test_what_left_the_list_is_pruned(adobe: ServedAdobe) -> None:
    done, _ = syncs(export("prune a"), export("prune b"), task_id="prune")
    done, pushed = syncs(export("prune a"), task_id="prune", prune=True)
    assert [row["name"] for row in done.result] == ["prune a"]
    (pruned,) = pushed["pruned"]
    assert (pruned["sandbox_name"], pruned["name"]) == ("prod", "prune b")
    with pytest.raises(
        InvalidTaskArgument, match=r"exports = \[\]: with prune=True, removes every export of this task"
    ):
        AepSyncExportsOperator(task_id="prune", exports=[], prune=True)
    done, pushed = syncs(task_id="prune", prune=True, allow_empty=True)
    assert (done.result, [row["name"] for row in pushed["pruned"]]) == ([], ["prune a"])


def test_a_sandbox_that_left_the_list_is_named_to_be_pruned(adobe: ServedAdobe) -> None:
    syncs(export("left", sandbox_name="empty"), task_id="left")
    _, pushed = syncs(export("stays"), task_id="left", prune=True)
    assert pushed["pruned"] == []
    _, pushed = syncs(export("stays"), task_id="left", prune=True, sandbox_names="empty")
    assert [row["name"] for row in pushed["pruned"]] == ["left"]


def test_a_task_that_was_told_to_stop_does_not_end_as_a_success(adobe: ServedAdobe) -> None:
    stopped = AepSyncExportsOperator(task_id="sync", exports=[export("stopped")])
    stopped.on_kill()
    with pytest.raises(RuntimeError, match="told to stop"):
        stopped.execute(context())
    assert adobe.creations("stopped") == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"exports": [export("a", path="b")]}, "export 'a': path = <hidden"),
        ({"exports": 5}, "exports = <hidden, 1 character>: must be a list of exports"),
        ({"exports": [], "prune": "yes"}, "prune = 'yes': must be True or False"),
        ({"exports": [], "plan_only": None}, "plan_only = None: must be True or False"),
        ({"exports": [], "sandbox_names": [""]}, "sandbox_names = ['']: must be a text or several"),
        ({"exports": "- {name: a", "prune": True}, "cannot be read as YAML"),
    ],
)
def test_wrong_arguments_are_refused_when_the_dag_is_parsed(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidTaskArgument) as error:
        AepSyncExportsOperator(task_id="sync", **arguments)
    assert message in str(error.value)


def test_what_only_the_task_can_know_is_refused_before_anything_is_sent(adobe: ServedAdobe) -> None:
    twice, _ = syncs(export("a"), export("a", sandbox_name="prod"))
    assert (twice.state, "2 exports of sandbox 'prod' have it" in twice.message) == ("failed", True)
    mapped, _ = syncs(export("a"), prune=True, ti={"map_index": 1})
    assert "cannot tell the exports of one mapped task from those of another" in mapped.message
    unknown, _ = syncs(export("a"), export("b", destination_conn_id="no_such"))
    assert unknown.message.startswith("export 'b': destination_conn_id = 'no_such': there is no Airflow connection")
    wrong, _ = syncs(export("a"), sandbox_names=["Prod"])
    assert "sandbox_name = 'Prod': must be a sandbox's name" in wrong.message
    assert adobe.line.sent == []


YAML = f"""
- &daily
  name: "yaml {{{{ params.which }}}}"
  dataset_ids: [{DATASET}]
  destination: {{type: AmazonS3, bucket: lake-exports, path: "yaml/{{{{ params.which }}}}"}}
  destination_conn_id: aws_exports
  schedule: {{type: Every, days: 1, start: 2099-01-01T00:00:00Z, end: 2100-01-01T00:00:00Z}}
- <<: *daily
  name: yaml for development
  sandbox_name: dev
  dataset_ids: [{OTHER_DATASET}]
"""


def test_a_yaml_file_feeds_a_sensor_for_each_export(
    adobe: ServedAdobe, run_dag: Callable[..., Finished], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "exports.yaml").write_text(YAML)

    def wait_for(export: dict[str, Any]) -> dict[str, Any]:
        return {name: export[name] for name in ("dataflow_id", "sandbox_name")}

    def make() -> DAG:
        with DAG("synced", schedule=None, template_searchpath=str(tmp_path), params={"which": "one"}) as dag:
            sync = AepSyncExportsOperator(task_id="sync", exports="exports.yaml")
            runs = AepDataflowRunSensor.partial(
                task_id="wait", after=None, poke_interval=0.2, timeout=30
            ).expand_kwargs(sync.output.map(wait_for))

            @task
            def load(run: dict[str, Any]) -> Any:
                return run["run_id"]

            load.expand(run=runs.output)
        return dag

    with DAG("first", schedule=None, template_searchpath=str(tmp_path), params={"which": "one"}) as first:
        AepSyncExportsOperator(task_id="sync", exports="exports.yaml")
    made = run_dag(first)
    assert made.state == "success"
    assert [row["name"] for row in made.result("sync")] == ["yaml one", "yaml for development"]
    adobe.advance(3600)
    runs = [adobe.run(row["dataflow_id"]) for row in made.result("sync")]
    finished = run_dag(make())
    assert finished.state == "success", finished.states()
    assert {row["action"] for row in finished.result("sync")} == {"keep"}
    assert [finished.xcoms()[f"load[{at}]", "return_value"] for at in (0, 1)] == runs


def test_a_yaml_file_is_checked_when_the_dag_is_parsed(tmp_path: Path) -> None:
    (tmp_path / "exports.yaml").write_text("- {name: a, dataset_id: one}")
    with DAG("wrong", schedule=None, template_searchpath=str(tmp_path)) as dag:
        AepSyncExportsOperator(task_id="sync", exports="exports.yaml")
    with pytest.raises(InvalidTaskArgument, match="export 'a': dataset_id = <hidden, 3 characters>: is none of name, "):
        dag.resolve_template_files()  # type: ignore[no-untyped-call]  # Airflow's is not typed


def test_a_yaml_file_that_is_not_there(run_dag: Callable[..., Finished], caplog: pytest.LogCaptureFixture) -> None:
    with DAG("missing", schedule=None) as dag:
        lost = AepSyncExportsOperator(task_id="sync", exports="no-such.yaml", retries=3)
    with caplog.at_level(logging.CRITICAL):
        dag.resolve_template_files()  # type: ignore[no-untyped-call]  # Airflow's is not typed
    with pytest.raises(InvalidTaskArgument, match=r"file = 'no-such.yaml': there is no such file beside the DAG or in"):
        lost.render_template_fields(context())


def test_the_example_names_exports_that_can_be(adobe: ServedAdobe) -> None:
    done, _ = syncs_text((EXAMPLES / "example_aep_sync.yaml").read_text())
    assert done.state == "success"
    assert len(done.result) == 3


def syncs_text(text: str) -> tuple[Ended, Any]:
    about = context()
    return ended(make_sync, about, task_id="example", exports=text, sandbox_name="dev"), about["ti"].pushed


def test_no_secret_is_told(
    adobe: ServedAdobe, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    adobe.fault("POST /connections", status=403, times=None)
    with caplog.at_level(logging.DEBUG):
        done, pushed = syncs(export("secret", base_connection_name="of this test"), send_credentials=True)
    assert done.state == "failed"
    told = caplog.text + "".join(capfd.readouterr()) + done.message + str(pushed)
    assert not [name for name, secret in SECRETS.items() if secret in told]


def test_each_login_is_read_from_airflow_once(adobe: ServedAdobe) -> None:
    hook = AepHook()
    row = destination_type(AmazonS3("lake-exports", "a"))
    assert hook.destination_login("aws_exports", row) is hook.destination_login("aws_exports", row)
    assert AepHook().destination_login("aws_exports", row) is not hook.destination_login("aws_exports", row)


def test_an_error_of_one_export_keeps_its_parts() -> None:
    with pytest.raises(InvalidArgument) as error:
        AepSyncExportsOperator(task_id="sync", exports=[export("a", file_type="CSV")])
    assert (error.value.argument, error.value.value) == ("export 'a': file_type", "CSV")
