"""Arrays as bytes: NumPy's own format (`application/x-npy`), read with suspicion.

The rule: nothing is allocated, and no pickle is touched, before the header has been understood and agrees with the
number of bytes that are there.
"""

import ast
import io
import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from headway.errors import InputRefused

MEDIA_TYPE = "application/x-npy"

_MAGIC = b"\x93NUMPY"
#: Bytes of a header that describes numbers: 64 dimensions fit well into it.
_LONGEST_HEADER = 4096
_MOST_DIMENSIONS = 32
_DTYPE = re.compile(r"\|b1|[<>|=]?(?:[iu][1248]|f[248]|c(?:8|16))")
_KEYS = {"descr", "fortran_order", "shape"}


@dataclass(frozen=True, slots=True)
class Header:
    """What an array is, and where in the bytes its numbers begin."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran: bool
    offset: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


def read_header(data: bytes) -> Header:
    """Raises InputRefused for what is no array of numbers, or has another length than its header says."""
    if data[:6] != _MAGIC or len(data) < 12:
        raise InputRefused("", "is no .npy file")
    match data[6:8]:
        case b"\x01\x00":
            start, length = 10, int.from_bytes(data[8:10], "little")
        case b"\x02\x00" | b"\x03\x00":
            start, length = 12, int.from_bytes(data[8:12], "little")
        case _:
            raise InputRefused("", f"is of the .npy format {data[6]}.{data[7]}; known are 1.0, 2.0 and 3.0")
    if length > _LONGEST_HEADER:
        raise InputRefused("", f"has a header of {length} bytes, and may have {_LONGEST_HEADER} at most")
    offset = start + length
    if offset > len(data):
        raise InputRefused("", "ends within its header")
    dtype, shape, fortran = _described(data[start:offset])
    wanted, there = math.prod(shape) * dtype.itemsize, len(data) - offset
    if wanted != there:
        raise InputRefused("", f"has {there} bytes of numbers, and its header says {wanted}")
    return Header(dtype, shape, fortran, offset)


def _described(header: bytes) -> tuple[np.dtype[Any], tuple[int, ...], bool]:
    try:
        told = ast.literal_eval(header.decode("ascii").strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise InputRefused("", "has a header that cannot be read") from None
    if not isinstance(told, dict) or told.keys() != _KEYS or type(told["fortran_order"]) is not bool:
        raise InputRefused("", "has a header that cannot be read")
    descr, shape = told["descr"], told["shape"]
    if not isinstance(descr, str) or not _DTYPE.fullmatch(descr):
        raise InputRefused("", f"is of dtype {str(descr)[:40]!r}, and should be of numbers")
    if not isinstance(shape, tuple) or not all(type(length) is int and length >= 0 for length in shape):
        raise InputRefused("", "has a shape that is none")
    dtype = np.dtype(descr)
    # An array without elements may still claim dimensions whose product overflows.
    if len(shape) > _MOST_DIMENSIONS or math.prod(filter(None, shape)) * dtype.itemsize >= 1 << 62:
        raise InputRefused("", "has a shape that is too large")
    return dtype, shape, told["fortran_order"]


def load(data: bytes) -> np.ndarray[Any, Any]:
    """A copy of its own, in this machine's byte order. Raises InputRefused."""
    header = read_header(data)
    flat = np.frombuffer(data, header.dtype, header.elements, header.offset)
    array = flat.reshape(header.shape, order="F" if header.fortran else "C")
    return array.astype(header.dtype.newbyteorder("="), copy=True)


def storable(array: np.ndarray[Any, Any]) -> bool:
    """Whether `dump` can say it, and JSON could as well: booleans and real numbers of up to eight bytes."""
    return array.dtype.kind in "biuf" and array.dtype.itemsize <= 8


def dump(array: np.ndarray[Any, Any]) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=False)
    return buffer.getvalue()
