"""Run a dataflow now, outside its schedule, and wait for its flow run if asked to."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException, conf

from airflow_provider_aep.arguments import (
    check_dataset_ids,
    check_decisions,
    check_entity_id,
    dataset_ids,
    entity_id,
    moment_ms,
    seconds,
)
from airflow_provider_aep.errors import NotReady
from airflow_provider_aep.links import AepDataflowLink, AepDataflowRunLink
from airflow_provider_aep.run_wait import (
    LookAgain,
    RunWait,
    WaitTimeout,
    backstop,
    deadline_after,
    deadline_of,
    read_event,
)
from airflow_provider_aep.tasks import AepWaitingOperator, fail_without_retry

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import timedelta

    from airflow.sdk import Context

    from airflow_provider_aep.api.entities import FlowRun
    from airflow_provider_aep.arguments import Datasets, Decision
    from airflow_provider_aep.destinations import Text

__all__ = ["AepRunDataflowOperator"]

#: From the best to the worst.
_STATUSES = ("empty", "success", "partial", "unknown", "failed")


class AepRunDataflowOperator(AepWaitingOperator):
    """Runs a dataflow now, outside its schedule: all of its datasets, or some; then waits, with `wait_for_completion`.

    Decide with open eyes: this rests on a call that is **outside Adobe's published reference**, which has ad hoc runs
    for audiences only. Adobe's own client uses it (https://github.com/adobe/aepp), but Adobe may change it unannounced,
    and must have allow-listed your storage for it. The `Accept` header can be changed: extra `adhoc_accept` of the
    connection, or `[aep] adhoc_accept`.

    If the dataflow is less than about ten minutes old, Adobe is not ready to run it; the task waits. If it is running
    already, Adobe starts no other run: the task returns, or waits for, that one, which may be of other datasets.

    A later try of the task finds the run that an earlier one has started: on Airflow 3.3 by what that one has noted
    before it asked; on earlier versions only while the run is under way. A task that has ended and is cleared starts
    another run.

    :param dataflow_id: the dataflow, which must be enabled (templated)
    :param dataset_ids: an ID, several, what `AepListDatasetsOperator` returns, or one item of that; default: all that
        the dataflow exports (templated)
    :param wait_for_completion: wait until the run has ended
    :param on_failed: what a failed run does to the task: "fail" (default), "succeed" or "skip"
    :param on_partial: the same for a success with errors or failed records; default "fail"
    :param on_empty: the same for a success without any record; default "succeed"
    :param deferrable: wait in the triggerer, for Adobe to be ready too; default `[operators] default_deferrable`
    :param poke_interval: the longest time between two polls; a timedelta or a number of seconds
    :param timeout: a timedelta or a number of seconds until the wait fails, for Adobe to be ready too; Airflow retries
        it then
    :param aep_conn_id: Airflow connection of type `aep` (templated)
    :param sandbox_name: instead of the connection's (templated)

    Returns {"run_id", "run_ids", "dataflow_id", "dataset_ids", "is_new"}, each also pushed to XCom under its own key
    as soon as it is known. "is_new" tells whether Adobe made the run for this task; False: it was there already. Adobe
    may make a run for each dataset: "run_ids" has them all, "run_id" the first. With `wait_for_completion` also what
    `AepDataflowRunSensor` returns, for all runs together: figures add up, times span them, the worst status counts.

    Raises:
        InvalidArgument: an argument cannot be right, the dataflow is disabled, or does not export these datasets.
        AirflowFailException: Adobe refuses, or the run has ended as it should not. A retry cannot help.
        AepError: an outage, or a time-out; a retry is safe.

    Source: aepp, `createAdHocDatasetExport` in https://github.com/adobe/aepp.
    """

    template_fields: Sequence[str] = ("aep_conn_id", "sandbox_name", "dataflow_id", "dataset_ids", "options")
    shown_options = ("wait_for_completion", "on_failed", "on_partial", "on_empty")
    operator_extra_links = (AepDataflowLink(), AepDataflowRunLink())
    # What `RunWait` asks of a task: the run is known by its ID, so that none is missing and no slot matters.
    after = None
    on_missing = "fail"
    what_next = "clearing this task starts another run"

    def __init__(
        self,
        *,
        dataflow_id: Text,
        dataset_ids: Datasets | None = None,
        wait_for_completion: bool = False,
        on_failed: Decision = "fail",
        on_partial: Decision = "fail",
        on_empty: Decision = "succeed",
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        poke_interval: timedelta | float = 60,
        timeout: timedelta | float = 86_400,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("multiple_outputs", True)
        super().__init__(**kwargs)
        self.dataflow_id = dataflow_id
        self.dataset_ids = dataset_ids
        self.wait_for_completion = wait_for_completion
        self.on_failed = on_failed
        self.on_partial = on_partial
        self.on_empty = on_empty
        self.deferrable = deferrable
        with fail_without_retry():
            self.poke_interval = seconds("poke_interval", poke_interval)
            self.timeout = seconds("timeout", timeout)
        self._check()

    def check_arguments(self) -> None:
        super().check_arguments()
        check_entity_id("dataflow_id", self.dataflow_id)
        if self.dataset_ids is not None:
            check_dataset_ids(self.dataset_ids)
        check_decisions(on_failed=self.on_failed, on_partial=self.on_partial, on_empty=self.on_empty)

    def execute(self, context: Context) -> Any:
        with _Memory(self, context).until_the_end():
            return super().execute(context)

    def work(self, context: Context) -> dict[str, Any]:
        return self._run_until(context, deadline_after(self.timeout, self.execution_timeout))

    def _run_until(self, context: Context, deadline: float) -> dict[str, Any]:
        memory = _Memory(self, context)
        while True:
            try:
                result = self._started(context, memory)
                break
            except NotReady as early:
                memory.forget()  # nothing was started
                if time.time() >= deadline:
                    raise WaitTimeout(f"the wait has timed out: {early}") from early
                pause = early.retry_after_seconds or self.poke_interval
                self.log.info("Adobe is not ready to run the dataflow; asking again in %.0f s: %s", pause, early)
                self._pause_until(min(deadline, time.time() + pause), deadline)
        if not self.wait_for_completion:
            return result
        if self.do_xcom_push:
            # Push before the wait, so that links, monitors and later tasks need not wait for its end.
            for name, value in result.items():
                context["ti"].xcom_push(key=name, value=value)
        return self._wait_for_runs(context, result, deadline)

    def _pause_until(self, moment: float, deadline: float) -> None:
        """Wait for Adobe to be ready: on the worker, or deferred."""
        if not self.deferrable:
            self.sleep_until(moment)
            return
        from airflow_provider_aep.triggers import AepDataflowRunTrigger

        trigger = AepDataflowRunTrigger(
            aep_conn_id=self.aep_conn_id,
            sandbox_name=self.sandbox_name,
            dataflow_id=entity_id("dataflow_id", self.dataflow_id),
            deadline=deadline,
            look_at=moment,
        )
        self.defer(trigger=trigger, method_name="execute_complete", timeout=backstop(deadline))

    def _started(self, context: Context, memory: _Memory) -> dict[str, Any]:
        """The runs that an earlier try has started, or those that this one starts, as the task returns them."""
        from airflow_provider_aep.api.entities import DataflowId
        from airflow_provider_aep.api.runs.adhoc import StartedRuns, plan_run, runs_since, runs_under_way, start_run

        noted = memory.recall()
        if "run_ids" in noted:
            self.log.info("an earlier try has started or found flow run %s", ", ".join(noted["run_ids"]))
            self.show_links(context, noted["dataflow_id"], noted["run_id"])
            return noted
        dataflow_id = DataflowId(entity_id("dataflow_id", self.dataflow_id))
        wanted = () if self.dataset_ids is None else dataset_ids(self.dataset_ids)
        settings = self.hook().settings()
        self.show_links(context, dataflow_id, settings=settings)
        plan = self.perform(plan_run(dataflow_id, wanted))
        runs = StartedRuns((), is_new=bool(noted))
        if noted:
            earlier = plan._replace(since_ms=noted["since_ms"])
            left = settings.visibility_seconds - (plan.since_ms - earlier.since_ms) / 1000
            runs = runs._replace(run_ids=self.perform(runs_since(earlier, seconds=max(left, 0))))
        elif not memory.lasts and context["ti"].try_number > 1:
            dag_run = context["dag_run"]
            since_ms = moment_ms("dag_run", getattr(dag_run, "start_date", None) or dag_run.run_after)
            under_way = self.perform(runs_under_way(dataflow_id, since_ms=since_ms))
            runs = runs._replace(run_ids=tuple(run.id for run in under_way))
        if runs.run_ids:
            self.log.info("an earlier try has started flow run %s", ", ".join(runs.run_ids))
        else:
            memory.note(since_ms=plan.since_ms)
            start = start_run(plan, accept=settings.adhoc_accept, visibility_seconds=settings.visibility_seconds)
            runs = self.perform(start)
        result = {
            "run_id": runs.run_ids[0],
            "run_ids": list(runs.run_ids),
            "dataflow_id": plan.dataflow.id,
            "dataset_ids": list(plan.dataset_ids),
            "is_new": runs.is_new,
        }
        memory.note(**result)
        self.show_links(context, result["dataflow_id"], result["run_id"], settings=settings)
        return result

    def _wait_for_runs(
        self, context: Context, result: dict[str, Any], deadline: float, ended: FlowRun | None = None
    ) -> dict[str, Any]:
        """Wait for one run after the other; `ended` is one of which the trigger has told."""
        summaries = []
        for run_id in result["run_ids"]:
            wait = RunWait(self, result["dataflow_id"], run_id, context=context)
            is_told = ended is not None and ended.id == run_id
            run = ended if ended and is_told else self.ended_run(wait, deadline=deadline, carry=result)
            summaries.append(wait.finish(run))
        return {**_together(summaries), **result}

    def execute_complete(self, context: Context, event: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Decide by the trigger's event what a wait on the worker would have decided."""
        with _Memory(self, context).until_the_end(), fail_without_retry():
            result = (event or {}).get("carry")
            ended = None
            try:
                ended = read_event(event)
            except LookAgain as again:
                self.log.info("going on: %s", again)
            deadline = deadline_of(event, self)
            if result is None:
                return self._run_until(context, deadline)
            return self._wait_for_runs(context, result, deadline, ended)


