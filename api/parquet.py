"""A Parquet file as the lines that its rows stand for.

Parquet is read from its end, so the file has to lie somewhere: it is spooled while it arrives. A column `input` is the
input (beside it, `custom_id`; other columns are not read); else all other columns of a row are, by name. What JSON does
not have is written as text: times as RFC 3339 to the microsecond (without an offset where the file tells none),
durations as ISO 8601, decimals as they are written, bytes as base64. NaN and infinity stay what they are, and fail
their line; so does a row that cannot be read.

Its rule: what is in memory is bounded by the file's pages, not by its rows. They are read as many at a time as are
small together; and where a small file could stand for much, a value that is repeated is made many only line by line.
"""

import base64
import contextlib
import datetime
import importlib.util
import json
import tempfile
from collections.abc import AsyncIterator, Iterator
from typing import IO, TYPE_CHECKING, Any

import msgspec

from api.problems import Problem
from api.threads import Threads

if TYPE_CHECKING:
    import pyarrow

MEDIA_TYPES = ("application/vnd.apache.parquet", "application/x-parquet")

_PATIENCE_S = 60.0
_MOST_ROWS = 256
#: Of a file, unpacked, at a time; and of lines.
_READ_BYTES = 4 << 20
#: Up to this size a column's values are kept apart from where they are repeated. In larger ones, pyarrow would hold all
#: that are not repeated, several times over.
_SMALL_BYTES = 32 << 20
_PIECE_BYTES = 1 << 18
_BUFFER_BYTES = 1 << 18
#: A column of a row group may unpack to so many times its size, beyond so many bytes; so may the lines of a file. A
#: few words over and over are rightly small in Parquet, what goes beyond is a bomb.
_MOST_RATIO = 1000
_RATIO_BEYOND = 64 << 20


@contextlib.asynccontextmanager
async def spooled(pieces: AsyncIterator[bytes], threads: Threads) -> AsyncIterator[IO[bytes]]:
    """The body in a temporary file without a name. Raises Problem where it cannot be read, or there is no place."""
    if importlib.util.find_spec("pyarrow") is None:
        detail = "Parquet is read with pyarrow, which is not installed here: pip install 'headway[parquet]'."
        raise Problem("unsupported_media_type", detail)
    with tempfile.TemporaryFile() as file:
        async for piece in pieces:
            try:
                await threads.run(lambda piece=piece: file.write(piece), patience_s=_PATIENCE_S)  # type: ignore[misc]
            except OSError as error:
                raise Problem.unavailable(
                    f"The file cannot be kept here while it is read: {error.strerror}."
                ) from error
        yield file


async def lines(file: IO[bytes], threads: Threads) -> AsyncIterator[bytes]:
    """NDJSON, a few lines at a time. Raises Problem for what is no Parquet file that can be read."""
    found = pieces(file)
    while piece := await threads.run(lambda: next(found, b""), patience_s=_PATIENCE_S):
        yield piece


def pieces(file: IO[bytes]) -> Iterator[bytes]:
    """The same, blocking; none of them is empty."""
    import pyarrow

    written, most = 0, max(_RATIO_BEYOND, _MOST_RATIO * file.seek(0, 2))
    try:
        for piece in _pieces(file):
            written += len(piece)
            if written > most:
                raise Problem(
                    "payload_too_large", f"The rows are more than {_MOST_RATIO} times the size of their file."
                )
            yield piece
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        text = " ".join(str(error).split())[:200]
        raise Problem("malformed_request", f"The body is no Parquet file that can be read: {text}") from error


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    from pyarrow import parquet

    plain = parquet.ParquetFile(file, pre_buffer=False, buffer_size=_BUFFER_BYTES)
    metadata, columns = plain.metadata, _columns(plain.schema_arrow)
    leaves = map(metadata.schema.column, range(metadata.num_columns))
    texts = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY" and leaf.converted_type != "DECIMAL"]
    apart = parquet.ParquetFile(
        file, metadata=metadata, read_dictionary=texts, pre_buffer=False, buffer_size=_BUFFER_BYTES
    )
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        reader = apart if group.total_byte_size <= _SMALL_BYTES else plain
        for batch in reader.iter_batches(_rows_at_once(group), row_groups=[index], columns=columns, use_threads=False):
            yield from _written(_in_microseconds(batch))


