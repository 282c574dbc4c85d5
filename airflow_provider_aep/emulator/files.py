"""The files of an export, written to disk in the folders and under the names that Adobe documents."""

from __future__ import annotations

import gzip
import json
import os
import random
import re
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from airflow_provider_aep.emulator.datasets import SeedDataset, model_rows

ROWS_PER_FILE = 2000

# Source: destinations OpenAPI, `scheduleParams`; the default layout is the tutorial's, written as a template.
DEFAULT_FOLDER = "%DATASET_ID%/%EXPORT_TIME%"

# The macros that stand for a name, and what `write_export` takes each from. %DESTINATION_NAME% is in no list of
# Adobe's, but in the OpenAPI's example.
_NAMES = {
    "DATASET_ID": "dataset_id",
    "DATASET_NAME": "dataset_name",
    "DESTINATION": "destination",
    "DESTINATION_NAME": "destination",
    "DESTINATION_INSTANCE_ID": "destination_instance_id",
    "DESTINATION_INSTANCE_NAME": "destination_instance_name",
    "ORGANIZATION_NAME": "organization_name",
    "SANDBOX_NAME": "sandbox_name",
}
_MACRO = re.compile(r"%([A-Z_]+)(?:\(([^()%]*)\))?%")
_DATE_PART = re.compile(r"YYYY|yyyy|MM|dd|HH|mm|ss|[A-Za-z]+")
_DATE_PARTS = {"YYYY": "%Y", "yyyy": "%Y", "MM": "%m", "dd": "%d", "HH": "%H", "mm": "%M", "ss": "%S"}

# datasetFileType, compression -> how a file's name ends. JSON without compression is refused by Adobe today and
# was allowed while the feature was in beta.
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


def check_template(template: str) -> None:
    """Find out whether a folder template can be used.

    Raises:
        ValueError: it has an unknown macro or time pattern, or a segment that no storage accepts.
    """
    _segments("folder template", expand_template(template, dict.fromkeys(_NAMES.values(), "x"), 0))


def expand_template(template: str, names: Mapping[str, str], export_time_ms: int) -> str:
    """A folder template with its macros filled in; `/` in the template makes sub-folders, `/` in a name does not.

    Raises:
        ValueError: the template has an unknown macro or time pattern, or needs a name that `names` lacks.
    """
    moment = datetime.fromtimestamp(export_time_ms / 1000, UTC)

    def part(match: re.Match[str]) -> str:
        if match[0] not in _DATE_PARTS:
            raise ValueError(
                f"folder template {template!r}: {match[0]!r} in %DATETIME(...)%; use {', '.join(_DATE_PARTS)}"
            )
        return moment.strftime(_DATE_PARTS[match[0]])

    def value(match: re.Match[str]) -> str:
        macro, argument = match.groups()
        if macro == "DATETIME" and argument:
            return _DATE_PART.sub(part, argument)
        if argument is None and macro == "EXPORT_TIME":
            return moment.strftime("exportTime=%Y%m%d%H%M")
        if argument is not None or macro not in _NAMES:
            known = ", ".join(f"%{name}%" for name in (*_NAMES, "EXPORT_TIME", "DATETIME(YYYYMMdd_HHmmss)"))
            raise ValueError(f"folder template {template!r}: unknown macro {match[0]}; use {known}")
        if _NAMES[macro] not in names:
            raise ValueError(
                f"folder template {template!r}: no value for {match[0]}: names[{_NAMES[macro]!r}] is missing"
            )
        return re.sub(r"[/\\]", "_", names[_NAMES[macro]])

    return _MACRO.sub(value, template)


