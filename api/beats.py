"""What this process sees of the others: whether workers' beats go on, and how old the utility worker's lease is.

Read every second. A beat is a number, and how old it is, is measured here, on one clock: since when it stands.
"""

import time
from collections.abc import Callable

from api.refreshing import keep_fresh
from api.threads import Threads
from storage.workers import JANITOR_LEASE_S, Workers

#: A worker beats every two seconds; one whose beat stands for longer is late, and after fifteen it is declared dead.
LATE_S = 6.0


class Beats:
    """`run` is the one task that reads."""

    def __init__(self, workers: Workers, clock: Callable[[], float] = time.monotonic) -> None:
        self._workers = workers
        self._clock = clock
        self._thread = Threads("beats", 1)
        self._beats: dict[str, tuple[int, float]] = {}  # worker → (beat, since when it stands there)
        self._lease_left: float | None = None

    async def run(self) -> None:
        """Until canceled."""
        await keep_fresh(self.refresh, "the workers' beats")

    async def refresh(self) -> None:
        """Raises StorageUnavailable."""
        beats, self._lease_left = await self._thread.run(
            lambda: (self._workers.beats(), self._workers.lease_left("janitor"))
        )
        now = self._clock()
        before = self._beats
        self._beats = {
            worker: before[worker] if before.get(worker, (-1, 0.0))[0] == beat else (beat, now)
            for worker, beat in beats.items()
        }

    def workers(self) -> dict[str, float]:
        """As of the last `refresh`. `oldest_beat_s`: seconds since the beat that has stood longest was first seen."""
        now = self._clock()
        ages = [now - since for _, since in self._beats.values()]
        return {
            "live": len(ages),
            "late": sum(age > LATE_S for age in ages),
            "oldest_beat_s": round(max(ages, default=0.0), 1),
        }

    def utility(self) -> dict[str, object]:
        """Whether somebody reconciles, and how long ago it said so last; None where nobody ever did."""
        left = self._lease_left
        age = None if left is None else round(max(0.0, JANITOR_LEASE_S - left), 1)
        return {"state": "up" if left is not None and left > 0 else "down", "last_seen_s": age}

    def close(self) -> None:
        self._thread.close()
