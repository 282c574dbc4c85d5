"""What all tasks of this provider share: which errors are worth a retry, how templates fail, how a kill ends them."""

from __future__ import annotations

import logging
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.common.compat.sdk import AirflowFailException, BaseOperator

from airflow_provider_aep.arguments import check_choice, check_entity_name, check_where, entity_name
from airflow_provider_aep.destinations import is_literal
from airflow_provider_aep.errors import AepError, InvalidArgument
from airflow_provider_aep.links import AepDataflowLink, AepDataflowRunLink

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow.sdk import Context

    from airflow_provider_aep.api.effects import Procedure
    from airflow_provider_aep.api.entities import FlowRun
    from airflow_provider_aep.api.provisioning.owner import Owner
    from airflow_provider_aep.api.provisioning.policy import IfExists, SetupPolicy
    from airflow_provider_aep.api.settings import Settings
    from airflow_provider_aep.hooks import AepHook
    from airflow_provider_aep.run_wait import RunWait

log = logging.getLogger(__name__)

# What Airflow derives from a DAG run's logical date; a DAG run without one has none of these.
_OF_THE_LOGICAL_DATE = frozenset(
    {"logical_date", "data_interval_start", "data_interval_end", "ds", "ds_nodash"}
    | {"ts", "ts_nodash", "ts_nodash_with_tz"}
)


class InvalidTaskArgument(InvalidArgument, AirflowFailException):
    """A task's argument cannot be right; Airflow fails the task without a retry."""


@contextmanager
def fail_without_retry() -> Iterator[None]:
    """Turn errors that a retry cannot cure into failures that Airflow does not retry."""
    try:
        yield
    except InvalidArgument as error:
        raise InvalidTaskArgument(error.argument, error.value, error.rule) from None
    except AepError as error:
        if not error.is_final:
            raise
        raise AirflowFailException(str(error)) from error


class AepTask:
    """A mixin for Airflow operators and sensors that have `aep_conn_id` and `sandbox_name`."""

    aep_conn_id: str
    sandbox_name: str | None
    _killed = False
    _shown: frozenset[str] = frozenset()

    #: Arguments that decide how the task ends; the UI shows them beside its template fields.
    shown_options: ClassVar[tuple[str, ...]] = ()

    @property
    def options(self) -> dict[str, Any] | None:
        """What *Rendered Templates* shows beside the template fields, where a destination or schedule is a bare list.

        {"if_exists": "reuse", "destination": "AmazonS3(bucket='lake-exports', path='etl')", …}; None until destination
        and schedule are rendered, so that Jinja never renders the text of a template.
        """
        arguments = {name: getattr(self, name, None) for name in ("destination", "schedule")}
        typed = {name: value for name, value in arguments.items() if isinstance(value, tuple)}
        if not all(is_literal(member) for value in typed.values() for member in value):
            return None
        shown = {name: getattr(self, name) for name in self.shown_options}
        return {**shown, **{name: repr(value) for name, value in typed.items()}}

    @options.setter
    def options(self, rendered: object) -> None:
        """Ignore what Airflow writes back after rendering."""

    def hook(self) -> AepHook:
        from airflow_provider_aep.hooks import AepHook

        return AepHook(self.aep_conn_id, sandbox_name=self.sandbox_name)

    def show_links(
        self, context: Context, dataflow_id: str, run_id: str | None = None, *, settings: Settings | None = None
    ) -> None:
        """Give the task's page its links, as soon as an ID is known; the same ones again cost nothing.

        Asks Adobe nothing, and fails no task. `settings` saves a look at the Airflow connection.
        """
        links = {dataflow_id: AepDataflowLink(), run_id or "": AepDataflowRunLink()}
        new = {known: link for known, link in links.items() if known and known not in self._shown}
        if not new:
            return
        self._shown = self._shown.union(new)  # also if that fails, which is told once
        try:
            settings = settings or self.hook().settings()
            for link in new.values():
                if address := link.address(settings, dataflow_id, run_id or ""):
                    context["ti"].xcom_push(key=link.xcom_key, value=address)
        except Exception as error:
            log.warning("the task's page lacks a link to Adobe's UI: %r", error)

    def render_template(self, content: Any, context: Context, jinja_env: Any = None, *args: Any) -> Any:
        """Render, and say what an undefined name means. Destinations and schedules check themselves when rebuilt.

        Raises:
            InvalidTaskArgument: the template names something that this DAG run does not have, or a file that is not
                there.
        """
        with fail_without_retry():
            try:
                return super().render_template(content, context, jinja_env, *args)  # type: ignore[misc]  # Airflow's have it
            except Exception as error:
                # Loaded by now; at parse time it would cost milliseconds.
                from jinja2 import TemplateNotFound, UndefinedError, meta

                if isinstance(error, TemplateNotFound):
                    rule = "there is no such file beside the DAG or in its template_searchpath"
                    raise InvalidTaskArgument("file", content, rule) from None
                if not isinstance(error, UndefinedError) or not isinstance(content, str):
                    raise
                environment = jinja_env or self.get_template_env()  # type: ignore[attr-defined]  # Airflow's have it
                missing = meta.find_undeclared_variables(environment.parse(content)) - set(context)
                dates = ", ".join(sorted(missing & _OF_THE_LOGICAL_DATE))
                rule = f"{error}: this DAG run has nothing of that name; is it misspelt, or was it not given?"
                if dates:
                    rule = (
                        f"{error}: this DAG run has no logical date, so no {dates}. "
                        "Use {{ dag_run.run_after | ds }}, which every DAG run has"
                    )
                raise InvalidTaskArgument("template", content, rule) from None

    def on_kill(self) -> None:
        """Stop after SIGTERM or a time-out. Adobe has no call that cancels a set-up or a run."""
        self._killed = True
        log.info("told to stop; nothing is changed or cancelled at Adobe")

    def check_not_killed(self) -> None:
        """Raise if the task was killed: after SIGTERM Airflow lets it go on, and it would end as a success."""
        if self._killed:
            raise RuntimeError("the task was told to stop; the next try finds what it has set up")


