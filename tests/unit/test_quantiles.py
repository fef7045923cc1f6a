"""Quantiles from counts in buckets."""

import random

import pytest

from headway.quantiles import added, bucket, quantile


@pytest.mark.parametrize("q", [0.5, 0.9, 0.99])
def test_what_is_read_off_is_right_within_a_tenth(q: float) -> None:
    generator = random.Random(7)
    seconds = sorted(generator.lognormvariate(-3, 1.5) for _ in range(5000))
    read = quantile(added([{bucket(one): 1} for one in seconds]), q)
    assert read == pytest.approx(seconds[round(q * 5000) - 1], rel=0.11)


def test_of_nothing_there_is_none_and_what_is_short_is_a_tenth_of_a_millisecond() -> None:
    assert quantile({}, 0.5) is None
    assert quantile({bucket(0.0): 3, bucket(1e-9): 2}, 0.99) == 1e-4
