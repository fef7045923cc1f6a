"""What a device loads and unloads: what holds for every moment, minutes of it in simulated time, cases by name."""

import itertools
from collections import defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from workers.placement import LINGER_S, Candidate, Load, Reason, Unload, decide

NOW, NOW_US = 1000.0, 2_000_000_000
OUT = Candidate(
    key="x",
    state="out",
    kept=True,
    urgent=False,
    barred=False,
    memory_bytes=1,
    asked_at=None,
    busy=False,
    since=0.0,
    used_at=0.0,
    load_s=1.0,
)
IN = replace(OUT, state="in", since=NOW - 100, used_at=NOW - 50)


def ago(seconds: float) -> int:
    """A position in a line, so long ago."""
    return NOW_US - int(seconds * 1e6)


def asked(key: str, seconds: float = 1.0, **changes: object) -> Candidate:
    return replace(OUT, key=key, asked_at=ago(seconds), **changes)  # type: ignore[arg-type]


def busy(key: str, in_for: float, **changes: object) -> Candidate:
    return replace(IN, key=key, busy=True, used_at=NOW, since=NOW - in_for, **changes)  # type: ignore[arg-type]


def idle(key: str, unused_for: float, **changes: object) -> Candidate:
    return replace(IN, key=key, used_at=NOW - unused_for, **changes)  # type: ignore[arg-type]


def now(*candidates: Candidate, budget: int | None = 4) -> list[Load | Unload]:
    return decide(candidates, budget, NOW, NOW_US)


def test_whatever_is_kept_is_loaded_where_there_is_room_and_the_rest_when_it_is_asked_for() -> None:
    out = [replace(OUT, key=key) for key in "abc"]
    assert now(*out, budget=None) == [Load("a"), Load("b"), Load("c")]
    assert now(*out, budget=2) == [Load("a"), Load("b")]
    assert now(*out, asked("d"), budget=2) == [Load("d"), Load("a")]
    assert now(replace(OUT, kept=False), replace(OUT, key="y", barred=True, asked_at=ago(1))) == []


def test_what_an_operator_does_not_want_leaves_and_what_nobody_wants_leaves_after_a_while() -> None:
    assert now(replace(IN, barred=True, busy=True)) == [Unload("x", Reason.BARRED)]
    unkept = idle("x", LINGER_S, kept=False)
    assert now(unkept) == [Unload("x", Reason.IDLE)]
    for wanted in (
        replace(unkept, kept=True),
        replace(unkept, urgent=True),
        replace(unkept, busy=True),
        replace(unkept, asked_at=ago(1)),
        idle("x", LINGER_S / 2, kept=False),
    ):
        assert now(wanted) == []


def test_the_one_that_is_missed_longest_comes_first() -> None:
    assert now(asked("late", 1.0), asked("early", 2.0), budget=1) == [Load("early")]
    # One that has just had its turn waits behind others, however old what it has left undone.
    assert now(asked("served", 500.0, since=NOW - 1), asked("other", 2.0), budget=1) == [Load("other")]


def test_for_one_who_is_asked_for_the_idle_leave_before_the_busy_least_recently_used_first() -> None:
    crowd = [busy("busy", 99), idle("newer", 10), idle("older", 20), idle("newest", 5)]
    assert now(*crowd, asked("x")) == [Unload("older", Reason.ROOM)]
    assert now(*crowd, asked("x"), asked("y")) == [Unload("older", Reason.ROOM), Unload("newer", Reason.ROOM)]
    # One that worked a moment ago is likely to be asked for again: it leaves when loading it again costs no more.
    recent = idle("x", 0.5, since=NOW - 2)
    assert now(recent, asked("y"), budget=1) == []
    assert now(replace(recent, load_s=0.3), asked("y"), budget=1) == [Unload("x", Reason.ROOM)]


