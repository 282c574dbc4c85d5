"""What a DAG may say: wrong literals are refused when it is written, wrong values from elsewhere before a request."""

from __future__ import annotations

import inspect
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from airflow.sdk import DAG, Asset, XComArg, task

from airflow_provider_aep import operators, sensors
from airflow_provider_aep.arguments import dataset_ids, entity_name, moment_ms, seconds
from airflow_provider_aep.destinations import AmazonS3, DataLandingZone, Sftp
from airflow_provider_aep.errors import InvalidArgument
from airflow_provider_aep.operators import (
    AepCreateBaseConnectionOperator,
    AepCreateDataflowOperator,
    AepCreateSourceConnectionOperator,
    AepCreateTargetConnectionOperator,
    AepExportDatasetsOperator,
    AepListDatasetsOperator,
    AepRunDataflowOperator,
)
from airflow_provider_aep.schedules import Every, Once
from airflow_provider_aep.sensors import AepDataflowRunSensor
from tests.adobe.served import DATASET, OTHER_DATASET, ServedAdobe
from tests.airflow_places import AirflowFailException, DagSerialization
from tests.tasks import context

S3 = AmazonS3("lake-exports", "profiles")
GOOD: dict[type[Any], dict[str, Any]] = {
    AepListDatasetsOperator: {},
    AepCreateBaseConnectionOperator: {"destination": S3, "destination_conn_id": "aws_exports"},
    AepCreateSourceConnectionOperator: {"dataset_ids": [DATASET]},
    AepCreateTargetConnectionOperator: {"base_connection_id": "base-1", "destination": S3},
    AepCreateDataflowOperator: {
        "source_connection_id": "source-1",
        "target_connection_id": "target-1",
        "destination": S3,
        "schedule": Every(hours=3),
    },
    AepExportDatasetsOperator: {
        "dataset_ids": DATASET,
        "destination": S3,
        "destination_conn_id": "aws_exports",
        "schedule": Once(),
    },
    AepRunDataflowOperator: {"dataflow_id": "flow-1"},
    AepDataflowRunSensor: {"dataflow_id": "flow-1", "deferrable": False},
}
LIST, BASE, SOURCE, TARGET, FLOW, EXPORT, RUN, SENSOR = GOOD

