"""Every operator for real: what arrives at Adobe, what lands, what is returned, and what a wait makes of it."""

from __future__ import annotations

import gzip
import json
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from airflow.sdk import DAG, task

from airflow_provider_aep.api.calls import DATAFLOWS, get_dataflow, patch_entity
from airflow_provider_aep.api.entities import DataflowId
from airflow_provider_aep.destinations import (
    DESTINATIONS,
    AmazonS3,
    DataLandingZone,
)
from airflow_provider_aep.emulator.flow_service.datasets import SEEDED
from airflow_provider_aep.errors import PlatformUnavailable
from airflow_provider_aep.hooks import AepHook
from airflow_provider_aep.operators import (
    AepCreateBaseConnectionOperator,
    AepCreateDataflowOperator,
    AepCreateSourceConnectionOperator,
    AepCreateTargetConnectionOperator,
    AepExportDatasetsOperator,
    AepListDatasetsOperator,
)
from airflow_provider_aep.schedules import Every, Once
from airflow_provider_aep.sensors import AepDataflowRunSensor
from tests.adobe.served import DATASET, OTHER_DATASET, ServedAdobe
from tests.airflow_places import AirflowFailException, AirflowSkipException, TaskDeferred
from tests.dag_runs import Finished
from tests.destination_samples import SAMPLES
from tests.tasks import context, ended, later

START = datetime(2026, 1, 1, tzinfo=UTC)
FAR = Every(days=1, start="2099-01-01T00:00:00Z", end="2100-01-01T00:00:00Z")  # no run of Adobe's own meanwhile
RunDag = Callable[..., Finished]


@pytest.fixture(autouse=True)
def _sample_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, sample in SAMPLES.items():
        if sample.airflow_connection:
            monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id_of(name)}".upper(), json.dumps(sample.airflow_connection))


def conn_id_of(name: str) -> str | None:
    """The Airflow connection of a sample; None where its destination takes no login."""
    return f"of_{name.replace('-', '_').lower()}" if SAMPLES[name].login_type else None


# ---------------------------------------------------------------------------------------------------- bodies

FORMATS = [("JSON", "GZIP", None), ("PARQUET", "GZIP", True), ("PARQUET", "NONE", False)]


@pytest.mark.parametrize("key", SAMPLES)
def test_what_arrives_is_what_adobe_documents(key: str, adobe: ServedAdobe) -> None:
    """But for a description, which tells whose it is; and one POST for each entity."""
    sample, name = SAMPLES[key], f"bodies: {key}"
    file_type, compression, manifest = FORMATS[list(SAMPLES).index(key) % len(FORMATS)]
    start = adobe.now().replace(microsecond=0) + timedelta(days=2)

    result = AepExportDatasetsOperator(
        task_id="export",
        dataset_ids=[DATASET, OTHER_DATASET],
        destination=sample.destination,
        destination_conn_id=conn_id_of(key),
        base_connection_name=f"base of {name}",
        schedule=Every(hours=6, start=start, end=start + timedelta(days=90)),
        file_type=file_type,
        compression=compression,
        include_file_manifest=manifest,
        folder_template="%DESTINATION%/%DATASET_ID%/%EXPORT_TIME%",
        name=name,
    ).execute(context())

    assert sorted(each for each in adobe.requests() if each.startswith("POST")) == [
        "POST /connections",
        "POST /flows",
        "POST /sourceConnections",
        "POST /targetConnections",
    ]
    (base,), (source,) = adobe.bodies("POST /connections"), adobe.bodies("POST /sourceConnections")
    (target,), (flow,) = adobe.bodies("POST /targetConnections"), adobe.bodies("POST /flows")
    for body in (base, source, target, flow):
        assert body.pop("description").startswith("Made by airflow-provider-aep")

    documented = sample.base_connection
    expected = {"name": f"base of {name}", "connectionSpec": documented["connectionSpec"]}
    if sample.login_type:
        expected["auth"] = documented["auth"] | {"params": sample.params}
    assert base == expected

    assert source == {
        "name": name,
        "connectionSpec": {"id": "23598e46-f560-407b-88d5-ea6207e49db0", "version": "1.0"},
        "params": {"datasets": [_named(DATASET, source), _named(OTHER_DATASET, source)]},
    }
    format_params: dict[str, Any] = {"compression": compression, "datasetFileType": file_type}
    if manifest is not None:
        format_params["includeFileManifest"] = manifest
    assert target == sample.target_connection | {
        "name": name,
        "baseConnectionId": result["base_connection_id"],
        "params": sample.target_connection["params"] | format_params,
    }

    assert flow == {
        "name": name,
        "flowSpec": {"id": DESTINATIONS[type(sample.destination)].flow_spec, "version": "1.0"},
        "sourceConnectionIds": [result["source_connection_id"]],
        "targetConnectionIds": [result["target_connection_id"]],
        "transformations": [],
        "scheduleParams": {
            "interval": 6,
            "timeUnit": "hour",
            "exportMode": "FIRST_FULL_THEN_INCREMENTAL",
            "startTime": int(start.timestamp()),
            "endTime": int((start + timedelta(days=90)).timestamp()),
            "foldernameTemplate": "%DESTINATION%/%DATASET_ID%/%EXPORT_TIME%",
        },
    }


