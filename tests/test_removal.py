"""An export is removed whole, in Adobe's order, whatever goes wrong at whichever request; what others use stays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import httpx
import pytest

from airflow_provider_aep.api import calls
from airflow_provider_aep.api.calls import DATAFLOWS
from airflow_provider_aep.api.credentials import AzureConnectionString, auth
from airflow_provider_aep.api.entities import DataflowId, SourceConnectionId, TargetConnectionId
from airflow_provider_aep.api.provisioning.desired import DesiredBaseConnection, ExportIds
from airflow_provider_aep.api.provisioning.export import set_up_export
from airflow_provider_aep.api.provisioning.removal import Removal, remove_export, remove_exports_named
from airflow_provider_aep.destinations import AzureBlob, destination_type, target_params
from airflow_provider_aep.emulator import Platform
from airflow_provider_aep.errors import AccessDenied, AepError, AmbiguousName, InvalidArgument, PlatformUnavailable
from tests.adobe.in_process import Adobe
from tests.conftest import Runner
from tests.exports import KINDS, WAYS, desired, policy
from tests.test_exactly_once import DEATHS, FAULTS, OF_A_QUESTION, Killed, Strike, general

OURS = "Made by airflow-provider-aep for dag.export, run 1 [00000000]"

STRIKES = {
    name: FAULTS[name]
    for name in ("reply lost", "reset before", "silence after", "cut off", "reply lost for good", "outage")
} | {name: FAULTS[name] for name in ("429 before", "503 before", "500 after")}


def remove(adobe: Adobe, dataflow_id: str, *, again: bool = False, **how: Any) -> Removal:
    removal: Removal = adobe.run(
        remove_export(DataflowId(dataflow_id), policy("dag.remove, run 1", again=again), **how)
    )
    return removal


def remove_named(adobe: Adobe, name: str = "dag.export", *, again: bool = False, **how: Any) -> Removal:
    removal: Removal = adobe.run(remove_exports_named(name, policy("dag.remove, run 1", again=again), **how))
    return removal


def tried(adobe: Adobe, work: Callable[[bool], Removal], *, again: bool = False) -> Removal:
    """As Airflow runs a task: after a failure that is not final it is tried again."""
    for attempt in (1, 2, 3):
        try:
            return work(again or attempt > 1)
        except AepError as error:
            if error.is_final or attempt == 3:
                raise
            adobe.clock.advance(1)
    raise AssertionError("unreachable")


BY: dict[str, Callable[[Adobe, str, bool], Removal]] = {
    "dataflow_id": lambda adobe, flow, again: remove(adobe, flow, again=again),
    "dataflow_id, with the login": lambda adobe, flow, again: remove(
        adobe, flow, again=again, with_base_connection=True
    ),
    "name": lambda adobe, _, again: remove_named(adobe, again=again),
    "name, with the login": lambda adobe, _, again: remove_named(adobe, again=again, with_base_connection=True),
}


def is_removed(adobe: Adobe, by: str) -> None:
    """Nothing is left but the login, unless that was asked for, too; and nothing was made but the journals."""
    there = adobe.count()
    assert there.pop("connections") == ("login" not in by)
    assert not any(there.values())


def removals(by: str, strikes: dict[str, Strike], **options: Any) -> Iterator[tuple[str, Adobe, ExportIds]]:
    """An export for each request of its removal and each strike, up to the moment when the strike is set."""
    adobe = Adobe(options)
    ids = adobe.task(desired())
    adobe.clock.advance(20)
    adobe.platform.requests.clear()
    BY[by](adobe, ids.dataflow_id, False)
    adobe.clock.advance(20)
    is_removed(adobe, by)
    seen: Counter[str] = Counter()
    for request in map(general, adobe.requests()):
        skip = seen[request]
        seen[request] += 1
        for title, strike in strikes.items():
            if request.startswith("GET") and strikes is STRIKES and title not in OF_A_QUESTION:
                continue
            adobe = Adobe(options)
            ids = adobe.task(desired())
            adobe.clock.advance(20)
            strike(adobe, request, skip)
            yield f"{title} at {request} number {skip + 1}", adobe, ids


@pytest.mark.parametrize("by", ["dataflow_id, with the login", "name"])
def test_no_fault_leaves_anything(by: str) -> None:
    for case, adobe, ids in removals(by, STRIKES):
        try:
            tried(adobe, lambda again, adobe=adobe, ids=ids: BY[by](adobe, ids.dataflow_id, again))  # type: ignore[misc]
            is_removed(adobe, by)
        except BaseException as error:
            error.add_note(case)
            raise


@pytest.mark.parametrize(
    ("by", "list_delay"), [*((by, 0) for by in BY), ("dataflow_id, with the login", 5), ("name", 5)]
)
def test_a_retry_finishes_what_a_dead_worker_began(by: str, list_delay: float) -> None:
    for case, adobe, ids in removals(by, DEATHS, list_delay=list_delay):
        try:
            with pytest.raises(Killed):
                BY[by](adobe, ids.dataflow_id, False)
            removal = BY[by](adobe, ids.dataflow_id, True)
            adobe.clock.advance(20)
            is_removed(adobe, by)
            assert not removal.kept
        except BaseException as error:
            error.add_note(case)
            raise


@pytest.mark.parametrize("by", BY)
def test_states_in_transit_are_waited_for(by: str) -> None:
    """Entities that are settling refuse everything for minutes, and a deletion takes minutes, too."""
    adobe = Adobe({"settle_seconds": 100, "delete_seconds": 100})
    ids = adobe.task(desired(), tries=9)
    removal = tried(adobe, lambda again: BY[by](adobe, ids.dataflow_id, again))
    assert {entity_id for _, entity_id in removal.deleted} >= {*ids[1:4]}
    adobe.clock.advance(200)
    is_removed(adobe, by)


def only(removal: Removal) -> tuple[set[str], dict[str, str]]:
    """What was deleted, and what was kept for which reason."""
    return {entity_id for _, entity_id in removal.deleted}, {each.id: each.reason for each in removal.kept}


def second_dataflow(adobe: Adobe, name: str, *, source: str = "", target: str = "") -> str:
    """Somebody makes a dataflow that shares a source or target connection with the export."""
    ids = adobe.task(desired(f"{name}'s own"))
    flow = adobe.the("flows", f"{name}'s own")
    adobe.run(calls.delete_entity(DATAFLOWS, ids.dataflow_id))
    source, target = source or ids.source_connection_id, target or ids.target_connection_id
    made = calls.create_dataflow(
        name, flow["flowSpec"]["id"], SourceConnectionId(source), TargetConnectionId(target), flow["scheduleParams"]
    )
    return str(adobe.run(made).id)


@pytest.mark.parametrize("refusal_only", [False, True])
@pytest.mark.parametrize("by", ["dataflow_id, with the login", "name, with the login"])
@pytest.mark.parametrize("shared", ["source", "target"])
def test_what_another_dataflow_uses_stays(shared: str, by: str, refusal_only: bool) -> None:
    """Adobe's list says so, or only its refusal, where no list shows the other dataflow yet."""
    adobe = Adobe({"list_delay": 10_000 if refusal_only else 0}) if refusal_only else Adobe()
    ids = adobe.task(desired())
    adobe.clock.advance(10_001 if refusal_only else 0)
    own = {"source": ids.source_connection_id, "target": ids.target_connection_id}
    other = second_dataflow(adobe, "another", **{shared: own[shared]})
    deleted, kept = only(BY[by](adobe, ids.dataflow_id, False))
    assert ids.dataflow_id in deleted
    if refusal_only:
        assert f"FLOW-1447-400 Active flows ['{other}'] contain the id" in kept[own[shared]]
    else:
        assert kept[own[shared]] == f"used by dataflow 'another' ({other})"
    assert ids.base_connection_id in kept
    assert own.keys() - {shared} != {*kept}
    flow = adobe.the("flows")
    assert {*flow["sourceConnectionIds"], *flow["targetConnectionIds"]} <= {
        each["id"] for kind in ("sourceConnections", "targetConnections") for each in adobe.platform.live(kind)
    }


