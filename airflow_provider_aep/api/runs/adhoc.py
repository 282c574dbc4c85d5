"""Run a dataflow now, once, whatever becomes of the replies; and the run that counts after a failed one.

Adobe's published reference has the ad hoc call for audiences only. That of datasets is known from aepp, Adobe's own
client (https://github.com/adobe/aepp), and the words of its refusals from the notebooks there; see `api.replies`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from airflow_provider_aep.api import calls
from airflow_provider_aep.api.effects import Procedure, ServerTime, Sleep
from airflow_provider_aep.api.entities import (
    VANISHING,
    Dataflow,
    DataflowId,
    DatasetId,
    FlowRun,
    FlowRunId,
)
from airflow_provider_aep.api.queries import keep_looking, list_runs
from airflow_provider_aep.api.runs.selection import WHERE_TO_ENABLE, is_meant
from airflow_provider_aep.api.runs.slots import Calendar, RunSelector, when
from airflow_provider_aep.api.wire import AdhocRun
from airflow_provider_aep.errors import (
    EntityNotFound,
    InvalidArgument,
    NotReady,
    OutcomeUnknown,
    PlatformUnavailable,
    RequestRefused,
    RunExists,
    UnexpectedReply,
)

log = logging.getLogger(__name__)

#: How old a dataflow is when Adobe begins to run it ad hoc; it says "wait for 10 minutes".
READY_SECONDS = 600.0
#: How often a dataflow is asked that is older and still not ready.
ASK_AGAIN_SECONDS = 60.0
#: A rerun that is asked for later than this before the next slot might be taken for that slot's run.
LAST_CALL_MS = 300_000
_ROUNDS = 4
_PASSING = ("updating", "enabling")  # states in which Adobe refuses to run a dataflow that it will soon run
_LONGEST_PAUSE_SECONDS = 300  # that a Retry-After is obeyed before the request is sent again
_LONGEST_REQUEST_MS = 1_800_000  # a request with all its repeats; what is created later is not its run
_MOST_RUNS = 100  # of a dataflow, the newest ones, that may be under way


class AdhocPlan(NamedTuple):
    """What to run, checked, and Adobe's time before it is asked for, in milliseconds since 1970 UTC."""

    dataflow: Dataflow
    dataset_ids: tuple[DatasetId, ...]
    since_ms: int


class StartedRuns(NamedTuple):
    """The flow runs that export the datasets; `is_new` if Adobe made them for this request."""

    run_ids: tuple[FlowRunId, ...]
    is_new: bool


def plan_run(dataflow_id: DataflowId, dataset_ids: Sequence[DatasetId] = ()) -> Procedure[AdhocPlan]:
    """Check what is to run now: the given datasets, or all of the dataflow's.

    Raises:
        InvalidArgument: the dataflow is disabled or exports no datasets, or not these.
        EntityNotFound: Adobe knows no such dataflow.
    """
    dataflow = yield from _settled_dataflow(dataflow_id)
    called = f"dataflow {dataflow.name!r}"
    if dataflow.state in ("disabled", "disabling", VANISHING):
        rule = f"{called} is {dataflow.state}, so Adobe does not run it: enable it first, {WHERE_TO_ENABLE}"
        raise InvalidArgument("dataflow_id", dataflow_id, rule)
    known: tuple[DatasetId, ...] = ()
    if dataflow.source_connection_id:
        known = (yield from calls.get_source_connection(dataflow.source_connection_id)).dataset_ids
    if not known:
        raise InvalidArgument("dataflow_id", dataflow_id, f"{called} exports no datasets")
    strange = [each for each in dataset_ids if each not in known]
    if strange:
        rule = f"{called} does not export {', '.join(strange)}, only {', '.join(known)}"
        raise InvalidArgument("dataset_ids", list(dataset_ids), rule)
    since_ms: int = yield ServerTime()
    return AdhocPlan(dataflow, tuple(dataset_ids) or known, since_ms)


def _settled_dataflow(dataflow_id: DataflowId) -> Procedure[Dataflow]:
    """A dataflow, once a change of it has settled, or after five minutes; Adobe itself says when a new one is ready."""
    waited, pause = 0.0, 1.0
    while True:
        dataflow: Dataflow = yield from calls.get_dataflow(dataflow_id)
        if dataflow.state not in _PASSING or waited >= _LONGEST_PAUSE_SECONDS:
            return dataflow
        log.info("dataflow %s is %r; waiting", dataflow_id, dataflow.state)
        yield Sleep(pause)
        waited += pause
        pause = min(2 * pause, 15.0)


