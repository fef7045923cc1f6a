"""A file as it comes in, cut into lines and those into blocks, in bounded memory whatever is sent.

Where a block ends depends on the bytes alone, so the same file makes the same blocks each time it is sent, however it
arrives. A block's digest has that of the block before it in it.
"""

import hashlib
import zlib
from collections.abc import AsyncIterator, Iterator
from typing import NamedTuple

from api.problems import Problem

#: A block ends with whichever comes first.
BLOCK_LINES = 250
BLOCK_BYTES = 1 << 20

#: Before any block.
NO_DIGEST = ""

#: Bytes that gzip makes at a time.
_PIECE = 1 << 18
#: A file may unpack to so many times its size, beyond so many bytes: JSON of real data shrinks to a tenth, a bomb to a
#: thousandth.
_MOST_RATIO = 100
_RATIO_BEYOND = 1 << 20


class Lines(NamedTuple):
    """A block: its number, the number of its first line, and the lines; None for one that is too long."""

    number: int
    first: int
    lines: list[bytes | None]
    before: str
    after: str

    @property
    def last(self) -> int:
        return self.first + len(self.lines) - 1


class LineCutter:
    """Bytes in, blocks out."""

    def __init__(self, longest: int) -> None:
        """`longest`: bytes of a line, without its end."""
        self._longest = longest
        self._rest: list[bytes] = []  # of a line that has not ended
        self._length = 0  # of that line
        self._lines: list[bytes | None] = []
        self._size = 0
        self._hash = hashlib.blake2b(digest_size=16)
        self._number = 0
        self._first = 1
        self._digest = NO_DIGEST

    def feed(self, piece: bytes) -> Iterator[Lines]:
        *ended, rest = piece.split(b"\n")
        for line in ended:
            self._take(line)
            yield from self._end_line()
        self._take(rest)

    def close(self) -> Iterator[Lines]:
        """What is left; a last line need not have an end."""
        if self._length:
            yield from self._end_line()
        if self._lines:
            yield self._end_block()

    @property
    def digest(self) -> str:
        """Of all blocks."""
        return self._digest

    @property
    def blocks(self) -> int:
        return self._number

    def _take(self, part: bytes) -> None:
        if not part:
            return
        self._length += len(part)
        if self._length <= self._longest:
            self._rest.append(part)
        else:
            self._rest.clear()

    def _end_line(self) -> Iterator[Lines]:
        line = None if self._length > self._longest else self._rest[0] if len(self._rest) == 1 else b"".join(self._rest)
        if line is None:  # it was not kept; its length has to do
            self._hash.update(b"\0%d\n" % self._length)
        else:
            self._hash.update(line)
            self._hash.update(b"\n")
            self._size += len(line)
        self._rest.clear()
        self._length = 0
        self._lines.append(line)
        if len(self._lines) >= BLOCK_LINES or self._size >= BLOCK_BYTES:
            yield self._end_block()

    def _end_block(self) -> Lines:
        before = self._digest
        self._hash.update(before.encode())
        self._digest = self._hash.hexdigest()
        block = Lines(self._number, self._first, self._lines, before, self._digest)
        self._number += 1
        self._first += len(self._lines)
        self._lines, self._size = [], 0
        self._hash = hashlib.blake2b(digest_size=16)
        return block


async def unzipped(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """What gzip had packed, in small pieces. Raises Problem: not gzip, cut off, or a bomb."""
    member = zlib.decompressobj(31)
    packed = unpacked = 0
    begun = False
    async for piece in pieces:
        out = b""
        while piece or len(out) == _PIECE:  # a full piece: more of it may wait inside
            if member.eof and piece:  # a file may have several members, one after the other
                member = zlib.decompressobj(31)
            begun = True
            try:
                out = member.decompress(piece, _PIECE)
            except zlib.error as error:
                raise Problem("malformed_request", "The body is not valid gzip.") from error
            rest = member.unused_data if member.eof else member.unconsumed_tail
            unpacked += len(out)
            packed += len(piece) - len(rest)
            piece = rest
            if unpacked > _RATIO_BEYOND and unpacked > _MOST_RATIO * packed:
                raise Problem("payload_too_large", f"The body unpacks to more than {_MOST_RATIO} times its size.")
            if out:
                yield out
    if begun and not member.eof:
        raise Problem("malformed_request", "The gzip stream ends before it is complete.")
