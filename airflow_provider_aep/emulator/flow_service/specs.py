"""The connection specs and flow specs that Adobe publishes: where an export can go, and what that takes.

Source: Adobe's tutorial "Export datasets by using the Flow Service API",
https://experienceleague.adobe.com/en/docs/experience-platform/destinations/api/export-datasets, and the catalogue pages
of the six cloud storage destinations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from airflow_provider_aep.emulator.flow_service.templates import segments

Schema = Mapping[str, Any]
Params = Mapping[str, Any]

VERSION = "1.0"
PROVIDER_ID = "14e34fac-d307-11e9-bb65-2a2ae2dbcce4"
DATA_LAKE = "23598e46-f560-407b-88d5-ea6207e49db0"
FULL, INCREMENTAL = EXPORT_MODES = ("DAILY_FULL_EXPORT", "FIRST_FULL_THEN_INCREMENTAL")

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


def _object(properties: Mapping[str, Schema], *, optional: tuple[str, ...] = ()) -> Schema:
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in optional],
    }


@dataclass(frozen=True)
class AuthSpec:
    name: str
    type: str
    schema: Schema


@dataclass(frozen=True)
class ConnectionSpec:
    """A place where an export can land, or the data lake that it comes from.

    `storage` names the outermost folder of the files. `folders` returns the bucket or container in it (empty when
    missing) and the folders that the login adds, from the params of login and target connection together.
    """

    id: str
    name: str
    storage: str = ""
    auth: tuple[AuthSpec, ...] = ()
    target: Mapping[str, Schema] | None = None
    flow_spec: str = ""
    folders: Callable[[Params], tuple[str, ...]] = lambda _: ("",)
    path_param: str = "path"

    @property
    def target_schema(self) -> Schema:
        """JSON Schema of a target connection's `params`."""
        return _object({**(self.target or {}), **_FORMAT}, optional=("fileType", "includeFileManifest"))

    def document(self) -> dict[str, Any]:
        """The spec as GET /connectionSpecs/{id} returns it."""
        found: dict[str, Any] = {
            "id": self.id,
            "name": self.name,
            "providerId": PROVIDER_ID,
            "version": VERSION,
            "authSpec": [{"name": auth.name, "type": auth.type, "spec": auth.schema} for auth in self.auth],
        }
        if self.target is None:
            return {**found, "attributes": {"isSource": True}}
        # Adobe's documents require `fileType` here although it is for audiences only.
        schema = {**self.target_schema, "required": [*self.target, "datasetFileType", "compression", "fileType"]}
        return {
            **found,
            "attributes": {
                "isDestination": True,
                "category": "cloudStorage",
                "_workflow": ["SEGMENTS", "DATASETS"],
            },
            "encryptionSpecs": [],
            "flowSpecId": self.flow_spec,
            "targetSpec": {"name": "User based target", "type": "UserNamespace", "spec": schema},
        }


def _for_workflow(name: str) -> Schema:
    return {"field": "flowSpec.attributes._workflow", "operator": "CONTAINS", "value": name}


def _param(name: str) -> Callable[[Params], tuple[str, ...]]:
    return lambda params: (str(params.get(name) or ""),)


def _adls_url(params: Params) -> tuple[str, ...]:
    """From abfss://{container}@{account}.dfs.core.windows.net/… or https://{account}.dfs.core.windows.net/{container}/…"""
    url = urlsplit(str(params.get("url", "")))
    below = segments("url", url.path)
    if url.scheme in ("abfs", "abfss"):
        return (url.username or "", *below)
    return below if url.netloc and below else ("",)


_TEXT: Schema = {"type": "string"}
_SECRET: Schema = {**_TEXT, "format": "password"}
# Adobe prints a text in one place and a number in another.
_PORT: Schema = {
    "type": ["integer", "string"],
    "minimum": 1,
    "maximum": 65_535,
    "pattern": r"^([1-9]\d{0,3}|[1-5]\d{4}|6[0-4]\d{3}|65[0-4]\d\d|655[0-2]\d|6553[0-5])$",
}
_FORMAT: Mapping[str, Schema] = {
    "datasetFileType": {"type": "string", "enum": ["JSON", "PARQUET"], "conditional": _for_workflow("DATASETS")},
    "compression": {"type": "string", "enum": ["NONE", "GZIP"]},
    "fileType": {"type": "string", "enum": ["CSV", "JSON", "PARQUET"], "conditional": _for_workflow("SEGMENTS")},
    "includeFileManifest": {"type": "boolean"},
}


def _text(pattern: str) -> Schema:
    return {"type": "string", "pattern": pattern}


def _sftp(name: str, secret: str, schema: Schema) -> AuthSpec:
    login = {"domain": _TEXT, "username": _TEXT, "port": _PORT, secret: schema}
    return AuthSpec(name, "SFTP", _object(login, optional=("port",)))


