"""Sends webhooks: `Deliverer.run` in a thread of the utility worker, any number of them at once.

At least once, under one id: a delivery is leased before it is sent and its result written after, and when this process
dies in between it is sent again. The lease is short, and renewed while a slow receiver thinks: what a lost deliverer
held is sent by another soon. A receiver has as many sends under way as it has earned by answering well; a slow or
dead one has few, waits for itself alone, and all such together take at most half of what there is.
"""

import asyncio
import contextlib
import datetime
import email.utils
import functools
import logging
import random
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import httpcore
import msgspec

import headway
from headway.clock import now_us
from headway.egress import Egress, UrlRefused
from headway.errors import StorageUnavailable
from headway.rendering import prediction_json, time_of
from headway.states import Status
from headway.webhooks import WebhookStatus, signatures
from storage.deliveries import Attempt, Deliveries, Leased, Result, Secrets

log = logging.getLogger(__name__)

_TIMEOUT_S = 20.0
#: A lease lasts so long, and is renewed so often while it is needed.
_LEASE_S = 10.0
_RENEW_S = 3.0
#: How long a result is tried to be written.
_MARGIN_S = 5.0
_POLL_S = 0.2
#: Sends under way, altogether and by receivers that have not earned more than the least.
_MOST = 256
_MOST_POOR = _MOST // 2
#: Sends under way to one receiver: it begins with _FIRST, earns one more by each good answer, halves by each bad one.
_FIRST = 4
_MOST_EACH = 64
#: A slower answer earns nothing.
_SLOW_S = 2.0
#: Of a response's body.
_MOST_BODY = 65_536
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
        self._tls = tls
        self._earned: dict[str, int] = {}  # receiver → sends it may have under way, where it is not _FIRST
        self._under_way: Counter[str] = Counter()
        self._leases: dict[str, int] = {}  # delivery → attempts, until its result is written
        self._keys: dict[str, tuple[float, list[str]]] = {}  # tenant → (when it was read, secrets)

    def run(self, stopping: threading.Event) -> None:
        """In a thread of its own."""
        asyncio.run(self._run(stopping))

    async def _run(self, stopping: threading.Event) -> None:
        # Names are resolved in threads too: one receiver's dead name server must not hold the others.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(32, "webhook-names"))
        self._sql = ThreadPoolExecutor(2, "webhook-sql")
        self._results: asyncio.Queue[Result | None] = asyncio.Queue()
        self._freed = asyncio.Event()
        recorder = asyncio.create_task(self._record())
        renewer = asyncio.create_task(self._renew())
        sends: set[asyncio.Task[None]] = set()
        async with self._pool(secure=True) as https, self._pool(secure=False) as http:
            while not stopping.is_set() and not recorder.done():  # it only ends by a bug, which is raised below
                for leased in await self._lease():
                    pool = https if leased.url.startswith("https:") else http
                    task = asyncio.create_task(self._send(pool, leased))
                    sends.add(task)
                    task.add_done_callback(sends.discard)
                self._freed.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._freed.wait(), _POLL_S)
            if sends:
                _, late = await asyncio.wait(sends, timeout=_DRAIN_S)
                for task in late:  # sent again when their leases end
                    task.cancel()
        self._results.put_nowait(None)
        await recorder
        renewer.cancel()
        self._sql.shutdown()

    def _pool(self, *, secure: bool) -> httpcore.AsyncConnectionPool:
        return httpcore.AsyncConnectionPool(
            ssl_context=self._tls,
            max_connections=None,
            max_keepalive_connections=_MOST,
            keepalive_expiry=5.0,
            network_backend=_Guarded(self._egress, secure=secure),
        )

    async def _lease(self) -> list[Leased]:
        """As much as there is room for. Nothing while SQL is away."""
        leased: list[Leased] = []
        try:
            for receiver in await self._in_sql(self._deliveries.due_receivers):
                if (room := self._room(receiver)) > 0:
                    taken = await self._in_sql(functools.partial(self._deliveries.lease, receiver, room, _LEASE_S))
                    self._leases |= {one.id: one.attempts for one in taken}
                    self._under_way[receiver] += len(taken)
                    leased += taken
        except StorageUnavailable as error:
            log.warning("sql is away, webhooks wait: %s", error)
        return leased

    def _room(self, receiver: str) -> int:
        earned = self._earned.get(receiver, _FIRST)
        room = min(earned - self._under_way[receiver], _MOST - self._under_way.total())
        if earned <= _FIRST:
            poor = sum(n for one, n in self._under_way.items() if self._earned.get(one, _FIRST) <= _FIRST)
            room = min(room, _MOST_POOR - poor)
        return room

    async def _send(self, pool: httpcore.AsyncConnectionPool, leased: Leased) -> None:
        began, started = now_us(), time.monotonic()
        status: int | None = None
        retry_after = 0.0
        try:
            async with asyncio.timeout(self._timeout_s):
                status, retry_after = await self._post(pool, leased)
            error = None if 200 <= status < 300 else f"answered {status}"
        except TimeoutError:
            error = f"no answer within {self._timeout_s:g} s"
        except UrlRefused as refused:
            error = str(refused)
        except StorageUnavailable:
            error = "its secret could not be read"
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, OSError, ValueError) as fault:
            error = f"{type(fault).__name__}: {fault}"
        except Exception as fault:  # a bug of ours must not send without end
            log.exception("a webhook could not be sent", extra={"delivery_id": leased.id})
            error = type(fault).__name__
        finally:
            self._under_way[leased.receiver] -= 1
            if not self._under_way[leased.receiver]:
                del self._under_way[leased.receiver]
            self._freed.set()
        seconds = time.monotonic() - started
        self._earn(leased.receiver, good=error is None and seconds < _SLOW_S)
        attempt = Attempt(
            at=began,
            seconds=round(seconds, 3),
            status_code=status,
            error=None if error is None else error.replace("\0", "")[:500],
        )
        self._results.put_nowait(self._result(leased, attempt, retry_after))

    def _earn(self, receiver: str, *, good: bool) -> None:
        earned = self._earned.pop(receiver, _FIRST)
        earned = min(earned + 1, _MOST_EACH) if good else max(earned // 2, 1)
        if earned != _FIRST:
            self._earned[receiver] = earned  # the newest last
        if len(self._earned) > 10_000:
            del self._earned[next(iter(self._earned))]

    def _result(self, leased: Leased, attempt: Attempt, retry_after: float) -> Result:
        if attempt.error is None:
            return Result(leased=leased, state=WebhookStatus.SUCCEEDED, attempt=attempt)
        if attempt.status_code == 410 or leased.step > len(self._schedule):
            log.warning("a webhook is given up: %s", attempt.error, extra={"delivery_id": leased.id})
            return Result(leased=leased, state=WebhookStatus.FAILED, attempt=attempt)
        delay = self._schedule[leased.step - 1] * random.uniform(1 - _JITTER, 1 + _JITTER)
        return Result(leased=leased, state=WebhookStatus.PENDING, attempt=attempt, delay_s=max(delay, retry_after))

    async def _post(self, pool: httpcore.AsyncConnectionPool, leased: Leased) -> tuple[int, float]:
        """(status, Retry-After in seconds). Redirects are answers like any other, and the body is not decoded."""
        body = body_of(leased, self._public_url)
        at = datetime.datetime.now(datetime.UTC)
        keys = await self._secrets_of(leased.tenant_id)
        headers = {
            "content-type": "application/json",
            "content-length": str(len(body)),
            "user-agent": f"Headway/{headway.__version__}",
            "webhook-id": leased.id,
            "webhook-timestamp": str(int(at.timestamp())),
            "webhook-signature": signatures(keys, leased.id, at, body.decode()),
        }
        if leased.traceparent is not None:
            headers["traceparent"] = leased.traceparent
        url = httpcore.URL(leased.url)
        # Checked once more as it was when it was accepted: what is allowed may have changed since.
        self._egress.checked_url(leased.url)
        host = url.host.decode() if url.port is None else f"{url.host.decode()}:{url.port}"
        extensions = {"timeout": dict.fromkeys(("connect", "read", "write", "pool"), self._timeout_s)}
        async with pool.stream(
            "POST", url, headers=[("host", host), *headers.items()], content=body, extensions=extensions
        ) as response:
            size = 0
            async for chunk in response.aiter_stream():
                size += len(chunk)
                if size > _MOST_BODY:
                    break
            return response.status, _retry_after(response.headers)

    async def _secrets_of(self, tenant_id: str) -> list[str]:
        read_at, keys = self._keys.get(tenant_id, (-_SECRETS_S, []))
        if time.monotonic() - read_at > _SECRETS_S:
            keys = await self._in_sql(lambda: self._secrets.valid(tenant_id))
            self._keys[tenant_id] = (time.monotonic(), keys)
        return keys

    async def _record(self) -> None:
        """What has been answered while the last transaction committed goes into the next one."""
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
                    await self._in_sql(lambda results=results: self._deliveries.record(results))  # type: ignore[misc]
                    break
                except StorageUnavailable as error:
                    if time.monotonic() > give_up:
                        log.warning("results of webhooks are lost, they will be sent again: %s", error)
                        break
                    await asyncio.sleep(0.1)
            for result in results:
                if self._leases.get(result.leased.id) == result.leased.attempts:
                    del self._leases[result.leased.id]

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


def body_of(leased: Leased, public_url: str) -> bytes:
    """The event: the same bytes at every attempt."""
    omitted = leased.prediction.status is Status.SUCCEEDED and leased.prediction.output is None
    return msgspec.json.encode(
        {
            "type": leased.event,
            "timestamp": time_of(leased.at),
            "data": msgspec.Raw(prediction_json(leased.prediction, public_url, output_omitted=omitted)),
        }
    )


def _retry_after(headers: Iterable[tuple[bytes, bytes]]) -> float:
    """Seconds, a day at most; 0 where there is none or it makes no sense."""
    text = next((value for name, value in headers if name.lower() == b"retry-after"), b"").decode("latin-1").strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), _LONGEST_RETRY_AFTER_S)
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    return min(max(moment.timestamp() - time.time(), 0.0), _LONGEST_RETRY_AFTER_S)


class _Guarded(httpcore.AsyncNetworkBackend):
    """Connects to the very address that was checked; the host's name stays in Host and in TLS's SNI."""

    def __init__(self, egress: Egress, *, secure: bool) -> None:
        self._egress = egress
        self._secure = secure
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  (httpcore's signature)
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        addresses = await asyncio.to_thread(self._egress.resolve, host, port, secure=self._secure)
        fault: Exception | None = None
        for address in addresses:
            try:
                return await self._inner.connect_tcp(address, port, timeout, local_address, socket_options)
            except httpcore.NetworkError as error:
                fault = error
        raise fault or httpcore.ConnectError(f"{host} has no address")

    async def connect_unix_socket(self, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        raise UrlRefused("Webhooks go to https only.")

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)
