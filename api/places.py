"""Where a queued prediction stands in its line, and when about it will be done.

Answered from a snapshot of the line that is taken when somebody asks and at most once a second, so that it costs the
same whether one or ten thousand ask. Of those ahead only the positions are kept.
"""

import asyncio
import time
from bisect import bisect_left
from typing import NamedTuple

from api.refreshing import seen
from api.registry import Registry, drain_rate
from api.threads import Threads
from headway import broker
from headway.errors import StorageUnavailable
from headway.rendering import Place
from headway.types import Prediction
from storage.predictions import Predictions
from storage.tenants import Tenants

#: Nobody is told a position beyond this.
FARTHEST = 10_000

_EVERY_S = 1.0
#: Lines of which a snapshot is kept.
_MOST_LINES = 64
#: A place is not worth a longer wait, nor an error.
_PATIENCE_S = 0.5


class _Snapshot(NamedTuple):
    taken: float  # monotonic
    positions: list[int]  # of the line's first, rising
    urgent: int  # how many wait in more urgent steps of the same version


_UNKNOWN = Place(None, None)


class Places:
    """`of` from any endpoint."""

    def __init__(self, predictions: Predictions, tenants: Tenants, registry: Registry) -> None:
        self._predictions = predictions
        self._tenants = tenants
        self._registry = registry
        self._thread = Threads("places", 1)
        self._snapshots: dict[str, _Snapshot] = {}  # by line
        self._tasks: dict[str, asyncio.Task[_Snapshot]] = {}  # those being taken

    async def of(self, row: Prediction) -> Place:
        """Of a queued row. Null where it is too far, SQL does not say, or it comes when its batch does."""
        if row.batch_id is not None:
            return _UNKNOWN
        snapshot = self._snapshots.get(row.line)
        if snapshot is None or time.monotonic() - snapshot.taken >= _EVERY_S:
            try:
                snapshot = await asyncio.shield(self._tasks.get(row.line) or self._begin(row.line))
            except StorageUnavailable:
                return _UNKNOWN
        ahead = bisect_left(snapshot.positions, row.position) + snapshot.urgent
        if ahead > FARTHEST:
            return _UNKNOWN
        view = self._registry.views.get(row.model)
        version = None if view is None else view.versions.get(row.version)
        rate = 0.0 if version is None else drain_rate(version)
        return Place(ahead, round((ahead + 1) / rate, 1) if rate > 0 else None)

    def _begin(self, line: str) -> "asyncio.Task[_Snapshot]":
        task = self._tasks[line] = asyncio.get_running_loop().create_task(self._take(line))
        task.add_done_callback(seen)
        return task

    async def _take(self, line: str) -> _Snapshot:
        taken = time.monotonic()
        try:
            positions, urgent = await self._thread.run(lambda: self._read(line), patience_s=_PATIENCE_S)
        finally:
            del self._tasks[line]
        if len(self._snapshots) >= _MOST_LINES:
            self._snapshots.clear()
        snapshot = self._snapshots[line] = _Snapshot(taken, positions, urgent)
        return snapshot

    def _read(self, line: str) -> tuple[list[int], int]:
        model, version, step, _ = broker.parse_line(line)
        urgent = [
            name
            for name in broker.lines(model, version, self._tenants.classes())
            if broker.parse_line(name).step < step
        ]
        # One more than anybody is told of.
        positions = self._predictions.first_positions(line, FARTHEST + 1)
        return positions, self._predictions.depth(urgent, FARTHEST + 1) if urgent else 0

    def close(self) -> None:
        self._thread.close()
