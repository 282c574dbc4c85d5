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

_DURATIONS = {
    "slowness (real time)": {
        "latency": "added to each request, e.g. 200ms",
        "list-delay": "how long a new entity is missing from lists",
        "token-seconds": "life of an access token",
    },
    "durations (emulated time)": {
        "run-seconds": "of a run",
        "run-start-seconds": "from a slot of the schedule to its run",
        "first-run-seconds": "by which a dataflow's first run is later than that",
        "late-seconds": "from the end of a run until its entity shows it",
        "adhoc-ready-seconds": "until a new dataflow takes ad hoc runs",
        "settle-seconds": "that entities stay in a transitional state",
        "delete-seconds": "until a deleted entity is gone",
    },
}

_ABOUT = """\
A small, strict, local Adobe Experience Platform: IMS tokens, Flow Service, landing zone, sandboxes, and dataset exports
that write their files to DIR/<storage>/<bucket or container>/... Times are emulated unless said otherwise.
Durations are seconds, or have a unit: 200ms, 5s, 10m, 2h."""

_AFTER = f"""\
inspect and steer (no token needed):
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
    folder = Path("aep-exports")
    add("--data", type=Path, default=folder, metavar="DIR", help="where exports land (default: %(default)s)")
    add("--no-files", dest="write_files", action="store_false", help="count rows and write no files: for load tests")
    add("--state", type=Path, metavar="FILE", help="keep everything in this file over a restart (default: in memory)")
    add("--speed", type=float, default=1.0, help="emulated seconds in a real one; 3600 makes an hour a second")
    text = "emulated time begins here (2026-01-01T00:00Z) with the first request, and never overtakes the real time"
    add("--start", type=_moment, metavar="TIME", help=text)
    add("--seed", type=int, default=0, help="determines IDs and file names (default: %(default)s)")
    add("--arrivals", type=float, default=0.0, metavar="ROWS_PER_HOUR", help="rows that arrive in each dataset")
    for title, durations in _DURATIONS.items():
        group = found.add_argument_group(title)
        for name, text in durations.items():
            default = getattr(usual, name.replace("-", "_"))
            group.add_argument(f"--{name}", type=_duration, default=default, help=f"{text} (default: %(default)s)")
    add = found.add_argument_group("where Adobe differs from place to place").add_argument
    add("--page-size", type=int, default=usual.page_size, help="of lists (default: %(default)s)")
    text = "dataflows that a sandbox may have (default: %(default)s)"
    add("--destination-limit", type=int, default=usual.destination_limit, help=text)
    add("--shifting-pages", action="store_true", help="pages by position")
    add("--seed-rules", action="store_true", help="allow JSON without GZIP and 24 hours, as in 2023")
    add("--repeated-actions", action="store_true", help="200 for enable when enabled, not 1422")
    add("--status-case", choices=("lower", "title"), default="lower", help="of run statuses")
    add("--integer-error-codes", action="store_true", help="error_code as a number")
    add("--no-adhoc", dest="adhoc_allowed", action="store_false", help="refuse ad hoc runs, as of a storage not listed")
    add("--landing-zone", choices=("azure", "aws"), default="azure", help="the cloud under it")
    add = found.add_argument_group("who may log in, and where to").add_argument
    add("--org-id", default=usual.org_id, help="(default: %(default)s)")
    add("--client-id", default=usual.client_id, help="(default: %(default)s)")
    add("--client-secret", action="append", help="may be given twice, as while a secret is rotated")
    add("--sandboxes", default=",".join(usual.sandboxes), help="names with commas (default: %(default)s)")
    return found


def connection(platform: Platform, url: str) -> str:
    """The Airflow connection to this emulator, as the value of an environment variable."""
    options = platform.options
    extra = {"org_id": options.org_id, "sandbox_name": options.sandboxes[0], "ims_host": url}
    login = {"conn_type": "aep", "login": options.client_id, "password": options.client_secrets[0]}
    return json.dumps({**login, "host": url, "extra": extra})


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until stopped, and return the exit code."""
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
