"""The operations of Adobe's destinations OpenAPI, one by one, and the shape of what they answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.adobe.caller import DATA_LAKE, PROFILES, S3, S3_PARAMS, START, Caller, hourly, version

CONFIGS = f"/connectionSpecs/{DATA_LAKE}/configs?outputType=activationDatasets&outputField=datasets"
SAMPLES = Path(__file__).parent / "samples"

# Every operation of the OpenAPI with the status of its success; {id} is that of a fresh entity of the kind.
OPERATIONS = [
    ("GET", "/connections", 200),
    ("POST", "/connections", 201),
    ("GET", "/connections/{id}", 200),
    ("PATCH", "/connections/{id}", 200),
    ("DELETE", "/connections/{id}", 202),
    ("GET", "/sourceConnections", 200),
    ("POST", "/sourceConnections", 201),
    ("GET", "/sourceConnections/{id}", 200),
    ("DELETE", "/sourceConnections/{id}", 202),
    ("GET", "/targetConnections", 200),
    ("POST", "/targetConnections", 201),
    ("GET", "/targetConnections/{id}", 200),
    ("DELETE", "/targetConnections/{id}", 202),
    ("GET", "/flows", 200),
    ("POST", "/flows", 201),
    ("GET", "/flows/{id}", 200),
    ("PATCH", "/flows/{id}", 200),
    ("DELETE", "/flows/{id}", 202),
    ("GET", "/runs", 200),
    ("GET", CONFIGS, 200),
]
KINDS = ("connections", "sourceConnections", "targetConnections", "flows")


@pytest.fixture
def adobe(tmp_path: Path) -> Caller:
    return Caller(tmp_path)


def bodies(adobe: Caller) -> dict[str, Callable[[], dict[str, Any]]]:
    """A right body for each POST, after what it refers to has been made."""
    return {
        "connections": lambda: {"name": "b", "connectionSpec": version(S3), "auth": login()},
        "sourceConnections": lambda: {
            "name": "s",
            "description": "d",
            "connectionSpec": version(DATA_LAKE),
            "params": {"datasets": [{"dataSetId": PROFILES, "name": "AAM Devices Data"}]},
        },
        "targetConnections": lambda: {
            "name": "t",
            "baseConnectionId": adobe.base(),
            "connectionSpec": version(S3),
            "params": S3_PARAMS,
        },
        "flows": lambda: adobe.flow_body(adobe.source(), adobe.target(adobe.base())),
    }


def login() -> dict[str, Any]:
    return {"specName": "Access Key", "params": {"s3AccessKey": "ABCDEFGHIJKLMNOPQRST", "s3SecretKey": "a" * 40}}


@pytest.mark.parametrize(("method", "path", "status"), OPERATIONS)
@pytest.mark.parametrize("slash", ["", "/"])
def test_operation_of_the_openapi(adobe: Caller, method: str, path: str, status: int, slash: str) -> None:
    kind = path.split("/")[1]
    body: Any = bodies(adobe)[kind]() if method == "POST" else None
    more: dict[str, Any] = {}
    if "{id}" in path:
        path = path.replace("{id}", adobe.post(f"/{kind}", bodies(adobe)[kind]()))
    if method == "PATCH":
        body = [{"op": "replace", "path": "/name", "value": "renamed"}]
        more["headers"] = {"if-match": adobe.item(path)["etag"]}
    if "?" not in path:
        path += slash

    reply = adobe.call(method, path, body, **more)

    assert status == reply.status_code, reply.text
    assert reply.headers["x-request-id"]
    match method:
        case "DELETE":
            assert reply.content == b""
            assert adobe.call("GET", path).status_code == 404
        case "POST" | "PATCH":
            assert {"id", "etag"} == reply.json().keys()
            assert reply.json()["etag"].startswith('"')
            assert reply.json()["etag"].endswith('"')
        case _:
            assert isinstance(reply.json()["items"], list)


def test_there_are_twenty_operations() -> None:
    assert len({(method, path) for method, path, _ in OPERATIONS}) == 20


@pytest.mark.parametrize("kind", [*KINDS, "run"])
def test_members_are_those_of_the_published_samples(adobe: Caller, kind: str) -> None:
    """Whatever stands in Adobe's example of an entity stands in ours, with a value of the same JSON type."""
    sample = json.loads((SAMPLES / f"reply_{kind}.json").read_text())
    if kind == "run":
        flow = adobe.flow(scheduleParams=hourly(start=START))
        adobe.clock.advance(3600)
        entity = adobe.runs(flow)[0]
    else:
        entity_id = adobe.post(f"/{kind}", bodies(adobe)[kind]())
        if kind == "flows":
            operation = {"op": "replace", "path": "/sourceConnectionIds", "value": [adobe.source()]}
            assert adobe.patch(f"/flows/{entity_id}", operation).status_code == 200
            adobe.platform.start_run(entity_id)
            adobe.clock.advance(600)
        entity = adobe.item(f"/{kind}/{entity_id}")

    assert list(differences(sample["reply"]["items"][0], entity, "")) == []


