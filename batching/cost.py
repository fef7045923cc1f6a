"""What a micro-batch costs, and which mates make it cheap.

A batch is padded to its largest member, so its cost is (number of items) × (largest size). Sizes that differ little
or not at all make every choice the same, and then the order of arrival decides.
"""

import itertools
from collections.abc import Sequence


def padded(sizes: Sequence[int]) -> int:
    """Number of items × the largest size; 0 for none."""
    return len(sizes) * max(sizes, default=0)


def alike(sizes: Sequence[int], leader: int, *, at_most: int, budget: int | None) -> range:
    """The indices, in `sizes` sorted ascending, of the best run that contains index `leader`.

    The longest run of at most `at_most` items whose padded cost stays within `budget`; among equally long ones the
    one with the least padding. The leader boards even where it alone is over the budget.
    """
    best = range(leader, leader + 1)
    best_waste = 0
    before = [0, *itertools.accumulate(sizes)]
    for last in range(leader, min(leader + at_most, len(sizes))):
        length = at_most
        if budget is not None and sizes[last] > 0:
            length = min(at_most, budget // sizes[last])
        first = max(0, last - length + 1)
        if first > leader:
            break  # larger ones still cannot take the leader along
        length = last - first + 1
        waste = length * sizes[last] - (before[last + 1] - before[first])
        if length > len(best) or (length == len(best) and waste < best_waste):
            best, best_waste = range(first, last + 1), waste
    return best
