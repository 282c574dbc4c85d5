"""Each endpoint's request as Adobe documents it, seen at the other end of the line."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import parse_qsl

import httpx
import pytest

from airflow_provider_aep.api import calls
from airflow_provider_aep.api.effects import Call, Gather, Procedure, Sleep, gather
from airflow_provider_aep.api.entities import (
    BaseConnectionId,
    DataflowId,
    DatasetId,
    FlowRunId,
    SourceConnectionId,
    TargetConnectionId,
)
from airflow_provider_aep.errors import InvalidArgument
from tests.canned import answers, ok, raw
from tests.conftest import Runner

BASE = "/data/foundation/flowservice"
DATA_LAKE = "23598e46-f560-407b-88d5-ea6207e49db0"
S3 = "4fce964d-3f37-408f-9778-e597338a21ee"
S3_FLOW = "269ba276-16fc-47db-92b0-c1049a3c131f"
SCHEDULE = {"exportMode": "DAILY_FULL_EXPORT", "interval": 0, "timeUnit": "day", "startTime": 1700000000}


def sent(run: Runner, call: Call[Any], reply: httpx.Response | None = None) -> httpx.Request:
    canned = answers(run, reply or ok({"id": "new", "etag": '"1"', "items": [], "sandboxes": []}))
    run(call)
    (request,) = canned.requests
    return request


@pytest.mark.parametrize(
    ("call", "path", "body"),
    [
        (
            calls.create_base_connection("b", S3, {"specName": "Access Key", "params": {"s3AccessKey": "k"}}),
            "/connections",
            {
                "name": "b",
                "connectionSpec": {"id": S3, "version": "1.0"},
                "auth": {"specName": "Access Key", "params": {"s3AccessKey": "k"}},
            },
        ),
        (
            # The Data Landing Zone takes no login, so there is no `auth` at all.
            calls.create_base_connection("b", S3, None, description="d"),
            "/connections",
            {"name": "b", "connectionSpec": {"id": S3, "version": "1.0"}, "description": "d"},
        ),
        (
            calls.create_source_connection("s", {DatasetId("1"): "One", DatasetId("2"): "Two"}),
            "/sourceConnections",
            {
                "name": "s",
                "connectionSpec": {"id": DATA_LAKE, "version": "1.0"},
                "params": {"datasets": [{"dataSetId": "1", "name": "One"}, {"dataSetId": "2", "name": "Two"}]},
            },
        ),
        (
            calls.create_source_connection("s", [DatasetId("1")]),
            "/sourceConnections",
            {
                "name": "s",
                "connectionSpec": {"id": DATA_LAKE, "version": "1.0"},
                "params": {"datasets": [{"dataSetId": "1", "name": "1"}]},
            },
        ),
        (
            calls.create_target_connection("t", BaseConnectionId("base"), S3, {"mode": "Server-to-server"}),
            "/targetConnections",
            {
                "name": "t",
                "connectionSpec": {"id": S3, "version": "1.0"},
                "baseConnectionId": "base",
                "params": {"mode": "Server-to-server"},
            },
        ),
        (
            calls.create_dataflow("f", S3_FLOW, SourceConnectionId("s"), TargetConnectionId("t"), SCHEDULE),
            "/flows",
            {
                "name": "f",
                "flowSpec": {"id": S3_FLOW, "version": "1.0"},
                "sourceConnectionIds": ["s"],
                "targetConnectionIds": ["t"],
                "transformations": [],
                "scheduleParams": SCHEDULE,
            },
        ),
    ],
)
def test_creations(run: Runner, call: Call[calls.Created], path: str, body: Any) -> None:
    canned = answers(run, ok({"id": "new", "etag": '"1"'}, status=201))
    assert run(call) == ("new", '"1"')
    (request,) = canned.requests
    assert (request.method, request.url.path) == ("POST", BASE + path)
    assert json.loads(request.content) == body
    assert not request.url.query


@pytest.mark.parametrize(
    ("call", "method", "path", "query"),
    [
        (
            calls.list_page("/flows"),
            "GET",
            BASE + "/flows",
            [("orderby", "-createdAt"), ("limit", "100")],
        ),
        (
            calls.list_runs("flowId==f", "createdAt>=5"),
            "GET",
            BASE + "/runs",
            [("property", "flowId==f"), ("property", "createdAt>=5"), ("orderby", "-createdAt"), ("limit", "100")],
        ),
        (
            calls.named(calls.DATAFLOWS, "a b+c&d=é"),
            "GET",
            BASE + "/flows",
            [("property", "name==a b+c&d=é"), ("orderby", "-createdAt"), ("limit", "100")],
        ),
        (
            calls.list_datasets(start=200),
            "GET",
            f"{BASE}/connectionSpecs/{DATA_LAKE}/configs",
            [("outputType", "activationDatasets"), ("outputField", "datasets"), ("start", "200"), ("limit", "100")],
        ),
        (calls.list_sandboxes(), "GET", "/data/foundation/sandbox-management/", []),
        (calls.enable_dataflow(DataflowId("f")), "POST", BASE + "/flows/f/action", [("op", "enable")]),
        (calls.delete_entity(calls.SOURCE_CONNECTIONS, "s"), "DELETE", BASE + "/sourceConnections/s", []),
    ],
)
def test_requests_without_a_body(
    run: Runner, call: Call[Any], method: str, path: str, query: Sequence[tuple[str, str]]
) -> None:
    request = sent(run, call)
    assert (request.method, request.url.path) == (method, path)
    assert parse_qsl(request.url.query.decode()) == list(query)
    assert not request.content
    assert "count" not in dict(query)
    assert "+" not in request.url.query.decode()  # a blank is %20 in Adobe's guide, a plus sign is %2B


@pytest.mark.parametrize(
    ("call", "path"),
    [
        (calls.get_entity(calls.BASE_CONNECTIONS, "x-1"), "/connections/x-1"),
        (calls.get_source_connection(SourceConnectionId("x-1")), "/sourceConnections/x-1"),
        (calls.get_target_connection(TargetConnectionId("x-1")), "/targetConnections/x-1"),
        (calls.get_dataflow(DataflowId("x-1")), "/flows/x-1"),
        (calls.get_run(FlowRunId("x-1")), "/runs/x-1"),
    ],
)
def test_reading_one_entity(run: Runner, call: Call[Any], path: str) -> None:
    request = sent(run, call, ok({"items": [{"id": "x-1"}]}))
    assert (request.method, request.url.path, request.url.query) == ("GET", BASE + path, b"")


@pytest.mark.parametrize(
    ("etag", "if_match"),
    [('"0000d781"', '"0000d781"'), ("0000d781", '"0000d781"'), ('W/"0000d781"', 'W/"0000d781"')],
    ids=["quoted", "bare", "weak"],
)
def test_a_patch_names_the_version_that_it_changes(run: Runner, etag: str, if_match: str) -> None:
    """The quotes belong to the etag; where Adobe leaves them out they are added (guide "Edit destination")."""
    operations = [{"op": "replace", "path": "/scheduleParams", "value": SCHEDULE}]
    call = calls.patch_entity(calls.DATAFLOWS, "f", etag=etag, operations=operations)
    request = sent(run, call)
    assert (request.method, request.url.path) == ("PATCH", BASE + "/flows/f")
    assert request.headers["If-Match"] == if_match
    assert json.loads(request.content) == operations


@pytest.mark.parametrize("status", [200, 201, 202, 204, 207])
@pytest.mark.parametrize(
    "call",
    [
        calls.delete_entity(calls.DATAFLOWS, "f"),
        calls.enable_dataflow(DataflowId("f")),
        calls.patch_entity(calls.DATAFLOWS, "f", etag="1", operations=[]),
    ],
    ids=str,
)
def test_any_2xx_is_a_success_with_and_without_a_body(run: Runner, call: Call[Any], status: int) -> None:
    """Adobe's two OpenAPI documents disagree on 202 and 204, and what is not needed need not be there."""
    assert sent(run, call, raw(status=status))
    assert sent(run, call, ok({"id": "f", "etag": '"2"'}, status=status))


