"""What is found wrong with exports, in how few requests; and their end moved once, whatever goes wrong on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from airflow_provider_aep.api import calls
from airflow_provider_aep.api.effects import Call
from airflow_provider_aep.api.entities import DataflowId
from airflow_provider_aep.api.health import DataflowHealth, HealthRules, check_dataflows
from airflow_provider_aep.api.provisioning.drift import check_run_is_of
from airflow_provider_aep.api.provisioning.owner import owner_of, slots_changed_ms
from airflow_provider_aep.api.runs.slots import DagRunWindow, fingerprint, selector_for
from airflow_provider_aep.api.wire import read_dataflow
from airflow_provider_aep.errors import AepError, InvalidArgument
from airflow_provider_aep.schedules import Every, Once
from tests.adobe.caller import S3_FLOW
from tests.adobe.in_process import START, Adobe
from tests.conftest import Runner
from tests.exports import desired
from tests.test_exactly_once import DEATHS, FAULTS, OF_A_QUESTION, Killed, Strike, general

HOUR, DAY = 3600, 86_400
FAR = START + 1000 * DAY


def at(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def daily(end: float = FAR) -> Every:
    return Every(days=1, start=at(START + HOUR), end=at(end))


def export(adobe: Adobe, name: str = "nightly", **changes: Any) -> str:
    """A daily export that this provider made; gives the dataflow's ID."""
    return adobe.task(desired(name, **{"schedule": daily(), **changes}), name=f"dag.{name}, run 1").dataflow_id


def foreign(adobe: Adobe, name: str = "by hand", **changes: Any) -> str:
    """The same, made by somebody in Adobe's user interface."""
    flow_id = export(adobe, name, **changes)
    adobe.the("flows", name)["description"] = ""
    return flow_id


def check(adobe: Adobe, *, ids: Any = (), pattern: str = "", **rules: Any) -> list[DataflowHealth]:
    asked = HealthRules(**{"empty_runs": 3, **rules})
    found: list[DataflowHealth] = adobe.run(check_dataflows(asked, dataflow_ids=ids, name_pattern=pattern))
    return found


def words(adobe: Adobe, **arguments: Any) -> dict[str, list[str]]:
    """{name: its problems}."""
    return {each.dataflow.name: [one.word for one in each.problems] for each in check(adobe, **arguments)}


def text_of(adobe: Adobe, word: str, **arguments: Any) -> str:
    (text,) = (one.text for each in check(adobe, **arguments) for one in each.problems if one.word == word)
    return text


def days_pass(adobe: Adobe, days: float) -> None:
    adobe.clock.advance(days * DAY)
    adobe.platform.tick()


def act(adobe: Adobe, flow_id: str, operation: str) -> None:
    adobe.run(Call("POST", f"/flows/{flow_id}/action", query=[("op", operation)]))


def patch(adobe: Adobe, flow_id: str, **schedule: Any) -> None:
    """A change of its schedule in Adobe's user interface."""
    flow = adobe.run(calls.get_dataflow(DataflowId(flow_id)))
    operation = {"op": "replace", "path": "/scheduleParams", "value": {**flow.schedule, **schedule}}
    adobe.run(calls.patch_entity(calls.DATAFLOWS, flow_id, etag=flow.etag, operations=[operation]))


def end_of(adobe: Adobe, flow_id: str) -> int:
    (flow,) = (each for each in adobe.platform.live("flows") if each["id"] == flow_id)
    return int(flow["scheduleParams"]["endTime"])


@pytest.fixture
def adobe() -> Adobe:
    return Adobe({"arrivals": 10})  # so that no run is empty unless told


# -- what is wrong ----------------------------------------------------------------------------------------------------


def test_a_healthy_export_has_no_problem(adobe: Adobe) -> None:
    flow_id = export(adobe)
    assert words(adobe) == {"nightly": []}, "its first slot has not come"
    days_pass(adobe, 3)
    (health,) = check(adobe)
    assert health.summary() == {
        "dataflow_id": flow_id,
        "name": "nightly",
        "state": "enabled",
        "is_managed": True,
        "ends_at": at(FAR).isoformat(timespec="milliseconds"),
        "extended_from": None,
        "last_run_id": health.runs[0].id,
        "last_run_status": "success",
        "last_run_at": at(health.runs[0].completed_ms / 1000).isoformat(timespec="milliseconds"),  # type: ignore[operator]
        "problems": [],
        "details": [],
    }


