"""One step of an export: made, reused with a warning, updated in place, or refused."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from airflow_provider_aep.api.calls import DATAFLOWS
from airflow_provider_aep.api.provisioning.desired import DesiredSourceConnection, DesiredTargetConnection
from airflow_provider_aep.api.provisioning.ensure import (
    ensure_base_connection,
    ensure_dataflow,
    ensure_source_connection,
    ensure_target_connection,
)
from airflow_provider_aep.api.provisioning.resource import change, find
from airflow_provider_aep.arguments import entity_name
from airflow_provider_aep.errors import (
    AmbiguousName,
    EntityExists,
    InvalidArgument,
    PlatformUnavailable,
    VersionConflict,
)
from airflow_provider_aep.schedules import Every
from tests.adobe.in_process import Adobe
from tests.exports import BEGINS_ON, DATASETS, ENDS_ON, SECRET, WAYS, desired, desired_base, one_of_each, policy

FIRST = DesiredSourceConnection("dag.export", (DATASETS[0],))
SIX_HOURS = desired(schedule=Every(hours=6, start=BEGINS_ON, end=ENDS_ON))


@pytest.fixture
def adobe() -> Adobe:
    return Adobe()


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


# The name


@pytest.mark.parametrize("name", ["", " a", "a ", "a,b", "a&b", "a\nb", "x" * 256])
def test_a_name_that_a_filter_could_not_find_again_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgument, match="name"):
        entity_name("name", name)


@pytest.mark.parametrize("name", ["dag.export", "täglich 100% (a=b; c==d) + #1?", "x" * 255])
def test_any_other_name_is_found_again(adobe: Adobe, name: str) -> None:
    source = DesiredSourceConnection(entity_name("name", name), (DATASETS[0],))
    made = adobe.run(ensure_source_connection(source, policy("run 1")))
    assert adobe.run(ensure_source_connection(source, policy("run 2"))) == made


def test_letter_case_and_likeness_do_not_count_as_the_name(adobe: Adobe) -> None:
    others = ["DAG.export", "dag.export ", "dag.export2", "xdag.export"]
    for name in others:
        adobe.run(DesiredSourceConnection(name, (DATASETS[0],)).resource().creation("by hand"))
    made = adobe.run(ensure_source_connection(FIRST, policy()))
    assert adobe.the("sourceConnections", "dag.export")["id"] == made
    assert adobe.count()["sourceConnections"] == len(others) + 1


def test_the_name_is_found_among_hundreds_even_by_a_server_that_filters_nothing(adobe: Adobe) -> None:
    """The oldest is on the last of three pages."""
    made = adobe.run(ensure_source_connection(FIRST, policy("run 1")))
    for number in range(230):
        adobe.run(DesiredSourceConnection(f"dag.export {number}", (DATASETS[0],)).resource().creation("by hand"))
    respond = adobe.respond

    def unfiltered(request: Any) -> Any:
        pairs = [(name, value) for name, value in request.url.params.multi_items() if name != "property"]
        return respond(type(request)(request.method, request.url.copy_with(params=pairs), headers=request.headers))

    adobe.respond = unfiltered  # type: ignore[method-assign]
    (found,) = adobe.run(find(FIRST.resource()))
    assert found.id == made
    assert adobe.requests()[-3:] == ["GET /sourceConnections"] * 3


# Several of one name


@pytest.mark.parametrize("kind", ["connections", "sourceConnections", "targetConnections", "flows"])
def test_two_of_one_name_made_by_others_are_never_guessed_between(adobe: Adobe, kind: str) -> None:
    adobe.task(desired(), way=WAYS["steps"])
    twin = {**adobe.the(kind), "id": "5d9f1ae2-0000-4000-8000-000000000001", "description": "by hand"}
    adobe.platform.sandbox().collections[kind].add(twin)
    with pytest.raises(AmbiguousName) as caught:
        adobe.task(desired(), way=WAYS["steps"], name="run 2")
    assert all(each["id"] in str(caught.value) for each in adobe.platform.live(kind))
    assert caught.value.is_final


# reuse, update, fail


def test_a_found_source_connection_with_other_datasets(adobe: Adobe) -> None:
    wanted = DesiredSourceConnection("dag.export", (DATASETS[1], DATASETS[2]))
    made = adobe.run(ensure_source_connection(FIRST, policy("run 1")))

    with pytest.raises(EntityExists) as caught:
        adobe.run(ensure_source_connection(wanted, policy("run 2")))
    assert all(each in str(caught.value) for each in ("dataset_ids", DATASETS[0], DATASETS[1], DATASETS[2], made))

    with pytest.raises(EntityExists, match=f"dataset_ids is {DATASETS[0]}"):
        adobe.run(ensure_source_connection(wanted, policy("run 2", if_exists="fail")))

    other = adobe.run(ensure_source_connection(wanted, policy("run 2", if_exists="update")))
    assert other != made
    again = policy("run 2", if_exists="update", again=True)
    assert adobe.run(ensure_source_connection(wanted, again)) == other


def test_the_order_of_datasets_means_nothing(adobe: Adobe, caplog: pytest.LogCaptureFixture) -> None:
    for datasets in (DATASETS[:3], DATASETS[2::-1]):
        adobe.run(
            ensure_source_connection(DesiredSourceConnection("dag.export", tuple(datasets)), policy(str(datasets)))
        )
    assert warnings_in(caplog) == []
    assert adobe.made()["sourceConnections"] == 1


def test_an_update_changes_whole_objects_and_keeps_members_that_are_not_ours(adobe: Adobe) -> None:
    adobe.task(desired())
    target = adobe.the("targetConnections")
    target["params"]["fileType"] = "CSV"
    changed = DesiredTargetConnection(
        "dag.export",
        desired().destination_type,
        target["baseConnectionId"],
        {**desired().target_params, "path": "elsewhere"},
    )
    adobe.run(ensure_target_connection(changed, policy("run 2", if_exists="update")))
    assert adobe.the("targetConnections")["params"] == {**target["params"], "path": "elsewhere"}
    assert adobe.the("targetConnections")["params"]["fileType"] == "CSV"


def test_a_target_connection_cannot_move_to_another_login(adobe: Adobe) -> None:
    adobe.task(desired())
    other = adobe.run(ensure_base_connection(desired_base("another"), policy()))
    moved = desired().target(other)
    adobe.platform.requests.clear()
    with pytest.raises(EntityExists, match=r"base_connection_id is .* Adobe cannot change that"):
        adobe.run(ensure_target_connection(moved, policy("run 2", if_exists="update")))
    assert not any(request.startswith("PATCH") for request in adobe.requests())


def test_a_dataflow_cannot_move_to_another_target(adobe: Adobe) -> None:
    ids = adobe.task(desired())
    other = adobe.run(ensure_target_connection(desired("another").target(ids.base_connection_id), policy()))
    with pytest.raises(EntityExists, match="target_connection_id is"):
        adobe.run(
            ensure_dataflow(desired().dataflow(ids.source_connection_id, other), policy("run 2", if_exists="update"))
        )


def test_what_the_same_task_made_in_an_earlier_try_is_no_reason_to_fail(adobe: Adobe) -> None:
    fail: dict[str, Any] = {"if_exists": "fail"}
    made = adobe.run(ensure_source_connection(FIRST, policy("run 1", **fail)))
    assert adobe.run(ensure_source_connection(FIRST, policy("run 1", again=True, **fail))) == made
    for other in ("run 2", "run 1, map index 0", "run 11"):
        with pytest.raises(EntityExists, match="it does not differ"):
            adobe.run(ensure_source_connection(FIRST, policy(other, again=True, **fail)))


def test_credentials_are_sent_in_place_and_never_compared(adobe: Adobe) -> None:
    made = adobe.run(ensure_base_connection(desired_base(), policy("run 1")))
    rotated = desired_base(secret="n3w" + "b" * 37)
    adobe.platform.requests.clear()
    assert adobe.run(ensure_base_connection(rotated, policy("run 2"))) == made
    assert "PATCH" not in " ".join(adobe.requests())
    assert adobe.run(ensure_base_connection(rotated, policy("run 3", if_exists="update"))) == made
    assert adobe.requests()[-2:] == [f"GET /connections/{made}", f"PATCH /connections/{made}"]


def test_a_login_of_another_kind_cannot_be_changed(adobe: Adobe) -> None:
    adobe.run(ensure_base_connection(desired_base(), policy("run 1")))
    adobe.the("connections")["auth"]["specName"] = "S3 assumed role"
    with pytest.raises(EntityExists, match=r"auth\.specName is S3 assumed role, the DAG says Access Key"):
        adobe.run(ensure_base_connection(desired_base(), policy("run 2", if_exists="update")))


def test_no_secret_is_told_anywhere(adobe: Adobe, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    told = [repr(desired_base()), str(desired_base()), repr(desired()), repr(desired_base().resource())]
    told.append(repr(desired_base().resource().creation("note")))
    adobe.faults.status("POST /connections", 503, times=1, after=True)
    adobe.run(ensure_base_connection(desired_base(), policy("run 1")))
    adobe.faults.status("PATCH /connections/*", 400)
    with pytest.raises(Exception, match="400") as caught:
        adobe.run(ensure_base_connection(desired_base(), policy("run 2", if_exists="update")))
    told += [repr(caught.value), str(caught.value), caplog.text]
    assert SECRET not in "\n".join(told)


# Changes that meet others


def test_a_change_that_is_overtaken_three_times_gives_up(adobe: Adobe) -> None:
    ids = adobe.task(desired())
    adobe.platform.requests.clear()
    adobe.faults.status("PATCH /flows/*", 412, times=None)
    changed = desired(schedule=Every(hours=6, start=BEGINS_ON, end=ENDS_ON)).dataflow(
        ids.source_connection_id, ids.target_connection_id
    )
    with pytest.raises(VersionConflict):
        adobe.run(ensure_dataflow(changed, policy("run 2", if_exists="update")))
    assert sum(request.startswith("PATCH") for request in adobe.requests()) == 3


def test_a_412_that_is_our_own_write_is_compared_not_failed(adobe: Adobe) -> None:
    """Each reply is lost, so that each repetition finds its own work done under another etag."""
    ids = adobe.task(desired())
    adobe.platform.requests.clear()
    adobe.faults.lose_reply("PATCH /flows/*", times=1)
    changed = desired(schedule=Every(hours=6, start=BEGINS_ON, end=ENDS_ON)).dataflow(
        ids.source_connection_id, ids.target_connection_id
    )
    adobe.run(ensure_dataflow(changed, policy("run 2", if_exists="update")))
    assert adobe.the("flows")["scheduleParams"]["interval"] == 6
    assert [each.status for each in adobe.platform.requests if each.method == "PATCH"] == [None, 412]


def test_a_step_retried_alone_removes_what_it_left_when_it_died(adobe: Adobe) -> None:
    """The dataflow has its new source connection, and the old one was still to be removed."""
    ids = adobe.task(desired(), way=WAYS["steps"])
    changed = DesiredSourceConnection("dag.export", (DATASETS[1],))
    new = adobe.run(ensure_source_connection(changed, policy("run 2", if_exists="update")))
    flow = desired().dataflow(new, ids.target_connection_id)
    adobe.faults.status("DELETE /sourceConnections/*", 503, times=6)
    with pytest.raises(PlatformUnavailable):
        adobe.run(ensure_dataflow(flow, policy("run 2", if_exists="update")))
    assert adobe.count()["sourceConnections"] == 2
    adobe.run(ensure_dataflow(flow, policy("run 2", if_exists="update", again=True)))
    assert adobe.the("sourceConnections")["id"] == new


def test_nothing_left_to_do_means_that_nothing_is_sent(adobe: Adobe) -> None:
    ids = adobe.task(desired())
    adobe.platform.requests.clear()
    assert adobe.run(change(DATAFLOWS, ids.dataflow_id, lambda _flow: [])).id == ids.dataflow_id
    assert adobe.requests() == [f"GET /flows/{ids.dataflow_id}"]


def test_a_renamed_dataflow_is_not_made_a_second_time(adobe: Adobe, caplog: pytest.LogCaptureFixture) -> None:
    ids = adobe.task(desired(), way=WAYS["steps"])
    adobe.the("flows")["name"] = "renamed"
    assert adobe.task(desired(), way=WAYS["steps"], name="run 2") == ids
    assert warnings_in(caplog) == [
        f"dataflow 'renamed' ({ids.dataflow_id}) is reused as it is: name is renamed, the DAG says dag.export"
    ]
    assert adobe.task(desired(), way=WAYS["steps"], name="run 3", if_exists="update") == ids
    assert adobe.the("flows")["name"] == "dag.export"
    assert adobe.count() == one_of_each()