def write_export(
    *,
    root: Path,
    destination: str,
    target_params: Mapping[str, Any],
    base_auth_params: Mapping[str, Any],
    dataset: SeedDataset,
    rows: Iterable[dict[str, Any]],
    export_time_ms: int,
    folder_template: str | None,
    names: Mapping[str, str],
    flow_id: str,
    run_id: str,
    seed: int = 0,
) -> Written:
    """Write the rows of one dataset under `root/<destination>/<bucket or container>/<path>/<folder>`.

    `destination` is one of s3, azure_blob, adls_gen2, data_landing_zone, gcs, sftp. `names` gives the template's
    macros their values: `destination`, `destination_instance_id`, `destination_instance_name`, `sandbox_name`,
    `organization_name`; `flow_id` stands in for a missing instance ID. No rows, no files and no folder.

    A file appears under its name only when it is complete. File names follow from `seed`, `run_id` and the dataset,
    so a run that is written again replaces its own files, and two runs in one folder keep apart. Names and number
    are as in Spark's output: several files even for small data. Source: Adobe's guide to exporting datasets,
    "Verify successful dataset export".

    Raises:
        ValueError: a parameter is missing, a format is unknown, or the folder would lie outside of its bucket.
    """
    ending = _ending(target_params)
    bucket, above = _bucket(destination, target_params, base_auth_params)
    path_param = "remotePath" if destination == "sftp" else "path"
    template = folder_template or DEFAULT_FOLDER
    values = {"destination_instance_id": flow_id, **names, "dataset_id": dataset.id, "dataset_name": dataset.name}
    inside = (
        *above,
        *_segments(path_param, str(target_params.get(path_param) or "")),
        *_segments("folder template", expand_template(template, values, export_time_ms)),
    )
    folder = root.joinpath(destination, bucket, *inside)
    if not folder.resolve().is_relative_to(root.resolve()):  # a link inside the bucket leads away
        raise ValueError(f"{path_param}: {folder} is outside of {root}")
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
        name = _segments("manifest", f"manifest-{destination_id}-{run_id}.json".replace("/", "_"))[0]
        text = json.dumps({"flowRunId": run_id, "scheduledTime": scheduled, "exportResults": results}, indent=2)
        _publish(folder / name, partial(Path.write_text, data=text))
        paths.append(folder / name)
    return tuple(paths)


def _ending(target_params: Mapping[str, Any]) -> str:
    form = target_params.get("datasetFileType"), target_params.get("compression")
    if form not in _ENDINGS:
        raise ValueError(
            f"datasetFileType={form[0]!r}, compression={form[1]!r}: JSON or PARQUET, NONE or GZIP expected"
        )
    return _ENDINGS[form]


def _bucket(
    destination: str, target_params: Mapping[str, Any], base_auth_params: Mapping[str, Any]
) -> tuple[str, tuple[str, ...]]:
    """The outermost folder of a storage, and the folders in it that the login already names."""
    below: tuple[str, ...] = ()
    match destination:
        case "s3" | "gcs":
            param, bucket = "bucketName", target_params.get("bucketName")
        case "azure_blob":
            param, bucket = "container", target_params.get("container")
        case "sftp":
            param, bucket = "domain", base_auth_params.get("domain")
        case "data_landing_zone":
            param, bucket = "container", "dlz-destination"
        case "adls_gen2":
            # abfss://{container}@{account}.dfs.core.windows.net/…, or the account's https address with the
            # container as the first step of its path.
            param, url = "url", urlsplit(str(base_auth_params.get("url", "")))
            below = _segments("url", url.path)
            if url.scheme in ("abfs", "abfss"):
                bucket = url.username
            else:
                bucket, below = (below[0] if url.netloc and below else None), below[1:]
        case _:
            raise ValueError(
                f"destination={destination!r}: s3, azure_blob, adls_gen2, data_landing_zone, gcs or sftp expected"
            )
    if not isinstance(bucket, str) or "/" in bucket or len(_segments(param, bucket)) != 1:
        raise ValueError(f"{param}: {destination} needs a bucket, container or domain there, got {bucket!r}")
    return bucket, below


def _segments(what: str, path: str) -> tuple[str, ...]:
    """The steps of a path; an outer `/` is the bucket's own root, never the machine's."""
    steps = tuple(step for step in path.split("/") if step not in ("", "."))
    for step in steps:
        if step == ".." or "\\" in step or not step.isprintable() or len(step.encode()) > 255:
            raise ValueError(f"{what}={path!r}: {step!r} is not a folder name that can be written")
    return steps


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