@pytest.mark.parametrize("key", SAMPLES)
@pytest.mark.parametrize("if_exists", ["reuse", "update"])
def test_an_unchanged_export_is_found_again(if_exists: Any, key: str, adobe: ServedAdobe) -> None:
    """With each destination and each way of logging in."""
    conn_id, name = conn_id_of(key), f"again: {key} {if_exists}"

    def set_up() -> Any:
        return AepExportDatasetsOperator(
            task_id="export",
            dataset_ids=DATASET,
            destination=SAMPLES[key].destination,
            destination_conn_id=conn_id,
            base_connection_name=f"base of {name}",
            schedule=Every(hours=6, start="2099-01-01T00:00Z", end="2100-01-01T00:00Z"),
            name=name,
            if_exists=if_exists,
        ).execute(context())

    first = set_up()
    adobe.line.sent.clear()
    assert set_up() == first
    changed = [] if if_exists == "reuse" or conn_id is None else [f"PATCH /connections/{first['base_connection_id']}"]
    assert [each for each in adobe.requests() if not each.startswith("GET")] == changed


def _named(dataset: str, source: Any) -> dict[str, str]:
    """Adobe's samples give a dataset's name too, which is optional."""
    sent: dict[str, str] = next(each for each in source["params"]["datasets"] if each["dataSetId"] == dataset)
    assert set(sent) <= {"dataSetId", "name"}
    return sent


def test_every_request_names_credential_organisation_and_sandbox(adobe: ServedAdobe) -> None:
    AepListDatasetsOperator(task_id="find", sandbox_name="dev").execute(context())

    for each in adobe.sent:
        assert each.headers["x-sandbox-name"] == "dev"
        assert each.headers["authorization"].startswith("Bearer ")
        assert each.headers["x-gw-ims-org-id"].endswith("@AdobeOrg")
        assert each.headers["x-api-key"]
        assert ("content-type" in each.headers) == bool(each.body)


# ---------------------------------------------------------------------------------------------------- list


def test_datasets_by_id_name_and_pattern(adobe: ServedAdobe) -> None:
    def found(**arguments: Any) -> list[str]:
        listed = AepListDatasetsOperator(task_id="find", **arguments).execute(context())
        assert all(set(each) == {"id", "name", "description", "state"} for each in listed)
        return [each["id"] for each in listed]

    everything = found()
    assert sorted(everything) == sorted(each.id for each in SEEDED)
    assert found(dataset_ids=[everything[1], everything[0]]) == [everything[1], everything[0]]
    assert found(names=SEEDED[1].name) == [SEEDED[1].id]
    assert found(name_pattern=f"{SEEDED[0].name[:5]}*") == [
        each.id for each in SEEDED if each.name.startswith(SEEDED[0].name[:5])
    ]
    assert found(name_pattern="nothing like it*", on_empty="succeed") == []
    with pytest.raises(
        AirflowFailException, match=r"name_pattern = 'nothing like it\*': no matching dataset .*on_empty='fail'"
    ):
        found(name_pattern="nothing like it*")
    with pytest.raises(AirflowSkipException, match=r"dataset may be exported from sandbox 'prod' \(on_empty='skip'\)"):
        found(name_pattern="nothing like it*", on_empty="skip")
    with pytest.raises(AirflowFailException, match=r"names = \['No such'\].*No such is not among"):
        found(names="No such")


