"""An inference request as predictions, and their outputs as tensors; whatever transport it came by.

A model from a Triton repository gets the request as it is, one prediction. A model of Headway's own has items without
a batch dimension: each row of the request is a prediction. One that declares no inputs takes and gives JSON: a row of
`input` is the text of one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from api.answers import Answer
from api.asking import ask
from api.dialects import jobs
from api.dialects.oip import urgency
from api.dialects.oip.errors import Code, Refused
from api.dialects.oip.requests import Inference
from api.dialects.oip.statistics import Statistics
from api.dialects.outputs import output_of
from api.dialects.rows import JSON_OUTPUT, MOST_ROWS, Array, Given, array_of, bodies_of, shape_of, values_of
from api.exchange import Call
from api.problems import Problem
from api.registry import Target
from api.service import Service
from headway import tensors
from headway.clock import now_us
from headway.errors import InputRefused, ItemCode, ItemError
from headway.manifest import Manifest
from headway.notices import Ended
from headway.states import Status
from headway.types import NewPrediction, Prediction

#: A request's parameter; true asks for a job.
JOB_PARAMETER = "headway_async"


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


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that fits its model."""

    target: Target
    manifest: Manifest
    rows: list[NewPrediction]
    count: int  # of the request's own rows


async def infer(
    service: Service,
    call: Call,
    target: Target,
    manifest: Manifest,
    inference: Inference,
    statistics: Statistics,
    *,
    once: str = "",
) -> Reply:
    """Of one model, once all is computed. Raises Refused, Problem, Disconnected.

    `once`: why a model that answers as often as it likes cannot be asked so.
    """
    began = now_us()
    if once and is_decoupled(manifest):
        raise Refused(Code.UNSUPPORTED, once)
    asked = await prepare(service, call, target, manifest, inference)
    with statistics.waiting(target.model, target.version, began):
        await service.capacity.admit(target, len(asked.rows))
        answers = await ask(service, call, asked.rows, target.at_most, within_s=jobs.LONGEST_WAIT_S)
    ended = [answers.ended.get(row.id) for row in asked.rows]
    statistics.add(target.model, target.version, asked.count, ended, began)
    failed = next((one for one in ended if one is None or one.status is not Status.SUCCEEDED), _NOBODY)
    if failed is not _NOBODY:
        raise refusal_of(service, failed)
    done = [one for one in ended if one is not None]
    outputs = [await output_of(service, row.id, one) for row, one in zip(asked.rows, done, strict=True)]
    return Reply(target.model, target.version, inference.id, tensors_of(asked, outputs, inference))


def is_decoupled(manifest: Manifest) -> bool:
    """Whether the model answers a request as often as it likes (`api.dialects.oip.decoupled`)."""
    config = manifest.config.get("triton")
    policy = config.get("model_transaction_policy") if isinstance(config, Mapping) else None
    return isinstance(policy, Mapping) and bool(policy.get("decoupled"))


def is_job(inference: Inference) -> bool:
    """Whether it asks by a parameter of its own for a job instead of outputs."""
    return inference.parameters.get(JOB_PARAMETER) is True


async def submit(service: Service, call: Call, inference: Inference, body: bytes) -> Answer:
    """202 and the job, once it is accepted; `body`: the whole request. Raises Refused, Problem."""
    target, manifest = await resolve(service, call.params["model"], call.params.get("version"))
    if manifest.steps:
        raise Refused(
            Code.INVALID_ARG, f"a job is one prediction, and '{target.model}' is an ensemble: ask its models for jobs"
        )
    asked = await prepare(service, call, target, manifest, inference)
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
        target = await service.registry.resolve(name, version or None, ensembles=True)
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


async def prepare(service: Service, call: Call, target: Target, manifest: Manifest, inference: Inference) -> Asked:
    """Raises Refused, Problem."""
    inputs = checked(target, manifest, inference) if manifest.inputs else inference.inputs
    try:
        bodies, count = bodies_of(target, manifest, inputs)
    except InputRefused as refused:
        name = refused.pointer.removeprefix("/")
        message = f"input '{name}' {refused.detail} for model '{target.model}'" if name else refused.detail
        raise Refused(Code.INVALID_ARG, message) from refused
    rows = [
        await jobs.row_of(
            service,
            call,
            target,
            body.data,
            body.content_type,
            body.measured,
            priority=urgency.priority_of(manifest, inference.parameters),
            queue_timeout_us=urgency.queue_timeout_us(manifest, inference.parameters, target.queue_timeout_us),
        )
        for body in bodies
    ]
    return Asked(target, manifest, rows, count)


def checked(target: Target, manifest: Manifest, inference: Inference) -> list[Given]:
    """The inputs in the declared order. Raises Refused, in Triton's words, which name the request."""
    try:
        return _checked(target, manifest, inference.inputs)
    except Refused as refused:
        raise Refused(refused.code, f"[request id: {inference.id or '<id_unknown>'}] {refused}") from refused


def _checked(target: Target, manifest: Manifest, given: Sequence[Given]) -> list[Given]:
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


# What comes back


def refusal_of(service: Service, end: Ended | Prediction | None) -> Refused:
    """What became of a prediction that has not succeeded; None: nothing, before the time was up."""
    if end is None:
        return Refused(Code.UNAVAILABLE, "the server is stopping" if service.draining else "Request timeout expired")
    if end.error is None:
        return Refused(Code.UNAVAILABLE, f"the request was {end.status.label}")
    return of_item(end.error)


def of_item(error: ItemError) -> Refused:
    return Refused(_CODES.get(error.code, Code.INTERNAL), error.message)


_CODES = {
    ItemCode.INVALID_INPUT: Code.INVALID_ARG,
    ItemCode.NOT_FOUND: Code.NOT_FOUND,
    ItemCode.UNAVAILABLE: Code.UNAVAILABLE,
    ItemCode.UNSUPPORTED: Code.UNSUPPORTED,
}


def tensors_of(asked: Asked, outputs: list[Any], inference: Inference) -> list[Output]:
    """Of each row's output, those that the request wants. Raises Refused for one that is not there."""
    declared = asked.manifest.outputs
    named = values_of(asked.manifest, outputs)
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
    return [Output(name, *array_of(asked.manifest, name, named[name]), labels.get(name, ())) for name in names]
