"""Every message that the README quotes is provoked for real, and says what the README says."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib import import_module
from types import ModuleType
from typing import Any

import pytest
from airflow._shared.secrets_masker import SecretsMasker as CoreSecretsMasker
from airflow.providers.common.compat.sdk import AirflowSkipException, AirflowTaskTimeout
from airflow.sdk import DAG
from airflow.sdk._shared.secrets_masker import SecretsMasker

from airflow_provider_aep.api import calls
from airflow_provider_aep.api.entities import (
    BaseConnectionId,
    DataflowId,
    DatasetId,
    FlowRun,
    FlowRunId,
    RunError,
    RunStatus,
)
from airflow_provider_aep.api.wire import read_flow_run
from airflow_provider_aep.destinations import AmazonS3, destination_type, target_params
from airflow_provider_aep.errors import AccessDenied, FlowRunFailed, RequestRefused
from airflow_provider_aep.hooks import AepHook
from airflow_provider_aep.operators import (
    AepCheckDataflowsOperator,
    AepCreateBaseConnectionOperator,
    AepCreateSourceConnectionOperator,
    AepCreateTargetConnectionOperator,
    AepExportDatasetsOperator,
    AepListDatasetsOperator,
    AepRunDataflowOperator,
)
from airflow_provider_aep.schedules import Every, Once
from airflow_provider_aep.sensors import AepDataflowRunSensor
from airflow_provider_aep.triggers import AepDataflowRunTrigger
from tests.adobe.served import DATASET, OTHER_DATASET, ServedAdobe
from tests.canned import answers, ok
from tests.conftest import Runner, settings_for_tests
from tests.dag_runs import Finished
from tests.tasks import context, ended, events_of, later
from tests.test_readme import README, table
from tests.test_sensors import GONE, MODES, scheduled, sensor

FAR = Every(days=1, start="2099-01-01T00:00:00Z", end="2100-01-01T00:00:00Z")  # no run of Adobe's own meanwhile

#: Rows whose message no process of ours can provoke, and why.
SEEN_IN_A_BROWSER_ONLY = {
    "Bad Request": "Airflow's web page says it, about what its own form has sent; the provider is not asked",
    "invalid_client": "only Airflow 3.3.1 tests with *** in the secret's place; the message is that of a wrong secret",
}


def troubleshooting() -> dict[str, str]:
    """The messages that the table quotes, and what it says to do."""
    rows = table("Troubleshooting", "message")
    return {quote: todo[0] for cell, todo in rows.items() for quote in re.findall(r"`(.*?)`", cell)}


def quoted_in_prose() -> set[str]:
    """What the README quotes elsewhere: in quotation marks, or what stands at an error's end."""
    prose = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    return {
        *re.findall(r'"([^"\n]*…)"', re.sub(r"`[^`]*`", "", prose)),
        *re.findall(r"`(\([A-Z][^`\n]*…\))`", prose),
    }


def says(text: str, quote: str) -> bool:
    """Whether a text holds a quotation, exactly, but for `…`, which stands for anything on one line."""
    return re.search(".*".join(map(re.escape, quote.split("…"))), text) is not None


@dataclass
class Stage:
    """All that it takes to provoke a message: Adobe, Airflow, and somebody who writes down what is said."""

    adobe: ServedAdobe
    caplog: pytest.LogCaptureFixture
    capfd: pytest.CaptureFixture[str]
    monkeypatch: pytest.MonkeyPatch
    run_dag: Callable[..., Finished]

    def failure(self, work: Callable[[], Any]) -> str:
        """What an error says that ends a task."""
        with pytest.raises(Exception) as failure:  # noqa: PT011 - the caller compares what it says
            work()
        return str(failure.value)

    def logged(self, work: Callable[[], Any]) -> str:
        """What stands in the log of a task that goes on."""
        self.caplog.clear()
        self.capfd.readouterr()
        with self.caplog.at_level(logging.INFO):
            work()
        printed = self.capfd.readouterr()  # where Airflow's own loggers write, such as a trigger's
        return self.caplog.text + printed.out + printed.err

    def connection(self, conn_id: str, **changes: Any) -> None:
        """Change an Airflow connection."""
        variable = f"AIRFLOW_CONN_{conn_id.upper()}"
        fields = json.loads(os.environ[variable])
        extra = {**fields.get("extra", {}), **changes.pop("extra", {})}
        self.monkeypatch.setenv(variable, json.dumps({**fields, **changes, "extra": extra}))

    def connection_test(self) -> str:
        """What the form's Test button shows."""
        fine, said = AepHook().test_connection()
        assert not fine
        return said

    def export(self, name: str, **arguments: Any) -> dict[str, Any]:
        """Set up an export; `ti` is what is particular to its task instance."""
        given: dict[str, Any] = {
            "task_id": "export",
            "dataset_ids": DATASET,
            "destination": AmazonS3("lake-exports", "messages"),
            "destination_conn_id": "aws_exports",
            "schedule": FAR,
            "name": name,
        }
        ti = arguments.pop("ti", {})
        result: dict[str, Any] = AepExportDatasetsOperator(**given | arguments).execute(context(**ti))
        return result

    def wait(self, flow: str, about: Any = None, **arguments: Any) -> Any:
        given: dict[str, Any] = {"task_id": "wait", "after": None, "poke_interval": 0.2, "timeout": 20}
        task = AepDataflowRunSensor(dataflow_id=flow, deferrable=False, **given | arguments)
        return task.execute(about or context())

    def wait_of_a_dag_run(self, flow: str, due: datetime, every: timedelta, **arguments: Any) -> Any:
        """The wait of a scheduled DAG run."""
        about, make_dag = scheduled(due, due + every)
        return self.wait(flow, about, after="dag_run", dag=make_dag(), **arguments)