def test_of_many_users_three_are_told() -> None:
    adobe = Adobe()
    ids = adobe.task(desired())
    for number in range(5):
        adobe.task(desired(f"dag.other {number}"))
    _, kept = only(remove(adobe, ids.dataflow_id, with_base_connection=True))
    told = kept[ids.base_connection_id]
    assert (told.count("target connection"), told.endswith(" and 2 more")) == (3, True)


def test_a_login_that_another_export_uses_stays_as_it_was() -> None:
    adobe = Adobe()
    ids, other = adobe.task(desired()), adobe.task(desired("dag.other"))
    before = dict(adobe.the("connections"))
    _, kept = only(remove(adobe, ids.dataflow_id, with_base_connection=True))
    reason = f"used by target connection 'dag.other' ({other.target_connection_id})"
    assert kept == {ids.base_connection_id: reason}
    assert adobe.the("connections") == before
    deleted, kept = only(remove(adobe, other.dataflow_id, with_base_connection=True))
    assert deleted == {*other[:4]}
    assert not kept


def test_a_login_that_somebody_else_made_goes_only_with_a_dataflow_named_by_its_id() -> None:
    for by in ("name, with the login", "dataflow_id, with the login"):
        adobe = Adobe()
        ids = adobe.task(desired())
        adobe.the("connections")["description"] = "the colleague's"
        deleted, kept = only(BY[by](adobe, ids.dataflow_id, False))
        if by.startswith("name"):
            assert kept == {ids.base_connection_id: "was not made by this provider"}
        assert (ids.base_connection_id in deleted) is by.startswith("dataflow_id")


