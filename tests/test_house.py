"""The layout of the house: who imports whom, what each module is for, and what no file may hold."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

import airflow_provider_aep

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "airflow_provider_aep"
MOST_LINES = 420

# module -> what it may import of this package, for types as well; the emulator is looked at on its own below.
PUBLIC_LEAVES = {"destinations", "schedules", "errors"}
LEAVES = {*PUBLIC_LEAVES, "api.entities", "api.credentials", "api.settings"}
REQUEST = {*LEAVES, "api.effects", "api.calls"}
PROVISIONING = (
    *(
        "owner",
        "policy",
        "resource",
        "retirement",
        "state",
        "desired",
        "drift",
        "lease",
        "ensure",
        "inventory",
        "observed",
    ),
    *("export", "journal", "removal", "plan", "sync", "extend"),
)
OPERATORS = ("check", "datasets", "export", "lifecycle", "run", "steps", "sync")
TABLE: dict[str, set[str]] = {
    "__init__": set(),
    "api.__init__": set(),
    # leaves
    "errors": {"api.entities"},
    "destinations": {"errors"},
    "schedules": {"errors", "destinations"},
    "api.entities": set(),
    "api.masking": set(),
    "api.credentials": {"errors", "api.masking"},
    "api.settings": {"errors"},
    # one request
    "api.effects": set(),
    "api.wire": LEAVES,
    "api.calls": {*LEAVES, "api.effects", "api.wire"},
    "api.replies": {"errors", "api.effects", "api.wire"},
    "api.retry": {"errors", "api.settings", "api.effects"},
    "api.auth": {"errors", "api.settings"},
    "api.session": {
        "errors",
        "api.settings",
        "api.effects",
        "api.calls",
        "api.masking",
        "api.replies",
        "api.retry",
        "api.auth",
    },
    # several requests: nothing here knows a session
    "api.queries": {*REQUEST, "api.auth", "api.wire"},
    "api.provisioning.__init__": set(),
    # in this order, each may import those before it
    **{
        f"api.provisioning.{name}": {
            *REQUEST,
            "api.queries",
            "api.runs.slots",
            *(f"api.provisioning.{before}" for before in PROVISIONING[:at]),
        }
        for at, name in enumerate(PROVISIONING)
    },
    "api.runs.__init__": set(),
    "api.runs.slots": LEAVES,
    "api.runs.selection": {*REQUEST, "api.runs.slots", "api.queries", "api.wire"},
    "api.runs.index": {*LEAVES, "api.runs.selection", "api.wire"},
    "api.runs.adhoc": {*REQUEST, "api.runs.slots", "api.runs.selection", "api.queries", "api.wire"},
    "api.runs.poll": {*REQUEST, "api.runs.index", "api.wire"},
    "api.runs.newest": {*REQUEST, "api.runs.index", "api.runs.poll", "api.wire"},
    "api.health": {
        *REQUEST,
        "api.queries",
        "api.runs.newest",
        "api.runs.poll",
        "api.runs.selection",
        "api.runs.slots",
        "api.provisioning.extend",
        "api.provisioning.owner",
    },
    # Airflow's side
    "airflow_connection": {"api", *PUBLIC_LEAVES},
    "hooks": {"airflow_connection", "arguments", "api", *PUBLIC_LEAVES},
    "poll_budget": set(),
    "subscription": {"poll_budget", "api"},
    "run_poller": {"subscription", "poll_budget", "hooks", "api", *PUBLIC_LEAVES},
    "arguments": LEAVES,
    "timetables": PUBLIC_LEAVES,
    "run_wait": {"arguments", "timetables", "hooks", "triggers", "api", *PUBLIC_LEAVES},
    "retry_policy": {"errors"},
    "links": {"api.settings"},  # for types
    "tasks": {"arguments", "links", "run_wait", "hooks", "api", *PUBLIC_LEAVES},
    "export_list": {"arguments", *LEAVES},
    "triggers": {"subscription", "run_poller", "links", "hooks", "api", *PUBLIC_LEAVES},
    "operators.__init__": {f"operators.{name}" for name in OPERATORS},
    **{
        f"operators.{name}": {
            "arguments",
            "export_list",
            "tasks",
            "links",
            "run_wait",
            "triggers",
            "hooks",
            "api",
            *PUBLIC_LEAVES,
        }
        for name in OPERATORS
    },
    "sensors": {"arguments", "tasks", "links", "run_wait", "triggers", "hooks", "api", *PUBLIC_LEAVES},
}
# What a DAG file loads: leaves and what checks arguments; the rest is imported inside `execute`.
AT_PARSE_TIME = {
    "operators.__init__",
    *(f"operators.{name}" for name in OPERATORS),
    "sensors",
    "arguments",
    "tasks",
    "links",
    "run_wait",
    *PUBLIC_LEAVES,
}
THIRD_PARTY = {
    "httpx": {"api.session"},
    "tenacity": {"api.session", "api.retry"},
    "asgiref": {"hooks", "triggers"},  # Airflow's own, whose blocking calls need the loop's thread-sensitive bridge
    "airflow": {
        "airflow_connection",
        "hooks",
        "links",
        "retry_policy",
        "run_poller",
        "tasks",
        "timetables",
        "run_wait",
        "triggers",
        "sensors",
        *(f"operators.{name}" for name in OPERATORS),
    },
}
PUBLIC = {"operators.__init__", "sensors", "triggers", "hooks", "links", "retry_policy", "api.queries", *PUBLIC_LEAVES}


class Import(NamedTuple):
    module: str
    at_start: bool  # when the module is loaded, neither for types only nor inside a function


def path_of(module: str) -> Path:
    return PACKAGE.joinpath(*module.split(".")).with_suffix(".py")


def modules(*, emulator: bool = False) -> list[str]:
    found = [".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in sorted(PACKAGE.rglob("*.py"))]
    return [name for name in found if name.startswith("emulator.") is emulator]


@cache
def imports(module: str) -> tuple[Import, ...]:
    """Everything that a module imports, by its full name; `from package import module` names the module."""
    return tuple(_imports(ast.parse(path_of(module).read_text()), at_start=True))


def _imports(node: ast.AST, *, at_start: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, at_start) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "imports are absolute"
            name = child.module or ""
            for alias in child.names:
                inner = f"{name}.{alias.name}"
                is_module = inner.startswith("airflow_provider_aep.") and path_of(inner.partition(".")[2]).exists()
                yield Import(inner if is_module else name, at_start)
        else:
            types_only = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            yield from _imports(child, at_start=at_start and not types_only and not inside)


def ours(module: str, *, at_start: bool = False) -> set[str]:
    """The modules of this package that a module imports; a package stands for its `__init__`."""
    found = set()
    for each in imports(module):
        package, _, name = each.module.partition(".")
        if package == "airflow_provider_aep" and (each.at_start or not at_start):
            found.add(name if path_of(name).exists() else f"{name}.__init__".lstrip("."))
    return found


def test_the_table_knows_every_module_and_no_other() -> None:
    assert set(TABLE) == set(modules())


@pytest.mark.parametrize("module", TABLE)
def test_a_module_imports_only_what_the_table_lets_it(module: str) -> None:
    allowed = TABLE[module]
    whole_api = "api" in allowed
    wrong = {each for each in ours(module) if each not in allowed and not (whole_api and each.startswith("api."))}
    assert not wrong, f"{module} imports {', '.join(sorted(wrong))}"


@pytest.mark.parametrize("module", TABLE)
def test_httpx_and_tenacity_can_be_replaced_in_two_files(module: str) -> None:
    """And nothing under `api` knows Airflow."""
    names = {each.module.partition(".")[0] for each in imports(module)}
    assert not {name for name, users in THIRD_PARTY.items() if name in names and module not in users}


def test_no_circle_and_none_hidden_in_a_function() -> None:
    done: set[str] = set()

    def reach(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path, module])
        if module not in done:
            for each in ours(module):
                reach(each, (*path, module))
            done.add(module)

    for module in modules():
        reach(module, ())


def test_no_two_classes_have_one_name() -> None:
    where: dict[str, list[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                where.setdefault(node.name, []).append(str(path.relative_to(PACKAGE)))
    assert not {name: paths for name, paths in where.items() if len(paths) > 1}


def test_the_emulator_goes_in_no_circle() -> None:
    """Not for types, nor inside a function; between packages neither."""

    def package(module: str) -> str:
        return ".".join(module.split(".")[:2])

    arrows = {module: {*ours(module)} for module in modules(emulator=True) if not module.endswith("__main__")}
    packages: dict[str, set[str]] = {}
    for module, others in arrows.items():
        packages.setdefault(package(module), set()).update({package(each) for each in others} - {package(module)})
    for graph in (arrows, packages):
        done: set[str] = set()
        while left := [each for each in graph if each not in done]:
            free = {each for each in left if graph[each] <= done}
            assert free, f"a circle among {', '.join(sorted(left))}"
            done |= free


@pytest.mark.parametrize("module", [*(f"operators.{name}" for name in OPERATORS), "sensors"])
def test_what_a_dag_imports_stays_light(module: str) -> None:
    seen: set[str] = set()
    queue = [module]
    while queue:
        current = queue.pop()
        seen.add(current)
        queue += ours(current, at_start=True) - seen
    assert seen <= AT_PARSE_TIME, sorted(seen - AT_PARSE_TIME)


@pytest.mark.parametrize("module", modules(emulator=True))
def test_the_emulator_shares_no_line_with_the_client(module: str) -> None:
    """A wrong field name in a shared module would agree with itself."""
    assert all(each.startswith("emulator.") for each in ours(module))


@pytest.mark.parametrize("module", modules())
def test_the_client_does_not_know_the_emulator(module: str) -> None:
    assert not any(each.startswith("emulator") for each in ours(module))


PYTHON = sorted(
    path
    for folder in ("airflow_provider_aep", "tests", "example_dags", "benchmarks")
    for path in (ROOT / folder).rglob("*.py")
)


@pytest.mark.parametrize("path", PYTHON, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_says_in_its_first_line_what_it_is_for(path: Path) -> None:
    if not path.read_text():
        assert path.name == "__init__.py"
        return
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring
    purpose = docstring.partition("\n\n")[0]
    assert purpose.endswith((".", "!", "?")), purpose
    assert len(purpose) <= 240


@pytest.mark.parametrize("module", [*modules(), *modules(emulator=True)])
def test_no_module_is_too_long(module: str) -> None:
    assert len(path_of(module).read_text().splitlines()) <= MOST_LINES


def test_no_module_has_a_name_that_says_nothing() -> None:
    names = {path.stem.strip("_") for path in PYTHON}
    assert not names & {"utils", "util", "common", "base", "constants", "helpers", "misc"}


@pytest.mark.parametrize("module", [*modules(), *modules(emulator=True)])
def test_what_is_listed_as_public_exists(module: str) -> None:
    if path_of(module).name == "__main__.py":
        return
    loaded = importlib.import_module(f"airflow_provider_aep.{module}".removesuffix(".__init__"))
    listed = getattr(loaded, "__all__", None)
    assert (listed is not None) or module not in PUBLIC
    for name in listed or ():
        assert hasattr(loaded, name), name
    assert len(set(listed or ())) == len(listed or ())


def test_the_changelog_begins_with_this_version() -> None:
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert headings[0] == airflow_provider_aep.__version__


def test_the_package_is_what_the_issue_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=3.11"
    assert project["license"] == "Apache-2.0"
    names = [re.split(r"[<>=]", each)[0] for each in project["dependencies"]]
    assert names == ["apache-airflow", "apache-airflow-providers-common-compat", "httpx", "tenacity"]
    assert "apache-airflow>=3.1" in project["dependencies"]
    assert "apache-airflow-providers-common-compat>=1.23" in project["dependencies"]
    extra = {re.split(r"[<>=]", each)[0] for each in project["optional-dependencies"]["emulator"]}
    assert extra == {"jsonschema", "pyarrow", "uvicorn"}
    assert (PACKAGE / "py.typed").exists()


# Written in pieces, so that this file does not hold what it forbids.
FORBIDDEN = {
    "a path of somebody's machine": rf"(?<![\w.$}}])(?:/Users|/ro{''}ot|/wo{''}rk|{re.escape(str(Path.home()))})/\w",
    "a host of a package registry": r"py" + r"pi\.|python" + r"hosted|index" + r"[-_]url|/" + r"simple/",
    "a private key": r"BEGIN (?:RSA |OPENSSH |EC )?PRIVATE" + r" KEY-----\n[A-Za-z0-9+/=]{60}",
}
TEXT = {".py", ".md", ".toml", ".txt", ".json", ".yaml", ".yml", ".cfg", ".sh", ""}


def files_of_the_project() -> list[Path]:
    """What git tracks or would; in a source distribution without git, every file."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    listed = done.stdout.splitlines() if done.returncode == 0 else []
    paths = [ROOT / name for name in listed] or [path for path in ROOT.rglob("*") if ".venv" not in path.parts]
    return [path for path in paths if path.is_file() and path.suffix in TEXT]


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_holds(what: str) -> None:
    found = []
    files = files_of_the_project()
    assert len(files) > 50
    for path in files:
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            if re.search(FORBIDDEN[what], line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert not found, "\n".join(found)


def test_an_ignore_names_its_code() -> None:
    """So that it hides one thing only."""
    pattern = re.compile(r"#\s*(?:type: ignore(?!\[)|noqa(?!:))")
    wrong = [
        f"{path.name}:{number}"
        for path in PYTHON
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if pattern.search(line) and path.name != Path(__file__).name
    ]
    assert not wrong
