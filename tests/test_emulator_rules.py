"""What the emulator refuses, and with which of Adobe's codes; and what it must not refuse."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from tests.adobe.caller import (
    DATA_LAKE,
    DLZ,
    EVENTS,
    LOYALTY,
    PROFILES,
    S3,
    S3_FLOW,
    S3_LOGIN,
    S3_PARAMS,
    START,
    Caller,
    hourly,
    once,
    version,
)

BLOB, ADLS = "6d6b59bf-fb58-4107-9064-4d246c0e5bb2", "be2c3209-53bc-47e7-ab25-145db8b873e1"
GCS, SFTP = "c5d93acb-ea8b-4b14-8f53-02138444ae99", "36965a81-b1c6-401b-99f8-22508f1e6a26"
MISSING, INVALID, NO_SPEC, NO_AUTH = "422 -", "400 FLOW-1425-400", "400 FLOW-1413-400", "400 FLOW-1415-400"
SSH_KEY = base64.b64encode(b"-----BEGIN RSA PRIVATE KEY-----").decode()
FORMAT = {"datasetFileType": "PARQUET", "compression": "NONE"}


@pytest.fixture
def adobe(tmp_path: Path) -> Caller:
    return Caller(tmp_path)


def login(name: str, **params: Any) -> dict[str, Any]:
    return {"specName": name, "params": params}


LOGINS = [
    (S3, login("Access Key", s3AccessKey="A" * 20, s3SecretKey="a/+" + "b" * 37)),
    (S3, login("Assumed Role", s3Role="arn:aws:iam::123456789012:role/aep")),
    (BLOB, login("ConnectionString", connectionString="DefaultEndpointsProtocol=https;AccountName=a;AccountKey=b")),
    (
        ADLS,
        login(
            "Azure Service Principal Auth",
            url="abfss://c@a.dfs.core.windows.net",
            tenant="t",
            servicePrincipalId="i",
            servicePrincipalKey="k",
        ),
    ),
    (DLZ, None),
    (GCS, login("Google Cloud Storage authentication credentials", accessKeyId="G" * 61, secretAccessKey="s" * 40)),
    (SFTP, login("SFTP with Password", domain="d", username="u", password="p")),
    (SFTP, login("SFTP with Password", domain="d", username="u", password="p", port=22)),
    (SFTP, login("SFTP with SSH Key", domain="d", username="u", sshKey=SSH_KEY, port="2222")),
]
PLACES = [
    (S3, {"bucketName": "lake-exports", "path": "profiles/2026-01-01"}),
    (S3, {"bucketName": "lake", "path": ""}),
    (S3, {"bucketName": "lake", "path": "/a/%SEGMENT_NAME%/"}),
    (BLOB, {"container": "exports", "path": "a"}),
    (ADLS, {"path": "any thing = fine"}),
    (DLZ, {"path": "a"}),
    (GCS, {"bucketName": "lake_exports", "path": "a"}),
    (SFTP, {"remotePath": "/in/aep"}),
]


@pytest.mark.parametrize(("spec", "auth"), LOGINS)
def test_every_login_is_taken_and_masked(adobe: Caller, spec: str, auth: dict[str, Any] | None) -> None:
    base = adobe.base(spec=spec, auth=auth)

    found = adobe.item(f"/connections/{base}")
    assert found["connectionSpec"] == version(spec)
    for name, value in (auth or {"params": {}})["params"].items():
        secret = name in (
            "s3SecretKey connectionString servicePrincipalKey secretAccessKey password sshKey".split()  # noqa: SIM905
        )
        assert (found["auth"]["params"][name] == value) is not secret


@pytest.mark.parametrize(("spec", "params"), PLACES)
def test_every_place_is_taken(adobe: Caller, spec: str, params: dict[str, Any]) -> None:
    auth = next(auth for each, auth in LOGINS if each == spec)
    base = adobe.base(spec=spec, auth=auth)
    body = {"name": "t", "baseConnectionId": base, "connectionSpec": version(spec), "params": {**params, **FORMAT}}

    assert adobe.item(f"/targetConnections/{adobe.post('/targetConnections', body)}")["params"] == {**params, **FORMAT}


@pytest.mark.parametrize("auth", [{}, {"auth": None}])
def test_the_landing_zone_takes_no_login(adobe: Caller, auth: dict[str, Any]) -> None:
    adobe.base(spec=DLZ, **auth)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"name": None}, MISSING),
        ({"name": ""}, INVALID),
        ({"name": 7}, INVALID),
        ({"connectionSpec": None}, MISSING),
        ({"connectionSpec": {"id": S3}}, MISSING),
        ({"connectionSpec": {"version": "1.0"}}, MISSING),
        ({"connectionSpec": version("3567r537-2a7b-4583-ac39-ed38d4b848e8")}, NO_SPEC),
        ({"connectionSpec": {"id": S3, "version": "7.0"}}, NO_SPEC),
        ({"connectionSpec": version(DATA_LAKE)}, NO_AUTH),
        ({"auth": None}, MISSING),
        ({"auth": {"specName": "Access Key"}}, MISSING),
        ({"auth": login("Basic Authentication for sftp", username="u")}, NO_AUTH),
        ({"auth": login("access key", s3AccessKey="A" * 20, s3SecretKey="a" * 40)}, NO_AUTH),
        ({"auth": login("Access Key", s3AccessKey="A" * 20)}, INVALID),
        ({"auth": login("Access Key", accessId="A" * 20, secretKey="a" * 40)}, INVALID),
        ({"auth": login("Access Key", s3AccessKey="A1890" * 4, s3SecretKey="a" * 40)}, INVALID),
        ({"auth": login("Access Key", s3AccessKey="A" * 20 + "\n", s3SecretKey="a" * 40)}, INVALID),
        ({"auth": login("Access Key", s3AccessKey="A" * 20, s3SecretKey="a" * 39)}, INVALID),
        ({"auth": login("Assumed Role", s3Role="role/aep")}, INVALID),
        ({"connectionSpec": version(DLZ)}, NO_AUTH),
        ({"connectionSpec": version(SFTP), "auth": login("SFTP with Password", host="h", username="u")}, INVALID),
        (
            {
                "connectionSpec": version(SFTP),
                "auth": login("SFTP with SSH Key", domain="d", username="u", sshKey="no base64!"),
            },
            INVALID,
        ),
        (
            {
                "connectionSpec": version(SFTP),
                "auth": login("SFTP with SSH Key", domain="d", username="u", sshKey=""),
            },
            INVALID,
        ),
        (
            {
                "connectionSpec": version(SFTP),
                "auth": login("SFTP with Password", domain="d", username="u", password="p", port=0),
            },
            INVALID,
        ),
        ({"state": "disabled"}, "400 FLOW-1410-400"),
    ],
)
def test_base_connection_refused(adobe: Caller, change: dict[str, Any], expected: str) -> None:
    body = {"name": "b", "connectionSpec": version(S3), "auth": S3_LOGIN, **change}

    assert adobe.refused("POST", "/connections", body) == expected
    assert adobe.platform.creations == []


def test_a_secret_is_not_repeated_in_a_refusal(adobe: Caller) -> None:
    body = {
        "name": "b",
        "connectionSpec": version(S3),
        "auth": login("Access Key", s3AccessKey="A" * 20, s3SecretKey="planted secret"),
    }

    assert "planted" not in adobe.call("POST", "/connections", body).text


def test_a_bad_spec_id_is_worded_as_published(adobe: Caller) -> None:
    body = {"name": "b", "connectionSpec": version("nowhere")}

    assert adobe.call("POST", "/connections", body).json()["message"] == "Please provide a valid spec id"
    assert adobe.refused("POST", "/connections", {}) == "400 FLOW-1405-400"
    assert adobe.refused("POST", "/connections") == "400 FLOW-1405-400"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"name": None}, MISSING),
        ({"connectionSpec": version(S3)}, NO_SPEC),
        ({"params": None}, MISSING),
        ({"params": {"datasets": []}}, MISSING),
        ({"params": {"datasets": [{"name": "x"}]}}, MISSING),
        ({"params": {"datasets": [{"dataSetId": "616d53e0a6de2719486fb024"}]}}, "400 FLOW-1439-400"),
        ({"params": {"datasets": [{"dataSetId": PROFILES}, {"dataSetId": PROFILES}]}}, INVALID),
    ],
)
def test_source_connection_refused(adobe: Caller, change: dict[str, Any], expected: str) -> None:
    body = {
        "name": "s",
        "connectionSpec": version(DATA_LAKE),
        "params": {"datasets": [{"dataSetId": PROFILES}]},
        **change,
    }

    assert adobe.refused("POST", "/sourceConnections", body) == expected


def test_a_dataset_needs_no_name_and_data_may_be_given(adobe: Caller) -> None:
    params = {"datasets": [{"dataSetId": PROFILES}]}
    source = adobe.source(params=params, data={"format": "parquet"})

    found = adobe.item(f"/sourceConnections/{source}")
    assert found["params"] == params
    assert found["data"] == {"format": "parquet"}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"baseConnectionId": None}, MISSING),
        ({"baseConnectionId": "nowhere"}, "400 FLOW-1439-400"),
        ({"connectionSpec": version(DLZ)}, NO_SPEC),
        ({"params": None}, MISSING),
        ({"params": {}}, INVALID),
        ({"params": {**S3_PARAMS, "bucketName": "Lake"}}, INVALID),
        ({"params": {**S3_PARAMS, "bucketName": "10.0.0.1"}}, INVALID),
        ({"params": {**S3_PARAMS, "path": "a=b"}}, INVALID),
        ({"params": {**S3_PARAMS, "path": "a b"}}, INVALID),
        ({"params": {**S3_PARAMS, "path": "a/%DATASET_ID%"}}, INVALID),
        ({"params": {**S3_PARAMS, "path": "a\n"}}, INVALID),
        ({"params": {**S3_PARAMS, "datasetFileType": "json"}}, INVALID),
        ({"params": {**S3_PARAMS, "datasetFileType": "CSV"}}, INVALID),
        ({"params": {**S3_PARAMS, "compression": "NONE"}}, INVALID),
        ({"params": {**S3_PARAMS, "compression": "SNAPPY"}}, INVALID),
        ({"params": {name: S3_PARAMS[name] for name in S3_PARAMS if name != "compression"}}, INVALID),
        ({"params": {**S3_PARAMS, "includeFileManifest": "true"}}, INVALID),
    ],
)
def test_target_connection_refused(adobe: Caller, change: dict[str, Any], expected: str) -> None:
    body = {
        "name": "t",
        "baseConnectionId": adobe.base(),
        "connectionSpec": version(S3),
        "params": S3_PARAMS,
        **change,
    }

    assert adobe.refused("POST", "/targetConnections", body) == expected


def test_sftp_wants_remote_path_and_not_path(adobe: Caller) -> None:
    base = adobe.base(spec=SFTP, auth=LOGINS[6][1])
    body = {
        "name": "t",
        "baseConnectionId": base,
        "connectionSpec": version(SFTP),
        "params": {"path": "/in", **FORMAT},
    }

    reply = adobe.call("POST", "/targetConnections", body)

    assert reply.status_code == 400
    assert "remotePath" in reply.json()["errorMessage"]


@pytest.mark.parametrize("bucket", ["goog-lake", "my-google-lake", "g00gle", "my-g0ogle", "Lake", "ab"])
def test_gcs_bucket_names(adobe: Caller, bucket: str) -> None:
    base = adobe.base(spec=GCS, auth=LOGINS[5][1])
    params = {"bucketName": bucket, "path": "a", **FORMAT}
    body = {"name": "t", "baseConnectionId": base, "connectionSpec": version(GCS), "params": params}

    assert adobe.refused("POST", "/targetConnections", body) == INVALID


@pytest.mark.parametrize("container", ["a", "ab", "A23", "a--b", "-ab", "a" * 64])
def test_blob_container_names(adobe: Caller, container: str) -> None:
    base = adobe.base(spec=BLOB, auth=LOGINS[2][1])
    params = {"container": container, "path": "a", **FORMAT}
    body = {"name": "t", "baseConnectionId": base, "connectionSpec": version(BLOB), "params": params}

    assert adobe.refused("POST", "/targetConnections", body) == INVALID


def test_the_rules_of_2023_can_be_had(tmp_path: Path) -> None:
    adobe = Caller(tmp_path, seed_rules=True)

    flow = adobe.flow(params={"compression": "NONE"}, scheduleParams=hourly(24))

    assert adobe.item(f"/flows/{flow}")["scheduleParams"]["interval"] == 24


@pytest.mark.parametrize("interval", [3, 6, 9, 12, "3"])
def test_hours_that_adobe_offers(adobe: Caller, interval: int | str) -> None:
    flow = adobe.flow(scheduleParams=hourly(interval))

    assert adobe.item(f"/flows/{flow}")["scheduleParams"]["interval"] == int(interval)


def test_other_schedules_that_adobe_offers(adobe: Caller) -> None:
    for schedule in (
        once(),
        hourly(1, timeUnit="day"),
        {"interval": 3, "timeUnit": "hour", "startTime": int(START)},
        {"interval": "3", "frequency": "hour", "startTime": str(int(START))},
        hourly(endTime=int(START) + 9000),
        hourly(foldernameTemplate="%DESTINATION%_%DATASET_ID%_%DATETIME(YYYYMMdd_HHmmss)%"),
        hourly(folderNameTemplate="%DESTINATION_NAME%_%DATASET_ID%_%DATASET_NAME%_%DATETIME(YYYYMMdd_HHmmss)%"),
    ):
        adobe.flow(scheduleParams=schedule)


def test_the_end_defaults_to_half_a_year_and_is_told(adobe: Caller) -> None:
    flow = adobe.flow(scheduleParams=hourly())

    days = (adobe.item(f"/flows/{flow}")["scheduleParams"]["endTime"] - START) / 86_400
    assert 180 < days < 186


@pytest.mark.parametrize(
    "schedule",
    [
        None,
        {},
        "daily",
        hourly(5),
        hourly(8),
        hourly(1),
        hourly(24),
        hourly(0),
        hourly(2, timeUnit="day"),
        hourly(1, timeUnit="week"),
        hourly(0, timeUnit="day"),
        hourly(3, exportMode="DAILY_FULL_EXPORT"),
        once(interval=1),
        once(timeUnit="hour"),
        hourly(exportMode="ONCE"),
        hourly(3.0),
        hourly(True),
        hourly(startTime=int(START) * 1000),
        hourly(startTime=None),
        hourly(startTime="tomorrow"),
        hourly(interval=None),
        hourly(timeUnit=None),
        hourly(endTime=int(START) * 1000),
        hourly(endTime=int(START) + 600),
        hourly(foldernameTemplate="%NOW%"),
        hourly(foldernameTemplate=7),
    ],
)
def test_schedule_refused(adobe: Caller, schedule: Any) -> None:
    body = adobe.flow_body(adobe.source(), adobe.target(adobe.base()), scheduleParams=schedule)

    assert adobe.refused("POST", "/flows", body) == INVALID


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"name": None}, INVALID),
        ({"flowSpec": None}, INVALID),
        ({"flowSpec": {"id": S3_FLOW}}, INVALID),
        ({"flowSpec": version("nowhere")}, NO_SPEC),
        ({"flowSpec": version("95bd8965-fc8a-4119-b9c3-944c2c2df6d2")}, NO_SPEC),
        ({"flowSpec": version("1a0514a6-33d4-4c7f-aff8-594799c47549")}, NO_SPEC),
        ({"sourceConnectionIds": None}, INVALID),
        ({"sourceConnectionIds": []}, INVALID),
        ({"sourceConnectionIds": [""]}, "400 FLOW-1446-400"),
        ({"sourceConnectionIds": ["a", "b"]}, INVALID),
        ({"sourceConnectionIds": ["nowhere"]}, "400 FLOW-1439-400"),
        ({"targetConnectionIds": ["nowhere"]}, "400 FLOW-1439-400"),
        ({"transformations": {}}, "201"),
        ({"transformations": "x"}, INVALID),
        ({"state": "enabled"}, "400 FLOW-1410-400"),
    ],
)
def test_dataflow_refused(adobe: Caller, change: dict[str, Any], expected: str) -> None:
    body = adobe.flow_body(adobe.source(), adobe.target(adobe.base()), **change)

    if expected == "201":
        adobe.post("/flows", body)
    else:
        assert adobe.refused("POST", "/flows", body) == expected


def replace(path: str, value: Any) -> dict[str, Any]:
    return {"op": "replace", "path": path, "value": value}


def test_a_patch_needs_the_current_etag(adobe: Caller) -> None:
    base = adobe.base()
    path, body = f"/connections/{base}", [replace("/name", "x")]
    etag = adobe.item(path)["etag"]

    assert adobe.refused("PATCH", path, body) == "400 FLOW-1403-400"
    assert adobe.refused("PATCH", path, body, headers={"If-Match": '"other"'}) == "412 FLOW-1404-412"
    assert adobe.refused("PATCH", path, body, headers={"If-Match": etag.strip('"')}) == "412 FLOW-1404-412"
    reply = adobe.call("PATCH", path, body, headers={"if-match": etag})
    assert reply.json()["etag"] == adobe.item(path)["etag"] != etag
    assert adobe.refused("PATCH", path, body, headers={"If-Match": etag}) == "412 FLOW-1404-412"


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        ({"op": "move", "path": "/name", "value": "x"}, "400 FLOW-1434-400"),
        ({"op": "replace", "value": "x"}, "400 FLOW-1455-400"),
        ({"path": "/name", "value": "x"}, "400 FLOW-1455-400"),
        ({"op": "replace", "path": "/name"}, "400 FLOW-1455-400"),
        (replace("/name", ""), INVALID),
        ({"op": "remove", "path": "/name"}, "400 FLOW-1455-400"),
        (replace("/nothing", "x"), "400 FLOW-1411-400"),
        (replace("name", "x"), "400 FLOW-1411-400"),
        (replace("/id", "x"), "400 FLOW-1411-400"),
        (replace("/state", "disabled"), "400 FLOW-1456-400"),
        (replace("/scheduleParams", {}), "400 FLOW-1455-400"),
        (replace("/scheduleParams", hourly(5)), INVALID),
        (replace("/scheduleParams", hourly(startTime=int(START) * 1000)), INVALID),
        (replace("/sourceConnectionIds", ["nowhere"]), "400 FLOW-1439-400"),
        (replace("/sourceConnectionIds", []), "400 FLOW-1455-400"),
        ({"op": "remove", "path": "/scheduleParams/nothing"}, "400 FLOW-1455-400"),
    ],
)
def test_patch_of_a_dataflow_refused(adobe: Caller, operation: dict[str, Any], expected: str) -> None:
    path = f"/flows/{adobe.flow()}"
    before = adobe.item(path)

    assert adobe.refused("PATCH", path, [operation], headers={"If-Match": before["etag"]}) == expected
    assert adobe.item(path) == before


def test_an_empty_patch(adobe: Caller) -> None:
    path = f"/flows/{adobe.flow()}"
    headers = {"If-Match": adobe.item(path)["etag"]}

    assert adobe.refused("PATCH", path, [], headers=headers) == "400 FLOW-1405-400"
    assert adobe.refused("PATCH", path, headers=headers) == "400 FLOW-1405-400"
    assert adobe.refused("PATCH", path, replace("/name", "x"), headers=headers) == "400 FLOW-1455-400"


def test_the_operations_of_a_patch_in_any_case(adobe: Caller) -> None:
    path = f"/flows/{adobe.flow()}"

    reply = adobe.patch(
        path,
        {"op": "ADD", "path": "/description", "value": "d"},
        {"op": "Replace", "path": "/scheduleParams", "value": hourly(6)},
    )

    assert reply.status_code == 200
    found = adobe.item(path)
    assert (found["description"], found["scheduleParams"]["interval"]) == ("d", 6)
    assert found["lastOperation"]["operation"] == "update"
    assert len(found["lastOperation"]["ops"]) == 2


def test_a_schedule_is_replaced_and_not_merged(adobe: Caller) -> None:
    path = f"/flows/{adobe.flow(scheduleParams=hourly(foldernameTemplate='%DATASET_ID%'))}"

    assert adobe.patch(path, replace("/scheduleParams", {"startTime": int(START) + 9000})).status_code == 200

    assert adobe.item(path)["scheduleParams"].keys() == {"startTime", "endTime"}


def test_a_dataflow_gets_another_source(adobe: Caller) -> None:
    path, source = f"/flows/{adobe.flow()}", adobe.source(EVENTS, LOYALTY)

    assert adobe.patch(path, replace("/sourceConnectionIds", [source])).status_code == 200

    found = adobe.item(path)
    assert found["sourceConnectionIds"] == [source]
    assert found["inheritedAttributes"]["sourceConnections"][0]["id"] == source


def test_what_a_connection_cannot_change(adobe: Caller) -> None:
    base, source = adobe.base(), adobe.source()
    target = adobe.target(base)
    datasets = {"datasets": [{"dataSetId": EVENTS}]}

    for path, operation, expected in (
        (f"/connections/{base}", replace("/connectionSpec", version(DLZ)), "400 FLOW-1414-400"),
        (f"/connections/{base}", replace("/connectionSpec/id", DLZ), "400 FLOW-1414-400"),
        (f"/sourceConnections/{source}", replace("/params", datasets), "400 FLOW-1455-400"),
        (f"/targetConnections/{target}", replace("/params", {"bucketName": "b23", "path": "x"}), INVALID),
        (f"/targetConnections/{target}", {"op": "remove", "path": "/params/compression"}, INVALID),
        (f"/targetConnections/{target}", replace("/baseConnectionId", base), "400 FLOW-1411-400"),
    ):
        headers = {"If-Match": adobe.item(path)["etag"]}
        assert adobe.refused("PATCH", path, [operation], headers=headers) == expected


def test_what_a_connection_can_change(adobe: Caller) -> None:
    base = adobe.base()
    target = adobe.target(base)

    for path, operation in (
        (f"/connections/{base}/", replace("/auth/params", {"s3AccessKey": "B" * 20, "s3SecretKey": "b" * 40})),
        (f"/connections/{base}", {"op": "add", "path": "/auth/params/s3AccessKey", "value": "C" * 20}),
        (f"/targetConnections/{target}", replace("/params", {**S3_PARAMS, "path": "new"})),
        (f"/targetConnections/{target}", {"op": "add", "path": "/params/includeFileManifest", "value": True}),
        (f"/targetConnections/{target}", replace("/name", "new")),
    ):
        assert adobe.patch(path, operation).status_code == 200

    assert adobe.item(f"/connections/{base}")["auth"]["params"]["s3AccessKey"] == "C" * 20
    found = adobe.item(f"/targetConnections/{target}")
    assert found["params"] == {**S3_PARAMS, "path": "new", "includeFileManifest": True}


def test_a_login_can_only_be_replaced_by_a_right_one(adobe: Caller) -> None:
    path = f"/connections/{adobe.base()}"
    masked = adobe.item(path)["auth"]["params"]

    for value, expected in (
        ({"accessId": "x", "secretKey": "y"}, INVALID),
        ({"s3AccessKey": "B" * 20}, INVALID),
        (masked, "400 FLOW-1455-400"),
        ("x", "400 FLOW-1455-400"),
    ):
        headers = {"If-Match": adobe.item(path)["etag"]}
        assert adobe.refused("PATCH", path, [replace("/auth/params", value)], headers=headers) == expected
    assert adobe.patch(path, {"op": "remove", "path": "/auth/params"}).status_code == 200


def test_deletion_goes_from_the_dataflow_down(adobe: Caller) -> None:
    flow = adobe.flow()
    found = adobe.item(f"/flows/{flow}")
    source, target = found["sourceConnectionIds"][0], found["targetConnectionIds"][0]
    base = adobe.item(f"/targetConnections/{target}")["baseConnectionId"]

    assert adobe.refused("DELETE", f"/connections/{base}") == "400 FLOW-1418-400"
    assert adobe.refused("DELETE", f"/sourceConnections/{source}") == "400 FLOW-1447-400"
    assert adobe.refused("DELETE", f"/targetConnections/{target}") == "400 FLOW-1447-400"
    assert adobe.call("DELETE", f"/flows/{flow}").status_code == 202
    for path in (f"/connections/{base}", f"/targetConnections/{target}", f"/sourceConnections/{source}"):
        assert adobe.call("DELETE", path).status_code == 202
        assert adobe.refused("DELETE", path) == "404 FLOW-1439-404"
    assert all(one.deleted for one in adobe.platform.creations)


@pytest.mark.parametrize("operation", ["op=disable", "op=DISABLE", "op=DISABLE&subOp=APPLY"])
def test_a_dataflow_is_disabled_and_enabled(adobe: Caller, operation: str) -> None:
    path = f"/flows/{adobe.flow()}"
    etag = adobe.item(path)["etag"]

    reply = adobe.call("POST", f"{path}/action?{operation}", headers={"Content-Type": "application/json"})

    assert reply.status_code == 200
    assert adobe.item(path)["state"] == "disabled"
    assert adobe.item(path)["etag"] == reply.json()["etag"] != etag
    assert adobe.refused("POST", f"{path}/action?{operation}") == "400 FLOW-1422-400"
    assert adobe.refused("POST", f"{path}/action?op=enable", headers={"If-Match": etag}) == "412 FLOW-1404-412"
    assert adobe.call("POST", f"{path}/action?op=enable").status_code == 200
    assert adobe.item(path)["state"] == "enabled"


def test_actions_refused(adobe: Caller) -> None:
    path = f"/flows/{adobe.flow()}"

    assert adobe.refused("POST", f"{path}/action?op=stop") == "400 FLOW-1435-400"
    assert adobe.refused("POST", f"{path}/action") == "400 FLOW-1435-400"
    assert adobe.refused("POST", f"{path}/action?op=disable&subOp=PROGRESS") == "400 FLOW-1436-400"
    assert adobe.refused("POST", f"{path}/action?op=FINALIZE") == "400 FLOW-1402-400"
    assert adobe.refused("POST", f"/connections/{adobe.base()}/action?op=PUBLISH") == "400 FLOW-1402-400"
    assert adobe.refused("POST", "/flows/nowhere/action?op=enable") == "404 FLOW-1439-404"


def test_repeated_actions_may_be_taken(tmp_path: Path) -> None:
    adobe = Caller(tmp_path, repeated_actions=True)

    assert adobe.call("POST", f"/flows/{adobe.flow()}/action?op=enable").status_code == 200


def test_transitional_states_refuse_changes_for_a_moment(tmp_path: Path) -> None:
    adobe = Caller(tmp_path, settle_seconds=30)
    flow = adobe.flow()
    path = f"/flows/{flow}"
    base = adobe.get("/connections")["items"][0]["id"]
    headers = {"If-Match": adobe.item(path)["etag"]}

    assert adobe.item(path)["state"] == "initializing"
    assert adobe.refused("PATCH", path, [replace("/name", "x")], headers=headers) == "400 FLOW-1420-400"
    assert adobe.refused("POST", f"{path}/action?op=disable") == "400 FLOW-1421-400"
    assert adobe.refused("DELETE", path) == "400 FLOW-1421-400"
    assert adobe.refused("DELETE", f"/connections/{base}") == "400 FLOW-1417-400"
    adobe.clock.advance(31)
    assert adobe.item(path)["state"] == "enabled"
    assert adobe.call("POST", f"{path}/action?op=disable").status_code == 200
    assert adobe.item(path)["state"] == "disabling"
    adobe.clock.advance(31)
    assert adobe.item(path)["state"] == "disabled"


def test_a_deletion_may_take_its_time(tmp_path: Path) -> None:
    adobe = Caller(tmp_path, delete_seconds=30)
    path = f"/connections/{adobe.base()}"

    assert adobe.call("DELETE", path).status_code == 202
    assert adobe.item(path)["state"] == "delete-finalizing"
    assert adobe.refused("DELETE", path) == "400 FLOW-1458-400"
    headers = {"If-Match": adobe.item(path)["etag"]}
    assert adobe.refused("PATCH", path, [replace("/name", "x")], headers=headers) == "400 FLOW-1457-400"
    adobe.clock.advance(31)
    assert adobe.refused("GET", path) == "404 FLOW-1439-404"
