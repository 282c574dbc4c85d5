"""Worker processes killed at every request of a set-up, and the process that Airflow starts in their place."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from airflow_provider_aep.api.entities import DataflowId
from airflow_provider_aep.api.provisioning.export import set_up_export
from airflow_provider_aep.api.provisioning.owner import Owner
from airflow_provider_aep.api.provisioning.policy import IfExists, SetupPolicy
from airflow_provider_aep.api.provisioning.removal import remove_export
from airflow_provider_aep.api.session import Session
from airflow_provider_aep.api.settings import Settings
from airflow_provider_aep.emulator import CLIENT_ID, CLIENT_SECRET, ORG_ID
from tests.adobe.line import Line, Trouble
from tests.adobe.served import served
from tests.exports import DATASETS, KINDS, S3, WAYS, desired, one_of_each

CASES = 120  # each has a sandbox of its own on one emulator
SETTLE_SECONDS = 0.5
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["tests.exports"])


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    names = ",".join(f"case-{number}" for number in range(CASES))
    with served(tmp_path_factory.mktemp("adobe"), "--sandboxes", names) as url:
        yield url


@pytest.fixture(scope="module")
def sandboxes() -> Iterator[int]:
    return count()


def set_up(url: str, sandbox: str, again: bool, if_exists: IfExists, way: str, datasets: int, answer: Any) -> None:
    """What a worker process does."""
    settings = Settings(CLIENT_ID, CLIENT_SECRET, ORG_ID, sandbox, gateway=url, ims=url)
    policy = SetupPolicy(if_exists, Owner("dag.export, run 1", f"{os.getpid()}", again), SETTLE_SECONDS)
    with Session(settings) as session:
        answer.send(session.run(WAYS[way](desired(dataset_ids=(DATASETS[datasets],)), policy)))


def operate(url: str, sandbox: str, again: bool, answer: Any) -> None:
    """The same through the operator, as Airflow calls it."""
    connection = {"conn_type": "aep", "login": CLIENT_ID, "password": CLIENT_SECRET, "host": url}
    connection["extra"] = json.dumps({"org_id": ORG_ID, "sandbox_name": sandbox, "ims_host": url})
    login = {"conn_type": "aws", "login": "A" * 20, "password": "a" * 40}
    os.environ["AIRFLOW_CONN_AEP_DEFAULT"] = json.dumps(connection)
    os.environ["AIRFLOW_CONN_BUCKET"] = json.dumps(login)
    os.environ["AIRFLOW__AEP__VISIBILITY_SECONDS"] = str(SETTLE_SECONDS)

    from airflow_provider_aep.operators import AepExportDatasetsOperator
    from airflow_provider_aep.schedules import Every

    operator = AepExportDatasetsOperator(
        task_id="export", dataset_ids=DATASETS[0], destination=S3, destination_conn_id="bucket", schedule=Every(hours=3)
    )
    ti = SimpleNamespace(run_id="run 1", map_index=-1, try_number=2 if again else 1)
    answer.send(operator.execute({"ti": ti}))  # type: ignore[typeddict-item]


def worker(work: Callable[..., None], *arguments: Any) -> tuple[Any, Any]:
    reader, writer = _processes.Pipe(duplex=False)
    process = _processes.Process(target=work, args=(*arguments, writer), daemon=True)
    process.start()
    writer.close()
    return process, reader


def finished(process: Any, reader: Any) -> Any:
    """What a worker that nothing happens to has set up; EOFError if it died.

    Its exit code is not asked: of threads that ask at once, multiprocessing tells only one the truth.
    """
    assert reader.poll(60), "the worker has neither finished nor died"
    result = reader.recv()
    process.join(60)
    return result


def killed_and_retried(
    emulator: str, sandbox: str, number: int, trouble: Trouble, work: Callable[..., None], *arguments: Any
) -> Any:
    """SIGKILL while the request of that number hangs; then the retry, on a line that works."""
    with Line(emulator, lambda asked: trouble if asked == number else "none") as line:
        process, reader = worker(work, line.url, sandbox, False, *arguments)
        assert line.hanging.wait(60), "the request was never made"
        os.kill(process.pid, signal.SIGKILL)
        process.join(60)
        with pytest.raises(EOFError):  # it died without an answer
            reader.recv()
    return finished(*worker(work, emulator, sandbox, True, *arguments))


def is_one_export(emulator: str, sandbox: str, ids: Any) -> Counter[str]:
    """One of each is left, and it is what the task returned; gives how many of each kind were made."""
    made = [
        each for each in httpx.get(f"{emulator}/_emulator/creations").json()["creations"] if each["sandbox"] == sandbox
    ]
    live = {each["kind"]: each["id"] for each in made if not each["deleted"]}
    assert Counter(each["kind"] for each in made if not each["deleted"]) == one_of_each()
    assert [live[kind] for kind in KINDS] == list(ids)[:4]
    return Counter(each["kind"] for each in made)


@pytest.mark.parametrize("way", WAYS)
def test_a_process_killed_at_any_request_leaves_one_export(emulator: str, sandboxes: Iterator[int], way: str) -> None:
    with Line(emulator, lambda _: "none") as line:
        first = f"case-{next(sandboxes)}"
        is_one_export(emulator, first, finished(*worker(set_up, line.url, first, False, "reuse", way, 0)))
        requests = len(line.sent)

    def die(case: tuple[int, Trouble, str]) -> None:
        number, trouble, sandbox = case
        ids = killed_and_retried(emulator, sandbox, number, trouble, set_up, "reuse", way, 0)
        assert is_one_export(emulator, sandbox, ids) == one_of_each(), case

    troubles: tuple[Trouble, ...] = ("hang before", "hang after") if way == "whole" else ("hang after",)
    cases = [(n, trouble, f"case-{next(sandboxes)}") for n in range(requests) for trouble in troubles]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(die, cases))


def test_a_process_killed_while_it_changes_the_datasets_leaves_one_export(
    emulator: str, sandboxes: Iterator[int]
) -> None:
    def prepared() -> str:
        sandbox = f"case-{next(sandboxes)}"
        finished(*worker(set_up, emulator, sandbox, False, "reuse", "whole", 0))
        return sandbox

    with Line(emulator, lambda _: "none") as line:
        first = prepared()
        is_one_export(emulator, first, finished(*worker(set_up, line.url, first, False, "update", "whole", 1)))
        requests = len(line.sent)

    def die(number: int) -> None:
        sandbox = prepared()
        ids = killed_and_retried(emulator, sandbox, number, "hang after", set_up, "update", "whole", 1)
        assert is_one_export(emulator, sandbox, ids) == {**one_of_each(), "sourceConnections": 2}, number

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(die, range(requests)))


def remove(url: str, sandbox: str, again: bool, dataflow_id: str, answer: Any) -> None:
    """What a worker process does that removes an export with its login."""
    settings = Settings(CLIENT_ID, CLIENT_SECRET, ORG_ID, sandbox, gateway=url, ims=url)
    policy = SetupPolicy("reuse", Owner("dag.remove, run 1", f"{os.getpid()}", again), SETTLE_SECONDS)
    with Session(settings) as session:
        answer.send(session.run(remove_export(DataflowId(dataflow_id), policy, with_base_connection=True)).as_data())


def test_a_process_killed_at_any_write_of_a_removal_leaves_nothing(emulator: str, sandboxes: Iterator[int]) -> None:
    def prepared() -> tuple[str, Any]:
        sandbox = f"case-{next(sandboxes)}"
        return sandbox, finished(*worker(set_up, emulator, sandbox, False, "reuse", "whole", 0))

    def left(sandbox: str) -> list[str]:
        made = httpx.get(f"{emulator}/_emulator/creations").json()["creations"]
        return [each["kind"] for each in made if each["sandbox"] == sandbox and not each["deleted"]]

    with Line(emulator, lambda _: "none") as line:
        first, ids = prepared()
        finished(*worker(remove, line.url, first, False, ids.dataflow_id))
        writes = [at for at, sent in enumerate(line.sent) if sent.method != "GET" and "/ims/" not in sent.path]
    assert left(first) == []
    assert len(writes) == 7

    def die(number: int) -> None:
        sandbox, ids = prepared()
        result = killed_and_retried(emulator, sandbox, number, "hang after", remove, ids.dataflow_id)
        assert (left(sandbox), result["kept"]) == ([], []), number

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(die, writes))


def set_up_at_the_same_moments(url: str, sandboxes: list[str], number: int, starts: Any, answer: Any) -> None:
    """A worker process that begins each set-up together with the others; each has an export of its own."""
    results = []
    for sandbox in sandboxes:
        settings = Settings(CLIENT_ID, CLIENT_SECRET, ORG_ID, sandbox, gateway=url, ims=url)
        policy = SetupPolicy("reuse", Owner(f"dag.export {number}, run 1", f"{os.getpid()}", False), SETTLE_SECONDS)
        with Session(settings) as session:
            starts.wait(60)
            results.append(session.run(set_up_export(desired(f"export {number}"), policy)))
    answer.send(results)


def test_four_processes_whose_exports_share_a_new_login(tmp_path: Path) -> None:
    """Each export rests on one login, which is there; a round in each of four sandboxes."""
    sandboxes = [f"round-{number}" for number in range(4)]
    with served(tmp_path, "--sandboxes", ",".join(sandboxes)) as url:
        starts = _processes.Barrier(4)
        workers = [worker(set_up_at_the_same_moments, url, sandboxes, number, starts) for number in range(4)]
        rounds = zip(*(finished(*each) for each in workers), strict=True)
        made = httpx.get(f"{url}/_emulator/creations").json()["creations"]
    for sandbox, ids in zip(sandboxes, rounds, strict=True):
        live = {
            kind: {each["id"] for each in made if (each["sandbox"], each["kind"]) == (sandbox, kind)}
            - {each["id"] for each in made if each["deleted"]}
            for kind in KINDS
        }
        assert {kind: len(live[kind]) for kind in KINDS} == {"connections": 1, **dict.fromkeys(KINDS[1:], 4)}
        assert {each.base_connection_id for each in ids} == live["connections"]
        assert {each.dataflow_id for each in ids} == live["flows"]


def test_the_operator_killed_before_its_last_reply(emulator: str, sandboxes: Iterator[int]) -> None:
    sandbox = f"case-{next(sandboxes)}"
    result = killed_and_retried(emulator, sandbox, 10, "hang after", operate)
    ids = [result[f"{name}_id"] for name in ("base_connection", "source_connection", "target_connection", "dataflow")]
    assert is_one_export(emulator, sandbox, ids) == one_of_each()
