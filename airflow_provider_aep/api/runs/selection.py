"""Which flow run is meant, decided once: for a worker that looks by itself, and for the poller of the triggerer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeVar

from airflow_provider_aep.api import calls
from airflow_provider_aep.api.effects import Procedure, ServerTime, Sleep
from airflow_provider_aep.api.entities import VANISHING, Dataflow, DataflowId, FlowRun, FlowRunId, is_known_status
from airflow_provider_aep.api.queries import all_items, reaches_back
from airflow_provider_aep.api.runs.slots import RunSelector, one_time_selector, when
from airflow_provider_aep.api.wire import read_flow_run
from airflow_provider_aep.errors import EntityNotFound, InvalidArgument, RequestRefused
from airflow_provider_aep.schedules import end_seconds

log = logging.getLogger(__name__)
T = TypeVar("T")

#: How a reader of a message enables a dataflow.
WHERE_TO_ENABLE = "in Adobe's UI or with AepEnableDataflowOperator"

#: Seconds between the three tries of a look that Adobe refuses.
REFUSAL_PAUSES = (1.0, 3.0)


def is_meant(dataflow: str, created_ms: int, *, of: str, since_ms: int, until_ms: int | None) -> bool:
    """Whether a run is of the dataflow `of` and was created at or after `since_ms` and before `until_ms`.

    A run that names no dataflow is of none.
    """
    return dataflow == of and since_ms <= created_ms and (until_ms is None or created_ms < until_ms)


def earliest_run(
    runs: Iterable[FlowRun], *, dataflow_id: DataflowId, since_ms: int, until_ms: int | None = None
) -> FlowRun | None:
    """The earliest run of a dataflow in a span of time, finished or not.

    Earliest, not latest: clearing yesterday's task finds yesterday's run. A failed run counts, too: if it were skipped
    silently, the task would wait for the next slot.
    """
    return min(
        (
            run
            for run in runs
            if is_meant(run.dataflow_id, run.created_ms, of=dataflow_id, since_ms=since_ms, until_ms=until_ms)
        ),
        key=lambda run: (run.created_ms, run.id),
        default=None,
    )


def check_run_of(run: FlowRun, dataflow_id: str) -> None:
    """Check a run that was asked for by its ID; one that names no dataflow passes.

    Raises:
        InvalidArgument: it is a run of another dataflow.
    """
    if run.dataflow_id not in ("", dataflow_id):
        raise InvalidArgument("run_id", run.id, f"is a run of dataflow {run.dataflow_id}, not of {dataflow_id}")


def find_run(
    dataflow: DataflowId, *, run: FlowRunId | None = None, since_ms: int = 0, until_ms: int | None = None
) -> Procedure[FlowRun | None]:
    """A run of a dataflow as it is now: the given one, or the earliest created from `since_ms` to `until_ms`.

    None means that there is no such run yet; `GET /runs` is empty until the first slot of a schedule.

    Raises:
        EntityNotFound: Adobe knows no run of the given ID.
        InvalidArgument: the given run is of another dataflow.
    """
    if run:
        found = yield from calls.get_run(run)
        check_run_of(found, dataflow)
        return found
    items = yield from all_items(
        calls.list_runs(f"flowId=={dataflow}"), enough=lambda items: reaches_back(items, since_ms)
    )
    return earliest_run(map(read_flow_run, items), dataflow_id=dataflow, since_ms=since_ms, until_ms=until_ms)


class NoRun(NamedTuple):
    """Why no run will come; `is_slot` if only the run of the slot will not, which `on_missing` decides about."""

    why: str
    is_slot: bool


def why_slot_passed(*, since_ms: int, until_ms: int | None, now_ms: int, visibility_ms: int) -> str:
    """That the next slot has come, for a wait that has no run yet; "" before. Nobody has to be asked for that."""
    if until_ms is None or now_ms < until_ms + visibility_ms:
        return ""
    return f"Adobe has made no run for the slot of {when(since_ms)}, and the next slot has come"


def why_no_run(
    dataflow: Dataflow, *, since_ms: int, until_ms: int | None, now_ms: int, visibility_ms: int
) -> NoRun | None:
    """Why no run will come to a wait that has none yet; None if one may. Lists may show a run `visibility_ms` late.

    Worker and triggerer both decide by it, but not about a run under way, which is waited for in any case.
    """
    passed = why_slot_passed(since_ms=since_ms, until_ms=until_ms, now_ms=now_ms, visibility_ms=visibility_ms)
    if passed:
        return NoRun(passed, True)
    if dataflow.state == VANISHING:
        return NoRun("it is being deleted", False)
    if dataflow.state in ("disabled", "disabling"):
        return NoRun(f"it is disabled: enable it {WHERE_TO_ENABLE}", False)
    end = end_seconds(dataflow.schedule)
    if until_ms is None and end is not None and now_ms >= end * 1000 + visibility_ms:
        return NoRun(f"it has ended at {when(end * 1000)}: if_exists='update' gives it a later end", False)
    return None


class RunObservation(NamedTuple):
    """What one look has shown: the run, or why none will come, or neither, so that the wait goes on."""

    dataflow: Dataflow
    selector: RunSelector
    run: FlowRun | None = None
    no_run: NoRun | None = None


def observe_run(
    dataflow_id: DataflowId,
    select: Callable[[Dataflow], RunSelector],
    *,
    visibility_ms: int,
    known: Dataflow | None = None,
) -> Procedure[RunObservation]:
    """Look once at a dataflow and the run of it that `select` means; lists may show a run `visibility_ms` late.

    If the dataflow is `known` from an earlier look, that is one request for its runs; only if they, or the time, decide
    anything is the dataflow read again.

    Raises:
        EntityNotFound: Adobe knows no such dataflow, so no run will come.
    """
    if known:
        selector = select(known)
        since_ms, until_ms = selector.since_ms, selector.until_ms
        run = yield from find_run(dataflow_id, since_ms=since_ms, until_ms=until_ms)
        now_ms: int = yield ServerTime()  # after the first reply, before which a session knows this machine's time only
        no_run = why_no_run(known, since_ms=since_ms, until_ms=until_ms, now_ms=now_ms, visibility_ms=visibility_ms)
        if not (run or no_run or selector.missing):
            return RunObservation(known, selector)
    dataflow = yield from calls.get_dataflow(dataflow_id)
    selector = select(dataflow)
    since_ms, until_ms = selector.since_ms, selector.until_ms
    if selector.missing:
        run = (yield from find_run(dataflow_id, since_ms=since_ms, until_ms=until_ms)) if until_ms else None
        return RunObservation(dataflow, selector, run, None if run else NoRun(selector.missing, is_slot=True))
    now_ms = yield ServerTime()  # before the runs are read, so that none is overlooked between the two
    run = yield from find_run(dataflow_id, since_ms=since_ms, until_ms=until_ms)
    if run:
        return RunObservation(dataflow, selector, run)
    no_run = why_no_run(dataflow, since_ms=since_ms, until_ms=until_ms, now_ms=now_ms, visibility_ms=visibility_ms)
    once = one_time_selector(dataflow.schedule)
    if no_run is None and once and once.since_ms < since_ms:
        earlier = yield from find_run(dataflow_id, until_ms=since_ms)
        if earlier:
            why = f"it exports once, and did so with flow run {earlier.id}, created at {when(earlier.created_ms)}"
            no_run = NoRun(
                f"{why}: give each export a name of its own, such as name='… {{{{ run_id }}}}'", is_slot=False
            )
    return RunObservation(dataflow, selector, no_run=no_run)


def retry_refusals(look: Callable[[], Procedure[T]]) -> Procedure[T]:
    """Look, and twice more if Adobe refuses, as the poller does: a single refusal may be a gateway's fluke.

    Raises:
        RequestRefused: the third time, or at once if it is about the entity itself (404).
    """
    for seconds in REFUSAL_PAUSES:
        try:
            return (yield from look())
        except EntityNotFound:
            raise
        except RequestRefused as refusal:
            log.info("%s; asking again in %.0f s", refusal, seconds)
            yield Sleep(seconds)
    return (yield from look())


def seen_text(dataflow_id: str, after_ms: int, until_ms: int | None, run: FlowRun | None) -> str:
    """For whoever is woken by a time-out: what was last seen, and where to look next."""
    if run:
        status = f"status {run.raw_status!r}" if run.raw_status else "no status"
        return (
            f"flow run {run.id} of dataflow {dataflow_id} was last seen with {status}; clearing the task waits for it "
            "again, a higher `timeout` waits longer"
        )
    return (
        f"there is no {run_text(dataflow_id, after_ms, until_ms)}; look in Adobe whether the dataflow is enabled "
        "and its schedule has begun and not ended"
    )


def state_line(run: FlowRun) -> tuple[int, str]:
    """For a log: level and text of a change of a run; a bad end, or an unknown status, is a warning."""
    if run.has_ended:
        return logging.INFO if run.outcome in ("success", "empty") else logging.WARNING, ended_text(run)
    if is_known_status(run.raw_status):
        return logging.INFO, f"flow run {run.id} of dataflow {run.dataflow_id}: {run.raw_status or 'no status yet'}"
    return logging.WARNING, f"flow run {run.id} has a status that Adobe does not document: {run.raw_status!r}"


def ended_text(run: FlowRun) -> str:
    """For a log: the end of a run, with the figures and the errors that Adobe gives."""
    figures = {
        "records": run.output_records,
        "bytes": run.output_bytes,
        "files": run.output_files,
        "seconds": (run.completed_ms - run.created_ms) // 1000 if run.completed_ms else None,
    }
    shown = ", ".join(f"{number} {what}" for what, number in figures.items() if number is not None)
    text = f"flow run {run.id} of dataflow {run.dataflow_id} has ended: {run.outcome}"
    text = f"{text} ({shown})" if shown else text
    return f"{text}: {run.problems}" if run.problems else text


def run_text(dataflow_id: str, after_ms: int, until_ms: int | None) -> str:
    """For a log: which run is waited for, as long as its ID is not known."""
    text = f"run of dataflow {dataflow_id}"
    if after_ms:
        text += f" created at or after {when(after_ms)}"
    return text + (f" and before {when(until_ms)}" if until_ms else "")
