"""A list of exports as a DAG or a YAML file writes it, checked entry by entry, and as arguments of the hook."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

from airflow_provider_aep import schedules
from airflow_provider_aep.arguments import NamedExport, SandboxedExport, check_entity_name, check_export, check_where
from airflow_provider_aep.destinations import DESTINATIONS, is_literal
from airflow_provider_aep.errors import Hidden, InvalidArgument

_DESTINATIONS = {each.__name__: each for each in DESTINATIONS}
_SCHEDULES: dict[str, type] = {each.__name__: each for each in (schedules.Every, schedules.Once)}
_MEMBERS = tuple(dict.fromkeys(["name", "sandbox_name", *SandboxedExport.__annotations__]))
_REQUIRED = ("name", "dataset_ids", "destination", "schedule")
_TEXTS = ("destination_conn_id", "base_connection_id", "base_connection_name", "file_type", "compression")


class ListedExport(NamedTuple):
    """An entry: where it shall be (None: in the task's sandbox), and the arguments of `AepHook.desired_export`."""

    sandbox_name: str | None
    export: NamedExport


def is_yaml_file(exports: object) -> bool:
    """Whether it is the name of a file, which Airflow replaces by the file's text."""
    return isinstance(exports, str) and exports.endswith((".yaml", ".yml"))


def listed_exports(exports: object) -> list[ListedExport]:
    """The entries of a list or of its YAML text, destinations and schedules as types.

    Members that are templates, and upstream outputs, are left as they are.

    Raises:
        InvalidArgument: one is wrong, unknown or missing, or two have one name in one sandbox; names export and member.
    """
    listed = _read_yaml(exports) if isinstance(exports, str) else exports
    if not isinstance(listed, Sequence) or isinstance(listed, str):
        rule = "must be a list of exports, or the name of a YAML file that holds one"
        raise InvalidArgument("exports", listed if listed is None else _hidden(listed), rule)
    found = [_entry(at, each) for at, each in enumerate(listed)]
    check_names((each.sandbox_name, each.export["name"]) for each in found)
    return found


def check_names(names: Iterable[tuple[str | None, str]]) -> None:
    """Refuse two exports of one name in one sandbox, each given as sandbox and name."""
    for (sandbox_name, name), count in Counter(names).items():
        if count > 1 and is_literal(name):
            where = f"sandbox {sandbox_name!r}" if sandbox_name else "the task's sandbox"
            raise InvalidArgument(f"export {name!r}: name", name, f"{count} exports of {where} have it")


def check_exports(exports: object) -> list[ListedExport] | None:
    """The entries, or None where they are not known so far: in a file, an upstream output, or a text with templates."""
    return listed_exports(exports) if is_literal(exports) and not is_yaml_file(exports) else None


@contextmanager
def named(export: str) -> Iterator[None]:
    """Let an error about a member say of which export."""
    try:
        yield
    except InvalidArgument as error:
        raise InvalidArgument(f"{export}: {error.argument}", error.value, error.rule) from None


def _entry(at: int, given: object) -> ListedExport:
    if not isinstance(given, Mapping):
        raise InvalidArgument(f"exports[{at}]", given, f"must be a mapping with {', '.join(_REQUIRED)} …")
    name = given.get("name")
    with named(f"export {name!r}" if name and isinstance(name, str) else f"exports[{at}]"):
        for member in given:
            if member not in _MEMBERS:
                raise InvalidArgument(str(member), _hidden(given[member]), f"is none of {', '.join(_MEMBERS)}")
        for member in _REQUIRED:
            if given.get(member) is None:
                raise InvalidArgument(member, None, "is missing")
        for member in _TEXTS:
            value = given.get(member)
            if value is not None and is_literal(value) and not isinstance(value, str):
                raise InvalidArgument(member, value, "must be text")
        check_entity_name("name", name)
        sandbox_name = given.get("sandbox_name")
        check_where("aep_default", sandbox_name)
        export = {member: value for member, value in given.items() if member != "sandbox_name"}
        export["destination"] = _typed("destination", export["destination"], _DESTINATIONS)
        export["schedule"] = _typed("schedule", export["schedule"], _SCHEDULES)
        check_export(**{member: value for member, value in export.items() if member != "name"})
    return ListedExport(sandbox_name, cast("NamedExport", export))


def _typed(member: str, value: object, types: Mapping[str, type]) -> object:
    """A destination or a schedule, in YAML a mapping whose `type` names it and whose members are its arguments."""
    names = ", ".join(types)
    if not isinstance(value, Mapping):
        if isinstance(value, str) and is_literal(value):
            raise InvalidArgument(member, value, f"must be a mapping with a type, one of {names}, and its arguments")
        return value
    given = dict(value)
    name = given.pop("type", None)
    if not isinstance(name, str) or name not in types:
        raise InvalidArgument(f"{member}.type", name, f"must be one of {names}")
    fields: tuple[str, ...] = types[name]._fields  # type: ignore[attr-defined]  # named tuples, all of them
    for each in given:
        if each not in fields:
            raise InvalidArgument(f"{member}.{each}", _hidden(given[each]), f"{name} has {' and '.join(fields)}")
    for each in fields:
        if types is _DESTINATIONS and each not in given:
            raise InvalidArgument(f"{member}.{each}", None, f"is missing; {name} has {' and '.join(fields)}")
    made: object = types[name](**given)
    return made


def _read_yaml(text: str) -> object:
    """What a YAML text holds; a mapping that has a member twice is refused, since the first would be lost in silence.

    Raises:
        InvalidArgument: it cannot be read; names the line.
    """
    import yaml  # Airflow has it; at parse time it would cost milliseconds

    base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    class StrictLoader(base):  # type: ignore[misc]  # one of two classes
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            seen: set[str] = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode):
                    if key.value in seen:
                        raise yaml.MarkedYAMLError(problem=f"{key.value} is there twice", problem_mark=key.start_mark)
                    seen.add(key.value)
            return super().construct_mapping(node, deep=deep)

    try:
        return yaml.load(text, StrictLoader)  # noqa: S506 - a safe one
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or type(error).__name__
        raise InvalidArgument(f"exports{where}", _hidden(text), f"cannot be read as YAML: {problem}") from None


def _hidden(value: object) -> Hidden:
    """What is in the wrong place may be a secret."""
    return Hidden(len(str(value)))
