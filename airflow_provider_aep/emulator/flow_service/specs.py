"""The connection specs and flow specs that Adobe publishes: where data comes from, where it can go, what that takes.

Source: Adobe's tutorials "Export datasets by using the Flow Service API" and "Activate audiences to file-based
destinations by using the Flow Service API", and the catalogue pages of the six cloud storage destinations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

VERSION = "1.0"
PROVIDER_ID = "14e34fac-d307-11e9-bb65-2a2ae2dbcce4"
DATA_LAKE = "23598e46-f560-407b-88d5-ea6207e49db0"
PROFILE_STORE = "8a9c3494-9708-43d7-ae3f-cda01e5030e1"

S3_BUCKET = (
    r"(?=^.{3,63}$)(?!^(\d+\.)+\d+$)"
    r"(^(([a-z0-9]|[a-z0-9][a-z0-9\-]*[a-z0-9])\.)*([a-z0-9]|[a-z0-9][a-z0-9\-]*[a-z0-9])$)"
)
GCS_BUCKET = (
    r"(?!^goog.*$)(?!^.*g(o|0)(o|0)gle.*$)(((?=^.{3,63}$)(^([a-z0-9]|[a-z0-9][a-z0-9\-_]*)[a-z0-9]$))|((?=^.{3,222}$)"
    r"(?!^(\d+\.)+\d+$)(^(([a-z0-9]{1,63}|[a-z0-9][a-z0-9\-_]{1,61}[a-z0-9])\.)*"
    r"([a-z0-9]{1,63}|[a-z0-9][a-z0-9\-_]{1,61}[a-z0-9])$)))"
)
# Adobe prints this pattern with the quote doubled; in a character class that changes nothing.
OBJECT_PATH = r"^[0-9a-zA-Z/\!\-_\.\*\''\(\)]*((\%SEGMENT_(NAME|ID)\%)?/?)+$"


@dataclass(frozen=True)
class Param:
    """One member of `auth.params` or `params`; `secret` ones are never given back."""

    pattern: str | None = None
    enum: tuple[Any, ...] = ()
    type: str = "string"
    secret: bool = False
    base64: bool = False
    required: bool = True

    def document(self) -> dict[str, Any]:
        """The parameter as JSON Schema, as far as Adobe writes it down."""
        schema: dict[str, Any] = {"type": self.type}
        if self.secret:
            schema["format"] = "password"
        if self.base64:
            schema["contentEncoding"] = "base64"
        if self.pattern:
            schema["pattern"] = self.pattern
        if self.enum:
            schema["enum"] = list(self.enum)
        return schema


Params = Mapping[str, Param]


@dataclass(frozen=True)
class AuthSpec:
    name: str
    type: str
    params: Params


@dataclass(frozen=True)
class ConnectionSpec:
    """`storage` is the name of the export's outermost folder; empty for a spec that takes no datasets."""

    id: str
    name: str
    storage: str = ""
    auth: tuple[AuthSpec, ...] = ()
    target: Params = field(default_factory=dict)
    dataset_flow_spec: str = ""
    audience_flow_spec: str = ""
    source: bool = False

    def document(self) -> dict[str, Any]:
        """The spec as GET /connectionSpecs/{id} gives it."""
        found: dict[str, Any] = {
            "id": self.id,
            "name": self.name,
            "providerId": PROVIDER_ID,
            "version": VERSION,
            "authSpec": [{"name": auth.name, "type": auth.type, "spec": _schema(auth.params)} for auth in self.auth],
            "attributes": {"isSource": True} if self.source else {"isDestination": True, "category": "cloudStorage"},
        }
        if self.source:
            return found
        found["encryptionSpecs"] = []
        if self.dataset_flow_spec:
            found["flowSpecId"] = self.dataset_flow_spec
            found["attributes"]["_workflow"] = ["SEGMENTS", "DATASETS"]
        found["targetSpec"] = {"name": "User based target", "type": "UserNamespace", "spec": _target_schema(self)}
        return found


def _schema(params: Params) -> dict[str, Any]:
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "properties": {name: param.document() for name, param in params.items()},
        "required": [name for name, param in params.items() if param.required],
    }


