"""How Adobe logs in to the place that an export goes to, and how such a login is read from an Airflow connection.

Field names and patterns are those of Adobe's connection specs (GET /connectionSpecs/{id}, member `authSpec`). No error
of this module shows a value: with two fields swapped, a harmless one would hold the secret.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_provider_aep.api.masking import parts_of
from airflow_provider_aep.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "AdlsServicePrincipal",
    "AzureConnectionString",
    "Credential",
    "GcsHmacKey",
    "S3AccessKey",
    "S3AssumedRole",
    "SftpPassword",
    "SftpSshKey",
    "account",
    "auth",
    "login_from_connection",
    "secrets",
]


@dataclass(frozen=True, slots=True)
class Hidden:
    """Stands for a value that an error must not show."""

    length: int

    def __repr__(self) -> str:
        if not self.length:
            return "<empty>"
        return f"<hidden, {self.length} character{'' if self.length == 1 else 's'}>"


@dataclass(frozen=True)
class S3AccessKey:
    """Access key of an AWS user. Adobe refuses key IDs with 0, 1, 8 or 9 in them, so also most made-up ones."""

    access_key: str
    secret_key: str = field(repr=False)

    def __post_init__(self) -> None:
        _demand(self, "access_key", r"[A-Z2-7]{20}", "must be 20 characters out of A-Z and 2-7")
        _demand(self, "secret_key", r"[A-Za-z0-9/+]{40}", "must be 40 characters out of A-Z, a-z, 0-9, / and +")


@dataclass(frozen=True)
class S3AssumedRole:
    """A role that trusts Adobe's AWS account 670664943635. Source: Amazon S3 catalogue page, "Assumed role"."""

    role_arn: str

    def __post_init__(self) -> None:
        _demand(
            self, "role_arn", r"arn:aws[a-z-]*:iam::\d{12}:role/\S+", "must be arn:aws:iam::{12 digits}:role/{name}"
        )


@dataclass(frozen=True)
class AzureConnectionString:
    """Connection string of a storage account, with its account key.

    Adobe takes no shared access signature here. Source: Azure Blob catalogue page.
    """

    connection_string: str = field(repr=False)

    def __post_init__(self) -> None:
        _demand(self, "connection_string", r"\S(.*\S)?", "must not be empty and must be one line")
        if "sharedaccesssignature=" in self.connection_string.lower():
            _refuse(self, "connection_string", "holds a shared access signature; Adobe wants the account key")


@dataclass(frozen=True)
class AdlsServicePrincipal:
    """A service principal; `url` is abfss://{container}@{account}.dfs.core.windows.net."""

    url: str
    tenant: str
    client_id: str
    client_secret: str = field(repr=False)

    def __post_init__(self) -> None:
        rule = "must be abfss://{container}@{account}.dfs.core.windows.net"
        _demand(self, "url", r"abfss://[^@/\s]+@[^@/\s]+/?", rule)
        for name in ("tenant", "client_id", "client_secret"):
            _demand(self, name, r"\S+", "must not be empty and must not hold blanks")


@dataclass(frozen=True)
class GcsHmacKey:
    """HMAC key of a Google service account; a service account's JSON key file is something else."""

    access_key_id: str
    secret_access_key: str = field(repr=False)

    def __post_init__(self) -> None:
        for name in ("access_key_id", "secret_access_key"):
            _demand(self, name, r"\S+", "must not be empty and must not hold blanks")


@dataclass(frozen=True)
class SftpPassword:
    """User name and password; without `port` Adobe takes its default."""

    domain: str
    username: str
    password: str = field(repr=False)
    port: int | None = None

    def __post_init__(self) -> None:
        _demand_server(self)
        _demand(self, "password", r"[^\r\n]+", "must not be empty and must be one line")


@dataclass(frozen=True)
class SftpSshKey:
    """User name and private key: `ssh_key` is the Base64 form of an RSA key in PEM, without passphrase."""

    domain: str
    username: str
    ssh_key: str = field(repr=False)
    port: int | None = None

    def __post_init__(self) -> None:
        _demand_server(self)
        rule = "must be the Base64 form of a private key's PEM text"
        _demand(self, "ssh_key", r"[A-Za-z0-9+/]+={0,2}", rule)
        try:
            key = base64.b64decode(self.ssh_key, validate=True)
        except binascii.Error:
            key = b""
        if not key:
            _refuse(self, "ssh_key", rule)
        if key.startswith((b"ssh-", b"-----BEGIN PUBLIC", b"-----BEGIN RSA PUBLIC")):
            _refuse(self, "ssh_key", "holds a public key; Adobe needs the private one")
        if b"ENCRYPTED" in key[:200]:
            _refuse(self, "ssh_key", "is protected by a passphrase, which Adobe does not accept")


Credential = (
    S3AccessKey | S3AssumedRole | AzureConnectionString | AdlsServicePrincipal | GcsHmacKey | SftpPassword | SftpSshKey
)


