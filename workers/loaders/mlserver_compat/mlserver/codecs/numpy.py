"""`np`: an array."""

from typing import Any

import numpy as np

from headway.tensors import DATATYPES, DTYPES

from ..types import Parameters, RequestInput, ResponseOutput
from .base import InputCodec, SingleInputRequestCodec, register_input_codec, register_request_codec


def to_dtype(one: RequestInput | ResponseOutput) -> np.dtype[Any]:
    if one.datatype.value != "BYTES":
        return np.dtype(DTYPES[one.datatype.value])
    data = one.data.root
    if isinstance(data, list) and all(isinstance(value, str) for value in data):
        return np.dtype(str)
    return np.dtype(("bytes", one.shape[-1]))


def to_datatype(dtype: np.dtype[Any]) -> str:
    return "BYTES" if dtype.kind in "OSU" else DATATYPES[dtype.name]


def with_batch(shape: list[int]) -> list[int]:
    """A vector is a column."""
    return shape if len(shape) > 1 else [*shape, 1]


def listed(array: np.ndarray[Any, Any]) -> list[Any]:
    """Its elements; None for NaN."""
    if array.dtype.kind == "S":
        return [array.tobytes()]
    flat: list[Any] = array.reshape(-1).tolist()
    if array.dtype.kind == "f" and np.isnan(array).any():
        return [None if value != value else value for value in flat]
    return flat


@register_input_codec
class NumpyCodec(InputCodec):
    ContentType = "np"
    TypeHint = np.ndarray

    @classmethod
    def can_encode(cls, payload: Any) -> bool:
        return isinstance(payload, np.ndarray)

    @classmethod
    def encode_output(cls, name: str, payload: Any, **more: Any) -> ResponseOutput:
        return ResponseOutput(
            name=name,
            datatype=to_datatype(payload.dtype),  # type: ignore[arg-type]
            shape=with_batch(list(payload.shape)),
            data=listed(payload),  # type: ignore[arg-type]
            parameters=Parameters(content_type=cls.ContentType),
        )

    @classmethod
    def decode_input(cls, request_input: RequestInput) -> Any:
        data = request_input.data.root
        return np.array(data, to_dtype(request_input)).reshape(request_input.shape)


@register_request_codec
class NumpyRequestCodec(SingleInputRequestCodec):
    InputCodec = NumpyCodec
    ContentType = "np"
    TypeHint = np.ndarray