def start_run(plan: AdhocPlan, *, accept: str, visibility_seconds: float) -> Procedure[StartedRuns]:
    """Start the planned run once, or find the one that is there already.

    After an ambiguous failure, look for what the request may have started; send it again only if there is nothing.

    Raises:
        NotReady: the dataflow is too new; nothing was started.
        AdhocRefused: Adobe runs this kind of storage by schedule only.
        RequestRefused: Adobe said no, or has started runs of some datasets only.
        OutcomeUnknown: ambiguous each time; `runs_since` finds what may still turn up.
    """
    dataflow = plan.dataflow
    call = calls.start_adhoc_run(DataflowId(dataflow.id), plan.dataset_ids, accept=accept)
    for attempt in range(1, _ROUNDS + 1):
        try:
            started = yield from call
        except NotReady as early:
            now_ms: int = yield ServerTime()
            age = (now_ms - dataflow.created_ms) / 1000
            early.retry_after_seconds = READY_SECONDS - age if 0 < age < READY_SECONDS else ASK_AGAIN_SECONDS
            raise
        except RunExists as exists:
            told = "dataflow %s is running already; taking that run, which may be of other datasets: %s"
            log.warning(told, dataflow.id, exists)
            found = (yield from runs_since(plan, seconds=0)) if attempt > 1 else ()
            return StartedRuns(found, True) if found else (yield from _existing_run(plan, exists, visibility_seconds))
        except (OutcomeUnknown, UnexpectedReply) as unknown:
            log.info("%s; looking for what it may have started", unknown)
            found = yield from runs_since(plan, seconds=visibility_seconds)
            if found:
                log.info("found flow run %s of dataflow %s, started by that request", ", ".join(found), dataflow.id)
                return StartedRuns(found, True)
            if attempt == _ROUNDS:
                raise
            if unknown.retry_after_seconds:
                yield Sleep(min(unknown.retry_after_seconds, _LONGEST_PAUSE_SECONDS))
        else:
            return StartedRuns(_run_ids(plan, started, str(call)), True)
    raise AssertionError("unreachable")


def _run_ids(plan: AdhocPlan, started: Sequence[AdhocRun], request: str) -> tuple[FlowRunId, ...]:
    ids = tuple(dict.fromkeys(each.run_id for each in started))
    log.info("started flow run %s of dataflow %s", ", ".join(ids), plan.dataflow.id)
    missing = set(plan.dataset_ids) - {each.dataset_id for each in started}
    if missing:
        message = f"Adobe has started flow run {', '.join(ids)}, but none for dataset {', '.join(sorted(missing))}"
        raise RequestRefused(request, message=message)
    return ids


def runs_since(plan: AdhocPlan, *, seconds: float) -> Procedure[tuple[FlowRunId, ...]]:
    """The runs that a request sent at `plan.since_ms` may have started, oldest first; lists may show them late.

    Looks for `seconds`, but no longer than until there is a run for each dataset; several may share one.
    """
    dataflow_id, since_ms = DataflowId(plan.dataflow.id), plan.since_ms

    def look() -> Procedure[list[FlowRun]]:
        runs = yield from list_runs(dataflow_id, since_ms=since_ms)
        return [run for run in reversed(runs) if run.created_ms < since_ms + _LONGEST_REQUEST_MS]

    found = yield from keep_looking(look, lambda runs: len(runs) >= len(plan.dataset_ids), seconds=seconds)
    return tuple(run.id for run in found)


def runs_under_way(dataflow_id: DataflowId, *, since_ms: int = 0) -> Procedure[list[FlowRun]]:
    """The runs of a dataflow that have not ended, of the newest ones created at or after `since_ms`; newest first."""
    runs = yield from list_runs(dataflow_id, since_ms=since_ms, limit=_MOST_RUNS)
    return [run for run in runs if not run.has_ended]