def test_gone_already_is_success() -> None:
    adobe = Adobe()
    ids = adobe.task(desired())
    for by in BY:
        adobe.run(remove_export(ids.dataflow_id, policy()))
        assert BY[by](adobe, ids.dataflow_id, False) == Removal()
    assert adobe.made()["sourceConnections"] == 2  # the export's, and one journal


def test_by_name_what_somebody_else_made_is_refused_or_stays() -> None:
    adobe = Adobe()
    ids = adobe.task(desired())
    flow = adobe.the("flows")
    ours, flow["description"] = flow["description"], "a colleague's"
    adobe.platform.requests.clear()
    with pytest.raises(InvalidArgument, match=f"dataflow {flow['id']} of this name was not made by this provider"):
        remove_named(adobe)
    second_dataflow(adobe, "dag.export", source=ids.source_connection_id)
    with pytest.raises(AmbiguousName, match=r"2 dataflows are named 'dag.export'"):
        remove_named(adobe)
    assert not any(each.startswith("DELETE /flows/" + ids.dataflow_id) for each in adobe.requests())
    adobe.run(calls.delete_entity(DATAFLOWS, adobe.platform.live("flows")[1]["id"]))
    flow["description"] = ours
    target = next(each for each in adobe.platform.live("targetConnections") if each["id"] == ids.target_connection_id)
    target["description"] = "a colleague's"
    deleted, kept = only(remove_named(adobe))
    assert deleted == {ids.dataflow_id, ids.source_connection_id}
    assert kept == {ids.target_connection_id: "was not made by this provider"}


