"""The datasets that the emulator is seeded with, and the files that an export of them writes."""

from __future__ import annotations

import gzip
import itertools
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypedDict

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_aep.emulator.flow_service.datasets import (
    DAY_MS,
    EXPORTED_EVENT_DAYS,
    HOUR_MS,
    SEEDED,
    Lake,
    SeedDataset,
    catalog_record,
    model_rows,
)
from airflow_provider_aep.emulator.flow_service.specs import CONNECTION_SPECS, ConnectionSpec
from airflow_provider_aep.emulator.flow_service.templates import check_template, expand_template
from airflow_provider_aep.emulator.runs.files import Written, write_export, write_manifest

START_MS = 1_767_225_600_000  # 2026-01-01T00:00:00Z
PROFILES, EVENTS = SEEDED[0], SEEDED[1]
ARCHIVE = next(dataset for dataset in SEEDED if dataset.name == "Web Events Archive")
EMPTY = next(dataset for dataset in SEEDED if dataset.rows == 0)
NAMES = {
    "DESTINATION": "Amazon S3",
    "DESTINATION_NAME": "Amazon S3",
    "DESTINATION_INSTANCE_ID": "instance-1",
    "DESTINATION_INSTANCE_NAME": "nightly/profiles",
    "SANDBOX_NAME": "prod",
    "ORGANIZATION_NAME": "ACME",
}
PART_NAME = re.compile(
    r"part-(\d{5})-tid-\d{19}-[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}-\d+-\d+-c000\."
    r"(json\.gz|parquet|gz\.parquet|json)"
)


SPECS = {spec.storage: spec for spec in CONNECTION_SPECS.values()}


class Place(TypedDict):
    spec: ConnectionSpec
    target: dict[str, Any]
    login: dict[str, Any]


def s3(path: str = "exports", *, file_type: str = "JSON", compression: str = "GZIP", bucket: str = "lake") -> Place:
    params = {"bucketName": bucket, "path": path, "datasetFileType": file_type, "compression": compression}
    return {"spec": SPECS["s3"], "target": params, "login": {}}


def export(
    root: Path,
    rows: Iterable[dict[str, Any]],
    *,
    place: Place | None = None,
    dataset: SeedDataset = PROFILES,
    template: str | None = None,
    names: Mapping[str, str] = NAMES,
    run_id: str = "run-1",
    seed: int = 0,
) -> Written:
    return write_export(
        root=root,
        **(place or s3()),
        dataset=dataset,
        rows=rows,
        export_time_ms=START_MS + 3_723_000,
        folder_template=template,
        names=names,
        run_id=run_id,
        seed=seed,
    )


def seeded(dataset: SeedDataset) -> list[dict[str, Any]]:
    return list(Lake(start_ms=START_MS).rows(dataset.id, None, START_MS))


def read_json(written: Written) -> list[dict[str, Any]]:
    return [json.loads(line) for file in written.files for line in gzip.decompress(file.path.read_bytes()).splitlines()]


def read_parquet(written: Written) -> list[dict[str, Any]]:
    return [row for file in written.files for row in pq.ParquetFile(file.path).read().to_pylist()]


def without_nulls(value: Any) -> Any:
    """What a row says: parquet shows every field of the schema, JSON only those that the row has."""
    if isinstance(value, dict):
        return {key: without_nulls(member) for key, member in value.items() if member is not None}
    return [without_nulls(member) for member in value] if isinstance(value, list) else value


