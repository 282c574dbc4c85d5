"""Scripted trouble, as a client in the same process meets it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from airflow_provider_aep.emulator.faults import Fault, Faults
from tests.adobe.caller import DLZ, FLOW_SERVICE, HEADERS, Caller, version

BODY = {"name": "b", "connectionSpec": version(DLZ)}


@pytest.fixture
def adobe(tmp_path: Path) -> Caller:
    return Caller(tmp_path)


def made(adobe: Caller) -> int:
    return len(adobe.platform.creations)


@pytest.mark.parametrize(
    ("kind", "error", "work"),
    [
        ("refuse", httpx.ConnectError, 0),
        ("reset", httpx.ReadError, 0),
        ("lose_reply", httpx.RemoteProtocolError, 1),
        ("truncate", httpx.RemoteProtocolError, 1),
        ("hang", httpx.ReadTimeout, 0),
    ],
)
def test_no_answer_arrives(adobe: Caller, kind: str, error: type[Exception], work: int) -> None:
    getattr(adobe.platform.faults, kind)("POST /connections")

    with pytest.raises(error):
        adobe.call("POST", "/connections", BODY)

    assert made(adobe) == work
    assert adobe.platform.requests[-1].status is None
    adobe.post("/connections", BODY)
    assert made(adobe) == work + 1


@pytest.mark.parametrize("after", [False, True])
def test_a_status_before_or_after_the_work(adobe: Caller, after: bool) -> None:
    adobe.platform.faults.status("POST /connections", 502, after=after, body="html")

    reply = adobe.call("POST", "/connections", BODY)

    assert (reply.status_code, reply.headers["content-type"]) == (502, "text/html")
    assert made(adobe) == after


def test_silence_after_the_work(adobe: Caller) -> None:
    adobe.platform.faults.hang("POST /connections", after=True)

    with pytest.raises(httpx.ReadTimeout):
        adobe.call("POST", "/connections", BODY)
    assert made(adobe) == 1


def test_too_many_requests(adobe: Caller) -> None:
    adobe.platform.faults.status("GET /flows", 429, retry_after="7")
    adobe.platform.faults.status("GET /runs", 429, retry_after="date:60", body="empty")

    reply = adobe.call("GET", "/flows")
    assert (reply.status_code, reply.headers["Retry-After"]) == (429, "7")
    assert reply.json()["error_code"] == "429050"
    dated = adobe.call("GET", "/runs")
    wait = parsedate_to_datetime(dated.headers["Retry-After"]) - datetime.now(UTC)
    assert 50 < wait.total_seconds() < 70
    assert dated.content == b""


def test_which_requests_are_struck(adobe: Caller) -> None:
    faults = adobe.platform.faults
    faults.status("GET /connections", 500, skip=1, times=2)
    faults.status("DELETE *", 501)
    faults.status("/data/foundation/sandbox-management*", 502, times=None)

    assert [adobe.call("GET", "/connections").status_code for _ in range(4)] == [200, 500, 500, 200]
    assert adobe.call("GET", "/connections/x").status_code == 404
    assert [adobe.call("DELETE", "/flows/x").status_code for _ in range(2)] == [501, 404]
    path = "/data/foundation/sandbox-management/"
    assert [adobe.call("GET", path).status_code for _ in range(3)] == [502] * 3
    assert [one["hits"] for one in faults.describe()] == [2, 1, 3]
    faults.clear()
    assert adobe.call("GET", path).status_code == 200


def test_an_outage(adobe: Caller) -> None:
    adobe.platform.faults.status("*", 503, times=None)

    assert adobe.http.post("https://ims-na1.adobelogin.com/ims/token/v3").status_code == 503
    assert adobe.call("GET", "/flows").status_code == 503
    assert adobe.call("GET", "/_emulator/summary").status_code == 200


def test_a_mixture_strikes_its_share_and_repeats_itself() -> None:
    def struck(seed: int) -> list[str]:
        faults = Faults()
        faults.mix(0.2, seed=seed)
        found = (faults.strike("GET", ("/flows",)) for _ in range(5000))
        return ["" if one is None else one.kind for one in found]

    kinds = Counter(struck(3))
    assert 800 < 5000 - kinds[""] < 1200
    assert set(kinds) == {"", "status", "refuse", "reset", "lose_reply", "truncate"}
    assert all(120 < count < 280 for kind, count in kinds.items() if kind)
    assert struck(3) == struck(3) != struck(4)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"kind": "explode"}, "kind='explode'"),
        ({"body": "xml"}, "body='xml'"),
        ({"status": 200}, "status=200"),
        ({"probability": 2}, "probability=2"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_faults_that_mean_nothing(members: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Faults().add(**members)


def test_latency_of_requests_side_by_side(tmp_path: Path) -> None:
    """Through an async client many slow requests wait at the same time."""
    adobe = Caller(tmp_path, latency=0.1)
    headers = {**HEADERS, "Authorization": adobe.http.headers["Authorization"]}

    async def ask() -> list[int]:
        transport = httpx.MockTransport(adobe.platform.arespond)
        async with httpx.AsyncClient(
            transport=transport, base_url="https://platform.adobe.io", headers=headers
        ) as http:
            replies = await asyncio.gather(*(http.get(f"{FLOW_SERVICE}/flows") for _ in range(20)))
        return [reply.status_code for reply in replies]

    started = time.perf_counter()
    assert asyncio.run(ask()) == [200] * 20
    assert 0.1 <= time.perf_counter() - started < 1


def test_a_delay_for_one_request(adobe: Caller) -> None:
    adobe.platform.faults.delay("GET /flows", 0.1)

    started = time.perf_counter()
    assert adobe.call("GET", "/flows").status_code == 200
    assert time.perf_counter() - started >= 0.1
    assert made(adobe) == 0


def test_the_work_of_each_kind() -> None:
    works_first = {kind: Fault(kind=kind).works_first for kind in ("status", "reset", "lose_reply", "truncate", "hang")}

    assert works_first == {"status": False, "reset": False, "lose_reply": True, "truncate": True, "hang": False}
