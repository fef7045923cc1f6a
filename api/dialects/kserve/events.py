"""CloudEvents around a request of the first protocol: in its headers (binary mode), or as JSON (structured mode).

Who sends one gets one: a response event of the model, with an id and a time of its own.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import msgspec

from api.answers import Answer
from api.dialects.kserve.errors import JSON, invalid

STRUCTURED = "application/cloudevents+json"
_REQUIRED = (b"ce-specversion", b"ce-source", b"ce-type", b"ce-id")
#: Of a JSON object that is an event; KServe knows it by these alone.
_MEMBERS = frozenset({"time", "type", "source", "id", "specversion", "data"})
_VERSIONS = ("1.0", "0.3")
_TYPE = "io.kserve.inference.response"


def is_binary(headers: Mapping[bytes, bytes]) -> bool:
    return all(name in headers for name in _REQUIRED)


def check(headers: Mapping[bytes, bytes]) -> None:
    """Of one in binary mode. Raises Refused."""
    version = headers[b"ce-specversion"].decode("latin-1")
    if version not in _VERSIONS:
        raise invalid(f"Cloud Event Exceptions: Found invalid specversion {version[:40]}")


def data_of(body: Any) -> Any:
    """What a structured event carries; the body itself where it is none."""
    return body["data"] if isinstance(body, dict) and body.keys() >= _MEMBERS else body


def answer(headers: Mapping[bytes, bytes], model: str, value: Any) -> Answer:
    """JSON, as an event where the request was one and said so in its headers."""
    if is_binary(headers):
        told = [(f"ce-{name}".encode(), text.encode()) for name, text in _attributes(model).items()]
        return Answer(200, msgspec.json.encode(value), (*JSON, *told))
    if headers.get(b"content-type", b"") == STRUCTURED.encode():
        event = {**_attributes(model), "data": value}
        return Answer(200, msgspec.json.encode(event), ((b"content-type", STRUCTURED.encode()),))
    return Answer(200, msgspec.json.encode(value), JSON)


def _attributes(model: str) -> dict[str, str]:
    return {
        "specversion": "1.0",
        "id": str(uuid4()),
        "source": f"io.kserve.inference.{model}",
        "type": _TYPE,
        "time": datetime.now(UTC).isoformat(),
    }
