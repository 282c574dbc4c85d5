"""Runs of the emulator: when they start, how they pass, what they write and what they tell."""

from __future__ import annotations

import gzip
import json
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from airflow_provider_aep.emulator import Clock, Platform
from tests.adobe.caller import EVENTS, LOYALTY, PROFILES, START, Caller, hourly, once

HOUR = 3600
EMPTY = "5fb4c170379f4a1971625465"  # the dataset that holds no rows


@pytest.fixture
def adobe(tmp_path: Path) -> Caller:
    return Caller(tmp_path)


def exported(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("part-*") if path.is_file())


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in exported(folder) for line in gzip.open(path, "rt", encoding="utf-8")]


def status(run: dict[str, Any]) -> str | None:
    found: str | None = run["metrics"].get("statusSummary", {}).get("status")
    return found


def test_a_run_goes_through_waiting_and_processing_to_success(adobe: Caller) -> None:
    flow = adobe.flow(LOYALTY, scheduleParams=once())

    adobe.clock.advance(600)
    assert adobe.runs(flow) == []
    seen = []
    for _ in range(16):
        adobe.clock.advance(10)
        run = adobe.runs(flow)[0]
        duration = run["metrics"].get("durationSummary", {})
        seen.append((status(run), sorted(duration), run["etag"], run["updatedAt"]))

    shapes = list(dict.fromkeys((told, tuple(members)) for told, members, _, _ in seen))
    assert shapes == [
        (None, ()),
        (None, ("startedAtUTC",)),
        ("processing", ("startedAtUTC",)),
        ("success", ("completedAtUTC", "startedAtUTC")),
    ]
    assert len({etag for _, _, etag, _ in seen}) == len({changed for *_, changed in seen}) == 4


def test_times_of_a_run(adobe: Caller) -> None:
    flow = adobe.flow(scheduleParams=once())
    adobe.clock.advance(HOUR)

    run = adobe.runs(flow)[0]
    duration = run["metrics"]["durationSummary"]
    assert (START + 600) * 1000 < run["createdAt"] < duration["startedAtUTC"] < duration["completedAtUTC"]
    assert duration["completedAtUTC"] < run["updatedAt"]
    assert int(run["etag"].strip('"').rpartition("-")[2][:8], 16) == run["updatedAt"] // 1000


def test_metrics_are_true_to_the_files(adobe: Caller, tmp_path: Path) -> None:
    flow = adobe.flow(PROFILES, EVENTS, scheduleParams=once())
    adobe.clock.advance(HOUR)

    metrics = adobe.runs(flow)[0]["metrics"]
    files = exported(tmp_path)
    assert metrics["recordSummary"]["outputRecordCount"] == len(rows(tmp_path)) == 13_000
    assert metrics["sizeSummary"]["outputBytes"] == sum(path.stat().st_size for path in files)
    assert metrics["fileSummary"]["outputFileCount"] == len(files)
    found = adobe.item(f"/flows/{flow}")
    records = metrics["recordSummary"]
    assert records["sourceSummaries"][0]["id"] == found["sourceConnectionIds"][0]
    assert records["targetSummaries"][0]["id"] == found["targetConnectionIds"][0]
    entities = records["targetSummaries"][0]["entitySummaries"]
    assert [one["outputRecordCount"] for one in entities] == [5000, 8000]


def test_files_lie_where_adobe_documents(adobe: Caller, tmp_path: Path) -> None:
    flow = adobe.flow(LOYALTY, params={"path": "exports/daily", "includeFileManifest": True}, scheduleParams=once())
    adobe.clock.advance(HOUR)
    adobe.platform.tick()

    folder = tmp_path / "s3" / "lake" / "exports" / "daily" / LOYALTY / "exportTime=202701150810"
    assert len(exported(folder)) == len(exported(tmp_path)) > 1
    run = adobe.runs(flow)[0]
    manifest = json.loads(next(folder.glob("manifest-*.json")).read_text())
    assert manifest["flowRunId"] == run["id"]
    assert {one["name"] for one in manifest["exportResults"]} == {path.name for path in exported(folder)}


@pytest.mark.parametrize("key", ["foldernameTemplate", "folderNameTemplate"])
def test_the_folder_template(adobe: Caller, tmp_path: Path, key: str) -> None:
    template: dict[str, Any] = {key: "%SANDBOX_NAME%/%DESTINATION_INSTANCE_NAME%_%DATASET_NAME%"}
    adobe.flow(LOYALTY, name="nightly", scheduleParams=once(**template))
    adobe.clock.advance(HOUR)
    adobe.platform.tick()

    assert {path.parent for path in exported(tmp_path)} == {
        tmp_path / "s3" / "lake" / "a" / "b" / "prod" / "nightly_Loyalty Members EMEA"
    }


