"""What stands beside Flow Service: tokens, ad hoc runs, the landing zone, sandboxes and schemas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from airflow_provider_aep.emulator import CLIENT_ID
from tests.adobe.caller import (
    DLZ,
    EVENTS,
    LOYALTY,
    PROFILES,
    S3_FLOW,
    SCOPE,
    START,
    TOKEN_FORM,
    Caller,
    hourly,
    version,
)

TOKEN = "https://ims-na1.adobelogin.com/ims/token/v3"
ADHOC = "/data/core/activation/disflowprovider/adhocrun"
ZONE = "/data/foundation/connectors/landingzone"
SANDBOXES = "/data/foundation/sandbox-management"
FOR_DATASETS = {"Accept": "application/vnd.adobe.adhoc.dataset.activation+json; version=1"}


@pytest.fixture
def adobe(tmp_path: Path) -> Caller:
    return Caller(tmp_path)


def works(adobe: Caller, reply: httpx.Response) -> bool:
    headers = {"Authorization": f"Bearer {reply.json()['access_token']}"}
    return adobe.call("GET", "/flows", headers=headers).status_code == 200


@pytest.mark.parametrize("version", ["v2", "v3"])
def test_a_token_by_form_query_or_multipart(adobe: Caller, version: str) -> None:
    url = f"https://ims-na1.adobelogin.com/ims/token/{version}"

    for reply in (
        adobe.http.post(url, data=TOKEN_FORM),
        adobe.http.post(f"{url}/", data=TOKEN_FORM),
        adobe.http.post(url, params=TOKEN_FORM),
        adobe.http.post(url, files={name: (None, value) for name, value in TOKEN_FORM.items()}),
    ):
        assert reply.status_code == 200, reply.text
        assert reply.json()["token_type"] == "bearer"
        assert reply.json()["expires_in"] == 86_399
        assert works(adobe, reply)
    assert adobe.http.get(url).status_code == 405


def test_credentials_of_old_kinds_are_not_served(adobe: Caller) -> None:
    reply = adobe.http.post("https://ims-na1.adobelogin.com/ims/exchange/jwt/", data={"jwt_token": "x"})

    assert (reply.status_code, reply.json()["error"]) == (400, "invalid_request")


@pytest.mark.parametrize("scope", [SCOPE, SCOPE.replace(",", ", "), SCOPE.replace(",", " "), "openid"])
def test_scopes_in_print_have_blanks(adobe: Caller, scope: str) -> None:
    assert works(adobe, adobe.http.post(TOKEN, data=TOKEN_FORM | {"scope": scope}))


@pytest.mark.parametrize(
    ("change", "status", "error"),
    [
        ({"client_id": "other"}, 400, "invalid_client"),
        ({"client_secret": "other"}, 401, "invalid_client"),
        ({"client_secret": ""}, 400, "invalid_request"),
        ({"grant_type": "authorization_code"}, 400, "unsupported_grant_type"),
        ({"grant_type": ""}, 400, "invalid_request"),
        ({"scope": ""}, 400, "invalid_scope"),
        ({"scope": "openid,everything"}, 400, "invalid_scope"),
    ],
)
def test_a_token_refused(adobe: Caller, change: dict[str, str], status: int, error: str) -> None:
    reply = adobe.http.post(TOKEN, data=TOKEN_FORM | change)

    assert (reply.status_code, reply.json()["error"]) == (status, error)
    assert reply.json()["error_description"]
    assert TOKEN_FORM["client_secret"] not in reply.text


def test_two_secrets_while_one_is_replaced(tmp_path: Path) -> None:
    adobe = Caller(tmp_path, client_secrets=(TOKEN_FORM["client_secret"], "new"))

    assert works(adobe, adobe.http.post(TOKEN, data=TOKEN_FORM | {"client_secret": "new"}))


def test_tokens_end(tmp_path: Path) -> None:
    adobe = Caller(tmp_path)
    adobe.clock.advance(10 * 86_400)  # emulated days do not age a token
    assert adobe.call("GET", "/flows").status_code == 200
    adobe.platform.expire_tokens()
    assert adobe.refused("GET", "/flows") == "401 401013"
    adobe.log_in()
    assert adobe.call("GET", "/flows").status_code == 200

    assert Caller(tmp_path, token_seconds=0).refused("GET", "/flows") == "401 401013"


def adhoc(adobe: Caller, flow: str, *datasets: str, headers: dict[str, str] | None = None) -> httpx.Response:
    destinations = [{"flowId": flow, "datasets": [{"id": one} for one in datasets]}]
    body = {"activationInfo": {"destinations": destinations}}
    return adobe.call("POST", ADHOC, body, headers=headers or FOR_DATASETS)


@pytest.fixture
def dormant(adobe: Caller) -> str:
    """A dataflow whose schedule starts in a year, ten minutes old: what ad hoc users make."""
    flow = adobe.flow(LOYALTY, EVENTS, scheduleParams=hourly(1, timeUnit="day", start=START + 365 * 86_400))
    adobe.clock.advance(600)
    return flow


def test_an_ad_hoc_run(adobe: Caller, dormant: str) -> None:
    reply = adhoc(adobe, dormant, LOYALTY)

    assert reply.status_code == 200
    told = reply.json()["destinations"][0]["datasets"][0]
    assert (told["id"], told["flowId"]) == (LOYALTY, dormant)
    assert told["statusURL"].startswith("https://platform.adobe.io/data/foundation/flowservice/runs/")
    adobe.clock.advance(130)
    run = adobe.get(told["statusURL"])["items"][0]
    assert run["metrics"]["statusSummary"]["status"] == "success"
    assert run["metrics"]["recordSummary"]["outputRecordCount"] == 1100


def test_a_new_dataflow_is_not_ready_for_ad_hoc_runs(adobe: Caller) -> None:
    flow = adobe.flow(LOYALTY)
    adobe.clock.advance(599)

    reply = adhoc(adobe, flow, LOYALTY)

    assert reply.status_code == 400
    assert (
        "Following order ID(s) are not ready for dataset export, please wait for 10 minutes" in reply.json()["message"]
    )
    adobe.clock.advance(1)
    assert adhoc(adobe, flow, LOYALTY).status_code == 200


def test_one_ad_hoc_run_at_a_time(adobe: Caller, dormant: str) -> None:
    first = adhoc(adobe, dormant, LOYALTY).json()["destinations"][0]["datasets"][0]["statusURL"].rpartition("/")[2]

    refusal = adhoc(adobe, dormant, EVENTS, LOYALTY)

    assert refusal.status_code == 400
    assert "Run already exists" in refusal.json()["message"]
    assert first in refusal.json()["message"]
    assert adhoc(adobe, dormant, EVENTS).status_code == 200
    adobe.clock.advance(600)
    assert adhoc(adobe, dormant, LOYALTY).status_code == 200


def test_ad_hoc_runs_take_part_in_the_increments(tmp_path: Path) -> None:
    adobe = Caller(tmp_path, arrivals=10)
    flow = adobe.flow(LOYALTY, scheduleParams=hourly(3, start=START + 7200))
    adobe.clock.advance(3600)
    adhoc(adobe, flow, LOYALTY)
    adobe.clock.advance(2 * 3600)

    assert [run["metrics"]["recordSummary"]["outputRecordCount"] for run in adobe.runs(flow)] == [1110, 10]


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (None, 400, "activationInfo"),
        ({"activationInfo": {}}, 400, "activationInfo"),
        ({"activationInfo": {"destinations": []}}, 400, "destinations"),
        ({"activationInfo": {"destinations": "x"}}, 400, "destinations"),
        ({"activationInfo": {"destinations": [{"flowId": "nowhere", "datasets": [{"id": "x"}]}]}}, 404, "nowhere"),
        ({"activationInfo": {"destinations": [{"flowId": "{flow}", "datasets": []}]}}, 400, "datasets"),
        ({"activationInfo": {"destinations": [{"flowId": "{flow}", "datasets": [{"id": PROFILES}]}]}}, 400, PROFILES),
    ],
)
def test_an_ad_hoc_run_refused(adobe: Caller, dormant: str, body: Any, status: int, words: str) -> None:
    if body and body["activationInfo"].get("destinations"):
        for one in body["activationInfo"]["destinations"]:
            if isinstance(one, dict) and one["flowId"] == "{flow}":
                one["flowId"] = dormant

    reply = adobe.call("POST", ADHOC, body, headers=FOR_DATASETS)

    assert reply.status_code == status
    assert words in reply.json()["message"]


def test_a_disabled_dataflow_takes_no_ad_hoc_run(adobe: Caller, dormant: str) -> None:
    adobe.call("POST", f"/flows/{dormant}/action?op=disable")

    assert adhoc(adobe, dormant, LOYALTY).status_code == 400


def test_a_storage_that_is_not_allow_listed(tmp_path: Path) -> None:
    adobe = Caller(tmp_path, adhoc_allowed=False)
    flow = adobe.flow(LOYALTY)
    reply = adhoc(adobe, flow, LOYALTY)
    words = f"Flow for id {flow} is incorrect. Error is [Adhoc run can not be executed for Flow spec={S3_FLOW}]"
    assert (reply.status_code, reply.json()["message"]) == (400, f"Invalid parameter: {words}")


def test_without_its_accept_header_an_ad_hoc_run_is_taken_for_one_of_audiences(adobe: Caller, dormant: str) -> None:
    reply = adhoc(adobe, dormant, LOYALTY, headers={"Accept": "application/json"})

    assert (reply.status_code, reply.json()["message"]) == (400, "Invalid parameter: exportIds is required")


def test_the_landing_zone_on_azure(adobe: Caller) -> None:
    assert adobe.get(f"{ZONE}?type=dlz_destination") == {"containerName": "dlz-destination", "containerTTL": "7"}
    found = adobe.get(f"{ZONE}/credentials?type=dlz_destination")
    assert found.keys() == {"containerName", "SASToken", "storageAccountName", "SASUri"}
    assert found["SASUri"].endswith(f"/dlz-destination?{found['SASToken']}")
    fresh = adobe.call("POST", f"{ZONE}/credentials?type=dlz_destination&action=refresh").json()
    assert fresh["SASToken"] != found["SASToken"]
    assert adobe.get(f"{ZONE}/credentials?type=dlz_destination") == fresh
    assert adobe.get(ZONE)["containerName"] != "dlz-destination"
    assert adobe.call("GET", f"{ZONE}?type=other").status_code == 400
    assert adobe.call("POST", f"{ZONE}/credentials").status_code == 404


def test_the_landing_zone_on_aws(tmp_path: Path) -> None:
    adobe = Caller(tmp_path, landing_zone="aws")

    assert adobe.get(f"{ZONE}?type=dlz_destination").keys() >= {"dlzPath", "dataTTL"}
    found = adobe.get(f"{ZONE}/credentials?type=dlz_destination")
    assert found["credentials"].keys() == {"awsAccessKeyId", "awsSecretAccessKey", "awsSessionToken"}
    assert found["dlzPath"].keys() == {"bucketName", "dlzFolder"}
    assert START < found["expiryTime"] < START + 86_400


def test_an_export_to_the_landing_zone(adobe: Caller, tmp_path: Path) -> None:
    base = adobe.base(spec=DLZ)
    params = {"path": "daily", "datasetFileType": "JSON", "compression": "GZIP"}
    body = {"name": "t", "baseConnectionId": base, "connectionSpec": version(DLZ), "params": params}
    target = adobe.post("/targetConnections", body)
    flow = adobe.flow_body(
        adobe.source(LOYALTY),
        target,
        flowSpec=version("cd2fc47e-e838-4f38-a581-8fff2f99b63a"),
        scheduleParams=hourly(start=START),
    )
    adobe.post("/flows", flow)
    adobe.clock.advance(600)
    adobe.platform.tick()

    assert list((tmp_path / "data_landing_zone" / "dlz-destination" / "daily" / LOYALTY).rglob("*.json.gz"))


def test_sandboxes(adobe: Caller) -> None:
    del adobe.http.headers["x-sandbox-name"]  # this service does without

    found = adobe.get(f"{SANDBOXES}/")
    assert [(one["name"], one["type"], one["isDefault"]) for one in found["sandboxes"]] == [
        ("prod", "production", True),
        ("dev", "development", False),
    ]
    assert {"state", "title", "region", "etag"} <= found["sandboxes"][0].keys()
    assert found["_page"]["count"] == 2
    of_admins = adobe.get(f"{SANDBOXES}/sandboxes")["sandboxes"]
    assert adobe.get(f"{SANDBOXES}/sandboxes/prod") == of_admins[0]
    adobe.http.headers.update({"x-sandbox-name": "prod", "x-sandbox-id": of_admins[0]["id"]})
    assert adobe.call("GET", "/flows").status_code == 200
    assert adobe.call("GET", f"{SANDBOXES}/sandboxes/nowhere").status_code == 404


def test_schema_classes_for_a_look_at_the_credential(adobe: Caller) -> None:
    path = "/data/foundation/schemaregistry/global/classes"

    found = adobe.get(path, headers={"Accept": "application/vnd.adobe.xed-id+json"})
    assert found["results"][0]["$id"].startswith("https://ns.adobe.com/xdm/")
    assert adobe.call("GET", path).status_code == 400


def test_the_client_id_is_the_api_key(adobe: Caller) -> None:
    assert adobe.http.headers["x-api-key"] == CLIENT_ID == adobe.item(f"/connections/{adobe.base()}")["createdClient"]
