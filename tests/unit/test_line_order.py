"""Which lines a worker fetches from next."""

from collections import Counter

import pytest

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


@pytest.mark.parametrize("bells", [1, 4, 9])
def test_nor_does_it_where_windows_are_full_between_fetches(bells: int) -> None:
    full = False
    order = LineOrder(lambda line: not full or line == "headway.bell.x")
    order.update([URGENT, BULK, "headway.bell.x"])
    served = []
    for _ in range(40):
        full = True
        for _ in range(bells):
            order.rotate(order.consume(3)[0])
        full = False
        served.append(order.rotate(order.consume(3)[1]))
    assert 3 <= served.count(BULK) <= 5


def served(order: LineOrder, lines: list[str], count: int, *, ids: int = 32) -> Counter[str]:
    """Envelopes fetched from lines that never run empty."""
    fetched: Counter[str] = Counter()
    for _ in range(count):
        name = next(name for name in order.consume(len(lines)) if name in lines)
        order.rotate(name)
        order.served(name, ids)
        fetched[name] += 1
    return fetched


def classes(count: int, step: int = 5) -> list[str]:
    return [broker.line("m", "1", step, tenant_class) for tenant_class in range(count)]


def test_classes_of_tenants_are_served_by_their_weights() -> None:
    order, lines = LineOrder(lambda line: True), classes(3)
    order.update(lines)
    order.weights = {0: 1, 1: 3, 2: 0.5}
    assert served(order, lines, 450) == {
        lines[0]: pytest.approx(100, abs=2),
        lines[1]: pytest.approx(300, abs=2),
        lines[2]: pytest.approx(50, abs=2),
    }


def test_what_counts_is_ids_and_not_envelopes() -> None:
    order, lines = LineOrder(lambda line: True), classes(2)
    order.update(lines)
    ids: Counter[str] = Counter()
    for _ in range(330):
        name = order.rotate(order.consume(2)[0])
        count = 32 if name == lines[0] else 1
        order.served(name, count)
        ids[name] += count
    assert ids[lines[0]] == pytest.approx(ids[lines[1]], abs=32)


def test_a_class_that_was_idle_is_next_and_has_saved_nothing_up() -> None:
    order, lines = LineOrder(lambda line: True), classes(2)
    order.update(lines)
    served(order, lines[:1], 1000)
    assert order.consume(2)[0] == lines[1]
    assert served(order, lines, 100)[lines[1]] == pytest.approx(50, abs=2)


def test_a_class_with_more_weight_does_not_starve_another_models_or_steps() -> None:
    order, lines = LineOrder(lambda line: True), [*classes(2), OTHER, BULK]
    order.update(lines)
    order.weights = {0: 1, 1: 100}
    fetched = served(order, lines, 1000)
    assert fetched[OTHER] == pytest.approx(450, abs=10)
    assert fetched[BULK] >= 90
    assert fetched[lines[0]] >= 4


def test_a_new_channel_of_kombus_finds_everybodys_account_as_it_was() -> None:
    order, lines = LineOrder(lambda line: True), classes(2)
    order.update(lines)
    served(order, lines, 3)
    order.served(order.rotate(lines[0]), 1000)
    order.update([])
    order.update(lines)
    assert served(order, lines, 20) == {lines[1]: 20}


def test_the_doorbell_is_always_heard_first() -> None:
    order = LineOrder(lambda line: line == "headway.bell.x")
    order.update([URGENT, "headway.bell.x"])
    assert order.consume(2) == ["headway.bell.x"]


def asked(order: LineOrder, *empty: str) -> tuple[str, int]:
    """The line that answers, and how many envelopes it may bring; it brings them, of 32 ids each."""
    line = next(line for line in order.consume(9) if line not in empty)
    most = order.most
    for _ in range(most):
        order.rotate(line)
        order.served(line, 32)
    return line, most


def test_a_long_line_that_was_left_for_a_full_window_brings_as_many_envelopes_as_fit() -> None:
    room = 128
    order = LineOrder(lambda line: room > 0, lambda line: room)
    order.update([URGENT, NORMAL])
    assert asked(order, URGENT) == (NORMAL, 1)
    assert asked(order, URGENT) == (NORMAL, 1)  # others may be idle, whom the next would serve better
    room = 0
    order.consume(2)
    room = 100
    assert asked(order, URGENT) == (NORMAL, 4)
    assert asked(order, URGENT) == (NORMAL, 3)  # and then it is the turn of who waited longest
    assert asked(order, URGENT) == (NORMAL, 1)
    assert asked(order, URGENT) == (NORMAL, 4)


def test_one_that_was_found_empty_since_is_long_no_more() -> None:
    room = 128
    order = LineOrder(lambda line: room > 0, lambda line: room)
    order.update([URGENT, NORMAL])
    assert asked(order) == (URGENT, 1)
    assert asked(order, URGENT) == (NORMAL, 1)
    room = 0
    order.consume(2)
    room = 64
    assert asked(order, NORMAL) == (URGENT, 2)
    room = 0
    order.consume(2)
    room = 64
    assert asked(order, URGENT) == (NORMAL, 2)
    order.weights = {0: 1, 1: 1}
    assert asked(order) == (URGENT, 1)


def test_classes_of_tenants_share_the_room() -> None:
    full, (one, other) = True, classes(2)
    order = LineOrder(lambda line: not full, lambda line: 256)
    order.weights = {0: 1, 1: 1}
    order.update([one, other])
    full = False
    assert [asked(order), asked(order)] == [(one, 1), (other, 1)]
    full = True
    order.consume(2)
    full = False
    assert [asked(order), asked(order)] == [(one, 4), (other, 3)]  # three, and it is the turn of who waited longest
