"""Every message that a user can meet stands in the README's troubleshooting table, and every row is provoked."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from functools import cache
from types import MappingProxyType
from typing import NamedTuple

import pytest

from tests.test_house import modules, path_of
from tests.test_messages import IN_PROSE, PROVOCATIONS, SEEN_IN_A_BROWSER_ONLY, quoted_in_prose, says, troubleshooting
from tests.test_rare_messages import RARE

#: What a raise or a warning may be called; an `InvalidArgument` names argument, value and rule, all in one form.
RAISED = {
    *("AepError", "AmbiguousName", "EntityExists", "EntityNotFound", "ExportChanged", "FlowRunFailed"),
    *(
        "NoRunWillCome",
        "NotReady",
        "OutcomeUnknown",
        "PlatformUnavailable",
        "RequestRefused",
        "UnexpectedReply",
        "WaitTimeout",
    ),
    *("AirflowFailException", "AirflowSensorTimeout", "AirflowSkipException", "RuntimeError", "ValueError"),
}
REPLY_ERRORS = {
    "EntityNotFound",
    "NotReady",
    "OutcomeUnknown",
    "PlatformUnavailable",
    "RequestRefused",
    "UnexpectedReply",
}
#: Why there is no run, which the wait tells.
WHY_NO_RUN = {"NoRun", "RunSelector"}
#: Read on the way only, and told in the words of the error that they become.
TOLD_OTHERWISE = {"api.auth", "api.wire"}


FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)
Function = ast.FunctionDef | ast.AsyncFunctionDef


class Message(NamedTuple):
    """A text as the code has it, `…` for whatever is filled in."""

    module: str
    line: int
    text: str


class _Module:
    """The texts that a module raises or warns with, followed through local names and functions that return a text."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.tree = ast.parse(path_of(name).read_text())
        self._functions = [each for each in ast.walk(self.tree) if isinstance(each, FUNCTION)]

    def messages(self) -> Iterator[Message]:
        for function in self._functions:
            for call in _own_calls(function):
                for text in self._texts_of(call, function):
                    yield Message(self.name, call.lineno, text)

    def _texts_of(self, call: ast.Call, function: Function) -> Iterator[str]:
        name = _name(call.func)
        if name in RAISED | WHY_NO_RUN:
            for argument in _words_of(name, call):
                for text in self._texts(argument, function):
                    yield f"has no flow run for this DAG run: {text}" if name in WHY_NO_RUN else text
        elif name == "warning":
            filled = iter([_template(each, _locals(function)) for each in call.args[1:]])
            for text in self._texts(call.args[0], function):
                yield re.sub(r"%[a-z]", lambda _: next(filled, "…"), text)

    def _texts(self, node: ast.expr, function: Function) -> Iterator[str]:
        if isinstance(node, ast.Name):  # what was assigned to it
            for assigned in ast.walk(function):
                if isinstance(assigned, ast.Assign) and any(_name(each) == node.id for each in assigned.targets):
                    yield from self._texts(assigned.value, function)
        elif isinstance(node, ast.Call) and _name(node.func) in texts_returned():
            yield from texts_returned()[_name(node.func)]
        else:
            text = _template(node, _locals(function))
            if _has_words(text):
                yield text


def _has_words(text: str) -> bool:
    return len(re.findall(r"[a-zA-Z_']{2,}", text)) > 2


def _words_of(name: str, call: ast.Call) -> list[ast.expr]:
    """The arguments that a reader sees; the first of a `ReplyError` is the request."""
    named = [each.value for each in call.keywords if each.arg in ("message", "missing")]
    return [*([] if name in REPLY_ERRORS else call.args), *named]


def _own_calls(function: Function) -> Iterator[ast.Call]:
    inner = [each for child in function.body for each in ast.walk(child) if isinstance(each, FUNCTION)]
    nested = {id(node) for each in inner for node in ast.walk(each)}
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and id(node) not in nested:
            yield node


def _name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _locals(function: Function) -> dict[str, str]:
    """The texts of local names that are assigned once."""
    assigned: dict[str, list[ast.expr]] = {}
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            assigned.setdefault(_name(node.targets[0]), []).append(node.value)
    texts = {name: _template(values[0]) for name, values in assigned.items() if name and len(values) == 1}
    return {name: text for name, text in texts.items() if _has_words(text)}


def _template(node: ast.expr, known: Mapping[str, str] = MappingProxyType({})) -> str:
    """A text with `…` for what is filled in; of names, what is known of them."""
    match node:
        case ast.Constant(value=str() as text):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(_template(part, known) for part in parts)
        case ast.FormattedValue(value=value):
            return _template(value, known)
        case ast.BinOp(left=left, right=right):
            return _template(left, known) + _template(right, known)
        case ast.Name(id=name):
            return known.get(name, "…")
    return "…"


@cache
def texts_returned() -> dict[str, list[str]]:
    """{function: the texts that it returns}, for functions whose only work is to word a message."""
    found: dict[str, list[str]] = {}
    for module in modules():
        for node in ast.walk(ast.parse(path_of(module).read_text())):
            if isinstance(node, FUNCTION) and _name_of(node.returns) == "str":
                returned = [each.value for each in ast.walk(node) if isinstance(each, ast.Return) and each.value]
                texts = [_template(each) for each in returned]
                found[node.name] = list(filter(_has_words, texts))
    return {name: texts for name, texts in found.items() if texts}


def _name_of(node: ast.expr | None) -> str:
    return "" if node is None else _name(node)


def messages() -> list[Message]:
    return [each for name in modules() if name not in TOLD_OTHERWISE for each in _Module(name).messages()]


def test_every_quotation_has_its_provocation_and_the_other_way_round() -> None:
    assert set(troubleshooting()) == {*PROVOCATIONS, *RARE, *SEEN_IN_A_BROWSER_ONLY}
    assert quoted_in_prose() == set(IN_PROSE)


@pytest.mark.parametrize("message", messages(), ids=lambda each: f"{each.module}:{each.line}")
def test_every_message_stands_in_the_table(message: Message) -> None:
    assert any(says(message.text, quote) for quote in troubleshooting()), f"no row of the README says: {message.text}"


def test_the_inventory_finds_messages_however_they_are_made() -> None:
    """Or the test above would show nothing."""
    texts = [each.text for each in messages()]
    assert "if_exists is 'fail' and there is already …" in texts  # formatted where it is raised
    assert "…: …. Adobe cannot change that; give the export another name." in texts  # worded by a function
    assert "has no flow run for this DAG run: it is being deleted" in texts  # a part of a message
    assert "… is reused as it is: …" in texts  # a warning
