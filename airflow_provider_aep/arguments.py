"""The rules for what a DAG or a task may ask for, checked when the DAG is parsed and again when templates are rendered.

A function named `check_…` accepts what is not known yet, a template or an upstream output; the others need a value. All
raise `InvalidArgument`, which names the argument, the value and the rule.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, NotRequired, TypedDict

from airflow_provider_aep.destinations import check_format, destination_type, is_literal
from airflow_provider_aep.errors import InvalidArgument
from airflow_provider_aep.schedules import Every, Once, check_folder_template

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow_provider_aep.api.entities import DatasetId
    from airflow_provider_aep.destinations import Destination, Text
    from airflow_provider_aep.schedules import Schedule

    Datasets = Text | Mapping[str, str] | Sequence[Text | Mapping[str, Text]]

Decision = Literal["fail", "succeed", "skip"]


class ExportArguments(TypedDict):
    """What an export is made of; `operators.AepExportDatasetsOperator` describes each argument."""

    dataset_ids: Datasets
    destination: Destination
    schedule: Schedule
    destination_conn_id: NotRequired[str | None]
    base_connection_id: NotRequired[Text | None]
    base_connection_name: NotRequired[str | None]
    file_type: NotRequired[str]
    compression: NotRequired[str]
    include_file_manifest: NotRequired[bool | None]
    folder_template: NotRequired[str | None]


class NamedExport(ExportArguments):
    """The same with the name that its source connection, target connection and dataflow bear."""

    name: str


class SandboxedExport(NamedExport):
    """An export of `operators.AepSyncExportsOperator`; `sandbox_name` is the task's where it is missing."""

    sandbox_name: NotRequired[str | None]


def check_export(
    *,
    dataset_ids: object,
    destination: object,
    schedule: object,
    destination_conn_id: object = None,
    base_connection_id: object = None,
    base_connection_name: object = None,
    file_type: str = "PARQUET",
    compression: str = "GZIP",
    include_file_manifest: object = None,
    folder_template: str | None = None,
) -> None:
    """Check the arguments of an export, each and together."""
    check_dataset_ids(dataset_ids)
    check_target(destination, file_type, compression, include_file_manifest)
    check_schedule(schedule, folder_template)
    if base_connection_id is None:
        check_login(destination, destination_conn_id)
        if base_connection_name is not None:
            check_entity_name("base_connection_name", base_connection_name)
        return
    check_entity_id("base_connection_id", base_connection_id)
    if destination_conn_id is not None or base_connection_name is not None:
        rule = "names the login already: leave out destination_conn_id and base_connection_name"
        raise InvalidArgument("base_connection_id", base_connection_id, rule)


def dataset_ids(value: object) -> tuple[DatasetId, ...]:
    """IDs from an ID, a listed dataset ({"id": …}), or a collection of either; in their order.

    Raises:
        InvalidArgument: there is none, one is named twice, or one is not an ID, 24 hexadecimal digits.

    Source: "Retrieve a list of eligible datasets" in
    https://experienceleague.adobe.com/en/docs/experience-platform/destinations/api/export-datasets
    """
    ids = _ids(value)
    if not ids:
        raise InvalidArgument("dataset_ids", value, "must name at least one dataset")
    for each in ids:
        if not isinstance(each, str) or not re.fullmatch(r"[0-9A-Fa-f]{24}", each):
            raise InvalidArgument("dataset_ids", each, "must be a dataset's ID, 24 hexadecimal digits")
        if ids.count(each) > 1:
            raise InvalidArgument("dataset_ids", each, "is named twice")
    return tuple(ids)


def check_dataset_ids(value: object) -> None:
    if is_literal(value) and all(map(is_literal, _ids(value))):
        dataset_ids(value)


def _ids(value: object) -> list[Any]:
    several = isinstance(value, Collection) and not isinstance(value, str | bytes | Mapping)
    listed: list[Any] = list(value) if several else [value]  # type: ignore[call-overload]  # a collection, see above
    return [each.get("id") if isinstance(each, Mapping) else each for each in listed]


def texts(argument: str, value: object) -> list[str]:
    """One text or several; [] if the argument was left out.

    An empty one is refused: an upstream task that returns nothing must not mean "all".
    """
    if value is None:
        return []
    listed = [value] if isinstance(value, str) else list(value) if isinstance(value, Collection) else []
    if not listed or not all(isinstance(each, str) and each for each in listed):
        raise InvalidArgument(
            argument, value, "must be a text or several, none of them empty; leave it out to mean all"
        )
    return listed


def check_texts(argument: str, value: Any) -> None:
    if is_literal(value) and (not isinstance(value, Collection) or all(map(is_literal, value))):
        texts(argument, value)


