"""Whether the exports of a sandbox are alive: what is wrong with each, in a word and in a sentence.

Sources, by the names used below:
tutorial: https://experienceleague.adobe.com/en/docs/experience-platform/destinations/api/export-datasets
destinations OpenAPI: https://developer.adobe.com/experience-platform-apis/references/destinations/
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from airflow_provider_aep.api import calls
from airflow_provider_aep.api.effects import Procedure, ServerTime, gather
from airflow_provider_aep.api.entities import VANISHING, Dataflow, DataflowId, FlowRun, iso_text
from airflow_provider_aep.api.provisioning.extend import extend_end
from airflow_provider_aep.api.provisioning.owner import is_managed, is_superseded, slots_changed_ms
from airflow_provider_aep.api.queries import all_items
from airflow_provider_aep.api.runs.newest import newest_runs
from airflow_provider_aep.api.runs.poll import is_about_filter
from airflow_provider_aep.api.runs.selection import WHERE_TO_ENABLE
from airflow_provider_aep.api.runs.slots import Calendar, when
from airflow_provider_aep.destinations import DESTINATIONS
from airflow_provider_aep.errors import EntityNotFound, FlowRunFailed, InvalidArgument, RequestRefused, VersionConflict
from airflow_provider_aep.schedules import end_seconds

_DAY = 86_400
#: When Adobe ends a dataflow without an end: six months after it was made. Source: tutorial, `endTime`.
_SIX_MONTHS = 183 * _DAY
_EXPORTS = frozenset(row.flow_spec for row in DESTINATIONS.values())
#: States in which a dataflow runs, or soon will. Source of the others, such as error: destinations UI, dataflow status.
_AT_WORK = frozenset({"", "enabled", "enabling", "initializing", "updating"})


class HealthRules(NamedTuple):
    """What counts as a problem. `ignored` are words of problems that are of no interest."""

    ends_within_seconds: float = 30 * _DAY
    grace_seconds: float = 6 * 3600
    empty_runs: int | None = None  # so many in a row are a problem
    extend_seconds: float | None = None  # from Adobe's time to the new end of what ends soon
    ignored: frozenset[str] = frozenset()


class HealthProblem(NamedTuple):
    """What is wrong: a word of `arguments.PROBLEMS`, and what follows "dataflow …:" in a sentence."""

    word: str
    text: str


@dataclass
class DataflowHealth:
    """A dataflow, its newest runs, newest first, and what is wrong. One that Adobe does not know has only an ID."""

    dataflow: Dataflow
    is_named: bool  # by ID or pattern, so that somebody watches over it, whoever made it
    runs: Sequence[FlowRun] = ()
    before: Dataflow | None = None  # its end was moved
    refusal: RequestRefused | None = None  # ... or this was why not
    problems: list[HealthProblem] = field(default_factory=list)

    @property
    def judged(self) -> Dataflow:
        """The dataflow whose slots had to bring runs so far: as it was before its end was moved."""
        return self.before or self.dataflow

    @property
    def last_run(self) -> FlowRun | None:
        """The newest run that has ended, or one that is under way where there is no other."""
        return next((run for run in self.runs if run.has_ended), None) or next(iter(self.runs), None)

    def summary(self) -> dict[str, Any]:
        """A flat dict for XCom; times as ISO 8601 in UTC.

        {"dataflow_id", "name", "state", "is_managed", "ends_at", "extended_from", "last_run_id", "last_run_status",
        "last_run_at", "problems": [word], "details": [sentence]}
        """
        run = self.last_run
        return {
            "dataflow_id": self.dataflow.id,
            "name": self.dataflow.name,
            "state": self.dataflow.state,
            "is_managed": is_managed(self.dataflow),
            "ends_at": _end_text(self.dataflow),
            "extended_from": _end_text(self.before) if self.before else None,
            "last_run_id": run.id if run else None,
            "last_run_status": run.outcome if run else None,
            "last_run_at": iso_text(run.completed_ms or run.created_ms) if run else None,
            "problems": [each.word for each in self.problems],
            "details": [each.text for each in self.problems],
        }


def check_dataflows(
    rules: HealthRules, *, dataflow_ids: Sequence[str] = (), name_pattern: str = ""
) -> Procedure[list[DataflowHealth]]:
    """The health of dataset exports: those of the given IDs, or whose name matches, or all; the worst first.

    With `rules.extend_seconds` the end of those that end soon is moved first: of those named by ID or pattern, else of
    those that this provider made. A hundred dataflows take ten requests at most, and three more for each end that is
    moved, wherever Adobe takes several IDs in a request; else one more for each whose last run is not among the newest
    of the sandbox.

    Raises:
        InvalidArgument: a given ID belongs to a dataflow that exports no datasets.
    """
    found = yield from (_by_ids(dataflow_ids) if dataflow_ids else _by_name(name_pattern))
    now_ms: int = yield ServerTime()
    is_named = bool(dataflow_ids or name_pattern)
    healths = [DataflowHealth(each, is_named) for each in found]
    if rules.extend_seconds is not None:
        for health in healths:
            yield from _extend(health, rules, now_ms)
    healths = [each for each in healths if each.dataflow.state != VANISHING]

    def is_enough(_: Dataflow, runs: Sequence[FlowRun]) -> bool:
        ended = [run for run in runs if run.has_ended]
        return bool(ended) and (len(ended) >= (rules.empty_runs or 1) or len(_empty_runs(runs)) < len(ended))

    def is_doubtful(dataflow: Dataflow, runs: Sequence[FlowRun]) -> bool:
        return bool(_overdue(dataflow, runs, rules, now_ms))

    runs = yield from newest_runs(
        [each.judged for each in healths], is_enough, is_doubtful=is_doubtful, most=rules.empty_runs or 1
    )
    for health in healths:
        health.runs = runs[health.dataflow.id]
        health.problems = list(_problems(health, rules, now_ms))
    present = {each.dataflow.id for each in healths}
    for each in dict.fromkeys(dataflow_ids):
        if each not in present:
            text = "is unknown to Adobe: it was deleted, lies in another sandbox, or an access label hides it"
            gone = Dataflow(each, "", "", state="gone")
            healths.append(DataflowHealth(gone, is_named, problems=[HealthProblem("gone", text)]))
    for health in healths:
        health.problems = [each for each in health.problems if each.word not in rules.ignored]
    return sorted(healths, key=lambda each: (not each.problems, each.dataflow.name, each.dataflow.id))


def _by_name(pattern: str) -> Procedure[list[Dataflow]]:
    """The dataset exports of the sandbox; its other dataflows, such as those of audiences, are not looked at."""
    items = yield from _list_all()
    return [
        each
        for each in map(calls.DATAFLOWS.read, items)
        if each.spec_id in _EXPORTS
        and not is_superseded(each)
        and (not pattern or fnmatch.fnmatchcase(each.name, pattern))
    ]


def _by_ids(ids: Sequence[str]) -> Procedure[list[Dataflow]]:
    """Those of the dataflows that exist.

    Raises:
        InvalidArgument: one of them exports no datasets.
    """
    wanted = list(dict.fromkeys(ids))
    listed: Mapping[str, Dataflow] = {}
    if len(wanted) > 1:
        listed = yield from _listed(wanted)
    # Lists may show one late that was made just now.
    missing = yield from gather(*(_one(each) for each in wanted if each not in listed))
    found = {**listed, **{each.id: each for each in missing if each}}
    for each in found.values():
        if each.spec_id not in _EXPORTS:
            rule = f"{each.name!r} exports no datasets to a destination (flow spec {each.spec_id or 'not given'})"
            raise InvalidArgument("dataflow_ids", each.id, rule)
    return [found[each] for each in wanted if each in found]


def _listed(ids: Sequence[str]) -> Procedure[dict[str, Dataflow]]:
    """By batches of IDs; where Adobe refuses those, from the list of all dataflows."""
    items: list[dict[str, Any]] = []
    try:
        for at in range(0, len(ids), calls.PAGE_SIZE):
            several = ",".join(ids[at : at + calls.PAGE_SIZE])
            items += yield from all_items(calls.list_page("/flows", filters=[f"id=={several}"], order=""))
    except RequestRefused as refusal:
        if not is_about_filter(refusal):
            raise
        items = yield from _list_all()
    return {item["id"]: calls.DATAFLOWS.read(item) for item in items if item["id"] in ids}


def _list_all() -> Procedure[list[dict[str, Any]]]:
    try:
        return (yield from all_items(calls.list_page("/flows")))
    except RequestRefused as refusal:
        if not is_about_filter(refusal):
            raise
        return (yield from all_items(calls.list_page("/flows", order="")))


def _one(dataflow_id: str) -> Procedure[Dataflow | None]:
    try:
        return (yield from calls.get_dataflow(DataflowId(dataflow_id)))
    except EntityNotFound:
        return None


# -- the end ----------------------------------------------------------------------------------------------------------


def _extend(health: DataflowHealth, rules: HealthRules, now_ms: int) -> Procedure[None]:
    """Move the end of a dataflow that ends soon. A refusal is only noted, so that the others are moved all the same."""
    assert rules.extend_seconds is not None
    dataflow = health.dataflow
    is_ours = health.is_named or is_managed(dataflow)
    if not is_ours or dataflow.state == VANISHING or not _ends_soon(dataflow, rules, now_ms):
        return
    ends_before, new_end = (
        int(now_ms / 1000 + seconds) for seconds in (rules.ends_within_seconds, rules.extend_seconds)
    )
    try:
        health.dataflow = yield from extend_end(dataflow, ends_before=ends_before, new_end=new_end)
    except EntityNotFound:  # deleted since the list was read
        health.dataflow = replace(dataflow, state=VANISHING)
    except VersionConflict:
        raise
    except RequestRefused as refusal:
        health.refusal = refusal
    else:
        health.before = dataflow


def _end_seconds(dataflow: Dataflow) -> int:
    """The end that a dataflow shows, or that Adobe gives one that shows none."""
    end = end_seconds(dataflow.schedule)
    return dataflow.created_ms // 1000 + _SIX_MONTHS if end is None else end


def _end_text(dataflow: Dataflow) -> str | None:
    end = end_seconds(dataflow.schedule)
    return None if end is None else iso_text(end * 1000)


def _ends_soon(dataflow: Dataflow, rules: HealthRules, now_ms: int) -> bool:
    """Whether it ends within the time given, or has ended; the end of a one-time export means nothing."""
    return not _is_one_time(dataflow) and _end_seconds(dataflow) < now_ms / 1000 + rules.ends_within_seconds


def _is_one_time(dataflow: Dataflow) -> bool:
    calendar = Calendar.of(dataflow.schedule)
    return calendar is not None and not calendar.interval_ms


# -- what is wrong ----------------------------------------------------------------------------------------------------


def _problems(health: DataflowHealth, rules: HealthRules, now_ms: int) -> Iterable[HealthProblem]:
    """All problems of a dataflow that is there."""
    dataflow, runs = health.dataflow, health.runs
    yield from _standing(health, rules, now_ms)
    late = _overdue(health.judged, runs, rules, now_ms)
    if late:
        yield HealthProblem("overdue", late)
    last = next((run for run in runs if run.has_ended), None)
    if last and last.outcome in _BAD_ENDS:
        word, why = _BAD_ENDS[last.outcome]
        yield HealthProblem(word, str(FlowRunFailed(last, f"{why} at {when(last.completed_ms or last.created_ms)}")))
    empty = _empty_runs(runs)
    if rules.empty_runs and len(empty) >= rules.empty_runs:
        since = when(empty[rules.empty_runs - 1].created_ms)
        runs_told = "run" if rules.empty_runs == 1 else f"{rules.empty_runs} runs"
        yield HealthProblem("empty", f"has exported nothing in its last {runs_told}, since {since}")
    if not health.is_named and not is_managed(dataflow):
        yield HealthProblem("unmanaged", "was not made by this provider, so no DAG keeps it as it should be")


_BAD_ENDS = {
    "failed": ("failed", "has failed"),
    "unknown": ("failed", "has ended in a state that this provider does not know"),
    "partial": ("partial", "has exported a part only"),
}


def _standing(health: DataflowHealth, rules: HealthRules, now_ms: int) -> Iterable[HealthProblem]:
    """Why a dataflow makes no more runs, or soon will not."""
    dataflow = health.dataflow
    has_run_once = _is_one_time(dataflow) and any(run.has_ended for run in health.runs)
    if dataflow.state not in _AT_WORK and not has_run_once:
        told = "disabled" if dataflow.state in ("disabled", "disabling") else f"in the state {dataflow.state!r}"
        yield HealthProblem("disabled", f"is {told}, so it exports nothing: enable it {WHERE_TO_ENABLE}")
    if _ends_soon(dataflow, rules, now_ms):
        refused = f"; its end cannot be moved: {health.refusal}" if health.refusal else ""
        end = when(_end_seconds(dataflow) * 1000)
        if end_seconds(dataflow.schedule) is None:
            text = f"shows no end: Adobe ends such an export six months after it was made, about {end}"
            yield HealthProblem("ending", text + refused)
        elif _end_seconds(dataflow) * 1000 <= now_ms:
            yield HealthProblem("ended", f"has ended at {end}, and exports nothing since{refused}")
        else:
            yield HealthProblem("ending", f"will end at {end}{refused}")


def _overdue(dataflow: Dataflow, runs: Sequence[FlowRun], rules: HealthRules, now_ms: int) -> str:
    """Why a dataflow at work is late, if the last slot that was due has no run; "" otherwise.

    What came before the last change of its schedule is no slot of this schedule.
    """
    if dataflow.state not in _AT_WORK:
        return ""
    calendar = Calendar.of(dataflow.schedule)
    slot = calendar and calendar.slot_until(now_ms - int(rules.grace_seconds * 1000))
    since_ms = max(dataflow.created_ms, dataflow.schedule_changed_ms, slots_changed_ms(dataflow))
    if slot is None or slot < since_ms or (runs and runs[0].created_ms >= slot):
        return ""
    text = f"has no run for its slot of {when(slot)}"
    if not runs:
        return f"{text}, nor any other"
    last = f"flow run {runs[0].id} was created at {when(runs[0].created_ms)}"
    return f"{text}: its last, {last}" + ("" if runs[0].has_ended else " and has not ended")


def _empty_runs(runs: Sequence[FlowRun]) -> Sequence[FlowRun]:
    """The newest runs that ended in a row without exporting anything."""
    ended = [run for run in runs if run.has_ended]
    return ended[: next((at for at, run in enumerate(ended) if not run.is_empty), len(ended))]
