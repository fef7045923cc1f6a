"""A predict request in JSON as tensors: rows (`instances`) or columns (`inputs`), each value of its dtype exactly.

What fits is read level by level, in a few C loops; what seems not to is walked through again, slowly, in the order in
which TF Serving does, to say of which value it complains and in which words.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from api.dialects.rows import Given
from api.dialects.tfserving.documents import kind_of, quoted
from api.dialects.tfserving.errors import Code, Refused, invalid
from api.dialects.tfserving.signatures import Info
from headway import tensors
from headway.manifest import DTYPES

Inputs = Mapping[str, Info]


class Predict(NamedTuple):
    """The tensors of a request; `rows`: it came as rows, and is answered as such."""

    inputs: list[Given]
    rows: bool


def signature_name(document: dict[str, Any]) -> str:
    """ "" where it names none. Raises Refused."""
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise invalid(
            f"JSON Value: {quoted(document)} not formatted correctly. 'signature_name' key must be a string value."
        )
    return name


def is_rows(document: dict[str, Any]) -> bool:
    """Whether it has `instances`, and they are some. Raises Refused."""
    if "instances" not in document:
        if "inputs" in document:
            return False
        raise invalid("Missing 'inputs' or 'instances' key")
    if "inputs" in document:
        raise invalid(
            f"JSON Value: {quoted(document)} Not formatted correctly expecting only one of 'inputs' or 'instances' "
            "keys to exist "
        )
    instances = document["instances"]
    if not isinstance(instances, list):
        raise invalid(f"JSON Value: {quoted(document)} Expecting 'instances' to be an list/array")
    if not instances:
        raise invalid(f"JSON Value: {quoted(document)} No values in 'instances' array")
    return True


def read(document: dict[str, Any], inputs: Inputs) -> Predict:
    """Of a signature that takes `inputs`. Raises Refused."""
    if is_rows(document):
        return Predict(_of_rows(document["instances"], inputs), True)
    return Predict(_of_columns(document["inputs"], inputs), False)


# Rows


def _of_rows(instances: list[Any], inputs: Inputs) -> list[Given]:
    first = instances[0]
    if not isinstance(first, dict) and len(inputs) > 1:
        raise invalid(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            "tensorinfo_map"
        )
    objects = _is_object(first)
    if objects and all(_is_object(one) and one.keys() == inputs.keys() for one in instances):
        columns = {name: [one[name] for one in instances] for name in inputs}
    elif not objects and not any(map(_is_object, instances)):
        columns = {next(iter(inputs)): instances}
    else:
        columns = {}
    try:
        return [_tensor(name, info, columns[name]) for name, info in inputs.items()]
    except (_Misfit, KeyError):
        _explain_rows(instances, inputs, objects)
        raise


def _explain_rows(instances: list[Any], inputs: Inputs, objects: bool) -> None:
    """Raises Refused with what is wrong first, element by element."""
    seen: dict[str, tuple[int, list[int]]] = {}
    for index, one in enumerate(instances):
        if objects:
            if not _is_object(one):
                raise invalid(f"Expecting object but got list at item {index} of input list")
            for name, value in one.items():
                try:
                    _explain_item(name, value, inputs, seen)
                except Refused as refused:
                    raise invalid(
                        f"Failed to process element: {index} key: {name[:200]} of 'instances' list. "
                        f"Error: {refused.code.grpc}: {refused}"
                    ) from refused
            if one.keys() != inputs.keys():
                raise invalid(
                    f"Failed to process element: {index} of 'instances' list. JSON object: {quoted(one)} keys must be "
                    f"equal to: {','.join(sorted(inputs))}"
                )
        elif _is_object(one):
            raise invalid(f"Expecting value/list but got object at item {index} of input list")
        else:
            try:
                _explain_item(next(iter(inputs)), one, inputs, seen)
            except Refused as refused:
                raise invalid(
                    f"Failed to process element: {index} of 'instances' list. Error: {refused.code.grpc}: {refused}"
                ) from refused
    raise invalid("the elements of 'instances' are no tensor")


def _explain_item(name: str, value: Any, inputs: Inputs, seen: dict[str, tuple[int, list[int]]]) -> None:
    if name not in inputs:
        raise invalid(f"JSON object: does not have named input: {name[:200]}")
    shape = _shape_of(value)
    size = _explain(value, inputs[name], shape)
    size_before, shape_before = seen.setdefault(name, (size, shape))
    if size != size_before:
        raise invalid(f"Expecting tensor size: {size_before} but got: {size}")
    if shape != shape_before:
        raise invalid(f"Expecting shape {_listed(shape_before)} but got: {_listed(shape)}")


# Columns


def _of_columns(value: Any, inputs: Inputs) -> list[Given]:
    if not isinstance(value, dict) or _is_base64(value):
        if len(inputs) > 1:
            raise invalid(
                "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
                "tensorinfo_map"
            )
        value = {next(iter(inputs)): value}
    given = []
    for name, info in inputs.items():
        if name not in value:
            raise invalid(f"Missing named input: {name} in 'inputs' object.")
        try:
            given.append(_tensor(name, info, value[name]))
        except _Misfit:
            _explain(value[name], info, _shape_of(value[name]))
            raise
    return given


# A tensor


class _Misfit(Exception):  # noqa: N818  (found out on the fast way, and told on the slow one)
    pass


_KINDS: Mapping[str, frozenset[type]] = {
    dtype: frozenset(
        {bool} if dtype == "bool" else {str, dict} if dtype == "string" else {int} if "int" in dtype else {int, float}
    )
    for dtype in DTYPES
}
_LIST = {list}


def _tensor(name: str, info: Info, value: Any) -> Given:
    """Raises _Misfit."""
    if info.type is None or not info.type.in_json:
        raise _Misfit
    level, shape = [value], []
    while type(level[0]) is list:
        if set(map(type, level)) != _LIST:
            raise _Misfit
        lengths = set(map(len, level))
        length = lengths.pop()
        if lengths:
            raise _Misfit
        shape.append(length)
        level = list(chain.from_iterable(level))
        if not length:
            break
    if not set(map(type, level)) <= _KINDS[info.type.dtype]:
        raise _Misfit
    _, _, data = tensors.from_array(_array(level, info.type.dtype))
    return Given(name, info.type.datatype, tuple(shape), data)


def _array(values: list[Any], dtype: str) -> np.ndarray[Any, Any]:
    if dtype == "string":
        texts = np.empty(len(values), dtype=object)
        texts[:] = [_decoded(one) if isinstance(one, dict) else one for one in values]
        return texts
    limits = DTYPES[dtype]
    if "int" in dtype and limits is not None and values and not limits[0] <= min(values) <= max(values) <= limits[1]:
        raise _Misfit
    with np.errstate(over="ignore"):  # a float32 that is none becomes infinite there, too
        try:
            return np.array(values, dtype)
        except OverflowError as error:
            raise _Misfit from error


def _is_base64(value: Any) -> bool:
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict) and not _is_base64(value)


def _decoded(value: dict[str, Any]) -> bytes:
    if not _is_base64(value):
        raise invalid(f"JSON Value: {quoted(value)} not formatted correctly for base64 data")
    text = value["b64"].rstrip("=")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid("Unable to base64 decode") from error


def _shape_of(value: Any) -> list[int]:
    """As its first elements say."""
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        if not value:
            break
        value = value[0]
    return shape


def _explain(value: Any, info: Info, shape: Sequence[int], depth: int = 0) -> int:
    """How many elements it has. Raises Refused at the first that does not fit."""
    if not isinstance(value, list):
        if depth != len(shape):
            raise invalid(
                f"JSON Value: {quoted(value)} found at incorrect level: {depth + 1} in the JSON DOM. "
                f"Expected at level: {len(shape)}"
            )
        _explain_value(value, info)
        return 1
    if depth >= len(shape):
        raise invalid(f"Encountered list at unexpected level: {depth} expected < {len(shape)}")
    if len(value) != shape[depth]:
        raise invalid(
            f"Encountered list at unexpected size: {len(value)} at level: {depth} expected size: {shape[depth]}"
        )
    return sum(_explain(one, info, shape, depth + 1) for one in value)


def _explain_value(value: Any, info: Info) -> None:
    if info.type is None or not info.type.in_json:
        word = info.dtype.removeprefix("DT_").lower() if info.type is None else info.type.word
        raise Refused(Code.UNIMPLEMENTED, f"Conversion of JSON Value: {quoted(value)} to type: {word}")
    dtype = info.type.dtype
    fits = type(value) in _KINDS[dtype]
    if fits and isinstance(value, dict):
        _decoded(value)
    elif fits and "int" in dtype:
        limits = DTYPES[dtype]
        fits = limits is None or limits[0] <= value <= limits[1]
    elif fits and isinstance(value, int) and not isinstance(value, bool):
        fits = abs(value) < 1 << 1023
    if not fits:
        raise invalid(f"JSON Value: {quoted(value)} Type: {kind_of(value)} is not of expected type: {info.type.word}")


def _listed(shape: Sequence[int]) -> str:
    return f"[{','.join(map(str, shape))}]"