def auth(credential: Credential) -> dict[str, Any]:
    """The `auth` member of a base connection: {"specName": "Access Key", "params": {"s3AccessKey": …}}. Holds secrets.

    Source: Export datasets tutorial, "Create base connection"; "Assumed Role" from the Amazon S3 catalogue page.
    """
    params: dict[str, Any]
    match credential:
        case S3AccessKey():
            name = "Access Key"
            params = {"s3AccessKey": credential.access_key, "s3SecretKey": credential.secret_key}
        case S3AssumedRole():
            name = "Assumed Role"
            params = {"s3Role": credential.role_arn}
        case AzureConnectionString():
            name = "ConnectionString"
            params = {"connectionString": credential.connection_string}
        case AdlsServicePrincipal():
            name = "Azure Service Principal Auth"
            params = {
                "url": credential.url,
                "tenant": credential.tenant,
                "servicePrincipalId": credential.client_id,
                "servicePrincipalKey": credential.client_secret,
            }
        case GcsHmacKey():
            name = "Google Cloud Storage authentication credentials"
            params = {"accessKeyId": credential.access_key_id, "secretAccessKey": credential.secret_access_key}
        case SftpPassword():
            name = "SFTP with Password"
            params = {"domain": credential.domain, "username": credential.username, "password": credential.password}
        case SftpSshKey():
            name = "SFTP with SSH Key"
            params = {"domain": credential.domain, "username": credential.username, "sshKey": credential.ssh_key}
    # An integer, as in Adobe's OpenAPI document; left out by default, since the specs of 2023 have no port.
    if isinstance(credential, SftpPassword | SftpSshKey) and credential.port is not None:
        params["port"] = credential.port
    return {"specName": name, "params": params}


def account(credential: Credential) -> str:
    """Whose storage a login opens, where the destination does not say it; nothing secret.

    Names of buckets mean one place whatever the login is; containers and paths do not.
    """
    match credential:
        case AzureConnectionString():
            parts = (part.partition("=") for part in credential.connection_string.split(";"))
            given = {name.strip().lower(): value.strip() for name, _, value in parts}
            endpoint = given.get("blobendpoint", "").rstrip("/")
            suffix = given.get("endpointsuffix", "core.windows.net")
            name = given.get("accountname", "")
            return endpoint or (name if suffix == "core.windows.net" else f"{name}.blob.{suffix}")
        case AdlsServicePrincipal():
            return credential.url.rstrip("/")
        case SftpPassword() | SftpSshKey():
            return f"{credential.username}@{credential.domain}:{credential.port or 22}"
    return ""


def secrets(credential: Credential) -> tuple[str, ...]:
    """The texts to mask in logs: every secret field, and the parts of it that could be printed alone."""
    found = [getattr(credential, member.name) for member in fields(credential) if not member.repr]
    return (*found, *(part for secret in found for part in parts_of(secret) if part))


#: Airflow's own connection types, where they say which storage is meant; any other type (such as generic) is taken.
_LOGIN_OF_TYPE = {
    "aws": "S3AccessKey",
    "wasb": "AzureConnectionString",
    "adls": "AdlsServicePrincipal",
    "azure_data_lake": "AdlsServicePrincipal",
    "google_cloud_platform": "GcsHmacKey",
    "sftp": "SftpPassword",
    "ssh": "SftpPassword",
}


def login_from_connection(
    logins: tuple[str, ...],
    *,
    conn_id: str,
    conn_type: str | None,
    host: str | None,
    login: str | None,
    password: str | None,
    port: int | None,
    extra: Mapping[str, Any],
) -> Credential:
    """The login that an Airflow connection holds, for a destination that accepts `logins` (`DestinationType.logins`).

    | destination | fields |
    | --- | --- |
    | Amazon S3 | login, password (or extra aws_access_key_id, aws_secret_access_key); or extra role_arn alone |
    | Azure Blob | extra connection_string, or password holding one, or login and password (account and key) |
    | ADLS Gen2 | host or extra url, extra tenant_id, login (client ID), password (client secret) |
    | Google Cloud Storage | login (HMAC access ID), password (HMAC secret) |
    | SFTP | host, login, password or extra private_key (PEM text, or Base64 of it), port |

    Raises:
        InvalidArgument: a field is missing, wrong or contradicts another; names connection and field, never a value.
    """
    if not logins:
        raise InvalidArgument("destination_conn_id", conn_id, "this destination takes no login: leave the argument out")
    if _LOGIN_OF_TYPE.get(conn_type or "", logins[0]) not in logins:
        rule = f"is for another storage; this destination takes {' or '.join(logins)}"
        raise InvalidArgument(f"connection {conn_id!r}, field conn_type", conn_type, rule)
    given = {"host": host, "login": login, "password": password, "port": port}
    connection = _Connection(conn_id, given | {f"extra.{name}": value for name, value in extra.items()})
    match logins[0]:
        case "S3AccessKey":
            return _s3_login(connection)
        case "AzureConnectionString":
            return _azure_login(connection)
        case "AdlsServicePrincipal":
            return connection.credential(
                AdlsServicePrincipal,
                url=("extra.url", "host"),
                tenant=("extra.tenant_id", "extra.tenant"),
                client_id=("login",),
                client_secret=("password",),
            )
        case "GcsHmacKey":
            return connection.credential(GcsHmacKey, access_key_id=("login",), secret_access_key=("password",))
        case _:
            return _sftp_login(connection)