def _written(rows: "pyarrow.RecordBatch") -> Iterator[bytes]:
    start, step = 0, 1
    while start < rows.num_rows:
        piece = _lines(rows.slice(start, step))
        start += step
        step = max(1, min(4 * step, step * _PIECE_BYTES // len(piece)))
        yield piece


def _columns(schema: "pyarrow.Schema") -> list[str]:
    """Those that are read. Raises Problem."""
    names: list[str] = schema.names
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise Problem("malformed_request", f"The file has two columns {twice!r}.")
    return [name for name in names if name in ("input", "custom_id")] if "input" in names else names


def _rows_at_once(group: Any) -> int:
    """Raises Problem for a bomb."""
    for index in range(group.num_columns):
        column = group.column(index)
        unpacked = column.total_uncompressed_size
        if unpacked > _RATIO_BEYOND and unpacked > _MOST_RATIO * column.total_compressed_size:
            detail = f"Column {column.path_in_schema!r} unpacks to more than {_MOST_RATIO} times its size."
            raise Problem("payload_too_large", detail)
    row_bytes: int = group.total_byte_size // max(1, group.num_rows) + 1
    return max(1, min(_MOST_ROWS, _READ_BYTES // row_bytes))


def _in_microseconds(batch: "pyarrow.RecordBatch") -> "pyarrow.RecordBatch":
    """Python's times are no finer, and know not every zone."""
    import pyarrow

    schema = pyarrow.schema([field.with_type(_plain(field.type)) for field in batch.schema])
    return batch if schema.equals(batch.schema) else batch.cast(schema, safe=False)


def _plain(type_: "pyarrow.DataType") -> "pyarrow.DataType":
    import pyarrow
    from pyarrow import types

    if types.is_timestamp(type_):
        return pyarrow.timestamp("us" if type_.unit == "ns" else type_.unit, type_.tz and "UTC")
    if types.is_time64(type_):
        return pyarrow.time64("us")
    if types.is_duration(type_) and type_.unit == "ns":
        return pyarrow.duration("us")
    if types.is_struct(type_):
        return pyarrow.struct([field.with_type(_plain(field.type)) for field in type_])
    if types.is_large_list(type_):
        return pyarrow.large_list(_plain(type_.value_type))
    if types.is_fixed_size_list(type_):
        return pyarrow.list_(_plain(type_.value_type), type_.list_size)
    if types.is_list(type_):
        return pyarrow.list_(_plain(type_.value_type))
    return type_


def _lines(rows: "pyarrow.RecordBatch") -> bytes:
    """One a row, whatever is in it."""
    try:
        return b"".join(map(_line, rows.to_pylist(maps_as_pydicts="strict")))
    except Exception as error:  # years beyond 9999, bytes that are no UTF-8, keys that come twice, …
        if rows.num_rows > 1:
            return b"".join(_lines(rows.slice(index, 1)) for index in range(rows.num_rows))
        why = " ".join(str(error).split())[:200]
        return json.dumps({f"a row that cannot be read: {why}": None}).encode() + b"\n"


def _line(row: dict[str, Any]) -> bytes:
    custom_id = row.pop("custom_id", None)
    line: dict[str, Any] = {"input": row.get("input", row)}
    if custom_id is not None:
        line["custom_id"] = str(custom_id)
    return json.dumps(line, default=_as_text).encode() + b"\n"


def _as_text(value: object) -> object:
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return msgspec.to_builtins(value)  # durations, decimals
