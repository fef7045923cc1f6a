"""A prediction's output as the reply that TorchServe would send."""

import json
from typing import Any

import msgspec

from api.answers import Answer, Headers
from api.dialects.torchserve.errors import NO_CACHE, Refused
from api.service import Service
from headway import envelopes, npy
from headway.errors import BlobMissing
from headway.notices import Ended
from headway.types import Prediction

_BYTES = "application/octet-stream"
#: Of a handler's reply, what is the connection's business.
_NOT_THEIRS = {"connection", "content-length", "keep-alive", "transfer-encoding", "upgrade", "trailer", "x-request-id"}


async def reply_of(service: Service, id_: str, end: Ended | Prediction) -> Answer:
    """Of one that has succeeded. Raises Refused."""
    type_ = None
    output = end.output or b"null"
    if isinstance(end, Prediction) and end.output_bytes is not None:
        type_ = end.output_type
        try:
            output = await service.in_blobs(lambda: service.blobs.read(id_, end.claim or ""))
        except BlobMissing:
            raise Refused(500, "InternalServerException", "The output is gone.") from None
    return _answer(output, type_)


def _answer(output: bytes, type_: str | None) -> Answer:
    if type_ is None:
        return Answer(200, text_of(msgspec.json.decode(output)), NO_CACHE)
    if type_ == envelopes.RESPONSE:
        reply = envelopes.unpack_response(output)
        return Answer(reply.status, reply.body, head_of(reply))
    if type_ == npy.MEDIA_TYPE:  # a large array of a model that is no archive
        return Answer(200, text_of(npy.load(output).tolist()), NO_CACHE)
    said: Headers = () if type_ == _BYTES else ((b"content-type", type_.encode()),)
    return Answer(200, output, (*said, *NO_CACHE))


def head_of(reply: envelopes.Response) -> Headers:
    """Its headers, and what goes with every reply."""
    headers = [
        (name.lower().encode(), value.encode("utf-8", "surrogateescape"))
        for name, value in reply.headers.items()
        if name.lower() not in _NOT_THEIRS
    ]
    names = {name for name, _ in headers}
    return (*headers, *((name, value) for name, value in NO_CACHE if name not in names))


def text_of(value: Any) -> bytes:
    """JSON as TorchServe writes it; a string as it is."""
    return value.encode() if isinstance(value, str) else json.dumps(value, indent=2).encode()
