"""A daily export over a year, in Airflow's own tasks: what befalls it, who is told when, and what the storage holds.

`make year` lives the year, `tests/test_year.py` a month of it.
"""

from __future__ import annotations

import gzip
import json
import logging
import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

if __name__ == "__main__":  # the logs of a year without incidents are long
    os.environ["AIRFLOW__LOGGING__LOGGING_LEVEL"] = "WARNING"

import tests.conftest  # noqa: F401 - before Airflow, which it gives a home of its own

# isort: split

import pytest
from airflow.sdk import DAG
from airflow.utils.db import initdb

from airflow_provider_aep.api.auth import TOKEN_CACHES
from airflow_provider_aep.destinations import AmazonS3
from airflow_provider_aep.operators import (
    AepCheckDataflowsOperator,
    AepCreateBaseConnectionOperator,
    AepEnableDataflowOperator,
    AepExportDatasetsOperator,
)
from airflow_provider_aep.schedules import Every
from tests.adobe.line import Trouble
from tests.adobe.served import ServedAdobe, served_adobe
from tests.airflow_places import CronTriggerTimetable
from tests.dag_runs import Finished, install, run_cleared, run_dag, run_scheduled
from tests.real_airflow import connections

DATASET = "5fb4c170379f4a1971625465"  # of events; it has no rows of its own
ROWS_A_DAY = 3
DAY, HOUR = timedelta(days=1), timedelta(hours=1)
END_IS_NEAR = 30 * DAY
EXTENSION = 90 * DAY + 12 * HOUR  # half a day, so that no check meets the very second at which the end comes near
SLOT = timedelta(minutes=10)  # how long after the DAG run is due Adobe's is
ABORTED = "ACTIVATION_BATCH-0000-FAILED: Job aborted."
NEW_CLIENT_SECRET = "p8e-the-secret-of-the-next-year-AbCdEf"
NEW_STORAGE_SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYNEXTYEARKE"


class Story(NamedTuple):
    """On which day what befalls the export; the first DAG run is that of day 0."""

    days: int
    first_end: int
    fails_once: int
    fails_twice: int
    is_disabled: int
    outage: int
    storage_secret: int
    client_secret: int
    is_slow: int


YEAR = Story(365, first_end=183, fails_once=41, fails_twice=260, is_disabled=97, outage=133, storage_secret=201,
             client_secret=310, is_slow=333)  # fmt: skip
MONTH = Story(30, first_end=43, fails_once=3, fails_twice=24, is_disabled=7, outage=11, storage_secret=19,
              client_secret=27, is_slow=21)  # fmt: skip


class Report(NamedTuple):
    """What the person on call was told, and when by Adobe's clock."""

    day: int
    at: datetime
    task: str
    text: str


class Incident(NamedTuple):
    """What happened when, and which task has to tell of it in which words: {task: pattern}."""

    day: int
    at: datetime
    what: str
    words: dict[str, str]


