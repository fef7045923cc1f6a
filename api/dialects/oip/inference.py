"""An inference request as predictions, and their outputs as tensors; whatever transport it came by.

A model from a Triton repository gets the request as it is, one prediction. A model of Headway's own has items without
a batch dimension: each row of the request is a prediction. One that declares no inputs takes and gives JSON: a row of
`input` is the text of one.
"""

import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
import numpy as np

from api.answers import Answer
from api.asking import ask
from api.dialects import jobs
from api.dialects.oip import urgency, whole
from api.dialects.oip.errors import Code, Refused
from api.dialects.oip.requests import Given, Inference
from api.dialects.oip.statistics import Statistics
from api.exchange import Call
from api.problems import Problem
from api.registry import Target
from api.service import Service
from headway import npy, tensors
from headway.clock import now_us
from headway.errors import InputRefused, ItemCode
from headway.manifest import Manifest, Tensor
from headway.notices import Ended
from headway.states import Status
from headway.types import NewPrediction, Prediction

#: What stands for the whole input and the whole output of a model that declares none.
JSON_INPUT, JSON_OUTPUT = "input", tensors.UNNAMED
#: Rows of a request to a model of our own, which become a prediction each.
MOST_ROWS = 4096
#: A request's parameter; true asks for a job.
JOB_PARAMETER = "headway_async"

Array = np.ndarray[Any, Any]


class Output(NamedTuple):
    """A tensor of a reply."""

    name: str
    datatype: str
    array: Array
    labels: Sequence[str] = ()  # of its classes, where they have names

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.array.shape)


