"""Sends webhooks: `Deliverer.run` in a thread of the utility worker, any number of them at once.

At least once, under one id: a delivery is leased before it is sent and its result written after, and when this process
dies in between it is sent again. The lease is short, and renewed while a slow receiver thinks: what a lost deliverer
held is sent by another soon. Leases and results are groups: one transaction takes what many receivers have room for
(`workers/receivers.py`), and one writes what was answered while the last one committed.
"""

import asyncio
import contextlib
import email.utils
import functools
import logging
import random
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import msgspec

import headway
import headway.tls
from headway import failpoints
from headway.batches import Batch, batch_json
from headway.clock import now_us
from headway.egress import Egress, UrlRefused
from headway.errors import StorageUnavailable
from headway.rendering import prediction_json, time_of
from headway.states import Status
from headway.webhooks import WebhookStatus, signatures
from storage.deliveries import Attempt, Deliveries, Leased, Result, Secrets
from workers import metrics
from workers.posting import Poster, PostFailed, Target, new_event_loop, target
from workers.receivers import MOST, SLOW_S, Receivers
from workers.watchdog import Life

log = logging.getLogger(__name__)

_TIMEOUT_S = 20.0
#: A lease lasts so long, and is renewed so often while it is needed.
_LEASE_S = 10.0
_RENEW_S = 3.0
#: How long a result is tried to be written.
_MARGIN_S = 5.0
#: How often it is asked who has something due; less often where the asking takes more than a tenth of the time, but one
#: answer that took seconds, on a machine that is short of breath, must not keep everybody waiting for a minute.
_POLL_S, _LONGEST_POLL_S = 0.2, 2.0
#: Between two leases, so that one transaction serves many answers.
_PAUSE_S = 0.01
#: Between two writings of results, for the same; nobody waits for them.
_RECORD_PAUSE_S = 0.025
_LONGEST_RETRY_AFTER_S = 86_400.0
_JITTER = 0.2
#: Sends under way have this long once this process is to end.
_DRAIN_S = 8.0
_SECRETS_S = 2.0

T = TypeVar("T")


