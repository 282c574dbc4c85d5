"""From an Airflow connection to a session: its forms, its mistakes, its test, and a real line in between."""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from airflow.providers.common.compat.sdk import BaseHook
from airflow.sdk.execution_time.context import set_current_context

import airflow_provider_aep
from airflow_provider_aep import get_provider_info
from airflow_provider_aep.api import calls
from airflow_provider_aep.api.calls import list_page
from airflow_provider_aep.api.provisioning.desired import ExportIds
from airflow_provider_aep.api.queries import check_access, list_datasets
from airflow_provider_aep.api.session import Session
from airflow_provider_aep.api.settings import Settings
from airflow_provider_aep.destinations import AmazonS3, destination_type
from airflow_provider_aep.emulator import CLIENT_ID, CLIENT_SECRET, ORG_ID, Platform
from airflow_provider_aep.errors import AccessDenied, EntityExists, EntityNotFound, InvalidArgument, OutcomeUnknown
from airflow_provider_aep.hooks import AepHook
from airflow_provider_aep.operators import AepExportDatasetsOperator
from airflow_provider_aep.schedules import Every
from tests.adobe.served import DATASET, OTHER_DATASET, ServedAdobe
from tests.canned import answers, ok, raw
from tests.conftest import Runner, settings_for_tests
from tests.tasks import context

# As a real secret looks, with signs that have a meaning in a URI.
SECRET = "p8e-planted/secret+with=signs@and:more%"


