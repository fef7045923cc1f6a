"""Callers who wait: woken by notices, and sure to be told by SQL if a notice is lost.

A waiter is registered before its prediction's hint leaves, so no end can slip by. One subscription serves all. Rows
are also read at 1, 3, 7 and 15 s, every 15 s then, whenever the subscription is new, and when the caller's time is up,
which tells the caller how things stand. Who waits for any change is read every second, and as soon as a report or a
cancel was heard of. Ids nobody here waits for are skipped without decoding.
"""

import asyncio
import heapq
import logging
from collections.abc import Callable, Iterable

import msgspec
import redis.asyncio
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from starlette.types import Receive

from api import metrics
from api.reading import Reader
from headway import notices, reports
from headway.errors import StorageUnavailable
from headway.notices import Ended
from headway.types import Prediction

log = logging.getLogger(__name__)

#: Seconds after registration at which a waiter's rows are read; the last step repeats.
_READ_AT = (1.0, 3.0, 7.0, 15.0)
_READ_EVERY_S = 15.0

#: A caller who waits for any change, not for the end, has its row read this often: claims send no notice.
_CHANGE_EVERY_S = 1.0

#: How fine timeouts and reads are timed.
_TICK_S = 0.05

#: A connection is watched for hanging up once its caller has waited this long; most are served before.
_WATCH_AFTER_S = 0.1

_RECONNECT_AFTER_S = 0.25
_SUBSCRIPTION_SILENCE_S = 5.0


class Waiter:
    """One caller's wait for one or more predictions."""

    __slots__ = (
        "_waiting",
        "closed",
        "deadline",
        "ended",
        "future",
        "grace",
        "hung_up",
        "present",
        "reads",
        "receive",
        "remaining",
        "reported",
        "started",
        "unlike",
        "until_report",
        "watch",
    )

    def __init__(
        self,
        waiting: "Waiting",
        ids: Iterable[str],
        now: float,
        timeout_s: float,
        unlike: tuple[int, str | None] | None,
        receive: Receive | None,
        until_report: bool,
        grace: bool,
    ) -> None:
        self._waiting = waiting
        self.remaining = set(ids)
        self.started = now
        self.deadline = now + timeout_s
        self.unlike = unlike
        self.receive = receive
        self.until_report = until_report
        self.grace = grace
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ended: dict[str, Ended | None] = {}  # None: it ended, and only SQL has all of it
        self.present: dict[str, Prediction] = {}  # rows as SQL last showed them
        self.reads = 0
        self.hung_up = self.closed = self.reported = False
        self.watch: asyncio.Task[None] | None = None

    async def wait(self) -> None:
        """Until all have ended (or changed), the time is up, the caller hung up, or the API stops."""
        try:
            await self.future
        finally:
            self.close()

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self._waiting.forget(self)
        if self.watch is not None:
            self.watch.cancel()
        self.finish()

    def finish(self) -> None:
        if not self.future.done():
            self.future.set_result(None)

    def found(self, id_: str, ended: Ended | None) -> None:
        """This one needs no more waiting."""
        self.ended[id_] = ended
        self.remaining.discard(id_)
        if not self.remaining:
            self.finish()

    def saw(self, row: Prediction) -> None:
        """A row as SQL has it now."""
        self.present[row.id] = row
        changed = self.unlike is not None and (row.revision, row.claim) != self.unlike
        if row.id in self.remaining and (changed or (self.unlike is None and row.status.terminal)):
            if row.status.terminal:
                metrics.WAITERS_FOUND_LATE.inc()
            self.found(row.id, None)

    def next_due(self) -> float:
        """When the sweep has to look at it again."""
        if self.watch is None and self.receive is not None:
            return min(self.started + _WATCH_AFTER_S, self.deadline)
        if self.unlike is not None:
            after = _CHANGE_EVERY_S * (self.reads + 1)
        elif self.reads < len(_READ_AT):
            after = _READ_AT[self.reads]
        else:
            after = _READ_AT[-1] + _READ_EVERY_S * (self.reads - len(_READ_AT) + 1)
        return min(self.started + after, self.deadline)


