"""The data lake: its seeded datasets, and the rows that they hold at a moment."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS

# Hard guardrail of dataset exports: ExperienceEvent datasets give the last 365 days only.
# Source: Experience League, "Guardrails for data activation", dataset exports.
EXPORTED_EVENT_DAYS = 365


@dataclass(frozen=True)
class SeedDataset:
    """A dataset of the lake; `id` is 24 hexadecimal digits, `rows` is how many it holds at the start."""

    id: str
    name: str
    description: str
    kind: Literal["profile", "event"]
    rows: int


_ACTIVATION = "Activation profile export dataset"

# The five AAM datasets have the IDs, names and descriptions of the sample reply in Adobe's tutorial "Export
# datasets by using the Flow Service API", "Retrieve a list of available datasets". More than 20, so that Adobe's
# default page size shows; one of no rows, so that an empty run does.
SEEDED: tuple[SeedDataset, ...] = (
    SeedDataset("5ef3e3259ad2a1191ab7dd7d", "AAM Devices Data", _ACTIVATION, "profile", 5000),
    SeedDataset("5f1a2c7b8e4d91194b6f0a21", "Web and App Events", "Page views, carts and orders", "event", 8000),
    SeedDataset("5ef3e324052581191aa6a466", "AAM Authenticated Profiles Meta Data", _ACTIVATION, "profile", 640),
    SeedDataset("5ef3e325582424191b1beb42", "AAM Devices Profile Meta Data", _ACTIVATION, "profile", 520),
    SeedDataset("5ef3e328582424191b1beb44", "AAM Realtime", _ACTIVATION, "event", 900),
    SeedDataset("5ef3e328fe742a191b2b3ea5", "AAM Realtime Profile Updates", _ACTIVATION, "profile", 410),
    SeedDataset("5f1a2d0c3b7e52194c1d9e10", "Loyalty Members", "Members of the loyalty programme", "profile", 3200),
    SeedDataset("5f1a2d1e7c4f86194d2e0f21", "Loyalty Members EMEA", "Members who live in EMEA", "profile", 1100),
    SeedDataset("5f2b3e4d9a6c17195e3f1032", "Loyalty Transactions", "Points earned and spent", "event", 2600),
    SeedDataset("5f2b3f5e1b7d28195f402143", "CRM Contacts", "Nightly load from the CRM system", "profile", 2400),
    SeedDataset("5f3c406f2c8e39196051325a", "CRM Accounts", "Accounts and their contacts", "profile", 700),
    SeedDataset("5f3c41703d9f4a1961624365", "Email Sends", "One event for each message sent", "event", 1800),
    SeedDataset("5f4d52814ea05b1962735476", "Email Opens and Clicks", "Tracking of sent messages", "event", 1500),
    SeedDataset("5f4d53925fb16c1963846587", "Push Tracking Events", "Push messages on mobile devices", "event", 950),
    SeedDataset("5f5e64a36ac27d1964957698", "Call Centre Interactions", "Calls by customer and topic", "event", 800),
    SeedDataset("5f5e65b47bd38e1965a687a9", "Store Visits", "Check-ins with the mobile app", "event", 600),
    SeedDataset("5f6f76c58ce49f1966b798ba", "Store Orders", "Receipts of the point of sale", "event", 1250),
    SeedDataset("5f6f77d69df5a01967c8a9cb", "Product Reviews", "Ratings and texts by customers", "event", 450),
    SeedDataset("5f7088e7ae06b11968d9badc", "Newsletter Subscribers", "Opt-ins by list", "profile", 1350),
    SeedDataset("5f7089f8bf17c21969eacbed", "Consent Records", "Current consent of each person", "profile", 2000),
    SeedDataset("5f819a09c028d3196afbdcfe", "Partner Audience Prospects", "Prospects of partners", "profile", 880),
    SeedDataset("5f819b1ad139e4196b0cee0f", "Ad Impressions", "Paid media impressions", "event", 1700),
    SeedDataset("5f92ac2be24af5196c1dff10", "Campaign Responses", "Replies to campaigns", "event", 720),
    SeedDataset("5f92ad3cf35b06196d2e1021", "Survey Answers", "Satisfaction surveys", "event", 330),
    SeedDataset("5fa3be4d046c17196e3f2132", "Household Links", "Members of a household", "profile", 560),
    SeedDataset(
        "5fa3bf5e157d28196f403243", "Profile Snapshot Export", "Daily snapshot of all profiles", "profile", 2800
    ),
    SeedDataset("5fb4c06f268e391970514354", "Web Events Archive", "Events of the last two years", "event", 1000),
    SeedDataset("5fb4c170379f4a1971625465", "Offline Conversions", "Waiting for its first batch", "event", 0),
)

DATASETS: Mapping[str, SeedDataset] = {dataset.id: dataset for dataset in SEEDED}

# How far back the seeded events of a dataset reach. 60 days leave 305 until the guardrail takes the oldest.
_EVENT_DAYS = {"5fb4c06f268e391970514354": 730}
_DEFAULT_EVENT_DAYS = 60

_FIRST_NAMES = ("Ada", "Bjørn", "Chidi", "Dolores", "Emre", "Fatima", "Giulia", "Hiroshi", "Ines", "Jorge", "Käthe",
                "Liam", "Mei", "Noor", "Olga", "Priya")  # fmt: skip
_LAST_NAMES = ("Almeida", "Becker", "Chen", "Dubois", "Eriksen", "Fischer", "García", "Haddad", "Ito", "Jansen",
               "Kowalski", "Lopez", "Murphy", "Novak", "Okafor", "Patel")  # fmt: skip
_CITIES = (("Berlin", "DE"), ("Lyon", "FR"), ("Madrid", "ES"), ("Utrecht", "NL"), ("Leeds", "GB"), ("Denver", "US"),
           ("Osaka", "JP"), ("Porto", "PT"))  # fmt: skip
_PRODUCTS = (("SKU-1001", "Trail shoe", 89.9), ("SKU-1002", "Rain jacket", 129.0), ("SKU-1003", "Day pack", 64.5),
             ("SKU-1004", "Water bottle", 18.0), ("SKU-1005", "Head lamp", 39.9))  # fmt: skip
_DEVICES = ("desktop", "mobile", "tablet", "mobile")
_VIEW, _PRODUCT, _CART, _ORDER = (
    "web.webpagedetails.pageViews",
    "commerce.productViews",
    "commerce.productListAdds",
    "commerce.purchases",
)
# The type follows from a row's number, so the first twelve rows of a dataset show every field that it can have.
_EVENT_TYPES = (_VIEW, _PRODUCT, _VIEW, _CART, _VIEW, _PRODUCT, _ORDER, _VIEW, _CART, _VIEW, _PRODUCT, _VIEW)


def catalog_record(
    dataset: SeedDataset,
    *,
    ims_org: str = "5555467B5D8013E50A494220@AdobeOrg",
    sandbox_id: str = "02dd69f0-da73-11e9-9ea1-af59ce7c24e8",
) -> dict[str, Any]:
    """The dataset as GET /connectionSpecs/{id}/configs lists it; times are in milliseconds since 1970 UTC.

    Source: destinations OpenAPI, example `Destination_Dataset_Response`; `state` is from the tutorial's sample.
    """
    mark = hashlib.sha256(dataset.id.encode()).hexdigest()
    view = f"{int(dataset.id, 16) + 1:024x}"
    # A dataset ID starts with the second of its creation, in the published example, too.
    created = int(dataset.id[:8], 16) * 1000 + int(mark[:4], 16) % 1000
    batch = f"01{mark[:24].upper()}"
    return {
        "id": dataset.id,
        "schemaRef": {
            "id": f"https://ns.adobe.com/acmeretail/schemas/{mark[:48]}",
            "contentType": "application/vnd.adobe.xed-full+json;version=1",
        },
        "name": dataset.name,
        "description": dataset.description,
        "tags": {"unifiedIdentity": ["enabled:true"], "unifiedProfile": ["enabled:true"]},
        "fileDescription": {"persisted": True, "containerFormat": "parquet", "format": "parquet"},
        "aspect": "production",
        "state": "DRAFT",
        "imsOrg": ims_org,
        "sandboxId": sandbox_id,
        "version": "1.0.7",
        "created": created,
        "updated": created + 348_444,
        "createdClient": "exc_app",
        "createdUser": "433E0A015D7AB86C0A49402B@AdobeID",
        "updatedUser": "acp_foundation_dataTracker@AdobeID",
        "viewId": view,
        "basePath": f"abfss://gen1@acmedatalake.dfs.core.windows.net/platform/{dataset.id}/datasetViewId={view}",
        "files": f"@/dataSetFiles?dataSetId={dataset.id}",
        "enableErrorDiagnostics": False,
        "lastBatchStatus": "success",
        "lastBatchId": batch,
        "lastSuccessfulBatch": batch,
    }


def model_rows(dataset: SeedDataset) -> list[dict[str, Any]]:
    """A few rows that show every field of the dataset: its schema by example."""
    return [_row(dataset, index, 0) for index in range(len(_EVENT_TYPES))]


class Lake:
    """The rows of all datasets: seeded ones, ones that arrive as time passes, and ones that were added.

    Rows are made when read. They follow from the dataset's ID, the row's number and `start_ms` alone, so two lakes of
    one start agree. Seeded rows have always been there; `arrivals` more for each hour arrive in every dataset after
    `start_ms` (milliseconds since 1970 UTC), evenly spread.

    Raises:
        ValueError: `arrivals` is negative or not finite.
    """

    def __init__(self, *, arrivals: float = 0, start_ms: int) -> None:
        if not (math.isfinite(arrivals) and arrivals >= 0):
            raise ValueError(f"arrivals={arrivals!r}: a number of rows per hour, 0 or more, is expected")
        self.arrivals = arrivals
        self.start_ms = start_ms
        self.added: dict[str, list[tuple[int, dict[str, Any]]]] = {}
        """Rows given to `add_rows` by dataset ID, each with its arrival in milliseconds."""

    def row_count(self, dataset_id: str, until_ms: int | None = None) -> int:
        """How many rows the dataset holds at `until_ms`, or, with no time given, how many are seeded and added.

        Events that are too old to be exported are counted too.

        Raises:
            KeyError: there is no such dataset.
        """
        seeded, added = DATASETS[dataset_id].rows, self.added.get(dataset_id, [])
        if until_ms is None:
            return seeded + len(added)
        return seeded + self._arrived(until_ms) + sum(at_ms <= until_ms for at_ms, _ in added)

    def rows(self, dataset_id: str, after_ms: int | None, until_ms: int) -> Iterator[dict[str, Any]]:
        """The rows that an export at `until_ms` carries: those that arrived after `after_ms` (None: all of them).

        Consecutive spans neither share nor lose a row. Events older than 365 days at `until_ms` are left out.

        Raises:
            KeyError: there is no such dataset.
        """
        dataset = DATASETS[dataset_id]  # looked up here, so that the error is not lazy
        due = self._due(dataset, after_ms, until_ms)
        return (_row(dataset, *one) if isinstance(one, tuple) else dict(one) for one in due)

    def exported_count(self, dataset_id: str, after_ms: int | None, until_ms: int) -> int:
        """How many `rows` there are, without making them."""
        return sum(1 for _ in self._due(DATASETS[dataset_id], after_ms, until_ms))

    def add_rows(self, dataset_id: str, rows: Iterable[Mapping[str, Any]], at_ms: int) -> None:
        """Add rows that arrive in a dataset at `at_ms` (milliseconds since 1970 UTC).

        Raises:
            KeyError: there is no such dataset.
            ValueError: a row of an event dataset has no `timestamp` in ISO 8601 with a zone.
        """
        dataset = DATASETS[dataset_id]
        fresh = [(at_ms, dict(row)) for row in rows]
        if dataset.kind == "event":
            for _, row in fresh:
                _timestamp_ms(row)
        self.added.setdefault(dataset_id, []).extend(fresh)

    def _arrived(self, until_ms: int) -> int:
        return max(0, math.floor((until_ms - self.start_ms) * self.arrivals / HOUR_MS))

    def _due(
        self, dataset: SeedDataset, after_ms: int | None, until_ms: int
    ) -> Iterator[tuple[int, int] | dict[str, Any]]:
        """What makes each row: its number and moment, or, for one that was added, the row itself."""
        oldest_ms = until_ms - EXPORTED_EVENT_DAYS * DAY_MS if dataset.kind == "event" else -math.inf
        if after_ms is None:
            span_ms = _EVENT_DAYS.get(dataset.id, _DEFAULT_EVENT_DAYS) * DAY_MS
            for index in range(dataset.rows):
                at_ms = self.start_ms - span_ms + span_ms * index // dataset.rows
                if at_ms >= oldest_ms:
                    yield index, at_ms
        first = 0 if after_ms is None else self._arrived(after_ms)
        for number in range(first, self._arrived(until_ms)):
            at_ms = self.start_ms + math.ceil((number + 1) * HOUR_MS / self.arrivals)
            if at_ms >= oldest_ms:
                yield dataset.rows + number, at_ms
        for at_ms, row in self.added.get(dataset.id, []):
            arrived = at_ms <= until_ms and (after_ms is None or at_ms > after_ms)
            if arrived and (dataset.kind != "event" or _timestamp_ms(row) >= oldest_ms):
                yield row


def _timestamp_ms(row: Mapping[str, Any]) -> float:
    text = row.get("timestamp")
    try:
        moment = datetime.fromisoformat(text)  # type: ignore[arg-type]  # a row is foreign JSON: checked right here
    except (TypeError, ValueError):
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ValueError(
            f"timestamp={text!r}: an event needs a time in ISO 8601 with a zone, like 2026-01-31T08:00:00Z"
        )
    return moment.timestamp() * 1000


def _iso(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _identities(visitor: int) -> dict[str, Any]:
    """Visitor n is the same person in every dataset: profiles and events join on the ECID."""
    ecid = int.from_bytes(hashlib.blake2b(b"ecid %d" % visitor, digest_size=16).digest(), "big") % 10**38
    return {"ECID": [{"id": f"{ecid:038d}", "primary": True}]}


def _row(dataset: SeedDataset, index: int, at_ms: int) -> dict[str, Any]:
    # One hash per row: any row can be computed without those before it, and faster than with a seeded generator.
    draw = hashlib.blake2b(f"{dataset.id} {index}".encode(), digest_size=16)
    make = _profile if dataset.kind == "profile" else _event
    return make(draw.hexdigest(), draw.digest(), index, at_ms)


def _profile(row_id: str, draw: bytes, index: int, at_ms: int) -> dict[str, Any]:
    first, last = _FIRST_NAMES[draw[0] % 16], _LAST_NAMES[draw[1] % 16]
    city, country = _CITIES[draw[2] % 8]
    email = f"person{index}@example.com"
    changed = _iso(at_ms)
    row: dict[str, Any] = {
        "_id": row_id,
        "_repo": {"createDate": _iso(at_ms - draw[3] * DAY_MS), "modifyDate": changed},
        "identityMap": {**_identities(index), "Email": [{"id": email, "primary": False}]},
        "person": {
            "name": {"firstName": first, "lastName": last, "fullName": f"{first} {last}"},
            "birthDate": f"{1945 + draw[4] % 60}-{1 + draw[5] % 12:02d}-{1 + draw[6] % 28:02d}",
        },
        "personalEmail": {"address": email, "status": "active"},
        "homeAddress": {"city": city, "countryCode": country, "postalCode": f"{10_000 + draw[7] * 300}"},
        "loyalty": {"points": float(draw[8] * 10), "tier": ("basic", "silver", "gold")[draw[9] % 3]},
        "consents": {
            "collect": {"val": "y"},
            "marketing": {"email": {"val": "ny"[draw[10] % 2]}, "sms": {"val": "ny"[draw[11] % 2]}},
            "metadata": {"time": changed},
        },
        "testProfile": False,
    }
    if index % 4 == 0:
        row["mobilePhone"] = {"number": f"+1-202-555-{draw[12]:04d}"}
    return row


def _event(row_id: str, draw: bytes, index: int, at_ms: int) -> dict[str, Any]:
    kind = _EVENT_TYPES[index % len(_EVENT_TYPES)]
    sku, product, price = _PRODUCTS[draw[0] % 5]
    page = "home" if kind == _VIEW else product.lower().replace(" ", "-")
    row: dict[str, Any] = {
        "_id": row_id,
        "timestamp": _iso(at_ms),
        "eventType": kind,
        "identityMap": _identities(int.from_bytes(draw[1:3], "big") % 5000),
        "device": {"type": _DEVICES[draw[3] % 4]},
        "web": {
            "webPageDetails": {"name": page, "URL": f"https://shop.example.com/{page}", "pageViews": {"value": 1.0}}
        },
    }
    if kind == _VIEW:
        return row
    quantity = 1 + draw[4] % 3
    total = round(quantity * price, 2)
    row["productListItems"] = [{"SKU": sku, "name": product, "quantity": quantity, "priceTotal": total}]
    row["commerce"] = {kind.removeprefix("commerce."): {"value": 1.0}}
    if kind == _ORDER:
        row["commerce"]["order"] = {"purchaseID": row_id[:12], "priceTotal": total, "currencyCode": "EUR"}
    return row
