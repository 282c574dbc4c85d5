"""Many exports at once, by dynamic task mapping: over datasets, destinations and sandboxes."""

from __future__ import annotations

import importlib.util
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

from airflow_provider_aep.emulator.flow_service.datasets import SEEDED
from airflow_provider_aep.hooks import AepHook
from tests.adobe.served import ServedAdobe
from tests.dag_runs import Finished
from tests.exports import KINDS
from tests.real_airflow import EXAMPLES
from tests.test_readme import section


def test_every_dataset_into_two_destinations(adobe: ServedAdobe, run_dag: Callable[..., Finished]) -> None:
    """One login for all; a second DAG run makes nothing, and asks four times for each export, as the example says."""
    spec = importlib.util.spec_from_file_location("example_aep_many", EXAMPLES / "example_aep_many.py")
    assert spec
    assert spec.loader
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    made = []
    for pattern, datasets in (("*", len(SEEDED)), ("AAM*", 5)):
        before = Counter(each["kind"] for each in adobe.admin("GET", "creations")["creations"])
        adobe.line.sent.clear()
        finished = run_dag(example.dag, run_conf={"name_pattern": pattern})
        assert (finished.state, finished.result("count")) == ("success", 2 * datasets)
        after = Counter(each["kind"] for each in adobe.admin("GET", "creations")["creations"])
        made.append([after[kind] - before[kind] for kind in KINDS[1:]])
    assert made == [[2 * len(SEEDED)] * 3, [0] * 3]
    asked = Counter(adobe.requests())
    assert {kind: asked[f"GET /{kind}"] for kind in KINDS} == dict.fromkeys(KINDS, 10)


def test_the_sandboxes_of_the_readme(adobe: ServedAdobe, run_dag: Callable[..., Finished]) -> None:
    code: dict[str, Any] = {}
    (block,) = re.findall(r"```python\n(.*?)```", section("Many at once"), re.DOTALL)
    exec(block, code)

    assert run_dag(code["dag"]).state == "success"

    for sandbox in ("prod", "dev"):
        flows = AepHook(sandbox_name=sandbox).list_dataflows()
        assert len([each for each in flows if each.name.startswith("all_sandboxes.export ")]) == 1
