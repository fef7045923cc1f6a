"""Named arrays as bytes, read with suspicion: how inputs and outputs of typed models travel that were not sent as JSON.

    4 bytes    length of the header, little-endian
    header     JSON: [{"name", "datatype", "shape", "bytes"}, …], filled up so that the data begins at a multiple of 8
    data       of each array in that order: row-major, little-endian

Datatypes are those of the Open Inference Protocol (BOOL, INT8 … UINT64, FP16, BF16, FP32, FP64, BYTES), and so is the
data: an element of BYTES is its length in 4 bytes and its bytes; of BF16, the upper half of a float32. The rule:
nothing is allocated before the header agrees with the bytes that are there.
"""

import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from headway.errors import InputRefused

MEDIA_TYPE = "application/vnd.headway.tensors"
#: What an output is called that is no object, of a model that declares none.
UNNAMED = "output"
#: Bytes of an array that is better not turned into JSON.
_MOST_IN_JSON = 32 * 1024

#: datatype → dtype of `model.toml`.
DTYPES = {
    "BOOL": "bool", "INT8": "int8", "INT16": "int16", "INT32": "int32", "INT64": "int64",
    "UINT8": "uint8", "UINT16": "uint16", "UINT32": "uint32", "UINT64": "uint64",
    "FP16": "float16", "BF16": "bfloat16", "FP32": "float32", "FP64": "float64", "BYTES": "string",
}  # fmt: skip
DATATYPES = {dtype: datatype for datatype, dtype in DTYPES.items()}
#: Bytes of an element; BYTES has no fixed number.
ITEM_BYTES = {
    datatype: 2 if datatype == "BF16" else np.dtype(dtype).itemsize
    for datatype, dtype in DTYPES.items()
    if datatype != "BYTES"
}

_LONGEST_HEADER = 1 << 20
_MOST_DIMENSIONS = 32
_LENGTH = struct.Struct("<I")

Array = np.ndarray[Any, Any]


class Entry(msgspec.Struct, frozen=True):
    """An array in the header."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    bytes: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


_decode_header = msgspec.json.Decoder(list[Entry]).decode


def assemble(entries: Sequence[tuple[str, str, Sequence[int], bytes | memoryview]]) -> bytes:
    """Of (name, datatype, shape, data) each; the data is as the format has it already."""
    header = msgspec.json.encode([Entry(name, type_, tuple(shape), len(data)) for name, type_, shape, data in entries])
    header += b" " * (-(len(header) + _LENGTH.size) % 8)
    return b"".join([_LENGTH.pack(len(header)), header, *(data for *_, data in entries)])


def split(data: bytes) -> list[tuple[Entry, memoryview]]:
    """Each array's entry and its bytes. Raises InputRefused for what is not as its header says."""
    if len(data) < _LENGTH.size:
        raise InputRefused("", "is too short for tensors")
    (length,) = _LENGTH.unpack_from(data)
    start = _LENGTH.size + length
    if length > _LONGEST_HEADER or start > len(data):
        raise InputRefused("", "has no header of tensors")
    try:
        entries = _decode_header(data[_LENGTH.size : start])
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise InputRefused("", "has a header that is none of tensors") from error
    parts: list[tuple[Entry, memoryview]] = []
    view = memoryview(data)
    for entry in entries:
        check_length(entry.name, entry.datatype, entry.shape, entry.bytes)
        if entry.bytes > len(data) - start:
            raise InputRefused("", f"ends within {entry.name[:80]!r}")
        parts.append((entry, view[start : start + entry.bytes]))
        start += entry.bytes
    if start != len(data):
        raise InputRefused("", f"has {len(data) - start} bytes more than its header says")
    if len({entry.name for entry in entries}) != len(entries):
        raise InputRefused("", "has two tensors of one name")
    return parts


def check_length(name: str, datatype: str, shape: Sequence[int], length: int) -> None:
    """Whether so many bytes can be an array of this shape. Raises InputRefused."""
    if datatype not in DTYPES:
        raise InputRefused("", f"has {name[:80]!r} of datatype {datatype[:40]!r}; known are {', '.join(DTYPES)}")
    if len(shape) > _MOST_DIMENSIONS or any(length < 0 or length >= 1 << 31 for length in shape):
        raise InputRefused("", f"has {name[:80]!r} with a shape that is none")
    elements = math.prod(shape)
    if datatype == "BYTES":
        if elements * _LENGTH.size > length:
            raise InputRefused("", f"has {length} bytes of {name[:80]!r}, too few for {elements} elements")
    elif elements * ITEM_BYTES[datatype] != length:
        raise InputRefused(
            "", f"has {length} bytes of {name[:80]!r}, and its shape says {elements * ITEM_BYTES[datatype]}"
        )


