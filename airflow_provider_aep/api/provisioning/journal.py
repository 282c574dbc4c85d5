"""The journal of a removal: what a dataflow was made of, noted at Adobe before the dataflow is deleted.

It is a source connection that no dataflow uses, named after what is removed, so that a later try can ask for it.
"""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from airflow_provider_aep.api import calls
from airflow_provider_aep.api.calls import SOURCE_CONNECTIONS, Created
from airflow_provider_aep.api.effects import Call, Procedure
from airflow_provider_aep.api.entities import Dataflow, DatasetId, SourceConnection
from airflow_provider_aep.api.provisioning.owner import is_managed
from airflow_provider_aep.api.provisioning.policy import SetupPolicy
from airflow_provider_aep.api.provisioning.resource import Resource, create
from airflow_provider_aep.destinations import DATA_LAKE_SPEC
from airflow_provider_aep.errors import AccessDenied, RequestRefused

log = logging.getLogger(__name__)

_NOTED = re.compile(r", removes dataflow (\S+), source (\S+), target (\S+), base (\S+)$")


class Parts(NamedTuple):
    """The IDs of what makes up an export; "" for what is missing, and for a login that shall stay."""

    dataflow: str = ""
    source: str = ""
    target: str = ""
    base: str = ""


def parts_of(dataflow: Dataflow) -> Parts:
    return Parts(dataflow.id, dataflow.source_connection_id, dataflow.target_connection_id)


def journal_name(what: str) -> str:
    return f"removal of {what}"


def write_journal(what: str, parts: Parts, source: SourceConnection | None, policy: SetupPolicy) -> Procedure[str]:
    """Note what belongs together; "" where Adobe refuses that, so that a retry after a kill may leave connections."""
    datasets: Sequence[DatasetId] = source.dataset_ids if source else ()
    if not datasets:  # any will do
        page = yield from calls.list_datasets(limit=1)
        datasets = [DatasetId(str(each["id"])) for each in page.items]
    told = ", ".join(f"{kind} {value or 'none'}" for kind, value in parts._asdict().items())
    name = journal_name(what)

    def creation(mark: str) -> Call[Created]:
        return calls.create_source_connection(name, datasets, description=f"{mark}, removes {told}")

    log.info("noting what is to be deleted in a source connection, so that a retry finds it; it is deleted at the end")
    resource = replace(sources_named(name), creation=creation, fits=lambda _found: False)
    # A session of its own, so that after a lost reply none is taken for another one of this removal.
    policy = replace(policy, owner=replace(policy.owner, session=uuid.uuid4().hex[:8]))
    try:
        journal = yield from create(resource, policy)
    except AccessDenied:
        raise
    except RequestRefused as refusal:
        log.warning("%s: if this task is killed, a retry may not find the connections: %s", name, refusal)
        return ""
    return journal.id


def read_journal(journal: SourceConnection) -> Parts | None:
    """What a journal says; None where Adobe, or somebody, has changed its description."""
    found = _NOTED.search(journal.description) if is_managed(journal) else None
    return Parts(*("" if each == "none" else each for each in found.groups())) if found else None


def sources_named(name: str) -> Resource:
    """Source connections of a name, to look for."""
    return Resource(SOURCE_CONNECTIONS, name, DATA_LAKE_SPEC, creation=_never)


def _never(_mark: str) -> Call[Created]:
    raise AssertionError("it is only looked for")
