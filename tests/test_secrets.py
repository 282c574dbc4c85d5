"""Planted secrets, and every place where one could show up: logs, errors, XCom, rendered fields, triggers, repr."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG

from airflow_provider_aep.destinations import AmazonS3, Destination, destination_type
from airflow_provider_aep.hooks import AepHook
from airflow_provider_aep.operators import AepCreateBaseConnectionOperator, AepExportDatasetsOperator
from airflow_provider_aep.schedules import Every
from airflow_provider_aep.triggers import AepDataflowRunTrigger
from tests.adobe.served import DATASET, ServedAdobe
from tests.airflow_places import TaskDeferred
from tests.dag_runs import run_dag
from tests.destination_samples import EACH, SAMPLES
from tests.real_airflow import SECRETS
from tests.tasks import context, events_of, later

FAR = Every(days=1, start="2099-01-01T00:00:00Z", end="2100-01-01T00:00:00Z")
S3 = AmazonS3("lake-exports", "secrets")
#: Every login that there is, by the Airflow connection that holds it.
PLACES = {f"planted_{name.replace('-', '_').lower()}": sample for name, sample in SAMPLES.items() if sample.login_type}
SSH_KEY = "planted_sftp_sftpsshkey"
#: What no text may hold, of those connections and of the ones that example DAGs name.
PLANTED = {
    *(secret for sample in PLACES.values() for secret in sample.secrets),
    *(text[:40] for text in SECRETS.values()),
}


@pytest.fixture(autouse=True)
def _connections(monkeypatch: pytest.MonkeyPatch) -> None:
    for conn_id, sample in PLACES.items():
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(sample.airflow_connection))


def planted(adobe: ServedAdobe) -> set[str]:
    """All secrets: those of the connections, in each form that they take, and every token that was sent."""
    tokens = {each.headers["authorization"].removeprefix("Bearer ") for each in adobe.sent}
    assert tokens
    return PLANTED | tokens


def _log_all(caplog: pytest.LogCaptureFixture) -> None:
    """Ours and whatever speaks HTTP for us; Airflow's own debug lines would take longer than the tests."""
    for name in ("airflow_provider_aep", "airflow.task", "httpx", "httpcore", "asyncio"):
        caplog.set_level(logging.DEBUG, logger=name)


def assert_free_of_secrets(adobe: ServedAdobe, **texts: str) -> None:
    for secret in planted(adobe):
        for place, text in texts.items():
            shows = secret in text  # apart from the assertion, which would print and compare all of it
            assert not shows, f"{place}: {secret}"


def test_they_arrive_where_they_should(adobe: ServedAdobe) -> None:
    """Or the tests below would search for what is not there."""
    for conn_id, sample in PLACES.items():
        AepCreateBaseConnectionOperator(
            task_id="base", destination=sample.destination, destination_conn_id=conn_id, name=f"arrive {conn_id}"
        ).execute(context())
        bodies = " ".join(each.body.decode() for each in adobe.line.sent)
        for text in (sample.params or {}).values():
            assert json.dumps(text) in bodies, conn_id


