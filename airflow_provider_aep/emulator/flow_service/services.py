"""Adobe's services beside Flow Service: the landing zone, the list of sandboxes, the classes of schemas."""

from __future__ import annotations

from typing import Any

from airflow_provider_aep.emulator.errors import flow_error, problem
from airflow_provider_aep.emulator.flow_service.request import ApiRequest, ApiResponse
from airflow_provider_aep.emulator.flow_service.store import Sandbox, Store
from airflow_provider_aep.emulator.options import Options

LANDING_ZONE = "/data/foundation/connectors/landingzone"
SANDBOXES = "/data/foundation/sandbox-management"
SCHEMAS = "/data/foundation/schemaregistry"


class LandingZone:
    """The container of a sandbox, and how to get into it.

    Source: catalogue page "Data Landing Zone destination".
    """

    def __init__(self, options: Options) -> None:
        self._aws = options.landing_zone == "aws"
        self._renewals = 0

    def answer(self, request: ApiRequest) -> ApiResponse:
        given = dict(request.pairs)
        zone = given.get("type", "user_drop_zone")
        if zone not in ("dlz_destination", "user_drop_zone"):
            raise problem(400, "Bad Request", f"type={zone}: dlz_destination or user_drop_zone is expected")
        container = "dlz-destination" if zone == "dlz_destination" else "dlz-user-container"
        match request.method, request.steps:
            case "GET", ():
                return ApiResponse(200, self._zone(request, container))
            case "GET", ("credentials",):
                return ApiResponse(200, self._credentials(request, container))
            case "POST", ("credentials",) if given.get("action") == "refresh":
                self._renewals += 1
                return ApiResponse(200, self._credentials(request, container))
        raise problem(404, "Not Found", f"{request.method} {LANDING_ZONE}/{'/'.join(request.steps)}")

    def _folder(self, request: ApiRequest, container: str) -> dict[str, Any]:
        return {"bucketName": "dlz-emulated-bucket", "dlzFolder": f"{container}-{request.sandbox.id}"}

    def _zone(self, request: ApiRequest, container: str) -> dict[str, Any]:
        if self._aws:
            ttl = {"timeUnit": "days", "timeQuantity": 7}
            return {"dlzPath": self._folder(request, container), "dataTTL": ttl, "dlzProvider": "Amazon S3"}
        return {"containerName": container, "containerTTL": "7"}

    def _credentials(self, request: ApiRequest, container: str) -> dict[str, Any]:
        if self._aws:
            return {
                "credentials": {
                    "awsAccessKeyId": "ASIAEMULATEDKEYABCDE",
                    "awsSecretAccessKey": f"emulated{self._renewals}",
                    "awsSessionToken": f"emulated-session-{self._renewals}",
                },
                "dlzPath": self._folder(request, container),
                "dlzProvider": "Amazon S3",
                "expiryTime": int(request.now) + 3600,
            }
        account = f"emulated{request.sandbox.id[:8]}"
        sas = f"sv=2020-04-08&si={container}-policy&sr=c&sp=racwdlm&sig=emulated{self._renewals}"
        return {
            "containerName": container,
            "SASToken": sas,
            "storageAccountName": account,
            "SASUri": f"https://{account}.blob.core.windows.net/{container}?{sas}",
        }


def sandbox_list(steps: tuple[str, ...], method: str, store: Store) -> ApiResponse:
    """GET /data/foundation/sandbox-management/: the sandboxes that the caller may use.

    Source: Adobe's Sandbox API.
    """
    if method != "GET":
        raise problem(405, "Method Not Allowed", f"{method} {SANDBOXES}")
    match steps:
        case () | ("sandboxes",):
            admin = bool(steps)
            found = [_sandbox(one, admin=admin) for one in store.sandboxes.values()]
            links = {
                "next": {"href": "", "templated": None},
                "page": {"href": f"{SANDBOXES}/?limit={{limit}}", "templated": True},
            }
            return ApiResponse(200, {"sandboxes": found, "_page": {"limit": 50, "count": len(found)}, "_links": links})
        case ("sandboxes", name) if name in store.sandboxes:
            return ApiResponse(200, _sandbox(store.sandboxes[name], admin=True))
    raise problem(404, "Not Found", f"{SANDBOXES}/{'/'.join(steps)}")


def _sandbox(sandbox: Sandbox, *, admin: bool) -> dict[str, Any]:
    first = sandbox.name == "prod"
    return {
        **({"id": sandbox.id} if admin else {}),
        "name": sandbox.name,
        "title": sandbox.name.title(),
        "state": "active",
        "type": "production" if first else "development",
        "region": "VA7",
        "isDefault": first,
        "etag": 2,
        "createdDate": "2020-01-01 00:00:00",
        "lastModifiedDate": "2020-01-01 00:00:00",
        "createdBy": "0A4334FA556585B77F000101@AdobeID",
        "modifiedBy": "0A4334FA556585B77F000101@AdobeID",
    }


def schema_classes(request: ApiRequest) -> ApiResponse:
    """GET …/schemaregistry/global/classes: what Adobe's guides call to check a credential."""
    if request.method != "GET" or request.steps != ("global", "classes"):
        raise problem(404, "Not Found", f"{SCHEMAS}/{'/'.join(request.steps)}")
    if "application/vnd.adobe.xed" not in request.headers.get("accept", ""):
        raise flow_error(1452, 400, "Accept: application/vnd.adobe.xed-id+json is expected")
    found = [
        {
            "$id": f"https://ns.adobe.com/xdm/{one}",
            "meta:altId": f"_xdm.{one.replace('/', '.')}",
            "title": title,
            "version": "1",
        }
        for one, title in (
            ("context/profile", "XDM Individual Profile"),
            ("context/experienceevent", "XDM ExperienceEvent"),
        )
    ]
    return ApiResponse(200, {"results": found, "_page": {"orderby": "updated", "next": None, "count": len(found)}})
