"""How Adobe logs in to a storage account, and how such a login is read from an Airflow connection.

A login is one class. Its fields say what Adobe calls them, which fields of an Airflow connection may hold them and what
they must look like; what is done with a login follows from that. No error shows a value: with two fields swapped, a
harmless one would hold the secret.

Names and patterns are those of `authSpec` in Adobe's connection specs (GET /connectionSpecs/{id}). Sources:
tutorial: https://experienceleague.adobe.com/en/docs/experience-platform/destinations/api/export-datasets
catalogue: https://experienceleague.adobe.com/en/docs/experience-platform/destinations/catalog/cloud-storage/{destination}
destinations OpenAPI: https://developer.adobe.com/experience-platform-apis/references/destinations/
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, ClassVar, NamedTuple, TypeVar, dataclass_transform

from airflow_provider_aep.api.masking import parts_of
from airflow_provider_aep.errors import Hidden, InvalidArgument

T = TypeVar("T")
#: The rule that a value breaks, or "".
Check = Callable[[Any], str]


class AuthParam(NamedTuple):
    """One member of Adobe's `auth.params`."""

    name: str
    broken_rule: Check
    sources: tuple[str, ...]  # fields of an Airflow connection that may hold it


def _param(name: str, check: Check, *sources: str, secret: bool = False) -> Any:
    return field(repr=not secret, metadata={"param": AuthParam(name, check, sources)})


@dataclass_transform(frozen_default=True, field_specifiers=(_param, field))
def _login(cls: type[T]) -> type[T]:
    return dataclass(frozen=True)(cls)


def _params(login_type: type[Login]) -> list[tuple[Field[Any], AuthParam]]:
    return [(each, each.metadata["param"]) for each in fields(login_type)]


def _matches(pattern: str, rule: str) -> Check:
    return lambda value: "" if isinstance(value, str) and re.fullmatch(pattern, value, re.ASCII) else rule


def _connection_string(value: object) -> str:
    rule = _matches(r"\S(.*\S)?", "must not be empty and must be one line")(value)
    if not rule and "sharedaccesssignature=" in str(value).lower():
        return "holds a shared access signature; Adobe wants the account key"
    return rule


def _private_key(value: object) -> str:
    rule = "must be the Base64 form of a private key's PEM text"
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9+/]+={0,2}", value, re.ASCII):
        return rule
    try:
        key = base64.b64decode(value, validate=True)
    except binascii.Error:
        return rule
    if key.startswith((b"ssh-", b"-----BEGIN PUBLIC", b"-----BEGIN RSA PUBLIC")):
        return "holds a public key; Adobe needs the private one"
    return "is protected by a passphrase, which Adobe does not accept" if b"ENCRYPTED" in key[:200] else ""


def _port(value: object) -> str:
    is_port = value is None or (type(value) is int and 0 < value < 65536)
    return "" if is_port else "must be a whole number from 1 to 65535"


_WORD = _matches(r"\S+", "must not be empty and must not hold blanks")
_LINE = _matches(r"[^\r\n]+", "must not be empty and must be one line")
_HOST = _matches(r"[^\s/:@]+", "must be a host name or address, without sftp:// and port")
_ABFSS = _matches(r"abfss://[^@/\s]+@[^@/\s]+/?", "must be abfss://{container}@{account}.dfs.core.windows.net")
_AWS_KEY_ID = _matches(r"[A-Z2-7]{20}", "must be 20 characters out of A-Z and 2-7")
_AWS_SECRET = _matches(r"[A-Za-z0-9/+]{40}", "must be 40 characters out of A-Z, a-z, 0-9, / and +")
_AWS_ROLE = _matches(r"arn:aws[a-z-]*:iam::\d{12}:role/\S+", "must be arn:aws:iam::{12 digits}:role/{name}")


@_login
class Login:
    """How Adobe logs in to a storage account."""

    #: Adobe's name for this way of logging in.
    spec_name: ClassVar[str]
    #: Airflow's connection types for this storage; those of another storage are refused, any further one is taken.
    connection_types: ClassVar[tuple[str, ...]] = ()
    #: The connection field that, once filled, chooses this login rather than the destination's first one.
    chosen_by: ClassVar[str] = ""
    #: Connection fields that must be empty, and why.
    refused: ClassVar[Mapping[str, str]] = {}

    def __post_init__(self) -> None:
        for each, param in _params(type(self)):
            value = getattr(self, each.name)
            rule = param.broken_rule(value)
            if rule:
                raise InvalidArgument(f"{type(self).__name__}.{each.name}", Hidden(len(str(value))), rule)

    @property
    def account(self) -> str:
        """Whose storage it opens, as far as the destination does not say it; nothing secret.

        The name of a bucket means one place whatever the login is; that of a container or a path does not.
        """
        return ""

    @classmethod
    def adapted(cls, filled: Mapping[str, Any]) -> Mapping[str, Any]:
        """The filled fields of a connection, turned from Airflow's form into Adobe's."""
        return filled


