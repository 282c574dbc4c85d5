"""Exports as code: a list is compared with its sandboxes in few requests, and only what differs is applied."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import httpx
import pytest

from airflow_provider_aep.api import calls
from airflow_provider_aep.api.auth import TOKEN_CACHES
from airflow_provider_aep.api.provisioning.export import set_up_export
from airflow_provider_aep.api.provisioning.inventory import PROFILE_STORE_SPEC
from airflow_provider_aep.api.provisioning.removal import remove_export
from airflow_provider_aep.api.provisioning.sync import sync_exports
from airflow_provider_aep.emulator import Platform
from airflow_provider_aep.errors import AccessDenied, InvalidArgument, PlatformUnavailable
from airflow_provider_aep.schedules import Every
from tests.adobe.in_process import Adobe
from tests.adobe.latency import RoundTrips
from tests.conftest import Runner
from tests.exports import BEGINS_ON, DATASETS, ENDS_ON, KINDS, desired, desired_base, policy
from tests.syncs import actions, are_there, listed, sync, sync_policy, why

FIVE = tuple(f"box-{number}" for number in range(5))
HUNDRED = [f"export {number}" for number in range(100)]
OTHERS = {"dataset_ids": (DATASETS[1],)}
LISTS = sorted(f"GET /{kind}" for kind in KINDS)


def all_requests(adobe: Adobe) -> int:
    """Those for tokens, too."""
    return len(adobe.platform.requests)


def test_five_hundred_unchanged_exports_in_five_sandboxes_take_21_requests() -> None:
    adobe = Adobe({"sandboxes": FIVE})
    wanted = [each for sandbox in FIVE for each in listed(*HUNDRED, sandbox=sandbox)]
    first = sync(adobe, wanted)
    assert not first.failures
    TOKEN_CACHES.clear()
    second = sync(adobe, wanted, run=2)
    assert all_requests(adobe) == 4 * 5 + 1
    assert sorted(adobe.requests()) == sorted(LISTS * 5)
    assert set(actions(second).values()) == {"keep"}
    assert second.ids == first.ids
    assert len(second.rows()) == 500


def test_a_hundred_new_exports_are_five_times_faster_than_a_hundred_tasks() -> None:
    """In round trips with the six sockets of a session, and by half the requests.

    Tokens are not counted: each of a hundred tasks would need one more round trip for its own.
    """
    adobe = Adobe()
    with adobe.session() as session:
        together = RoundTrips(session)
        outcome = together.run(sync_exports(listed(*HUNDRED), sync_policy()))
    assert not outcome.failures
    are_there(adobe, listed(*HUNDRED), outcome)
    requests = len(adobe.requests())

    adobe = Adobe()
    with adobe.session() as session:
        singly = RoundTrips(session)
        for name in HUNDRED:
            singly.run(set_up_export(desired(name), policy(f"dag.{name}, run 1")))
    # For each export; the lists; the login; that all are there in the end; that no removal takes the login meanwhile.
    assert requests == 4 * 100 + 4 + 5 + 1 + 5
    assert len(adobe.requests()) == 8 * 100 + 3
    assert singly.now == 4 * 100
    assert together.now == 75


def test_only_differences_are_applied_and_told_with_both_values() -> None:
    adobe = Adobe()
    sync(adobe, listed("same", "datasets", "place", "schedule", "renamed", "disabled"))
    before = {each["name"]: each for each in adobe.platform.live("flows")}
    adobe.the("flows", "disabled")["state"] = "disabled"
    adobe.the("flows", "renamed")["name"] = "by a colleague"
    wanted = listed(
        "same",
        desired("datasets", **OTHERS),
        desired("place", target_params={**desired().target_params, "path": "elsewhere"}),
        desired("schedule", schedule=Every(hours=6, start=BEGINS_ON, end=ENDS_ON)),
        "renamed",
        "disabled",
        "new",
    )
    outcome = sync(adobe, wanted, run=2)
    assert actions(outcome) == {
        "same": "keep",
        **dict.fromkeys(("datasets", "place", "schedule", "renamed", "disabled"), "change"),
        "new": "create",
    }
    assert why(outcome, "datasets") == f"source connection: dataset_ids is {DATASETS[0]}, the DAG says {DATASETS[1]}"
    assert why(outcome, "place") == "target connection: path is 'nightly', the DAG says 'elsewhere'"
    assert why(outcome, "schedule") == "dataflow: interval is 3, the DAG says 6"
    assert why(outcome, "renamed") == "dataflow: name is by a colleague, the DAG says renamed"
    assert why(outcome, "disabled") == "dataflow: state is disabled, the DAG says enabled"
    are_there(adobe, wanted, outcome)
    for name, flow in before.items():
        assert outcome.ids["prod", name].dataflow_id == flow["id"]
    assert not [each for each in adobe.requests() if each.endswith(before["same"]["id"])]
    assert sorted(sync_requests(adobe, wanted, run=3)) == LISTS


def sync_requests(adobe: Adobe, wanted: Any, **how: Any) -> list[str]:
    sync(adobe, wanted, **how)
    return adobe.requests()


def test_the_plan_is_one_table_and_changes_nothing_alone() -> None:
    adobe = Adobe()
    adobe.task(desired("single"), name="dag.single, run 1")
    adobe.run(calls.create_source_connection("theirs", [DATASETS[0]]))
    sync(adobe, listed("a", "b", "gone"))
    stranger = adobe.the("flows", "gone")
    adobe.task(desired("alien"), name="dag.alien, run 1")
    adobe.the("flows", "alien")["description"] = ""
    wanted = listed("a", desired("b", **OTHERS), "c")
    adobe.clock.advance(10)
    there = adobe.count()
    outcome = sync(adobe, wanted, run=2, plan_only=True, prune=True)
    assert sorted(adobe.requests()) == LISTS
    assert adobe.count() == there
    assert (
        outcome.plan.table()
        == f"""\
