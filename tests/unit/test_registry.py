"""What state a version is in, given what workers say of it."""

from typing import get_args

import pytest

from headway.registry import Placement, State, effective


def placed(state: State) -> Placement:
    return Placement(
        worker_id=state,
        device="cpu",
        state=state,
        reason="broken" if state == "failed" else None,
        loaded_at=None,
        memory_bytes=None,
        ended=0,
        rate=0.0,
    )


@pytest.mark.parametrize(
    ("states", "error", "expected"),
    [
        ("", None, ("loading", None)),
        ("", "no model file", ("failed", "no model file")),
        ("ready failed loading", None, ("ready", None)),
        ("failed loading", None, ("loading", None)),
        ("failed unloaded", None, ("unloaded", None)),
        ("failed", "no model file", ("failed", "broken")),
        ("unloaded", None, ("unloaded", None)),
    ],
)
def test_the_best_that_any_live_worker_has_counts(
    states: str, error: str | None, expected: tuple[State, str | None]
) -> None:
    by_name: dict[str, State] = {state: state for state in get_args(State)}
    assert effective([placed(by_name[name]) for name in states.split()], error) == expected
