"""A dataflow is enabled and disabled, whatever state it is in and whatever becomes of the replies."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from airflow_provider_aep.api.effects import Procedure
from airflow_provider_aep.api.entities import Dataflow, DataflowId
from airflow_provider_aep.api.provisioning.export import set_up_export
from airflow_provider_aep.api.provisioning.removal import remove_export
from airflow_provider_aep.api.provisioning.state import ensure_disabled, ensure_enabled
from airflow_provider_aep.emulator import Platform
from airflow_provider_aep.errors import EntityNotFound, PlatformUnavailable, RequestRefused
from tests.adobe.in_process import Adobe
from tests.conftest import Runner
from tests.exports import desired, policy
from tests.test_exactly_once import DEATHS, FAULTS, OF_A_QUESTION, Killed

WAYS: dict[str, Callable[[DataflowId], Any]] = {"enabled": ensure_enabled, "disabled": ensure_disabled}


def in_state(state: str, **options: Any) -> tuple[Adobe, DataflowId]:
    """An export in the other state than the one wanted."""
    adobe = Adobe(options)
    ids = adobe.task(desired(), tries=9)
    adobe.clock.advance(1000)
    if state == "disabled":
        adobe.run(ensure_disabled(ids.dataflow_id))
        adobe.clock.advance(1000)
    adobe.platform.requests.clear()
    return adobe, ids.dataflow_id


def other(state: str) -> str:
    return "disabled" if state == "enabled" else "enabled"


@pytest.mark.parametrize("wanted", WAYS)
def test_it_is_changed_once_and_read_from_adobe(wanted: str) -> None:
    adobe, flow = in_state(other(wanted))
    assert adobe.run(WAYS[wanted](flow)).state == wanted
    get, post = f"GET /flows/{flow}", f"POST /flows/{flow}/action"
    assert adobe.requests() == [get, post, get]
    assert adobe.platform.requests[-2].query == f"op={wanted.removesuffix('d')}"
    adobe.platform.requests.clear()
    assert adobe.run(WAYS[wanted](flow)).state == wanted
    assert adobe.requests() == [get]


@pytest.mark.parametrize("wanted", WAYS)
def test_through_both_sessions(run: Runner, platform: Platform, wanted: str) -> None:
    flow = run(set_up_export(desired(), policy())).dataflow_id
    run(WAYS[other(wanted)](flow))
    assert run(WAYS[wanted](flow)).state == wanted
    assert platform.live("flows")[0]["state"] == wanted


@pytest.mark.parametrize("settle_seconds", [0, 20])
@pytest.mark.parametrize("wanted", WAYS)
def test_faults_and_deaths_at_every_request(wanted: str, settle_seconds: float) -> None:
    adobe, flow = in_state(other(wanted), settle_seconds=settle_seconds)
    adobe.run(WAYS[wanted](flow))
    for number, request in enumerate(adobe.requests()):
        before = sum(each == request for each in adobe.requests()[:number])
        at = re.sub(rf"{flow}", "*", request)
        for title, strike in {**FAULTS, **DEATHS}.items():
            if request.startswith("GET") and title in FAULTS and title not in OF_A_QUESTION:
                continue
            struck, its_flow = in_state(other(wanted), settle_seconds=settle_seconds)
            strike(struck, at, before)
            try:
                found = struck.run(WAYS[wanted](its_flow))
            except (PlatformUnavailable, Killed):
                vars(struck).pop("respond", None)
                struck.faults.clear()
                found = struck.run(WAYS[wanted](its_flow))
            assert found.state == struck.the("flows")["state"] == wanted, (title, at, before)


@pytest.mark.parametrize("wanted", WAYS)
@pytest.mark.parametrize("seconds", [100, 290])
def test_states_in_transit_are_waited_for(wanted: str, seconds: float) -> None:
    """Right after a creation as well as after another action."""
    adobe = Adobe({"settle_seconds": seconds})
    flow = adobe.task(desired(), tries=9).dataflow_id
    for each in (other(wanted), wanted):
        found = adobe.run(WAYS[each](flow))
        assert found.state == adobe.the("flows")["state"] == each


def test_a_state_in_transit_that_does_not_pass_is_an_outage() -> None:
    adobe, flow = in_state("enabled")
    adobe.the("flows")["state"] = "updating"
    with pytest.raises(PlatformUnavailable, match=rf"dataflow {flow} is 'updating', after 30. s still; trying again"):
        adobe.run(ensure_disabled(flow))
    adobe.the("flows")["state"] = "enabled"
    assert adobe.run(ensure_disabled(flow)).state == "disabled"


@pytest.mark.parametrize("repeated_actions", [True, False])
def test_two_at_once_are_both_right(repeated_actions: bool) -> None:
    """The second one's action comes after the first one's, and Adobe refuses it (1422) or takes it."""
    adobe, flow = in_state("enabled", repeated_actions=repeated_actions)
    late = ensure_disabled(flow)

    def overtaken() -> Procedure[Dataflow]:
        action = late.send((yield next(late)))
        adobe.run(ensure_disabled(flow))
        try:
            answer = yield action
        except RequestRefused as refusal:
            following = late.throw(refusal)
        else:
            following = late.send(answer)
        try:
            late.send((yield following))
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        raise AssertionError("it asks for more")

    assert adobe.run(overtaken()).state == "disabled"
    assert adobe.the("flows")["state"] == "disabled"


def test_one_that_enables_meanwhile_is_no_failure() -> None:
    """This action came when the dataflow was disabled already, and the look after it when another had enabled it."""
    adobe, flow = in_state("enabled")
    late = ensure_disabled(flow)

    def crossed() -> Procedure[Dataflow]:
        action = late.send((yield next(late)))
        adobe.platform.set_state(flow, "disabled")
        try:
            yield action
        except RequestRefused as refusal:
            following = late.throw(refusal)
        adobe.platform.set_state(flow, "enabled")
        while True:
            try:
                following = late.send((yield following))
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]

    assert adobe.run(crossed()).state == "disabled"
    assert adobe.the("flows")["state"] == "disabled"


def test_an_unknown_or_removed_dataflow_is_told() -> None:
    adobe, flow = in_state("enabled", delete_seconds=60)
    adobe.platform.live("flows")[0]["state"] = "delete-finalizing"
    with pytest.raises(EntityNotFound, match="is being deleted"):
        adobe.run(ensure_enabled(flow))
    adobe.platform.live("flows")[0]["state"] = "enabled"
    adobe.run(remove_export(flow, policy()))
    with pytest.raises(EntityNotFound, match=f"flows not found with id = \\[{flow}\\]"):
        adobe.run(ensure_disabled(flow))
