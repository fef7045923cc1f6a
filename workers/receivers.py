"""How many webhooks may be under way to whom, so that no receiver's slowness is another's.

Each receiver begins with a few sends at once and earns more by each good answer; bad and late answers take half of
them away. There are three sorts: good ones, which have earned more than they began with; fresh ones, which have not
answered yet; and bad ones. Each sort has a bounded part of all sends, so that neither a thousand dead receivers nor a
thousand new ones keep a good one waiting, nor busy ones a new one. Within a sort, what is free is dealt out evenly, to
who was served longest ago first.
"""

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

#: Sends under way, altogether; to good receivers; to bad ones; to bad and fresh ones.
MOST = 512
_MOST_GOOD = MOST * 3 // 4
_MOST_BAD = MOST // 8
_MOST_POOR = MOST // 2
#: To one receiver: at first, and at most.
_FIRST = 4
_MOST_EACH = 64
#: Who takes longer is slow: his answer earns nothing, and while it is awaited he counts as bad.
SLOW_S = 2.0
#: Receivers whose earnings are remembered.
_REMEMBERED = 10_000


class Sort(enum.Enum):
    GOOD = enum.auto()
    FRESH = enum.auto()
    BAD = enum.auto()


@dataclass(slots=True)
class _Sending:
    """To one receiver that has something under way."""

    count: int
    since: float  # its last answer, or when the first of these began


class Receivers:
    """Times are of any one clock, in seconds. Not thread-safe."""

    def __init__(self) -> None:
        self._earned: dict[str, int] = {}  # of those who have answered; who answered last is last
        self._sending: dict[str, _Sending] = {}
        self._total = 0

    def begin(self, receiver: str, count: int, now: float) -> None:
        if count:
            sending = self._sending.setdefault(receiver, _Sending(0, now))
            sending.count += count
            self._total += count

    def end(self, receiver: str, now: float, *, good: bool) -> None:
        """One send; `good`: it was taken, in less than SLOW_S."""
        sending = self._sending[receiver]
        sending.count -= 1
        sending.since = now
        self._total -= 1
        if not sending.count:
            del self._sending[receiver]
        earned = self._earned.pop(receiver, _FIRST)
        self._earned[receiver] = min(earned + 1, _MOST_EACH) if good else max(earned // 2, 1)
        if len(self._earned) > _REMEMBERED:
            del self._earned[next(iter(self._earned))]

    def sort(self, receiver: str, now: float) -> Sort:
        sending = self._sending.get(receiver)
        if sending is not None and now - sending.since > SLOW_S:
            return Sort.BAD
        earned = self._earned.get(receiver)
        if earned is None:
            return Sort.FRESH
        return Sort.GOOD if earned > _FIRST else Sort.BAD

    def rooms(self, waiting: Iterable[str], now: float) -> Mapping[str, int]:
        """Receiver → sends that may be begun now, at least one each; `waiting`: who was served longest ago first."""
        sorts: dict[Sort, list[tuple[str, int]]] = {sort: [] for sort in Sort}
        for receiver in waiting:
            earned = self._earned.get(receiver, _FIRST)
            sending = self._sending.get(receiver)
            under_way = 0 if sending is None else sending.count
            # Not for each one that has become free: a transaction serves many.
            if under_way == 0 or earned - under_way >= max(1, earned // 4):
                sorts[self.sort(receiver, now)].append((receiver, earned - under_way))
        if not any(sorts.values()):
            return {}
        used = dict.fromkeys(Sort, 0)
        for receiver, sending in self._sending.items():
            used[self.sort(receiver, now)] += sending.count
        rooms: dict[str, int] = {}
        free = MOST - self._total
        poor = _MOST_POOR - used[Sort.BAD] - used[Sort.FRESH]
        free -= _deal(sorts[Sort.GOOD], min(free, _MOST_GOOD - used[Sort.GOOD]), rooms)
        given = _deal(sorts[Sort.FRESH], min(free, poor), rooms)
        _deal(sorts[Sort.BAD], min(free - given, poor - given, _MOST_BAD - used[Sort.BAD]), rooms)
        return rooms


def _deal(wanting: list[tuple[str, int]], free: int, rooms: dict[str, int]) -> int:
    """Evenly, those who want least first; how many were given."""
    given = 0
    # Of more receivers than there is room for, the first; `sorted` keeps the order of those who want the same.
    served = sorted(wanting[: max(free, 0)], key=lambda one: one[1])
    for number, (receiver, wanted) in enumerate(served):
        rooms[receiver] = min(wanted, (free - given) // (len(served) - number))
        given += rooms[receiver]
    return given