@pytest.fixture
def stage(
    adobe: ServedAdobe,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    run_dag: Callable[..., Finished],
) -> Stage:
    return Stage(adobe, caplog, capfd, monkeypatch, run_dag)


Provocation = Callable[[Stage], str]
PROVOCATIONS: dict[str, Provocation] = {}  # `test_rare_messages` has more
IN_PROSE: dict[str, Provocation] = {}


def provokes(quote: str, into: dict[str, Provocation] = PROVOCATIONS) -> Callable[[Provocation], Provocation]:
    def add(provocation: Provocation) -> Provocation:
        assert quote not in into
        into[quote] = provocation
        return provocation

    return add


# -- the connection -------------------------------------------------------------------------------------------------


@provokes("The token request failed: … invalid_client")
def _wrong_secret(stage: Stage) -> str:
    stage.connection("aep_default", password="p8e-wrong")
    return stage.connection_test()


@provokes("The organisation failed: …")
def _wrong_organisation(stage: Stage) -> str:
    stage.connection("aep_default", extra={"org_id": "F" * 24 + "@AdobeOrg"})
    return stage.connection_test()


@provokes("The sandbox failed: …")
def _wrong_sandbox(stage: Stage) -> str:
    stage.connection("aep_default", extra={"sandbox_name": "porduction"})
    return stage.connection_test()


@provokes("there is no Airflow connection of this ID")
def _missing_connection(stage: Stage) -> str:
    return stage.failure(lambda: stage.export("no connection", destination_conn_id="aws_expotrs"))


# -- what a DAG says ------------------------------------------------------------------------------------------------


@provokes("… is undefined: this DAG run has no logical date, so no …")
def _no_logical_date(stage: Stage) -> str:
    """A DAG run that somebody triggers without a date, as Airflow 3 does by default."""
    with DAG("undefined", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC)) as dag:
        AepExportDatasetsOperator(
            task_id="export",
            dataset_ids=DATASET,
            destination=AmazonS3("lake-exports", "{{ ds }}"),
            destination_conn_id="aws_exports",
            schedule=FAR,
        )

    def run() -> None:
        finished = stage.run_dag(dag, run_after=datetime.now(UTC), logical_date=None)
        assert finished.states() == {"export": "failed"}

    return stage.logged(run)


@provokes("destination.path = '…': must hold only letters, …")
def _path(stage: Stage) -> str:
    return stage.failure(lambda: AmazonS3("lake-exports", "profiles/day=2026-01-01"))


@provokes("compression = 'NONE': must be GZIP")
def _compression(stage: Stage) -> str:
    return stage.failure(lambda: stage.export("uncompressed", file_type="JSON", compression="NONE"))


@provokes("is not among the … datasets that may be exported")
def _unknown_dataset(stage: Stage) -> str:
    return stage.failure(lambda: AepListDatasetsOperator(task_id="find", names="No such").execute(context()))


@provokes("… may be exported from sandbox …")
def _no_dataset_of_the_pattern(stage: Stage) -> str:
    return stage.failure(lambda: AepListDatasetsOperator(task_id="find", name_pattern="no such*").execute(context()))


# -- what Adobe refuses ---------------------------------------------------------------------------------------------


@provokes("HTTP 403 FLOW-2118-403")
def _permission(stage: Stage) -> str:
    """The emulator refuses nothing for want of a permission: its 403 is rewritten to the words of the catalogue."""
    refusal = {
        "type": "https://ns.adobe.com/aep/errors/FLOW-2118-403",
        "title": "User does not have permission to perform this operation",
        "status": 403,
    }
    stage.adobe.fault("GET /flows", status=403)
    stage.adobe.line.rewrite = lambda text: json.dumps(refusal).encode() if b"Emulated trouble" in text else text
    return stage.failure(lambda: stage.export("not permitted"))


