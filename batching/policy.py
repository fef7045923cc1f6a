"""When a micro-batch departs, and with whom: a pure function of who waits, the time, and when the device is free.

No lock, clock, client or future in here. What holds for every decision, each a property test: nobody is lost or boards
twice; no batch is over `max_batch_size`, nor over `max_batch_cost` unless it is one item; shapes never mix; the leader
(the most urgent, then who came first) always boards, so nobody is passed over for ever; a batch is formed no earlier
than the device can begin it, unless waiting could not make it better.
"""

import bisect
import enum
import math
import operator
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from batching import cost
from headway.types import BULK_PRIORITY


class Waiting(msgspec.Struct, frozen=True):
    """One prediction in a worker's window."""

    id: str
    priority: int  # 0 first … 9; 10 … 19 for items of batches, which take what places are left
    position: int  # µs, database clock: its place in the line
    size: int
    shape: str | None
    arrived: float  # seconds, this worker's monotonic clock
    tenant_class: int = 0

    @property
    def bulk(self) -> bool:
        """An item of a batch."""
        return self.priority >= BULK_PRIORITY


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What `model.toml` says of batching."""

    max_batch_size: int
    max_wait_s: float
    max_batch_cost: int | None = None
    ageing_s: float = 1.0  # waiting this long counts like one priority step


class Reason(enum.StrEnum):
    """Why a batch departed; a metric's label."""

    FULL = "full"  # by count or by cost
    OVERDUE = "overdue"  # the oldest had waited `max_wait_s` for mates known to be coming
    IDLE = "idle"  # the device was free and nothing more was known to be coming


@dataclass(frozen=True, slots=True)
class Take:
    items: list[Waiting]
    reason: Reason


@dataclass(frozen=True, slots=True)
class WaitUntil:
    """Ask again at `at` (seconds, monotonic; infinity: when something changes)."""

    at: float


Decision = Take | WaitUntil


@dataclass(frozen=True, slots=True)
class Pace:
    """What items of batches may take while others are in a hurry."""

    at: float  # when a micro-batch of nothing else may depart (≤ now: at once)
    at_most: int  # of them in any micro-batch


# The window is put in order at every decision, and may hold hundreds: what orders it runs in C.
place = operator.attrgetter("arrived", "position", "id")
_like = operator.attrgetter("size", "position", "id")
_size = operator.attrgetter("size")
_priority = operator.attrgetter("priority")
_tenant_class = operator.attrgetter("tenant_class")

UNHURRIED = Pace(-math.inf, 1 << 30)


def decide(
    waiting: Sequence[Waiting],
    now: float,
    *,
    free_at: float,
    coming: int,
    rules: Rules,
    pace: Pace = UNHURRIED,
    in_order: bool = False,
) -> Decision:
    """`in_order`: those who wait are, by `place`.

    `free_at`: when the device could begin another batch (≤ now: at once; infinity: not known).

    `coming`: how many more of this lane are known to be on their way.
    """
    if not waiting:
        return WaitUntil(math.inf)
    if min(map(_priority, waiting)) >= BULK_PRIORITY:
        free_at = max(free_at, pace.at)
        could_fill = False
    else:
        could_fill = rules.max_batch_cost is not None or len(waiting) >= rules.max_batch_size
    if now < free_at and not could_fill:
        return WaitUntil(free_at)  # whoever would board
    crew = board(waiting, now, rules, in_order=in_order)
    if crew[0].bulk:
        # They do not stand before a busy device: whoever is in more of a hurry could still come.
        free_at = max(free_at, pace.at)
        if now < free_at:
            return WaitUntil(free_at)
        return Take(crew[: pace.at_most], Reason.FULL if is_full(crew, rules) else Reason.IDLE)
    if is_full(crew, rules):
        return Take(_with_few(crew, pace.at_most), Reason.FULL)
    crew = _with_few(crew, pace.at_most)
    if now < free_at:
        return WaitUntil(free_at)  # departing earlier would end no earlier, and end with fewer
    if coming <= 0:
        return Take(crew, Reason.IDLE)
    # Of all who wait, not only of the crew: one of another shape must not stand by an idle device either.
    overdue_at = min(item.arrived for item in waiting) + rules.max_wait_s
    if now >= overdue_at:
        return Take(crew, Reason.OVERDUE)
    return WaitUntil(overdue_at)


