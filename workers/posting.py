"""HTTP/1.1 POSTs to receivers of webhooks, from one event loop, on connections that are kept for a while.

A client of its own for two reasons. It connects to the very address that was checked, while the host's name stays in
Host and in TLS's SNI. And it costs a tenth of a general one, whose pool looks at all its connections at every request.
It follows no redirect, decodes no body and reads a bounded part of it.
"""

import asyncio
import contextlib
import ssl
import time
import urllib.parse
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import cast

import httptools

from headway.egress import Egress

#: Of an answer's head and of its body, bytes; what has more body is not read to its end.
_MOST_HEAD = 65_536
_MOST_BODY = 65_536
#: Many servers close a connection that was idle for five seconds.
_IDLE_S = 4.0
#: For each address of a host: one that swallows everything must not keep the next from being tried.
_CONNECT_S = 6.0


class PostFailed(Exception):  # noqa: N818  (the field says "failed")
    """There was no answer; the message says why."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a POST goes: a URL as `Egress.checked_url` has made it, taken apart."""

    secure: bool
    host: str  # without brackets
    port: int
    authority: str  # as in Host
    path: str  # with the query


@dataclass(frozen=True, slots=True)
class Answered:
    status: int
    retry_after: str  # "" where there is none


Origin = tuple[bool, str, int]


def target(url: str) -> Target:
    """Of a plain URL."""
    parts = urllib.parse.urlsplit(url)
    secure = parts.scheme == "https"
    path = f"{parts.path}?{parts.query}" if parts.query else parts.path
    return Target(secure, parts.hostname or "", parts.port or (443 if secure else 80), parts.netloc, path)


class Poster:
    """Of one event loop. `close` when nothing is under way any more."""

    def __init__(self, egress: Egress, names: Executor, tls: ssl.SSLContext, *, most_idle: int) -> None:
        """`names`: threads in which the names of receivers are resolved."""
        self._egress = egress
        self._names = names
        self._tls = tls
        self._most_idle = most_idle
        self._idle: dict[Origin, list[_Connection]] = {}  # each the newest last
        self._since: dict[_Connection, float] = {}  # all idle ones, the oldest first

    async def post(self, to: Target, headers: Sequence[tuple[str, str]], body: bytes) -> Answered:
        """Raises PostFailed, UrlRefused, ValueError (what cannot be sent). Bound it: nothing here ends by itself."""
        lines = [f"POST {to.path} HTTP/1.1", f"Host: {to.authority}", *(f"{name}: {value}" for name, value in headers)]
        if any("\r" in line or "\n" in line for line in lines):
            raise ValueError("a header has a line break")
        request = "\r\n".join([*lines, f"Content-Length: {len(body)}", "\r\n"]).encode("ascii") + body
        origin = (to.secure, to.host, to.port)
        if (kept := self._kept(origin)) is not None:
            with contextlib.suppress(_Untouched):  # it was closed while it was idle: nobody has seen the request
                return await self._ask(origin, kept, request)
        return await self._ask(origin, await self._connect(to), request)

    def close(self) -> None:
        for connection in self._since:
            connection.close()
        self._since.clear()
        self._idle.clear()

    def sweep(self) -> None:
        """Closes what has been idle for long; to be called now and then."""
        limit = time.monotonic() - _IDLE_S
        for connection, since in list(self._since.items()):
            if since > limit and len(self._since) <= self._most_idle:
                break
            self._forget(connection)
            connection.close()

    async def _ask(self, origin: Origin, connection: "_Connection", request: bytes) -> Answered:
        try:
            answer = await connection.ask(request)
        except BaseException:
            connection.close()
            raise
        if connection.reusable:
            connection.origin = origin
            self._idle.setdefault(origin, []).append(connection)
            self._since[connection] = time.monotonic()
            if len(self._since) > self._most_idle:
                self.sweep()
        else:
            connection.close()
        return answer

    def _kept(self, origin: Origin) -> "_Connection | None":
        while kept := self._idle.get(origin):
            connection = kept[-1]
            self._forget(connection)
            if connection.reusable:
                return connection
            connection.close()
        return None

    def _forget(self, connection: "_Connection") -> None:
        del self._since[connection]
        kept = self._idle[connection.origin]
        kept.remove(connection)
        if not kept:
            del self._idle[connection.origin]

    async def _connect(self, to: Target) -> "_Connection":
        """To the first of the checked addresses that answers."""
        loop = asyncio.get_running_loop()
        try:
            addresses = await loop.run_in_executor(
                self._names, lambda: self._egress.resolve(to.host, to.port, secure=to.secure)
            )
        except OSError as fault:
            raise PostFailed(f"{to.host} has no address: {fault.strerror}") from fault
        failed: PostFailed | None = None
        for address in addresses:
            try:
                async with asyncio.timeout(_CONNECT_S):
                    _, connection = await loop.create_connection(
                        _Connection,
                        address,
                        to.port,
                        ssl=self._tls if to.secure else None,
                        server_hostname=to.host.rstrip(".") if to.secure else None,
                    )
            except TimeoutError:
                failed = PostFailed(f"could not connect within {_CONNECT_S:g} s")
            except OSError as fault:
                failed = PostFailed(_reason(fault))
            else:
                return connection
        raise failed or PostFailed(f"{to.host} has no address")


