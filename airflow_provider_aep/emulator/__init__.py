"""A small, strict, local Adobe: the parts of Experience Platform that a dataset export needs, for tests and trials.

`httpx.MockTransport(Platform().respond)` puts it under a client in the same process; `python -m
airflow_provider_aep.emulator` serves it over HTTP. It is written from Adobe's documents and shares no code with the
client, so that an error in either shows.
"""

from __future__ import annotations

from airflow_provider_aep.emulator.clock import Clock
from airflow_provider_aep.emulator.options import CLIENT_ID, CLIENT_SECRET, ORG_ID, Options
from airflow_provider_aep.emulator.platform import Platform

__all__ = ["CLIENT_ID", "CLIENT_SECRET", "ORG_ID", "Clock", "Options", "Platform"]
