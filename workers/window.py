"""A lane shared by threads: intake offers, runners take.

One condition guards it. Whoever changes something that could change a decision (an offer, a device that became free,
a stop) calls `wake`.
"""

import threading
import time
from collections.abc import Callable, Iterable, Sequence

from batching.lane import Lane
from batching.policy import Pace, Rules, Take, Waiting
from headway import broker
from headway.manifest import Manifest
from headway.types import BULK_PRIORITY, Hint
from workers.yielding import Hurry


class Window:
    """The waiting predictions of one model version on this worker."""

    def __init__(self, model: str, version: str, manifest: Manifest, hurry: Hurry) -> None:
        self._hurry = hurry
        batching = manifest.batching
        #: Two micro-batches keep a device busy; choosing alike mates needs more to choose from.
        depth = 2 if batching.size == "none" else 8
        self.model = model
        self.version = version
        self.max_batch_size = batching.max_batch_size
        self.max_wait_s = batching.max_wait_ms / 1000
        self.offered_at = 0.0  # monotonic; when a hint last came in
        self.received_at = 0.0  # the same for those that intake brought
        self._lane = Lane(
            Rules(
                max_batch_size=batching.max_batch_size,
                max_wait_s=self.max_wait_s,
                max_batch_cost=batching.max_batch_cost,
            ),
            limit=depth * batching.max_batch_size * manifest.instances,
        )
        self._changed = threading.Condition()
        self.open = True
        self.paused = False
        #: Called, outside the lock, when a window that was full has room again.
        self.on_room: Callable[[], None] = lambda: None

    def accepts(self, *, bulk: bool) -> bool:
        """Whether intake should fetch more of these lines: those of batches, or the others."""
        return self.open and not self.paused and not self._lane.full(bulk=bulk)

    def room(self, *, bulk: bool) -> int:
        """Ids of items of batches, or of others, that fit."""
        return self._lane.room(bulk=bulk)

    def pause(self, paused: bool) -> None:
        """While paused, who waits stays, and nobody is fetched."""
        with self._changed:
            if self.paused == paused:
                return
            self.paused = paused
            self._changed.notify_all()
        self.on_room()

    def _full(self) -> tuple[bool, bool]:
        return self._lane.full(bulk=False), self._lane.full(bulk=True)

    @property
    def empty(self) -> bool:
        return len(self._lane) == 0

    def offer(self, hints: Iterable[tuple[int, Hint]], *, coming: int = 0, tenant_class: int = 0) -> list[str]:
        """Takes (priority, hint) pairs of one line in; the ids that were new here. A closed window takes nothing."""
        pairs = list(hints)
        with self._changed:
            if not self.open:
                return []
            now = time.monotonic()  # under the lock: who comes later stands behind
            items = [
                Waiting(hint.id, priority, hint.position, hint.size, hint.shape, now, tenant_class)
                for priority, hint in pairs
            ]
            new = self._lane.offer(items, coming=coming)
            if any(priority < BULK_PRIORITY for priority, _ in pairs):
                self._hurry.note()
            self.offered_at = now
            self._changed.notify_all()
        return new

    def take(
        self,
        free_at: Callable[[], float],
        abandon: Callable[[], bool],
        at_most: Callable[[], int],
        pace: Callable[[], Pace],
    ) -> Take | None:
        """Blocks until the policy lets a batch depart; None once the window is closed or `abandon()` holds.

        All four are asked under the lock, at every wake. `at_most`: how many the device bears.
        """
        with self._changed:
            while True:
                if not self.open or abandon():
                    return None
                if self.paused:
                    self._changed.wait()
                    continue
                was_full = self._full()
                now = time.monotonic()
                decision = self._lane.decide(now, free_at(), at_most(), pace())
                if isinstance(decision, Take):
                    break
                self._changed.wait(min(decision.at - now, threading.TIMEOUT_MAX))
        if self.open and was_full != self._full():
            self.on_room()
        return decision

    def top_up(self, crew: Sequence[Waiting], places: int) -> list[Waiting]:
        with self._changed:
            was_full = self._full()
            mates = self._lane.top_up(crew, places, time.monotonic())
        if self.open and was_full != self._full():
            self.on_room()
        return mates

    def forget(self, ids: Iterable[str]) -> None:
        with self._changed:
            self._lane.forget(ids)

    def wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def close(self) -> list[Waiting]:
        """No more in, no more out; the answer is who was still waiting."""
        with self._changed:
            self.open = False
            waiting = self._lane.drain()
            self._changed.notify_all()
        return waiting

    def hint_of(self, item: Waiting) -> tuple[str, Hint]:
        """(line, hint) to put an item back with."""
        line = broker.line(self.model, self.version, item.priority, item.tenant_class)
        return line, Hint(id=item.id, size=item.size, shape=item.shape, position=item.position)
