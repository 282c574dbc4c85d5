"""Lists that shift and end, datasets by ID, name and pattern, access told step by step, and which run is meant."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_aep.api.calls import list_page
from airflow_provider_aep.api.entities import DataflowId, FlowRunId
from airflow_provider_aep.api.queries import all_items, check_access, list_datasets, list_runs
from airflow_provider_aep.api.runs.selection import find_run
from airflow_provider_aep.emulator.flow_service.datasets import SEEDED
from airflow_provider_aep.errors import EntityNotFound, InvalidArgument, UnexpectedReply
from tests.adobe.in_process import Adobe
from tests.canned import answers, ok
from tests.conftest import Runner, settings_for_tests
from tests.exports import desired

IDS = [each.id for each in SEEDED]


def page(*items: dict[str, Any], token: str = "") -> Any:
    links = {"next": {"href": f"/runs?continuationToken={token}"}} if token else {}
    return ok({"items": list(items), "_links": links})


def test_items_of_all_pages_once_each_although_the_list_shifts(run: Runner) -> None:
    answers(run, page({"id": "1"}, {"id": "2"}, token="a%3D"), page({"id": "2"}, {"id": "3"}))
    assert [item["id"] for item in run(all_items(list_page("/runs")))] == ["1", "2", "3"]


def test_a_list_without_an_end_is_told(run: Runner) -> None:
    answers(run, page({"id": "1"}, token="a"), page({"id": "2"}, token="a"), page({"id": "3"}, token="a"))
    with pytest.raises(UnexpectedReply, match="the list has no end"):
        run(all_items(list_page("/runs")))


def test_no_page_is_asked_for_that_is_not_needed(run: Runner) -> None:
    canned = answers(run, page({"id": "1"}, token="a"))
    assert len(run(all_items(list_page("/runs"), enough=lambda items: items[-1]["id"] == "1"))) == 1
    assert len(canned.requests) == 1


# Flow runs


def flow_run(number: int, dataflow: str = "f") -> dict[str, Any]:
    return {"id": str(number), "flowId": dataflow, "createdAt": number}


def test_the_newest_runs_take_no_more_pages_than_they_need(run: Runner) -> None:
    canned = answers(run, page(flow_run(9), flow_run(8, "g"), flow_run(7), token="a"))
    assert [each.id for each in run(list_runs(DataflowId("f"), limit=2))] == ["9", "7"]
    assert len(canned.requests) == 1


def test_the_newest_runs_of_a_list_without_an_order_take_all_pages(run: Runner) -> None:
    answers(run, page(flow_run(7), flow_run(9), token="a"), page(flow_run(8)))
    assert [each.id for each in run(list_runs(DataflowId("f"), limit=2))] == ["9", "8"]


def test_runs_since_a_moment_are_newest_first(run: Runner) -> None:
    answers(run, page(flow_run(9), flow_run(7), token="a"), page(flow_run(8), flow_run(3)))
    assert [each.id for each in run(list_runs(DataflowId("f"), since_ms=7))] == ["9", "8", "7"]


# Datasets


def test_datasets_by_id_keep_the_order_asked_for(run: Runner) -> None:
    assert [each.id for each in run(list_datasets(dataset_ids=[IDS[2], IDS[0], IDS[2]]))] == [IDS[2], IDS[0]]


def test_datasets_by_name_and_by_pattern(run: Runner) -> None:
    names = [each.name for each in SEEDED]
    assert [each.id for each in run(list_datasets(names=[names[1]]))] == [IDS[1]]
    assert [each.id for each in run(list_datasets(name_pattern=f"{names[1][:-1]}?"))] == [IDS[1]]
    assert run(list_datasets(name_pattern=names[1].upper() + "x")) == []
    assert [each.id for each in run(list_datasets())] == IDS


@pytest.mark.parametrize("argument", ["ids", "names"])
def test_a_dataset_that_may_not_be_exported_is_told_with_the_likely_reasons(run: Runner, argument: str) -> None:
    with pytest.raises(InvalidArgument, match=r"nowhere is not among the \d+ datasets .* enabled for Profile"):
        run(list_datasets(dataset_ids=["nowhere"]) if argument == "ids" else list_datasets(names=["nowhere"]))


def test_a_name_of_two_datasets_is_not_guessed_at(run: Runner) -> None:
    answers(run, ok({"items": [{"id": "1", "name": "a"}, {"id": "2", "name": "a"}]}))
    with pytest.raises(InvalidArgument, match=r"means several datasets \(1, 2\); give dataset_ids instead"):
        run(list_datasets(names=["a"]))


@pytest.mark.parametrize("told", [True, False])
def test_datasets_of_several_pages(run: Runner, told: bool) -> None:
    """Adobe says whether there is a next page; where it does not, one that brings nothing new is the last."""
    items = [{"id": str(number), "name": f"d{number}"} for number in range(130)]
    pages = [items[:100], items[100:]]
    replies = [ok({"items": each, **({"pageInfo": {"hasNext": each is pages[0]}} if told else {})}) for each in pages]
    canned = answers(run, *replies, *([] if told else [ok({"items": []})]))
    assert len(run(list_datasets())) == 130
    assert [request.url.params["start"] for request in canned.requests] == ["0", "100", *([] if told else ["130"])]


@pytest.mark.parametrize("told", [True, False])
def test_datasets_of_a_server_that_caps_its_pages(run: Runner, told: bool) -> None:
    """It gives 50 where 100 were asked for; going on by 100 would drop every other fifty in silence."""
    items = [{"id": str(number), "name": f"d{number}"} for number in range(130)]
    pages = [items[:50], items[50:100], items[100:]]
    infos = [{"pageInfo": {"hasNext": each is not pages[2]}} if told else {} for each in pages]
    replies = [ok({"items": each, **info}) for each, info in zip(pages, infos, strict=True)]
    canned = answers(run, *replies, *([] if told else [ok({"items": []})]))
    assert [each.id for each in run(list_datasets())] == [str(number) for number in range(130)]
    assert [request.url.params["start"] for request in canned.requests][:3] == ["0", "50", "100"]


def test_datasets_of_a_server_that_ignores_where_to_start(run: Runner) -> None:
    items = [{"id": str(number), "name": f"d{number}"} for number in range(20)]
    answers(run, ok({"items": items}), ok({"items": items}))
    assert len(run(list_datasets())) == 20


def test_a_name_that_is_nearly_right_is_told(run: Runner) -> None:
    answers(run, ok({"items": [{"id": "1", "name": "Loyalty members"}], "pageInfo": {"hasNext": False}}))
    with pytest.raises(InvalidArgument, match=r"did you mean Loyalty members\?"):
        run(list_datasets(names=["Loyalty member"]))


# Access


def test_access_in_words(run: Runner) -> None:
    assert run(check_access("prod")) == (
        True,
        "Token, organisation, sandbox 'prod' (production, active) and Flow Service right are in order",
    )


@pytest.mark.parametrize(
    ("changes", "step"),
    [
        ({"client_secret": "wrong"}, "The token request failed: POST /ims/token/v3: HTTP 401 invalid_client"),
        ({"org_id": "F" * 24 + "@AdobeOrg"}, "The organisation failed: GET /flows: HTTP 401 FLOW-2000-401"),
        ({"sandbox_name": "nowhere"}, "The sandbox failed: GET /flows: HTTP 404 FLOW-2100-404"),
    ],
)
def test_the_step_that_fails_is_named(run: Runner, changes: dict[str, Any], step: str) -> None:
    run.settings = settings_for_tests(**changes)
    fine, told = run(check_access("prod"))
    assert not fine
    assert told.startswith(step)


def test_sandboxes_that_may_not_be_listed_do_not_matter(run: Runner) -> None:
    run.platform.faults.status("GET /data/foundation/sandbox-management*", 403)
    fine, told = run(check_access("prod"))
    assert fine
    assert "sandbox 'prod' and" in told


# Runs


@pytest.fixture
def adobe() -> Adobe:
    return Adobe()


def test_the_earliest_run_since_a_moment_is_meant(adobe: Adobe) -> None:
    flow = DataflowId(adobe.task(desired()).dataflow_id)
    assert adobe.run(find_run(flow)) is None
    adobe.clock.advance(1000)
    adobe.platform.add_history(flow, 250)
    times = sorted(run["createdAt"] for run in adobe.platform.live("runs"))
    for since in (0, times[7], times[200]):
        found = adobe.run(find_run(flow, since_ms=since))
        assert found.created_ms == max(since, times[0])
    assert adobe.run(find_run(flow, since_ms=times[-1] + 1)) is None


def test_only_as_many_pages_of_runs_as_reach_back(adobe: Adobe) -> None:
    flow = DataflowId(adobe.task(desired()).dataflow_id)
    adobe.platform.add_history(flow, 250)
    newest = max(run["createdAt"] for run in adobe.platform.live("runs"))
    adobe.platform.requests.clear()
    assert adobe.run(find_run(flow, since_ms=newest)).created_ms == newest
    assert adobe.requests() == ["GET /runs"]


def test_a_run_by_its_id(adobe: Adobe) -> None:
    flow = DataflowId(adobe.task(desired()).dataflow_id)
    run_id = adobe.platform.start_run(flow)["id"]
    found = adobe.run(find_run(flow, run=FlowRunId(run_id)))
    assert (found.id, found.dataflow_id) == (run_id, flow)
    with pytest.raises(InvalidArgument, match="is a run of dataflow"):
        adobe.run(find_run(DataflowId("another"), run=FlowRunId(run_id)))
    with pytest.raises(EntityNotFound):
        adobe.run(find_run(flow, run=FlowRunId("5d9f1ae2-0000-4000-8000-000000000001")))
