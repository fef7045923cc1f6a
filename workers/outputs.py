"""Outputs that go to the blob store, before the finish that tells of them.

What is not JSON, or is large, is written by threads of its own, so that no other prediction's result waits for it. A
result is kept and tried again for as long as this worker lives, like those of SQL. The fence decides whose output
counts, so each claim writes its own; one that lost is removed again.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec

from headway.errors import BlobsUnavailable
from headway.notices import Ended
from headway.states import Status
from headway.types import LARGE, Outcome
from storage.blobs import Blobs

log = logging.getLogger(__name__)

#: Device calls whose outputs may be on their way at once; the device stops beyond that.
_CALLS = 4
_AT_ONCE = 8


def lies_apart(outcome: Outcome) -> bool:
    """Whether its output is to be in the blob store."""
    return outcome.output is not None and (outcome.output_type is not None or len(outcome.output) > LARGE)


class Outputs:
    """One for a worker; thread-safe."""

    def __init__(self, blobs: Blobs, on_bug: Callable[[str], None] = lambda what: None) -> None:
        """`on_bug` hears of what should not happen, after which results are stuck here."""
        self._blobs = blobs
        self._on_bug = on_bug
        self._closing = threading.Event()
        self._room = threading.BoundedSemaphore(_CALLS)
        self._calls = ThreadPoolExecutor(_CALLS, thread_name_prefix="outputs")
        self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="outputs-write")

    def put(
        self, outcomes: Sequence[Outcome], claims: Mapping[str, str], then: Callable[[Sequence[Outcome]], None]
    ) -> None:
        """Writes those that lie apart and calls `then` with all, in a thread. Blocks while too many are under way."""
        self._room.acquire()

        def run() -> None:
            try:
                then(list(self._threads.map(lambda one: self._written(one, claims[one.id]), outcomes)))
            except Exception:
                log.exception("outputs could not be settled")
                self._on_bug("outputs could not be settled")
            finally:
                self._room.release()

        self._calls.submit(run)

    def _written(self, outcome: Outcome, claim: str) -> Outcome:
        if not lies_apart(outcome):
            return outcome
        assert outcome.output is not None
        pause = 0.05
        while True:
            try:
                self._blobs.write(outcome.id, claim, outcome.output)
                break
            except BlobsUnavailable as error:
                if self._closing.wait(pause):
                    raise
                log.warning("the blob store is away, an output waits: %s", error)
                pause = min(pause * 2, 5.0)
        return msgspec.structs.replace(outcome, output=None, output_bytes=len(outcome.output))

    def remove_lost(self, outcomes: Sequence[Outcome], claims: Mapping[str, str], ended: Mapping[str, Ended]) -> None:
        """Of what was written, that which no row tells of: somebody else was faster, or SQL has refused it."""
        for outcome in outcomes:
            if outcome.output_bytes is None:
                continue
            end = ended.get(outcome.id)
            if end is None or end.status is not Status.SUCCEEDED:
                self._threads.submit(self._remove, outcome.id, claims[outcome.id])

    def _remove(self, id_: str, claim: str) -> None:
        try:
            self._blobs.remove(id_, claim)
        except BlobsUnavailable as error:
            log.warning("an output that nobody wants stays until its prediction goes: %s", error)

    def close(self, timeout_s: float) -> bool:
        """Whether all that was put has been written and passed on in time."""
        deadline = time.monotonic() + timeout_s
        taken = 0
        while taken < _CALLS:
            if not self._room.acquire(timeout=max(0.0, deadline - time.monotonic())):
                self._closing.set()
                break
            taken += 1
        self._calls.shutdown(wait=False)
        self._threads.shutdown(wait=False)
        return taken == _CALLS
