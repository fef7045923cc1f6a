"""Arrays as bytes: what is no array of numbers, or not what its header says, is refused before it is allocated."""

import contextlib
import io
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway import npy
from headway.errors import InputRefused


def saved(array: object) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)  # type: ignore[arg-type]
    return file.getvalue()


def with_header(text: str, rest: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + rest


def described(descr: str = "'<f4'", shape: str = "(2,)", order: str = "False") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"


@pytest.mark.parametrize(
    "dtype", ["float32", "float64", "float16", "int8", "uint16", ">i4", "int64", "bool", "complex64"]
)
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0, 5)])
def test_what_numpy_writes_is_read_as_it_was(dtype: str, shape: tuple[int, ...]) -> None:
    array = np.ones(shape, np.dtype(dtype))
    loaded = npy.load(saved(array))
    assert loaded.shape == shape
    assert np.array_equal(loaded, array)
    assert loaded.dtype.isnative
    assert np.array_equal(npy.load(saved(np.array(array, order="F"))), array)
    assert np.array_equal(npy.load(npy.dump(array)), array)


HOSTILE = {
    "pickled objects": saved(np.array([{"a": 1}], dtype=object)),
    "a pickle": pickle.dumps([1]),
    "a header of a gigabyte": b"\x93NUMPY\x02\x00" + (1 << 30).to_bytes(4, "little") + b" " * 100,
    "more than is there": with_header(described(shape="(1000000000000,)"), b"1234"),
    "an overflowing shape": with_header(described(shape="(4611686018427387904, 4)"), b""),
    "an empty overflowing shape": with_header(described(shape="(0, 4611686018427387904, 4611686018427387904)"), b""),
    "a negative length": with_header(described(shape="(-1,)"), b""),
    "too many dimensions": with_header(described(shape="(" + "1," * 40 + ")"), b"1234"),
    "cut off": saved(np.ones(100))[:-1],
    "too long": saved(np.ones(100)) + b"x",
    "code in the header": with_header("__import__('os').system('true')"),
    "a structured dtype": saved(np.zeros(2, dtype=[("a", "f4")])),
    "text": saved(np.array(["a", "b"])),
    "times": saved(np.array(["2020-01-01"], dtype="datetime64[D]")),
    "an unknown version": b"\x93NUMPY\x09\x00" + b" " * 20,
    "too short": b"\x93NUMPY",
    "nothing": b"",
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_what_is_no_array_of_numbers_is_refused(data: bytes) -> None:
    with pytest.raises(InputRefused):
        npy.read_header(data)


@given(st.binary(max_size=200))
def test_whatever_comes_is_an_array_or_refused(data: bytes) -> None:
    for start in (b"", b"\x93NUMPY\x01\x00", b"\x93NUMPY\x01\x00\x76\x00"):
        with contextlib.suppress(InputRefused):
            npy.load(start + data)
