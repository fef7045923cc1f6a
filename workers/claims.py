"""Which claims this worker holds, as it knows itself, and which of their predictions are to be canceled.

SQL knows too, and the two can part: a claim whose COMMIT was never answered exists in SQL alone. The heartbeat compares
them and gives back what nobody here holds. A cancel is of a claim, never of a prediction: one that was canceled,
retried and claimed again is not the one that was meant.
"""

import threading
from collections.abc import Iterable, Mapping


class Claims:
    """claim id → predictions of it that are not settled yet. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[str, set[str]] = {}
        self._canceled: dict[str, set[str]] = {}  # by claim

    def open(self, claim: str, ids: Iterable[str]) -> None:
        """Before the claim is written, with all that it asks for: so neither the comparison nor a cancel misses it."""
        with self._lock:
            self._open[claim] = set(ids)

    def hold(self, claim: str, ids: Iterable[str]) -> None:
        """What the claim brought; with nothing it is over."""
        with self._lock:
            if held := set(ids):
                self._open[claim] = held
            else:
                self._forget(claim)

    def drop(self, claim: str) -> None:
        """Its outcome is not known; if it exists after all, it is nobody's."""
        with self._lock:
            self._forget(claim)

    def settle(self, claim: str, ids: Iterable[str]) -> bool:
        """These are about to leave it; True when nothing of the claim remains."""
        with self._lock:
            held = self._open[claim]
            held.difference_update(ids)
            if held:
                return False
            self._forget(claim)
            return True

    def held(self, ids: Iterable[str] | None = None) -> list[str]:
        """Those of `ids`, or all, that are not settled yet."""
        with self._lock:
            mine = set().union(*self._open.values())
        return list(mine if ids is None else mine.intersection(ids))

    def cancel(self, canceling: Mapping[str, str]) -> None:
        """Prediction id → the claim under which nobody wants it any more. Claims that are not open are passed over."""
        with self._lock:
            for id_, claim in canceling.items():
                if claim in self._open:
                    self._canceled.setdefault(claim, set()).add(id_)

    def canceled(self, claims: Mapping[str, str]) -> set[str]:
        """Of these (prediction id → claim), the ones that are to be canceled."""
        with self._lock:
            if not self._canceled:
                return set()
            return {id_ for id_, claim in claims.items() if id_ in self._canceled.get(claim, ())}

    def _forget(self, claim: str) -> None:
        self._open.pop(claim, None)
        self._canceled.pop(claim, None)

    def __contains__(self, claim: str) -> bool:
        with self._lock:
            return claim in self._open