@pytest.mark.parametrize(
    ("end", "problem", "text"),
    [
        (START + 31 * DAY, [], None),
        (START + 29 * DAY, ["ending"], "will end at 2027-02-13T08:00:00Z"),
        (START + 2 * HOUR, ["ended"], "has ended at 2027-01-15T10:00:00Z, and exports nothing since"),
    ],
)
def test_an_end_that_is_near(end: float, problem: list[str], text: str | None, adobe: Adobe) -> None:
    export(adobe, schedule=daily(end))
    adobe.clock.advance(3 * HOUR)
    assert words(adobe) == {"nightly": problem}
    assert text is None or text_of(adobe, problem[0]) == text


def test_an_end_that_adobe_does_not_show_is_six_months_after_the_creation(adobe: Adobe) -> None:
    """As Adobe's own page told every customer."""
    export(adobe)
    del adobe.the("flows")["scheduleParams"]["endTime"]
    adobe.clock.advance(100)
    assert words(adobe) == {"nightly": []}
    assert words(adobe, ends_within_seconds=184 * DAY) == {"nightly": ["ending"]}
    assert "shows no end: Adobe ends such an export six months" in text_of(
        adobe, "ending", ends_within_seconds=184 * DAY
    )


def test_a_disabled_export_is_told_to_be_disabled_and_not_late_as_well(adobe: Adobe) -> None:
    flow_id = export(adobe)
    days_pass(adobe, 2)
    act(adobe, flow_id, "disable")
    days_pass(adobe, 5)
    assert words(adobe) == {"nightly": ["disabled"]}
    assert text_of(adobe, "disabled").startswith("is disabled, so it exports nothing")
    adobe.the("flows")["state"] = "error"
    assert text_of(adobe, "disabled").startswith("is in the state 'error', so it exports nothing")


def test_a_slot_without_a_run_is_told_after_the_grace_and_not_before(adobe: Adobe) -> None:
    flow_id = export(adobe)
    days_pass(adobe, 1.2)
    assert words(adobe) == {"nightly": []}
    adobe.platform.skip_slots(flow_id, 1000)
    days_pass(adobe, 1)  # 2.2 days: its slot was at 2 days and an hour
    assert words(adobe) == {"nightly": []}
    assert words(adobe, grace_seconds=2 * HOUR) == {"nightly": ["overdue"]}
    days_pass(adobe, 0.1)
    assert words(adobe) == {"nightly": ["overdue"]}
    told = text_of(adobe, "overdue")
    assert told.startswith("has no run for its slot of 2027-01-17T09:00:00Z: its last, flow run ")
    assert told.endswith(" was created at 2027-01-16T09:00:05Z")


def test_an_export_that_has_never_run_is_late(adobe: Adobe) -> None:
    flow_id = export(adobe)
    adobe.platform.skip_slots(flow_id, 1000)
    days_pass(adobe, 1)
    assert text_of(adobe, "overdue") == "has no run for its slot of 2027-01-15T09:00:00Z, nor any other"


def test_a_run_without_an_end_keeps_the_others_away(adobe: Adobe) -> None:
    flow_id = export(adobe)
    days_pass(adobe, 1)
    adobe.platform.script_run(flow_id, "stuck")
    days_pass(adobe, 1)
    assert words(adobe) == {"nightly": []}, "it may take its time"
    adobe.platform.skip_slots(flow_id, 1000)
    days_pass(adobe, 1)
    assert text_of(adobe, "overdue").endswith("was created at 2027-01-16T09:00:05Z and has not ended")


@pytest.mark.parametrize("outcome", ["failed", "partial"])
def test_the_last_run_that_has_ended_went_wrong(outcome: Any, adobe: Adobe) -> None:
    """The one before it does not matter, nor one that is under way."""
    flow_id = export(adobe)
    adobe.platform.script_run(flow_id, "success")
    adobe.platform.script_run(flow_id, outcome)
    adobe.platform.script_run(flow_id, "success", seconds=2 * HOUR)
    days_pass(adobe, 2)
    assert words(adobe) == {"nightly": [outcome]}
    told = text_of(adobe, outcome)
    assert ("ACTIVATION_BATCH-0000-FAILED: Job aborted." if outcome == "failed" else "CONNECTOR-2001-500") in told
    adobe.clock.advance(1.5 * HOUR)
    assert words(adobe) == {"nightly": [outcome]}, "the next is under way"
    adobe.clock.advance(2 * HOUR)
    assert words(adobe) == {"nightly": []}


