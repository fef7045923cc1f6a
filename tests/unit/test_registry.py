"""What state a version is in, given what workers say of it."""

from typing import get_args

import pytest

from api.registry import Target
from headway.errors import InputRefused
from headway.manifest import Batching, Manifest, Tensor
from headway.registry import Placement, State, Version, effective
from headway.tensors import Entry


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


def test_an_item_of_rows_is_as_large_as_they_are_many_and_not_larger_than_a_call() -> None:
    manifest = Manifest(
        items="joined",
        inputs={"x": Tensor("float32", (-1, 2)), "of": Tensor("float32", (-1, -1), optional=True)},
        batching=Batching(max_batch_cost=3),
    )
    row = Version(
        model="m", version="1", state="ready", reason=None, framework="onnx", path="/", sha256="", manifest=manifest,
        created_at=0, loaded_at=None, placements=[],
    )  # fmt: skip
    target = Target(row)
    assert target.measure({"x": [[1, 2], [3, 4]]}, b"", "") == (2, "")
    both = [Entry("x", "FP32", (3, 2), 24), Entry("of", "FP32", (3, 5), 60)]
    assert target.measure_tensors(both, 84) == (3, "5")
    with pytest.raises(InputRefused, match="has 4 rows, and the model takes 3 at most"):
        target.measure_tensors([Entry("x", "FP32", (4, 2), 32)], 32)
    with pytest.raises(InputRefused, match="has 2 rows, and the first input has 3"):
        target.measure_tensors([both[0], Entry("of", "FP32", (2, 5), 40)], 64)
