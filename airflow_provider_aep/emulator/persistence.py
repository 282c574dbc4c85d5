"""The state file: everything that a restart must keep, as one JSON document."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from airflow_provider_aep.emulator.clock import Clock, Timers
from airflow_provider_aep.emulator.flow_service.datasets import Lake
from airflow_provider_aep.emulator.flow_service.store import Creation, Store
from airflow_provider_aep.emulator.runs.lifecycle import Runs

_FORMAT = 3


@dataclass(frozen=True)
class StateFile:
    """The file, and the parts of a platform that it keeps."""

    path: Path
    clock: Clock
    timers: Timers
    store: Store
    runs: Runs
    lake: Lake

    def save(self) -> None:
        """Write beside the file and rename, so that neither a reader nor a crash meets half of it."""
        document: dict[str, Any] = {
            "format": _FORMAT,
            "now": self.clock.now(),
            "timers": self.timers.dump(),
            "serial": self.store.serial,
            "sandboxes": {
                name: {collection: list(entities) for collection, entities in sandbox.collections.items()}
                for name, sandbox in self.store.sandboxes.items()
            },
            "creations": [asdict(one) for one in self.store.creations],
            "runs": self.runs.dump(),
            "lake": {"start_ms": self.lake.start_ms, "added": self.lake.added},
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        half = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        half.write_text(json.dumps(document))
        os.replace(half, self.path)

    def load(self) -> None:
        """Restore new parts to what `save` wrote; without a file do nothing.

        Raises:
            ValueError: the file is not a state file of this version.
        """
        if not self.path.exists():
            return
        try:
            document = json.loads(self.path.read_text())
        except ValueError as problem:
            raise ValueError(f"state={str(self.path)!r}: it is not JSON: {problem}") from None
        if not isinstance(document, dict) or document.get("format") != _FORMAT:
            raise ValueError(f"state={str(self.path)!r}: it was not written by this version of the emulator")
        self.clock.move_to(document["now"])
        self.timers.load(document["timers"])
        self.store.serial = document["serial"]
        for name, collections in document["sandboxes"].items():
            if name not in self.store.sandboxes:
                self.store.add_sandbox(name)
            for collection, entities in collections.items():
                for entity in entities:
                    self.store.sandboxes[name].collections[collection].add(entity)
        for one in document["creations"]:
            self.store.note(Creation(**one))
        self.runs.load(document["runs"])
        self.lake.start_ms = document["lake"]["start_ms"]
        self.lake.added = {
            dataset: [(at_ms, row) for at_ms, row in rows] for dataset, rows in document["lake"]["added"].items()
        }
