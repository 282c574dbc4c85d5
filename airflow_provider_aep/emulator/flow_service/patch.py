"""JSON Patch as Flow Service takes it: add, replace and remove, in any letter case.

Source: the PATCH operations of the destinations OpenAPI, and Adobe's guide "Edit destination connections".
"""

from __future__ import annotations

import copy
from typing import Any

from airflow_provider_aep.emulator.errors import flow_error
from airflow_provider_aep.emulator.flow_service.filters import whole_number

_OPERATIONS = ("add", "replace", "remove")


def read_patch(body: Any) -> list[tuple[str, tuple[str, ...], Any]]:
    """The operations of a PATCH body, each as (operation, steps of the path, value).

    Raises:
        Refusal: 1405, 1434 or 1455, each 400.
    """
    if not body:
        raise flow_error(1405, 400, "The request body is empty")
    if not isinstance(body, list):
        raise flow_error(1455, 400, "A list of patch operations is expected")
    found = []
    for one in body:
        if not isinstance(one, dict) or not isinstance(one.get("op"), str) or not isinstance(one.get("path"), str):
            raise flow_error(1455, 400, f"A patch operation needs the fields op, path and value: {one}")
        operation = one["op"].lower()
        if operation not in _OPERATIONS:
            raise flow_error(1434, 400, f"Patch operation [{one['op']}] is not supported")
        if operation != "remove" and "value" not in one:
            raise flow_error(1455, 400, f"Patch operation [{one['op']}] on [{one['path']}] lacks the field value")
        if not one["path"].startswith("/") or one["path"] == "/":
            raise flow_error(1411, 400, f"Invalid entity path [{one['path']}]")
        steps = tuple(step.replace("~1", "/").replace("~0", "~") for step in one["path"][1:].split("/"))
        found.append((operation, steps, one.get("value")))
    return found


def apply(operation: str, document: dict[str, Any], steps: tuple[str, ...], value: Any) -> None:
    """Change `document` in place by one operation, by the rules of RFC 6902.

    Raises:
        Refusal: 1455-400, the path leads nowhere.
    """
    parent: Any = document
    for step in steps[:-1]:
        parent = _member(parent, step, steps)
    last = steps[-1]
    if isinstance(parent, list):
        if operation == "add" and last == "-":
            parent.append(copy.deepcopy(value))
            return
        index = _index(parent, last, steps, room=1 if operation == "add" else 0)
        if operation == "add":
            parent.insert(index, copy.deepcopy(value))
        elif operation == "replace":
            parent[index] = copy.deepcopy(value)
        else:
            del parent[index]
        return
    if not isinstance(parent, dict) or (operation == "remove" and last not in parent):
        raise _nowhere(steps)
    if operation == "remove":
        del parent[last]
    else:
        # RFC 6902 wants the target of a replace to exist; Adobe's guides use it to set a description for the first
        # time, so only its parent has to.
        parent[last] = copy.deepcopy(value)


def _member(parent: Any, step: str, steps: tuple[str, ...]) -> Any:
    if isinstance(parent, list):
        return parent[_index(parent, step, steps)]
    if isinstance(parent, dict) and step in parent:
        return parent[step]
    raise _nowhere(steps)


def _index(parent: list[Any], step: str, steps: tuple[str, ...], room: int = 0) -> int:
    index = whole_number(step)
    if index is None or index >= len(parent) + room:
        raise _nowhere(steps)
    return index


def _nowhere(steps: tuple[str, ...]) -> Exception:
    return flow_error(1455, 400, f"Patch path [/{'/'.join(steps)}] does not exist on the entity")