_AWS_REFUSED = {
    "extra.aws_session_token": "temporary AWS credentials end within hours, and Adobe has no field for them"
}


@_login
class S3AccessKey(Login):
    """Access key of an AWS user. Adobe refuses key IDs with 0, 1, 8 or 9 in them, so also most made-up ones."""

    spec_name = "Access Key"
    connection_types = ("aws",)
    refused = _AWS_REFUSED

    access_key: str = _param("s3AccessKey", _AWS_KEY_ID, "login", "extra.aws_access_key_id")
    secret_key: str = _param("s3SecretKey", _AWS_SECRET, "password", "extra.aws_secret_access_key", secret=True)


@_login
class S3AssumedRole(Login):
    """A role that trusts Adobe's AWS account 670664943635. Source: catalogue, amazon-s3, "Assumed role"."""

    spec_name = "Assumed Role"
    connection_types = ("aws",)
    chosen_by = "extra.role_arn"
    refused: ClassVar = _AWS_REFUSED | dict.fromkeys(
        ("login", "password", "extra.aws_access_key_id", "extra.aws_secret_access_key"),
        "contradicts field extra.role_arn: give a role or an access key, not both",
    )

    role_arn: str = _param("s3Role", _AWS_ROLE, "extra.role_arn")


@_login
class AzureConnectionString(Login):
    """Connection string of a storage account, with its account key.

    Adobe takes no shared access signature here. Source: catalogue, azure-blob.
    """

    spec_name = "ConnectionString"
    connection_types = ("wasb",)
    refused: ClassVar = {"extra.sas_token": "Adobe takes no shared access signature for exports"}

    connection_string: str = _param(
        "connectionString", _connection_string, "password", "extra.connection_string", secret=True
    )

    @property
    def account(self) -> str:
        parts = (part.partition("=") for part in self.connection_string.split(";"))
        values = {name.strip().lower(): value.strip() for name, _, value in parts}
        endpoint = values.get("blobendpoint", "").rstrip("/")
        suffix = values.get("endpointsuffix", "core.windows.net")
        name = values.get("accountname", "")
        return endpoint or (name if suffix == "core.windows.net" else f"{name}.blob.{suffix}")

    @classmethod
    def adapted(cls, filled: Mapping[str, Any]) -> Mapping[str, Any]:
        """Airflow's wasb form: an account name and its key, which is Base64 and so holds "=" at its end only."""
        if "extra.connection_string" in filled:
            return {name: value for name, value in filled.items() if name != "password"}
        name, key = filled.get("login"), str(filled.get("password", ""))
        if not name or not key or "=" in key.rstrip("="):
            return filled
        parts = ("DefaultEndpointsProtocol=https", f"AccountName={name}", f"AccountKey={key}")
        return {**filled, "password": ";".join((*parts, "EndpointSuffix=core.windows.net"))}


@_login
class AdlsServicePrincipal(Login):
    """A service principal; `url` is abfss://{container}@{account}.dfs.core.windows.net."""

    spec_name = "Azure Service Principal Auth"
    connection_types = ("adls", "azure_data_lake")

    url: str = _param("url", _ABFSS, "extra.url", "host")
    tenant: str = _param("tenant", _WORD, "extra.tenant_id", "extra.tenant")
    client_id: str = _param("servicePrincipalId", _WORD, "login")
    client_secret: str = _param("servicePrincipalKey", _WORD, "password", secret=True)

    @property
    def account(self) -> str:
        return self.url.rstrip("/")


@_login
class GcsHmacKey(Login):
    """HMAC key of a Google service account; a service account's JSON key file is something else."""

    spec_name = "Google Cloud Storage authentication credentials"
    connection_types = ("google_cloud_platform",)

    access_key_id: str = _param("accessKeyId", _WORD, "login")
    secret_access_key: str = _param("secretAccessKey", _WORD, "password", secret=True)


@_login
class _SftpLogin(Login):
    """A user of a server. The specs of 2023 have no `port`; source: catalogue, sftp; an integer in the OpenAPI."""

    connection_types = ("sftp", "ssh")
    refused: ClassVar = {
        "extra.key_file": "the key file is not read; put the key itself into extra.private_key",
        "extra.private_key_passphrase": "Adobe accepts no key with a passphrase",
    }

    domain: str = _param("domain", _HOST, "host")
    username: str = _param("username", _LINE, "login")
    port: int | None = field(default=None, kw_only=True, metadata={"param": AuthParam("port", _port, ("port",))})

    @property
    def account(self) -> str:
        return f"{self.username}@{self.domain}:{self.port or 22}"