class AepOperator(AepTask, BaseOperator):
    """The base of all operators: the connection, and how arguments and errors are handled.

    A subclass ends its `__init__` with `_check()`, which checks literal arguments; `execute` checks rendered ones.
    """

    ui_color = "#f5d0d0"

    def __init__(self, *, aep_conn_id: str = "aep_default", sandbox_name: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.aep_conn_id = aep_conn_id
        self.sandbox_name = sandbox_name

    def check_arguments(self) -> None:
        """Check what is known so far.

        Raises:
            InvalidArgument: an argument cannot be right.
        """
        check_where(self.aep_conn_id, self.sandbox_name)

    def _check(self) -> None:
        with fail_without_retry():
            self.check_arguments()

    def execute(self, context: Context) -> Any:
        """Do the work.

        Raises:
            AirflowFailException: the DAG, a permission or an entity must change first; a retry cannot help.
            AepError: an outage; a retry is safe.
        """
        self._check()
        with fail_without_retry():
            result = self.work(context)
        self.check_not_killed()
        return result

    def work(self, context: Context) -> Any:
        raise NotImplementedError

    def owner_of_try(self, context: Context) -> Owner:
        """As whose this try of the task marks what it creates."""
        from airflow_provider_aep.api.provisioning.owner import Owner

        ti = context["ti"]
        return Owner.of_task(self.dag_id, self.task_id, ti.run_id, ti.map_index, ti.try_number)

    def perform(self, procedure: Procedure[Any]) -> Any:
        result = self.hook().run(procedure)
        self.check_not_killed()
        return result


class AepWaitingOperator(AepOperator):
    """The base of operators that may wait for a flow run: on the worker, or deferred until `execute_complete`."""

    deferrable: bool
    poke_interval: float
    timeout: float

    def ended_run(self, wait: RunWait, *, deadline: float, carry: dict[str, Any]) -> FlowRun:
        """The run that a wait is for, once it has ended; `deadline` is in seconds since 1970 UTC.

        Raises:
            WaitTimeout: it had not ended at the deadline.
            TaskDeferred: `execute_complete` is called next; its event has `carry`.
        """
        from airflow_provider_aep.run_wait import WaitTimeout, backstop

        while True:
            run = wait.look(self.hook())
            self.check_not_killed()
            if run:
                return run
            if time.time() >= deadline:
                raise WaitTimeout(f"the wait has timed out: {wait.last_seen()}")
            if self.deferrable:
                self.log.info("waiting in the triggerer for %s", wait)
                self.defer(
                    trigger=wait.trigger(deadline=deadline, carry=carry),
                    method_name="execute_complete",
                    timeout=backstop(deadline),
                )
            self.sleep_until(min(deadline, time.time() + self.poke_interval))

    def sleep_until(self, moment: float) -> None:
        """Sleep in short pieces: SIGTERM sets a flag, but does not end a sleep."""
        while (left := moment - time.time()) > 0:
            self.check_not_killed()
            time.sleep(min(left, 1))


class AepSetupOperator(AepOperator):
    """The base of operators that set something up: its name, and what to do with what exists under that name."""

    def __init__(self, *, name: str | None = None, if_exists: IfExists = "reuse", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.name = name
        self.if_exists = if_exists

    def check_arguments(self) -> None:
        super().check_arguments()
        if self.name is not None:
            check_entity_name("name", self.name)
        check_choice("if_exists", self.if_exists, ("reuse", "update", "fail"))

    def policy(self, context: Context, *, waits: bool = False) -> SetupPolicy:
        """How this task sets up, and as whose its creations are marked."""
        from airflow_provider_aep.api.provisioning.policy import SetupPolicy

        shares_name = self.name is not None and is_mapped(context)
        visibility_seconds = self.hook().settings().visibility_seconds
        return SetupPolicy(self.if_exists, self.owner_of_try(context), visibility_seconds, shares_name, waits)

    def entity_name(self, context: Context, *content: object) -> str:
        """The name given, or dag_id.task_id, which no other task of this Airflow has.

        The names of mapped tasks differ by `content`, what goes where: not by the index, which changes with the order
        of the list, nor by what `if_exists="update"` may change, such as the format.
        """
        if self.name is not None:
            return entity_name("name", self.name)
        name = f"{self.dag_id}.{self.task_id}"
        if is_mapped(context):
            import hashlib

            name += f" {hashlib.sha256(repr(content).encode()).hexdigest()[:8]}"
        return entity_name("name (default: dag_id.task_id)", name)


def is_mapped(context: Context) -> bool:
    map_index = context["ti"].map_index
    return map_index is not None and map_index >= 0