LEFT_OUT: list[tuple[str, Any]] = [
    ("outlets", [Asset("exported")]),
    ("on_success_callback", print),
    ("post_execute", print),
    ("multiple_outputs", True),
]
WRONG: list[tuple[type[Any], dict[str, Any], str]] = [
    *(
        (kind, {"sandbox_name": "Prod Sandbox"}, "sandbox_name = 'Prod Sandbox': must be a sandbox's name")
        for kind in GOOD
    ),
    *((kind, {"sandbox_name": ""}, "sandbox_name = '': must be") for kind in GOOD),
    *((kind, {"aep_conn_id": ""}, "aep_conn_id = '': must be") for kind in GOOD),
    *(
        (kind, {"if_exists": "replace"}, "if_exists = 'replace': must be one of reuse, update, fail")
        for kind in (BASE, SOURCE, TARGET, FLOW, EXPORT)
    ),
    *((kind, {"name": "a, b"}, "name = 'a, b': .*without comma") for kind in (BASE, SOURCE, TARGET, FLOW, EXPORT)),
    *((kind, {"name": "x" * 256}, "name = 'x+': must be 1 to 255") for kind in (BASE, SOURCE, TARGET, FLOW, EXPORT)),
    *(
        (kind, {"destination": "s3://b/p"}, "destination = 's3://b/p': must be one of AmazonS3")
        for kind in (BASE, TARGET, FLOW, EXPORT)
    ),
    *(
        (kind, {"dataset_ids": []}, r"dataset_ids = \[\]: must name at least one")
        for kind in (SOURCE, EXPORT, LIST, RUN)
    ),
    *(
        (kind, {"dataset_ids": "AAM Devices"}, "dataset_ids = 'AAM Devices': .*24 hexadecimal")
        for kind in (SOURCE, EXPORT, LIST, RUN)
    ),
    *((kind, {"dataset_ids": None}, "dataset_ids = None: .*24 hexadecimal") for kind in (SOURCE, EXPORT)),
    *(
        (kind, {"dataset_ids": [DATASET, DATASET]}, f"dataset_ids = '{DATASET}': is named twice")
        for kind in (SOURCE, EXPORT)
    ),
    *((kind, {"file_type": "CSV"}, "file_type = 'CSV': must be JSON or PARQUET") for kind in (TARGET, EXPORT)),
    *((kind, {"compression": "ZIP"}, "compression = 'ZIP': must be NONE or GZIP") for kind in (TARGET, EXPORT)),
    *(
        (kind, {"file_type": "JSON", "compression": "NONE"}, "compression = 'NONE': must be GZIP")
        for kind in (TARGET, EXPORT)
    ),
    *(
        (kind, {"include_file_manifest": "yes"}, "include_file_manifest = 'yes': must be True")
        for kind in (TARGET, EXPORT)
    ),
    *((kind, {"schedule": "0 6 * * *"}, r"schedule = '0 6 \* \* \*': must be Every") for kind in (FLOW, EXPORT)),
    *(
        (kind, {"folder_template": "%DAY%"}, "folder_template = '%DAY%': %DAY% is none of Adobe's macros")
        for kind in (FLOW, EXPORT)
    ),
    *(
        (kind, {"after": datetime(2026, 1, 1)}, "after = '2026-01-01 00:00:00': must have a zone")
        for kind in (EXPORT, SENSOR)
    ),
    *((kind, {"after": "yesterday"}, "after = 'yesterday': must be a datetime") for kind in (EXPORT, SENSOR)),
    *(
        (kind, {argument: "ignore"}, f"{argument} = 'ignore': must be one of fail, succeed, skip")
        for kind in (EXPORT, RUN, SENSOR)
        for argument in ("on_failed", "on_partial", "on_empty")
    ),
    (LIST, {"names": []}, r"names = \[\]: .*leave it out to mean all"),
    (LIST, {"names": ["a", ""]}, r"names = \['a', ''\]: must be a text or several, none of them empty"),
    (LIST, {"name_pattern": ""}, "name_pattern = '': must be a text"),
    (LIST, {"names": "a", "name_pattern": "b*"}, r"name_pattern = 'b\*': give it or names, not both"),
    (BASE, {"destination_conn_id": None}, "destination_conn_id = None: Amazon S3 needs a login"),
    (
        BASE,
        {"destination": DataLandingZone("a")},
        "destination_conn_id = 'aws_exports': Data Landing Zone takes no login",
    ),
    (TARGET, {"base_connection_id": None}, "base_connection_id = None: must be an ID"),
    (FLOW, {"source_connection_id": ""}, "source_connection_id = '': must be an ID"),
    (FLOW, {"target_connection_id": "a b"}, "target_connection_id = 'a b': must be an ID"),
    (EXPORT, {"destination_conn_id": None}, "destination_conn_id = None: Amazon S3 needs a login"),
    (EXPORT, {"base_connection_id": "b-1"}, "base_connection_id = 'b-1': names the login already"),
    (EXPORT, {"base_connection_name": "a&b"}, "base_connection_name = 'a&b': .*without comma"),
    (EXPORT, {"poke_interval": 0}, "poke_interval = 0: must be a timedelta or a number of seconds"),
    (EXPORT, {"timeout": "1h"}, "timeout = '1h': must be a timedelta"),
    (EXPORT, {"timeout": timedelta(0)}, "timeout = .*more than 0"),
    *(
        (kind, {"rerun_failed": value}, f"rerun_failed = {value!r}: must be a number of runs, 0 or more")
        for kind in (EXPORT, SENSOR)
        for value in (-1, 1.5, True, "1")
    ),
    (RUN, {"dataflow_id": "a b"}, "dataflow_id = 'a b': must be an ID"),
    (RUN, {"poke_interval": 0}, "poke_interval = 0: must be a timedelta or a number of seconds"),
    (RUN, {"timeout": -1}, "timeout = -1: must be a timedelta or a number of seconds"),
    (SENSOR, {"dataflow_id": None}, "dataflow_id = None: must be an ID"),
    (SENSOR, {"run_id": "a,b"}, "run_id = 'a,b': must be an ID"),
    (SENSOR, {"run_id": "r", "rerun_failed": 1}, "rerun_failed = 1: run_id = 'r': another run cannot be exactly this"),
    (SENSOR, {"end_in_triggerer": True}, "end_in_triggerer = True: needs deferrable=True"),
    *(
        (SENSOR, {"end_in_triggerer": True, "deferrable": True, name: value}, f"{name} would be ignored silently")
        for name, value in LEFT_OUT
    ),
]


def made(kind: type[Any], **arguments: Any) -> Any:
    return kind(task_id="one", **GOOD[kind] | arguments)


@pytest.mark.parametrize(("kind", "arguments", "words"), WRONG)
def test_a_wrong_literal_is_refused_when_the_dag_is_written(
    kind: type[Any], arguments: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidArgument, match=words):
        made(kind, **arguments)


@pytest.mark.parametrize("kind", GOOD)
def test_what_is_right_is_taken(kind: type[Any]) -> None:
    made(kind)


