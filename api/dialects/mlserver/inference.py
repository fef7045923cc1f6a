"""MLServer's inference: a request is one prediction of a model that came so, and its rows are of any other."""

import zlib
from typing import Any
from uuid import uuid4

import msgspec
from pydantic import TypeAdapter

from api.answers import Answer, Headers
from api.dialects import framework, jobs, values
from api.dialects.mlserver import catalogue
from api.dialects.mlserver.errors import JSON, Refused, detailed, failed
from api.dialects.oip import ensembles, requests
from api.dialects.oip.http import written
from api.dialects.oip.inference import Output, submit
from api.dialects.oip.statistics import statistics_of
from api.exchange import Call, too_large
from api.registry import Target
from api.service import Service
from headway import mlserver
from headway.mlserver.types import InferenceRequest
from headway.registry import Version

_EVENTS: Headers = ((b"content-type", b"text/event-stream; charset=utf-8"),)
_SERVER = b"mlserver"

_checked: TypeAdapter[InferenceRequest] = TypeAdapter(InferenceRequest)


async def infer(service: Service, call: Call) -> Answer:
    """Or 202 and a job where one is asked for."""
    found = await _reply(service, call)
    if isinstance(found, Answer):
        return found
    headers = (*JSON, *_events_headers(found["model_name"], found["id"]))
    return Answer(200, msgspec.json.encode(found), headers)


async def infer_stream(service: Service, call: Call) -> Answer:
    """One event: no model answers a request here more than once."""
    found = await _reply(service, call)
    if isinstance(found, Answer):
        return found
    return Answer(200, b"data: %b\n\n" % msgspec.json.encode(found), _EVENTS)


async def _reply(service: Service, call: Call) -> dict[str, Any] | Answer:
    service.submitter.check_room()
    body = _inflated(await call.body(service.settings.max_body_bytes), call, service.settings.max_body_bytes)
    if (length := call.headers.get(b"inference-header-content-length")) is not None:
        return await _binary(service, call, body, length)
    request = _request(call, body)
    target, row = await catalogue.target_of(service, call.params["model"], call.params.get("version"))
    reply: dict[str, Any] = {"model_name": target.model}
    if version := _version_of(row):
        reply["model_version"] = version
    reply |= {"id": request.id or str(uuid4()), "parameters": {}}
    if not row.manifest.whole:
        inference = requests.read(body, None)
        if jobs.is_job(call):
            return await submit(service, call, inference, body)
        found = await ensembles.infer(service, call, inference, statistics_of(service))
        return {**reply, "outputs": [_shown(output) for output in found.outputs]}
    given = request.model_dump(mode="json")
    given.setdefault("id", reply["id"])
    answer = await _whole(service, call, target, given, body)
    if isinstance(answer, Answer):
        return answer
    return {**reply, "parameters": answer.get("parameters") or {}, "outputs": answer["outputs"]}


async def _binary(service: Service, call: Call, body: bytes, length: bytes) -> Answer:
    """Tensors behind the JSON, as Triton's clients send them and are answered; MLServer refuses them."""
    await catalogue.target_of(service, call.params["model"], call.params.get("version"))
    inference = requests.read(body, length)
    if jobs.is_job(call):
        return await submit(service, call, inference, body)
    return written(await ensembles.infer(service, call, inference, statistics_of(service)), inference)


async def _whole(service: Service, call: Call, target: Target, given: dict[str, Any], body: bytes) -> Any:
    """The model's answer, or that of a job."""
    if jobs.is_job(call):
        (row,) = await values.rows_of(service, call, target, [given])
        return await jobs.submit(service, call, target, row, body)
    try:
        answers = await values.compute(service, call, target, [given])
    except values.Failed as error:
        raise failed(service, error) from error
    (answer,) = answers.outputs
    if not isinstance(answer, dict) or "outputs" not in answer:
        raise Refused(500, "the model answers in another protocol than this")
    return answer


def _request(call: Call, body: bytes) -> InferenceRequest:
    """Raises Refused."""
    essence = call.headers.get(b"content-type", b"application/json").partition(b";")[0].strip().lower()
    try:
        if body and essence != b"application/json" and not essence.endswith(b"+json"):
            raise framework.unread(body)
        request: InferenceRequest = framework.checked(_checked, body)
    except framework.Unlike as error:
        raise detailed(422, error.detail) from error
    return request


def _version_of(row: Version) -> str | None:
    """As it is shown: of a model of MLServer's folder what its settings say."""
    if row.manifest.backend != mlserver.BACKEND:
        return row.version
    version = (row.manifest.config["mlserver"].get("parameters") or {}).get("version")
    return None if version is None else str(version)


def _shown(output: Output) -> dict[str, Any]:
    """Of a model of Headway's own."""
    flat: list[Any] = output.array.reshape(-1).tolist()
    content_type = "np"
    if output.datatype == "BYTES":
        content_type = "str"
        try:
            flat = [value.decode() if isinstance(value, bytes) else str(value) for value in flat]
        except UnicodeDecodeError as error:
            raise Refused(
                400, f"output '{output.name}' has bytes that are no UTF-8, which JSON does not hold"
            ) from error
    shape = [*output.shape, 1] if len(output.shape) < 2 else list(output.shape)
    return {
        "name": output.name,
        "shape": shape,
        "datatype": output.datatype,
        "parameters": {"content_type": content_type},
        "data": flat,
    }


def _events_headers(model: str, id_: str) -> Headers:
    """Of the CloudEvent that each of MLServer's replies is."""
    name, of = model.encode(), "".join(one for one in id_ if " " <= one <= "~").encode()
    return (
        (b"ce-specversion", b"0.3"),
        (b"ce-source", b"io.seldon.serving.deployment." + _SERVER),
        (b"ce-type", b"io.seldon.serving.inference.response"),
        (b"ce-modelid", name),
        (b"ce-inferenceservicename", _SERVER),
        (b"ce-endpoint", name),
        (b"ce-id", of),
        (b"ce-requestid", of),
    )


def _inflated(body: bytes, call: Call, limit: int) -> bytes:
    """Raises Refused, and Problem for what becomes larger than `limit` bytes."""
    if call.headers.get(b"content-encoding", b"").strip().lower() != b"gzip":
        return body
    inflater = zlib.decompressobj(wbits=31)
    try:
        inflated = inflater.decompress(body, limit + 1)
    except zlib.error as error:
        raise Refused(400, f"the body is no gzip: {error}") from error
    if len(inflated) > limit:
        raise too_large(limit)
    if not inflater.eof:
        raise Refused(400, "the body ends within its gzip")
    return inflated
