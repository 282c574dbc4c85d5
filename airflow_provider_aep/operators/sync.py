"""Make a whole list of exports true in one task: exports as code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_aep.arguments import check_texts, check_where, texts
from airflow_provider_aep.errors import InvalidArgument, ReplyError, SyncFailed
from airflow_provider_aep.tasks import AepOperator, is_mapped

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow.sdk import Context

    from airflow_provider_aep.api.provisioning.sync import SandboxExport, SyncOutcome
    from airflow_provider_aep.arguments import SandboxedExport
    from airflow_provider_aep.destinations import Text
    from airflow_provider_aep.errors import AepError
    from airflow_provider_aep.hooks import AepHook

__all__ = ["AepSyncExportsOperator"]


class AepSyncExportsOperator(AepOperator):
    """Makes a list of exports true, in one or more sandboxes: creates what is missing, changes what differs.

    Each sandbox is read once, in pages; the log tells the plan in one table; only differences are applied, several
    exports side by side, each exactly once as by `AepExportDatasetsOperator(if_exists="update")`. One failure does not
    stop the others.

    :param exports: a list of mappings with the arguments of `AepHook.set_up_export` and, where it is not the task's,
        `sandbox_name`; or the name of a YAML file that holds such a list, in which destinations and schedules are
        mappings with a `type`, such as `{type: AmazonS3, bucket: lake-exports, path: etl}` (templated)
    :param prune: remove the exports that this very task has made or was the last to change and that the list no longer
        holds; not where an export has failed
    :param plan_only: tell the plan, and change nothing
    :param send_credentials: send the credentials of each login again, once; secrets are never compared
    :param allow_empty: let an empty list with `prune` remove all exports of this task
    :param sandbox_names: sandboxes that the list speaks for beside those that it names, such as one whose last export
        has just left the list (templated)
    :param aep_conn_id: Airflow connection of type `aep`, for all sandboxes (templated)
    :param sandbox_name: of exports that name none, instead of the connection's (templated)

    Returns one dict for each export, in the order of the list: {"sandbox_name", "name", "action" ("create", "change"
    or "keep"), "base_connection_id", "source_connection_id", "target_connection_id", "dataflow_id", "dataset_ids"};
    and under the XCom keys `failed` and `pruned` what has failed ({"sandbox_name", "name", "error"}) and what has been
    pruned ({"sandbox_name", "name", "dataflow_id"}). With `plan_only` the plan: [{"sandbox_name", "name", "action",
    "why", "dataflow_id"}].

    Raises:
        InvalidArgument: an entry of the list cannot be right, or a sandbox would hold more destinations than Adobe
            allows; nothing was made.
        AirflowFailException: some exports failed, each for good; a retry cannot help.
        SyncFailed: some exports failed, and a retry may help some of them.
    """

    template_fields: Sequence[str] = ("aep_conn_id", "sandbox_name", "exports", "sandbox_names", "options")
    template_ext: Sequence[str] = (".yaml", ".yml")
    template_fields_renderers = {"exports": "yaml"}  # noqa: RUF012 - Airflow's form
    shown_options = ("prune", "plan_only", "send_credentials", "allow_empty")

    def __init__(
        self,
        *,
        exports: Sequence[SandboxedExport | Mapping[str, Any]] | Text,
        prune: bool = False,
        plan_only: bool = False,
        send_credentials: bool = False,
        allow_empty: bool = False,
        sandbox_names: Sequence[Text] | Text | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.exports = exports
        self.prune = prune
        self.plan_only = plan_only
        self.send_credentials = send_credentials
        self.allow_empty = allow_empty
        self.sandbox_names = sandbox_names
        self._check()

    def prepare_template(self) -> None:
        """Check a YAML file as soon as Airflow has read it, so that a wrong one is an import error of the DAG."""
        self._check()

    def check_arguments(self) -> None:
        from airflow_provider_aep.export_list import check_exports  # only a DAG that syncs pays for it

        super().check_arguments()
        for argument in self.shown_options:
            if not isinstance(getattr(self, argument), bool):
                raise InvalidArgument(argument, getattr(self, argument), "must be True or False")
        check_texts("sandbox_names", self.sandbox_names)
        if check_exports(self.exports) == [] and self.prune and not self.allow_empty:
            rule = "with prune=True, removes every export of this task: if that is meant, set allow_empty=True"
            raise InvalidArgument("exports", self.exports, rule)

    def work(self, context: Context) -> list[dict[str, Any]]:
        from airflow_provider_aep.api.provisioning.policy import SetupPolicy
        from airflow_provider_aep.api.provisioning.sync import sync_exports

        if self.prune and is_mapped(context):
            rule = "cannot tell the exports of one mapped task from those of another: list all in one task"
            raise InvalidArgument("prune", self.prune, rule)
        hook = self.hook()
        settings = hook.settings()
        wanted = self._wanted(hook, settings.sandbox_name)
        sandbox_names = texts("sandbox_names", self.sandbox_names)
        for name in sandbox_names:
            check_where(self.aep_conn_id, name)
        if not wanted and not sandbox_names:
            sandbox_names = [settings.sandbox_name]
        policy = SetupPolicy(
            "update", self.owner_of_try(context), settings.visibility_seconds, shares_name=is_mapped(context)
        )
        outcome = self.perform(
            sync_exports(
                wanted,
                policy,
                sandbox_names=sandbox_names,
                prune=self.prune,
                plan_only=self.plan_only,
                send_credentials=self.send_credentials,
                is_stopped=lambda: self._killed,
            )
        )
        return self._result(context, outcome)

    def _wanted(self, hook: AepHook, sandbox_name: str) -> list[SandboxExport]:
        from airflow_provider_aep.api.provisioning.sync import SandboxExport
        from airflow_provider_aep.export_list import check_names, listed_exports, named

        wanted = []
        for entry in listed_exports(self.exports):
            with named(f"export {entry.export['name']!r}"):
                desired = hook.desired_export(**entry.export)
            wanted.append(SandboxExport(entry.sandbox_name or sandbox_name, desired))
        check_names((each.sandbox_name, each.desired.name) for each in wanted)
        return wanted

    def _result(self, context: Context, outcome: SyncOutcome) -> list[dict[str, Any]]:
        """The result; or, once everything is pushed to XCom, one failure that tells all."""
        rows = outcome.plan.rows() if self.plan_only else outcome.rows()
        failures = outcome.failures
        if self.plan_only:  # a refusal is part of the plan; what could not be read is not in it
            failures = {key: error for key, error in failures.items() if isinstance(error, ReplyError)}
        failed = [
            {"sandbox_name": sandbox_name, "name": name, "error": str(error)}
            for (sandbox_name, name), error in failures.items()
        ]
        if self.do_xcom_push:
            context["ti"].xcom_push(key="failed", value=failed)
            context["ti"].xcom_push(key="pruned", value=outcome.removed)
            if failed:
                context["ti"].xcom_push(key="return_value", value=rows)
        if failed:
            raise _failure(outcome, failures)
        return rows


def _failure(outcome: SyncOutcome, failures: Mapping[tuple[str, str], AepError]) -> Exception:
    told = "\n".join(
        f"{f'export {name!r} in ' if name else ''}sandbox {where!r}: {error}"
        for (where, name), error in failures.items()
    )
    fine = sum(key not in failures for key in outcome.ids)
    text = f"{len(failures)} failed, {fine} of {len(outcome.plan.exports)} exports are as the list says:\n{told}"
    return AirflowFailException(text) if all(each.is_final for each in failures.values()) else SyncFailed(text)
