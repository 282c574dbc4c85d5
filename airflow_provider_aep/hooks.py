"""Speak to Adobe with the credential of an Airflow connection: typed methods for operators and for your own tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar, Unpack

from airflow.providers.common.compat.sdk import BaseHook

from airflow_provider_aep.airflow_connection import login_of, named_by, settings_of
from airflow_provider_aep.api.session import AsyncSession, Session
from airflow_provider_aep.errors import AepError, InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from airflow_provider_aep.api.credentials import Login
    from airflow_provider_aep.api.effects import Call, Procedure
    from airflow_provider_aep.api.entities import Dataflow, Dataset, FlowRun
    from airflow_provider_aep.api.provisioning.desired import DesiredBaseConnection, DesiredExport, ExportIds
    from airflow_provider_aep.api.provisioning.policy import IfExists, SetupPolicy
    from airflow_provider_aep.api.settings import Settings
    from airflow_provider_aep.arguments import Datasets, NamedExport
    from airflow_provider_aep.destinations import Destination, DestinationType, Text
    from airflow_provider_aep.schedules import Schedule

__all__ = ["AepHook"]

T = TypeVar("T")


class AepHook(BaseHook):
    """Speaks to Adobe with the credential of an Airflow connection of type `aep`.

    The connection's fields: login (client ID), password (client secret), host (gateway, default
    https://platform.adobe.io), port (the gateway's, unless the host names one), extra `org_id`, `sandbox_name`
    (default prod), `scopes`, `ims_host`. A `sandbox_name` given here overrides the connection's.

    Creating a hook reads and sends nothing. A method that asks Adobe blocks until the answer is there; its twin with an
    `a` before the name is awaited and never blocks the event loop.

    :param aep_conn_id: Airflow connection of type `aep`
    :param sandbox_name: instead of the connection's

    Raises (every method that asks Adobe):
        InvalidArgument: an argument or the connection cannot be right; nothing was sent.
        RequestRefused: Adobe said no: AccessDenied, EntityNotFound ….
        PlatformUnavailable: Adobe cannot be reached, after six attempts.
        UnexpectedReply: the reply is not as Adobe documents it.
    """

    conn_name_attr = "aep_conn_id"
    default_conn_name = "aep_default"
    conn_type = "aep"
    hook_name = "Adobe Experience Platform"

    def __init__(self, aep_conn_id: str = default_conn_name, *, sandbox_name: str | None = None) -> None:
        super().__init__()
        self.aep_conn_id = aep_conn_id
        self.sandbox_name = sandbox_name
        self._logins: dict[tuple[str, str], Login] = {}

    def run(self, procedure: Procedure[T] | Call[T]) -> T:
        """Run a procedure, such as those of `api.queries`, and return its result."""
        with self.get_conn() as session:
            return session.run(procedure)

    async def arun(self, procedure: Procedure[T] | Call[T]) -> T:
        """`run`, awaited."""
        async with self.open_async_session(await self.asettings()) as session:
            return await session.run(procedure)

    # -- what is there ------------------------------------------------------------------------------------------------

    def list_datasets(
        self,
        *,
        dataset_ids: Datasets | None = None,
        names: Sequence[Text] | Text | None = None,
        name_pattern: str | None = None,
    ) -> list[Dataset]:
        """The datasets that Adobe lets you export: all, or those of the given IDs, names or name pattern.

        IDs and names come back in their order. In a pattern `*`, `?` and `[…]` match as in file names; case counts.

        Raises:
            InvalidArgument: an ID or name is not among them, a name means several datasets, or two ways are mixed.

        Source: "Retrieve a list of eligible datasets" in
        https://experienceleague.adobe.com/en/docs/experience-platform/destinations/api/export-datasets
        """
        return self.run(_list_datasets(self.settings(), dataset_ids, names, name_pattern))

    async def alist_datasets(
        self,
        *,
        dataset_ids: Datasets | None = None,
        names: Sequence[Text] | Text | None = None,
        name_pattern: str | None = None,
    ) -> list[Dataset]:
        """`list_datasets`, awaited."""
        return await self.arun(_list_datasets(await self.asettings(), dataset_ids, names, name_pattern))

    def list_dataflows(self) -> list[Dataflow]:
        """All dataflows of the sandbox, newest first: exports, and whatever else the Flow Service runs there."""
        from airflow_provider_aep.api.queries import list_dataflows

        return self.run(list_dataflows())

    async def alist_dataflows(self) -> list[Dataflow]:
        """`list_dataflows`, awaited."""
        from airflow_provider_aep.api.queries import list_dataflows

        return await self.arun(list_dataflows())

    def list_runs(
        self, dataflow_id: str, *, since: datetime | str | None = None, limit: int | None = None
    ) -> list[FlowRun]:
        """The flow runs of a dataflow, newest first: all, those created at or after `since`, or the newest `limit`.

        `since` is a datetime with a zone or its ISO 8601 text; a run's own times are in milliseconds since 1970 UTC.

        Source: GET /runs in https://developer.adobe.com/experience-platform-apis/references/destinations/
        """
        return self.run(_list_runs(dataflow_id, since, limit))

    async def alist_runs(
        self, dataflow_id: str, *, since: datetime | str | None = None, limit: int | None = None
    ) -> list[FlowRun]:
        """`list_runs`, awaited."""
        return await self.arun(_list_runs(dataflow_id, since, limit))

    def get_run(self, run_id: str) -> FlowRun:
        """One flow run as it is now.

        Raises:
            EntityNotFound: Adobe knows no such run.
        """
        return self.run(_get_run(run_id))

    async def aget_run(self, run_id: str) -> FlowRun:
        """`get_run`, awaited."""
        return await self.arun(_get_run(run_id))

    # -- setting up ---------------------------------------------------------------------------------------------------

    def set_up_export(self, *, if_exists: IfExists = "reuse", **export: Unpack[NamedExport]) -> ExportIds:
        """Set up a whole export exactly once, as `AepExportDatasetsOperator` does, whose arguments these are.

        Within a task, a retry completes what an earlier try began. Returns the IDs, and the datasets as Adobe lists
        them.

        Raises:
            InvalidArgument: an argument or the login's connection cannot be right; nothing was sent.
            EntityExists: an export of this name differs, and `if_exists` does not let it be changed.
            AmbiguousName: several entities bear the name.
        """
        from airflow_provider_aep.api.provisioning.export import set_up_export

        return self.run(set_up_export(self.desired_export(**export), _setup_policy(self, if_exists, self.settings())))

    async def aset_up_export(self, *, if_exists: IfExists = "reuse", **export: Unpack[NamedExport]) -> ExportIds:
        """`set_up_export`, awaited."""
        from asgiref.sync import sync_to_async

        from airflow_provider_aep.api.provisioning.export import set_up_export

        policy = _setup_policy(self, if_exists, await self.asettings())
        return await self.arun(set_up_export(await sync_to_async(self.desired_export)(**export), policy))

    def desired_export(
        self,
        *,
        name: str,
        dataset_ids: Datasets,
        destination: Destination,
        schedule: Schedule,
        destination_conn_id: str | None = None,
        base_connection_id: Text | None = None,
        base_connection_name: str | None = None,
        file_type: str = "PARQUET",
        compression: str = "GZIP",
        include_file_manifest: bool | None = None,
        folder_template: str | None = None,
    ) -> DesiredExport:
        """An export as values, with the login that its Airflow connection holds. Nothing is sent.

        Raises:
            InvalidArgument: an argument or a field of the connection cannot be right.
        """
        from airflow_provider_aep.api.entities import BaseConnectionId
        from airflow_provider_aep.api.provisioning.desired import DesiredExport
        from airflow_provider_aep.arguments import check_export, entity_id, entity_name
        from airflow_provider_aep.arguments import dataset_ids as listed_ids
        from airflow_provider_aep.destinations import destination_type, target_params

        check_export(
            dataset_ids=dataset_ids,
            destination=destination,
            schedule=schedule,
            destination_conn_id=destination_conn_id,
            base_connection_id=base_connection_id,
            base_connection_name=base_connection_name,
            file_type=file_type,
            compression=compression,
            include_file_manifest=include_file_manifest,
            folder_template=folder_template,
        )
        base, base_id = None, ""
        if base_connection_id is None:
            base = self.desired_base_connection(destination, destination_conn_id, base_connection_name)
        else:
            base_id = entity_id("base_connection_id", base_connection_id)
        return DesiredExport(
            name=entity_name("name", name),
            dataset_ids=listed_ids(dataset_ids),
            destination_type=destination_type(destination),
            target_params=target_params(
                destination,
                file_type=file_type,
                compression=compression,
                include_file_manifest=include_file_manifest,
            ),
            schedule=schedule,
            folder_template=folder_template,
            base=base,
            base_connection_id=BaseConnectionId(base_id),
        )

    def desired_base_connection(
        self, destination: Destination, destination_conn_id: str | None, name: str | None
    ) -> DesiredBaseConnection:
        """The login of an Airflow connection as a value; its secrets are masked in logs.

        Without a `name` it is called "airflow <destination_conn_id>".

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

    def destination_login(self, destination_conn_id: str | None, destination_type: DestinationType) -> Login | None:
        """The login that another Airflow connection holds for a destination, masked in logs; None where none is needed.

        A hook reads each connection once, however many exports share it.

        Raises:
            InvalidArgument: the connection does not hold what the destination needs, or is given where none is taken.
        """
        if not destination_type.logins:
            if destination_conn_id:
                rule = f"{destination_type.name} takes no login"
                raise InvalidArgument("destination_conn_id", destination_conn_id, rule)
            return None
        if not destination_conn_id:
            raise InvalidArgument("destination_conn_id", destination_conn_id, f"{destination_type.name} needs a login")
        key = (destination_type.name, destination_conn_id)
        if key not in self._logins:
            with named_by("destination_conn_id", destination_conn_id):
                connection = self.get_connection(destination_conn_id)
            self._logins[key] = login_of(connection, conn_id=destination_conn_id, destination_type=destination_type)
        return self._logins[key]

    # -- the connection -----------------------------------------------------------------------------------------------

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
            InvalidArgument: a field is missing or cannot be right; names the field, never a secret.
        """
        with named_by("aep_conn_id", self.aep_conn_id):
            connection = self.get_connection(self.aep_conn_id)
        return settings_of(
            connection, connection.extra_dejson, conn_id=self.aep_conn_id, sandbox_name=self.sandbox_name
        )

    async def asettings(self) -> Settings:
        """`settings`, awaited."""
        from airflow.providers.common.compat.connection import get_async_connection, get_async_extra_dejson

        with named_by("aep_conn_id", self.aep_conn_id):
            connection = await get_async_connection(self.aep_conn_id)
        extra = await get_async_extra_dejson(connection)
        return settings_of(connection, extra, conn_id=self.aep_conn_id, sandbox_name=self.sandbox_name)

    def test_connection(self) -> tuple[bool, str]:
        """Whether the connection may do what an export needs, and what works or which step fails, with Adobe's code.

        Always asks for a new token, so that a withdrawn secret does not pass.
        """
        from airflow_provider_aep.api.auth import token_cache
        from airflow_provider_aep.api.queries import check_access

        try:
            with self.get_conn() as session:
                token_cache(session.settings).forget()
                return session.run(check_access(session.settings.sandbox_name))
        except AepError as error:
            return False, str(error)


def _list_datasets(
    settings: Settings, ids: Datasets | None, names: Sequence[Text] | Text | None, name_pattern: str | None
) -> Procedure[list[Dataset]]:
    from airflow_provider_aep.api.queries import list_datasets
    from airflow_provider_aep.arguments import check_selection, dataset_ids, texts

    check_selection(ids, names, name_pattern)
    return list_datasets(
        dataset_ids=() if ids is None else dataset_ids(ids),
        names=texts("names", names),
        name_pattern=name_pattern or "",
        sandbox_name=settings.sandbox_name,
    )


def _list_runs(dataflow_id: str, since: datetime | str | None, limit: int | None) -> Procedure[list[FlowRun]]:
    from airflow_provider_aep.api.entities import DataflowId
    from airflow_provider_aep.api.queries import list_runs
    from airflow_provider_aep.arguments import entity_id, moment_ms

    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise InvalidArgument("limit", limit, "must be a number of runs, 1 or more; or None for all")
    since_ms = moment_ms("since", since)
    return list_runs(DataflowId(entity_id("dataflow_id", dataflow_id)), since_ms=since_ms, limit=limit)


def _get_run(run_id: str) -> Call[FlowRun]:
    from airflow_provider_aep.api.calls import get_run
    from airflow_provider_aep.api.entities import FlowRunId
    from airflow_provider_aep.arguments import entity_id

    return get_run(FlowRunId(entity_id("run_id", run_id)))


def _setup_policy(hook: AepHook, if_exists: IfExists, settings: Settings) -> SetupPolicy:
    """How the running task sets up; outside of tasks, how anybody does who has this connection."""
    from airflow.sdk import get_current_context

    from airflow_provider_aep.api.provisioning.owner import Owner
    from airflow_provider_aep.api.provisioning.policy import SetupPolicy
    from airflow_provider_aep.arguments import check_choice

    check_choice("if_exists", if_exists, ("reuse", "update", "fail"))
    try:
        ti = get_current_context()["ti"]
    except RuntimeError:  # outside of a task nobody can tell whether this is the first try
        owner = Owner.of_task("hook", hook.aep_conn_id, "without a task", None, try_number=2)
        return SetupPolicy(if_exists, owner, settings.visibility_seconds)
    owner = Owner.of_task(ti.dag_id, ti.task_id, ti.run_id, ti.map_index, ti.try_number)
    is_mapped = ti.map_index is not None and ti.map_index >= 0
    return SetupPolicy(if_exists, owner, settings.visibility_seconds, shares_name=is_mapped)


async def _mask_in_loop(token: str) -> None:
    """Mask a new token in the triggerer's logs; Airflow before 3.3.2 can only block for that."""
    from airflow.sdk import log

    if hasattr(log, "amask_secret"):
        await log.amask_secret(token)
    else:
        from asgiref.sync import sync_to_async

        await sync_to_async(log.mask_secret)(token)
