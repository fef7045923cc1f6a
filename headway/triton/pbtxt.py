"""The text of `config.pbtxt` → ModelConfig as JSON has it: field names as in the .proto, enums by name.

Read by protobuf itself with the descriptors of `tritonclient`, so that whatever Triton reads is read alike.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headway.errors import ManifestError

_LONGEST = 1 << 20

Config = dict[str, Any]


def read(file: Path) -> Config:
    """Every field that has a value or a default; messages that are not there are left out. Raises ManifestError."""
    try:
        with file.open("rb") as stream:
            raw = stream.read(_LONGEST + 1)
    except OSError as error:
        raise ManifestError(f"cannot be read: {error.strerror}") from error
    if len(raw) > _LONGEST:
        raise ManifestError(f"is longer than {_LONGEST} bytes")
    try:
        return parse(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ManifestError(f"is not UTF-8: {error}") from error


def parse(text: str) -> Config:
    """Raises ManifestError with the line, as protobuf says it."""
    try:
        from google.protobuf import text_format
        from tritonclient.grpc import model_config_pb2
    except ImportError as error:
        raise ManifestError("needs tritonclient to be read: pip install 'headway[oip]'") from error
    message = model_config_pb2.ModelConfig()
    try:
        text_format.Parse(text, message)
    except (text_format.ParseError, RecursionError) as error:
        raise ManifestError(f"is no model configuration: {error}") from error
    return _as_json(message)


def _as_json(message: Any) -> Config:
    """As protobuf's own JSON, but with integers of 64 bits as numbers, which is how Triton shows them."""
    found: Config = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            of = field.message_type.fields_by_name["value"]
            found[field.name] = {str(key): _value(of, value[key]) for key in sorted(value)}
        elif field.is_repeated:
            found[field.name] = [_value(field, one) for one in value]
        elif not field.has_presence or message.HasField(field.name):
            found[field.name] = _value(field, value)
    return found


def _value(field: Any, value: Any) -> Any:
    if field.message_type is not None:
        return _as_json(value)
    if field.enum_type is not None:
        known: Mapping[int, Any] = field.enum_type.values_by_number
        return known[value].name if value in known else value
    if isinstance(value, bytes):
        return value.decode("latin-1")
    return value