@pytest.fixture
def connection(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets the connection `aep_default` the way a user does, as JSON; a member of None is left out."""

    def set_up(extra: dict[str, Any] | None = None, conn_id: str = "aep_default", **changes: Any) -> None:
        given = {"conn_type": "aep", "login": CLIENT_ID, "password": SECRET, **changes}
        given["extra"] = {"org_id": ORG_ID} | (extra or {})
        kept = {name: value for name, value in given.items() if value is not None}
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(kept))

    return set_up


def both(hook: AepHook) -> Settings:
    """The settings, which must be the same by either way."""
    settings = hook.settings()
    assert asyncio.run(hook.asettings()) == settings
    return settings


# -- reading a connection -----------------------------------------------------------------------------------------


def test_the_least_connection(connection: Callable[..., None]) -> None:
    connection()
    assert both(AepHook()) == Settings(client_id=CLIENT_ID, client_secret=SECRET, org_id=ORG_ID)


def test_the_whole_connection(connection: Callable[..., None]) -> None:
    connection(
        conn_id="other",
        host="https://platform-stage.adobe.io/",
        extra={
            "sandbox_name": " dev ",
            "scopes": "openid,AdobeID",
            "ims_host": "https://ims-na1-stg1.adobelogin.com",
            "connect_timeout": 3,
            "read_timeout": "40.5",
            "max_retry_after": 30,
        },
    )
    assert both(AepHook("other")) == Settings(
        client_id=CLIENT_ID,
        client_secret=SECRET,
        org_id=ORG_ID,
        sandbox_name="dev",
        gateway="https://platform-stage.adobe.io",
        ims="https://ims-na1-stg1.adobelogin.com",
        scopes="openid,AdobeID",
        connect_seconds=3,
        read_seconds=40.5,
        max_retry_after_seconds=30,
    )


@pytest.mark.parametrize(
    ("host_part", "gateway"),
    [
        ("", "https://platform.adobe.io"),
        ("platform-stage.adobe.io", "https://platform-stage.adobe.io"),
        ("127.0.0.1:8585/http", "http://127.0.0.1:8585"),
        (quote("http://127.0.0.1:8585", safe=""), "http://127.0.0.1:8585"),
        (quote("http://127.0.0.1:8585", safe="") + ":443", "http://127.0.0.1:8585"),
        ("platform.adobe.io:443", "https://platform.adobe.io"),
        (":443", "https://platform.adobe.io"),
    ],
)
def test_a_connection_as_a_uri(monkeypatch: pytest.MonkeyPatch, host_part: str, gateway: str) -> None:
    slash = "" if "/" in host_part else "/"
    uri = (
        f"aep://{CLIENT_ID}:{quote(SECRET, safe='')}@{host_part}{slash}"
        f"?org_id={quote(ORG_ID, safe='')}&sandbox_name=dev&read_timeout=20"
    )
    monkeypatch.setenv("AIRFLOW_CONN_AEP_DEFAULT", uri)
    assert both(AepHook()) == Settings(
        client_id=CLIENT_ID,
        client_secret=SECRET,
        org_id=ORG_ID,
        sandbox_name="dev",
        gateway=gateway,
        read_seconds=20,
    )


@pytest.mark.parametrize(
    ("argument", "extra", "sandbox"),
    [
        (None, None, "prod"),
        (None, "dev", "dev"),
        ("stage", "dev", "stage"),
        ("stage", None, "stage"),
        ("", "dev", "dev"),
        (None, "", "prod"),
    ],
)
def test_the_sandbox_is_the_arguments_else_the_connections_else_prod(
    connection: Callable[..., None], argument: str | None, extra: str | None, sandbox: str
) -> None:
    connection(extra={} if extra is None else {"sandbox_name": extra})
    assert both(AepHook(sandbox_name=argument)).sandbox_name == sandbox


def test_time_limits_come_from_the_connection_else_the_configuration(
    connection: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__AEP__CONNECT_TIMEOUT", "4")
    monkeypatch.setenv("AIRFLOW__AEP__READ_TIMEOUT", "30")
    monkeypatch.setenv("AIRFLOW__AEP__MAX_RETRY_AFTER", "120")
    monkeypatch.setenv("AIRFLOW__AEP__VISIBILITY_SECONDS", "2.5")
    connection(extra={"read_timeout": 7})
    settings = both(AepHook())
    assert (settings.connect_seconds, settings.read_seconds) == (4, 7)
    assert (settings.max_retry_after_seconds, settings.visibility_seconds) == (120, 2.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"login": None}, r"login \(client ID\) = <empty>: must be"),
        (
            {"login": "two words"},
            r"login \(client ID\) = <hidden, 9 characters>: must be printable ASCII",
        ),
        ({"password": None}, r"password \(client secret\) = '\*\*\*': must be .*not empty"),
        ({"password": "planted secret"}, r"password \(client secret\) = '\*\*\*': must be .*without blanks"),
        ({"password": "planted\nsecret"}, r"password \(client secret\) = '\*\*\*'"),
        ({"password": "plant\u00e9d"}, r"password \(client secret\) = '\*\*\*'"),
        ({"extra": {"org_id": None}}, "org_id = <empty>: must be 24 hexadecimal digits and @AdobeOrg"),
        ({"extra": {"org_id": "0123456789ABCDEF01234567"}}, "org_id = <hidden, 24 characters>: must be 24"),
        ({"extra": {"org_id": 5}}, "org_id = <hidden, 1 character>: must be text"),
        ({"extra": {"sandbox_name": "Prod"}}, "sandbox_name = 'Prod': must be .*lower-case"),
        ({"extra": {"sandbox_name": "*"}}, r"sandbox_name = '\*'"),
        ({"extra": {"sandbox_name": ["dev"]}}, r"sandbox_name = \['dev'\]: must be text"),
        ({"extra": {"scopes": ["openid"]}}, r"scopes = \['openid'\]: must be text"),
        ({"extra": {"ims_host": "ims-na1.adobelogin.com"}}, "ims_host = 'ims-na1.*': must be an address such as https"),
        ({"extra": {"ims_host": "https://me:planted@ims"}}, r"ims_host = '\*\*\*': must be an address"),
        ({"host": "ftp://platform.adobe.io"}, r"host \(gateway\) = 'ftp.*': must be an address"),
        ({"host": "https://me:planted@platform.adobe.io"}, r"host \(gateway\) = '\*\*\*'"),
        ({"host": "https://platform.adobe.io?a=b"}, r"host \(gateway\)"),
        ({"host": "https://platform adobe.io"}, r"host \(gateway\)"),
        ({"host": "https://[::1"}, r"host \(gateway\)"),
        ({"host": "https://platform.adobe.io:port", "port": 443}, r"host \(gateway\)"),
        ({"host": "https://platform.adobe.io:0", "port": 443}, r"host \(gateway\)"),
        ({"host": "https://platform.adobe.io", "port": 99999}, r"host \(gateway\) = 'https://platform.adobe.io:99999'"),
        ({"host": "https://pl\u00e4tform.adobe.io"}, r"host \(gateway\)"),
        ({"extra": {"read_timeout": 0}}, "read_timeout = 0.0: must be seconds, more than 0"),
        ({"extra": {"read_timeout": "nan"}}, "read_timeout = nan: must be seconds"),
        ({"extra": {"connect_timeout": "soon"}}, "connect_timeout = 'soon': must be a number of seconds"),
        ({"extra": {"connect_timeout": [1]}}, r"connect_timeout = \[1\]: must be a number of seconds"),
        ({"extra": {"max_retry_after": -1}}, "max_retry_after = -1.0: must be seconds"),
    ],
)
def test_a_wrong_field_is_named_with_its_value_and_rule(
    connection: Callable[..., None], changes: dict[str, Any], message: str
) -> None:
    connection(conn_id="mine", **changes)
    hook = AepHook("mine")
    for read in (hook.settings, lambda: asyncio.run(hook.asettings())):
        with pytest.raises(InvalidArgument, match="Airflow connection 'mine': " + message) as caught:
            read()
        assert "plant" not in str(caught.value)
    assert hook.test_connection() == (False, str(caught.value))


@pytest.mark.parametrize(
    ("host", "schema", "port", "gateway"),
    [
        ("127.0.0.1", "http", 8585, "http://127.0.0.1:8585"),
        ("127.0.0.1", "http", None, "http://127.0.0.1"),
        ("http://127.0.0.1", None, 8585, "http://127.0.0.1:8585"),
        ("[::1]", "http", 8585, "http://[::1]:8585"),
        ("https://gateway.example.org/aep/", None, 8443, "https://gateway.example.org:8443/aep"),
        (None, None, 8443, "https://platform.adobe.io:8443"),
        (" ", "", None, "https://platform.adobe.io"),
    ],
)
def test_host_schema_and_port_make_the_gateway(
    connection: Callable[..., None], host: str | None, schema: str | None, port: int | None, gateway: str
) -> None:
    connection(host=host, schema=schema, port=port)
    assert both(AepHook()).gateway == gateway


@pytest.mark.parametrize(
    "host", [None, "", "https://platform.adobe.io", "platform.adobe.io", "https://platform.adobe.io:443/"]
)
@pytest.mark.parametrize("port", [None, 0, 443])
def test_the_usual_port_and_0_leave_the_gateway_as_it_is(
    connection: Callable[..., None], host: str | None, port: int | None
) -> None:
    """Airflow's Test needs a stored port; connections with and without one are still the same place."""
    connection(host=host, port=port)
    assert both(AepHook()).gateway == "https://platform.adobe.io"


@pytest.mark.parametrize("host", ["http://127.0.0.1:8585", "http://[::1]:8585/"])
@pytest.mark.parametrize("port", [None, 0, 443, 8585])
def test_a_port_in_the_host_comes_first(connection: Callable[..., None], host: str, port: int | None) -> None:
    """Whoever tries the emulator fills in the port that the form asks for."""
    connection(host=host, port=port)
    assert both(AepHook()).gateway == host.rstrip("/")


def test_blanks_around_pasted_values_are_dropped(connection: Callable[..., None]) -> None:
    connection(login=f" {CLIENT_ID}\n", password=f"{SECRET} ", extra={"org_id": f" {ORG_ID} "})
    assert both(AepHook()) == Settings(client_id=CLIENT_ID, client_secret=SECRET, org_id=ORG_ID)


def test_nothing_is_read_at_construction() -> None:
    """No connection of this name exists, and the DAG processor makes hooks without end."""
    assert AepHook("nowhere").aep_conn_id == "nowhere"


def test_the_connection_is_read_anew_at_each_use(connection: Callable[..., None]) -> None:
    hook = AepHook()
    connection(extra={"sandbox_name": "one"})
    assert hook.settings().sandbox_name == "one"
    connection(extra={"sandbox_name": "two"})
    assert hook.settings().sandbox_name == "two"


def test_airflow_makes_the_hook_by_the_name_of_its_argument() -> None:
    hook = AepHook(**{AepHook.conn_name_attr: "some_id"})
    assert isinstance(hook, BaseHook)
    assert getattr(hook, AepHook.conn_name_attr) == "some_id"
    assert getattr(AepHook(), AepHook.conn_name_attr) == AepHook.default_conn_name == "aep_default"


def test_the_class_and_the_provider_info_agree() -> None:
    info: dict[str, Any] = get_provider_info()
    (kind,) = info["connection-types"]
    module, _, name = kind["hook-class-name"].rpartition(".")
    assert getattr(importlib.import_module(module), name) is AepHook
    assert (kind["connection-type"], kind["hook-name"]) == (AepHook.conn_type, AepHook.hook_name)


# -- over a real line ---------------------------------------------------------------------------------------------


@pytest.fixture(params=["run", "arun"])
def perform(request: pytest.FixtureRequest, adobe: ServedAdobe) -> Callable[..., Any]:
    """A procedure over HTTP, on a worker and in an event loop."""
    hook = AepHook()
    if request.param == "run":
        return hook.run
    return lambda procedure: asyncio.run(hook.arun(procedure))


def test_a_procedure_over_http(perform: Callable[..., Any], adobe: ServedAdobe) -> None:
    names = [dataset.name for dataset in perform(list_datasets())]
    assert len(names) > 1
    assert perform(list_page("/flows", limit=1)).items is not None
    assert adobe.token_requests() == 1


def test_a_dropped_line_over_http(perform: Callable[..., Any], adobe: ServedAdobe) -> None:
    adobe.fault("POST /sourceConnections", "lose_reply")
    adobe.fault("GET /sourceConnections", "truncate", skip=1)
    # By name: other tests fill the list beyond its first page.
    name = f"dropped line {len(adobe.admin('GET', 'creations')['creations'])}"
    named = list_page("/sourceConnections", filters=[f"name=={name}"])
    assert perform(named).items == []
    with pytest.raises(OutcomeUnknown):
        perform(calls.create_source_connection(name, ["5ef3e3259ad2a1191ab7dd7d"]))  # type: ignore[list-item]
    assert len(perform(named).items) == 1
    asked = [each for each in adobe.requests() if "sourceConnections" in each]
    assert asked == ["GET /sourceConnections", "POST /sourceConnections", *["GET /sourceConnections"] * 2]


def test_an_expired_token_over_http(perform: Callable[..., Any], adobe: ServedAdobe) -> None:
    perform(list_page("/flows"))
    adobe.admin("POST", "expire-tokens")
    perform(list_page("/flows"))
    assert adobe.token_requests() == 2


def test_a_silence_over_http(perform: Callable[..., Any], adobe: ServedAdobe, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time limit of the connection ends it; once, so that the second attempt answers."""
    slow = {**adobe.connection, "extra": {**adobe.connection["extra"], "read_timeout": 0.5}}
    monkeypatch.setenv("AIRFLOW_CONN_AEP_DEFAULT", json.dumps(slow))
    adobe.fault("GET /flows", "hang", seconds=30)
    assert perform(list_page("/flows", limit=1)).items is not None
    assert adobe.requests().count("GET /flows") == 2


def test_the_loop_is_free_while_the_hook_works(adobe: ServedAdobe) -> None:
    async def work() -> float:
        await AepHook().arun(list_page("/flows"))  # what is loaded at the first use is not meant here
        adobe.fault("GET /flows", "delay", seconds=0.5)
        longest, last = 0.0, asyncio.get_running_loop().time()
        task = asyncio.create_task(AepHook().arun(list_page("/flows")))
        while not task.done():
            await asyncio.sleep(0.005)
            now = asyncio.get_running_loop().time()
            longest, last = max(longest, now - last), now
        await task
        return longest

    assert asyncio.run(work()) < 0.3


def test_no_secret_and_no_token_in_the_logs_of_a_whole_use(
    perform: Callable[..., Any], adobe: ServedAdobe, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    adobe.admin("POST", "expire-tokens")
    adobe.fault("GET /flows", "status", status=503)
    perform(list_page("/flows"))
    text = caplog.text + "".join(str(vars(record)) for record in caplog.records)
    assert "trying again" in text
    assert CLIENT_SECRET not in text
    assert "Bearer" not in text
    assert "eyJ" not in text


# -- what a task of the user's asks for ---------------------------------------------------------------------------


@pytest.fixture(params=["", "a"], ids=["blocking", "awaited"])
def ask(request: pytest.FixtureRequest, adobe: ServedAdobe) -> Callable[..., Any]:
    """`ask("list_datasets", …)`: the hook's method, or its twin."""

    def asked(method: str, *arguments: Any, **named: Any) -> Any:
        result = getattr(AepHook(), request.param + method)(*arguments, **named)
        return asyncio.run(result) if request.param else result

    return asked


FAR = Every(hours=12, start="2090-01-01T00:00:00Z", end="2100-01-01T00:00:00Z")


def test_datasets_by_ids_names_and_pattern(ask: Callable[..., Any]) -> None:
    everything = ask("list_datasets")
    assert {DATASET, OTHER_DATASET} <= {each.id for each in everything}
    (one,) = ask("list_datasets", dataset_ids=OTHER_DATASET)
    assert ask("list_datasets", names=[one.name]) == ask("list_datasets", name_pattern=one.name) == [one]
    with pytest.raises(InvalidArgument, match=r"not among the .* datasets that may be exported from sandbox 'prod'"):
        ask("list_datasets", names=["no such dataset"])
    mistakes: list[dict[str, Any]] = [
        {"names": []},
        {"name_pattern": ""},
        {"dataset_ids": []},
        {"names": "a", "name_pattern": "b"},
    ]
    for wrong in mistakes:
        with pytest.raises(InvalidArgument):
            ask("list_datasets", **wrong)


def test_an_export_is_set_up_once_and_its_runs_are_listed(ask: Callable[..., Any], adobe: ServedAdobe) -> None:
    export: dict[str, Any] = {
        "name": f"hook {ask.__name__} {len(adobe.admin('GET', 'creations')['creations'])}",
        "dataset_ids": [DATASET],
        "destination": AmazonS3("lake-exports", "hooks"),
        "destination_conn_id": "aws_exports",
        "schedule": FAR,
    }
    ids = ask("set_up_export", **export)
    assert ask("set_up_export", **export) == ids
    assert ids.dataset_ids == (DATASET,)
    (dataflow,) = (each for each in ask("list_dataflows") if each.name == export["name"])
    assert dataflow.id == ids.dataflow_id
    with pytest.raises(EntityExists, match="dataset_ids is"):
        ask("set_up_export", **{**export, "dataset_ids": [OTHER_DATASET]})
    ask("set_up_export", **{**export, "dataset_ids": [OTHER_DATASET]}, if_exists="update")

    assert ask("list_runs", ids.dataflow_id) == []
    first = adobe.run(ids.dataflow_id)
    between = adobe.now()
    second = adobe.run(ids.dataflow_id, "failed")
    assert [run.id for run in ask("list_runs", ids.dataflow_id)] == [second, first]
    assert [run.id for run in ask("list_runs", ids.dataflow_id, since=between)] == [second]
    assert [run.id for run in ask("list_runs", ids.dataflow_id, limit=1)] == [second]
    assert ask("get_run", first).outcome == "success"
    assert ask("get_run", second).outcome == "failed"


def test_what_cannot_be_right_is_refused_before_anything_is_sent(ask: Callable[..., Any], adobe: ServedAdobe) -> None:
    place = AmazonS3("lake-exports", "hooks")
    good: dict[str, Any] = {"name": "n", "dataset_ids": DATASET, "destination": place, "schedule": FAR}
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("name", {"name": "a,b"}),
        ("dataset_ids", {"dataset_ids": "x"}),
        ("destination", {"destination": ("lake-exports", "hooks")}),
        ("schedule", {"schedule": "daily"}),
        ("file_type", {"file_type": "CSV"}),
        ("folder_template", {"folder_template": "%NOTHING%"}),
        ("if_exists", {"if_exists": "perhaps"}),
        ("destination_conn_id", {"destination_conn_id": None}),
        ("base_connection_id", {"base_connection_id": "0f0c"}),
    ]
    for argument, change in wrong:
        with pytest.raises(InvalidArgument) as refused:
            ask("set_up_export", **{"destination_conn_id": "aws_exports", **good, **change})
        assert refused.value.argument == argument
    for method, given, named in (
        ("list_runs", "", {}),
        ("list_runs", "x", {"since": "then"}),
        ("list_runs", "x", {"limit": 0}),
        ("get_run", "a b", {}),
    ):
        with pytest.raises(InvalidArgument):
            ask(method, given, **named)
    with pytest.raises(TypeError, match="filetype"):
        ask("set_up_export", **good, destination_conn_id="aws_exports", filetype="JSON")
    assert adobe.sent == []


def test_the_operator_and_the_hook_set_up_the_same_export(ask: Callable[..., Any], adobe: ServedAdobe) -> None:
    """Whoever leaves an argument out gets the same default by either way, or "fail" and "reuse" would refuse."""
    export: dict[str, Any] = {
        "name": f"both ways {len(adobe.admin('GET', 'creations')['creations'])}",
        "dataset_ids": [DATASET],
        "destination": AmazonS3("lake-exports", "hooks"),
        "destination_conn_id": "aws_exports",
        "schedule": FAR,
    }
    result = AepExportDatasetsOperator(task_id="export", **export).execute(context())
    before = len(adobe.creations(export["name"]))
    ids = ask("set_up_export", **export)
    assert {**ids._asdict(), "dataset_ids": list(ids.dataset_ids)} == result
    assert len(adobe.creations(export["name"])) == before == 3


def test_mapped_tasks_that_ask_for_different_exports_under_one_name_are_refused(
    ask: Callable[..., Any], adobe: ServedAdobe
) -> None:
    """Also with "update", by which each would undo the other's work; in the second DAG run the first finds its own."""
    name = f"mapped by hand {len(adobe.admin('GET', 'creations')['creations'])}"

    def set_up(dag_run: str, map_index: int, dataset: str) -> ExportIds:
        ti = SimpleNamespace(dag_id="d", task_id="t", run_id=dag_run, map_index=map_index, try_number=1)
        with set_current_context({"ti": ti}):  # type: ignore[typeddict-item]  # as much of it as a hook asks for
            ids: ExportIds = ask(
                "set_up_export",
                name=name,
                dataset_ids=dataset,
                destination=AmazonS3("lake-exports", "hooks"),
                destination_conn_id="aws_exports",
                schedule=FAR,
                if_exists="update",
            )
        return ids

    first = set_up("run 1", 0, DATASET)
    for dag_run in ("run 1", "run 2"):
        assert set_up(dag_run, 0, DATASET) == first
        with pytest.raises(EntityExists, match="another mapped task of this DAG run"):
            set_up(dag_run, 1, OTHER_DATASET)
    assert set_up("run 3", 1, OTHER_DATASET).dataset_ids == (OTHER_DATASET,)


def test_a_run_that_adobe_does_not_know(ask: Callable[..., Any]) -> None:
    with pytest.raises(EntityNotFound):
        ask("get_run", "5d9f1ae2-0000-4000-8000-000000000001")


# -- the test button ----------------------------------------------------------------------------------------------


def test_a_good_connection_passes(adobe: ServedAdobe) -> None:
    fine, message = AepHook().test_connection()
    assert fine
    assert "sandbox 'prod' (" in message
    assert "Flow Service right" in message


def test_airflow_tests_the_connection_itself(
    adobe: ServedAdobe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole way: installed package -> provider info -> connection type -> hook -> emulator, and what it says."""
    monkeypatch.setenv("AIRFLOW_CONN_AEP_DEFAULT", json.dumps({**adobe.connection, "password": "p8e-wrong-planted"}))
    root = Path(__file__).parent.parent
    if not any(metadata.distributions(name="airflow-provider-aep")):
        _install_in_name(root, tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "airflow", "connections", "test", "aep_default"],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(tmp_path), str(root)]),
            "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
            "AIRFLOW_HOME": str(tmp_path),
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    said = " ".join(done.stdout.split())
    assert "The token request failed: POST /ims/token/v3: HTTP 401 invalid_client" in said, done.stdout + done.stderr
    assert "planted" not in done.stdout + done.stderr


def _install_in_name(root: Path, folder: Path) -> None:
    """What pip would write for this checkout, as far as Airflow looks at it."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    info = folder / f"airflow_provider_aep-{airflow_provider_aep.__version__}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Name: {project['name']}\nVersion: {airflow_provider_aep.__version__}\n")
    lines = []
    for group, entries in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {target}" for name, target in entries.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"password": "p8e-wrong-planted"}, "The token request failed: POST /ims/token/v3: HTTP 401 invalid_client"),
        ({"login": "0000"}, "The token request failed: POST /ims/token/v3: HTTP 400 invalid_client"),
        ({"scopes": "nonsense"}, "The token request failed: .*invalid_scope"),
        ({"org_id": "F" * 24 + "@AdobeOrg"}, "The organisation failed: GET /flows: HTTP 401 FLOW-2000-401"),
        ({"sandbox_name": "missing"}, "The sandbox failed: GET /flows: HTTP 404 FLOW-2100-404 .*missing"),
    ],
)
def test_the_test_names_the_step_that_fails(
    adobe: ServedAdobe, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], message: str
) -> None:
    top = {name: value for name, value in changes.items() if name in adobe.connection}
    extra = {name: value for name, value in changes.items() if name not in adobe.connection}
    wrong = {**adobe.connection, **top, "extra": {**adobe.connection["extra"], **extra}}
    monkeypatch.setenv("AIRFLOW_CONN_AEP_DEFAULT", json.dumps(wrong))
    fine, said = AepHook().test_connection()
    assert not fine
    assert re.match(message, said), said
    assert re.search(r"\(Adobe request [0-9a-f]{24}\)$", said)
    assert "planted" not in said


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (
            ok({"error_code": "403003", "message": "Api Key is invalid"}, status=403, x_request_id="req-7"),
            "The API key failed: GET /flows: HTTP 403 403003 Api Key is invalid.*req-7",
        ),
        (
            ok({"error_code": "403027", "message": "User region is missing"}, status=403, x_request_id="req-7"),
            "The organisation failed: .*403027.*req-7",
        ),
        (
            ok(
                {"type": "https://ns.adobe.com/aep/errors/FLOW-2118-403", "title": "permission missing"},
                status=403,
                x_request_id="req-7",
            ),
            "The Flow Service right failed: .*FLOW-2118-403 permission missing.*req-7",
        ),
        (
            ok(
                {"type": "https://ns.adobe.com/aep/errors/FLOW-2105-400", "title": "x-sandbox-name is missing"},
                status=400,
                x_request_id="req-7",
            ),
            "The sandbox failed: .*FLOW-2105-400.*req-7",
        ),
        (raw(status=503, x_request_id="req-7"), "The way to Adobe failed: GET /flows: HTTP 503.*req-7"),
        (httpx.ConnectError("refused"), "The way to Adobe failed: GET /flows: no reply"),
    ],
)
def test_steps_that_the_emulator_cannot_fail_alone(run: Runner, reply: Any, message: str) -> None:
    answers(run, reply)
    fine, said = run(check_access("prod"))
    assert not fine
    assert re.match(message, said), said