class Deliverer:
    """One for a process; `run` lasts until stopped."""

    def __init__(
        self,
        deliveries: Deliveries,
        secrets: Secrets,
        egress: Egress,
        schedule: Sequence[float],
        *,
        public_url: str = "",
        timeout_s: float = _TIMEOUT_S,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`schedule`: seconds after each failure, before jitter."""
        self._deliveries = deliveries
        self._secrets = secrets
        self._egress = egress
        self._schedule = schedule
        self._public_url = public_url
        self._timeout_s = timeout_s
        self._tls = tls or headway.tls.context()
        self._receivers = Receivers()
        self._due: dict[str, None] = {}  # receivers that may have something to send; who was served last is last
        self._leases: dict[str, int] = {}  # delivery → attempts, until its result is written
        self._keys: dict[str, tuple[float, list[str]]] = {}  # tenant → (when it was read, secrets)
        self.life = Life("who sends webhooks")
        self._target = functools.lru_cache(4096)(self._checked_target)

    def run(self, stopping: threading.Event) -> None:
        """In a thread of its own."""
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(self._run(stopping))

    async def _run(self, stopping: threading.Event) -> None:
        # One receiver's dead name server must not hold the others: a thread for each that could wait for one.
        names = ThreadPoolExecutor(MOST, "webhook-names")
        self._poster = Poster(self._egress, names, self._tls, most_idle=MOST * 3 // 4)
        self._sql = ThreadPoolExecutor(2, "webhook-sql")
        self._results: asyncio.Queue[Result | None] = asyncio.Queue()
        self._freed = asyncio.Event()
        recorder = asyncio.create_task(self._record())
        renewer = asyncio.create_task(self._renew())
        sends: set[asyncio.Task[None]] = set()
        ask_at = 0.0
        # Neither of the two ends but by a bug, which is raised below.
        while not (stopping.is_set() or recorder.done() or renewer.done()):
            self.life.goes_on()
            try:
                if (now := time.monotonic()) >= ask_at:
                    self._poster.sweep()
                    self._due |= dict.fromkeys(await self._in_sql(self._deliveries.due_receivers))
                    ask_at = (answered := time.monotonic()) + next_look_s(answered - now)
                self._freed.clear()
                leased = await self._lease()
            except StorageUnavailable as error:
                log.warning("sql is away, webhooks wait: %s", error)
                ask_at, leased = time.monotonic() + _POLL_S, []
            for one in leased:
                task = asyncio.create_task(self._send(one))
                sends.add(task)
                task.add_done_callback(sends.discard)
            await asyncio.sleep(_PAUSE_S)
            pause = min(max(ask_at - time.monotonic(), 0.0), _POLL_S)
            if self._due:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._freed.wait(), pause)
            else:  # whoever becomes free has nothing to take
                await asyncio.sleep(pause)
        if sends:
            _, late = await asyncio.wait(sends, timeout=_DRAIN_S)
            for task in late:  # sent again when their leases end
                task.cancel()
            if late:
                await asyncio.wait(late)
        self._poster.close()
        self._results.put_nowait(None)
        await recorder
        if renewer.done():
            renewer.result()
        renewer.cancel()
        self._sql.shutdown()
        names.shutdown(wait=False)

    async def _lease(self) -> list[Leased]:
        """As much as there is room for. Raises StorageUnavailable."""
        rooms = self._receivers.rooms(self._due, time.monotonic())
        if not rooms:
            return []
        leased = await self._in_sql(lambda: self._deliveries.lease(rooms, _LEASE_S))
        self._leases |= {one.id: one.attempts for one in leased}
        counts = Counter(one.receiver for one in leased)
        now = time.monotonic()
        for receiver, room in rooms.items():
            self._receivers.begin(receiver, counts[receiver], now)
            del self._due[receiver]
            if counts[receiver] == room:  # there may be more
                self._due[receiver] = None
        return leased

    async def _send(self, leased: Leased) -> None:
        began, started = now_us(), time.monotonic()
        status: int | None = None
        retry_after = 0.0
        error: str | None = "it was interrupted"
        try:
            failpoints.hit("deliver.begin")
            async with asyncio.timeout(self._timeout_s):
                status, retry_after = await self._post(leased)
            failpoints.hit("deliver.answered")
            error = None if 200 <= status < 300 else f"answered {status}"
        except TimeoutError:
            error = f"no answer within {self._timeout_s:g} s"
        except (UrlRefused, PostFailed) as fault:
            error = str(fault)
        except StorageUnavailable:
            error = "its secret could not be read"
        except Exception as fault:  # a bug of ours must not send without end
            log.exception("a webhook could not be sent", extra={"delivery_id": leased.id})
            error = f"{type(fault).__name__}: {fault}"
        finally:
            ended = time.monotonic()
            self._receivers.end(leased.receiver, ended, good=error is None and ended - started < SLOW_S)
            self._freed.set()
        attempt = Attempt(
            at=began,
            seconds=round(ended - started, 3),
            status_code=status,
            error=None if error is None else error.replace("\0", "")[:500],
        )
        result = self._result(leased, attempt, retry_after)
        metrics.webhook_attempt(result.state, (now_us() - leased.at) / 1e6)
        self._results.put_nowait(result)

    def _result(self, leased: Leased, attempt: Attempt, retry_after: float) -> Result:
        if attempt.error is None:
            return Result(leased=leased, state=WebhookStatus.SUCCEEDED, attempt=attempt)
        if attempt.status_code == 410 or leased.step > len(self._schedule):
            log.warning("a webhook is given up: %s", attempt.error, extra={"delivery_id": leased.id})
            return Result(leased=leased, state=WebhookStatus.FAILED, attempt=attempt)
        delay = self._schedule[leased.step - 1] * random.uniform(1 - _JITTER, 1 + _JITTER)
        return Result(leased=leased, state=WebhookStatus.PENDING, attempt=attempt, delay_s=max(delay, retry_after))

    async def _post(self, leased: Leased) -> tuple[int, float]:
        """(status, Retry-After in seconds). Redirects are answers like any other."""
        body = body_of(leased, self._public_url)
        at = int(time.time())
        headers = [
            ("User-Agent", f"Headway/{headway.__version__}"),
            ("Content-Type", "application/json"),
            ("webhook-id", leased.id),
            ("webhook-timestamp", str(at)),
            ("webhook-signature", signatures(await self._secrets_of(leased.tenant_id), leased.id, at, body)),
        ]
        if leased.traceparent is not None:
            headers.append(("traceparent", leased.traceparent))
        answer = await self._poster.post(self._target(leased.url), headers, body)
        return answer.status, _retry_after(answer.retry_after)

    def _checked_target(self, url: str) -> Target:
        """Checked once more as it was when it was accepted: what is allowed may have changed since."""
        return target(self._egress.checked_url(url))

    async def _secrets_of(self, tenant_id: str) -> list[str]:
        read_at, keys = self._keys.get(tenant_id, (-_SECRETS_S, []))
        if time.monotonic() - read_at > _SECRETS_S:
            keys = await self._in_sql(lambda: self._secrets.valid(tenant_id))
            self._keys[tenant_id] = (time.monotonic(), keys)
        return keys

    async def _record(self) -> None:
        """What has been answered since the last transaction began goes into the next one."""
        last = False
        while not last:
            group = [await self._results.get()]
            while not self._results.empty():
                group.append(self._results.get_nowait())
            last = None in group
            results = [result for result in group if result is not None]
            give_up = time.monotonic() + _MARGIN_S
            while results:
                try:
                    await self._in_sql(lambda results=results: self._written(results))  # type: ignore[misc]
                    break
                except StorageUnavailable as error:
                    if time.monotonic() > give_up:
                        log.warning("results of webhooks are lost, they will be sent again: %s", error)
                        break
                    await asyncio.sleep(0.1)
            for result in results:
                if self._leases.get(result.leased.id) == result.leased.attempts:
                    del self._leases[result.leased.id]
            if not last:
                await asyncio.sleep(_RECORD_PAUSE_S)

    def _written(self, results: list[Result]) -> None:
        self._deliveries.record(results)
        failpoints.hit("deliver.recorded", failpoints.storage_lost)

    async def _renew(self) -> None:
        """What is under way for long; most is over before it comes to that."""
        before: dict[str, int] = {}
        while True:
            await asyncio.sleep(_RENEW_S)
            if long := dict(before.items() & self._leases.items()):
                try:
                    await self._in_sql(lambda long=long: self._deliveries.renew(long, _LEASE_S))  # type: ignore[misc]
                except StorageUnavailable as error:
                    log.debug("sql is away, leases of webhooks run on: %s", error)
            before = dict(self._leases)

    async def _in_sql(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._sql, call)


def next_look_s(took_s: float) -> float:
    """After a look at who has something due that took so long."""
    return min(max(_POLL_S, 10 * took_s), _LONGEST_POLL_S)


def body_of(leased: Leased, public_url: str) -> bytes:
    """The event: the same bytes at every attempt."""
    subject = leased.subject
    if isinstance(subject, Batch):
        data = batch_json(subject, public_url)
    else:
        omitted = subject.status is Status.SUCCEEDED and subject.output is None
        data = prediction_json(subject, public_url, output_omitted=omitted)
    return msgspec.json.encode({"type": leased.event, "timestamp": time_of(leased.at), "data": msgspec.Raw(data)})


def _retry_after(text: str) -> float:
    """Seconds, a day at most; 0 where it makes no sense."""
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), _LONGEST_RETRY_AFTER_S)
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    return min(max(moment.timestamp() - time.time(), 0.0), _LONGEST_RETRY_AFTER_S)
