"""The class of a tenant, which its lines are named after: asked of SQL once, and then known for ever."""

import asyncio

from api.refreshing import seen
from api.threads import Threads
from headway.keys import DEFAULT_TENANT
from storage.tenants import Tenants


class Classes:
    """A tenant that nobody has seen before gets its class from the first who asks."""

    def __init__(self, tenants: Tenants, threads: Threads) -> None:
        self._tenants = tenants
        self._threads = threads
        self._known = {DEFAULT_TENANT: 0}
        self._asked: dict[str, asyncio.Task[int]] = {}

    async def of(self, tenant_id: str) -> int:
        """Raises StorageUnavailable."""
        known = self._known.get(tenant_id)
        return await self._ask(tenant_id) if known is None else known

    async def _ask(self, tenant_id: str) -> int:
        task = self._asked.get(tenant_id)
        if task is None:
            task = self._asked[tenant_id] = asyncio.get_running_loop().create_task(self._admit(tenant_id))
            task.add_done_callback(seen)
        return await asyncio.shield(task)

    async def _admit(self, tenant_id: str) -> int:
        try:
            known = self._known[tenant_id] = await self._threads.run(lambda: self._tenants.admit(tenant_id))
            return known
        finally:
            del self._asked[tenant_id]
