"""What callers that we did not write may send: Adobe's own examples and collection, other clients, and nonsense."""

from __future__ import annotations

import base64
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_provider_aep.emulator import Clock
from tests.adobe.caller import (
    DATA_LAKE,
    EVENTS,
    FLOW_SERVICE,
    HEADERS,
    LOYALTY,
    START,
    TOKEN_FORM,
    Caller,
    version,
)

ADHOC = "/data/core/activation/disflowprovider/adhocrun"
CONFIGS = f"/connectionSpecs/{DATA_LAKE}/configs?outputType=activationDatasets&outputField=datasets"
DIGITS = "9" * 5000  # more than Python reads
PAGES = ["faults", "faults/mix", "filters", "clock/advance", "scripts", "runs", "rows", "runs/end", "states"]
MEMBERS = ["match", "kind", "seconds", "times", "flow_id", "errors", "dataset_id", "rows", "path", "run_id", "count"]
MEMBERS += ["state", "connection_id", "secrets", "late_seconds"]
PAGES += ["skipped-slots", "revoked-logins", "client-secrets"]
WHATEVER = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def adobe(tmp_path: Path) -> Caller:
    return Caller(tmp_path)


# -- what Adobe publishes -------------------------------------------------------------------------------------------


def test_a_dataflow_may_get_its_schedule_later(adobe: Caller) -> None:
    """The OpenAPI's example of a dataset dataflow has no schedule; another of its examples replaces one."""
    body = adobe.flow_body(adobe.source(), adobe.target(adobe.base()))
    del body["scheduleParams"]
    flow = adobe.post("/flows", body)
    adobe.clock.advance(86_400)
    assert adobe.runs(flow) == []

    start = int(START) + 90_000
    value = {"interval": 3, "timeUnit": "hour", "startTime": start, "endTime": start + 9_100}
    replace = {"op": "replace", "path": "/scheduleParams", "value": value}
    assert adobe.patch(f"/flows/{flow}", replace).status_code == 200
    adobe.clock.advance(86_400)
    assert len(adobe.runs(flow)) == 1


def test_a_source_may_have_a_base_connection(adobe: Caller) -> None:
    """Adobe's first destination tutorials authorise the source, too, and so does aepp."""
    base = adobe.post("/connections", {"name": "lake", "connectionSpec": version(DATA_LAKE)})
    source = adobe.source(baseConnectionId=base)

    assert adobe.item(f"/sourceConnections/{source}")["baseConnectionId"] == base
    body = {"name": "s", "baseConnectionId": "x", "connectionSpec": version(DATA_LAKE)}
    assert adobe.refused("POST", "/sourceConnections", body) == "400 FLOW-1439-400"
    assert adobe.refused("POST", "/sourceConnections", body | {"baseConnectionId": adobe.base()}) == "400 FLOW-1413-400"
    target = {"name": "t", "baseConnectionId": base, "connectionSpec": version(DATA_LAKE), "params": {}}
    assert adobe.refused("POST", "/targetConnections", target) == "400 FLOW-1413-400"


def test_the_collection_has_the_etag_in_the_query(adobe: Caller) -> None:
    """Adobe's Postman collection: PATCH /connections/:id/?if-match=..., and Content-Type on every request."""
    path = f"/connections/{adobe.base()}"
    etag = adobe.item(path)["etag"]
    change = [{"op": "add", "path": "/description", "value": "d"}]

    assert adobe.refused("PATCH", f"{path}/?if-match=", change) == "400 FLOW-1403-400"
    assert adobe.refused("PATCH", f"{path}/?if-match=%22x%22", change) == "412 FLOW-1404-412"
    assert adobe.call("PATCH", f"{path}/?if-match={quote(etag)}", change).status_code == 200
    as_json = {"Content-Type": "application/json", "Accept": "application/json"}
    for query in ("?count=false", "?limit=5&orderby=-createdAt&count=false", ""):
        assert adobe.call("GET", f"/connections{query}", headers=as_json).status_code == 200
    assert adobe.call("DELETE", f"{path}/", headers=as_json).status_code == 202


@pytest.mark.parametrize(
    "query",
    [
        "property=flowId=={flow}& metrics.statusSummary.status==success",
        "property=flowId=={flow}%26%20metrics.statusSummary.status==success",
        "property=flowId=={flow}&property=metrics.statusSummary.status==Success",
        "property=flowId==x,{flow}&metrics.statusSummary.status==SUCCESS,waiting",
    ],
)
def test_filters_of_runs_as_printed(adobe: Caller, query: str) -> None:
    flow = adobe.flow(LOYALTY)
    adobe.clock.advance(1200)
    adobe.platform.script_run(flow, "failed")
    adobe.clock.advance(3 * 3600)

    found = adobe.call("GET", f"/runs?{query.format(flow=flow)}").json()["items"]
    assert [run["metrics"]["statusSummary"]["status"] for run in found] == ["success"]