def speak_for_their_kind(foremost: Sequence[Waiting], now: float, rules: Rules) -> bool:
    """Whether `decide` says of these what it would say of all, where all are of one priority, class, shape and size,
    and these a micro-batch of those who came first: who stands behind is as good, but later. Not where waiting has made
    only some of these more urgent: of the others those board who are first in the line."""
    return _urgency(foremost[0], now, rules) == _urgency(foremost[-1], now, rules)


def _with_few(crew: list[Waiting], bulk: int) -> list[Waiting]:
    """Without those items of batches that are too many; they board last."""
    return crew[: sum(not item.bulk for item in crew) + bulk]


def is_full(crew: Sequence[Waiting], rules: Rules) -> bool:
    """Whether one more as large as the largest would be too many."""
    if len(crew) >= rules.max_batch_size:
        return True
    if rules.max_batch_cost is None:
        return False
    return (len(crew) + 1) * max(item.size for item in crew) > rules.max_batch_cost


def board(waiting: Sequence[Waiting], now: float, rules: Rules, *, in_order: bool = False) -> list[Waiting]:
    """Who would depart now: the leader, then by urgency, and within the last urgency that fits only in part, alike."""
    # By arrival here before position: who has waited for its urgency must not stand behind those of a long line who
    # were urgent from the first, and come in only now.
    places = list(waiting) if in_order else sorted(waiting, key=place)
    if len(set(map(_priority, places))) > 1:  # those of one priority are in the order of their urgency as they are
        places.sort(key=lambda item: _urgency(item, now, rules))
    ordered = _in_turn(places)
    leader = ordered[0]
    crew: list[Waiting] = []
    begin = 0
    while begin < len(places) and len(crew) < rules.max_batch_size:
        urgency = _urgency(places[begin], now, rules)
        end = bisect.bisect_right(places, urgency, begin, key=lambda item: _urgency(item, now, rules))
        group = [item for item in ordered[begin:end] if item.shape == leader.shape]
        crew = _admit(crew, group, leader, rules)
        begin = end
    return crew


def _in_turn(ordered: list[Waiting]) -> list[Waiting]:
    """Where there are several classes of tenants, those of one priority trade places: the first of every class, then
    the second of every class, and so on.

    Of the firsts, that of the class with the fewest here leads: what comes to the window comes by shares, so the fewest
    are of who asks for less than its share, or had more of it.
    """
    if len(set(map(_tenant_class, ordered))) == 1:
        return ordered
    here = Counter((item.priority, item.tenant_class) for item in ordered)
    passed: Counter[tuple[int, int]] = Counter()
    turns: dict[int, list[tuple[int, int, int, Waiting]]] = defaultdict(list)
    for index, item in enumerate(ordered):
        of = (item.priority, item.tenant_class)
        turns[item.priority].append((passed[of], here[of], index, item))
        passed[of] += 1
    by_priority = {priority: iter(sorted(of)) for priority, of in turns.items()}
    return [next(by_priority[item.priority])[-1] for item in ordered]


def _urgency(item: Waiting, now: float, rules: Rules) -> int:
    if item.priority == 0:
        return 0
    return max(0, item.priority - int((now - item.arrived) / rules.ageing_s))


def _admit(crew: list[Waiting], group: list[Waiting], leader: Waiting, rules: Rules) -> list[Waiting]:
    """The crew with as many of this group (all of one urgency, oldest first) as fit."""
    if not group:
        return crew
    places = rules.max_batch_size - len(crew)
    if len(group) <= places and rules.max_batch_cost is None:
        return crew + group
    if not crew:  # the leader's own group: the best run of like sizes around it
        sizes = list(map(_size, group))
        if min(sizes) == max(sizes):
            by_size, at = group, 0
        else:
            # Only those next to the leader can travel with it: to put a whole window in order costs more.
            sizes.sort()
            least = sizes[max(0, bisect.bisect_left(sizes, leader.size) - places)]
            largest = sizes[min(len(sizes), bisect.bisect_right(sizes, leader.size) + places) - 1]
            by_size = sorted((item for item in group if least <= item.size <= largest), key=_like)
            sizes = list(map(_size, by_size))
            at = by_size.index(leader)
        run = cost.alike(sizes, at, at_most=places, budget=rules.max_batch_cost)
        return [by_size[index] for index in run]
    chosen = list(crew)
    largest = max(item.size for item in chosen)
    for item in sorted(group, key=lambda item: (abs(item.size - leader.size), item.position, item.id)):
        if len(chosen) >= rules.max_batch_size:
            break
        heavier = max(largest, item.size)
        if rules.max_batch_cost is None or (len(chosen) + 1) * heavier <= rules.max_batch_cost:
            chosen.append(item)
            largest = heavier
    return chosen