class Waiting:
    """`register` from any endpoint; `listen` and `sweep` are two tasks."""

    def __init__(self, redis_url: str, reader: Reader) -> None:
        self._redis_url = redis_url
        self._reader = reader
        self._by_id: dict[str, list[Waiter]] = {}
        self._due: list[tuple[float, int, Waiter]] = []
        self._count = 0
        self._hurried: set[str] = set()
        self._wake = asyncio.Event()
        self._grace_ends = 0.0  # of those who wait when the API stops, by the loop's clock
        self.stopping = False
        self.subscribed = False
        self._hearers: dict[str, Callable[[bytes], None]] = {
            notices.CHANNEL: self.take,
            notices.CANCELS: self._take_cancels,
            reports.CHANNEL: self._take_reports,
        }

    def register(
        self,
        ids: Iterable[str],
        timeout_s: float,
        *,
        unlike: tuple[int, str | None] | None = None,
        receive: Receive | None = None,
        until_report: bool = False,
        grace: bool = False,
    ) -> Waiter:
        """`unlike`: wait until (revision, claim) differs, else for the end. `receive`: notice when the caller hangs up.

        `until_report`: wait no longer than until one may have come. `grace`: when the API stops, wait a little longer;
        with `until_report`, in the waits that follow, too. The caller must `wait` or `close`.
        """
        now = asyncio.get_running_loop().time()
        if self.stopping:
            left_s = self._grace_ends - now if grace and until_report else 0.0
            timeout_s = max(0.0, min(timeout_s, left_s))
        waiter = Waiter(self, ids, now, timeout_s, unlike, receive, until_report, grace)
        for id_ in waiter.remaining:
            waiters = self._by_id.get(id_)
            if waiters is None:
                self._by_id[id_] = [waiter]
            else:
                waiters.append(waiter)
        self._schedule(waiter)
        return waiter

    def _schedule(self, waiter: Waiter) -> None:
        self._count += 1
        heapq.heappush(self._due, (waiter.next_due(), self._count, waiter))
        self._wake.set()

    def forget(self, waiter: Waiter) -> None:
        for id_ in (*waiter.remaining, *waiter.ended):
            waiters = self._by_id.get(id_)
            if waiters is not None and waiter in waiters:
                waiters.remove(waiter)
                if not waiters:
                    del self._by_id[id_]

    def release(self, within_s: float) -> None:
        """The API is stopping: plain waits end now with the present state, `:predict` calls have `within_s` more."""
        self.stopping = True
        now = asyncio.get_running_loop().time()
        self._grace_ends = now + within_s
        for waiter in {waiter for waiters in self._by_id.values() for waiter in waiters}:
            waiter.deadline = min(waiter.deadline, self._grace_ends if waiter.grace else now)
            self._schedule(waiter)

    # --- notices

    async def listen(self) -> None:
        """One subscription, renewed for ever. Until canceled."""
        client = redis.asyncio.Redis.from_url(
            self._redis_url, socket_connect_timeout=1.0, socket_timeout=None, retry=Retry(NoBackoff(), 0)
        )
        try:
            while True:
                try:
                    async with client.pubsub() as subscription:
                        await self._hear(subscription)
                except (RedisError, OSError, TimeoutError) as error:
                    if self.subscribed:
                        log.warning("notices are interrupted; waiting callers read SQL", extra={"error": repr(error)})
                    self.subscribed = False
                await asyncio.sleep(_RECONNECT_AFTER_S)
        finally:
            await client.aclose()

    async def _hear(self, subscription: PubSub) -> None:
        await subscription.subscribe(*self._hearers)
        self.subscribed = True
        self._reported(list(self._by_id))
        await self._read_now(list(self._by_id))  # what ended while nobody listened
        asked = False
        while True:
            message = await subscription.get_message(timeout=_SUBSCRIPTION_SILENCE_S)
            if message is not None:
                asked = False
                if message["type"] == "message":
                    self._hearers[message["channel"].decode()](message["data"])
            elif asked:
                raise TimeoutError("no answer to a ping")  # half open: the peer is gone without a word
            else:
                asked = True
                await subscription.ping()

    def take(self, payload: bytes) -> None:
        """Hands a notice to whoever waits for what is in it."""
        by_id = self._by_id
        try:
            notice = notices.decode(payload)
            for id_, body in zip(notice.ids, notice.bodies, strict=False):
                waiters = by_id.get(id_)
                if waiters is not None:
                    ended = notices.decode_ended(body)
                    for waiter in tuple(waiters):
                        waiter.found(id_, None if ended.output_omitted else ended)
        except (msgspec.DecodeError, UnicodeDecodeError):  # anybody may publish
            log.warning("something that is no notice was published on the notices' channel")

    def _take_reports(self, payload: bytes) -> None:
        self._reported(self._known(payload))

    def _take_cancels(self, payload: bytes) -> None:
        self._hurry(self._known(payload))

    def _known(self, payload: bytes) -> list[str]:
        """Those of the ids in it that somebody here waits for."""
        if not self._by_id:
            return []
        try:
            return [id_ for id_ in notices.decode_ids(payload) if id_ in self._by_id]
        except (msgspec.DecodeError, UnicodeDecodeError):  # anybody may publish
            log.warning("something that is no list of ids was published on a channel of ids")
            return []

    def _reported(self, ids: list[str]) -> None:
        for id_ in ids:
            for waiter in self._by_id[id_]:
                if waiter.until_report:
                    waiter.reported = True
                    waiter.finish()
        self._hurry(ids)

    def _hurry(self, ids: list[str]) -> None:
        """The sweep's next tick reads the rows of those who wait for any change."""
        for id_ in ids:
            if any(waiter.unlike is not None and not waiter.future.done() for waiter in self._by_id[id_]):
                self._hurried.add(id_)
                self._wake.set()

    # --- SQL

    async def sweep(self) -> None:
        """Reads rows when they are due and ends waits whose time is up. Until canceled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._wake.wait()
            await asyncio.sleep(_TICK_S)
            now = loop.time()
            due: set[Waiter] = set()
            while self._due and self._due[0][0] <= now:
                waiter = heapq.heappop(self._due)[2]
                if not waiter.future.done():
                    due.add(waiter)
            if not self._due:
                self._wake.clear()
            watched = {waiter for waiter in due if self._begin_watch(waiter)}
            due -= {waiter for waiter in watched if waiter.deadline > now}
            hurried, self._hurried = self._hurried, set()
            await self._read_now([*hurried, *(id_ for waiter in due for id_ in waiter.remaining)])
            for waiter in due | watched:
                if waiter in due:
                    waiter.reads += 1
                if waiter.deadline <= now:
                    waiter.finish()
                elif not waiter.future.done():
                    self._schedule(waiter)

    async def _read_now(self, ids: list[str]) -> None:
        if not ids:
            return
        try:
            rows = await self._reader.read_all(ids)
        except StorageUnavailable:
            return  # there is a next time
        except Exception:
            log.exception("rows that callers wait for could not be read")  # and still they are answered when due
            return
        for id_, row in rows.items():
            for waiter in tuple(self._by_id.get(id_, ())):
                waiter.saw(row)

    @staticmethod
    def _begin_watch(waiter: Waiter) -> bool:
        if waiter.watch is not None or waiter.receive is None:
            return False
        waiter.watch = asyncio.get_running_loop().create_task(_watch(waiter, waiter.receive))
        return True


async def _watch(waiter: Waiter, receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    waiter.hung_up = True
    waiter.finish()