@_login
class SftpPassword(_SftpLogin):
    """User name and password; without `port` Adobe takes its default."""

    spec_name = "SFTP with Password"

    password: str = _param("password", _LINE, "password", secret=True)


@_login
class SftpSshKey(_SftpLogin):
    """User name and private key: `ssh_key` is the Base64 form of an RSA key in PEM, without passphrase."""

    spec_name = "SFTP with SSH Key"
    chosen_by = "extra.private_key"
    refused: ClassVar = _SftpLogin.refused | {
        "password": "contradicts field extra.private_key: give a password or a key, not both"
    }

    ssh_key: str = _param("sshKey", _private_key, "extra.private_key", secret=True)

    @classmethod
    def adapted(cls, filled: Mapping[str, Any]) -> Mapping[str, Any]:
        """PEM text becomes Base64, without the line breaks that the command `base64` makes."""
        key = str(filled.get("extra.private_key", ""))
        if key.lstrip().startswith("-----BEGIN"):
            key = base64.b64encode(key.strip().encode() + b"\n").decode()
        return {**filled, "extra.private_key": "".join(key.split())} if key else filled


_ALL = (S3AccessKey, S3AssumedRole, AzureConnectionString, AdlsServicePrincipal, GcsHmacKey, SftpPassword, SftpSshKey)
#: By the names that the destinations' rows give them.
LOGINS: Mapping[str, type[Login]] = {each.__name__: each for each in _ALL}


def auth(login: Login) -> dict[str, Any]:
    """The `auth` member of a base connection: {"specName": "Access Key", "params": {"s3AccessKey": …}}. Holds secrets.

    Source: tutorial, "Create base connection".
    """
    values = ((param.name, getattr(login, each.name)) for each, param in _params(type(login)))
    return {"specName": login.spec_name, "params": {name: value for name, value in values if value is not None}}


def account_in(params: Mapping[str, Any]) -> str:
    """`Login.account`, from the `auth.params` that Adobe shows of a base connection; "" where it shows none.

    What Adobe masks has not the form of an address, so it counts as not shown. A port may be missing.
    """
    url, host, user = (str(params.get(name) or "") for name in ("url", "domain", "username"))
    if re.fullmatch(r"abfss://[\w.-]+@[\w.-]+/?", url):
        return url.rstrip("/")
    if re.fullmatch(r"[\w-]+(\.[\w-]+)+", host) and re.fullmatch(r"[\w.@+-]+", user):
        return f"{user}@{host}:{params['port']}" if params.get("port") else f"{user}@{host}"
    return ""


def secrets(login: Login) -> tuple[str, ...]:
    """The texts to mask in logs: every secret field, and the parts of it that could be printed alone."""
    found = [getattr(login, each.name) for each in fields(login) if not each.repr]
    return (*found, *(part for secret in found for part in parts_of(secret) if part))


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
) -> Login:
    """The login that an Airflow connection holds, for a destination that accepts `logins` (`DestinationType.logins`).

    Raises:
        InvalidArgument: a field is missing, wrong or contradicts another; names connection and field, never a value.
    """
    if not logins:
        raise InvalidArgument("destination_conn_id", conn_id, "this destination takes no login: leave the argument out")
    accepted = [LOGINS[name] for name in logins]
    of_type = [each for each in LOGINS.values() if conn_type in each.connection_types]
    if of_type and not set(of_type) & set(accepted):
        rule = f"is for another storage; this destination takes {' or '.join(logins)}"
        raise InvalidArgument(f"connection {conn_id!r}, field conn_type", conn_type, rule)
    connection = {"host": host, "login": login, "password": password, "port": port}
    connection |= {f"extra.{name}": value for name, value in extra.items()}
    filled = {name: value for name, value in connection.items() if value not in (None, "")}

    def error(name: str, rule: str) -> InvalidArgument:
        value = Hidden(len(str(filled[name]))) if name in filled else None
        return InvalidArgument(f"connection {conn_id!r}, field {name}", value, rule)

    login_type = next((one for one in accepted if one.chosen_by in filled), accepted[0])
    for name, reason in login_type.refused.items():
        if name in filled:
            raise error(name, reason)
    adapted = login_type.adapted(filled)
    sources: dict[str, str] = {}
    for each, param in _params(login_type):
        found = [name for name in param.sources if name in adapted]
        if len({str(adapted[name]) for name in found}) > 1:
            raise error(found[1], f"contradicts field {found[0]}: fill one of them")
        if found:
            sources[each.name] = found[0]
        elif each.default is MISSING:
            raise error(param.sources[0], f"is missing; {login_type.__name__} needs it as {each.name}")
    try:
        return login_type(**{name: adapted[source] for name, source in sources.items()})
    except InvalidArgument as broken:
        raise error(sources[broken.argument.rpartition(".")[2]], broken.rule) from None
