"""Folder templates: which macros a schedule may use, and what they become for one export."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime

# Source: destinations OpenAPI, `scheduleParams`; the default is the tutorial's layout, written as a template.
_DEFAULT = "%DATASET_ID%/%EXPORT_TIME%"

# The macros that stand for a name. %DESTINATION_NAME% is in none of Adobe's lists, but in the OpenAPI's example.
_NAMES = (
    "DATASET_ID",
    "DATASET_NAME",
    "DESTINATION",
    "DESTINATION_NAME",
    "DESTINATION_INSTANCE_ID",
    "DESTINATION_INSTANCE_NAME",
    "ORGANIZATION_NAME",
    "SANDBOX_NAME",
)
_MACRO = re.compile(r"%([A-Z_]+)(?:\(([^()%]*)\))?%")
_DATE_PART = re.compile(r"YYYY|yyyy|MM|dd|HH|mm|ss|[A-Za-z]+")
_DATE_PARTS = {"YYYY": "%Y", "yyyy": "%Y", "MM": "%m", "dd": "%d", "HH": "%H", "mm": "%M", "ss": "%S"}


def check_template(template: str) -> None:
    """Refuse a folder template that cannot be used.

    Raises:
        ValueError: it has an unknown macro or time pattern, or a segment that no storage accepts.
    """
    segments("folder template", expand_template(template, dict.fromkeys(_NAMES, "x"), 0))


def expand_template(template: str | None, names: Mapping[str, str], export_time_ms: int) -> str:
    """A folder template (None: Adobe's default) with its macros filled in from `names` and the time of the export.

    A `/` in the template makes a sub-folder, a `/` in a name does not.

    Raises:
        ValueError: the template has an unknown macro or time pattern.
    """
    template = template or _DEFAULT
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
        return re.sub(r"[/\\]", "_", names[macro])

    return _MACRO.sub(value, template)


def segments(what: str, path: str) -> tuple[str, ...]:
    """The steps of a path; an outer `/` is the bucket's own root, never the machine's."""
    steps = tuple(step for step in path.split("/") if step not in ("", "."))
    for step in steps:
        if step == ".." or "\\" in step or not step.isprintable() or len(step.encode()) > 255:
            raise ValueError(f"{what}={path!r}: {step!r} is not a folder name that can be written")
    return steps
