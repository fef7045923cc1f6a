"""What FastAPI says of a body that its models do not take, as KServe's and MLServer's clients read it: status 422."""

import json
from typing import Any

import msgspec
from pydantic import TypeAdapter, ValidationError


class Unlike(Exception):  # noqa: N818  (what is wrong with a body)
    """`detail` is what the framework lists."""

    def __init__(self, detail: list[dict[str, Any]]) -> None:
        super().__init__("the body is not what it should be")
        self.detail = detail


def checked(adapter: TypeAdapter[Any], body: bytes) -> Any:
    """What the adapter makes of a body of JSON. Raises Unlike."""
    if not body:
        raise Unlike([{"type": "missing", "loc": ["body"], "msg": "Field required", "input": None}])
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise Unlike(_no_json(body, error)) from error
    try:
        return adapter.validate_python(value, from_attributes=True)
    except ValidationError as error:
        listed: list[dict[str, Any]] = [dict(one) for one in error.errors(include_url=False)]
        raise Unlike([{**one, "loc": ["body", *one["loc"]]} for one in listed]) from error


def unread(body: bytes) -> Unlike:
    """Of one whose media type is not JSON's, which the framework reads nothing of."""
    said = "Input should be a valid dictionary or object to extract fields from"
    text = body[:2000].decode("utf-8", "replace")
    return Unlike([{"type": "model_attributes_type", "loc": ["body"], "msg": said, "input": text}])


def _no_json(body: bytes, error: Exception) -> list[dict[str, Any]]:
    """With the place of what is wrong, as far as it is told."""
    place, why = 0, str(error)
    try:
        json.loads(body.decode())
    except json.JSONDecodeError as found:
        place, why = found.pos, found.msg
    except (ValueError, RecursionError):
        pass
    return [
        {"type": "json_invalid", "loc": ["body", place], "msg": "JSON decode error", "input": {}, "ctx": {"error": why}}
    ]