def test_search_wants_an_object(adobe: Caller) -> None:
    for body in ([1], "x", 7):
        assert adobe.refused("POST", "/flows/search", body) == "400 FLOW-1425-400"
    assert adobe.call("POST", "/flows/search").json() == {"items": [], "_links": {}}


# -- nonsense -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b'{"a":' * 2_000 + b"1" + b"}" * 2_000,
        b'{"name":' + DIGITS.encode() + b"}",
        b'{"name":"\xff"}',
        b"\x00",
        b"NaN",
        b'"x"',
    ],
)
@pytest.mark.parametrize("path", ["/flows", "/connections", "/flows/search", ADHOC, "/_emulator/faults"])
def test_bodies_that_mean_nothing(adobe: Caller, path: str, content: bytes) -> None:
    reply = adobe.call("POST", path, content=content, headers={"Content-Type": "application/json"})
    assert reply.status_code in (400, 422)
    assert reply.json()


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (f"/flows?limit={DIGITS}", "400 FLOW-1453-400"),
        (f"{CONFIGS}&start={DIGITS}", "400 FLOW-1453-400"),
        (f"{CONFIGS}&limit=-1", "400 FLOW-1453-400"),
        ("/flows?property=%", "400 FLOW-1448-400"),
        (f"/connections/%00{DIGITS}", "404 FLOW-1439-404"),
    ],
)
def test_addresses_that_mean_nothing(adobe: Caller, path: str, expected: str) -> None:
    assert adobe.refused("GET", path) == expected


@pytest.mark.parametrize("position", ["[]", "null", "[1,2]", '["a"]', "[[]]", "[[1,[]],[2,0]]", "[" * 3000, "{}", "x"])
@pytest.mark.parametrize("shifting", [True, False])
def test_tokens_that_are_made_up(tmp_path: Path, position: str, shifting: bool) -> None:
    adobe = Caller(tmp_path, shifting_pages=shifting)
    for number in range(3):
        adobe.base(f"b{number}")
    text = base64.b64encode(position.encode()).decode()
    token = quote(f"+RID:~{text}==#RT:{len(text)}", safe="")
    reply = adobe.call("GET", f"/connections?limit=1&continuationToken={token}")
    assert reply.status_code in (200, 400)
    assert reply.status_code == 200 or "FLOW-1453-400" in reply.text


@pytest.mark.parametrize(
    "path", ["/scheduleParams/startTime", "/scheduleParams/interval", f"/transformations/{DIGITS}"]
)
def test_numbers_too_long_to_read(adobe: Caller, path: str) -> None:
    flow = f"/flows/{adobe.flow()}"
    reply = adobe.patch(flow, {"op": "add", "path": path, "value": DIGITS})
    assert reply.status_code == 400


def test_a_form_in_an_unknown_encoding(adobe: Caller) -> None:
    part = (
        b'--x\r\nContent-Disposition: form-data; name="client_id"\r\nContent-Type: text/plain; charset=foo\r\n\r\n\xff'
    )
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    reply = adobe.http.post("/ims/token/v3", content=part + b"\r\n--x--", headers=headers)
    assert (reply.status_code, reply.json()["error"]) == (400, "invalid_request")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)
PARAMETER = st.sampled_from(["property", "limit", "orderby", "count", "continuationToken", "start", "properties"])
FILTER = st.builds(
    "".join, st.lists(st.sampled_from(["id", "name", "metrics", ".", "[]", "==", ">", "&", ",", "x", "1", "-", "é"]))
)


@WHATEVER
@given(
    kind=st.sampled_from(["/flows", "/runs", "/connections", "/connectionSpecs", CONFIGS.partition("?")[0]]),
    query=st.lists(st.tuples(PARAMETER | st.text(max_size=5), FILTER | st.text()), max_size=4),
)
def test_no_query_brings_it_down(adobe: Caller, kind: str, query: list[tuple[str, str]]) -> None:
    reply = adobe.call("GET", kind, params=query)
    assert reply.status_code in (200, 400)
    assert reply.json()


@WHATEVER
@given(
    path=st.sampled_from(PAGES),
    names=st.lists(st.sampled_from(MEMBERS)),
    value=JSON,
)
def test_steering_it_wrongly_does_not_break_it(adobe: Caller, path: str, names: list[str], value: Any) -> None:
    reply = adobe.call("POST", f"/_emulator/{path}", dict.fromkeys(names, value))
    assert reply.status_code in (200, 400)
    adobe.call("DELETE", "/_emulator/faults")
    adobe.platform.refused_filters.clear()
    assert adobe.call("GET", "/flows").status_code == 200