def files_below(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


# --- the lake -------------------------------------------------------------------------------------------------------


def test_the_seeded_datasets_need_two_pages_and_can_be_told_apart() -> None:
    assert len(SEEDED) > 25
    assert len({dataset.id for dataset in SEEDED}) == len({dataset.name for dataset in SEEDED}) == len(SEEDED)
    assert all(re.fullmatch(r"[0-9a-f]{24}", dataset.id) for dataset in SEEDED)
    assert (PROFILES.id, PROFILES.rows, EVENTS.rows) == ("5ef3e3259ad2a1191ab7dd7d", 5000, 8000)


def test_a_catalog_record_has_the_members_of_adobes_example() -> None:
    """The names are those of `Destination_Dataset_Response` in Adobe's destinations OpenAPI."""
    published = {
        "id", "schemaRef", "name", "description", "tags", "fileDescription", "aspect", "imsOrg", "sandboxId", "version",
        "created", "updated", "createdClient", "createdUser", "updatedUser", "viewId", "basePath", "files",
        "enableErrorDiagnostics", "lastBatchStatus", "lastBatchId", "lastSuccessfulBatch",
    }  # fmt: skip

    record = catalog_record(PROFILES, ims_org="ORG@AdobeOrg")

    assert set(record) == published | {"state"}
    assert record["files"] == f"@/dataSetFiles?dataSetId={PROFILES.id}"
    assert record["imsOrg"] == "ORG@AdobeOrg"
    assert record["viewId"] != record["id"]
    assert record["created"] // 1000 == int(PROFILES.id[:8], 16)
    assert len(record["lastBatchId"]) == 26
    assert record == json.loads(json.dumps(record))


@pytest.mark.parametrize("dataset", SEEDED, ids=lambda dataset: dataset.name)
def test_a_dataset_holds_the_rows_that_it_says_each_with_its_own_id(dataset: SeedDataset) -> None:
    rows = seeded(dataset)

    if dataset is not ARCHIVE:  # the guardrail keeps a part of it back
        assert len(rows) == dataset.rows
    assert len({row["_id"] for row in rows}) == len(rows)
    assert Lake(start_ms=START_MS).row_count(dataset.id) == dataset.rows
    assert rows == seeded(dataset)


def test_rows_look_like_xdm() -> None:
    profile, events = seeded(PROFILES)[0], seeded(EVENTS)

    assert profile["person"]["name"]["fullName"].startswith(profile["person"]["name"]["firstName"])
    assert profile["personalEmail"]["address"].endswith("@example.com")
    assert profile["consents"]["collect"] == {"val": "y"}
    assert {"commerce.purchases", "web.webpagedetails.pageViews"} <= {event["eventType"] for event in events}
    purchase = next(event for event in events if event["eventType"] == "commerce.purchases")
    assert purchase["commerce"]["order"]["priceTotal"] == purchase["productListItems"][0]["priceTotal"]
    assert all("2025-11-02" <= event["timestamp"] < "2026-01-01" for event in events)


def test_every_event_belongs_to_a_seeded_profile() -> None:
    people = {row["identityMap"]["ECID"][0]["id"] for row in seeded(PROFILES)}

    assert {row["identityMap"]["ECID"][0]["id"] for row in seeded(EVENTS)} <= people


def test_the_model_rows_have_every_field_that_a_row_can_have() -> None:
    def fields(value: Any, path: str = "") -> Iterator[str]:
        yield path
        if isinstance(value, dict):
            for key, member in value.items():
                yield from fields(member, f"{path}.{key}")
        elif isinstance(value, list):
            for member in value:
                yield from fields(member, f"{path}[]")

    for dataset in (PROFILES, EVENTS):
        assert {f for row in seeded(dataset) for f in fields(row)} == {
            f for row in model_rows(dataset) for f in fields(row)
        }


def test_rows_are_made_when_they_are_read() -> None:
    began = time.perf_counter()
    next(Lake(start_ms=START_MS, arrivals=1e9).rows(EVENTS.id, None, START_MS + 300 * DAY_MS))
    assert time.perf_counter() - began < 0.5  # it would take days to make them all


def test_increments_share_no_row_and_lose_none() -> None:
    lake = Lake(start_ms=START_MS, arrivals=7.3)
    lake.add_rows(PROFILES.id, [{"_id": "a"}, {"_id": "b"}], START_MS + 2 * HOUR_MS)
    moments = [START_MS + step * 1_234_567 for step in range(12)]

    parts = [list(lake.rows(PROFILES.id, None, moments[0]))]
    parts += [list(lake.rows(PROFILES.id, *span)) for span in itertools.pairwise(moments)]

    ids = [row["_id"] for part in parts for row in part]
    assert len(ids) == len(set(ids)) == lake.row_count(PROFILES.id, moments[-1])
    assert set(ids) == {row["_id"] for row in lake.rows(PROFILES.id, None, moments[-1])}
    assert lake.row_count(PROFILES.id, START_MS + 10 * HOUR_MS) == 5000 + 73 + 2


def test_nothing_arrives_between_when_arrivals_are_zero() -> None:
    assert list(Lake(start_ms=START_MS).rows(PROFILES.id, START_MS, START_MS + DAY_MS)) == []


def test_an_added_row_is_exported_in_the_span_it_arrived_in() -> None:
    lake = Lake(start_ms=START_MS)
    lake.add_rows(PROFILES.id, [{"_id": "late"}], START_MS + 10)

    assert list(lake.rows(PROFILES.id, START_MS, START_MS + 9)) == []
    assert list(lake.rows(PROFILES.id, START_MS + 9, START_MS + 10)) == [{"_id": "late"}]
    assert list(lake.rows(PROFILES.id, START_MS + 10, START_MS + 99)) == []
    assert lake.row_count(PROFILES.id) == 5001


def test_events_older_than_365_days_are_not_exported() -> None:
    rows = seeded(ARCHIVE)

    assert min(row["timestamp"] for row in rows) >= "2025-01-01"
    assert len(rows) == pytest.approx(ARCHIVE.rows / 2, abs=2)  # its events reach back 730 days
    much_later = START_MS + EXPORTED_EVENT_DAYS * DAY_MS
    assert list(Lake(start_ms=START_MS).rows(EVENTS.id, None, much_later)) == []
    assert sum(1 for _ in Lake(start_ms=START_MS).rows(PROFILES.id, None, much_later)) == PROFILES.rows


def test_the_guardrail_holds_for_added_and_arrived_events_too() -> None:
    lake = Lake(start_ms=START_MS, arrivals=1)
    recent = {"_id": "recent", "timestamp": "2025-06-01T00:00:00Z"}
    lake.add_rows(EMPTY.id, [{"_id": "old", "timestamp": "2024-12-31T00:00:00+01:00"}, recent], START_MS)

    assert list(lake.rows(EMPTY.id, None, START_MS)) == [recent]
    later = list(lake.rows(EMPTY.id, None, START_MS + (EXPORTED_EVENT_DAYS + 1) * DAY_MS))
    assert min(row["timestamp"] for row in later) == "2026-01-02T00:00:00.000Z"


@pytest.mark.parametrize("timestamp", [None, "yesterday", "2026-01-01T00:00:00", 1767225600000])
def test_an_event_without_a_usable_time_is_refused_and_nothing_is_added(timestamp: object) -> None:
    lake = Lake(start_ms=START_MS)
    good = {"_id": "good", "timestamp": "2026-01-01T00:00:00Z"}

    with pytest.raises(ValueError, match=re.escape(f"timestamp={timestamp!r}")):
        lake.add_rows(EVENTS.id, [good, {"_id": "bad", "timestamp": timestamp}], START_MS)

    assert lake.row_count(EVENTS.id) == EVENTS.rows


def test_an_unknown_dataset_is_a_key_error_at_once() -> None:
    lake = Lake(start_ms=START_MS)
    calls: list[Callable[[], object]] = [
        lambda: lake.rows("0" * 24, None, START_MS),
        lambda: lake.row_count("0" * 24),
        lambda: lake.add_rows("0" * 24, [], START_MS),
    ]
    for call in calls:
        with pytest.raises(KeyError, match="0" * 24):
            call()


@pytest.mark.parametrize("arrivals", [-1, float("nan"), float("inf")])
def test_arrivals_that_make_no_sense_are_refused(arrivals: float) -> None:
    with pytest.raises(ValueError, match="arrivals="):
        Lake(start_ms=START_MS, arrivals=arrivals)


# --- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dataset", [PROFILES, EVENTS], ids=lambda dataset: dataset.kind)
def test_json_files_hold_the_rows_one_to_a_line(tmp_path: Path, dataset: SeedDataset) -> None:
    written = export(tmp_path, seeded(dataset), dataset=dataset)

    assert read_json(written) == seeded(dataset)
    for file in written.files:
        assert gzip.decompress(file.path.read_bytes()).count(b"\n") == file.rows
    assert sum(file.rows for file in written.files) == dataset.rows


@pytest.mark.parametrize(("compression", "ending"), [("NONE", ".parquet"), ("GZIP", ".gz.parquet")])
@pytest.mark.parametrize("dataset", [PROFILES, EVENTS], ids=lambda dataset: dataset.kind)
def test_parquet_files_hold_the_rows_in_one_schema(
    tmp_path: Path, dataset: SeedDataset, compression: str, ending: str
) -> None:
    place = s3(file_type="PARQUET", compression=compression)
    written = export(tmp_path, seeded(dataset), place=place, dataset=dataset)

    assert without_nulls(read_parquet(written)) == seeded(dataset)
    assert len({str(pq.read_schema(file.path)) for file in written.files}) == 1
    for file in written.files:
        metadata = pq.read_metadata(file.path)
        assert metadata.num_rows == file.rows
        assert metadata.row_group(0).column(0).compression == {"NONE": "UNCOMPRESSED", "GZIP": "GZIP"}[compression]
        assert file.name.endswith(f"-c000{ending}")


@pytest.mark.parametrize("dataset", [PROFILES, EVENTS], ids=lambda dataset: dataset.kind)
def test_a_small_increment_has_the_schema_of_the_full_export(tmp_path: Path, dataset: SeedDataset) -> None:
    place = s3(file_type="PARQUET", compression="NONE")
    full = export(tmp_path, seeded(dataset), place=place, dataset=dataset)
    one_row = export(tmp_path, seeded(dataset)[1:2], place=place, dataset=dataset, run_id="run-2")

    assert pq.read_schema(full.files[0].path) == pq.read_schema(one_row.files[0].path)


def test_a_field_that_only_an_added_row_has_is_in_every_part(tmp_path: Path) -> None:
    place = s3(file_type="PARQUET", compression="NONE")
    rows = [*seeded(PROFILES), {"_id": "late", "segment": {"name": "vip"}}]
    written = export(tmp_path, rows, place=place)

    assert all("segment" in pq.read_schema(file.path).names for file in written.files)
    assert without_nulls(read_parquet(written)[-1]) == {"_id": "late", "segment": {"name": "vip"}}


def test_the_default_folder_and_names_are_the_documented_ones(tmp_path: Path) -> None:
    written = export(tmp_path, seeded(PROFILES))

    assert written.sink_path == f"exports/{PROFILES.id}/exportTime=202601010102"
    assert written.folder == tmp_path / "s3" / "lake" / written.sink_path
    numbers = []
    for file in written.files:
        match = PART_NAME.fullmatch(file.name)
        assert match is not None, file.name
        numbers.append(match[1])
        assert file.path == written.folder / file.name
        assert file.bytes == file.path.stat().st_size
    assert numbers == ["00000", "00001", "00002"]
    assert sorted(files_below(tmp_path)) == sorted(file.path for file in written.files)


@pytest.mark.parametrize(("rows", "parts"), [(1, 1), (2, 2), (3, 2), (2000, 2), (4001, 3)])
def test_even_small_data_comes_in_several_files(tmp_path: Path, rows: int, parts: int) -> None:
    written = export(tmp_path, ({"_id": str(number)} for number in range(rows)))

    assert len(written.files) == parts
    assert min(file.rows for file in written.files) > 0
    assert [row["_id"] for row in read_json(written)] == [str(number) for number in range(rows)]


def test_no_rows_leave_no_files_and_no_folder(tmp_path: Path) -> None:
    written = export(tmp_path, seeded(EMPTY), dataset=EMPTY)

    assert written.files == ()
    assert list(tmp_path.iterdir()) == []
    assert write_manifest([written], destination_id="d", run_id="r", scheduled_time_ms=START_MS) == ()


@pytest.mark.parametrize(
    ("destination", "target", "login", "folder"),
    [
        ("s3", {"bucketName": "lake-exports", "path": "a/b"}, {}, "s3/lake-exports/a/b"),
        ("s3", {"bucketName": "lake-exports", "path": ""}, {}, "s3/lake-exports"),
        ("gcs", {"bucketName": "lake_exports", "path": "/a//b/"}, {}, "gcs/lake_exports/a/b"),
        ("azure_blob", {"container": "exports", "path": "a"}, {}, "azure_blob/exports/a"),
        ("adls_gen2", {"path": "a"}, {"url": "abfss://raw@acme.dfs.core.windows.net"}, "adls_gen2/raw/a"),
        ("adls_gen2", {"path": "a"}, {"url": "abfss://raw@acme.dfs.core.windows.net/x/"}, "adls_gen2/raw/x/a"),
        ("adls_gen2", {"path": "a"}, {"url": "https://acme.dfs.core.windows.net/raw/x"}, "adls_gen2/raw/x/a"),
        ("data_landing_zone", {"path": "a"}, {}, "data_landing_zone/dlz-destination/a"),
        ("sftp", {"remotePath": "/home/aep"}, {"domain": "sftp.example.com"}, "sftp/sftp.example.com/home/aep"),
    ],
)
def test_each_destination_has_its_bucket_folder(
    tmp_path: Path, destination: str, target: dict[str, Any], login: dict[str, Any], folder: str
) -> None:
    params = {**target, "datasetFileType": "JSON", "compression": "GZIP"}
    place: Place = {"spec": SPECS[destination], "target": params, "login": login}
    written = export(tmp_path, [{"_id": "1"}], place=place)

    assert written.folder == tmp_path / folder / PROFILES.id / "exportTime=202601010102"
    assert read_json(written) == [{"_id": "1"}]


@pytest.mark.parametrize(
    ("template", "folder"),
    [
        ("%DESTINATION%_%DATASET_ID%_%DATETIME(YYYYMMdd_HHmmss)%", f"Amazon S3_{PROFILES.id}_20260101_010203"),
        ("%DATASET_NAME%/%EXPORT_TIME%", "AAM Devices Data/exportTime=202601010102"),
        ("%SANDBOX_NAME%/%ORGANIZATION_NAME%/x", "prod/ACME/x"),
        ("%DESTINATION_INSTANCE_NAME%/%DESTINATION_INSTANCE_ID%", "nightly_profiles/instance-1"),
        ("%DESTINATION_NAME%", "Amazon S3"),
        ("year=%DATETIME(yyyy)%/day=%DATETIME(MM-dd)%", "year=2026/day=01-01"),
        ("plain/100%", "plain/100%"),
    ],
)
def test_a_folder_template_names_the_folder(tmp_path: Path, template: str, folder: str) -> None:
    check_template(template)

    written = export(tmp_path, [{"_id": "1"}], template=template)

    assert written.sink_path == f"exports/{folder}"
    assert read_json(written) == [{"_id": "1"}]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("%DATASET%", "unknown macro %DATASET%"),
        ("%DATETIME%", "unknown macro %DATETIME%"),
        ("%DATASET_ID(x)%", "unknown macro"),
        ("%DATETIME(YYYYQQ)%", "'QQ' in %DATETIME"),
        ("../%DATASET_ID%", r"'\.\.' is not a folder name"),
        ("a/%DATASET_ID%/../../..", r"'\.\.' is not a folder name"),
        ("a\x00b", "is not a folder name"),
        ("a" * 256, "is not a folder name"),
    ],
)
def test_a_template_that_cannot_be_used_is_refused_before_and_at_the_export(
    tmp_path: Path, template: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check_template(template)
    with pytest.raises(ValueError, match=message):
        export(tmp_path, [{"_id": "1"}], template=template)
    assert list(tmp_path.iterdir()) == []


def test_names_cannot_make_folders() -> None:
    assert expand_template("%DESTINATION%/x", {"DESTINATION": "../../etc"}, 0) == ".._.._etc/x"


@pytest.mark.parametrize(
    "place",
    [
        s3("../up"),
        s3("a/../../../up"),
        s3("a\\..\\b"),
        s3(bucket=".."),
        s3(bucket="/tmp"),
        s3(bucket="a/b"),
        s3(bucket=""),
        {**s3(), "spec": SPECS["sftp"], "login": {"domain": "../.."}},
        {**s3(), "spec": SPECS["sftp"]},
        {**s3(), "spec": SPECS["azure_blob"]},
        {**s3(), "spec": SPECS["adls_gen2"], "login": {"url": "abfss://..@account"}},
        {**s3(), "spec": SPECS["adls_gen2"], "login": {"url": "abfss://c@account/../../x"}},
        {**s3(), "spec": SPECS["adls_gen2"], "login": {"url": "nowhere"}},
        s3(file_type="CSV"),
        s3(compression="gzip"),
    ],
)
def test_bad_places_and_formats_are_refused_and_nothing_is_written(tmp_path: Path, place: Place) -> None:
    with pytest.raises(ValueError, match=r"=|needs a bucket"):
        export(tmp_path / "root", [{"_id": "1"}], place=place)
    assert list(tmp_path.iterdir()) == []


def test_a_link_in_a_bucket_does_not_lead_out_of_the_root(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "root" / "s3" / "lake").mkdir(parents=True)
    (tmp_path / "root" / "s3" / "lake" / "exports").symlink_to(elsewhere)

    with pytest.raises(ValueError, match="outside of"):
        export(tmp_path / "root", [{"_id": "1"}])
    assert list(elsewhere.iterdir()) == []


hostile = st.text(alphabet=["a", ".", "/", "\\", "%", "~", " ", "\x00"], max_size=12)


@settings(max_examples=100, database=None)
@given(bucket=hostile, path=hostile, template=hostile, name=hostile)
def test_whatever_is_asked_for_files_stay_in_their_bucket(
    tmp_path_factory: pytest.TempPathFactory, bucket: str, path: str, template: str, name: str
) -> None:
    base = tmp_path_factory.mktemp("hostile")
    names = {**NAMES, "DESTINATION": name}
    try:
        export(
            base / "root",
            [{"_id": "1"}],
            place=s3(path, bucket=bucket),
            template=f"{template}%DESTINATION%",
            names=names,
        )
    except ValueError:
        assert files_below(base) == []
        return
    assert all(file.resolve().is_relative_to(base / "root" / "s3" / bucket) for file in files_below(base))


def test_a_run_written_again_replaces_its_files_and_another_run_adds_its_own(tmp_path: Path) -> None:
    rows = seeded(PROFILES)[:10]
    first = export(tmp_path, rows)
    content = [file.path.read_bytes() for file in first.files]

    again = export(tmp_path, rows)
    assert again == first
    assert [file.path.read_bytes() for file in again.files] == content
    assert len(files_below(tmp_path)) == 2

    others = [
        export(tmp_path, rows, run_id="run-2"),
        export(tmp_path, rows, seed=1),
        export(tmp_path, rows, dataset=EVENTS, template=f"{PROFILES.id}/%EXPORT_TIME%"),
    ]
    assert {other.folder for other in others} == {first.folder}
    assert len(files_below(tmp_path)) == 8


def test_a_reader_never_meets_a_half_written_file(tmp_path: Path) -> None:
    """While runs write, a reader opens all that it sees under a visible name and can read each to its end."""
    rows = seeded(PROFILES)[:1500]
    done = threading.Event()
    problems: list[Exception] = []
    seen: set[str] = set()

    def read() -> None:
        while True:
            last_round = done.is_set()
            for path in tmp_path.rglob("*.json.gz"):
                if path.name.startswith("."):
                    continue
                seen.add(path.name)
                try:
                    assert len(gzip.decompress(path.read_bytes()).splitlines()) == 750
                except Exception as problem:
                    problems.append(problem)
            if last_round:
                return

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(8):
        export(tmp_path, rows)
    done.set()
    reader.join()

    assert problems == []
    assert len(seen) == 2


def test_a_row_that_cannot_be_written_leaves_no_part_file(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        export(tmp_path, [{"_id": object()}])
    assert files_below(tmp_path) == []


def test_manifests_name_the_run_and_its_files_in_each_folder(tmp_path: Path) -> None:
    profiles = export(tmp_path, seeded(PROFILES)[:10])
    events = export(tmp_path, seeded(EVENTS)[:10], dataset=EVENTS)

    paths = write_manifest([profiles, events], destination_id="dest", run_id="run-1", scheduled_time_ms=START_MS)

    assert paths == tuple(written.folder / "manifest-dest-run-1.json" for written in (profiles, events))
    for path, written in zip(paths, (profiles, events), strict=True):
        manifest = json.loads(path.read_text())
        assert manifest == {
            "flowRunId": "run-1",
            "scheduledTime": "2026-01-01T00:00:00Z",
            "exportResults": [
                {"sinkPath": written.sink_path, "name": file.name, "size": file.path.stat().st_size}
                for file in written.files
            ],
        }


def test_datasets_that_share_a_folder_share_a_manifest(tmp_path: Path) -> None:
    both = [export(tmp_path, seeded(d)[:2], dataset=d, template="all") for d in (PROFILES, EVENTS)]

    (path,) = write_manifest(both, destination_id="d", run_id="r", scheduled_time_ms=START_MS)

    assert len(json.loads(path.read_text())["exportResults"]) == 4


def test_pyarrow_is_loaded_for_parquet_only() -> None:
    code = "import sys, airflow_provider_aep.emulator.runs.files; sys.exit('pyarrow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
