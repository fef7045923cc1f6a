"""What becomes of an input: how large it is for its line, where it lies, and how it is shown again."""

import msgspec

from api.problems import Problem
from api.registry import Target
from api.service import Service
from headway.egress import UrlRefused
from headway.errors import BlobMissing
from headway.fetching import url_of
from headway.types import LARGE, Input, NewPrediction
from storage.blobs import INPUT


def refuse_url(service: Service, body: bytes, pointer: str) -> bool:
    """Whether an input's JSON is a URL to be fetched. Raises Problem for one that never would be."""
    url = url_of(body)
    if url is None:
        return False
    try:
        service.fetch_egress.checked_url(url)
    except UrlRefused as refused:
        raise Problem.invalid(str(refused), pointer=f"{pointer}/url") from refused
    return True


def measured(service: Service, target: Target, value: object, body: bytes, pointer: str) -> tuple[int, str | None]:
    """(size, shape) of a JSON input for a model that fetches. Of a URL nothing is known yet."""
    if refuse_url(service, body, pointer):
        return (len(body) if target.size_by == "bytes" else 1), None
    return target.measure(value, body, pointer)


async def kept(service: Service, row: NewPrediction) -> NewPrediction:
    """The row without its input, once that is in the blob store. Raises BlobsUnavailable."""
    if len(row.body) <= LARGE:
        return row
    await service.in_blobs(lambda: service.blobs.write(row.id, INPUT, row.body))
    return msgspec.structs.replace(row, body=b"", blob_bytes=len(row.body))


async def shown(service: Service, id_: str, input_: Input) -> bytes:
    """Its JSON: null for what is none, or is gone. Raises BlobsUnavailable."""
    if input_.content_type is not None:
        return b"null"
    if input_.blob_bytes is None:
        return input_.body
    try:
        return await service.in_blobs(lambda: service.blobs.read(id_, INPUT))
    except BlobMissing:
        return b"null"
