"""The signatures in `model.tflite`, a flatbuffer, of which a few tables are read.

One that was converted without any has the tensors of its graph, by their names, as `serving_default`.
"""

import struct
from pathlib import Path

from headway.errors import ManifestError
from headway.tfserving.savedmodel import DEFAULT, Signature, TensorInfo

_MAGIC = b"TFL3"
_METHOD = "tensorflow/serving/predict"
#: As TensorFlow Lite counts its types.
_DATA_TYPES = {
    0: "DT_FLOAT", 1: "DT_HALF", 2: "DT_INT32", 3: "DT_UINT8", 4: "DT_INT64", 5: "DT_STRING", 6: "DT_BOOL",
    7: "DT_INT16", 8: "DT_COMPLEX64", 9: "DT_INT8", 10: "DT_DOUBLE", 11: "DT_COMPLEX128", 12: "DT_UINT64",
    13: "DT_RESOURCE", 14: "DT_VARIANT", 15: "DT_UINT32", 16: "DT_UINT16", 18: "DT_BFLOAT16",
}  # fmt: skip
_MOST = 1 << 16


def signatures(file: Path) -> dict[str, Signature]:
    """By name. Raises ManifestError; OSError where it cannot be read."""
    data = file.read_bytes()
    if data[4:8] != _MAGIC:
        raise ManifestError(f"{file} is no TensorFlow Lite model")
    try:
        return _signatures(_Table.root(data))
    except (struct.error, UnicodeDecodeError, ValueError, IndexError) as error:
        raise ManifestError(f"{file} is no TensorFlow Lite model, or is cut off") from error


class _Table:
    """A flatbuffer's table: its fields by number. What lies outside of the data raises struct.error."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data = data
        self._at = at
        self._fields = at - _read(data, "<i", at)

    @classmethod
    def root(cls, data: bytes) -> "_Table":
        return cls(data, _read(data, "<I", 0))

    def number(self, field: int, kind: str, default: int) -> int:
        at = self._field(field)
        return default if at is None else _read(self._data, kind, at)

    def text(self, field: int) -> str:
        at = self._follow(field)
        return "" if at is None else self._data[at + 4 : at + 4 + self._length(at)].decode("utf-8")

    def numbers(self, field: int) -> tuple[int, ...] | None:
        at = self._follow(field)
        return None if at is None else struct.unpack_from(f"<{self._length(at)}i", self._data, at + 4)

    def tables(self, field: int) -> list["_Table"]:
        at = self._follow(field)
        if at is None:
            return []
        places = range(at + 4, at + 4 + 4 * self._length(at), 4)
        return [_Table(self._data, place + _read(self._data, "<I", place)) for place in places]

    def _field(self, field: int) -> int | None:
        entry = 4 + 2 * field
        if entry >= _read(self._data, "<H", self._fields):
            return None
        offset = _read(self._data, "<H", self._fields + entry)
        return self._at + offset if offset else None

    def _follow(self, field: int) -> int | None:
        at = self._field(field)
        return None if at is None else at + _read(self._data, "<I", at)

    def _length(self, at: int) -> int:
        length = _read(self._data, "<I", at)
        if length > _MOST:
            raise ValueError("too long")
        return length


def _read(data: bytes, kind: str, at: int) -> int:
    if at < 0:
        raise ValueError("before the beginning")
    found: int = struct.unpack_from(kind, data, at)[0]
    return found


def _signatures(model: _Table) -> dict[str, Signature]:
    graphs = model.tables(2)
    found = {}
    for signature in model.tables(7):
        tensors = graphs[signature.number(4, "<I", 0)].tables(0)
        inputs, outputs = (
            {one.text(0): _tensor(tensors[one.number(1, "<I", 0)]) for one in signature.tables(side)} for side in (0, 1)
        )
        found[signature.text(2) or DEFAULT] = Signature(inputs, outputs, _METHOD)
    if found:
        return found
    tensors = graphs[0].tables(0)
    sides = [[_tensor(tensors[place]) for place in graphs[0].numbers(side) or ()] for side in (1, 2)]
    inputs, outputs = ({one.name: one for one in side} for side in sides)
    return {DEFAULT: Signature(inputs, outputs, _METHOD)}


def _tensor(table: _Table) -> TensorInfo:
    shape = table.numbers(7) or table.numbers(0) or ()
    dtype = table.number(1, "<b", 0)
    return TensorInfo(_DATA_TYPES.get(dtype, f"DT_TFLITE_{dtype}"), shape, table.text(3))
