"""A prediction's output as the reply that BentoML would send."""

import json
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from api.answers import Answer
from api.dialects.bentoml.errors import UNEXPECTED, Refused
from api.dialects.bentoml.routes import Found
from api.service import Service
from headway import envelopes, npy, tensors
from headway.errors import BlobMissing
from headway.notices import Ended
from headway.types import Prediction

_BYTES = "application/octet-stream"
_NOT_THEIRS = {"connection", "content-length", "keep-alive", "transfer-encoding", "upgrade", "trailer", "x-request-id"}


class Output:
    """Of one that has succeeded: `value` of JSON and of arrays, else `body` and its type."""

    def __init__(self, body: bytes, type_: str | None) -> None:
        self.body, self.type = body, type_
        self.value: Any = None
        if type_ is None:
            self.value = msgspec.json.decode(body)
        elif type_ == npy.MEDIA_TYPE:
            self.value = npy.load(body).tolist()
        elif type_ == tensors.MEDIA_TYPE:
            self.value = {name: _listed(array) for name, array in tensors.load(body).items()}

    @property
    def is_value(self) -> bool:
        return self.type in (None, npy.MEDIA_TYPE, tensors.MEDIA_TYPE)


def _listed(array: np.ndarray[Any, Any]) -> Any:
    if array.dtype.kind != "O":
        return array.tolist()
    flat = np.empty(array.size, dtype=object)
    flat[:] = [value.decode("utf-8", "replace") for value in array.reshape(-1)]
    return flat.reshape(array.shape).tolist()


async def output_of(service: Service, id_: str, end: Ended | Prediction) -> Output:
    """Raises Refused."""
    if isinstance(end, Prediction) and end.output_bytes is not None:
        try:
            stored = await service.in_blobs(lambda: service.blobs.read(id_, end.claim or ""))
        except BlobMissing:
            raise Refused(500, UNEXPECTED) from None
        return Output(stored, end.output_type)
    return Output(end.output or b"null", end.output_type if isinstance(end, Prediction) else None)


def reply(found: Found, outputs: list[Output], *, single: bool) -> Answer:
    if not single:
        return _json(_columns(found, [output.value for output in outputs]))
    (output,) = outputs
    if output.is_value:
        value = _alone(found, output.value)
        return _text(found, value) if isinstance(value, str) else _json(value)
    if output.type == envelopes.RESPONSE:
        said = envelopes.unpack_response(output.body)
        headers = [
            (name.lower().encode(), with_charset(value).encode("utf-8", "surrogateescape"))
            for name, value in said.headers.items()
            if name.lower() not in _NOT_THEIRS
        ]
        return Answer(said.status, said.body, headers)
    type_ = found.route.media_type if output.type == _BYTES and found.api is not None else output.type or _BYTES
    return Answer(200, output.body, ((b"content-type", with_charset(type_).encode()),))


def _json(value: Any) -> Answer:
    return Answer(200, json.dumps(value).encode(), ((b"content-type", b"application/json"),))


def _text(found: Found, text: str) -> Answer:
    """As it is. Of what is no service nobody has said that it is text, so it is JSON."""
    if found.api is None:
        return _json(text)
    return Answer(200, text.encode(), ((b"content-type", with_charset(found.route.media_type).encode()),))


def with_charset(type_: str) -> str:
    """As it is said of text."""
    return f"{type_}; charset=utf-8" if type_.startswith("text/") and "charset" not in type_ else type_


def _alone(found: Found, value: Any) -> Any:
    """The only declared output has no name in a reply."""
    declared = found.manifest.outputs
    if found.api is None and len(declared) == 1 and isinstance(value, Mapping) and value.keys() == declared.keys():
        return next(iter(value.values()))
    return value


def _columns(found: Found, values: list[Any]) -> Any:
    """Of rows: of several outputs each has its own list."""
    declared = found.manifest.outputs
    if len(declared) > 1 and all(isinstance(value, Mapping) and value.keys() == declared.keys() for value in values):
        return {name: [value[name] for value in values] for name in declared}
    return [_alone(found, value) for value in values]
