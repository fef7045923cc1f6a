"""The protocol's gRPC port, `inference.GRPCInferenceService`: unary methods, and the stream of inferences."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from tritonclient.grpc import service_pb2

from api.access import Caller
from api.dialects import jobs, rpc
from api.dialects.oip import decoupled, ensembles, inference, messages, metadata, repository
from api.dialects.oip.errors import Code, Refused, refused_of
from api.dialects.oip.requests import Inference
from api.dialects.oip.statistics import Statistics, statistics_of
from api.dialects.rpc import Context, Method
from api.exchange import Call, Disconnected
from api.service import Service

_STREAM = f"/{messages.SERVICE.full_name}/ModelStreamInfer"
#: What Kubernetes asks of a gRPC server, as Triton's own answers it.
_HEALTH = "/grpc.health.v1.Health/Check"
_SERVING, _NOT_SERVING = b"\x08\x01", b"\x08\x02"

#: Requests of one stream that are under way; further ones are read when the first of them is answered.
_AHEAD = 64

_WORDS = rpc.Words(
    refused_of,
    unavailable=lambda said: Refused(Code.UNAVAILABLE, said),
    invalid=lambda said: Refused(Code.INVALID_ARG, said),
)


async def run(service: Service, stopped: asyncio.Event, *, dialect: str, shared: bool, most: int) -> None:
    """As `rpc.run`, at the port of a dialect."""
    port = service.settings.dialects[dialect]["grpc"]
    await rpc.run(service, _Answering(service), port, stopped, shared=shared, most=most)


class _Answering(rpc.Answering):
    def __init__(self, service: Service) -> None:
        super().__init__(service, "oip", _WORDS)
        self._service = service
        self._methods = _Methods(service, statistics_of(service))
        self._readers: set[asyncio.Task[None]] = set()  # of streams
        self.add(messages.SERVICE, self._methods.table)
        stream = messages.SERVICE.methods_by_name["ModelStreamInfer"]
        self.handlers[_STREAM] = grpc.stream_stream_rpc_method_handler(
            self._stream,
            request_deserializer=GetMessageClass(stream.input_type).FromString,
            response_serializer=GetMessageClass(stream.output_type).SerializeToString,
        )
        self.handlers[_HEALTH] = grpc.unary_unary_rpc_method_handler(self._health)

    def drain(self) -> None:
        """Streams are read no further; what they have sent is answered."""
        for reader in self._readers:
            reader.cancel()

    # A stream

    async def _stream(self, _: Any, context: Context) -> None:
        """Each request is one for itself, many at once; they are answered in their order.

        Only the responses of decoupled models come as they come.
        """
        gone = asyncio.Event()
        caller = reader = None
        try:
            headers, id_ = rpc.headers_of(context)
            caller = self.entrance.enter(headers.get(b"authorization"))
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
            await self.abort(_STREAM, context, error)
        finally:
            gone.set()
            if reader is not None:
                reader.cancel()
            self.entrance.leave(caller)

    async def _read(
        self, stream: "_Stream", context: Context, headers: dict[bytes, bytes], id_: str, gone: asyncio.Event
    ) -> None:
        while True:
            await stream.room.acquire()
            try:
                request = await context.read()
            except DecodeError as error:
                raise self.no_message() from error
            if request is grpc.aio.EOF:
                return
            task = asyncio.create_task(self._one(stream, headers, id_, gone, request))
            self.keep(task)
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
            caller = self.entrance.enter(headers.get(b"authorization"))
            caller.must("predict")
            call = rpc.call_of(_STREAM, headers, id_, caller, gone)
            several = await self._methods.several(request, call)
            if several is None:
                answer.infer_response.CopyFrom(await self._methods.infer(request, call))
                answer.infer_response.parameters[decoupled.FINAL].bool_param = True
            else:
                async with contextlib.aclosing(several) as responses:
                    async for response in responses:
                        await stream.write(response)
            self.count(_STREAM, 200)
            return answer if several is None else None
        except Exception as error:
            refused = self.refused(error)
            self.count(_STREAM, refused.code.http)
            answer.error_message = str(refused)[: rpc.MOST_DETAILS]
            answer.infer_response.id = request.id
            return answer
        finally:
            self.entrance.leave(caller)

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


class _Methods:
    """What each method does: a message in, a message out."""

    def __init__(self, service: Service, statistics: Statistics) -> None:
        self._service = service
        self._statistics = statistics
        self.table = {
            "ServerLive": Method(self.server_live, None),
            "ServerReady": Method(self.server_ready, None),
            "ModelReady": Method(self.model_ready, None),
            "ServerMetadata": Method(self.server, "read"),
            "ModelMetadata": Method(self.model, "read"),
            "ModelConfig": Method(self.config, "read"),
            "ModelStatistics": Method(self.stats, "read"),
            "ModelInfer": Method(self.infer, "predict"),
            "RepositoryIndex": Method(self.index, "read"),
            "RepositoryModelLoad": Method(self.load, "admin"),
            "RepositoryModelUnload": Method(self.unload, "admin"),
            "TraceSetting": Method(_unsupported("traces nothing at a client's word"), "read"),
            "LogSettings": Method(_unsupported("logs as its operator says, not its clients"), "read"),
            "SystemSharedMemoryStatus": Method(self.no_system_memory, "read"),
            "SystemSharedMemoryRegister": Method(_unsupported("reads no shared memory"), "predict"),
            "SystemSharedMemoryUnregister": Method(self.system_forgotten, "predict"),
            "CudaSharedMemoryStatus": Method(self.no_cuda_memory, "read"),
            "CudaSharedMemoryRegister": Method(_unsupported("reads no shared memory"), "predict"),
            "CudaSharedMemoryUnregister": Method(self.cuda_forgotten, "predict"),
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
                    message.error_message = "" if one.error is None else str(one.error)[: rpc.MOST_DETAILS]
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
