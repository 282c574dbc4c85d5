"""The trigger: stored and read, one event and no more, only reads, ends by its deadline, leaves its poller."""

from __future__ import annotations

import asyncio
import json
import re
import time
from typing import Any

import pytest
from airflow.triggers.base import TaskSuccessEvent

from airflow_provider_aep.emulator import CLIENT_SECRET
from airflow_provider_aep.run_wait import read_event
from airflow_provider_aep.triggers import AepDataflowRunTrigger
from tests.adobe.served import ServedAdobe
from tests.tasks import events_of, rebuilt


def trigger(dataflow_id: str, **arguments: Any) -> AepDataflowRunTrigger:
    given: dict[str, Any] = {"aep_conn_id": "aep_default", "deadline": time.time() + 30, "poll_seconds": 1}
    return AepDataflowRunTrigger(dataflow_id=dataflow_id, **given | arguments)


def test_every_argument_survives_being_stored() -> None:
    arguments: dict[str, Any] = {
        "aep_conn_id": "adobe",
        "dataflow_id": "flow-1",
        "deadline": 1767225600.5,
        "sandbox_name": "dev",
        "run_id": "run-1",
        "after_ms": 1767225600000,
        "until_ms": 1767312000000,
        "schedule": [1767225600, 86400, None],
        "poll_seconds": 2.5,
        "succeed_on": ["success", "empty"],
        "push_result": False,
        "look_at": 1767225500.5,
        "carry": {"dataflow_id": "flow-1", "dataset_ids": ["a", "b"]},
    }
    path, stored = AepDataflowRunTrigger(**arguments).serialize()

    assert (path, stored) == ("airflow_provider_aep.triggers.AepDataflowRunTrigger", arguments)
    assert json.loads(json.dumps(stored)) == stored
    assert rebuilt(AepDataflowRunTrigger(**arguments)).serialize() == (path, stored)


def test_a_subclass_is_stored_as_itself() -> None:
    class Own(AepDataflowRunTrigger):
        pass

    assert (
        Own(aep_conn_id="a", dataflow_id="f", deadline=0).serialize()[0].endswith("test_triggers." + Own.__qualname__)
    )


def test_one_event_with_the_run_and_what_it_was_given_to_carry(adobe: ServedAdobe) -> None:
    flow = adobe.dataflow("one event")
    run_id = adobe.run(flow, "partial")

    (event,) = asyncio.run(events_of(rebuilt(trigger(flow, carry={"a": [1, "b"]}))))

    assert event.payload["carry"] == {"a": [1, "b"]}
    run = read_event(json.loads(json.dumps(event.payload)))
    assert (run.id, run.outcome, run.errors[0].code) == (run_id, "partial", "CONNECTOR-2001-500")


def test_it_only_reads(adobe: ServedAdobe) -> None:
    """It may run twice: a triggerer restarts, another takes over."""
    flow = adobe.dataflow("reads")
    adobe.run(flow, "failed")

    asyncio.run(events_of(trigger(flow)))

    assert adobe.requests()
    assert {each.method for each in adobe.sent} == {"GET"}


@pytest.mark.parametrize(
    ("outcome", "succeed_on", "ends"),
    [
        ("success", ["success", "empty"], True),
        ("empty", ["success", "empty"], True),
        ("empty", ["success"], False),
        ("failed", ["success", "empty"], False),
        ("success", None, False),
    ],
)
def test_what_ends_the_task_right_here(
    outcome: str, succeed_on: list[str] | None, ends: bool, adobe: ServedAdobe
) -> None:
    flow = adobe.dataflow(f"ends {outcome} {len(succeed_on or [])}")
    run_id = adobe.run(flow, outcome)

    (event,) = asyncio.run(events_of(trigger(flow, succeed_on=succeed_on, push_result=False)))

    assert isinstance(event, TaskSuccessEvent) is ends
    # Where there is no triggerer to push the result through, a worker has to: `dag.test()` has none.
    (event,) = asyncio.run(events_of(trigger(flow, succeed_on=succeed_on)))
    assert event.payload["run"]["id"] == run_id


