"""Which lines a worker fetches from next."""

from headway import broker
from workers.intake import LineOrder

URGENT, NORMAL, BULK = broker.lines("m", "1")
OTHER = broker.line("other", "1", 5)


def test_urgent_lines_are_asked_first_and_full_ones_not_at_all() -> None:
    full = {NORMAL}
    order = LineOrder(lambda line: line not in full)
    order.update([BULK, NORMAL, OTHER, URGENT])
    assert order.consume(4) == [URGENT, OTHER, BULK]
    assert order.left_out
    full.clear()
    assert order.consume(4) == [URGENT, NORMAL, OTHER, BULK]
    assert not order.left_out


def test_models_of_one_step_take_turns() -> None:
    order = LineOrder(lambda line: True)
    order.update([NORMAL, OTHER])
    served = [order.rotate(order.consume(2)[0]) for _ in range(6)]
    assert served.count(NORMAL) == served.count(OTHER) == 3


def test_a_busy_urgent_line_does_not_starve_the_bulk() -> None:
    order = LineOrder(lambda line: True)
    order.update([URGENT, BULK])
    served = [order.rotate(order.consume(2)[0]) for _ in range(40)]
    assert 3 <= served.count(BULK) <= 5


def test_the_doorbell_is_always_heard_first() -> None:
    order = LineOrder(lambda line: line == "headway.bell.x")
    order.update([URGENT, "headway.bell.x"])
    assert order.consume(2) == ["headway.bell.x"]
