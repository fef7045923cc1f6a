"""How many webhooks may be under way to whom: whoever is slow or dead waits for himself alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.receivers import MOST, SLOW_S, Receivers, Sort


def begin(receivers: Receivers, waiting: list[str], now: float) -> dict[str, int]:
    """All that may be begun is begun."""
    rooms = dict(receivers.rooms(waiting, now))
    for receiver, room in rooms.items():
        receivers.begin(receiver, room, now)
    return rooms


def earn(receivers: Receivers, receiver: str, answers: int) -> None:
    for _ in range(answers):
        receivers.begin(receiver, 1, 0.0)
        receivers.end(receiver, 0.0, good=True)


def test_a_receiver_earns_by_good_answers_and_loses_half_by_a_bad_one() -> None:
    receivers = Receivers()
    assert begin(receivers, ["a"], 0.0) == {"a": 4}
    for _ in range(4):
        receivers.end("a", 0.0, good=True)
    assert receivers.rooms(["a"], 0.0) == {"a": 8}
    earn(receivers, "a", 100)
    assert receivers.rooms(["a"], 0.0) == {"a": 64}
    receivers.begin("a", 1, 0.0)
    receivers.end("a", 0.0, good=False)
    assert receivers.rooms(["a"], 0.0) == {"a": 32}


def test_a_busy_receiver_is_served_again_when_a_quarter_of_its_room_is_free() -> None:
    receivers = Receivers()
    earn(receivers, "a", 100)
    begin(receivers, ["a"], 0.0)
    for _ in range(15):
        receivers.end("a", 0.0, good=True)
    assert receivers.rooms(["a"], 0.0) == {}
    receivers.end("a", 0.0, good=True)
    assert receivers.rooms(["a"], 0.0) == {"a": 16}


def test_a_thousand_that_hang_leave_room_for_good_ones_at_once_and_for_fresh_ones_soon() -> None:
    receivers = Receivers()
    earn(receivers, "good", 100)
    hanging = begin(receivers, [f"h{n}" for n in range(1000)], 0.0)
    assert sum(hanging.values()) == MOST // 2
    assert receivers.rooms(["good"], 0.0) == {"good": 64}
    assert receivers.rooms(["fresh"], 0.0) == {}

    late = SLOW_S + 0.1
    assert {receivers.sort(receiver, late) for receiver in hanging} == {Sort.BAD}
    for receiver, count in hanging.items():
        for _ in range(count):
            receivers.end(receiver, late, good=False)
    again = receivers.rooms([*hanging, "fresh"], late)
    assert again["fresh"] == 4
    assert sum(again.values()) == 4 + MOST // 8


def test_busy_good_receivers_leave_room_for_a_fresh_one() -> None:
    receivers = Receivers()
    good = [f"g{n}" for n in range(50)]
    for receiver in good:
        earn(receivers, receiver, 100)
    assert sum(begin(receivers, good, 0.0).values()) < MOST
    assert receivers.rooms([*good, "fresh"], 0.0) == {"fresh": 4}


def test_what_is_free_is_dealt_out_evenly_to_who_was_served_longest_ago() -> None:
    receivers = Receivers()
    good = [f"g{n}" for n in range(8)]
    for receiver in good:
        earn(receivers, receiver, 100)
    assert set(begin(receivers, good, 0.0).values()) == {48}
    many = [f"f{n}" for n in range(300)]
    assert list(receivers.rooms(many, 0.0)) == many[: MOST - 8 * 48]


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abcdefgh"),
            st.booleans(),
            st.floats(0, 3),
        ),
        max_size=300,
    )
)
def test_never_more_than_earned_nor_than_the_most(steps: list[tuple[str, bool, float]]) -> None:
    receivers, now = Receivers(), 0.0
    under_way = dict.fromkeys("abcdefgh", 0)
    for receiver, good, pause in steps:
        now += pause
        for one, room in begin(receivers, list(under_way), now).items():
            assert room >= 1
            under_way[one] += room
        assert all(count <= 64 for count in under_way.values())
        assert sum(under_way.values()) <= MOST
        if under_way[receiver]:
            under_way[receiver] -= 1
            receivers.end(receiver, now, good=good)


@pytest.mark.parametrize("good", [True, False])
def test_who_has_never_answered_is_fresh_and_then_what_he_showed(good: bool) -> None:
    receivers = Receivers()
    assert receivers.sort("a", 0.0) is Sort.FRESH
    receivers.begin("a", 1, 0.0)
    receivers.end("a", 0.0, good=good)
    assert receivers.sort("a", 0.0) is (Sort.GOOD if good else Sort.BAD)
