"""The generate extension: one request in plain JSON, its keys the model's inputs, and as plain what it answers."""

import math
from typing import Any

import msgspec
import numpy as np

from api.dialects.oip import metadata
from api.dialects.oip.decoupled import Answered
from api.dialects.oip.errors import Code, Refused
from api.dialects.oip.inference import Reply
from api.dialects.oip.requests import Inference, read
from api.dialects.rows import JSON_INPUT
from headway.manifest import Manifest


def inference_of(body: bytes, manifest: Manifest) -> Inference:
    """Each input is a value or a flat list; whatever else there is are parameters. Raises Refused."""
    try:
        given = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise Refused(Code.INVALID_ARG, f"failed to parse the request JSON buffer: {error}") from error
    if not isinstance(given, dict):
        raise Refused(Code.INVALID_ARG, "attempt to get members for non-object")
    inputs = []
    for name, (datatype, shape) in metadata.inputs_of(manifest).items():
        if name not in given:
            continue  # what is missing is found out where it is for all requests
        value = given.pop(name)
        if not manifest.inputs:
            assert name == JSON_INPUT
            value = msgspec.json.encode(value).decode()
        values = value if isinstance(value, list) else [value]
        if manifest.items != "alone":
            shape = (1, *shape[1:])
        inputs.append({"name": name, "datatype": datatype, "shape": _filled(name, shape, values), "data": values})
    id_ = given.pop("id", "")
    request = {"id": id_ if isinstance(id_, str) else "", "inputs": inputs, "parameters": given}
    return read(msgspec.json.encode(request), None)


def _filled(name: str, shape: tuple[int, ...], values: list[Any]) -> list[int]:
    """The shape, whose last free length is what the values need; others are 1."""
    free = [at for at, length in enumerate(shape) if length < 0]
    found = [1 if length < 0 else length for length in shape]
    fixed = math.prod(found)
    if any(isinstance(value, list | dict) for value in values) or (
        len(values) % fixed if free and fixed else len(values) != fixed
    ):
        raise Refused(Code.INVALID_ARG, f"The schema can not convert input '{name}' to tensor with proper shape")
    if free and fixed:
        found[free[-1]] = len(values) // fixed
    return found


def answer_of(reply: Reply) -> bytes:
    """JSON: an output of one value as that, any other as a flat list."""
    shown: dict[str, Any] = {"model_name": reply.model, "model_version": reply.version}
    if reply.id:
        shown["id"] = reply.id
    for output in reply.outputs:
        values = [_value(one) for one in output.array.reshape(-1).tolist()]
        shown[output.name] = values[0] if len(values) == 1 else values
    return msgspec.json.encode(shown, order="sorted")


def event_of(one: Answered) -> bytes:
    """Of an answer that has something to show."""
    if one.reply is not None:
        return _EVENT % answer_of(one.reply)
    return _EVENT % msgspec.json.encode({"error": str(one.error)})


_EVENT = b"data: %b\n\n"


def _value(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return float(value) if isinstance(value, np.floating) else value
