"""A bare HTTP caller for the emulator's tests: it knows Adobe's addresses and headers, and nothing of our client."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx

from airflow_provider_aep.emulator import CLIENT_ID, CLIENT_SECRET, ORG_ID, Clock
from airflow_provider_aep.emulator.http.steering import SteeredPlatform

FLOW_SERVICE = "/data/foundation/flowservice"
START = 1_800_000_000.0  # 2027-01-15T08:00:00Z
DATA_LAKE = "23598e46-f560-407b-88d5-ea6207e49db0"
S3, S3_FLOW = "4fce964d-3f37-408f-9778-e597338a21ee", "269ba276-16fc-47db-92b0-c1049a3c131f"
DLZ, DLZ_FLOW = "10440537-2a7b-4583-ac39-ed38d4b848e8", "cd2fc47e-e838-4f38-a581-8fff2f99b63a"
PROFILES, EVENTS, LOYALTY = "5ef3e3259ad2a1191ab7dd7d", "5f1a2c7b8e4d91194b6f0a21", "5f1a2d1e7c4f86194d2e0f21"
S3_PARAMS = {
    "mode": "Server-to-server",
    "bucketName": "lake",
    "path": "a/b",
    "datasetFileType": "JSON",
    "compression": "GZIP",
}
S3_LOGIN = {"specName": "Access Key", "params": {"s3AccessKey": "A" * 20, "s3SecretKey": "a" * 40}}
SCOPE = "openid,session,AdobeID,read_organizations,additional_info.projectedProductContext"
TOKEN_FORM = {
    "grant_type": "client_credentials",
    "client_id": CLIENT_ID,
    "client_secret": CLIENT_SECRET,
    "scope": SCOPE,
}
HEADERS = {"x-api-key": CLIENT_ID, "x-gw-ims-org-id": ORG_ID, "x-sandbox-name": "prod"}


class Caller:
    """An emulator in this process and a caller with a token; emulated time stands still until moved."""

    def __init__(self, data: Path, **options: Any) -> None:
        self.clock = options.pop("clock", None) or Clock(speed=0, start=START)
        self.platform = SteeredPlatform(data=data, clock=self.clock, **options)
        self.http = httpx.Client(
            transport=httpx.MockTransport(self.platform.respond), base_url="https://platform.adobe.io", headers=HEADERS
        )
        self.log_in()

    def log_in(self) -> None:
        reply = self.http.post("https://ims-na1.adobelogin.com/ims/token/v3", data=TOKEN_FORM)
        self.http.headers["Authorization"] = f"Bearer {reply.json()['access_token']}"

    def call(self, method: str, path: str, body: Any = None, **more: Any) -> httpx.Response:
        """A call to Flow Service, or to a full path under /data."""
        url = path if path.startswith(("/data", "http", "/_emulator")) else FLOW_SERVICE + path
        return self.http.request(method, url, **({} if body is None else {"json": body}), **more)

    def get(self, path: str, **more: Any) -> Any:
        reply = self.call("GET", path, **more)
        assert reply.status_code == 200, reply.text
        return reply.json()

    def item(self, path: str) -> Any:
        return self.get(path)["items"][0]

    def post(self, path: str, body: Any = None) -> str:
        reply = self.call("POST", path, body)
        assert reply.status_code == 201, reply.text
        return str(reply.json()["id"])

    def patch(self, path: str, *operations: dict[str, Any], etag: str | None = None) -> httpx.Response:
        """A PATCH with the entity's current etag, or the given one."""
        etag = etag or self.item(path)["etag"]
        return self.call("PATCH", path, list(operations), headers={"If-Match": etag})

    def base(self, name: str = "base", spec: str = S3, **members: Any) -> str:
        login: dict[str, Any] = {"auth": S3_LOGIN} if spec == S3 else {}
        return self.post("/connections", {"name": name, "connectionSpec": version(spec), **login, **members})

    def source(self, *datasets: str, name: str = "source", **members: Any) -> str:
        listed = [{"dataSetId": one, "name": "x"} for one in datasets or (PROFILES,)]
        body = {"name": name, "connectionSpec": version(DATA_LAKE), "params": {"datasets": listed}, **members}
        return self.post("/sourceConnections", body)

    def target(self, base: str, spec: str = S3, name: str = "target", **params: Any) -> str:
        body = {"name": name, "baseConnectionId": base, "connectionSpec": version(spec), "params": S3_PARAMS | params}
        return self.post("/targetConnections", body)

    def flow_body(self, source: str, target: str, name: str = "flow", **members: Any) -> dict[str, Any]:
        return {
            "name": name,
            "flowSpec": version(S3_FLOW),
            "sourceConnectionIds": [source],
            "targetConnectionIds": [target],
            "transformations": [],
            "scheduleParams": hourly(),
            **members,
        }

    def flow(self, *datasets: str, name: str = "flow", params: dict[str, Any] | None = None, **members: Any) -> str:
        """A whole export to Amazon S3; gives the dataflow's ID."""
        target = self.target(self.base(), **(params or {}))
        return self.post("/flows", self.flow_body(self.source(*datasets), target, name, **members))

    def runs(self, flow: str) -> list[dict[str, Any]]:
        """The runs of a dataflow, oldest first."""
        found = self.get("/runs", params={"property": f"flowId=={flow}", "orderby": "createdAt", "limit": 100})["items"]
        assert isinstance(found, list)
        return found

    def refused(self, method: str, path: str, body: Any = None, **more: Any) -> str:
        """The status and code of a refusal, as "400 FLOW-1413-400" or "401 401013"."""
        reply = self.call(method, path, body, **more)
        assert reply.status_code >= 400, reply.text
        assert reply.headers["x-request-id"]
        found = reply.json()
        if "report" in found:
            assert reply.headers["x-request-id"] == found["report"]["request-id"]
        code = found.get("error_code") or found.get("type", "").rpartition("/")[2] or "-"
        return f"{reply.status_code} {code}"


def version(spec_id: str) -> dict[str, str]:
    return {"id": spec_id, "version": "1.0"}


def hourly(interval: Any = 3, start: float = START + 600, **members: Any) -> dict[str, Any]:
    found = {
        "exportMode": "FIRST_FULL_THEN_INCREMENTAL",
        "interval": interval,
        "timeUnit": "hour",
        "startTime": int(start),
    }
    return {**found, **members}


def once(start: float = START + 600, **members: Any) -> dict[str, Any]:
    return {"exportMode": "DAILY_FULL_EXPORT", "interval": 0, "timeUnit": "day", "startTime": int(start), **members}