def test_empty_runs_in_a_row(adobe: Adobe) -> None:
    flow_id = export(adobe)
    for outcome in ("empty", "empty", "success", "empty", "empty"):
        adobe.platform.script_run(flow_id, outcome)
    days_pass(adobe, 5)
    assert words(adobe) == {"nightly": []}
    assert words(adobe, empty_runs=2) == {"nightly": ["empty"]}
    told = text_of(adobe, "empty", empty_runs=2)
    assert told == "has exported nothing in its last 2 runs, since 2027-01-18T09:00:05Z"
    adobe.platform.script_run(flow_id, "empty")
    days_pass(adobe, 1)
    assert words(adobe) == {"nightly": ["empty"]}
    assert words(adobe, ignored=frozenset({"empty"})) == words(adobe, empty_runs=None) == {"nightly": []}


def test_nobody_manages_what_others_made_unless_it_is_named(adobe: Adobe) -> None:
    export(adobe)
    flow_id = foreign(adobe)
    assert words(adobe) == {"by hand": ["unmanaged"], "nightly": []}
    assert words(adobe, ids=[flow_id]) == words(adobe, pattern="by*") == {"by hand": []}


def test_a_dataflow_that_is_gone(adobe: Adobe) -> None:
    flow_id, other = export(adobe), "00000000-0000-4000-8000-000000000000"
    (gone,) = check(adobe, ids=[other])
    assert (gone.summary()["state"], gone.summary()["problems"]) == ("gone", ["gone"])
    assert words(adobe, ids=[flow_id, other]) == {"": ["gone"], "nightly": []}
    assert words(adobe, ids=[flow_id, other], ignored=frozenset({"gone"})) == {"": [], "nightly": []}


def test_a_one_time_export_may_end_and_rest(adobe: Adobe) -> None:
    flow_id = export(adobe, schedule=Once(end=at(START + 2 * DAY)))
    days_pass(adobe, 3)
    act(adobe, flow_id, "disable")
    assert words(adobe, extend_seconds=365 * DAY) == {"nightly": []}
    assert end_of(adobe, flow_id) == START + 2 * DAY


def test_dataflows_that_export_no_datasets_are_no_exports(adobe: Adobe) -> None:
    """Such as those of audiences, which the same destinations take by another flow spec."""
    export(adobe)
    flow_id = foreign(adobe, "an audience")
    adobe.the("flows", "an audience")["flowSpec"]["id"] = "71471eba-b620-49e4-90fd-23f1fa0174d8"
    assert words(adobe) == {"nightly": []}
    with pytest.raises(InvalidArgument, match=r"dataflow_ids = .*: 'an audience' exports no datasets .*71471eba"):
        check(adobe, ids=[flow_id])


def test_what_is_being_deleted_is_no_export_any_more() -> None:
    adobe = Adobe({"delete_seconds": 100})
    flow_id = export(adobe)
    adobe.run(calls.delete_entity(calls.DATAFLOWS, flow_id))
    assert words(adobe) == {}
    assert words(adobe, ids=[flow_id]) == {"": ["gone"]}


def test_a_list_that_shows_a_new_dataflow_late_does_not_call_it_gone() -> None:
    adobe = Adobe({"list_delay": 60})
    ids = [adobe.task(desired(name, schedule=daily())).dataflow_id for name in ("one", "two")]
    assert words(adobe, ids=ids) == {"one": [], "two": []}


# -- how many requests ------------------------------------------------------------------------------------------------

RHYTHMS = ((3, "hour"), (6, "hour"), (9, "hour"), (12, "hour"), (1, "day"))


def hundred(adobe: Adobe, *, others: int = 0) -> list[dict[str, Any]]:
    """A hundred exports in five rhythms, made long ago; and dataflows that are none."""
    export(adobe, "first")
    first = adobe.the("flows")
    flows = adobe.platform.sandbox().collections["flows"]
    for number in range(1, 100 + others):
        interval, unit = RHYTHMS[number % 5]
        copy = {**first, "id": f"{number:08d}-0000-4000-8000-000000000000", "name": f"export {number:03d}"}
        copy["scheduleParams"] = {**first["scheduleParams"], "interval": interval, "timeUnit": unit}
        copy["flowSpec"] = {"id": S3_FLOW if number < 100 else "of audiences", "version": "1.0"}
        flows.add(copy, 0)
        adobe.platform.runs.plan(copy, adobe.clock.now())
    return [each for each in adobe.platform.live("flows") if each["flowSpec"]["id"] == S3_FLOW]