def test_the_busy_leave_in_turn_after_a_time_that_is_worth_their_loading() -> None:
    assert now(busy("a", 5), busy("b", 9), asked("x"), budget=2) == [Unload("b", Reason.ROOM)]
    assert now(busy("a", 3), busy("b", 3.9), asked("x"), budget=2) == []
    assert now(busy("a", 3, load_s=0.0), busy("b", 3.9), asked("x"), budget=2) == [Unload("a", Reason.ROOM)]


def test_nobody_leaves_in_vain() -> None:
    large = asked("large", memory_bytes=3)
    assert now(busy("a", 9), busy("b", 1), busy("c", 1), large, budget=3) == []
    # The small idle one would not have been enough, and with the large one it is not needed.
    assert now(idle("small", 50), busy("big", 50, memory_bytes=3), large) == [Unload("big", Reason.ROOM)]


def test_the_place_of_a_large_one_is_kept_from_those_who_asked_later() -> None:
    leaving = replace(IN, key="a", state="leaving")
    crowd = [leaving, busy("b", 1), busy("c", 1)]
    large, small = asked("large", 2.0, memory_bytes=3), asked("small", 1.0)
    assert now(*crowd, large, small) == []  # one place is free, two will be, and the third is not to be had yet
    assert now(*crowd, large, small, budget=5) == []
    roomy = [replace(leaving, memory_bytes=3), busy("b", 1)]
    assert now(*roomy, large, small, budget=6) == [Load("small")]  # there will be room for both


def test_an_urgent_one_comes_first_and_alone() -> None:
    fresh = [replace(OUT, key=key, urgent=True) for key in ("v2", "w2")]
    assert now(*fresh, asked("x"), budget=1) == [Load("v2")]
    assert now(*fresh, asked("x"), idle("y", 50), budget=1) == [Unload("y", Reason.ROOM)]
    loading = replace(fresh[0], state="loading")
    assert now(loading, fresh[1], asked("x"), budget=2) == [Load("x")]
    assert now(loading, *fresh[1:], budget=2) == [Load("w2")]


def test_what_an_operator_wants_there_leaves_last_and_leaves_where_nobody_else_can() -> None:
    wanted = [idle("p", 50, urgent=True), idle("q", 60, urgent=True)]
    assert now(*wanted, busy("b", 9), asked("x"), budget=3) == [Unload("b", Reason.ROOM)]
    assert now(*wanted, busy("b", 1), asked("x"), budget=3) == []
    for_large = now(*wanted, busy("b", 9), asked("x", memory_bytes=2), budget=3)
    assert for_large == [Unload("b", Reason.ROOM), Unload("p", Reason.ROOM)]
    assert now(*wanted, asked("x"), asked("y"), budget=2) == [Unload("p", Reason.ROOM)]
    device = Simulated(budget=3, models={**crowd(6), "p": replace(OUT, key="p", urgent=True, since=NOW)})
    device.run(30, [f"m{index}" for index in range(6)])
    assert all(device.longest_wait(f"m{index}") < 15 for index in range(6))
    assert device.models["p"].state == "in"
    assert device.models["p"].since < NOW + 1  # it never left


def test_one_that_exceeds_the_budget_alone_comes_in_alone() -> None:
    huge = asked("huge", memory_bytes=99)
    assert now(huge) == [Load("huge")]
    assert now(huge, idle("a", 50)) == [Unload("a", Reason.ROOM)]
    assert now(replace(huge, state="in", busy=True, since=NOW), asked("x")) == []
    assert now(replace(huge, state="in", busy=True, since=NOW - 9), asked("x")) == [Unload("huge", Reason.ROOM)]


times = st.floats(0, 30)


