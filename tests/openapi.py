"""An Adobe made from its OpenAPI documents alone: it knows nothing else, and refuses what they do not allow.

It imports nothing of the package, neither client nor emulator. Where the documents contradict themselves or lack
something, `AMENDMENTS` says so, one by one, with what shows it.
"""

from __future__ import annotations

import copy
import functools
import json
import operator as op
import re
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlencode

import httpx
from jsonschema import Draft4Validator  # type: ignore[import-untyped]  # the dialect of OpenAPI 3.0

SAMPLES = Path(__file__).parent / "samples"
#: Where both documents have an operation, the one about destinations counts.
DOCUMENTS = ("openapi_destinations.json", "openapi_flow_service.json")
BASE = "/data/foundation/flowservice"  # `servers` of both
KINDS = ("connections", "sourceConnections", "targetConnections", "flows")
#: What HTTP itself adds to a request, and the three that a document cannot define. Source: OpenAPI 3.0, "Parameter".
HTTP_HEADERS = {"host", "accept-encoding", "connection", "user-agent", "content-length", "transfer-encoding"}
UNDEFINED_HEADERS = {"accept", "content-type", "authorization"}

Json = Any
Place = tuple[str, ...]


class Amendment(NamedTuple):
    """One place where a document is not taken at its word, and what shows that it is wrong there.

    `example` names one of Adobe's own that would be refused without; `guide` is given where there is none.
    """

    at: tuple[Place, ...]
    becomes: Callable[[Json], Json]
    why: str
    example: str = ""
    guide: str = ""


def _either(schema: Json) -> Json:
    return {"anyOf": schema["oneOf"]}


def _items(schema: Json) -> Json:
    return {"type": "object", "required": ["items"], "properties": {"items": {"type": "array", "items": schema}}}


def _without(*names: str) -> Callable[[list[str]], list[str]]:
    return lambda required: [name for name in required if name not in names]


def _and(*alternatives: Json) -> Callable[[Json], Json]:
    return lambda schema: {"oneOf": [*schema["oneOf"], *alternatives]}


def _spec(*ids: str) -> Json:
    version = {"type": "string"}
    member = {"type": "object", "required": ["id", "version"], "properties": {"id": {"enum": ids}, "version": version}}
    return {"required": ["name", "connectionSpec"], "properties": {"connectionSpec": member}}


def _body(path: str, verb: str) -> tuple[Place]:
    return (("paths", path, verb, "requestBody", "content", "application/json", "schema"),)


def _replies(kind: str) -> tuple[Place, Place]:
    """To a list and to a GET by ID."""
    inside = ("get", "responses", "200", "content", "application/json", "schema")
    return ("paths", f"/{kind}", *inside), ("paths", f"/{kind}/{{id}}", *inside)


def _schema(name: str, *inside: str) -> tuple[Place]:
    return (("components", "schemas", name, *inside),)


# Of the tutorial's destinations those that the document lacks.
_FURTHER = tuple(
    json.loads(path.read_text())["target_connection"]["connectionSpec"]["id"]
    for path in sorted((SAMPLES / "destinations").glob("*.json"))
    if path.stem not in ("amazon_s3", "sftp")
)
_TUTORIAL = "tutorial 'Export datasets by using the Flow Service API'"
_UPDATE = "guide 'Update destination dataflows'"
_RFC = "RFC 6902, which the schema's description names: a list of operations, `value` any JSON"
_ANYTHING: Callable[[Json], Json] = lambda _schema: {}  # noqa: E731 - one of the functions in the table

