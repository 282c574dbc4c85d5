"""Airflow connection -> session; methods for operators, and for the tasks that users write themselves."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict, TypeVar, Unpack
from urllib.parse import urlsplit

from airflow.providers.common.compat.sdk import AirflowNotFoundException, BaseHook, conf

from airflow_provider_aep.api.session import AsyncSession, Session
from airflow_provider_aep.api.settings import GATEWAY, IMS, SCOPES, Settings
from airflow_provider_aep.errors import AepError, Hidden, InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

    from airflow.providers.common.compat.sdk import Connection

    from airflow_provider_aep.api.credentials import Login
    from airflow_provider_aep.api.effects import Call, Procedure
    from airflow_provider_aep.api.entities import Dataflow, Dataset, FlowRun
    from airflow_provider_aep.api.provisioning.desired import DesiredBaseConnection, DesiredExport, ExportIds
    from airflow_provider_aep.api.provisioning.policy import IfExists, SetupPolicy
    from airflow_provider_aep.arguments import Datasets
    from airflow_provider_aep.destinations import Destination, DestinationType
    from airflow_provider_aep.schedules import Schedule

__all__ = ["AepHook"]

T = TypeVar("T")


class ExportArguments(TypedDict):
    """What an export consists of; each member is described at `operators.AepExportDatasetsOperator`."""

    name: str
    dataset_ids: Datasets
    destination: Destination
    schedule: Schedule
    destination_conn_id: NotRequired[str | None]
    base_connection_id: NotRequired[str | None]
    base_connection_name: NotRequired[str | None]
    file_type: NotRequired[str]
    compression: NotRequired[str]
    include_file_manifest: NotRequired[bool | None]
    folder_template: NotRequired[str | None]


class AepHook(BaseHook):
    """Speaks to the Flow Service with the credential of an Airflow connection of type `aep`.

    Connection fields: login (client ID), password (client secret), host (gateway, default https://platform.adobe.io),
    port (of the gateway, unless the host names one), extra `org_id`, `sandbox_name` (default prod), `scopes`,
    `ims_host`. The sandbox is the argument, else the connection's, else `prod`, and is sent with every request.

    Nothing is read or sent before a method is called. Each method that asks Adobe blocks until it has an answer; its
    twin, with an `a` before its name, is awaited and never holds the event loop.

    Raises (all methods that ask Adobe):
        AepError: see `errors`.
    """

    conn_name_attr = "aep_conn_id"
    default_conn_name = "aep_default"
    conn_type = "aep"
    hook_name = "Adobe Experience Platform"

    def __init__(self, aep_conn_id: str = default_conn_name, *, sandbox_name: str | None = None) -> None:
        super().__init__()
        self.aep_conn_id = aep_conn_id
        self.sandbox_name = sandbox_name

    def run(self, procedure: Procedure[T] | Call[T]) -> T:
        """Perform a procedure, such as those of `api.queries`, and return its result."""
        with self.get_conn() as session:
            return session.run(procedure)

    async def arun(self, procedure: Procedure[T] | Call[T]) -> T:
        """`run`, awaited."""
        async with self.open_async_session(await self.asettings()) as session:
            return await session.run(procedure)

    def list_datasets(
        self, *, dataset_ids: Datasets | None = None, names: list[str] | None = None, pattern: str = ""
    ) -> list[Dataset]:
        """The datasets that may be exported: all, or those of the given IDs, names, or name pattern (`*`, `?`, `[…]`).

        Raises:
            InvalidArgument: an ID or a name is not among them, or a name means several datasets.
        """
        return self.run(_list_datasets(self.settings().sandbox_name, dataset_ids, names, pattern))

    async def alist_datasets(
        self, *, dataset_ids: Datasets | None = None, names: list[str] | None = None, pattern: str = ""
    ) -> list[Dataset]:
        """`list_datasets`, awaited."""
        return await self.arun(_list_datasets((await self.asettings()).sandbox_name, dataset_ids, names, pattern))

    def list_dataflows(self) -> list[Dataflow]:
        """The dataflows of the sandbox, newest first: exports, and whatever else the Flow Service runs there."""
        from airflow_provider_aep.api.queries import list_dataflows

        return self.run(list_dataflows())

    async def alist_dataflows(self) -> list[Dataflow]:
        """`list_dataflows`, awaited."""
        from airflow_provider_aep.api.queries import list_dataflows

        return await self.arun(list_dataflows())

    def list_runs(self, dataflow_id: str, *, since: datetime | str | None = None) -> list[FlowRun]:
        """The flow runs of a dataflow, newest first, created at or after `since` (with a zone)."""
        return self.run(_list_runs(dataflow_id, since))

    async def alist_runs(self, dataflow_id: str, *, since: datetime | str | None = None) -> list[FlowRun]:
        """`list_runs`, awaited."""
        return await self.arun(_list_runs(dataflow_id, since))

    def get_run(self, run_id: str) -> FlowRun:
        """One flow run as it is now.

        Raises:
            EntityNotFound: Adobe knows no such run.
        """
        return self.run(_get_run(run_id))

    async def aget_run(self, run_id: str) -> FlowRun:
        """`get_run`, awaited."""
        return await self.arun(_get_run(run_id))

    def set_up_export(self, *, if_exists: IfExists = "reuse", **export: Unpack[ExportArguments]) -> ExportIds:
        """A whole export, exactly once, as `AepExportDatasetsOperator` sets it up; returns what Adobe lists.

        Within a task, a retry continues what an earlier try has begun.

        Raises:
            InvalidArgument: an argument cannot be right; nothing was sent.
            EntityExists: an export of this name differs, and `if_exists` does not let it be changed.
        """
        from airflow_provider_aep.api.provisioning.export import set_up_export

        return self.run(set_up_export(self.desired_export(**export), self._policy(if_exists, self.settings())))

    async def aset_up_export(self, *, if_exists: IfExists = "reuse", **export: Unpack[ExportArguments]) -> ExportIds:
        """`set_up_export`, awaited."""
        from asgiref.sync import sync_to_async

        from airflow_provider_aep.api.provisioning.export import set_up_export

        policy = self._policy(if_exists, await self.asettings())
        return await self.arun(set_up_export(await sync_to_async(self.desired_export)(**export), policy))

    def desired_export(self, **export: Unpack[ExportArguments]) -> DesiredExport:
        """An export as values, checked, with the login that its Airflow connection holds; nothing is sent.

        Raises:
            InvalidArgument: an argument or a field of the connection cannot be right.
        """
        from airflow_provider_aep.api.entities import BaseConnectionId
        from airflow_provider_aep.api.provisioning.desired import DesiredExport
        from airflow_provider_aep.arguments import check_schedule, dataset_ids, entity_id, entity_name
        from airflow_provider_aep.destinations import destination_type, target_params

        destination, conn_id = export["destination"], export.get("destination_conn_id")
        base_id, base_name = export.get("base_connection_id"), export.get("base_connection_name")
        check_schedule(export["schedule"], export.get("folder_template"))
        params = target_params(
            destination,
            file_type=export.get("file_type", "PARQUET"),
            compression=export.get("compression", "GZIP"),
            include_file_manifest=export.get("include_file_manifest"),
        )
        return DesiredExport(
            name=entity_name("name", export["name"]),
            dataset_ids=dataset_ids(export["dataset_ids"]),
            destination_type=destination_type(destination),
            target_params=params,
            schedule=export["schedule"],
            folder_template=export.get("folder_template"),
            base=None if base_id else self.desired_base_connection(destination, conn_id, base_name),
            base_connection_id=BaseConnectionId(entity_id("base_connection_id", base_id) if base_id else ""),
        )

    def desired_base_connection(
        self, destination: Destination, destination_conn_id: str | None, name: str | None
    ) -> DesiredBaseConnection:
        """The login of an Airflow connection as a value; its secrets are masked in logs. `name` as for the operators.

        Raises:
            InvalidArgument: the connection does not hold what the destination needs.
        """
        from airflow_provider_aep.api.credentials import auth
        from airflow_provider_aep.api.provisioning.desired import DesiredBaseConnection
        from airflow_provider_aep.arguments import base_connection_name
        from airflow_provider_aep.destinations import destination_type

        row = destination_type(destination)
        login = self.destination_login(destination_conn_id, row)
        name = base_connection_name(destination, destination_conn_id, name)
        if login is None:
            return DesiredBaseConnection(name, row, None)
        return DesiredBaseConnection(name, row, auth(login), login.account)

    def _policy(self, if_exists: IfExists, settings: Settings) -> SetupPolicy:
        from airflow.sdk import get_current_context

        from airflow_provider_aep.api.provisioning.owner import Owner
        from airflow_provider_aep.api.provisioning.policy import SetupPolicy
        from airflow_provider_aep.arguments import check_choice

        check_choice("if_exists", if_exists, ("reuse", "update", "fail"))
        try:
            ti = get_current_context()["ti"]
        except RuntimeError:  # no task; nobody can tell whether this is the first try
            owner = Owner.of_task("hook", self.aep_conn_id, "without a task", None, try_number=2)
        else:
            owner = Owner.of_task(ti.dag_id, ti.task_id, ti.run_id, ti.map_index, ti.try_number)
        return SetupPolicy(if_exists, owner, settings.visibility_seconds)

    def get_conn(self) -> Session:
        """A session for several procedures: `with hook.get_conn() as session: session.run(…)`."""
        from airflow.sdk.log import mask_secret

        return Session(self.settings(), on_token=mask_secret)

    def open_async_session(self, settings: Settings) -> AsyncSession:
        """A session in the running event loop, for settings from `asettings`."""
        return AsyncSession(settings, on_token=_mask_in_loop)

    def settings(self) -> Settings:
        """What the connection says, checked.

        Raises:
            InvalidArgument: a field is missing or cannot be right; names it, and no secret.
        """
        with _connection_named("aep_conn_id", self.aep_conn_id):
            connection = self.get_connection(self.aep_conn_id)
        return self._settings(connection, connection.extra_dejson)

    async def asettings(self) -> Settings:
        """The same without holding the event loop."""
        from airflow.providers.common.compat.connection import get_async_connection, get_async_extra_dejson

        with _connection_named("aep_conn_id", self.aep_conn_id):
            connection = await get_async_connection(self.aep_conn_id)
        return self._settings(connection, await get_async_extra_dejson(connection))

    def _settings(self, connection: Connection, extra: Mapping[str, Any]) -> Settings:
        try:
            return Settings(
                client_id=(connection.login or "").strip(),
                client_secret=(connection.password or "").strip(),
                org_id=_text(extra, "org_id", ""),
                sandbox_name=self.sandbox_name or _text(extra, "sandbox_name", "prod"),
                gateway=_address(connection.host, connection.schema, connection.port),
                ims=_text(extra, "ims_host", IMS),
                scopes=_text(extra, "scopes", SCOPES),
                connect_seconds=_setting(extra, "connect_timeout", 10),
                read_seconds=_setting(extra, "read_timeout", 65),
                max_retry_after_seconds=_setting(extra, "max_retry_after", 300),
                visibility_seconds=conf.getfloat("aep", "visibility_seconds", fallback=10),
            )
        except InvalidArgument as error:
            if error.argument == "sandbox_name" and self.sandbox_name:
                raise  # it is the hook's own argument, of which the connection knows nothing
            where = f"Airflow connection {self.aep_conn_id!r}: {error.argument}"
            raise InvalidArgument(where, error.value, error.rule) from None

    def test_connection(self) -> tuple[bool, str]:
        """Prove that the connection is good for exports; a failure names the step, Adobe's code and the request ID.

        A new token is asked for, so that a secret that has been withdrawn does not pass.
        """
        from airflow_provider_aep.api.auth import token_cache
        from airflow_provider_aep.api.queries import check_access

        try:
            with self.get_conn() as session:
                token_cache(session.settings).forget()
                return session.run(check_access(session.settings.sandbox_name))
        except AepError as error:
            return False, str(error)

    def destination_login(self, destination_conn_id: str | None, destination_type: DestinationType) -> Login | None:
        """The login that another Airflow connection holds for a destination; every secret of it is masked in logs.

        Raises:
            InvalidArgument: the connection does not hold what the destination needs, or is given where none is taken.
        """
        from airflow.sdk.log import mask_secret

        from airflow_provider_aep.api.credentials import login_from_connection, secrets

        if not destination_type.logins:
            if destination_conn_id:
                raise InvalidArgument(
                    "destination_conn_id", destination_conn_id, f"{destination_type.name} takes no login"
                )
            return None
        if not destination_conn_id:
            raise InvalidArgument("destination_conn_id", destination_conn_id, f"{destination_type.name} needs a login")
        with _connection_named("destination_conn_id", destination_conn_id):
            connection = self.get_connection(destination_conn_id)
        credential = login_from_connection(
            destination_type.logins,
            conn_id=destination_conn_id,
            conn_type=connection.conn_type,
            host=connection.host,
            login=connection.login,
            password=connection.password,
            port=connection.port,
            extra=connection.extra_dejson,
        )
        # Airflow masks no shorter ones, and writes a warning into the task's log when it is asked to.
        shortest = conf.getint("logging", "min_length_masked_secret", fallback=5)
        for secret in secrets(credential):
            if len(secret) >= shortest:
                mask_secret(secret)
        return credential


def _list_datasets(
    sandbox_name: str, ids: Datasets | None, names: list[str] | None, pattern: str
) -> Procedure[list[Dataset]]:
    from airflow_provider_aep.api.queries import list_datasets
    from airflow_provider_aep.arguments import dataset_ids, texts

    wanted = () if ids is None else dataset_ids(ids)
    return list_datasets(ids=wanted, names=texts("names", names), pattern=pattern, sandbox_name=sandbox_name)


def _list_runs(dataflow_id: str, since: datetime | str | None) -> Procedure[list[FlowRun]]:
    from airflow_provider_aep.api.entities import DataflowId
    from airflow_provider_aep.api.queries import list_runs
    from airflow_provider_aep.arguments import entity_id, moment_ms

    return list_runs(DataflowId(entity_id("dataflow_id", dataflow_id)), since_ms=moment_ms("since", since))


def _get_run(run_id: str) -> Call[FlowRun]:
    from airflow_provider_aep.api.calls import get_run
    from airflow_provider_aep.api.entities import FlowRunId
    from airflow_provider_aep.arguments import entity_id

    return get_run(FlowRunId(entity_id("run_id", run_id)))


@contextmanager
def _connection_named(argument: str, conn_id: str) -> Iterator[None]:
    """Say which argument named an Airflow connection that is not there."""
    try:
        yield
    except AirflowNotFoundException:
        rule = "there is no Airflow connection of this ID: create it, or name another one"
        raise InvalidArgument(argument, conn_id, rule) from None


def _text(extra: Mapping[str, Any], name: str, default: str) -> str:
    value = extra.get(name)
    if value is None:
        return default
    if not isinstance(value, str):
        # A secret may have been pasted into the wrong field.
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
    """The gateway from host, schema and port, as a connection URI splits them; a port in the host comes first.

    The scheme's own port is left out, so that waits share a poll whether their connections name it or not.
    """
    host = (host or "").strip() or GATEWAY
    address = (host if "://" in host else f"{schema or 'https'}://{host}").rstrip("/")
    try:
        parts = urlsplit(address)
        # 443 may stand beside an emulator's address with its own: Airflow tests only what has a port stored.
        whole = parts.netloc if parts.port is not None or not port else f"{parts.netloc}:{port}"
    except ValueError:  # no address: `Settings` refuses it
        return address
    usual = {"https": ":443", "http": ":80"}.get(parts.scheme, "")
    return address.replace(f"//{parts.netloc}", f"//{whole.removesuffix(usual)}", 1)


async def _mask_in_loop(token: str) -> None:
    """Mask a new token in the triggerer's logs; before Airflow 3.3.2 there is only a blocking way."""
    from airflow.sdk import log

    if hasattr(log, "amask_secret"):
        await log.amask_secret(token)
    else:
        from asgiref.sync import sync_to_async

        await sync_to_async(log.mask_secret)(token)
