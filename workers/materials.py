"""What a claimed row lacks before it can be computed: an input that lies in the blob store, or behind a URL.

The rule: what is wrong with one input fails that one alone; a store that cannot be read is nobody's fault, and the rows
are handed back.
"""

import logging
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from msgspec.structs import replace

from headway.errors import BlobMissing, BlobsUnavailable, ItemCode, ItemError
from headway.fetching import url_of
from headway.manifest import Fetch
from headway.types import Claimed, Outcome
from storage.blobs import INPUT, Blobs
from workers.fetching import Fetcher, FetchFailed

log = logging.getLogger(__name__)

#: Blobs read and URLs fetched at once by a worker.
_AT_ONCE = 64
#: The resolver of names and a store may hang: nobody waits longer for them than for a slow server.
_STORE_S = 60.0


@dataclass(frozen=True, slots=True)
class Gathered:
    """What has become of rows that lacked something; a row is in one of the three."""

    ready: list[Claimed]
    refused: list[Outcome]
    untouched: list[Claimed]  # the store cannot be read now


class Materials:
    """One for a worker; thread-safe."""

    def __init__(self, blobs: Blobs, fetcher: Fetcher) -> None:
        self._blobs = blobs
        self._fetcher = fetcher
        self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="materials")
        self._under_way: set[Future[Claimed]] = set()

    def gather(self, rows: Sequence[Claimed], fetch: Fetch | None) -> Gathered:
        """All at the same time; returns with the slowest, or when its time is up."""
        futures = {row.id: self._threads.submit(self._one, row, fetch) for row in rows}
        for future in futures.values():
            self._under_way.add(future)
            future.add_done_callback(self._under_way.discard)
        slowest = _STORE_S if fetch is None else fetch.timeout_s
        if any(row.blob_bytes is not None for row in rows):
            slowest = max(slowest, _STORE_S)
        wait(futures.values(), timeout=slowest + 1.0)
        gathered = Gathered([], [], [])
        for row in rows:
            self._place(row, futures[row.id], gathered)
        return gathered

    def _one(self, row: Claimed, fetch: Fetch | None) -> Claimed:
        if row.blob_bytes is not None:
            return replace(row, body=self._blobs.read(row.id, INPUT))
        url = url_of(row.body)
        assert url is not None
        assert fetch is not None
        body, content_type = self._fetcher.fetch(url, fetch)
        return replace(row, body=body, content_type=content_type)

    def _place(self, row: Claimed, future: "Future[Claimed]", gathered: Gathered) -> None:
        if not future.done():
            future.cancel()
            if row.blob_bytes is not None:
                gathered.untouched.append(row)
            else:
                gathered.refused.append(_refused(row, "its URL did not answer in time"))
            return
        try:
            gathered.ready.append(future.result())
        except FetchFailed as failed:
            gathered.refused.append(_refused(row, str(failed)))
        except BlobMissing:
            log.error("an input is gone from the blob store", extra={"prediction_id": row.id})
            gathered.refused.append(_refused(row, "its input is not in the blob store that this worker reads"))
        except BlobsUnavailable as error:
            log.warning("the blob store is away, its prediction waits: %s", error, extra={"prediction_id": row.id})
            gathered.untouched.append(row)

    def close(self) -> bool:
        """Whether nothing hangs; it is not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        return not self._under_way


def lacks(row: Claimed, fetch: Fetch | None) -> bool:
    """Whether something is to be read or fetched before the row can be computed."""
    if row.blob_bytes is not None:
        return True
    return fetch is not None and row.content_type is None and url_of(row.body) is not None


def _refused(row: Claimed, message: str) -> Outcome:
    return Outcome(id=row.id, error=ItemError(ItemCode.INVALID_INPUT, message[:500]))
