"""A request of a hot route and its answer, straight from the connection and back onto it.

ASGI's messages, and the checks that a server makes of a foreign application's answers, cost as much as all the rest of
accepting a prediction. To uvicorn's protocol this is the `cycle`, to the endpoint the `Call`.
"""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE
from uvicorn.server import ServerState

from api.answers import NO_BODY, Answer, BrokenOff, Headers, Streamed
from api.endpoint import Endpoint
from api.exchange import Call, Disconnected, too_large

log = logging.getLogger(__name__)


class Match(NamedTuple):
    """A hot request's route."""

    endpoint: Endpoint
    params: Mapping[str, str]
    path: str


class Connection(Protocol):
    """What an exchange asks of the connection it is on."""

    address: str  # that the client has connected to
    flow: FlowControl
    transport: asyncio.Transport
    server_state: ServerState

    def on_response_complete(self) -> None: ...


class Exchange(Call):
    """Made when the request's head is complete; `Front.serve` answers it."""

    __slots__ = (
        "_held",
        "_more",
        "_news",
        "_pieces",
        "_waiter",
        "disconnected",
        "endpoint",
        "head",
        "keep_alive",
        "raw_headers",
        "response_complete",
        "response_started",
        "server",
        "version",
        "waiting_for_100_continue",
    )

    _connection: Connection | None

    def __init__(
        self,
        connection: Connection,
        match: Match,
        query: bytes,
        *,
        raw_headers: Headers,
        version: str,
        head: bool,
        keep_alive: bool,
        expects_continue: bool,
    ) -> None:
        """`head`: asked by HEAD, so that the answer's body is left out. Headers, tenant and id are `Front.serve`'s."""
        self._connection = connection
        self.endpoint, self.params, self.path = match
        self.query = query
        self.key = None
        self.raw_headers = raw_headers
        self.version = version
        self.server = connection.address
        self.head = head
        self.keep_alive = keep_alive
        self.waiting_for_100_continue = expects_continue
        self.disconnected = self.response_started = self.response_complete = False
        self._pieces: list[bytes] = []
        self._held = 0  # bytes in them
        self._more = True  # of the body may come
        self._news = False  # since `receive` last looked
        self._waiter: asyncio.Future[None] | None = None

    # What the protocol tells

    def feed(self, piece: bytes) -> None:
        """A piece of the body."""
        self._pieces.append(piece)
        self._held += len(piece)
        if self._held > HIGH_WATER_LIMIT and self._connection is not None:
            self._connection.flow.pause_reading()
        self.set()

    def completed(self) -> None:
        """The body is."""
        self._more = False
        self.set()

    @property
    def message_event(self) -> "Exchange":
        """uvicorn sets it where something has happened."""
        return self

    def set(self) -> None:
        self._news = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # What the endpoint asks

    async def receive(self) -> dict[str, Any]:
        """As ASGI has it."""
        connection = self._connection
        if connection is None or self.disconnected:
            return {"type": "http.disconnect"}
        if self.waiting_for_100_continue and not connection.transport.is_closing():
            connection.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.waiting_for_100_continue = False
        connection.flow.resume_reading()
        while not self._news:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        self._news = False
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        body, self._pieces, self._held = b"".join(self._pieces), [], 0
        return {"type": "http.request", "body": body, "more_body": self._more}

    async def body(self, limit: int) -> bytes:
        if self._more or not self._news or self.disconnected:
            return await super().body(limit)
        self._news = False
        pieces, self._pieces = self._pieces, []
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if len(body) > limit:
            raise too_large(limit)
        return body

    # What it answers

    @property
    def takes_pieces(self) -> bool:
        """Not HTTP/1.0, which has no chunks: what breaks off would look complete."""
        return self.version != "1.0" and not self.head

    async def answer(self, answer: Answer, shared: Headers = ()) -> None:
        """In one write. `shared`: further headers."""
        connection = self._connection
        assert connection is not None
        if connection.flow.write_paused and not self.disconnected:
            await connection.flow.drain()
        self._connection = None  # the two would keep each other alive
        if self.disconnected:
            return
        status, body, headers = answer
        lines = self._lines(connection, status, headers, shared)
        if status not in NO_BODY:
            lines.append(b"content-length: %d\r\n" % len(body))
        lines += (b"\r\n", b"" if self.head else body)
        connection.transport.write(b"".join(lines))
        self._complete(connection)

    async def stream(self, answer: Streamed, shared: Headers = ()) -> None:
        """In chunks, as they are made; only for who `takes_pieces`. What breaks off ends without its last chunk."""
        connection = self._connection
        assert connection is not None
        lines = self._lines(connection, answer.status, answer.headers, shared)
        connection.transport.write(b"".join((*lines, b"transfer-encoding: chunked\r\n\r\n")))
        self.waiting_for_100_continue = False
        self.response_started = True

        async def write(piece: bytes) -> None:
            if connection.flow.write_paused and not self.disconnected:
                await connection.flow.drain()
            if self.disconnected or connection.transport.is_closing():
                raise Disconnected
            if piece:
                connection.transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))

        try:
            await answer.write(write)
        except Disconnected:
            pass
        except BrokenOff as why:
            log.warning("an answer broke off: %s", why, extra={"request_id": self.request_id, "path": self.path[:200]})
        except Exception:
            log.exception("an answer broke off", extra={"request_id": self.request_id, "path": self.path[:200]})
        else:
            connection.transport.write(b"0\r\n\r\n")
            self._complete(connection)
        finally:
            self._connection = None
            if not self.response_complete:
                connection.transport.abort()

    def _lines(self, connection: Connection, status: int, headers: Headers, shared: Headers) -> list[bytes]:
        """Of the head, but for what says where the body ends."""
        lines = [STATUS_LINE[status]]
        for name, value in (*connection.server_state.default_headers, *headers, *shared):
            lines += (name, b": ", value, b"\r\n")
        lines += (b"x-request-id: ", self.request_id.encode(), b"\r\n")
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        return lines

    def _complete(self, connection: Connection) -> None:
        self.waiting_for_100_continue = False
        self.response_started = self.response_complete = True
        self.set()
        if not self.keep_alive:
            connection.transport.close()
        connection.on_response_complete()

    def abandon(self) -> None:
        """Nobody is left to answer."""
        self._connection = None
