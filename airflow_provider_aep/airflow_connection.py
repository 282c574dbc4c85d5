"""What an Airflow connection holds: the settings of every request, or the login at a storage account."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow.providers.common.compat.sdk import AirflowNotFoundException, conf

from airflow_provider_aep.api.settings import ADHOC_ACCEPT, GATEWAY, IMS, SCOPES, Settings
from airflow_provider_aep.errors import Hidden, InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from airflow.providers.common.compat.sdk import Connection

    from airflow_provider_aep.api.credentials import Login
    from airflow_provider_aep.destinations import DestinationType


@contextmanager
def named_by(argument: str, conn_id: str) -> Iterator[None]:
    """Turn Airflow's error for a missing connection into one that says which argument names it."""
    try:
        yield
    except AirflowNotFoundException:
        rule = "there is no Airflow connection of this ID: create it, or name another one"
        raise InvalidArgument(argument, conn_id, rule) from None


def settings_of(
    connection: Connection, extra: Mapping[str, Any], *, conn_id: str, sandbox_name: str | None
) -> Settings:
    """The settings that a connection of type `aep` holds; `sandbox_name` overrides its own.

    Raises:
        InvalidArgument: a field is missing or cannot be right; names the field, never a secret.
    """
    try:
        return Settings(
            client_id=(connection.login or "").strip(),
            client_secret=(connection.password or "").strip(),
            org_id=_text(extra, "org_id", ""),
            sandbox_name=sandbox_name or _text(extra, "sandbox_name", "prod"),
            gateway=_address(connection.host, connection.schema, connection.port),
            ims=_text(extra, "ims_host", IMS),
            scopes=_text(extra, "scopes", SCOPES),
            connect_seconds=_setting(extra, "connect_timeout", 10),
            read_seconds=_setting(extra, "read_timeout", 65),
            max_retry_after_seconds=_setting(extra, "max_retry_after", 300),
            visibility_seconds=conf.getfloat("aep", "visibility_seconds", fallback=10),
            adhoc_accept=_text(extra, "adhoc_accept", conf.get("aep", "adhoc_accept", fallback=ADHOC_ACCEPT)),
        )
    except InvalidArgument as error:
        if error.argument == "sandbox_name" and sandbox_name:
            raise  # the caller named it, not the connection
        where = f"Airflow connection {conn_id!r}: {error.argument}"
        raise InvalidArgument(where, error.value, error.rule) from None


def login_of(connection: Connection, *, conn_id: str, destination_type: DestinationType) -> Login:
    """The login that a connection holds for a destination; its secrets are masked in logs from now on.

    Raises:
        InvalidArgument: a field is missing or cannot be right; names the field, never a value.
    """
    from airflow.sdk.log import mask_secret

    from airflow_provider_aep.api.credentials import login_from_connection, secrets

    login = login_from_connection(
        destination_type.logins,
        conn_id=conn_id,
        conn_type=connection.conn_type,
        host=connection.host,
        login=connection.login,
        password=connection.password,
        port=connection.port,
        extra=connection.extra_dejson,
    )
    # Airflow does not mask shorter ones, and logs a warning if asked to.
    shortest = conf.getint("logging", "min_length_masked_secret", fallback=5)
    for secret in secrets(login):
        if len(secret) >= shortest:
            mask_secret(secret)
    return login


def _text(extra: Mapping[str, Any], name: str, default: str) -> str:
    value = extra.get(name)
    if value is None:
        return default
    if not isinstance(value, str):
        # Somebody may have pasted a secret into the wrong field.
        raise InvalidArgument(name, Hidden(len(str(value))) if name == "org_id" else value, "must be text")
    return value.strip() or default


def _setting(extra: Mapping[str, Any], name: str, default: float) -> float:
    """Seconds from the connection's extra, else from `[aep]` in Airflow's configuration."""
    value = extra.get(name)
    if value in (None, ""):
        return float(conf.getfloat("aep", name, fallback=default))
    try:
        return float(value)
    except (TypeError, ValueError):
        raise InvalidArgument(name, value, "must be a number of seconds") from None


def _address(host: str | None, schema: str | None, port: int | None) -> str:
    """The gateway from host, schema and port, as Airflow splits a connection URI; a port in the host wins.

    The scheme's own port is dropped, so that waits share a poll whether or not their connections name it.
    """
    host = (host or "").strip() or GATEWAY
    address = (host if "://" in host else f"{schema or 'https'}://{host}").rstrip("/")
    try:
        parts = urlsplit(address)
        # The port field may hold 443 beside an emulator's address with its own port: Airflow's Test needs one stored.
        whole = parts.netloc if parts.port is not None or not port else f"{parts.netloc}:{port}"
    except ValueError:  # not an address: `Settings` refuses it
        return address
    usual = {"https": ":443", "http": ":80"}.get(parts.scheme, "")
    return address.replace(f"//{parts.netloc}", f"//{whole.removesuffix(usual)}", 1)
