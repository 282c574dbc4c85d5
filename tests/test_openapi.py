"""Whole set-ups and waits against an Adobe made from its OpenAPI documents alone; see `tests/openapi.py`."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from airflow_provider_aep.api.auth import TOKEN_CACHES
from airflow_provider_aep.api.calls import DATAFLOWS, delete_entity, enable_dataflow, get_dataflow, get_run
from airflow_provider_aep.api.credentials import auth
from airflow_provider_aep.api.entities import DataflowId
from airflow_provider_aep.api.health import HealthRules, check_dataflows
from airflow_provider_aep.api.provisioning.desired import DesiredBaseConnection, DesiredExport, ExportIds
from airflow_provider_aep.api.provisioning.removal import remove_export, remove_exports_named
from airflow_provider_aep.api.provisioning.state import ensure_disabled, ensure_enabled
from airflow_provider_aep.api.queries import list_datasets
from airflow_provider_aep.api.runs.index import Capabilities, PendingRun, RunIndex
from airflow_provider_aep.api.runs.poll import poll, read_dataflows
from airflow_provider_aep.api.runs.selection import observe_run
from airflow_provider_aep.api.runs.slots import RunSelector
from airflow_provider_aep.api.session import Session
from airflow_provider_aep.destinations import destination_type, target_params
from airflow_provider_aep.errors import AepError, EntityNotFound, RequestRefused
from airflow_provider_aep.schedules import Every, Once
from tests.conftest import settings_for_tests
from tests.destination_samples import SAMPLES
from tests.exports import BEGINS_ON, DATASETS, ENDS_ON, S3, WAYS, desired, policy
from tests.openapi import AMENDMENTS, DOCUMENTS, KINDS, Amendment, OpenApiAdobe, document, examples, faults

ALL = [amendment for name in DOCUMENTS for amendment in AMENDMENTS[name]]


def run(adobe: OpenApiAdobe, procedure: Any) -> Any:
    transport = httpx.MockTransport(adobe.respond)
    with Session(settings_for_tests(), transport=transport, sleep=adobe.sleep, clock=adobe.time) as session:
        return session.run(procedure)


def cost(adobe: OpenApiAdobe, procedure: Any) -> tuple[Any, int]:
    """The result, and the number of requests without the token's."""
    before = len(adobe.requests)
    result = run(adobe, procedure)
    return result, len(adobe.requests) - before


def is_one_export(adobe: OpenApiAdobe, wanted: DesiredExport, ids: ExportIds) -> None:
    """One of each, attached to one another, as wished, and what the task has returned."""
    (base,), (source,), (target,), (flow,) = (adobe.entities[kind].values() for kind in KINDS)
    assert ids[:4] == (base["id"], source["id"], target["id"], flow["id"])
    assert {each["dataSetId"] for each in source["params"]["datasets"]} == set(ids.dataset_ids)
    assert set(wanted.dataset_ids) == set(ids.dataset_ids)
    assert target["baseConnectionId"] == base["id"]
    assert wanted.target_params.items() <= target["params"].items()
    assert (flow["sourceConnectionIds"], flow["targetConnectionIds"]) == ([source["id"]], [target["id"]])
    assert flow["state"] == "enabled"
    assert isinstance(wanted.schedule, Every)
    assert flow["scheduleParams"]["interval"] == wanted.schedule.hours


# The documents


def refused_examples(*, amended: bool) -> set[str]:
    found = set()
    for name in DOCUMENTS:
        root = document(name, *(() if amended else AMENDMENTS[name]))
        found |= {example for example, schema, value in examples(root) if schema and faults(root, schema, value)}
    return found


PLACEHOLDERS = {"Create_S3_Base_Connection", "Amazon_S3_Connection_V2"}  # "<Add secret key>" is no secret
LEGACY_NAMES = {"Create_SFTP_With_Password_Base_Connection"}  # the old login's names with the new connection spec
OWN_WORDS = {"Batch_Flow_Run_Success", "Batch_Flow_Run_Failure"}  # "success", and error codes unlike the pattern


