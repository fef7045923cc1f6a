"""What is sent as a batch: a file as it is, or lines made of inputs.

Its rules: whatever the size, a block is in memory, not the whole; and all of it can be sent again from its beginning,
so what cannot be had twice (an iterable) is kept in a temporary file from the moment it is first sent.
"""

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import IO, Any, Self

from headway.client.verbs import encoded

_BLOCK_BYTES = 1 << 16
_NDJSON = "application/x-ndjson"

#: A path, or inputs.
Source = str | os.PathLike[str] | Iterable[Any]


@dataclass(frozen=True, slots=True)
class Line:
    """An input with a name of its own, by which its result is known again."""

    input: Any
    custom_id: str | None = None


class Upload:
    """A batch under way to the server. Closed by who opened it."""

    def __init__(self, source: Source, on_sent: Callable[[int], None] | None = None) -> None:
        """A `str` is a path. `on_sent` is told how many bytes have been sent, from 0 again when they are sent again."""
        if isinstance(source, str | os.PathLike):
            self._file: IO[bytes] = Path(source).open("rb")  # noqa: SIM115  (closed by `close`)
            self._made: Iterator[bytes] = iter(())
            self.headers = _told(self._file)
        elif isinstance(source, bytes | bytearray | dict) or not isinstance(source, Iterable):
            raise TypeError(f"a batch is made of a path or an iterable of inputs, not of a {type(source).__name__}")
        else:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115
            self._made = self._encoded(source)
            self.headers = {"content-type": _NDJSON}
        self._on_sent = on_sent
        self.furthest = 0  # bytes; how far any sending has come
        self.broken: Exception | None = None  # why there is no more to be had

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def blocks(self) -> Iterator[bytes]:
        """From the beginning, at each call."""
        sent = 0
        for block in self._blocks():
            yield block
            sent += len(block)
            self.furthest = max(self.furthest, sent)
            if self._on_sent is not None:
                self._on_sent(sent)

    def _blocks(self) -> Iterator[bytes]:
        self._file.seek(0)
        while block := self._file.read(_BLOCK_BYTES):
            yield block
        while block := next(self._made, b""):
            self._file.write(block)
            yield block

    def _encoded(self, values: Iterable[Any]) -> Iterator[bytes]:
        lines, size = [], 0
        try:
            for number, value in zip(count(1), values, strict=False):
                lines.append(_line(number, value))
                size += len(lines[-1])
                if size >= _BLOCK_BYTES:
                    yield b"".join(lines)
                    lines, size = [], 0
        except Exception as error:
            # Kept: should it look like a lost connection, what was had until then is not taken for all of it.
            self.broken = error
            raise
        yield b"".join(lines)


def _line(number: int, value: Any) -> bytes:
    line = value if isinstance(value, Line) else Line(value)
    named = {} if line.custom_id is None else {"custom_id": line.custom_id}
    try:
        return encoded({**named, "input": line.input}) + b"\n"
    except (TypeError, ValueError) as error:
        raise type(error)(f"input {number}: {error}") from error


def _told(file: IO[bytes]) -> dict[str, str]:
    """What a file is, by its first bytes: names may say anything."""
    head = file.read(4)
    if head == b"PAR1":
        return {"content-type": "application/vnd.apache.parquet"}
    if head.startswith(b"\x1f\x8b"):
        return {"content-type": _NDJSON, "content-encoding": "gzip"}
    return {"content-type": _NDJSON}
