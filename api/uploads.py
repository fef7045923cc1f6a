"""A batch's file on its way into SQL (what is large in it, into the blob store), block by block while it arrives.

Nothing of it runs before it is complete. Who sends the same file again with the same idempotency key goes on where it
broke off: what is stored already is only compared. While one block is stored the next one is read.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import NamedTuple, TypeVar

from api import metrics
from api.exchange import Disconnected
from api.idempotency import reused
from api.inputs import measured
from api.lines import NO_DIGEST, LineCutter, Lines
from api.problems import Problem
from api.registry import Target
from api.requests import decode_line
from api.service import Service
from headway.batches import Batch
from headway.clock import new_id
from headway.errors import ItemCode, ItemError, StorageUnavailable
from headway.types import LARGE
from storage.batches import Block, NewBatch, NewItem
from storage.blobs import INPUT

log = logging.getLogger(__name__)

#: Storing a block waits so long for SQL, and is tried so often, with a pause between.
_PATIENCE_S = 10.0
_TRIES = 3
#: Lines are read, and what is large among them written to the blob store, in this time.
_READING_S = 60.0
_PAUSE_S = 1.0
#: Lines that a refusal speaks of.
_MOST_TOLD = 10

T = TypeVar("T")


class Uploaded(NamedTuple):
    batch: Batch
    replayed: bool  # an earlier request had completed it


class Upload:
    """One request's file. `run` stores it, all of it or, if the client lets it break off, what had come."""

    def __init__(self, service: Service, new: NewBatch, target: Target) -> None:
        self._service = service
        self._new = new
        self._target = target
        self._batch: Batch | None = None  # as it was when this upload met it; None before the first block
        self._cutter = LineCutter(service.settings.max_body_bytes)
        self._block_at = time.monotonic()

    async def run(self, pieces: AsyncIterator[bytes]) -> Uploaded:
        """Raises Problem, StorageUnavailable, Disconnected."""
        storing: asyncio.Task[None] | None = None
        try:
            async for piece in pieces:
                for block in self._cutter.feed(piece):
                    storing = await self._next(storing, block)
            for block in self._cutter.close():
                storing = await self._next(storing, block)
            if storing is not None:
                await storing
            return await self._seal()
        except BaseException as error:
            if storing is not None:
                await asyncio.gather(storing, return_exceptions=True)
            await self._broken_off(error)
            raise

    async def _next(self, storing: "asyncio.Task[None] | None", block: Lines) -> "asyncio.Task[None]":
        if storing is not None:
            await storing
            await self._service.submitter.make_way(self._block_at)
            self._block_at = time.monotonic()
        if block.last > (most := self._service.settings.max_batch_lines):
            raise Problem("payload_too_large", f"The file has more than {most:,} lines.")
        return asyncio.get_running_loop().create_task(self._store(block))

    async def _store(self, lines: Lines) -> None:
        if self._batch is not None and lines.number < self._batch.blocks:
            return  # an earlier request brought it
        items = await self._service.uploads.run(lambda: self._items(lines), patience_s=_READING_S)
        if self._batch is None:
            _check_first(items)
            self._batch = await self._begin()
        batch = self._batch
        if lines.number < batch.blocks:
            return
        if lines.number == batch.blocks and lines.before != batch.digest:
            raise reused()
        block = Block(number=lines.number, before=lines.before, after=lines.after, last_line=lines.last, items=items)
        if await self._in_sql(lambda: self._service.batches.append(batch, block)):
            metrics.BATCH_LINES.inc(len(items))
        else:
            await self._catch_up(batch, lines)

    async def _begin(self) -> Batch:
        batch = await self._in_sql(lambda: self._service.batches.begin(self._new, NO_DIGEST))
        if batch.idempotency_digest != self._new.idempotency_digest:
            raise reused()
        return batch

    def _items(self, lines: Lines) -> list[NewItem]:
        return [
            self._item(number, line)
            for number, line in enumerate(lines.lines, lines.first)
            if line is None or (line and not line.isspace())
        ]

    def _item(self, number: int, line: bytes | None) -> NewItem:
        id_ = new_id()
        if line is None:
            limit = self._service.settings.max_body_bytes
            return _bad(id_, number, None, f"The line is longer than {limit} bytes.")
        custom_id = None
        try:
            item = decode_line(line, self._target.model)
            custom_id = item.custom_id
            if self._target.fetches:
                size, shape = measured(self._service, self._target, item.value, item.input, "/input")
            else:
                size, shape = self._target.measure(item.value, item.input, "/input")
        except Problem as problem:
            return _bad(id_, number, custom_id, problem.detail)
        if len(item.input) <= LARGE:
            return NewItem(id_, number, custom_id, size, shape, item.input, None)
        self._service.blobs.write(id_, INPUT, item.input)
        return NewItem(id_, number, custom_id, size, shape, b"", None, len(item.input))

    async def _catch_up(self, batch: Batch, lines: Lines) -> None:
        """The block was not taken: another request sends the same file, or the batch takes no more."""
        now = await self._in_sql(lambda: self._service.batches.read(batch.id))
        if now is None or (now.ending is not None and now.sealed_at is None):
            raise Problem("already_terminal", "The batch was ended while its file came in.")
        if lines.number >= now.blocks:
            raise reused()
        self._batch = now

    async def _seal(self) -> Uploaded:
        if self._batch is None:
            raise _no_lines()
        id_, blocks, digest = self._batch.id, self._cutter.blocks, self._cutter.digest
        batch = await self._in_sql(lambda: self._service.batches.seal(id_, blocks, digest))
        if batch is not None:
            return Uploaded(batch, replayed=self._batch.sealed_at is not None)
        batch = await self._in_sql(lambda: self._service.batches.read(id_))
        if batch is None or batch.ending is not None:
            raise Problem("already_terminal", "The batch was ended while its file came in.")
        raise _no_lines() if batch.total == 0 else reused()

    async def _broken_off(self, error: BaseException) -> None:
        """Without a key nobody can complete the file, and what was refused will not be completed. A file that is
        complete already is not touched by this."""
        refused = isinstance(error, Problem) and error.code not in ("idempotency_key_reused", "already_terminal")
        batch = self._batch
        if batch is None or not (refused or (isinstance(error, Disconnected) and self._new.idempotency_key is None)):
            return
        reason = error.detail if isinstance(error, Problem) else "The upload broke off."
        try:
            await self._in_sql(lambda: self._service.batches.abandon(batch.id, reason))
        except StorageUnavailable:
            log.info("an upload that broke off could not be noted", extra={"batch": batch.id})

    async def _in_sql(self, call: Callable[[], T]) -> T:
        """A call that may be made again after an answer that came too late."""
        for _ in range(_TRIES - 1):
            try:
                return await self._service.uploads.run(call, patience_s=_PATIENCE_S)
            except StorageUnavailable as error:
                log.warning("sql is away, an upload waits: %s", error)
                await asyncio.sleep(_PAUSE_S)
        return await self._service.uploads.run(call, patience_s=_PATIENCE_S)


def _check_first(items: list[NewItem]) -> None:
    """A file that is something else altogether is better refused than taken for a million mistakes. Raises Problem."""
    bad = [(item.line, item.error.message) for item in items if item.error is not None]
    if bad and len(bad) == len(items):
        raise Problem(
            "validation_failed",
            f"No line of the file's beginning is a prediction. Line {bad[0][0]}: {bad[0][1]}",
            errors=[{"line": str(line), "detail": message} for line, message in bad[:_MOST_TOLD]],
        )


def _bad(id_: str, number: int, custom_id: str | None, message: str) -> NewItem:
    message = message.replace("\0", "\N{REPLACEMENT CHARACTER}")
    return NewItem(id_, number, custom_id, 0, None, b"", ItemError(ItemCode.INVALID_INPUT, message))


def _no_lines() -> Problem:
    return Problem.invalid("The file has no lines.", pointer="")
