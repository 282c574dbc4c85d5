"""A local service in its own process: a record of about 2 KB for each run, in the shape that each provider asks for.

All subjects meet the same latency and record size. Adobe's `GET /runs` follows its documentation: `property` filters
(repeated: AND; a comma list with `==`: OR), `orderby`, `limit` up to 100, `_links.next` with an opaque token.
The protocol is written out so that the service is never the slower side: 10,000 clients poll it every five seconds.
"""

import argparse
import asyncio
import base64
import json
import operator
import re
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

RECORD_BYTES = 2048
FLOWS = "/data/foundation/flowservice"
COMPARISONS = {"==": operator.eq, ">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
FILTER = re.compile(r"(?P<path>[\w.\[\]]+?)(?P<sign>==|>=|<=|>|<)(?P<value>.*)")


def run_id(number: int) -> str:
    return f"{number:08d}-aaaa-4aaa-8aaa-aaaaaaaaaaaa"


def dataflow_id(number: int) -> str:
    return f"{number:08d}-bbbb-4bbb-8bbb-bbbbbbbbbbbb"


def now_ms() -> int:
    return int(time.time() * 1000)


def padded(record: dict[str, Any]) -> dict[str, Any]:
    """The record with as much filler as makes it `RECORD_BYTES` of JSON."""
    return record | {"filler": "x" * max(0, RECORD_BYTES - len(json.dumps(record)) - 14)}


class Runs:
    """The runs that everybody waits for: all in progress, then all done at once or one by one."""

    def __init__(self, count: int, age_seconds: float) -> None:
        begin = now_ms() - int(age_seconds * 1000)
        self.done: set[int] = set()
        self.all_done = False
        self.rows: dict[str, dict[str, Any]] = {}
        self.by_dataflow: dict[str, list[dict[str, Any]]] = {}
        self.encoded: dict[str, bytes] = {}
        for number in range(count):
            self._put(number, begin + number % 1000, begin + number % 1000)

    def _put(self, number: int, created: int, updated: int, *, done: bool = False) -> None:
        duration = {"startedAtUTC": created} | ({"completedAtUTC": updated} if done else {})
        counts = {"inputRecordCount": 1000, "outputRecordCount": 1000, "createdRecordCount": 1000}
        row = padded(
            {
                "id": run_id(number),
                "createdAt": created,
                "updatedAt": updated,
                "createdBy": "benchmark@AdobeID",
                "sandboxName": "prod",
                "imsOrgId": "0123456789ABCDEF01234567@AdobeOrg",
                "flowId": dataflow_id(number),
                "flowSpec": {"id": "269ba276-16fc-47db-92b0-c1049a3c131f", "version": "1.0"},
                "etag": '"0000d781-0000-0200-0000-63e29f420000"',
                "metrics": {
                    "durationSummary": duration,
                    "sizeSummary": {"inputBytes": 1_000_000, "outputBytes": 1_000_000},
                    "recordSummary": counts,
                    "fileSummary": {"inputFileCount": 1, "outputFileCount": 1},
                    "statusSummary": {"status": "success" if done else "processing"},
                },
                "activities": [],
            }
        )
        self.rows[row["id"]] = row
        self.by_dataflow[row["flowId"]] = [row]
        self.encoded[row["id"]] = json.dumps(row).encode()

    def finish(self) -> None:
        """End every run at this moment."""
        self.all_done = True
        for number, row in enumerate(list(self.rows.values())):
            self._put(number, row["createdAt"], now_ms(), done=True)

    def listed(self, query: list[tuple[str, str]]) -> bytes:
        """One page of `GET /runs`."""
        rows: list[dict[str, Any]] | None = None
        tests: list[Callable[[dict[str, Any]], bool]] = []
        given = dict(query)
        for key, text in query:
            if key != "property" or not (match := FILTER.fullmatch(text)):
                continue
            values = match["value"].split(",")
            if match["sign"] == "==" and match["path"] == "id":
                rows = [self.rows[value] for value in values if value in self.rows]
            elif match["sign"] == "==" and match["path"] == "flowId":
                rows = [row for value in values for row in self.by_dataflow.get(value, [])]
            else:
                tests.append(comparison(match["path"], match["sign"], values))
        found = [row for row in (self.rows.values() if rows is None else rows) if all(test(row) for test in tests)]
        for field in reversed(given.get("orderby", "-createdAt").split(",")):
            found.sort(key=operator.itemgetter(field.lstrip("+- ")), reverse=field.startswith("-"))
        limit = min(int(given.get("limit", "100")), 100)
        start = int(base64.b64decode(given.get("continuationToken", "MA==")).decode())
        rest = "&".join(f"{key}={quote(text)}" for key, text in query if key != "continuationToken")
        token = quote(base64.b64encode(str(start + limit).encode()).decode())
        more = f'{{"next":{{"href":"/runs?{rest}&continuationToken={token}"}}}}' if start + limit < len(found) else "{}"
        items = b",".join(self.encoded[row["id"]] for row in found[start : start + limit])
        return b'{"items":[' + items + b'],"_links":' + more.encode() + b"}"


def comparison(path: str, sign: str, values: list[str]) -> Callable[[dict[str, Any]], bool]:
    compare = COMPARISONS[sign]
    wanted: list[Any] = [int(value) if value.isdigit() else value for value in values]

    def test(row: dict[str, Any]) -> bool:
        value: Any = row
        for step in path.split("."):
            value = value.get(step) if isinstance(value, dict) else None
        return value is not None and any(compare(value, one) for one in wanted)

    return test


class Service:
    """Answers and counts."""

    def __init__(self, count: int, *, latency: float, pause: float, age_seconds: float = 3600) -> None:
        """`age_seconds`: how old the runs are; after an hour none counts as a recent change."""
        self.runs = Runs(count, age_seconds)
        self.latency, self.pause = latency, pause
        self.figures = {"requests": 0, "connections": 0, "open": 0, "most_open": 0, "bursts": 0, "bytes": 0}
        self.kinds: dict[str, int] = {}
        self.last = 0.0

    def answer(self, method: str, target: str) -> tuple[int, bytes]:
        """Status and body. `target` is the path with its query."""
        now = time.monotonic()
        self.figures["requests"] += 1
        self.figures["bursts"] += now - self.last > self.pause
        self.last = now
        url = urlsplit(target)
        parts = url.path.strip("/").split("/")
        kind = re.sub(r"[\w-]*\d[\w-]*", "*", url.path) + ("?" if url.query else "")
        self.kinds[kind] = self.kinds.get(kind, 0) + 1
        done = self.runs.all_done
        if url.path == f"{FLOWS}/runs":
            return 200, self.runs.listed(parse_qsl(url.query))
        if url.path.startswith(f"{FLOWS}/runs/"):
            found = self.runs.encoded.get(parts[-1])
            return (200, b'{"items":[' + found + b"]}") if found else (404, b'{"title":"not found"}')
        if url.path.startswith(f"{FLOWS}/flows/"):
            schedule = {"interval": 1, "timeUnit": "day", "startTime": int(time.time()) - 3600}
            flow = {"id": parts[-1], "state": "enabled", "scheduleParams": schedule, "name": "benchmark"}
            return 200, json.dumps({"items": [padded(flow)]}).encode()
        if url.path.endswith("/configs"):
            page = {"start": 0, "end": 0, "total": 1, "hasNext": False}
            item = padded({"id": "5ef3e3259ad2a1191ab7dd7d", "name": "profiles", "state": "DRAFT"})
            return 200, json.dumps({"items": [item], "pageInfo": page}).encode()
        if url.path.startswith("/ims/token/"):
            token = {"access_token": "benchmark-token", "token_type": "bearer", "expires_in": 86399}
            return 200, json.dumps(token).encode()
        if parts[0] == "wait":  # HttpSensorTrigger: anything but 404 ends the wait
            return 200 if done else 404, json.dumps(padded({"id": parts[-1]})).encode()
        if parts[:2] == ["api", "v2"]:  # dbt Cloud: 3 running, 10 success
            row = padded({"id": 1, "account_id": 1, "status": 10 if done else 3})
            return 200, json.dumps({"data": row, "status": {"code": 200}}).encode()
        if parts[:2] == ["v1", "connectors"]:  # Fivetran
            ended = "2030-01-01T00:00:00Z" if done else "2020-01-01T00:00:00Z"
            status = {"sync_state": "scheduled" if done else "syncing", "setup_state": "connected"}
            row = {"id": parts[-1], "service": "s3", "schema": "a", "succeeded_at": ended, "failed_at": None}
            row |= {"status": status, "schedule_type": "auto"}
            return 200, json.dumps({"code": "Success", "data": padded(row)}).encode()
        if parts[:3] == ["api", "v1", "sync_runs"]:  # Census
            row = padded({"id": 1, "status": "completed" if done else "working"})
            return 200, json.dumps({"status": "success", "data": row}).encode()
        return 404, b'{"title":"no such path"}'

    def control(self, target: str) -> tuple[int, bytes]:
        """What the benchmark itself asks, on another port: figures so far, and the end of all runs."""
        if target == "/finish":
            self.runs.finish()
        return 200, json.dumps({**self.figures, "kinds": self.kinds, "now": time.monotonic()}).encode()


class Connection(asyncio.Protocol):
    """HTTP/1.1 with keep-alive, one request at a time on a connection."""

    def __init__(self, service: Service, *, control: bool = False) -> None:
        self.service, self.is_control = service, control
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        if not self.is_control:
            figures = self.service.figures
            figures["connections"] += 1
            figures["open"] += 1
            figures["most_open"] = max(figures["most_open"], figures["open"])

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.is_control:
            self.service.figures["open"] -= 1

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        for method, target in self._requests():
            if self.is_control:
                self._write(*self.service.control(target))
            elif self.service.latency:
                answer = self.service.answer(method, target)
                asyncio.get_running_loop().call_later(self.service.latency, self._write, *answer)
            else:
                self._write(*self.service.answer(method, target))

    def _requests(self) -> Iterator[tuple[str, str]]:
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:end].decode("latin-1")
            length = re.search(r"(?i)\r\ncontent-length: *(\d+)", head)
            size = end + 4 + (int(length[1]) if length else 0)
            if len(self.buffer) < size:
                return
            self.buffer = self.buffer[size:]
            method, target, _ = head.split(" ", 2)
            yield method, target

    def _write(self, status: int, body: bytes) -> None:
        if self.transport.is_closing():
            return
        self.service.figures["bytes"] += len(body)
        date = formatdate(time.time(), usegmt=True)
        head = [f"HTTP/1.1 {status} X", f"Date: {date}", "Content-Type: application/json"]
        head += [f"Content-Length: {len(body)}", "", ""]
        self.transport.write("\r\n".join(head).encode() + body)


async def serve(arguments: argparse.Namespace) -> None:
    service = Service(arguments.count, latency=arguments.latency, pause=arguments.pause)
    context = None
    if arguments.certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(arguments.certificate, arguments.key)
    loop = asyncio.get_running_loop()
    public = await loop.create_server(lambda: Connection(service), "127.0.0.1", 0, ssl=context, backlog=4096)
    private = await loop.create_server(lambda: Connection(service, control=True), "127.0.0.1", 0)
    ports = [server.sockets[0].getsockname()[1] for server in (public, private)]
    print(json.dumps({"public": ports[0], "control": ports[1]}), flush=True)
    await loop.run_in_executor(None, sys.stdin.read)  # the parent closes our input when it is done


def main() -> None:
    import resource

    import uvloop

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="how many runs there are")
    parser.add_argument("--latency", type=float, default=0.05, help="seconds before each answer")
    parser.add_argument("--pause", type=float, default=1.0, help="seconds of silence that part two polls")
    parser.add_argument("--certificate")
    parser.add_argument("--key")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    uvloop.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
