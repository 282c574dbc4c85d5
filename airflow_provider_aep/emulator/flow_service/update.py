"""How a PATCH changes an entity: which paths may be written, and what must hold afterwards.

Source: Adobe's guides "Update destination dataflows" and "Edit destination connections", and its error catalogue.
"""

from __future__ import annotations

import copy
from typing import Any

from airflow_provider_aep.emulator.errors import flow_error, missing, version_mismatch
from airflow_provider_aep.emulator.flow_service import patch, validation
from airflow_provider_aep.emulator.flow_service.create import date, ends, inherit, operation
from airflow_provider_aep.emulator.flow_service.filters import Document
from airflow_provider_aep.emulator.flow_service.request import ApiRequest
from airflow_provider_aep.emulator.flow_service.specs import CONNECTION_SPECS, ConnectionSpec
from airflow_provider_aep.emulator.options import Options

_PATCHABLE = {
    "connections": {"name", "description", "auth", "encryption"},
    "sourceConnections": {"name", "description"},
    "targetConnections": {"name", "description", "params"},
    "flows": {"name", "description", "scheduleParams", "sourceConnectionIds", "transformations", "policy", "labels"},
}


def patched(request: ApiRequest, collection: str, entity: Document, options: Options) -> tuple[Document, set[str]]:
    """A copy of the entity with the request's PATCH applied, and the names of the members that it touched.

    Raises:
        Refusal: the patch is malformed, writes to a read-only path, or leaves an invalid entity.
    """
    changed = copy.deepcopy(entity)
    touched = set()
    for name, steps, value in patch.read_patch(request.body):
        _allow(collection, steps)
        if validation.MASK in str(value) and steps[0] == "auth":
            raise flow_error(1455, 400, "auth: a masked value cannot be written back")
        patch.apply(name, changed, steps, value)
        touched.add(steps[0])
    _check_changed(request, changed, touched, options)
    changed["updatedAt"] = request.now_ms
    if collection == "flows":
        changed["lastOperation"] = operation("update", request.now_ms, request.body)
    return changed, touched


def check_version(request: ApiRequest, entity: Document, *, required: bool) -> None:
    """`If-Match` has to name the current etag, with double quotes around it, as the OpenAPI says.

    Adobe's Postman collection puts it into the query, so it is looked for there, too.
    """
    supplied = request.headers.get("if-match") or dict(request.pairs).get("if-match")
    if not supplied:
        if required:
            raise flow_error(1403, 400, "The header If-Match is missing")
        return
    quoted = supplied.startswith('"') and supplied.endswith('"') and len(supplied) > 1
    if not quoted or supplied.strip('"') != entity["etag"].strip('"'):
        raise version_mismatch(supplied, entity["etag"])


def _login(spec: ConnectionSpec, auth: Any, today: str) -> dict[str, Any]:
    """`auth` after a patch; Adobe's OpenAPI shows one that removes all of `/auth/params`, so that may be missing."""
    if not isinstance(auth, dict) or not isinstance(auth.get("params", {}), dict):
        raise missing("auth.params 'params' is required")
    if "params" not in auth:
        return dict(auth)
    given = auth["params"]
    chosen = validation.auth_spec(spec, auth)
    # A mask stands for a secret that was checked when it was given.
    kept = {name for name, value in given.items() if value == validation.MASK}
    schema = {**chosen.schema, "required": [name for name in chosen.schema["required"] if name not in kept]}
    fresh = {name: value for name, value in given.items() if name not in kept}
    validation.check_params("auth.params", schema, fresh)
    return {"specName": chosen.name, "params": {"authorizedDate": today, **validation.mask(given)}}


def _allow(collection: str, steps: tuple[str, ...]) -> None:
    if steps[0] == "connectionSpec":
        raise flow_error(1414, 400, "The connection spec of a connection cannot be changed")
    if steps[0] == "state":
        raise flow_error(1456, 400, "state cannot be patched: use the action enable or disable")
    if collection == "sourceConnections" and steps[0] == "params":
        raise flow_error(1455, 400, "params.datasets of a source connection cannot be changed")
    if steps[0] not in _PATCHABLE[collection]:
        raise flow_error(1411, 400, f"Invalid entity path [/{'/'.join(steps)}]")


def _check_changed(request: ApiRequest, after: Document, touched: set[str], options: Options) -> None:
    """Check the patched entity by the rules of creation; a missing member is 400 here, not 422."""
    with validation.missing_is(1455):
        validation.name_of(after)
        spec = CONNECTION_SPECS[after["connectionSpec"]["id"]] if "connectionSpec" in after else None
        if "auth" in touched and spec is not None:
            after["auth"] = _login(spec, after.get("auth"), date(request.now))
        if "params" in touched and spec is not None:
            after["params"] = validation.target_params(spec, after.get("params"), options)
        if "sourceConnectionIds" in touched:
            validation.one_id("sourceConnectionIds", after.get("sourceConnectionIds"))
            validation.check_ends(after["flowSpec"]["id"], *ends(request, after))
            inherit(request, after)
        if "scheduleParams" in touched:
            after["scheduleParams"] = validation.schedule(
                after.get("scheduleParams"), now=request.now, options=options, whole=False
            )
        if "transformations" in touched and not isinstance(after.get("transformations"), list):
            raise flow_error(1455, 400, "transformations: a list is expected")
        if "description" in after:
            validation.text("description", after["description"], empty=True)