def test_a_wait_says_once_an_hour_that_it_is_alive(
    adobe: ServedAdobe, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its task's log: for what it waits, how long already, and when Adobe last answered."""
    flow = adobe.dataflow("alive")

    def told() -> list[str]:
        capsys.readouterr()
        since = int(adobe.now().timestamp() * 1000)
        asyncio.run(events_of(trigger(flow, deadline=time.time() + 2.4, after_ms=since)))
        return re.findall(r"still waiting for .*? ago", capsys.readouterr().out)

    assert told() == []
    monkeypatch.setattr("airflow_provider_aep.triggers.SIGN_OF_LIFE_SECONDS", 1)
    first, *_ = told()
    assert re.fullmatch(
        rf"still waiting for a run of dataflow {flow} created at or after \S+; for 1 s, Adobe last answered \d s ago",
        first,
    )


def test_it_ends_at_its_deadline(adobe: ServedAdobe) -> None:
    flow = adobe.dataflow("deadline of a trigger")
    run_id = adobe.run(flow, ended=False)
    began = time.monotonic()

    (event,) = asyncio.run(events_of(trigger(flow, deadline=time.time() + 1.5)))

    assert time.monotonic() - began == pytest.approx(1.5, abs=0.5)
    assert event.payload["status"] == "timeout"
    assert run_id in event.payload["seen"]


def test_one_that_is_loaded_after_its_deadline_still_looks(adobe: ServedAdobe) -> None:
    """As after a long outage of the triggerer: the run has ended meanwhile."""
    flow = adobe.dataflow("loaded late")
    run_id = adobe.run(flow)

    (event,) = asyncio.run(events_of(trigger(flow, deadline=time.time() - 3600)))

    assert event.payload["run"]["id"] == run_id


def test_a_poke_interval_of_nothing_is_no_endless_poll(adobe: ServedAdobe) -> None:
    flow = adobe.dataflow("no interval")

    asyncio.run(events_of(trigger(flow, poll_seconds=0, deadline=time.time() + 2)))

    assert adobe.requests().count("GET /runs") <= 3


@pytest.mark.parametrize(
    ("change", "words"),
    [({"password": ""}, "client secret"), ({"extra": {"org_id": "nonsense"}}, "org_id = <hidden, 8 characters>")],
)
def test_a_connection_that_cannot_be_right_ends_it(
    change: dict[str, Any], words: str, adobe: ServedAdobe, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.real_airflow import connections

    right = json.loads(connections(adobe.url)["AIRFLOW_CONN_AEP_DEFAULT"])
    monkeypatch.setenv("AIRFLOW_CONN_WRONG", json.dumps({**right, **change}))

    (event,) = asyncio.run(events_of(trigger("flow-1", aep_conn_id="wrong")))

    assert event.payload["status"] == "invalid"
    assert words in event.payload["error"]
    assert "'wrong'" in event.payload["error"]
    assert CLIENT_SECRET not in str(event.payload)


def test_a_trigger_that_is_cancelled_leaves_the_others_alone(adobe: ServedAdobe) -> None:
    """They share one poller, which ends with the last of them."""
    flow = adobe.dataflow("cancelled")
    adobe.run(flow, ended=False)

    def pollers() -> int:
        return sum(each.get_name() == "aep-run-poller" for each in asyncio.all_tasks())

    async def scene() -> None:
        tasks = [asyncio.ensure_future(events_of(trigger(flow))) for _ in range(3)]
        await asyncio.sleep(0.8)
        assert pollers() == 1
        tasks[0].cancel()
        adobe.advance(200)
        for each in tasks[1:]:
            ((event,), _) = await asyncio.gather(each, asyncio.sleep(0))
            assert event.payload["status"] == "ended"
        assert tasks[0].cancelled()
        await asyncio.sleep(0.1)
        assert pollers() == 0

        last = asyncio.ensure_future(events_of(trigger("another")))
        await asyncio.sleep(0.6)
        last.cancel()
        await asyncio.sleep(0.1)
        asked = len(adobe.requests())
        assert pollers() == 0
        await asyncio.sleep(1.2)
        assert len(adobe.requests()) == asked

    asyncio.run(scene())
