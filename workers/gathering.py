"""Rows whose inputs are still to be read or fetched: on threads of their own, so that neither their mates nor the
device wait for them."""

import threading
import time
from collections.abc import Callable

from headway.manifest import Fetch
from headway.types import Claimed
from workers.materials import Materials, lacks
from workers.settling import Settling
from workers.slots import Slots

#: Micro-batches whose inputs may be read or fetched at once; beyond that nothing more is taken.
_GATHERING = 4
#: Before rows whose inputs cannot be read now are handed back, doubled while that lasts. Seconds.
_STORE_AWAY_S = (2.0, 30.0)

Send = Callable[[list[Claimed], dict[str, str], float], object]


class Gathering:
    """Of one runner."""

    def __init__(
        self, materials: Materials, fetch: Fetch | None, *, slots: Slots, settling: Settling, send: Send
    ) -> None:
        """`send(rows, claims, taken_at)`: rows that lack nothing any more."""
        self._materials = materials
        self._fetch = fetch
        self._slots = slots
        self._settling = settling
        self._send = send
        self._under_way: dict[int, tuple[list[Claimed], dict[str, str]]] = {}  # by whatever number
        self._begun = 0
        self._store_away_s = _STORE_AWAY_S[0]

    def __bool__(self) -> bool:
        return bool(self._under_way)

    def part(self, rows: list[Claimed]) -> tuple[list[Claimed], list[Claimed]]:
        """Those that can be computed, and those that lack something."""
        lacking = [row for row in rows if lacks(row, self._fetch)]
        return [row for row in rows if not lacks(row, self._fetch)] if lacking else rows, lacking

    def begin(self, rows: list[Claimed], claims: dict[str, str]) -> None:
        """Reads and fetches what these rows lack, as soon as fewer than `_GATHERING` others do."""
        slots = self._slots
        with slots.changed:
            slots.changed.wait_for(lambda: slots.leaving or len(self._under_way) < _GATHERING)
            leaving = slots.leaving
            if not leaving:
                self._begun += 1
                number = self._begun
                self._under_way[number] = rows, claims
        if leaving:
            self._settling.hand_back(rows, claims)
        else:
            threading.Thread(target=self._bring, args=(number, rows, claims), name="gather", daemon=True).start()

    def abandon(self) -> list[tuple[list[Claimed], dict[str, str]]]:
        """What is still under way is the caller's now. Under the lock of the slots."""
        left = list(self._under_way.values())
        self._under_way.clear()
        return left

    def _bring(self, number: int, rows: list[Claimed], claims: dict[str, str]) -> None:
        """A thread of its own: sends the rows once they lack nothing."""
        slots = self._slots
        gathered = self._materials.gather(rows, self._fetch)
        if gathered.untouched:
            with slots.changed:
                slots.changed.wait_for(lambda: slots.leaving, self._store_away_s)
            self._store_away_s = min(self._store_away_s * 2, _STORE_AWAY_S[1])
        else:
            self._store_away_s = _STORE_AWAY_S[0]
        with slots.changed:
            ours = self._under_way.pop(number, None) is not None
            slots.changed.notify_all()
        if not ours:
            return  # the worker stops, and has handed them back
        if gathered.refused:
            refused = {one.id for one in gathered.refused}
            self._settling.settle(claims, [row for row in rows if row.id in refused], gathered.refused, idle=False)
        if gathered.untouched:
            self._settling.hand_back(gathered.untouched, claims)
        self._send(gathered.ready, claims, time.monotonic())