class Reply(NamedTuple):
    model: str
    version: str
    id: str
    outputs: list[Output]
    parameters: Mapping[str, Any] = {}
    ends: Sequence[Ended | Prediction] = ()  # of its predictions


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that fits its model."""

    target: Target
    manifest: Manifest
    rows: list[NewPrediction]
    count: int  # of the request's own rows


async def infer(service: Service, call: Call, inference: Inference, statistics: Statistics) -> Reply:
    """Once all is computed. Raises Refused, Problem, Disconnected."""
    began = now_us()
    asked = await prepare(service, call, inference)
    target = asked.target
    with statistics.waiting(target.model, target.version, began):
        await service.capacity.admit(target, len(asked.rows))
        answers = await ask(service, call, asked.rows, target.at_most, within_s=jobs.LONGEST_WAIT_S)
    ended = [answers.ended.get(row.id) for row in asked.rows]
    statistics.add(target.model, target.version, asked.count, ended, began)
    failed = next((one for one in ended if one is None or one.status is not Status.SUCCEEDED), _NOBODY)
    if failed is not _NOBODY:
        raise _refusal(service, failed)
    done = [one for one in ended if one is not None]
    outputs = [await output_of(service, row.id, one) for row, one in zip(asked.rows, done, strict=True)]
    return Reply(target.model, target.version, inference.id, _tensors_of(asked, outputs, inference), ends=done)


def is_job(inference: Inference) -> bool:
    """Whether it asks by a parameter of its own for a job instead of outputs."""
    return inference.parameters.get(JOB_PARAMETER) is True


async def submit(service: Service, call: Call, inference: Inference, body: bytes) -> Answer:
    """202 and the job, once it is accepted; `body`: the whole request. Raises Refused, Problem."""
    asked = await prepare(service, call, inference)
    if len(asked.rows) > 1:
        raise Refused(
            Code.INVALID_ARG,
            f"a job is one prediction, and these are {len(asked.rows)} rows for model '{asked.target.model}'",
        )
    return await jobs.submit(service, call, asked.target, asked.rows[0], body)


async def job(service: Service, call: Call, inference: Inference, body: bytes) -> Reply:
    """As `submit`, in the form of a reply: it has no outputs, and its parameters say where they will be."""
    answer = await submit(service, call, inference, body)
    accepted = msgspec.json.decode(answer.body)
    parameters = {
        "headway_job_id": accepted["id"],
        "headway_job_status": accepted["status"],
        "headway_job_url": dict(answer.headers)[b"location"].decode(),
    }
    return Reply(accepted["model"], accepted["version"], inference.id, [], parameters)


_NOBODY: Any = object()


async def resolve(service: Service, name: str, version: str | None) -> tuple[Target, Manifest]:
    """Raises Refused where there is none."""
    try:
        target = await service.registry.resolve(name, version or None)
    except Problem as problem:
        if problem.code == "model_not_found":
            raise Refused(Code.NOT_FOUND, f"Request for unknown model: '{name}' is not found") from problem
        if problem.code == "version_not_found":
            message = f"Request for unknown model: '{name}' version {version} is not found"
            raise Refused(Code.NOT_FOUND, message) from problem
        if problem.code == "unavailable" and name in service.registry.views:  # it does not load
            raise Refused(Code.NOT_FOUND, f"Request for unknown model: '{name}' is not found") from problem
        raise
    row = (await service.registry.model(target.model)).versions[target.version]
    if row.wish == "unload":
        raise Refused(Code.NOT_FOUND, f"Request for unknown model: '{name}' has no available versions")
    return target, row.manifest


async def prepare(service: Service, call: Call, inference: Inference) -> Asked:
    """Raises Refused, Problem."""
    target, manifest = await resolve(service, call.params["model"], call.params.get("version"))
    if manifest.whole:
        body = msgspec.json.encode(whole.request_of(inference))
        bodies: list[tuple[bytes, str | None]] = [(body, None)]
        measured = [target.measure(None, body, "")]
        count = max((one.shape[0] for one in inference.inputs if one.shape), default=1)
    elif not manifest.inputs:
        bodies = [(body, None) for body in _texts(target, inference)]
        measured = [target.measure(None, body, "") for body, _ in bodies]
        count = len(bodies)
    else:
        try:
            inputs = _checked(target, manifest, inference.inputs)
        except Refused as refused:  # from here on, Triton names the request
            id_ = inference.id or "<id_unknown>"
            raise Refused(refused.code, f"[request id: {id_}] {refused}") from refused
        count = 1 if manifest.items == "alone" or not inputs else inputs[0].shape[0]
        parts = _rows(inputs, count) if manifest.items == "stacked" else [inputs]
        bodies, measured = [], []
        for part in parts:
            body = tensors.assemble(part)
            entries = [tensors.Entry(one.name, one.datatype, one.shape, len(one.data)) for one in part]
            try:
                measured.append(target.measure_tensors(entries, len(body)))
            except InputRefused as refused:
                name = refused.pointer.removeprefix("/")
                raise Refused(
                    Code.INVALID_ARG, f"input '{name}' {refused.detail} for model '{target.model}'"
                ) from refused
            bodies.append((body, tensors.MEDIA_TYPE))
    rows = [
        await jobs.row_of(
            service,
            call,
            target,
            body,
            type_,
            size,
            priority=urgency.priority_of(manifest, inference.parameters),
            queue_timeout_us=urgency.queue_timeout_us(manifest, inference.parameters, target.queue_timeout_us),
        )
        for (body, type_), size in zip(bodies, measured, strict=True)
    ]
    return Asked(target, manifest, rows, count)


def _texts(target: Target, inference: Inference) -> list[bytes]:
    """Of a model that declares no inputs: each row is JSON."""
    if [one.name for one in inference.inputs] != [JSON_INPUT] or inference.inputs[0].datatype != "BYTES":
        raise Refused(
            Code.INVALID_ARG,
            f"model '{target.model}' declares no inputs: it takes '{JSON_INPUT}', BYTES, each of it JSON",
        )
    (given,) = inference.inputs
    try:
        values = tensors.to_array("BYTES", given.shape, given.data).reshape(-1)
    except InputRefused as refused:
        raise Refused(Code.INVALID_ARG, f"input '{JSON_INPUT}' {refused.detail}") from refused
    texts = []
    for value in values:
        try:
            msgspec.json.decode(value)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise Refused(Code.INVALID_ARG, f"an element of '{JSON_INPUT}' is no JSON: {error}") from error
        texts.append(value)
    if not 1 <= len(texts) <= MOST_ROWS:
        raise Refused(Code.INVALID_ARG, f"'{JSON_INPUT}' has {len(texts)} elements, and may have 1 to {MOST_ROWS}")
    return texts


def shape_of(manifest: Manifest, tensor: Tensor) -> tuple[int, ...]:
    """Of a request's tensor, as metadata shows it."""
    return (-1, *tensor.shape) if manifest.items == "stacked" else tensor.shape