def load(data: bytes) -> dict[str, Array]:
    """Arrays that may be written to; BF16 as float32, BYTES as objects, each `bytes`. Raises InputRefused."""
    return {entry.name: to_array(entry.datatype, entry.shape, part) for entry, part in split(data)}


def to_array(datatype: str, shape: Sequence[int], data: bytes | memoryview) -> Array:
    """One array of the format's bytes, whose length has been checked. Raises InputRefused."""
    if datatype == "BYTES":
        return _strings(data, math.prod(shape)).reshape(shape)
    if datatype == "BF16":
        wide = np.frombuffer(data, "<u2").astype(np.uint32) << 16
        return wide.view(np.float32).reshape(shape)
    dtype = np.dtype(DTYPES[datatype])
    return np.frombuffer(data, dtype.newbyteorder("<")).reshape(shape).astype(dtype)


def _strings(data: bytes | memoryview, count: int) -> Array:
    array = np.empty(count, dtype=object)
    at = 0
    for index in range(count):
        if at + _LENGTH.size > len(data):
            raise InputRefused("", f"ends within element {index} of {count}")
        (length,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        if at + length > len(data):
            raise InputRefused("", f"ends within element {index} of {count}")
        array[index] = bytes(data[at : at + length])
        at += length
    if at != len(data):
        raise InputRefused("", f"has {len(data) - at} bytes after its last element")
    return array


def from_array(array: Array, datatype: str | None = None) -> tuple[str, tuple[int, ...], bytes]:
    """(datatype, shape, bytes). Strings, bytes and objects are BYTES; a float is BF16 only where `datatype` says so.

    Raises TypeError for an array of anything else, as complex numbers.
    """
    if datatype == "BF16" and array.dtype.kind == "f":
        return "BF16", array.shape, _halves(array)
    if array.dtype.kind in "OSU":
        return "BYTES", array.shape, b"".join(_counted(value) for value in array.reshape(-1).tolist())
    found = DATATYPES.get(array.dtype.name)
    if found is None:
        raise TypeError(f"an array of {array.dtype} is no tensor")
    wanted = array.dtype.newbyteorder("<")
    return found, array.shape, np.ascontiguousarray(array, wanted).tobytes()


def _halves(array: Array) -> bytes:
    """Rounded to the nearest even, as hardware does it."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    rounded = bits + 0x7FFF + ((bits >> 16) & 1)
    # Rounding must not turn a NaN into an infinity.
    halves = np.where(np.isnan(array), (bits >> 16) | 0x40, rounded >> 16)
    return halves.astype("<u2").tobytes()


def _counted(value: object) -> bytes:
    if isinstance(value, str):
        value = value.encode("utf-8", "surrogatepass")
    if not isinstance(value, bytes | bytearray | memoryview):
        value = msgspec.json.encode(value)
    return _LENGTH.pack(len(value)) + bytes(value)


def dump(arrays: Mapping[str, Array], datatypes: Mapping[str, str] | None = None) -> bytes:
    """`datatypes`: those that are known, by name. Raises TypeError."""
    known = datatypes or {}
    return assemble([(name, *from_array(array, known.get(name))) for name, array in arrays.items()])


def fits_json(array: Array) -> bool:
    """Whether JSON holds all of it, and is not much longer than the array."""
    if array.dtype.kind == "O":
        return all(isinstance(value, str | int | float | bool) or value is None for value in array.reshape(-1))
    if array.dtype.kind == "S" or array.nbytes > _MOST_IN_JSON:
        return False
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())


def json_of(data: bytes) -> bytes:
    """An object of nested lists, text where bytes are UTF-8. Raises InputRefused; ValueError where that cannot be."""
    return msgspec.json.encode({name: _listed(array) for name, array in load(data).items()})


def _listed(array: Array) -> Any:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError("it holds NaN or an infinite number")
    if array.dtype.kind != "O":
        return array.tolist()
    flat = np.empty(array.size, dtype=object)
    flat[:] = [value.decode("utf-8") for value in array.reshape(-1)]
    return flat.reshape(array.shape).tolist()
