"""Hints and notices on their way to Redis, as best they can: bounded, never waited for, dropped while Redis is away.

SQL is the truth and the janitor finds what has no hint, so a drop costs seconds. What piles up while one pipeline is
under way leaves in the next one.
"""

import asyncio
import logging
from collections.abc import Sequence

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from api import metrics
from headway import failpoints, notices
from headway.notices import Ended

log = logging.getLogger(__name__)

#: Envelopes and notices waiting to leave; more are dropped.
MOST_WAITING = 4096

#: How long Redis is left alone after it could not be reached.
_PAUSE_S = 0.25


class Publisher:
    """`hint` and `notify` return at once; `run` is the one task that speaks to Redis."""

    def __init__(self, redis_url: str) -> None:
        # One retry: the pool's connection may be from before a restart of Redis.
        self._redis = redis.asyncio.Redis.from_url(
            redis_url,
            socket_connect_timeout=1.0,
            socket_timeout=1.0,
            retry=Retry(NoBackoff(), 1),
        )
        self._waiting: list[tuple[str, list[bytes], int]] = []  # line or channel, messages, hints in them
        self._wake = asyncio.Event()
        self.reachable = True

    def hint(self, line: str, envelopes: Sequence[tuple[str, bytes]], count: int) -> None:
        """Envelopes of one line, oldest first, with `count` hints in them."""
        if len(self._waiting) >= MOST_WAITING:
            metrics.HINTS_DROPPED.inc(count)
            return
        self._waiting.append((line, [message for _, message in envelopes], count))
        self._wake.set()

    def notify(self, ended: dict[str, Ended]) -> None:
        """Tells every API process of predictions that ended here (canceled while queued)."""
        if ended:
            self._tell(notices.CHANNEL, notices.encode(ended))

    def cancel(self, ids: Sequence[str]) -> None:
        """Tells every worker that these are to be let go of."""
        self._tell(notices.CANCELS, notices.encode_ids(ids))

    def _tell(self, channel: str, message: bytes) -> None:
        if len(self._waiting) < MOST_WAITING:
            self._waiting.append((channel, [message], 0))
            self._wake.set()

    async def run(self) -> None:
        """Until canceled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            waiting, self._waiting = self._waiting, []
            hints = sum(count for _, _, count in waiting)
            try:
                await self._send(waiting)
            except (RedisError, OSError, TimeoutError) as error:
                if self.reachable:
                    log.warning("Redis cannot be reached; hints are dropped until it can", extra={"error": repr(error)})
                self.reachable = False
                metrics.HINTS_DROPPED.inc(hints)
                await asyncio.sleep(_PAUSE_S)
            else:
                self.reachable = True
                metrics.HINTS_PUBLISHED.inc(hints)

    async def _send(self, waiting: Sequence[tuple[str, list[bytes], int]]) -> None:
        pipeline = self._redis.pipeline(transaction=False)
        for name, messages, hints in waiting:
            if hints:
                pipeline.lpush(name, *messages)
            else:
                pipeline.publish(name, messages[0])
        failpoints.hit("submit.publishing")
        await pipeline.execute()
        failpoints.hit("submit.published")

    async def close(self) -> None:
        """Sends what is still waiting, if that is quick."""
        if self._waiting and self.reachable:
            try:
                await asyncio.wait_for(self._send(self._waiting), 1.0)
            except (RedisError, OSError, TimeoutError):
                log.info("the last hints could not be sent")
        await self._redis.aclose()
