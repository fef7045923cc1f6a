"""Coalesced reads: GETs that arrive in one tick of the loop, or while a SELECT is under way, share the next SELECT.

A read joins only a SELECT that is not yet sent, so that it never sees less than what was committed before it came.
Whose row it is, the caller checks.
"""

import asyncio
from collections.abc import Iterable

from api.threads import Threads
from headway.errors import StorageUnavailable
from headway.types import Prediction
from storage.predictions import Predictions

#: Ids in one SELECT.
_MOST_IDS = 500


class Reader:
    """Rows by id."""

    def __init__(self, predictions: Predictions) -> None:
        self._predictions = predictions
        self._thread = Threads("read", 1)
        self._next: dict[str, asyncio.Future[Prediction | None]] = {}
        self._task: asyncio.Task[None] | None = None

    async def read(self, id_: str) -> Prediction | None:
        """None where there is no such row. Raises StorageUnavailable."""
        return await asyncio.shield(self._join(id_))

    async def read_all(self, ids: list[str]) -> dict[str, Prediction]:
        """Those that exist. Raises StorageUnavailable."""
        rows = await asyncio.shield(asyncio.gather(*[self._join(id_) for id_ in ids]))
        return {row.id: row for row in rows if row is not None}

    def _join(self, id_: str) -> asyncio.Future[Prediction | None]:
        future = self._next.get(id_)
        if future is None:
            loop = asyncio.get_running_loop()
            future = self._next[id_] = loop.create_future()
            if self._task is None:
                self._task = loop.create_task(self._read())
        return future

    async def _read(self) -> None:
        """Reads until nobody waits; the task starts a tick after the first came."""
        try:
            while self._next:
                ids = list(self._next)[:_MOST_IDS]
                futures = {id_: self._next.pop(id_) for id_ in ids}
                try:
                    rows = await self._thread.run(lambda ids=ids: self._predictions.read(ids))  # type: ignore[misc]
                except StorageUnavailable as error:
                    # Those behind are told as well, rather than waiting out a patience of their own.
                    behind, self._next = self._next, {}
                    _fail((*futures.values(), *behind.values()), error)
                except Exception as error:
                    _fail(futures.values(), error)
                else:
                    for id_, future in futures.items():
                        if not future.done():
                            future.set_result(rows.get(id_))
        finally:
            self._task = None

    def close(self) -> None:
        self._thread.close()


def _fail(futures: Iterable[asyncio.Future[Prediction | None]], error: Exception) -> None:
    for future in futures:
        if not future.done():
            future.set_exception(StorageUnavailable(str(error)) if isinstance(error, StorageUnavailable) else error)
            future.exception()  # whoever asked may be gone
