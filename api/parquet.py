"""A Parquet file as the lines that its rows stand for.

Parquet is read from its end, so the file has to lie somewhere: it is spooled while it arrives. Rows are read a few
hundred at a time. A column `input` is the input (beside it, `custom_id`); else all other columns of a row are, by name.
What JSON does not have is written as text: times as RFC 3339, decimals as they are written, bytes as base64. NaN and
infinity stay what they are, and fail their line.
"""

import base64
import contextlib
import datetime
import decimal
import json
import tempfile
from collections.abc import AsyncIterator, Iterator
from typing import IO, Any

from api.problems import Problem
from api.threads import Threads

MEDIA_TYPES = ("application/vnd.apache.parquet", "application/x-parquet")

_ROWS = 256
_PATIENCE_S = 60.0


@contextlib.asynccontextmanager
async def spooled(pieces: AsyncIterator[bytes], threads: Threads) -> AsyncIterator[IO[bytes]]:
    """The body in a temporary file without a name. Raises Problem where it is no place for it."""
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
    """NDJSON, a few hundred rows at a time. Raises Problem for what is no Parquet file that can be read."""
    rows = _lines(file)
    while piece := await threads.run(lambda: next(rows, b""), patience_s=_PATIENCE_S):
        yield piece


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        detail = "Parquet is read with pyarrow, which is not installed here: pip install 'headway[parquet]'."
        raise Problem("unsupported_media_type", detail) from None
    try:
        for batch in parquet.ParquetFile(file, pre_buffer=False).iter_batches(batch_size=_ROWS):
            yield b"".join(map(_line, batch.to_pylist()))
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        text = " ".join(str(error).split())[:200]
        raise Problem("malformed_request", f"The body is no Parquet file that can be read: {text}") from error


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
    if isinstance(value, decimal.Decimal):
        return str(value)
    return repr(value)
