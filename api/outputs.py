"""Outputs as they are: `GET /v1/predictions/{id}/output`, and those of the blob store wherever an output is shown.

The rule: an output has a type of its own (JSON, an array, bytes) and is given as that unless another is asked for that
it can be turned into. What is large is streamed, a piece at a time.
"""

import functools
import re
from collections.abc import Sequence

import msgspec
import numpy as np

from api.answers import Answer, Headers, Streamed, Write
from api.exchange import Call, query_parameters
from api.ownership import id_of, own
from api.problems import Problem
from api.rendering import etag
from api.service import Service
from headway import npy, responses, tensors
from headway.errors import BlobMissing
from headway.rendering import ErrorBody
from headway.states import Status
from headway.types import Prediction

JSON = "application/json"
BYTES = "application/octet-stream"
#: Bytes of what is taken into memory here, to be shown within a prediction or turned into another type.
MOST_INLINE = 8 * 1024 * 1024


async def shown(service: Service, row: Prediction) -> Prediction:
    """The row with its output, where that is JSON in the blob store and not too large to be shown.

    Raises BlobsUnavailable.
    """
    if row.output_bytes is None:
        return row
    return msgspec.structs.replace(
        row, output=await stored(service, row.id, row.claim, row.output_type, row.output_bytes)
    )


async def stored(service: Service, id_: str, claim: str | None, type_: str | None, size: int) -> bytes | None:
    """An output in the blob store, if it is JSON and not too large to be shown. Raises BlobsUnavailable."""
    if type_ is not None or size > MOST_INLINE:
        return None
    try:
        return await service.in_blobs(lambda: service.blobs.read(id_, claim or ""))
    except BlobMissing:
        return None


async def as_json(service: Service, row: Prediction) -> bytes | None:
    """Of an output in the blob store; None for what is no JSON, or too large. Raises BlobsUnavailable."""
    if row.output_type == BYTES or row.output_bytes is None or row.output_bytes > MOST_INLINE:
        return None
    try:
        return await service.in_blobs(lambda: _converted(service, row, JSON))
    except (BlobMissing, _Inconvertible):
        return None


async def output(service: Service, call: Call) -> Answer | Streamed:
    """200 and the output itself, as `Accept` asks for it."""
    query_parameters(call.query, {})
    row = await own(service, call, id_of(call))
    if not row.status.terminal:
        raise Problem("not_terminal", f"The prediction is {row.status.label.replace('_', ' ')}; it has no output yet.")
    if row.status is not Status.SUCCEEDED:
        raise _none(row)
    own_type = row.output_type or JSON
    reasons = []
    for type_ in _acceptable(call.headers.get(b"accept", b"*/*").decode("latin-1"), _offers(own_type)):
        try:
            if type_ in (own_type, BYTES):
                return await _as_it_is(service, row, type_)
            return Answer(
                200, await service.in_blobs(functools.partial(_converted, service, row, type_)), _headers(row, type_)
            )
        except _Inconvertible as reason:
            reasons.append(str(reason))
        except BlobMissing:
            raise Problem("prediction_purged", "The output is no longer in the blob store.") from None
    offers = " or ".join(_offers(own_type))
    raise Problem("not_acceptable", reasons[0] if reasons else f"This output is {own_type}; ask for {offers}.")


def _none(row: Prediction) -> Problem:
    error = None if row.error is None else ErrorBody(row.error.code, row.error.message, row.error.code.retryable)
    detail = (
        f"The prediction has {row.status.label}." if row.error is None else f"The prediction failed: {row.error.code}."
    )
    return Problem("no_output", detail, members={"status_of_prediction": row.status.label, "error": error})


def _headers(row: Prediction, type_: str) -> Headers:
    return (
        (b"content-type", type_.encode()),
        (b"cache-control", b"private, no-cache"),
        (b"vary", b"Accept"),
        (b"etag", b'W/"%b"' % etag(row)),
    )


async def _as_it_is(service: Service, row: Prediction, type_: str) -> Answer | Streamed:
    if row.output_bytes is None:
        return Answer(200, row.output or b"null", _headers(row, type_))
    pieces = service.blobs.chunks(row.id, row.claim or "")
    first = await service.in_blobs(lambda: next(pieces, b""))

    async def write(put: Write) -> None:
        piece = first
        while piece:
            await put(piece)
            piece = await service.in_blobs(lambda: next(pieces, b""))

    return Streamed((*_headers(row, type_), (b"content-length", b"%d" % row.output_bytes)), write)


def _offers(own_type: str) -> Sequence[str]:
    """What an output may be given as, its own type first."""
    match own_type:
        case "application/json":
            return (JSON, npy.MEDIA_TYPE, BYTES)
        case npy.MEDIA_TYPE | tensors.MEDIA_TYPE | responses.MEDIA_TYPE:
            return (own_type, JSON, BYTES)
        case _:
            return (own_type,)


_QUALITY = re.compile(r"q=(0(?:\.\d{0,3})?|1(?:\.0{0,3})?)")


def _acceptable(accept: str, offers: Sequence[str]) -> list[str]:
    """Of what can be offered, the welcome ones, the most welcome first (RFC 9110 §12.5.1)."""
    ranges: dict[str, float] = {}
    for part in accept.lower().split(","):
        range_, *parameters = (piece.strip() for piece in part.split(";"))
        quality = next((found[1] for one in parameters if (found := _QUALITY.fullmatch(one))), "1")
        ranges[range_] = float(quality)

    def welcome(offer: str) -> float:
        names = (offer, f"{offer.partition('/')[0]}/*", "*/*")
        return next((ranges[name] for name in names if name in ranges), 0.0)

    return sorted((offer for offer in offers if welcome(offer) > 0), key=lambda offer: -welcome(offer))


class _Inconvertible(Exception):  # noqa: N818
    """The message says why this output cannot be given as what was asked for."""


def _stored(service: Service, row: Prediction) -> bytes:
    """Blocks. Raises BlobMissing, BlobsUnavailable."""
    return service.blobs.read(row.id, row.claim or "") if row.output_bytes is not None else row.output or b"null"


def _converted(service: Service, row: Prediction, type_: str) -> bytes:
    """An array's JSON, or the array of JSON that is numbers. Blocks. Raises _Inconvertible, BlobMissing."""
    if row.output_type == (None if type_ == JSON else type_):
        return _stored(service, row)
    if row.output_bytes is not None and row.output_bytes > MOST_INLINE:
        raise _Inconvertible(
            f"This output is {row.output_type or JSON} of {row.output_bytes} bytes, "
            f"too large to be turned into {type_}."
        )
    stored = _stored(service, row)
    if row.output_type in (tensors.MEDIA_TYPE, responses.MEDIA_TYPE):
        try:
            return tensors.json_of(stored) if row.output_type == tensors.MEDIA_TYPE else responses.json_of(stored)
        except ValueError as error:
            raise _Inconvertible(f"This output cannot be JSON ({error}); ask for {row.output_type}.") from error
    if type_ == JSON:
        return msgspec.json.encode(npy.load(stored).tolist())
    try:
        array = np.array(msgspec.json.decode(stored))
    except (ValueError, OverflowError):
        array = np.array(None)
    if not npy.storable(array):
        raise _Inconvertible("This output is JSON that is no array of numbers; ask for application/json.")
    return npy.dump(array)