def requests_of(adobe: Adobe, work: Callable[[], object]) -> list[str]:
    adobe.platform.requests.clear()
    work()
    for each in adobe.platform.requests:
        assert each.query.count("property=") <= 1, "Adobe's OpenAPI has it as a single text"
    return adobe.requests()


def token_and(requests: list[str]) -> int:
    return 1 + len(requests)


def test_a_hundred_exports_with_long_histories_take_four_requests(adobe: Adobe) -> None:
    hundred(adobe)
    days_pass(adobe, 20)
    assert len(adobe.platform.live("runs")) > 6_000
    sent = requests_of(adobe, lambda: check(adobe))
    assert set(words(adobe)) == {"first", *(f"export {number:03d}" for number in range(1, 100))}
    assert token_and(sent) <= 4
    assert Counter(sent) <= Counter({"GET /flows": 2, "GET /runs": 1})


@pytest.mark.parametrize("empty_runs", [1, 3, 5])
def test_a_hundred_exports_that_all_need_a_look_at_their_history(empty_runs: int, adobe: Adobe) -> None:
    """All are empty, in five rhythms, and dataflows of others run in between."""
    flows = hundred(adobe, others=100)
    days_pass(adobe, 8)
    last = {each["id"]: 0 for each in flows}
    for run in adobe.platform.live("runs"):
        for name in ("recordSummary", "fileSummary"):
            for count in run["metrics"].get(name, {}):
                if isinstance(run["metrics"][name][count], int):
                    run["metrics"][name][count] = 0
        last[run["flowId"]] = last.get(run["flowId"], 0) + 1
    found: list[DataflowHealth] = []
    sent = requests_of(adobe, lambda: found.extend(check(adobe, empty_runs=empty_runs)))
    assert [each.dataflow.name for each in found if [one.word for one in each.problems] != ["empty"]] == []
    assert len(found) == 100
    assert token_and(sent) <= (10 if empty_runs <= 3 else 15)


def test_a_hundred_exports_of_an_adobe_that_does_not_name_their_last_runs(adobe: Adobe) -> None:
    """And one of them, which has a long history of its own, keeps nobody from being seen."""
    flows = hundred(adobe)
    days_pass(adobe, 8)
    adobe.platform.add_history(flows[7]["id"], 2000, every_seconds=1)
    for each in flows:
        each.pop("lastRunDetails", None)
    found: list[DataflowHealth] = []
    sent = requests_of(adobe, lambda: found.extend(check(adobe)))
    assert {each.dataflow.name: [one.word for one in each.problems] for each in found if each.problems} == {
        flows[7]["name"]: ["empty"]
    }
    assert token_and(sent) <= 10


def test_half_of_a_hundred_are_late_and_none_of_them_has_ever_run(adobe: Adobe) -> None:
    flows = hundred(adobe)
    silent = {each["name"] for each in flows[::2]}
    for each in flows[::2]:
        adobe.platform.skip_slots(each["id"], 1000)
    days_pass(adobe, 8)
    found: list[DataflowHealth] = []
    sent = requests_of(adobe, lambda: found.extend(check(adobe)))
    assert {each.dataflow.name for each in found if [one.word for one in each.problems] == ["overdue"]} == silent
    assert {each.dataflow.name for each in found if not each.problems} == {each["name"] for each in flows} - silent
    assert token_and(sent) <= 10


REFUSALS: dict[str, list[dict[str, Any]]] = {
    "several run IDs": [{"kind": "runs", "path": "id", "several": True}],
    "several dataflow IDs": [{"kind": "runs", "path": "flowId", "several": True}],
    "an order": [{"kind": "runs", "path": "createdAt", "operator": "orderby"}],
    "several IDs": [{"kind": "runs", "path": "*", "several": True}],
    "several IDs and an order": [
        {"kind": "runs", "path": "*", "several": True},
        {"kind": "runs", "path": "createdAt", "operator": "orderby"},
    ],
}