T = TypeVar("T", bound=Credential)


class _Connection:
    """The filled fields of one connection, by the names under which a user knows them: "login", "extra.role_arn"."""

    def __init__(self, conn_id: str, given: Mapping[str, Any]) -> None:
        self.conn_id = conn_id
        self.given = {name: value for name, value in given.items() if value not in (None, "")}

    def error(self, name: str, rule: str) -> InvalidArgument:
        value = Hidden(len(str(self.given[name]))) if name in self.given else None
        return InvalidArgument(f"connection {self.conn_id!r}, field {name}", value, rule)

    def unwanted(self, rule: str, *names: str) -> None:
        for name in names:
            if name in self.given:
                raise self.error(name, rule)

    def source(self, *names: str) -> str | None:
        """Which of several fields for one thing is filled."""
        filled = [name for name in names if name in self.given]
        if len({str(self.given[name]) for name in filled}) > 1:
            raise self.error(filled[1], f"contradicts field {filled[0]}: fill one of them")
        return filled[0] if filled else None

    def credential(self, kind: type[T], /, **sources: tuple[str, ...]) -> T:
        """A credential whose members come from the named fields; a port may be missing, nothing else."""
        chosen = {member: self.source(*names) for member, names in sources.items()}
        for member, name in chosen.items():
            if name is None and member != "port":
                raise self.error(sources[member][0], f"is missing; {kind.__name__} needs it as {member}")
        try:
            return kind(**{member: self.given[name] for member, name in chosen.items() if name})
        except InvalidArgument as error:
            member = error.argument.rpartition(".")[2]
            raise self.error(chosen[member] or member, error.rule) from None


def _s3_login(connection: _Connection) -> Credential:
    connection.unwanted(
        "temporary AWS credentials end within hours, and Adobe has no field for them", "extra.aws_session_token"
    )
    keys = ("login", "password", "extra.aws_access_key_id", "extra.aws_secret_access_key")
    if connection.source("extra.role_arn"):
        connection.unwanted("contradicts field extra.role_arn: give a role or an access key, not both", *keys)
        return connection.credential(S3AssumedRole, role_arn=("extra.role_arn",))
    return connection.credential(
        S3AccessKey,
        access_key=("login", "extra.aws_access_key_id"),
        secret_key=("password", "extra.aws_secret_access_key"),
    )


def _azure_login(connection: _Connection) -> Credential:
    connection.unwanted("Adobe takes no shared access signature for exports", "extra.sas_token")
    if "extra.connection_string" in connection.given:
        return connection.credential(AzureConnectionString, connection_string=("extra.connection_string",))
    account, password = connection.given.get("login"), str(connection.given.get("password", ""))
    if account and password and "=" not in password.rstrip("="):
        # Airflow's wasb form: an account name and its key, which is Base64 and so holds "=" at its end only.
        connection.given["password"] = (
            f"DefaultEndpointsProtocol=https;AccountName={account};AccountKey={password};EndpointSuffix=core.windows.net"
        )
    return connection.credential(AzureConnectionString, connection_string=("password",))


def _sftp_login(connection: _Connection) -> Credential:
    connection.unwanted("the key file is not read; put the key itself into extra.private_key", "extra.key_file")
    connection.unwanted("Adobe accepts no key with a passphrase", "extra.private_key_passphrase")
    if "extra.private_key" not in connection.given:
        return connection.credential(
            SftpPassword, domain=("host",), username=("login",), password=("password",), port=("port",)
        )
    connection.unwanted("contradicts field extra.private_key: give a password or a key, not both", "password")
    key = str(connection.given["extra.private_key"])
    if key.lstrip().startswith("-----BEGIN"):
        key = base64.b64encode(key.strip().encode() + b"\n").decode()
    # The command line tool base64 breaks its output into lines.
    connection.given["extra.private_key"] = "".join(key.split())
    return connection.credential(
        SftpSshKey, domain=("host",), username=("login",), ssh_key=("extra.private_key",), port=("port",)
    )


def _demand(credential: object, name: str, pattern: str, rule: str) -> None:
    value = getattr(credential, name)
    if not isinstance(value, str) or not re.fullmatch(pattern, value, re.ASCII):
        _refuse(credential, name, rule)


def _demand_server(credential: SftpPassword | SftpSshKey) -> None:
    _demand(credential, "domain", r"[^\s/:@]+", "must be a host name or address, without sftp:// and port")
    _demand(credential, "username", r"[^\r\n]+", "must not be empty and must be one line")
    port = credential.port
    if port is not None and (type(port) is not int or not 0 < port < 65536):
        _refuse(credential, "port", "must be a whole number from 1 to 65535")


def _refuse(credential: object, name: str, rule: str) -> None:
    value = Hidden(len(str(getattr(credential, name))))
    raise InvalidArgument(f"{type(credential).__name__}.{name}", value, rule)
