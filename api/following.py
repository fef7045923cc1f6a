"""What a model reports of one prediction, followed within the call that has submitted it, until that has ended.

Reports come as best Redis can; the end, with the whole output, from SQL or a notice of it. So whoever follows may only
hasten what the output has in the end, and makes up there for what was lost.
"""

import asyncio
from collections.abc import AsyncGenerator
from typing import NamedTuple

from redis.exceptions import RedisError

from api.asking import cancel, ended_of
from api.exchange import Call, Disconnected
from api.reporting import Tail
from api.service import Service
from api.waiting import Waiter
from headway.notices import Ended
from headway.reports import Report
from headway.types import Prediction


class Page(NamedTuple):
    """Some reports of one attempt, in their order."""

    attempt: int
    reports: list[Report]


class Following:
    """Of a prediction of which something was reported."""

    def __init__(self, service: Service, call: Call, id_: str, within_s: float) -> None:
        self.end: Ended | Prediction | None = None  # None after the last page: it had not ended when the time was up
        self._service = service
        self._call = call
        self._id = id_
        self._now = asyncio.get_running_loop().time
        self._deadline = self._now() + within_s
        self._tail = Tail(service.reports, id_)
        self._attempt = 1
        self._n = 0  # of the last report of that attempt

    async def pages(self) -> AsyncGenerator[Page, None]:
        """What is new, until it has ended or the time is up. The first is to be asked for in the step of the report.

        Raises Disconnected.
        """
        waiter = self._register()
        try:
            while True:
                while not waiter.ended and (page := await self._news()) is not None:
                    yield page
                await waiter.wait()
                before, waiter = waiter, self._register()
                if before.ended or before.hung_up or not before.reported:
                    await self._settle(before)
                    return
        finally:
            waiter.close()

    async def rest(self) -> AsyncGenerator[Page, None]:
        """What no page has had yet. Where a prediction has ended without an output, nothing else tells it."""
        while (page := await self._news()) is not None:
            yield page

    def _register(self) -> Waiter:
        left_s = max(0.0, self._deadline - self._now())
        return self._service.waiting.register(
            (self._id,), left_s, receive=self._call.receive, until_report=True, grace=True
        )

    async def _settle(self, waiter: Waiter) -> None:
        self.end = (await ended_of(self._service, waiter)).get(self._id)
        if self.end is None:
            await cancel(self._service, self._call, [self._id])
            if waiter.hung_up:
                raise Disconnected

    async def _news(self) -> Page | None:
        """None: that is all there is now."""
        try:
            while not (reports := await self._tail.next(self._attempt, self._n, None)):
                if self._tail.ahead <= self._attempt:
                    return None
                self._attempt, self._n = self._tail.ahead, 0
        except RedisError:
            return None
        self._n = reports[-1].n
        return Page(self._attempt, reports)
