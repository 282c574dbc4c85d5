"""What Airflow is told of this provider: valid by Airflow's own schema, true, and free of charge to read."""

from __future__ import annotations

import ast
import importlib
import json
import re
import subprocess
import sys
import tomllib
from dataclasses import fields
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # ships no types
import pytest

import airflow_provider_aep
from airflow_provider_aep.api.settings import GATEWAY, Settings
from airflow_provider_aep.emulator import ORG_ID
from airflow_provider_aep.hooks import AepHook
from airflow_provider_aep.links import AepDataflowLink, AepDataflowRunLink

ROOT = Path(__file__).parent.parent
INFO: dict[str, Any] = airflow_provider_aep.get_provider_info()
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONNECTION: dict[str, Any] = INFO["connection-types"][0]
OPTIONS: dict[str, dict[str, Any]] = INFO["config"]["aep"]["options"]


def test_it_is_valid_by_the_schema_of_the_installed_airflow() -> None:
    schema = json.loads(files("airflow").joinpath("provider_info.schema.json").read_text())
    jsonschema.validate(INFO, schema)


def test_it_is_json_and_the_same_at_each_call() -> None:
    assert json.loads(json.dumps(INFO)) == INFO == airflow_provider_aep.get_provider_info()


def test_the_package_is_the_distribution_and_the_entry_point_leads_here() -> None:
    assert INFO["package-name"] == PROJECT["name"] == "airflow-provider-aep"
    (target,) = PROJECT["entry-points"]["apache_airflow_provider"].values()
    module, _, function = target.partition(":")
    assert getattr(importlib.import_module(module), function) is airflow_provider_aep.get_provider_info


@pytest.mark.parametrize("kind", ["hooks", "operators", "sensors", "triggers"])
def test_every_module_it_names_is_there_and_is_public(kind: str) -> None:
    for entry in INFO[kind]:
        assert entry["integration-name"] in {each["integration-name"] for each in INFO["integrations"]}
        for name in entry["python-modules"]:
            assert importlib.import_module(name).__all__


def test_every_module_there_is_named() -> None:
    named = {
        name
        for kind in ("hooks", "operators", "sensors", "triggers")
        for each in INFO[kind]
        for name in each["python-modules"]
    }
    assert {f"airflow_provider_aep.{kind}" for kind in ("hooks", "operators", "sensors", "triggers")} == named


def test_the_connection_type_leads_to_the_hook() -> None:
    module, _, name = CONNECTION["hook-class-name"].rpartition(".")
    assert getattr(importlib.import_module(module), name) is AepHook
    assert CONNECTION["connection-type"] == AepHook.conn_type == "aep"
    assert CONNECTION["hook-name"] == AepHook.hook_name


def test_the_form_asks_for_what_the_hook_reads() -> None:
    """What the configuration holds too is not in the form, so that it stays short; the extra takes it as well."""
    source = (ROOT / "airflow_provider_aep" / "airflow_connection.py").read_text()
    read = set(re.findall(r'_text\(extra, "(\w+)"', source))
    assert read - set(OPTIONS) == set(CONNECTION["conn-fields"])


def test_the_form_accepts_good_values_and_no_others() -> None:
    form = {name: field["schema"] for name, field in CONNECTION["conn-fields"].items()}
    jsonschema.validate(ORG_ID, form["org_id"])
    for wrong in ("", "x", ORG_ID.lower(), "G" * 24 + "@AdobeOrg"):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, form["org_id"])
    for optional in ("sandbox_name", "scopes", "ims_host"):
        jsonschema.validate(None, form[optional])
        jsonschema.validate("some-text", form[optional])


def test_the_defaults_that_the_form_shows_are_those_of_the_code() -> None:
    defaults = {field.name: field.default for field in fields(Settings)}
    assert CONNECTION["conn-fields"]["sandbox_name"]["schema"]["default"] == defaults["sandbox_name"]
    assert CONNECTION["ui-field-behaviour"]["placeholders"]["host"] == GATEWAY == defaults["gateway"]
    assert str(defaults["ims"]) in CONNECTION["conn-fields"]["ims_host"]["description"]


def test_the_form_asks_for_the_port_and_shows_none_as_a_default() -> None:
    """Airflow 3.3.2's Test fails where no port is stored; a bare 443 in grey would read as if it were there already."""
    behaviour = CONNECTION["ui-field-behaviour"]
    assert behaviour["hidden-fields"] == ["schema"]
    assert behaviour["placeholders"]["port"] == "fill in 443"


@pytest.mark.parametrize(
    ("option", "setting"),
    [
        ("connect_timeout", "connect_seconds"),
        ("read_timeout", "read_seconds"),
        ("max_retry_after", "max_retry_after_seconds"),
        ("visibility_seconds", "visibility_seconds"),
    ],
)
def test_the_defaults_that_the_configuration_shows_are_those_of_the_code(option: str, setting: str) -> None:
    """`airflow config list` shows them; without an installed provider the code's own hold."""
    defaults = {field.name: field.default for field in fields(Settings)}
    assert float(OPTIONS[option]["default"]) == defaults[setting]


def test_the_configuration_holds_every_option_that_the_code_reads_and_no_other() -> None:
    assert set(OPTIONS) == {name for name, _ in _options_read()}


def test_each_fallback_in_the_code_is_the_default_shown() -> None:
    for name, fallback in _options_read():
        if fallback is not None:
            shown = OPTIONS[name]["default"]
            assert (shown if isinstance(fallback, str) else float(shown)) == fallback, name


def _options_read() -> list[tuple[str, float | str | None]]:
    """Names and fallbacks in `conf.getfloat("aep", name, fallback=…)` and `_setting(extra, name, …)`.

    The links name theirs as `option`, and look it up with an empty text as fallback.
    """
    found: list[tuple[str, float | str | None]] = [(link.option, "") for link in (AepDataflowLink, AepDataflowRunLink)]
    for file in (ROOT / "airflow_provider_aep").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Call):
                continue
            literals = [each.value for each in node.args if isinstance(each, ast.Constant)]
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            if name == "_setting" and len(literals) == 2:
                found.append((str(literals[0]), float(str(literals[1]))))
            elif name.startswith("get") and literals[:1] == ["aep"] and len(literals) == 2:
                given = [each.value for each in node.keywords if each.arg == "fallback"]
                fallbacks = [float(str(each.value)) for each in given if isinstance(each, ast.Constant)]
                found.append((str(literals[1]), fallbacks[0] if fallbacks else None))
    return found


def test_reading_it_loads_nothing() -> None:
    """Airflow reads it at every start, while its own configuration is still being loaded."""
    script = (
        "import sys; before = set(sys.modules); import airflow_provider_aep as provider; "
        "provider.get_provider_info(); print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["airflow_provider_aep"]