@pytest.mark.usefixtures("_metadata")
def test_a_whole_export_leaves_none(
    adobe: ServedAdobe, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Set up, updated, waited for and ended; in `dag.test()`, where Airflow itself masks nothing."""
    _log_all(caplog)
    with DAG("secrets", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC)) as dag:
        for conn_id, sample in PLACES.items():
            AepExportDatasetsOperator(
                task_id=conn_id,
                dataset_ids=DATASET,
                destination=sample.destination,
                destination_conn_id=conn_id,
                base_connection_name=f"secrets {conn_id}",
                schedule=FAR,
                if_exists="update",
                wait_for_completion=conn_id == SSH_KEY,
                after=None,
                deferrable=True,
                poke_interval=1,
                timeout=30,
            )

    def happens() -> None:
        while True:
            flows = adobe.admin("GET", "creations")["creations"]
            found = [each["id"] for each in flows if (each["kind"], each["name"]) == ("flows", f"secrets.{SSH_KEY}")]
            if found:
                adobe.run(found[0])
                return
            time.sleep(0.1)

    with later(0, happens):
        first = run_dag(dag)
    second = run_dag(dag)

    assert set(first.states().values()) == set(second.states().values()) == {"success"}
    database = b"".join(path.read_bytes() for path in Path(os.environ["AIRFLOW_HOME"]).rglob("*.db*")).decode("latin-1")
    assert EACH["AmazonS3"][0] in database
    assert f"secrets.{SSH_KEY}" in caplog.text
    printed = capfd.readouterr()
    assert_free_of_secrets(
        adobe,
        logs=caplog.text,
        printed=printed.out + printed.err,
        xcoms=str(first.xcoms()) + str(second.xcoms()),
        database=database,
    )


@pytest.mark.parametrize(
    "fault",
    [
        {"match": "POST /connections", "status": 400},
        {"match": "GET /flows*", "status": 403},
        {"match": "GET /connections*", "kind": "truncate", "times": None},
        {"match": "GET /connections*", "status": 401, "times": None},
    ],
)
def test_no_error_shows_one(fault: dict[str, Any], adobe: ServedAdobe, caplog: pytest.LogCaptureFixture) -> None:
    import traceback

    _log_all(caplog)
    if fault.get("kind") == "truncate":
        adobe.line.rewrite = lambda text: text.replace(b'"items"', b'"nothing"')
        fault = {"match": "nothing"}
    adobe.fault(**fault)
    operator = AepExportDatasetsOperator(
        task_id="export",
        dataset_ids=DATASET,
        destination=S3,
        destination_conn_id="aws_exports",
        base_connection_name=f"errors {sorted(fault.items())}".replace(",", ""),
        schedule=FAR,
        name=f"errors {sorted(fault.items())}".replace(",", ""),
    )
    with pytest.raises(Exception) as failure:  # noqa: PT011 - whatever it is, it must not show a secret
        operator.execute(context())

    told = "".join(traceback.format_exception(failure.value))
    assert_free_of_secrets(adobe, traceback=told, repr=repr(failure.value), logs=caplog.text)


@pytest.mark.parametrize(
    ("conn_id", "destination", "change"),
    [
        ("aws_exports", S3, {"login": SECRETS["S3 secret key"], "password": "AKIAIOSFODNN7EXAMPLE"}),
        ("aws_exports", S3, {"extra": {"aws_session_token": SECRETS["SFTP password"]}}),
        ("wasb_exports", EACH["AzureBlob"], {"password": "SharedAccessSignature=" + SECRETS["SFTP password"]}),
        ("adls_exports", EACH["AdlsGen2"], {"host": SECRETS["service principal key"]}),
        ("sftp_exports", EACH["Sftp"], {"host": SECRETS["SFTP password"] + "/"}),
        ("aep_default", S3, {"extra": {"org_id": ""}}),
    ],
)
def test_a_connection_that_is_wrong_is_told_without_its_values(
    conn_id: str, destination: Destination, change: dict[str, Any], adobe: ServedAdobe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fields are easily swapped, and then a harmless one holds the secret."""
    variable = f"AIRFLOW_CONN_{conn_id.upper()}"
    monkeypatch.setenv(variable, json.dumps(json.loads(os.environ[variable]) | change))
    with pytest.raises(Exception) as failure:  # noqa: PT011 - as above
        AepCreateBaseConnectionOperator(
            task_id="base",
            destination=destination,
            destination_conn_id="aws_exports" if conn_id == "aep_default" else conn_id,
        ).execute(context())

    assert f"'{conn_id}'" in str(failure.value)
    for secret in PLANTED:
        assert secret not in str(failure.value)


def test_a_trigger_holds_none(adobe: ServedAdobe) -> None:
    operator = AepExportDatasetsOperator(
        task_id="export",
        dataset_ids=DATASET,
        destination=PLACES[SSH_KEY].destination,
        destination_conn_id=SSH_KEY,
        schedule=FAR,
        name="trigger secrets",
        wait_for_completion=True,
        after=None,
        deferrable=True,
        timeout=2,
    )
    with pytest.raises(TaskDeferred) as deferral:
        operator.execute(context())
    trigger = deferral.value.trigger
    events = asyncio.run(events_of(trigger))

    assert isinstance(trigger, AepDataflowRunTrigger)
    assert_free_of_secrets(
        adobe,
        stored=json.dumps(trigger.serialize()),
        attributes=repr(vars(trigger)),
        events=repr([event.payload for event in events]),
        deferral=repr(deferral.value),
        operator=repr(vars(operator)),
    )


def test_no_repr_shows_one(adobe: ServedAdobe) -> None:
    hook = AepHook()
    with hook.get_conn() as session:
        texts = {"hook": repr(vars(hook)), "settings": repr(session.settings), "session": repr(session)}
    AepCreateBaseConnectionOperator(task_id="base", destination=S3, destination_conn_id="aws_exports").execute(
        context()
    )

    assert_free_of_secrets(adobe, **texts)


@pytest.mark.parametrize(("shortest", "is_asked"), [(5, True), (20, False)])
def test_airflow_is_asked_to_mask_only_what_is_long_enough(
    shortest: int, is_asked: bool, adobe: ServedAdobe, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It would write a warning of a secret that is too short into the log of the task."""
    from airflow.sdk._shared.secrets_masker import SecretsMasker
    from airflow.sdk._shared.secrets_masker.secrets_masker import _secrets_masker

    key = f"planted/key+{shortest}"  # Airflow forgets none that it was told before
    fields = {"conn_type": "wasb", "login": "lake", "extra": {"connection_string": f"AccountName=a;AccountKey={key}"}}
    monkeypatch.setenv("AIRFLOW_CONN_WASB_EXPORTS", json.dumps(fields))
    monkeypatch.setenv("AIRFLOW__LOGGING__MIN_LENGTH_MASKED_SECRET", str(shortest))
    monkeypatch.setattr(_secrets_masker(), "min_length_to_mask", shortest)
    monkeypatch.setattr(SecretsMasker, "_has_warned_short_secret", False)

    assert AepHook().destination_login("wasb_exports", destination_type(EACH["AzureBlob"]))

    assert "too short" not in caplog.text
    assert (_secrets_masker().redact(f"with {key}") == "with ***") == is_asked
