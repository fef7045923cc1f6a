"""What a prediction came to, as values: for dialects that make something else of it."""

from typing import Any

import msgspec

from api.service import Service
from headway import npy, tensors
from headway.notices import Ended
from headway.types import Prediction


async def output_of(service: Service, id_: str, end: Ended | Prediction) -> Any:
    """Of one that has succeeded: JSON's value, named arrays, an array or bytes, wherever it lies.

    Raises BlobMissing, BlobsUnavailable.
    """
    if not isinstance(end, Prediction) or end.output_bytes is None:
        return msgspec.json.decode(end.output or b"null")
    stored = await service.in_blobs(lambda: service.blobs.read(id_, end.claim or ""))
    if end.output_type == tensors.MEDIA_TYPE:
        return tensors.load(stored)
    if end.output_type is None:
        return msgspec.json.decode(stored)
    return npy.load(stored) if end.output_type == npy.MEDIA_TYPE else stored