def test_half_of_adobes_own_examples_are_refused_by_adobes_own_schemas() -> None:
    """Which is why there are amendments. Those left over need none here: the schema can be obeyed."""
    known = PLACEHOLDERS | LEGACY_NAMES | OWN_WORDS
    assert refused_examples(amended=True) == known
    assert refused_examples(amended=False) == known | {each.example for each in ALL if each.example} | {
        "Patch_Connection_Add_S3_Auth_Params",
        "Patch_Connection_Remove_Auth_Params",
    }


@pytest.mark.parametrize(
    "amendment", [each for each in ALL if each.example], ids=lambda each: "-".join(each.at[0][1:4])
)
def test_an_amendment_is_shown_to_be_needed_by_an_example_of_adobes(amendment: Amendment) -> None:
    (name,) = (name for name in DOCUMENTS if amendment in AMENDMENTS[name])

    def is_refused(root: Any) -> bool:
        return any(faults(root, schema, value) for of, schema, value in examples(root) if of == amendment.example)

    assert not is_refused(document(name))
    assert is_refused(document(name, amendment))


def test_the_samples_say_where_they_are_from() -> None:
    for name in DOCUMENTS:
        source = document(name)["_source"]
        assert "Apache License 2.0" in source["licence"]
        assert "AdobeDocs/experience-platform-apis" in source["document"]
        assert (Path(__file__).parent / "samples" / name).stat().st_size < 100_000


def test_this_adobe_knows_nothing_of_the_package() -> None:
    assert "airflow_provider_aep" not in (Path(__file__).parent / "openapi.py").read_text()


BAD: dict[str, tuple[str, str, dict[str, Any]]] = {
    "in no document": ("GET", "/nothing", {}),
    "no sandbox": ("GET", "/flows", {"headers": {"x-sandbox-name": ""}}),
    "a header of ours": ("GET", "/flows", {"headers": {"x-mine": "1"}}),
    "an unknown parameter": ("GET", "/flows", {"params": {"fields": "id"}}),
    "a parameter twice": ("GET", "/flows", {"params": [("property", "name==a"), ("property", "name==b")]}),
    "a limit that is too high": ("GET", "/flows", {"params": {"limit": "101"}}),
    "a limit that is no number": ("GET", "/flows", {"params": {"limit": "many"}}),
    "a needed parameter is missing": ("GET", "/connectionSpecs/x/configs", {"params": {"outputType": "x"}}),
    "no body": ("POST", "/flows", {}),
    "a body where none belongs": ("GET", "/flows", {"json": {}}),
    "no version": ("POST", "/sourceConnections", {"json": {"name": "a", "connectionSpec": {"id": "x"}}}),
    "no etag": ("PATCH", "/connections/1", {"json": []}),
    "no operation of RFC 6902": ("PATCH", "/flows/1", {"json": [{"op": "move"}], "headers": {"if-match": '"1"'}}),
}


@pytest.mark.parametrize("what", BAD)
def test_what_the_documents_do_not_allow_is_refused(what: str) -> None:
    adobe = OpenApiAdobe()
    verb, path, given = BAD[what]
    names = ("authorization", "x-api-key", "x-gw-ims-org-id", "x-sandbox-name")
    headers = {**dict.fromkeys(names, "x"), **({"content-type": "application/json"} if verb != "GET" else {})}
    headers = {name: value for name, value in {**headers, **given.pop("headers", {})}.items() if value}
    with httpx.Client(transport=httpx.MockTransport(adobe.respond)) as http:
        reply = http.request(verb, f"http://adobe/data/foundation/flowservice{path}", headers=headers, **given)
    assert reply.status_code in (400, 404, 422)
    assert len(adobe.violations) == 1, reply.text


