"""Run now: once, whatever becomes of the replies; what Adobe's words mean; and the run that follows a failed one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from airflow_provider_aep.api import calls
from airflow_provider_aep.api.entities import DataflowId, DatasetId, FlowRunId
from airflow_provider_aep.api.provisioning.export import set_up_export
from airflow_provider_aep.api.provisioning.state import ensure_disabled
from airflow_provider_aep.api.runs.adhoc import LAST_CALL_MS, Rerun, StartedRuns, plan_run, rerun, start_run
from airflow_provider_aep.api.runs.slots import RunSelector
from airflow_provider_aep.api.settings import ADHOC_ACCEPT
from airflow_provider_aep.emulator import Clock, Platform
from airflow_provider_aep.errors import (
    AdhocRefused,
    EntityNotFound,
    InvalidArgument,
    NotReady,
    OutcomeUnknown,
    PlatformUnavailable,
    RequestRefused,
    RunExists,
    UnexpectedReply,
)
from tests.adobe.in_process import Adobe
from tests.canned import answers, ok
from tests.conftest import Runner
from tests.exports import DATASETS, desired, policy


@pytest.fixture
def platform(clock: Clock) -> Platform:
    return Platform(clock=clock, write_files=False)


POST = "POST /data/core/activation/disflowprovider/adhocrun"
PATH = POST.partition(" ")[2]
READY = 700.0


def ready(run: Runner, *, age: float = READY, **changes: Any) -> DataflowId:
    """A dataflow that is old enough for an ad hoc run."""
    dataflow_id = run(set_up_export(desired(**changes), policy())).dataflow_id
    run.clock.advance(age)
    run.platform.requests.clear()
    return DataflowId(dataflow_id)


def run_now(dataflow_id: DataflowId, *datasets: DatasetId) -> Any:
    plan = yield from plan_run(dataflow_id, datasets)
    return (yield from start_run(plan, accept=ADHOC_ACCEPT, visibility_seconds=10))


def runs(platform: Platform) -> list[FlowRunId]:
    """The oldest first."""
    return [FlowRunId(each["id"]) for each in platform.live("runs")]


def test_it_is_adobes_run_and_of_these_datasets(run: Runner, platform: Platform, requests_of: Any) -> None:
    flow = ready(run, dataset_ids=(DATASETS[0], DATASETS[1]))

    started = run(run_now(flow, DATASETS[1]))

    assert started == StartedRuns(tuple(runs(platform)), True)
    assert [each.dataset_ids for each in platform.runs.active.values()] == [[DATASETS[1]]]
    assert [each.partition("s/")[0] for each in requests_of()] == ["GET /flow", "GET /sourceConnection", POST]


def test_without_datasets_it_is_of_all(run: Runner, platform: Platform) -> None:
    flow = ready(run, dataset_ids=(DATASETS[0], DATASETS[1]))
    run(run_now(flow))
    assert [set(each.dataset_ids) for each in platform.runs.active.values()] == [{DATASETS[0], DATASETS[1]}]


def test_a_dataset_that_it_does_not_export_is_refused_first(run: Runner, requests_of: Any) -> None:
    flow = ready(run)
    with pytest.raises(InvalidArgument, match=f"does not export {DATASETS[1]}, only {DATASETS[0]}$") as refused:
        run(run_now(flow, DATASETS[0], DATASETS[1]))
    assert refused.value.value == [DATASETS[0], DATASETS[1]]
    assert POST not in requests_of()


@pytest.mark.parametrize("state", ["disabled", "disabling", "delete-finalizing"])
def test_a_dataflow_that_does_not_run_is_refused_first(
    state: str, run: Runner, platform: Platform, requests_of: Any
) -> None:
    flow = ready(run)
    platform.sandbox().collections["flows"].get(flow)["state"] = state
    with pytest.raises(InvalidArgument, match=f"dataflow 'dag.export' is {state}, so Adobe does not run it: enable"):
        run(run_now(flow))
    assert POST not in requests_of()


def test_a_dataflow_that_is_being_changed_is_waited_for() -> None:
    adobe = Adobe({"settle_seconds": 5, "adhoc_ready_seconds": 0})
    flow = adobe.task(desired(), tries=9).dataflow_id
    adobe.clock.advance(20)
    adobe.run(ensure_disabled(flow))
    adobe.run(calls.enable_dataflow(flow))
    assert adobe.the("flows")["state"] == "enabling"
    assert adobe.run(run_now(flow)).is_new


def test_a_dataflow_of_no_datasets_is_refused_first(run: Runner, platform: Platform, requests_of: Any) -> None:
    flow = ready(run)
    platform.sandbox().collections["flows"].get(flow)["sourceConnectionIds"] = []
    with pytest.raises(InvalidArgument, match="exports no datasets"):
        run(run_now(flow))
    assert POST not in requests_of()


# What Adobe's words mean


@pytest.mark.parametrize(("age", "seconds"), [(5, 595), (540, 60), (590, 10)])
def test_a_new_dataflow_is_not_ready_and_tells_how_long(
    age: float, seconds: float, run: Runner, platform: Platform, requests_of: Any
) -> None:
    flow = ready(run, age=0)
    platform.sandbox().collections["flows"].get(flow)["createdAt"] = int((run.clock.now() - age) * 1000)
    platform.options.__dict__["adhoc_ready_seconds"] = 700

    with pytest.raises(NotReady, match="not ready for dataset export, please wait for 10 minutes") as early:
        run(run_now(flow))

    assert early.value.retry_after_seconds == pytest.approx(seconds, abs=2)
    assert not early.value.is_final
    assert requests_of().count(POST) == 1  # the session does not try again within seconds
    assert runs(platform) == []


def test_an_older_one_that_is_not_ready_is_asked_again_in_a_minute(run: Runner, platform: Platform) -> None:
    flow = ready(run)
    platform.options.__dict__["adhoc_ready_seconds"] = 900
    with pytest.raises(NotReady) as early:
        run(run_now(flow))
    assert early.value.retry_after_seconds == 60


def test_a_storage_that_is_not_allow_listed_is_a_final_refusal(run: Runner, platform: Platform) -> None:
    flow = ready(run)
    platform.options.__dict__["adhoc_allowed"] = False
    with pytest.raises(AdhocRefused, match=r"can not be executed for Flow spec=.*only Adobe can: ask your Adobe") as no:
        run(run_now(flow))
    assert no.value.is_final


@pytest.mark.parametrize("status", [200, 400, 409, 422, 500])
@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("Following order ID(s) are NOT READY for dataset export", NotReady),
        ("Invalid parameter: Run already exists for dataset x", RunExists),
        ("Run already going on for dataset x for order y with run id z", RunExists),
        ("Invalid parameter: Flow for id x is incorrect. Error is [Adhoc run can not be executed", None),
        ("Error is [Adhoc run can not be executed for Flow spec=cd2fc47e", AdhocRefused),
    ],
)
def test_words_decide_whatever_the_status(status: int, words: str, error: type[Exception] | None, run: Runner) -> None:
    """Adobe documents neither a code nor a status."""
    from airflow_provider_aep.api.calls import start_adhoc_run

    answers(run, ok({"message": words}, status=status, x_request_id="r-1"))
    with pytest.raises(Exception) as told:  # noqa: PT011 - compared below
        run(start_adhoc_run(DataflowId("f"), [DATASETS[0]], accept=ADHOC_ACCEPT))
    assert error is None or type(told.value) is error
    if error is None:
        assert type(told.value) in (UnexpectedReply, RequestRefused, OutcomeUnknown)
    assert (status == 200 and error is None) or words in str(told.value)
    assert "r-1" in str(told.value)


def test_several_runs_come_each_once_and_in_order(run: Runner) -> None:
    from airflow_provider_aep.api.calls import start_adhoc_run

    def listed(*ids: str) -> Any:
        url = "https: //platform-stage.adobe.io/data/foundation/flowservice/runs/"  # with a blank, as in aepp's test
        return [{"id": each, "statusURL": url + run_id} for each, run_id in zip(DATASETS, ids, strict=False)]

    answers(run, ok({"destinations": [{"datasets": listed("run-2", "run-1", "run-2")}]}))
    found = run(start_adhoc_run(DataflowId("f"), DATASETS[:3], accept="x"))
    assert [each.run_id for each in found] == ["run-2", "run-1", "run-2"]


@pytest.mark.parametrize(
    "reply",
    [{}, {"destinations": []}, {"destinations": [{"datasets": [{"id": "a", "statusURL": "https://adobe/runs/"}]}]}],
)
def test_a_reply_without_a_run_is_not_as_expected(reply: Any, run: Runner) -> None:
    from airflow_provider_aep.api.calls import start_adhoc_run

    answers(run, ok(reply))
    with pytest.raises(UnexpectedReply):
        run(start_adhoc_run(DataflowId("f"), DATASETS[:1], accept="x"))


def rewritten(run: Runner, change: Callable[[Any], Any]) -> None:
    """Let a reply to the ad hoc call be another."""
    import json

    import httpx

    respond = run.platform.respond

    def changed(request: httpx.Request) -> httpx.Response:
        response = respond(request)
        if request.url.path != PATH:
            return response
        status, body = change(json.loads(response.content))
        return httpx.Response(status, json=body, headers={"Date": response.headers["Date"]})

    run.platform.respond = changed  # type: ignore[method-assign]


def test_a_run_of_some_of_the_datasets_only_is_told(run: Runner, platform: Platform) -> None:
    flow = ready(run, dataset_ids=(DATASETS[0], DATASETS[1]))

    def without_one(reply: Any) -> tuple[int, Any]:
        reply["destinations"][0]["datasets"].pop()
        return 200, reply

    rewritten(run, without_one)
    with pytest.raises(RequestRefused, match=f"but none for dataset {DATASETS[1]}"):
        run(run_now(flow))


# A run that is there already


def test_a_run_that_adobe_names_is_taken(run: Runner, platform: Platform) -> None:
    flow = ready(run)
    (first,) = run(run_now(flow)).run_ids
    assert run(run_now(flow)) == StartedRuns((first,), False)


@pytest.mark.parametrize("named", ["nothing", "the dataflow", "a run of another dataflow"])
def test_a_run_that_adobe_does_not_name_is_the_one_under_way(named: str, run: Runner, platform: Platform) -> None:
    flow = ready(run)
    others = run(set_up_export(desired("dag.other"), policy("dag.other, run 1"))).dataflow_id
    other = str(platform.start_run(others)["id"])
    platform.script_run(flow, seconds=5000)
    wanted = FlowRunId(platform.start_run(flow)["id"])
    run.clock.advance(300)
    platform.start_run(flow)
    run.clock.advance(300)  # the newest has ended
    said = {"nothing": "", "the dataflow": flow, "a run of another dataflow": f"{flow} with run id {other}"}[named]
    rewritten(run, lambda _: (400, {"message": f"Run already exists for order {said}"}))

    assert run(run_now(flow)) == StartedRuns((wanted,), False)


def test_if_none_is_under_way_it_is_the_newest(run: Runner, platform: Platform) -> None:
    """As Adobe says of a dataset that the schedule has just exported."""
    flow = ready(run)
    for _ in range(2):
        newest = platform.start_run(flow)["id"]
        run.clock.advance(300)
    platform.options.__dict__["adhoc_allowed"] = False  # so that no other is started
    rewritten(run, lambda _: (400, {"message": "run already exists"}))
    assert run(run_now(flow)).run_ids == (newest,)


def test_a_run_that_no_list_shows_is_an_error(run: Runner, platform: Platform) -> None:
    flow = ready(run)
    platform.options.__dict__["adhoc_allowed"] = False  # so that there is none
    rewritten(run, lambda _: (400, {"message": "run already exists"}))
    with pytest.raises(RunExists):
        run(run_now(flow))


# Exactly once

WORK_DONE: dict[str, Callable[[Platform], Any]] = {
    "reply lost": lambda platform: platform.faults.lose_reply(POST),
    "cut off": lambda platform: platform.faults.truncate(POST),
    "silence after": lambda platform: platform.faults.hang(POST, after=True),
    **{
        f"{status} after": lambda platform, status=status: platform.faults.status(POST, status, after=True)  # type: ignore[misc]  # a default
        for status in (429, 500, 502, 503, 504)
    },
}
NOTHING_DONE: dict[str, Callable[[Platform], Any]] = {
    "refused": lambda platform: platform.faults.refuse(POST),
    "reset before": lambda platform: platform.faults.reset(POST),
    "silence before": lambda platform: platform.faults.hang(POST),
    "twice": lambda platform: platform.faults.status(POST, 503, times=2),
    **{
        f"{status} before": lambda platform, status=status: platform.faults.status(POST, status)  # type: ignore[misc]  # a default
        for status in (429, 500, 502, 503, 504)
    },
}


@pytest.mark.parametrize("list_delay", [0, 5])
@pytest.mark.parametrize("fault", [*WORK_DONE, *NOTHING_DONE])
def test_a_fault_at_the_request_starts_one_run(fault: str, list_delay: float, run: Runner, platform: Platform) -> None:
    platform.options.__dict__["list_delay"] = list_delay
    flow = ready(run)
    {**WORK_DONE, **NOTHING_DONE}[fault](platform)

    started = run(run_now(flow))

    assert started == StartedRuns(tuple(runs(platform)), True)
    assert len(started.run_ids) == 1
    sent = sum(each.path == PATH for each in platform.requests)
    assert sent == (1 if fault in WORK_DONE else 3 if fault == "twice" else 2)


@pytest.mark.parametrize("kind", ["refuse", "reset", "lose_reply", "truncate", "hang", "429", "503"])
def test_a_fault_at_any_question_starts_one_run(kind: str, run: Runner, platform: Platform) -> None:
    """At each request in turn, those after a lost reply among them; a third after it, too."""
    flow = ready(run)
    for match in ("GET /flows/*", "GET /sourceConnections/*", "GET /runs"):
        before = len(runs(platform))
        platform.faults.lose_reply(POST)
        if kind.isdigit():
            platform.faults.status(match, int(kind), times=2)
        else:
            platform.faults.add(match=match, kind=kind, times=2)
        started = run(run_now(flow))
        assert started.run_ids == (runs(platform)[-1],)
        assert len(runs(platform)) == before + 1
        assert all(fault["hits"] for fault in platform.faults.describe())
        platform.faults.clear()
        run.clock.advance(300)


def test_a_list_that_lags_more_than_was_thought_starts_no_second_run(run: Runner, platform: Platform) -> None:
    """Sent again, the request is refused, and the run that is there is the one that it has started."""
    platform.options.__dict__["list_delay"] = 60
    flow = ready(run)
    platform.faults.lose_reply(POST)
    started = run(run_now(flow))
    run.clock.advance(60)
    assert started.run_ids == tuple(runs(platform))
    assert len(started.run_ids) == 1


def test_an_older_run_is_not_taken_for_the_lost_one(run: Runner, platform: Platform) -> None:
    flow = ready(run)
    older = platform.start_run(flow)["id"]
    run.clock.advance(300)
    platform.faults.reset(POST)
    (started,) = run(run_now(flow)).run_ids
    assert started != older


def test_an_outage_for_good_is_an_outage(run: Runner, platform: Platform) -> None:
    flow = ready(run)
    platform.faults.status(POST, 503, times=None)
    with pytest.raises(OutcomeUnknown) as outage:
        run(run_now(flow))
    assert not outage.value.is_final
    assert runs(platform) == []


# After a failed run

HOUR = 3_600_000


def failed_run(run: Runner, flow: DataflowId) -> Any:
    """A run that has just failed."""
    from airflow_provider_aep.api.calls import get_run

    run.platform.script_run(flow, "failed")
    run_id = run.platform.start_run(flow)["id"]
    run.clock.advance(200)
    return run(get_run(run_id))


def after(failed: Any, *, since_ms: int | None = None, until_ms: int | None = None, at_most: int = 1) -> Any:
    def select(_: object) -> RunSelector:
        return RunSelector(failed.created_ms if since_ms is None else since_ms, until_ms)

    return rerun(failed, select, at_most=at_most, accept=ADHOC_ACCEPT, visibility_seconds=10)


def test_a_failed_run_is_followed_by_another_once(run: Runner, platform: Platform) -> None:
    flow = ready(run)
    failed = failed_run(run, flow)

    following = run(after(failed))
    again = run(after(failed))  # whoever looks meanwhile

    assert (following.run.id, following.why_none) == (runs(platform)[-1], "")
    assert again.run.id == following.run.id
    assert len(runs(platform)) == 2


@pytest.mark.parametrize("fault", [*WORK_DONE, *NOTHING_DONE])
def test_a_fault_at_a_rerun_starts_one(fault: str, run: Runner, platform: Platform) -> None:
    flow = ready(run)
    failed = failed_run(run, flow)
    {**WORK_DONE, **NOTHING_DONE}[fault](platform)
    following = run(after(failed))
    assert (following.run.id, len(runs(platform))) == (runs(platform)[-1], 2)


def test_it_is_run_again_so_many_times(run: Runner, platform: Platform) -> None:
    flow = ready(run)
    first = failed_run(run, flow)
    second = failed_run(run, flow)

    assert run(after(second, since_ms=first.created_ms)) == Rerun(
        second, "2 flow runs of its slot have failed (rerun_failed=1)"
    )
    assert run(after(first)).run == second  # the same for one that has seen only the first one fail
    assert run(after(second, since_ms=first.created_ms, at_most=2)).run.id == runs(platform)[-1]


def test_it_is_run_again_before_the_next_slot_only(run: Runner, platform: Platform) -> None:
    flow = ready(run)
    failed = failed_run(run, flow)
    now_ms = int(run.clock.now() * 1000)

    late = run(after(failed, until_ms=now_ms + LAST_CALL_MS - 1000))
    assert late.run is failed
    assert late.why_none.startswith("it is too late for another, since the next slot is 2")
    assert run(after(failed, until_ms=now_ms + LAST_CALL_MS + 5000)).run.id != failed.id


def test_a_rerun_that_comes_in_the_next_slot_is_left_to_it(run: Runner, platform: Platform) -> None:
    """Or two DAG runs would load it."""
    flow = ready(run)
    failed = failed_run(run, flow)
    until_ms = int(run.clock.now() * 1000) + LAST_CALL_MS + 5000
    platform.faults.status(POST, 429, retry_after="299", times=2)

    late = run(after(failed, until_ms=until_ms))

    assert late == Rerun(failed, f"flow run {runs(platform)[-1]} came too late: it was created in the next slot")


def test_of_two_reruns_the_earlier_counts(run: Runner, platform: Platform) -> None:
    """Should Adobe have started one for each of two tasks that asked in the same second."""
    flow = ready(run)
    failed = failed_run(run, flow)
    earlier, _ = platform.start_run(flow)["id"], run.clock.advance(0.5)
    platform.start_run(flow)
    assert run(after(failed)).run.id == earlier


def test_a_run_of_the_next_slot_does_not_count(run: Runner, platform: Platform) -> None:
    flow = ready(run)
    failed = failed_run(run, flow)
    until_ms = int(run.clock.now() * 1000)
    run.clock.advance(60)
    platform.start_run(flow)
    assert run(after(failed, until_ms=until_ms)).run is failed


def test_a_run_of_a_later_slot_has_its_own_time(run: Runner, platform: Platform) -> None:
    """As with `on_missing="next"`, where the slot of the DAG run has none."""
    flow = ready(run)
    failed = failed_run(run, flow)
    before_ms = failed.created_ms - HOUR
    assert run(after(failed, since_ms=before_ms, until_ms=before_ms + 1)).run.id == runs(platform)[-1]


@pytest.mark.parametrize(
    ("trouble", "why"),
    [
        (lambda platform, flow: platform.sandbox().collections["flows"].get(flow).update(state="disabled"), "disabled"),
        (lambda platform, _: platform.options.__dict__.update(adhoc_allowed=False), "only Adobe can"),
        (lambda platform, _: platform.faults.status(POST, 403), "HTTP 403"),
    ],
)
def test_why_a_failed_run_is_not_followed(trouble: Any, why: str, run: Runner, platform: Platform) -> None:
    flow = ready(run)
    failed = failed_run(run, flow)
    trouble(platform, flow)
    found = run(after(failed))
    assert found.run is failed
    assert found.why_none.startswith("another cannot be started: ")
    assert why in found.why_none


def test_a_run_that_adobe_insists_on_is_no_other(run: Runner, platform: Platform) -> None:
    flow = ready(run)
    failed = failed_run(run, flow)
    rewritten(run, lambda _: (400, {"message": f"Run already exists with run id {failed.id}"}))
    found = run(after(failed))
    assert found == Rerun(failed, f"Adobe starts no other than flow run {failed.id}, which it says is there already")


def test_a_run_of_an_earlier_slot_is_waited_for(run: Runner, platform: Platform) -> None:
    flow = ready(run)
    platform.script_run(flow, seconds=5000)
    earlier = platform.start_run(flow)["id"]
    run.clock.advance(10)
    failed = failed_run(run, flow)
    with pytest.raises(NotReady, match=f"flow run {earlier} of an earlier slot is still under way"):
        run(after(failed))


def test_several_runs_take_no_single_ones_place(run: Runner, platform: Platform) -> None:
    flow = ready(run)
    failed = failed_run(run, flow)

    def one_each(reply: Any) -> tuple[int, Any]:
        (first,) = reply["destinations"][0]["datasets"]
        reply["destinations"][0]["datasets"].append({**first, "statusURL": first["statusURL"][:-1] + "x"})
        return 200, reply

    rewritten(run, one_each)
    found = run(after(failed))
    assert found.run is failed
    assert "Adobe runs it again as several flow runs" in found.why_none


def test_a_rerun_that_cannot_be_seen_yet_is_looked_for_again(run: Runner, platform: Platform) -> None:
    flow = ready(run)
    failed = failed_run(run, flow)
    platform.faults.status("GET /runs/*", 404)
    with pytest.raises(PlatformUnavailable) as hidden:
        run(after(failed))
    assert not isinstance(hidden.value, EntityNotFound)
    assert run(after(failed)).run.id == runs(platform)[-1]
    assert len(runs(platform)) == 2
