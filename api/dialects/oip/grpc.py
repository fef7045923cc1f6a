"""The protocol's gRPC port, `inference.GRPCInferenceService`, in the event loop that serves everything else.

The rule is that of the HTTP ports: who calls is known before a message is read, so every method is taken as one that
streams, and its message is asked for by us. A caller who hangs up or whose deadline has passed lets go of what is
queued.
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, NamedTuple

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from tritonclient.grpc import service_pb2

from api import metrics
from api.access import NOBODY, Caller
from api.dialects import jobs
from api.dialects.oip import decoupled, ensembles, inference, messages, metadata, repository
from api.dialects.oip.errors import Code, Refused, refused_of
from api.dialects.oip.requests import Inference
from api.dialects.oip.statistics import Statistics, statistics_of
from api.entrance import Entrance, one_authorization
from api.exchange import Call, Disconnected, request_id, single_headers
from api.service import Service
from headway.errors import SettingsError
from headway.keys import Scope

log = logging.getLogger(__name__)

_SERVICE = "inference.GRPCInferenceService"
_STREAM = "ModelStreamInfer"
#: What Kubernetes asks of a gRPC server, as Triton's own answers it.
_HEALTH = "/grpc.health.v1.Health/Check"
_SERVING, _NOT_SERVING = b"\x08\x01", b"\x08\x02"

#: Calls of one connection at once.
_STREAMS = 1024
#: Requests of one stream that are under way; further ones are read when the first of them is answered.
_AHEAD = 64
#: A message has so long to come, or what it takes at this rate.
_MESSAGE_S = 60.0
_BYTES_PER_S = 100_000
#: What is under way when the server stops has so long; `waiting.release` ends it before.
_GRACE_S = 8.0
#: A status message travels in a header, and clients take 8 KiB of those.
_MOST_DETAILS = 2000

Context = Any  # grpc.aio.ServicerContext


async def run(service: Service, stopped: asyncio.Event, *, shared: bool, most: int) -> None:
    """Serves until `stopped`. `shared`: other API processes listen at the same port. `most`: connections, and calls.

    Raises SettingsError.
    """
    settings = service.settings
    port = settings.dialects["oip"]["grpc"]
    answering = _Answering(service)
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
    log.info("gRPC of the Open Inference Protocol at port %d", bound)
    try:
        await stopped.wait()
    finally:
        answering.drain()
        await server.stop(_GRACE_S)


def _address(host: str, port: int) -> str:
    """One address, as the other ports have it: a name may stand for several."""
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    return f"[{address[0]}]:{port}" if family == socket.AF_INET6 else f"{address[0]}:{port}"


class _Method(NamedTuple):
    function: Callable[[Any, Call], Awaitable[Message]]
    scope: Scope | None  # None: it needs no key


class _Answering(grpc.GenericRpcHandler):  # type: ignore[misc]
    """The methods, who may call them, and how their errors are told."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._entrance = Entrance(service)
        self._methods = _Methods(service, statistics_of(service))
        self._patience_s = max(_MESSAGE_S, service.settings.max_body_bytes / _BYTES_PER_S)
        self._readers: set[asyncio.Task[None]] = set()  # of streams
        self._working: set[asyncio.Task[Any]] = set()  # only so that nobody takes them for garbage
        self._handlers = {f"/{_SERVICE}/{method.name}": self._handler(method) for method in messages.SERVICE.methods}
        self._handlers[_HEALTH] = grpc.unary_unary_rpc_method_handler(self._health)

    def service(self, details: Any) -> Any:
        return self._handlers.get(details.method)

    def drain(self) -> None:
        """Streams are read no further; what they have sent is answered."""
        for reader in self._readers:
            reader.cancel()

    def _handler(self, method: Any) -> Any:
        """Of the service's method of this name."""
        messages_of = {
            "request_deserializer": GetMessageClass(method.input_type).FromString,
            "response_serializer": GetMessageClass(method.output_type).SerializeToString,
        }
        if method.client_streaming:
            return grpc.stream_stream_rpc_method_handler(self._stream, **messages_of)
        known = self._methods.table.get(method.name)
        if known is None:
            return None

        async def serve(_: Any, context: Context) -> Message:
            return await self._unary(method.name, known, context)

        return grpc.stream_unary_rpc_method_handler(serve, **messages_of)

    async def _unary(self, name: str, method: _Method, context: Context) -> Message:
        caller = None
        gone = asyncio.Event()
        try:
            headers, id_ = _headers(context)
            caller = NOBODY if method.scope is None else self._entrance.enter(headers.get(b"authorization"))
            caller.must(method.scope)
            request = await self._message(context)
            call = _call(name, headers, id_, caller, gone)
            reply = await self._kept(method.function(request, call), gone)
            metrics.count_request(_label(name), 200)
            return reply
        except Exception as error:
            await _abort(name, context, error)
            raise AssertionError("it has been aborted") from error
        finally:
            if caller is not NOBODY:
                self._entrance.leave(caller)

    async def _message(self, context: Context) -> Any:
        """Raises Refused, Disconnected."""
        try:
            async with asyncio.timeout(self._patience_s):
                request = await context.read()
        except TimeoutError as error:
            raise Refused(Code.UNAVAILABLE, "the message came too slowly") from error
        except DecodeError as error:
            raise Refused(Code.INVALID_ARG, "the message is none of this method") from error
        if request is grpc.aio.EOF:
            raise Disconnected  # or it was too large: gRPC has told the client
        return request

    async def _kept(self, work: Awaitable[Message], gone: asyncio.Event) -> Message:
        """What the call is canceled for is not left half done: it hears that the caller is gone, and ends by itself."""
        task = asyncio.ensure_future(work)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            gone.set()
            if not task.done():
                self._working.add(task)
                task.add_done_callback(self._done)
            raise

    def _done(self, task: "asyncio.Task[Any]") -> None:
        self._working.discard(task)
        if not task.cancelled():
            task.exception()  # nobody is left to be told

    # A stream

    async def _stream(self, _: Any, context: Context) -> None:
        """Each request is one for itself, many at once; they are answered in their order.

        Only the responses of decoupled models come as they come.
        """
        gone = asyncio.Event()
        caller = reader = None
        try:
            headers, id_ = _headers(context)
            caller = self._entrance.enter(headers.get(b"authorization"))
            caller.must("predict")
            stream = _Stream(context, gone)
            reader = asyncio.create_task(self._read(stream, context, headers, id_, gone))
            self._readers.add(reader)
            reader.add_done_callback(self._readers.discard)
            reader.add_done_callback(lambda _: stream.answers.put_nowait(None))
            while (answer := await stream.answers.get()) is not None:
                if (message := await answer) is not None:
                    await stream.write(message)
                stream.room.release()
            if not reader.cancelled():
                reader.result()
        except Exception as error:
            await _abort(_STREAM, context, error)
        finally:
            gone.set()
            if reader is not None:
                reader.cancel()
            self._entrance.leave(caller)

    async def _read(
        self, stream: "_Stream", context: Context, headers: dict[bytes, bytes], id_: str, gone: asyncio.Event
    ) -> None:
        while True:
            await stream.room.acquire()
            try:
                request = await context.read()
            except DecodeError as error:
                raise Refused(Code.INVALID_ARG, "the message is none of this method") from error
            if request is grpc.aio.EOF:
                return
            task = asyncio.create_task(self._one(stream, headers, id_, gone, request))
            self._working.add(task)
            task.add_done_callback(self._done)
            stream.answers.put_nowait(task)

    async def _one(
        self, stream: "_Stream", headers: dict[bytes, bytes], id_: str, gone: asyncio.Event, request: Any
    ) -> Message | None:
        """What a request of a stream is answered in its place; None: a decoupled model has answered it as it liked.

        Its key may have been revoked since the one before.
        """
        answer = service_pb2.ModelStreamInferResponse()
        caller: Caller | None = None
        try:
            caller = self._entrance.enter(headers.get(b"authorization"))
            caller.must("predict")
            call = _call(_STREAM, headers, id_, caller, gone)
            several = await self._methods.several(request, call)
            if several is None:
                answer.infer_response.CopyFrom(await self._methods.infer(request, call))
                answer.infer_response.parameters[decoupled.FINAL].bool_param = True
            else:
                async with contextlib.aclosing(several) as responses:
                    async for response in responses:
                        await stream.write(response)
            metrics.count_request(_label(_STREAM), 200)
            return answer if several is None else None
        except Exception as error:
            refused = _CANCELED if isinstance(error, Disconnected) else refused_of(error)
            metrics.count_request(_label(_STREAM), refused.code.http)
            answer.error_message = str(refused)[:_MOST_DETAILS]
            answer.infer_response.id = request.id
            return answer
        finally:
            self._entrance.leave(caller)

    async def _health(self, _: bytes, context: Context) -> bytes:
        return _SERVING if await repository.is_ready(self._service) else _NOT_SERVING