@provokes("HTTP 404 FLOW-1439-404")
def _unknown_dataflow(stage: Stage) -> str:
    return stage.failure(lambda: stage.wait(GONE))


# -- what is there already ------------------------------------------------------------------------------------------


@provokes("if_exists is …, and other data would be exported than the DAG says: …")
def _other_data(stage: Stage) -> str:
    stage.export("other data")
    return stage.failure(lambda: stage.export("other data", dataset_ids=OTHER_DATASET))


@provokes("flow run … was created at …, before … was changed at …")
def _a_run_of_before_a_change(stage: Stage) -> str:
    ids = stage.export("a run of before")
    stage.adobe.run(ids["dataflow_id"])
    changed = {"dataset_ids": OTHER_DATASET, "if_exists": "update", "wait_for_completion": True, "after": None}
    return stage.failure(lambda: stage.export("a run of before", deferrable=False, **changed))


@provokes("flow run … may have exported other data than the DAG says: … was changed while the task waited: …")
def _a_change_meanwhile(stage: Stage) -> str:
    ids = stage.export("meanwhile")
    target_id = ids["target_connection_id"]

    def change_and_run() -> None:
        elsewhere = [{"op": "replace", "path": "/params/path", "value": "elsewhere"}]
        target = AepHook().run(calls.get_target_connection(target_id))
        AepHook().run(calls.patch_entity(calls.TARGET_CONNECTIONS, target_id, etag=target.etag, operations=elsewhere))
        stage.adobe.run(ids["dataflow_id"])

    with later(1, change_and_run):
        waiting = {"wait_for_completion": True, "after": None, "deferrable": False, "poke_interval": 1}
        return stage.failure(lambda: stage.export("meanwhile", **waiting))


@provokes("… it was set up by another mapped task of this DAG run")
def _two_mapped_tasks(stage: Stage) -> str:
    stage.export("two mapped", ti={"map_index": 0})
    return stage.failure(lambda: stage.export("two mapped", dataset_ids=OTHER_DATASET, ti={"map_index": 1}))


@provokes("… is reused as it is: …")
def _another_schedule(stage: Stage) -> str:
    stage.export("another schedule")
    other = Every(hours=12, start="2099-01-01T00:00:00Z", end="2100-01-01T00:00:00Z")
    return stage.logged(lambda: stage.export("another schedule", schedule=other))


@provokes("base connection … is gone, so … exports nothing; it was not made by this provider")
def _lost_login(stage: Stage) -> str:
    """A target connection that somebody made by hand, and whose login somebody has deleted since."""
    place = AmazonS3("lake-exports", "messages")
    hook = AepHook()

    def login(name: str) -> BaseConnectionId:
        task = AepCreateBaseConnectionOperator(
            task_id="login", destination=place, destination_conn_id="aws_exports", name=name
        )
        return BaseConnectionId(task.execute(context()))

    lost = login("lost login")
    params = target_params(place, file_type="PARQUET", compression="GZIP")
    hook.run(calls.create_target_connection("by hand", lost, destination_type(place).connection_spec, params))
    hook.run(calls.delete_entity(calls.BASE_CONNECTIONS, lost))
    task = AepCreateTargetConnectionOperator(
        task_id="target", base_connection_id=login("another login"), destination=place, name="by hand"
    )
    return stage.failure(lambda: task.execute(context()))


@provokes("dataflow … at …; if_exists='update' gives it a later end")
def _near_end(stage: Stage) -> str:
    now = stage.adobe.now().replace(microsecond=0)
    ending = Every(days=1, start=now + timedelta(days=2), end=now + timedelta(days=5))
    stage.export("near end", schedule=ending)
    return stage.logged(lambda: stage.export("near end", schedule=ending))


@provokes("… are named …: … Delete or rename all but one")
def _two_of_one_name(stage: Stage) -> str:
    for _ in range(2):
        AepHook().run(calls.create_source_connection("twice by hand", [DatasetId(DATASET)]))
    task = AepCreateSourceConnectionOperator(task_id="source", dataset_ids=DATASET, name="twice by hand")
    return stage.failure(lambda: task.execute(context()))


# -- waits ----------------------------------------------------------------------------------------------------------


@provokes("the wait has timed out: …")
def _no_run_in_time(stage: Stage) -> str:
    flow = stage.adobe.dataflow("messages: no run in time")
    return stage.failure(lambda: stage.wait(flow, timeout=0.5))


@provokes("has no flow run for this DAG run: it is disabled")
def _disabled(stage: Stage) -> str:
    flow = stage.adobe.dataflow("messages: disabled")
    stage.adobe.disable(flow)
    return stage.failure(lambda: stage.wait(flow))


