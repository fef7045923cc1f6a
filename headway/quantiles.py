"""Quantiles of durations from counts in buckets, so that those of several workers can be added.

A bucket ends a fifth above the one before it: what is read off is right within a tenth.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping

_GROWTH = 1.2
_LEAST_S = 1e-4
_PER_LOG = 1 / math.log(_GROWTH)


def bucket(seconds: float) -> int:
    """Of a duration; 0 is a tenth of a millisecond and less."""
    return math.ceil(math.log(seconds / _LEAST_S) * _PER_LOG) if seconds > _LEAST_S else 0


def added(counts: Iterable[Mapping[int, int]]) -> Counter[int]:
    """All of them together."""
    total: Counter[int] = Counter()
    for one in counts:
        total.update(one)
    return total


def quantile(counts: Mapping[int, int], q: float) -> float | None:
    """Seconds that a share `q` of them do not exceed; None where there are none."""
    left = q * sum(counts.values())
    for number in sorted(counts):
        left -= counts[number]
        if left <= 0 and counts[number]:
            return float(_LEAST_S * _GROWTH ** (number - 0.5)) if number else _LEAST_S
    return None