def check_selection(dataset_ids: Any, names: Any, name_pattern: Any) -> None:
    """Check which datasets are asked for: by one of the three ways, or all."""
    ways = {"dataset_ids": dataset_ids, "names": names, "name_pattern": name_pattern}
    given = [way for way, value in ways.items() if value is not None]
    if len(given) > 1:
        raise InvalidArgument(given[1], ways[given[1]], f"give it or {given[0]}, not both")
    if dataset_ids is not None:
        check_dataset_ids(dataset_ids)
    check_texts("names", names)
    check_texts("name_pattern", name_pattern)


def entity_id(argument: str, value: object) -> str:
    """The ID of a connection, dataflow or flow run; Adobe's are UUIDs. A missing upstream output renders as "None"."""
    if not isinstance(value, str) or not re.fullmatch(r"[0-9A-Za-z_-]+", value) or value in ("None", "null"):
        raise InvalidArgument(argument, value, "must be an ID as Adobe gives it; is the upstream output empty?")
    return value


def check_entity_id(argument: str, value: object) -> None:
    if is_literal(value):
        entity_id(argument, value)


def entity_name(argument: str, value: object) -> str:
    """A name that Adobe's filters can find again: in a filter, a comma means "or" and `&` means "and".

    Source: https://experienceleague.adobe.com/en/docs/experience-platform/dataflows/api/sort-and-filter
    """
    if (
        not isinstance(value, str)
        or not 0 < len(value) <= 255
        or value != value.strip()
        or any(sign in value for sign in ",&\n\r\t")
    ):
        rule = "must be 1 to 255 characters without comma, &, tab or line break, and not begin or end with a blank"
        raise InvalidArgument(argument, value, rule)
    return value


def check_entity_name(argument: str, value: object) -> None:
    if is_literal(value):
        entity_name(argument, value)


def check_choice(argument: str, value: object, choices: Sequence[str]) -> None:
    if value not in choices:
        raise InvalidArgument(argument, value, f"must be one of {', '.join(choices)}")


def check_decisions(**decisions: object) -> None:
    """Check what a run's outcome does to the task."""
    for argument, value in decisions.items():
        check_choice(argument, value, ("fail", "succeed", "skip"))


def check_where(aep_conn_id: object, sandbox_name: object) -> None:
    """Check connection and sandbox; a template that renders to nothing must not mean the connection's sandbox."""
    if is_literal(aep_conn_id) and not (isinstance(aep_conn_id, str) and aep_conn_id):
        raise InvalidArgument("aep_conn_id", aep_conn_id, "must be the ID of an Airflow connection")
    if sandbox_name is None or not is_literal(sandbox_name):
        return
    if not isinstance(sandbox_name, str) or not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,255}", sandbox_name):
        rule = "must be a sandbox's name: lower-case letters, digits and hyphens; or None for the connection's"
        raise InvalidArgument("sandbox_name", sandbox_name, rule)


def check_target(destination: object, file_type: str, compression: str, include_file_manifest: object) -> None:
    check_destination(destination)
    check_format(file_type, compression)
    if include_file_manifest not in (None, True, False):
        raise InvalidArgument("include_file_manifest", include_file_manifest, "must be True, False or None")


def check_destination(destination: object) -> None:
    if is_literal(destination):
        destination_type(destination)


def check_login(destination: object, destination_conn_id: object) -> None:
    """Check that a login is given where the destination needs one, and only there; what it holds is checked later."""
    if not is_literal(destination) or (destination_conn_id is not None and not is_literal(destination_conn_id)):
        return
    row = destination_type(destination)
    if bool(row.logins) != bool(destination_conn_id):
        rule = f"{row.name} needs a login: give the ID of the Airflow connection that holds it"
        raise InvalidArgument(
            "destination_conn_id", destination_conn_id, rule if row.logins else f"{row.name} takes no login"
        )


def base_connection_name(destination: object, destination_conn_id: str | None, name: str | None) -> str:
    """The name of a base connection: the one given, or "airflow" and the connection's ID, else the destination type."""
    default = f"airflow {destination_conn_id or destination_type(destination).name}"
    return entity_name("base_connection_name", default if name is None else name)


def check_schedule(schedule: object, folder_template: str | None) -> None:
    if is_literal(schedule) and not isinstance(schedule, Every | Once):
        raise InvalidArgument("schedule", schedule, "must be Every(…) or Once(…)")
    if folder_template is not None:
        check_folder_template(folder_template)


