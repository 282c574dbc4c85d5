"""Where an export can land: one type and one row of `DESTINATIONS` for each destination.

The types are DAG arguments. They are named tuples because Airflow renders templates in a tuple, rebuilds it as the same
type and finds upstream outputs inside it, also in `partial` and `expand`; it does none of that for a dataclass. They
hold no secret. A literal value is checked when the DAG is parsed, a template or upstream output when it is rendered.

Sources. Members and patterns: Adobe's connection specs (GET /connectionSpecs/{id}, `targetSpec`), as in
https://experienceleague.adobe.com/en/docs/experience-platform/destinations/api/activate-segments-file-based-destinations
IDs of specs and all else: "the tutorial", which is
https://experienceleague.adobe.com/en/docs/experience-platform/destinations/api/export-datasets
"""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from airflow_provider_aep.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Protocol, Self

    class Upstream(Protocol):
        """The output of an upstream task (Airflow's XComArg)."""

        def resolve(self, context: Mapping[str, Any]) -> Any: ...

    Text = str | Upstream


__all__ = [
    "DATA_LAKE_SPEC",
    "DESTINATIONS",
    "SPEC_VERSION",
    "AdlsGen2",
    "AmazonS3",
    "AzureBlob",
    "DataLandingZone",
    "Destination",
    "DestinationType",
    "GoogleCloudStorage",
    "Sftp",
    "check_format",
    "destination_type",
    "is_literal",
    "target_params",
]

#: Connection spec of the data lake, the source of every dataset export.
DATA_LAKE_SPEC = "23598e46-f560-407b-88d5-ea6207e49db0"
#: Version of the connection specs and flow specs named here.
SPEC_VERSION = "1.0"


class AmazonS3(NamedTuple("AmazonS3", [("bucket", str), ("path", str)])):
    """A folder of an Amazon S3 bucket: AmazonS3(bucket="lake-exports", path="etl/{{ dag_run.run_after | ds }}")."""

    __slots__ = ()

    def __new__(cls, bucket: Text, path: Text) -> Self:
        return super().__new__(cls, _checked(cls, "bucket", bucket), _checked(cls, "path", path))


class AzureBlob(NamedTuple("AzureBlob", [("container", str), ("path", str)])):
    """A folder of an Azure Blob Storage container."""

    __slots__ = ()

    def __new__(cls, container: Text, path: Text) -> Self:
        return super().__new__(cls, _checked(cls, "container", container), _checked(cls, "path", path))


class AdlsGen2(NamedTuple("AdlsGen2", [("path", str)])):
    """A folder of Azure Data Lake Storage Gen2; the container is part of the login's URL."""

    __slots__ = ()

    def __new__(cls, path: Text) -> Self:
        return super().__new__(cls, _checked(cls, "path", path))


class DataLandingZone(NamedTuple("DataLandingZone", [("path", str)])):
    """A folder of the sandbox's own Data Landing Zone. It needs no login, and files vanish after seven days.

    Source: https://experienceleague.adobe.com/en/docs/experience-platform/destinations/catalog/cloud-storage/data-landing-zone
    """

    __slots__ = ()

    def __new__(cls, path: Text) -> Self:
        return super().__new__(cls, _checked(cls, "path", path))


class GoogleCloudStorage(NamedTuple("GoogleCloudStorage", [("bucket", str), ("path", str)])):
    """A folder of a Google Cloud Storage bucket."""

    __slots__ = ()

    def __new__(cls, bucket: Text, path: Text) -> Self:
        return super().__new__(cls, _checked(cls, "bucket", bucket), _checked(cls, "path", path))


class Sftp(NamedTuple("Sftp", [("remote_path", str)])):
    """A folder of an SFTP server."""

    __slots__ = ()

    def __new__(cls, remote_path: Text) -> Self:
        return super().__new__(cls, _checked(cls, "remote_path", remote_path))


Destination = AmazonS3 | AzureBlob | AdlsGen2 | DataLandingZone | GoogleCloudStorage | Sftp


class Rule(NamedTuple):
    """What a value has to look like."""

    pattern: str  # matches the whole text
    text: str  # for the reader of an error


class DestinationType(NamedTuple):
    """A row of the registry: all that is particular to one type of destination."""

    name: str  # Adobe's
    connection_spec: str
    flow_spec: str
    wire: Mapping[str, str]  # our field -> member of the target connection's params
    rules: Mapping[str, Rule]  # a field without one may hold any text: Adobe gives no pattern for it
    logins: tuple[str, ...]  # keys of `api.credentials.LOGINS`, the default first; its classes take 4 ms to import


