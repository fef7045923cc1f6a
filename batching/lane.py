"""The window of one model version on one worker: who has left Redis and waits for a micro-batch.

It owns the waiting and decides nothing itself (`batching.policy` does). It has no lock and no clock: its owner brings
both.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from batching import cost, policy
from batching.policy import UNHURRIED, Decision, Pace, Rules, Take, Waiting


class Lane:
    """Bounded, without doubles."""

    def __init__(self, rules: Rules, *, limit: int) -> None:
        """`limit`: ids it wants to hold at most; an envelope that is already here may take it over that."""
        self.rules = rules
        self.limit = limit
        self.coming = 0
        self._waiting: dict[str, Waiting] = {}
        self._bulk = 0  # of those who wait
        self._boarded: set[str] = set()
        self._full = False  # for items of batches

    def __len__(self) -> int:
        return len(self._waiting)

    def full(self, *, bulk: bool) -> bool:
        """Whether it wants no more items of batches, or no more of the others, whom those never keep out.

        Of items of batches it wants none until half of the window has left: to ask for more whenever one leaves costs
        more than they do, and nobody waits for them.
        """
        return self._full if bulk else len(self._waiting) - self._bulk >= self.limit

    def _count(self) -> None:
        self._full = len(self._waiting) > (self.limit // 2 if self._full else self.limit - 1)

    def offer(self, items: Iterable[Waiting], *, coming: int = 0) -> list[str]:
        """Takes them in; the answer is those that were new. `coming` replaces what was expected before."""
        new = []
        for item in items:
            if item.id not in self._waiting and item.id not in self._boarded:
                self._waiting[item.id] = item
                self._bulk += item.bulk
                new.append(item.id)
        self.coming = coming
        self._count()
        return new

    def decide(self, now: float, free_at: float, at_most: int, pace: Pace = UNHURRIED) -> Decision:
        """As `policy.decide`; on a Take the items have left the window and count as boarded.

        `at_most`: what this device bears in one batch, beside the rules.
        """
        rules = self.rules if at_most >= self.rules.max_batch_size else replace(self.rules, max_batch_size=at_most)
        waiting = list(self._waiting.values())
        decision = policy.decide(waiting, now, free_at=free_at, coming=self.coming, rules=rules, pace=pace)
        if isinstance(decision, Take):
            self._board(decision.items)
            if not self._waiting:
                self.coming = 0
        return decision

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
        self._bulk = self.coming = 0
        self._count()
        return waiting

    def _board(self, items: Iterable[Waiting]) -> None:
        for item in items:
            del self._waiting[item.id]
            self._bulk -= item.bulk
            self._boarded.add(item.id)
        self._count()
