"""A straight line through measurements, and how sure its slope is."""

import math
from collections.abc import Sequence
from typing import NamedTuple


class Slope(NamedTuple):
    """Of y over x, with its 95 % confidence interval."""

    slope: float
    low: float
    high: float


def slope(points: Sequence[tuple[float, float]]) -> Slope:
    """Least squares over ten points or more."""
    count = len(points)
    mean_x = sum(x for x, _ in points) / count
    mean_y = sum(y for _, y in points) / count
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    rise = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
    left = sum((y - mean_y - rise * (x - mean_x)) ** 2 for x, y in points)
    error = 2.1 * math.sqrt(left / (count - 2) / spread)  # Student's t for 18 points and more, to the safe side
    return Slope(rise, rise - error, rise + error)