# ------------------------------------------------------------------------------------- through a scheduler's database


def test_an_export_step_by_step(adobe: ServedAdobe, run_dag: RunDag) -> None:
    """Datasets found, four steps, and a mapped wait; each step's result is the next one's argument."""
    destination = AmazonS3("lake-exports", "of/{{ dag.dag_id }}")
    with DAG("steps", schedule=None, start_date=START) as dag:
        datasets = AepListDatasetsOperator(task_id="find", names=[SEEDED[0].name, SEEDED[1].name])
        base = AepCreateBaseConnectionOperator(
            task_id="base", destination=destination, destination_conn_id="aws_exports", name="base of steps"
        )
        source = AepCreateSourceConnectionOperator(task_id="source", dataset_ids=datasets.output)
        target = AepCreateTargetConnectionOperator(
            task_id="target",
            base_connection_id=base.output,
            destination=destination,
            file_type="JSON",
        )
        AepCreateDataflowOperator(
            task_id="flow",
            source_connection_id=source.output,
            target_connection_id=target.output,
            destination=destination,
            schedule=Once(),
        )

    first, second = run_dag(dag), run_dag(dag)

    assert first.states() == dict.fromkeys(("find", "base", "source", "target", "flow"), "success")
    assert first.xcoms() == {**second.xcoms()}, "a second run finds what the first one made"
    assert [adobe.creations(f"steps.{step}") for step in ("source", "target", "flow")] == [
        ["sourceConnections"],
        ["targetConnections"],
        ["flows"],
    ]
    (body,) = adobe.bodies("POST /targetConnections")
    assert body["params"]["path"] == "of/steps"

    adobe.advance(400)  # past the start of a one-time export
    adobe.advance(200)
    wait = AepDataflowRunSensor(task_id="wait", dataflow_id=first.result("flow"), after=None, deferrable=False)
    run = wait.execute(context())
    files = list((adobe.data / "s3" / "lake-exports" / "of" / "steps").rglob("*.json.gz"))
    rows = sum(len(gzip.decompress(file.read_bytes()).splitlines()) for file in files)
    assert rows == run["output_records"] == SEEDED[0].rows + SEEDED[1].rows
    assert len(files) == run["output_files"]


def test_one_export_for_each_dataset_found(adobe: ServedAdobe, run_dag: RunDag) -> None:
    """`expand` over a list's output; named by what they export, so that the order of the list means nothing."""

    def dag_of(names: list[str]) -> DAG:
        with DAG("mapped", schedule=None, start_date=START) as dag:
            found = AepListDatasetsOperator(task_id="find", names=names)
            AepExportDatasetsOperator.partial(
                task_id="export",
                destination=DataLandingZone("mapped"),
                schedule=Every(days=1),
            ).expand(dataset_ids=found.output)
        return dag

    names = [SEEDED[0].name, SEEDED[1].name]
    first, second = run_dag(dag_of(names)), run_dag(dag_of(names[::-1]))

    assert first.states() == second.states() == {"find": "success", "export[0]": "success", "export[1]": "success"}
    flows = [first.xcoms()[f"export[{index}]", "dataflow_id"] for index in (0, 1)]
    assert [second.xcoms()[f"export[{index}]", "dataflow_id"] for index in (1, 0)] == flows
    assert len(set(flows)) == 2
    assert first.result("export[0]")["dataset_ids"] == [SEEDED[0].id]
    made = {body["name"] for body in adobe.bodies("POST /flows")}
    assert len(made) == 2
    assert all(re.fullmatch(r"mapped\.export [0-9a-f]{8}", name) for name in made)


def test_mapped_exports_to_two_accounts_are_two(adobe: ServedAdobe) -> None:
    """The container of ADLS stands in the login: same path, other account."""

    def export(conn_id: str | None, map_index: int) -> Any:
        operator = AepExportDatasetsOperator(
            task_id="accounts",
            dataset_ids=DATASET,
            destination=AmazonS3("lake-exports", "accounts"),
            destination_conn_id=conn_id,
            schedule=Every(days=1),
            dag=DAG("accounts", schedule=None),
        )
        return operator.execute(context(map_index=map_index))

    first, second = export("aws_exports", 0), export(conn_id_of("AmazonS3-S3AssumedRole"), 1)

    assert first["base_connection_id"] != second["base_connection_id"]
    assert first["dataflow_id"] != second["dataflow_id"]
    assert first["target_connection_id"] != second["target_connection_id"]


