"""What Flow Service requires of a body before it creates or changes an entity."""

from __future__ import annotations

import base64
import binascii
import copy
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from jsonschema import Draft7Validator, ValidationError, validators  # type: ignore[import-untyped]  # has no types

from airflow_provider_aep.emulator.errors import Refusal, flow_error, invalid, missing, not_found
from airflow_provider_aep.emulator.flow_service.datasets import DATASETS
from airflow_provider_aep.emulator.flow_service.filters import whole_number
from airflow_provider_aep.emulator.flow_service.specs import (
    CONNECTION_SPECS,
    DATA_LAKE,
    EXPORT_MODES,
    FLOW_SPECS,
    FULL,
    SECRET_PARAMS,
    AuthSpec,
    ConnectionSpec,
    Schema,
)
from airflow_provider_aep.emulator.flow_service.templates import check_template
from airflow_provider_aep.emulator.options import Options

MASK = "*****"
HOURS, DAY = (3, 6, 9, 12), 86_400
DEFAULT_END_SECONDS = 183 * DAY
# Later than any date in seconds that makes sense (the year 5138), earlier than any in milliseconds since 1973.
_MILLISECONDS = 10**11
TEMPLATES = ("foldernameTemplate", "folderNameTemplate")


def body_object(body: Any) -> dict[str, Any]:
    """The body of a creation as an object.

    Raises:
        Refusal: 1405-400 for none, 1425-400 for anything but an object, 1410-400 for one that sets a state.
    """
    if body is None or body == {}:
        raise flow_error(1405, 400, "The request body is empty")
    if not isinstance(body, dict):
        raise invalid("A JSON object is expected")
    if "state" in body:
        raise flow_error(1410, 400, "state cannot be set when an entity is created")
    return body


@contextmanager
def missing_is(code: int) -> Iterator[None]:
    """Turn a 422 for a missing member into a 400 with this code: dataflows and patches have no 422.

    Raises:
        Refusal: what was raised inside.
    """
    try:
        yield
    except Refusal as refusal:
        if refusal.status != 422:
            raise
        raise flow_error(code, 400, str((refusal.body or {}).get("errorMessage"))) from None


def name_of(body: Mapping[str, Any]) -> str:
    name = body.get("name")
    if name is None:
        raise missing("name 'name' is required")
    return text("name", name)


def text(where: str, value: Any, *, empty: bool = False) -> str:
    if not isinstance(value, str) or not (empty or value.strip()):
        raise invalid(f"{where}: a text is expected, got [{value}]")
    return value


def connection_spec(body: Mapping[str, Any]) -> ConnectionSpec:
    """The connection spec that a body names.

    Raises:
        Refusal: as `flow_spec`.
    """
    return CONNECTION_SPECS[_known_spec("connectionSpec", "Connection spec", body, CONNECTION_SPECS)]


def auth(spec: ConnectionSpec, given: Any, *, today: str) -> dict[str, Any] | None:
    """`auth` of a base connection as it is kept: secrets masked, with the date of the login.

    Raises:
        Refusal: 422 for a missing member, 1415-400 for an auth spec that the connection spec lacks, 1425-400.
    """
    if not spec.auth:  # Data Landing Zone: Adobe knows the storage itself
        if given:
            raise flow_error(1415, 400, f"{spec.name} takes no auth, got auth spec [{_spec_name(given)}]")
        return None
    if not isinstance(given, dict):
        raise missing("auth 'auth' is required")
    chosen = auth_spec(spec, given)
    params = given.get("params")
    if not isinstance(params, dict):
        raise missing("auth.params 'params' is required")
    check_params("auth.params", chosen.schema, params)
    return {"specName": chosen.name, "params": {"authorizedDate": today, **mask(params)}}


def auth_spec(spec: ConnectionSpec, given: Mapping[str, Any]) -> AuthSpec:
    chosen = next((one for one in spec.auth if one.name == given.get("specName")), None)
    if chosen is None:
        known = ", ".join(one.name for one in spec.auth) or "none"
        raise flow_error(1415, 400, f"Auth spec [{_spec_name(given)}] not found for {spec.name}, which has: {known}")
    return chosen


def _spec_name(given: Any) -> Any:
    return given.get("specName") if isinstance(given, dict) else type(given).__name__


def mask(params: Mapping[str, Any]) -> dict[str, Any]:
    """Login parameters without their secrets; what is not kept cannot leak."""
    return {name: MASK if name in SECRET_PARAMS else value for name, value in params.items()}


