"""A gRPC port of a dialect, in the event loop that serves everything else.

The rule is that of the HTTP ports: who calls is known before a message is read, so every method is taken as one that
streams, and its message is asked for by us. A caller who hangs up or whose deadline has passed lets go of what is
queued.
"""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple, Protocol

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from api import metrics
from api.access import NOBODY, Caller
from api.answers import Headers
from api.entrance import Entrance, one_authorization
from api.exchange import Call, Disconnected, request_id, single_headers
from api.service import Service
from headway.errors import SettingsError
from headway.keys import Scope

log = logging.getLogger(__name__)

#: Calls of one connection at once.
_STREAMS = 1024
#: A message has so long to come, or what it takes at this rate.
_MESSAGE_S = 60.0
_BYTES_PER_S = 100_000
#: What is under way when the server stops has so long; `waiting.release` ends it before.
_GRACE_S = 8.0
#: A status message travels in a header, and clients take 8 KiB of those.
MOST_DETAILS = 2000

Context = Any  # grpc.aio.ServicerContext


class _Code(Protocol):
    @property
    def http(self) -> int: ...
    @property
    def grpc(self) -> str: ...


class Refusal(Protocol):
    """How a dialect tells an error; its text is the status message."""

    @property
    def code(self) -> _Code: ...
    @property
    def headers(self) -> Headers: ...


class Words(NamedTuple):
    """How a dialect tells what goes wrong: any exception, and what is found out here."""

    refused_of: Callable[[Exception], Refusal]
    unavailable: Callable[[str], Exception]
    invalid: Callable[[str], Exception]


class Method(NamedTuple):
    """A message in, a message out; `scope`: what the caller's key must have, None where it needs none."""

    function: Callable[[Any, Call], Awaitable[Message]]
    scope: Scope | None


class Answering(grpc.GenericRpcHandler):  # type: ignore[misc]
    """The methods, who may call them, and how their errors are told."""

    def __init__(self, service: Service, dialect: str, words: Words) -> None:
        self.dialect = dialect
        self.entrance = Entrance(service)
        self.handlers: dict[str, Any] = {}  # by /SERVICE/METHOD
        self._words = words
        self._patience_s = max(_MESSAGE_S, service.settings.max_body_bytes / _BYTES_PER_S)
        self._working: set[asyncio.Task[Any]] = set()  # only so that nobody takes them for garbage

    def service(self, details: Any) -> Any:
        return self.handlers.get(details.method)

    def drain(self) -> None:
        """Nothing more is read; what has been is answered."""

    def add(self, described: Any, table: Mapping[str, Method]) -> None:
        """`described`: the ServiceDescriptor of which these are methods."""
        for name, method in table.items():
            messages = described.methods_by_name[name]
            self.handlers[f"/{described.full_name}/{name}"] = grpc.stream_unary_rpc_method_handler(
                self._serving(f"/{described.full_name}/{name}", method),
                request_deserializer=GetMessageClass(messages.input_type).FromString,
                response_serializer=GetMessageClass(messages.output_type).SerializeToString,
            )

    def _serving(self, path: str, method: Method) -> Any:
        async def serve(_: Any, context: Context) -> Message:
            return await self._unary(path, method, context)

        return serve

    async def _unary(self, path: str, method: Method, context: Context) -> Message:
        caller = None
        gone = asyncio.Event()
        try:
            headers, id_ = headers_of(context)
            caller = NOBODY if method.scope is None else self.entrance.enter(headers.get(b"authorization"))
            caller.must(method.scope)
            request = await self._message(context)
            call = call_of(path, headers, id_, caller, gone)
            reply = await self._kept(method.function(request, call), gone)
            self.count(path, 200)
            return reply
        except Exception as error:
            await self.abort(path, context, error)
            raise AssertionError("it has been aborted") from error
        finally:
            if caller is not NOBODY:
                self.entrance.leave(caller)

    async def _message(self, context: Context) -> Any:
        """Raises Disconnected, or the dialect's own."""
        try:
            async with asyncio.timeout(self._patience_s):
                request = await context.read()
        except TimeoutError as error:
            raise self._words.unavailable("the message came too slowly") from error
        except DecodeError as error:
            raise self.no_message() from error
        if request is grpc.aio.EOF:
            raise Disconnected  # or it was too large: gRPC has told the client
        return request

    def no_message(self) -> Exception:
        return self._words.invalid("the message is none of this method")

    async def _kept(self, work: Awaitable[Message], gone: asyncio.Event) -> Message:
        """What the call is canceled for is not left half done: it hears that the caller is gone, and ends by itself."""
        task = asyncio.ensure_future(work)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            gone.set()
            if not task.done():
                self.keep(task)
            raise

    def keep(self, task: "asyncio.Task[Any]") -> None:
        """Until it is done, whoever else waits for it."""
        self._working.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: "asyncio.Task[Any]") -> None:
        self._working.discard(task)
        if not task.cancelled():
            task.exception()  # nobody is left to be told

    def refused(self, error: Exception) -> Refusal:
        gone = self._words.unavailable("the caller has gone")
        return self._words.refused_of(gone if isinstance(error, Disconnected) else error)

    def count(self, path: str, status: int) -> None:
        metrics.count_request(f"{self.dialect} grpc {path.rpartition('/')[2]}", status)

    async def abort(self, path: str, context: Context, error: Exception) -> None:
        """Raises what ends the call."""
        refused = self.refused(error)
        self.count(path, refused.code.http)
        trailing = tuple((name.decode(), value.decode("latin-1")) for name, value in refused.headers)
        await context.abort(grpc.StatusCode[refused.code.grpc], str(refused)[:MOST_DETAILS], trailing)


