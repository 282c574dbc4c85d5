"""A whole export: drift, logins that are shared, and what others have left or changed."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from airflow_provider_aep.api.calls import list_page
from airflow_provider_aep.api.provisioning.desired import DesiredBaseConnection, DesiredExport, ExportIds
from airflow_provider_aep.api.provisioning.export import set_up_export
from airflow_provider_aep.api.provisioning.owner import MARK
from airflow_provider_aep.api.session import Session
from airflow_provider_aep.destinations import DataLandingZone, Sftp, destination_type, target_params
from airflow_provider_aep.errors import AmbiguousName, EntityExists, PlatformUnavailable, RequestRefused
from airflow_provider_aep.schedules import Every
from tests.adobe.in_process import Adobe
from tests.adobe.line import Line, by_chance
from tests.adobe.served import served
from tests.conftest import settings_for_tests
from tests.exports import DATASETS, KINDS, WAYS, desired, desired_base, one_of_each, policy


@pytest.fixture
def adobe() -> Adobe:
    return Adobe()


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def renamed(adobe: Adobe, kind: str) -> None:
    adobe.the(kind)["name"] = "renamed"


def disabled(adobe: Adobe) -> None:
    adobe.the("flows")["state"] = "disabled"


def another_end(adobe: Adobe) -> None:
    adobe.the("flows")["scheduleParams"]["endTime"] = 1_900_000_000


def other_datasets(adobe: Adobe) -> None:
    adobe.the("sourceConnections")["params"]["datasets"] = [{"dataSetId": DATASETS[3], "name": "x"}]


def another_place(adobe: Adobe) -> None:
    adobe.the("targetConnections")["params"]["path"] = "by/hand"


# What somebody does in Adobe's user interface: the member, what it is then, and what the DAG says.
DRIFT: dict[str, tuple[Any, str]] = {
    "disabled": (disabled, "state is disabled, the DAG says enabled"),
    "another end": (another_end, "endTime is 2030-03-17T17:46:40Z, the DAG says 2031-01-01T00:00:00Z"),
    "other datasets": (other_datasets, f"dataset_ids is {DATASETS[3]}, the DAG says {DATASETS[0]}"),
    "another place": (another_place, "path is 'by/hand', the DAG says 'nightly'"),
    "renamed dataflow": (lambda adobe: renamed(adobe, "flows"), "name is renamed, the DAG says dag.export"),
    "renamed source": (lambda adobe: renamed(adobe, "sourceConnections"), "name is renamed, the DAG says dag.export"),
    "renamed target": (lambda adobe: renamed(adobe, "targetConnections"), "name is renamed, the DAG says dag.export"),
}


# What decides which data lands where: never reused.
TELLING = ("other datasets", "another place")


@pytest.mark.parametrize("drift", [each for each in DRIFT if each not in TELLING])
def test_reuse_tells_what_differs_and_changes_nothing(
    adobe: Adobe, caplog: pytest.LogCaptureFixture, drift: str
) -> None:
    ids = adobe.task(desired())
    happen, told = DRIFT[drift]
    happen(adobe)
    adobe.platform.requests.clear()
    assert adobe.task(desired(), name="run 2") == ids
    (warning,) = warnings_in(caplog)
    assert warning.endswith(f"is reused as it is: {told}")
    assert all(request.startswith("GET") for request in adobe.requests())


@pytest.mark.parametrize("drift", TELLING)
@pytest.mark.parametrize("way", WAYS)
def test_reuse_refuses_to_export_other_data_than_the_dag_says(adobe: Adobe, drift: str, way: str) -> None:
    adobe.task(desired(), way=WAYS[way])
    happen, told = DRIFT[drift]
    happen(adobe)
    adobe.platform.requests.clear()
    with pytest.raises(EntityExists) as caught:
        adobe.task(desired(), name="run 2", way=WAYS[way])
    assert "other data would be exported than the DAG says: " in str(caught.value)
    assert told in str(caught.value)
    assert str(caught.value).endswith("set if_exists='update' to change it, or give the export another name")
    assert all(request.startswith("GET") for request in adobe.requests())


@pytest.mark.parametrize("drift", DRIFT)
def test_update_puts_it_right(adobe: Adobe, caplog: pytest.LogCaptureFixture, drift: str) -> None:
    ids = adobe.task(desired())
    DRIFT[drift][0](adobe)
    updated = adobe.task(desired(), name="run 2", if_exists="update")
    assert updated.dataflow_id == ids.dataflow_id
    adobe.is_one_export(desired(), updated)
    caplog.clear()
    adobe.task(desired(), name="run 3")
    assert warnings_in(caplog) == []


@pytest.mark.parametrize("drift", DRIFT)
def test_fail_names_the_difference(adobe: Adobe, drift: str) -> None:
    adobe.task(desired(), if_exists="fail")
    DRIFT[drift][0](adobe)
    for name, again in (("run 2", False), ("dag.export, run 1", True)):
        with pytest.raises(EntityExists) as caught:
            adobe.task(desired(), name=name, again=again, if_exists="fail")
        assert DRIFT[drift][1] in str(caught.value)


def test_fail_lets_the_task_itself_go_on_where_it_died(adobe: Adobe) -> None:
    ids = adobe.task(desired(), if_exists="fail")
    assert adobe.task(desired(), if_exists="fail", again=True) == ids
    with pytest.raises(EntityExists, match=r"there is already source connection 'dag.export'.*it does not differ"):
        adobe.task(desired(), name="run 2", if_exists="fail")


def test_fail_does_not_mind_a_login_that_others_use(adobe: Adobe) -> None:
    adobe.task(desired("first"))
    adobe.task(desired("second"), name="run 2", if_exists="fail")
    assert adobe.count() == {"connections": 1, "sourceConnections": 2, "targetConnections": 2, "flows": 2}


def test_all_differences_are_told_at_once_and_nothing_is_changed_if_one_cannot_be(adobe: Adobe) -> None:
    adobe.task(desired())
    disabled(adobe)
    another_place(adobe)
    with pytest.raises(EntityExists) as caught:
        adobe.task(desired(), name="run 2", if_exists="fail")
    assert "path is" in str(caught.value)
    assert "state is" in str(caught.value)
    adobe.platform.requests.clear()
    with pytest.raises(EntityExists, match="Adobe cannot change that"):
        adobe.task(desired(base=desired_base("another login")), name="run 2", if_exists="update")
    assert all(request.startswith("GET") for request in adobe.requests())


def test_the_log_tells_the_first_slot_and_an_end_that_nobody_chose(
    adobe: Adobe, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    adobe.task(desired(schedule=Every(hours=3, start="2026-01-01T00:00Z")))
    (told,) = [text for text in caplog.messages if "will run" in text]
    assert told.startswith("dataflow 'dag.export' will run every 3 hours from 2027-01-")
    assert told.endswith("(start given as 2026-01-01T00:00:00Z; end not given: 5 years)")


def test_an_end_that_is_near_is_warned_of(adobe: Adobe, caplog: pytest.LogCaptureFixture) -> None:
    """Exports without a chosen end stop in silence six months after they were made."""
    adobe.task(desired(schedule=Every(hours=3)))
    adobe.the("flows")["scheduleParams"]["endTime"] = int(adobe.clock.now()) + 86_400
    adobe.task(desired(schedule=Every(hours=3)), name="run 2")
    (warning,) = warnings_in(caplog)
    assert "will end at 2027-01-16" in warning
    adobe.task(desired(schedule=Every(hours=3)), name="run 3", if_exists="update")
    assert adobe.the("flows")["scheduleParams"]["endTime"] > adobe.clock.now() + 86_400 * 365


# Logins


def test_a_login_is_made_once_for_all_exports_and_rotated_in_place(adobe: Adobe) -> None:
    ids = [adobe.task(desired(f"export {number}"), name=f"task {number}") for number in range(3)]
    assert len({each.base_connection_id for each in ids}) == 1
    rotated = desired_base(secret="n3w" + "b" * 37)
    assert adobe.task(desired("export 0", base=rotated), name="task 0", if_exists="update") == ids[0]
    assert adobe.count()["connections"] == 1


def test_a_login_may_be_given_by_its_id(adobe: Adobe) -> None:
    base = adobe.task(desired("first")).base_connection_id
    adobe.platform.requests.clear()
    ids = adobe.task(desired("second", base=None, base_connection_id=base))
    assert ids.base_connection_id == base
    assert "GET /connections" not in adobe.requests()


def test_an_id_that_means_no_login_is_refused_as_adobe_does(adobe: Adobe) -> None:
    missing = "5d9f1ae2-0000-4000-8000-000000000001"
    with pytest.raises(RequestRefused, match=missing):
        adobe.task(desired(base=None, base_connection_id=missing))


def test_the_landing_zone_has_no_secret(adobe: Adobe) -> None:
    place = DataLandingZone(path="nightly")
    kind, params = destination_type(place), target_params(place, file_type="JSON", compression="GZIP")
    zone = desired(
        destination_type=kind, target_params=params, base=DesiredBaseConnection("airflow landing zone", kind, None)
    )
    ids = adobe.task(zone)
    assert adobe.task(zone, name="run 2", if_exists="update") == ids


# What others have made


@pytest.mark.parametrize("kind", KINDS)
def test_two_of_one_name_made_by_others(adobe: Adobe, kind: str) -> None:
    adobe.task(desired())
    twin = {**adobe.the(kind), "id": "5d9f1ae2-0000-4000-8000-000000000001", "description": "by hand"}
    adobe.platform.sandbox().collections[kind].add(twin)
    with pytest.raises(AmbiguousName) as caught:
        adobe.task(desired(), name="run 2")
    assert all(each["id"] in str(caught.value) for each in adobe.platform.live(kind))


def test_an_export_made_by_others_is_taken_on_and_updated(adobe: Adobe) -> None:
    ids = adobe.task(desired())
    for kind in KINDS:
        adobe.the(kind)["description"] = "made with curl"
    assert adobe.task(desired(), name="run 2") == ids
    changed = desired(dataset_ids=(DATASETS[1],))
    adobe.is_one_export(changed, adobe.task(changed, name="run 3", if_exists="update"))


def test_half_an_export_made_by_others_is_completed(adobe: Adobe) -> None:
    ids = adobe.task(desired())
    for kind in KINDS:
        adobe.the(kind)["description"] = "made with curl"
    adobe.platform.sandbox().collections["flows"].remove(ids.dataflow_id)
    completed = adobe.task(desired(), name="run 2")
    assert completed[:3] == ids[:3]
    adobe.is_one_export(desired(), completed)


def test_a_source_connection_of_another_export_is_not_taken(adobe: Adobe) -> None:
    """The destination was changed in the DAG, but not the name: the old dataflow would go on unseen."""
    ids = adobe.task(desired())
    place = Sftp(remote_path="nightly")
    kind = destination_type(place)
    moved: DesiredExport = desired(
        destination_type=kind,
        target_params=target_params(place, file_type="PARQUET", compression="GZIP"),
        base=DesiredBaseConnection("airflow sftp", kind, {"specName": "x", "params": {}}),
    )
    with pytest.raises(EntityExists, match=f"belongs to dataflow 'dag.export' \\({ids.dataflow_id}\\)"):
        adobe.task(moved, name="run 2")
    assert adobe.made() == one_of_each()


def test_two_dataflows_that_died_tasks_have_made_become_the_older_one(adobe: Adobe) -> None:
    """Possible only where lists lag behind for longer than they are waited for; the next run heals it."""
    ids = adobe.task(desired())
    flow = adobe.the("flows")
    twin = {**flow, "id": "5d9f1ae2-0000-4000-8000-000000000001", "createdAt": flow["createdAt"] + 1}
    assert flow["description"].startswith(MARK)
    adobe.platform.sandbox().collections["flows"].add(twin)
    assert adobe.task(desired(), name="run 2") == ids
    adobe.is_one_export(desired(), ids)


def test_a_task_that_is_alive_is_waited_for(adobe: Adobe, caplog: pytest.LogCaptureFixture) -> None:
    """Its source connection stands there without a dataflow, which then appears."""
    caplog.set_level(logging.INFO)
    ids = adobe.task(desired())
    flows = adobe.platform.sandbox().collections["flows"]
    flow = flows.items[ids.dataflow_id]
    flows.remove(ids.dataflow_id)
    adobe.platform.store.visible_now = flows._visible_now
    flows.add(flow, flows._visible_now() + 8)
    # A dataflow that no list shows yet still holds its source connection, so it cannot be taken over.
    assert adobe.task(desired(), name="run 2") == ids
    assert "another task is setting up export 'dag.export'" in caplog.text
    assert adobe.made() == one_of_each()


class Killed(BaseException):
    """The worker process is no more."""


def test_a_dead_tasks_request_that_arrives_after_another_took_over_is_refused(adobe: Adobe) -> None:
    """It was on its way for a minute, and its sender is not there to look what became of it."""
    respond, held = adobe.respond, []

    def hold(request: httpx.Request) -> httpx.Response:
        if request.method == "POST" and request.url.path.endswith("/flows"):
            held.append(request)
            raise Killed
        return respond(request)

    adobe.respond = hold  # type: ignore[method-assign]
    with pytest.raises(Killed):
        adobe.task(desired())
    adobe.respond = respond  # type: ignore[method-assign]
    ids = adobe.task(desired(), name="run 2")
    assert respond(held[0]).status_code == 400
    adobe.is_one_export(desired(), ids)


# Mixtures of faults


@pytest.mark.parametrize("way", WAYS)
def test_two_hundred_exports_with_trouble_at_a_fifth_of_all_requests(way: str) -> None:
    adobe = Adobe({"list_delay": 1, "destination_limit": 200})
    adobe.faults.mix(0.2, seed=7)
    number = 200 if way == "whole" else 60
    ids = {
        name: adobe.task(desired(name), way=WAYS[way], name=f"task of {name}", tries=10)
        for name in (f"export {each}" for each in range(number))
    }
    adobe.faults.clear()
    adobe.clock.advance(20)
    assert adobe.count() == {"connections": 1, **dict.fromkeys(KINDS[1:], number)}
    assert adobe.made() == adobe.count()
    assert {each["id"]: each["name"] for each in adobe.platform.live("flows")} == {
        found.dataflow_id: name for name, found in ids.items()
    }


def test_exports_over_a_line_that_breaks(tmp_path: Path) -> None:
    names = [f"export {number}" for number in range(12)]
    made: dict[str, ExportIds] = {}
    with served(tmp_path) as emulator, Line(emulator, by_chance(3, 0.2)) as line:
        settings = settings_for_tests(gateway=line.url, ims=line.url)
        for name in names:
            for attempt in range(10):
                with (
                    suppress(PlatformUnavailable),
                    Session(settings, sleep=lambda seconds: time.sleep(seconds / 200)) as session,
                ):
                    made[name] = session.run(set_up_export(desired(name), policy(f"task of {name}", again=attempt > 0)))
                    break
        assert line.struck > 15
        line.choose = lambda _: "none"
        with Session(settings) as session:
            live = {kind: session.run(list_page(f"/{kind}")).items for kind in KINDS}
    assert {flow["name"]: flow["id"] for flow in live["flows"]} == {name: made[name].dataflow_id for name in names}
    assert [len(live[kind]) for kind in KINDS] == [1, 12, 12, 12]
