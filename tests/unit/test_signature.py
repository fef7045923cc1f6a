"""Typed inputs: what fits, what is refused and where, and the arrays they stand for."""

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.errors import InputRefused
from headway.manifest import DTYPES, Manifest, Tensor
from headway.signature import Checked, Decoder, check, example, to_arrays

MATRIX = {"x": Tensor("float32", (-1, 2))}
PAIR = {"ids": Tensor("int64", (-1,)), "flag": Tensor("bool", ())}


@pytest.mark.parametrize(
    ("value", "inputs", "checked"),
    [
        ([[1, 2.5], [3, 4]], MATRIX, Checked("2", 4)),
        ({"x": [[1, 2]]}, MATRIX, Checked("1", 2)),
        ({"flag": True, "ids": [1, 2, 3]}, PAIR, Checked("3", 4)),
        (7, {"n": Tensor("uint8", ())}, Checked(None, 1)),
        ("text", {"t": Tensor("string", ())}, Checked(None, 1)),
        ([[[0]] * 3] * 2, {"a": Tensor("int8", (-1, 3, -1))}, Checked("2,1", 6)),
        ({"a": [0, 0], "b": [1]}, {"a": Tensor("int8", (-1,)), "b": Tensor("int8", (-1,))}, Checked("2;1", 3)),
    ],
)
def test_what_fits_is_told_with_its_free_lengths_and_its_size(
    value: Any, inputs: dict[str, Tensor], checked: Checked
) -> None:
    assert check(value, inputs) == checked


@pytest.mark.parametrize("json", [b'{"x": [1, null, 2.5]}', b"[1, null, 2.5]"])
def test_null_is_nan_where_an_input_says_so(json: bytes) -> None:
    inputs = {"x": Tensor("float32", (3,), nullable=True)}
    value = msgspec.json.decode(json)
    assert check(value, inputs) == Checked(None, 3)
    for array in (to_arrays(value, inputs)["x"], Decoder(inputs)(json)["x"]):
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, [1, np.nan, 2.5])
    assert np.isnan(to_arrays([None] * 3, inputs)["x"]).all()
    for wrong, pointer in (([1, None, True], "/2"), ([1, None, 1e39], "/2"), (None, "")):
        with pytest.raises(InputRefused) as refused:
            Decoder(inputs)(msgspec.json.encode(wrong))
        assert refused.value.pointer == pointer


@pytest.mark.parametrize(
    ("value", "inputs", "pointer", "said"),
    [
        (None, MATRIX, "", "null"),
        ("1", MATRIX, "", "a string"),
        ([], MATRIX, "", "empty"),
        ([[]], MATRIX, "/0", "length 0"),
        ([[1, 2], [3]], MATRIX, "/1", "length 1"),
        ([[1, 2], 3], MATRIX, "/1", "should be a list"),
        ([[1, [2]]], MATRIX, "/0/1", "a list"),
        ([[1, True]], MATRIX, "/0/1", "a boolean, true"),
        ([[1, "2"]], MATRIX, "/0/1", "a string"),
        ([[1, None]], MATRIX, "/0/1", "null"),
        ([[1, 1e39]], MATRIX, "/0/1", "range of float32"),
        ({}, MATRIX, "/x", "missing"),
        ({"x": [[1, 2]], "y/~": 1}, MATRIX, "/y~1~0", "not an input"),
        ({"x": [[1, 2], [1, 2, 3]]}, MATRIX, "/x/1", "length 3"),
        ([1], PAIR, "", "object with ids, flag"),
        ({"ids": [1, 2.0], "flag": True}, PAIR, "/ids/1", "should be int64"),
        ({"ids": [2**63], "flag": True}, PAIR, "/ids/0", "range of int64"),
        ({"ids": [1], "flag": 1}, PAIR, "/flag", "should be bool"),
        (-1, {"n": Tensor("uint8", ())}, "", "range of uint8"),
        (256, {"n": Tensor("uint8", ())}, "", "range of uint8"),
        (3, {"t": Tensor("string", ())}, "", "should be string"),
        ([[[1], [2]], [[1], [2, 3]]], {"a": Tensor("int8", (-1, 2, -1))}, "/1/1", "length 2"),
    ],
)
def test_what_does_not_fit_is_refused_at_its_place(
    value: Any, inputs: dict[str, Tensor], pointer: str, said: str
) -> None:
    with pytest.raises(InputRefused) as refusal:
        check(value, inputs)
    assert refusal.value.pointer == pointer
    assert said in refusal.value.detail
    with pytest.raises(InputRefused):
        to_arrays(value, inputs)