def test_a_whole_export_waits_in_the_triggerer(adobe: ServedAdobe, run_dag: RunDag) -> None:
    """Set up, deferred, resumed, and each part of the result to be had by its name; then an outlet of the wait."""
    with DAG("whole", schedule=None, start_date=START) as dag:
        export = AepExportDatasetsOperator(
            task_id="export",
            dataset_ids=DATASET,
            destination=AmazonS3("lake-exports", "whole"),
            destination_conn_id="aws_exports",
            schedule=Once(),
            wait_for_completion=True,
            deferrable=True,
            poke_interval=1,
            timeout=timedelta(minutes=1),
        )

        @task
        def told(dataflow_id: str, records: int) -> list[Any]:
            return [dataflow_id, records]

        told(export.output["dataflow_id"], export.output["output_records"])  # type: ignore[index]

    def happens() -> None:
        while not adobe.creations("whole.export").count("flows"):
            time.sleep(0.1)
        adobe.advance(400)  # past the start of a one-time export
        adobe.advance(200)

    with later(0, happens):
        finished = run_dag(dag)

    assert finished.states() == {"export": "success", "told": "success"}
    result = finished.result("export")
    assert finished.result("told") == [result["dataflow_id"], SEEDED[0].rows]
    assert {key: value for (task_id, key), value in finished.xcoms().items() if task_id == "export"} == {
        "return_value": result,
        **result,
        # What Airflow keeps of its own accord for a button: no address, as the emulator has no user interface.
        "_link_AepDataflowLink": "",
        "_link_AepDataflowRunLink": "",
    }


def test_what_cannot_succeed_is_not_tried_again(adobe: ServedAdobe, run_dag: RunDag) -> None:
    with DAG("final", schedule=None, start_date=START, default_args={"retries": 3, "retry_delay": timedelta(0)}) as dag:

        @task
        def bucket() -> str:
            return "Not A Bucket"

        @task
        def nobody() -> list[str]:
            return ["nonsense"]

        common: dict[str, Any] = {"destination_conn_id": "aws_exports", "schedule": Once()}
        AepExportDatasetsOperator(
            task_id="rendered", dataset_ids=DATASET, destination=AmazonS3(bucket(), "a"), **common
        )
        AepExportDatasetsOperator.partial(task_id="mapped", destination=AmazonS3("lake-exports", "a"), **common).expand(
            dataset_ids=nobody()
        )
        AepExportDatasetsOperator(
            task_id="unknown", dataset_ids="0" * 24, destination=AmazonS3("lake-exports", "a"), **common
        )
        AepListDatasetsOperator(task_id="misnamed", names="No such")

    finished = run_dag(dag)

    ends = {key: (state, finished.tries()[key]) for key, state in finished.states().items()}
    assert ends == {
        "bucket": ("success", 1),
        "nobody": ("success", 1),
        "rendered": ("failed", 1),
        "mapped[0]": ("failed", 1),
        "unknown": ("failed", 1),
        "misnamed": ("failed", 1),
    }


@pytest.mark.parametrize("run_type", ["manual", "scheduled"])
def test_by_default_a_wait_begins_when_the_dag_run_could(run_type: str, adobe: ServedAdobe, run_dag: RunDag) -> None:
    """Neither an older run satisfies it, nor does it need a data interval, which a manual run may not have."""
    flow = adobe.dataflow(f"default after: {run_type}")
    adobe.run(flow, "failed")
    since = adobe.now()
    wanted = adobe.run(flow)
    adobe.run(flow, "failed")
    with DAG(f"after_{run_type}", schedule=None if run_type == "manual" else "@hourly", start_date=START) as dag:
        AepDataflowRunSensor(task_id="wait", dataflow_id=flow, poke_interval=1, timeout=5, deferrable=True)

    finished = run_dag(dag, run_after=since, logical_date=None if run_type == "manual" else since)

    assert finished.states() == {"wait": "success"}
    assert finished.result("wait")["run_id"] == wanted