def moment_ms(argument: str, moment: object) -> int:
    """A datetime with a zone, or its ISO 8601 text, in milliseconds since 1970 UTC; None, for any time, gives 0."""
    if moment is None:
        return 0
    try:
        given = moment if isinstance(moment, datetime) else datetime.fromisoformat(str(moment).strip())
    except ValueError:
        rule = "must be a datetime with a zone, or ISO 8601 text such as 2026-01-01T00:00:00+00:00"
        raise InvalidArgument(argument, moment, rule) from None
    if given.utcoffset() is None:
        raise InvalidArgument(argument, str(moment), "must have a zone, such as 2026-01-01T00:00:00+00:00")
    return int(given.timestamp() * 1000)


def check_after(after: object) -> None:
    """Check since when a run counts: a moment, None for any time, or "dag_run" for the DAG run's own slot."""
    if after == "dag_run" or not is_literal(after):
        return
    try:
        moment_ms("after", after)
    except InvalidArgument as error:
        raise InvalidArgument("after", error.value, f'{error.rule}; or "dag_run"') from None


def check_wait(task: Any) -> None:
    """Check which run a task waits for, and what happens to the task without one and at its end."""
    check_after(task.after)
    check_choice("on_missing", task.on_missing, ("skip", "fail", "next"))
    check_decisions(on_failed=task.on_failed, on_partial=task.on_partial, on_empty=task.on_empty)
    at_most = task.rerun_failed
    if isinstance(at_most, bool) or not isinstance(at_most, int) or at_most < 0:
        raise InvalidArgument("rerun_failed", at_most, "must be a number of runs, 0 or more")


def seconds(argument: str, value: object) -> float:
    """The seconds of a timedelta or a number, which must be more than 0."""
    number = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(number, bool) or not isinstance(number, int | float) or not 0 < number < math.inf:
        raise InvalidArgument(argument, value, "must be a timedelta or a number of seconds, more than 0")
    return float(number)


#: Words for what may be wrong with an export; `AepCheckDataflowsOperator` says what they mean.
PROBLEMS = ("gone", "disabled", "ended", "ending", "overdue", "failed", "partial", "empty", "unmanaged")


def dataflow_ids(value: object) -> tuple[str, ...]:
    """IDs from an ID, what sets up an export returns ({"dataflow_id": …}), or a collection of either; each once.

    An empty collection is refused: an upstream task that returns nothing must not mean "all".
    """
    several = isinstance(value, Collection) and not isinstance(value, str | bytes | Mapping)
    listed: list[Any] = list(value) if several else [value]  # type: ignore[call-overload]  # a collection, see above
    if not listed:
        raise InvalidArgument("dataflow_ids", value, "must name at least one dataflow; leave it out to mean all")
    ids = [each.get("dataflow_id") if isinstance(each, Mapping) else each for each in listed]
    return tuple(dict.fromkeys(entity_id("dataflow_ids", each) for each in ids))


def check_health(
    dataflow_ids: Any, name_pattern: Any, ends_within: object, extend_end: object, empty_runs: object, ignore: object
) -> None:
    """Check which dataflows are looked at, and what counts as a problem."""
    if dataflow_ids is not None and name_pattern is not None:
        raise InvalidArgument("name_pattern", name_pattern, "give it or dataflow_ids, not both")
    check_dataflow_ids(dataflow_ids)
    check_texts("name_pattern", name_pattern)
    if is_literal(name_pattern) and not isinstance(name_pattern, str | None):
        raise InvalidArgument("name_pattern", name_pattern, "must be one text")
    within = days("ends_within", ends_within)
    if extend_end is not None and days("extend_end", extend_end) <= within:
        rule = f"must be more than ends_within ({within}), or each check would move the end again"
        raise InvalidArgument("extend_end", extend_end, rule)
    if empty_runs is not None and (type(empty_runs) is not int or not 1 <= empty_runs <= 100):
        raise InvalidArgument("empty_runs", empty_runs, "must be a number of runs, 1 to 100, or None")
    is_none = isinstance(ignore, Collection) and not isinstance(ignore, str) and not ignore
    for word in () if is_none else texts("ignore", ignore):
        check_choice("ignore", word, PROBLEMS)


def check_dataflow_ids(value: Any) -> None:
    known = is_literal(value) and value is not None
    if known and (not isinstance(value, Collection) or all(map(is_literal, value))):
        dataflow_ids(value)


def days(argument: str, value: object) -> timedelta:
    """A timedelta, or a number of days, which must be more than 0."""
    length = value if isinstance(value, timedelta) else None
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 36_500:
        length = timedelta(days=value)
    if length is None or not timedelta() < length < timedelta(days=36_500):
        raise InvalidArgument(argument, value, "must be a timedelta or a number of days, more than 0")
    return length
