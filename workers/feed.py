"""Takes a micro-batch from the window when the device can begin one, claims its rows and sends them."""

import logging
import math
import threading
import time
from collections.abc import Sequence

from batching.ceiling import Ceiling
from batching.policy import UNHURRIED, Pace, Take, Waiting
from headway import broker
from headway.manifest import Fetch
from headway.types import Claimed
from workers import metrics
from workers.call import Call
from workers.claiming import Claiming
from workers.claims import Claims
from workers.executor import DeviceLost
from workers.finisher import Finisher
from workers.gathering import Gathering
from workers.materials import Materials
from workers.settling import Settling
from workers.slots import Slots
from workers.watchdog import Sign
from workers.window import Window
from workers.yielding import Yielding

log = logging.getLogger(__name__)

#: Micro-batches of batches' items whose rows are claimed at once.
_MOST_CALLS = 4


class Feed:
    """One thread of one runner."""

    def __init__(
        self,
        *,
        window: Window,
        slots: Slots,
        claiming: Claiming,
        claims: Claims,
        settling: Settling,
        finisher: Finisher,
        yielding: Yielding,
        ceiling: Ceiling,
        materials: Materials,
        fetch: Fetch | None,
    ) -> None:
        self._window = window
        self._slots = slots
        self._claiming = claiming
        self._claims = claims
        self._settling = settling
        self._finisher = finisher
        self._yielding = yielding
        self._ceiling = ceiling
        self._labels = (window.model, window.version)
        self.gathering = Gathering(materials, fetch, slots=slots, settling=settling, send=self._send_all)
        self._sending = threading.Lock()  # calls reach the process in the order of `slots.in_flight`
        self._calls = 0
        self._taken = self._taken_before = 0  # micro-batches
        self._idle_since = math.inf
        self._thread = threading.Thread(target=self._run, name=f"feed {window.model}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self, timeout_s: float) -> None:
        """Ends once the window is closed."""
        self._thread.join(timeout_s)

    def signs(self, *, busy: bool) -> list[Sign]:
        """Of its claims, and since when somebody waits in the window of an idle device. Asked by one thread."""
        window, slots = self._window, self._slots
        claiming = self._claiming.sign()
        idle = slots.executor is not None and not busy and claiming[0].since == math.inf and not slots.recycling
        if not idle or window.empty or window.paused or not window.open or self._taken != self._taken_before:
            self._idle_since, self._taken_before = math.inf, self._taken
        elif self._idle_since == math.inf:
            self._idle_since = time.monotonic()
        feed = f"the feed of {window.model}@{window.version}, which lets them wait,"
        return [*claiming, Sign(feed, self._idle_since, window.max_wait_s)]

    def _run(self) -> None:
        slots = self._slots
        while (executor := slots.await_room()) is not None:
            taken = self._window.take(
                slots.free_at,
                abandon=lambda e=executor: slots.executor is not e or slots.recycling,  # type: ignore[misc]
                at_most=lambda: self._ceiling.at_most,
                pace=self._pace_of_batches,
            )
            if taken is None:
                if not self._window.open:
                    return
                continue
            began = time.monotonic()
            self._taken += 1
            items = self._with_more(taken)
            rows, claims = self._claiming.claim(items)
            if canceled := self._claims.canceled(claims):
                self._settling.hand_back([row for row in rows if row.id in canceled], claims)
                rows = [row for row in rows if row.id not in canceled]
            rows, lacking = self.gathering.part(rows)
            if lacking:
                self.gathering.begin(lacking, claims)
            for at in range(0, len(items), len(taken.items)):
                metrics.formed(self._labels, Take(items[at : at + len(taken.items)], taken.reason), began)
            slots.brought(self._send_all(rows, claims, began) - began)

    def _with_more(self, taken: Take) -> list[Waiting]:
        """Items of batches are claimed for several calls at once, where those are short and nobody is in a hurry: a
        transaction costs as much as twenty of its rows."""
        items, at_most = taken.items, self._ceiling.at_most
        full = len(items) == at_most and all(item.bulk for item in items)
        if not full or self._pace_of_batches() is not UNHURRIED:
            return items
        return items + self._window.top_up(items, (min(self._slots.ahead, _MOST_CALLS) - 1) * at_most)

    def _pace_of_batches(self) -> Pace:
        busy = any(call.bulk for call in tuple(self._slots.in_flight)) or self._finisher.bulk_waiting
        return self._yielding.pace(busy=busy)

    def _send_all(self, rows: list[Claimed], claims: dict[str, str], taken_at: float) -> float:
        """When (monotonic) the first of them were on their way."""
        bulk = all(broker.is_bulk(row.line) for row in rows)
        sent = None
        for part in company(rows, self._window.max_batch_size, self._ceiling.at_most):
            with self._sending:
                self._calls += 1
                call = Call(self._calls, part, {row.id: claims[row.id] for row in part}, bulk, taken_at)
                self._send(call)
            sent = sent or time.monotonic()
        return sent or time.monotonic()

    def _send(self, call: Call) -> None:
        executor = self._slots.place(call)
        if executor is None:
            self._settling.hand_back(call.rows, call.claims)
            return
        try:
            self._slots.submit(call, executor)
        except DeviceLost:
            log.debug("the device process died before call %d reached it", call.id)  # its thread gives the call back


def company(rows: Sequence[Claimed], max_batch_size: int, at_most: int) -> list[list[Claimed]]:
    """By the company that each row may keep after what it has been through: any, a few of its like, or none.

    `at_most`: rows of a call. Alike travels with alike.
    """
    few = max(1, max_batch_size // 8)
    free = [row for row in rows if row.losses == 0]
    wary = [row for row in rows if row.losses == 1]
    if len(free) > at_most:
        free.sort(key=lambda row: row.size)
    return [
        *(free[at : at + at_most] for at in range(0, len(free), at_most)),
        *(wary[at : at + few] for at in range(0, len(wary), few)),
        *([row] for row in rows if row.losses >= 2),
    ]
