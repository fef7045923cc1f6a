"""What a prediction came to, as TF Serving prints it: rows under `predictions`, columns under `outputs`.

Rows are in one line each, however long, and columns in a line a number; clients compare such replies as text.
"""

import base64
from collections.abc import Sequence
from typing import Any, NamedTuple

from api.dialects.rows import Array
from api.dialects.tfserving.documents import double, single, string, written
from api.dialects.tfserving.errors import invalid
from api.dialects.tfserving.types import BY_DATATYPE

_INDENT = 4


class Output(NamedTuple):
    """A tensor of a reply."""

    name: str
    datatype: str
    array: Array


def rows(outputs: Sequence[Output]) -> bytes:
    """Raises Refused where they are not rows of the same number."""
    count = -1
    for one in outputs:
        if one.array.ndim == 0:
            raise invalid(f"Tensor name: {one.name} has no shape information ")
        if count not in (-1, one.array.shape[0]):
            raise invalid(
                f"Tensor name: {one.name} has inconsistent batch size: {one.array.shape[0]} expecting: {count}"
            )
        count = one.array.shape[0]
    if len(outputs) == 1:
        return _listed(_nested(outputs[0], level=2, rows=True))
    columns = [_nested(one, level=3, rows=True) for one in outputs]
    names = [string(one.name) for one in outputs]
    return _listed(
        [_object(zip(names, values, strict=True), level=2) for values in zip(*columns, strict=True)], own_lines=True
    )


def values(found: Sequence[Any], *, rows: bool) -> bytes:
    """Of a model that declares no outputs: whatever JSON each prediction came to."""
    objects = any(isinstance(one, dict) for one in found)
    return _listed([written(one, 2) for one in found], own_lines=objects, key="predictions" if rows else "outputs")


def columns(outputs: Sequence[Output]) -> bytes:
    if len(outputs) == 1:
        (shown,) = _nested(outputs[0], level=1, rows=False)
    else:
        each = ((string(one.name), _nested(one, level=2, rows=False)[0]) for one in outputs)
        shown = _object(each, level=1)
    return f'{{\n    "outputs": {shown}\n}}'.encode()


def _listed(items: Sequence[str], *, own_lines: bool = False, key: str = "predictions") -> bytes:
    if not items:
        return f'{{\n    "{key}": []\n}}'.encode()
    listed = ",".join(f"\n{_space(2)}{one}" for one in items) if own_lines else ", ".join(items)
    return f'{{\n    "{key}": [{listed}\n    ]\n}}'.encode()


def _space(level: int) -> str:
    return " " * (_INDENT * level)


def _object(members: Any, level: int) -> str:
    """Of (name, value) in JSON each."""
    inner = "\n" + _space(level + 1)
    return "{" + ",".join(f"{inner}{name}: {value}" for name, value in members) + f"\n{_space(level)}}}"


def _nested(output: Output, *, level: int, rows: bool) -> list[str]:
    """The array in JSON, or that of each row; arrays of rows are in one line."""
    shape = output.array.shape
    kept = 1 if rows else 0
    parts = _elements(output, level + len(shape) - kept)
    groups = output.array.size
    for depth in reversed(range(kept, len(shape))):
        length = shape[depth]
        if not length:
            groups = 1
            for each in shape[:depth]:
                groups *= each
            parts = ["[]"] * groups
            continue
        if rows:
            before, between, after = "[", ", ", "]"
        else:
            inner, outer = _space(level + depth + 1), _space(level + depth)
            before, between, after = f"[\n{inner}", f",\n{inner}", f"\n{outer}]"
        parts = [before + between.join(parts[at : at + length]) + after for at in range(0, len(parts), length)]
    return parts


def _elements(output: Output, level: int) -> list[str]:
    """Each in JSON, in row-major order; `level`: how deep they are."""
    type_ = BY_DATATYPE[output.datatype]
    if not type_.in_json:
        raise invalid(f"Failed to write JSON value for tensor type: {type_.word}")
    flat: list[Any] = output.array.reshape(-1).tolist()
    if type_.dtype == "float32":
        return [single(one) for one in flat]
    if type_.dtype == "float64":
        return [double(one) for one in flat]
    if type_.dtype == "bool":
        return ["true" if one else "false" for one in flat]
    if type_.dtype != "string":
        return [str(one) for one in flat]
    if output.name.endswith("_bytes"):
        return [_object([('"b64"', f'"{base64.b64encode(_bytes(one)).decode()}"')], level) for one in flat]
    try:
        return [string(one if isinstance(one, str) else _bytes(one).decode()) for one in flat]
    except UnicodeDecodeError as error:
        raise invalid(
            f"Failed to write JSON value for tensor type: string: {output.name} has bytes that are no UTF-8, which "
            "only an output whose name ends in _bytes may have"
        ) from error


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()