def test_by_id_only_what_this_provider_made_where_asked() -> None:
    """As a sync prunes."""
    adobe = Adobe()
    ids = adobe.task(desired())
    adobe.the("flows")["description"] = "a colleague's"
    assert only(remove(adobe, ids.dataflow_id, only_managed=True)) == (
        set(),
        {ids.dataflow_id: "was not made by this provider"},
    )
    assert all(adobe.count().values())
    adobe.the("flows")["description"] = OURS
    adobe.the("sourceConnections")["description"] = "a colleague's"
    deleted, kept = only(remove(adobe, ids.dataflow_id, only_managed=True))
    assert deleted == {ids.dataflow_id, ids.target_connection_id}
    assert kept == {ids.source_connection_id: "was not made by this provider"}


@pytest.mark.parametrize("list_delay", [0, 5])
@pytest.mark.parametrize("way", WAYS)
def test_by_name_a_half_made_export_goes_too(way: str, list_delay: float) -> None:
    """Whichever request the set-up died at: what it has left is cleaned up, however soon that is asked for."""
    adobe = Adobe()
    adobe.task(desired(), way=WAYS[way])
    for number, request in enumerate(adobe.requests()):
        for after in (False, True):
            adobe = Adobe({"list_delay": list_delay})
            dies_at_request(adobe, number, after=after)
            with pytest.raises(Killed):
                adobe.task(desired(), way=WAYS[way])
            vars(adobe).pop("respond")
            removal = remove_named(adobe)
            there = adobe.count()
            del there["connections"]
            assert not any(there.values()), (request, after, removal)


def dies_at_request(adobe: Adobe, number: int, *, after: bool) -> None:
    respond, seen = adobe.respond, count()

    def deadly(request: httpx.Request) -> httpx.Response:
        if "/ims/" in request.url.path or next(seen) != number:
            return respond(request)
        if after:
            respond(request)
        raise Killed

    adobe.respond = deadly  # type: ignore[method-assign]


def test_by_name_goes_everything_of_the_name() -> None:
    """A name may mean an export to each type of destination, and a dataflow may use connections of other names."""
    adobe = Adobe()
    ids = adobe.task(desired())
    elsewhere = replace_name(adobe, "sourceConnections", "a colleague's name for it")
    blob = AzureBlob("container", "nightly")
    login = AzureConnectionString("DefaultEndpointsProtocol=https;AccountName=a;AccountKey=a2V5")
    other = adobe.task(
        desired(
            destination_type=destination_type(blob),
            target_params=target_params(blob, file_type="PARQUET", compression="GZIP"),
            base=DesiredBaseConnection("airflow blob", destination_type(blob), auth(login)),
        )
    )
    deleted, kept = only(remove_named(adobe))
    assert deleted == {*ids[1:4], *other[1:4]}
    assert elsewhere in deleted
    assert not kept


def replace_name(adobe: Adobe, kind: str, name: str) -> str:
    entity = adobe.the(kind)
    entity["name"] = name
    return str(entity["id"])


def test_a_run_under_way_does_not_stand_in_the_way() -> None:
    adobe = Adobe()
    ids = adobe.task(desired())
    adobe.platform.start_run(ids.dataflow_id)
    deleted, _ = only(remove(adobe, ids.dataflow_id))
    assert deleted == {*ids[1:4]}


def test_an_update_that_is_overtaken_leaves_neither_connections_nor_journals() -> None:
    """It attaches another source connection while a journal is written; the reply to the second journal is lost."""
    adobe = Adobe()
    ids = adobe.task(desired())
    flow, first = adobe.the("flows"), adobe.the("sourceConnections")
    adobe.run(calls.create_source_connection("dag.export", ids.dataset_ids, description=first["description"]))
    (other,) = (each["id"] for each in adobe.platform.live("sourceConnections") if each["id"] != first["id"])
    adobe.clock.advance(20)
    adobe.faults.lose_reply("POST /sourceConnections", skip=1)
    respond = adobe.respond

    def updating(request: httpx.Request) -> httpx.Response:
        response = respond(request)
        if request.method == "POST" and request.url.path.endswith("/sourceConnections"):
            flow["sourceConnectionIds"] = [other]
        return response

    adobe.respond = updating  # type: ignore[method-assign]
    remove(adobe, ids.dataflow_id)
    assert [each["id"] for each in adobe.platform.live("sourceConnections")] == [
        first["id"]
    ]  # which the update deletes


