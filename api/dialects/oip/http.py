"""The protocol's HTTP port: its table of routes, binary tensors both ways, and bodies compressed either way."""

import contextlib
import gzip
import re
import zlib
from collections.abc import AsyncGenerator, Sequence
from typing import Any
from urllib.parse import unquote

import msgspec

from api.answers import Answer, Headers, Streamed, Write
from api.dialects import jobs
from api.dialects.front import Dialect, Route
from api.dialects.oip import decoupled, errors, generate, metadata, repository
from api.dialects.oip.classification import classified
from api.dialects.oip.decoupled import Answered
from api.dialects.oip.ensembles import infer
from api.dialects.oip.errors import Code, Refused
from api.dialects.oip.inference import Output, Reply, is_decoupled, is_job, job, submit
from api.dialects.oip.requests import Inference, Wanted, read
from api.dialects.oip.statistics import Statistics, statistics_of
from api.endpoint import EndpointFunction
from api.exchange import Call, too_large
from api.problems import Problem
from api.service import Service
from headway import tensors
from headway.keys import Scope
from headway.registry import Version

_JSON: Headers = ((b"content-type", b"application/json"),)
_EVENTS: Headers = ((b"content-type", b"text/event-stream; charset=utf-8"),)
_LENGTH = b"inference-header-content-length"


def front(service: Service) -> Dialect:
    port = _Port(statistics_of(service))
    model = r"/v2/models/(?P<model>[^/]+)(?:/versions/(?P<version>[^/]+))?"

    region = r"/v2/(?P<kind>system|cuda)sharedmemory(?:/region/(?P<region>[^/]+))?"

    def route(methods: str, pattern: str, function: Any, name: str, scope: Scope | None) -> Route:
        return Route(methods.split(), re.compile(pattern), function, name, scope)

    routes = [
        route("POST", f"{model}/infer", port.infer, "infer", "predict"),
        route("GET", "/v2", port.server, "server", "read"),
        route("GET", "/v2/health/(?P<what>live|ready)", port.health, "health", None),
        route("GET", "/v2/models", port.models, "models", "read"),
        route("GET", r"/v2/models/stats", port.stats, "stats", "read"),
        route("GET", model, port.model, "model", "read"),
        route("GET", f"{model}/ready", port.model_ready, "model ready", None),
        route("GET", f"{model}/config", port.config, "config", "read"),
        route("GET", f"{model}/stats", port.stats, "stats", "read"),
        route("POST", f"{model}/generate", port.generate, "generate", "predict"),
        route("POST", f"{model}/generate_stream", port.generate_stream, "generate_stream", "predict"),
        route("GET POST", "/v2/logging", port.logging, "logging", "read"),
        route("GET POST", f"(?:{model}|/v2)/trace/setting", port.trace, "trace", "read"),
        route("GET", f"{region}/status", port.no_memory, "shared memory", "read"),
        route("POST", f"{region}/unregister", port.forgotten, "shared memory", "predict"),
        route("POST", f"{region}/register", port.no_registering, "shared memory", "predict"),
        route("POST", "/v2/repository/index", port.index, "index", "read"),
        route("POST", "/v2/repository/models/(?P<model>[^/]+)/load", port.load, "load", "admin"),
        route("POST", "/v2/repository/models/(?P<model>[^/]+)/unload", port.unload, "unload", "admin"),
    ]
    return Dialect(service, "oip", routes, refuse=errors.answer, unknown=_unknown(routes))


def _unknown(routes: Sequence[Route]) -> EndpointFunction:
    """What is at no route, and what is asked by another method than its own."""

    async def unknown(service: Service, call: Call) -> Answer:
        path = unquote(call.path)
        methods = [method for each in routes if each.pattern.fullmatch(path) for method in each.methods]
        if methods:
            raise Refused(Code.METHOD, "Method Not Allowed", ((b"allow", ", ".join(methods).encode()),))
        raise Refused(Code.NOT_FOUND, "Not Found")

    return unknown


def _answer(value: object) -> Answer:
    return Answer(200, msgspec.json.encode(value), _JSON)


