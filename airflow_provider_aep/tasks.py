"""What every task of this provider does alike: which errors are worth a retry, and what becomes of it when killed."""

from __future__ import annotations

import logging
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.common.compat.sdk import AirflowFailException, BaseOperator

from airflow_provider_aep.arguments import check_where
from airflow_provider_aep.destinations import is_literal
from airflow_provider_aep.errors import AepError, InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow.sdk import Context

    from airflow_provider_aep.api.effects import Procedure
    from airflow_provider_aep.hooks import AepHook

log = logging.getLogger(__name__)

# What a template may use of a DAG run's logical date.
_OF_THE_DATE = re.compile(r"'((ds|ts)(_\w+)?|logical_date|data_interval_(start|end))' is undefined")


class InvalidTaskArgument(InvalidArgument, AirflowFailException):
    """A DAG argument that cannot be right, raised from a task: Airflow need not try again."""


@contextmanager
def fail_without_retry() -> Iterator[None]:
    """Errors that no further try can cure become failures that Airflow does not retry."""
    try:
        yield
    except InvalidArgument as error:
        raise InvalidTaskArgument(error.argument, error.value, error.rule) from None
    except AepError as error:
        if not error.is_final:
            raise
        raise AirflowFailException(str(error)) from error


class AepTask:
    """Mixed into an Airflow operator or sensor that has `aep_conn_id` and `sandbox_name`."""

    aep_conn_id: str
    sandbox_name: str | None
    _killed = False

    #: Arguments that decide how the task ends, beside its template fields; the UI shows them with those.
    shown_options: ClassVar[tuple[str, ...]] = ()

    @property
    def options(self) -> dict[str, Any] | None:
        """For the UI's rendered templates, which show a destination or schedule as a bare list: {"if_exists": "reuse",
        "destination": "AmazonS3(bucket='lake-exports', path='etl')", …}.

        None as long as something is not rendered, so that Jinja never meets the text of a template.
        """
        arguments = {name: getattr(self, name, None) for name in ("destination", "schedule")}
        typed = {name: value for name, value in arguments.items() if isinstance(value, tuple)}
        if not all(is_literal(member) for value in typed.values() for member in value):
            return None
        told = {name: getattr(self, name) for name in self.shown_options}
        return {**told, **{name: repr(value) for name, value in typed.items()}}

    @options.setter
    def options(self, rendered: object) -> None:
        """Airflow writes back what it has rendered; there is nothing to keep."""

    def hook(self) -> AepHook:
        from airflow_provider_aep.hooks import AepHook

        return AepHook(self.aep_conn_id, sandbox_name=self.sandbox_name)

    def render_template(self, *args: Any, **kwargs: Any) -> Any:
        """Destinations and schedules check themselves when Airflow rebuilds them from rendered values."""
        with fail_without_retry():
            try:
                return super().render_template(*args, **kwargs)  # type: ignore[misc]  # Airflow's operators have it
            except Exception as error:
                if type(error).__name__ != "UndefinedError":  # Jinja's, which costs milliseconds to import
                    raise
                rule = f"{error}: this DAG run has nothing of that name; is it misspelt, or was it not given?"
                if _OF_THE_DATE.search(str(error)):
                    rule = (
                        f"{error}: not every DAG run has it; a manual one may have no logical date. "
                        "Use {{ dag_run.run_after | ds }}, which each has"
                    )
                raise InvalidTaskArgument("template", args[0] if args else None, rule) from None

    def on_kill(self) -> None:
        """Told to stop by SIGTERM or a time-out. Nothing is changed or cancelled at Adobe: it has no call for that."""
        self._killed = True
        log.info("told to stop; nothing is changed or cancelled at Adobe by that")

    def check_not_killed(self) -> None:
        """After SIGTERM Airflow lets the task go on, and it would end as a success."""
        if self._killed:
            raise RuntimeError("the task was told to stop; what it has set up will be found by the next try")


class AepOperator(AepTask, BaseOperator):
    """What all operators share: the connection, and how arguments and errors are treated.

    A subclass ends its `__init__` with `_check()`, which checks what is literal; `execute` checks what was rendered.
    """

    ui_color = "#f5d0d0"

    def __init__(self, *, aep_conn_id: str = "aep_default", sandbox_name: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.aep_conn_id = aep_conn_id
        self.sandbox_name = sandbox_name

    def check_arguments(self) -> None:
        """Raises InvalidArgument for an argument that is known and cannot be right."""
        check_where(self.aep_conn_id, self.sandbox_name)

    def _check(self) -> None:
        with fail_without_retry():
            self.check_arguments()

    def execute(self, context: Context) -> Any:
        """Do the work.

        Raises:
            AirflowFailException: the DAG, a permission or an entity must change first; Airflow need not try again.
            AepError: an outage; trying again is safe.
        """
        self._check()
        with fail_without_retry():
            result = self.work(context)
        self.check_not_killed()
        return result

    def work(self, context: Context) -> Any:
        raise NotImplementedError

    def perform(self, procedure: Procedure[Any]) -> Any:
        result = self.hook().run(procedure)
        self.check_not_killed()
        return result
