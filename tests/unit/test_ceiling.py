"""What a device bears is learned from what it did not, and forgotten slowly."""

from batching.ceiling import CLEAN_CALLS, Ceiling


def test_what_did_not_fit_is_halved_and_remembered() -> None:
    ceiling = Ceiling(32)
    ceiling.too_many(32)
    assert ceiling.at_most == 16
    ceiling.too_many(9)
    assert ceiling.at_most == 4
    ceiling.too_many(32)  # a call that left before: nothing new
    assert ceiling.at_most == 4


def test_a_crash_halves_it_down_to_one() -> None:
    ceiling = Ceiling(6)
    learned = []
    for _ in range(4):
        ceiling.crashed()
        learned.append(ceiling.at_most)
    assert learned == [3, 1, 1, 1]


def test_a_hundred_clean_calls_double_it_up_to_what_the_manifest_allows() -> None:
    ceiling = Ceiling(10)
    ceiling.too_many(8)
    for _ in range(CLEAN_CALLS - 1):
        ceiling.clean()
    assert ceiling.at_most == 4
    ceiling.clean()
    assert ceiling.at_most == 8
    for _ in range(CLEAN_CALLS):
        ceiling.clean()
    assert ceiling.at_most == 10


def test_trouble_starts_the_count_again() -> None:
    ceiling = Ceiling(8)
    ceiling.crashed()
    for _ in range(CLEAN_CALLS - 1):
        ceiling.clean()
    ceiling.too_many(5)
    for _ in range(CLEAN_CALLS - 1):
        ceiling.clean()
    assert ceiling.at_most == 2
