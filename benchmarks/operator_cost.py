"""What an operator adds to a task: the slope of `dag.test()` over the number of tasks, less that of a PythonOperator.

Every task sends one GET to a service without latency. `--child` is what each subject's process runs.
"""

import json
import os
import sys
import time
from typing import Any

from lab import Child, Lab, Row, main

FEW, MANY = 1, 21


def python(number: int) -> Any:
    from airflow.providers.standard.operators.python import PythonOperator

    return PythonOperator(task_id=f"task_{number}", python_callable=print)


def http(number: int) -> Any:
    from airflow.providers.http.operators.http import HttpOperator

    return HttpOperator(task_id=f"task_{number}", method="GET", endpoint="api/v1/sync_runs/1")


def aep(number: int) -> Any:
    from airflow_provider_aep.operators import AepListDatasetsOperator

    return AepListDatasetsOperator(task_id=f"task_{number}")


def define(operator: str, tasks: int) -> Any:
    from airflow.sdk import DAG

    with DAG(f"cost_{operator}_{tasks}", schedule=None) as dag:
        for number in range(tasks):
            {"python": python, "http": http, "aep": aep}[operator](number)
    return dag


def run(operator: str, tasks: int) -> float:
    """CPU seconds of one `dag.test()`, without the definition of the DAG; waiting for the service is not counted."""
    dag = define(operator, tasks)
    begin = time.process_time()
    result = dag.test()
    seconds = time.process_time() - begin
    if str(result.state) != "success":
        raise RuntimeError(f"{operator}: {result.state}")
    return seconds


def child(rounds: int) -> None:
    """Milliseconds for a task beyond a PythonOperator's, interleaved in one process so that all share its state."""
    operators = json.loads(sys.argv[3])
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115  Airflow's log lines, until the process ends
    for operator in operators:
        run(operator, FEW)  # imports, connections, a token
    slopes: dict[str, list[float]] = {operator: [] for operator in operators}
    for _ in range(rounds):
        for operator in operators:
            slopes[operator].append((run(operator, MANY) - run(operator, FEW)) / (MANY - FEW) * 1000)
    floor = slopes.pop("python")
    extra = {name: [slope - less for slope, less in zip(found, floor, strict=True)] for name, found in slopes.items()}
    print(json.dumps({"extra": extra, "floor": floor}), file=sys.__stdout__)


def operator_cost(lab: Lab) -> list[Row]:
    operators = lab.subjects(["http", "aep"])
    with lab.service(1, tls=False, latency=0) as service:
        folder = lab.airflow()
        names = [f"{operator}_{tasks}" for operator in ["python", *operators] for tasks in (FEW, MANY)]
        lines = [f"{name} = define('{name.split('_')[0]}', {name.split('_')[1]})" for name in names]
        (folder / "cost.py").write_text("# airflow DAG\nfrom operator_cost import define\n" + "\n".join(lines))
        environment = lab.environment(service.base_url, AIRFLOW__CORE__DAGS_FOLDER=str(folder))
        rounds = "1" if lab.quick else "7"
        command = [sys.executable, "operator_cost.py", "--child", rounds, json.dumps(["python", *operators])]
        process = Child(command, environment, lab.folder / "operator_cost.log")
        extra = process.read("extra")["extra"]
        process.close()
        (folder / "cost.py").unlink()
    return [Row("operator over PythonOperator, dag.test()", "ms for a task", "<= 10", extra)]


if __name__ == "__main__":
    if "--child" in sys.argv:
        child(int(sys.argv[2]))
    else:
        main(operator_cost)