def _existing_run(plan: AdhocPlan, exists: RunExists, visibility_seconds: float) -> Procedure[StartedRuns]:
    """The run that Adobe speaks of: by its ID in the message, or the one under way, or the newest.

    Raises:
        RunExists: no list shows any run.
    """
    dataflow_id = DataflowId(plan.dataflow.id)
    for run_id in re.findall(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", exists.message.lower()):
        try:
            run = yield from calls.get_run(FlowRunId(run_id))
        except EntityNotFound:  # another ID, such as the dataflow's own
            continue
        if run.dataflow_id == dataflow_id:
            return StartedRuns((run.id,), False)
    found = yield from keep_looking(lambda: runs_under_way(dataflow_id), seconds=visibility_seconds)
    found = found or (yield from list_runs(dataflow_id, limit=1))
    if not found:
        raise exists
    return StartedRuns((found[0].id,), False)


class Rerun(NamedTuple):
    """The run that counts after a failed one; `why_none` says why it is that one still."""

    run: FlowRun
    why_none: str = ""


def rerun(
    failed: FlowRun,
    select: Callable[[Dataflow], RunSelector],
    *,
    at_most: int,
    accept: str,
    visibility_seconds: float,
) -> Procedure[Rerun]:
    """Find or start the run that takes the place of a failed one: in the same slot, the first that has not failed.

    Nothing has to be remembered: all runs of the slot are read, so that whoever looks, and whenever, finds the same. A
    new one is started if at most `at_most` have failed beside the slot's own, and if the next slot is not near.

    Raises:
        NotReady: see `start_run`; or a run of an earlier slot is in the way.
    """
    dataflow_id = failed.dataflow_id
    selector = _span_of(failed, select, (yield from calls.get_dataflow(dataflow_id)))
    since_ms, until_ms = selector.since_ms, selector.until_ms
    now_ms: int = yield ServerTime()
    runs = [
        run
        for run in (yield from list_runs(dataflow_id, since_ms=since_ms))
        if is_meant(run.dataflow_id, run.created_ms, of=dataflow_id, since_ms=since_ms, until_ms=until_ms)
    ]
    good = [run for run in runs if run.outcome != "failed"]
    if good:
        return Rerun(good[-1])
    if len(runs) > at_most:
        # The same for all who look, also for one that has seen an earlier one fail.
        return Rerun(runs[0], f"{len(runs)} flow runs of its slot have failed (rerun_failed={at_most})")
    if until_ms is not None and now_ms >= until_ms - LAST_CALL_MS:
        return Rerun(failed, f"it is too late for another, since the next slot is {when(until_ms)}")
    try:
        plan = yield from plan_run(dataflow_id)
        started = yield from start_run(plan, accept=accept, visibility_seconds=visibility_seconds)
    except (InvalidArgument, RequestRefused) as refusal:
        return Rerun(failed, f"another cannot be started: {refusal}")
    if len(started.run_ids) > 1:
        told = ", ".join(started.run_ids)
        return Rerun(failed, f"Adobe runs it again as several flow runs ({told}), of which no single one counts")
    try:
        run = yield from calls.get_run(started.run_ids[0])
    except EntityNotFound as hidden:  # until Adobe shows it
        raise PlatformUnavailable.like(hidden) from None
    if until_ms is not None and run.created_ms >= until_ms:
        return Rerun(failed, f"flow run {run.id} came too late: it was created in the next slot")
    if run.created_ms < since_ms and not run.has_ended:
        message = f"flow run {run.id} of an earlier slot is still under way"
        raise NotReady("ad hoc run", message=message, retry_after_seconds=ASK_AGAIN_SECONDS)
    if run.created_ms < since_ms or run.id in [each.id for each in runs]:
        return Rerun(failed, f"Adobe starts no other than flow run {run.id}, which it says is there already")
    log.info(
        "flow run %s takes the place of flow run %s, which has failed (%d of at most %d)",
        run.id,
        failed.id,
        len(runs),
        at_most,
    )
    return Rerun(run)


def _span_of(run: FlowRun, select: Callable[[Dataflow], RunSelector], dataflow: Dataflow) -> RunSelector:
    """The time of a run's slot: the one selected, or the run's own if `on_missing="next"` has gone on to it."""
    selector = select(dataflow)
    until_ms = selector.until_ms
    if selector.since_ms <= run.created_ms and (
        not selector.missing if until_ms is None else run.created_ms < until_ms
    ):
        return selector
    calendar = Calendar.of(dataflow.schedule)
    return RunSelector(run.created_ms, calendar.slot_from(run.created_ms + 1) if calendar else None)