# ---------------------------------------------------------------------------------------------------- waiting


@pytest.mark.parametrize("deferrable", [True, False])
def test_a_change_while_the_task_waits_does_not_end_in_green(deferrable: bool, adobe: ServedAdobe) -> None:
    """On the worker and in the triggerer alike: a colleague gives the dataflow another source connection."""
    name = f"changed meanwhile: {deferrable}"
    arguments = {"name": name, "schedule": Every(hours=12, start="2099-01-01T00:00Z"), "deferrable": deferrable}
    flow = export_and_wait(**arguments | {"wait_for_completion": False}).execute(context())["dataflow_id"]
    other = AepCreateSourceConnectionOperator(task_id="other", dataset_ids=OTHER_DATASET, name="by a colleague")

    def change_and_run() -> None:
        dataflow = AepHook().run(get_dataflow(DataflowId(flow)))
        swap = [{"op": "replace", "path": "/sourceConnectionIds", "value": [other.execute(context())]}]
        AepHook().run(patch_entity(DATAFLOWS, flow, etag=dataflow.etag, operations=swap))
        adobe.run(flow)

    with later(0.8, change_and_run):
        end = ended(export_and_wait, context(), **arguments)

    assert (end.state, "was changed while the task waited: source_connection_id is" in end.message) == ("failed", True)


def export_and_wait(**arguments: Any) -> AepExportDatasetsOperator:
    given: dict[str, Any] = {
        "task_id": "export",
        "dataset_ids": DATASET,
        "destination": AmazonS3("lake-exports", "waits"),
        "destination_conn_id": "aws_exports",
        "wait_for_completion": True,
        "after": None,
        "poke_interval": 0.5,
        "timeout": 30,
        "deferrable": False,
    }
    return AepExportDatasetsOperator(**given | arguments)


@pytest.mark.parametrize("deferrable", [False, True])
@pytest.mark.parametrize("outcome", ["success", "partial", "failed", "empty"])
@pytest.mark.parametrize("ends", ["before", "while"])
def test_a_wait_ends_alike_here_and_there(outcome: str, ends: str, deferrable: bool, adobe: ServedAdobe) -> None:
    name = f"alike {outcome} {ends} {deferrable}"
    flow = adobe.dataflow(name, schedule=FAR)
    run_id = adobe.run(flow, outcome, ended=ends == "before")
    task_context = context()

    with later(0.3, lambda: adobe.advance(200) if ends == "while" else None):
        end = ended(export_and_wait, task_context, name=name, schedule=FAR, deferrable=deferrable, on_partial="skip")

    expected = {"success": "success", "partial": "skipped", "failed": "failed", "empty": "success"}
    assert end.state == expected[outcome], end
    if end.state == "success":
        assert (end.result["dataflow_id"], end.result["run_id"], end.result["status"]) == (flow, run_id, outcome)
        assert end.result["dataset_ids"] == [DATASET]
        assert {"base_connection_id", "source_connection_id", "target_connection_id"} < set(end.result)
    else:
        assert run_id in end.message
    # Known before the wait began, and told at once.
    assert task_context["ti"].pushed["dataflow_id"] == flow
    assert [each for each in adobe.requests() if not each.startswith("GET")] == []


def test_without_xcom_nothing_is_pushed(adobe: ServedAdobe) -> None:
    flow = adobe.dataflow("no xcom", schedule=FAR)
    adobe.run(flow)
    task_context = context()

    export_and_wait(name="no xcom", schedule=FAR, do_xcom_push=False).execute(task_context)

    assert task_context["ti"].pushed == {}


@pytest.mark.parametrize("deferrable", [False, True])
def test_a_wait_times_out_and_may_be_tried_again(deferrable: bool, adobe: ServedAdobe) -> None:
    end = ended(
        export_and_wait,
        context(),
        name=f"times out {deferrable}",
        schedule=FAR,
        timeout=1.2,
        deferrable=deferrable,
    )

    assert end.state == "retried"
    assert "timed out: there is no run of dataflow" in end.message


