"""Typed inputs: does a JSON value fit what a model declares, and the numpy arrays it stands for.

An input is an object with one entry per declared array, nested lists of numbers; with one declared array the bare
value will do. The rule: nothing is guessed. A bool is no number, a string is no number, 1.5 and 1.0 are no integers,
rows of unequal length are refused, and so are missing and unknown names. Only where an input is `nullable` is null a
number, NaN. Time is that of a few C loops per array.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Annotated, Any

import msgspec
import numpy as np

from headway import npy, tensors
from headway.errors import InputRefused
from headway.manifest import DTYPES, Items, Manifest, Tensor

#: dtypes that numpy holds as another.
_HELD_AS = {"bfloat16": "float32", "string": "object"}

_JSON_NAMES = {
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    str: "a string",
    list: "a list",
    dict: "an object",
}

_FITS: dict[str, frozenset[type]] = {
    dtype: frozenset(
        {bool} if dtype == "bool" else {str} if dtype == "string" else {int} if "int" in dtype else {int, float}
    )
    for dtype in DTYPES
}
_LIST = {list}
_NULL = {type(None)}


@dataclass(frozen=True, slots=True)
class Checked:
    """What the queue needs to know of an input that fits."""

    shape: str | None  # lengths of the free dimensions in declared order, "128,3;128"; None without free dimensions
    elements: int  # numbers in all arrays together
    rows: int = 1  # where items are joined


def check(value: Any, inputs: Mapping[str, Tensor], items: Items = "stacked") -> Checked:
    """Raises InputRefused with a JSON pointer to the first thing that does not fit."""
    shapes, elements = [], 0
    for name, tensor, pointer, array in _named(value, inputs):
        flat, shape = _flatten(array, tensor, pointer)
        elements += len(flat)
        shapes.append((name, shape, pointer))
    return _checked(shapes, inputs, elements, items)


def _checked(
    shapes: Sequence[tuple[str, tuple[int, ...], str]], inputs: Mapping[str, Tensor], elements: int, items: Items
) -> Checked:
    """Of (name, shape, pointer) of every input that is there. Raises InputRefused where their rows are not as many."""
    rows, first = 1, 0
    if items == "joined":
        if not shapes:
            raise InputRefused("", "has no input")
        first = 1  # how many rows there are keeps nobody apart
        rows = shapes[0][1][0]
        for _, found, pointer in shapes:
            if found[0] != rows:
                raise InputRefused(pointer, f"has {found[0]} rows, and the first input has {rows}")
    there = {name: shape for name, shape, _ in shapes}
    free = [
        ",".join(str(n) for n, length in zip(there[name][first:], tensor.shape[first:], strict=True) if length == -1)
        if name in there
        else ""
        for name, tensor in inputs.items()
        if -1 in tensor.shape[first:]
    ]
    return Checked(";".join(free) if free else None, elements, rows)


def check_tensors(entries: Sequence[tensors.Entry], inputs: Mapping[str, Tensor], items: Items = "stacked") -> Checked:
    """Of arrays that came as bytes, each of the declared dtype exactly. Raises InputRefused."""
    found = {entry.name: entry for entry in entries}
    for name in found:
        if name not in inputs:
            raise InputRefused(_pointer("", name), f"is not an input of this model; it takes {', '.join(inputs)}")
    shapes, elements = [], 0
    for name, tensor in inputs.items():
        entry, pointer = found.get(name), _pointer("", name)
        if entry is None:
            if tensor.optional:
                continue
            raise InputRefused(pointer, "is missing")
        if tensors.DTYPES.get(entry.datatype) != tensor.dtype:
            wanted = tensors.DATATYPES[tensor.dtype]
            raise InputRefused(pointer, f"is {entry.datatype}, and should be {wanted}{_expected(tensor)}")
        fits = len(entry.shape) == len(tensor.shape) and all(
            (length > 0 or items == "alone") and declared in (-1, length)
            for length, declared in zip(entry.shape, tensor.shape, strict=True)
        )
        if not fits:
            raise InputRefused(pointer, f"has the shape {list(entry.shape)}{_expected(tensor)}")
        elements += entry.elements
        shapes.append((name, entry.shape, pointer))
    return _checked(shapes, inputs, elements, items)


def given_tensors(data: bytes, inputs: Mapping[str, Tensor], items: Items = "stacked") -> dict[str, Any]:
    """What `to_arrays` would make of them, in the declared order; without declared inputs, all that there are.

    Strings are `str`, and as they came, `bytes`, where another server's model takes them. Raises InputRefused.
    """
    parts = tensors.split(data)
    if inputs:
        check_tensors([entry for entry, _ in parts], inputs, items)
    arrays = {entry.name: tensors.to_array(entry.datatype, entry.shape, part) for entry, part in parts}
    if items == "stacked":
        for name, array in arrays.items():
            if array.dtype.kind == "O":
                arrays[name] = _texts(array, _pointer("", name))
    return {name: arrays[name] for name in inputs if name in arrays} if inputs else arrays


def _texts(array: np.ndarray[Any, Any], pointer: str) -> np.ndarray[Any, Any]:
    texts = np.empty(array.shape, dtype=object)
    try:
        texts.reshape(-1)[:] = [value.decode("utf-8") for value in array.reshape(-1)]
    except UnicodeDecodeError as error:
        raise InputRefused(pointer, "has text that is not UTF-8") from error
    return texts


def to_arrays(value: Any, inputs: Mapping[str, Tensor]) -> dict[str, np.ndarray[Any, Any]]:
    """One array per declared input, of its dtype (bfloat16 as float32, string as object) and shape.

    Checks as `check` does, and raises InputRefused like it.
    """
    arrays = {}
    for name, tensor, pointer, array in _named(value, inputs):
        flat, shape = _flatten(array, tensor, pointer)
        arrays[name] = np.array(flat, dtype=_HELD_AS.get(tensor.dtype, tensor.dtype)).reshape(shape)
    return arrays


class Decoder:
    """`to_arrays` of JSON, for the same inputs again and again.

    What fits is decoded to numbers that are checked on the way, by one C loop, and five times sooner; what seems not to
    is looked at the slow way, which says why.
    """

    def __init__(self, inputs: Mapping[str, Tensor]) -> None:
        self._inputs = inputs
        # Of strings, numpy takes rows of any length.
        self._slowly = any(tensor.dtype == "string" or tensor.optional for tensor in inputs.values())
        self._dtypes = [np.dtype(_HELD_AS.get(tensor.dtype, tensor.dtype)) for tensor in inputs.values()]
        types = [_nested(tensor) for tensor in inputs.values()]
        fields = [f"_{number}" for number in range(len(types))]  # the names themselves need not be identifiers
        self._named = msgspec.json.Decoder(
            msgspec.defstruct(
                "Named",
                list(zip(fields, types, strict=True)),
                rename=dict(zip(fields, inputs, strict=True)),
                forbid_unknown_fields=True,
            )
        ).decode
        self._bare = msgspec.json.Decoder(types[0]).decode if len(types) == 1 else None

    def __call__(self, json: bytes) -> dict[str, np.ndarray[Any, Any]]:
        """Raises InputRefused, or what msgspec raises for what is no JSON."""
        if self._slowly:
            return to_arrays(msgspec.json.decode(json), self._inputs)
        try:
            if self._bare is not None and json[:1] != b"{":
                values: Iterable[Any] = (self._bare(json),)
            else:
                values = msgspec.structs.astuple(self._named(json))
            return {
                name: np.array(value, dtype)
                for name, dtype, value in zip(self._inputs, self._dtypes, values, strict=True)
            }
        except (msgspec.ValidationError, ValueError, OverflowError):
            return to_arrays(msgspec.json.decode(json), self._inputs)


def _nested(tensor: Tensor) -> Any:
    """The type of the nested lists of numbers that it is in JSON."""
    of: Any = bool if tensor.dtype == "bool" else str if tensor.dtype == "string" else float
    limits = DTYPES[tensor.dtype]
    if "int" in tensor.dtype:
        of = int
        if limits is not None and limits[1] >= 1 << 63:
            limits = None  # more than msgspec can compare; numpy refuses what is larger
    if limits is not None:
        of = Annotated[of, msgspec.Meta(ge=limits[0], le=limits[1])]
    if tensor.nullable:
        of = of | None
    for length in reversed(tensor.shape):
        few, many = (1, None) if length == -1 else (length, length)
        of = Annotated[list[of], msgspec.Meta(min_length=few, max_length=many)]
    return of


def check_array(
    dtype: np.dtype[Any] | None,
    shape: tuple[int, ...],
    type_: str,
    inputs: Mapping[str, Tensor],
    items: Items = "stacked",
) -> Checked:
    """Of an array that came as it is, or of bytes, which no declared input is (`dtype` None). Raises InputRefused."""
    if dtype is None:
        raise InputRefused("", f"is {type_}, and the model takes arrays: JSON or {npy.MEDIA_TYPE}")
    if len(inputs) != 1:
        raise InputRefused("", f"is one array, and the model takes {', '.join(inputs)}: they can only come as JSON")
    ((name, tensor),) = inputs.items()
    held = np.dtype(_HELD_AS.get(tensor.dtype, tensor.dtype))
    # A boolean is no number, and a number is narrowed by nobody.
    if held.kind == "O" or (dtype.kind == "b") != (held.kind == "b") or not np.can_cast(dtype, held, "safe"):
        raise InputRefused("", f"is of {dtype.newbyteorder('=')}, and should be {tensor.dtype}{_expected(tensor)}")
    fits = len(shape) == len(tensor.shape) and all(
        length > 0 and declared in (-1, length) for length, declared in zip(shape, tensor.shape, strict=True)
    )
    if not fits:
        raise InputRefused("", f"has the shape {list(shape)}{_expected(tensor)}")
    return _checked([(name, shape, "")], inputs, math.prod(shape), items)


def given_array(
    array: np.ndarray[Any, Any] | None, type_: str, inputs: Mapping[str, Tensor]
) -> dict[str, np.ndarray[Any, Any]]:
    """What `to_arrays` would make of it, had it come as JSON; `array` None: it was bytes. Raises InputRefused."""
    check_array(None if array is None else array.dtype, () if array is None else array.shape, type_, inputs)
    assert array is not None
    ((name, tensor),) = inputs.items()
    return {name: array.astype(_HELD_AS.get(tensor.dtype, tensor.dtype), copy=False)}


def example(inputs: Mapping[str, Tensor], manifest: Manifest) -> Any:
    """An input to try the model with: the manifest's, else zeros, free dimensions 1; None if nothing is declared."""
    if manifest.example is not None or not inputs:
        return manifest.example
    return {name: _zeros(tensor.dtype, tensor.shape) for name, tensor in inputs.items()}


