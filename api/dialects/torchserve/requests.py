"""A request as it is stored: one prediction, with what its handler may ask for.

JSON is stored as JSON, any other body as bytes of its media type. Where the request has headers that are neither HTTP's
own nor ours, or asks for an explanation or a description, it is stored as a message with them (`headway.envelopes`).
Credentials are never stored.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from api.dialects import headers
from api.exchange import Call
from api.registry import Target
from headway import envelopes, npy, tensors

_BYTES = "application/octet-stream"


class Stored(NamedTuple):
    """A body and its media type; None: JSON."""

    body: bytes
    content_type: str | None
    value: Any  # of JSON


def stored(call: Call, body: bytes, asking: Mapping[str, str]) -> Stored:
    """`asking`: headers that the handler is shown beside the client's."""
    content_type = call.headers.get(b"content-type", b"").decode("latin-1").strip()
    theirs = headers.theirs(call)
    essence = content_type.partition(";")[0].strip().lower()
    if theirs or asking or essence in (npy.MEDIA_TYPE, tensors.MEDIA_TYPE, "message/http"):
        told = {**theirs, **asking} | ({"content-type": content_type} if content_type else {})
        message = envelopes.pack_request(envelopes.Request(call.path, told, body))
        return Stored(message, envelopes.REQUEST, None)
    if essence == "application/json":
        try:
            return Stored(body, None, msgspec.json.decode(body))
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            return Stored(body, "application/json", None)  # the handler may make something of it
    return Stored(body, content_type or _BYTES, None)


def measured(target: Target, request: Stored) -> tuple[int, str | None]:
    """Its size and shape. Raises Problem or InputRefused where it does not fit what the model declares."""
    if request.content_type is None:
        return target.measure(request.value, request.body, "")
    return target.measure_raw(None, len(request.body), request.content_type)