class _Port:
    """The endpoints, and what they count."""

    def __init__(self, statistics: Statistics) -> None:
        self._statistics = statistics

    async def server(self, service: Service, call: Call) -> Answer:
        return _answer(metadata.server())

    async def health(self, service: Service, call: Call) -> Answer:
        """200 and nothing, or 400."""
        well = call.params["what"] == "live" or await repository.is_ready(service)
        return Answer(200 if well else 400, b"", ())

    async def models(self, service: Service, call: Call) -> Answer:
        """As KServe lists them."""
        return _answer({"models": list(service.registry.views)})

    async def model(self, service: Service, call: Call) -> Answer:
        row, versions = await _version(service, call)
        return _answer(metadata.model(row, versions))

    async def model_ready(self, service: Service, call: Call) -> Answer:
        try:
            row, _ = await _version(service, call)
        except Refused as refused:
            raise _not_ready() from refused
        if row.state != "ready":
            raise _not_ready()
        return Answer(200, b"", ())

    async def config(self, service: Service, call: Call) -> Answer:
        row, _ = await _version(service, call)
        return _answer(metadata.config(row))

    async def stats(self, service: Service, call: Call) -> Answer:
        if "model" in call.params:
            rows = repository.counted(service, call.params["model"], call.params.get("version"))
        else:
            rows = [row for view in service.registry.views.values() for row in view.versions.values()]
        return _answer({"model_stats": [self._statistics.shown(row.model, row.version) for row in rows]})

    async def index(self, service: Service, call: Call) -> Answer:
        body = await call.body(service.settings.max_body_bytes)
        asked = _decoded(body) if body.strip() else {}
        await service.registry.refresh()
        return _answer(repository.index(service, ready=asked.get("ready") is True))

    async def load(self, service: Service, call: Call) -> Answer:
        body = await call.body(service.settings.max_body_bytes)
        if body.strip() and _decoded(body).get("parameters"):
            raise repository.unconfigurable()
        await repository.load(service, call, call.params["model"])
        return Answer(200, b"", ())

    async def unload(self, service: Service, call: Call) -> Answer:
        await call.body(service.settings.max_body_bytes)
        await repository.unload(service, call, call.params["model"])
        return Answer(200, b"", ())

    async def generate(self, service: Service, call: Call) -> Answer:
        """Of a decoupled model, its only answer."""
        body, inference, several = await _generation(service, call)
        if jobs.is_job(call):
            return await submit(service, call, inference, body)
        ask = decoupled.only if several else infer
        return Answer(200, generate.answer_of(await ask(service, call, inference, self._statistics)), _JSON)

    async def generate_stream(self, service: Service, call: Call) -> Answer | Streamed:
        """An event each time the model answers; the status is that of the first."""
        body, inference, several = await _generation(service, call)
        if jobs.is_job(call):
            return await submit(service, call, inference, body)
        if not several:
            reply = await infer(service, call, inference, self._statistics)
            return Answer(200, generate.event_of(Answered(True, reply)), _EVENTS)
        events = self._events(service, call, inference)
        first = await anext(events, None)
        if first is None:
            return Answer(200, b"", _EVENTS)
        status = 200 if first.error is None else first.error.code.http
        if not call.takes_pieces:
            pieces = [generate.event_of(first)] + [generate.event_of(one) async for one in events]
            return Answer(status, b"".join(pieces), _EVENTS)

        async def write(write: Write) -> None:
            async with contextlib.aclosing(events):
                await write(generate.event_of(first))
                async for one in events:
                    await write(generate.event_of(one))

        return Streamed(_EVENTS, write, status)

    async def _events(self, service: Service, call: Call, inference: Inference) -> AsyncGenerator[Answered, None]:
        """The answers that have something to show; what goes wrong after the first is one, too."""
        begun = False
        try:
            async with contextlib.aclosing(decoupled.answers(service, call, inference, self._statistics)) as answers:
                async for one in answers:
                    if one.reply is not None or one.error is not None:
                        begun = True
                        yield one
        except (Refused, Problem) as error:
            if not begun:
                raise
            yield Answered(True, error=errors.refused_of(error))

    async def logging(self, service: Service, call: Call) -> Answer:
        raise Refused(Code.UNSUPPORTED, "this server logs as its operator says, not its clients")

    async def trace(self, service: Service, call: Call) -> Answer:
        raise Refused(Code.UNSUPPORTED, "this server traces nothing at a client's word")

    async def no_memory(self, service: Service, call: Call) -> Answer:
        """None is registered."""
        if "region" in call.params:
            kind = call.params["kind"]
            raise repository.no_region("CUDA" if kind == "cuda" else kind, call.params["region"])
        return _answer([])

    async def forgotten(self, service: Service, call: Call) -> Answer:
        """What never was registered is so afterwards."""
        return Answer(200, b"", ())

    async def no_registering(self, service: Service, call: Call) -> Answer:
        raise Refused(Code.UNSUPPORTED, "this server reads no shared memory")

    async def infer(self, service: Service, call: Call) -> Answer:
        body = await _body(service, call)
        inference = read(body, call.headers.get(_LENGTH))
        if jobs.is_job(call):
            return await submit(service, call, inference, body)
        if is_job(inference):
            reply = await job(service, call, inference, body)
        else:
            reply = await infer(service, call, inference, self._statistics, once=decoupled.NOT_BY_HTTP)
        answer = written(reply, inference)
        return _deflated(answer, call.headers.get(b"accept-encoding", b""))