def _zeros(dtype: str, shape: tuple[int, ...]) -> Any:
    if not shape:
        return False if dtype == "bool" else "" if dtype == "string" else 0 if "int" in dtype else 0.0
    return [_zeros(dtype, shape[1:]) for _ in range(max(shape[0], 1))]


def _named(value: Any, inputs: Mapping[str, Tensor]) -> list[tuple[str, Tensor, str, Any]]:
    """(name, tensor, pointer, nested lists) per declared input."""
    if not isinstance(value, dict):
        if len(inputs) == 1:
            ((name, tensor),) = inputs.items()
            return [(name, tensor, "", value)]
        raise InputRefused("", f"is {_describe(value)}, and should be an object with {', '.join(inputs)}")
    for name in value:
        if name not in inputs:
            raise InputRefused(_pointer("", name), f"is not an input of this model; it takes {', '.join(inputs)}")
    for name, tensor in inputs.items():
        if name not in value and not tensor.optional:
            raise InputRefused(_pointer("", name), "is missing")
    return [(name, tensor, _pointer("", name), value[name]) for name, tensor in inputs.items() if name in value]


def _flatten(array: Any, tensor: Tensor, pointer: str) -> tuple[list[Any], tuple[int, ...]]:
    """All numbers of nested lists in order, and their shape."""
    level, shape = [array], []
    for declared in tensor.shape:
        if set(map(type, level)) != _LIST:
            raise _refusal(array, tensor, pointer)
        lengths = set(map(len, level))
        length = lengths.pop()
        if lengths or length == 0 or (declared != -1 and length != declared):
            raise _refusal(array, tensor, pointer)
        shape.append(length)
        level = list(chain.from_iterable(level))
    types = set(map(type, level))
    if not (types - _NULL if tensor.nullable else types) <= _FITS[tensor.dtype]:
        raise _refusal(array, tensor, pointer)
    limits = DTYPES[tensor.dtype]
    numbers = [value for value in level if value is not None] if type(None) in types else level
    if limits is not None and numbers and not (limits[0] <= min(numbers) and max(numbers) <= limits[1]):
        raise _refusal(array, tensor, pointer)
    return level, tuple(shape)