def test_an_adobe_that_takes_no_journal_is_told_of_and_obeyed(caplog: pytest.LogCaptureFixture) -> None:
    adobe = Adobe()
    ids = adobe.task(desired())
    adobe.faults.status("POST /sourceConnections", 400)
    deleted, _ = only(remove(adobe, ids.dataflow_id))
    assert deleted == {*ids[1:4]}
    assert "if this task is killed, a retry may not find the connections" in caplog.text


def test_a_deletion_that_does_not_end_is_an_outage() -> None:
    adobe = Adobe({"delete_seconds": 400})
    ids = adobe.task(desired())
    with pytest.raises(PlatformUnavailable, match=r"is 'delete-finalizing', after 30. s still; trying again is safe"):
        remove(adobe, ids.dataflow_id)
    tried(adobe, lambda again: remove(adobe, ids.dataflow_id, again=again), again=True)
    adobe.clock.advance(500)
    is_removed(adobe, "dataflow_id")


@pytest.mark.parametrize("by", ["id", "name"])
def test_through_both_sessions(run: Runner, platform: Platform, by: str) -> None:
    ids = run(set_up_export(desired(), policy()))
    steps = remove_export(ids.dataflow_id, policy()) if by == "id" else remove_exports_named("dag.export", policy())
    assert run(steps).as_data() == {
        "deleted": [
            {"kind": "dataflow", "id": ids.dataflow_id},
            {"kind": "target connection", "id": ids.target_connection_id},
            {"kind": "source connection", "id": ids.source_connection_id},
        ],
        "kept": [],
    }
    assert {kind: len(platform.live(kind)) for kind in KINDS} == dict.fromkeys(KINDS, 0) | {"connections": 1}


def test_no_dataflow_but_an_export_of_datasets_is_deleted() -> None:
    """An ID may be that of somebody's audience export."""
    adobe = Adobe()
    ids = adobe.task(desired())
    adobe.the("flows")["flowSpec"] = {"id": "1a0514a6-33d4-4c7f-aff8-594799c47549", "version": "1.0"}
    with pytest.raises(InvalidArgument, match=r"is 'dag.export', which is no export of datasets"):
        remove(adobe, ids.dataflow_id)
    assert all(adobe.count().values())


def test_a_refusal_leaves_all_as_it_was() -> None:
    adobe = Adobe()
    ids = adobe.task(desired())
    before = adobe.count()
    adobe.faults.status("DELETE /flows/*", 403)
    with pytest.raises(AccessDenied):
        remove(adobe, ids.dataflow_id)
    assert adobe.count() == before


def test_what_two_of_one_name_share_goes_with_the_second() -> None:
    adobe = Adobe()
    ids = adobe.task(desired())
    flow = adobe.the("flows")
    twin = calls.create_dataflow(
        "dag.export",
        flow["flowSpec"]["id"],
        ids.source_connection_id,
        ids.target_connection_id,
        flow["scheduleParams"],
        description=OURS,
    )
    other = adobe.run(twin).id
    deleted, kept = only(remove_named(adobe, with_base_connection=True))
    assert deleted == {*ids[:4], other}
    assert not kept


@pytest.mark.parametrize("state", [" (unconfirmed)", " (retiring)", " (superseded)"])
def test_a_login_that_dead_tasks_left_in_between_goes_too(state: str) -> None:
    adobe = Adobe()
    ids = adobe.task(desired())
    adobe.the("connections")["description"] += state
    deleted, kept = only(remove(adobe, ids.dataflow_id, with_base_connection=True))
    assert (ids.base_connection_id in deleted, kept) == (True, {})
    assert not any(adobe.count().values())