def _not_ready() -> Refused:
    return Refused(Code.INVALID_ARG, "Model version not ready")


async def _body(service: Service, call: Call) -> bytes:
    """Of a request that asks the model, inflated. Raises Refused, Problem, Disconnected."""
    service.submitter.check_room()
    limit = service.settings.max_body_bytes
    return _inflated(await call.body(limit), call.headers.get(b"content-encoding"), limit)


async def _version(service: Service, call: Call) -> tuple[Version, list[str]]:
    return await repository.version_of(service, call.params["model"], call.params.get("version"))


async def _generation(service: Service, call: Call) -> tuple[bytes, Inference, bool]:
    """(body, what it asks, whether the model may answer it several times). Raises Refused, Problem, Disconnected."""
    body = await _body(service, call)
    row, _ = await _version(service, call)
    return body, generate.inference_of(body, row.manifest), is_decoupled(row.manifest)


def _decoded(body: bytes) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise Refused(Code.INVALID_ARG, f"failed to parse the request JSON buffer: {error}") from error
    if not isinstance(value, dict):
        raise Refused(Code.INVALID_ARG, "the request should be a JSON object")
    return value


def written(reply: Reply, inference: Inference) -> Answer:
    """JSON, followed by those outputs that are to be binary."""
    asked = {one.name: one for one in inference.outputs}
    shown: list[dict[str, Any]] = []
    binary: list[bytes] = []
    for output in reply.outputs:
        wanted = asked.get(output.name) or Wanted(output.name, inference.binary)
        if wanted.classes:
            output = classified(output, wanted.classes)
        one: dict[str, Any] = {"name": output.name, "datatype": output.datatype, "shape": list(output.shape)}
        if wanted.binary:
            _, _, data = tensors.from_array(output.array, output.datatype)
            one["parameters"] = {"binary_data_size": len(data)}
            binary.append(data)
        else:
            one["data"] = _flat(output)
        shown.append(one)
    head: dict[str, Any] = {"id": reply.id} if reply.id else {}
    head |= {"model_name": reply.model, "model_version": reply.version, "outputs": shown}
    if reply.parameters:
        head["parameters"] = reply.parameters
    encoded = msgspec.json.encode(head)
    if not binary:
        return Answer(200, encoded, _JSON)
    headers = ((b"content-type", b"application/octet-stream"), (_LENGTH, b"%d" % len(encoded)))
    return Answer(200, b"".join([encoded, *binary]), headers)


def _flat(output: Output) -> list[Any]:
    values: list[Any] = output.array.reshape(-1).tolist()
    if output.datatype != "BYTES":
        return values
    try:
        return [value.decode("utf-8") if isinstance(value, bytes) else str(value) for value in values]
    except UnicodeDecodeError as error:
        raise Refused(
            Code.INVALID_ARG, f"output '{output.name}' has bytes that are no UTF-8: ask for it as binary data"
        ) from error


def _inflated(body: bytes, encoding: bytes | None, limit: int) -> bytes:
    """Raises Refused, and Problem for what becomes larger than `limit` bytes."""
    name = (encoding or b"identity").strip().lower()
    if name == b"identity":
        return body
    if name not in (b"gzip", b"deflate"):
        raise Refused(Code.UNSUPPORTED, "known Content-Encodings are gzip and deflate")
    inflater = zlib.decompressobj(wbits=31 if name == b"gzip" else 15)
    try:
        inflated = inflater.decompress(body, limit + 1)
    except zlib.error as error:
        raise Refused(Code.INVALID_ARG, f"the body is no {name.decode()}: {error}") from error
    if len(inflated) > limit:
        raise too_large(limit)
    if not inflater.eof:
        raise Refused(Code.INVALID_ARG, f"the body ends within its {name.decode()}")
    return inflated


#: What is shorter is sent as it is.
_WORTH_IT = 1024


def _deflated(answer: Answer, accepted: bytes) -> Answer:
    names = [each.partition(b";")[0].strip().lower() for each in accepted.split(b",")]
    if len(answer.body) < _WORTH_IT:
        return answer
    if b"gzip" in names:
        body, name = gzip.compress(answer.body, compresslevel=1), b"gzip"
    elif b"deflate" in names:
        body, name = zlib.compress(answer.body, level=1), b"deflate"
    else:
        return answer
    return Answer(answer.status, body, (*answer.headers, (b"content-encoding", name)))
