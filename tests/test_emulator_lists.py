"""Lists of the emulator: filters, order, pages, counts, and lists that lag behind."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from tests.adobe.caller import EVENTS, LOYALTY, S3, START, Caller, hourly


@pytest.fixture
def adobe(tmp_path: Path) -> Caller:
    return Caller(tmp_path)


def names(found: dict[str, Any]) -> list[str]:
    return [one["name"] for one in found["items"]]


def bases(adobe: Caller, *given: str) -> list[str]:
    """Base connections of these names, each a second younger than the one before."""
    ids = []
    for name in given:
        ids.append(adobe.base(name))
        adobe.clock.advance(1)
    return ids


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("order", ["", "orderby=createdAt&", "orderby=-createdAt&", "orderby=name,-createdAt&"])
def test_pages_hold_each_entity_once(adobe: Caller, limit: int, order: str) -> None:
    ids = bases(adobe, *"abcabca")

    path, found = f"/connections?{order}limit={limit}", []
    while path:
        page = adobe.get(path)
        assert "_links" in page
        found += [one["id"] for one in page["items"]]
        path = page["_links"].get("next", {}).get("href", "")
        assert not path or len(page["items"]) == limit

    assert sorted(found) == sorted(ids)


def test_tokens_need_encoding(adobe: Caller) -> None:
    bases(adobe, "a", "b", "c")

    href = adobe.get("/connections?limit=1&property=state==enabled")["_links"]["next"]["href"]

    assert href.startswith("/connections?continuationToken=")
    parts = dict(parse_qsl(urlsplit(href).query))
    assert "+" in parts["continuationToken"]
    assert "=" in parts["continuationToken"]
    assert {"limit": "1", "property": "state==enabled"}.items() <= parts.items()
    raw = f"/connections?limit=1&continuationToken={parts['continuationToken']}"
    assert adobe.refused("GET", raw) == "400 FLOW-1453-400"
    assert adobe.refused("GET", "/connections?continuationToken=made-up") == "400 FLOW-1453-400"


def test_a_token_cut_out_of_href_without_decoding_is_read(adobe: Caller) -> None:
    """The client aepp does so: href.split("=")[1], passed on as a parameter; with Adobe that works."""
    bases(adobe, "a", "b", "c")
    href = adobe.get("/connections?limit=1&orderby=name")["_links"]["next"]["href"]

    params = {"limit": 1, "orderby": "name", "count": "False", "continuationToken": href.split("=")[1]}

    assert names(adobe.get("/connections", params=params)) == ["b"]


def test_a_page_follows_the_entity_before_it_whatever_was_made_meanwhile(adobe: Caller) -> None:
    bases(adobe, "a", "b", "c")
    page = adobe.get("/connections?limit=2&orderby=-createdAt")
    bases(adobe, "d", "e")

    assert names(page) == ["c", "b"]
    assert names(adobe.get(page["_links"]["next"]["href"])) == ["a"]


def test_pages_may_shift(tmp_path: Path) -> None:
    adobe = Caller(tmp_path, shifting_pages=True)
    bases(adobe, "a", "b", "c")
    page = adobe.get("/connections?limit=2&orderby=-createdAt")
    bases(adobe, "d", "e")

    assert names(adobe.get(page["_links"]["next"]["href"])) == ["c", "b"]


def test_order(adobe: Caller) -> None:
    first, _, _ = bases(adobe, "b", "a", "c")

    assert names(adobe.get("/connections?orderby=createdAt")) == ["b", "a", "c"]
    assert names(adobe.get("/connections?orderby=%2BcreatedAt")) == ["b", "a", "c"]
    assert names(adobe.get("/connections?orderby=+createdAt")) == ["b", "a", "c"]
    assert names(adobe.get("/connections?orderby=-name")) == ["c", "b", "a"]
    assert names(adobe.get("/connections")) == ["c", "a", "b"]
    adobe.patch(f"/connections/{first}", {"op": "add", "path": "/description", "value": "x"})
    assert names(adobe.get("/connections")) == ["b", "c", "a"]
    assert adobe.refused("GET", "/connections?orderby=colour") == "400 FLOW-1432-400"


def test_limits(adobe: Caller) -> None:
    bases(adobe, *(f"n{number:03}" for number in range(105)))

    assert len(adobe.get("/connections")["items"]) == 20
    assert len(adobe.get("/connections?limit=100")["items"]) == 100
    assert len(adobe.get("/connections?limit=500")["items"]) == 100
    for value in ("0", "-1", "x", "1.5", ""):
        assert adobe.refused("GET", f"/connections?limit={value}") == "400 FLOW-1453-400"


def test_count(adobe: Caller) -> None:
    bases(adobe, "a", "b", "b")

    assert adobe.get("/connections?count=true") == {"count": 3}
    assert adobe.get("/connections?count=true&property=name==b") == {"count": 2}
    assert len(adobe.get("/connections?count=False&limit=2")["items"]) == 2
    assert adobe.refused("GET", "/connections?count=true&limit=2") == "400 FLOW-1401-400"
    assert adobe.refused("GET", "/connections?count=yes") == "400 FLOW-1452-400"


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("property=name==a", "a"),
        ("property=name==a,c", "ac"),
        ("property=name==A", ""),
        (f"property=connectionSpec.id=={S3}", "abcd e"),
        ("property=connectionSpec.id==other", ""),
        ("property=state==enabled&property=name==a,b", "ab"),
        ("property=state==enabled&name==a,b", "ab"),
        ("property=state==enabled%26name==a,b", "ab"),
        (f"property=createdAt>{int(START + 1) * 1000}", "cd e"),
        (f"property=createdAt>={int(START + 1) * 1000}", "bcd e"),
        (f"property=createdAt<{int(START + 1) * 1000}", "a"),
        (f"property=updatedAt<={int(START + 1) * 1000}&property=createdAt>0", "ab"),
        ("property=name==d%20e", "d e"),
        ("property=name==d+e", "d e"),
        ("property=auth.specName==Access%20Key&limit=2&orderby=name", "ab"),
    ],
)
def test_filters(adobe: Caller, query: str, expected: str) -> None:
    bases(adobe, "a", "b", "c", "d e")

    found = names(adobe.get(f"/connections?{query}"))

    assert sorted("".join(found)) == sorted(expected.replace("d e", "d e", 1))


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("property=colour==red", 1423),
        ("property=name", 1448),
        ("property=", 1448),
        ("property=name=a", 1449),
        ("property=createdAt>1,2", 1443),
        ("property=createdAt>yesterday", 1452),
        ("colour=red", 1451),
    ],
)
def test_filters_refused(adobe: Caller, query: str, code: int) -> None:
    assert adobe.refused("GET", f"/connections?{query}") == f"400 FLOW-{code}-400"


def test_an_ampersand_in_a_value_is_part_of_it(adobe: Caller) -> None:
    bases(adobe, "A&B", "A")

    assert names(adobe.get("/connections", params={"property": "name==A&B"})) == ["A&B"]


def test_filters_through_lists(adobe: Caller) -> None:
    flow, other = adobe.flow(name="one"), adobe.flow(EVENTS, name="two")
    found = adobe.item(f"/flows/{flow}")
    adobe.call("POST", f"/flows/{other}/action?op=disable")

    for condition, expected in (
        (f"sourceConnectionIds[]=={found['sourceConnectionIds'][0]}", ["one"]),
        (f"targetConnectionIds[]=={found['targetConnectionIds'][0]}", ["one"]),
        (f"targetConnectionIds=={found['targetConnectionIds'][0]}", ["one"]),
        (f"inheritedAttributes.targetConnections[].connectionSpec.id=={S3}", ["one", "two"]),
        ("inheritedAttributes.properties.isDestinationFlow==true", ["one", "two"]),
        ("inheritedAttributes.properties.isDestinationFlow==false", []),
        (f"flowSpec.id=={found['flowSpec']['id']}", ["one", "two"]),
        ("state==disabled", ["two"]),
        (f"id=={flow},{other},nowhere", ["one", "two"]),
    ):
        assert sorted(names(adobe.get("/flows", params={"property": condition}))) == expected


def test_source_connections_are_found_by_their_datasets(adobe: Caller) -> None:
    adobe.source(EVENTS, name="one")
    adobe.source(LOYALTY, EVENTS, name="two")
    path = "/sourceConnections"

    assert names(adobe.get(path, params={"property": f"params.datasets[].dataSetId=={LOYALTY}"})) == ["two"]


def test_filters_of_runs(adobe: Caller) -> None:
    one = adobe.flow(scheduleParams=hourly(start=START))
    two = adobe.flow(scheduleParams=hourly(start=START + 60))
    adobe.clock.advance(150)
    first, second = adobe.runs(one)[0], adobe.runs(two)[0]

    for condition, expected in (
        (f"flowId=={one},{two}", 2),
        (f"flowId=={two}&createdAt>={second['createdAt']}", 1),
        (f"id=={first['id']}", 1),
        (f"flowId=={one}&id=={second['id']}", 0),
        ("state==inProgress", 1),
        ("metrics.statusSummary.status==success", 1),
        (f"metrics.durationSummary.startedAtUTC>{first['metrics']['durationSummary']['startedAtUTC']}", 1),
        (f"updatedAt>{first['updatedAt']}", 0 if second["updatedAt"] <= first["updatedAt"] else 1),
    ):
        assert len(adobe.get("/runs", params={"property": condition})["items"]) == expected


def test_search(adobe: Caller) -> None:
    bases(adobe, *(f"n{number:03}" for number in range(105)))
    flow = adobe.flow(name="export")

    found = adobe.call("POST", "/connections/search", {"queryString": "state==enabled", "limit": 1000}).json()
    assert len(found["items"]) == 106
    page = adobe.call("POST", "/connections/search", {"queryString": "property=name==n001,n002", "limit": 1}).json()
    href = page["_links"]["next"]["href"]
    assert href.startswith("/connections/search?continuationToken=")
    second = adobe.call("POST", href, {"queryString": "property=name==n001,n002", "limit": 1}).json()
    assert sorted(names(page) + names(second)) == ["n001", "n002"]
    assert adobe.call("POST", "/connections/search", {"count": True}).json() == {"count": 106}
    body = {"queryString": "name==export&state==enabled", "orderby": "-createdAt", "projectionFields": "name,state"}
    found = adobe.call("POST", "/flows/search", body).json()
    assert found["items"] == [{"id": flow, "name": "export", "state": "enabled"}]


def test_filters_can_be_refused(adobe: Caller) -> None:
    flow = adobe.flow()
    adobe.platform.refuse_filter("updatedAt", kind="runs", operator=">", code=1449)
    adobe.platform.refuse_filter("flowId", several=True, code=1443)
    adobe.platform.refuse_filter("createdAt", operator="orderby", code=1432)

    assert adobe.refused("GET", "/runs?property=updatedAt>1") == "400 FLOW-1449-400"
    assert adobe.refused("GET", f"/runs?property=flowId=={flow},{flow}") == "400 FLOW-1443-400"
    assert adobe.refused("GET", "/flows?orderby=-createdAt") == "400 FLOW-1432-400"
    for path in ("/flows?property=updatedAt>1", "/runs?property=updatedAt>=1", f"/runs?property=flowId=={flow}"):
        adobe.get(path)


def test_a_list_may_lag_behind(tmp_path: Path) -> None:
    adobe = Caller(tmp_path, list_delay=10)
    adobe.clock.advance(100)
    base = adobe.base("late")

    assert adobe.item(f"/connections/{base}")["name"] == "late"
    assert adobe.get("/connections")["items"] == []
    assert adobe.get("/connections?property=name==late")["items"] == []
    assert adobe.get(f"/connections?property=id=={base}")["items"] == []
    assert adobe.get("/connections?count=true") == {"count": 0}
    adobe.clock.advance(10)
    assert names(adobe.get("/connections?property=name==late")) == ["late"]


def test_twenty_thousand_runs(adobe: Caller) -> None:
    """A page costs what it holds, and not what the listing holds; the bounds are generous for slow machines."""
    flows = [adobe.flow(name=f"f{number}") for number in range(20)]
    for flow in flows:
        adobe.platform.add_history(flow, 1000)

    started = time.perf_counter()
    for flow in flows:
        assert len(adobe.runs(flow)) == 100
    assert len(adobe.get(f"/runs?property=flowId=={','.join(flows)}&limit=100&orderby=-updatedAt")["items"]) == 100
    newest = adobe.get("/runs?orderby=-updatedAt&limit=1")["items"][0]["updatedAt"]
    assert len(adobe.get(f"/runs?property=updatedAt>={newest}&limit=100")["items"]) == 20
    assert adobe.get("/runs?count=true") == {"count": 20_000}
    path, pages = "/runs?orderby=createdAt&limit=100", 0
    while path and pages < 100:
        page = adobe.get(path)
        path, pages = page["_links"].get("next", {}).get("href", ""), pages + 1
    assert pages == 100
    assert time.perf_counter() - started < 10
