"""The state file: everything that a restart must not lose, as one JSON document."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_aep.emulator.store import Creation

if TYPE_CHECKING:
    from airflow_provider_aep.emulator.platform import Platform

_FORMAT = 1


def save(platform: Platform, path: Path) -> None:
    """Write the state beside the file and rename it, so that a reader or a crash never meets half of it."""
    store = platform.store
    document: dict[str, Any] = {
        "format": _FORMAT,
        "now": platform.clock.now(),
        "serial": store.serial,
        "sandboxes": {
            name: {kind: list(collection) for kind, collection in sandbox.collections.items()}
            for name, sandbox in store.sandboxes.items()
        },
        "creations": [asdict(one) for one in store.creations],
        "runs": platform.runs.dump(),
        "lake": {"start_ms": platform.lake.start_ms, "added": platform.lake.added},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f".{path.name}.{os.getpid()}")
    half.write_text(json.dumps(document))
    os.replace(half, path)


def load(platform: Platform, path: Path) -> None:
    """Bring a platform that was just made to where `save` left one.

    Raises:
        ValueError: the file is none of ours.
    """
    try:
        document = json.loads(path.read_text())
    except ValueError as problem:
        raise ValueError(f"state={str(path)!r}: it is not JSON: {problem}") from None
    if not isinstance(document, dict) or document.get("format") != _FORMAT:
        raise ValueError(f"state={str(path)!r}: it was not written by this version of the emulator")
    store = platform.store
    platform.clock.move_to(document["now"])
    store.serial = document["serial"]
    for name, kinds in document["sandboxes"].items():
        if name not in store.sandboxes:
            store.add_sandbox(name)
        for kind, entities in kinds.items():
            for entity in entities:
                store.sandboxes[name].collections[kind].add(entity)
    for one in document["creations"]:
        store.note(Creation(**one))
    platform.runs.load(document["runs"])
    platform.lake.start_ms = document["lake"]["start_ms"]
    platform.lake.added = {
        dataset: [(at_ms, row) for at_ms, row in rows] for dataset, rows in document["lake"]["added"].items()
    }