def test_parquet(adobe: Caller, tmp_path: Path) -> None:
    adobe.flow(LOYALTY, params={"datasetFileType": "PARQUET", "compression": "NONE"}, scheduleParams=once())
    adobe.clock.advance(HOUR)
    adobe.platform.tick()

    assert sum(pq.read_metadata(path).num_rows for path in exported(tmp_path)) == 1100


def test_the_dataflow_tells_of_its_last_run_and_gets_a_new_etag(adobe: Caller) -> None:
    flow = adobe.flow(scheduleParams=once())
    before = adobe.item(f"/flows/{flow}")
    adobe.clock.advance(HOUR)

    after, run = adobe.item(f"/flows/{flow}"), adobe.runs(flow)[0]
    assert "lastRunDetails" not in before
    assert after["lastRunDetails"] == {
        "id": run["id"],
        "state": "success",
        **run["metrics"]["durationSummary"],
    }
    assert after["etag"] == after["version"] != before["etag"]
    assert after["updatedAt"] == before["updatedAt"]


def test_a_full_export_happens_once(adobe: Caller) -> None:
    flow = adobe.flow(LOYALTY, scheduleParams=once())
    adobe.clock.advance(30 * 24 * HOUR)

    assert len(adobe.runs(flow)) == 1


def test_increments_hold_what_arrived_since(tmp_path: Path) -> None:
    adobe = Caller(tmp_path, arrivals=10)
    flow = adobe.flow(LOYALTY, scheduleParams=hourly(3, start=START + HOUR))
    adobe.clock.advance(7.5 * HOUR)

    counts = [run["metrics"]["recordSummary"]["outputRecordCount"] for run in adobe.runs(flow)]
    assert counts == [1100 + 10, 30, 30]
    assert len({row["_id"] for row in rows(tmp_path)}) == 1170


def test_rows_can_be_added(adobe: Caller, tmp_path: Path) -> None:
    flow = adobe.flow(EMPTY, scheduleParams=hourly(3, start=START))
    adobe.clock.advance(HOUR)
    adobe.platform.add_rows(EMPTY, [{"_id": "1", "timestamp": "2027-01-15T09:00:00Z"}])
    adobe.clock.advance(3 * HOUR)

    counts = [run["metrics"]["recordSummary"]["outputRecordCount"] for run in adobe.runs(flow)]
    assert counts == [0, 1]
    assert [row["_id"] for row in rows(tmp_path)] == ["1"]


def test_an_empty_run_is_a_success_with_zeros(adobe: Caller, tmp_path: Path) -> None:
    flow = adobe.flow(EMPTY, scheduleParams=once())
    adobe.clock.advance(HOUR)

    metrics = adobe.runs(flow)[0]["metrics"]
    assert metrics["statusSummary"]["status"] == "success"
    assert metrics["recordSummary"]["inputRecordCount"] == metrics["sizeSummary"]["outputBytes"] == 0
    assert exported(tmp_path) == []