class _Stream:
    """What was read of one, and is answered in this order; None: nothing more comes."""

    def __init__(self, context: Context, gone: asyncio.Event) -> None:
        self.answers: asyncio.Queue[asyncio.Task[Message | None] | None] = asyncio.Queue()
        self.room = asyncio.Semaphore(_AHEAD)
        self._context = context
        self._gone = gone
        self._writing = asyncio.Lock()

    async def write(self, message: Message) -> None:
        """One at a time, as fast as the client takes them. Raises Disconnected."""
        async with self._writing:
            if self._gone.is_set():
                raise Disconnected
            await self._context.write(message)


_CANCELED = Refused(Code.UNAVAILABLE, "the caller has gone")


def _headers(context: Context) -> tuple[dict[bytes, bytes], str]:
    """Of a call's metadata, and its request id. Raises Problem."""
    raw = [
        (name.encode(), value if isinstance(value, bytes) else value.encode())
        for name, value in context.invocation_metadata() or ()
    ]
    headers = single_headers(raw)
    if len(headers) != len(raw):
        one_authorization([name for name, _ in raw])
    return headers, request_id(raw)


def _label(name: str) -> str:
    return f"oip grpc {name}"


def _call(name: str, headers: dict[bytes, bytes], id_: str, caller: Caller, gone: asyncio.Event) -> Call:
    async def receive() -> dict[str, Any]:
        await gone.wait()
        return {"type": "http.disconnect"}

    scope = {"path": f"/{_SERVICE}/{name}", "query_string": b""}
    return Call(scope, receive, {}, id_, headers=headers, tenant=caller.tenant, key=caller.key)


