"""Which claims this worker holds, as it knows itself.

SQL knows too, and the two can part: a claim whose COMMIT was never answered exists in SQL alone. The heartbeat compares
them and gives back what nobody here holds.
"""

import threading
from collections.abc import Iterable


class Claims:
    """claim id → predictions of it that are not settled yet. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[str, set[str]] = {}

    def open(self, claim: str) -> None:
        """Before the claim is written, so that the comparison never sees one of ours as nobody's."""
        with self._lock:
            self._open[claim] = set()

    def hold(self, claim: str, ids: Iterable[str]) -> None:
        """What the claim brought; with nothing it is over."""
        with self._lock:
            held = self._open[claim]
            held.update(ids)
            if not held:
                del self._open[claim]

    def drop(self, claim: str) -> None:
        """Its outcome is not known; if it exists after all, it is nobody's."""
        with self._lock:
            self._open.pop(claim, None)

    def settle(self, claim: str, ids: Iterable[str]) -> bool:
        """These are about to leave it; True when nothing of the claim remains."""
        with self._lock:
            held = self._open[claim]
            held.difference_update(ids)
            if held:
                return False
            del self._open[claim]
            return True

    def __contains__(self, claim: str) -> bool:
        with self._lock:
            return claim in self._open