@given(st.data())
def test_arrays_come_back_as_they_were_sent(data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from([name for name in DTYPES if name not in ("string", "bfloat16")]))
    shape = data.draw(st.lists(st.integers(1, 4), max_size=3).map(tuple))
    limits = np.array([0, 1, 3], dtype=dtype) if dtype == "bool" else np.array(DTYPES[dtype], dtype=dtype)
    sent = np.resize(limits, shape)
    declared = {"x": Tensor(dtype, tuple(data.draw(st.sampled_from([length, -1])) for length in shape))}
    value = msgspec.json.decode(msgspec.json.encode({"x": sent.tolist()}))
    received = to_arrays(value, declared)["x"]
    assert received.dtype == sent.dtype
    np.testing.assert_array_equal(received, sent)
    assert check(value, declared).elements == sent.size


def test_bfloat16_is_held_as_float32_and_strings_as_objects() -> None:
    arrays = to_arrays({"b": [1.5], "t": ["a\0"]}, {"b": Tensor("bfloat16", (1,)), "t": Tensor("string", (1,))})
    assert arrays["b"].dtype == np.float32
    assert arrays["t"].tolist() == ["a\0"]


def test_an_example_made_of_zeros_fits_every_declaration() -> None:
    inputs = {name: Tensor(name, (2, -1)) for name in DTYPES} | {"scalar": Tensor("string", ())}
    check(example(inputs, Manifest()), inputs)
    assert example(inputs, Manifest(example={"mine": 1})) == {"mine": 1}
    assert example({}, Manifest()) is None


NUMBERS = st.one_of(
    st.booleans(), st.none(), st.text(max_size=2), st.integers(-(2**70), 2**70), st.floats(allow_nan=False),
    st.sampled_from([0, 1, -1, 127, 128, 255, 256, 65504.0, 65520.0, 3.39e38, 3.4e38, 1e39, 2**63, 2**64 - 1, 2**64]),
)  # fmt: skip
VALUES = st.recursive(NUMBERS, lambda inner: st.lists(inner, max_size=3), max_leaves=9)
FITTING = st.lists(st.lists(st.sampled_from([0, 1, 2]), min_size=2, max_size=2), min_size=1, max_size=3)


@given(
    value=st.one_of(VALUES, FITTING, st.fixed_dictionaries({"x": st.one_of(VALUES, FITTING)})),
    dtype=st.sampled_from(list(DTYPES)),
    shape=st.sampled_from([(), (2,), (-1,), (-1, 2), (-1, -1)]),
)
def test_what_is_decoded_at_once_is_what_is_decoded_slowly(value: Any, dtype: str, shape: tuple[int, ...]) -> None:
    inputs = {"x": Tensor(dtype, shape)}

    def told(decode: Any, given_: Any) -> Any:
        try:
            array = decode(given_)["x"]
        except InputRefused as error:
            return error.pointer, error.detail
        return array.dtype, array.shape, array.tolist()

    json = msgspec.json.encode(value)
    assert told(Decoder(inputs), json) == told(lambda one: to_arrays(msgspec.json.decode(one), inputs), json)


def test_several_inputs_are_decoded_by_names_that_are_no_identifiers() -> None:
    decode = Decoder({"a-b": Tensor("float32", (2,)), "class": Tensor("bool", ())})
    arrays = decode(b' {"class": true, "a-b": [1, 2.5]}')
    assert {name: array.tolist() for name, array in arrays.items()} == {"a-b": [1.0, 2.5], "class": True}
    with pytest.raises(InputRefused, match="missing"):
        decode(b'{"class": true}')
