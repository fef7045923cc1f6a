"""`datetime`: a list of times, written as ISO 8601 has them."""

from datetime import datetime
from typing import Any

from ..types import RequestInput, ResponseOutput
from .base import InputCodec, register_input_codec
from .string import as_list, bytes_output, is_list_of


@register_input_codec
class DatetimeCodec(InputCodec):
    ContentType = "datetime"
    TypeHint = list[datetime]

    @classmethod
    def can_encode(cls, payload: Any) -> bool:
        return is_list_of(payload, datetime)

    @classmethod
    def encode_output(cls, name: str, payload: Any, use_bytes: bool = True, **more: Any) -> ResponseOutput:
        return bytes_output(
            name, [one if isinstance(one, str) else one.isoformat() for one in payload], cls.ContentType
        )

    @classmethod
    def decode_input(cls, request_input: RequestInput) -> Any:
        texts = [one if isinstance(one, str) else one.decode("ascii") for one in as_list(request_input.data.root)]
        return [datetime.fromisoformat(one) for one in texts]
