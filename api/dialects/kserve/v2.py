"""The Open Inference Protocol as KServe's server speaks it: its checks, its null members, its words."""

from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import msgspec

from api.answers import Answer
from api.dialects import jobs
from api.dialects.kserve import catalogue
from api.dialects.kserve.counters import counting
from api.dialects.kserve.errors import JSON, Refused, invalid, not_ready
from api.dialects.kserve.messages import check
from api.dialects.oip import ensembles, metadata, repository, requests
from api.dialects.oip.errors import Refused as OipRefused
from api.dialects.oip.inference import Output, submit
from api.dialects.oip.requests import Inference, Wanted
from api.dialects.oip.statistics import statistics_of
from api.exchange import Call
from api.service import Service
from headway import tensors

_LENGTH = b"inference-header-content-length"
#: The release whose answers these are.
_VERSION = "0.21.0"


async def server(service: Service, call: Call) -> Answer:
    return _answer({"name": "kserve", "version": _VERSION, "extensions": ["model_repository_extension"]})


async def live(service: Service, call: Call) -> Answer:
    return _answer({"live": True})


async def ready(service: Service, call: Call) -> Answer:
    if not await repository.is_ready(service):
        raise Refused(503, "Server is not ready.")
    return _answer({"ready": True})


async def models(service: Service, call: Call) -> Answer:
    return _answer({"models": catalogue.names(service)})


async def model(service: Service, call: Call) -> Answer:
    """Of one that says nothing of its inputs, which KServe's runtimes do not, the lists are empty."""
    name = call.params["model"]
    await service.registry.refresh()
    _, row = await catalogue.target_of(service, name, call.params.get("version"))
    shown: dict[str, Any] = {"name": name, "versions": None, "platform": "", "inputs": [], "outputs": []}
    if not row.manifest.whole:
        shown |= {
            key: [{"name": one, "datatype": type_, "shape": list(shape)} for one, (type_, shape) in named.items()]
            for key, named in (
                ("inputs", metadata.inputs_of(row.manifest)),
                ("outputs", metadata.outputs_of(row.manifest)),
            )
        }
    return _answer(shown)


async def model_ready(service: Service, call: Call) -> Answer:
    name = call.params["model"]
    await catalogue.ready(service, name, call.params.get("version"))
    return _answer({"name": name, "ready": True})


async def load(service: Service, call: Call) -> Answer:
    name = call.params["model"]
    await call.body(service.settings.max_body_bytes)
    await service.registry.refresh()
    if name not in service.registry.views:
        raise not_ready(name)
    try:
        await repository.load(service, call, name)
    except OipRefused as refused:
        raise not_ready(name, str(refused)) from refused
    return _answer({"name": name, "load": True})


async def unload(service: Service, call: Call) -> Answer:
    name = call.params["model"]
    await call.body(service.settings.max_body_bytes)
    await catalogue.target_of(service, name)
    await repository.unload(service, call, name)
    return _answer({"name": name, "unload": True})


async def infer(service: Service, call: Call) -> Answer:
    service.submitter.check_room()
    target, _ = await catalogue.target_of(service, call.params["model"], call.params.get("version"))
    body = await call.body(service.settings.max_body_bytes)
    inference = _read(call, body)
    if jobs.is_job(call):
        return await submit(service, call, inference, body)
    with counting(target.model, "predict") as ends:
        reply = await ensembles.infer(service, call, inference, statistics_of(service))
        ends += reply.ends
    return _written(target.model, inference, reply.outputs)


def _read(call: Call, body: bytes) -> Inference:
    """JSON, or JSON before binary tensors, where a header says how much of it is. Raises Refused."""
    length = call.headers.get(_LENGTH)
    if call.headers.get(b"content-type", b"").partition(b";")[0].strip().lower() == b"application/json":
        check(body)
        return requests.read(body, None)
    if length is None:
        raise invalid(f"received byte inputs, but the'{_LENGTH.decode()}' header is missing.")
    return requests.read(body, length)


def _written(model: str, inference: Inference, outputs: Sequence[Output]) -> Answer:
    """JSON with its null members, or JSON before the binary tensors that were asked for. Raises Refused."""
    named = {output.name: output for output in outputs}
    wanted = inference.outputs or [Wanted(name, inference.binary) for name in named]
    shown: list[dict[str, Any]] = []
    binary: list[bytes] = []
    for one in wanted:
        output = named.get(one.name)
        if output is None:
            raise invalid(f"Unexpected inference output '{one.name[:200]}' for model '{model}'")
        told: dict[str, Any] = {"name": one.name, "shape": list(output.shape), "datatype": output.datatype}
        if one.binary:
            binary.append(tensors.from_array(output.array, output.datatype)[2])
            told["parameters"] = {"binary_data_size": len(binary[-1])}
        else:
            told |= {"parameters": None, "data": _flat(output)}
        shown.append(told)
    head = {"model_name": model, "model_version": None, "id": inference.id or str(uuid4())}
    if not binary:
        return _answer({**head, "parameters": None, "outputs": shown})
    encoded = msgspec.json.encode({**head, "outputs": shown})
    headers = ((b"content-type", b"application/octet-stream"), (_LENGTH, b"%d" % len(encoded)))
    return Answer(200, b"".join([encoded, *binary]), headers)


def _flat(output: Output) -> list[Any]:
    flat: list[Any] = output.array.reshape(-1).tolist()
    if output.datatype == "FP16":
        raise invalid(
            f"Sending FP16 data via JSON is not supported. Please use the binary data format for output {output.name}"
        )
    try:
        return [value.decode() if isinstance(value, bytes) else value for value in flat]
    except UnicodeDecodeError as error:
        raise invalid(
            f"output '{output.name}' has bytes that are no UTF-8: ask for it with the parameter binary_data"
        ) from error


def _answer(value: Any) -> Answer:
    return Answer(200, msgspec.json.encode(value), JSON)