def check_params(where: str, schema: Schema, given: Mapping[str, Any]) -> None:
    """Check `given` by a JSON Schema; null counts as missing, and the refusal does not repeat a secret.

    Raises:
        Refusal: 1425-400, also for a missing member: 422 is for members of the entity itself.
    """
    present = {name: value for name, value in given.items() if value is not None}
    for name, value in present.items():
        # Adobe prints no lengths, and refuses an empty text all the same; a pattern decides for itself.
        if value == "" and "pattern" not in schema["properties"].get(name, {"pattern": ""}):
            raise invalid(f"{where}.{name}: must not be empty")
    for error in _Validator(schema).iter_errors(present):
        if error.validator == "required":
            raise invalid(f"{where}: {error.message}")
        secret = error.schema.get("format") == "password"
        text = f"the value breaks {error.validator} [{error.validator_value}]" if secret else error.message
        raise invalid(f"{where}.{error.path[0]}: {text}")


def _pattern(_: Any, pattern: str, value: Any, _schema: Schema) -> Iterator[ValidationError]:
    # In JSON Schema `$` is the very end; Python's also matches before a last line break.
    if isinstance(value, str) and not re.search(pattern.replace("$", r"\Z"), value):
        yield ValidationError(f"{value!r} does not match the pattern {pattern}")


def _content_encoding(_: Any, encoding: str, value: Any, _schema: Schema) -> Iterator[ValidationError]:
    """Check base64, the only encoding used; JSON Schema does not require validators to check it."""
    try:
        base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError, TypeError):
        yield ValidationError(f"{value!r} is not {encoding}")


_Validator = validators.extend(Draft7Validator, {"pattern": _pattern, "contentEncoding": _content_encoding})


def datasets(params: Any) -> list[dict[str, str]]:
    """`params.datasets` of a source connection as it is kept.

    `name` may be left out: the OpenAPI requires it, but Adobe's service does without.

    Raises:
        Refusal: 422 for a missing member, 1439-400 for a dataset that does not exist.
    """
    found = params.get("datasets") if isinstance(params, dict) else None
    if not isinstance(found, list) or not found:
        raise missing("params.datasets 'datasets' is required")
    kept: dict[str, dict[str, str]] = {}
    for one in found:
        if not isinstance(one, dict) or not isinstance(one.get("dataSetId"), str):
            raise missing("params.datasets.dataSetId 'dataSetId' is required")
        if one["dataSetId"] not in DATASETS:
            raise not_found("datasets", one["dataSetId"], in_path=False)
        if one["dataSetId"] in kept:
            raise invalid(f"params.datasets: dataset [{one['dataSetId']}] is listed twice")
        named = {"name": text("params.datasets.name", one["name"])} if one.get("name") is not None else {}
        kept[one["dataSetId"]] = {"dataSetId": one["dataSetId"], **named}
    return list(kept.values())


def target_params(spec: ConnectionSpec, params: Any, options: Options) -> dict[str, Any]:
    """`params` of a target connection, checked by its spec.

    Raises:
        Refusal: 422 for a missing member, 1425-400 for a wrong one.
    """
    if not isinstance(params, dict):
        raise missing("params 'params' is required")
    check_params("params", spec.target_schema, params)
    uncompressed = params["datasetFileType"] == "JSON" and params["compression"] == "NONE"
    if uncompressed and not options.seed_rules:
        raise invalid("params.compression [NONE]: datasets in JSON are exported with compression GZIP only")
    return dict(params)


def flow_spec(body: Mapping[str, Any]) -> str:
    """The ID of the flow spec that a body names.

    Raises:
        Refusal: 422 for a missing member, 1413-400 for an unknown ID or version.
    """
    return _known_spec("flowSpec", "Flow spec", body, FLOW_SPECS)


def _known_spec(member: str, title: str, body: Mapping[str, Any], known: Mapping[str, ConnectionSpec]) -> str:
    named = body.get(member)
    if not isinstance(named, dict):
        raise missing(f"{member} '{member}' is required")
    for part in ("id", "version"):
        if not named.get(part):
            raise missing(f"{member}.{part} '{part}' is required for spec info")
    if str(named["version"]) != "1.0":
        raise flow_error(1413, 400, f"{member}.version [{named['version']}] does not exist, use 1.0")
    if str(named["id"]) not in known:
        text = f"{title} id [{named['id']}] is not valid"
        raise flow_error(1413, 400, text, message="Please provide a valid spec id")
    return str(named["id"])


def transformations(given: Any) -> list[Any]:
    if not isinstance(given or [], list):
        raise invalid("transformations: a list is expected")
    return copy.deepcopy(given or [])