def _target_schema(spec: ConnectionSpec) -> dict[str, Any]:
    schema = _schema({**spec.target, **FORMAT} if spec.dataset_flow_spec else spec.target)
    if spec.dataset_flow_spec:
        for name, workflow in (("datasetFileType", "DATASETS"), ("fileType", "SEGMENTS")):
            condition = {"field": "flowSpec.attributes._workflow", "operator": "CONTAINS", "value": workflow}
            schema["properties"][name]["conditional"] = condition
        # `fileType` stands among the required members although it is for audiences only; Adobe's documents have it so.
        schema["required"] = [*spec.target, "datasetFileType", "compression", "fileType"]
    return schema


FORMAT: Params = {
    "datasetFileType": Param(enum=("JSON", "PARQUET")),
    "compression": Param(enum=("NONE", "GZIP")),
    "fileType": Param(enum=("CSV", "JSON", "PARQUET"), required=False),
    "includeFileManifest": Param(type="boolean", required=False),
}
_TEXT, _SECRET = Param(), Param(secret=True)
_S3_KEYS: Params = {
    "s3AccessKey": Param(r"^[A-Z2-7]{20}$"),
    "s3SecretKey": Param(r"^[A-Za-z0-9/\+]{40}$", secret=True),
}
# The beta of 2022 and the older destinations call the same two values accessId and secretKey.
_LEGACY_S3_KEYS: Params = {
    "accessId": Param(required=False),
    "secretKey": Param(secret=True, required=False),
    "s3AccessKey": Param(required=False),
    "s3SecretKey": Param(secret=True, required=False),
}
_SFTP_LOGIN: Params = {"domain": _TEXT, "username": _TEXT, "port": Param(type="port", required=False)}

CONNECTION_SPECS: Mapping[str, ConnectionSpec] = {
    spec.id: spec
    for spec in (
        ConnectionSpec(
            "4fce964d-3f37-408f-9778-e597338a21ee",
            "Amazon S3",
            "s3",
            (
                AuthSpec("Access Key", "KeyBased", _S3_KEYS),
                AuthSpec("Assumed Role", "S3RoleBased", {"s3Role": Param(r"^arn:aws[a-z-]*:iam::\d{12}:role/.+$")}),
            ),
            {"bucketName": Param(S3_BUCKET), "path": Param(OBJECT_PATH)},
            "269ba276-16fc-47db-92b0-c1049a3c131f",
            "1a0514a6-33d4-4c7f-aff8-594799c47549",
        ),
        ConnectionSpec(
            "6d6b59bf-fb58-4107-9064-4d246c0e5bb2",
            "Azure Blob Storage",
            "azure_blob",
            (AuthSpec("ConnectionString", "ConnectionString", {"connectionString": _SECRET}),),
            {
                "container": Param(r"^[a-z0-9](?!.*--)[a-z0-9-]{1,61}[a-z0-9]$"),
                "path": Param(r"^[0-9a-zA-Z/\!\-_\.\*\'\(\)]+$"),
            },
            "95bd8965-fc8a-4119-b9c3-944c2c2df6d2",
            "752d422f-b16f-4f0d-b1c6-26e448e3b388",
        ),
        ConnectionSpec(
            "be2c3209-53bc-47e7-ab25-145db8b873e1",
            "Azure Data Lake Gen2",
            "adls_gen2",
            (
                AuthSpec(
                    "Azure Service Principal Auth",
                    "AzureServicePrincipal",
                    {"url": _TEXT, "tenant": _TEXT, "servicePrincipalId": _TEXT, "servicePrincipalKey": _SECRET},
                ),
            ),
            {"path": _TEXT},
            "17be2013-2549-41ce-96e7-a70363bec293",
            "db060570-a155-418a-a6d3-b4d97698e5dc",
        ),
        ConnectionSpec(
            "10440537-2a7b-4583-ac39-ed38d4b848e8",
            "Data Landing Zone",
            "data_landing_zone",
            (),
            {"path": _TEXT},
            "cd2fc47e-e838-4f38-a581-8fff2f99b63a",
            "7e635b9f-e59b-4546-8ba8-fce6496693c8",
        ),
        ConnectionSpec(
            "c5d93acb-ea8b-4b14-8f53-02138444ae99",
            "Google Cloud Storage",
            "gcs",
            (
                AuthSpec(
                    "Google Cloud Storage authentication credentials",
                    "GoogleCloudStorageAuth",
                    {"accessKeyId": _TEXT, "secretAccessKey": _SECRET},
                ),
            ),
            {"bucketName": Param(GCS_BUCKET), "path": Param(OBJECT_PATH)},
            "585c15c4-6cbf-4126-8f87-e26bff78b657",
            "976d663b-80b4-4193-be6b-2d0487516623",
        ),
        ConnectionSpec(
            "36965a81-b1c6-401b-99f8-22508f1e6a26",
            "SFTP",
            "sftp",
            (
                AuthSpec("SFTP with Password", "SFTP", {**_SFTP_LOGIN, "password": _SECRET}),
                AuthSpec("SFTP with SSH Key", "SFTP", {**_SFTP_LOGIN, "sshKey": Param(secret=True, base64=True)}),
            ),
            {"remotePath": _TEXT},
            "354d6aad-4754-46e4-a576-1b384561c440",
            "fd36aaa4-bf2b-43fb-9387-43785eeeb799",
        ),
        # Two older destinations, for audiences only, that the destinations OpenAPI still shows.
        ConnectionSpec(
            "4890fc95-5a1f-4983-94bb-e060c08e3f81",
            "Amazon S3 (legacy)",
            auth=(AuthSpec("Access Key", "KeyBased", _LEGACY_S3_KEYS),),
            target={"bucketName": Param(S3_BUCKET), "path": _TEXT},
            audience_flow_spec="71471eba-b620-49e4-90fd-23f1fa0174d8",
        ),
        ConnectionSpec(
            "64ef4b8b-a6e0-41b5-9677-3805d1ee5dd0",
            "SFTP (legacy)",
            auth=(
                AuthSpec("Basic Authentication for sftp", "BasicAuth", {"username": _TEXT, "password": _SECRET}),
                AuthSpec("SSH PublicKey Authentication for sftp", "SSH", {"username": _TEXT, "sshKey": _SECRET}),
            ),
            target={"remotePath": _TEXT},
            audience_flow_spec="71471eba-b620-49e4-90fd-23f1fa0174d8",
        ),
        ConnectionSpec(DATA_LAKE, "activation-datalake", source=True),
        ConnectionSpec(PROFILE_STORE, "activation-profile-store", source=True),
    )
}

