"""Every change of an export, with trouble at every request of it: afterwards Adobe has what the DAG says, once."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple

import pytest

from airflow_provider_aep.api.credentials import S3AccessKey, auth
from airflow_provider_aep.api.provisioning.desired import DesiredExport
from airflow_provider_aep.errors import EntityExists
from airflow_provider_aep.schedules import Every
from tests.adobe.in_process import Adobe
from tests.exports import BEGINS_ON, DATASETS, ENDS_ON, KINDS, WAYS, desired, desired_base, one_of_each
from tests.test_exactly_once import DEATHS, FAULTS, Killed, Strike, general, is_quiet_now, numbered

ROTATED = desired_base()._replace(auth=auth(S3AccessKey(access_key="B" * 20, secret_key="an0ther" + "b" * 33)))
TEMPLATE = "%DESTINATION%/%DATASET_ID%/%EXPORT_TIME%"
PLACE = {**desired().target_params, "path": "elsewhere", "compression": "NONE", "includeFileManifest": True}
LATER = "2033-01-01T00:00:00Z"


class Change(NamedTuple):
    """What the DAG says now of an export that was set up as `desired()`, and what somebody has done to it before."""

    wanted: DesiredExport
    meddle: Callable[[Adobe], object] = lambda adobe: None


def renamed(kind: str) -> Callable[[Adobe], object]:
    """By somebody in Adobe's user interface."""
    return lambda adobe: adobe.the(kind).update(name="somebody's name")


CHANGES: dict[str, Change] = {
    "interval": Change(desired(schedule=Every(hours=6, start=BEGINS_ON, end=ENDS_ON))),
    "start": Change(desired(schedule=Every(hours=3, start="2029-01-01T01:00:00Z", end=ENDS_ON))),
    "end": Change(desired(schedule=Every(hours=3, start=BEGINS_ON, end=LATER))),
    "folder template": Change(desired(folder_template=TEMPLATE)),
    "datasets": Change(desired(dataset_ids=(DATASETS[1], DATASETS[2]))),
    "credentials": Change(desired(base=ROTATED)),
    "target params": Change(desired(target_params=PLACE)),
    "state": Change(desired(), lambda adobe: adobe.the("flows").update(state="disabled")),
    **{f"name of {kind}": Change(desired(), renamed(kind)) for kind in KINDS if kind != "connections"},
    "all at once": Change(
        desired(
            schedule=Every(hours=12, start=BEGINS_ON, end=LATER),
            folder_template=TEMPLATE,
            dataset_ids=(DATASETS[1],),
            base=ROTATED,
            target_params=PLACE,
        ),
        lambda adobe: adobe.the("flows").update(state="disabled", name="somebody's name"),
    ),
}
# A step knows what it has made by its name alone, so a target connection of another name is another one to it.
CASES = [(what, way) for what in CHANGES for way in WAYS if (what, way) != ("name of targetConnections", "steps")]
TROUBLE: dict[str, Strike] = {
    name: FAULTS[name] for name in ("reply lost", "cut off", "503 after", "reply lost for good")
}
NEXT: dict[str, Any] = {"name": "dag.export, run 2", "if_exists": "update"}


def before(change: Change, way: str, **options: Any) -> Adobe:
    """An export as it was, and an Adobe to change it at."""
    adobe = Adobe(options)
    adobe.task(desired(), way=WAYS[way])
    adobe.clock.advance(20)
    change.meddle(adobe)
    adobe.platform.requests.clear()
    return adobe


def undisturbed(what: str, way: str) -> list[tuple[str, int]]:
    """The requests of a change that goes well, each with the number of its like before it."""
    change = CHANGES[what]
    adobe = before(change, way)
    is_so(adobe, what, way, adobe.task(change.wanted, way=WAYS[way], **NEXT))
    return list(numbered(adobe))


def seconds(moment: object) -> int:
    return int(datetime.fromisoformat(str(moment)).timestamp())


def is_so(adobe: Adobe, what: str, way: str, ids: Any) -> None:
    """What the DAG says is what Adobe has, in one of each kind; nothing was made that the change did not need."""
    wanted = CHANGES[what].wanted
    adobe.is_one_export(wanted, ids)
    is_source_new = what in ("datasets", "all at once") or (what, way) == ("name of sourceConnections", "steps")
    base, source, target, flow = (adobe.the(kind) for kind in KINDS)
    assert {each["name"] for each in (source, target, flow)} == {wanted.name}
    assert wanted.base
    assert wanted.base.auth
    # The emulator keeps no secret, but the key's name, which is sent and replaced with it.
    assert base["auth"]["params"]["s3AccessKey"] == wanted.base.auth["params"]["s3AccessKey"]
    assert isinstance(wanted.schedule, Every)
    params = flow["scheduleParams"]
    assert wanted.schedule.start
    assert wanted.schedule.end
    assert (params["startTime"], params["endTime"]) == (seconds(wanted.schedule.start), seconds(wanted.schedule.end))
    assert params.get("foldernameTemplate") == wanted.folder_template
    assert adobe.made() == one_of_each() | {"sourceConnections": 1 + is_source_new}