def _checked(target: Target, manifest: Manifest, given: Sequence[Given]) -> list[Given]:
    """The inputs in the declared order. Raises Refused, in Triton's words."""
    model, declared = target.model, manifest.inputs
    by_name: dict[str, Given] = {}
    for one in given:
        if one.name in by_name:
            raise Refused(Code.INVALID_ARG, f"input '{one.name[:200]}' already exists in request")
        by_name[one.name] = one
    for name in by_name:
        if name not in declared:
            raise Refused(Code.INVALID_ARG, f"unexpected inference input '{name[:200]}' for model '{model}'")
    missing = [name for name, tensor in declared.items() if name not in by_name and not tensor.optional]
    if missing:
        required = sum(not tensor.optional for tensor in declared.values())
        raise Refused(
            Code.INVALID_ARG,
            f"expected {required} inputs but got {len(given)} inputs for model '{model}'. "
            f"Got input(s) {_quoted(by_name)}, but missing required input(s) {_quoted(missing)}. "
            "Please provide all required input(s).",
        )
    found = [by_name[name] for name in declared if name in by_name]
    batched = manifest.items != "alone"
    for one in found:
        tensor = declared[one.name]
        datatype = tensors.DATATYPES[tensor.dtype]
        if one.datatype != datatype:
            raise Refused(
                Code.INVALID_ARG,
                f"inference input '{one.name}' data-type is '{one.datatype}', but model '{model}' expects '{datatype}'",
            )
        expected = shape_of(manifest, tensor)
        if len(one.shape) != len(expected) or any(
            wanted not in (-1, length) for length, wanted in zip(one.shape, expected, strict=True)
        ):
            raise Refused(
                Code.INVALID_ARG,
                f"unexpected shape for input '{one.name}' for model '{model}'. "
                f"Expected {_listed(expected)}, got {_listed(one.shape)}. " + (_BATCH_NOTE if batched else ""),
            )
    if batched and found:
        _check_rows(target, manifest, found)
    return found


def _quoted(names: Iterable[str]) -> str:
    return "[" + ",".join(f"'{name[:200]}'" for name in names) + "]"


_BATCH_NOTE = (
    "NOTE: Setting a non-zero max_batch_size in the model config requires a batch dimension to be prepended to each "
    "input shape. If you want to specify the full shape including the batch dim in your input dims config, try setting "
    "max_batch_size to zero. See the model configuration docs for more info on max_batch_size."
)


def _check_rows(target: Target, manifest: Manifest, inputs: Sequence[Given]) -> None:
    rows = inputs[0].shape[0]
    for one in inputs[1:]:
        if one.shape[0] != rows:
            raise Refused(
                Code.INVALID_ARG,
                f"input '{one.name}' batch size does not match other inputs for '{target.model}'",
            )
    most = (
        MOST_ROWS
        if manifest.items == "stacked"
        else manifest.batching.max_batch_cost or manifest.batching.max_batch_size
    )
    if rows > most:
        raise Refused(Code.INVALID_ARG, f"inference request batch-size must be <= {most} for '{target.model}'")
    if rows < 1:
        raise Refused(Code.INVALID_ARG, f"inference request for '{target.model}' has no rows")


def _listed(shape: Sequence[int]) -> str:
    return f"[{','.join(map(str, shape))}]"


def _rows(inputs: Sequence[Given], count: int) -> list[list[Given]]:
    """The inputs of each row, without the batch dimension."""
    parted = []
    for one in inputs:
        shape = one.shape[1:]
        pieces = _strings(one.data, math.prod(shape), count) if one.datatype == "BYTES" else _equal(one.data, count)
        parted.append([Given(one.name, one.datatype, shape, piece) for piece in pieces])
    return [list(row) for row in zip(*parted, strict=True)]


def _equal(data: bytes | memoryview, count: int) -> list[bytes | memoryview]:
    each = len(data) // count
    return [data[index * each : (index + 1) * each] for index in range(count)]


def _strings(data: bytes | memoryview, elements: int, count: int) -> list[bytes | memoryview]:
    """Parts of so many elements each; that they end where the data does is checked when they are decoded."""
    pieces, at = [], 0
    for _ in range(count):
        start = at
        for _ in range(elements):
            if at + 4 > len(data):
                raise Refused(Code.INVALID_ARG, "the elements of a BYTES input are longer than its data")
            at += 4 + struct.unpack_from("<I", data, at)[0]
        pieces.append(data[start:at])
    if at != len(data):
        raise Refused(Code.INVALID_ARG, "the elements of a BYTES input do not end where its data does")
    return pieces


# What comes back


