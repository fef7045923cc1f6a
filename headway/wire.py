"""Protobuf's wire format, as far as it takes to find a few fields of a large file: what is not asked for is skipped."""

import mmap
from collections.abc import Iterator

Bytes = bytes | mmap.mmap


def fields(data: Bytes, start: int, end: int) -> Iterator[tuple[int, int | slice]]:
    """(number, value) of each field between: a varint as it stands, what has a length as the slice where it is.

    Raises ValueError, IndexError for what is no message.
    """
    while start < end:
        key, start = _varint(data, start)
        match key & 7:
            case 0:
                value, start = _varint(data, start)
                yield key >> 3, value
            case 1:
                start += 8
            case 2:
                length, start = _varint(data, start)
                if start + length > end:
                    raise ValueError("a field is longer than what it is in")
                yield key >> 3, slice(start, start + length)
                start += length
            case 5:
                start += 4
            case _:
                raise ValueError("no such kind of field")


def signed(value: int) -> int:
    """Of a varint that is an int64."""
    return value - (1 << 64) if value >> 63 else value


def _varint(data: Bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not byte & 0x80:
            return value, at
        if shift > 63:
            raise ValueError("a number is too long")