# Adobe's own patterns for paths and buckets of S3 and Google repeat a choice inside a repetition, for which Python can
# take exponential time. Those written here accept the same texts without; tests compare them with Adobe's.
_PATH = r"[0-9a-zA-Z/!\-_.*'()]"
_OBJECT_STORE_PATH = Rule(
    _PATH + r"*(?:%SEGMENT_(?:NAME|ID)%/*)*", "must hold only letters, digits, / and the characters ! - _ . * ' ( )"
)

#: Every destination that takes datasets. The tutorial's versions of 2023 and of today agree on the IDs.
DESTINATIONS: Mapping[type, DestinationType] = MappingProxyType(
    {
        AmazonS3: DestinationType(
            name="Amazon S3",
            connection_spec="4fce964d-3f37-408f-9778-e597338a21ee",
            flow_spec="269ba276-16fc-47db-92b0-c1049a3c131f",
            wire={"bucket": "bucketName", "path": "path"},
            rules={
                "bucket": Rule(
                    r"(?=.{3,63}$)(?!(?:\d+\.)+\d+$)(?:L\.)*L".replace("L", r"[a-z0-9](?:[a-z0-9\-]*[a-z0-9])?"),
                    "must be an S3 bucket name: 3 to 63 lower-case letters, digits, dots and hyphens, each part "
                    "between dots starting and ending with a letter or digit, and not an IPv4 address",
                ),
                "path": _OBJECT_STORE_PATH,
            },
            logins=("S3AccessKey", "S3AssumedRole"),
        ),
        AzureBlob: DestinationType(
            name="Azure Blob Storage",
            connection_spec="6d6b59bf-fb58-4107-9064-4d246c0e5bb2",
            flow_spec="95bd8965-fc8a-4119-b9c3-944c2c2df6d2",
            wire={"container": "container", "path": "path"},
            rules={
                "container": Rule(
                    r"[a-z0-9](?!.*--)[a-z0-9-]{1,61}[a-z0-9]",
                    "must be an Azure container name: 3 to 63 lower-case letters, digits and single hyphens, starting "
                    "and ending with a letter or digit",
                ),
                "path": Rule(
                    _PATH + "+",
                    "must not be empty and must hold only letters, digits, / and the characters ! - _ . * ' ( )",
                ),
            },
            logins=("AzureConnectionString",),
        ),
        AdlsGen2: DestinationType(
            name="Azure Data Lake Gen2",
            connection_spec="be2c3209-53bc-47e7-ab25-145db8b873e1",
            flow_spec="17be2013-2549-41ce-96e7-a70363bec293",
            wire={"path": "path"},
            rules={},
            logins=("AdlsServicePrincipal",),
        ),
        DataLandingZone: DestinationType(
            name="Data Landing Zone",
            connection_spec="10440537-2a7b-4583-ac39-ed38d4b848e8",
            flow_spec="cd2fc47e-e838-4f38-a581-8fff2f99b63a",
            wire={"path": "path"},
            rules={},
            logins=(),
        ),
        GoogleCloudStorage: DestinationType(
            name="Google Cloud Storage",
            connection_spec="c5d93acb-ea8b-4b14-8f53-02138444ae99",
            flow_spec="585c15c4-6cbf-4126-8f87-e26bff78b657",
            wire={"bucket": "bucketName", "path": "path"},
            rules={
                "bucket": Rule(
                    r"(?!goog)(?!.*g[o0][o0]gle)(?=.{3,222}$)(?!(?:\d+\.)+\d+$)(?:L\.)*L".replace(
                        "L", r"[a-z0-9](?:[a-z0-9\-_]{0,61}[a-z0-9])?"
                    ),
                    "must be a Google bucket name: 3 to 63 lower-case letters, digits, hyphens and underscores (up to "
                    "222 in parts divided by dots), not starting with goog and not holding google or g00gle",
                ),
                "path": _OBJECT_STORE_PATH,
            },
            logins=("GcsHmacKey",),
        ),
        Sftp: DestinationType(
            name="SFTP",
            connection_spec="36965a81-b1c6-401b-99f8-22508f1e6a26",
            flow_spec="354d6aad-4754-46e4-a576-1b384561c440",
            wire={"remote_path": "remotePath"},
            rules={},
            logins=("SftpPassword", "SftpSshKey"),
        ),
    }
)


