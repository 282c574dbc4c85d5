"""What an export needs beside Flow Service: ad hoc runs, the landing zone, the list of sandboxes, a look at schemas."""

from __future__ import annotations

from typing import Any

from airflow_provider_aep.emulator.call import Answer, Call
from airflow_provider_aep.emulator.errors import Refusal, flow_service, message, problem
from airflow_provider_aep.emulator.flowservice import BASE
from airflow_provider_aep.emulator.options import Options
from airflow_provider_aep.emulator.query import Entity, values_at
from airflow_provider_aep.emulator.runs import Runs
from airflow_provider_aep.emulator.specs import FLOW_SPECS
from airflow_provider_aep.emulator.store import Sandbox, Store

ADHOC = "/data/core/activation/disflowprovider/adhocrun"
LANDING_ZONE = "/data/foundation/connectors/landingzone"
SANDBOXES = "/data/foundation/sandbox-management"
SCHEMAS = "/data/foundation/schemaregistry"

_ADHOC_DATASETS = "adhoc.dataset.activation"
_ADHOC_AUDIENCES_V2 = "adhoc.activation+json"
_AUDIENCES_AT_ONCE = 80


class AdhocRuns:
    """Runs on request. The variant for audiences is in Adobe's OpenAPI; the one for datasets is known from aepp."""

    def __init__(self, runs: Runs, options: Options) -> None:
        self._runs, self._options = runs, options

    def answer(self, call: Call) -> Answer:
        if call.method != "POST":
            raise problem(405, "Method Not Allowed", f"{call.method} {ADHOC}")
        given = call.body.get("activationInfo") if isinstance(call.body, dict) else None
        if not isinstance(given, dict) or not given:
            raise message(400, "Invalid parameter: activationInfo is required")
        accept = call.headers.get("accept", "")
        if _ADHOC_DATASETS in accept:
            return Answer(200, {"destinations": self._datasets(call, given)})
        if _ADHOC_AUDIENCES_V2 not in accept and not call.body.get("exportIds"):
            raise message(400, "Invalid parameter: exportIds is required")
        return Answer(200, {"order": self._audiences(call, given)})

    def _datasets(self, call: Call, given: dict[str, Any]) -> list[dict[str, Any]]:
        asked: list[tuple[Entity, list[str]]] = []
        waiting = []
        destinations = given.get("destinations")
        for one in destinations if isinstance(destinations, list) else []:
            if not isinstance(one, dict) or not isinstance(one.get("datasets"), list) or not one["datasets"]:
                raise message(400, "Invalid parameter: each destination needs a flowId and datasets")
            flow = self._flow(call, str(one.get("flowId")))
            if not FLOW_SPECS[flow["flowSpec"]["id"]].datasets:
                spec = flow["flowSpec"]["id"]
                reason = f"Adhoc run can not be executed for Flow spec={spec}"
                raise message(400, f"Invalid parameter: Flow for id {flow['id']} is incorrect. Error is [{reason}]")
            ids = [str(dataset.get("id")) if isinstance(dataset, dict) else "" for dataset in one["datasets"]]
            self._check_datasets(call, flow, ids)
            if call.now - flow["createdAt"] / 1000 < self._options.adhoc_ready_seconds:
                waiting.append(flow["id"])
            asked.append((flow, ids))
        if not asked:
            raise message(400, "Invalid parameter: destinations is required")
        if waiting:
            raise message(
                400,
                "Invalid parameter: Following order ID(s) are not ready for dataset export, please wait for 10 minutes"
                f" and retry. {waiting}",
            )
        return [self._start(call, flow, ids) for flow, ids in asked]

    def _check_datasets(self, call: Call, flow: Entity, dataset_ids: list[str]) -> None:
        if flow["state"] != "enabled":
            raise message(400, f"Invalid parameter: order {flow['id']} is not enabled")
        source = call.collection("sourceConnections").get(flow["sourceConnectionIds"][0])
        known = {one["dataSetId"] for one in source["params"]["datasets"]}
        for dataset_id in dataset_ids:
            if dataset_id not in known:
                raise message(400, f"Invalid parameter: dataset {dataset_id} is not part of order {flow['id']}")
            for plan in self._runs.run_plans.values():
                if plan.flow_id == flow["id"] and dataset_id in plan.dataset_ids:
                    raise message(
                        400,
                        f"Invalid parameter: Run already exists for dataset {dataset_id} for order {flow['id']}"
                        f" with run id {plan.run_id}",
                    )

    def _start(self, call: Call, flow: Entity, dataset_ids: list[str]) -> dict[str, Any]:
        run = self._runs.create(flow, call.now, dataset_ids=dataset_ids)
        return {
            "datasets": [{"id": one, "statusURL": _status_url(call, run), "flowId": flow["id"]} for one in dataset_ids]
        }

    def _audiences(self, call: Call, given: dict[str, Any]) -> list[dict[str, Any]]:
        asked: list[tuple[Entity, str]] = []
        for flow_id, audience_ids in given.items():
            flow = self._flow(call, flow_id)
            mapped = {str(one) for one in values_at(flow, "transformations.params.segmentSelectors.selectors.value.id")}
            if not isinstance(audience_ids, list) or not audience_ids:
                raise message(400, f"Invalid parameter: audiences of order {flow_id} are expected")
            missing = [str(one) for one in audience_ids if str(one) not in mapped]
            if missing:
                text = f"Segments {', '.join(missing)} are not part of this dataflow or out of schedule range!"
                raise message(400, text)
            for plan in self._runs.run_plans.values():
                if plan.flow_id == flow_id:
                    raise message(
                        400,
                        f"Run already going on for audience {audience_ids[0]} for order {flow_id}"
                        f" with run id {plan.run_id}",
                    )
            asked += [(flow, str(one)) for one in audience_ids]
        if len(asked) > _AUDIENCES_AT_ONCE:
            raise message(400, f"Invalid parameter: at most {_AUDIENCES_AT_ONCE} audiences at once")
        return [
            {
                "segment": audience,
                "order": flow["id"],
                "statusURL": _status_url(call, self._runs.create(flow, call.now)),
            }
            for flow, audience in asked
        ]

    def _flow(self, call: Call, flow_id: str) -> Entity:
        try:
            return call.collection("flows").get(flow_id)
        except Refusal:
            raise message(404, f"Invalid parameter: order {flow_id} not found") from None