@provokes("has no flow run for this DAG run: it has ended at …")
def _ended(stage: Stage) -> str:
    now = stage.adobe.now()
    schedule = Every(hours=3, start=now + timedelta(hours=1), end=now + timedelta(hours=2))
    flow = stage.adobe.dataflow("messages: ended", schedule=schedule)
    stage.adobe.advance(3 * 3600)
    return stage.failure(lambda: stage.wait(flow, after=stage.adobe.now()))


@provokes("has no flow run for this DAG run: its first slot is later")
def _first_slot_is_later(stage: Stage) -> str:
    now = stage.adobe.now()
    flow = stage.adobe.dataflow("messages: later", schedule=Every(hours=3, start=now + timedelta(hours=2)))
    return stage.failure(lambda: stage.wait_of_a_dag_run(flow, now, timedelta(hours=1)))


@provokes("has no flow run for this DAG run: it exports once, …")
def _exported_once(stage: Stage) -> str:
    flow = stage.adobe.dataflow("messages: once", schedule=Once())
    stage.adobe.advance(600)
    return stage.failure(lambda: stage.wait(flow, after=stage.adobe.now()))


@provokes("has no flow run for this DAG run: Adobe has made no run for the slot")
def _slot_without_a_run(stage: Stage) -> str:
    now = stage.adobe.now()
    flow = stage.adobe.dataflow("messages: passed", schedule=Every(hours=3, start=now + timedelta(hours=1)))
    stage.adobe.disable(flow)
    stage.adobe.advance(2 * 3600)
    stage.adobe.enable(flow)
    stage.adobe.advance(3 * 3600)
    return stage.failure(lambda: stage.wait_of_a_dag_run(flow, now, timedelta(hours=3)))


@provokes("flow run … has failed … ACTIVATION_BATCH-…")
def _failed_run(stage: Stage) -> str:
    flow = stage.adobe.dataflow("messages: failed")
    stage.adobe.run(flow, "failed")
    return stage.failure(lambda: stage.wait(flow))


@provokes("flow run … has failed, and …")
def _failed_twice(stage: Stage) -> str:
    flow = stage.adobe.dataflow("messages: failed twice")
    for _ in range(2):
        stage.adobe.run(flow, "failed")
    return stage.failure(lambda: stage.wait(flow, rerun_failed=1))


@provokes("flow run … has exported a part only …")
def _partial_run(stage: Stage) -> str:
    flow = stage.adobe.dataflow("messages: partial")
    stage.adobe.run(flow, "partial")
    return stage.failure(lambda: stage.wait(flow))


# -- ad hoc runs ------------------------------------------------------------------------------------------------------


def _run_now(flow: str, **arguments: Any) -> Any:
    return AepRunDataflowOperator(task_id="run", dataflow_id=flow, **arguments).execute(context())


@provokes("Adobe is not ready to run the dataflow; asking again in … s: …")
def _not_ready(stage: Stage) -> str:
    flow = stage.adobe.dataflow("messages: not ready")
    return stage.logged(lambda: stage.failure(lambda: _run_now(flow, timeout=0.5)))


@provokes("flow run … of an earlier slot is still under way")
def _earlier_slot(stage: Stage) -> str:
    flow = stage.adobe.dataflow("messages: earlier slot")
    stage.adobe.advance(600)
    stage.adobe.run(flow, ended=False, seconds=5000)
    since = stage.adobe.now() + timedelta(seconds=1)
    stage.adobe.advance(2)
    stage.adobe.run(flow, "failed")
    return stage.logged(lambda: stage.failure(lambda: stage.wait(flow, after=since, rerun_failed=1, timeout=0.5)))


@provokes("Adhoc run can not be executed for Flow spec=…")
def _not_allow_listed(stage: Stage) -> str:
    """The emulator that all tests share lists every storage."""
    flow = stage.adobe.dataflow("messages: not listed")
    words = b"Flow for id x is incorrect. Error is [Adhoc run can not be executed for Flow spec=y]"
    stage.adobe.line.rewrite = lambda text: (
        json.dumps({"message": words.decode()}).encode() if b"10 min" in text else text
    )
    return stage.failure(lambda: _run_now(flow))


@provokes("dataflow … is running already; taking that run, which may be of other datasets: …")
def _running_already(stage: Stage) -> str:
    flow = stage.adobe.dataflow("messages: running already")
    stage.adobe.advance(600)
    stage.adobe.run(flow, ended=False)
    return stage.logged(lambda: _run_now(flow))


@provokes("Adobe has started flow run …, but none for dataset …")
def _one_dataset_only(stage: Stage) -> str:
    flow = stage.adobe.dataflow("messages: one dataset only", dataset_ids=[DATASET, OTHER_DATASET])
    stage.adobe.advance(600)

    def without_one(text: bytes) -> bytes:
        if b"statusURL" not in text:
            return text
        reply = json.loads(text)
        del reply["destinations"][0]["datasets"][1]
        return json.dumps(reply).encode()

    stage.adobe.line.rewrite = without_one
    return stage.failure(lambda: _run_now(flow))