@pytest.mark.parametrize("names_last_runs", [True, False])
@pytest.mark.parametrize("is_busy", [False, True])
@pytest.mark.parametrize("refused", REFUSALS)
def test_a_hundred_exports_of_an_adobe_that_refuses(
    refused: str, is_busy: bool, names_last_runs: bool, adobe: Adobe
) -> None:
    """The bound never costs the truth: each export is judged by its own last run, even if it has to be asked for alone.

    Only where Adobe refuses several IDs, and others' runs stand before those of the exports, is there no bound of ten.
    """
    flows = hundred(adobe, others=1)
    days_pass(adobe, 5)
    bad = flows[42]
    for _ in range(8):
        adobe.platform.script_run(bad["id"], "partial")
    days_pass(adobe, 1.1)
    for refusal in REFUSALS[refused]:
        adobe.platform.refuse_filter(**refusal)
    for each in flows if not names_last_runs else ():
        each.pop("lastRunDetails", None)
    if is_busy:
        adobe.platform.add_history(adobe.the("flows", "export 100")["id"], 3000, every_seconds=1)
    found: list[DataflowHealth] = []
    sent = requests_of(adobe, lambda: found.extend(check(adobe)))
    assert {each.dataflow.name: [one.word for one in each.problems] for each in found if each.problems} == {
        bad["name"]: ["partial"]
    }
    for health in found:
        ended = [run for run in adobe.platform.live("runs") if run["flowId"] == health.dataflow.id]
        assert health.last_run
        assert health.last_run.id == max(ended, key=lambda run: run["createdAt"])["id"]
    needs_lists = refused.startswith("several IDs") or (refused == "several dataflow IDs" and not names_last_runs)
    one_by_one = is_busy and needs_lists
    assert token_and(sent) <= (125 if one_by_one else 10)


@pytest.mark.parametrize("refused", [True, False])
def test_a_hundred_ids_are_asked_for_together(refused: bool, adobe: Adobe) -> None:
    ids = [each["id"] for each in hundred(adobe, others=50)]
    days_pass(adobe, 2)
    if refused:
        adobe.platform.refuse_filter("id", kind="flows")
    found: list[DataflowHealth] = []
    sent = requests_of(adobe, lambda: found.extend(check(adobe, ids=ids)))
    assert len(found) == 100
    assert token_and(sent) <= 6


@pytest.mark.parametrize("size", [7, 100])
def test_both_sessions_see_the_same_on_pages_of_any_size(size: int, run: Runner) -> None:
    adobe = Adobe({"arrivals": 10})
    hundred(adobe)
    days_pass(adobe, 3)
    run.platform, run.clock = adobe.platform, adobe.clock
    found = run(check_dataflows(HealthRules()))
    assert [each.dataflow.id for each in found] == [each.dataflow.id for each in check(adobe)]


# -- the end is moved -------------------------------------------------------------------------------------------------

YEAR: dict[str, Any] = {"extend_seconds": 365 * DAY}


def test_an_end_is_moved_once_and_told_with_both_values(adobe: Adobe) -> None:
    ends = {"ending": START + 10 * DAY, "ended": START + 2 * HOUR, "later": FAR}
    ids = {name: export(adobe, name, schedule=daily(end)) for name, end in ends.items()}
    adobe.clock.advance(10 * HOUR)
    found = {each.dataflow.name: each for each in check(adobe, **YEAR)}
    now = adobe.clock.now()
    for name in ("ending", "ended"):
        assert found[name].problems == []
        assert found[name].summary()["extended_from"] == at(ends[name]).isoformat(timespec="milliseconds")
        assert end_of(adobe, ids[name]) == pytest.approx(now + 365 * DAY, abs=5)
        assert found[name].summary()["ends_at"] == at(end_of(adobe, ids[name])).isoformat(timespec="milliseconds")
    assert (found["later"].before, end_of(adobe, ids["later"])) == (None, FAR)
    sent = requests_of(adobe, lambda: check(adobe, **YEAR))
    assert not [each for each in sent if each.startswith("PATCH")]