@pytest.mark.parametrize(
    ("schedule", "hours"),
    [
        (hourly(3, start=START + HOUR), [1, 4, 7, 10]),
        (hourly(12, start=START), [0, 12]),
        (hourly(12, start=START - 5 * HOUR), [0, 7]),
        (hourly(1, timeUnit="day", start=START + 2 * HOUR), [2]),
        (hourly(3, start=START, endTime=int(START) + 4 * HOUR), [0, 3]),
        (hourly(3, start=START + 24 * HOUR), []),
        (once(START - 100 * HOUR), [0]),
    ],
)
def test_slots(adobe: Caller, schedule: dict[str, Any], hours: list[int]) -> None:
    """A start in the past means at once, and then in the rhythm of that start."""
    flow = adobe.flow(EMPTY, scheduleParams=schedule)
    adobe.clock.advance(12.5 * HOUR)

    assert [(run["createdAt"] / 1000 - START) // HOUR for run in adobe.runs(flow)] == hours


def test_a_disabled_dataflow_skips_its_slots(adobe: Caller) -> None:
    flow = adobe.flow(EMPTY, scheduleParams=hourly(3, start=START))
    adobe.clock.advance(HOUR)
    adobe.call("POST", f"/flows/{flow}/action?op=disable")
    adobe.clock.advance(6 * HOUR)
    adobe.call("POST", f"/flows/{flow}/action?op=enable")
    adobe.clock.advance(3 * HOUR)

    assert [(run["createdAt"] / 1000 - START) // HOUR for run in adobe.runs(flow)] == [0, 9]


def test_a_new_schedule_takes_the_place_of_the_old(adobe: Caller) -> None:
    flow = adobe.flow(EMPTY, scheduleParams=hourly(3, start=START))
    adobe.clock.advance(HOUR)
    value = hourly(6, start=START)
    adobe.patch(f"/flows/{flow}", {"op": "replace", "path": "/scheduleParams", "value": value})
    adobe.clock.advance(12 * HOUR)

    assert [(run["createdAt"] / 1000 - START) // HOUR for run in adobe.runs(flow)] == [0, 6, 12]


def test_a_deleted_dataflow_fires_no_more_and_its_history_stays(adobe: Caller) -> None:
    flow = adobe.flow(LOYALTY, scheduleParams=hourly(3, start=START))
    adobe.clock.advance(60)
    adobe.call("DELETE", f"/flows/{flow}")
    adobe.clock.advance(6 * HOUR)

    assert [status(run) for run in adobe.runs(flow)] == ["success"]


def test_the_first_run_may_be_late(tmp_path: Path) -> None:
    adobe = Caller(tmp_path, first_run_seconds=2 * HOUR)
    flow = adobe.flow(EMPTY, scheduleParams=hourly(3, start=START))
    adobe.clock.advance(2 * HOUR)
    assert adobe.runs(flow) == []
    adobe.clock.advance(2 * HOUR)

    assert [(run["createdAt"] / 1000 - START) // HOUR for run in adobe.runs(flow)] == [2, 3]


def test_a_failed_run(adobe: Caller, tmp_path: Path) -> None:
    flow = adobe.flow(LOYALTY, scheduleParams=hourly(3, start=START))
    adobe.platform.script_run(flow, "failed")
    adobe.clock.advance(HOUR)

    run = adobe.runs(flow)[0]
    assert run["metrics"]["statusSummary"]["status"] == "failed"
    assert run["metrics"]["statusSummary"]["errors"][0]["code"] == "ACTIVATION_BATCH-0000-FAILED"
    assert run["metrics"]["recordSummary"]["failedInfo"]
    assert run["activities"][0]["statusSummary"]["errors"]
    assert "sizeSummary" not in run["metrics"]
    assert adobe.item(f"/flows/{flow}")["lastRunDetails"]["state"] == "failed"
    assert exported(tmp_path) == []
    adobe.clock.advance(3 * HOUR)
    assert adobe.runs(flow)[1]["metrics"]["recordSummary"]["outputRecordCount"] == 1100  # nothing is lost


def test_a_partial_run_is_a_success_with_errors(adobe: Caller, tmp_path: Path) -> None:
    flow = adobe.flow(LOYALTY, scheduleParams=once())
    adobe.platform.script_run(flow, "partial", failed_records=7)
    adobe.clock.advance(HOUR)

    metrics = adobe.runs(flow)[0]["metrics"]
    assert metrics["statusSummary"]["status"] == "success"
    assert metrics["statusSummary"]["errors"][0]["code"] == "CONNECTOR-2001-500"
    records = metrics["recordSummary"]
    assert (records["inputRecordCount"], records["outputRecordCount"], records["failedRecordCount"]) == (1100, 1093, 7)
    assert len(rows(tmp_path)) == 1093


def test_scripts_for_errors_duration_and_words(adobe: Caller) -> None:
    flow = adobe.flow(EMPTY, scheduleParams=hourly(3, start=START))
    error = {"code": "X-1-500", "message": "disk full"}
    adobe.platform.script_run("*", "failed", errors=[error], status="Aborted", seconds=2 * HOUR)
    adobe.platform.script_run("*", "empty")
    adobe.clock.advance(HOUR)
    assert status(adobe.runs(flow)[0]) is None
    adobe.clock.advance(3 * HOUR)

    first, second = adobe.runs(flow)
    assert first["metrics"]["statusSummary"] | {"activityRefs": []} == {
        "status": "Aborted",
        "errors": [error],
        "activityRefs": [],
    }
    assert status(second) == "success"


def test_statuses_may_be_in_title_case(tmp_path: Path) -> None:
    adobe = Caller(tmp_path, status_case="title")
    flow = adobe.flow(EMPTY, scheduleParams=once())
    adobe.clock.advance(600 + 5 + 100)
    assert status(adobe.runs(flow)[0]) == "Processing"
    adobe.clock.advance(HOUR)
    assert status(adobe.runs(flow)[0]) == "Success"


def test_a_storage_that_cannot_be_written_to_fails_the_run(adobe: Caller, tmp_path: Path) -> None:
    flow = adobe.flow(LOYALTY, scheduleParams=once())
    (tmp_path / "s3").write_text("in the way")
    adobe.clock.advance(HOUR)

    summary = adobe.runs(flow)[0]["metrics"]["statusSummary"]
    assert summary["status"] == "failed"
    assert "Job aborted" in summary["errors"][0]["message"]


def test_one_run_by_its_id(adobe: Caller) -> None:
    flow = adobe.flow(EMPTY)
    run = adobe.platform.start_run(flow)

    assert adobe.item(f"/runs/{run['id']}")["flowId"] == flow
    assert adobe.refused("GET", "/runs/nowhere") == "404 FLOW-1439-404"
    assert adobe.refused("GET", f"/runs/{run['id']}", headers={"x-sandbox-name": "dev"}) == "404 FLOW-1439-404"


def test_everything_is_kept_over_a_restart(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    adobe = Caller(tmp_path / "data", state=state, arrivals=10)
    flow = adobe.flow(LOYALTY, scheduleParams=hourly(3, start=START))
    adobe.platform.script_run(flow, "partial", failed_records=1)
    adobe.platform.script_run(flow, "empty")
    adobe.clock.advance(60)
    under_way = adobe.runs(flow)[0]
    adobe.platform.save()

    again = Caller(tmp_path / "data", state=state, arrivals=10, clock=Clock(speed=0, start=0.0))
    assert again.clock.now() == adobe.clock.now()
    assert again.runs(flow) == [under_way]
    assert [one.id for one in again.platform.creations] == [one.id for one in adobe.platform.creations]
    again.clock.advance(6.5 * HOUR)
    counts = [run["metrics"]["recordSummary"]["outputRecordCount"] for run in again.runs(flow)]
    assert counts == [1099, 0, 30]
    assert adobe.base("new") != again.base("new")  # the second one went on counting from the first


def test_a_change_is_in_the_state_file_at_once(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    adobe = Caller(tmp_path / "data", state=state)
    base = adobe.base()

    assert Caller(tmp_path / "data", state=state).item(f"/connections/{base}")["id"] == base


@pytest.mark.parametrize("text", ["", "[]", '{"format": 99}'])
def test_a_state_file_of_another_kind(tmp_path: Path, text: str) -> None:
    (tmp_path / "state.json").write_text(text)

    with pytest.raises(ValueError, match="state="):
        Platform(data=tmp_path, state=tmp_path / "state.json")


def test_without_files_runs_tell_rows_and_no_bytes(tmp_path: Path) -> None:
    adobe = Caller(tmp_path / "data", write_files=False)
    flow = adobe.flow(LOYALTY, scheduleParams=once())
    adobe.clock.advance(HOUR)

    metrics = adobe.runs(flow)[0]["metrics"]
    assert (metrics["recordSummary"]["outputRecordCount"], metrics["fileSummary"]["outputFileCount"]) == (1100, 0)
    assert not (tmp_path / "data").exists()


def test_the_clock() -> None:
    still, fast = Clock(speed=0, start=5), Clock(speed=1_000_000, start=0)

    assert (still.now(), still.advance(2.5), still.now()) == (5, 7.5, 7.5)
    assert fast.now() > 0
    with pytest.raises(ValueError, match="speed=-1"):
        Clock(speed=-1)
    with pytest.raises(ValueError, match="seconds=-1"):
        still.advance(-1)
    still.move_to(1)
    assert still.now() == 7.5


def test_a_clock_that_meets_the_real_time_does_not_overtake_it() -> None:
    clock = Clock(speed=1e9, start=time.time() - 3600, until_now=True)
    before = clock.now()

    assert clock.now() == before < time.time() - 3000  # it has not begun
    clock.begin()
    time.sleep(0.01)
    assert clock.now() == pytest.approx(time.time(), abs=1)
    assert clock.advance(100) == pytest.approx(time.time(), abs=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"run_seconds": -1}, "run_seconds=-1"),
        ({"status_case": "upper"}, "status_case='upper'"),
        ({"landing_zone": "gcp"}, "landing_zone='gcp'"),
        ({"sandboxes": ()}, "sandboxes"),
        ({"page_size": 101}, "page_size=101"),
    ],
)
def test_options_that_mean_nothing(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Platform(data=tmp_path, **options)