@dataclass
class Life:
    """The export's life so far. Time passes with each request, and from one DAG run to the next."""

    story: Story
    adobe: ServedAdobe
    environment: pytest.MonkeyPatch
    reports: list[Report] = field(default_factory=list)
    """Failures, as `on_failure_callback` tells them, what the check returns of ends, and warnings in logs."""
    incidents: list[Incident] = field(default_factory=list)
    finished: list[Finished] = field(default_factory=list)
    _left: list[Finished] = field(default_factory=list)
    """DAG runs that are to be cleared when Adobe answers again."""
    arrived: dict[str, int] = field(default_factory=dict)
    """{row: the day on which it arrived}."""

    def __post_init__(self) -> None:
        self.now = self.adobe.now()
        self.start = (self.now + 2 * DAY).replace(hour=0, minute=0, second=0, microsecond=0)
        self.day = -1
        self._passing = 0.0
        self._outage_ends: datetime | None = None
        self.adobe.line.choose = self._pass_time
        self.connections = connections(self.adobe.url)
        aep = json.loads(self.connections["AIRFLOW_CONN_AEP_DEFAULT"])
        # A retry within a task waits as long as Adobe asks for, but no longer than this.
        aep["extra"]["max_retry_after"] = 0.01
        self.connections["AIRFLOW_CONN_AEP_DEFAULT"] = json.dumps(aep)
        for name, value in self.connections.items():
            self.environment.setenv(name, value)
        self.environment.setenv("AIRFLOW__AEP__POLL_FLOOR_SECONDS", "0.1")
        TOKEN_CACHES.clear()
        self.daily, self.health = self._daily_dag(), self._health_dag()
        install(self.daily)
        install(self.health)
        self.end = self.due(self.story.first_end)

    # -- time ---------------------------------------------------------------------------------------------------------

    def _pass_time(self, _: int) -> Trouble:
        """A request takes a second, and the next one comes a quarter of an hour after a look at the runs."""
        self._advance(self._passing)
        self._passing = 900.0 if self.adobe.line.sent[-1].path.endswith("/runs") else 1.0
        return "none"

    def _advance(self, seconds: float) -> None:
        self.now = datetime.fromtimestamp(self.adobe.admin("POST", "clock/advance", seconds=seconds)["now"], UTC)
        if self._outage_ends and self.now >= self._outage_ends:
            self.adobe.admin("DELETE", "faults")
            self._outage_ends = None

    def move_to(self, moment: datetime) -> None:
        self._advance(max((moment - self.now).total_seconds(), 0))
        self._passing = 0.0

    def due(self, day: int) -> datetime:
        return self.start + day * DAY

    # -- tasks --------------------------------------------------------------------------------------------------------

    def _export(self, **arguments: Any) -> AepExportDatasetsOperator:
        schedule = Every(days=1, start=self.start + SLOT, end=arguments.pop("end", None))
        return AepExportDatasetsOperator(
            task_id="export",
            name="a year",
            dataset_ids=DATASET,
            destination=AmazonS3("lake-exports", "year"),
            destination_conn_id="aws_exports",
            schedule=schedule,
            file_type="JSON",
            **arguments,
        )

    def _dag(self, dag_id: str, cron: str) -> DAG:
        on_call = {"on_failure_callback": self._report, "retries": 2, "retry_delay": timedelta(0)}
        timetable = CronTriggerTimetable(cron, timezone="UTC")
        return DAG(dag_id, schedule=timetable, start_date=self.start, default_args=on_call)

    def _daily_dag(self) -> DAG:
        with self._dag("daily", "0 0 * * *") as dag:
            self._export(wait_for_completion=True, deferrable=True, poke_interval=0.2, timeout=300, rerun_failed=1)
        return dag

    def _health_dag(self) -> DAG:
        with self._dag("health", "0 6 * * *") as dag:
            AepCheckDataflowsOperator(
                task_id="health", name_pattern="a year", ends_within=END_IS_NEAR, extend_end=EXTENSION
            )
        return dag

    def _run(self, dag: DAG, due: datetime) -> Finished:
        """A scheduled DAG run; an hour passes before a task is tried again."""
        self.move_to(due)
        return run_scheduled(dag, due, lambda: self._advance(3600))

    def _report(self, context: Any) -> None:
        self.reports.append(Report(self.day, self.now, context["ti"].task_id, str(context["exception"])))

    def set_up(self) -> None:
        """The day before: an export that ends too early, as Adobe's user interface makes it."""
        with DAG("set_up") as dag:
            self._export(end=self.due(self.story.first_end))
        assert run_dag(dag).state == "success"

    def enable(self) -> None:
        with DAG("enable") as dag:
            AepEnableDataflowOperator(task_id="enable", dataflow_id=self.dataflow_id)
        assert run_dag(dag).result("enable")["state"] == "enabled"

    def send_credentials(self) -> None:
        with DAG("send_credentials") as dag:
            AepCreateBaseConnectionOperator(
                task_id="login",
                destination=AmazonS3("lake-exports", "year"),
                destination_conn_id="aws_exports",
                if_exists="update",
            )
        assert run_dag(dag).state == "success"

    # -- what happens -------------------------------------------------------------------------------------------------

    def live(self) -> None:
        self.set_up()
        for day in range(self.story.days + 1):
            self.day = day
            self.move_to(self.due(day))
            self._befall()
            self._clear_what_is_left()
            finished = self._run(self.daily, self.due(day))
            self.finished.append(finished)
            self._look_at(self._run(self.health, self.due(day) + 6 * HOUR))
            self._answer(finished)
            self.move_to(self.due(day) + 12 * HOUR)
            if day < self.story.days:  # what arrives on the last day is exported the day after
                self._rows_arrive()

    def _rows_arrive(self) -> None:
        moment = self.now.isoformat()
        rows = [{"_id": f"day {self.day}, row {number}", "timestamp": moment} for number in range(ROWS_A_DAY)]
        self.adobe.admin("POST", "rows", dataset_id=DATASET, rows=rows)
        self.arrived.update(dict.fromkeys((row["_id"] for row in rows), self.day))

    def _befall(self) -> None:
        happens: dict[int, Callable[[], None]] = {
            self.story.fails_once: self._run_fails,
            self.story.fails_twice: self._run_and_rerun_fail,
            self.story.is_disabled: self._colleague_disables,
            self.story.outage: self._outage,
            self.story.storage_secret: self._storage_secret_changes,
            self.story.client_secret: self._client_secret_changes,
            self.story.is_slow: self._run_is_slow,
        }
        if self.day in happens:
            happens[self.day]()
        if self.end - self.now <= END_IS_NEAR:
            self._note("the end comes near", health="ends at .*, no longer at")

    def _note(self, what: str, **words: str) -> None:
        self.incidents.append(Incident(self.day, self.now, what, words))

    def _look_at(self, health: Finished) -> None:
        """The end that a green check has moved stands in its result."""
        if health.state == "success":
            for row in health.result("health"):
                if row["extended_from"]:
                    self.end = datetime.fromisoformat(row["ends_at"])
                    text = f"ends at {row['ends_at']}, no longer at {row['extended_from']}"
                    self.reports.append(Report(self.day, self.now, "health", text))

    def told_of(self, incident: Incident) -> list[Report]:
        """The reports of it within a day."""
        return [
            each
            for each in self.reports
            if incident.at <= each.at < incident.at + DAY
            and each.task in incident.words
            and re.search(incident.words[each.task], each.text)
        ]

    @property
    def dataflow_id(self) -> str:
        return str(
            next(each["id"] for each in self.adobe.admin("GET", "creations")["creations"] if each["kind"] == "flows")
        )

    def _run_fails(self) -> None:
        """The run that the task then starts has the data; the log tells of the first."""
        self._next_run_fails()
        self._note("a run fails", log=f"has ended: failed.*{ABORTED}")

    def _run_and_rerun_fail(self) -> None:
        """The data comes with the next day's run."""
        self._next_run_fails()
        self._next_run_fails()
        self._note("a run fails, and so does its rerun", export=f"failed.*{ABORTED}", health=f"failed.*{ABORTED}")

    def _next_run_fails(self) -> None:
        code, message = ABORTED.split(": ")
        script = {"outcome": "failed", "errors": [{"code": code, "message": message}]}
        self.adobe.admin("POST", "scripts", flow_id=self.dataflow_id, **script)

    def _colleague_disables(self) -> None:
        self.adobe.admin("POST", "states", flow_id=self.dataflow_id, state="disabled")
        self._note("a colleague disables the dataflow", export="it is disabled", health="disabled")

    def _run_is_slow(self) -> None:
        """It takes an hour, and its record tells of its end half an hour later; nobody needs to be told."""
        script = {"seconds": 3600, "late_seconds": 1800}
        self.adobe.admin("POST", "scripts", flow_id=self.dataflow_id, outcome="success", **script)

    def _outage(self) -> None:
        self._outage_ends = self.now + DAY
        self.adobe.fault("*", status=503, times=None, retry_after="5")
        self._note("an outage of a day", export="HTTP 503", health="HTTP 503")

    def _storage_secret_changes(self) -> None:
        base = next(each for each in self.adobe.admin("GET", "creations")["creations"] if each["kind"] == "connections")
        self.adobe.admin("POST", "revoked-logins", connection_id=base["id"])
        words = "failed.*refused the credentials"
        self._note("the storage's secret changes", export=words, health=words)

    def _client_secret_changes(self) -> None:
        self.adobe.admin("POST", "client-secrets", secrets=[NEW_CLIENT_SECRET])
        self.adobe.admin("POST", "expire-tokens")
        self._note("the client secret changes", export="invalid_client", health="invalid_client")

    # -- the person on call -------------------------------------------------------------------------------------------

    def _answer(self, finished: Finished) -> None:
        """Do what today's reports ask for; who was not told does nothing."""
        told = " ".join(each.text for each in self.reports if each.day == self.day)
        if "it is disabled: enable it" in told:
            self.enable()
        if "refused the credentials" in told:
            self._change_connection("AIRFLOW_CONN_AWS_EXPORTS", NEW_STORAGE_SECRET)
            self.send_credentials()
        if "invalid_client" in told:
            self._change_connection("AIRFLOW_CONN_AEP_DEFAULT", NEW_CLIENT_SECRET)
            run_cleared(self.daily, finished, "export")
        if "HTTP 503" in told:
            self._left.append(finished)

    def _clear_what_is_left(self) -> None:
        while self._left and self._outage_ends is None:
            run_cleared(self.daily, self._left.pop(), "export")

    def _change_connection(self, variable: str, secret: str) -> None:
        fields = {**json.loads(self.connections[variable]), "password": secret}
        self.environment.setenv(variable, json.dumps(fields))


