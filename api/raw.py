"""Inputs that come as they are: the body is the input, and the other fields of a create stand in the query.

curl --data-binary @photo.jpg -H 'Content-Type: image/jpeg' '…/v1/models/photo/predictions?priority=0'
"""

import functools
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from api.exchange import Call, query_parameters
from api.problems import Problem
from api.requests import CreateFields, Submission, check_fields, misfit
from headway import npy
from headway.errors import InputRefused

#: What reaches a model as bytes; `npy.MEDIA_TYPE` does so as an array.
BYTES = "application/octet-stream"
KINDS = ("image/*", "audio/*", BYTES, npy.MEDIA_TYPE)

_TYPE = re.compile(
    r"((?:image|audio)/[a-z0-9][a-z0-9!#$&^_.+-]{0,126}|application/(?:octet-stream|x-npy))\s*(;[ -~]{0,200})?"
)
_FIELDS: Mapping[str, None] = dict.fromkeys(CreateFields.__struct_fields__)


@functools.lru_cache(maxsize=256)
def media_type(content_type: bytes) -> str | None:
    """Of a body that is an input as it is: in lower case, with its parameters as they came. None for all others."""
    if content_type == b"application/json":
        return None
    essence, semicolon, parameters = content_type.decode("latin-1").strip().partition(";")
    match = _TYPE.fullmatch(f"{essence.lower()}{semicolon}{parameters}")
    return None if match is None else match[1] + (match[2] or "")


async def read_raw(call: Call, limit: int, media: str) -> Submission:
    """Raises Problem."""
    encoding = call.headers.get(b"content-encoding")
    if encoding is not None and encoding.strip().lower() != b"identity":
        raise Problem.of("unsupported_media_type")
    fields = _fields(query_parameters(call.query, _FIELDS))
    check_fields(fields, lambda name: {"parameter": name})
    data = await call.body(limit)
    if not data:
        raise Problem("malformed_request", "The body is empty.")
    header = None
    if media == npy.MEDIA_TYPE:
        try:
            header = npy.read_header(data)
        except InputRefused as refused:
            raise refusal(refused) from refused
    return Submission(fields, header, data, data, media)


def refusal(refused: InputRefused) -> Problem:
    """Of the body as a whole."""
    errors = [{"pointer": "", "detail": refused.detail}]
    return Problem("validation_failed", f"The body {refused.detail}.", errors=errors)


def _fields(query: Mapping[str, str]) -> CreateFields:
    values: dict[str, Any] = dict(query)
    if "webhook_events" in values:
        values["webhook_events"] = query["webhook_events"].split(",")
    if "metadata" in values:
        try:
            values["metadata"] = msgspec.json.decode(query["metadata"])
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            raise Problem.invalid("It should be a JSON object of strings.", parameter="metadata") from None
    for name in ("priority", "max_attempts"):
        if name in values:
            values[name] = _number(name, query[name], r"\d{1,9}", int)
    for name in ("queue_timeout_seconds", "execution_timeout_seconds"):
        if name in values:
            values[name] = _number(name, query[name], r"\d{1,12}(\.\d{1,12})?(e-?\d{1,2})?", float)
    try:
        return msgspec.convert(values, CreateFields)
    except msgspec.ValidationError as error:
        problem = misfit(error)
        parameter = problem.errors[0]["pointer"].split("/")[1]
        raise Problem.invalid(problem.detail, parameter=parameter) from error


def _number(name: str, text: str, pattern: str, kind: type[int] | type[float]) -> int | float:
    if not re.fullmatch(pattern, text, re.ASCII):
        raise Problem.invalid("It should be a number.", parameter=name)
    return kind(text)
