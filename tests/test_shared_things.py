"""Different exports that share one thing at one moment: every interleaving of their requests leaves it whole."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from airflow_provider_aep.api import calls
from airflow_provider_aep.api.provisioning.desired import DesiredBaseConnection, DesiredExport, ExportIds
from airflow_provider_aep.api.provisioning.drift import check_run_is_of
from airflow_provider_aep.api.provisioning.ensure import (
    ensure_base_connection,
    ensure_dataflow,
    ensure_source_connection,
    ensure_target_connection,
)
from airflow_provider_aep.api.provisioning.export import ABANDONED_SECONDS
from airflow_provider_aep.api.provisioning.owner import LEASE, MARK, UNCONFIRMED, slots_since_ms
from airflow_provider_aep.api.wire import read_base_connection
from airflow_provider_aep.destinations import AmazonS3, destination_type, place_params, target_params
from airflow_provider_aep.errors import AepError, EntityExists, EntityNotFound, ExportChanged, InvalidArgument
from airflow_provider_aep.schedules import Every
from tests.adobe.in_process import Adobe
from tests.exports import BEGINS_ON, DATASETS, ENDS_ON, KINDS, S3, WAYS, desired, desired_base, one_of_each, policy
from tests.test_races import Task, race

OTHER = desired(dataset_ids=(DATASETS[1],))
MISSING = "5d9f1ae2-0000-4000-8000-000000000001"


def creation_times(adobe: Adobe, chance: random.Random) -> None:
    """Let Adobe's machines disagree about the time: what is made later may bear an earlier time, or the same."""
    respond = adobe.platform.respond

    def disagreeing(request: Any) -> Any:
        before = {each["id"] for kind in KINDS for each in adobe.platform.live(kind)}
        reply = respond(request)
        for kind in KINDS:
            for entity in adobe.platform.live(kind):
                if entity["id"] not in before:
                    entity["createdAt"] = (entity["createdAt"] // 1000) * 1000 + chance.randint(0, 3)
        return reply

    adobe.platform.respond = disagreeing  # type: ignore[method-assign]


def protected_logins(adobe: Adobe, _chance: random.Random) -> None:
    """Let Adobe refuse to delete a login that a target connection is attached to, which no document promises."""
    respond = adobe.platform.respond

    def protecting(request: Any) -> Any:
        kind, _, entity_id = request.url.path.removeprefix("/data/foundation/flowservice/").partition("/")
        used = [each["baseConnectionId"] for each in adobe.platform.live("targetConnections")]
        if (request.method, kind) == ("DELETE", "connections") and entity_id in used:
            return httpx.Response(400, json={"message": "in use", "error_code": "FLOW-1418-400"})
        return respond(request)

    adobe.platform.respond = protecting  # type: ignore[method-assign]


def jittered_lists(adobe: Adobe, chance: random.Random) -> None:
    """Let lists show each entity after a time of its own, up to six seconds, so that a younger one may show first."""
    for kind in KINDS:
        collection = adobe.platform.sandbox().collections[kind]
        add = collection.add

        def late(
            entity: Any, visible_from: float | None = None, *, add: Any = add, collection: Any = collection
        ) -> None:
            add(entity, collection._visible_now() + chance.uniform(0, 6))

        collection.add = late  # type: ignore[method-assign]


def nothing_dangles(adobe: Adobe) -> None:
    there = {kind: {each["id"]: each for each in adobe.platform.live(kind)} for kind in KINDS}
    for flow in there["flows"].values():
        (source,), (target,) = flow["sourceConnectionIds"], flow["targetConnectionIds"]
        assert source in there["sourceConnections"]
        assert there["targetConnections"][target]["baseConnectionId"] in there["connections"]


def true_results(adobe: Adobe, ended: list[Task]) -> None:
    """What each task returned is what is there, and is what it was asked for."""
    there = {each["id"]: each for kind in KINDS for each in adobe.platform.live(kind)}
    for task in ended:
        if isinstance(task.outcome, AepError):
            raise task.outcome
        ids: ExportIds = task.outcome
        flow, target = there[ids.dataflow_id], there[ids.target_connection_id]
        assert flow["name"] == task.desired.name
        assert flow["sourceConnectionIds"] == [ids.source_connection_id]
        assert flow["targetConnectionIds"] == [ids.target_connection_id]
        assert target["baseConnectionId"] == ids.base_connection_id
        assert ids.base_connection_id in there
        found = {each["dataSetId"] for each in there[ids.source_connection_id]["params"]["datasets"]}
        assert found == set(ids.dataset_ids) == set(task.desired.dataset_ids)


ADOBES: dict[str, list[Callable[[Adobe, random.Random], None]]] = {
    "as documented": [],
    "equal or wrong creation times": [creation_times],
    "lists that lag by chance": [jittered_lists],
    "both": [creation_times, jittered_lists],
    "both, and logins in use are protected": [creation_times, jittered_lists, protected_logins],
}


def adobe_of(kind: str, seed: int) -> tuple[Adobe, random.Random]:
    adobe, chance = Adobe(), random.Random(f"{kind} {seed}")
    random.seed(seed)  # for the pauses of the tasks themselves
    for spoil in ADOBES[kind]:
        spoil(adobe, chance)
    return adobe, chance


SEEDS = 60


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind_of_adobe", ADOBES)
@pytest.mark.parametrize("deaths", [0, 1])
def test_exports_that_share_a_new_login(kind_of_adobe: str, deaths: int, way: str) -> None:
    """Two to four of them, at the same moment, each of another name; Adobe does not protect a login that is in use."""
    for seed in range(SEEDS if way == "whole" else SEEDS // 3):
        adobe, chance = adobe_of(kind_of_adobe, seed)
        with adobe.session() as session:
            tasks = [
                Task(adobe, session, desired(f"export {n}"), policy(f"dag.export {n}, run 1"), way)
                for n in range(chance.randint(2, 4))
            ]
            ended = race(tasks, chance, deaths=deaths)
        try:
            true_results(adobe, ended)
            nothing_dangles(adobe)
            adobe.clock.advance(20)
            adobe.task(tasks[0].desired, name="dag.export 0, run 2", way=WAYS[way])  # sweeps up after the dead
            assert adobe.count() == {"connections": 1, **dict.fromkeys(KINDS[1:], len(tasks))}
            assert not adobe.the("connections")["description"].endswith(")")
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise


@pytest.mark.parametrize("kind_of_adobe", ADOBES)
@pytest.mark.parametrize("deaths", [0, 1])
def test_one_export_under_one_name(kind_of_adobe: str, deaths: int) -> None:
    """The source connection is the lease; its creation time must not decide."""
    for seed in range(SEEDS):
        adobe, chance = adobe_of(kind_of_adobe, seed)
        with adobe.session() as session:
            tasks = [
                Task(adobe, session, desired(), policy(f"dag.export, run {n}"), "whole")
                for n in range(chance.randint(2, 4))
            ]
            ended = race(tasks, chance, deaths=deaths)
        try:
            true_results(adobe, ended)
            adobe.clock.advance(20)
            adobe.task(desired(), name="dag.export, run 9")
            assert adobe.count() == one_of_each()
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise


@pytest.mark.parametrize("kind_of_adobe", ADOBES)
@pytest.mark.parametrize("deaths", [0, 1])
def test_steps_and_whole_exports_under_one_name(kind_of_adobe: str, deaths: int) -> None:
    """A lease gives way to a step, and a step waits for a lease; a step that is refused all the same says why."""
    for seed in range(SEEDS // 3):
        adobe, chance = adobe_of(kind_of_adobe, seed)
        with adobe.session() as session:
            tasks = [
                Task(adobe, session, desired(), policy(f"dag.export, run {n}"), ("whole", "steps")[n % 2])
                for n in range(chance.randint(2, 4))
            ]
            ended = race(tasks, chance, deaths=deaths)
        try:
            true_results(adobe, [task for task in ended if not isinstance(task.outcome, EntityExists)])
            assert not any(task.way == "whole" and isinstance(task.outcome, EntityExists) for task in ended)
            nothing_dangles(adobe)
            adobe.clock.advance(40)
            in_steps = adobe.task(desired(), name="dag.export, run 8", way=WAYS["steps"])
            assert adobe.task(desired(), name="dag.export, run 9")[:4] == in_steps[:4]
            adobe.clock.advance(ABANDONED_SECONDS)
            adobe.task(desired(), name="dag.export, run 10")
            assert adobe.count() == one_of_each()
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise


def test_a_whole_export_completes_what_steps_have_begun() -> None:
    """A source connection that a step has created is no lease: nobody waits for it, and nobody deletes it."""
    adobe = Adobe()
    source = adobe.run(ensure_source_connection(desired().source, policy("dag.source, run 1")))
    began = adobe.clock.now()
    ids = adobe.task(desired(), name="dag.export, run 2")
    assert ids.source_connection_id == source
    assert adobe.clock.now() - began < 3
    adobe.is_one_export(desired(), ids)


def test_a_step_does_not_lose_its_source_connection_to_a_whole_export() -> None:
    """It waits for the step after it, which attaches it; a day later it is abandoned."""
    adobe = Adobe()
    adobe.task(desired())
    waiting = adobe.run(ensure_source_connection(OTHER.source, policy("dag.source, run 2", if_exists="update")))
    adobe.task(desired(), name="dag.export, run 2")
    assert waiting in [each["id"] for each in adobe.platform.live("sourceConnections")]
    adobe.clock.advance(ABANDONED_SECONDS)
    adobe.task(desired(), name="dag.export, run 3")
    assert adobe.count() == one_of_each()


def test_a_step_waits_for_a_lease_and_then_takes_it_over() -> None:
    adobe = Adobe()
    resource = desired().source.resource()
    adobe.run(resource.creation(resource.mark(policy("dag.dead, run 1").owner, ending=LEASE)))
    began, dead = adobe.clock.now(), adobe.the("sourceConnections")["id"]
    source = adobe.run(ensure_source_connection(desired().source, policy("dag.source, run 2")))
    assert adobe.clock.now() - began > policy().takeover_seconds
    assert adobe.the("sourceConnections")["id"] == source != dead


@pytest.mark.parametrize("if_exists", ["reuse", "update"])
def test_mapped_tasks_that_ask_for_other_data_under_one_name_are_told_so(if_exists: Any) -> None:
    """One is exported, in green; the others are red, and say who was first and how to name them apart."""
    for seed in range(SEEDS):
        adobe, chance = Adobe(), random.Random(seed)
        with adobe.session() as session:
            tasks = [
                Task(
                    adobe,
                    session,
                    desired(dataset_ids=(DATASETS[n],)),
                    policy(f"dag.export, run r, map index {n}", if_exists=if_exists),
                    "whole",
                )
                for n in range(3)
            ]
            ended = race(tasks, chance)
        green = [task for task in ended if isinstance(task.outcome, ExportIds)]
        assert len(green) == 1, seed
        true_results(adobe, green)
        assert adobe.count() == one_of_each(), seed
        for task in ended:
            if task not in green:
                assert isinstance(task.outcome, EntityExists), seed
                assert "it was set up by another mapped task of this DAG run (dag.export, run r" in str(task.outcome)
                assert "{{ ti.map_index }}" in str(task.outcome)


def test_a_later_dag_run_may_update_what_a_mapped_task_made() -> None:
    adobe = Adobe()
    adobe.task(desired(), name="dag.export, run r, map index 0")
    ids = adobe.task(OTHER, name="dag.export, run s, map index 1", if_exists="update")
    adobe.is_one_export(OTHER, ids)


@pytest.mark.parametrize("member", ["path", "compression"])
def test_a_mapped_task_does_not_change_back_what_another_of_its_dag_run_has_just_changed(member: str) -> None:
    adobe = Adobe()
    adobe.task(desired(), name="dag.export, run r, map index 0")
    changed = {"path": "elsewhere", "compression": "NONE"}[member]
    other = desired(target_params={**desired().target_params, member: changed})
    adobe.task(other, name="dag.export, run s, map index 1", if_exists="update")
    with pytest.raises(EntityExists, match="by another mapped task of this DAG run"):
        adobe.task(desired(), name="dag.export, run s, map index 0", if_exists="update")


# What decides which data lands where


@pytest.mark.parametrize(
    "changes",
    [
        {"dataset_ids": (DATASETS[1],)},
        {"dataset_ids": (DATASETS[0], DATASETS[1])},
        {"folder_template": "%DATASET_NAME%/%EXPORT_TIME%"},
        *(
            {"target_params": {**desired().target_params, **change}}
            for change in (
                {"bucketName": "another-bucket"},
                {"path": "elsewhere"},
                {"datasetFileType": "JSON"},
                {"compression": "NONE"},
                {"includeFileManifest": True},
            )
        ),
        {"base": desired_base("another login")},
    ],
    ids=lambda changes: next(iter(changes.get("target_params", changes))),
)
def test_nothing_that_differs_is_reused(changes: dict[str, Any]) -> None:
    adobe = Adobe()
    adobe.task(desired())
    adobe.platform.requests.clear()
    with pytest.raises(EntityExists, match="other data would be exported than the DAG says") as caught:
        adobe.task(desired(**changes), name="dag.export, run 2")
    assert "give the export another name" in str(caught.value)
    assert all(request.startswith("GET") for request in adobe.requests())


def changed_folder(folder: str, hours: int = 3) -> Any:
    return desired(folder_template=folder, schedule=Every(hours=hours, start=BEGINS_ON, end=ENDS_ON))


@pytest.mark.parametrize(
    "other",
    [
        desired(dataset_ids=(DATASETS[1],)),
        desired(target_params={**desired().target_params, "path": "elsewhere"}),
        changed_folder("%DATASET_NAME%"),
        desired(schedule=Every(hours=12, start=BEGINS_ON, end=ENDS_ON)),
    ],
    ids=["datasets", "path", "folders", "interval"],
)
@pytest.mark.parametrize("first", [0, 1])
def test_in_each_dag_run_one_of_two_mapped_tasks_of_one_name_is_told(other: DesiredExport, first: int) -> None:
    """Whichever comes first, also where it finds nothing to change."""
    adobe = Adobe()
    asked = [desired(), other]
    for run in range(4):
        for index in (first, 1 - first):
            name = f"dag.export, run {run}, map index {index}"
            if index == first:
                adobe.task(asked[index], name=name, if_exists="update", shares_name=True)
            else:
                with pytest.raises(EntityExists, match="by another mapped task of this DAG run"):
                    adobe.task(asked[index], name=name, if_exists="update", shares_name=True)
        adobe.clock.advance(3600)
    alike = adobe.task(asked[first], name="dag.export, run 9, map index 0", if_exists="update", shares_name=True)
    assert (
        adobe.task(asked[first], name="dag.export, run 9, map index 1", if_exists="update", shares_name=True) == alike
    )


def test_of_two_mapped_target_steps_of_one_name_one_is_told_in_each_dag_run() -> None:
    adobe = Adobe()
    base = adobe.run(ensure_base_connection(desired_base(), policy()))
    here, there = (desired(target_params={**desired().target_params, "path": path}).target(base) for path in "ab")
    for run in range(3):
        how = [policy(f"dag.to, run {run}, map index {n}", if_exists="update", shares_name=True) for n in (0, 1)]
        adobe.run(ensure_target_connection(here, how[0]))
        with pytest.raises(EntityExists, match="by another mapped task of this DAG run"):
            adobe.run(ensure_target_connection(there, how[1]))


@pytest.mark.parametrize(("hours", "waits"), [(6, True), (6, False), (3, True)])
def test_another_interval_is_refused_where_the_task_waits_for_its_own_slot(hours: int, waits: bool) -> None:
    adobe = Adobe()
    adobe.task(desired(schedule=Every(hours=hours, start=BEGINS_ON, end=ENDS_ON)))
    if waits and hours != 3:
        with pytest.raises(EntityExists, match="interval is 6, the DAG says 3"):
            adobe.task(desired(), name="dag.export, run 2", waits=True)
    else:
        adobe.task(desired(), name="dag.export, run 2", waits=waits)


def test_a_dataflow_that_a_dead_step_task_has_left_does_not_export_a_second_time() -> None:
    adobe = Adobe()
    ids = adobe.task(desired())
    left = desired().dataflow(ids.source_connection_id, ids.target_connection_id)
    owner = policy("dag.dead, run 1").owner
    wanted = left.resource(datetime.fromtimestamp(adobe.clock.now(), UTC))
    adobe.run(wanted.creation(wanted.mark(owner, ending=UNCONFIRMED)))
    adobe.clock.advance(60)
    assert adobe.task(desired(), name="dag.export, run 2") == ids
    assert adobe.count() == one_of_each()


def test_a_target_connection_for_another_place_than_the_dataflows_is_refused() -> None:
    adobe = Adobe()
    ids = adobe.task(desired())
    flow = desired("other").dataflow(ids.source_connection_id, ids.target_connection_id)
    for path in ("nightly/", "nightly"):
        place = place_params(AmazonS3("lake-exports", path))
        adobe.run(ensure_dataflow(flow._replace(place=place), policy()))
    place = place_params(AmazonS3("lake-exports", "elsewhere"))
    with pytest.raises(
        InvalidArgument, match="whose path is 'nightly'; the destination of the dataflow says 'elsewhere'"
    ):
        adobe.run(ensure_dataflow(flow._replace(place=place), policy()))


# A run and what it has exported


def run_of(adobe: Adobe, ids: ExportIds) -> Any:
    return adobe.run(calls.get_run(adobe.platform.start_run(ids.dataflow_id)["id"]))


@pytest.mark.parametrize(
    "other",
    [
        desired(dataset_ids=(DATASETS[1],)),
        desired(target_params={**desired().target_params, "path": "elsewhere"}),
        changed_folder("%DATASET_NAME%"),
    ],
    ids=["datasets", "path", "folders"],
)
def test_a_run_of_before_a_change_does_not_pass_for_the_changed_export(other: DesiredExport) -> None:
    """Neither in the task that changed it nor in a later one, whatever else was changed meanwhile."""
    adobe = Adobe()
    ids = adobe.task(desired())
    before = run_of(adobe, ids)
    adobe.run(check_run_is_of(desired(), ids, before))
    adobe.clock.advance(60)
    ids = adobe.task(other, name="dag.export, run 2", if_exists="update")
    with pytest.raises(ExportChanged, match=rf"flow run {before.id} was created at .*, before .* was changed at"):
        adobe.run(check_run_is_of(other, ids, before))
    adobe.run(check_run_is_of(other, ids, run_of(adobe, ids)))
    later = other._replace(schedule=Every(hours=12, start=BEGINS_ON, end=ENDS_ON))
    ids = adobe.task(later, name="dag.export, run 3", if_exists="update")
    with pytest.raises(ExportChanged):
        adobe.run(check_run_is_of(later, ids, before))


def test_a_run_of_before_its_dataset_came_back_does_not_pass_for_it() -> None:
    """The source connection is older than the run: Adobe did not let it go while the export was another."""
    adobe = Adobe()
    ids = adobe.task(desired())
    adobe.faults.status("DELETE /sourceConnections/*", 409, times=None)
    elsewhere = adobe.task(desired(dataset_ids=(DATASETS[1],)), name="dag.export, run 2", if_exists="update")
    other = run_of(adobe, elsewhere)
    adobe.clock.advance(60)
    back = adobe.task(desired(), name="dag.export, run 3", if_exists="update")
    assert back.source_connection_id == ids.source_connection_id
    with pytest.raises(ExportChanged, match=r"before dataflow 'dag.export' \(.*\) was changed at"):
        adobe.run(check_run_is_of(desired(), back, other))
    adobe.run(check_run_is_of(desired(), back, run_of(adobe, back)))


@pytest.mark.parametrize(
    "other", [desired(dataset_ids=(DATASETS[1],)), changed_folder("%DATASET_NAME%")], ids=["datasets", "folders"]
)
def test_a_run_of_while_an_export_is_being_changed_does_not_pass(other: DesiredExport) -> None:
    """Adobe may make a run after the new source connection and before the dataflow's change: it exports what was."""
    adobe = Adobe()
    ids = adobe.task(desired())
    runs: list[Any] = []

    def respond(request: httpx.Request) -> httpx.Response:
        if request.method == "PATCH" and "/flows/" in request.url.path:
            runs.append(adobe.platform.start_run(ids.dataflow_id))
        return Adobe.respond(adobe, request)

    adobe.respond = respond  # type: ignore[method-assign]
    ids = adobe.task(other, name="dag.export, run 2", if_exists="update")
    (between,) = (adobe.run(calls.get_run(run["id"])) for run in runs)
    assert between.created_ms >= adobe.the("sourceConnections")["createdAt"]
    with pytest.raises(ExportChanged, match=r"before dataflow 'dag.export' \(.*\) was changed at"):
        adobe.run(check_run_is_of(other, ids, between))


@pytest.mark.parametrize("member", ["datasets", "path", "folders"])
def test_a_change_while_a_task_waits_is_noticed(member: str) -> None:
    adobe = Adobe()
    ids = adobe.task(desired())
    run = run_of(adobe, ids)
    if member == "datasets":
        adobe.the("sourceConnections")["params"]["datasets"][0]["dataSetId"] = DATASETS[2]
    elif member == "path":
        adobe.the("targetConnections")["params"]["path"] = "elsewhere"
    else:
        adobe.the("flows")["scheduleParams"]["foldernameTemplate"] = "%DATASET_NAME%"
    with pytest.raises(ExportChanged, match="was changed while the task waited"):
        adobe.run(check_run_is_of(desired(), ids, run))


def test_the_time_of_a_schedule_change_is_kept_when_something_else_changes() -> None:
    """Adobe tells only of the last operation on a dataflow."""
    adobe = Adobe()
    adobe.task(desired())
    adobe.clock.advance(60)
    changed = desired(schedule=Every(hours=12, start=BEGINS_ON, end=ENDS_ON))
    adobe.task(changed, name="dag.export, run 2", if_exists="update")
    since = slots_since_ms(adobe.run(calls.get_dataflow(adobe.the("flows")["id"])))
    assert since == pytest.approx(adobe.clock.now() * 1000, abs=2000)
    adobe.clock.advance(60)
    adobe.task(changed._replace(dataset_ids=(DATASETS[1],)), name="dag.export, run 3", if_exists="update")
    assert slots_since_ms(adobe.run(calls.get_dataflow(adobe.the("flows")["id"]))) == since


def test_a_path_without_its_last_slash_is_the_same_place() -> None:
    adobe = Adobe()
    ids = adobe.task(desired())
    adobe.the("targetConnections")["params"]["path"] += "/"
    assert adobe.task(desired(), name="dag.export, run 2") == ids


def test_what_the_dag_leaves_out_means_adobes_default() -> None:
    """A line that was taken out of the DAG is a change like any other."""
    adobe = Adobe()
    manifest = {**desired().target_params, "includeFileManifest": True}
    ids = adobe.task(desired(folder_template="%DATASET_NAME%", target_params=manifest))
    with pytest.raises(EntityExists) as caught:
        adobe.task(desired(), name="dag.export, run 2")
    assert "foldernameTemplate is %DATASET_NAME%, the DAG says none" in str(caught.value)
    assert "includeFileManifest is True, the DAG says False" in str(caught.value)
    assert adobe.task(desired(), name="dag.export, run 3", if_exists="update") == ids
    assert "foldernameTemplate" not in adobe.the("flows")["scheduleParams"]
    assert adobe.the("targetConnections")["params"]["includeFileManifest"] is False
    assert adobe.task(desired(), name="dag.export, run 4") == ids


def test_adobe_may_spell_its_default_folders_out() -> None:
    adobe = Adobe()
    ids = adobe.task(desired())
    adobe.the("flows")["scheduleParams"]["foldernameTemplate"] = "%DATASET_ID%/%EXPORT_TIME%"
    assert adobe.task(desired(), name="dag.export, run 2") == ids


def test_another_account_behind_the_same_airflow_connection_is_noticed() -> None:
    adobe = Adobe()
    login = desired_base()
    ours, theirs = (
        DesiredBaseConnection(login.name, login.destination_type, login.auth, account) for account in ("ours", "theirs")
    )
    adobe.task(desired(base=ours))
    assert adobe.task(desired(base=ours), name="dag.export, run 2")
    with pytest.raises(EntityExists, match="account is ours, the DAG says theirs"):
        adobe.task(desired(base=theirs), name="dag.export, run 3")
    adobe.task(desired(base=theirs), name="dag.export, run 4", if_exists="update")
    adobe.task(desired(base=theirs), name="dag.export, run 5")


def test_a_run_of_before_the_account_was_another_does_not_pass() -> None:
    """Whoever has pointed the login elsewhere; new credentials for the same account do no harm."""
    adobe = Adobe()
    login = desired_base()
    ours, theirs = (
        desired(base=DesiredBaseConnection(login.name, login.destination_type, login.auth, account))
        for account in ("ours", "theirs")
    )
    before = run_of(adobe, adobe.task(ours))
    adobe.clock.advance(60)
    ids = adobe.task(theirs, name="dag.export, run 2", if_exists="update")
    after = run_of(adobe, ids)
    adobe.clock.advance(60)
    adobe.task(theirs, name="dag.export, run 3", if_exists="update")
    adobe.run(check_run_is_of(theirs, ids, after))
    with pytest.raises(ExportChanged, match=r"before base connection 'airflow s3' \(.*\) was changed at"):
        adobe.run(check_run_is_of(theirs, ids, before))
    by_id = theirs._replace(base=None, base_connection_id=ids.base_connection_id)
    with pytest.raises(ExportChanged, match=r"before base connection"):
        adobe.run(check_run_is_of(by_id, ids, before))
    with pytest.raises(ExportChanged, match="was changed while the task waited: account is theirs, the DAG says ours"):
        adobe.run(check_run_is_of(ours, ids, after))


@pytest.mark.parametrize(
    ("params", "account", "is_same"),
    [
        ({"domain": "sftp.example.org", "username": "exporter", "port": 2222}, "exporter@sftp.example.org:2222", True),
        ({"domain": "SFTP.example.org", "username": "exporter"}, "exporter@sftp.example.org:2222", True),
        ({"domain": "evil.example.org", "username": "exporter"}, "exporter@sftp.example.org:22", False),
        ({"domain": "sftp.example.org", "username": "other", "port": 22}, "exporter@sftp.example.org:22", False),
        ({"domain": "sftp.example.org", "username": "exporter", "port": 22}, "exporter@sftp.example.org:2222", False),
        ({"domain": "****", "username": "****"}, "exporter@sftp.example.org:22", True),
        ({"url": "abfss://lake@ours.dfs.core.windows.net/"}, "abfss://lake@ours.dfs.core.windows.net", True),
        ({"url": "abfss://lake@theirs.dfs.core.windows.net"}, "abfss://lake@ours.dfs.core.windows.net", False),
        ({"url": "<url>"}, "abfss://lake@ours.dfs.core.windows.net", True),
        ({}, "exporter@sftp.example.org:22", True),
    ],
)
def test_an_account_that_a_colleague_has_changed_is_noticed(
    params: dict[str, Any], account: str, is_same: bool
) -> None:
    """As far as Adobe tells it: what is masked counts as not told."""
    found = read_base_connection({"id": "b", "auth": {"specName": "S", "params": params}})
    login = DesiredBaseConnection("login", destination_type(S3), {"specName": "S", "params": {}}, account)
    assert [each.what for each in login.differences(found)] == ([] if is_same else ["account"])


def test_what_adobe_lists_is_returned_not_what_was_asked_for() -> None:
    adobe = Adobe()
    both = (DATASETS[0], DATASETS[1])
    adobe.task(desired(dataset_ids=both))
    adobe.the("sourceConnections")["params"]["datasets"].reverse()
    assert adobe.task(desired(dataset_ids=both), name="dag.export, run 2").dataset_ids == both[::-1]


# A login that is gone


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("if_exists", ["reuse", "update"])
def test_an_export_whose_login_is_gone_is_made_anew(if_exists: Any, way: str) -> None:
    adobe = Adobe()
    lost = adobe.task(desired(), way=WAYS[way])
    adobe.platform.sandbox().collections["connections"].remove(lost.base_connection_id)
    ids = adobe.task(desired(), way=WAYS[way], name="dag.export, run 2", if_exists=if_exists)
    assert ids.dataflow_id != lost.dataflow_id
    adobe.is_one_export(desired(), ids)
    nothing_dangles(adobe)


def test_an_export_of_somebody_else_whose_login_is_gone_is_not_deleted() -> None:
    adobe = Adobe()
    lost = adobe.task(desired())
    for kind in KINDS:
        adobe.the(kind)["description"] = "by hand"
    adobe.platform.sandbox().collections["connections"].remove(lost.base_connection_id)
    with pytest.raises(EntityExists, match="was not made by this provider: delete it"):
        adobe.task(desired(), name="dag.export, run 2")
    assert adobe.the("flows")["id"] == lost.dataflow_id


@pytest.mark.parametrize("kind", ["sourceConnections", "targetConnections"])
def test_a_dataflow_that_lacks_what_it_is_attached_to_is_made_anew(kind: str) -> None:
    adobe = Adobe()
    lost = adobe.task(desired())
    adobe.platform.sandbox().collections[kind].remove(adobe.the(kind)["id"])
    ids = adobe.task(desired(), name="dag.export, run 2")
    assert ids.dataflow_id != lost.dataflow_id
    adobe.is_one_export(desired(), ids)


def test_a_login_that_its_maker_has_not_confirmed_is_confirmed_by_the_next_who_needs_it() -> None:
    adobe = Adobe()
    adobe.run(desired_base().resource().creation(f"{MARK} for dag.dead, run 1 [0123] (unconfirmed)"))
    there = adobe.the("connections")["id"]
    assert adobe.task(desired()).base_connection_id == there
    assert adobe.the("connections")["description"] == f"{MARK} for dag.dead, run 1 [0123]"


def test_a_login_that_lost_a_race_and_whose_task_died_is_swept_up() -> None:
    adobe = Adobe()
    ids = adobe.task(desired())
    for state in ("unconfirmed", "superseded"):
        adobe.run(desired_base().resource().creation(f"{MARK} for dag.dead, run 1 [0123] ({state})"))
    assert adobe.task(desired(), name="dag.export, run 2") == ids
    assert adobe.the("connections")["id"] == ids.base_connection_id


# What the user named and Adobe does not know


def test_an_unknown_login_is_final_at_once_and_nothing_is_made() -> None:
    adobe = Adobe()
    began = adobe.clock.now()
    with pytest.raises(EntityNotFound, match=MISSING):
        adobe.task(desired(base=None, base_connection_id=MISSING))
    assert adobe.made() == dict.fromkeys(KINDS, 0)
    assert len(adobe.requests()) == 4
    assert adobe.clock.now() - began < 1
    with pytest.raises(EntityNotFound, match=MISSING):
        adobe.run(ensure_target_connection(desired().target(MISSING), policy()))
    assert adobe.made() == dict.fromkeys(KINDS, 0)


def test_a_login_for_another_kind_of_storage_is_refused() -> None:
    adobe = Adobe()
    base = adobe.run(ensure_base_connection(desired_base(), policy()))
    adobe.the("connections")["connectionSpec"]["id"] = "6d6b59bf-fb58-4107-9064-4d246c0e5bb2"
    with pytest.raises(InvalidArgument, match="is 'airflow s3', which is not for Amazon S3"):
        adobe.task(desired(base=None, base_connection_id=base))
    assert adobe.made()["sourceConnections"] == 0


def test_a_target_connection_for_another_kind_of_storage_is_refused() -> None:
    adobe = Adobe()
    ids = adobe.task(desired())
    adobe.the("targetConnections")["connectionSpec"]["id"] = "6d6b59bf-fb58-4107-9064-4d246c0e5bb2"
    other = desired("other").dataflow(ids.source_connection_id, ids.target_connection_id)
    with pytest.raises(InvalidArgument, match=r"target_connection_id = .* is 'dag.export', which is not for Amazon S3"):
        adobe.run(ensure_dataflow(other, policy()))
    with pytest.raises(EntityNotFound, match=MISSING):
        adobe.run(ensure_dataflow(desired("other").dataflow(ids.source_connection_id, MISSING), policy()))
    assert adobe.made()["flows"] == 1


def test_a_set_up_that_loses_every_round_pauses_and_says_why() -> None:
    """Another task seems to make the dataflow each time, but nobody does."""
    adobe = Adobe()
    began = adobe.clock.now()
    adobe.faults.status("POST /targetConnections", 404, times=None)
    with pytest.raises(AepError) as caught:
        adobe.task(desired(), tries=1)
    assert "other tasks" not in str(caught.value)
    assert caught.value.is_final or adobe.clock.now() - began > 8


def test_a_renamed_dataflow_is_found_beside_another_dataflow_of_its_source() -> None:
    """Its source connection has another, newer dataflow of somebody else."""
    adobe = Adobe()
    ids = adobe.task(desired())
    flow = adobe.the("flows")
    flow["name"] = "renamed"
    place = AmazonS3(bucket="lake-exports", path="by/hand")
    params = target_params(place, file_type="PARQUET", compression="GZIP")
    target = adobe.run(
        desired("by hand", target_params=params, destination_type=destination_type(S3))
        .target(ids.base_connection_id)
        .resource()
        .creation("by hand")
    )
    newer = {**flow, "id": MISSING, "name": "by hand", "targetConnectionIds": [target.id], "description": ""}
    newer["createdAt"] = flow["createdAt"] + 1
    adobe.platform.sandbox().collections["flows"].add(newer)
    assert adobe.task(desired(), name="dag.export, run 2").dataflow_id == ids.dataflow_id
