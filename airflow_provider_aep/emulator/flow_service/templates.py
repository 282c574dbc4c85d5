"""Folder templates: which macros a schedule may use, and what they become for one export."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime

# Source: destinations OpenAPI, `scheduleParams`; the default layout is the tutorial's, written as a template.
DEFAULT_FOLDER = "%DATASET_ID%/%EXPORT_TIME%"

# The macros that stand for a name, and what `write_export` takes each from. %DESTINATION_NAME% is in no list of
# Adobe's, but in the OpenAPI's example.
_NAMES = {
    "DATASET_ID": "dataset_id",
    "DATASET_NAME": "dataset_name",
    "DESTINATION": "destination",
    "DESTINATION_NAME": "destination",
    "DESTINATION_INSTANCE_ID": "destination_instance_id",
    "DESTINATION_INSTANCE_NAME": "destination_instance_name",
    "ORGANIZATION_NAME": "organization_name",
    "SANDBOX_NAME": "sandbox_name",
}
_MACRO = re.compile(r"%([A-Z_]+)(?:\(([^()%]*)\))?%")
_DATE_PART = re.compile(r"YYYY|yyyy|MM|dd|HH|mm|ss|[A-Za-z]+")
_DATE_PARTS = {"YYYY": "%Y", "yyyy": "%Y", "MM": "%m", "dd": "%d", "HH": "%H", "mm": "%M", "ss": "%S"}


def check_template(template: str) -> None:
    """Find out whether a folder template can be used.

    Raises:
        ValueError: it has an unknown macro or time pattern, or a segment that no storage accepts.
    """
    segments("folder template", expand_template(template, dict.fromkeys(_NAMES.values(), "x"), 0))


def expand_template(template: str, names: Mapping[str, str], export_time_ms: int) -> str:
    """A folder template with its macros filled in; `/` in the template makes sub-folders, `/` in a name does not.

    Raises:
        ValueError: the template has an unknown macro or time pattern, or needs a name that `names` lacks.
    """
    moment = datetime.fromtimestamp(export_time_ms / 1000, UTC)

    def part(match: re.Match[str]) -> str:
        if match[0] not in _DATE_PARTS:
            raise ValueError(
                f"folder template {template!r}: {match[0]!r} in %DATETIME(...)%; use {', '.join(_DATE_PARTS)}"
            )
        return moment.strftime(_DATE_PARTS[match[0]])

    def value(match: re.Match[str]) -> str:
        macro, argument = match.groups()
        if macro == "DATETIME" and argument:
            return _DATE_PART.sub(part, argument)
        if argument is None and macro == "EXPORT_TIME":
            return moment.strftime("exportTime=%Y%m%d%H%M")
        if argument is not None or macro not in _NAMES:
            known = ", ".join(f"%{name}%" for name in (*_NAMES, "EXPORT_TIME", "DATETIME(YYYYMMdd_HHmmss)"))
            raise ValueError(f"folder template {template!r}: unknown macro {match[0]}; use {known}")
        if _NAMES[macro] not in names:
            raise ValueError(
                f"folder template {template!r}: no value for {match[0]}: names[{_NAMES[macro]!r}] is missing"
            )
        return re.sub(r"[/\\]", "_", names[_NAMES[macro]])

    return _MACRO.sub(value, template)


def segments(what: str, path: str) -> tuple[str, ...]:
    """The steps of a path; an outer `/` is the bucket's own root, never the machine's."""
    steps = tuple(step for step in path.split("/") if step not in ("", "."))
    for step in steps:
        if step == ".." or "\\" in step or not step.isprintable() or len(step.encode()) > 255:
            raise ValueError(f"{what}={path!r}: {step!r} is not a folder name that can be written")
    return steps
