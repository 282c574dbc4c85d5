"""The bare limit: one poll for all waits in forty lines of httpx, without errors, tokens, joins and leaves."""

import asyncio
from collections.abc import AsyncIterator

import httpx
from airflow.triggers.base import BaseTrigger, TriggerEvent


class Poller:
    """Reads Adobe's list of runs, page after page: all of it, or what changed since the last poll."""

    def __init__(self, base_url: str, interval: float, *, changed_only: bool) -> None:
        self.url, self.interval, self.changed_only = base_url + "/data/foundation/flowservice", interval, changed_only
        self.waits: dict[str, asyncio.Future[str]] = {}
        self.task: asyncio.Task[None] | None = None

    async def wait(self, run_id: str) -> str:
        self.task = self.task or asyncio.create_task(self.poll())
        return await self.waits.setdefault(run_id, asyncio.get_running_loop().create_future())

    async def poll(self) -> None:
        headers, since = {"Authorization": "Bearer benchmark-token", "x-sandbox-name": "prod"}, 0
        async with httpx.AsyncClient(headers=headers) as client:
            while self.waits:
                next_page: str | None = f"/runs?limit=100&orderby=updatedAt&property=updatedAt%3E{since}"
                while next_page:
                    page = (await client.get(self.url + next_page)).json()
                    for run in page["items"]:
                        since = max(since, run["updatedAt"]) if self.changed_only else 0
                        if run["metrics"]["statusSummary"]["status"] == "success" and run["id"] in self.waits:
                            self.waits.pop(run["id"]).set_result(run["id"])
                    next_page = page["_links"].get("next", {}).get("href")
                await asyncio.sleep(self.interval)


NOW = asyncio.Event()  # set at the end of all runs, for those that wait without a poller


class BareTrigger(BaseTrigger):
    """One wait; all of a process share `poller`. Without one it only waits: what Airflow itself costs."""

    def __init__(self, run_id: str, poller: Poller | None) -> None:
        super().__init__()
        self.run_id, self.poller = run_id, poller

    def serialize(self) -> tuple[str, dict[str, object]]:
        return "bare.BareTrigger", {"run_id": self.run_id, "poller": None}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        if self.poller is None:
            await NOW.wait()
        else:
            await self.poller.wait(self.run_id)
        yield TriggerEvent({"status": "success", "run_id": self.run_id})