def differences(expected: Any, found: Any, where: str) -> Any:
    if isinstance(expected, dict) and isinstance(found, dict):
        for name, value in expected.items():
            if name not in found:
                yield f"{where}/{name} is missing"
            else:
                yield from differences(value, found[name], f"{where}/{name}")
    elif isinstance(expected, list) and isinstance(found, list):
        for value in expected[:1]:
            yield from differences(value, found[0], f"{where}/0") if found else [f"{where} is empty"]
    elif expected is not None and type(expected) is not type(found):
        yield f"{where} is {found!r}, not like {expected!r}"


def test_secrets_never_come_back(adobe: Caller) -> None:
    secret = "s3cr3tS3cr3ts3cr3tS3cr3ts3cr3tS3cr3ts3cr"
    base = adobe.base(auth={"specName": "Access Key", "params": {"s3AccessKey": "A" * 20, "s3SecretKey": secret}})

    for reply in (adobe.call("GET", f"/connections/{base}"), adobe.call("GET", "/connections")):
        assert secret not in reply.text
        assert "*" in reply.json()["items"][0]["auth"]["params"]["s3SecretKey"]
        assert reply.json()["items"][0]["auth"]["params"]["authorizedDate"] == "2027-01-15"


def test_sandboxes_know_nothing_of_each_other(adobe: Caller) -> None:
    base = adobe.base()
    dev = {"headers": {"x-sandbox-name": "dev"}}

    assert adobe.get("/connections", **dev)["items"] == []
    assert adobe.refused("GET", f"/connections/{base}", **dev) == "404 FLOW-1439-404"
    body = {"name": "t", "baseConnectionId": base, "connectionSpec": version(S3), "params": {}}
    assert adobe.refused("POST", "/targetConnections", body, **dev) == "400 FLOW-1439-400"


@pytest.mark.parametrize(
    ("header", "value", "expected"),
    [
        ("Authorization", None, "403 403010"),
        ("Authorization", "Bearer made-up", "401 401013"),
        ("Authorization", "Basic x", "401 401013"),
        ("x-api-key", None, "403 403000"),
        ("x-api-key", "another", "403 403003"),
        ("x-gw-ims-org-id", None, "400 400003"),
        ("x-gw-ims-org-id", "ABC@AdobeOrg", "401 FLOW-2000-401"),
        ("x-sandbox-name", None, "400 FLOW-2105-400"),
        ("x-sandbox-name", "nowhere", "404 FLOW-2100-404"),
        ("x-sandbox-name", "Prod", "404 FLOW-2100-404"),
        ("x-sandbox-name", "*", "403 FLOW-2111-403"),
        ("x-sandbox-id", "00000000-0000-0000-0000-000000000000", "400 FLOW-2110-400"),
    ],
)
def test_wrong_header(adobe: Caller, header: str, value: str | None, expected: str) -> None:
    if value is None:
        del adobe.http.headers[header]
    else:
        adobe.http.headers[header] = value

    assert expected == adobe.refused("GET", "/flows")


def test_an_empty_organisation_header(adobe: Caller) -> None:
    assert adobe.refused("GET", "/flows", headers={"x-gw-ims-org-id": ""}) == "401 FLOW-2001-401"


def test_error_code_may_be_a_number(tmp_path: Path) -> None:
    adobe = Caller(tmp_path, integer_error_codes=True)
    adobe.platform.expire_tokens()

    assert adobe.call("GET", "/flows").json() == {"error_code": 401013, "message": "Oauth token is not valid"}


