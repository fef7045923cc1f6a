"""Rows of Parquet files as lines, without any server: every type, rows that cannot be read, and bombs."""

import datetime
import decimal
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from api import parquet
from api.problems import Problem

MiB = 1 << 20


def packed(table: Any, **options: Any) -> io.BytesIO:
    file = io.BytesIO()
    pyarrow.parquet.write_table(table, file, **options)
    return file


def lines(file: io.BytesIO) -> list[Any]:
    return [json.loads(line) for piece in parquet.pieces(file) for line in piece.splitlines()]


def column(type_: Any, *values: Any) -> list[Any]:
    """What such values are read as."""
    table = pyarrow.table({"input": pyarrow.array(values, type_)})
    return [line.get("input", line) for line in lines(packed(table))]


AT = 1_700_000_000_123_456_789
SHOWN = "2023-11-14T22:13:20.123456"

TYPES: dict[str, tuple[Any, Any, Any]] = {
    "nothing": (pyarrow.null(), None, None),
    "a large number": (pyarrow.uint64(), 2**64 - 1, 2**64 - 1),
    "half a float": (pyarrow.float16(), 1.5, 1.5),
    "a time without a zone": (pyarrow.timestamp("ns"), AT, SHOWN),
    "a time with one": (pyarrow.timestamp("ns", "UTC"), AT, f"{SHOWN}+00:00"),
    "a time in another": (pyarrow.timestamp("us", "Europe/Berlin"), AT // 1000, f"{SHOWN}+00:00"),
    "a time nobody knows where": (pyarrow.timestamp("us", "Mars/Olympus"), AT // 1000, f"{SHOWN}+00:00"),
    "a day": (pyarrow.date32(), datetime.date(2026, 1, 2), "2026-01-02"),
    "a time of day": (pyarrow.time64("ns"), 1_000_001, "00:00:00.001000"),
    "a duration": (pyarrow.duration("ns"), 90_000_000_001, "PT90S"),
    "a decimal": (pyarrow.decimal128(5, 2), decimal.Decimal("1.20"), "1.20"),
    "bytes": (pyarrow.binary(), b"\xff\x00", "/wA="),
    "a large text": (pyarrow.large_string(), "é", "é"),
    "a map": (pyarrow.map_(pyarrow.string(), pyarrow.int64()), [("a", 1)], {"a": 1}),
    "all the way down": (
        pyarrow.list_(pyarrow.struct([("at", pyarrow.timestamp("ns")), ("text", pyarrow.string())])),
        [{"at": AT, "text": "x"}, None],
        [{"at": SHOWN, "text": "x"}, None],
    ),
}


@pytest.mark.parametrize(("type_", "value", "shown"), TYPES.values(), ids=TYPES)
def test_every_type_becomes_json(type_: Any, value: Any, shown: Any) -> None:
    assert column(type_, value, None, value) == [shown, None, shown]


def test_a_row_that_cannot_be_read_is_a_line_that_says_why_and_its_mates_are_read() -> None:
    good, far, again = column(pyarrow.timestamp("us"), AT // 1000, 10**18, AT // 1000)
    assert (good, again) == (SHOWN, SHOWN)
    assert list(far) == ["a row that cannot be read: date value out of range"]
    texts = pyarrow.Array.from_buffers(pyarrow.string(), 2, pyarrow.array([b"ok", b"\xff"]).buffers())
    good, bad = lines(packed(pyarrow.table({"a": texts})))
    assert good == {"input": {"a": "ok"}}
    assert "codec can't decode" in next(iter(bad))
    twice = column(pyarrow.map_(pyarrow.string(), pyarrow.int64()), [("a", 1), ("a", 2)])
    assert "a row that cannot be read" in next(iter(twice[0]))


def test_beside_a_column_of_inputs_only_ids_are_read_and_ids_need_not_be_text() -> None:
    table = pyarrow.table({"label": ["x", "y"], "custom_id": [7, None], "input": [[1], [2]]})
    assert lines(packed(table)) == [{"input": [1], "custom_id": "7"}, {"input": [2]}]
    assert lines(packed(table.drop_columns("input"))) == [
        {"input": {"label": "x"}, "custom_id": "7"},
        {"input": {"label": "y"}},
    ]
    with pytest.raises(Problem, match="two columns 'a'"):
        lines(packed(pyarrow.Table.from_arrays([pyarrow.array([1])] * 2, names=["a", "a"])))


def test_row_groups_may_be_empty_and_rows_keep_their_order() -> None:
    file = io.BytesIO()
    table = pyarrow.table({"input": list(range(1000))})
    with pyarrow.parquet.ParquetWriter(file, table.schema) as writer:
        for part in (table.slice(0, 0), table.slice(0, 700), table.slice(0, 0), table.slice(700)):
            writer.write_table(part)
    assert [line["input"] for line in lines(file)] == list(range(1000))


@pytest.mark.parametrize("nested", [False, True])
def test_a_small_file_that_stands_for_gigabytes_is_refused_a_little_at_a_time(nested: bool) -> None:
    large = pyarrow.array(["x" * (4 * MiB)])
    indices = pyarrow.array([0] * 100_000, pyarrow.int32())
    values = pyarrow.DictionaryArray.from_arrays(indices, large)
    if nested:
        values = pyarrow.ListArray.from_arrays(list(range(100_001)), values)
    file = packed(pyarrow.table({"input": values}), compression="zstd")
    assert file.tell() < 4096
    sizes: list[int] = []
    with pytest.raises(Problem, match="times the size of their file"):
        sizes.extend(len(piece) for piece in parquet.pieces(file))
    assert 15 <= len(sizes) <= 20
    assert max(sizes) < 5 * MiB  # a line each


def test_a_column_that_unpacks_to_gigabytes_is_refused_before_it_is_read() -> None:
    table = pyarrow.table({"input": ["x" * MiB] * 100})
    with pytest.raises(Problem, match="'input' unpacks to more than"):
        lines(packed(table, use_dictionary=False, compression="zstd"))


def test_what_is_small_and_repeated_is_no_bomb() -> None:
    table = pyarrow.table({"input": pyarrow.array(["yes", "no"] * 100_000)})
    assert len(lines(packed(table, compression="zstd"))) == 200_000


def test_an_encrypted_file_is_refused() -> None:
    file = io.BytesIO(b"PARE" + bytes(100) + b"\x10\0\0\0PARE")
    with pytest.raises(Problem, match=r"no Parquet file that can be read: .*crypt"):
        lines(file)


READER = """
import resource, sys
from api import parquet
rows = 0
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with open(sys.argv[1], "rb") as file:
    for piece in parquet.pieces(file):
        rows += piece.count(b"\\n")
print(rows, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kB there")
def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "large"
    texts = [f"{number:08}" * 125 for number in range(100_000)]
    pyarrow.parquet.write_table(pyarrow.table({"input": texts}), path, compression="none", use_dictionary=False)
    assert path.stat().st_size > 95 * MiB
    done = subprocess.run([sys.executable, "-c", READER, str(path)], capture_output=True, text=True, check=True)
    rows, grown_mib = map(int, done.stdout.split())
    assert rows == 100_000
    assert grown_mib < 80  # the half of it is pyarrow itself
