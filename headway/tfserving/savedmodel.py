"""The signatures in `saved_model.pb`, read from the file itself. Graphs, which are most of it, are passed over."""

import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from headway import wire
from headway.errors import ManifestError

#: As TensorFlow counts its types.
DATA_TYPES = {
    0: "DT_INVALID", 1: "DT_FLOAT", 2: "DT_DOUBLE", 3: "DT_INT32", 4: "DT_UINT8", 5: "DT_INT16", 6: "DT_INT8",
    7: "DT_STRING", 8: "DT_COMPLEX64", 9: "DT_INT64", 10: "DT_BOOL", 11: "DT_QINT8", 12: "DT_QUINT8", 13: "DT_QINT32",
    14: "DT_BFLOAT16", 15: "DT_QINT16", 16: "DT_QUINT16", 17: "DT_UINT16", 18: "DT_COMPLEX128", 19: "DT_HALF",
    20: "DT_RESOURCE", 21: "DT_VARIANT", 22: "DT_UINT32", 23: "DT_UINT64",
}  # fmt: skip

#: What a client asks for that names none.
DEFAULT = "serving_default"
#: Among several graphs, the one that is served.
_TAG = "serve"
_MOST_TENSORS = 4096
_LONGEST_TEXT = 4096


class TensorInfo(msgspec.Struct, frozen=True):
    """A tensor of a signature, with its batch dimension."""

    dtype: str  # as DT_FLOAT
    shape: tuple[int, ...] | None  # -1 where the length is free; None where not even the rank is known
    name: str  # in the graph, as `serving_default_x:0`; "" where it is made of several


class Signature(msgspec.Struct, frozen=True):
    """What can be asked of a model under one name."""

    inputs: dict[str, TensorInfo]
    outputs: dict[str, TensorInfo]
    method_name: str


def signatures(file: Path) -> dict[str, Signature]:
    """By name, of the graph that is tagged `serve`. Raises ManifestError; OSError where it cannot be read."""
    with file.open("rb") as stream:
        if not file.stat().st_size:
            raise ManifestError(f"{file} is empty")
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return _signatures(data, file)
            except (ValueError, IndexError) as error:
                raise ManifestError(f"{file} is no SavedModel") from error


def _signatures(data: mmap.mmap, file: Path) -> dict[str, Signature]:
    seen: list[set[str]] = []
    for graph in _each(data, slice(0, len(data)), 2):
        tags = {_text(data, tag) for info in _each(data, graph, 1) for tag in _each(data, info, 4)}
        if _TAG in tags:
            return {name: _signature(data, where) for name, where in _map(data, graph, 5)}
        seen.append(tags)
    if not seen:
        raise ValueError("no graph")
    there = "; ".join(", ".join(sorted(tags)) or "none" for tags in seen)
    raise ManifestError(f"{file} has no graph with the tag {_TAG!r}; its tags are {there}")


def _signature(data: mmap.mmap, where: slice) -> Signature:
    methods = [_text(data, method) for method in _each(data, where, 3)]
    return Signature(
        {name: _tensor(data, tensor) for name, tensor in _map(data, where, 1)},
        {name: _tensor(data, tensor) for name, tensor in _map(data, where, 2)},
        methods[-1] if methods else "",
    )


def _tensor(data: mmap.mmap, where: slice) -> TensorInfo:
    name, dtype = "", 0
    shape: tuple[int, ...] | None = ()
    for number, value in wire.fields(data, where.start, where.stop):
        match number, value:
            case 1, slice():
                name = _text(data, value)
            case 2, int():
                dtype = value
            case 3, slice():
                shape = _shape(data, value)
    return TensorInfo(DATA_TYPES.get(dtype, f"DT_{dtype}"), shape, name)


def _shape(data: mmap.mmap, where: slice) -> tuple[int, ...] | None:
    lengths: list[int] = []
    for number, value in wire.fields(data, where.start, where.stop):
        if number == 3 and value:
            return None
        if number == 2 and isinstance(value, slice):
            sizes = [size for of, size in wire.fields(data, value.start, value.stop) if of == 1]
            lengths.append(wire.signed(sizes[-1]) if sizes and isinstance(sizes[-1], int) else 0)
    return tuple(lengths)


def _map(data: mmap.mmap, where: slice, number: int) -> Iterator[tuple[str, slice]]:
    """(key, where the message is) of a map's entries, by key."""
    entries: dict[str, slice] = {}
    for entry in _each(data, where, number):
        keys, values = list(_each(data, entry, 1)), list(_each(data, entry, 2))
        entries[_text(data, keys[-1]) if keys else ""] = values[-1] if values else slice(0, 0)
        if len(entries) > _MOST_TENSORS:
            raise ValueError("too many")
    yield from sorted(entries.items())


def _each(data: mmap.mmap, where: slice, number: int) -> Iterator[slice]:
    for found, value in wire.fields(data, where.start, where.stop):
        if found == number and isinstance(value, slice):
            yield value


def _text(data: mmap.mmap, where: slice) -> str:
    if where.stop - where.start > _LONGEST_TEXT:
        raise ValueError("a name is too long")
    return data[where].decode("utf-8")


def chosen(of: Mapping[str, Signature]) -> str:
    """The signature that is loaded: the default, else the only one there is. Raises ManifestError."""
    named = [name for name, signature in of.items() if signature.inputs or signature.outputs]
    named = [name for name in named if not name.startswith("__")]  # of TensorFlow itself, to initialize
    if DEFAULT in named:
        return DEFAULT
    if len(named) == 1:
        return named[0]
    there = f"it has {', '.join(named)}" if named else "it has none"
    raise ManifestError(f"no signature {DEFAULT!r}, and {there}: export the model with one of that name")
