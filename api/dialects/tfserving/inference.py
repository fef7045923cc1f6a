"""A predict request's tensors as predictions, and what they came to; whatever transport it came by."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from api.answers import Answer
from api.asking import ask
from api.dialects import jobs
from api.dialects.outputs import output_of
from api.dialects.rows import MOST_ROWS, Array, Body, Given, array_of, bodies_of, values_of
from api.dialects.tfserving.errors import Code, Refused, invalid
from api.dialects.tfserving.models import Found
from api.dialects.tfserving.replies import Output
from api.dialects.tfserving.signatures import Signature
from api.exchange import Call
from api.service import Service
from headway.errors import InputRefused, ItemCode
from headway.manifest import Manifest
from headway.notices import Ended
from headway.states import Status
from headway.types import NewPrediction, Prediction


class Question(NamedTuple):
    """Predictions that one request comes to."""

    found: Found
    bodies: list[Body]
    rows: int  # of the request


def of_tensors(found: Found, signature: Signature, inputs: Sequence[Given]) -> Question:
    """Raises Refused."""
    manifest = found.manifest
    if manifest.inputs:
        _check(found, signature, inputs)
    try:
        bodies, rows = bodies_of(found.target, manifest, inputs)
    except InputRefused as refused:
        name = refused.pointer.removeprefix("/")
        raise invalid(f"input '{name}' {refused.detail}" if name else refused.detail) from refused
    return Question(found, bodies, rows)


def of_values(found: Found, values: Sequence[Any]) -> Question:
    """Of a model that declares no inputs: each value is a prediction. Raises Problem."""
    if len(values) > MOST_ROWS:
        raise _too_many(len(values), MOST_ROWS)
    texts = [msgspec.json.encode(value) for value in values]
    return Question(found, [Body(text, None, found.target.measure(None, text, "")) for text in texts], len(texts))


def _check(found: Found, signature: Signature, inputs: Sequence[Given]) -> None:
    """What `bodies_of` takes for granted."""
    manifest = found.manifest
    given = {one.name: one for one in inputs}
    for name, info in signature.inputs.items():
        if name not in given:
            continue
        one, declared = given[name], manifest.inputs[name]
        rank = len(declared.shape) + (manifest.items == "stacked")
        if len(one.shape) != rank or (info.type is not None and info.type.datatype != one.datatype):
            expected = list(info.shape) if info.shape is not None else f"rank {rank}"
            raise invalid(
                f"input '{name}' is {one.datatype} of the shape {list(one.shape)}, and should be "
                f"{info.dtype.removeprefix('DT_').lower()} of {expected}"
            )
    if manifest.items == "alone" or not inputs:
        return
    rows = {one.shape[0] for one in inputs}
    if len(rows) > 1:
        raise invalid("Batching inputs must have equal 0th dimension size")
    count = rows.pop()
    most = MOST_ROWS if manifest.items == "stacked" else found.target.most_rows
    if count > most:
        raise _too_many(count, most)
    if not count:
        raise invalid("Batching inputs must have at least one row")


def _too_many(rows: int, most: int) -> Refused:
    return invalid(f"Task size {rows} is larger than maximum input batch size {most}")


async def infer(service: Service, call: Call, question: Question) -> list[Any]:
    """What each prediction came to, as `output_of` has it. Raises Refused, Problem, Disconnected."""
    rows = await _rows(service, call, question)
    target = question.found.target
    await service.capacity.admit(target, len(rows))
    answers = await ask(service, call, rows, target.at_most, within_s=jobs.LONGEST_WAIT_S)
    outputs = []
    for row in rows:
        end = answers.ended.get(row.id)
        if end is None or end.status is not Status.SUCCEEDED:
            raise _refusal(service, end)
        outputs.append(await output_of(service, row.id, end))
    return outputs


async def submit(service: Service, call: Call, question: Question, body: bytes) -> Answer:
    """202 and the job, once it is accepted. Raises Refused, Problem."""
    rows = await _rows(service, call, question)
    if len(rows) > 1:
        raise invalid(f"a job is one prediction, and these are {len(rows)} rows for {question.found.target.model}")
    return await jobs.submit(service, call, question.found.target, rows[0], body)


async def _rows(service: Service, call: Call, question: Question) -> list[NewPrediction]:
    return [
        await jobs.row_of(service, call, question.found.target, body.data, body.content_type, body.measured)
        for body in question.bodies
    ]


def arrays(found: Found, outputs: list[Any]) -> list[Output]:
    """In the model's order."""
    named = values_of(found.manifest, outputs)
    return [Output(name, *array_of(found.manifest, name, values)) for name, values in named.items()]


def is_json(manifest: Manifest) -> bool:
    """Whether the answers are whatever JSON the model likes, and no tensors."""
    return not manifest.inputs


def _refusal(service: Service, end: Ended | Prediction | None) -> Refused:
    if end is None:
        return Refused(Code.UNAVAILABLE, "the server is stopping" if service.draining else "the request has timed out")
    if end.error is None:
        expired = end.status is Status.EXPIRED
        code = Code.DEADLINE_EXCEEDED if expired else Code.UNAVAILABLE
        return Refused(code, f"the request was {end.status.label}")
    return Refused(_CODES.get(end.error.code, Code.INTERNAL), end.error.message)


_CODES = {
    ItemCode.INVALID_INPUT: Code.INVALID_ARGUMENT,
    ItemCode.NOT_FOUND: Code.NOT_FOUND,
    ItemCode.UNAVAILABLE: Code.UNAVAILABLE,
    ItemCode.UNSUPPORTED: Code.UNIMPLEMENTED,
}


def text(value: str) -> Array:
    """One string, as a tensor without dimensions."""
    array = np.empty((), dtype=object)
    array[()] = value
    return array