plan for 3 exports: 1 keep, 1 change, 1 create, 1 unmanaged, 1 prune, 1 other
action     sandbox  export         why
change     prod     b              source connection: dataset_ids is {DATASETS[0]}, the DAG says {DATASETS[1]}
create     prod     c
unmanaged  prod     alien          not made by this provider
prune      prod     gone           made by this task; the list no longer holds it
other      prod     single         made for dag.single, run 1
keep       prod     1 as they are"""
    )
    assert outcome.plan.rows()[-2]["dataflow_id"] == stranger["id"]


def test_both_sessions_sync_several_sandboxes(run: Runner, platform: Platform) -> None:
    wanted = [*listed("a", "b"), *listed("a", sandbox="dev")]
    first = run(sync_exports(wanted, sync_policy()))
    assert not first.failures
    second = run(sync_exports(wanted, sync_policy(2)))
    assert second.ids == first.ids
    for sandbox, count in (("prod", 2), ("dev", 1)):
        assert [each["sandboxName"] for each in platform.live("flows", sandbox)] == [sandbox] * count


# -- logins ---------------------------------------------------------------------------------------------------------


def test_credentials_are_sent_only_if_asked_to_and_once_for_each_login() -> None:
    adobe = Adobe()
    wanted = listed(*HUNDRED[:10], desired("with another", base=desired_base("airflow other")))
    sync(adobe, wanted)
    logins = {each["id"] for each in adobe.platform.live("connections")}
    assert len(logins) == 2
    wanted[0] = listed(desired(HUNDRED[0], **OTHERS))[0]
    sync(adobe, wanted, run=2)
    assert not [each for each in adobe.requests() if each.startswith("PATCH /connections")]
    outcome = sync(adobe, wanted, run=3, send_credentials=True)
    sent = [each for each in adobe.requests() if each.startswith("PATCH /connections")]
    assert sorted(sent) == sorted(f"PATCH /connections/{each}" for each in logins)
    assert set(actions(outcome).values()) == {"keep"}
    assert len(adobe.requests()) == 4 + 2 * 4  # for each login: found, read, changed, noted


def test_a_login_for_another_account_is_changed_once() -> None:
    adobe = Adobe()
    there = desired_base()._replace(account="loader@sftp.example.com:22")
    sync(adobe, listed(*(desired(name, base=there) for name in "abc")))
    other = there._replace(account="loader@other.example.com:22")
    outcome = sync(adobe, listed(*(desired(name, base=other) for name in "abc")), run=2)
    assert set(actions(outcome).values()) == {"change"}
    assert sum(each.startswith("PATCH /connections") for each in adobe.requests()) == 1
    assert "other.example.com" in adobe.the("connections")["description"]
    assert "account is loader@sftp.example.com:22" in why(outcome, "a")


def test_a_login_that_cannot_be_made_fails_its_exports_only() -> None:
    adobe = Adobe()
    adobe.faults.refuse("POST /connections", times=None)
    sync(adobe, listed("a", "b"), tries=1)
    adobe.faults.clear()
    assert adobe.count() == dict.fromkeys(KINDS, 0)
    sync(adobe, listed("a", "b"))
    adobe.faults.status("POST /connections", 403, times=None)
    other = desired_base("airflow other")
    outcome = sync(adobe, listed("a", desired("b", **OTHERS), desired("c", base=other)), run=2)
    assert list(outcome.failures) == [("prod", "c")]
    assert adobe.count()["flows"] == 2


def test_credentials_that_could_not_be_sent_are_a_failure_of_unchanged_exports_too() -> None:
    adobe = Adobe()
    sync(adobe, listed("a", "b"))
    adobe.faults.status(f"PATCH /connections/{adobe.the('connections')['id']}", 403, times=None)
    outcome = sync(adobe, listed("a", "b"), run=2, send_credentials=True)
    assert {each: type(error) for each, error in outcome.failures.items()} == {
        ("prod", "a"): AccessDenied,
        ("prod", "b"): AccessDenied,
    }


def test_two_logins_of_one_name_are_refused_before_anything_is_sent() -> None:
    adobe = Adobe()
    wanted = listed("a", desired("b", base=desired_base(secret="z" * 40)))
    with pytest.raises(InvalidArgument, match="export 'b': base_connection_name = 'airflow s3': is another login in"):
        sync(adobe, wanted)
    assert adobe.requests() == []


# -- failures -------------------------------------------------------------------------------------------------------


def test_one_failure_does_not_stop_the_others() -> None:
    adobe = Adobe()
    sync(adobe, listed("fixed", "ambiguous"))
    adobe.task(desired("elsewhere", base=desired_base("airflow other")), name="dag.elsewhere, run 1")
    adobe.the("flows", "ambiguous")["description"] = ""
    flow = adobe.the("flows", "ambiguous")
    create = calls.create_dataflow(
        "ambiguous",
        flow["flowSpec"]["id"],
        flow["sourceConnectionIds"][0],
        flow["targetConnectionIds"][0],
        flow["scheduleParams"],
    )
    adobe.run(create)
    wanted = listed("fixed", "ambiguous", "elsewhere", "new", desired("unknown", dataset_ids=("f" * 24,)))
    outcome = sync(adobe, wanted, run=2)
    assert {name: type(error).__name__ for (_, name), error in outcome.failures.items()} == {
        "ambiguous": "AmbiguousName",
        "elsewhere": "EntityExists",
        "unknown": "EntityNotFound",
    }
    assert actions(outcome)["elsewhere"] == actions(outcome)["ambiguous"] == "refuse"
    assert "Adobe cannot change that" in why(outcome, "elsewhere")
    assert [row["name"] for row in outcome.rows()] == ["fixed", "new"]


def test_an_unreadable_sandbox_fails_its_exports_and_says_so_where_it_has_none() -> None:
    adobe = Adobe()
    wanted = [*listed("a"), *listed("b", sandbox="secret")]
    outcome = sync(adobe, wanted)
    assert list(outcome.ids) == [("prod", "a")]
    assert list(outcome.failures) == [("secret", "b")]
    assert "secret" in str(outcome.failures["secret", "b"])
    assert list(sync(adobe, listed("a"), run=2, sandbox_names=["secret"]).failures) == [("secret", "")]


def test_an_outage_is_not_waited_for_by_every_export() -> None:
    adobe = Adobe()
    adobe.faults.status("POST /sourceConnections", 503, times=None)
    outcome = sync(adobe, listed(*HUNDRED), tries=1)
    assert len(outcome.failures) == 100
    assert sum("not tried" in str(each) for each in outcome.failures.values()) >= 100 - 2 * 6
    assert all(isinstance(each, PlatformUnavailable) for each in outcome.failures.values())
    adobe.faults.clear()
    are_there(adobe, listed(*HUNDRED), sync(adobe, listed(*HUNDRED), again=True))


def test_a_task_that_was_told_to_stop_begins_no_more() -> None:
    adobe = Adobe()
    sync(adobe, listed("gone"))
    outcome = sync(adobe, listed("a", "b"), run=2, prune=True, is_stopped=lambda: True)
    assert not outcome.failures
    assert [each["name"] for each in adobe.platform.live("flows")] == ["gone"]


# -- the limit ------------------------------------------------------------------------------------------------------


def test_more_destinations_than_adobe_allows_are_refused_before_anything_is_made() -> None:
    adobe = Adobe({"destination_limit": 200})
    adobe.task(desired("single"), name="dag.single, run 1")
    sync(adobe, listed(*HUNDRED[:97]))
    rule = (
        r"exports to create in sandbox 'prod' = 3: Adobe allows 100 destinations in a sandbox, and there are 98; "
        "nothing was made"
    )
    for options in ({}, {"plan_only": True}):
        with pytest.raises(InvalidArgument, match=rule):
            sync(adobe, listed(*HUNDRED), run=2, **options)
    with pytest.raises(InvalidArgument, match="there are 98, 1 of which are to be pruned; nothing was made"):
        sync(adobe, listed(*HUNDRED[1:97], *(f"new {number}" for number in range(4))), run=2, prune=True)
    assert adobe.count()["flows"] == 98


def test_audiences_count_and_what_is_brought_in_does_not() -> None:
    adobe = Adobe()
    sync(adobe, listed("a", "b"))
    flow = adobe.the("flows", "a")
    flow["flowSpec"]["id"] = "of audiences"
    source = adobe.the("sourceConnections", "a")
    source["connectionSpec"]["id"] = PROFILE_STORE_SPEC
    (inventory,) = sync(adobe, listed("b"), run=2).plan.inventories.values()
    assert (inventory.destinations(), len(inventory.exports())) == (2, 1)
    source["connectionSpec"]["id"] = "of a source"
    (inventory,) = sync(adobe, listed("b"), run=2).plan.inventories.values()
    assert inventory.destinations() == 1


def test_where_only_pruning_makes_room_it_comes_first() -> None:
    adobe = Adobe()
    sync(adobe, listed(*HUNDRED))
    outcome = sync(adobe, listed(*HUNDRED[1:], "new"), run=2, prune=True)
    assert [row["name"] for row in outcome.removed] == [HUNDRED[0]]
    are_there(adobe, listed(*HUNDRED[1:], "new"), outcome)


# -- pruning --------------------------------------------------------------------------------------------------------


def test_only_what_this_task_has_made_is_pruned() -> None:
    adobe = Adobe()
    adobe.task(desired("single"), name="dag.single, run 1")
    adobe.task(desired("of a namesake"), name="dag.sync.inner, run 1")
    adobe.task(desired("of a longer name"), name="dag.sync2, run 1")
    sync(adobe, listed("a", "b", "c", "taken over", "unmarked"))
    change = policy("dag.single, run 1", if_exists="update")
    adobe.run(set_up_export(desired("taken over", **OTHERS), change))
    adobe.the("flows", "unmarked")["description"] = "ours now"
    adobe.clock.advance(10)
    told = sync(adobe, listed("a"), run=2)
    assert actions(told) == {
        "a": "keep",
        **dict.fromkeys(("b", "c"), "unlisted"),
        **dict.fromkeys(("single", "of a namesake", "of a longer name", "taken over"), "other"),
        "unmarked": "unmanaged",
    }
    outcome = sync(adobe, listed("a"), run=3, prune=True)
    assert sorted(row["name"] for row in outcome.removed) == ["b", "c"]
    assert not outcome.failures
    left = {"a", "single", "of a namesake", "of a longer name", "taken over", "unmarked"}
    for kind in KINDS[1:]:
        assert {each["name"] for each in adobe.platform.live(kind)} == left
    assert adobe.count()["connections"] == 1


def test_a_renamed_dataflow_is_still_in_the_list_whatever_becomes_of_it() -> None:
    """Renamed by a colleague, and refused for another reason, it must not pass for one that left the list."""
    adobe = Adobe()
    sync(adobe, listed("a"))
    adobe.the("flows")["name"] = "by a colleague"
    outcome = sync(adobe, listed(desired("a", base=desired_base("airflow other"))), run=2, prune=True)
    assert actions(outcome) == {"a": "refuse"}
    assert adobe.count()["flows"] == 1


def test_nothing_is_pruned_in_a_sandbox_where_an_export_has_failed(caplog: pytest.LogCaptureFixture) -> None:
    """It may be the successor of what would be pruned."""
    adobe = Adobe()
    sync(adobe, [*listed("old"), *listed("old", sandbox="dev")])
    adobe.faults.status("POST /targetConnections", 400)
    outcome = sync(adobe, [*listed("new"), *listed("new", sandbox="dev")], run=2, prune=True, tries=1)
    ((sandbox, name),) = outcome.failures
    assert name == "new"
    (removed,) = outcome.removed
    assert {sandbox, removed["sandbox_name"]} == {"prod", "dev"}
    assert f"nothing is pruned in sandbox '{sandbox}', since something has failed there: new" in caplog.text


def test_what_another_task_changes_while_others_are_set_up_is_not_pruned() -> None:
    adobe = Adobe()
    sync(adobe, listed("a"))
    plain = adobe.respond
    done: list[httpx.Request] = []

    def meanwhile(request: httpx.Request) -> httpx.Response:
        if request.method == "POST" and not done:
            done.append(request)
            change = policy("dag.single, run 1", if_exists="update")
            adobe.run(set_up_export(desired("a", **OTHERS), change))
        return plain(request)

    adobe.respond = meanwhile  # type: ignore[method-assign]
    outcome = sync(adobe, listed("b"), run=2, prune=True)
    assert done
    assert outcome.removed == []
    assert adobe.the("flows", "a")["description"].startswith("Made by airflow-provider-aep for dag.single")


@pytest.mark.parametrize("path", ["nightly", "elsewhere"])
def test_what_is_removed_meanwhile_is_made_anew(path: str) -> None:
    """A green task tells the truth of what it has found unchanged, too; and old lists refuse nothing."""
    adobe = Adobe()
    sync(adobe, listed("a", "b"))
    plain = adobe.respond
    done: list[httpx.Request] = []

    def meanwhile(request: httpx.Request) -> httpx.Response:
        if len(adobe.requests()) == len(LISTS) and not done:
            done.append(request)
            adobe.run(remove_export(adobe.the("flows", "a")["id"], policy("dag.remove, run 1")))
        return plain(request)

    adobe.respond = meanwhile  # type: ignore[method-assign]
    wanted = listed(desired("a", target_params={**desired().target_params, "path": path}), "b", "c")
    outcome = sync(adobe, wanted, run=2)
    assert done
    are_there(adobe, wanted, outcome)


# -- what is half there ---------------------------------------------------------------------------------------------


def test_parts_that_are_gone_are_made_anew() -> None:
    adobe = Adobe()
    sync(adobe, listed("a", "b"))
    adobe.platform.sandbox().collections["targetConnections"].remove(adobe.the("targetConnections", "a")["id"])
    outcome = sync(adobe, listed("a", "b"), run=2)
    assert actions(outcome) == {"a": "change", "b": "keep"}
    assert re.fullmatch(r"its target connection \S+ is gone: it is made anew", why(outcome, "a"))
    are_there(adobe, listed("a", "b"), outcome)
    adobe.platform.sandbox().collections["connections"].remove(adobe.the("connections")["id"])
    outcome = sync(adobe, listed("a", "b"), run=3)
    assert re.fullmatch(r"its base connection \S+ is gone: it is made anew", why(outcome, "b"))
    are_there(adobe, listed("a", "b"), outcome)


def test_an_end_that_comes_soon_is_moved() -> None:
    adobe = Adobe()
    endless = desired("a", schedule=Every(hours=3))
    sync(adobe, listed(endless))
    params = adobe.the("flows")["scheduleParams"]
    params["endTime"] = int(adobe.clock.now()) + 86_400
    outcome = sync(adobe, listed(endless), run=2)
    assert re.fullmatch(r"dataflow: it ends at \S+Z and gets a later end", why(outcome, "a"))
    assert params["endTime"] < adobe.the("flows")["scheduleParams"]["endTime"]
    assert actions(sync(adobe, listed(endless), run=3)) == {"a": "keep"}


def test_a_second_try_waits_once_for_what_lists_show_late() -> None:
    adobe = Adobe({"list_delay": 5})
    wanted = listed(*HUNDRED[:20])
    sync(adobe, wanted[1:])
    adobe.task(wanted[0].desired, name="dag.sync, run 1")  # its dataflow is not listed yet
    before = adobe.clock.now()
    outcome = sync(adobe, wanted, again=True)
    assert set(actions(outcome).values()) == {"keep"}
    assert sorted(adobe.requests()) == sorted(LISTS * 2)
    assert adobe.clock.now() - before < 12


def test_a_mapped_task_that_wants_it_otherwise_is_refused() -> None:
    """As with mapped exports: else the two would change it to and fro in each DAG run."""
    adobe = Adobe()
    first, second = (sync_policy(1, shares_name=True), policy("dag.sync, run 1, map index 1", shares_name=True))
    second = replace(second, if_exists="update")
    adobe.run(sync_exports(listed("a"), first))
    outcome = adobe.run(sync_exports(listed(desired("a", **OTHERS)), second))
    assert "another mapped task of this DAG run" in str(outcome.failures["prod", "a"])


def test_strange_connections_do_not_matter() -> None:
    """Nobody asks for what other people keep in the sandbox, in whatever form."""
    adobe = Adobe()
    sync(adobe, listed("a"))
    adobe.run(calls.create_source_connection("theirs", [DATASETS[0]]))
    adobe.the("sourceConnections", "theirs")["params"]["datasets"] = [{"of": "another form"}]
    assert actions(sync(adobe, listed("a"), run=2)) == {"a": "keep"}


def test_what_the_list_of_all_leaves_out_is_not_made_twice() -> None:
    """Whoever creates looks by name afterwards, so an old or incomplete first look does no harm."""
    adobe = Adobe()
    first = sync(adobe, listed("a", "b"))
    plain = adobe.respond

    def forgetful(request: httpx.Request) -> httpx.Response:
        response = plain(request)
        if request.method != "GET" or "property" in request.url.params:
            return response
        reply = response.json()
        items = [
            each for each in reply.get("items", []) if each["name"] != "a" or request.url.path.endswith(each["id"])
        ]
        return httpx.Response(200, json={**reply, "items": items}, headers={"Date": response.headers["Date"]})

    adobe.respond = forgetful  # type: ignore[method-assign]
    outcome = sync(adobe, listed("a", "b"), run=2)
    assert actions(outcome) == {"a": "create", "b": "keep"}
    assert outcome.ids == first.ids
    are_there(adobe, listed("a", "b"), outcome)
