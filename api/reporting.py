"""Reports as streams read them: over one connection; what is asked while a pipeline is under way shares the next.

A list of reports may vanish (it expires, Redis is restarted) and begin again, so a place in it is checked each time.
"""

import asyncio
import contextlib
import logging
from collections.abc import Iterable

import msgspec
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from headway import reports
from headway.reports import Report

log = logging.getLogger(__name__)

#: Lists in one pipeline.
_MOST_LISTS = 64

#: About as many bytes, and at most as many reports, are read of one list at a time.
_PAGE_BYTES = 65_536
_PAGE_REPORTS = 256

#: Before anything is known of their size.
_FIRST_REPORTS = 4

_Asked = tuple[str, int, int, asyncio.Future[list[bytes]]]  # key, first and last index, the answer to be


class ReportReader:
    """Slices of lists of reports."""

    def __init__(self, redis_url: str) -> None:
        # One retry: the pool's connection may be from before a restart of Redis.
        self._redis = redis.asyncio.Redis.from_url(
            redis_url, socket_connect_timeout=1.0, socket_timeout=1.0, retry=Retry(NoBackoff(), 1)
        )
        self._next: list[_Asked] = []
        self._task: asyncio.Task[None] | None = None

    async def slice(self, id_: str, first: int, last: int) -> list[bytes]:
        """What lies at these indexes of a prediction's list, both included. Raises RedisError."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[bytes]] = loop.create_future()
        self._next.append((reports.key(id_), first, last, future))
        if self._task is None:
            self._task = loop.create_task(self._read())
        return await future

    async def _read(self) -> None:
        """Reads until nobody waits; the task starts a tick after the first came."""
        try:
            while self._next:
                asked, self._next = self._next[:_MOST_LISTS], self._next[_MOST_LISTS:]
                asked = [one for one in asked if not one[3].done()]  # who asked may be gone
                try:
                    pipeline = self._redis.pipeline(transaction=False)
                    for key, first, last, _ in asked:
                        pipeline.lrange(key, first, last)
                    found = await pipeline.execute(raise_on_error=False)
                except Exception as error:
                    if not isinstance(error, (RedisError, OSError, TimeoutError)):
                        log.exception("reports could not be read")  # and still those who asked are answered
                    # Those behind are told as well, rather than waiting out a patience of their own.
                    behind, self._next = self._next, []
                    _fail((*asked, *behind), error)
                else:
                    for (_, _, _, future), entries in zip(asked, found, strict=True):
                        if not future.done():
                            future.set_result(entries if isinstance(entries, list) else [])
        finally:
            self._task = None

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._redis.aclose()


def _fail(asked: Iterable[_Asked], error: Exception) -> None:
    for *_, future in asked:
        if not future.done():
            future.set_exception(RedisError(repr(error)))
            future.exception()  # whoever asked may be gone


class Tail:
    """One reader's place in the list of a prediction's reports."""

    def __init__(self, reader: ReportReader, id_: str) -> None:
        self._reader = reader
        self._id = id_
        self._index = 0
        self.ahead = 0  # a later attempt that the last `next` has come upon
        self._before: int | None = None  # hash of the entry before that index: the list is still the one that it was
        self._count = _FIRST_REPORTS

    async def next(self, attempt: int, n: int, until: int | None) -> list[Report]:
        """The next reports of an attempt beyond its `n`th, some at a time; none: that is all there are now.

        Goes no further than the first of a later attempt, or of a time after `until`; what is older is skipped.
        Raises RedisError.
        """
        while page := await self._page():
            found: list[Report] = []
            for entry in page:
                report = _decoded(entry)
                if report is not None:
                    late = until is not None and report.at > until
                    if report.attempt > attempt or (report.attempt == attempt and late):
                        self.ahead = max(attempt, report.attempt)
                        return found
                    if report.attempt == attempt and report.n > n:
                        found.append(report)
                        n = report.n
                self._index += 1
                self._before = hash(entry)
            if found:
                return found
        return []

    async def _page(self) -> list[bytes]:
        if self._index:
            before, *page = await self._reader.slice(self._id, self._index - 1, self._index + self._count - 1) or [b""]
            if hash(before) != self._before:
                self._index = 0
        if not self._index:
            page = await self._reader.slice(self._id, 0, self._count - 1)
        if page:
            mean = sum(map(len, page)) // len(page) + 1
            self._count = min(_PAGE_REPORTS, _PAGE_BYTES // mean + 1)
        return page


def _decoded(entry: bytes) -> Report | None:
    try:
        return reports.decode(entry)
    except msgspec.DecodeError:  # anybody may write there
        log.warning("something that is no report lies among a prediction's reports")
        return None