def test_content_type_is_required_with_a_body(adobe: Caller) -> None:
    url = "/data/foundation/flowservice/connections"
    reply = adobe.http.post(url, content=b'{"name": "x"}', headers={"Content-Type": "text/plain"})

    assert (reply.status_code, reply.json()["title"]) == (400, "BadRequestError")
    assert (
        adobe.refused("POST", "/connections", content=b"{", headers={"Content-Type": "application/json"})
        == "400 FLOW-1425-400"
    )


def test_not_found_and_version_mismatch_are_worded_as_published(adobe: Caller) -> None:
    flow = adobe.flow()
    etag = adobe.item(f"/flows/{flow}")["etag"]

    missing = adobe.call("GET", "/flows/nowhere").json()
    stale = adobe.patch(f"/flows/{flow}", {"op": "replace", "path": "/name", "value": "x"}, etag='"stale"')

    assert "flows not found with id = [nowhere]" == missing["errorMessage"] == missing["errorDetails"]
    assert stale.status_code == 412
    assert stale.json()["errorMessage"] == (
        f'Supplied version=["stale"] does not match the current version on entity=[{etag}]'
    )


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "", 404),
        ("PUT", "/connections", 405),
        ("PUT", "/connections/x", 405),
        ("DELETE", "/flows", 405),
        ("GET", "/flows/a/b/c", 404),
        ("GET", "/flows/x/test", 404),
        ("GET", "/data/elsewhere", 404),
        ("POST", "/connectionSpecs", 400),
        ("PUT", f"/flowSpecs/{S3}", 400),
        ("GET", "/connectionSpecs/nowhere", 404),
        ("GET", "/connectionSpecs/nowhere/configs", 404),
    ],
)
def test_what_is_not_there(adobe: Caller, method: str, path: str, status: int) -> None:
    assert status == adobe.call(method, path).status_code


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/runs"), ("PUT", "/runs/x"), ("PATCH", "/runs/x"), ("DELETE", "/runs/x")],
)
def test_runs_can_only_be_read(adobe: Caller, method: str, path: str) -> None:
    assert adobe.refused(method, path, {"flowId": "x"}) == "400 FLOW-1427-400"


def test_every_dataset_is_listed_once(adobe: Caller) -> None:
    first, second = adobe.get(f"{CONFIGS}&limit=20"), adobe.get(f"{CONFIGS}&start=20&limit=20")

    assert first["pageInfo"] == {"start": 0, "end": 19, "total": 28, "hasNext": True}
    assert second["pageInfo"] == {"start": 20, "end": 27, "total": 28, "hasNext": False}
    assert len({one["id"] for one in first["items"] + second["items"]}) == 28
    assert first == adobe.get(CONFIGS)
    assert adobe.get(f"{CONFIGS}&start=28")["items"] == []
    assert len(adobe.get(f"{CONFIGS.replace(DATA_LAKE, S3)}&limit=100")["items"]) == 28


def test_dataset_records_can_be_trimmed(adobe: Caller) -> None:
    whole = adobe.get(CONFIGS)["items"][0]
    trimmed = adobe.get(f"{CONFIGS}&properties=name,state,viewId")["items"][0]

    assert {"schemaRef", "tags", "imsOrg", "lastBatchId"} <= whole.keys()
    assert {"id", "name", "state", "viewId"} <= trimmed.keys()
    assert "schemaRef" not in trimmed
    assert trimmed.items() <= whole.items()


@pytest.mark.parametrize(
    "query", ["", "?outputType=activationDatasets", f"?{CONFIGS.partition('?')[2]}&limit=0", "?start=x"]
)
def test_datasets_need_right_parameters(adobe: Caller, query: str) -> None:
    assert adobe.call("GET", f"/connectionSpecs/{DATA_LAKE}/configs{query}").status_code == 400


