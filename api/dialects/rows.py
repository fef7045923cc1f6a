"""A request's tensors as predictions, and what those came to as arrays: for protocols whose requests are tensors.

A model whose items are joined, or alone, gets a request as it is, one prediction. Those of other models are items
without a batch dimension: each row of the request is a prediction. One that declares no inputs takes and gives JSON: a
row of `input` is the text of one.
"""

import math
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from api.registry import Target
from headway import tensors
from headway.errors import InputRefused
from headway.manifest import Manifest, Tensor

#: What stands for the whole input and the whole output of a model that declares none.
JSON_INPUT, JSON_OUTPUT = "input", tensors.UNNAMED
#: Rows of a request to a model of our own, which become a prediction each.
MOST_ROWS = 4096

Array = np.ndarray[Any, Any]


class Given(NamedTuple):
    """An input; `data` as `headway.tensors` has it."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: bytes | memoryview


class Body(NamedTuple):
    """Of one prediction, with its media type (None: JSON), its size and its shape."""

    data: bytes
    content_type: str | None
    measured: tuple[int, str | None]


def shape_of(manifest: Manifest, tensor: Tensor) -> tuple[int, ...]:
    """Of a request's tensor, where the model declares `tensor`."""
    return (-1, *tensor.shape) if manifest.items == "stacked" else tensor.shape


def bodies_of(target: Target, manifest: Manifest, inputs: Sequence[Given]) -> tuple[list[Body], int]:
    """The predictions that a request becomes, and its rows; `inputs` of declared names, datatypes and ranks.

    Raises InputRefused, whose pointer names the input where one is to blame.
    """
    if not manifest.inputs:
        texts = _texts(target.model, inputs)
        return [Body(text, None, target.measure(None, text, "")) for text in texts], len(texts)
    count = 1 if manifest.items == "alone" or not inputs else inputs[0].shape[0]
    bodies = []
    for part in _rows(inputs, count) if manifest.items == "stacked" else [inputs]:
        body = tensors.assemble(part)
        entries = [tensors.Entry(one.name, one.datatype, one.shape, len(one.data)) for one in part]
        bodies.append(Body(body, tensors.MEDIA_TYPE, target.measure_tensors(entries, len(body))))
    return bodies, count


def _texts(model: str, inputs: Sequence[Given]) -> list[bytes]:
    """Of a model that declares no inputs: each row is JSON."""
    if [one.name for one in inputs] != [JSON_INPUT] or inputs[0].datatype != "BYTES":
        raise InputRefused("", f"model '{model}' declares no inputs: it takes '{JSON_INPUT}', BYTES, each of it JSON")
    (given,) = inputs
    try:
        values = tensors.to_array("BYTES", given.shape, given.data).reshape(-1)
    except InputRefused as refused:
        raise InputRefused("", f"input '{JSON_INPUT}' {refused.detail}") from refused
    texts = []
    for value in values:
        try:
            msgspec.json.decode(value)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise InputRefused("", f"an element of '{JSON_INPUT}' is no JSON: {error}") from error
        texts.append(value)
    if not 1 <= len(texts) <= MOST_ROWS:
        raise InputRefused("", f"'{JSON_INPUT}' has {len(texts)} elements, and may have 1 to {MOST_ROWS}")
    return texts


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
                raise InputRefused("", "the elements of a BYTES input are longer than its data")
            at += 4 + struct.unpack_from("<I", data, at)[0]
        pieces.append(data[start:at])
    if at != len(data):
        raise InputRefused("", "the elements of a BYTES input do not end where its data does")
    return pieces


# What comes back


def values_of(manifest: Manifest, outputs: list[Any]) -> dict[str, list[Any]]:
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


def array_of(manifest: Manifest, name: str, values: list[Any]) -> tuple[str, Array]:
    """(datatype, array) of an output; `values`: in each of the items, which are its rows where they are stacked."""
    tensor = manifest.outputs.get(name)
    datatype = None if tensor is None else tensors.DATATYPES[tensor.dtype]
    array = _array(values if manifest.items == "stacked" else values[0], datatype)
    return datatype or _datatype(array), array


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
