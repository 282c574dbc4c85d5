"""What happens to an export in its life, provoked in the emulator: in process, and over `/_emulator`."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_aep.emulator.http import steering
from airflow_provider_aep.emulator.platform import COLLEAGUE
from tests.adobe.caller import LOYALTY, S3_LOGIN, START, TOKEN_FORM, Caller, hourly

HOUR = 3600
IMS = "https://ims-na1.adobelogin.com/ims/token/v3"
Steer = Callable[..., None]

# Each page, and the method of `Platform` that does the same.
METHODS = {
    "states": "set_state",
    "skipped-slots": "skip_slots",
    "scripts": "script_run",
    "runs/end": "end_run",
    "revoked-logins": "revoke_login",
}


@pytest.fixture
def adobe(tmp_path: Path) -> Caller:
    return Caller(tmp_path)


@pytest.fixture(params=["in process", "over /_emulator"])
def steer(request: pytest.FixtureRequest, adobe: Caller) -> Steer:
    """`steer(page, **members)`, in both ways."""

    def by_page(page: str, **members: Any) -> None:
        reply = adobe.call("POST", f"/_emulator/{page}", members)
        assert reply.status_code == 200, reply.text

    def by_method(page: str, **members: Any) -> None:
        getattr(adobe.platform, METHODS[page])(**members)

    return by_method if request.param == "in process" else by_page


def statuses(adobe: Caller, flow: str) -> list[str | None]:
    return [run["metrics"].get("statusSummary", {}).get("status") for run in adobe.runs(flow)]


def hours(adobe: Caller, flow: str) -> list[float]:
    """When its runs were created, in hours after START."""
    return [(run["createdAt"] / 1000 - START) // HOUR for run in adobe.runs(flow)]


def written(adobe: Caller, flow: str) -> list[int]:
    return [run["metrics"]["recordSummary"].get("outputRecordCount", 0) for run in adobe.runs(flow)]


def test_a_colleague_disables_and_enables(adobe: Caller, steer: Steer) -> None:
    flow = adobe.flow(LOYALTY, scheduleParams=hourly(3, start=START))
    before = adobe.item(f"/flows/{flow}")
    adobe.clock.advance(HOUR)
    steer("states", flow_id=flow, state="disabled")
    disabled = adobe.item(f"/flows/{flow}")
    stale = adobe.patch(f"/flows/{flow}", {"op": "replace", "path": "/name", "value": "x"}, etag=before["etag"])
    adobe.clock.advance(5 * HOUR)
    steer("states", flow_id=flow, state="enabled", by="somebody@AdobeID")
    adobe.clock.advance(3 * HOUR)

    assert (disabled["state"], disabled["updatedBy"]) == ("disabled", COLLEAGUE)
    assert before["updatedBy"] != COLLEAGUE
    assert disabled["updatedAt"] == before["updatedAt"] + HOUR * 1000
    assert stale.status_code == 412
    assert adobe.item(f"/flows/{flow}")["updatedBy"] == "somebody@AdobeID"
    assert [one["id"] for one in adobe.get("/flows", params={"property": "state==enabled"})["items"]] == [flow]
    assert hours(adobe, flow) == [0, 6]


def test_after_its_end_a_dataflow_stays_enabled_and_runs_no_more(adobe: Caller) -> None:
    """A slot at the very end is none: the client counts so, too. Adobe documents neither."""
    flow = adobe.flow(LOYALTY, scheduleParams=hourly(3, start=START, endTime=int(START) + 6 * HOUR))
    adobe.clock.advance(30 * HOUR)

    assert hours(adobe, flow) == [0, 3]
    assert adobe.item(f"/flows/{flow}")["state"] == "enabled"

    adobe.patch(
        f"/flows/{flow}",
        {
            "op": "replace",
            "path": "/scheduleParams",
            "value": hourly(3, start=START, endTime=int(START) + 48 * HOUR),
        },
    )
    adobe.clock.advance(5 * HOUR)
    assert hours(adobe, flow) == [0, 3, 33]


def test_a_run_that_is_stuck_until_it_is_ended(adobe: Caller, steer: Steer) -> None:
    flow = adobe.flow(LOYALTY, scheduleParams=hourly(12, start=START))
    steer("scripts", flow_id=flow, outcome="stuck")
    adobe.clock.advance(60)
    assert statuses(adobe, flow) == [None]
    adobe.clock.advance(11 * HOUR)

    (run,) = adobe.runs(flow)
    assert run["metrics"]["statusSummary"]["status"] == "processing"
    assert "completedAtUTC" not in run["metrics"]["durationSummary"]
    assert "lastRunDetails" not in adobe.item(f"/flows/{flow}")

    steer("runs/end", run_id=run["id"], outcome="failed", late_seconds=30)
    assert statuses(adobe, flow) == ["processing"]
    adobe.clock.advance(30)
    assert statuses(adobe, flow) == ["failed"]
    ended = adobe.runs(flow)[0]["metrics"]["durationSummary"]["completedAtUTC"] / 1000
    assert ended == START + 60 + 11 * HOUR
    adobe.clock.advance(HOUR + 600)
    assert (statuses(adobe, flow), written(adobe, flow)) == (["failed", "success"], [0, 1100])


def test_a_stuck_run_that_is_ended_before_it_showed_its_start(adobe: Caller) -> None:
    flow = adobe.flow(LOYALTY)
    adobe.platform.script_run(flow, "stuck")
    run = adobe.platform.start_run(flow)
    adobe.platform.end_run(run["id"], late_seconds=0)
    adobe.clock.advance(10 * 60)

    assert statuses(adobe, flow)[0] == "success"


def test_a_run_that_is_not_stuck_is_not_ended_by_hand(adobe: Caller) -> None:
    run = adobe.platform.start_run(adobe.flow(LOYALTY))
    with pytest.raises(ValueError, match="stuck"):
        adobe.platform.end_run(run["id"])
    with pytest.raises(KeyError):
        adobe.platform.end_run("nowhere")


def test_slots_that_start_no_run(adobe: Caller, steer: Steer) -> None:
    """What arrived meanwhile comes with the next run."""
    flow = adobe.flow(LOYALTY, scheduleParams=hourly(3, start=START))
    adobe.clock.advance(HOUR)
    steer("skipped-slots", flow_id=flow, count=2)
    adobe.platform.add_rows(LOYALTY, [{"_id": "1"}, {"_id": "2"}])
    adobe.clock.advance(11 * HOUR + 600)

    assert hours(adobe, flow) == [0, 9, 12]
    assert written(adobe, flow) == [1100, 2, 0]
    assert adobe.item(f"/flows/{flow}")["state"] == "enabled"


def test_the_end_of_one_run_is_seen_late(adobe: Caller, steer: Steer) -> None:
    """In Adobe's examples a record learns of the end two and six minutes after it."""
    flow = adobe.flow(LOYALTY, scheduleParams=hourly(3, start=START))
    steer("scripts", flow_id=flow, late_seconds=600)
    adobe.clock.advance(5 + 120 + 590)
    assert statuses(adobe, flow) == ["processing"]
    adobe.clock.advance(10)

    (run,) = adobe.runs(flow)
    assert run["metrics"]["statusSummary"]["status"] == "success"
    assert run["updatedAt"] - run["metrics"]["durationSummary"]["completedAtUTC"] == 600_000
    adobe.clock.advance(3 * HOUR)
    assert statuses(adobe, flow) == ["success", "success"]