# Set-ups


class Step(NamedTuple):
    what: str
    wanted: DesiredExport
    if_exists: Any
    requests: dict[str, int]  # by way


HALF_DAYS = Every(hours=12, start=BEGINS_ON, end=ENDS_ON)
BOTH = tuple(DATASETS[:2])
JSON = target_params(S3, file_type="JSON", compression="GZIP")
STORY = [
    Step("first", desired(), "reuse", {"whole": 11, "steps": 20}),
    Step("unchanged", desired(), "reuse", {"whole": 4, "steps": 6}),
    Step("credentials sent anew", desired(), "update", {"whole": 6, "steps": 8}),
    Step("schedule", desired(schedule=HALF_DAYS), "update", {"whole": 8, "steps": 10}),
    Step("datasets", desired(schedule=HALF_DAYS, dataset_ids=BOTH), "update", {"whole": 16, "steps": 18}),
    Step(
        "format", desired(schedule=HALF_DAYS, dataset_ids=BOTH, target_params=JSON), "update", {"whole": 8, "steps": 10}
    ),
]


LISTS: dict[str, Any] = {"as asked": {}, "unfiltered": {"filters": False}, "unsorted": {"sorts": False}}


@pytest.mark.parametrize("lists", LISTS)
@pytest.mark.parametrize("way", WAYS)
def test_a_whole_set_up_and_each_change_of_it(way: str, lists: str) -> None:
    """Whether or not `property` filters and `orderby` sorts: names, specs and times are compared here."""
    adobe = OpenApiAdobe(**LISTS[lists])
    told = {}
    for number, step in enumerate(STORY):
        how = policy(f"dag.export, run {number}", if_exists=step.if_exists)
        ids, told[step.what] = cost(adobe, WAYS[way](step.wanted, how))
        is_one_export(adobe, step.wanted, ids)
        adobe.sleep(3600)
    assert adobe.violations == []
    assert told == {step.what: step.requests[way] for step in STORY}


#: Of the further logins the documents know nothing, or print no reply.
FIRST_LOGINS = [name for name, sample in SAMPLES.items() if sample.is_first]


def to(name: str) -> DesiredExport:
    destination, login = SAMPLES[name].destination, SAMPLES[name].login
    row = destination_type(destination)
    return desired(
        name,
        destination_type=row,
        target_params=target_params(destination, file_type="PARQUET", compression="GZIP"),
        base=DesiredBaseConnection(f"login of {name}", row, auth(login) if login else None),
    )


@pytest.mark.parametrize("name", FIRST_LOGINS)
@pytest.mark.parametrize("way", WAYS)
def test_every_destination(way: str, name: str) -> None:
    adobe = OpenApiAdobe()
    for if_exists in ("reuse", "reuse", "update"):
        ids = run(adobe, WAYS[way](to(name), policy(if_exists=if_exists)))
        is_one_export(adobe, to(name), ids)
    assert adobe.violations == []


@pytest.mark.parametrize("lists", LISTS)
@pytest.mark.parametrize("way", WAYS)
def test_pause_resume_and_removal(way: str, lists: str) -> None:
    """By ID and by name; once with the login, which has to be marked first."""
    adobe = OpenApiAdobe(**LISTS[lists])
    for with_login in (False, True):
        ids = run(adobe, WAYS[way](desired(), policy(again=with_login)))
        assert run(adobe, ensure_disabled(ids.dataflow_id)).state == "disabled"
        assert run(adobe, ensure_enabled(ids.dataflow_id)).state == "enabled"
        if with_login:
            removal = run(adobe, remove_export(ids.dataflow_id, policy(), with_base_connection=True))
        else:
            removal = run(adobe, remove_exports_named("dag.export", policy()))
        assert len(removal.deleted) == 3 + with_login
    assert adobe.violations == []
    assert not any(adobe.entities.values())