def test_specs_can_be_found_by_name(adobe: Caller) -> None:
    specs = {one["name"]: one["id"] for one in adobe.get("/connectionSpecs")["items"]}
    found = adobe.get("/flowSpecs", params={"property": "name==Data Landing Zone"})["items"]

    assert [one["id"] for one in found] == ["cd2fc47e-e838-4f38-a581-8fff2f99b63a"]
    assert [specs["activation-datalake"]] == found[0]["sourceConnectionSpecIds"]
    assert [specs["Data Landing Zone"]] == found[0]["targetConnectionSpecIds"]
    assert found == adobe.call("POST", "/flowSpecs/search", {"queryString": "name==Data Landing Zone"}).json()["items"]
    destinations = adobe.get("/connectionSpecs", params={"property": "attributes.isDestination=true"})["items"]
    assert {S3} < {one["id"] for one in destinations}
    assert DATA_LAKE not in {one["id"] for one in destinations}
    assert adobe.item(f"/connectionSpecs/{S3}")["id"] == S3
    assert S3 in adobe.item("/flowSpecs/269ba276-16fc-47db-92b0-c1049a3c131f")["targetConnectionSpecIds"]


def test_the_document_of_a_connection_spec(adobe: Caller) -> None:
    spec = adobe.item(f"/connectionSpecs/{S3}")
    target = spec["targetSpec"]["spec"]

    assert [one["name"] for one in spec["authSpec"]] == ["Access Key", "Assumed Role"]
    assert spec["authSpec"][0]["spec"]["properties"]["s3AccessKey"]["pattern"] == "^[A-Z2-7]{20}$"
    assert target["required"] == ["bucketName", "path", "datasetFileType", "compression", "fileType"]
    assert target["properties"]["datasetFileType"]["enum"] == ["JSON", "PARQUET"]
    assert spec["flowSpecId"] == "269ba276-16fc-47db-92b0-c1049a3c131f"


def test_a_connection_can_be_tested(adobe: Caller) -> None:
    assert adobe.get(f"/connections/{adobe.base()}/test") == {"result": True}
    assert adobe.refused("GET", "/connections/nowhere/test") == "404 FLOW-1439-404"


def test_the_log_of_creations_remembers_deletions(adobe: Caller) -> None:
    first, second = adobe.base("one"), adobe.base("two")
    adobe.call("DELETE", f"/connections/{first}")

    assert [("connections", first, "one", "prod", True), ("connections", second, "two", "prod", False)] == [
        (one.kind, one.id, one.name, one.sandbox, one.deleted) for one in adobe.platform.creations
    ]


def test_many_callers_at_once(adobe: Caller) -> None:
    """Threads share a platform: nothing is made twice, lost, or given another's ID."""
    flow = adobe.flow(scheduleParams=hourly(start=START))

    def work(number: int) -> str:
        adobe.clock.advance(1)
        adobe.runs(flow)
        return adobe.base(f"n{number}")

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(work, range(200)))

    assert len(set(made)) == 200
    assert {one["id"] for one in adobe.platform.live("connections")} > set(made)
    assert len(adobe.runs(flow)) == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
MEMBERS = ["name", "connectionSpec", "auth", "params", "baseConnectionId", "flowSpec", "sourceConnectionIds"]
MEMBERS += ["targetConnectionIds", "scheduleParams", "transformations", "description"]


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from(KINDS), member=st.sampled_from(MEMBERS), value=JSON)
def test_no_body_brings_it_down(adobe: Caller, kind: str, member: str, value: Any) -> None:
    """A body with any one member replaced by anything is taken or refused, never a crash (500)."""
    reply = adobe.call("POST", f"/{kind}", {**bodies(adobe)[kind](), member: value})

    assert reply.status_code in (201, 400, 422), reply.text


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(KINDS),
    operation=st.sampled_from(["add", "replace", "remove", "MOVE"]) | JSON,
    path=st.lists(st.sampled_from([*MEMBERS, "interval", "datasets", "0", "-", ""]), max_size=3),
    value=JSON,
)
def test_no_patch_brings_it_down(adobe: Caller, kind: str, operation: Any, path: list[str], value: Any) -> None:
    entity = adobe.post(f"/{kind}", bodies(adobe)[kind]())
    body = {"op": operation, "path": "/" + "/".join(path), "value": value}

    reply = adobe.patch(f"/{kind}/{entity}", body)

    assert reply.status_code in (200, 400), reply.text
    assert adobe.call("GET", f"/{kind}/{entity}").status_code == httpx.codes.OK
