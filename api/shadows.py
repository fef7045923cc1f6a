"""Copies of predictions for versions under comparison, made once the original is committed and waited for by nobody.

A copy runs behind everything else, and what goes wrong with one is only counted: a crash may lose the last ones. It has
a row, and where the input is large a blob, of its own; both go with the original.
"""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from api import metrics
from api.problems import Problem
from api.publisher import Publisher
from api.registry import Registry, Target
from api.submitter import MOST_BYTES, MOST_ROWS, Submitter
from api.threads import Threads
from headway import broker, tensors
from headway.clock import new_id
from headway.errors import BlobsUnavailable, InputRefused, StorageUnavailable
from headway.fetching import url_of
from headway.types import BULK_PRIORITY, LARGE, Hint, NewPrediction
from storage.predictions import Predictions
from storage.tenants import Tenants

log = logging.getLogger(__name__)

#: Behind the items of batches.
PRIORITY = BULK_PRIORITY + 9

#: Copies that wait to be stored, and the bytes of their inputs; further ones are not made.
_MOST_WAITING, _MOST_WAITING_BYTES = 4096, 32 * 1024 * 1024
#: How old the count of a version's copies may become while some are made, seconds.
_EVERY_S = 1.0
_PATIENCE_S = 10.0

Write = Callable[[str, bytes], Awaitable[None]]
Forget = Callable[[str], Awaitable[None]]


class _Copy(NamedTuple):
    original: NewPrediction
    body: bytes  # its input as it came
    value: Any  # of the input; of an array's bytes their header
    target: Target


class _Backlog:
    """What is known of the copies that wait for a version."""

    __slots__ = ("added", "at", "counted")

    def __init__(self) -> None:
        self.counted = 0
        self.added = 0  # by this process since
        self.at = -math.inf  # monotonic


