"""When a device process is ended on purpose."""

import math

from batching.reloads import Reloads


def test_a_call_is_cut_short_where_it_should_last_longer_than_a_reload() -> None:
    reloads = Reloads()
    reloads.seconds = 2.0
    assert reloads.worthwhile(ran=1.0, pace=60.0)
    assert not reloads.worthwhile(ran=59.0, pace=60.0)
    assert not reloads.worthwhile(ran=1.0, pace=1.5)


def test_one_over_its_pace_or_without_one_should_last_as_long_again() -> None:
    reloads = Reloads()
    reloads.seconds = 2.0
    for pace in (0.01, math.nan):
        assert not reloads.worthwhile(ran=1.9, pace=pace)
        assert reloads.worthwhile(ran=2.1, pace=pace)


def test_reloads_use_a_tenth_of_the_time_at_most() -> None:
    reloads = Reloads()
    reloads.seconds = 2.0
    assert reloads.affordable(now=0.0)
    reloads.chosen(now=0.0)
    assert not reloads.affordable(now=19.9)
    assert reloads.affordable(now=20.0)
