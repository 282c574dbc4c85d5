"""What Adobe writes and how it is read: pages, items and numbers."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_aep.api import wire
from airflow_provider_aep.api.calls import get_dataflow, get_run, list_datasets, list_page
from airflow_provider_aep.api.entities import DataflowId, FlowRunId, RunError, RunStatus
from airflow_provider_aep.api.wire import continuation_token, read_page
from airflow_provider_aep.errors import AepError, EntityNotFound, UnexpectedReply
from tests.canned import answers, ok, raw
from tests.conftest import Runner

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("reply", "href"),
    [
        ({"items": []}, ""),
        ({"items": [], "_links": {}}, ""),
        ({"items": [], "_links": None}, ""),
        ({"items": [], "_links": {"next": {}}}, ""),
        ({"items": [], "_links": {"next": {"href": "/runs?continuationToken=a"}}}, "/runs?continuationToken=a"),
    ],
)
def test_the_end_of_a_list_has_many_forms(reply: Any, href: str) -> None:
    assert read_page(reply).next_href == href


@pytest.mark.parametrize(
    ("href", "token"),
    [
        ("/runs?limit=2&continuationToken=YWJj%3D%3D&property=flowId%3D%3Dx", "YWJj=="),
        ("/runs?property=flowId==x&continuationToken=a/b==", "a/b=="),
        ("https://platform.adobe.io/x?continuationToken=a%2Bb", "a+b"),
        ("/runs?start=20", "/runs?start=20"),
    ],
)
def test_the_token_of_a_next_reference(href: str, token: str) -> None:
    """It is taken by its name, and holds what it holds: clients that cut at "=" read another parameter."""
    assert continuation_token(href) == token


FLOW = {"id": "f", "name": "nightly", "etag": '"1"', "flowSpec": {"id": "spec"}, "sourceConnectionIds": ["s"]}


@pytest.mark.parametrize("reply", [{"items": [FLOW]}, FLOW], ids=["wrapped", "bare"])
def test_a_get_by_id_is_unwrapped(run: Runner, reply: Any) -> None:
    answers(run, ok(reply))
    dataflow = run(get_dataflow(DataflowId("f")))
    assert (dataflow.id, dataflow.name, dataflow.spec_id, dataflow.source_connection_id) == (
        "f",
        "nightly",
        "spec",
        "s",
    )
    assert dataflow.target_connection_id == ""


def test_an_empty_list_in_place_of_the_one_means_not_found(run: Runner) -> None:
    answers(run, ok({"items": []}, x_request_id="req-1"))
    with pytest.raises(EntityNotFound, match="req-1"):
        run(get_dataflow(DataflowId("f")))


def test_several_in_place_of_the_one_are_no_answer(run: Runner) -> None:
    answers(run, ok({"items": [FLOW, FLOW]}))
    with pytest.raises(UnexpectedReply, match="2 items where one is expected"):
        run(get_dataflow(DataflowId("f")))


@pytest.mark.parametrize(
    "reply",
    [[], {}, {"items": None}, {"items": 5}, {"items": [5]}, {"items": [{}]}, {"items": [{"id": None}]}, "x", None, 7],
)
def test_a_list_that_is_none_is_an_unexpected_reply(run: Runner, reply: Any) -> None:
    answers(run, ok(reply, x_request_id="req-2"))
    with pytest.raises(UnexpectedReply, match=r"GET /flows.*req-2"):
        run(list_page("/flows"))


@pytest.mark.parametrize(
    "reply",
    [
        {"items": [{"id": "r", "createdAt": "yesterday"}]},
        {"items": [{"id": "r", "metrics": []}], "x": 1},
        {"items": [{"id": "r", "metrics": {"recordSummary": {"outputRecordCount": "many"}}}]},
        {"items": [{"id": "r", "activities": ["x"]}]},
        {"items": [{"createdAt": 1}]},
    ],
)
def test_a_run_that_cannot_be_read_is_an_unexpected_reply(run: Runner, reply: Any) -> None:
    """Never a KeyError or ValueError of ours: those would look like a bug in the DAG."""
    if reply.get("x"):
        assert wire.read_flow_run(reply["items"][0]).status is RunStatus.RUNNING  # an empty list is no trouble
        return
    answers(run, ok(reply))
    with pytest.raises(UnexpectedReply, match="GET /runs/r"):
        run(get_run(FlowRunId("r")))


def test_an_entity_of_a_list_that_cannot_be_read_is_an_unexpected_reply() -> None:
    """Lists are read outside the session, one entity after the other."""
    with pytest.raises(UnexpectedReply, match=r"a flow run in Adobe's reply: lacks .*createdAt|yesterday"):
        wire.read_flow_run({"id": "r", "createdAt": "yesterday"})
    with pytest.raises(UnexpectedReply, match=r"a dataflow in Adobe's reply: lacks what it must hold .KeyError: 'id'"):
        wire.read_dataflow({})


@given(JSON)
def test_whatever_comes_instead_of_an_entity_is_an_error_of_ours(reply: Any) -> None:
    run = Runner(platform=None, clock=None)  # type: ignore[arg-type]  # both set by the next line or never used
    canned = answers(run, ok(reply))
    run.clock = type("Clock", (), {"now": lambda self: 0.0, "advance": lambda self, seconds: None})()
    try:
        run(get_run(FlowRunId("r")))
    except AepError as error:
        assert str(error).startswith("GET /runs/r")  # noqa: PT017 - any error of another type ends the test by itself
    assert canned.requests


def test_a_run_with_errors_in_all_four_places() -> None:
    def one(number: int) -> dict[str, str]:
        return {"code": f"C{number}", "message": f"m{number}"}

    run = wire.read_flow_run(
        {
            "id": "r",
            "flowId": "f",
            "createdAt": 1658340453699,
            "metrics": {
                "durationSummary": {"startedAtUTC": 1658340453700, "stoppedAtUTC": 1658340453800},
                "statusSummary": {"status": "Success", "errors": [one(1)], "extensions": {"errors": [one(2)]}},
                "recordSummary": {"inputRecordCount": 7, "outputRecordCount": 6.0, "failedInfo": [one(3), one(1)]},
                "sizeSummary": {"inputBytes": 10, "outputBytes": "20"},
                "fileSummary": {"outputFileCount": 3},
            },
            "activities": [{"statusSummary": {"status": "failed", "errors": [one(4)]}}, {}],
        }
    )
    assert run.status is RunStatus.SUCCEEDED
    assert run.raw_status == "Success"
    assert sorted(error.code for error in run.errors) == ["C1", "C2", "C3", "C4"]
    assert RunError("C1", "m1") in run.errors
    assert (run.started_ms, run.completed_ms) == (1658340453700, 1658340453800)
    assert (run.input_records, run.output_records, run.skipped_records) == (7, 6, None)
    assert (run.input_bytes, run.output_bytes, run.output_files) == (10, 20, 3)
    assert run.is_partial


def test_a_run_in_progress_may_have_nothing_but_an_id() -> None:
    run = wire.read_flow_run({"id": "r"})
    assert run.status is RunStatus.RUNNING
    assert not run.has_ended
    assert run.output_records is None


@pytest.mark.parametrize("field", ["etag", "version"])
def test_the_etag_keeps_its_quotes(field: str) -> None:
    assert wire.read_dataflow({"id": "f", field: '"0000d781"'}).etag == '"0000d781"'


def test_a_page_of_datasets_tells_whether_there_is_another(run: Runner) -> None:
    answers(run, ok({"items": [{"id": "1"}], "pageInfo": {"hasNext": True}}), ok({"items": []}))
    page = run(list_datasets())
    assert (page.items, page.has_next) == ([{"id": "1"}], True)
    assert run(list_datasets()).has_next is None


def test_a_reply_cut_in_the_middle_shows_nothing_of_itself(run: Runner) -> None:
    answers(run, raw('{"items": [{"id": "secret-'))
    with pytest.raises(AepError) as caught:
        run(list_page("/flows"))
    assert "secret-" not in str(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    ("operation", "changed_ms"),
    [
        ({"started": 7, "ops": [{"op": "replace", "path": "/name"}, {"op": "replace", "path": "/scheduleParams"}]}, 7),
        ({"started": 7, "ops": [{"op": "replace", "path": "/scheduleParams/endTime"}]}, 7),
        ({"started": 7, "ops": [{"op": "replace", "path": "/sourceConnectionIds"}]}, 0),
        ({"started": 7, "ops": []}, 0),
        ({"started": None, "ops": [{"path": "/scheduleParams"}]}, 0),
        ({"ops": "many"}, 0),
        ({"ops": [None]}, 0),
        (None, 0),
    ],
)
def test_when_a_schedule_was_changed(operation: Any, changed_ms: int) -> None:
    assert wire.read_dataflow({"id": "f", "lastOperation": operation}).schedule_changed_ms == changed_ms