def test_an_account_that_may_not_list_sandboxes_passes(run: Runner) -> None:
    """It needs no such right for an export."""
    answers(run, ok({"items": []}), ok({"error_code": "403"}, status=403))
    assert run(check_access("dev")) == (True, "Token, organisation, sandbox 'dev' and Flow Service right are in order")


def test_a_test_does_not_pass_by_an_old_token(adobe: ServedAdobe) -> None:
    """A secret may have been withdrawn since the token was given out; only a new token proves it."""
    AepHook().run(list_page("/flows"))
    adobe.reset()
    assert AepHook().test_connection()[0]
    assert adobe.token_requests() == 1


def test_a_test_leaves_other_credentials_alone(adobe: ServedAdobe, run: Runner) -> None:
    run.settings = settings_for_tests(client_secret="of-another-connection")
    canned = answers(run, ok({"items": []}))
    run(list_page("/flows"))
    AepHook().test_connection()
    run(list_page("/flows"))
    assert len(canned.token_requests) == 1


def test_a_wrong_secret_does_not_work_by_a_right_ones_token(
    adobe: ServedAdobe, monkeypatch: pytest.MonkeyPatch
) -> None:
    AepHook().run(list_page("/flows"))
    monkeypatch.setenv("AIRFLOW_CONN_AEP_DEFAULT", json.dumps({**adobe.connection, "password": "p8e-wrong"}))
    with pytest.raises(AccessDenied):
        AepHook().run(list_page("/flows"))


def test_a_missing_connection_is_named_with_its_argument(adobe: ServedAdobe) -> None:
    with pytest.raises(InvalidArgument, match="aep_conn_id = 'nowhere': there is no Airflow connection of this ID"):
        AepHook("nowhere").run(list_page("/flows"))
    with pytest.raises(InvalidArgument, match="aep_conn_id = 'nowhere': there is no Airflow connection"):
        asyncio.run(AepHook("nowhere").arun(list_page("/flows")))
    with pytest.raises(InvalidArgument, match="destination_conn_id = 'nowhere': there is no Airflow connection"):
        AepHook().destination_login("nowhere", destination_type(AmazonS3("bucket", "path")))


def test_a_token_that_airflow_cannot_mask_is_used_all_the_same(
    platform: Platform, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(token: str) -> None:
        raise RuntimeError(token)

    transport = httpx.MockTransport(platform.respond)
    with Session(settings_for_tests(), transport=transport, on_token=fail) as session:
        assert session.run(list_page("/flows")).items == []
    (told,) = (record.getMessage() for record in caplog.records if "mask" in record.getMessage())
    assert told == "Airflow could not mask a new token in logs (RuntimeError); going on"
