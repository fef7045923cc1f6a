"""The bucket of a key with a rate."""

import time

import pytest

from api.limits import Bucket
from api.problems import Problem


def passed(bucket: Bucket, now: float) -> bool:
    try:
        bucket.take(now)
    except Problem:
        return False
    return True


def test_a_seconds_worth_may_come_at_once_and_then_the_rate() -> None:
    bucket, start = Bucket(10), time.monotonic()
    assert [passed(bucket, start) for _ in range(11)] == [True] * 10 + [False]
    over_ten_seconds = sum(passed(bucket, start + tenth / 10 + 0.001) for tenth in range(1, 101))
    assert over_ten_seconds == 100


def test_what_is_not_used_is_not_saved_up_beyond_a_second() -> None:
    bucket, start = Bucket(3), time.monotonic()
    assert sum(passed(bucket, start + 3600) for _ in range(10)) == 3


@pytest.mark.parametrize(("rate", "seconds"), [(0.1, b"10"), (0.4, b"3"), (1, b"1"), (50, b"1")])
def test_it_is_told_when_it_may_again(rate: float, seconds: bytes) -> None:
    bucket, start = Bucket(rate), time.monotonic() + 1
    while passed(bucket, start):
        pass
    with pytest.raises(Problem) as refused:
        bucket.take(start)
    assert refused.value.code == "rate_limited"
    assert dict(refused.value.headers) == {b"retry-after": seconds}
    assert passed(bucket, start + int(seconds))