@st.composite
def devices(draw: st.DrawFn) -> tuple[list[Candidate], int]:
    """A device with a history that could have been: what is there keeps within the budget."""
    budget = draw(st.integers(1, 12))
    candidates: list[Candidate] = []
    used = 0
    for index in range(draw(st.integers(0, 10))):
        memory = draw(st.integers(0, 14))
        state = draw(st.sampled_from(["out", "out", "in", "in", "loading", "leaving"]))
        if state != "out":
            if used + min(memory, budget) > budget:
                state = "out"
            else:
                used += min(memory, budget)
        since = draw(times)
        kept = draw(st.booleans())
        candidates.append(
            Candidate(
                key=index,
                state=state,  # type: ignore[arg-type]
                kept=kept,
                urgent=kept and draw(st.integers(0, 3)) == 0,
                barred=draw(st.integers(0, 5)) == 0,
                memory_bytes=memory,
                asked_at=draw(st.none() | times.map(ago)),
                busy=state == "in" and draw(st.booleans()),
                since=NOW - since,
                used_at=NOW - draw(st.floats(0, since)),
                load_s=draw(st.sampled_from([0.0, 0.5, 3.0])),
            )
        )
    return candidates, budget


def occupied(candidates: Iterable[Candidate], budget: int) -> int:
    return sum(min(one.memory_bytes, budget) for one in candidates if one.state != "out")


def applied(candidates: list[Candidate], decisions: list[Load | Unload]) -> list[Candidate]:
    begun = {one.key: "loading" if isinstance(one, Load) else "leaving" for one in decisions}
    return [replace(one, state=begun.get(one.key, one.state)) for one in candidates]  # type: ignore[arg-type]


@settings(max_examples=150, deadline=None)
@given(devices())
def test_every_decision_keeps_to_the_budget_and_once_is_enough(device: tuple[list[Candidate], int]) -> None:
    candidates, budget = device
    by_key = {one.key: one for one in candidates}
    decisions = decide(candidates, budget, NOW, NOW_US)
    assert len({one.key for one in decisions}) == len(decisions)
    after = applied(candidates, decisions)
    assert occupied(after, budget) <= budget
    assert decide(after, budget, NOW, NOW_US) == []
    for one in decisions:
        before = by_key[one.key]
        if isinstance(one, Load):
            assert before.state == "out"
            assert not before.barred
            assert before.kept or before.asked_at is not None
        else:
            assert before.state == "in"
        if isinstance(one, Unload) and one.reason is Reason.ROOM:
            assert not before.wanted or NOW - before.since >= before.quantum_s


@settings(max_examples=150, deadline=None)
@given(devices())
def test_whoever_is_first_in_turn_gets_all_it_needs_and_nobody_leaves_in_vain(
    device: tuple[list[Candidate], int],
) -> None:
    candidates, budget = device
    asking = [one for one in candidates if one.state == "out" and not one.barred and one.wanted]
    urgent = [one for one in asking if one.urgent]
    if urgent and not any(one.urgent and one.state == "loading" for one in candidates):
        asking = urgent
    else:
        asking = [one for one in asking if one.asked_at is not None] or asking
    if not asking:
        return
    first = min(asking, key=lambda one: one.waiting_since(NOW, NOW_US))
    need = min(first.memory_bytes, budget)
    alone = [one for one in candidates if one.state != "out" or one is first]
    decisions = decide(alone, budget, NOW, NOW_US)
    leaving = [one.key for one in decisions if isinstance(one, Unload) and one.reason is Reason.ROOM]
    stay = [one for one in applied(alone, decisions) if one.state in ("in", "loading") and one.key != first.key]
    if leaving:
        assert occupied(stay, budget) + need <= budget
        for key in leaving:
            assert occupied([*stay, *(one for one in alone if one.key == key)], budget) + need > budget

    # Whatever the others want does not change that.
    everybody = decide(candidates, budget, NOW, NOW_US)
    assert {one.key for one in decisions} <= {one.key for one in everybody}
    if occupied(stay, budget) + need <= budget:
        after = [one for one in applied(candidates, everybody) if one.state in ("in", "loading")]
        assert occupied([one for one in after if one.key != first.key], budget) + need <= budget


