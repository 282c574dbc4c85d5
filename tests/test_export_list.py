"""A list of exports in Python or YAML: what it means, and what is wrong in it, named by export and member."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from airflow_provider_aep.destinations import DESTINATIONS, AmazonS3, DataLandingZone, is_literal
from airflow_provider_aep.errors import InvalidArgument
from airflow_provider_aep.export_list import ListedExport, check_exports, is_yaml_file, listed_exports
from airflow_provider_aep.schedules import Every, Once
from tests.adobe.caller import PROFILES

ENTRY: dict[str, Any] = {
    "name": "profiles",
    "dataset_ids": [PROFILES],
    "destination": {"type": "DataLandingZone", "path": "profiles"},
    "schedule": {"type": "Once"},
}


def test_yaml_means_what_python_means() -> None:
    text = f"""
- &daily
  name: profiles
  dataset_ids: [{PROFILES}]
  destination: {{type: AmazonS3, bucket: lake-exports, path: profiles}}
  destination_conn_id: aws_exports
  schedule: {{type: Every, days: 1, start: 2026-01-01T00:30:00Z}}
- <<: *daily
  name: for development
  sandbox_name: dev
  file_type: JSON
  schedule: {{type: Once, start: "2026-01-01T00:30:00+01:00"}}
"""
    start = datetime(2026, 1, 1, 0, 30, tzinfo=UTC)
    first: Any = {
        "name": "profiles",
        "dataset_ids": [PROFILES],
        "destination": AmazonS3("lake-exports", "profiles"),
        "destination_conn_id": "aws_exports",
        "schedule": Every(days=1, start=start),
    }
    once = Once(start="2026-01-01T00:30:00+01:00")
    second: Any = {**first, "name": "for development", "file_type": "JSON", "schedule": once}
    assert listed_exports(text) == [ListedExport(None, first), ListedExport("dev", second)]
    assert listed_exports([first, {**second, "sandbox_name": "dev"}]) == listed_exports(text)
    assert listed_exports("[]") == []


@pytest.mark.parametrize("destination", DESTINATIONS)
def test_every_destination_has_a_yaml_form(destination: Any) -> None:
    fields = dict.fromkeys(destination._fields, "abc")
    given = {**ENTRY, "destination": {"type": destination.__name__, **fields}, "base_connection_id": "b-1"}
    ((_, export),) = listed_exports([given])
    assert export["destination"] == destination(**fields)


def test_what_is_not_known_yet_is_left_alone() -> None:
    given = {
        "name": "{{ dag_run.run_id }}",
        "dataset_ids": "{{ params.dataset }}",
        "destination": DataLandingZone("{{ params.path }}"),
        "schedule": {"type": "Every", "hours": "{{ params.hours }}"},
        "sandbox_name": "{{ params.sandbox }}",
    }
    ((sandbox, export),) = listed_exports([given, {**given, "name": "other"}])[:1]
    assert sandbox == "{{ params.sandbox }}"
    assert not is_literal(export["schedule"][0])
    assert check_exports("- {name: '{{ a }}'}") is None
    assert check_exports("exports.yaml") is None
    assert is_yaml_file("exports.yml")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": None}, "exports[0]: name = None: is missing"),
        ({"name": "a, b"}, "export 'a, b': name = 'a, b': must be 1 to 255 characters without comma"),
        ({"schedule": None}, "export 'profiles': schedule = None: is missing"),
        ({"dataset_ids": "one"}, "export 'profiles': dataset_ids = 'one': must be a dataset's ID"),
        (
            {"password": "hunter2"},
            "export 'profiles': password = <hidden, 7 characters>: is none of name, sandbox_name, ",
        ),
        ({"sandbox_name": "Prod"}, "export 'profiles': sandbox_name = 'Prod': must be a sandbox's name"),
        ({"destination_conn_id": 5}, "export 'profiles': destination_conn_id = 5: must be text"),
        (
            {"destination_conn_id": "aws"},
            "export 'profiles': destination_conn_id = 'aws': Data Landing Zone takes no login",
        ),
        ({"compression": "NONE", "file_type": "JSON"}, "export 'profiles': compression = 'NONE': must be GZIP"),
        (
            {"destination": "s3"},
            "export 'profiles': destination = 's3': must be a mapping with a type, one of AmazonS3, ",
        ),
        ({"destination": 5}, "export 'profiles': destination = 5: must be one of AmazonS3, "),
        ({"destination": {"type": "S3"}}, "export 'profiles': destination.type = 'S3': must be one of AmazonS3, "),
        ({"destination": {"type": ["S3"]}}, "export 'profiles': destination.type = ['S3']: must be one of AmazonS3, "),
        (
            {"destination": {"type": "AmazonS3", "bucket": "lake"}},
            "export 'profiles': destination.path = None: is missing; AmazonS3 has bucket and path",
        ),
        (
            {"destination": {"type": "AmazonS3", "bucket": "lake", "path": "a", "key": "hunter2"}},
            "export 'profiles': destination.key = <hidden, 7 characters>: AmazonS3 has bucket and path",
        ),
        (
            {"destination": {"type": "AmazonS3", "bucket": "Lake", "path": "a"}},
            "export 'profiles': destination.bucket = 'Lake': must be an S3 bucket name",
        ),
        (
            {"schedule": "once"},
            "export 'profiles': schedule = 'once': must be a mapping with a type, one of Every, Once",
        ),
        ({"schedule": {"hours": 3}}, "export 'profiles': schedule.type = None: must be one of Every, Once"),
        (
            {"schedule": {"type": "Every", "hours": 5}},
            "export 'profiles': schedule.hours = 5: must be 3, 6, 9, 12 or 24",
        ),
        ({"schedule": {"type": "Once", "start": datetime(2026, 1, 1)}}, "has no zone"),
    ],
)
def test_what_is_wrong_is_named_by_export_and_member(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument) as error:
        listed_exports([{**ENTRY, **changes}])
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "- name: a\n  name: b",
            "exports, line 2 = <hidden, 19 characters>: cannot be read as YAML: name is there twice",
        ),
        (
            "- name: a\n b: c",
            "exports, line 2 = <hidden, 15 characters>: cannot be read as YAML: did not find expected",
        ),
        ("- {? [a, b] : c}", "cannot be read as YAML: found unhashable key"),
        ("- !!python/object:os.system {}", "could not determine a constructor for the tag"),
        ("- \x00", "cannot be read as YAML"),
        ("", "exports = None: must be a list of exports, or the name of a YAML file that holds one"),
        ("exports: []", "exports = <hidden, 15 characters>: must be a list of exports"),
        ("- 5", "exports[0] = 5: must be a mapping with name, dataset_ids, destination, schedule"),
    ],
)
def test_what_is_no_list_in_yaml(text: str, message: str) -> None:
    with pytest.raises(InvalidArgument) as error:
        listed_exports(text)
    assert message in str(error.value)


def test_two_exports_of_one_name_in_one_sandbox_are_refused() -> None:
    assert len(listed_exports([ENTRY, {**ENTRY, "sandbox_name": "dev"}])) == 2
    with pytest.raises(
        InvalidArgument, match="export 'profiles': name = 'profiles': 2 exports of sandbox 'dev' have it"
    ):
        listed_exports([ENTRY, *[{**ENTRY, "sandbox_name": "dev"}] * 2])
    with pytest.raises(InvalidArgument, match="2 exports of the task's sandbox have it"):
        listed_exports([ENTRY, ENTRY])