TEMPLATED: list[tuple[type[Any], str, Any]] = [
    *((kind, "sandbox_name", "") for kind in GOOD),
    *((kind, "name", "a&b") for kind in (BASE, SOURCE, TARGET, FLOW, EXPORT)),
    *((kind, "dataset_ids", value) for kind in (SOURCE, EXPORT, LIST, RUN) for value in ("None", [], [{"id": None}])),
    *((kind, "file_type", "parquet") for kind in (TARGET, EXPORT)),
    *((kind, "compression", "NO") for kind in (TARGET, EXPORT)),
    *(
        (kind, "destination", ["lake-exports", "a list is what XCom makes of it"])
        for kind in (BASE, TARGET, FLOW, EXPORT)
    ),
    *((kind, "schedule", [3, None, None, None]) for kind in (FLOW, EXPORT)),
    *((kind, "folder_template", "") for kind in (FLOW, EXPORT)),
    *((kind, "after", "2026-01-01 00:00:00") for kind in (EXPORT, SENSOR)),
    (LIST, "names", []),
    (LIST, "name_pattern", ""),
    (TARGET, "base_connection_id", "None"),
    (FLOW, "source_connection_id", "None"),
    (FLOW, "target_connection_id", ""),
    (EXPORT, "base_connection_id", ""),
    (EXPORT, "destination_conn_id", ""),
    (RUN, "dataflow_id", "None"),
    (SENSOR, "dataflow_id", "None"),
    (SENSOR, "run_id", ""),
]


@pytest.mark.parametrize(("kind", "argument", "value"), TEMPLATED)
def test_a_wrong_value_from_upstream_is_refused_before_a_request(
    kind: type[Any], argument: str, value: Any, adobe: ServedAdobe
) -> None:
    """By an error that Airflow does not retry: another try would be given the same value."""
    without: dict[str, Any] = (
        {"destination_conn_id": None} if argument == "base_connection_id" and kind is EXPORT else {}
    )
    with DAG("upstream", schedule=None):

        @task
        def upstream() -> Any:
            return value

        one = made(kind, **{argument: upstream(), **without})
    assert one.upstream_task_ids == {"upstream"}
    setattr(one, argument, value)  # what rendering does

    with pytest.raises(AirflowFailException, match=argument):
        one.execute(context())
    assert adobe.requests() == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"destination": AmazonS3("{{ bucket }}", "a")}, "destination.bucket = 'Not A Bucket'"),
        ({"schedule": Every(hours="{{ hours }}")}, "schedule.hours = '5'"),
        ({"schedule": Once(start="{{ day }}")}, "schedule.start = '2026-01-01': has no zone"),
    ],
)
def test_a_wrong_value_inside_an_argument_is_refused_while_it_is_rendered(
    arguments: dict[str, Any], words: str, adobe: ServedAdobe
) -> None:
    one = made(EXPORT, **arguments)
    with pytest.raises(AirflowFailException, match=words):
        one.render_template_fields({"bucket": "Not A Bucket", "hours": "5", "day": "2026-01-01"})
    assert adobe.requests() == []


@pytest.mark.parametrize("kind", GOOD)
def test_every_text_is_a_template(kind: type[Any]) -> None:
    """All arguments that hold text but for those that choose between words."""
    choices = {"if_exists", "on_failed", "on_partial", "on_empty"}
    for base in kind.__mro__:
        if not base.__module__.startswith("airflow_provider_aep.") or "__init__" not in vars(base):
            continue
        for name, parameter in inspect.signature(vars(base)["__init__"]).parameters.items():
            is_text = re.search("str|Text|Datasets|Destination|Schedule", str(parameter.annotation))
            if is_text and name not in choices:
                assert name in kind.template_fields, name


def test_templates_are_rendered_everywhere() -> None:
    one = AepExportDatasetsOperator(
        task_id="one",
        dataset_ids=["{{ a }}", {"id": "{{ a }}"}],
        destination=AmazonS3("bucket-{{ a }}", "p/{{ a }}"),
        destination_conn_id="c{{ a }}",
        base_connection_name="n{{ a }}",
        schedule=Every(hours="{{ three }}", start="{{ day }}T00:00:00Z", end="2030-{{ month }}-01T00:00:00Z"),
        file_type="{{ 'JSON' }}",
        compression="{{ 'GZIP' }}",
        folder_template="%DATASET_ID%/{{ a }}",
        name="d{{ a }}",
        after="{{ day }}T00:00:00Z",
        sandbox_name="s{{ a }}",
        aep_conn_id="i{{ a }}",
    )

    one.render_template_fields(context(a="x", three=3, day="2026-01-01", month="02"))

    assert {name: getattr(one, name) for name in one.template_fields} == {
        "dataset_ids": ["x", {"id": "x"}],
        "destination": AmazonS3("bucket-x", "p/x"),
        "destination_conn_id": "cx",
        "base_connection_id": None,
        "base_connection_name": "nx",
        "schedule": Every(hours=3, start="2026-01-01T00:00:00Z", end="2030-02-01T00:00:00Z"),
        "file_type": "JSON",
        "compression": "GZIP",
        "folder_template": "%DATASET_ID%/x",
        "name": "dx",
        "after": "2026-01-01T00:00:00Z",
        "sandbox_name": "sx",
        "aep_conn_id": "ix",
        "options": {
            "include_file_manifest": None,
            "if_exists": "reuse",
            "wait_for_completion": False,
            "on_missing": "skip",
            "on_failed": "fail",
            "on_partial": "fail",
            "on_empty": "succeed",
            "rerun_failed": 0,
            "destination": "AmazonS3(bucket='bucket-x', path='p/x')",
            "schedule": "Every(hours=3, days=None, start='2026-01-01T00:00:00Z', end='2030-02-01T00:00:00Z')",
        },
    }