@dataclass
class Simulated:
    """Models with work on one device, tick by tick; loading and leaving take their time."""

    budget: int
    models: dict[Hashable, Candidate]
    load_s: float = 0.6
    leave_s: float = 0.1
    clock: float = NOW
    loads: int = 0
    seconds_in: float = 0.0
    served: dict[Hashable, list[float]] = field(default_factory=lambda: defaultdict(list))

    def run(self, seconds: float, working: Iterable[Hashable], tick: float = 0.1) -> None:
        until = self.clock + seconds
        working = set(working)
        while self.clock < until:
            self.clock += tick
            for key, one in self.models.items():
                self.models[key] = self._moved(one, key in working)
            now_us = NOW_US + int((self.clock - NOW) * 1e6)
            for decision in decide(list(self.models.values()), self.budget, self.clock, now_us):
                one = self.models[decision.key]
                if isinstance(decision, Load):
                    self.loads += 1
                self.models[decision.key] = replace(
                    one, state="loading" if isinstance(decision, Load) else "leaving", since=self.clock, busy=False
                )
            assert occupied(self.models.values(), self.budget) <= self.budget
            self.seconds_in += tick * sum(one.memory_bytes for one in self.models.values() if one.state == "in")

    def _moved(self, one: Candidate, working: bool) -> Candidate:
        one = replace(one, asked_at=NOW_US if working else None)  # from the first day on
        spent = self.clock - one.since
        if one.state == "loading" and spent >= self.load_s:
            one = replace(one, state="in", since=self.clock, used_at=self.clock, load_s=self.load_s)
        elif one.state == "leaving" and spent >= self.leave_s:
            one = replace(one, state="out", since=self.clock, used_at=self.clock)
        if one.state == "in" and working:
            self.served[one.key].append(self.clock)
            return replace(one, busy=True, used_at=self.clock)
        return replace(one, busy=False)

    def longest_wait(self, key: Hashable) -> float:
        times = [NOW, *self.served[key], self.clock]
        return max(later - earlier for earlier, later in itertools.pairwise(times))


def crowd(count: int, **sizes: int) -> dict[Hashable, Candidate]:
    names = [f"m{index}" for index in range(count)]
    return {name: replace(OUT, key=name, memory_bytes=sizes.get(name, 1), since=NOW) for name in names}


def test_twelve_with_endless_work_where_four_fit_all_have_their_turns_and_the_device_is_not_always_loading() -> None:
    device = Simulated(budget=4, models=crowd(12))
    device.run(60, device.models)
    turn = 4 * device.load_s + device.load_s + device.leave_s
    for key in device.models:
        assert device.longest_wait(key) <= 3 * turn
    counts = [len(times) for times in device.served.values()]
    assert max(counts) <= 1.3 * min(counts)
    assert device.seconds_in >= 0.7 * 4 * 60
    assert device.loads <= 4 * 60 / turn + 12


def test_a_large_one_among_small_ones_is_not_starved_nor_starves_them() -> None:
    device = Simulated(budget=4, models=crowd(9, m0=3))
    device.run(60, device.models)
    turn = 4 * device.load_s + device.load_s + device.leave_s
    for key in device.models:
        assert device.longest_wait(key) <= 6 * turn


def test_without_work_nothing_moves_and_the_evicted_stay_out() -> None:
    device = Simulated(budget=4, models=crowd(12))
    device.run(10, [])
    assert device.loads == 4
    assert [key for key, one in device.models.items() if one.state == "in"] == ["m0", "m1", "m2", "m3"]
    device.run(2, ["m0"])
    device.run(2, ["m9"])  # instead of m1: never used, like m2 and m3, and first among them
    device.run(60, [])
    assert [key for key, one in device.models.items() if one.state == "in"] == ["m0", "m2", "m3", "m9"]
    assert device.loads == 5