def test_an_export_once() -> None:
    adobe = OpenApiAdobe()
    ids = run(adobe, WAYS["whole"](desired(schedule=Once(end=ENDS_ON)), policy()))
    assert run(adobe, WAYS["whole"](desired(schedule=Once(end=ENDS_ON)), policy())) == ids
    assert adobe.violations == []
    assert len(adobe.entities["flows"]) == 1


def everything(adobe: OpenApiAdobe) -> None:
    """Each set-up above, and a dataflow that is enabled again."""
    for step in STORY:
        run(adobe, WAYS["whole"](step.wanted, policy(if_exists=step.if_exists)))
    for flow in adobe.entities["flows"].values():
        run(adobe, enable_dataflow(DataflowId(flow["id"])))
    run(adobe, WAYS["whole"](desired("once", schedule=Once(end=ENDS_ON)), policy()))
    for name in FIRST_LOGINS:
        run(adobe, WAYS["whole"](to(name), policy()))


def test_everything_conforms() -> None:
    adobe = OpenApiAdobe()
    everything(adobe)
    assert adobe.violations == []


@pytest.mark.parametrize("amendment", ALL, ids=lambda each: "-".join(each.at[0][1:4]))
def test_no_amendment_is_idle(amendment: Amendment) -> None:
    """Without it a request of ours, or a reply made of Adobe's own example, would be refused."""
    adobe = OpenApiAdobe(left_out=(amendment,))
    try:
        everything(adobe)
    except AssertionError:  # of the mock: a reply
        return
    except AepError:
        pass
    assert adobe.violations


CHANGES = tuple(each for each in ALL if "patch" in each.at[0] or any("Patch" in step for step in each.at[0]))


@pytest.mark.parametrize("way", WAYS)
def test_where_adobe_takes_no_change_of_a_description(way: str, caplog: pytest.LogCaptureFixture) -> None:
    """Its documents, word for word, do not: nothing is confirmed then, and the set-up goes on."""
    adobe = OpenApiAdobe(left_out=CHANGES)
    ids, first = cost(adobe, WAYS[way](desired(), policy()))
    is_one_export(adobe, desired(), ids)
    adobe.sleep(3600)
    caplog.clear()
    again, then = cost(adobe, WAYS[way](desired(), policy("dag.export, run 2")))
    assert again == ids
    is_one_export(adobe, desired(), ids)
    assert "cannot be confirmed, so it stays as it is" in caplog.text
    other, _ = cost(adobe, WAYS[way](desired("another"), policy("dag.another, run 1")))
    assert other.base_connection_id == ids.base_connection_id
    assert {kind: len(adobe.entities[kind]) for kind in KINDS} == {"connections": 1, **dict.fromkeys(KINDS[1:], 2)}
    assert all(each.startswith("PATCH ") for each in adobe.violations)
    assert (first, then) == {"whole": (11, 5), "steps": (20, 10)}[way]


# Datasets and waits


@pytest.mark.parametrize(("count", "requests"), [(0, 1), (1, 2), (100, 2), (250, 4)])
def test_datasets_are_listed(count: int, requests: int) -> None:
    """The document's example tells of no next page, so that one more has to be asked for."""
    adobe = OpenApiAdobe()
    ids = adobe.give_datasets(count)
    found, asked = cost(adobe, list_datasets())
    assert [each.id for each in found] == ids
    assert asked == requests
    assert adobe.violations == []