CONNECTION_SPECS: Mapping[str, ConnectionSpec] = {
    spec.id: spec
    for spec in (
        ConnectionSpec(
            id="4fce964d-3f37-408f-9778-e597338a21ee",
            name="Amazon S3",
            storage="s3",
            auth=(
                AuthSpec(
                    "Access Key",
                    "KeyBased",
                    _object(
                        {
                            "s3AccessKey": _text(r"^[A-Z2-7]{20}$"),
                            "s3SecretKey": {**_text(r"^[A-Za-z0-9/\+]{40}$"), "format": "password"},
                        }
                    ),
                ),
                AuthSpec(
                    "Assumed Role", "S3RoleBased", _object({"s3Role": _text(r"^arn:aws[a-z-]*:iam::\d{12}:role/.+$")})
                ),
            ),
            target={"bucketName": _text(S3_BUCKET), "path": _text(OBJECT_PATH)},
            flow_spec="269ba276-16fc-47db-92b0-c1049a3c131f",
            folders=_param("bucketName"),
        ),
        ConnectionSpec(
            id="6d6b59bf-fb58-4107-9064-4d246c0e5bb2",
            name="Azure Blob Storage",
            storage="azure_blob",
            auth=(AuthSpec("ConnectionString", "ConnectionString", _object({"connectionString": _SECRET})),),
            target={
                "container": _text(r"^[a-z0-9](?!.*--)[a-z0-9-]{1,61}[a-z0-9]$"),
                "path": _text(r"^[0-9a-zA-Z/\!\-_\.\*\'\(\)]+$"),
            },
            flow_spec="95bd8965-fc8a-4119-b9c3-944c2c2df6d2",
            folders=_param("container"),
        ),
        ConnectionSpec(
            id="be2c3209-53bc-47e7-ab25-145db8b873e1",
            name="Azure Data Lake Gen2",
            storage="adls_gen2",
            auth=(
                AuthSpec(
                    "Azure Service Principal Auth",
                    "AzureServicePrincipal",
                    _object(
                        {"url": _TEXT, "tenant": _TEXT, "servicePrincipalId": _TEXT, "servicePrincipalKey": _SECRET}
                    ),
                ),
            ),
            target={"path": _TEXT},
            flow_spec="17be2013-2549-41ce-96e7-a70363bec293",
            folders=_adls_url,
        ),
        ConnectionSpec(
            id="10440537-2a7b-4583-ac39-ed38d4b848e8",
            name="Data Landing Zone",
            storage="data_landing_zone",
            target={"path": _TEXT},
            flow_spec="cd2fc47e-e838-4f38-a581-8fff2f99b63a",
            folders=lambda _: ("dlz-destination",),
        ),
        ConnectionSpec(
            id="c5d93acb-ea8b-4b14-8f53-02138444ae99",
            name="Google Cloud Storage",
            storage="gcs",
            auth=(
                AuthSpec(
                    "Google Cloud Storage authentication credentials",
                    "GoogleCloudStorageAuth",
                    _object({"accessKeyId": _TEXT, "secretAccessKey": _SECRET}),
                ),
            ),
            target={"bucketName": _text(GCS_BUCKET), "path": _text(OBJECT_PATH)},
            flow_spec="585c15c4-6cbf-4126-8f87-e26bff78b657",
            folders=_param("bucketName"),
        ),
        ConnectionSpec(
            id="36965a81-b1c6-401b-99f8-22508f1e6a26",
            name="SFTP",
            storage="sftp",
            auth=(
                _sftp("SFTP with Password", "password", _SECRET),
                _sftp("SFTP with SSH Key", "sshKey", {**_SECRET, "contentEncoding": "base64"}),
            ),
            target={"remotePath": _TEXT},
            flow_spec="354d6aad-4754-46e4-a576-1b384561c440",
            folders=_param("domain"),
            path_param="remotePath",
        ),
        ConnectionSpec(id=DATA_LAKE, name="activation-datalake"),
    )
}
FLOW_SPECS: Mapping[str, ConnectionSpec] = {spec.flow_spec: spec for spec in CONNECTION_SPECS.values() if spec.target}
"""The destination that each flow spec exports datasets to."""

SECRET_PARAMS = frozenset(
    name
    for spec in CONNECTION_SPECS.values()
    for auth in spec.auth
    for name, schema in auth.schema["properties"].items()
    if schema.get("format") == "password"
)


def flow_spec_document(target: ConnectionSpec) -> dict[str, Any]:
    """The flow spec of exports to `target` as GET /flowSpecs/{id} returns it."""
    return {
        "id": target.flow_spec,
        "name": target.name,
        "providerId": PROVIDER_ID,
        "version": VERSION,
        "sourceConnectionSpecIds": [DATA_LAKE],
        "targetConnectionSpecIds": [target.id],
        "transformationSpecs": [],
        "attributes": {"isDestinationFlow": True, "_workflow": ["DATASETS"], "frequency": "batch"},
        "scheduleSpec": {
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
        },
    }