class _Memory:
    """What a try notes for later ones in Airflow's task state store (3.3 and later), until the task has ended.

    {"since_ms": Adobe's time before it asked for a run}; once Adobe has answered, what the task returns.
    """

    def __init__(self, task: AepRunDataflowOperator, context: Context) -> None:
        self._store: Any = context.get("task_state_store")
        self._key = f"aep_run_now_{task.dataflow_id}"

    @property
    def lasts(self) -> bool:
        return self._store is not None

    def note(self, **noted: Any) -> None:
        if self._store is not None:
            self._store.set(self._key, json.dumps(noted))

    def recall(self) -> dict[str, Any]:
        found = None if self._store is None else self._store.get(self._key)
        return json.loads(found) if isinstance(found, str) else {}

    def forget(self) -> None:
        if self._store is not None:
            self._store.delete(self._key)

    @contextmanager
    def until_the_end(self) -> Iterator[None]:
        """Forget everything if the task ends here for good, so that it starts another run when it is cleared."""
        try:
            yield
        except (AirflowFailException, AirflowSkipException):
            self.forget()
            raise
        self.forget()


def _together(summaries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One flat dict for several runs; a figure or time that one of them lacks is None."""
    together = dict(summaries[0])
    for name in together:
        values = [summary[name] for summary in summaries]
        if name == "status":
            together[name] = max(values, key=_STATUSES.index)
        elif name.endswith("_at"):
            together[name] = None if None in values else max(values) if name == "completed_at" else min(values)
        elif isinstance(values[0], int):
            together[name] = None if None in values else sum(values)
    return together