@pytest.mark.parametrize("lists", LISTS)
def test_a_look_of_the_sensor(lists: str) -> None:
    """Until the run is there, while it is under way, and after its end; others and earlier ones do not count."""
    adobe = OpenApiAdobe(**LISTS[lists])
    ids = run(adobe, WAYS["whole"](desired(), policy()))
    began = int(adobe.now * 1000)
    adobe.run_of(ids.dataflow_id, created=adobe.now - 3600)
    adobe.run_of("another")

    def look() -> tuple[Any, int]:
        return cost(adobe, observe_run(ids.dataflow_id, lambda _flow: RunSelector(began), visibility_ms=10_000))

    sight, requests = look()
    assert (sight.run, sight.no_run, requests) == (None, None, 2)
    made = adobe.run_of(ids.dataflow_id, status="Processing")
    sight, requests = look()
    assert (sight.run.id, sight.run.has_ended, requests) == (made["id"], False, 2)
    adobe.finish(made)
    assert look()[0].run.has_ended
    by_id, requests = cost(adobe, get_run(made["id"]))
    assert (by_id.id, by_id.has_ended, requests) == (made["id"], True, 1)
    assert adobe.violations == []


@pytest.mark.parametrize("lists", LISTS)
@pytest.mark.parametrize("refuses", ["", "lists", "orderby", "lists orderby"])
def test_a_check_of_exports_and_the_move_of_their_end(refuses: str, lists: str) -> None:
    """Whether or not `property` filters and `orderby` sorts, each is judged by its own newest run."""
    adobe = OpenApiAdobe(**LISTS[lists])
    ids = [run(adobe, WAYS["whole"](desired(f"flow {n}"), policy())).dataflow_id for n in range(5)]
    adobe.refuses = frozenset(refuses.split())
    for hours in range(120, -1, -1):
        for number, flow_id in enumerate(ids):
            bad = number == 3 and hours == 0
            adobe.run_of(flow_id, status="Failed" if bad else "Success", created=adobe.now - hours * 3600)
    for named in ((), ids):
        found = run(adobe, check_dataflows(HealthRules(), dataflow_ids=named))
        told = {each.dataflow.id: [problem.word for problem in each.problems] for each in found}
        assert told == {flow_id: ["failed"] if flow_id == ids[3] else [] for flow_id in ids}
    far = HealthRules(ends_within_seconds=20 * 365 * 86_400, extend_seconds=30 * 365 * 86_400)
    found = run(adobe, check_dataflows(far, dataflow_ids=ids))
    assert [each.dataflow.id for each in found if each.before is None or each.refusal] == []
    ends = {int(each["scheduleParams"]["endTime"]) - int(adobe.now) for each in adobe.entities["flows"].values()}
    assert max(abs(each - 30 * 365 * 86_400) for each in ends) < 60
    assert [each for each in adobe.violations if not re.search("one value only|no orderby", each)] == []


class Most(NamedTuple):
    """Requests at the most: of the first two polls, of one where nothing changes, of one that sees every run end."""

    learning: int
    quiet: int
    ending: int


# What is refused beside what the document refuses -> requests by number of waits. Up to six requests are on their way
# at once, so that a refusal may be learned of six times.
POLLS: dict[str, dict[int, Most]] = {
    "": {1: Most(4, 1, 1), 3: Most(4, 1, 1), 250: Most(20, 2, 3)},
    "comparisons": {1: Most(4, 1, 1), 3: Most(4, 1, 1), 250: Most(25, 3, 3)},
    "lists": {1: Most(4, 1, 1), 3: Most(16, 2, 2), 250: Most(150, 2, 3)},
    "orderby": {1: Most(5, 1, 1), 3: Most(5, 1, 1), 250: Most(40, 2, 3)},
    # What has just changed is read twice where there is no order.
    "comparisons lists orderby": {1: Most(5, 1, 1), 3: Most(18, 3, 3), 250: Most(150, 4, 6)},
}


