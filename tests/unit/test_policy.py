"""The batching decision: what holds for every history of arrivals, and the cases that name it."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batching import cost
from batching.lane import Lane
from batching.policy import Pace, Reason, Rules, Take, Waiting, WaitUntil, board, decide

RULES = Rules(max_batch_size=4, max_wait_s=0.005)


def waiting(
    name: str, *, arrived: float = 0.0, priority: int = 5, size: int = 1, shape: str | None = None, position: int = 0
) -> Waiting:
    return Waiting(id=name, priority=priority, position=position, size=size, shape=shape, arrived=arrived)


def names(decision: object) -> list[str]:
    assert isinstance(decision, Take)
    return [item.id for item in decision.items]


def test_an_idle_device_takes_a_lone_prediction_at_once() -> None:
    decision = decide([waiting("a")], 0.0, free_at=0.0, coming=0, rules=RULES)
    assert decision == Take([waiting("a")], Reason.IDLE)


def test_it_waits_for_mates_known_to_be_coming_but_not_past_max_wait() -> None:
    early = decide([waiting("a")], 0.001, free_at=0.0, coming=3, rules=RULES)
    late = decide([waiting("a")], 0.005, free_at=0.0, coming=3, rules=RULES)
    assert early == WaitUntil(0.005)
    assert late == Take([waiting("a")], Reason.OVERDUE)


def test_a_busy_device_lets_the_batch_grow_until_it_will_be_free() -> None:
    assert decide([waiting("a")], 1.0, free_at=2.0, coming=0, rules=RULES) == WaitUntil(2.0)


def test_a_full_batch_departs_even_while_the_device_is_busy() -> None:
    full = [waiting(name) for name in "abcd"]
    assert names(decide(full, 0.0, free_at=math.inf, coming=0, rules=RULES)) == ["a", "b", "c", "d"]


def test_priority_zero_boards_first_and_the_rest_by_age() -> None:
    crowd = [waiting(f"old{i}", position=i) for i in range(4)] + [waiting("urgent", priority=0, position=9)]
    assert names(decide(crowd, 0.0, free_at=0.0, coming=0, rules=RULES)) == ["urgent", "old0", "old1", "old2"]


def bulk(count: int, *, arrived: float = 0.0) -> list[Waiting]:
    return [waiting(f"bulk{n}", priority=15, arrived=arrived, position=n) for n in range(count)]


def test_items_of_batches_take_the_places_that_others_leave() -> None:
    crowd = [*bulk(8), waiting("late", arrived=1.0, position=99)]
    assert names(decide(crowd, 1.0, free_at=0.0, coming=0, rules=RULES)) == ["late", "bulk0", "bulk1", "bulk2"]


def test_items_of_batches_do_not_stand_before_a_busy_device_however_many_they_are() -> None:
    assert decide(bulk(8), 1.0, free_at=2.0, coming=0, rules=RULES) == WaitUntil(2.0)
    assert names(decide(bulk(8), 2.0, free_at=2.0, coming=0, rules=RULES)) == ["bulk0", "bulk1", "bulk2", "bulk3"]


def test_items_of_batches_keep_to_their_pace_while_others_are_in_a_hurry() -> None:
    pace = Pace(at=5.0, at_most=2)
    assert decide(bulk(8), 1.0, free_at=0.0, coming=0, rules=RULES, pace=pace) == WaitUntil(5.0)
    assert names(decide(bulk(8), 5.0, free_at=0.0, coming=0, rules=RULES, pace=pace)) == ["bulk0", "bulk1"]
    crowd = [*bulk(8), waiting("a")]
    assert names(decide(crowd, 1.0, free_at=0.0, coming=0, rules=RULES, pace=pace)) == ["a", "bulk0", "bulk1"]


def test_items_of_batches_are_not_passed_over_for_ever() -> None:
    fresh = [waiting(f"fresh{n}", priority=0, arrived=20.0, position=100 + n) for n in range(8)]
    assert "bulk0" not in names(decide([*bulk(1), *fresh], 14.0, free_at=0.0, coming=0, rules=RULES))
    assert "bulk0" in names(decide([*bulk(1), *fresh], 20.0, free_at=0.0, coming=0, rules=RULES))


def test_items_of_batches_keep_nobody_out_of_the_window() -> None:
    lane = Lane(RULES, limit=8)
    lane.offer(bulk(8))
    assert lane.full(bulk=True)
    assert not lane.full(bulk=False)
    lane.offer([waiting(f"w{n}") for n in range(8)])
    assert lane.full(bulk=False)
    assert isinstance(lane.decide(1.0, 0.0, 4), Take)
    assert not lane.full(bulk=False)
    assert lane.full(bulk=True)
    assert len(lane.drain()) == 12
    assert not lane.full(bulk=True)


def test_a_full_window_takes_in_no_more_items_of_batches_until_half_of_it_has_left() -> None:
    lane = Lane(RULES, limit=8)
    lane.offer(bulk(8))
    for left in (6, 4):
        assert lane.full(bulk=True)
        assert not lane.full(bulk=False)
        assert isinstance(lane.decide(1.0, 0.0, 2), Take)
        assert len(lane) == left
    assert not lane.full(bulk=True)
    lane.offer([waiting("one more")])
    assert not lane.full(bulk=True)


def test_waiting_turns_a_low_priority_into_a_high_one() -> None:
    patient = waiting("patient", priority=9, arrived=0.0, position=1)
    fresh = [waiting(f"fresh{i}", priority=0, arrived=9.0, position=2 + i) for i in range(8)]
    assert "patient" not in names(decide([patient, *fresh], 8.0, free_at=0.0, coming=0, rules=RULES))
    assert "patient" in names(decide([patient, *fresh], 9.0, free_at=0.0, coming=0, rules=RULES))


def of_class(tenant_class: int, count: int, *, arrived: float, position: int, priority: int = 5) -> list[Waiting]:
    return [
        Waiting(f"{tenant_class}-{position + n}", priority, position + n, 1, None, arrived, tenant_class)
        for n in range(count)
    ]


def test_a_tenants_first_boards_before_anothers_second_however_old() -> None:
    crowd = of_class(0, 16, arrived=0.0, position=0) + of_class(1, 2, arrived=0.1, position=1000)
    crew = board(crowd, 0.2, Rules(max_batch_size=4, max_wait_s=0.005))
    assert [item.id for item in crew] == ["1-1000", "0-0", "1-1001", "0-1"]


def test_tenants_trade_places_of_one_priority_however_long_one_has_waited() -> None:
    crowd = of_class(0, 16, arrived=0.0, position=0) + of_class(1, 1, arrived=8.0, position=1000)
    crew = board(crowd, 8.1, Rules(max_batch_size=4, max_wait_s=0.005))
    assert [item.id for item in crew] == ["1-1000", "0-0", "0-1", "0-2"]


def test_between_tenants_urgency_still_comes_first() -> None:
    crowd = of_class(0, 8, arrived=0.0, position=0, priority=4) + of_class(1, 1, arrived=0.0, position=0)
    crew = board(crowd, 0.2, Rules(max_batch_size=8, max_wait_s=0.005))
    assert {item.tenant_class for item in crew} == {0}


def test_who_has_the_fewest_here_leads_whatever_their_sizes() -> None:
    crowd = [
        *(Waiting(f"many{n}", 5, n, 10, None, 0.0, 0) for n in range(8)),
        *(Waiting(f"few{n}", 5, 1000 + n, 500, None, 0.1, 1) for n in range(2)),
    ]
    crew = board(crowd, 0.2, Rules(max_batch_size=2, max_wait_s=0.005))
    assert [item.id for item in crew] == ["few0", "few1"]


def test_who_has_waited_for_its_urgency_boards_before_older_ones_who_come_only_now() -> None:
    patient = waiting("patient", priority=9, arrived=0.0, position=1000)
    line = [waiting(f"old{n}", priority=0, arrived=9.5, position=n) for n in range(8)]
    assert board([*line, patient], 9.6, RULES)[0] is patient


def test_of_those_whom_waiting_has_not_made_more_urgent_the_first_in_the_line_board() -> None:
    lane = Lane(Rules(max_batch_size=2, max_wait_s=0.005), limit=8)
    for name, arrived, position in (("patient", 0.0, 5), ("behind", 0.7, 9), ("before", 0.8, 1)):
        lane.offer([waiting(name, arrived=arrived, position=position)])
    assert names(lane.decide(1.1, 0.0, 2)) == ["patient", "before"]


def test_shapes_never_share_a_batch() -> None:
    mixed = [
        waiting("a", shape="8", position=1),
        waiting("b", shape="9", position=2),
        waiting("c", shape="8", position=3),
    ]
    assert names(decide(mixed, 0.0, free_at=0.0, coming=0, rules=RULES)) == ["a", "c"]


def test_like_sizes_travel_together_and_the_oldest_always_travels() -> None:
    sizes = [100, 3, 98, 2, 101, 4, 99, 1]
    crowd = [waiting(str(size), size=size, position=index) for index, size in enumerate(sizes)]
    assert sorted(names(decide(crowd, 0.0, free_at=0.0, coming=0, rules=RULES)), key=int) == ["98", "99", "100", "101"]


def test_a_batch_is_cut_by_its_padded_cost() -> None:
    rules = Rules(max_batch_size=32, max_wait_s=0.005, max_batch_cost=100)
    crowd = [waiting(str(index), size=30, position=index) for index in range(10)]
    assert names(decide(crowd, 0.0, free_at=math.inf, coming=0, rules=rules)) == ["0", "1", "2"]


def test_one_item_over_the_budget_travels_alone() -> None:
    rules = Rules(max_batch_size=32, max_wait_s=0.005, max_batch_cost=100)
    crowd = [waiting("huge", size=500, position=0), waiting("small", size=1, position=1)]
    assert names(decide(crowd, 0.0, free_at=0.0, coming=0, rules=rules)) == ["huge"]


def test_an_id_that_is_held_is_not_taken_in_twice() -> None:
    lane = Lane(RULES, limit=8)
    assert lane.offer([waiting("a"), waiting("a")]) == ["a"]
    assert names(lane.decide(0.0, 0.0, 32)) == ["a"]
    assert lane.offer([waiting("a")]) == []
    lane.forget(["a"])
    assert lane.offer([waiting("a")]) == ["a"]


arrivals = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.0, 0.0005, 0.003, 0.02, 1.5]),
        st.integers(0, 9),
        st.integers(0, 60),
        st.sampled_from([None, "2", "3"]),
        st.sampled_from([0, 0, 1, 2]),
    ),
    max_size=80,
)


@settings(max_examples=300, deadline=None)
@given(
    arrivals=arrivals,
    max_batch_size=st.integers(1, 9),
    max_batch_cost=st.none() | st.integers(1, 200),
    at_most=st.integers(1, 12),
    device_s=st.sampled_from([0.0, 0.001, 0.01]),
    coming=st.integers(0, 2),
)
def test_nobody_is_lost_doubled_over_budget_mixed_or_kept_past_its_turn(
    arrivals: list[tuple[float, int, int, str | None, int]],
    max_batch_size: int,
    max_batch_cost: int | None,
    at_most: int,
    device_s: float,
    coming: int,
) -> None:
    rules = Rules(max_batch_size=max_batch_size, max_wait_s=0.005, max_batch_cost=max_batch_cost)
    lane = Lane(rules, limit=10_000)
    clock = 0.0
    pending = []
    for index, (gap, priority, size, shape, tenant_class) in enumerate(arrivals):
        clock += gap
        pending.append(Waiting(str(index), priority, index, size, shape, clock, tenant_class))
    seen: list[str] = []
    now, free_at = 0.0, 0.0
    while pending or len(lane):
        while pending and pending[0].arrived <= now:
            lane.offer([pending.pop(0)], coming=coming)
        before = lane_items(lane)
        decision = lane.decide(now, free_at, at_most)
        if isinstance(decision, WaitUntil):
            # No decision waits for anything but an arrival, the device, or its own deadline.
            wake = min([decision.at, *(item.arrived for item in pending[:1])])
            assert wake > now
            if before and now >= free_at:
                assert coming > 0
                assert now < min(item.arrived for item in before) + rules.max_wait_s
            now = wake
            continue
        ids = [item.id for item in decision.items]
        sizes = [item.size for item in decision.items]
        assert 1 <= len(ids) <= min(max_batch_size, at_most)
        assert len({item.shape for item in decision.items}) == 1
        if max_batch_cost is not None and len(ids) > 1:
            assert cost.padded(sizes) <= max_batch_cost
        leader = min(before, key=lambda item: (urgency(item, now), item.position))
        # Its place may be another tenant's, whose first of this priority it then is.
        firsts = {item.tenant_class: item.id for item in reversed(before) if item.priority == leader.priority}
        assert firsts[leader.tenant_class] == leader.id
        assert set(ids) & set(firsts.values())
        assert len({item.tenant_class for item in before}) > 1 or leader.id in ids
        seen += ids
        free_at = max(now, free_at) + device_s
    assert sorted(seen, key=int) == [str(index) for index in range(len(arrivals))]


@settings(max_examples=100, deadline=None)
@given(
    offers=st.lists(
        st.tuples(st.sampled_from([0.0, 0.001, 0.7]), st.integers(0, 30), st.integers(1, 12), st.integers(0, 19)),
        min_size=1,
        max_size=6,
    ),
    kind=st.tuples(st.sampled_from([0, 0, 1, 5, 15]), st.integers(0, 3), st.sampled_from([None, "2"])),
    max_batch_size=st.integers(1, 9),
    max_batch_cost=st.none() | st.integers(1, 30),
    busy_s=st.sampled_from([0.0, 0.002]),
    coming=st.integers(0, 1),
    pace=st.sampled_from([Pace(-math.inf, 1 << 30), Pace(1.0, 2)]),
)
def test_a_window_of_one_kind_is_decided_upon_as_if_all_of_it_were_looked_at(
    offers: list[tuple[float, int, int, int]],
    kind: tuple[int, int, str | None],
    max_batch_size: int,
    max_batch_cost: int | None,
    busy_s: float,
    coming: int,
    pace: Pace,
) -> None:
    """One offer in twenty holds one of another kind, and some come out of order."""
    rules = Rules(max_batch_size=max_batch_size, max_wait_s=0.005, max_batch_cost=max_batch_cost)
    lane = Lane(rules, limit=10_000)
    clock = 0.0
    priority, size, shape = kind
    for count, (gap, position, items, odd) in enumerate(offers):
        clock += gap
        lane.offer(
            [
                Waiting(
                    f"{(n * 7) % 12}-{count}", priority + (odd == n == 0), position, size, shape, clock - (odd == 1)
                )
                for n in range(items)
            ],
            coming=coming,
        )
        now = clock + 0.001
        while isinstance(
            decision := decide(lane_items(lane), now, free_at=now + busy_s, coming=lane.coming, rules=rules, pace=pace),
            Take,
        ):
            assert lane.decide(now, now + busy_s, max_batch_size, pace) == decision
        assert lane.decide(now, now + busy_s, max_batch_size, pace) == decision


@settings(max_examples=100, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 12), min_size=1, max_size=40),
    max_batch_size=st.integers(1, 6),
    max_batch_cost=st.none() | st.integers(1, 60),
)
def test_who_is_not_next_to_the_leader_need_not_be_looked_at(
    sizes: list[int], max_batch_size: int, max_batch_cost: int | None
) -> None:
    rules = Rules(max_batch_size=max_batch_size, max_wait_s=0.005, max_batch_cost=max_batch_cost)
    crowd = [waiting(f"{n:02}", size=size, position=n, priority=0) for n, size in enumerate(sizes)]
    by_size = sorted(crowd, key=lambda item: (item.size, item.position))
    at = by_size.index(crowd[0])
    run = cost.alike([item.size for item in by_size], at, at_most=max_batch_size, budget=max_batch_cost)
    expected = crowd if len(crowd) <= max_batch_size and max_batch_cost is None else [by_size[n] for n in run]
    expected = expected if len(set(sizes)) > 1 else crowd[: len(expected)]
    assert board(crowd, 0.0, rules) == expected


def lane_items(lane: Lane) -> list[Waiting]:
    return list(lane._waiting.values())


def urgency(item: Waiting, now: float) -> int:
    return max(0, item.priority - int(now - item.arrived))


@pytest.mark.parametrize(
    ("sizes", "leader", "at_most", "budget", "expected"),
    [
        pytest.param([5], 0, 8, None, range(1), id="alone"),
        pytest.param([1, 1, 9, 9], 0, 2, None, range(2), id="the like side wins"),
        pytest.param([1, 5, 6, 7], 1, 3, None, range(1, 4), id="less padding wins"),
        pytest.param([4, 4, 4, 4], 3, 8, 8, range(2, 4), id="the budget cuts"),
        pytest.param([1, 50], 0, 8, 10, range(1), id="a mate too large stays"),
        pytest.param([50], 0, 8, 10, range(1), id="over the budget alone"),
        pytest.param([0, 0, 0], 1, 2, 1, range(2), id="nothing costs nothing"),
    ],
)
def test_the_best_run_of_like_sizes(
    sizes: list[int], leader: int, at_most: int, budget: int | None, expected: range
) -> None:
    assert cost.alike(sizes, leader, at_most=at_most, budget=budget) == expected