AMENDMENTS: dict[str, tuple[Amendment, ...]] = {
    "openapi_destinations.json": (
        # requests
        Amendment(
            _body("/sourceConnections", "post"),
            _either,
            "whatever fits the alternative for datasets fits the one for profiles, too",
            example="Create_Source_Connection_Data_Lake",
        ),
        Amendment(
            _body("/connections/{id}", "patch"),
            lambda schema: {"type": "array", "items": schema},
            f"the schema is one operation; {_RFC}",
            example="Patch_Connection_Replace_Auth_Params",
        ),
        Amendment(
            _schema("PatchConnectionItem", "properties", "value"),
            _ANYTHING,
            f"an object fits all three alternatives, so none; {_RFC}",
            example="Patch_Connection_Replace_Auth_Params",
        ),
        Amendment(
            _schema("PatchFlowItem", "properties", "value"),
            _ANYTHING,
            f"an object fits several alternatives, so none; {_RFC}",
            example="Patch_Dataset_Schedule_Params",
        ),
        Amendment(
            _schema("DatasetScheduleParams_V2", "properties", "interval", "enum"),
            lambda hours: [0, *hours],
            "0 is missing, without which nothing is exported once",
            guide=_TUTORIAL,
        ),
        Amendment(
            _body("/connections", "post"),
            _and(_spec(*_FURTHER)),
            "only Amazon S3 and SFTP are there, while FlowSpec_V2 lists all six kinds of storage",
            guide=_TUTORIAL,
        ),
        Amendment(
            _body("/targetConnections", "post"),
            _and(_spec(*_FURTHER)),
            "only Amazon S3 and SFTP are there, while FlowSpec_V2 lists all six kinds of storage",
            guide=_TUTORIAL,
        ),
        # replies
        *(
            Amendment(
                _replies(kind),
                _items,
                "the schema is the entity; every example is a list of entities",
                example=example,
            )
            for kind, example in (
                ("connections", "SFTP_Connection_V2"),
                ("sourceConnections", "SourceConnectionsResponseDataLake_V2"),
                ("targetConnections", "Amazon_S3_Target_Connection_Dataset_V2"),
            )
        ),
        Amendment(
            _schema("ConnectionItem", "required"),
            _without("auth"),
            "the Data Landing Zone has no login",
            guide=_TUTORIAL,
        ),
        Amendment(
            _schema("ConnectionItem", "properties", "auth"),
            _and({"properties": {"specName": {"not": {"enum": ["Access Key", "SFTP with Password"]}}}}),
            "only the logins of Amazon S3 and SFTP are there",
            guide=_TUTORIAL,
        ),
        Amendment(
            _schema("SourceConnectionItem", "required"),
            _without("typeInfo"),
            "only profiles have it",
            example="SourceConnectionsResponseDataLake_V2",
        ),
        Amendment(
            _schema("SourceConnectionItem", "properties", "inheritedAttributes"),
            _ANYTHING,
            "an object is called a string",
            example="SourceConnectionsResponseDataLake_V2",
        ),
        Amendment(
            _schema("TargetConnectionItem", "properties", "inheritedAttributes"),
            _ANYTHING,
            "an object is called a string",
            example="Amazon_S3_Target_Connection_Dataset_V2",
        ),
        Amendment(
            _schema("TargetConnectionItem", "properties", "params"),
            _either,
            "an object fits several alternatives, so none",
            example="Amazon_S3_Target_Connection_Dataset_V2",
        ),
        Amendment(
            _replies("flows"),
            _either,
            "whatever fits a batch dataflow fits a streaming one, too",
            example="Batch_Flow_Dataset_Schedule_V2",
        ),
        Amendment(
            _schema("BaseFlowItem", "properties", "inheritedAttributes"),
            _ANYTHING,
            "lists are called objects",
            example="Batch_Flow_Dataset_Schedule_V2",
        ),
    ),
    "openapi_flow_service.json": (
        Amendment(
            _schema("PatchInstruction", "properties", "op", "enum"),
            lambda words: [*words, *(word.lower() for word in words)],
            "in capitals here; in lower case in the destinations document and in RFC 6902",
            guide="guide 'Edit destinations'",
        ),
        Amendment(
            _schema("PatchInstruction", "properties", "value"),
            _ANYTHING,
            "an object here; the guide replaces single members, too",
            guide="guide 'Edit destinations'",
        ),
        Amendment(
            (("paths", "/flows/{FLOW_ID}/action", "post", "parameters"),),
            lambda given: [
                {**each, "schema": {"enum": ["enable", "disable", *each["schema"]["enum"]]}}
                if each.get("name") == "op"
                else {**each, "required": False if each.get("name") == "subOp" else each.get("required", False)}
                for each in given
            ],
            "`op` in capitals and a `subOp`, which the guide does without",
            guide=_UPDATE,
        ),
    ),
}


@functools.cache
def document(name: str, *left_out: Amendment) -> Json:
    """A document as amended, but for the amendments that are left out."""
    read = json.loads((SAMPLES / name).read_text())
    for amendment in AMENDMENTS[name]:
        for *way, last in amendment.at if amendment not in left_out else ():
            place = functools.reduce(lambda node, key: node[key], way, read)
            place[last] = amendment.becomes(place[last])
    return read


def resolved(root: Json, node: Json) -> Json:
    """A part that may be a reference."""
    while "$ref" in node:
        node = functools.reduce(lambda found, key: found[key], node["$ref"].removeprefix("#/").split("/"), root)
    return node


