"""`base64`: a list of bytes, written so."""

import base64
import binascii
from typing import Any

from ..types import RequestInput, ResponseOutput
from .base import InputCodec, register_input_codec
from .string import as_list, bytes_output, is_list_of


@register_input_codec
class Base64Codec(InputCodec):
    ContentType = "base64"
    TypeHint = list[bytes]

    @classmethod
    def can_encode(cls, payload: Any) -> bool:
        return is_list_of(payload, bytes)

    @classmethod
    def encode_output(cls, name: str, payload: Any, use_bytes: bool = True, **more: Any) -> ResponseOutput:
        return bytes_output(name, [base64.b64encode(_bytes(one)).decode() for one in payload], cls.ContentType)

    @classmethod
    def decode_input(cls, request_input: RequestInput) -> Any:
        return [_decoded(one) for one in as_list(request_input.data.root)]


def _bytes(one: Any) -> bytes:
    return one.encode("ascii") if isinstance(one, str) else bytes(one)


def _decoded(one: Any) -> bytes:
    """What is no base64 is taken as it is."""
    try:
        return base64.b64decode(_bytes(one), validate=True)
    except binascii.Error:
        return _bytes(one)
