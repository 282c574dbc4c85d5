"""What a DAG file pays for importing this provider, counted in modules; every parse pays it again."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_aep import operators
from tests.airflow_places import AIRFLOW

ROOT = Path(__file__).parent.parent
# The budget in time is 5 ms, which a test on a shared machine cannot hold anybody to. `airflow.sdk` of 3.1 leaves the
# base of sensors to whoever needs it.
MOST_MODULES = 15 if AIRFLOW >= (3, 2) else 16
# A DAG file pays for the links of the task page, our module and Airflow's base of it, within its 15. `import *` of all
# modules held 15 before there were links; and the operators for the life of an export (run, enable, delete, sync,
# check) lie in modules of their own, each loaded only by a DAG file that uses it. A fixed bound would only press them
# together.
MORE_FOR_EVERYTHING = 2 + len(set(operators._MODULES.values()) - {"datasets", "export", "steps"})
HEAVY = {"aiohttp", "requests", "starlette", "uvicorn", "fastapi", "pyarrow", "pandas", "sqlalchemy", "concurrent"}

# The DAG processor has loaded Airflow before it forks for a file, so only what is new after that counts.
SCRIPT = """
import json, sys, time
from airflow.sdk import DAG
before = set(sys.modules)
began = time.perf_counter()
{imports}
seconds = time.perf_counter() - began
print(json.dumps({{"ms": seconds * 1000, "new": sorted(set(sys.modules) - before)}}))
"""
DAG_FILE = """
from airflow_provider_aep.destinations import AmazonS3
from airflow_provider_aep.schedules import Every, Once
from airflow_provider_aep.operators import AepExportDatasetsOperator
from airflow_provider_aep.sensors import AepDataflowRunSensor
"""
EVERYTHING = "\n".join(
    f"from airflow_provider_aep.{module} import *" for module in ("destinations", "schedules", "operators", "sensors")
)


def imported(imports: str, home: Path) -> dict[str, Any]:
    """What a fresh interpreter loads for these lines, and in how many milliseconds; byte code is kept, as in life."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment |= {"PYTHONPATH": str(ROOT), "AIRFLOW_HOME": str(home)}
    command = [sys.executable, "-c", SCRIPT.format(imports=imports)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize(
    ("imports", "most_modules"),
    [(DAG_FILE, MOST_MODULES), (EVERYTHING, MOST_MODULES + MORE_FOR_EVERYTHING)],
    ids=["a DAG file", "everything"],
)
def test_a_dag_file_loads_little(imports: str, most_modules: int, tmp_path: Path, record_property: Any) -> None:
    rounds = [imported(imports, tmp_path) for _ in range(3)]
    record_property("median_ms", statistics.median(each["ms"] for each in rounds))
    new = rounds[-1]["new"]
    assert "airflow_provider_aep.operators" in new
    assert len(new) <= most_modules, new
    assert not HEAVY & {name.partition(".")[0] for name in new}
    for later in ("hooks", "triggers", "run_poller", "api.session", "api.calls", "api.queries", "emulator"):
        assert f"airflow_provider_aep.{later}" not in new, "it is needed in `execute` only"


@pytest.mark.parametrize("module", ["hooks", "triggers", "errors", "destinations", "schedules"])
def test_no_public_module_brings_a_web_framework(module: str, tmp_path: Path) -> None:
    new = imported(f"import airflow_provider_aep.{module}", tmp_path)["new"]
    assert not (HEAVY - {"concurrent", "sqlalchemy"}) & {name.partition(".")[0] for name in new}
    assert not any(name.startswith("airflow_provider_aep.emulator") for name in new)
