"""Content types, and what they are in Python."""

from .base import (
    CodecError,
    InputCodec,
    RequestCodec,
    SingleInputRequestCodec,
    register_input_codec,
    register_request_codec,
)
from .base64 import Base64Codec
from .datetime import DatetimeCodec
from .decorator import decode_args
from .numpy import NumpyCodec, NumpyRequestCodec
from .pandas import PandasCodec
from .string import StringCodec, StringRequestCodec

__all__ = [
    "Base64Codec",
    "CodecError",
    "DatetimeCodec",
    "InputCodec",
    "NumpyCodec",
    "NumpyRequestCodec",
    "PandasCodec",
    "RequestCodec",
    "SingleInputRequestCodec",
    "StringCodec",
    "StringRequestCodec",
    "decode_args",
    "register_input_codec",
    "register_request_codec",
]
