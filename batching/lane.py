"""The window of one model version on one worker: who has left Redis and waits for a micro-batch.

It owns the waiting and decides nothing itself (`batching.policy` does). It has no lock and no clock: its owner brings
both.
"""

import itertools
import operator
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from batching import cost, policy
from batching.policy import UNHURRIED, Decision, Pace, Rules, Take, Waiting
from headway.types import BULK_PRIORITY

_kind = operator.attrgetter("priority", "tenant_class", "shape")
_size = operator.attrgetter("size")


class Lane:
    """Bounded, without doubles."""

    def __init__(self, rules: Rules, *, limit: int) -> None:
        """`limit`: ids it wants to hold at most; an envelope that is already here may take it over that."""
        self.rules = rules
        self.limit = limit
        self.coming = 0
        self._waiting: dict[str, Waiting] = {}
        self._kinds: Counter[tuple[int, int, str | None]] = Counter()  # of those who wait
        self._last: tuple[float, int, str] | None = None  # the place of who came last, while all came in order
        self._in_order = True
        self._bulk = 0  # of those who wait
        self._boarded: set[str] = set()
        self._full = False  # of others than items of batches
        self._full_of_all = False

    def __len__(self) -> int:
        return len(self._waiting)

    def full(self, *, bulk: bool) -> bool:
        """Whether it wants no more items of batches, or no more of the others, whom those never keep out.

        To ask for more whenever one leaves costs more than they do: it wants none until half a micro-batch has left,
        and of items of batches, for which nobody waits, until half of the window has.
        """
        return self._full_of_all if bulk else self._full

    def room(self, *, bulk: bool) -> int:
        """How many items of batches, or how many of the others, it has room for."""
        return max(0, self.limit - len(self._waiting) + (0 if bulk else self._bulk))

    def _count(self, items: Iterable[Waiting], sign: int) -> None:
        """These have come (+1) or left (-1)."""
        for kind, count in Counter(map(_kind, items)).items():
            self._kinds[kind] += sign * count
            if not self._kinds[kind]:
                del self._kinds[kind]
            if kind[0] >= BULK_PRIORITY:
                self._bulk += sign * count
        few = max(1, self.rules.max_batch_size // 2)
        others = len(self._waiting) - self._bulk
        self._full = others > self.limit - (few if self._full else 1)
        self._full_of_all = len(self._waiting) > (self.limit // 2 if self._full_of_all else self.limit - 1)

    def offer(self, items: Iterable[Waiting], *, coming: int = 0) -> list[str]:
        """Takes them in; the answer is those that were new. `coming` replaces what was expected before."""
        waiting, boarded = self._waiting, self._boarded
        new = {item.id: item for item in items if item.id not in waiting and item.id not in boarded}
        self.coming = coming
        if new:
            places = sorted(new.values(), key=policy.place)
            waiting.update((item.id, item) for item in places)
            self._in_order = self._in_order and (self._last is None or self._last <= policy.place(places[0]))
            self._last = policy.place(places[-1])
            self._count(new.values(), +1)
        return list(new)

    def decide(self, now: float, free_at: float, at_most: int, pace: Pace = UNHURRIED) -> Decision:
        """As `policy.decide`; on a Take the items have left the window and count as boarded.

        `at_most`: what this device bears in one batch, beside the rules.
        """
        rules = self.rules if at_most >= self.rules.max_batch_size else replace(self.rules, max_batch_size=at_most)
        self._put_in_order()
        waiting = self._foremost(now, rules) or list(self._waiting.values())
        decision = policy.decide(
            waiting, now, free_at=free_at, coming=self.coming, rules=rules, pace=pace, in_order=True
        )
        if isinstance(decision, Take):
            self._board(decision.items)
            if not self._waiting:
                self.coming = 0
        return decision

    def _put_in_order(self) -> None:
        if not self._in_order:
            self._waiting = {item.id: item for item in sorted(self._waiting.values(), key=policy.place)}
            self._last, self._in_order = policy.place(self._waiting[next(reversed(self._waiting))]), True

    def _foremost(self, now: float, rules: Rules) -> list[Waiting] | None:
        """A micro-batch of those who came first, where the decision upon them is the one upon the whole window."""
        if len(self._kinds) > 1 or len(self._waiting) <= rules.max_batch_size:
            return None
        if len(set(map(_size, self._waiting.values()))) > 1:
            return None
        foremost = list(itertools.islice(self._waiting.values(), rules.max_batch_size))
        return foremost if policy.speak_for_their_kind(foremost, now, rules) else None

    def top_up(self, crew: Sequence[Waiting], places: int, now: float) -> list[Waiting]:
        """Up to `places` more for a crew some of whose rows turned out not to be claimable."""
        mates = [item for item in self._waiting.values() if not crew or item.shape == crew[0].shape]
        rules = replace(self.rules, max_batch_size=places)
        chosen = policy.board(mates, now, rules) if mates and places > 0 else []
        budget = rules.max_batch_cost
        if budget is not None and cost.padded([item.size for item in [*crew, *chosen]]) > budget:
            chosen = []
        self._board(chosen)
        return chosen

    def forget(self, ids: Iterable[str]) -> None:
        """These are settled, or belong to somebody else: a later hint for them is new again."""
        self._boarded.difference_update(ids)

    def drain(self) -> list[Waiting]:
        """Everybody who still waits, oldest first; the lane is empty afterwards."""
        waiting = sorted(self._waiting.values(), key=lambda item: (item.position, item.id))
        self._waiting.clear()
        self._last, self._in_order = None, True
        self.coming = 0
        self._count(waiting, -1)
        return waiting

    def _board(self, items: Sequence[Waiting]) -> None:
        for item in items:
            del self._waiting[item.id]
        self._boarded.update(item.id for item in items)
        if not self._waiting:
            self._last, self._in_order = None, True
        self._count(items, -1)