def _reason(fault: OSError) -> str:
    if isinstance(fault, ssl.SSLCertVerificationError):
        return f"its TLS certificate is not valid: {fault.verify_message}"
    if isinstance(fault, ssl.SSLError):
        return f"TLS failed: {fault.reason or fault}"
    return f"could not connect: {fault.strerror or fault or type(fault).__name__}"


class _Untouched(PostFailed):
    """The connection ended before anything of an answer came."""


class _Connection(asyncio.Protocol):
    """One request at a time; also the callbacks of its parser."""

    origin: Origin

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._answer: asyncio.Future[Answered] | None = None
        self._lost = False
        self._begin()

    @property
    def reusable(self) -> bool:
        return self._answer is None and self._keep and not self._lost

    async def ask(self, request: bytes) -> Answered:
        """Raises PostFailed."""
        self._begin()
        if self._lost:
            raise _Untouched("the connection was closed")
        self._answer = asyncio.get_running_loop().create_future()
        try:
            self._transport.write(request)
            return await self._answer
        finally:
            self._answer = None

    def close(self) -> None:
        if not self._lost:
            self._transport.abort()

    def _begin(self) -> None:
        self._bytes = 0
        self._body = 0
        self._sized = False
        self._headed = False
        self._retry_after = b""
        self._keep = True

    def _end(self, *, keep: bool) -> None:
        self._keep = keep
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(Answered(self._parser.get_status_code(), self._retry_after.decode("latin-1")))

    def _fail(self, fault: PostFailed) -> None:
        self._keep = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(fault)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's is one without being a subclass

    def data_received(self, data: bytes) -> None:
        self._bytes += len(data)
        if self._answer is None or self._answer.done():  # nobody has asked
            self._keep = False
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._end(keep=False)
        except httptools.HttpParserError as fault:
            self._fail(PostFailed(f"its answer is no HTTP: {fault}"))
        if not self._headed and self._bytes > _MOST_HEAD:
            self._fail(PostFailed("its answer's head is too long"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        if self._headed and not self._sized and exc is None:  # its end is the end of the body
            self._end(keep=False)
        elif self._bytes:
            self._fail(PostFailed("the connection was lost in the middle of its answer"))
        else:
            self._fail(_Untouched("the connection was lost before an answer came"))

    # httptools

    def on_header(self, name: bytes, value: bytes) -> None:
        match name.lower():
            case b"content-length" | b"transfer-encoding":
                self._sized = True
            case b"retry-after":
                self._retry_after = value

    def on_headers_complete(self) -> None:
        self._headed = self._parser.get_status_code() >= 200

    def on_body(self, body: bytes) -> None:
        self._body += len(body)
        if self._body > _MOST_BODY:
            self._end(keep=False)

    def on_message_complete(self) -> None:
        if self._headed:  # and not one of those that precede the answer
            self._end(keep=self._parser.should_keep_alive())


def new_event_loop() -> asyncio.AbstractEventLoop:
    """The fastest there is for this."""
    try:
        import uvloop
    except ImportError:  # Windows has none
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
