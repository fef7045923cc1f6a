"""Which model versions a device loads and unloads: a pure function of who is there, who is asked for, and the time.

No lock, clock, client or process in here. What holds for every decision, each a property test: nothing is loaded beyond
the budget; nothing leaves unless that makes room enough for somebody who is asked for (or nobody wants it); who was
passed over is never passed over again by those who had their turn since, however large it is; who has work keeps its
place for a time that is worth its loading; what nobody asks for never drives another out.
"""

import enum
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

#: Seconds that one which is not kept stays without anything to do.
LINGER_S = 5.0
#: Seconds that one with work is left in peace, at least; and how many times its loading it is left, where that is more.
QUANTUM_S = 1.0
QUANTUM_LOADS = 4.0
#: Seconds without work after which one may go for another's sake, at least; and at most what its loading takes, since
#: what it had to do a moment ago says that more may come.
REST_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A model version that this device could hold; one that cannot be loaded (failed, too large) is not given."""

    key: Hashable
    state: Literal["out", "loading", "in", "leaving"]
    kept: bool  # to be loaded where there is room, whether or not somebody asks
    urgent: bool  # to be warm although nobody can ask for it yet, until it has been; or because an operator says so
    barred: bool  # an operator does not want it loaded
    memory_bytes: int  # of all its instances: measured, declared or guessed
    asked_at: int | None  # position (µs, database clock) of the oldest prediction that waits for it elsewhere
    busy: bool  # in, with something in its window or on the device
    since: float  # when it came into this state; seconds, monotonic
    used_at: float  # when it last had something to do; `since` for never
    load_s: float  # what its last load took; 0 is not known

    @property
    def wanted(self) -> bool:
        """There is work for it, or about to be."""
        return self.busy or self.urgent or self.asked_at is not None

    @property
    def quantum_s(self) -> float:
        return max(QUANTUM_S, QUANTUM_LOADS * self.load_s)

    def waiting_since(self, now: float, now_us: int) -> float:
        """When the one that is out began to be missed: not before it went, however long its line was then."""
        if self.asked_at is None:
            return self.since
        return max(self.since, now - (now_us - self.asked_at) / 1e6)


class Reason(enum.StrEnum):
    """Why one is unloaded; a metric's label."""

    BARRED = "barred"  # an operator said so
    IDLE = "idle"  # nobody asks for it any more
    ROOM = "room"  # another needs its place


@dataclass(frozen=True, slots=True)
class Load:
    key: Hashable


@dataclass(frozen=True, slots=True)
class Unload:
    key: Hashable
    reason: Reason


def decide(candidates: Sequence[Candidate], budget: int | None, now: float, now_us: int) -> list[Load | Unload]:
    """What to begin now; nothing where all is as it should be, or on its way there.

    `budget`: bytes for all that is in, comes in or leaves (None: no bound). What exceeds it alone counts as all of it,
    so that it is loaded when nothing else is there. `now` (seconds, monotonic) and `now_us` (the database's clock) are
    one moment.
    """
    unloads = [Unload(one.key, reason) for one in candidates if (reason := _unwanted(one, now)) is not None]
    going = {unload.key for unload in unloads}
    loads: list[Load] = []
    room = _Room(candidates, budget, going)
    stayers = [one for one in candidates if one.state == "in" and one.key not in going]
    for one in _in_turn(candidates, now, now_us):
        victims = _victims(stayers, room, one, now)
        stayers = [stayer for stayer in stayers if stayer not in victims]
        unloads += [Unload(victim.key, Reason.ROOM) for victim in victims]
        room.will_be_left_by(victims)
        if room.admit(one):  # perhaps at once, where the victims' places go to one before it
            loads.append(Load(one.key))
        else:
            # Its place is kept until it can come in, also when nobody can be sent away for it yet: who asked later
            # would else take every place that gets free, and a large one among small ones never come in.
            room.reserve(one)
    unasked = (one for one in candidates if one.state == "out" and one.kept and not one.barred and not one.wanted)
    return [*unloads, *loads, *(Load(one.key) for one in unasked if room.admit(one))]


