"""Destinations: what they accept, what goes to Adobe, and that Airflow renders them, finds upstream outputs in them."""

from __future__ import annotations

import copy
import json
import pickle
import re
import time
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, get_args

import pytest
from airflow.sdk import DAG, BaseOperator, XComArg
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_aep.destinations import (
    DESTINATIONS,
    SPEC_VERSION,
    AdlsGen2,
    AmazonS3,
    AzureBlob,
    DataLandingZone,
    Destination,
    GoogleCloudStorage,
    Sftp,
    check_format,
    destination_type,
    is_literal,
    target_params,
)
from airflow_provider_aep.errors import InvalidArgument
from airflow_provider_aep.schedules import Every, Once
from tests.airflow_places import AIRFLOW, DagSerialization
from tests.destination_samples import EACH, SAMPLES

if TYPE_CHECKING:
    from collections.abc import Iterator

SFTP = Sftp(remote_path="in")

each_destination = pytest.mark.parametrize("name", EACH)


# What Adobe gets


@pytest.mark.parametrize("name", SAMPLES)
def test_target_params_equal_adobes_documented_body(name: str) -> None:
    sample = SAMPLES[name]
    spec = {"id": destination_type(sample.destination).connection_spec, "version": SPEC_VERSION}

    params = target_params(sample.destination, file_type="JSON", compression="GZIP")

    # The samples are of 2023, when Adobe still exported JSON without compression.
    assert sample.target_connection["params"] == {**params, "compression": "NONE"}
    assert sample.target_connection["connectionSpec"] == sample.base_connection["connectionSpec"] == spec


def test_a_manifest_is_asked_for_only_when_the_user_decides() -> None:
    def manifest(desired: bool | None) -> object:
        params = target_params(SFTP, file_type="PARQUET", compression="GZIP", include_file_manifest=desired)
        return params.get("includeFileManifest", "left out")

    assert [manifest(None), manifest(True), manifest(False)] == ["left out", True, False]


def test_json_without_gzip_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="compression = 'NONE': must be GZIP"):
        target_params(SFTP, file_type="JSON", compression="NONE")

    assert target_params(SFTP, file_type="PARQUET", compression="NONE")["compression"] == "NONE"


@pytest.mark.parametrize(("file_type", "compression"), [("CSV", "GZIP"), ("json", "GZIP"), ("JSON", "gzip")])
def test_other_formats_are_refused(file_type: str, compression: str) -> None:
    with pytest.raises(InvalidArgument, match="in capitals"):
        check_format(file_type, compression)


def test_a_templated_format_passes_until_it_is_rendered() -> None:
    check_format("{{ params.file_type }}", "NONE")

    with pytest.raises(InvalidArgument, match=r"file_type = .* has not rendered it"):
        target_params(SFTP, file_type="{{ params.file_type }}", compression="GZIP")