@pytest.mark.parametrize("lists", LISTS)
@pytest.mark.parametrize("count", [1, 3, 250])
@pytest.mark.parametrize("refuses", POLLS, ids=lambda refuses: refuses or "nothing")
def test_polls_come_through_by_simpler_questions(refuses: str, count: int, lists: str) -> None:
    adobe = OpenApiAdobe(refuses=frozenset(refuses.split()), **LISTS[lists])
    began = int(adobe.now * 1000)
    index = RunIndex(Capabilities(), lambda _wait: None)
    waits = [PendingRun(DataflowId(f"{number:08d}-0000"), began) for number in range(count)]
    for each in waits:
        index.add(each)
        adobe.run_of(each.dataflow_id, created=adobe.now - 3600)
    transport = httpx.MockTransport(adobe.respond)
    with Session(settings_for_tests(), transport=transport, sleep=adobe.sleep, clock=adobe.time) as session:

        def polled(times: int = 1) -> int:
            before = len(adobe.requests)
            for _ in range(times):
                adobe.sleep(60)
                session.run(poll(index))
            return len(adobe.requests) - before

        learning = polled(2)
        runs = [adobe.run_of(each.dataflow_id, status="Processing") for each in waits]
        polled()
        assert [each.run.id if each.run else None for each in waits] == [run["id"] for run in runs]
        polled(15)
        quiet = polled()
        for made in runs:
            adobe.finish(made)
        ending = polled()
    assert all(each.run and each.run.has_ended and not each.error for each in waits)
    if not refuses:
        assert adobe.violations == []
    assert all(each.startswith("GET /runs: ") for each in adobe.violations)
    most = POLLS[refuses][count]
    # A list that is not as asked for is read to its end.
    pages = len(adobe.entities["runs"]) // 100 if LISTS[lists] else 0
    assert learning <= most.learning + 6 * pages
    assert quiet <= (most.quiet + 1) * (1 + pages)
    assert ending <= most.ending * (1 + pages)


@pytest.mark.parametrize("refuses", [frozenset[str](), frozenset({"lists"})], ids=["nothing", "lists"])
def test_dataflows_of_waits_are_looked_at(refuses: frozenset[str]) -> None:
    """A hundred by one question, or one by its ID where lists are refused."""
    adobe = OpenApiAdobe(refuses=refuses)
    flows = [
        run(adobe, WAYS["whole"](desired(f"export {number}"), policy(f"dag.{number}, run 1"))) for number in range(3)
    ]
    capabilities = Capabilities()
    ids = [each.dataflow_id for each in flows]
    if refuses:
        with pytest.raises(RequestRefused, match="one value only"):
            run(adobe, read_dataflows(ids, capabilities))
        assert capabilities.dataflow_batch_size == 1
        ids = ids[:1]
    assert set(run(adobe, read_dataflows(ids, capabilities))) == set(ids)
    assert run(adobe, read_dataflows(["gone"], capabilities)) == {}


# Over a socket


@contextmanager
def served(adobe: OpenApiAdobe) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            url = f"http://{self.headers['Host']}{self.path}"
            reply = adobe.respond(httpx.Request(self.command, url, headers=self.headers.items(), content=body))
            self.send_response_only(reply.status_code)
            for name, value in {**reply.headers, "content-length": str(len(reply.content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(reply.content)

        do_GET = do_POST = do_PATCH = do_DELETE = handle_any  # noqa: N815 - http.server calls them so

        def log_message(self, *args: Any) -> None:
            """Not a word."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_a_set_up_over_a_socket() -> None:
    """What httpx itself puts on the line conforms as well."""
    adobe = OpenApiAdobe()
    TOKEN_CACHES.clear()
    with served(adobe) as url, Session(settings_for_tests(gateway=url, ims=url), sleep=adobe.sleep) as session:
        ids = session.run(WAYS["whole"](desired(), policy()))
        assert session.run(WAYS["whole"](desired(), policy())) == ids
        other = desired(dataset_ids=BOTH, target_params=JSON)
        ids = session.run(WAYS["whole"](other, policy(if_exists="update")))
        is_one_export(adobe, other, ids)
        session.run(delete_entity(DATAFLOWS, ids.dataflow_id))
        with pytest.raises(EntityNotFound):
            session.run(get_dataflow(ids.dataflow_id))
    assert adobe.violations == []