def _unwanted(one: Candidate, now: float) -> Reason | None:
    """Why it leaves, whoever else is there."""
    if one.state != "in":
        return None
    if one.barred:
        return Reason.BARRED
    if not one.kept and not one.wanted and now - one.used_at >= LINGER_S:
        return Reason.IDLE
    return None


def _in_turn(candidates: Sequence[Candidate], now: float, now_us: int) -> list[Candidate]:
    """Who is to come in, at the cost of others if need be: by how long they have been missed.

    An urgent one is first, and only one at a time, so that a folder full of new versions does not keep waiting those
    for whom there is work.
    """
    missed = [one for one in candidates if one.state == "out" and not one.barred and one.wanted]
    missed.sort(key=lambda one: one.waiting_since(now, now_us))
    urgent = [one for one in missed if one.urgent]
    first = [] if any(one.urgent and one.state == "loading" for one in candidates) else urgent[:1]
    return [
        *first,
        *(one for one in missed if one.asked_at is not None and one not in first),
        *(one for one in missed if one.asked_at is None and one not in first),
    ]


def _victims(stayers: Sequence[Candidate], room: "_Room", newcomer: Candidate, now: float) -> list[Candidate]:
    """Who leaves so that it can come in; nobody if all who may leave now are not enough."""
    lacking = room.lacking(newcomer)
    if room.beside(newcomer, [one for one in stayers if one.urgent]):
        stayers = [one for one in stayers if not one.urgent]  # it is for the others to make room, in their time
    idle = [one for one in stayers if not one.wanted and _rested(one, now)]
    idle.sort(key=lambda one: one.used_at)
    served = [one for one in stayers if one not in idle and now - one.since >= one.quantum_s]
    served.sort(key=lambda one: (one.urgent, one.wanted, one.since))
    chosen: list[Candidate] = []
    for one in [*idle, *served]:
        if lacking <= 0:
            break
        chosen.append(one)
        lacking -= room.bytes_of(one)
    if lacking > 0:
        return []
    for one in reversed(chosen[:-1]):  # small ones, in vain where a large one had to go after them
        if lacking + room.bytes_of(one) <= 0:
            chosen.remove(one)
            lacking += room.bytes_of(one)
    return chosen


def _rested(one: Candidate, now: float) -> bool:
    """Without work for so long that it is not worth waiting for more: as long as loading it again would take."""
    return now - one.used_at >= max(REST_S, one.load_s)


class _Room:
    """The bytes that are free now, and those that are once all has left that is leaving."""

    def __init__(self, candidates: Sequence[Candidate], budget: int | None, going: set[Hashable]) -> None:
        self._budget = budget
        there = [one for one in candidates if one.state != "out"]
        leaving = [one for one in there if one.state == "leaving" or one.key in going]
        self._now = (budget or 0) - sum(self.bytes_of(one) for one in there)
        self._later = self._now + sum(self.bytes_of(one) for one in leaving)

    def bytes_of(self, one: Candidate) -> int:
        return one.memory_bytes if self._budget is None else min(one.memory_bytes, self._budget)

    def admit(self, one: Candidate) -> bool:
        """Whether it fits in now, without the places of those before it; then its place is taken."""
        if self._budget is None:
            return True
        need = self.bytes_of(one)
        if need > min(self._now, self._later):
            return False
        self._now -= need
        self._later -= need
        return True

    def beside(self, one: Candidate, others: Sequence[Candidate]) -> bool:
        """Whether the device could hold it and these."""
        return self._budget is None or sum(self.bytes_of(other) for other in [one, *others]) <= self._budget

    def lacking(self, one: Candidate) -> int:
        """Bytes that somebody must free for it beyond what is being freed."""
        return 0 if self._budget is None else self.bytes_of(one) - self._later

    def will_be_left_by(self, victims: Sequence[Candidate]) -> None:
        self._later += sum(self.bytes_of(victim) for victim in victims)

    def reserve(self, one: Candidate) -> None:
        """Nobody after it gets what it needs."""
        self._later -= self.bytes_of(one)
