"""An inference request of the Open Inference Protocol: JSON, or JSON followed by binary tensors.

The rule: what it says must be what is there, and each tensor leaves here as the bytes that its datatype and shape
promise, however it came.
"""

import math
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any, NamedTuple

import msgspec
import numpy as np

from api.dialects.oip.errors import Code, Refused
from api.dialects.rows import Given
from headway import tensors
from headway.errors import InputRefused


class Wanted(NamedTuple):
    """An output that was asked for."""

    name: str
    binary: bool
    classes: int = 0  # so many of the largest, as text (the classification extension); 0: the tensor


class Inference(NamedTuple):
    """A request, whatever it came by."""

    id: str
    inputs: list[Given]
    outputs: list[Wanted]  # empty: all of them
    binary: bool  # where none are named
    parameters: dict[str, Any]


class _Input(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    parameters: dict[str, Any] = {}


class _Output(msgspec.Struct):
    name: str
    parameters: dict[str, Any] = {}


class _Request(msgspec.Struct):
    inputs: list[_Input]
    id: str = ""
    outputs: list[_Output] = []
    parameters: dict[str, Any] = {}


#: As they travel.
_DTYPES = {
    datatype: np.dtype(tensors.DTYPES[datatype]).newbyteorder("<")
    for datatype in tensors.ITEM_BYTES
    if datatype != "BF16"
}

_decode = msgspec.json.Decoder(_Request).decode
_values = msgspec.json.Decoder().decode
_flat_numbers = {
    kind: msgspec.json.Decoder(list[kind]).decode  # type: ignore[valid-type]
    for kind in (int, float, bool, str)
}


def read(body: bytes, header_length: bytes | None) -> Inference:
    """`header_length`: bytes of JSON before the tensors, as the header said. Raises Refused."""
    length = len(body) if header_length is None else _length(header_length, len(body))
    try:
        request = _decode(memoryview(body)[:length])
    except msgspec.ValidationError as error:
        raise Refused(Code.INVALID_ARG, f"failed to parse the request JSON: {error}") from error
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise Refused(Code.INVALID_ARG, f"failed to parse the request JSON buffer: {error}") from error
    rest = memoryview(body)[length:]
    given = []
    for one in request.inputs:
        entry, rest = _input(one, rest)
        given.append(entry)
    if len(rest):
        raise Refused(Code.INVALID_ARG, f"unexpected additional input data: {len(rest)} bytes")
    for asked in request.outputs:
        without_shared_memory("output", asked.name, asked.parameters)
    wanted = [
        Wanted(one.name, bool(one.parameters.get("binary_data")), classes_of(one.parameters)) for one in request.outputs
    ]
    binary = bool(request.parameters.get("binary_data_output"))
    return Inference(request.id, given, wanted, binary, request.parameters)


def _length(header: bytes, most: int) -> int:
    text = header.strip()
    if not text.isdigit() or not 0 < int(text[:19]) <= most:
        shown = text[:40].decode("latin-1")
        raise Refused(
            Code.INVALID_ARG,
            f"Inference-Header-Content-Length is {shown!r}, and should be a number of bytes, {most} at most",
        )
    return int(text)


def classes_of(parameters: Mapping[str, Any]) -> int:
    """Of an output's parameters. Raises Refused."""
    count = parameters.get("classification", 0)
    if type(count) is not int or count < 0:
        raise Refused(Code.INVALID_ARG, "the output parameter 'classification' should be a number")
    return count


def without_shared_memory(kind: str, name: str, parameters: Iterable[str]) -> None:
    """Of an input's or an output's parameters. Raises Refused."""
    if "shared_memory_region" in parameters:
        raise Refused(
            Code.UNSUPPORTED, f"{kind} '{name[:200]}' is in shared memory, which this server neither reads nor writes"
        )


def _input(one: _Input, rest: memoryview) -> tuple[Given, memoryview]:
    shape = tuple(one.shape)
    name, datatype = one.name, one.datatype
    if datatype not in tensors.DTYPES:
        raise Refused(Code.INVALID_ARG, f"invalid datatype for input {name[:200]}")
    without_shared_memory("input", name, one.parameters)
    size = one.parameters.get("binary_data_size")
    if (size is None) == (one.data is msgspec.UNSET):
        said = "no field is set" if size is None else "set 'data' 'binary_data_size' in 'parameters'"
        raise Refused(
            Code.INVALID_ARG,
            "Input must set only one of the following fields: 'data', 'binary_data_size' in 'parameters', "
            f"'shared_memory_region' in 'parameters'. But {said}",
        )
    if one.data is not msgspec.UNSET:
        return Given(name, datatype, shape, _from_json(name, datatype, shape, bytes(one.data))), rest
    if type(size) is not int or not 0 <= size <= len(rest):
        raise Refused(
            Code.INVALID_ARG, f"input '{name[:200]}' claims {size} bytes of binary data; {len(rest)} are left"
        )
    data = rest[:size]
    check(name, datatype, shape, len(data))
    return Given(name, datatype, shape, data), rest[size:]


def check(name: str, datatype: str, shape: tuple[int, ...], length: int) -> None:
    """Whether so many bytes can be an input of this shape. Raises Refused."""
    try:
        tensors.check_length(name, datatype, shape, length)
    except InputRefused as refused:
        raise Refused(Code.INVALID_ARG, f"input {refused.detail}") from refused


def _from_json(name: str, datatype: str, shape: tuple[int, ...], data: bytes) -> bytes:
    """Nested lists, or one flat list, in row-major order."""
    kind = bool if datatype == "BOOL" else str if datatype == "BYTES" else float if datatype[0] in "FB" else int
    try:
        flat = _flat_numbers[kind](data)
    except msgspec.ValidationError:
        flat = _flattened(name, _values(data), kind)
    if len(shape) > 32 or any(length < 0 or length >= 1 << 31 for length in shape):
        raise Refused(Code.INVALID_ARG, f"input '{name[:200]}' has a shape that is none")
    wanted = math.prod(shape)
    if len(flat) != wanted:
        raise Refused(
            Code.INVALID_ARG, f"input '{name[:200]}' got {len(flat)} elements, and its shape says {wanted} elements"
        )
    try:
        if kind is str:
            array = np.empty(len(flat), dtype=object)
            array[:] = flat
            return tensors.from_array(array)[2]
        if datatype == "BF16":
            return tensors.from_array(np.array(flat, np.float32), "BF16")[2]
        return np.array(flat, _DTYPES[datatype]).tobytes()
    except (OverflowError, ValueError, UnicodeError) as error:
        raise Refused(Code.INVALID_ARG, f"input '{name[:200]}' has a value that is no {datatype}: {error}") from error


def _flattened(name: str, value: Any, kind: type) -> list[Any]:
    level = value if isinstance(value, list) else [value]
    while level and all(type(one) is list for one in level):
        level = list(chain.from_iterable(level))
    fits = {kind, int} if kind is float else {kind}
    if not set(map(type, level)) <= fits:
        raise Refused(Code.INVALID_ARG, f"input '{name[:200]}' has data that is no {kind.__name__}, or of uneven depth")
    return level
