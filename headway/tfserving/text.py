"""Protobuf text, as TF Serving's files are written, → a dict; descriptors are made here, so none are imported.

Fields may be parted by commas, semicolons or nothing; what is not known is refused with its line.
"""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headway.errors import SettingsError

_LONGEST = 1 << 20

#: Kinds of fields, as protobuf numbers them.
_DOUBLE, _INT64, _BOOL, _STRING, _MESSAGE, _UINT32, _ENUM = 1, 3, 8, 9, 11, 13, 14

#: Message → field → (number, kind); a name is that of a message, of which `*` makes several, and `#` a map to int64.
_MESSAGES: Mapping[str, Mapping[str, tuple[int, int | str]]] = {
    "Int64Value": {"value": (1, _INT64)},
    "BoolValue": {"value": (1, _BOOL)},
    "StringValue": {"value": (1, _STRING)},
    "ModelServerConfig": {"model_config_list": (1, "ModelConfigList"), "custom_model_config": (2, "Any")},
    "Any": {"type_url": (1, _STRING)},
    "ModelConfigList": {"config": (1, "ModelConfig*")},
    "ModelConfig": {
        "name": (1, _STRING),
        "base_path": (2, _STRING),
        "model_type": (3, _ENUM),
        "model_platform": (4, _STRING),
        "logging_config": (6, "LoggingConfig"),
        "model_version_policy": (7, "ServableVersionPolicy"),
        "version_labels": (8, "#"),
        "logging_configs": (10, "LoggingConfig*"),
    },
    "ServableVersionPolicy": {"latest": (100, "Latest"), "all": (101, "All"), "specific": (102, "Specific")},
    "Latest": {"num_versions": (1, _UINT32)},
    "All": {},
    "Specific": {"versions": (1, "int64*")},
    "LoggingConfig": {
        "log_collector_config": (1, "LogCollectorConfig"),
        "sampling_config": (2, "SamplingConfig"),
        "additional_log_collector_configs": (3, "LogCollectorConfig*"),
    },
    "LogCollectorConfig": {"type": (1, _STRING), "filename_prefix": (2, _STRING)},
    "SamplingConfig": {"sampling_rate": (1, _DOUBLE)},
    "BatchingParameters": {
        "max_batch_size": (1, "Int64Value"),
        "batch_timeout_micros": (2, "Int64Value"),
        "max_enqueued_batches": (3, "Int64Value"),
        "num_batch_threads": (4, "Int64Value"),
        "thread_pool_name": (5, "StringValue"),
        "allowed_batch_sizes": (6, "int64*"),
        "pad_variable_length_inputs": (7, _BOOL),
        "enable_large_batch_splitting": (8, "BoolValue"),
        "max_execution_batch_size": (9, "Int64Value"),
    },
}
_MODEL_TYPES = ("MODEL_TYPE_UNSPECIFIED", "TENSORFLOW", "OTHER")
_PACKAGE = "tensorflow.serving"


def read(file: Path, kind: str) -> dict[str, Any]:
    """A message of that kind. Raises SettingsError, naming the file and, of what is no such text, the line."""
    try:
        with file.open("rb") as stream:
            raw = stream.read(_LONGEST + 1)
    except OSError as error:
        raise SettingsError(f"{file}: cannot be read: {error.strerror}") from error
    if len(raw) > _LONGEST:
        raise SettingsError(f"{file}: is longer than {_LONGEST} bytes")
    try:
        return parse(raw.decode("utf-8"), kind)
    except UnicodeDecodeError as error:
        raise SettingsError(f"{file}: is no UTF-8") from error
    except SettingsError as error:
        raise SettingsError(f"{file}: {error}") from error


def parse(text: str, kind: str) -> dict[str, Any]:
    """The fields that are there, messages as dicts, several as lists, enums by name. Raises SettingsError."""
    message = _classes()[kind]()
    from google.protobuf import text_format

    try:
        text_format.Parse(text, message)
    except text_format.ParseError as error:
        what = str(error).partition(" : ")[2] or str(error)
        raise SettingsError(f"line {error.GetLine() or 1}: {what[:300]}") from error
    except (RecursionError, ValueError) as error:
        raise SettingsError(f"is no {kind}: {error}") from error
    found: dict[str, Any] = _as_dict(message)
    return found


def _as_dict(message: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field, value in message.ListFields():
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            found[field.name] = dict(value)
        elif field.message_type is not None:
            found[field.name] = [_as_dict(one) for one in value] if field.is_repeated else _as_dict(value)
        elif field.enum_type is not None:
            known = field.enum_type.values_by_number
            found[field.name] = known[value].name if value in known else str(value)
        else:
            found[field.name] = list(value) if field.is_repeated else value
    return found


@functools.cache
def _classes() -> Mapping[str, Any]:
    """Raises SettingsError where protobuf is not there."""
    try:
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    except ImportError as error:
        raise SettingsError("TF Serving's files need protobuf to be read: pip install 'headway[tf]'") from error
    file = descriptor_pb2.FileDescriptorProto(name="headway/tfserving.proto", package=_PACKAGE, syntax="proto3")
    enum = file.enum_type.add(name="ModelType")
    for number, name in enumerate(_MODEL_TYPES):
        enum.value.add(name=name, number=number)
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        if name == "ServableVersionPolicy":
            message.oneof_decl.add(name="policy_choice")
        for field, (number, kind) in fields.items():
            _add(message, field, number, kind)
    pool = descriptor_pool.DescriptorPool()  # not the usual one, where others may have these names
    pool.Add(file)
    kinds = {name: pool.FindMessageTypeByName(f"{_PACKAGE}.{name}") for name in _MESSAGES}
    return {name: message_factory.GetMessageClass(kind) for name, kind in kinds.items()}


def _add(message: Any, name: str, number: int, kind: int | str) -> None:
    several = isinstance(kind, str) and kind[-1] in "*#"
    field = message.field.add(name=name, number=number, label=3 if several else 1)
    if message.name == "ServableVersionPolicy":
        field.oneof_index = 0
    if isinstance(kind, int):
        field.type = kind
        if kind == _ENUM:
            field.type_name = f".{_PACKAGE}.ModelType"
    elif kind == "int64*":
        field.type = _INT64
    elif kind == "#":
        entry = message.nested_type.add(name="VersionLabelsEntry")
        entry.options.map_entry = True
        entry.field.add(name="key", number=1, label=1, type=_STRING)
        entry.field.add(name="value", number=2, label=1, type=_INT64)
        field.type, field.type_name = _MESSAGE, f".{_PACKAGE}.{message.name}.{entry.name}"
    else:
        field.type, field.type_name = _MESSAGE, f".{_PACKAGE}.{kind.rstrip('*')}"