def faults(root: Json, schema: Json, value: Json) -> list[str]:
    """What in a value the schema does not allow."""
    validator = Draft4Validator({**schema, "components": root["components"]})
    return [f"/{'/'.join(map(str, error.path))}: {error.message[:200]}" for error in validator.iter_errors(value)]


def examples(root: Json) -> Iterator[tuple[str, Json, Json]]:
    """Adobe's examples of bodies and replies: their names, their schemas and themselves."""
    for item in root["paths"].values():
        for operation in item.values():
            for part in [operation.get("requestBody", {}), *operation["responses"].values()]:
                content = part.get("content", {}).get("application/json", {})
                for named in content.get("examples", {}).values():
                    yield named["$ref"].rpartition("/")[2], content.get("schema"), resolved(root, named)["value"]


class Refused(Exception):
    """What the document does not allow."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Operation(NamedTuple):
    root: Json
    path: str
    verb: str
    given: Json

    def check(self, request: httpx.Request, query: list[tuple[str, str]]) -> Json:
        """The body of a request that is as the document says.

        Raises:
            Refused: it is not.
        """
        defined = [resolved(self.root, each) for each in self.given["parameters"]]
        headers = [(name.lower(), value) for name, value in request.headers.multi_items()]
        body = self.given.get("requestBody")
        self._parameters([each for each in defined if each["in"] == "header"], headers, 400)
        self._parameters([each for each in defined if each["in"] == "query"], query, 422)
        known = HTTP_HEADERS | UNDEFINED_HEADERS | {each["name"].lower() for each in defined if each["in"] == "header"}
        self._unknown("header", headers, known)
        self._unknown("query parameter", query, {each["name"] for each in defined if each["in"] == "query"})
        if body is None or not request.content:
            if request.content or (body and body.get("required")):
                raise Refused(400, "a body is there" if request.content else "there is no body")
            return None
        if request.headers.get("content-type") != "application/json":
            raise Refused(400, "the body is no application/json")
        value = json.loads(request.content)
        wrong = faults(self.root, body["content"]["application/json"]["schema"], value)
        if wrong:
            raise Refused(422, "the body: " + "; ".join(wrong))
        return value

    def _parameters(self, defined: list[Json], given: list[tuple[str, str]], status: int) -> None:
        for each in defined:
            name = each["name"].lower() if each["in"] == "header" else each["name"]
            values = [value for other, value in given if other == name]
            if not values and each.get("required"):
                raise Refused(status, f"{name} is missing")
            if len(values) > 1:
                raise Refused(status, f"{name} is given {len(values)} times; it is one {each['schema'].get('type')}")
            for value in values:
                wrong = faults(self.root, each["schema"], _typed(value, each["schema"]))
                if wrong or not value:
                    raise Refused(status, f"{name}={value!r} {'; '.join(wrong)}")

    @staticmethod
    def _unknown(what: str, given: list[tuple[str, str]], known: set[str]) -> None:
        unknown = sorted({name for name, _ in given} - known)
        if unknown:
            raise Refused(400, f"the document knows no {what} {', '.join(unknown)}")

    def reply(self, status: int, body: Json = None) -> httpx.Response:
        """A reply that the document allows."""
        assert str(status) in self.given["responses"], f"{self}: no {status} in the document"
        content = resolved(self.root, self.given["responses"][str(status)]).get("content", {})
        schema = content.get("application/json", {}).get("schema")
        if body is None:
            assert not content, f"{self}: a body belongs to {status}"
            return httpx.Response(status)
        assert schema is None or not faults(self.root, schema, body), f"{self}: {faults(self.root, schema, body)}"
        return httpx.Response(status, json=body)

    def error(self, status: int, why: str) -> httpx.Response:
        """A refusal, in the words of the document's examples. It promises none for what does not conform to it."""
        body = {"errorMessage": why, "errorDetails": why}
        return self.reply(status, body) if str(status) in self.given["responses"] else httpx.Response(status, json=body)

    def __str__(self) -> str:
        return f"{self.verb.upper()} {self.path}"


def _typed(text: str, schema: Json) -> Json:
    match schema.get("type"):
        case "integer":
            return int(text) if re.fullmatch(r"-?\d+", text) else text
        case "boolean":
            return {"true": True, "false": False}.get(text, text)
        case "array":
            return text.split(",")
    return text


TEMPLATES = {
    "connections": "Amazon_S3_Connection_V2",
    "sourceConnections": "SourceConnectionsResponseDataLake_V2",
    "targetConnections": "Amazon_S3_Target_Connection_Dataset_V2",
    "flows": "Batch_Flow_Dataset_Schedule_V2",
    "runs": "Batch_Flow_Run_Success",
    "datasets": "Destination_Dataset_Response",
}


