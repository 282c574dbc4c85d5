"""`python -m airflow_provider_aep.emulator`: a local Adobe on a port, and how to point Airflow at it."""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import re
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from airflow_provider_aep.emulator.clock import Clock
from airflow_provider_aep.emulator.flow_service.datasets import SEEDED
from airflow_provider_aep.emulator.http.steering import BASE, HELP, SteeredPlatform
from airflow_provider_aep.emulator.options import Options
from airflow_provider_aep.emulator.platform import Platform

_NEEDED = ("uvicorn", "pyarrow")
_UNITS = {"": 1.0, "s": 1.0, "ms": 0.001, "m": 60.0, "h": 3600.0}

_ABOUT = """\
A small, strict, local Adobe Experience Platform: IMS tokens, Flow Service, landing zone, sandboxes, and dataset exports
that really write their files to DIR/<storage>/<bucket or container>/... Times are emulated unless said otherwise.
Durations are seconds, or have a unit: 200ms, 5s, 10m, 2h."""

_AFTER = f"""\
steering and looking in (no token needed):
{HELP}
example:
  python -m airflow_provider_aep.emulator --port 8585 --data exports --speed 3600"""


def _duration(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h)?", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r}: a duration like 200ms, 5, 5s, 10m or 2h is expected")
    return float(match[1]) * _UNITS[match[2] or ""]


def _moment(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = datetime.max
    if moment.tzinfo is None or moment.timestamp() > time.time():
        raise argparse.ArgumentTypeError(f"{text!r}: a past moment with a zone, as 2026-01-01T00:00Z, is expected")
    return moment.timestamp()


def _port(text: str) -> int:
    if not text.isdigit() or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"{text!r}: a port, 0 (any free one) to 65535, is expected")
    return int(text)


def parser() -> argparse.ArgumentParser:
    """The command line; its defaults are those of `Options`."""
    usual = Options()
    found = argparse.ArgumentParser(
        prog="python -m airflow_provider_aep.emulator",
        description=_ABOUT,
        epilog=_AFTER,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = found.add_argument
    add("--host", default="127.0.0.1", help="address to listen on (default: %(default)s, this machine only)")
    add("--port", type=_port, default=8585, help="port; 0 picks a free one (default: %(default)s)")
    add(
        "--data",
        type=Path,
        default=Path("aep-exports"),
        metavar="DIR",
        help="where exports land (default: %(default)s)",
    )
    add(
        "--no-files", dest="write_files", action="store_false", help="runs count rows and write nothing: for load tests"
    )
    add("--state", type=Path, metavar="FILE", help="keep everything in this file over a restart (default: in memory)")
    add("--speed", type=float, default=1.0, help="emulated seconds in a real one; 3600 makes an hour a second")
    add(
        "--start",
        type=_moment,
        metavar="TIME",
        help="emulated time begins here (2026-01-01T00:00Z) with the first request, and never overtakes the real time",
    )
    add("--seed", type=int, default=0, help="decides over IDs and file names (default: %(default)s)")
    add("--arrivals", type=float, default=0.0, metavar="ROWS_PER_HOUR", help="rows that arrive in each dataset")
    trouble = found.add_argument_group("slowness (real time)")
    trouble.add_argument("--latency", type=_duration, default=0.0, help="added to each request, e.g. 200ms")
    trouble.add_argument(
        "--list-delay", type=_duration, default=0.0, help="how long a new entity is missing from lists"
    )
    trouble.add_argument("--token-seconds", type=_duration, default=usual.token_seconds, help="life of an access token")
    runs = found.add_argument_group("durations (emulated time)")
    for name, text in (
        ("run", "of a run"),
        ("run-start", "from a slot of the schedule to its run"),
        ("first-run", "by which a dataflow's first run is later than that"),
        ("late", "from the end of a run to its record telling so"),
        ("adhoc-ready", "until a new dataflow takes ad hoc runs"),
        ("settle", "that entities stay in a transitional state"),
        ("delete", "until a deleted entity is gone"),
    ):
        default = getattr(usual, f"{name.replace('-', '_')}_seconds")
        runs.add_argument(f"--{name}-seconds", type=_duration, default=default, help=f"{text} (default: %(default)s)")
    strict = found.add_argument_group("what Adobe does in one place and not in another")
    strict.add_argument("--page-size", type=int, default=usual.page_size, help="of lists (default: %(default)s)")
    strict.add_argument("--shifting-pages", action="store_true", help="pages by position")
    strict.add_argument("--seed-rules", action="store_true", help="allow JSON without GZIP and 24 hours, as in 2023")
    strict.add_argument("--repeated-actions", action="store_true", help="200 for enable when enabled, not 1422")
    strict.add_argument("--status-case", choices=("lower", "title"), default="lower", help="of run statuses")
    strict.add_argument("--integer-error-codes", action="store_true", help="error_code as a number")
    strict.add_argument("--landing-zone", choices=("azure", "aws"), default="azure", help="what it stands on")
    who = found.add_argument_group("who may log in, and where to")
    who.add_argument("--org-id", default=usual.org_id, help="(default: %(default)s)")
    who.add_argument("--client-id", default=usual.client_id, help="(default: %(default)s)")
    who.add_argument("--client-secret", action="append", help="may be given twice, as while a secret is rotated")
    who.add_argument("--sandboxes", default=",".join(usual.sandboxes), help="names with commas (default: %(default)s)")
    return found


def connection(platform: Platform, url: str) -> str:
    """The Airflow connection to this emulator, as the value of an environment variable."""
    options = platform.options
    extra = {"org_id": options.org_id, "sandbox_name": options.sandboxes[0], "ims_host": url}
    return json.dumps(
        {
            "conn_type": "aep",
            "login": options.client_id,
            "password": options.client_secrets[0],
            "host": url,
            "extra": extra,
        }
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until stopped; gives the exit code."""
    given = vars(parser().parse_args(arguments))
    lacking = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if lacking:
        print(  # noqa: T201
            f"The emulator needs {' and '.join(lacking)}: pip install 'airflow-provider-aep[emulator]'", file=sys.stderr
        )
        return 2
    from airflow_provider_aep.emulator.http import server

    host, port, speed, start = given.pop("host"), given.pop("port"), given.pop("speed"), given.pop("start")
    secrets = given.pop("client_secret")
    if secrets:
        given["client_secrets"] = tuple(secrets)
    given["sandboxes"] = tuple(name.strip() for name in given["sandboxes"].split(",") if name.strip())
    try:
        platform = SteeredPlatform(
            clock=Clock(speed, start, until_now=start is not None), visible_now=time.monotonic, **given
        )
        platform.data_folder()
        listener = server.listen(host, port)
    except (ValueError, OSError) as problem:
        print(f"The emulator cannot start: {problem}", file=sys.stderr)  # noqa: T201
        return 2
    address = listener.getsockname()[1]
    url = f"http://[{host}]:{address}" if ":" in host else f"http://{host}:{address}"
    asyncio.run(server.serve(platform, listener, lambda: _greet(platform, url)))
    return 0


def _greet(platform: Platform, url: str) -> None:
    lines = [
        f"Adobe emulator at {url}",
        f"export AIRFLOW_CONN_AEP_DEFAULT='{connection(platform, url)}'",
        f"Exports land in {platform.data.resolve()}" if platform.data else "Exports leave no files",
        f"One real second is {platform.clock.speed:g} emulated ones; see {url}{BASE}/summary",
        "Datasets:",
        *(f"  {one.id}  {platform.lake.row_count(one.id):>6} rows  {one.name}" for one in SEEDED),
    ]
    print("\n".join(lines), flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
