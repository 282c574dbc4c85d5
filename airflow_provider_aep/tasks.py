"""What every task of this provider does alike: which errors are worth a retry, and what becomes of it when killed."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_aep.api.errors import AepError, InvalidExport

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_aep.hooks import AepHook

log = logging.getLogger(__name__)


class InvalidArgument(InvalidExport, AirflowFailException):
    """A DAG argument that cannot be right, raised from a task: Airflow need not try again."""


@contextmanager
def failing_at_once() -> Iterator[None]:
    """Errors that no further try can cure become failures that Airflow does not retry."""
    try:
        yield
    except InvalidExport as error:
        raise InvalidArgument(error.argument, error.value, error.rule) from None
    except AepError as error:
        if not error.is_final:
            raise
        raise AirflowFailException(str(error)) from error


class AepTask:
    """Mixed into an Airflow operator or sensor that has `aep_conn_id` and `sandbox_name`."""

    aep_conn_id: str
    sandbox_name: str | None
    _killed = False

    def hook(self) -> AepHook:
        from airflow_provider_aep.hooks import AepHook

        return AepHook(self.aep_conn_id, sandbox_name=self.sandbox_name)

    def render_template(self, *args: Any, **kwargs: Any) -> Any:
        """Destinations and schedules check themselves when Airflow rebuilds them from rendered values."""
        with failing_at_once():
            try:
                return super().render_template(*args, **kwargs)  # type: ignore[misc]  # Airflow's operators have it
            except Exception as error:
                if type(error).__name__ != "UndefinedError":  # Jinja's, which costs milliseconds to import
                    raise
                rule = (
                    f"{error}: not every DAG run has it; a manual one may have no logical date. "
                    "Use {{ dag_run.run_after | ds }}, which each has"
                )
                raise InvalidArgument("template", args[0] if args else None, rule) from None

    def on_kill(self) -> None:
        """Told to stop by SIGTERM or a time-out. Nothing is changed or cancelled at Adobe: it has no call for that."""
        self._killed = True
        log.info("told to stop; nothing is changed or cancelled at Adobe by that")

    def check_not_killed(self) -> None:
        """After SIGTERM Airflow lets the task go on, and it would end as a success."""
        if self._killed:
            raise RuntimeError("the task was told to stop; what it has set up will be found by the next try")