@provokes("dataflow … so Adobe does not run it: enable it first")
def _run_now_of_a_disabled_one(stage: Stage) -> str:
    flow = stage.adobe.dataflow("messages: run now of a disabled one")
    stage.adobe.disable(flow)
    return stage.failure(lambda: _run_now(flow))


# -- outages and warnings -------------------------------------------------------------------------------------------


@provokes("…; trying again in … s (attempt … of 6)")
def _outage_of_a_set_up(stage: Stage) -> str:
    stage.adobe.fault("GET /connectionSpecs*", status=503)
    return stage.logged(lambda: AepListDatasetsOperator(task_id="find").execute(context()))


@provokes("…; the wait goes on")
def _outage_of_a_wait(stage: Stage) -> str:
    """In the triggerer, which polls anew by itself."""
    flow = stage.adobe.dataflow("messages: outage")
    stage.adobe.run(flow)
    stage.adobe.fault("GET /runs*", status=503)
    trigger = AepDataflowRunTrigger(
        aep_conn_id="aep_default", dataflow_id=flow, deadline=time.time() + 30, poll_seconds=1
    )
    return stage.logged(lambda: asyncio.run(events_of(trigger)))


@provokes("airflow_provider_aep.retry_policy needs Airflow 3.3 or later")
def _no_retry_policies(stage: Stage) -> str:
    """As on an older Airflow, whose `airflow.sdk` has none."""
    stage.monkeypatch.setitem(sys.modules, "airflow.sdk", ModuleType("airflow.sdk"))
    stage.monkeypatch.delitem(sys.modules, "airflow_provider_aep.retry_policy", raising=False)
    return stage.failure(lambda: import_module("airflow_provider_aep.retry_policy"))


@provokes("the task's page lacks a link to Adobe's UI: …")
def _no_link(stage: Stage) -> str:
    """As where Airflow's API server does not answer."""
    flow = stage.adobe.dataflow("messages: no link")
    stage.adobe.run(flow)
    stage.monkeypatch.setenv("AIRFLOW__AEP__DATAFLOW_URL", "https://ui/{dataflow_id}")
    task_context = context()
    task_context["ti"].xcom_push = None
    return stage.logged(lambda: sensor(dataflow_id=flow).execute(task_context))


@provokes("Skipping masking for a secret as it's too short")
def _short_sandbox_name(stage: Stage) -> str:
    """Airflow says it once in a process, whenever it reads the connection; outside of tasks 3.1 has another masker."""
    for masker in (SecretsMasker, CoreSecretsMasker):
        stage.monkeypatch.setattr(masker, "_has_warned_short_secret", False)
    stage.connection("aep_default", extra={"sandbox_name": None})
    assert "too short" not in stage.logged(lambda: AepHook().settings())
    stage.connection("aep_default", extra={"sandbox_name": "prod"})
    return stage.logged(lambda: AepHook().settings())


# -- elsewhere in the README ----------------------------------------------------------------------------------------


@provokes("Made by airflow-provider-aep for …", IN_PROSE)
def _mark(stage: Stage) -> str:
    ids = stage.export("marked")
    return str(AepHook().run(calls.get_dataflow(ids["dataflow_id"])).description)


@provokes("(Adobe request …)", IN_PROSE)
def _request_id(stage: Stage) -> str:
    text = _unknown_dataflow(stage)
    assert re.search(r"\(Adobe request \w{24}\)$", text), text
    return text


# -- the tests ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quote", [*PROVOCATIONS, *IN_PROSE])
def test_what_is_said_is_what_the_readme_quotes(quote: str, stage: Stage) -> None:
    text = {**PROVOCATIONS, **IN_PROSE}[quote](stage)
    assert says(text, quote), text


# -- what somebody reads who is woken at night ------------------------------------------------------------------------


IN_A_SANDBOX: dict[str, Callable[[Stage, str | None], Any]] = {
    "list": lambda _, sandbox: AepListDatasetsOperator(task_id="t", sandbox_name=sandbox).execute(context()),
    "step": lambda _, sandbox: AepCreateSourceConnectionOperator(
        task_id="t", dataset_ids=DATASET, sandbox_name=sandbox
    ).execute(context()),
    "export": lambda stage, sandbox: stage.export("typo", sandbox_name=sandbox),
    "poke": lambda stage, sandbox: stage.wait(GONE, sandbox_name=sandbox),
    "hook": lambda _, sandbox: AepHook(sandbox_name=sandbox).run(calls.get_dataflow(DataflowId(GONE))),
}