class TaskLog(logging.Handler):
    """What tasks log is a report, too, where it is a warning or the end of a run that failed."""

    def __init__(self, life: Life) -> None:
        super().__init__(logging.INFO)
        self._life = life

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if "airflow_provider_aep" in record.name and record.levelno > logging.INFO:
            self._life.reports.append(Report(self._life.day, self._life.now, "log", text))


def rows_in_storage(adobe: ServedAdobe) -> Counter[str]:
    """How often each row is there."""
    files = adobe.data.rglob("part-*.json.gz")
    return Counter(json.loads(line)["_id"] for path in files for line in gzip.open(path, "rt", encoding="utf-8"))


def check_data(life: Life) -> None:
    """Every day's data is in the storage once, and nothing else is."""
    assert sorted(set(life.arrived.values())) == list(range(life.story.days))
    assert rows_in_storage(life.adobe) == Counter(life.arrived.keys())


def check_reports(life: Life) -> None:
    """Every incident was reported on its day, in words that tell what it was; and nothing else was."""
    for incident in life.incidents:
        assert {each.task for each in life.told_of(incident)} == set(incident.words), (incident, life.reports)
    days = {each.day for each in life.incidents}
    assert [each for each in life.reports if each.task != "log" and each.day not in days] == []


def check_waits(life: Life) -> None:
    """No wait hung; what could be mended is green in the end; and each green task was true, of a run of its own."""
    assert not [each for each in life.reports if "timed out" in each.text]
    landed, results = life.adobe.landed(), []
    states = [finished.states()["export"] for finished in life.finished]
    red = {life.story.is_disabled, life.story.storage_secret, life.story.fails_twice}
    assert states == ["failed" if day in red else "success" for day in range(life.story.days + 1)]
    for finished, state in zip(life.finished, states, strict=True):
        if state == "success":
            result = finished.result("export")
            results.append(result["run_id"])
            assert result["output_records"] == sum(landed.get(result["run_id"], {}).values())
    assert len(results) == len(set(results))


CHECKS = (check_data, check_reports, check_waits)


def live(story: Story, folder: Path, environment: pytest.MonkeyPatch) -> Iterator[Life]:
    """An Adobe of its own, and a life on it."""
    with served_adobe(folder, "--speed", "0") as adobe:
        life = Life(story, adobe, environment)
        log, provider = TaskLog(life), logging.getLogger("airflow_provider_aep")
        provider.addHandler(log)
        provider.setLevel(logging.INFO)
        try:
            life.live()
        finally:
            provider.removeHandler(log)
            provider.setLevel(logging.NOTSET)
        yield life


def main() -> int:
    """Live a year, check it and tell of it."""
    initdb()
    with pytest.MonkeyPatch.context() as environment, tempfile.TemporaryDirectory(prefix="aep-year-") as folder:
        for life in live(YEAR, Path(folder), environment):
            for check in CHECKS:
                check(life)
            days, rows = len(life.finished), len(life.arrived)
            print(
                f"{days} DAG runs, {rows:,} rows, each of them in the storage once. What happened, and who told of it:"
            )
            for incident in life.incidents:
                told = ", ".join(f"by {each.task} after {each.at - incident.at}" for each in life.told_of(incident))
                print(f"day {incident.day:3}: {incident.what}; told {told}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
