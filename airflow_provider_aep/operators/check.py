"""Look after the exports of a sandbox: tell what is wrong with them, and keep them from ending."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException

from airflow_provider_aep.arguments import check_choice, check_health, dataflow_ids, days, seconds
from airflow_provider_aep.tasks import AepOperator

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from airflow.sdk import Context

    from airflow_provider_aep.destinations import Text

__all__ = ["AepCheckDataflowsOperator"]

_MOST_TOLD = 20  # dataflows in a message; the table has them all
_COLUMNS = {
    "problems": "problems",
    "name": "dataflow",
    "dataflow_id": "ID",
    "state": "state",
    "ends_at": "ends",
    "last_run_at": "last run",
    "last_run_status": "outcome",
}


class AepCheckDataflowsOperator(AepOperator):
    """Tells what is wrong with dataset exports: one, several, or all of the sandbox; moves their end if asked to.

    :param dataflow_ids: an ID, several, or what a task returns that sets up exports (templated)
    :param name_pattern: or all whose name matches; `*`, `?` and `[…]` as in file names, case counts (templated)
    :param on_problem: what happens to the task then: "fail" (default), "warn" (it succeeds) or "skip"
    :param ends_within: a timedelta or a number of days; what ends sooner is a problem
    :param extend_end: a timedelta or a number of days: what ends within `ends_within`, or has ended, ends so long from
        now instead. Without `dataflow_ids` and `name_pattern` only where this provider made it
    :param grace: how long after its slot a run may be missing; a timedelta or a number of seconds
    :param empty_runs: so many runs in a row without a record are a problem; None: no number is, as for data that rarely
        changes
    :param ignore: words of problems that are none here, such as ["unmanaged"]
    :param aep_conn_id: Airflow connection of type `aep` (templated)
    :param sandbox_name: instead of the connection's (templated)

    Returns a dict for each dataflow, those with problems first: {"dataflow_id", "name", "state", "is_managed",
    "ends_at", "extended_from", "last_run_id", "last_run_status", "last_run_at", "problems", "details"}; times as ISO
    8601 text in UTC. `problems` are words, `details` a sentence for each:

    - "gone": Adobe does not know a dataflow of `dataflow_ids`
    - "disabled": or in another state in which it exports nothing
    - "ended", "ending": it ends within `ends_within`; a one-time export may end
    - "overdue": its last slot, `grace` ago or more, has no run
    - "failed", "partial": its last run that has ended
    - "empty": its last `empty_runs` runs exported nothing
    - "unmanaged": made by somebody else, and named neither by `dataflow_ids` nor by `name_pattern`

    With `on_problem="fail"` and "skip" the list is in XCom as well.

    Raises:
        InvalidArgument: an argument cannot be right, or an ID belongs to a dataflow that exports no datasets.
        AirflowFailException: there are problems, or no export to look at. A retry cannot help.
        AepError: an outage; a retry is safe, and moves no end twice.
    """

    template_fields: Sequence[str] = ("aep_conn_id", "sandbox_name", "dataflow_ids", "name_pattern", "options")
    shown_options = ("on_problem", "ends_within", "extend_end", "grace", "empty_runs", "ignore")

    def __init__(
        self,
        *,
        dataflow_ids: Text | Mapping[str, Any] | Sequence[Text | Mapping[str, Any]] | None = None,
        name_pattern: str | None = None,
        on_problem: Literal["fail", "warn", "skip"] = "fail",
        ends_within: timedelta | float = 30,
        extend_end: timedelta | float | None = None,
        grace: timedelta | float = 21_600,
        empty_runs: int | None = None,
        ignore: Collection[str] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.dataflow_ids = dataflow_ids
        self.name_pattern = name_pattern
        self.on_problem = on_problem
        self.ends_within = ends_within
        self.extend_end = extend_end
        self.grace = grace
        self.empty_runs = empty_runs
        self.ignore = ignore
        self._check()

    def check_arguments(self) -> None:
        super().check_arguments()
        check_choice("on_problem", self.on_problem, ("fail", "warn", "skip"))
        seconds("grace", self.grace)
        check_health(
            self.dataflow_ids, self.name_pattern, self.ends_within, self.extend_end, self.empty_runs, self.ignore
        )

    def work(self, context: Context) -> list[dict[str, Any]]:
        from airflow_provider_aep.api.health import HealthRules, check_dataflows

        rules = HealthRules(
            ends_within_seconds=days("ends_within", self.ends_within).total_seconds(),
            grace_seconds=seconds("grace", self.grace),
            empty_runs=self.empty_runs,
            extend_seconds=None if self.extend_end is None else days("extend_end", self.extend_end).total_seconds(),
            ignored=frozenset([self.ignore] if isinstance(self.ignore, str) else self.ignore or ()),
        )
        ids = () if self.dataflow_ids is None else dataflow_ids(self.dataflow_ids)
        healths = self.perform(check_dataflows(rules, dataflow_ids=ids, name_pattern=self.name_pattern or ""))
        rows = [each.summary() for each in healths]
        if rows:
            self.log.info("%s", table(rows))
        told = summary_text(rows, self.hook().settings().sandbox_name, self.name_pattern)
        if any(row["problems"] for row in rows) or not rows:
            self._end(context, rows, told)
        else:
            self.log.info("%s", told)
        return rows

    def _end(self, context: Context, rows: list[dict[str, Any]], told: str) -> None:
        if self.on_problem == "warn":
            self.log.warning("%s", told)
            return
        if self.on_problem == "skip":
            self.log.info("%s", told)  # Airflow's web page folds its own line about a skip away
        if self.do_xcom_push:
            context["ti"].xcom_push(key="return_value", value=rows)
        raise AirflowSkipException(told) if self.on_problem == "skip" else AirflowFailException(told)


def summary_text(rows: Sequence[Mapping[str, Any]], sandbox_name: str, name_pattern: str | None) -> str:
    """ "problems with 2 of 14 dataset exports of sandbox 'prod' (1 ended, 1 failed):", and a line for each of them."""
    if not rows:
        named = f" of a name like {name_pattern!r}" if name_pattern else ""
        return f"there is no dataset export{named} in sandbox {sandbox_name!r}"
    where = f"{len(rows)} dataset export{'s'[: len(rows) > 1]} of sandbox {sandbox_name!r}"
    bad = [row for row in rows if row["problems"]]
    if not bad:
        return f"no problem with {where}"
    counts = Counter(word for row in bad for word in row["problems"])
    words = ", ".join(f"{count} {word}" for word, count in counts.items())
    lines = [f"dataflow {_named(row)}: {'; '.join(row['details'])}" for row in bad[:_MOST_TOLD]]
    if len(bad) > _MOST_TOLD:
        lines.append(f"{len(bad) - _MOST_TOLD} more stand in the log's table")
    return "\n".join([f"problems with {len(bad)} of {where} ({words}):", *lines])


def _named(row: Mapping[str, Any]) -> str:
    return f"{row['name']!r} ({row['dataflow_id']})" if row["name"] else str(row["dataflow_id"])


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows below one another, as a person reads them."""
    lines = [list(_COLUMNS.values()), *([_cell(name, row) for name in _COLUMNS] for row in rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(_COLUMNS))]
    padded = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    return "\n".join(["the exports:", *(line.rstrip() for line in padded)])


def _cell(name: str, row: Mapping[str, Any]) -> str:
    value = row[name]
    if name == "problems":
        return ", ".join(value) or "none"
    text = str(value)[:16] + "Z" if name.endswith("_at") and value else str(value or "-")
    return f"{text} (was {str(row['extended_from'])[:10]})" if name == "ends_at" and row["extended_from"] else text