@pytest.mark.parametrize(
    ("way", "where", "names_it"),
    [*((way, "argument", False) for way in IN_A_SANDBOX), ("list", "argument", True), ("list", "connection", False)],
)
def test_a_sandbox_that_is_misspelt(way: str, where: str, names_it: bool, stage: Stage) -> None:
    """Its name is told, and no hint that an entity may have been deleted."""
    if not names_it:
        stage.adobe.line.rewrite = lambda text: text.replace(b" [porduction]", b"")
    if where == "connection":
        stage.connection("aep_default", extra={"sandbox_name": "porduction"})
    told = stage.failure(lambda: IN_A_SANDBOX[way](stage, "porduction" if where == "argument" else None))
    assert "HTTP 404 FLOW-2100-404 Sandbox" in told
    assert "porduction" in told
    assert "Check the Airflow connection, the sandbox name" in told
    assert "was deleted" not in told


def test_a_misspelt_sandbox_in_the_triggerer(stage: Stage) -> None:
    stage.adobe.line.rewrite = lambda text: text.replace(b" [porduction]", b"")
    trigger = AepDataflowRunTrigger(
        aep_conn_id="aep_default", dataflow_id=GONE, deadline=time.time() + 2, sandbox_name="porduction", poll_seconds=1
    )
    told = stage.logged(lambda: asyncio.run(events_of(trigger)))
    assert "FLOW-2100-404 Sandbox not found (sandbox 'porduction')" in told
    assert "3 refusals in a row end the wait" in told
    assert "was deleted" not in told


def test_the_name_of_a_sandbox_within_a_word_is_not_its_name(run: Runner) -> None:
    run.settings = settings_for_tests(sandbox_name="dev")
    answers(run, ok({"errorCode": "FLOW-2100-404", "errorMessage": "no developer sandbox"}, status=404))
    with pytest.raises(AccessDenied, match=r"no developer sandbox \(sandbox 'dev'\)"):
        run(calls.list_page("/flows"))


def test_a_sandbox_that_no_sandbox_can_be_called_is_blamed_on_who_named_it(stage: Stage) -> None:
    assert stage.failure(lambda: AepHook(sandbox_name="Prod").settings()).startswith("sandbox_name = 'Prod': must be")
    stage.connection("aep_default", extra={"sandbox_name": "Prod"})
    assert stage.failure(lambda: AepHook().settings()).startswith("Airflow connection 'aep_default': sandbox_name = ")


@pytest.mark.parametrize("argument", ["aep_conn_id", "destination_conn_id"])
def test_a_missing_connection_names_the_argument_of_the_operator(argument: str, stage: Stage) -> None:
    told = stage.failure(lambda: stage.export("missing", **{argument: "nowhere"}))
    assert told == f"{argument} = 'nowhere': there is no Airflow connection of this ID: create it, or name another one"
    if argument == "aep_conn_id":
        assert stage.failure(lambda: stage.wait(GONE, aep_conn_id="nowhere")) == told
        trigger = AepDataflowRunTrigger(aep_conn_id="nowhere", dataflow_id=GONE, deadline=time.time() + 5)
        (event,) = asyncio.run(events_of(trigger))
        assert event.payload["error"] == told


@pytest.mark.parametrize("wrong", ["Loyalty Membrs", "LOYALTY MEMBERS"])
def test_a_dataset_that_is_misspelt_gets_near_names(wrong: str, stage: Stage) -> None:
    told = stage.failure(lambda: AepListDatasetsOperator(task_id="find", names=wrong).execute(context()))
    assert "did you mean Loyalty Members or " in told
    assert "may be exported from sandbox 'prod'" in told


def test_adobes_text_is_told_once(run: Runner) -> None:
    answers(run, ok({"errorMessage": "No such flow", "errorDetails": "No such flow"}, status=400))
    with pytest.raises(RequestRefused) as caught:
        run(calls.list_page("/flows"))
    assert str(caught.value) == "GET /flows: HTTP 400 No such flow"
    answers(run, ok({"error": "invalid_scope", "error_description": "invalid_scope"}, status=400))
    with pytest.raises(AccessDenied, match=r"^GET /flows: HTTP 400 invalid_scope\. Check the Airflow connection"):
        run(calls.list_page("/flows"))


@pytest.mark.parametrize(
    ("code", "message", "told"),
    [
        ("X-1", "it broke", "X-1: it broke"),
        ("X-1", "X-1: it broke", "X-1: it broke"),
        ("", "it broke", "it broke"),
        ("X-1", "", "X-1"),
        ("", "", "Adobe gave no error"),
    ],
)
def test_an_error_of_a_run_is_told_once(code: str, message: str, told: str) -> None:
    run = FlowRun(FlowRunId("r"), DataflowId("f"), RunStatus.FAILED, errors=(RunError(code, message),))
    assert str(FlowRunFailed(run, "has failed")).endswith(f"): {told}")


