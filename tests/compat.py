"""`make compat`: all tests on each Python of this machine, those that go through Airflow on older ones too; a table.

It takes an hour or so. An older Airflow runs with the dependencies of its time, which `constraints-3.1.txt` and its
like pin: a released Airflow breaks on what its dependencies become later.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]
TESTS = ROOT / "tests"
ENVIRONMENTS = ROOT / ".compat"
PYTHONS = ((3, 11), (3, 12), (3, 13))
#: What a test file imports if it goes through Airflow.
THROUGH_AIRFLOW = re.compile(
    r"^ *(from|import) (airflow\.|airflow_provider_aep import|airflow_provider_aep\.(hooks|operators|sensors|tasks|"
    r"triggers|run_wait|run_poller)\b|tests\.(adobe\.served|airflow_places|dag_runs|real_airflow|tasks)\b)",
    re.MULTILINE,
)
#: On an older Airflow its own warnings, and those of its dependencies, are no news; those that this package causes are.
WARNINGS = "filterwarnings=default\nerror:::airflow_provider_aep"


class Python(NamedTuple):
    """An interpreter that can make environments."""

    version: tuple[int, ...]
    path: str

    def __str__(self) -> str:
        return ".".join(map(str, self.version))


class Outcome(NamedTuple):
    """What became of the tests of one environment: a row of the table."""

    airflow: str
    python: Python
    tests: str
    passed: int
    failed: int
    skipped: int
    minutes: float

    def __str__(self) -> str:
        return (
            f"| {self.airflow} | {self.python} | {self.tests} | {self.passed:,} | {self.failed} | {self.skipped} "
            f"| {self.minutes:.0f} |"
        )


def pythons() -> list[Python]:
    """One of each version, the oldest first: the first on the path, else the newest of pyenv."""
    found: dict[tuple[int, ...], Python] = {}
    for path in _candidates():
        told = subprocess.run(
            [path, "-c", "import ensurepip, sys, venv; print(*sys.version_info[:3])"],
            capture_output=True,
            text=True,
            check=False,
        )
        if told.returncode == 0:  # a shim of pyenv may lead nowhere
            version = tuple(int(number) for number in told.stdout.split())
            found.setdefault(version[:2], Python(version, path))
    return [found[version] for version in PYTHONS if version in found]


def _candidates() -> Iterator[str]:
    names = [f"python{major}.{minor}" for major, minor in PYTHONS]
    for name in (*names, "python3", "python"):
        for folder in os.get_exec_path():
            if path := shutil.which(name, path=folder):
                yield path
    root = os.environ.get("PYENV_ROOT", "")
    if not root and (pyenv := shutil.which("pyenv")):
        root = subprocess.run([pyenv, "root"], capture_output=True, text=True, check=False).stdout.strip()
    if root:
        installed = [path.name for path in (Path(root) / "versions").glob("3.*") if re.fullmatch(r"[\d.]+", path.name)]
        for name in sorted(installed, key=lambda name: [int(number) for number in name.split(".")], reverse=True):
            yield str(Path(root) / "versions" / name / "bin" / "python")


def environment(python: Python, pins: Path) -> Path:
    """The Python of an environment like that of `make test`; one that was made of the same pins is used again."""
    folder = ENVIRONMENTS / f"{pins.stem}-{python}"
    of = (ROOT / "pyproject.toml").read_text() + pins.read_text()
    made = folder / "made"
    if made.exists() and made.read_text() == of:
        return folder / "bin" / "python"
    subprocess.run([python.path, "-m", "venv", "--clear", folder], check=True)
    own = folder / "bin" / "python"
    pip: list[str | Path] = [own, "-m", "pip", "install", "--quiet"]
    tools = ["--group", "test"] if _is_newest(pins) else ["--group", "pytest", f"apache-airflow=={airflow_of(pins)}"]
    subprocess.run([*pip, "--upgrade", "pip>=25.1"], cwd=ROOT, check=True)
    subprocess.run([*pip, "--constraint", pins, "--editable", ".[emulator]", *tools], cwd=ROOT, check=True)
    made.write_text(of)
    return own


def airflow_of(pins: Path) -> str:
    """Such as 3.3.2."""
    found = re.search(r"^apache-airflow==(.+)$", pins.read_text(), re.MULTILINE)
    assert found, pins
    return found.group(1)


def _is_newest(pins: Path) -> bool:
    return pins.name == "constraints.txt"


def through_airflow() -> list[str]:
    """The test files that mean something on another Airflow."""
    return [str(path) for path in sorted(TESTS.glob("test_*.py")) if THROUGH_AIRFLOW.search(path.read_text())]


def outcome(python: Python, pins: Path) -> Outcome:
    """Run the tests; an environment that cannot be made counts as a failure."""
    airflow, began = airflow_of(pins), time.monotonic()
    what = [] if _is_newest(pins) else ["-o", WARNINGS, *through_airflow()]
    print(f"\nAirflow {airflow}, Python {python}", flush=True)
    passed, failed, skipped = 0, 1, 0
    try:
        own = environment(python, pins)
        report = own.parents[1] / "report.xml"
        report.unlink(missing_ok=True)
        subprocess.run(
            [own, "-m", "pytest", f"--junit-xml={report}", "-o", "junit_family=xunit1", *what], cwd=ROOT, check=False
        )
        if report.exists():
            passed, failed, skipped = _counted(report)
    except subprocess.CalledProcessError as error:
        print(error, flush=True)
    tests = "through Airflow" if what else "all"
    return Outcome(airflow, python, tests, passed, failed, skipped, (time.monotonic() - began) / 60)


def _counted(report: Path) -> tuple[int, int, int]:
    """Passed, failed and skipped."""
    suites = ElementTree.parse(report).getroot().iter("testsuite")
    total, failed, skipped = 0, 0, 0
    for suite in suites:
        total += int(suite.get("tests", 0))
        failed += int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        skipped += int(suite.get("skipped", 0))
    return total - failed - skipped, failed, skipped


def main() -> int:
    """Whether something has failed, or no Python was found."""
    here = pythons()
    older = sorted(TESTS.glob("constraints-*.txt"), reverse=True)
    rows = [outcome(python, TESTS / "constraints.txt") for python in reversed(here)]
    rows += [outcome(python, pins) for pins in older for python in here[:1]]
    print("\n| Airflow | Python | tests | passed | failed | skipped | minutes |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    print(*rows, sep="\n")
    return 0 if rows and not any(row.failed or not row.passed for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
