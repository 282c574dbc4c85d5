"""The rules for what a DAG may say: each is checked while the DAG is written, and again once templates are rendered.

A function named `check_…` lets pass what is not known yet, a template or an upstream output; the others demand a value.
All raise `InvalidArgument`, which names the argument, the value and the rule.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from airflow_provider_aep.destinations import check_format, destination_type, is_literal
from airflow_provider_aep.errors import InvalidArgument
from airflow_provider_aep.schedules import Every, Once, check_folder_template

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow_provider_aep.api.entities import DatasetId
    from airflow_provider_aep.destinations import Text

    Datasets = Text | Mapping[str, str] | Sequence[Text | Mapping[str, Text]]

Decision = Literal["fail", "succeed", "skip"]


def dataset_ids(value: object) -> tuple[DatasetId, ...]:
    """IDs from an ID, a listed dataset ({"id": …}), or a collection of either; in their order.

    Refused are none at all, one twice, and what is not an ID: 24 hexadecimal digits (source: tutorial).
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
    """A text or several; none where the argument was left out, but not where it was given and is empty.

    An empty list from upstream must not come to mean "all".
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


def entity_id(argument: str, value: object) -> str:
    """The ID of a connection, dataflow or flow run; Adobe's are UUIDs."""
    if not isinstance(value, str) or not re.fullmatch(r"[0-9A-Za-z_-]+", value) or value in ("None", "null"):
        raise InvalidArgument(argument, value, "must be an ID as Adobe gives it; is the upstream output empty?")
    return value


def check_entity_id(argument: str, value: object) -> None:
    if is_literal(value):
        entity_id(argument, value)


def entity_name(argument: str, value: object) -> str:
    """A name that Adobe's filters can find again: in them a comma means "or" and `&` "and"."""
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
    """What the end of a run means for the task."""
    for argument, value in decisions.items():
        check_choice(argument, value, ("fail", "succeed", "skip"))


def check_where(aep_conn_id: object, sandbox_name: object) -> None:
    """An empty sandbox name, as a template may render to, must not come to mean the connection's or `prod`."""
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
    """Whether an Airflow connection with a login is needed there; what it holds is checked when it is read."""
    if not is_literal(destination) or (destination_conn_id is not None and not is_literal(destination_conn_id)):
        return
    kind = destination_type(destination)
    if bool(kind.logins) != bool(destination_conn_id):
        rule = f"{kind.name} needs a login: give the ID of the Airflow connection that holds it"
        raise InvalidArgument(
            "destination_conn_id", destination_conn_id, rule if kind.logins else f"{kind.name} takes no login"
        )


def base_connection_name(destination: object, destination_conn_id: str | None, name: str | None) -> str:
    """The name given for a login, or "airflow <destination_conn_id>"; the Data Landing Zone has no such ID."""
    default = f"airflow {destination_conn_id or destination_type(destination).name}"
    return entity_name("base_connection_name", default if name is None else name)


def check_schedule(schedule: object, folder_template: str | None) -> None:
    if is_literal(schedule) and not isinstance(schedule, Every | Once):
        raise InvalidArgument("schedule", schedule, "must be Every(…) or Once(…)")
    if folder_template is not None:
        check_folder_template(folder_template)


def moment_ms(argument: str, moment: object) -> int:
    """A datetime with a zone, or its ISO 8601 text, as milliseconds since 1970 UTC; None means any time: 0."""
    if moment is None:
        return 0
    try:
        time_given = moment if isinstance(moment, datetime) else datetime.fromisoformat(str(moment).strip())
    except ValueError:
        rule = 'must be a datetime with a zone, ISO 8601 text such as 2026-01-01T00:00:00+00:00, or "dag_run"'
        raise InvalidArgument(argument, moment, rule) from None
    if time_given.utcoffset() is None:
        raise InvalidArgument(argument, str(moment), "must have a zone, such as 2026-01-01T00:00:00+00:00")
    return int(time_given.timestamp() * 1000)


def check_after(after: object) -> None:
    """A moment, None, or "dag_run": this DAG run's own run."""
    if after != "dag_run" and is_literal(after):
        moment_ms("after", after)


def seconds(argument: str, value: object) -> float:
    """A timedelta, or a number of seconds; more than none."""
    number = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(number, bool) or not isinstance(number, int | float) or not 0 < number < math.inf:
        raise InvalidArgument(argument, value, "must be a timedelta or a number of seconds, more than 0")
    return float(number)