# -- the health of exports --------------------------------------------------------------------------------------------


@provokes("problems with … of … of sandbox … (…):")
def _problems(stage: Stage) -> str:
    flow = stage.adobe.dataflow("messages: disabled and checked")
    stage.adobe.disable(flow)
    return stage.failure(lambda: AepCheckDataflowsOperator(task_id="check", dataflow_ids=flow).execute(context()))


@provokes("there is no dataset export… in sandbox …")
def _no_export(stage: Stage) -> str:
    return stage.failure(lambda: AepCheckDataflowsOperator(task_id="check", name_pattern="no such*").execute(context()))


@provokes("…; its end cannot be moved: …")
def _end_stays(stage: Stage) -> str:
    begin = stage.adobe.now() + timedelta(days=1)
    schedule = Every(days=1, start=begin, end=begin + timedelta(days=9))
    flow = stage.adobe.dataflow("messages: ends", schedule=schedule)
    stage.adobe.fault("PATCH /flows/*", status=403, times=None)
    check = AepCheckDataflowsOperator(task_id="check", dataflow_ids=flow, extend_end=365)
    return stage.failure(lambda: check.execute(context()))


# -- a run that failed ------------------------------------------------------------------------------------------------


def without_figures(text: bytes) -> bytes:
    """Adobe's reply about runs without a single number, as its samples show runs that failed early."""
    if b'"metrics"' not in text:
        return text
    reply = json.loads(text)
    for item in reply["items"]:
        kept = ("durationSummary", "statusSummary")
        item["metrics"] = {name: value for name, value in item["metrics"].items() if name in kept}
    return json.dumps(reply).encode()


@pytest.mark.parametrize("deferrable", [False, True], ids=["worker", "triggerer"])
@pytest.mark.parametrize("task", ["sensor", "operator"])
@pytest.mark.parametrize("figures", [True, False], ids=["figures", "no figures"])
def test_a_failed_run_says_what_was_and_what_to_do_and_takes_no_retry(
    figures: bool, task: str, deferrable: bool, stage: Stage
) -> None:
    name = f"messages: failed {task} {deferrable} {figures}"
    flow = stage.adobe.dataflow(name, schedule=FAR, destination=AmazonS3("lake-exports", "messages"))
    run_id = stage.adobe.run(flow, "failed", ended=not deferrable)
    if not figures:
        stage.adobe.line.rewrite = without_figures
    arguments: dict[str, Any] = {"after": None, "poke_interval": 1, "timeout": 30, "deferrable": deferrable}
    retries = {"retries": 3, "retry_delay": timedelta(0)}
    with DAG(f"failed_{task}_{deferrable}_{figures}", schedule=None, default_args=retries) as dag:
        if task == "sensor":
            AepDataflowRunSensor(task_id="wait", dataflow_id=flow, **arguments)
        else:
            AepExportDatasetsOperator(
                task_id="wait",
                dataset_ids=DATASET,
                destination=AmazonS3("lake-exports", "messages"),
                destination_conn_id="aws_exports",
                schedule=FAR,
                name=name,
                wait_for_completion=True,
                **arguments,
            )
    ends: list[Finished] = []
    with later(1.5, lambda: stage.adobe.advance(200) if deferrable else None):
        told = stage.logged(lambda: ends.append(stage.run_dag(dag)))

    assert (ends[0].states(), ends[0].tries()) == ({"wait": "failed"}, {"wait": 1})
    assert f"flow run {run_id} of dataflow {flow} has failed (status 'failed', " in told
    assert "ACTIVATION_BATCH-0000-FAILED: Job aborted" in told
    assert "clearing this task finds the same flow run again; a new one comes with Adobe's next slot" in told
    assert "`on_failed` decides what such a run does" in told
    if not figures:
        assert "records read: not given, written: not given, failed: not given" in told
        assert not re.search(r"\b0 (records|bytes|files)", told)


@pytest.mark.parametrize(
    ("outcome", "script", "argument"),
    [("partial", {}, "on_partial"), ("empty", {}, "on_empty"), ("success", {"status": "pondered"}, "")],
)
def test_the_log_names_the_argument_that_decides(
    outcome: str, script: dict[str, Any], argument: str, stage: Stage
) -> None:
    flow = stage.adobe.dataflow(f"messages: decides {outcome}")
    stage.adobe.run(flow, outcome, **script)
    told = stage.logged(lambda: stage.failure(lambda: stage.wait(flow, on_empty="fail")))
    assert "clearing this task finds the same flow run again" in told
    assert re.findall("`([a-z_]*)` decides what such a run does", told) == ([argument] if argument else [])