async def _abort(name: str, context: Context, error: Exception) -> None:
    """Raises what ends the call."""
    refused = _CANCELED if isinstance(error, Disconnected) else refused_of(error)
    metrics.count_request(_label(name), refused.code.http)
    trailing = tuple((name.decode(), value.decode("latin-1")) for name, value in refused.headers)
    await context.abort(grpc.StatusCode[refused.code.grpc], str(refused)[:_MOST_DETAILS], trailing)


class _Methods:
    """What each method does: a message in, a message out."""

    def __init__(self, service: Service, statistics: Statistics) -> None:
        self._service = service
        self._statistics = statistics
        self.table = {
            "ServerLive": _Method(self.server_live, None),
            "ServerReady": _Method(self.server_ready, None),
            "ModelReady": _Method(self.model_ready, None),
            "ServerMetadata": _Method(self.server, "read"),
            "ModelMetadata": _Method(self.model, "read"),
            "ModelConfig": _Method(self.config, "read"),
            "ModelStatistics": _Method(self.stats, "read"),
            "ModelInfer": _Method(self.infer, "predict"),
            "RepositoryIndex": _Method(self.index, "read"),
            "RepositoryModelLoad": _Method(self.load, "admin"),
            "RepositoryModelUnload": _Method(self.unload, "admin"),
            "TraceSetting": _Method(_unsupported("traces nothing at a client's word"), "read"),
            "LogSettings": _Method(_unsupported("logs as its operator says, not its clients"), "read"),
            "SystemSharedMemoryStatus": _Method(self.no_system_memory, "read"),
            "SystemSharedMemoryRegister": _Method(_unsupported("reads no shared memory"), "predict"),
            "SystemSharedMemoryUnregister": _Method(self.system_forgotten, "predict"),
            "CudaSharedMemoryStatus": _Method(self.no_cuda_memory, "read"),
            "CudaSharedMemoryRegister": _Method(_unsupported("reads no shared memory"), "predict"),
            "CudaSharedMemoryUnregister": _Method(self.cuda_forgotten, "predict"),
        }

    async def server_live(self, request: Any, call: Call) -> Message:
        return service_pb2.ServerLiveResponse(live=True)

    async def server_ready(self, request: Any, call: Call) -> Message:
        return service_pb2.ServerReadyResponse(ready=await repository.is_ready(self._service))

    async def model_ready(self, request: Any, call: Call) -> Message:
        ready = False
        with contextlib.suppress(Refused):
            row, _ = await repository.version_of(self._service, request.name, request.version)
            ready = row.state == "ready"
        return service_pb2.ModelReadyResponse(ready=ready)

    async def server(self, request: Any, call: Call) -> Message:
        return messages.parsed(metadata.server(), service_pb2.ServerMetadataResponse())

    async def model(self, request: Any, call: Call) -> Message:
        row, versions = await repository.version_of(self._service, request.name, request.version)
        return messages.parsed(metadata.model(row, versions), service_pb2.ModelMetadataResponse())

    async def config(self, request: Any, call: Call) -> Message:
        row, _ = await repository.version_of(self._service, request.name, request.version)
        return messages.parsed({"config": metadata.config(row)}, service_pb2.ModelConfigResponse())

    async def stats(self, request: Any, call: Call) -> Message:
        if request.name:
            rows = repository.counted(self._service, request.name, request.version)
        else:
            rows = [row for view in self._service.registry.views.values() for row in view.versions.values()]
        shown = [self._statistics.shown(row.model, row.version) for row in rows]
        return messages.parsed({"model_stats": shown}, service_pb2.ModelStatisticsResponse())

    async def infer(self, request: Any, call: Call) -> Message:
        service = self._service
        service.submitter.check_room()
        call.params = {"model": request.model_name, "version": request.model_version}
        asked = messages.inference_of(request)
        if inference.is_job(asked) or jobs.is_job(call):
            reply = await inference.job(service, call, asked, request.SerializeToString(deterministic=True))
        else:
            once = decoupled.NOT_BY_INFER
            reply = await ensembles.infer(service, call, asked, self._statistics, once=once)
        return messages.reply_of(reply, asked)

    async def several(self, request: Any, call: Call) -> AsyncGenerator[Message, None] | None:
        """What a decoupled model answers; None: it is none, or a job is asked for. Raises Refused, Problem."""
        service = self._service
        service.submitter.check_room()
        _, manifest = await inference.resolve(service, request.model_name, request.model_version)
        if not inference.is_decoupled(manifest):
            return None
        asked = messages.inference_of(request)
        if inference.is_job(asked) or jobs.is_job(call):
            return None
        call.params = {"model": request.model_name, "version": request.model_version}
        return self._responses(call, asked)

    async def _responses(self, call: Call, asked: Inference) -> AsyncGenerator[Message, None]:
        """Raises Refused, Problem, Disconnected."""
        empty_final = decoupled.wants_empty_final(asked)
        async with contextlib.aclosing(decoupled.answers(self._service, call, asked, self._statistics)) as answers:
            async for one in answers:
                if one.reply is None and one.error is None and not empty_final:
                    continue
                message = service_pb2.ModelStreamInferResponse()
                if one.reply is not None:
                    message.infer_response.CopyFrom(messages.reply_of(one.reply, asked))
                else:
                    message.infer_response.model_name, message.infer_response.id = call.params["model"], asked.id
                    message.error_message = "" if one.error is None else str(one.error)[:_MOST_DETAILS]
                message.infer_response.parameters[decoupled.FINAL].bool_param = one.final
                yield message

    async def index(self, request: Any, call: Call) -> Message:
        await self._service.registry.refresh()
        shown = repository.index(self._service, ready=request.ready)
        return messages.parsed({"models": shown}, service_pb2.RepositoryIndexResponse())

    async def load(self, request: Any, call: Call) -> Message:
        if request.parameters:
            raise repository.unconfigurable()
        await repository.load(self._service, call, request.model_name)
        return service_pb2.RepositoryModelLoadResponse()

    async def unload(self, request: Any, call: Call) -> Message:
        await repository.unload(self._service, call, request.model_name)
        return service_pb2.RepositoryModelUnloadResponse()

    async def no_system_memory(self, request: Any, call: Call) -> Message:
        if request.name:
            raise repository.no_region("system", request.name)
        return service_pb2.SystemSharedMemoryStatusResponse()

    async def no_cuda_memory(self, request: Any, call: Call) -> Message:
        if request.name:
            raise repository.no_region("CUDA", request.name)
        return service_pb2.CudaSharedMemoryStatusResponse()

    async def system_forgotten(self, request: Any, call: Call) -> Message:
        return service_pb2.SystemSharedMemoryUnregisterResponse()

    async def cuda_forgotten(self, request: Any, call: Call) -> Message:
        return service_pb2.CudaSharedMemoryUnregisterResponse()


def _unsupported(what: str) -> Callable[[Any, Call], Awaitable[Message]]:
    async def refuse(request: Any, call: Call) -> Message:
        raise Refused(Code.UNSUPPORTED, f"this server {what}")

    return refuse
