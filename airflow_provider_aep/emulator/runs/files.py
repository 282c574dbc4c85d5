"""The files of an export, on disk, in the folders and under the names that Adobe documents."""

from __future__ import annotations

import gzip
import json
import os
import random
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from airflow_provider_aep.emulator.flow_service.datasets import SeedDataset, model_rows
from airflow_provider_aep.emulator.flow_service.specs import ConnectionSpec
from airflow_provider_aep.emulator.flow_service.templates import expand_template, segments

ROWS_PER_FILE = 2000

# The end of a file's name by datasetFileType and compression. Adobe refuses uncompressed JSON today and allowed it in
# the beta.
_ENDINGS = {
    ("JSON", "GZIP"): "json.gz",
    ("JSON", "NONE"): "json",
    ("PARQUET", "GZIP"): "gz.parquet",
    ("PARQUET", "NONE"): "parquet",
}


@dataclass(frozen=True)
class WrittenFile:
    """One file of an export; `bytes` is its size on disk."""

    name: str
    path: Path
    bytes: int
    rows: int


@dataclass(frozen=True)
class Written:
    """What one export of one dataset left: its folder on disk, its files, and the folder as the storage names it."""

    folder: Path
    files: tuple[WrittenFile, ...]
    sink_path: str


def write_export(
    *,
    root: Path,
    spec: ConnectionSpec,
    target: Mapping[str, Any],
    login: Mapping[str, Any],
    dataset: SeedDataset,
    rows: Iterable[dict[str, Any]],
    export_time_ms: int,
    folder_template: str | None,
    names: Mapping[str, str],
    run_id: str,
    seed: int = 0,
) -> Written:
    """Write the rows of one dataset under `root/<storage>/<bucket or container>/<path>/<folder>`.

    `target` and `login` are the params of the target connection and of the login, `names` the values of the
    template's macros other than the dataset's own. No rows, no files and no folder.

    A file appears under its name only when it is complete. Names follow from `seed`, `run_id` and the dataset, so a run
    that is written again replaces its own files, and two runs in one folder keep apart. As in Spark's output there are
    several files even for small data. Source: tutorial "Export datasets by using the Flow Service API", "Verify
    successful dataset export".

    Raises:
        ValueError: a bucket is missing, a format is unknown, or the folder would lie outside of its bucket.
    """
    ending = _ending(target)
    bucket, *above = spec.folders({**login, **target})
    if len(segments("bucket", bucket)) != 1 or "/" in bucket:
        raise ValueError(f"{spec.name} needs a bucket, container or domain, got {bucket!r}")
    values = {**names, "DATASET_ID": dataset.id, "DATASET_NAME": dataset.name}
    inside = (
        *above,
        *segments(spec.path_param, str(target.get(spec.path_param) or "")),
        *segments("folder template", expand_template(folder_template, values, export_time_ms)),
    )
    folder = root.joinpath(spec.storage, bucket, *inside)
    if not folder.resolve().is_relative_to(root.resolve()):  # a link inside the bucket leads away
        raise ValueError(f"{spec.path_param}: {folder} is outside of {root}")
    everything = list(rows)
    if not everything:
        return Written(folder, (), "/".join(inside))
    folder.mkdir(parents=True, exist_ok=True)
    write = _json_writer(everything, ending) if "json" in ending else _parquet_writer(everything, ending, dataset)
    chance = random.Random(f"{seed} {run_id} {dataset.id}")
    job = f"tid-{chance.randrange(10**18, 9 * 10**18)}-{uuid.UUID(int=chance.getrandbits(128), version=4)}"
    first_task = chance.randrange(10, 1000)
    files = []
    for number, (start, stop) in enumerate(_parts(len(everything))):
        path = folder / f"part-{number:05d}-{job}-{first_task + number}-1-c000.{ending}"
        size = _publish(path, partial(write, start, stop))
        files.append(WrittenFile(path.name, path, size, stop - start))
    return Written(folder, tuple(files), "/".join(inside))


def write_manifest(
    exports: Iterable[Written], *, destination_id: str, run_id: str, scheduled_time_ms: int
) -> tuple[Path, ...]:
    """Write the manifest of a run beside its files: one in each folder that the run wrote to.

    The file is called manifest-{destinationId}-{dataflowRunId}.json and reads
    {"flowRunId": …, "scheduledTime": "2026-01-31T08:00:00Z", "exportResults": [{"sinkPath", "name", "size" in bytes}]}.

    Source: Adobe's guide to cloud storage destinations, "Include file manifest".
    """
    folders: dict[Path, list[dict[str, Any]]] = {}
    for export in exports:
        for file in export.files:
            result = {"sinkPath": export.sink_path, "name": file.name, "size": file.bytes}
            folders.setdefault(export.folder, []).append(result)
    scheduled = datetime.fromtimestamp(scheduled_time_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    paths = []
    for folder, results in folders.items():
        name = segments("manifest", f"manifest-{destination_id}-{run_id}.json".replace("/", "_"))[0]
        text = json.dumps({"flowRunId": run_id, "scheduledTime": scheduled, "exportResults": results}, indent=2)
        _publish(folder / name, partial(Path.write_text, data=text))
        paths.append(folder / name)
    return tuple(paths)


def _ending(target: Mapping[str, Any]) -> str:
    form = target.get("datasetFileType"), target.get("compression")
    if form not in _ENDINGS:
        raise ValueError(
            f"datasetFileType={form[0]!r}, compression={form[1]!r}: JSON or PARQUET, NONE or GZIP expected"
        )
    return _ENDINGS[form]


def _parts(rows: int) -> list[tuple[int, int]]:
    count = max(-(-rows // ROWS_PER_FILE), min(rows, 2))
    return [(rows * part // count, rows * (part + 1) // count) for part in range(count)]


def _publish(path: Path, write: Callable[[Path], object]) -> int:
    """Write a file under a hidden name, then rename it: a reader sees all of it or nothing. Returns its bytes."""
    half_written = path.with_name(f".{path.name}"[:250])
    try:
        write(half_written)
        size = half_written.stat().st_size
        os.replace(half_written, path)
    finally:
        half_written.unlink(missing_ok=True)
    return size


def _json_writer(rows: Sequence[dict[str, Any]], ending: str) -> Callable[[int, int, Path], None]:
    def write(start: int, stop: int, path: Path) -> None:
        lines = (json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows[start:stop])
        content = "".join(f"{line}\n" for line in lines).encode()
        # mtime=0: the same rows are the same bytes whenever they are written
        path.write_bytes(gzip.compress(content, compresslevel=6, mtime=0) if ending.endswith("gz") else content)

    return write


def _parquet_writer(
    rows: Sequence[dict[str, Any]], ending: str, dataset: SeedDataset
) -> Callable[[int, int, Path], None]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    # The model rows bring every field of the dataset, so a small increment has the schema of the full export.
    models = model_rows(dataset)
    table = pa.Table.from_struct_array(pa.array([*models, *rows])).slice(len(models))
    codec = "gzip" if ending.startswith("gz") else "none"

    def write(start: int, stop: int, path: Path) -> None:
        pq.write_table(table.slice(start, stop - start), path, compression=codec)

    return write