def test_a_failed_run_looks_like_adobes_example(adobe: Caller, steer: Steer) -> None:
    """Shape: the destinations OpenAPI's example of a failed run, with a code of the Flow Service."""
    error = {"code": "CONNECTOR-2001-500", "message": "Error occurred while writing."}
    flow = adobe.flow(LOYALTY, scheduleParams=hourly(3, start=START))
    steer("scripts", flow_id=flow, outcome="failed", errors=[error])
    adobe.clock.advance(HOUR)

    metrics, activities = adobe.runs(flow)[0]["metrics"], adobe.runs(flow)[0]["activities"]
    assert sorted(metrics) == ["durationSummary", "recordSummary", "statusSummary"]
    assert metrics["statusSummary"]["errors"] == metrics["recordSummary"]["failedInfo"] == [error]
    assert [one["statusSummary"]["errors"] for one in activities] == [[error]]
    assert (activities[0]["sizeSummary"], activities[0]["fileSummary"]) == ({}, {})


def test_a_partial_run_tells_what_it_left_out(adobe: Caller, steer: Steer) -> None:
    error = {"code": "ACTIVATION_BATCH-0000-FAILED", "message": "Some records failed."}
    flow = adobe.flow(LOYALTY, scheduleParams=hourly(3, start=START))
    steer("scripts", flow_id=flow, outcome="partial", errors=[error], failed_records=4)
    adobe.clock.advance(HOUR)

    metrics = adobe.runs(flow)[0]["metrics"]
    assert metrics["statusSummary"]["status"] == "success"
    assert metrics["statusSummary"]["errors"] == [error]
    assert metrics["recordSummary"]["failedInfo"] == [{**error, "count": 4}]
    assert (metrics["recordSummary"]["failedRecordCount"], written(adobe, flow)) == (4, [1096])


def test_an_empty_run_has_zeros_and_its_rows_come_no_more(adobe: Caller, steer: Steer) -> None:
    flow = adobe.flow(LOYALTY, scheduleParams=hourly(3, start=START))
    steer("scripts", flow_id=flow, outcome="empty")
    adobe.clock.advance(4 * HOUR)

    metrics = adobe.runs(flow)[0]["metrics"]
    assert metrics["sizeSummary"] == {"inputBytes": 0, "outputBytes": 0}
    assert metrics["fileSummary"] == {"inputFileCount": 0, "outputFileCount": 0}
    assert (statuses(adobe, flow), written(adobe, flow)) == (["success", "success"], [0, 0])


