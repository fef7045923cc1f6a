"""How a batch's micro-batches make way for predictions that somebody waits for."""

import math

import pytest

from batching.policy import UNHURRIED
from workers.yielding import Hurry, Yielding


@pytest.fixture
def clock() -> list[float]:
    return [100.0]


def hurrying(clock: list[float]) -> Hurry:
    return Hurry(lambda: clock[0])


def test_nothing_holds_a_batch_back_while_nobody_else_asks(clock: list[float]) -> None:
    hurry = hurrying(clock)
    pace = Yielding(hurry)
    assert pace.pace(busy=True) == UNHURRIED
    hurry.note()
    assert pace.pace(busy=True) != UNHURRIED
    clock[0] += 1
    assert pace.pace(busy=True) == UNHURRIED


def test_one_at_a_time_and_a_pause_as_long_as_the_work_around_the_device(clock: list[float]) -> None:
    hurry = hurrying(clock)
    pace = Yielding(hurry)
    hurry.note()
    assert pace.pace(busy=True).at == math.inf
    began = clock[0]
    clock[0] += 0.030
    pace.ended(began, device_s=0.020)
    hurry.note()
    assert pace.pace(busy=False).at == pytest.approx(clock[0] + 0.010)


def test_a_slow_device_is_given_as_much_as_it_takes_and_a_fast_one_few(clock: list[float]) -> None:
    hurry = hurrying(clock)
    slow, fast = Yielding(hurry), Yielding(hurry)
    for _ in range(50):
        slow.ended(clock[0], device_s=0.2)
        fast.ended(clock[0], device_s=0.0001)
    hurry.note()
    assert slow.pace(busy=False).at_most > 1_000
    assert fast.pace(busy=False).at_most == 16