BAD_IDS = ["", " ", "a b", "a/b", "../flows", "..", ".", "a?b=c", "a#b", "a%2Fb", "a\n", "é", None]


@pytest.mark.parametrize("bad", BAD_IDS)
@pytest.mark.parametrize(
    "make",
    [
        lambda bad: calls.get_dataflow(bad),
        lambda bad: calls.get_run(bad),
        lambda bad: calls.delete_entity(calls.DATAFLOWS, bad),
        lambda bad: calls.enable_dataflow(bad),
        lambda bad: calls.patch_entity(calls.DATAFLOWS, bad, etag="1", operations=[]),
    ],
)
def test_an_id_that_would_change_the_path_is_refused(make: Callable[[Any], Call[Any]], bad: Any) -> None:
    """`GET /flows/` with an empty ID would be answered by a list, and its first dataflow taken for the one meant."""
    with pytest.raises(InvalidArgument, match=r"ID = .*must be an ID as Adobe gives it"):
        make(bad)


def test_what_may_be_sent_twice() -> None:
    """Creations may not: Adobe knows no idempotency key."""
    assert not calls.create_base_connection("b", S3, None).repeatable
    assert not calls.create_source_connection("s", []).repeatable
    assert not calls.create_target_connection("t", BaseConnectionId("b"), S3, {}).repeatable
    assert not calls.create_dataflow(
        "f", S3_FLOW, SourceConnectionId("s"), TargetConnectionId("t"), SCHEDULE
    ).repeatable
    assert calls.get_run(FlowRunId("r")).repeatable
    assert calls.delete_entity(calls.DATAFLOWS, "f").repeatable
    assert calls.patch_entity(calls.DATAFLOWS, "f", etag="1", operations=[]).repeatable
    assert not Call("POST", "/x").repeatable


def test_a_call_shows_no_body() -> None:
    call = calls.create_base_connection("b", S3, {"params": {"s3SecretKey": "planted"}})
    assert "planted" not in repr(call)
    assert str(call) == "POST /connections"


def test_together_asks_for_company_only_where_there_is_some() -> None:
    def answer(value: int) -> Procedure[int]:
        yield Sleep(value)
        return value

    assert next(gather(answer(1), None)) == Sleep(1)
    both = gather(answer(1), None, answer(2))
    step = next(both)
    assert isinstance(step, Gather)
    assert len(step.procedures) == 2
    with pytest.raises(StopIteration) as end:
        both.send(["one", "two"])
    assert end.value.value == ["one", None, "two"]


def test_together_of_nothing_does_nothing() -> None:
    with pytest.raises(StopIteration) as end:
        next(gather(None))
    assert end.value.value == [None]
