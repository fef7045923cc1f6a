"""What KServe's instances become for models of each kind, and their outputs predictions."""

from typing import Any

import numpy as np
import pytest

from api.dialects.kserve import v1
from api.dialects.kserve.errors import Refused
from headway.manifest import Manifest, Tensor

ONE = Manifest(items="joined", inputs={"x": Tensor("float32", (-1, 2))}, backend="onnx")
TWO = Manifest(items="joined", inputs={"a": Tensor("float32", (-1,)), "b": Tensor("float32", (-1,))}, backend="onnx")
OWN = Manifest()
KSERVE = Manifest(backend="kserve")


def test_for_a_repository_s_model_they_are_the_rows_of_one_request() -> None:
    assert v1.inputs_of({"instances": [[1, 2], [3, 4]]}, ONE) == [{"x": [[1, 2], [3, 4]]}]
    assert v1.inputs_of({"instances": [{"a": 1, "b": 2}, {"a": 3, "b": 4}]}, TWO) == [{"a": [1, 3], "b": [2, 4]}]


@pytest.mark.parametrize(
    ("rows", "said"),
    [([[1, 2]], "an object with a, b"), ([{"a": 1}, {"b": 1}], "different names"), ("no", "to be a list")],
)
def test_rows_that_make_no_request_are_refused(rows: Any, said: str) -> None:
    with pytest.raises(Refused, match=said) as refused:
        v1.inputs_of({"instances": rows}, TWO)
    assert refused.value.status == 400


def test_its_outputs_are_rows_again() -> None:
    assert v1.reply_of([{"y": [[1.0], [2.0]]}], ONE) == {"predictions": [[1.0], [2.0]]}
    both = {"y": np.array([1, 2]), "z": np.array([3, 4])}
    assert v1.reply_of([both], TWO) == {"predictions": [{"y": 1, "z": 3}, {"y": 2, "z": 4}]}


def test_for_a_model_of_headway_s_own_each_is_an_input_and_each_output_a_prediction() -> None:
    assert v1.inputs_of({"inputs": ["a", {"b": 1}]}, OWN) == ["a", {"b": 1}]
    assert v1.reply_of(["x", {"y": np.array([1.5])}], OWN) == {"predictions": ["x", {"y": [1.5]}]}


def test_bytes_are_no_prediction() -> None:
    with pytest.raises(Refused, match="no JSON"):
        v1.reply_of([b"\xff"], OWN)


def test_a_model_of_kserve_s_gets_and_gives_the_whole() -> None:
    asked = {"instances": [1], "more": True}
    assert v1.inputs_of(asked, KSERVE) == [asked]
    assert v1.reply_of([{"predictions": [1]}], KSERVE) == {"predictions": [1]}


def test_a_model_of_mlserver_s_takes_the_second_protocol_alone() -> None:
    with pytest.raises(Refused, match="/v2/models/"):
        v1.inputs_of({"instances": [1]}, Manifest(backend="mlserver"))