def test_an_export_that_is_looked_after_each_month_never_ends(adobe: Adobe) -> None:
    """And no check in between, a day after the end was moved or a month, calls it late."""
    flow_id = export(adobe, schedule=daily(START + 40 * DAY))
    seen: list[dict[str, list[str]]] = []
    for day in range(1, 400):
        days_pass(adobe, 1)
        seen.append(words(adobe, **({"extend_seconds": 60 * DAY} if day % 20 == 0 else {"ends_within_seconds": DAY})))
    assert [each for each in seen if each != {"nightly": []}] == []
    runs = [run["createdAt"] for run in adobe.platform.live("runs") if run["flowId"] == flow_id]
    assert len(runs) == 399


def test_one_that_had_ended_is_not_called_late_for_the_slots_it_did_not_have(adobe: Adobe) -> None:
    export(adobe, schedule=daily(START + 3 * DAY))
    days_pass(adobe, 30)
    assert words(adobe) == {"nightly": ["ended"]}
    for hours in range(0, 72, 4):
        assert words(adobe, **YEAR) == {"nightly": []}, hours
        adobe.clock.advance(4 * HOUR)
        adobe.platform.tick()
    days_pass(adobe, 5)
    adobe.platform.skip_slots(adobe.the("flows")["id"], 1000)
    days_pass(adobe, 2)
    assert words(adobe) == {"nightly": ["overdue"]}


def test_the_day_on_which_an_end_is_moved_hides_nothing(adobe: Adobe) -> None:
    flow_id = export(adobe, schedule=daily(START + 20 * DAY))
    adobe.platform.script_run(flow_id, "failed")
    days_pass(adobe, 1)
    adobe.platform.skip_slots(flow_id, 1000)
    days_pass(adobe, 2)
    assert words(adobe, **YEAR) == {"nightly": ["overdue", "failed"]}


def test_without_ids_or_a_pattern_the_end_of_others_stays(adobe: Adobe) -> None:
    ends = START + 10 * DAY
    flow_id = foreign(adobe, schedule=daily(ends))
    assert words(adobe, **YEAR) == {"by hand": ["ending", "unmanaged"]}
    assert end_of(adobe, flow_id) == ends
    assert words(adobe, ids=[flow_id], **YEAR) == {"by hand": []}
    assert end_of(adobe, flow_id) > ends
    assert adobe.the("flows")["description"] == "", "what is theirs stays theirs"


def test_an_end_that_adobe_does_not_show_is_set(adobe: Adobe) -> None:
    flow_id = export(adobe)
    del adobe.the("flows")["scheduleParams"]["endTime"]
    assert words(adobe, ends_within_seconds=200 * DAY, **YEAR) == {"nightly": []}
    assert end_of(adobe, flow_id) == pytest.approx(adobe.clock.now() + 365 * DAY, abs=5)


def test_a_refused_extension_is_told_and_stops_no_other(adobe: Adobe) -> None:
    ids = [export(adobe, name, schedule=daily(START + 10 * DAY)) for name in ("a", "b", "c")]
    adobe.faults.status(f"PATCH /flows/{ids[1]}", 403, times=None)
    found = {each.dataflow.name: each for each in check(adobe, **YEAR)}
    assert {name: [one.word for one in each.problems] for name, each in found.items()} == {
        "a": [],
        "b": ["ending"],
        "c": [],
    }
    assert "will end at 2027-01-25T08:00:00Z; its end cannot be moved: PATCH /flows/" in found["b"].problems[0].text


