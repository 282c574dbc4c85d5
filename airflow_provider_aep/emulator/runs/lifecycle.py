"""Dataflow runs: they start when a schedule falls due, take their time, write their files and end."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from airflow_provider_aep.emulator.clock import Timer, Timers
from airflow_provider_aep.emulator.flow_service.datasets import DATASETS, Lake
from airflow_provider_aep.emulator.flow_service.filters import Document
from airflow_provider_aep.emulator.flow_service.specs import CONNECTION_SPECS, FLOW_SPECS, FULL
from airflow_provider_aep.emulator.flow_service.store import Sandbox, Store
from airflow_provider_aep.emulator.flow_service.validation import TEMPLATES
from airflow_provider_aep.emulator.options import Options
from airflow_provider_aep.emulator.runs import metrics
from airflow_provider_aep.emulator.runs.files import Written, write_export, write_manifest
from airflow_provider_aep.emulator.runs.records import FlowPlan, RunPlan, Script

_UNIT_SECONDS = {"hour": 3600, "day": 86_400}

# When a run that takes its whole time does what; the rest of its time it works on silently.
_STARTED, _REPORTED = 0.2, 0.6


class Runs:
    """All runs of the platform, past, present and due."""

    def __init__(
        self, store: Store, timers: Timers, lake: Lake, options: Options, root: Path | None, seed: int
    ) -> None:
        self.flow_plans: dict[str, FlowPlan] = {}
        self.run_plans: dict[str, RunPlan] = {}
        self.written: deque[tuple[str, str, str, int, int]] = deque(maxlen=100_000)
        """The files of all runs: run ID, dataset ID, path, rows, bytes."""
        self.any_flow: list[Script] = []
        """Scripts for the next runs of whichever dataflow."""
        self._ended: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {}
        # Runs whose work is done and whose record does not tell of it yet.
        self._store, self._timers, self._lake, self._options, self._root, self._seed = (
            store,
            timers,
            lake,
            options,
            root,
            seed,
        )

    # -- schedule ---------------------------------------------------------------------------------------------

    def plan(self, flow: Document, now: float, *, created: bool = False) -> None:
        """Work out when a dataflow runs next, after it was made or its schedule changed.

        A start that is already past when the dataflow is made means: at once, then in the rhythm of that start.
        """
        plan = self.flow_plans.setdefault(flow["id"], FlowPlan(flow["id"], flow["sandboxName"]))
        plan.generation += 1
        given = flow.get("scheduleParams")
        if not FLOW_SPECS[flow["flowSpec"]["id"]].datasets or not given:
            return
        slot = now if created and given["startTime"] <= now else _next_slot(given, now)
        self._schedule(plan, given, slot)

    def forget(self, flow_id: str) -> None:
        """A dataflow was deleted: it fires no more; a run under way ends as it would have."""
        self.flow_plans.pop(flow_id, None)

    def _schedule(self, plan: FlowPlan, given: dict[str, Any], slot: float | None) -> None:
        if slot is None or slot > given["endTime"]:
            return
        first = self._options.first_run_seconds if plan.runs == 0 else 0
        due = slot + self._options.run_start_seconds + first
        self._timers.at(due, f"slot {slot}", plan.flow_id, plan.generation)

    def fire(self, timer: Timer) -> bool:
        """Do what is due, if it is about a run: a slot of a schedule, or a step of a run under way."""
        step, _, argument = timer.step.partition(" ")
        if step == "slot":
            self._slot(timer, float(argument))
            return True
        work = {"start": self._start, "report": self._report, "finish": self._finish, "tell": self._tell}.get(step)
        plan = self.run_plans.get(timer.key)
        if work is not None and plan is not None:
            work(plan, timer.due)
        return work is not None

    def _slot(self, timer: Timer, slot: float) -> None:
        plan = self.flow_plans.get(timer.key)
        if plan is None or plan.generation != timer.generation:
            return
        flow = self._sandbox(plan.sandbox).collections["flows"].get(plan.flow_id)
        if flow["state"] == "enabled":  # a slot that passes while the dataflow is disabled is skipped
            self.create(flow, timer.due, slot_ms=int(slot * 1000))
        self._schedule(plan, flow["scheduleParams"], _next_slot(flow["scheduleParams"], slot))

    # -- one run ----------------------------------------------------------------------------------------------

    def create(
        self, flow: Document, now: float, *, slot_ms: int | None = None, dataset_ids: Sequence[str] | None = None
    ) -> Document:
        """Make a run of a dataflow: all of its datasets, or the given ones."""
        sandbox = self._sandbox(flow["sandboxName"])
        plan = self.flow_plans[flow["id"]]
        source = sandbox.collections["sourceConnections"].get(flow["sourceConnectionIds"][0])
        target = sandbox.collections["targetConnections"].get(flow["targetConnectionIds"][0])
        base = sandbox.collections["connections"].items.get(target["baseConnectionId"], {})
        schedule = flow.get("scheduleParams") or {}
        spec = CONNECTION_SPECS[target["connectionSpec"]["id"]]
        scripts = plan.scripts or self.any_flow
        ids = [one["dataSetId"] for one in source.get("params", {}).get("datasets", [])]
        run = self._record(flow, now)
        self.run_plans[run["id"]] = RunPlan(
            run_id=run["id"],
            flow_id=flow["id"],
            sandbox=sandbox.name,
            slot_ms=int(now * 1000) if slot_ms is None else slot_ms,
            dataset_ids=ids if dataset_ids is None else [one for one in ids if one in dataset_ids],
            source_id=source["id"],
            target_id=target["id"],
            storage=spec.storage,
            params=dict(target["params"]),
            login=dict((base.get("auth") or {}).get("params", {})),
            names={
                "destination": spec.name,
                "destination_instance_id": flow["id"],
                "destination_instance_name": flow["name"],
                "sandbox_name": sandbox.name,
                "organization_name": self._options.org_id.split("@")[0],
            },
            template=next((schedule[name] for name in TEMPLATES if schedule.get(name)), None),
            full=schedule.get("exportMode") == FULL,
            started_ms=int(now * 1000),
            script=scripts.pop(0) if scripts else Script(),
        )
        plan.runs += 1
        seconds = self.run_plans[run["id"]].script.seconds
        seconds = self._options.run_seconds if seconds is None else seconds
        self._timers.at(now + seconds * _STARTED, "start", run["id"])
        self._timers.at(now + seconds * _REPORTED, "report", run["id"])
        self._timers.at(now + seconds, "finish", run["id"])
        return run

    def add_history(self, flow: Document, count: int, every_seconds: float, now: float) -> None:
        """Finished runs of the past that exported nothing, oldest first, `every_seconds` apart."""
        source_id, target_id = flow["sourceConnectionIds"][0], flow["targetConnectionIds"][0]
        for number in range(count, 0, -1):
            ended = now - number * every_seconds
            run = self._record(flow, ended - 1)
            run["metrics"], run["activities"] = metrics.succeeded(
                int(ended * 1000) - 1000, int(ended * 1000), source_id, target_id, [], [], self._word("success")
            )
            run["updatedAt"] = int(ended * 1000)

    def _record(self, flow: Document, now: float) -> Document:
        sandbox = self._sandbox(flow["sandboxName"])
        now_ms = int(now * 1000)
        run = {
            "id": self._store.new_id(),
            "createdAt": now_ms,
            "updatedAt": now_ms,
            **{name: flow[name] for name in ("createdBy", "updatedBy", "createdClient", "updatedClient")},
            **{name: flow[name] for name in ("sandboxId", "sandboxName", "imsOrgId")},
            "flowId": flow["id"],
            "flowSpec": dict(flow["flowSpec"]),
            "providerRefId": self._store.new_id().replace("-", ""),
            "etag": self._store.new_etag(now),
            "metrics": {},
            "activities": [],
        }
        delay = self._options.list_delay
        sandbox.collections["runs"].add(run, self._store.visible_now() + delay if delay else None)
        return run

    def _start(self, plan: RunPlan, now: float) -> None:
        plan.started_ms = int(now * 1000)
        self._update(plan, now, metrics.in_progress(plan.started_ms, None))

    def _report(self, plan: RunPlan, now: float) -> None:
        self._update(plan, now, metrics.in_progress(plan.started_ms, self._word("processing")))

    def _finish(self, plan: RunPlan, now: float) -> None:
        """The work ends and its files are there; the record tells of it a little later."""
        ended_ms = int(now * 1000)
        script = plan.script
        errors = script.errors
        results = None
        if script.outcome != "failed":
            try:
                results = self._export(plan)
            # A storage that cannot be written to, or added rows that fit in no schema.
            except (ImportError, OSError, ValueError, TypeError, OverflowError, NotImplementedError) as problem:
                errors = [{**metrics.ABORTED, "message": f"Job aborted. {problem}"}]
        if results is None:
            word = script.status or self._word("failed")
            found, activities = metrics.failed(
                plan.started_ms, ended_ms, plan.source_id, plan.dataset_ids, errors, word
            )
        else:
            errors = errors or ([metrics.PARTLY] if script.outcome == "partial" else [])
            word = script.status or self._word("success")
            found, activities = metrics.succeeded(
                plan.started_ms, ended_ms, plan.source_id, plan.target_id, results, errors, word
            )
        self._ended[plan.run_id] = (found, activities)
        self._timers.at(now + self._options.late_seconds, "tell", plan.run_id)

    def _tell(self, plan: RunPlan, now: float) -> None:
        found, activities = self._ended.pop(plan.run_id)
        self._update(plan, now, found, activities)
        del self.run_plans[plan.run_id]
        flow = self._sandbox(plan.sandbox).collections["flows"].items.get(plan.flow_id)
        if flow is None:
            return
        duration = found["durationSummary"]
        flow["lastRunDetails"] = {
            "id": plan.run_id,
            "state": "failed" if "recordSummary" in found and "sizeSummary" not in found else "success",
            "startedAtUTC": duration["startedAtUTC"],
            "completedAtUTC": duration["completedAtUTC"],
        }
        # In Adobe's example the etag of a dataflow is newer than its last run and its `updatedAt` much older: the
        # service writes the end of a run into it. So an etag ages without any user.
        flow["etag"] = flow["version"] = self._store.new_etag(now)
        self._sandbox(plan.sandbox).collections["flows"].changed()

    def _update(
        self, plan: RunPlan, now: float, found: dict[str, Any], activities: list[dict[str, Any]] | None = None
    ) -> None:
        runs = self._sandbox(plan.sandbox).collections["runs"]
        run = runs.get(plan.run_id)
        run["metrics"] = found
        run["updatedAt"] = int(now * 1000)
        run["etag"] = self._store.new_etag(now)
        if activities is not None:
            run["activities"] = activities
        runs.changed()

    def _export(self, plan: RunPlan) -> list[metrics.DatasetResult]:
        flow_plan = self.flow_plans.get(plan.flow_id) or FlowPlan(plan.flow_id, plan.sandbox)
        results, exports = [], []
        losing = plan.script.failed_records if plan.script.outcome == "partial" else 0
        for dataset_id in plan.dataset_ids:
            after_ms = None if plan.full else flow_plan.exported_until_ms.get(dataset_id)
            rows = self._rows(plan, dataset_id, after_ms)
            kept = rows[: len(rows) - min(losing, len(rows))]
            losing -= len(rows) - len(kept)
            export = self._write(plan, dataset_id, kept)
            exports.append(export)
            flow_plan.exported_until_ms[dataset_id] = plan.slot_ms
            size = sum(file.bytes for file in export.files)
            results.append(metrics.DatasetResult(dataset_id, len(rows), len(kept), len(export.files), size))
            for file in export.files:
                self.written.append((plan.run_id, dataset_id, str(file.path), file.rows, file.bytes))
        if plan.params.get("includeFileManifest") and self._root is not None:
            write_manifest(exports, destination_id=plan.flow_id, run_id=plan.run_id, scheduled_time_ms=plan.slot_ms)
        return results

    def _rows(self, plan: RunPlan, dataset_id: str, after_ms: int | None) -> Sequence[Any]:
        """The rows of an export, or, where none are written, as many stand-ins."""
        if plan.script.outcome == "empty":
            return ()
        if self._root is None:
            return range(self._lake.exported_count(dataset_id, after_ms, plan.slot_ms))
        return list(self._lake.rows(dataset_id, after_ms, plan.slot_ms))

    def _write(self, plan: RunPlan, dataset_id: str, rows: Sequence[Any]) -> Written:
        if self._root is None:
            return Written(Path(), (), "")
        return write_export(
            root=self._root,
            destination=plan.storage,
            target_params=plan.params,
            base_auth_params=plan.login,
            dataset=DATASETS[dataset_id],
            rows=rows,
            export_time_ms=plan.slot_ms,
            folder_template=plan.template,
            names=plan.names,
            flow_id=plan.flow_id,
            run_id=plan.run_id,
            seed=self._seed,
        )

    def _word(self, status: str) -> str:
        return status.title() if self._options.status_case == "title" else status

    def _sandbox(self, name: str) -> Sandbox:
        return self._store.sandboxes[name]

    # -- state ------------------------------------------------------------------------------------------------

    def dump(self) -> dict[str, Any]:
        return {
            "flow_plans": [asdict(plan) for plan in self.flow_plans.values()],
            "run_plans": [asdict(plan) for plan in self.run_plans.values()],
            "ended": {key: list(value) for key, value in self._ended.items()},
            "any_flow": [asdict(script) for script in self.any_flow],
            "written": [list(one) for one in self.written],
        }

    def load(self, state: dict[str, Any]) -> None:
        for one in state["flow_plans"]:
            plan = FlowPlan(**{**one, "scripts": [Script(**script) for script in one["scripts"]]})
            self.flow_plans[plan.flow_id] = plan
        for one in state["run_plans"]:
            run = RunPlan(**{**one, "script": Script(**one["script"])})
            self.run_plans[run.run_id] = run
        self._ended.update({key: (value[0], value[1]) for key, value in state["ended"].items()})
        self.any_flow = [Script(**one) for one in state["any_flow"]]
        self.written.extend(tuple(one) for one in state["written"])


def _next_slot(given: dict[str, Any], after: float) -> float | None:
    """The first slot of a schedule later than `after` (seconds since 1970 UTC); None when there is none."""
    start = float(given["startTime"])
    if start > after:
        return start
    unit = given.get("timeUnit", given.get("frequency"))
    step = (given.get("interval") or 0) * _UNIT_SECONDS.get(str(unit), 0)
    if not step:
        return None
    return start + (int((after - start) // step) + 1) * step