def test_upstream_outputs_inside_arguments_are_dependencies() -> None:
    with DAG("edges", schedule=None):

        @task
        def value() -> str:
            return "x"

        outputs: list[Any] = [value.override(task_id=name)() for name in "abcdef"]
        a, b, c, d, e, f = outputs
        one = AepExportDatasetsOperator(
            task_id="one",
            dataset_ids=[a, {"id": b}],
            destination=AmazonS3(c, "p"),
            destination_conn_id="aws",
            schedule=Every(hours=3, start=d),
            folder_template=e,
        )
        mapped = AepExportDatasetsOperator.partial(
            task_id="mapped", destination=Sftp(c), destination_conn_id="sftp", schedule=Every(days=1, start=d)
        ).expand(dataset_ids=f)
        expanded = AepExportDatasetsOperator.partial(
            task_id="expanded", dataset_ids=DATASET, destination_conn_id="sftp", schedule=Once()
        ).expand(destination=[Sftp(a), Sftp(b)])

    assert one.upstream_task_ids == {"a", "b", "c", "d", "e"}
    assert mapped.upstream_task_ids == {"c", "d", "f"}
    assert expanded.upstream_task_ids == {"a", "b"}


def test_one_output_of_several_can_be_named() -> None:
    with DAG("outputs", schedule=None):
        export = made(EXPORT)
        wait = AepDataflowRunSensor(task_id="wait", dataflow_id=export.output["dataflow_id"])

    assert isinstance(wait.dataflow_id, XComArg)
    assert wait.upstream_task_ids == {"one"}
    assert export.multiple_outputs


@pytest.mark.parametrize("kind", GOOD)
def test_a_dag_with_it_can_be_stored(kind: type[Any]) -> None:
    with DAG("stored", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC)) as dag:
        made(kind)
        arguments = dict(GOOD[kind])
        mapped_argument, value = arguments.popitem() if arguments else ("name_pattern", "a*")
        kind.partial(task_id="mapped", **arguments).expand(**{mapped_argument: [value]})

    stored = DagSerialization.serialize_dag(dag)
    read = DagSerialization.deserialize_dag(stored)

    assert sorted(read.task_ids) == ["mapped", "one"]
    assert set(read.get_task("one").template_fields) == set(kind.template_fields)


def test_no_argument_is_named_like_a_method() -> None:
    for name in (*operators.__all__, *sensors.__all__):
        kind = getattr(operators, name, None) or getattr(sensors, name)
        assert not [field for field in kind.template_fields if callable(getattr(kind, field, None))]


def test_dataset_ids_come_in_many_forms() -> None:
    both = (DATASET, OTHER_DATASET)
    listed = [{"id": each, "name": "n"} for each in both]
    for given in (list(both), both, listed, dict.fromkeys(both).keys(), [listed[0], OTHER_DATASET]):
        assert dataset_ids(given) == both
    assert dataset_ids(DATASET) == dataset_ids(listed[0]) == (DATASET,)


def test_names_that_adobes_filters_cannot_find_are_refused() -> None:
    assert entity_name("name", "nightly: profiles (eu) 50 %") == "nightly: profiles (eu) 50 %"
    for name in ("", " a", "a ", "a,b", "a&b", "a\nb", None, 5):
        with pytest.raises(InvalidArgument, match="name = "):
            entity_name("name", name)


def test_moments_and_spans() -> None:
    assert moment_ms("after", None) == 0
    assert moment_ms("after", "2026-01-01 01:00:00+01:00") == moment_ms("after", datetime(2026, 1, 1, tzinfo=UTC))
    assert moment_ms("after", datetime(2026, 1, 1, 0, 0, 0, 5000, tzinfo=UTC)) == 1767225600005
    assert seconds("timeout", timedelta(minutes=2)) == seconds("timeout", 120) == 120.0