@pytest.mark.parametrize("deferrable", [False, True])
def test_an_outage_does_not_end_a_wait(deferrable: bool, adobe: ServedAdobe) -> None:
    name = f"outage {deferrable}"
    flow = adobe.dataflow(name, schedule=FAR)
    run_id = adobe.run(flow, ended=False)

    def happens() -> None:
        adobe.fault("GET /runs*", "reset")
        adobe.advance(200)

    with later(0.7, happens):
        end = ended(export_and_wait, context(), name=name, schedule=FAR, deferrable=deferrable)

    assert (end.state, end.result["run_id"]) == ("success", run_id), end


def test_the_deferral_carries_what_was_set_up(adobe: ServedAdobe) -> None:
    """`defer(kwargs=…)` is lost in `dag.test()`; and the deadline counts `execution_timeout`."""
    operator = export_and_wait(
        name="carried", schedule=FAR, deferrable=True, timeout=3600, execution_timeout=timedelta(seconds=100)
    )
    with pytest.raises(TaskDeferred) as deferral:
        operator.execute(context())

    trigger = deferral.value.trigger
    assert trigger.carry["dataflow_id"] == trigger.dataflow_id
    assert 90 < trigger.deadline - time.time() <= 100
    for event in (None, {"version": 2}, {"version": 1, "status": "ended", "run": _run_event(), "carry": None}):
        with pytest.raises(ValueError, match="event"):
            operator.execute_complete(context(), event)


def _run_event() -> dict[str, Any]:
    from tests.test_run_wait import RUN

    return RUN.as_event()


# ---------------------------------------------------------------------------------------------------- trouble


@pytest.mark.parametrize("deferrable", [False, True])
def test_after_sigterm_it_does_not_end_as_a_success(deferrable: bool, adobe: ServedAdobe) -> None:
    """Airflow calls `on_kill` and lets the task go on; what is set up stays, and the next try finds it."""
    flow = adobe.dataflow(f"killed {deferrable}", schedule=FAR)
    adobe.run(flow)
    operator = export_and_wait(name=f"killed {deferrable}", schedule=FAR, deferrable=deferrable)
    operator.on_kill()

    with pytest.raises(RuntimeError, match="told to stop"):
        operator.execute(context())
    assert export_and_wait(name=f"killed {deferrable}", schedule=FAR).execute(context())["dataflow_id"] == flow


def test_sigterm_ends_a_wait_within_a_second(adobe: ServedAdobe) -> None:
    operator = export_and_wait(name="killed while waiting", schedule=FAR, poke_interval=60, timeout=600)
    began = time.monotonic()
    with later(0.7, operator.on_kill), pytest.raises(RuntimeError, match="told to stop"):
        operator.execute(context())
    assert time.monotonic() - began < 5


def test_a_refusal_is_final_and_an_outage_is_not(adobe: ServedAdobe) -> None:
    arguments: dict[str, Any] = {"task_id": "source", "dataset_ids": DATASET, "name": "refused"}
    adobe.fault("GET /sourceConnections", status=403)
    with pytest.raises(AirflowFailException, match=r"403.*role and permissions"):
        AepCreateSourceConnectionOperator(**arguments).execute(context())

    adobe.fault("POST /sourceConnections", status=400)
    with pytest.raises(AirflowFailException, match="HTTP 400"):
        AepCreateSourceConnectionOperator(**arguments).execute(context())

    adobe.fault("GET /connectionSpecs*", status=503, retry_after="1", times=None)
    with pytest.raises(PlatformUnavailable):
        AepListDatasetsOperator(task_id="find").execute(context())


@pytest.mark.parametrize(
    ("conn_id", "words"),
    [
        ("wasb_exports", "field conn_type = 'wasb': is for another storage"),
        ("no_such", "no_such"),
    ],
)
def test_a_login_that_does_not_fit_is_refused_before_a_request(conn_id: str, words: str, adobe: ServedAdobe) -> None:
    operator = export_and_wait(name="login", schedule=FAR, destination_conn_id=conn_id)
    with pytest.raises(Exception, match=words):
        operator.execute(context())
    assert adobe.requests() == []


def test_a_default_name_that_is_too_long_says_what_to_do(adobe: ServedAdobe) -> None:
    operator = export_and_wait(task_id="t" * 200, schedule=FAR, dag=DAG("d" * 60, schedule=None))
    with pytest.raises(AirflowFailException, match=r"name .default: dag_id\.task_id. = .*1 to 255"):
        operator.execute(context())
    assert adobe.requests() == []