def one_id(member: str, value: Any) -> str:
    """The only ID in a list of IDs: a dataflow goes from one source to one target.

    Raises:
        Refusal: 422 for no list, 1446-400 for an empty ID, 1425-400 for more than one.
    """
    if not isinstance(value, list) or not value:
        raise missing(f"{member} '{member}' is required")
    if len(value) != 1 or not isinstance(value[0], str):
        raise invalid(f"{member}: exactly one ID is expected, got {value}")
    if not value[0]:
        raise flow_error(1446, 400, f"{member}: the ID is empty")
    return value[0]


def check_ends(spec_id: str, source: Mapping[str, Any], target: Mapping[str, Any]) -> None:
    """Refuse a flow spec that does not join such a source to such a target: 1413-400."""
    for role, connection, expected in (("Source", source, DATA_LAKE), ("Target", target, FLOW_SPECS[spec_id].id)):
        used = connection["connectionSpec"]["id"]
        if used != expected:
            text = f"{role} connection [{connection['id']}] has connection spec [{used}]; flow spec [{spec_id}] takes"
            raise flow_error(1413, 400, f"{text} {expected}")


def schedule(given: Any, *, now: float, options: Options, whole: bool = True) -> dict[str, Any]:
    """`scheduleParams` of a dataset dataflow as they are kept: checked, with the end that Adobe sets by default.

    With `whole=False` (a PATCH) `startTime` alone is enough, since clients in use send that; such a schedule replaces
    the old one and fires once at most.

    Raises:
        Refusal: 422 for a missing member (see `missing_is`), 1425-400 for a combination that Adobe does not offer.

    Source: https://experienceleague.adobe.com/en/docs/experience-platform/destinations/api/export-datasets, "Create a
    dataflow".
    """
    if not isinstance(given, dict):
        raise missing("scheduleParams 'scheduleParams' is required")
    kept = dict(given)
    # aepp sends `frequency` where Adobe documents `timeUnit`; Adobe takes it.
    unit = kept.get("timeUnit", kept.get("frequency"))
    for name, value in (("startTime", kept.get("startTime")), ("interval", kept.get("interval")), ("timeUnit", unit)):
        if value is None and (whole or name == "startTime"):
            raise missing(f"scheduleParams.{name} '{name}' is required")
    for name in ("startTime", "endTime", "interval"):
        if kept.get(name) is not None:
            kept[name] = _whole_number(name, kept[name])
            if name != "interval" and not 0 < kept[name] < _MILLISECONDS:
                raise invalid(f"scheduleParams.{name} [{kept[name]}] is not a time in seconds since 1970")
    if kept.get("endTime") is None:
        kept["endTime"] = int(max(now, kept["startTime"])) + DEFAULT_END_SECONDS
    elif kept["endTime"] <= kept["startTime"]:
        raise invalid(f"scheduleParams.endTime [{kept['endTime']}] is not after startTime [{kept['startTime']}]")
    _folder_templates(kept)
    if kept.get("interval") is not None and unit is not None:
        _rhythm(kept["interval"], unit, kept.get("exportMode"), options)
    return kept


def _folder_templates(given: Mapping[str, Any]) -> None:
    for name in TEMPLATES:
        if given.get(name) is not None:
            try:
                check_template(text(f"scheduleParams.{name}", given[name]))
            except ValueError as problem:
                raise invalid(f"scheduleParams.{name}: {problem}") from None


def _whole_number(name: str, value: Any) -> int:
    number = whole_number(value) if isinstance(value, str) else value
    if isinstance(number, bool) or not isinstance(number, int):
        raise invalid(f"scheduleParams.{name} [{value}] is not a whole number")
    return number


def _rhythm(interval: int, unit: Any, mode: Any, options: Options) -> None:
    if unit not in ("hour", "day"):
        raise invalid(f"scheduleParams.timeUnit [{unit}] is none of hour, day")
    if mode is not None and mode not in EXPORT_MODES:
        raise invalid(f"scheduleParams.exportMode [{mode}] is none of {', '.join(EXPORT_MODES)}")
    if interval == 0:
        if unit != "day" or mode != FULL:
            raise invalid(f"scheduleParams.interval [0] is for timeUnit day with exportMode {FULL}")
    elif mode == FULL:
        raise invalid(f"scheduleParams.exportMode [{FULL}] is for timeUnit day with interval 0: one full export")
    elif unit == "day" and interval != 1:
        raise invalid(f"scheduleParams.interval [{interval}] with timeUnit day is none of 0, 1")
    elif unit == "hour" and interval not in (*HOURS, *((24,) if options.seed_rules else ())):
        raise invalid(f"scheduleParams.interval [{interval}] with timeUnit hour is none of 3, 6, 9, 12")
