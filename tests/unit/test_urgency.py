"""Triton's levels of priority and its timeouts, in our terms."""

import pytest

from api.dialects.oip.urgency import priority_of, queue_timeout_us
from headway.manifest import Manifest


def model(**batching: object) -> Manifest:
    return Manifest(config={"triton": {"dynamic_batching": batching}})


@pytest.mark.parametrize(
    ("asked", "expected"), [(1, 0), (2, 3), (3, 6), (4, 9), (0, 3), (5, 3), (-1, 3), ("1", 3), (True, 3), (None, 3)]
)
def test_levels_are_spread_over_our_priorities_and_what_is_none_is_the_default(asked: object, expected: int) -> None:
    manifest = model(priority_levels="4", default_priority_level="2")
    assert priority_of(manifest, {} if asked is None else {"priority": asked}) == expected


def test_without_levels_everybody_is_alike() -> None:
    assert priority_of(model(), {"priority": 1}) == priority_of(Manifest(), {"priority": 9}) == 5
    assert priority_of(model(priority_levels=1), {"priority": 1}) == 0


def test_a_timeout_only_shortens_what_the_model_has_and_only_where_it_may() -> None:
    may = model(default_queue_policy={"allow_timeout_override": True})
    assert queue_timeout_us(may, {"timeout": 100}, 1000) == 100
    assert queue_timeout_us(may, {"timeout": 5000}, 1000) == 1000
    assert queue_timeout_us(may, {"timeout": 100}, None) is None
    assert queue_timeout_us(may, {}, 1000) == 1000
    assert queue_timeout_us(model(), {"timeout": 100}, 1000) == 1000