class Shadows:
    """`copy` from any endpoint; `run` is the one task that stores."""

    def __init__(
        self,
        predictions: Predictions,
        tenants: Tenants,
        registry: Registry,
        submitter: Submitter,
        publisher: Publisher,
        *,
        write: Write,
        forget: Forget,
    ) -> None:
        """`write` puts an input into the blob store, raising BlobsUnavailable; `forget` removes it."""
        self._predictions = predictions
        self._tenants = tenants
        self._registry = registry
        self._submitter = submitter
        self._publisher = publisher
        self._write = write
        self._forget = forget
        self._thread = Threads("shadows", 1)
        self._waiting: deque[_Copy] = deque()
        self._bytes = 0  # of their inputs
        self._backlogs: dict[tuple[str, str], _Backlog] = {}
        self._wake = asyncio.Event()

    def copy(self, original: NewPrediction, body: bytes, value: Any) -> None:
        """Of a prediction that is committed, for every version that shadows its model but its own.

        `body` is its input as it came, `value` what was read of it: JSON, or an array's header.
        """
        view = self._registry.views.get(original.model)
        if view is None or not view.route.traffic.shadow:
            return
        for target in view.shadows:
            if target.version == original.version:
                continue
            if len(self._waiting) >= _MOST_WAITING or self._bytes + len(body) > _MOST_WAITING_BYTES:
                _count(target, "skipped")
                continue
            self._waiting.append(_Copy(original, body, value, target))
            self._bytes += len(body)
            self._wake.set()

    async def run(self) -> None:
        """Until canceled. Whatever becomes of a group is that group's alone."""
        while True:
            await self._wake.wait()
            began = time.monotonic()
            group = self._take()
            stored: set[str] = set()
            try:
                stored = await self._store(group)
            except (StorageUnavailable, BlobsUnavailable) as error:
                log.warning("shadows could not be stored: %s", error, extra={"count": len(group)})
            except Exception:
                log.exception("a group of shadows failed", extra={"count": len(group)})
            for copy in group:
                _count(copy.target, "sent" if _key(copy) in stored else "skipped")
            await self._submitter.make_way(began)

    def _take(self) -> list[_Copy]:
        group: list[_Copy] = []
        size = 0
        while self._waiting and len(group) < MOST_ROWS:
            size += len(self._waiting[0].body)
            if group and size > MOST_BYTES:
                break
            copy = self._waiting.popleft()
            self._bytes -= len(copy.body)
            group.append(copy)
        if not self._waiting:
            self._wake.clear()
        return group

    async def _store(self, group: Sequence[_Copy]) -> set[str]:
        """Keys of those that are stored."""
        made: list[tuple[_Copy, NewPrediction]] = []
        for copy in group:
            row = _row(copy)
            if row is None or not await self._room(copy.target):
                continue
            if len(row.body) > LARGE:
                await self._write(row.id, row.body)
                row = msgspec.structs.replace(row, body=b"", blob_bytes=len(row.body))
            made.append((copy, row))
        if not made:
            return set()
        rows = [row for _, row in made]
        positions = await self._thread.run(lambda: self._insert(rows), patience_s=_PATIENCE_S)
        for row in rows:
            if row.id not in positions and row.blob_bytes is not None:
                await self._forget(row.id)
        hints: dict[str, list[tuple[int, Hint]]] = {}
        at_most: dict[str, int] = {}
        for copy, row in made:
            if (position := positions.get(row.id)) is not None:
                hint = Hint(id=row.id, size=row.size, shape=row.shape, position=position)
                hints.setdefault(row.line, []).append((row.priority, hint))
                at_most[row.line] = copy.target.at_most
        for line, of_line in hints.items():
            self._publisher.hint(line, broker.envelopes(line, of_line, at_most=at_most[line]), len(of_line))
        return {_key(copy) for copy, row in made if row.id in positions}

    def _insert(self, rows: Sequence[NewPrediction]) -> dict[str, int]:
        """Positions of those that are stored and whose original has not been deleted meanwhile.

        Looked up after the insert: who deletes it later finds them.
        """
        positions = {
            row.id: position
            for row, position in zip(rows, self._predictions.insert(rows, durable=False), strict=True)
            if isinstance(position, int)
        }
        originals = {row.shadow_of for row in rows if row.shadow_of is not None}
        gone = originals - self._predictions.with_blobs(list(originals))
        if gone:
            self._predictions.delete_shadows(list(gone))
        return {row.id: positions[row.id] for row in rows if row.id in positions and row.shadow_of not in gone}

    async def _room(self, target: Target) -> bool:
        """Whether one more may wait for this version, which it then does."""
        backlog = self._backlogs.setdefault((target.model, target.version), _Backlog())
        if time.monotonic() - backlog.at >= _EVERY_S:
            backlog.counted = await self._thread.run(lambda: self._depth(target), patience_s=_PATIENCE_S)
            backlog.added, backlog.at = 0, time.monotonic()
        if backlog.counted + backlog.added >= target.max_queue:
            return False
        backlog.added += 1
        return True

    def _depth(self, target: Target) -> int:
        lines = broker.all_lines(target.model, target.version, self._tenants.classes())
        return self._predictions.depth([line for line in lines if broker.is_bulk(line)], target.max_queue)

    def close(self) -> None:
        self._thread.close()


def _key(copy: _Copy) -> str:
    return f"{copy.original.id}@{copy.target.version}"


def _count(target: Target, outcome: str) -> None:
    metrics.SHADOWS.labels(target.model, target.version, outcome).inc()


def _row(copy: _Copy) -> NewPrediction | None:
    """None where its version's own check refuses the input."""
    original, target = copy.original, copy.target
    try:
        size, shape = _measured(copy)
    except (Problem, InputRefused):
        return None
    tenant_class = broker.parse_line(original.line).tenant_class
    return msgspec.structs.replace(
        original,
        id=new_id(),
        version=target.version,
        alias=None,
        line=target.line(PRIORITY, tenant_class),
        priority=PRIORITY,
        size=size,
        shape=shape,
        max_attempts=target.max_attempts,
        queue_timeout_us=None,
        webhook=None,
        webhook_events=None,
        idempotency_key=None,
        idempotency_digest=None,
        traceparent=None,
        shadow_of=original.id,
        body=copy.body,
        blob_bytes=None,
    )


def _measured(copy: _Copy) -> tuple[int, str | None]:
    """(size, shape) as its version measures it. Raises Problem, InputRefused."""
    target = copy.target
    if copy.original.content_type == tensors.MEDIA_TYPE:
        return target.measure_tensors(copy.value, len(copy.body))
    if copy.original.content_type is not None:
        return target.measure_raw(copy.value, len(copy.body), copy.original.content_type)
    if target.fetches and url_of(copy.body) is not None:
        return (len(copy.body) if target.size_by == "bytes" else 1), None
    return target.measure(copy.value, copy.body, "/input")