@dataclass
class OpenApiAdobe:
    """Answers every request that the documents allow, from their examples, and writes down the others.

    What is made is there, can be listed, got, changed with its etag, and deleted; more is in no document. `filters`
    says whether `property` filters, as the examples of that parameter do, or nothing, as its description has it;
    `sorts` whether `orderby` sorts.
    `refuses` names what else to refuse, though the document allows it: "comparisons", "lists", "orderby".
    """

    left_out: tuple[Amendment, ...] = ()
    filters: bool = True
    sorts: bool = True
    refuses: frozenset[str] = frozenset()
    now: float = 1_800_000_000.0
    entities: dict[str, dict[str, Json]] = field(default_factory=lambda: {kind: {} for kind in (*KINDS, "runs")})
    datasets: list[Json] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.operations = [
            Operation(root, path, verb, given)
            for root in (document(name, *self.left_out) for name in DOCUMENTS)
            for path, item in root["paths"].items()
            for verb, given in item.items()
        ]
        self._examples = self.operations[0].root["components"]["examples"]

    def template(self, kind: str) -> Json:
        return copy.deepcopy(self._examples[TEMPLATES[kind]]["value"]["items"][0])

    def respond(self, request: httpx.Request) -> httpx.Response:
        with self._lock:
            self.now += 0.05
            response = self._respond(request)
            response.headers["Date"] = formatdate(self.now, usegmt=True)
            return response

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def time(self) -> float:
        return self.now

    def _respond(self, request: httpx.Request) -> httpx.Response:
        request.read()
        path = request.url.path
        if path == "/ims/token/v3":  # IMS has no OpenAPI document
            return httpx.Response(200, json={"access_token": "token", "token_type": "bearer", "expires_in": 86399})
        self.requests.append(f"{request.method} {path.removeprefix(BASE)}")
        query = parse_qsl(request.url.query.decode(), keep_blank_values=True, strict_parsing=bool(request.url.query))
        operation = self._operation(request.method.lower(), path)
        if operation is None:
            self.violations.append(f"{request.method} {path}: in no document")
            return httpx.Response(404, json={"errorMessage": "in no document"})
        try:
            body = operation.check(request, query)
            self._check_more(dict(query))
        except Refused as refused:
            self.violations.append(f"{self.requests[-1]}: {refused}")
            return operation.error(refused.status, str(refused))
        return self._answer(operation, path.removeprefix(BASE).strip("/").split("/"), query, body, request)

    def _operation(self, verb: str, path: str) -> Operation | None:
        for each in self.operations:
            pattern = re.sub(r"\\{\w+\\}", "[^/]+", re.escape(BASE + each.path))
            if each.verb == verb and re.fullmatch(pattern, path):
                return each
        return None

    def _check_more(self, query: Mapping[str, str]) -> None:
        condition = query.get("property", "")
        if "comparisons" in self.refuses and re.search("[<>]", condition):
            raise Refused(422, f"property={condition!r}: no comparisons")
        if "lists" in self.refuses and "," in condition:
            raise Refused(422, f"property={condition!r}: one value only")
        if "orderby" in self.refuses and "orderby" in query:
            raise Refused(422, "no orderby")

    def _answer(
        self, operation: Operation, steps: list[str], query: list[tuple[str, str]], body: Json, request: httpx.Request
    ) -> httpx.Response:
        match [operation.verb, *steps]:
            case ["post", "flows", entity_id, "action"]:
                entity = self.entities["flows"].get(entity_id)
                if entity is None:
                    return operation.error(404, f"flows not found with id = [{entity_id}]")
                entity["state"] = dict(query)["op"] + "d"
                return operation.reply(200, self._renewed(entity))
            case ["post", kind]:
                entity = self.make(kind, body)
                return operation.reply(201, {"id": entity["id"], "etag": entity["etag"]})
            case ["get", "connectionSpecs", _, "configs"]:
                start, limit = (int(dict(query).get(name, usual)) for name, usual in (("start", 0), ("limit", 20)))
                return operation.reply(200, {"items": self.datasets[start : start + limit]})
            case ["get", kind]:
                return self._list(operation, kind, query)
            case [verb, kind, entity_id]:
                entity = self.entities[kind].get(entity_id)
                if entity is None:
                    return operation.error(404, f"{kind} not found with id = [{entity_id}]")
                if verb == "get":
                    return operation.reply(200, {"items": [entity]})
                if verb == "delete":
                    del self.entities[kind][entity_id]
                    return operation.reply(202)
                supplied = request.headers["if-match"]
                if supplied != entity["etag"]:
                    why = (
                        f"Supplied version=[{supplied}] does not match the current version on entity=[{entity['etag']}]"
                    )
                    return operation.error(412, why)
                for change in body:
                    _patch(entity, change)
                written = self._renewed(entity)
                is_of_sources = operation.path.endswith("_ID}")  # whose document answers with the entity itself
                return operation.reply(200, {"items": [entity]} if is_of_sources else written)
        raise AssertionError(f"{operation}: not thought of")

    def make(self, kind: str, body: Json) -> Json:
        """An entity as the example has it, but for what is given."""
        entity = {**self.template(kind), **self._stamps(), **body}
        if kind == "connections" and "auth" not in body:
            entity.pop("auth")
        for name in ("lastOperation", "lastRunDetails"):
            entity.pop(name, None)
        self.entities[kind][entity["id"]] = entity
        return entity

    def run_of(self, flow_id: str, *, status: str = "Success", created: float | None = None) -> Json:
        """A run of a dataflow, in the words of the schema."""
        at = int((self.now if created is None else created) * 1000)
        ended = {} if status == "Processing" else {"stoppedAtUTC": at + 60_000}
        metrics = {"durationSummary": {"startedAtUTC": at, **ended}, "statusSummary": {"status": status}}
        stamps = {**self._stamps(), "createdAt": at, "updatedAt": int(self.now * 1000)}
        run = {**self.template("runs"), **stamps, "flowId": flow_id, "metrics": metrics, "activities": []}
        self.entities["runs"][run["id"]] = run
        return run

    def finish(self, run: Json, status: str = "Success") -> None:
        run["metrics"]["statusSummary"]["status"] = status
        run["metrics"]["durationSummary"]["stoppedAtUTC"] = run["updatedAt"] = int(self.now * 1000)

    def give_datasets(self, count: int) -> list[str]:
        self.datasets = [{**self.template("datasets"), "id": f"{n:024x}", "name": f"dataset {n}"} for n in range(count)]
        return [each["id"] for each in self.datasets]

    def _stamps(self) -> Json:
        at = int(self.now * 1000)
        etag = f'"{uuid.uuid4()}"'
        return {"id": str(uuid.uuid4()), "createdAt": at, "updatedAt": at, "etag": etag, "version": etag}

    def _renewed(self, entity: Json) -> Json:
        entity["updatedAt"] = int(self.now * 1000)
        entity["etag"] = entity["version"] = f'"{uuid.uuid4()}"'
        return {"id": entity["id"], "etag": entity["etag"]}

    def _list(self, operation: Operation, kind: str, query: list[tuple[str, str]]) -> httpx.Response:
        given = dict(query)
        found = list(self.entities[kind].values())
        if self.filters and "property" in given:
            found = [each for each in found if _fits(each, given["property"])]
        # Without an order, most recently created or updated first: parameter `orderby`.
        order = given.get("orderby", "-updatedAt") if self.sorts else "id"
        found.sort(key=lambda each: (each[order.lstrip("-")], each["id"]), reverse=order.startswith("-"))
        start, limit = int(given.pop("continuationToken", "0")), int(given.get("limit", "20"))
        links = {}
        if start + limit < len(found):
            links["next"] = {"href": f"/{kind}?{urlencode({**given, 'continuationToken': start + limit})}"}
        return operation.reply(200, {"items": found[start : start + limit], "_links": links})


def _fits(entity: Json, condition: str) -> bool:
    """One condition, as the examples of the parameter `property` write it."""
    match = re.fullmatch(r"([\w.\[\]]+)(==|>=|<=|>|<)(.*)", condition)
    assert match, condition
    name, operator, text = match.groups()
    value = functools.reduce(
        lambda node, key: node.get(key, {}) if isinstance(node, dict) else node,
        name.removesuffix("[]").split("."),
        entity,
    )
    if operator == "==":
        there = value if isinstance(value, list) else [value]
        return any(each in text.split(",") for each in map(str, there)) or text in map(str, there)
    number = int(text)
    compare = {">=": op.ge, "<=": op.le, ">": op.gt, "<": op.lt}[operator]
    return bool(compare(value, number))


def _patch(entity: Json, change: Json) -> None:
    *way, last = change["path"].strip("/").split("/")
    place = functools.reduce(lambda node, key: node[key], way, entity)
    if change["op"].lower() == "remove":
        del place[last]
    else:
        place[last] = change["value"]
