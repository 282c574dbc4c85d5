"""The retry policy: a decision for every error, the one that operators come to by themselves, also in a real task."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG, task

from airflow_provider_aep import errors
from airflow_provider_aep.api.queries import list_dataflows
from airflow_provider_aep.errors import AepError
from airflow_provider_aep.hooks import AepHook
from airflow_provider_aep.tasks import AepOperator
from tests.adobe.served import ServedAdobe
from tests.airflow_places import AIRFLOW, DagSerialization
from tests.dag_runs import Finished
from tests.tasks import context, ended
from tests.test_errors import EVERY
from tests.test_readme import section

if AIRFLOW >= (3, 3):
    from airflow.sdk import ExceptionRetryPolicy, RetryAction

    from airflow_provider_aep.retry_policy import AEP_RETRY_POLICY

has_policies = pytest.mark.skipif(AIRFLOW < (3, 3), reason="Airflow has retry policies since 3.3")


class Raises(AepOperator):
    """An operator whose work ends in an error."""

    def __init__(self, **arguments: Any) -> None:
        self.error: Exception = arguments.pop("error")
        super().__init__(task_id="raises", **arguments)

    def work(self, context: Any) -> None:
        raise self.error


def test_every_error_is_tried() -> None:
    public = {getattr(errors, name) for name in errors.__all__}
    assert public - {type(each) for each in EVERY} == {AepError}


@has_policies
@pytest.mark.parametrize("error", EVERY, ids=lambda error: type(error).__name__)
def test_every_error_has_a_decision(error: AepError) -> None:
    """Also after Airflow has stored the policy. A new error without a rule would be left to the task's `retries`."""
    again = ExceptionRetryPolicy.deserialize(json.loads(json.dumps(AEP_RETRY_POLICY.serialize())))
    for policy in (AEP_RETRY_POLICY, again):
        decision = policy.evaluate(error, 1, 3)
        assert decision.action is (RetryAction.FAIL if error.is_final else RetryAction.RETRY)
        assert decision.reason


@pytest.mark.parametrize("error", EVERY, ids=lambda error: type(error).__name__)
def test_operators_decide_the_same_by_themselves(error: AepError) -> None:
    """On every Airflow."""
    assert ended(Raises, context(), error=error).state == ("failed" if error.is_final else "retried")


@has_policies
def test_other_errors_are_left_to_the_task() -> None:
    assert AEP_RETRY_POLICY.evaluate(KeyError("x"), 1, 3).action is RetryAction.DEFAULT


@has_policies
@pytest.mark.parametrize(("status", "tries"), [(403, 1), (503, 3)])
def test_a_task_of_ones_own(status: int, tries: int, adobe: ServedAdobe, run_dag: Callable[..., Finished]) -> None:
    """As Airflow's task runner decides by it, from the stored DAG on; without the policy both are tried three times."""
    adobe.fault("GET /flows*", status=status, times=100)
    with DAG("own", schedule=None, default_args={"retries": 2, "retry_delay": timedelta(0)}) as dag:

        @task(retry_policy=AEP_RETRY_POLICY)
        def with_policy() -> None:
            with AepHook().get_conn() as session:
                session.settings = replace(session.settings, attempts=1)  # Airflow's tries are counted here
                session.run(list_dataflows())

        with_policy()
    stored = json.loads(json.dumps(DagSerialization.to_dict(dag)))
    assert DagSerialization.from_dict(stored).get_task("with_policy").has_retry_policy

    finished = run_dag(dag)

    assert (finished.states(), finished.tries()) == ({"with_policy": "failed"}, {"with_policy": tries})


@has_policies
def test_the_task_in_the_readme(adobe: ServedAdobe) -> None:
    dataflow_id = adobe.dataflow("the readme's policy")
    adobe.disable(dataflow_id)
    code: dict[str, Any] = {}
    (block,) = re.findall(r"```python\n(.*?)```", section("Retries"), re.DOTALL)
    exec(block, code)
    decorated = code["disabled_dataflows"]

    assert "the readme's policy" in decorated.function()
    assert decorated.kwargs["retry_policy"] is AEP_RETRY_POLICY


@has_policies
def test_nobody_pays_who_does_not_import_it() -> None:
    script = (
        "import sys; from airflow_provider_aep.operators import *; from airflow_provider_aep.sensors import *; "
        "from airflow_provider_aep.hooks import AepHook; import airflow_provider_aep.triggers; "
        "print('airflow_provider_aep.retry_policy' in sys.modules)"
    )
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "False"