def _status_url(call: Call, run: Entity) -> str:
    return f"{call.origin}{BASE}/runs/{run['id']}"


class LandingZone:
    """The container of a sandbox, and how to get into it.

    Source: catalogue page "Data Landing Zone destination".
    """

    def __init__(self, options: Options) -> None:
        self._aws = options.landing_zone == "aws"
        self._renewals = 0

    def answer(self, call: Call) -> Answer:
        given = dict(call.pairs)
        zone = given.get("type", "user_drop_zone")
        if zone not in ("dlz_destination", "user_drop_zone"):
            raise problem(400, "Bad Request", f"type={zone}: dlz_destination or user_drop_zone is expected")
        container = "dlz-destination" if zone == "dlz_destination" else "dlz-user-container"
        match call.method, call.steps:
            case "GET", ():
                return Answer(200, self._zone(call, container))
            case "GET", ("credentials",):
                return Answer(200, self._credentials(call, container))
            case "POST", ("credentials",) if given.get("action") == "refresh":
                self._renewals += 1
                return Answer(200, self._credentials(call, container))
        raise problem(404, "Not Found", f"{call.method} {LANDING_ZONE}/{'/'.join(call.steps)}")

    def _folder(self, call: Call, container: str) -> dict[str, Any]:
        return {"bucketName": "dlz-emulated-bucket", "dlzFolder": f"{container}-{call.sandbox.id}"}

    def _zone(self, call: Call, container: str) -> dict[str, Any]:
        if self._aws:
            ttl = {"timeUnit": "days", "timeQuantity": 7}
            return {"dlzPath": self._folder(call, container), "dataTTL": ttl, "dlzProvider": "Amazon S3"}
        return {"containerName": container, "containerTTL": "7"}

    def _credentials(self, call: Call, container: str) -> dict[str, Any]:
        if self._aws:
            return {
                "credentials": {
                    "awsAccessKeyId": "ASIAEMULATEDKEYABCDE",
                    "awsSecretAccessKey": f"emulated{self._renewals}",
                    "awsSessionToken": f"emulated-session-{self._renewals}",
                },
                "dlzPath": self._folder(call, container),
                "dlzProvider": "Amazon S3",
                "expiryTime": int(call.now) + 3600,
            }
        account = f"emulated{call.sandbox.id[:8]}"
        sas = f"sv=2020-04-08&si={container}-policy&sr=c&sp=racwdlm&sig=emulated{self._renewals}"
        return {
            "containerName": container,
            "SASToken": sas,
            "storageAccountName": account,
            "SASUri": f"https://{account}.blob.core.windows.net/{container}?{sas}",
        }


def sandbox_list(steps: tuple[str, ...], method: str, store: Store) -> Answer:
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
            return Answer(200, {"sandboxes": found, "_page": {"limit": 50, "count": len(found)}, "_links": links})
        case ("sandboxes", name) if name in store.sandboxes:
            return Answer(200, _sandbox(store.sandboxes[name], admin=True))
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


def schema_classes(call: Call) -> Answer:
    """GET …/schemaregistry/global/classes: what Adobe's guides call to check a credential."""
    if call.method != "GET" or call.steps != ("global", "classes"):
        raise problem(404, "Not Found", f"{SCHEMAS}/{'/'.join(call.steps)}")
    if "application/vnd.adobe.xed" not in call.headers.get("accept", ""):
        raise flow_service(1452, 400, "Accept: application/vnd.adobe.xed-id+json is expected")
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
    return Answer(200, {"results": found, "_page": {"orderby": "updated", "next": None, "count": len(found)}})
