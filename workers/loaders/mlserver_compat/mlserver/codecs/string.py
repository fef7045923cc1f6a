"""`str`: a list of texts."""

from typing import Any

from ..types import Parameters, RequestInput, ResponseOutput
from .base import InputCodec, SingleInputRequestCodec, register_input_codec, register_request_codec


def is_list_of(payload: Any, kind: type) -> bool:
    return isinstance(payload, list) and all(isinstance(one, kind) for one in payload)


def as_list(payload: Any) -> list[Any]:
    return payload if isinstance(payload, list) else [payload]


def decode_str(encoded: Any, str_codec: str = "utf-8") -> Any:
    if encoded is None or isinstance(encoded, str):
        return encoded
    return encoded.decode(str_codec) if isinstance(encoded, bytes) else ""


def bytes_output(name: str, data: list[Any], content_type: str) -> ResponseOutput:
    """A column of BYTES."""
    return ResponseOutput(
        name=name,
        datatype="BYTES",  # type: ignore[arg-type]
        shape=[len(data), 1],
        data=data,  # type: ignore[arg-type]
        parameters=Parameters(content_type=content_type),
    )


@register_input_codec
class StringCodec(InputCodec):
    ContentType = "str"
    TypeHint = list[str]

    @classmethod
    def can_encode(cls, payload: Any) -> bool:
        return is_list_of(payload, str)

    @classmethod
    def encode_output(cls, name: str, payload: Any, use_bytes: bool = True, **more: Any) -> ResponseOutput:
        return bytes_output(name, list(payload), cls.ContentType)

    @classmethod
    def decode_input(cls, request_input: RequestInput) -> Any:
        return [decode_str(one) for one in as_list(request_input.data.root)]


@register_request_codec
class StringRequestCodec(SingleInputRequestCodec):
    InputCodec = StringCodec
    ContentType = "str"
    TypeHint = list[str]
