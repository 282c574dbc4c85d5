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
from airflow_provider_aep.emulator.flow_service.specs import CONNECTION_SPECS, FULL
from airflow_provider_aep.emulator.flow_service.store import Sandbox, Store
from airflow_provider_aep.emulator.flow_service.validation import TEMPLATES
from airflow_provider_aep.emulator.options import Options
from airflow_provider_aep.emulator.runs import metrics
from airflow_provider_aep.emulator.runs.files import Written, write_export, write_manifest
from airflow_provider_aep.emulator.runs.records import ActiveRun, FlowProgress, Script

_UNIT_SECONDS = {"hour": 3600, "day": 86_400}

# The shares of its duration after which a run shows its start, and after which it shows a status.
_STARTED, _REPORTED = 0.2, 0.6


class Runs:
    """All runs of the platform: past, under way and due. Without `root` they count rows and write no files."""

    def __init__(
        self, store: Store, timers: Timers, lake: Lake, options: Options, root: Path | None, seed: int
    ) -> None:
        self.flows: dict[str, FlowProgress] = {}
        self.active: dict[str, ActiveRun] = {}
        self.written: deque[dict[str, Any]] = deque(maxlen=100_000)
        """The files of all runs: run_id, dataset_id, path, rows, bytes."""
        self.scripts: list[Script] = []
        """For the next runs of any dataflow."""
        self.revoked: set[str] = set()
        """Base connections whose login the storage takes no more."""
        self._ended: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {}
        """Metrics and activities of runs that have ended and whose entity does not show it yet."""
        self._store, self._timers, self._lake = store, timers, lake
        self._options, self._root, self._seed = options, root, seed

    # -- schedule ---------------------------------------------------------------------------------------------

    def plan(self, flow: Document, now: float, *, created: bool = False) -> None:
        """Set the timer of the next run, after the dataflow was created or its schedule changed.

        A start that is past when the dataflow is created means: now, then in the rhythm of that start.
        """
        progress = self.flows.setdefault(flow["id"], FlowProgress(flow["id"], flow["sandboxName"]))
        progress.generation += 1
        schedule = flow.get("scheduleParams")
        if schedule:
            at_once = created and schedule["startTime"] <= now
            self._plan_slot(progress, schedule, now if at_once else _next_slot(schedule, now))

    def forget(self, flow_id: str) -> None:
        """Start no more runs of a deleted dataflow; one under way ends as it would have."""
        self.flows.pop(flow_id, None)

    def accept_login(self, connection_id: str) -> None:
        """A base connection was given its login anew, and the storage takes it."""
        self.revoked.discard(connection_id)

    def _plan_slot(self, progress: FlowProgress, schedule: dict[str, Any], slot: float | None) -> None:
        if slot is None or slot >= schedule["endTime"]:  # the dataflow stays enabled: Adobe documents no other state
            return
        first = self._options.first_run_seconds if progress.runs == 0 else 0
        due = slot + self._options.run_start_seconds + first
        self._timers.at(due, f"slot {slot}", progress.flow_id, progress.generation)

    def fire(self, timer: Timer) -> bool:
        """Do what is due, if it is about a run: a slot of a schedule, or a step of a run under way."""
        step, _, slot = timer.step.partition(" ")
        if step == "slot":
            self._start_slot(timer, float(slot))
            return True
        work = {"start": self._start, "report": self._report, "finish": self._finish, "publish": self._publish}
        if step not in work:
            return False
        if timer.key in self.active:  # one that was stuck may have been ended before it showed its start
            work[step](self.active[timer.key], timer.due)
        return True

    def _start_slot(self, timer: Timer, slot: float) -> None:
        progress = self.flows.get(timer.key)
        if progress is None or progress.generation != timer.generation:
            return
        flow = self._sandbox(progress.sandbox).collections["flows"].get(progress.flow_id)
        if progress.skip:
            progress.skip -= 1
        elif flow["state"] == "enabled":  # a slot that passes while the dataflow is disabled is skipped
            self.create(flow, timer.due, slot_ms=int(slot * 1000))
        self._plan_slot(progress, flow["scheduleParams"], _next_slot(flow["scheduleParams"], slot))

    # -- one run ----------------------------------------------------------------------------------------------

    def create(
        self, flow: Document, now: float, *, slot_ms: int | None = None, dataset_ids: Sequence[str] | None = None
    ) -> Document:
        """Start a run of a dataflow: of all its datasets, or of the given ones."""
        sandbox = self._sandbox(flow["sandboxName"])
        progress = self.flows[flow["id"]]
        source = sandbox.collections["sourceConnections"].get(flow["sourceConnectionIds"][0])
        target = sandbox.collections["targetConnections"].get(flow["targetConnectionIds"][0])
        base = sandbox.collections["connections"].items.get(target["baseConnectionId"], {})
        schedule = flow.get("scheduleParams") or {}
        spec = CONNECTION_SPECS[target["connectionSpec"]["id"]]
        scripts = progress.scripts or self.scripts
        ids = [one["dataSetId"] for one in source["params"]["datasets"]]
        entity = self._add_entity(flow, now)
        run = ActiveRun(
            run_id=entity["id"],
            flow_id=flow["id"],
            sandbox=sandbox.name,
            slot_ms=int(now * 1000) if slot_ms is None else slot_ms,
            dataset_ids=ids if dataset_ids is None else [one for one in ids if one in dataset_ids],
            source_id=source["id"],
            target_id=target["id"],
            base_id=target["baseConnectionId"],
            spec_id=spec.id,
            target=dict(target["params"]),
            login=dict((base.get("auth") or {}).get("params", {})),
            names={
                "DESTINATION": spec.name,
                "DESTINATION_NAME": spec.name,
                "DESTINATION_INSTANCE_ID": flow["id"],
                "DESTINATION_INSTANCE_NAME": flow["name"],
                "SANDBOX_NAME": sandbox.name,
                "ORGANIZATION_NAME": self._options.org_id.split("@")[0],
            },
            template=next((schedule[name] for name in TEMPLATES if schedule.get(name)), None),
            full=schedule.get("exportMode") == FULL,
            started_ms=int(now * 1000),
            script=scripts.pop(0) if scripts else Script(),
        )
        self.active[run.run_id] = run
        progress.runs += 1
        seconds = self._options.run_seconds if run.script.seconds is None else run.script.seconds
        for share, step in ((_STARTED, "start"), (_REPORTED, "report"), (1, "finish")):
            if step == "finish" and run.script.outcome == "stuck":
                continue
            self._timers.at(now + seconds * share, step, run.run_id)
        return entity

    def end(self, run_id: str, script: Script, now: float) -> None:
        """End a stuck run now, in the way of the script.

        Raises:
            KeyError: no run of that ID is under way.
            ValueError: it is not stuck, or would be again.
        """
        run = self.active[run_id]
        if run.script.outcome != "stuck" or script.outcome == "stuck":
            raise ValueError(f"outcome={script.outcome!r}: a run that is stuck ends in another way, and no other does")
        run.script = script
        self._timers.at(now, "finish", run_id)

    def add_history(self, flow: Document, count: int, every_seconds: float, now: float) -> None:
        """Add finished runs of the past that exported nothing, `every_seconds` apart, oldest first."""
        source_id, target_id = flow["sourceConnectionIds"][0], flow["targetConnectionIds"][0]
        for number in range(count, 0, -1):
            ended = now - number * every_seconds
            run = self._add_entity(flow, ended - 1)
            run["updatedAt"] = int(ended * 1000)
            run["metrics"], run["activities"] = metrics.succeeded(
                int(ended * 1000) - 1000, int(ended * 1000), source_id, target_id, [], [], self._cased("success")
            )

    def _add_entity(self, flow: Document, now: float) -> Document:
        now_ms = int(now * 1000)
        inherited = ("createdBy", "updatedBy", "createdClient", "updatedClient", "sandboxId", "sandboxName", "imsOrgId")
        run = {
            "id": self._store.new_id(),
            "createdAt": now_ms,
            "updatedAt": now_ms,
            **{name: flow[name] for name in inherited},
            "flowId": flow["id"],
            "flowSpec": dict(flow["flowSpec"]),
            "providerRefId": self._store.new_id().replace("-", ""),
            "etag": self._store.new_etag(now),
            "metrics": {},
            "activities": [],
        }
        visible_from = self._store.visible_from(self._options.list_delay)
        self._sandbox(flow["sandboxName"]).collections["runs"].add(run, visible_from)
        return run

    def _start(self, run: ActiveRun, now: float) -> None:
        run.started_ms = int(now * 1000)
        self._update(run, now, metrics.in_progress(run.started_ms, None))

    def _report(self, run: ActiveRun, now: float) -> None:
        self._update(run, now, metrics.in_progress(run.started_ms, self._cased("processing")))

    def _finish(self, run: ActiveRun, now: float) -> None:
        """End the run; its files are there, its entity shows that a little later."""
        script, errors, results = run.script, run.script.errors, None
        if run.base_id in self.revoked:
            errors = [{**metrics.ABORTED, "message": "Job aborted. The destination refused the credentials."}]
        elif script.outcome != "failed":
            try:
                results = self._export(run)
            # A storage that cannot be written to, or added rows that fit in no schema.
            except (ImportError, OSError, ValueError, TypeError, OverflowError, NotImplementedError) as problem:
                errors = [{**metrics.ABORTED, "message": f"Job aborted. {problem}"}]
        status = script.status or self._cased("failed" if results is None else "success")
        times = run.started_ms, int(now * 1000)
        if results is None:
            self._ended[run.run_id] = metrics.failed(*times, run.source_id, run.dataset_ids, errors, status)
        else:
            errors = errors or ([metrics.PARTLY] if script.outcome == "partial" else [])
            self._ended[run.run_id] = metrics.succeeded(*times, run.source_id, run.target_id, results, errors, status)
        late = self._options.late_seconds if script.late_seconds is None else script.late_seconds
        self._timers.at(now + late, "publish", run.run_id)

    def _publish(self, run: ActiveRun, now: float) -> None:
        """Show the end in the run's entity and in its dataflow's."""
        found, activities = self._ended.pop(run.run_id)
        self._update(run, now, found, activities)
        del self.active[run.run_id]
        flows = self._sandbox(run.sandbox).collections["flows"]
        flow = flows.items.get(run.flow_id)
        if flow is None:
            return
        flow["lastRunDetails"] = {
            "id": run.run_id,
            "state": "success" if "sizeSummary" in found else "failed",
            **found["durationSummary"],
        }
        # In Adobe's example the etag of a dataflow is newer than its last run and its `updatedAt` much older: the
        # service writes the end of a run into it. So an etag ages without any user.
        flow["etag"] = flow["version"] = self._store.new_etag(now)
        flows.changed()

    def _update(
        self, run: ActiveRun, now: float, found: dict[str, Any], activities: Sequence[dict[str, Any]] = ()
    ) -> None:
        runs = self._sandbox(run.sandbox).collections["runs"]
        changes = {"updatedAt": int(now * 1000), "etag": self._store.new_etag(now)}
        runs.get(run.run_id).update(metrics=found, activities=list(activities), **changes)
        runs.changed()

    def _export(self, run: ActiveRun) -> list[metrics.DatasetResult]:
        progress = self.flows.get(run.flow_id) or FlowProgress(run.flow_id, run.sandbox)
        results, exports = [], []
        losing = run.script.failed_records if run.script.outcome == "partial" else 0
        for dataset_id in run.dataset_ids:
            rows = self._rows(run, dataset_id, None if run.full else progress.exported_until_ms.get(dataset_id))
            kept = rows[: max(len(rows) - losing, 0)]
            losing -= len(rows) - len(kept)
            export = self._write(run, dataset_id, kept)
            exports.append(export)
            progress.exported_until_ms[dataset_id] = run.slot_ms
            size = sum(file.bytes for file in export.files)
            results.append(metrics.DatasetResult(dataset_id, len(rows), len(kept), len(export.files), size))
            for file in export.files:
                about = {"path": str(file.path), "rows": file.rows, "bytes": file.bytes}
                self.written.append({"run_id": run.run_id, "dataset_id": dataset_id, **about})
        if run.target.get("includeFileManifest"):
            write_manifest(exports, destination_id=run.flow_id, run_id=run.run_id, scheduled_time_ms=run.slot_ms)
        return results

    def _rows(self, run: ActiveRun, dataset_id: str, after_ms: int | None) -> Sequence[Any]:
        """The rows of an export, or, where none are written, as many numbers."""
        if run.script.outcome == "empty":
            return ()
        if self._root is None:
            return range(self._lake.exported_count(dataset_id, after_ms, run.slot_ms))
        return list(self._lake.rows(dataset_id, after_ms, run.slot_ms))

    def _write(self, run: ActiveRun, dataset_id: str, rows: Sequence[Any]) -> Written:
        if self._root is None:
            return Written(Path(), (), "")
        return write_export(
            root=self._root,
            spec=CONNECTION_SPECS[run.spec_id],
            target=run.target,
            login=run.login,
            dataset=DATASETS[dataset_id],
            rows=rows,
            export_time_ms=run.slot_ms,
            folder_template=run.template,
            names=run.names,
            run_id=run.run_id,
            seed=self._seed,
        )

    def _cased(self, status: str) -> str:
        return status.title() if self._options.status_case == "title" else status

    def _sandbox(self, name: str) -> Sandbox:
        return self._store.sandboxes[name]

    # -- persistence ------------------------------------------------------------------------------------------

    def dump(self) -> dict[str, Any]:
        return {
            "flows": [asdict(progress) for progress in self.flows.values()],
            "active": [asdict(run) for run in self.active.values()],
            "ended": {run_id: list(ended) for run_id, ended in self._ended.items()},
            "scripts": [asdict(script) for script in self.scripts],
            "revoked": sorted(self.revoked),
            "written": list(self.written),
        }

    def load(self, saved: dict[str, Any]) -> None:
        for one in saved["flows"]:
            scripts = [Script(**script) for script in one["scripts"]]
            self.flows[one["flow_id"]] = FlowProgress(**{**one, "scripts": scripts})
        for one in saved["active"]:
            self.active[one["run_id"]] = ActiveRun(**{**one, "script": Script(**one["script"])})
        self._ended.update({run_id: (ended[0], ended[1]) for run_id, ended in saved["ended"].items()})
        self.scripts = [Script(**one) for one in saved["scripts"]]
        self.revoked.update(saved["revoked"])
        self.written.extend(saved["written"])


def _next_slot(schedule: dict[str, Any], after: float) -> float | None:
    """The first slot of a schedule later than `after` (seconds since 1970 UTC); None when there is none."""
    start = float(schedule["startTime"])
    if start > after:
        return start
    unit = schedule.get("timeUnit", schedule.get("frequency"))
    step = (schedule.get("interval") or 0) * _UNIT_SECONDS.get(str(unit), 0)
    if not step:
        return None
    return start + (int((after - start) // step) + 1) * step