async def run(
    service: Service, answering: Answering, port: int, stopped: asyncio.Event, *, shared: bool, most: int
) -> None:
    """Serves until `stopped`. `shared`: other API processes listen at the same port. `most`: connections, and calls.

    Raises SettingsError.
    """
    settings = service.settings
    server = grpc.aio.server(
        handlers=[answering],
        maximum_concurrent_rpcs=most,
        options=[
            ("grpc.so_reuseport", int(shared)),
            ("grpc.max_receive_message_length", settings.max_body_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_concurrent_streams", _STREAMS),
            ("grpc.max_allowed_incoming_connections", most),
            ("grpc.server_handshake_timeout_ms", settings.read_timeout_s * 1000),
            ("grpc.max_connection_idle_ms", 600_000),  # clients come back by themselves
            ("grpc.keepalive_time_ms", 60_000),  # whoever is gone without a word is found out
            ("grpc.keepalive_timeout_ms", 20_000),
            ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ],
    )
    await service.started.wait()
    try:
        bound = server.add_insecure_port(_address(settings.host, port))
    except RuntimeError as error:
        raise SettingsError(f"cannot listen on port {port} of {settings.host} for gRPC: {error}") from error
    await server.start()
    log.info("gRPC of the dialect %s at port %d", answering.dialect, bound)
    try:
        await stopped.wait()
    finally:
        answering.drain()
        await server.stop(_GRACE_S)


def _address(host: str, port: int) -> str:
    """One address, as the other ports have it: a name may stand for several."""
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    return f"[{address[0]}]:{port}" if family == socket.AF_INET6 else f"{address[0]}:{port}"


def headers_of(context: Context) -> tuple[dict[bytes, bytes], str]:
    """Of a call's metadata, and its request id. Raises Problem."""
    raw = [
        (name.encode(), value if isinstance(value, bytes) else value.encode())
        for name, value in context.invocation_metadata() or ()
    ]
    headers = single_headers(raw)
    if len(headers) != len(raw):
        one_authorization([name for name, _ in raw])
    return headers, request_id(raw)


def call_of(path: str, headers: dict[bytes, bytes], id_: str, caller: Caller, gone: asyncio.Event) -> Call:
    """As the endpoints of HTTP know one; its caller has hung up when `gone` is set."""

    async def receive() -> dict[str, Any]:
        await gone.wait()
        return {"type": "http.disconnect"}

    scope = {"path": path, "query_string": b""}
    return Call(scope, receive, {}, id_, headers=headers, tenant=caller.tenant, key=caller.key)