def _refusal(service: Service, end: Ended | Prediction | None) -> Refused:
    if end is None:
        return Refused(Code.UNAVAILABLE, "the server is stopping" if service.draining else "Request timeout expired")
    if end.error is None:
        return Refused(Code.UNAVAILABLE, f"the request was {end.status.label}")
    return Refused(_CODES.get(end.error.code, Code.INTERNAL), end.error.message)


_CODES = {
    ItemCode.INVALID_INPUT: Code.INVALID_ARG,
    ItemCode.NOT_FOUND: Code.NOT_FOUND,
    ItemCode.UNAVAILABLE: Code.UNAVAILABLE,
    ItemCode.UNSUPPORTED: Code.UNSUPPORTED,
}


async def output_of(service: Service, id_: str, end: Ended | Prediction) -> Any:
    """JSON's value, or named arrays."""
    if not isinstance(end, Prediction) or end.output_bytes is None:
        return msgspec.json.decode(end.output or b"null")
    stored = await service.in_blobs(lambda: service.blobs.read(id_, end.claim or ""))
    if end.output_type == tensors.MEDIA_TYPE:
        return tensors.load(stored)
    if end.output_type is None:
        return msgspec.json.decode(stored)
    return npy.load(stored) if end.output_type == npy.MEDIA_TYPE else stored


def _tensors_of(asked: Asked, outputs: list[Any], inference: Inference) -> list[Output]:
    if asked.manifest.whole:  # it has given those that it was asked for
        return [Output(*one) for one in whole.outputs_of(outputs[0])]
    declared = asked.manifest.outputs
    named = _by_name(asked.manifest, outputs)
    wanted = inference.outputs
    if not declared and any(one.name == JSON_OUTPUT for one in wanted):
        named.setdefault(JSON_OUTPUT, outputs)  # metadata shows it; all that there is
    for one in wanted:
        if one.name not in named:
            raise Refused(
                Code.INVALID_ARG, f"unexpected inference output '{one.name[:200]}' for model '{asked.target.model}'"
            )
    labels = asked.manifest.config.get("labels") or {}
    asked_for = {one.name for one in wanted} or named.keys()
    names = [name for name in named if name in asked_for]  # in the model's order, whatever was asked first
    found = []
    for name in names:
        tensor = declared.get(name)
        datatype = None if tensor is None else tensors.DATATYPES[tensor.dtype]
        values = named[name]
        array = _array(values if asked.manifest.items == "stacked" else values[0], datatype)
        found.append(Output(name, datatype or _datatype(array), array, labels.get(name, ())))
    return found


def _by_name(manifest: Manifest, outputs: list[Any]) -> dict[str, list[Any]]:
    """Each output's value in every item; a model of another server's may have left some out."""
    declared = manifest.outputs
    if (
        manifest.items != "stacked"
        and declared
        and isinstance(outputs[0], dict)
        and outputs[0].keys() <= declared.keys()
    ):
        return {name: [outputs[0][name]] for name in declared if name in outputs[0]}
    if all(isinstance(output, dict) for output in outputs):
        names = list(declared) or list(outputs[0])
        if names and all(output.keys() == set(names) for output in outputs):
            return {name: [output[name] for output in outputs] for name in names}
    if len(declared) == 1:
        return {next(iter(declared)): outputs}
    return {JSON_OUTPUT: outputs}


def _array(value: Any, datatype: str | None) -> Array:
    """Of nested lists, or what is an array already; what no tensor of numbers or text can be becomes JSON text."""
    if datatype == "BYTES":
        return _objects(value)
    if datatype is not None:
        dtype = "float32" if datatype == "BF16" else tensors.DTYPES[datatype]
        return np.asarray(value, dtype)
    try:
        array = np.asarray(value)
    except ValueError:
        array = np.empty(0, dtype=object)
    if array.dtype.kind in "biuf":
        return array
    if array.dtype.kind in "US" or (all(isinstance(one, str | bytes) for one in array.reshape(-1)) and array.size):
        return _objects(value)
    values = value if isinstance(value, list) else [value]
    texts = np.empty(len(values), dtype=object)
    texts[:] = [msgspec.json.encode(one) for one in values]
    return texts


def _objects(value: Any) -> Array:
    if isinstance(value, np.ndarray):
        return value
    shape = np.shape(np.asarray(value, dtype=object))
    texts = np.empty(shape, dtype=object)
    texts.reshape(-1)[:] = np.asarray(value, dtype=object).reshape(-1)
    return texts


def _datatype(array: Array) -> str:
    return "BYTES" if array.dtype.kind in "OUS" else tensors.DATATYPES.get(array.dtype.name, "BYTES")
