"""How long the API waits for its clients, and for how many at once.

One look a second at every connection, and no timer for each: a request that comes at once, as almost all do, costs
nothing more. What is looked for is progress, so the clock stands still while it is the API that does not read.
"""

import asyncio
import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

log = logging.getLogger(__name__)

#: A full house is looked through seldom: so many go at once, and none is looked for again so soon.
_EVICTED_SHARE = 64
_FULL_S = 0.1
_SURPLUS_SHARE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Of one port."""

    most: int  # connections at once
    read_s: float = 10.0  # for a request's headers, and for `body_bytes` of its body
    body_bytes: int = 10_240  # of a body in `read_s`, at least: 1 kB/s
    stream_s: float = 60.0  # for `stream_bytes` of a body that may take as long as its sender needs to make it
    stream_bytes: int = 600
    idle_s: float = 75.0  # between two requests: longer than the clients and balancers that keep connections
    answer_s: float = 60.0  # in which a client takes anything at all of an answer that is complete

    @property
    def look_s(self) -> float:
        """Between two looks."""
        return min(1.0, self.read_s / 10)


class Watched(Protocol):
    """A connection as it is seen here."""

    since: float  # when it came so far, by the loop's clock

    @property
    def evictable(self) -> bool: ...

    def evict(self) -> None: ...

    def look(self, now: float) -> None:
        """Ends it where its time is over."""


class House:
    """The connections of one port."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.leaving = 0  # evicted, and not yet gone
        self.surplus = max(1, limits.most // _SURPLUS_SHARE)  # that are told that there is no room; more are cut
        self._full_until = -math.inf

    def make_room(self, connections: Iterable[Watched], now: float) -> bool:
        """Ends some of those that have been idle longest. False where all are being served."""
        if now < self._full_until:
            return False
        idle = [connection for connection in connections if connection.evictable]
        idle.sort(key=lambda connection: connection.since)
        if len(idle) <= 1:  # the one that has just come
            self._full_until = now + _FULL_S
            return False
        for connection in idle[: max(1, min(len(idle) - 1, self.limits.most // _EVICTED_SHARE))]:
            connection.evict()
        return True

    async def watch(self, connections: Iterable[Watched]) -> None:
        """Until canceled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self.limits.look_s)
            now = loop.time()
            for connection in tuple(connections):
                try:
                    connection.look(now)
                except Exception:  # of one connection; the others are still looked at
                    log.exception("a connection could not be looked at")
