"""What every figure's program shares: the local service, one process for each subject, interleaved repetitions, rows.

A figure is a function `Lab -> list[Row]`. Samples are kept for the life of a `Lab`, so that figures read from the same
runs when `run.py` asks for all of them, and each program still works alone.
"""

import argparse
import datetime
import http.client
import ipaddress
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

from subjects import PEERS, SUBJECTS, connections, versions

HERE = Path(__file__).parent
SHARED = ["bare_pages", "bare", "aep"]


class Row(NamedTuple):
    """One line of the table: a figure, a size, and the values of each subject (medians are taken of them)."""

    figure: str
    unit: str
    goal: str
    values: dict[str, list[float]]  # subject -> one value for each repetition


class DagRunWindow(NamedTuple):
    """One interval of the steady state."""

    seconds: float
    requests: int
    connections: int
    bursts: int
    cpu: float


class Sample(NamedTuple):
    """What one process showed."""

    subject: str
    n: int
    interval: float
    windows: list[DagRunWindow]
    rss: int
    lags: list[float]
    most_open: int
    fired_after: list[float]  # seconds from the end of all runs, sorted
    lag_firing: float  # the longest, while all fire
    faults: str

    def checks(self, window: DagRunWindow) -> int:
        """How many times the state of a wait was learned."""
        match SUBJECTS[self.subject].request_tells:
            case "one wait":
                return window.requests
            case "a page":
                return window.requests * 100
            case "all waits":
                return self.n * window.bursts
            case "nothing":
                return 0


def certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1 that lives as long as the lab."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "benchmark")])
    today = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(today - datetime.timedelta(days=1))
        .not_valid_after(today + datetime.timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, secret = folder / "certificate.pem", folder / "key.pem"
    pem.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return pem, secret


class Child:
    """A process that speaks JSON lines."""

    def __init__(self, command: Sequence[str], environment: dict[str, str], errors: Path) -> None:
        self.errors = errors
        with errors.open("ab") as sink:
            pipe = subprocess.PIPE
            self.process = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=sink, env=environment, cwd=HERE, text=True
            )

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def read(self, wanted: str) -> dict[str, Any]:
        """The next line that has the member `wanted`; lines with other members are kept in `seen`."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{") and wanted in (said := json.loads(line)):
                return dict(said)
            if line.startswith('{"bad"'):
                self.bad = json.loads(line)
        tail = self.errors.read_text(errors="replace")[-3000:]
        raise RuntimeError(f"{self.process.args} ended without saying {wanted!r}:\n{tail}")

    def ask(self, line: str, wanted: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.read(wanted)

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


class Service(NamedTuple):
    """The running stub."""

    base_url: str
    control: int

    def ask(self, path: str = "/figures") -> dict[str, Any]:
        line = http.client.HTTPConnection("127.0.0.1", self.control, timeout=120)
        line.request("GET", path)
        reply: dict[str, Any] = json.loads(line.getresponse().read())
        line.close()
        return reply


class Lab:
    """A temporary folder with a certificate and an Airflow home; starts services and clients in it."""

    def __init__(self, *, quick: bool = False, repeat: int = 1, only: Iterable[str] | None = None) -> None:
        self.quick, self.repeat = quick, repeat
        self.only = set(only) if only else None
        self.kept: dict[tuple[str, int], list[Sample]] = {}

    def __enter__(self) -> Self:
        self.stack = ExitStack()
        self.folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="aep-bench-")))
        self.certificate, self.key = certificate(self.folder)
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    def subjects(self, names: Iterable[str]) -> list[str]:
        """Those of `names` that were asked for; a quick run has one peer."""
        wanted = self.only or ({"http", "bare", "aep"} if self.quick else set(SUBJECTS))
        return [name for name in names if name in wanted and (name != "aep" or aep_ready())]

    def environment(self, base_url: str, **more: str) -> dict[str, str]:
        """For every process of the lab: our connections and certificate, no proxy, a home of its own."""
        kept = {key: text for key, text in os.environ.items() if not key.lower().endswith("_proxy")}
        kept.pop("PYTHONDONTWRITEBYTECODE", None)  # a deployment has its byte code cached
        return (
            {key: text for key, text in kept.items() if not key.startswith("AIRFLOW")}
            | {
                "AIRFLOW_HOME": str(self.folder / "airflow"),
                "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
                "AIRFLOW__AEP__POLL_FLOOR_SECONDS": "1",  # polls as often as the peers, where Adobe asks for 60 s
                "SSL_CERT_FILE": str(self.certificate),
                "REQUESTS_CA_BUNDLE": str(self.certificate),
                "PYTHONPATH": f"{HERE.parent}{os.pathsep}{HERE}",
                "PYTHONWARNINGS": "ignore",
            }
            | connections(base_url)
            | more
        )

    @contextmanager
    def service(self, count: int, *, tls: bool, interval: float = 5.0, latency: float = 0.05) -> Iterator[Service]:
        """The stub in its own process."""
        command = [sys.executable, "server.py", "--count", str(count), "--latency", str(latency)]
        command += ["--pause", str(interval / 4)]
        if tls:
            command += ["--certificate", str(self.certificate), "--key", str(self.key)]
        child = Child(command, dict(os.environ), self.folder / "server.log")
        try:
            ports = child.read("public")
            yield Service(f"http{'s' * tls}://127.0.0.1:{ports['public']}", ports["control"])
        finally:
            child.close()

    def airflow(self) -> Path:
        """An empty DAG folder beside a migrated metadata database (SQLite)."""
        dags = self.folder / "dags"
        if not dags.exists():
            dags.mkdir()
            command = [sys.executable, "-m", "airflow", "db", "migrate"]
            subprocess.run(command, env=self.environment("http://127.0.0.1:1"), check=True, capture_output=True)
        return dags

    def collect(self, names: Iterable[str], n: int) -> dict[str, list[Sample]]:
        """Samples of each subject, repetitions interleaved; what was measured before is not measured again."""
        tls = uses_tls(n)
        chosen = self.subjects(names)
        for turn in range(self.turns(n)):
            for name in chosen:
                kept = self.kept.setdefault((name, n), [])
                if len(kept) <= turn:
                    begin = time.monotonic()
                    kept.append(self.sample(name, n, tls=tls))
                    took = time.monotonic() - begin
                    note(f"{name} N={n} {'TLS' if tls else 'plain'}: {took:.0f} s {kept[-1].faults}")
        return {name: self.kept[name, n] for name in chosen}

    def turns(self, n: int) -> int:
        """Repetitions: the largest size takes a minute for each subject and is run once."""
        return 1 if self.quick or n >= 10_000 else self.repeat

    def sizes(self) -> list[int]:
        return [10, 40] if self.quick else [100, 1000, 10_000]

    def sample(self, name: str, n: int, *, tls: bool) -> Sample:
        interval = 0.6 if self.quick else 1.0 if n <= 100 else 5.0
        tells = SUBJECTS[name].request_tells
        enough = {"one wait": n, "a page": 1, "all waits": 1, "nothing": 0}[tells]
        with self.service(n, tls=tls, interval=interval) as service:
            command = [sys.executable, "client.py", name, str(n), service.base_url, str(interval)]
            child = Child(command, self.environment(service.base_url), self.folder / f"{name}.log")
            try:
                child.read("started")
                wait_until(lambda: service.ask()["requests"] >= enough, 120)
                time.sleep(interval)
                if tells == "all waits":  # windows begin between two polls, so that each holds whole ones
                    polls = service.ask()["bursts"]
                    wait_until(lambda: service.ask()["bursts"] > polls, 60)
                    time.sleep(interval / 3)
                windows, lags = [], []
                child.ask("collect", "cpu")
                mark, before = child.ask("", "cpu"), service.ask()
                for _ in range(2 if self.quick or n >= 10_000 else 3):
                    time.sleep(interval)
                    mark, before, old = child.ask("", "cpu"), service.ask(), (mark, before)
                    windows.append(
                        DagRunWindow(
                            mark["now"] - old[0]["now"],
                            *(before[key] - old[1][key] for key in ("requests", "connections", "bursts")),
                            mark["cpu"] - old[0]["cpu"],
                        )
                    )
                    lags += mark["lags"]
                done = time.monotonic()
                service.ask("/finish")
                if tells == "nothing":
                    child.ask("fire", "cpu")
                said = child.read("ends")
                ends, lost, faults = said["ends"], said["lost"], ""
                early = sum(end < done for end in ends)
                if lost or early or hasattr(child, "bad"):
                    faults = f"{lost} lost, {early} early, {getattr(child, 'bad', '')}"
                after = sorted(end - done for end in ends)
                most_open = before["most_open"]
                firing = max(said["lags"], default=0.0)
                return Sample(name, n, interval, windows, mark["rss"], lags, most_open, after, firing, faults)
            finally:
                child.close()


def aep_ready() -> bool:
    return (HERE.parent / "airflow_provider_aep" / "triggers.py").exists()


def uses_tls(n: int) -> bool:
    """The largest size is plain: 10,000 peers cannot shake so many hands within an interval."""
    return n < 10_000


def wait_until(true: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(f"not reached within {seconds} s")
        time.sleep(0.05)


def note(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


def shown(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def cell(values: list[float]) -> str:
    """Median, and the spread where there is one."""
    if not values:
        return "-"
    low, high = min(values), max(values)
    spread = f" [{shown(low)}-{shown(high)}]" if shown(low) != shown(high) else ""
    return shown(statistics.median(values)) + spread


def ratio(row: Row) -> str:
    """How many times ours the best peer costs; where there is no peer, how many times the bare limit we do."""
    medians = {name: statistics.median(values) for name, values in row.values.items() if values}
    peers = [medians[name] for name in PEERS if name in medians]
    if "aep" not in medians or not (peers or medians.get("bare")):
        return "-"
    if not peers:
        return f"{shown(medians['aep'] / medians['bare'])} x bare"
    return f"{shown(min(peers) / medians['aep'])} x" if medians["aep"] > 0 else "none / 0"


def table(rows: Sequence[Row]) -> str:
    """Rows as a Markdown table: medians with [least-most], and by which factor ours is below the best peer."""
    names = [name for name in SUBJECTS if any(name in row.values for row in rows)]
    head = ["figure", "unit", "goal", "best peer / aep", *(SUBJECTS[name].label for name in names)]
    lines = [
        [row.figure, row.unit, row.goal, ratio(row), *(cell(row.values.get(name, [])) for name in names)]
        for row in rows
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *lines])


def main(*figures: Callable[[Lab], list[Row]]) -> None:
    """Run some figures and print their table with the versions that were measured."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="small sizes and short runs, to see that all of it works")
    parser.add_argument("--repeat", type=int, default=1, help="repetitions for each subject up to 1,000 waits")
    parser.add_argument("--only", nargs="+", choices=SUBJECTS, help="these subjects alone")
    arguments = parser.parse_args()
    rows: list[Row] = []
    begin = time.monotonic()
    with Lab(quick=arguments.quick, repeat=arguments.repeat, only=arguments.only) as lab:
        for figure in figures:
            note(figure.__module__)
            rows += figure(lab)
    print(table(rows))
    print("\n" + ", ".join(f"{name} {number}" for name, number in versions().items()))
    cores = os.cpu_count()
    print(f"Python {sys.version.split()[0]}, {cores} cores, {time.monotonic() - begin:.0f} s, {datetime.date.today()}")