def test_a_sandbox_takes_no_more_destinations_than_the_limit(tmp_path: Path) -> None:
    adobe = Caller(tmp_path, destination_limit=2)
    flow, _ = adobe.flow(LOYALTY, name="a"), adobe.flow(LOYALTY, name="b")
    body = adobe.flow_body(adobe.source(LOYALTY), adobe.target(adobe.base()), "c")

    reply = adobe.call("POST", "/flows", body)
    assert (reply.status_code, "type" in reply.json()) == (400, False)
    assert reply.json()["errorMessage"] == "The limit of 2 destinations is reached in sandbox [prod]"
    assert len(adobe.get("/flows")["items"]) == 2
    adobe.call("DELETE", f"/flows/{flow}")
    adobe.post("/flows", body)


def test_a_sandbox_takes_a_hundred_destinations(adobe: Caller) -> None:
    """Source: Adobe's guide "Guardrails for data activation"."""
    source, target = adobe.source(LOYALTY), adobe.target(adobe.base())
    made = [adobe.call("POST", "/flows", adobe.flow_body(source, target, str(n))).status_code for n in range(101)]
    assert made == [201] * 100 + [400]


def test_a_login_that_the_storage_takes_no_more(adobe: Caller, steer: Steer) -> None:
    """Until the base connection is given one again; nothing is lost."""
    flow = adobe.flow(LOYALTY, scheduleParams=hourly(3, start=START))
    base = adobe.platform.live("connections")[0]["id"]
    steer("revoked-logins", connection_id=base)
    adobe.clock.advance(4 * HOUR)
    assert statuses(adobe, flow) == ["failed", "failed"]
    assert "refused the credentials" in adobe.runs(flow)[0]["metrics"]["statusSummary"]["errors"][0]["message"]

    adobe.patch(f"/connections/{base}", {"op": "replace", "path": "/description", "value": "no login"})
    assert adobe.platform.runs.revoked == {base}
    adobe.patch(f"/connections/{base}", {"op": "replace", "path": "/auth/params", "value": S3_LOGIN["params"]})
    adobe.clock.advance(3 * HOUR)
    assert (statuses(adobe, flow), written(adobe, flow)) == (["failed", "failed", "success"], [0, 0, 1100])


def test_client_secrets_change(adobe: Caller) -> None:
    def status(secret: str) -> int:
        return adobe.http.post(IMS, data={**TOKEN_FORM, "client_secret": secret}).status_code

    adobe.platform.set_client_secrets(TOKEN_FORM["client_secret"], "new")
    assert (status(TOKEN_FORM["client_secret"]), status("new")) == (200, 200)
    assert adobe.call("POST", "/_emulator/client-secrets", {"secrets": ["new"]}).json() == {"secrets": 1}
    assert (status(TOKEN_FORM["client_secret"]), status("new")) == (401, 200)
    assert adobe.call("GET", "/flows").status_code == 200  # a token lives on


def test_trouble_is_kept_over_a_restart(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    adobe = Caller(tmp_path / "data", state=state)
    stuck, skipped = (
        adobe.flow(LOYALTY, name=name, scheduleParams=hourly(3, start=START)) for name in ("stuck", "skipped")
    )
    base = adobe.platform.live("connections")[0]["id"]
    adobe.platform.script_run(stuck, "stuck")
    adobe.platform.skip_slots(skipped, 2)
    adobe.clock.advance(60)
    adobe.platform.revoke_login(base)
    adobe.platform.save()

    again = Caller(tmp_path / "data", state=state)
    again.platform.end_run(again.runs(stuck)[0]["id"])
    again.clock.advance(7 * HOUR)
    assert statuses(again, stuck)[0] in ("success", "failed")
    assert hours(again, skipped) == [6]
    assert again.platform.runs.revoked == {base}


def test_every_page_is_told_of() -> None:
    assert [path for _, path in steering._PAGES if not re.search(rf"/_emulator/{path} ", steering.HELP)] == []


@pytest.mark.parametrize(
    ("page", "body"),
    [
        ("states", {"state": "paused"}),
        ("states", {"state": "disabled", "flow_id": "nowhere"}),
        ("states", {"state": "disabled", "by": 7}),
        ("skipped-slots", {"count": -1}),
        ("skipped-slots", {"count": 1.5}),
        ("skipped-slots", {"flow_id": "nowhere"}),
        ("runs/end", {"run_id": "nowhere"}),
        ("scripts", {"late_seconds": -1}),
        ("scripts", {"late_seconds": "x"}),
        ("revoked-logins", {"connection_id": "nowhere"}),
        ("client-secrets", {"secrets": "abc"}),
        ("client-secrets", {"secrets": []}),
        ("client-secrets", {}),
    ],
)
def test_steering_that_means_nothing(adobe: Caller, page: str, body: dict[str, Any]) -> None:
    given = {"flow_id": adobe.flow(LOYALTY)} if page in ("states", "skipped-slots") else {}
    assert adobe.call("POST", f"/_emulator/{page}", {**given, **body}).status_code == 400
