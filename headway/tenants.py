"""What fair service knows of tenants: their classes and weights.

A line in Redis is a model version, a priority step and a *class* of tenants. As many tenants as there are classes have
a line of their own each; beyond that a few share one, first come, first served. So the number of lines is bounded
however many tenants there are.
"""

import math

from headway.errors import SettingsError

#: Classes; the default tenant's is 0.
CLASSES = 32

#: Between the least and the greatest share of service that a tenant may be given.
LEAST_WEIGHT, GREATEST_WEIGHT = 0.01, 100.0


def checked_weight(weight: float) -> float:
    """Raises SettingsError."""
    if not (math.isfinite(weight) and LEAST_WEIGHT <= weight <= GREATEST_WEIGHT):
        raise SettingsError(f"a weight is a number from {LEAST_WEIGHT:g} to {GREATEST_WEIGHT:g}, and not {weight:g}")
    return weight