def test_each_row_is_whole() -> None:
    assert set(DESTINATIONS) == set(get_args(Destination))
    for destination, row in DESTINATIONS.items():
        assert set(row.wire) == set(destination._fields)  # type: ignore[attr-defined]
        assert set(row.rules) <= set(row.wire)
    specs = [spec for row in DESTINATIONS.values() for spec in (row.connection_spec, row.flow_spec)]
    assert len(set(specs)) == 2 * len(DESTINATIONS)
    assert all(re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", spec) for spec in specs)


@pytest.mark.parametrize("other", [("b", "p"), ["b", "p"], "s3://b/p", None, {"bucket": "b", "path": "p"}])
def test_anything_else_is_no_destination(other: object) -> None:
    """A destination that went through XCom comes back as a plain list; of which type it was is lost."""
    with pytest.raises(InvalidArgument, match="must be one of AmazonS3, AzureBlob"):
        destination_type(other)


# Checks


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AmazonS3("Lake_Exports", "p"), "destination.bucket = 'Lake_Exports': must be an S3 bucket name"),
        (lambda: AmazonS3("ab", "p"), "destination.bucket = 'ab'"),
        (lambda: AmazonS3("10.0.0.1", "p"), "not an IPv4 address"),
        (lambda: AmazonS3("lake\n", "p"), "destination.bucket"),
        (lambda: AmazonS3("lake", "a b"), "destination.path = 'a b': .*folder_template"),
        (lambda: AmazonS3("lake", "day=1"), "folder_template"),
        (lambda: AmazonS3("lake", "%DATASET_ID%"), "folder_template"),
        (lambda: AmazonS3("lake", "exports/{ds}"), "use {{ dag_run.run_after | ds }}, or a macro in folder_template"),
        (lambda: AmazonS3("lake", "p\n"), "destination.path"),
        (lambda: AmazonS3("lake", "größe"), "destination.path"),
        (lambda: AmazonS3("lake", None), "must be text for Amazon S3"),  # type: ignore[arg-type]
        (lambda: AmazonS3("lake", Path("p")), "must be text"),  # type: ignore[arg-type]
        (lambda: AzureBlob("a--b", "p"), "destination.container = 'a--b': must be an Azure container name"),
        (lambda: AzureBlob("lake", ""), "destination.path = '': must not be empty"),
        (lambda: GoogleCloudStorage("my-google-lake", "p"), "not holding google"),
        (lambda: GoogleCloudStorage("goog1", "p"), "must be a Google bucket name"),
        (lambda: Sftp(20260101), "destination.remote_path = 20260101: must be text"),  # type: ignore[arg-type]
    ],
)
def test_a_wrong_literal_is_refused_when_the_dag_is_written(make: Any, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        make()


def test_adobes_rules_are_not_made_stricter() -> None:
    """An empty path, a leading slash, audience macros, and any text where Adobe gives no pattern."""
    for path in ("", "/", "a//b", "x/%SEGMENT_NAME%/%SEGMENT_ID%/", "it's*(all)_fine!.-"):
        assert AmazonS3("lake", path).path == GoogleCloudStorage("lake_1", path).path == path
    for path in ("", "a b=c", "day/äöü"):
        assert AdlsGen2(path).path == DataLandingZone(path).path == Sftp(path).remote_path == path


PATTERNS = {
    (type(sample.destination), field): pattern
    for sample in SAMPLES.values()
    for field, pattern in sample.patterns.items()
}
PATH_PIECES = ["a", "Z", "/", "!", "'", "%SEGMENT_NAME%", "%SEGMENT_ID%", "%", "=", " ", "\n", "é"]
NAME_PIECES = ["a", "1", "-", "_", ".", "goog", "g0ogle", "gle", "a" * 62, "A", "\n", "٣"]


def test_a_field_has_a_rule_if_adobe_has_a_pattern() -> None:
    rules = {(each, field) for each, row in DESTINATIONS.items() for field in row.rules}
    assert rules == {key for key, pattern in PATTERNS.items() if pattern}


@pytest.mark.parametrize(("destination", "field"), [key for key, pattern in PATTERNS.items() if pattern])
@given(data=st.data())
def test_our_patterns_accept_what_adobes_accept(destination: type, field: str, data: st.DataObject) -> None:
    pieces = PATH_PIECES if field == "path" else NAME_PIECES
    text = "".join(data.draw(st.lists(st.sampled_from(pieces), max_size=7)))

    ours = re.fullmatch(DESTINATIONS[destination].rules[field].pattern, text, re.ASCII)
    adobes = re.fullmatch(str(PATTERNS[destination, field]), text, re.ASCII)

    assert bool(ours) == bool(adobes)


@pytest.mark.parametrize(
    ("kind", "bucket", "path"),
    [
        (AmazonS3, "lake", "%SEGMENT_NAME%/" * 200 + "="),
        (AmazonS3, "lake", "/" * 50_000 + "="),
        (GoogleCloudStorage, "aaa." * 55 + "-", "p"),
    ],
)
def test_a_hostile_text_does_not_hold_the_dag_processor(kind: Any, bucket: str, path: str) -> None:
    """Adobe's patterns as printed would take longer than the age of the universe here."""
    before = time.perf_counter()

    with pytest.raises(InvalidArgument):
        kind(bucket, path)

    assert time.perf_counter() - before < 1


def test_a_value_slipped_in_past_the_constructor_is_caught_before_sending() -> None:
    with pytest.raises(InvalidArgument, match=r"destination.path = 'a b'"):
        target_params(AmazonS3("lake", "p")._replace(path="a b"), file_type="JSON", compression="GZIP")


@pytest.mark.parametrize(
    ("value", "literal"),
    [("plain", True), ("{{ ds }}", False), ("{% if x %}", False), ("{ds}", True), (Path("x"), True), (None, True)],
)
def test_what_is_known_at_parse_time(value: object, literal: bool) -> None:
    assert is_literal(value) is literal


@each_destination
def test_copies_and_pickles_keep_type_and_value(name: str) -> None:
    destination = EACH[name]
    for twin in (copy.deepcopy(destination), pickle.loads(pickle.dumps(destination))):
        assert (type(destination), destination) == (type(twin), twin)


# In Airflow


class Exporter(BaseOperator):
    """An operator with our types as arguments, as ours are."""

    template_fields = ("destination", "schedule")

    def __init__(self, *, destination: Any, schedule: Any = None, number: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.destination = destination
        self.schedule = schedule
        self.number = number

    def execute(self, context: Any) -> None: ...


class Owner(BaseOperator):
    """Upstream: its output is part of our arguments."""

    def execute(self, context: Any) -> str:
        return "made"


@pytest.fixture
def dag() -> Iterator[DAG]:
    with DAG("exports", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC)) as dag:
        yield dag


def context_of(dag: DAG, *, map_index: int = -1, xcom: object = "made", **variables: object) -> Any:
    """What Airflow hands to rendering, as far as these tests use it."""
    task_instance = SimpleNamespace(
        map_index=map_index, dag_id=dag.dag_id, xcom_pull=lambda **_: xcom, get_relevant_upstream_map_indexes=None
    )
    return {
        "ti": task_instance,
        "dag": dag,
        "dag_run": SimpleNamespace(conf={}),
        "params": {},
        "ds": "2026-01-02",
        **variables,
    }


def test_templates_are_rendered_and_the_type_is_kept(dag: DAG) -> None:
    task = Exporter(
        task_id="export",
        destination=AmazonS3(bucket="lake-{{ ds }}", path="profiles/{{ ds }}"),
        schedule=Every(hours="{{ hours }}", start="{{ start }}"),
    )

    task.render_template_fields(context_of(dag, hours=6, start=datetime(2026, 1, 1, tzinfo=UTC)))

    assert isinstance(task.destination, AmazonS3)
    assert AmazonS3(bucket="lake-2026-01-02", path="profiles/2026-01-02") == task.destination
    assert isinstance(task.schedule, Every)
    assert Every(hours=6, start="2026-01-01 00:00:00+00:00") == task.schedule


@each_destination
def test_each_type_is_rebuilt_by_airflow(dag: DAG, name: str) -> None:
    destination = EACH[name]
    fields = [f"{value[:-1]}{{{{ '{value[-1]}' }}}}" for value in destination]
    task = Exporter(task_id="export", destination=type(destination)(*fields))

    task.render_template_fields(context_of(dag))

    assert (type(destination), destination) == (type(task.destination), task.destination)


def test_a_rendered_value_is_checked(dag: DAG, caplog: pytest.LogCaptureFixture) -> None:
    task = Exporter(task_id="export", destination=AmazonS3(bucket="lake", path="{{ path }}"))

    with pytest.raises(InvalidArgument, match=r"destination.path = 'a=1': .*folder_template"):
        task.render_template_fields(context_of(dag, path="a=1"))


def test_a_rendered_interval_is_checked(dag: DAG) -> None:
    task = Exporter(task_id="export", destination=SFTP, schedule=Every(hours="{{ hours }}"))

    with pytest.raises(InvalidArgument, match=r"schedule.hours = '5'"):
        task.render_template_fields(context_of(dag, hours=5))


def test_an_upstream_output_makes_a_dependency_and_is_filled_in(dag: DAG) -> None:
    made = Owner(task_id="make").output
    task = Exporter(task_id="export", destination=AmazonS3(bucket="lake", path=made), schedule=Once(start=made))
    assert {"make"} == task.upstream_task_ids

    task.schedule = None
    task.render_template_fields(context_of(dag))

    assert AmazonS3("lake", "made") == task.destination


@pytest.mark.parametrize("field", ["destination", "schedule"])
def test_dependencies_are_found_in_partial_and_in_expand(dag: DAG, field: str) -> None:
    def values(output: XComArg) -> dict[str, Any]:
        plain: dict[str, Any] = {"destination": SFTP, "schedule": Every(hours=3)}
        return plain | {field: Sftp(output) if field == "destination" else Every(hours=3, start=output)}

    first, second = (Owner(task_id=name).output for name in ("first", "second"))

    kept = Exporter.partial(task_id="kept", **values(first)).expand(number=[1, 2])
    mapped = Exporter.partial(task_id="mapped").expand(**{name: [value] for name, value in values(second).items()})

    assert {"first"} == kept.upstream_task_ids
    assert {"second"} == mapped.upstream_task_ids


def test_partial_and_expand_render_too(dag: DAG) -> None:
    mapped = Exporter.partial(task_id="export", schedule=Every(hours="{{ hours }}")).expand(
        destination=[AmazonS3("lake", "{{ ds }}"), Sftp("in/{{ ds }}")]
    )
    context = context_of(dag, map_index=1, hours=12)

    mapped.render_template_fields(context)

    task = context["task"]
    assert isinstance(task.destination, Sftp)
    assert (Sftp("in/2026-01-02"), Every(hours=12)) == (task.destination, task.schedule)


def test_destinations_may_be_made_from_a_mapped_upstream_output(dag: DAG) -> None:
    paths = Owner(task_id="make").output
    mapped = Exporter.partial(task_id="export").expand(destination=paths.map(lambda path: AmazonS3("lake", path)))
    context = context_of(dag, map_index=1, xcom=["a", "b"])

    mapped.render_template_fields(context)

    assert {"make"} == mapped.upstream_task_ids
    assert AmazonS3("lake", "b") == context["task"].destination


@each_destination
def test_a_dag_with_them_is_serialised(dag: DAG, name: str) -> None:
    destination = EACH[name]
    made = Owner(task_id="make").output
    schedule = Every(hours=3, start=datetime(2026, 1, 1, tzinfo=UTC), end=made)
    Exporter(task_id="plain", destination=destination, schedule=schedule)
    Exporter.partial(task_id="mapped", schedule=schedule).expand(destination=[destination, destination])

    written = json.dumps(DagSerialization.to_dict(dag), sort_keys=True)
    restored = DagSerialization.from_dict(json.loads(written))

    plain: Any = restored.task_dict["plain"]
    assert list(destination) == plain.destination
    # For the UI; 3.1 has a text for what holds a moment.
    assert plain.schedule[0] == 3 if AIRFLOW >= (3, 2) else plain.schedule == str(schedule)
    assert {"make"} == plain.upstream_task_ids == restored.task_dict["mapped"].upstream_task_ids
    assert written == json.dumps(DagSerialization.to_dict(dag), sort_keys=True)
    assert restored.task_dict["mapped"].get_parse_time_mapped_ti_count() == 2


def test_no_attribute_has_a_name_that_airflow_gives_a_meaning() -> None:
    for kind in (*DESTINATIONS, Every, Once):
        assert not {"resolve", "serialize", "template_fields"} & set(dir(kind))
