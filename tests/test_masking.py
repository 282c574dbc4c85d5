"""No secret stays in Adobe's words, however they quote it, wherever it stands, and however short it is."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_provider_aep.api import calls
from airflow_provider_aep.api.effects import Call
from airflow_provider_aep.api.masking import logins_in, without_secrets
from airflow_provider_aep.errors import RequestRefused
from tests.canned import answers, ok, raw
from tests.conftest import Runner

QUOTED: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "JSON": lambda text: json.dumps(text)[1:-1],
    "JSON that keeps other scripts": lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    "JSON that escapes the slash": lambda text: json.dumps(text)[1:-1].replace("/", "\\/"),
    "JSON that is safe in HTML": lambda text: json.dumps(text)[1:-1].replace("=", "\\u003D").replace("&", "\\u0026"),
    "JSON in JSON": lambda text: json.dumps(json.dumps(text)[1:-1])[1:-1],
    "an address": lambda text: quote(text, safe=""),
    "an address that keeps the slash": quote,
    "an address in lower case": lambda text: quote(text, safe="").lower() if text == text.lower() else quote(text),
    "an address in an address": lambda text: quote(quote(text, safe=""), safe=""),
    "a form": quote_plus,
    "HTML": html.escape,
    "JSON in an address": lambda text: quote(json.dumps(text)[1:-1], safe=""),
    "Python": lambda text: ascii(text)[1:-1],
    "JSON in HTML": lambda text: html.escape(json.dumps(text)[1:-1]),
    "a line": lambda text: " ".join(text.split()),
}
KEY = "wJalrXUtnFEMI/K7MDENG+bPxRfi=CYEXAMPLE=="
SECRETS = [
    KEY,
    'quote " backslash \\ amp & percent % equals = slash /',
    "fünf Wörter mit € und 🗝",
    "\\\\server\\share",
    "-----BEGIN KEY-----\nabc+/def==\nghi\n-----END KEY-----\n",
]


@pytest.mark.parametrize("form", QUOTED)
@pytest.mark.parametrize("secret", SECRETS)
def test_whatever_the_form(secret: str, form: str) -> None:
    text = f"cannot accept {QUOTED[form](secret.strip())}, sorry"
    assert without_secrets(text, [secret]) == "cannot accept ***, sorry"


@example("00000%", "JSON in an address")
@example("a & b &", "HTML")
@given(st.text(min_size=6).filter(lambda text: len(text.strip()) >= 6), st.sampled_from(sorted(QUOTED)))
def test_whatever_the_secret(secret: str, form: str) -> None:
    secret = secret.encode(errors="replace").decode().strip()
    assert without_secrets(f"<{QUOTED[form](secret)}>", [secret]) == "<***>"


def test_a_whole_goes_before_its_parts() -> None:
    assert without_secrets(f"AccountName=a;AccountKey={KEY};", [KEY, f"AccountName=a;AccountKey={KEY}"]) == "***;"


@pytest.mark.parametrize("secret", ["a", "pw", "s3cr7"])
def test_a_short_one_is_hidden_where_it_stands_alone(secret: str) -> None:
    assert (
        without_secrets(f"password '{secret}' of x{secret}x: {secret}", [secret])
        == f"password '***' of x{secret}x: ***"
    )


def test_nothing_hides_nothing() -> None:
    assert without_secrets("all is well", ["", "  "]) == "all is well"


# What a login holds


PEM = "-----BEGIN RSA PRIVATE KEY-----\n" + "MIIEplantedplanted/+" * 3 + "\nshort=\n-----END RSA PRIVATE KEY-----\n"


def test_the_parts_of_a_login_are_known() -> None:
    login = {
        "specName": "Access Key",
        "params": {
            "connectionString": f"AccountName=lake;AccountKey={KEY};EndpointSuffix=x",
            "sshKey": base64.b64encode(PEM.encode()).decode(),
        },
    }
    made = set(logins_in({"name": "b", "auth": login}))
    assert {KEY, PEM, "MIIEplantedplanted/+" * 3} <= made
    assert not made & {"Access Key", "lake", "b", "short="}
    patched = set(logins_in([{"op": "add", "path": "/auth/params", "value": login["params"]}]))
    assert patched == made
    assert set(logins_in([{"op": "replace", "path": "/name", "value": KEY}])) == set()


PLANTED = {
    "connectionString": f"DefaultEndpointsProtocol=https;AccountName=lake;AccountKey={KEY}",
    "sshKey": base64.b64encode(PEM.encode()).decode(),
    "password": "pw!",
}


def create() -> Call[calls.Created]:
    return calls.create_base_connection("b", "spec", {"specName": "some login", "params": PLANTED})


@pytest.mark.parametrize(
    "shown",
    [
        f"account key {KEY} is wrong",
        f"account key {quote(KEY, safe='')} is wrong",
        f"cannot read the key {PEM}",
        "cannot read the key " + " ".join(PEM.split()),
        "cannot read line 2: " + PEM.splitlines()[1],
        "cannot log in with 'pw!'",
        "bad: " + json.dumps({"sshKey": PLANTED["sshKey"], "connectionString": PLANTED["connectionString"]}),
    ],
)
@pytest.mark.parametrize("is_json", [True, False])
def test_adobe_may_show_a_part_of_what_it_was_sent(run: Runner, shown: str, is_json: bool) -> None:
    answers(run, ok({"errorMessage": shown}, status=400) if is_json else raw(shown, status=400))
    with pytest.raises(RequestRefused) as caught:
        run(create())
    told = str(caught.value)
    assert "***" in told
    for secret in (KEY, quote(KEY, safe=""), PEM.splitlines()[1], PLANTED["sshKey"], "pw!"):
        assert secret not in told
    assert told.startswith("POST /connections: HTTP 400")


@pytest.mark.parametrize("at", range(930, 1010, 8))
def test_where_a_long_text_is_cut_no_part_of_a_secret_is_left(run: Runner, at: int) -> None:
    answers(run, ok({"errorMessage": "x" * at + KEY + "y" * 500}, status=400))
    with pytest.raises(RequestRefused) as caught:
        run(create())
    assert KEY[:5] not in str(caught.value)


def test_the_kind_of_a_login_stays_readable(run: Runner) -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        return ok({"errorMessage": "auth.specName 'some login' is not offered"}, status=400)

    answers(run, refuse)
    with pytest.raises(RequestRefused, match="'some login' is not offered"):
        run(create())


def test_a_password_that_is_no_ascii_is_no_base64_either() -> None:
    assert "pässwörd" in logins_in({"auth": {"params": {"password": "pässwörd"}}})