def _refusal(array: Any, tensor: Tensor, pointer: str) -> InputRefused:
    """Finds what `_flatten` stumbled over, slowly: walks down and names the first thing that does not fit."""
    lengths: dict[int, tuple[int, str]] = {}  # depth → length seen first, and where

    def walk(value: Any, depth: int, at: str) -> InputRefused | None:
        if depth == len(tensor.shape):
            return None if value is None and tensor.nullable else _leaf_refusal(value, tensor.dtype, at)
        if type(value) is not list:
            return InputRefused(at, f"is {_describe(value)}, and should be a list{_expected(tensor)}")
        declared = tensor.shape[depth]
        if declared != -1 and len(value) != declared:
            return InputRefused(at, f"has length {len(value)}, and should have {declared}{_expected(tensor)}")
        if not value:
            return InputRefused(at, f"is empty{_expected(tensor)}")
        length, where = lengths.setdefault(depth, (len(value), at))
        if len(value) != length:
            return InputRefused(at, f"has length {len(value)}, and {where or 'the first'} has {length}")
        return next(filter(None, (walk(v, depth + 1, f"{at}/{i}") for i, v in enumerate(value))), None)

    return walk(array, 0, pointer) or InputRefused(pointer, f"does not fit{_expected(tensor)}")


def _leaf_refusal(value: Any, dtype: str, at: str) -> InputRefused | None:
    if type(value) not in _FITS[dtype]:
        return InputRefused(at, f"is {_describe(value)}, and should be {dtype}")
    limits = DTYPES[dtype]
    if limits is not None and not limits[0] <= value <= limits[1]:
        return InputRefused(at, f"is {_short(value)}, outside the range of {dtype}")
    return None


def _expected(tensor: Tensor) -> str:
    return f" (declared is {tensor.dtype} {list(tensor.shape)})"


def _describe(value: Any) -> str:
    if value is None:
        return "null"
    name = _JSON_NAMES.get(type(value), type(value).__name__)
    return name if isinstance(value, list | dict) else f"{name}, {_short(value)}"


def _short(value: Any) -> str:
    text = "true" if value is True else "false" if value is False else repr(value)
    return text if len(text) <= 40 else f"{text[:37]}…"


def _pointer(parent: str, key: str) -> str:
    return f"{parent}/{key.replace('~', '~0').replace('/', '~1')}"