@pytest.mark.parametrize("at_request", ["GET /flows/*", "PATCH /flows/*"])
def test_what_somebody_deletes_meanwhile_is_gone(at_request: str, adobe: Adobe) -> None:
    flow_id = export(adobe, schedule=daily(START + 10 * DAY))
    export(adobe, "other", schedule=daily(START + 10 * DAY))
    respond = adobe.respond

    def overtaken(request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix("/data/foundation/flowservice")
        if general(f"{request.method} {path}") == at_request and path.endswith(flow_id):
            adobe.respond = respond  # type: ignore[method-assign]
            adobe.run(calls.delete_entity(calls.DATAFLOWS, flow_id))
        answer: httpx.Response = respond(request)
        return answer

    adobe.respond = overtaken  # type: ignore[method-assign]
    assert words(adobe, **YEAR) == {"other": []}
    assert words(adobe, ids=[flow_id], **YEAR) == {"": ["gone"]}


def test_where_adobe_takes_no_description_the_end_is_moved_all_the_same(adobe: Adobe) -> None:
    flow_id = export(adobe, schedule=daily(START + 10 * DAY))
    respond = adobe.respond

    def stubborn(request: httpx.Request) -> httpx.Response:
        if request.method == "PATCH" and b"/description" in request.content:
            return httpx.Response(400, json={"errorCode": "FLOW-1411-400", "message": "no"}, request=request)
        return respond(request)

    adobe.respond = stubborn  # type: ignore[method-assign]
    assert words(adobe, **YEAR) == {"nightly": []}
    assert end_of(adobe, flow_id) > START + 300 * DAY


def test_what_somebody_else_moves_meanwhile_stays(adobe: Adobe) -> None:
    """Between the list and the fresh copy, and between the fresh copy and the PATCH."""
    for number, before in enumerate(("GET /flows/", "PATCH /flows/")):
        flow_id = export(adobe, f"flow {number}", schedule=daily(START + 10 * DAY))
        respond, mine, is_done = adobe.respond, int(FAR + number), False

        def overtaken(
            request: httpx.Request,
            before: str = before,
            mine: int = mine,
            respond: Any = respond,
            flow_id: str = flow_id,
        ) -> httpx.Response:
            nonlocal is_done
            asked = f"{request.method} {request.url.path.removeprefix('/data/foundation/flowservice')}"
            if asked == before + flow_id and not is_done:
                is_done = True
                adobe.respond = respond  # type: ignore[method-assign]
                patch(adobe, flow_id, endTime=mine)
            answer: httpx.Response = respond(request)
            return answer

        adobe.respond = overtaken  # type: ignore[method-assign]
        assert words(adobe, pattern=f"flow {number}", **YEAR) == {f"flow {number}": []}
        assert is_done
        assert end_of(adobe, flow_id) == mine


def _cases() -> list[tuple[str, int, str]]:
    """Each request of a check that moves an end, with everything that can go wrong at it."""
    adobe = Adobe({"arrivals": 10})
    export(adobe, schedule=daily(START + 10 * DAY))
    days_pass(adobe, 2)
    sent = [general(each) for each in requests_of(adobe, lambda: check(adobe, **YEAR))]
    seen: Counter[str] = Counter()
    cases = []
    for request in sent:
        troubles = FAULTS if request.startswith("PATCH") else OF_A_QUESTION
        cases += [(request, seen[request], trouble) for trouble in (*troubles, *DEATHS)]
        seen[request] += 1
    return cases


@pytest.mark.parametrize(("request_", "skip", "trouble"), _cases())
def test_whatever_goes_wrong_at_whichever_request_the_end_is_moved_once(
    request_: str, skip: int, trouble: str, adobe: Adobe
) -> None:
    flow_id = export(adobe, schedule=daily(START + 10 * DAY))
    days_pass(adobe, 2)
    strikes: dict[str, Strike] = {**FAULTS, **DEATHS}
    before = end_of(adobe, flow_id)
    respond, ends = adobe.respond, [before]

    def watched(request: httpx.Request) -> httpx.Response:
        try:
            return respond(request)
        finally:
            if end_of(adobe, flow_id) != ends[-1]:
                ends.append(end_of(adobe, flow_id))

    adobe.respond = watched  # type: ignore[method-assign]
    strikes[trouble](adobe, request_, skip)
    for _ in range(3):  # Airflow's retries
        try:
            found = check(adobe, **YEAR)
        except (AepError, Killed) as error:
            if getattr(error, "is_final", False):
                raise
            adobe.clock.advance(60)
        else:
            break
    (health,) = found
    assert health.problems == []
    assert len(ends) == 2, "moved once, and not again by what a lost reply or a death had made already"
    assert ends[1] > before
    assert health.summary()["ends_at"] == at(ends[1]).isoformat(timespec="milliseconds")


# -- and disturbs nobody ----------------------------------------------------------------------------------------------


def test_the_mark_keeps_its_owner_and_tells_that_no_slot_has_moved(adobe: Adobe) -> None:
    flow_id = export(adobe, schedule=daily(START + 10 * DAY))
    first = adobe.run(calls.get_dataflow(DataflowId(flow_id)))
    days_pass(adobe, 1)
    check(adobe, **YEAR)
    extended = adobe.run(calls.get_dataflow(DataflowId(flow_id)))
    assert (owner_of(extended), extended.description) == (owner_of(first), first.description)
    assert extended.schedule_changed_ms > 0
    assert slots_changed_ms(extended) == 0
    assert fingerprint(extended.schedule)[:2] == fingerprint(first.schedule)[:2]
    kept = {name: value for name, value in extended.schedule.items() if name != "endTime"}
    assert kept == {name: value for name, value in first.schedule.items() if name != "endTime"}


def test_a_change_of_the_slots_before_an_extension_is_not_forgotten(adobe: Adobe) -> None:
    flow_id = export(adobe, schedule=daily(START + 20 * DAY))
    days_pass(adobe, 1)
    patch(adobe, flow_id, interval=12, timeUnit="hour")
    changed_ms = slots_changed_ms(adobe.run(calls.get_dataflow(DataflowId(flow_id))))
    days_pass(adobe, 1)
    for _ in range(2):
        check(adobe, **YEAR, ends_within_seconds=30 * DAY)
        patched = adobe.run(calls.get_dataflow(DataflowId(flow_id)))
        assert slots_changed_ms(patched) == changed_ms
        days_pass(adobe, 340)


@pytest.mark.parametrize("due", [-3 * HOUR, 0, HOUR, 12 * HOUR])
def test_each_dag_run_finds_the_run_of_its_own_slot_before_and_after_an_extension(due: float, adobe: Adobe) -> None:
    """Also one whose run comes after its time, which the mere time of a DAG run would not find."""
    flow_id = export(adobe, schedule=daily(START + 20 * DAY))
    days_pass(adobe, 6)
    windows = [
        DagRunWindow(int((START + due + day * DAY) * 1000), int((START + due + (day + 1) * DAY) * 1000))
        for day in range(1, 9)
    ]

    def selected() -> list[Any]:
        flow = adobe.run(calls.get_dataflow(DataflowId(flow_id)))
        return [selector_for(flow.schedule, window, slots_changed_ms(flow)) for window in windows]

    before = selected()
    check(adobe, **YEAR)
    assert end_of(adobe, flow_id) > START + 300 * DAY
    assert selected() == before


def test_an_extension_is_no_change_of_the_data(adobe: Adobe) -> None:
    wanted = desired("nightly", schedule=daily(START + 20 * DAY))
    ids = adobe.task(wanted)
    adobe.task(wanted._replace(folder_template="%DATASET_ID%"), name="dag.export, run 2", if_exists="update")
    days_pass(adobe, 2)
    run = max(
        adobe.run(check_dataflows(HealthRules()))[0].runs, key=lambda run: run.created_ms
    )  # of this very folder template
    check(adobe, **YEAR)
    adobe.run(check_run_is_of(wanted._replace(folder_template="%DATASET_ID%"), ids, run))
    days_pass(adobe, 400)
    check(adobe, **YEAR)
    adobe.run(check_run_is_of(wanted._replace(folder_template="%DATASET_ID%"), ids, run))


@pytest.mark.parametrize("if_exists", ["reuse", "update"])
@pytest.mark.parametrize("end", [None, START + 20 * DAY])
def test_the_export_task_and_the_extension_do_not_fight(
    if_exists: Any, end: float | None, adobe: Adobe, caplog: pytest.LogCaptureFixture
) -> None:
    """A DAG that names an end and updates gets it; every other leaves the later one."""
    made = desired("nightly", schedule=daily(START + 20 * DAY))
    flow_id = adobe.task(made).dataflow_id
    check(adobe, **YEAR)
    extended = end_of(adobe, flow_id)
    says = made._replace(schedule=daily()._replace(end=end and at(end)))
    caplog.clear()
    adobe.task(says, name="dag.export, run 2", if_exists=if_exists)
    is_reset = if_exists == "update" and end is not None
    assert end_of(adobe, flow_id) == (end if is_reset else extended)
    assert ("is reused as it is: endTime is" in caplog.text) == (if_exists == "reuse" and end is not None)


def test_a_dataflow_without_anything_is_read() -> None:
    flow = read_dataflow({"id": "f"})
    assert (flow.last_run_id, flow.description_changed_ms) == ("", 0)
    named = read_dataflow({"id": "f", "lastRunDetails": {"id": "r", "state": "success"}})
    assert named.last_run_id == "r"
    assert read_dataflow({"id": "f", "lastRunDetails": None}).last_run_id == ""
