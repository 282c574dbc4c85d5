"""At every request of every set-up, in turn, something goes wrong; there is one export afterwards, and nothing else."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from airflow_provider_aep.api.provisioning.desired import DesiredExport
from airflow_provider_aep.schedules import Every
from tests.adobe.in_process import Adobe
from tests.exports import BEGINS_ON, DATASETS, ENDS_ON, KINDS, WAYS, desired, one_of_each

Strike = Callable[[Adobe, str, int], Any]


class Killed(BaseException):
    """The worker process is no more."""


def dies(*, after: bool) -> Strike:
    """Let the worker die at a request, before or after Adobe did the work."""

    def strike(adobe: Adobe, at: str, skip: int) -> None:
        respond, seen = adobe.respond, Counter[str]()

        def deadly(request: httpx.Request) -> httpx.Response:
            asked = general(f"{request.method} {request.url.path.removeprefix('/data/foundation/flowservice')}")
            seen[asked] += 1
            if asked != at or seen[asked] != skip + 1:
                return respond(request)
            if after:
                respond(request)
            raise Killed

        adobe.respond = deadly  # type: ignore[method-assign]

    return strike


def answers(status: int, *, after: bool) -> Strike:
    return lambda adobe, at, skip: adobe.faults.status(at, status, after=after, skip=skip)


FAULTS: dict[str, Strike] = {
    "reply lost": lambda adobe, at, skip: adobe.faults.lose_reply(at, skip=skip),
    "reset before": lambda adobe, at, skip: adobe.faults.reset(at, skip=skip),
    "refused": lambda adobe, at, skip: adobe.faults.refuse(at, skip=skip),
    "cut off": lambda adobe, at, skip: adobe.faults.truncate(at, skip=skip),
    "silence before": lambda adobe, at, skip: adobe.faults.hang(at, skip=skip),
    "silence after": lambda adobe, at, skip: adobe.faults.hang(at, skip=skip, after=True),
    **{f"{status} before": answers(status, after=False) for status in (429, 500, 502, 503, 504)},
    **{f"{status} after": answers(status, after=True) for status in (429, 500, 502, 503, 504)},
    # Longer than one session has patience, so that Airflow's retry has to end it.
    "reply lost for good": lambda adobe, at, skip: adobe.faults.lose_reply(at, skip=skip, times=7),
    "outage": lambda adobe, at, skip: adobe.faults.status(at, 503, skip=skip, times=7),
}
# A question does no work, so that it makes no difference whether it was lost before or after.
OF_A_QUESTION = ("reset before", "cut off", "429 before", "503 before", "outage")
DEATHS: dict[str, Strike] = {"dies before": dies(after=False), "dies after": dies(after=True)}


def general(request: str) -> str:
    """A request without the IDs in it: "GET /flows/*"."""
    return re.sub(r"/[0-9a-f]{8}-[0-9a-f-]{27}", "/*", request)


# Stories: what there is already, and then the task whose every request is struck.

CHANGED = desired(dataset_ids=(DATASETS[1], DATASETS[2]))
OTHERWISE = desired(
    schedule=Every(hours=6, start=BEGINS_ON, end=ENDS_ON),
    target_params={**desired().target_params, "path": "elsewhere", "compression": "NONE"},
)


def nothing(adobe: Adobe, way: str) -> None: ...


def an_export(adobe: Adobe, way: str) -> None:
    adobe.task(desired(), way=WAYS[way])
    adobe.clock.advance(20)


def a_disabled_export(adobe: Adobe, way: str) -> None:
    an_export(adobe, way)
    flow = adobe.the("flows")
    flow["state"] = "disabled"


STORIES: dict[str, tuple[Callable[[Adobe, str], None], DesiredExport, dict[str, Any]]] = {
    "first run": (nothing, desired(), {}),
    "cleared": (an_export, desired(), {"again": True}),
    "second DAG run": (an_export, desired(), {"name": "dag.export, run 2"}),
    "other datasets": (an_export, CHANGED, {"name": "dag.export, run 2", "if_exists": "update"}),
    "other schedule and place": (a_disabled_export, OTHERWISE, {"name": "dag.export, run 2", "if_exists": "update"}),
}


def undisturbed(story: str, way: str, **options: Any) -> tuple[list[tuple[str, int]], dict[str, int]]:
    """The requests of a story that goes well, each with the number of its like before it; and what it has made."""
    before, wanted, how = STORIES[story]
    adobe = Adobe(options)
    before(adobe, way)
    adobe.platform.requests.clear()
    ids = adobe.task(wanted, way=WAYS[way], **how)
    adobe.clock.advance(10)  # until everything has settled
    adobe.is_one_export(wanted, ids)
    return list(numbered(adobe)), adobe.made()


def numbered(adobe: Adobe) -> Iterator[tuple[str, int]]:
    seen: Counter[str] = Counter()
    for each in adobe.platform.requests:
        request = general(f"{each.method} {each.path.removeprefix('/data/foundation/flowservice')}")
        yield request, seen[request]
        seen[request] += 1


def walk(
    story: str, way: str, strikes: dict[str, Strike], **options: Any
) -> Iterator[tuple[str, Adobe, DesiredExport]]:
    """The story once for each of its requests and each strike, up to the moment when the strike is set."""
    requests, _ = undisturbed(story, way, **options)
    before, wanted, _ = STORIES[story]
    for request, skip in requests:
        for title, strike in strikes.items():
            if request.startswith("GET") and strikes is FAULTS and title not in OF_A_QUESTION:
                continue
            adobe = Adobe(options)
            before(adobe, way)
            strike(adobe, request, skip)
            yield f"{title} at {request} number {skip + 1}", adobe, wanted


def is_quiet_now(adobe: Adobe, wanted: DesiredExport, way: str) -> None:
    """Another DAG run has nothing left to do but to look."""
    adobe.faults.clear()
    vars(adobe).pop("respond", None)  # nor does anybody die any more
    adobe.platform.requests.clear()
    adobe.is_one_export(wanted, adobe.task(wanted, way=WAYS[way], name="dag.export, run 9"))
    # A step that is given a login or a target connection by its ID also asks whether it is there, and what for.
    given = ["GET /connections/*", "GET /targetConnections/*"] if way == "steps" else []
    assert sorted(map(general, adobe.requests())) == sorted([*(f"GET /{kind}" for kind in KINDS), *given])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("story", STORIES)
def test_no_fault_leaves_anything_but_one_export(story: str, way: str) -> None:
    _, made = undisturbed(story, way)
    how = STORIES[story][2]
    for case, adobe, wanted in walk(story, way, FAULTS):
        try:
            ids = adobe.task(wanted, way=WAYS[way], **how)
            adobe.is_one_export(wanted, ids)
            assert adobe.made() == made
            is_quiet_now(adobe, wanted, way)
        except BaseException as error:
            error.add_note(case)
            raise


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("story", ["first run", "other datasets"])
def test_lists_that_lag_behind_make_no_difference(story: str, way: str) -> None:
    """What a lost reply or a death has left may show only later; Adobe documents no bound."""
    _, made = undisturbed(story, way, list_delay=5)
    how = STORIES[story][2]
    strikes = {name: FAULTS[name] for name in ("reply lost", "reset before", "reply lost for good")} | DEATHS
    for case, adobe, wanted in walk(story, way, strikes, list_delay=5):
        try:
            try:
                ids = adobe.task(wanted, way=WAYS[way], **how)
            except Killed:
                ids = adobe.task(wanted, way=WAYS[way], **{**how, "again": True})
            adobe.is_one_export(wanted, ids)
            assert adobe.made() == made
            adobe.clock.advance(20)
            is_quiet_now(adobe, wanted, way)
        except BaseException as error:
            error.add_note(case)
            raise


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("story", STORIES)
def test_a_retry_completes_what_a_dead_worker_began(story: str, way: str) -> None:
    _, made = undisturbed(story, way)
    how = STORIES[story][2]
    for case, adobe, wanted in walk(story, way, DEATHS):
        try:
            with pytest.raises(Killed):
                adobe.task(wanted, way=WAYS[way], **how)
            ids = adobe.task(wanted, way=WAYS[way], **{**how, "again": True})
            adobe.is_one_export(wanted, ids)
            assert adobe.made() == made
            is_quiet_now(adobe, wanted, way)
        except BaseException as error:
            error.add_note(case)
            raise


@pytest.mark.parametrize("list_delay", [0, 5])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("story", ["first run", "other datasets", "other schedule and place"])
def test_another_dag_run_completes_what_a_dead_worker_began(story: str, way: str, list_delay: float) -> None:
    """It cannot know that the other task is dead, so a whole export waits, and then takes over."""
    how = STORIES[story][2]
    for case, adobe, wanted in walk(story, way, DEATHS, list_delay=list_delay):
        try:
            with contextlib.suppress(Killed):
                adobe.task(wanted, way=WAYS[way], **how)
            vars(adobe).pop("respond", None)
            other = {**how, "name": "dag.export, run 5", "again": False}
            ids = adobe.task(wanted, way=WAYS[way], **other)
            adobe.clock.advance(20)
            # What lists have not shown yet is left to the run after that.
            assert adobe.task(wanted, way=WAYS[way], **{**other, "name": "dag.export, run 6"}) == ids
            adobe.is_one_export(wanted, ids)
            is_quiet_now(adobe, wanted, way)
        except BaseException as error:
            error.add_note(case)
            raise


@pytest.mark.parametrize("way", WAYS)
def test_transitional_states_make_no_difference(way: str) -> None:
    """Entities that are settling refuse changes for a while, and what was deleted is still listed."""
    options = {"settle_seconds": 3, "delete_seconds": 3}
    for story in STORIES:
        undisturbed(story, way, **options)


def test_the_figures() -> None:
    """Eleven requests in five round trips with the token; then four in one."""
    adobe = Adobe()
    adobe.task(desired())
    first = adobe.requests()
    assert sorted(first) == sorted(
        ["GET /flows", *["GET /connections", "GET /sourceConnections"] * 2, "GET /targetConnections"]
        + [f"POST /{kind}" for kind in KINDS]
        + [f"PATCH /connections/{adobe.the('connections')['id']}"]
    )
    assert adobe.made() == one_of_each()
    adobe.platform.requests.clear()
    adobe.task(desired(), name="dag.export, run 2")
    assert sorted(adobe.requests()) == sorted(f"GET /{kind}" for kind in KINDS)