SECRET_PARAMS = frozenset(
    name
    for spec in CONNECTION_SPECS.values()
    for auth in spec.auth
    for name, param in auth.params.items()
    if param.secret
)


@dataclass(frozen=True)
class FlowSpec:
    """What kind of dataflow goes from one source to one kind of storage."""

    id: str
    name: str
    source: str
    targets: tuple[str, ...]
    datasets: bool

    def document(self) -> dict[str, Any]:
        """The spec as GET /flowSpecs/{id} gives it."""
        found: dict[str, Any] = {
            "id": self.id,
            "name": self.name,
            "providerId": PROVIDER_ID,
            "version": VERSION,
            "sourceConnectionSpecIds": [self.source],
            "targetConnectionSpecIds": list(self.targets),
            "transformationSpecs": [],
            "attributes": {
                "isDestinationFlow": True,
                "_workflow": ["DATASETS" if self.datasets else "SEGMENTS"],
                "frequency": "batch",
            },
        }
        if self.datasets:
            found["scheduleSpec"] = {
                "name": "PeriodicSchedule",
                "type": "Periodic",
                "spec": {
                    "$schema": "http://json-schema.org/draft-07/schema#",
                    "type": "object",
                    "properties": {
                        "startTime": {"type": "integer"},
                        "endTime": {"type": "integer"},
                        "interval": {"type": "integer"},
                        "timeUnit": {"type": "string", "enum": ["hour", "day"]},
                        "exportMode": {"type": "string", "enum": list(EXPORT_MODES)},
                    },
                    "required": ["startTime", "interval", "timeUnit"],
                },
            }
        return found


FULL, INCREMENTAL = EXPORT_MODES = ("DAILY_FULL_EXPORT", "FIRST_FULL_THEN_INCREMENTAL")


def _flow_specs() -> dict[str, FlowSpec]:
    found: dict[str, FlowSpec] = {}
    for spec in CONNECTION_SPECS.values():
        for flow_spec_id, source in ((spec.dataset_flow_spec, DATA_LAKE), (spec.audience_flow_spec, PROFILE_STORE)):
            if flow_spec_id:
                also = found[flow_spec_id].targets if flow_spec_id in found else ()
                found[flow_spec_id] = FlowSpec(flow_spec_id, spec.name, source, (*also, spec.id), source == DATA_LAKE)
    return found


FLOW_SPECS: Mapping[str, FlowSpec] = _flow_specs()
