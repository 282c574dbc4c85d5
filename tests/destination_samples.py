"""Each destination with each of its logins: Adobe's documented bodies, and an Airflow connection that holds the login.

One file of `samples/destinations` for each row of the registry, so that a new row is tested by having one.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from airflow_provider_aep.api.credentials import Login, login_from_connection
from airflow_provider_aep.destinations import DESTINATIONS, Destination

FOLDER = Path(__file__).parent / "samples" / "destinations"


class Sample(NamedTuple):
    """A destination and one of its logins. Bodies are as Adobe prints them, with placeholders for the login."""

    destination: Destination
    patterns: dict[str, str | None]  # by field, as the connection spec prints them; None for any text
    target_connection: dict[str, Any]
    base_connection: dict[str, Any]
    login_type: str | None  # None where the destination takes no login
    airflow_connection: dict[str, Any] | None
    params: dict[str, Any] | None  # what Adobe is sent for that connection
    secrets: list[str]  # what of it nobody may see

    @property
    def is_first(self) -> bool:
        return self.login_type is None or self.login_type == DESTINATIONS[type(self.destination)].logins[0]

    @property
    def login(self) -> Login | None:
        if self.airflow_connection is None:
            return None
        return from_connection(self.destination, **self.airflow_connection)


def from_connection(destination: Destination, **fields: Any) -> Login:
    """What a destination makes of an Airflow connection with these fields."""
    empty: dict[str, Any] = {
        "conn_type": "generic",
        "host": None,
        "login": None,
        "password": None,
        "port": None,
        "extra": {},
    }
    return login_from_connection(DESTINATIONS[type(destination)].logins, conn_id="lake", **{**empty, **fields})


def _samples() -> dict[str, Sample]:
    found = {}
    for each in DESTINATIONS:
        name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", each.__name__).lower()
        raw = json.loads((FOLDER / f"{name}.json").read_text())
        target = _documented(raw["target_connection"])
        for way in raw["logins"]:
            base = _documented(way["base_connection"])
            key = f"{each.__name__}-{way['login']}" if way["login"] else each.__name__
            found[key] = Sample(
                each(**raw["fields"]),
                raw["patterns"],
                target,
                base,
                way["login"],
                way["airflow_connection"],
                way["params"],
                way["secrets"],
            )
    return found


def _documented(body: dict[str, Any]) -> dict[str, Any]:
    assert body.pop("_source")
    return body


#: By destination and login: "AmazonS3-S3AccessKey", "DataLandingZone".
SAMPLES = _samples()
#: The destination of each type, once.
EACH: dict[str, Destination] = {type(one.destination).__name__: one.destination for one in SAMPLES.values()}
