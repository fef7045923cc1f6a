"""How rows that were claimed together part into calls, and how many calls may be in flight."""

import math
from typing import cast

from headway.types import Claimed
from workers.call import Call
from workers.claims import Claims
from workers.executor import Executor
from workers.feed import company
from workers.slots import Slots
from workers.window import Window


def row(name: str, *, size: int = 1, losses: int = 0) -> Claimed:
    return Claimed(name, "line", size, None, 0, 0, 0, 1, 1, 0, losses, 3, None, b"1")


def test_rows_claimed_for_several_calls_part_into_calls_of_alike_ones() -> None:
    rows = [row(f"{number}", size=number % 2) for number in range(8)]
    calls = company(rows, 4, at_most=4)
    assert [[one.size for one in call] for call in calls] == [[0] * 4, [1] * 4]
    assert sorted(one.id for call in calls for one in call) == [one.id for one in rows]


def test_a_device_that_bears_fewer_is_sent_fewer() -> None:
    assert [len(call) for call in company([row(f"{number}") for number in range(5)], 4, at_most=2)] == [2, 2, 1]


def test_who_has_lost_twice_stays_alone_whoever_was_claimed_with_it() -> None:
    rows = [row("a"), row("b", losses=2), row("c", losses=2), row("d")]
    assert [[one.id for one in call] for call in company(rows, 4, at_most=4)] == [["a", "d"], ["b"], ["c"]]


def slots(*, pace: float, bulk: bool, in_flight: int) -> Slots:
    made = Slots(cast(Window, None), Claims())
    made.executor = cast(Executor, object())
    made.pace = pace
    made.in_flight.extend(Call(number, [], {}, bulk) for number in range(in_flight))
    return made


def test_short_calls_of_a_files_items_may_be_more_than_two_in_flight_and_no_others() -> None:
    assert slots(pace=0.002, bulk=True, in_flight=3).has_room()
    assert not slots(pace=0.002, bulk=True, in_flight=4).has_room()
    assert not slots(pace=0.050, bulk=True, in_flight=2).has_room()
    assert not slots(pace=math.nan, bulk=True, in_flight=2).has_room()
    assert not slots(pace=0.002, bulk=False, in_flight=2).has_room()