@pytest.mark.parametrize(("what", "way"), CASES)
def test_trouble_at_any_request_of_a_change(what: str, way: str) -> None:
    """The reply lost, cut or hidden by a 5xx: the change is made once, and the next DAG run has only to look."""
    change = CHANGES[what]
    for request, skip in undisturbed(what, way):
        for title, strike in TROUBLE.items():
            if request.startswith("GET") and title != "cut off":
                continue  # a question does no work, so that it makes no difference how its reply is lost
            adobe = before(change, way)
            strike(adobe, request, skip)
            try:
                is_so(adobe, what, way, adobe.task(change.wanted, way=WAYS[way], **NEXT))
                is_quiet_now(adobe, change.wanted, way)
            except BaseException as error:
                error.add_note(f"{title} at {request} number {skip + 1}")
                raise


@pytest.mark.parametrize(("then", "list_delay"), [("the retry", 5), ("the next DAG run", 0)])
@pytest.mark.parametrize(("what", "way"), CASES)
def test_a_kill_at_any_request_of_a_change(what: str, way: str, then: str, list_delay: float) -> None:
    """Before Adobe has done the work, or after: the retry completes the change, and so does the next DAG run."""
    change = CHANGES[what]
    follow = {**NEXT, "again": True} if then == "the retry" else {**NEXT, "name": "dag.export, run 3"}
    for request, skip in undisturbed(what, way):
        for title, strike in DEATHS.items():
            if request.startswith("GET") and title == "dies after":
                continue
            adobe = before(change, way, list_delay=list_delay)
            strike(adobe, request, skip)
            try:
                with pytest.raises(Killed):
                    adobe.task(change.wanted, way=WAYS[way], **NEXT)
                vars(adobe).pop("respond")
                if then == "the next DAG run":
                    adobe.clock.advance(60)
                ids = adobe.task(change.wanted, way=WAYS[way], **follow)
                adobe.clock.advance(20)
                is_so(adobe, what, way, ids)
                is_quiet_now(adobe, change.wanted, way)
            except BaseException as error:
                error.add_note(f"{title} at {request} number {skip + 1}")
                raise


@pytest.mark.parametrize(
    ("what", "way"),
    [(what, way) for what, way in CASES if what not in ("credentials", "state") and "source" not in what],
)
def test_without_update_nothing_changes(what: str, way: str) -> None:
    """What decides which data lands where is refused; a name or a time is used as it is."""
    change = CHANGES[what]
    adobe = before(change, way)
    refused = what in ("folder template", "datasets", "target params", "all at once")
    there = {kind: dict(adobe.the(kind)) for kind in KINDS}
    try:
        adobe.task(change.wanted, way=WAYS[way], name="dag.export, run 2")
    except EntityExists:
        assert refused
    else:
        assert not refused
    assert changes(adobe) == set()
    assert {kind: dict(adobe.the(kind)) for kind in KINDS} == there


def changes(adobe: Adobe) -> set[str]:
    return {general(each) for each in adobe.requests() if not each.startswith("GET")}


@pytest.mark.parametrize("if_exists", ["reuse", "update"])
@pytest.mark.parametrize("kind", ["sourceConnections", "targetConnections"])
def test_a_step_whose_entity_was_renamed_makes_another_and_leaves_one(kind: str, if_exists: Any) -> None:
    """Nothing else is changed, and once it has its name again the other one goes. Only an update attaches a source."""
    adobe = before(Change(desired(), renamed(kind)), "steps")
    (old,) = adobe.platform.live(kind)
    flow = dict(adobe.the("flows"))
    if (kind, if_exists) != ("sourceConnections", "update"):
        with pytest.raises(EntityExists, match=rf"Id|_id is {old['id']}, the DAG says "):
            adobe.task(desired(), way=WAYS["steps"], **{**NEXT, "if_exists": if_exists})
        assert dict(adobe.the("flows")) == flow
        old["name"] = desired().name
    ids = adobe.task(desired(), way=WAYS["steps"], **{**NEXT, "name": "dag.export, run 3", "if_exists": if_exists})
    adobe.is_one_export(desired(), ids)


def test_a_login_of_another_name_is_another_login() -> None:
    """Nothing tells that it is meant, and Adobe cannot move an export to another login: refused, and nothing made."""
    adobe = before(Change(desired(), renamed("connections")), "whole")
    with pytest.raises(EntityExists, match="Adobe cannot change that"):
        adobe.task(desired(), **NEXT)
    assert changes(adobe) == set()