def test_an_outage_takes_retries(stage: Stage) -> None:
    """Or the test above would show nothing."""
    stage.adobe.fault("GET /connectionSpecs*", status=503, retry_after="1", times=6)
    with DAG("outage", schedule=None, default_args={"retries": 1, "retry_delay": timedelta(0)}) as dag:
        AepListDatasetsOperator(task_id="find")
    finished = stage.run_dag(dag)
    assert (finished.states(), finished.tries()) == ({"find": "success"}, {"find": 2})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "{{ ds_nodash }}",
            "'ds_nodash' is undefined: this DAG run has no logical date, so no ds_nodash. Use {{ dag_run.run_after",
        ),
        (
            "{{ data_interval_end | ds }}",
            "'data_interval_end' is undefined: this DAG run has no logical date, so no data_interval_end",
        ),
        ("{{ ts or ds }}", "'ts' is undefined: this DAG run has no logical date, so no ds, ts"),
        (
            "{{ dss }}",
            "'dss' is undefined: this DAG run has nothing of that name; is it misspelt, or was it not given?",
        ),
        ("{{ conf['day'].x }}", "has no attribute 'day': this DAG run has nothing of that name"),
    ],
)
def test_what_a_template_asked_for_in_vain(text: str, told: str, stage: Stage) -> None:
    with DAG("in_vain", schedule=None):  # Airflow's DAGs know an undefined name when they meet one
        task = AepDataflowRunSensor(task_id="wait", dataflow_id=text)
    said = stage.failure(lambda: task.render_template_fields(context(conf={})))
    assert said.startswith(f"template = {text!r}: ")
    assert told in said


WHY_SKIPPED = {
    "a failed run": "^flow run .* has failed .*Job abort",
    "a time-out": "^the wait has timed out: there is no run",
    "an unreadable reply": "^GET /flows/.*lacks what it must hold",
}


@pytest.mark.parametrize("policy", ["soft_fail", "never_fail"])
@pytest.mark.parametrize("end", WHY_SKIPPED)
def test_a_wait_that_is_skipped_says_why_in_all_modes(end: str, policy: str, stage: Stage) -> None:
    flow = stage.adobe.dataflow(f"messages: {policy} {end}")
    if end == "a failed run":
        stage.adobe.run(flow, "failed")
    if end == "an unreadable reply":
        stage.adobe.line.rewrite = lambda text: text.replace(b'"items"', b'"itemz"')
    about: dict[str, Any] = {"dataflow_id": flow, policy: True, "timeout": 1 if end == "a time-out" else 20}
    ends = {mode: ended(sensor, context(), **about, **arguments) for mode, arguments in MODES.items()}
    state = "retried" if (end, policy) == ("an unreadable reply", "soft_fail") else "skipped"
    assert [mode for mode, each in ends.items() if each.state != state] == [], ends
    assert [mode for mode, each in ends.items() if not re.search(WHY_SKIPPED[end], each.message)] == [], ends


def test_a_wait_that_execution_timeout_ends_and_soft_fail_skips_says_so(stage: Stage) -> None:
    flow = stage.adobe.dataflow("messages: execution timeout")

    class TimedOut(AepDataflowRunSensor):
        def poke(self, context: Any) -> Any:
            super().poke(context)
            raise AirflowTaskTimeout("Timeout, PID: 1")  # as Airflow interrupts a poke

    with pytest.raises(AirflowSkipException, match=r"^the wait has timed out: there is no run of dataflow"):
        TimedOut(task_id="wait", dataflow_id=flow, after=None, soft_fail=True, deferrable=False).execute(context())


def test_a_wait_that_no_triggerer_ended_says_so(stage: Stage) -> None:
    task = AepDataflowRunSensor(task_id="wait", dataflow_id=GONE, after=None)
    told = stage.failure(lambda: task.resume_execution("__fail__", {"error": "Trigger timeout"}, context()))
    assert told.startswith("the wait has timed out, and no triggerer has said so: is one running?")


def test_clearing_finds_the_same_run_and_a_later_moment_the_next_one(stage: Stage) -> None:
    """What the log says of a failed run is true."""
    flow = stage.adobe.dataflow("messages: cleared")
    first = stage.adobe.run(flow, "failed")
    for _ in range(2):
        assert first in stage.failure(lambda: stage.wait(flow))
    since = stage.adobe.now()
    second = stage.adobe.run(flow)
    assert first in stage.failure(lambda: stage.wait(flow))
    assert stage.wait(flow, after=since)["run_id"] == second


def test_a_figure_that_is_an_empty_text_was_not_given() -> None:
    run = read_flow_run({"id": "r", "flowId": "f", "metrics": {"recordSummary": {"outputRecordCount": ""}}})
    assert run.output_records is None
