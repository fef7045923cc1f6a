"""A request as the predictions that it becomes.

Of a service: one, JSON where its body is JSON, else the request with its headers. Of a stored model, or of any other
whose batch dimension is inside: one, named arrays. Of a model of Headway's own: one input as it declares it, or as
many as there are rows where its arrays have a dimension more.
"""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from api.dialects import headers, jobs
from api.dialects.bentoml.errors import Refused
from api.dialects.bentoml.routes import Found
from api.exchange import Call
from api.problems import Problem
from api.registry import Target
from api.service import Service
from headway import envelopes
from headway.bentoml import store
from headway.manifest import Manifest
from headway.types import NewPrediction

_FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")
_PICKLE = "application/vnd.bentoml+pickle"
#: Predictions of one request.
MOST_ROWS = 4096


class Asked(NamedTuple):
    """What is to be computed."""

    target: Target
    rows: Sequence[NewPrediction]
    single: bool  # one prediction's output is the answer; else a list of them
    inputs: Sequence["Input"]  # of the rows, which lack those that are large


class Input(NamedTuple):
    """Of one prediction."""

    body: bytes
    content_type: str | None
    value: Any
    measured: tuple[int, str | None]


async def prepare(service: Service, call: Call, found: Found, body: bytes) -> Asked:
    """Raises Refused, Problem."""
    target = await service.registry.resolve(found.model)
    essence = _essence(call)
    if essence == _PICKLE:
        raise Refused(415, [{"error": f"{_PICKLE} is not allowed in main server"}])
    single = True
    if found.api is not None:
        inputs = [_of_service(call, found, body, essence, target)]
    else:
        inputs, single = _of_model(found, body, essence, target)
    rows = [await jobs.row_of(service, call, target, one.body, one.content_type, one.measured) for one in inputs]
    return Asked(target, rows, single, inputs)


def again(target: Target, found: Found, body: bytes, content_type: str | None) -> tuple[int, str | None]:
    """Size and shape of an input that was stored. Raises Problem where it no longer fits."""
    if found.api is not None:
        return _size(target, body), _company(found)
    if content_type is None:
        return target.measure(msgspec.json.decode(body), body, "")
    return target.measure_raw(None, len(body), content_type)


def _essence(call: Call) -> str:
    said = call.headers.get(b"content-type", b"application/json").decode("latin-1")
    return said.partition(";")[0].strip().lower()


def _of_service(call: Call, found: Found, body: bytes, essence: str, target: Target) -> Input:
    theirs = headers.theirs(call)
    plain = found.route.input.get("type") not in ("string", "file") and essence not in _FORMS
    if plain and not theirs:
        try:
            value = msgspec.json.decode(body or b"{}")
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            pass  # the service says what is wrong with it
        else:
            stored = b"{%s:%s}" % (msgspec.json.encode(found.api), body or b"{}")
            return Input(stored, None, {found.api: value}, (_size(target, stored), _company(found)))
    told = {**theirs, "content-type": call.headers.get(b"content-type", b"application/json").decode("latin-1")}
    message = envelopes.pack_request(envelopes.Request(found.route.route, told, body))
    return Input(message, envelopes.REQUEST, None, (_size(target, message), _company(found)))


def _size(target: Target, body: bytes) -> int:
    return target.measure(None, body, "")[0]


def _company(found: Found) -> str:
    """What only shares a call with its like: requests of one API where they are joined, or run side by side."""
    route = found.route
    return f"{found.api}" if route.batchable or route.is_async else f"{found.api} {os.urandom(8).hex()}"


def _of_model(found: Found, body: bytes, essence: str, target: Target) -> tuple[list[Input], bool]:
    value = _value(found.manifest, body, essence)
    inputs = [name for name in found.manifest.inputs if name != store.METHOD]
    if len(inputs) == 1 and len(found.manifest.inputs) > 1 and not isinstance(value, dict):
        value = {inputs[0]: value}  # as it may be given where there is no other
    if found.method is not None and found.method != store.call_of(found.manifest).method:
        value = _with_method(found, value)
    try:
        return [_input(target, value)], True
    except Problem:
        rows = _rows(found.manifest, value)
        if rows is None:
            raise
    return [_input(target, row) for row in rows], False


def _value(manifest: Manifest, body: bytes, essence: str) -> Any:
    """What the body says. Raises Refused."""
    if essence in _FORMS:
        raise Refused(400, [{"error": "a form is for the API of a service that takes one: send JSON"}])
    if essence == "text/plain" and not manifest.inputs:
        try:
            return body.decode()
        except UnicodeDecodeError:
            raise Refused(400, [{"error": "the text is not UTF-8"}]) from None
    try:
        return msgspec.json.decode(body or b"{}")
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        detail = [{"type": "json_invalid", "loc": [], "msg": f"Invalid JSON: {error}"}]
        raise Refused(400, {"error": "1 validation error for Input", "detail": detail}) from error


def _input(target: Target, value: Any) -> Input:
    body = msgspec.json.encode(value)
    return Input(body, None, value, target.measure(value, body, ""))


def _with_method(found: Found, value: Any) -> Any:
    """A stored model's input with the method's name in every row, which is how it knows of it."""
    if found.manifest.items == "alone" or not isinstance(value, dict):
        return {**value, store.METHOD: [found.method]} if isinstance(value, dict) else value
    counts = {len(one) for one in value.values() if isinstance(one, list)}
    return {**value, store.METHOD: [found.method] * max(counts, default=1)}


def _rows(manifest: Manifest, value: Any) -> list[Any] | None:
    """The inputs of each row, where all arrays have one dimension more than they are declared with."""
    if manifest.items != "stacked" or not manifest.inputs:
        return None
    if not isinstance(value, dict):
        return _counted(value) if len(manifest.inputs) == 1 else None
    columns = [value.get(name) for name in manifest.inputs]
    counted = [_counted(column) for column in columns]
    if value.keys() != manifest.inputs.keys() or None in counted or len({len(one or ()) for one in counted}) != 1:
        return None
    return [dict(zip(manifest.inputs, row, strict=True)) for row in zip(*columns, strict=True)]


def _counted(value: Any) -> list[Any] | None:
    """Raises Refused where there are too many."""
    if not isinstance(value, list) or not value:
        return None
    if len(value) > MOST_ROWS:
        raise Refused(400, [{"error": f"these are {len(value)} rows, and may be {MOST_ROWS} at most"}])
    return value
