"""The protocol's HTTP port: its table of routes, binary tensors both ways, and bodies compressed either way."""

import gzip
import re
import zlib
from typing import Any

import msgspec
import numpy as np

from api.answers import Answer, Headers
from api.dialects import jobs
from api.dialects.front import Dialect, Route
from api.dialects.oip import errors, metadata, repository
from api.dialects.oip.errors import Code, Refused
from api.dialects.oip.inference import Output, Reply, infer, prepare, resolve
from api.dialects.oip.requests import Inference, Wanted, read
from api.dialects.oip.statistics import Statistics
from api.exchange import Call, too_large
from api.service import Service
from headway import tensors
from headway.keys import Scope
from headway.registry import Version

_JSON: Headers = ((b"content-type", b"application/json"),)
_LENGTH = b"inference-header-content-length"


def front(service: Service) -> Dialect:
    port = _Port(Statistics())
    model = r"/v2/models/(?P<model>[^/]+)(?:/versions/(?P<version>[^/]+))?"

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
        route("POST", "/v2/repository/index", port.index, "index", "read"),
        route("POST", "/v2/repository/models/(?P<model>[^/]+)/load", port.load, "load", "admin"),
        route("POST", "/v2/repository/models/(?P<model>[^/]+)/unload", port.unload, "unload", "admin"),
    ]
    return Dialect(service, "oip", routes, refuse=errors.answer, unknown=_unknown)


async def _unknown(service: Service, call: Call) -> Answer:
    raise Refused(Code.NOT_FOUND, "Not Found")


def _answer(value: object) -> Answer:
    return Answer(200, msgspec.json.encode(value), _JSON)


class _Port:
    """The endpoints, and what they count."""

    def __init__(self, statistics: Statistics) -> None:
        self._statistics = statistics

    async def server(self, service: Service, call: Call) -> Answer:
        return _answer(metadata.server())

    async def health(self, service: Service, call: Call) -> Answer:
        """200 and nothing, or 400: SQL can be reached and takes submissions."""
        if call.params["what"] == "live":
            return Answer(200, b"", ())
        return Answer(400 if service.draining or not service.registry.views else 200, b"", ())

    async def models(self, service: Service, call: Call) -> Answer:
        """As KServe lists them."""
        return _answer({"models": list(service.registry.views)})

    async def model(self, service: Service, call: Call) -> Answer:
        row, versions = await _version(service, call)
        return _answer(metadata.model(row, versions))

    async def model_ready(self, service: Service, call: Call) -> Answer:
        row, _ = await _version(service, call)
        if row.state != "ready":
            raise Refused(Code.INVALID_ARG, "Model version not ready")
        return Answer(200, b"", ())

    async def config(self, service: Service, call: Call) -> Answer:
        row, _ = await _version(service, call)
        return _answer(metadata.config(row))

    async def stats(self, service: Service, call: Call) -> Answer:
        if "model" in call.params:
            row, _ = await _version(service, call)
            rows = [row]
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
            raise Refused(
                Code.UNSUPPORTED,
                "load: this server takes no configuration or files from clients; change the model folder",
            )
        await repository.load(service, call, call.params["model"])
        return Answer(200, b"", ())

    async def unload(self, service: Service, call: Call) -> Answer:
        await call.body(service.settings.max_body_bytes)
        await repository.unload(service, call, call.params["model"])
        return Answer(200, b"", ())

    async def infer(self, service: Service, call: Call) -> Answer:
        service.submitter.check_room()
        limit = service.settings.max_body_bytes
        body = _inflated(await call.body(limit), call.headers.get(b"content-encoding"), limit)
        inference = read(body, call.headers.get(_LENGTH))
        if jobs.is_job(call):
            asked = await prepare(service, call, inference)
            if len(asked.rows) > 1:
                raise Refused(
                    Code.INVALID_ARG,
                    f"a job is one prediction, and these are {len(asked.rows)} rows for model '{asked.target.model}'",
                )
            return await jobs.submit(service, call, asked.target, asked.rows[0], body)
        reply = await infer(service, call, inference, self._statistics)
        answer = written(reply, inference)
        return _deflated(answer, call.headers.get(b"accept-encoding", b""))


async def _version(service: Service, call: Call) -> tuple[Version, list[str]]:
    target, _ = await resolve(service, call.params["model"], call.params.get("version"))
    view = await service.registry.model(target.model)
    served = [version for version, row in view.versions.items() if row.state == "ready"] or [target.version]
    return view.versions[target.version], served


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
            output = _classified(output, wanted.classes)
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


def _classified(output: Output, count: int) -> Output:
    """The largest of each row as "value:index"."""
    rows = output.array.reshape(len(output.array) if output.array.ndim > 1 else 1, -1)
    order = np.argsort(-rows.astype(np.float64), axis=1, kind="stable")[:, :count]
    texts = np.empty(order.shape, dtype=object)
    for row, indexes in enumerate(order):
        texts[row] = [f"{rows[row, index]:f}:{index}".encode() for index in indexes]
    return Output(output.name, "BYTES", texts if output.array.ndim > 1 else texts[0])


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