@pytest.mark.parametrize(
    "fault", [{"seconds": "x"}, {"times": 1.5}, {"retry_after": "date:x"}, {"retry_after": "a\nb"}, {"match": 7}]
)
def test_faults_of_wrong_types(adobe: Caller, fault: dict[str, Any]) -> None:
    assert adobe.call("POST", "/_emulator/faults", fault).status_code == 400


@pytest.mark.parametrize(
    "script", [{"seconds": "x"}, {"outcome": "x"}, {"errors": "x"}, {"seconds": -1}, {"status": 1}]
)
def test_scripts_of_wrong_types(adobe: Caller, script: dict[str, Any]) -> None:
    assert adobe.call("POST", "/_emulator/scripts", script).status_code == 400


def test_rows_that_fit_in_no_schema_fail_the_run(adobe: Caller) -> None:
    flow = adobe.flow(LOYALTY, params={"datasetFileType": "PARQUET", "compression": "NONE"})
    adobe.platform.add_rows(LOYALTY, [{"person": 7}, {"person": [1, "a"]}])
    adobe.clock.advance(1200)
    assert adobe.runs(flow)[0]["metrics"]["statusSummary"]["status"] == "failed"


# -- time and much of everything ------------------------------------------------------------------------------------


def test_time_ends_before_dates_do(adobe: Caller) -> None:
    clock = Clock(speed=1e300, start=START)
    assert clock.now() == clock.now() < 2.3e11
    for seconds in (1e12, 1e308):
        assert adobe.call("POST", "/_emulator/clock/advance", {"seconds": seconds}).status_code == 400
    assert adobe.call("GET", "/flows").status_code == 200


def test_a_run_that_is_due_takes_no_later_script(adobe: Caller) -> None:
    flow = adobe.flow(LOYALTY)
    adobe.clock.advance(1200)
    adobe.platform.script_run(flow, "failed")
    adobe.clock.advance(3 * 3600)
    assert [run["metrics"]["statusSummary"]["status"] for run in adobe.runs(flow)] == ["success", "failed"]


def test_runs_without_files_count_what_they_would_have_written(tmp_path: Path) -> None:
    told = []
    for write_files in (True, False):
        adobe = Caller(tmp_path / str(write_files), write_files=write_files, arrivals=7)
        flow = adobe.flow(LOYALTY, EVENTS)
        adobe.clock.advance(600)
        adobe.platform.script_run(flow, "partial")
        adobe.clock.advance(3 * 3600 + 600)
        told.append([run["metrics"]["recordSummary"]["outputRecordCount"] for run in adobe.runs(flow)])
        assert adobe.platform.data is None or write_files
    assert told[0] == told[1]
    assert len(told[0]) == 2
    assert all(told[0])


def test_every_write_is_kept_before_it_is_acknowledged(tmp_path: Path) -> None:
    """The state file is read as a crash would leave it: nothing is saved in the background or at an end."""
    state = tmp_path / "state.json"
    adobe = Caller(tmp_path / "data", state=state)
    made = [adobe.base(f"b{number}") for number in range(5)]
    adobe.call("DELETE", f"/connections/{made.pop()}")

    again = Caller(tmp_path / "data", state=state)
    assert {one["id"] for one in again.get("/connections")["items"]} == set(made)


# -- on the line ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    command = [sys.executable, "-m", "airflow_provider_aep.emulator", "--port", "0", "--no-files"]
    folder = tmp_path_factory.mktemp("line")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=folder) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline().rpartition(":")[2])
        process.terminate()
        threading.Thread(target=process.stdout.read).start()


@pytest.mark.parametrize(
    ("line", "header"),
    [
        (b"GET %b/flows", b"Host: a b"),
        (b"GET %b/flows", b"Host: [::1"),
        (b"GET %b/flows", b"Host: \xff"),
        (b"GET %b/flows", b"Host:"),
        (b"GET %b/flows", b"Accept: \xff"),
        (b"GET %b/flows?property=name==%%zz%%00%%ff", b"Host: x"),
        (b"GET http://platform.adobe.io%b/flows", b"Host: x"),
        (b"OPTIONS *", b"Host: x"),
        (b"GET //%b", b"Host: x"),
        (b"GET %b/\xff", b"Host: x"),
        (b"HEAD %b/flows", b"Host: x"),
    ],
)
def test_lines_that_hardly_are_http(port: int, line: bytes, header: bytes) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=HEADERS) as http:
        token = http.post("/ims/token/v3", data=TOKEN_FORM).json()["access_token"]
    headers = {**HEADERS, "Authorization": f"Bearer {token}", "Connection": "close"}
    rest = "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode()
    first = line % FLOW_SERVICE.encode() if b"%b" in line else line
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(first + b" HTTP/1.1\r\n" + header + b"\r\n" + rest + b"\r\n")
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))
    assert b" 500 " not in answer.partition(b"\r\n")[0]
    assert answer.startswith(b"HTTP/1.1 ")
