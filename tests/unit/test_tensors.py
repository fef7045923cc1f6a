"""Arrays as bytes: what goes in comes out, and what is not as it says is refused before anything is allocated."""

import struct

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway import signature, tensors
from headway.errors import InputRefused
from headway.manifest import Tensor

NUMBERS = [datatype for datatype in tensors.DTYPES if datatype not in ("BYTES", "BF16")]


@given(st.sampled_from(NUMBERS), st.lists(st.integers(0, 4), max_size=4), st.binary(max_size=64))
def test_an_array_of_every_datatype_and_shape_comes_back_as_it_went(
    datatype: str, shape: list[int], seed: bytes
) -> None:
    dtype = np.dtype(tensors.DTYPES[datatype])
    count = int(np.prod(shape, dtype=int))
    array = np.resize(np.frombuffer(seed or b"\0", np.uint8), count).astype(dtype).reshape(shape)
    back = tensors.load(tensors.dump({"a": array}))["a"]
    assert back.dtype == dtype
    assert back.shape == tuple(shape)
    assert back.tobytes() == array.tobytes()


@given(st.lists(st.binary(max_size=20), max_size=8))
def test_strings_of_any_bytes_come_back_as_they_went(values: list[bytes]) -> None:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    assert tensors.load(tensors.dump({"s": array}))["s"].tolist() == values


@given(st.binary(max_size=200))
def test_garbage_is_refused_and_nothing_else(data: bytes) -> None:
    with pytest.raises(InputRefused):
        tensors.load(data + b"\xff")


@pytest.mark.parametrize(
    ("datatype", "shape", "data"),
    [
        ("FP32", [1 << 30], b"1234"),
        ("FP32", [-1], b"1234"),
        ("FP32", [2], b"1234"),
        ("COMPLEX64", [1], b"12345678"),
        ("FP32", [1] * 40, b"1234"),
        ("BYTES", [1 << 30], b"\0\0\0\0"),
        ("BYTES", [1], struct.pack("<I", 9) + b"short"),
        ("BYTES", [1], struct.pack("<I", 1) + b"long"),
    ],
)
def test_a_header_that_disagrees_with_the_bytes_is_refused(datatype: str, shape: list[int], data: bytes) -> None:
    with pytest.raises(InputRefused):
        tensors.load(tensors.assemble([("a", datatype, shape, data)]))


def test_bfloat16_is_rounded_to_the_nearest_and_nan_stays_nan() -> None:
    array = np.array([1.0, 1.00390625, 1.01171875, -0.0, np.inf, np.nan, 3e38], np.float32)
    data = tensors.dump({"a": array}, {"a": "BF16"})
    back = tensors.load(data)["a"]
    assert back.tolist()[:5] == [1.0, 1.0, 1.015625, -0.0, np.inf]
    assert np.isnan(back[5])
    assert back[6] == pytest.approx(3e38, rel=0.01)


def test_json_of_tensors_has_text_and_refuses_what_it_cannot_hold() -> None:
    words = np.array(["ä", "b"], dtype=object)
    assert msgspec.json.decode(tensors.json_of(tensors.dump({"w": words, "n": np.arange(2)}))) == {
        "w": ["ä", "b"],
        "n": [0, 1],
    }
    for bad in (np.array([np.nan]), np.array([b"\xff"], dtype=object)):
        with pytest.raises(ValueError, match=r"NaN|utf-8"):
            tensors.json_of(tensors.dump({"a": bad}))


def entries(**arrays: np.ndarray) -> list[tensors.Entry]:
    return [entry for entry, _ in tensors.split(tensors.dump(arrays))]


def test_rows_of_joined_items_are_their_size_and_keep_no_items_apart() -> None:
    inputs = {"a": Tensor("float32", (-1, 4)), "b": Tensor("int64", (-1, -1))}
    three = entries(a=np.zeros((3, 4), np.float32), b=np.zeros((3, 7), np.int64))
    checked = signature.check_tensors(three, inputs, "joined")
    assert (checked.rows, checked.shape) == (3, "7")
    with pytest.raises(InputRefused, match="2 rows"):
        signature.check_tensors(entries(a=np.zeros((3, 4), np.float32), b=np.zeros((2, 7), np.int64)), inputs, "joined")
    as_json = signature.check({"a": [[0.0] * 4] * 3, "b": [[1] * 7] * 3}, inputs, "joined")
    assert (as_json.rows, as_json.shape) == (3, "7")


def test_a_datatype_is_not_converted_on_the_way() -> None:
    with pytest.raises(InputRefused, match="is INT64, and should be FP32"):
        signature.check_tensors(entries(a=np.zeros(4, np.int64)), {"a": Tensor("float32", (4,))})