def is_literal(value: object) -> bool:
    """Whether a DAG argument is known while the DAG is parsed: neither a Jinja template nor an upstream output."""
    if isinstance(value, str):
        return not any(mark in value for mark in ("{{", "{%", "{#"))
    # Airflow resolves whatever has a method of this name, but for paths: theirs means something else.
    return not hasattr(value, "resolve") or hasattr(value, "__fspath__")


def destination_type(destination: object) -> DestinationType:
    """The registry's row for a destination.

    Raises:
        InvalidArgument: it is none, such as the plain list that a destination becomes on its way through XCom.
    """
    try:
        return DESTINATIONS[type(destination)]
    except KeyError:
        names = ", ".join(each.__name__ for each in DESTINATIONS)
        raise InvalidArgument("destination", destination, f"must be one of {names}") from None


def check_format(file_type: str, compression: str) -> None:
    """Check how files are written; a template or upstream output passes until it is rendered.

    Raises:
        InvalidArgument: an unknown value, or JSON without GZIP, which Adobe no longer allows.

    Source: tutorial, "Create a target connection"; its samples of 2023 still have JSON without GZIP.
    """
    for argument, value, allowed in (
        ("file_type", file_type, ("JSON", "PARQUET")),
        ("compression", compression, ("NONE", "GZIP")),
    ):
        if is_literal(value) and value not in allowed:
            raise InvalidArgument(argument, value, f"must be {allowed[0]} or {allowed[1]}, in capitals")
    if (file_type, compression) == ("JSON", "NONE"):
        raise InvalidArgument("compression", compression, "must be GZIP: Adobe exports JSON only compressed")


def target_params(
    destination: Destination,
    *,
    file_type: str,
    compression: str,
    include_file_manifest: bool | None = None,
) -> dict[str, Any]:
    """The `params` of a target connection: {"mode": "Server-to-server", "bucketName": …, "datasetFileType": "JSON", …}.

    `fileType` belongs to audience exports and is not sent, though the connection specs require it.

    Raises:
        InvalidArgument: not a destination, a wrong value, or one that is still a template.

    Source: tutorial, "Create a target connection".
    """
    row = destination_type(destination)
    values = destination._asdict()
    for argument, value in {
        **{f"destination.{name}": value for name, value in values.items()},
        "file_type": file_type,
        "compression": compression,
    }.items():
        if not is_literal(value):
            raise InvalidArgument(
                argument, value, "is still a template or an upstream output: Airflow has not rendered it"
            )
    check_format(file_type, compression)
    if include_file_manifest is not None and not isinstance(include_file_manifest, bool):
        raise InvalidArgument("include_file_manifest", include_file_manifest, "must be True, False or None")
    params: dict[str, Any] = {"mode": "Server-to-server"}
    # Checked once more, since `_replace` does not.
    params |= {row.wire[name]: _checked(type(destination), name, value) for name, value in values.items()}
    params |= {"compression": compression, "datasetFileType": file_type}
    if include_file_manifest is not None:
        params["includeFileManifest"] = include_file_manifest
    return params


def place_params(destination: Destination) -> tuple[tuple[str, str], ...]:
    """The members of a target connection's `params` that say where files land: (("bucketName", …), ("path", …))."""
    row = destination_type(destination)
    return tuple((row.wire[name], value) for name, value in destination._asdict().items())


def _checked(destination: type, field: str, value: Text) -> str:
    """The value, checked if it is known: a template or upstream output is a text only once rendered."""
    if not is_literal(value):
        return cast("str", value)
    argument = f"destination.{field}"
    row = DESTINATIONS[destination]
    if not isinstance(value, str):
        raise InvalidArgument(argument, value, f"must be text for {row.name}")
    rule = row.rules.get(field)
    if rule is None or re.fullmatch(rule.pattern, value, re.ASCII):
        return value
    raise InvalidArgument(argument, value, rule.text + _advice(field, value))


def _advice(field: str, value: str) -> str:
    """What the author of such a path probably wanted."""
    if field != "path":
        return ""
    if re.search(r"%[A-Z_]+(\(.*\))?%", value) or "=" in value or re.search(r"\s", value):
        return "; write blanks, = and Adobe's %…% macros into folder_template instead"
    if "{" in value:
        return "; {…} is not filled in by anyone: use {{ dag_run.run_after | ds }}, or a macro in folder_template"
    return ""
