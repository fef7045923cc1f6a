"""A file as it comes in: the same blocks however it arrives, in bounded memory, and bombs refused."""

import asyncio
import gzip
import itertools
import zlib
from collections.abc import AsyncIterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.lines import BLOCK_BYTES, BLOCK_LINES, LineCutter, Lines, unzipped
from api.problems import Problem


def cut(pieces: Sequence[bytes], longest: int = 100) -> tuple[list[Lines], LineCutter]:
    cutter = LineCutter(longest)
    blocks = [block for piece in pieces for block in cutter.feed(piece)]
    return [*blocks, *cutter.close()], cutter


def parted(data: bytes, places: Sequence[int]) -> list[bytes]:
    ends = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(ends)]


@given(
    st.lists(st.binary(max_size=120).filter(lambda line: b"\n" not in line), max_size=30),
    st.lists(st.integers(0, 5_000)),
)
def test_lines_and_digest_do_not_depend_on_how_the_bytes_arrive(lines: list[bytes], places: list[int]) -> None:
    data = b"\n".join(lines)
    blocks, cutter = cut(parted(data, places))
    whole, other = cut([data])
    assert blocks == whole
    assert cutter.digest == other.digest
    expected = data.split(b"\n")
    if expected[-1] == b"":
        expected.pop()
    assert [line for block in blocks for line in block.lines] == [
        line if len(line) <= 100 else None for line in expected
    ]


def test_blocks_end_by_lines_or_by_bytes_and_are_numbered() -> None:
    blocks, cutter = cut([b"x\n" * (2 * BLOCK_LINES + 1)])
    assert [(block.number, block.first, block.last) for block in blocks] == [
        (0, 1, 250),
        (1, 251, 500),
        (2, 501, 501),
    ]
    assert [block.before for block in blocks] == ["", blocks[0].after, blocks[1].after]
    assert (cutter.blocks, cutter.digest) == (3, blocks[2].after)
    blocks, _ = cut([b"x" * (BLOCK_BYTES // 2) + b"\n"] * 5, longest=BLOCK_BYTES)
    assert [len(block.lines) for block in blocks] == [2, 2, 1]


@pytest.mark.parametrize("change", [b"y\n", b"x", b"\n", b"x\n\n", b"x\nx\n"])
def test_another_file_has_another_digest(change: bytes) -> None:
    _, cutter = cut([b"x\n" * 3])
    _, other = cut([b"x\n" * 2 + change])
    assert (other.digest == cutter.digest) == (change == b"x")  # the end of the last line does not count


def test_a_line_that_is_too_long_is_not_kept() -> None:
    cutter = LineCutter(1_000)
    for _ in range(10_000):
        assert list(cutter.feed(b"x" * 1_000)) == []
        assert sum(map(len, cutter._rest)) <= 1_000
    (block,) = [*cutter.feed(b"\ngood"), *cutter.close()]
    assert block.lines == [None, b"good"]


def unpacked(pieces: Sequence[bytes]) -> bytes:
    async def come() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    async def collect() -> bytes:
        return b"".join([piece async for piece in unzipped(come())])

    return asyncio.run(collect())


@given(st.lists(st.binary(max_size=2_000), max_size=5), st.lists(st.integers(0, 10_000), max_size=10))
def test_gzip_of_any_members_in_any_pieces_comes_out_whole(members: list[bytes], places: list[int]) -> None:
    packed = b"".join(gzip.compress(member) for member in members)
    assert unpacked(parted(packed, places)) == b"".join(members)


def test_a_full_piece_is_not_taken_for_the_end() -> None:
    data = bytes(range(256)) * 4096  # a whole number of pieces
    assert unpacked([gzip.compress(data)]) == data


@given(st.integers(1, 200))
def test_gzip_that_was_cut_off_is_refused(missing: int) -> None:
    packed = gzip.compress(b"".join(b"%d\n" % (n * n) for n in range(300)))
    with pytest.raises(Problem, match="ends before"):
        unpacked([packed[:-missing]])


def test_a_bomb_is_refused_after_a_little() -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(100)) + packer.flush()
    seen = 0

    async def come() -> AsyncIterator[bytes]:
        yield bomb

    async def collect() -> None:
        nonlocal seen
        async for piece in unzipped(come()):
            seen += len(piece)

    with pytest.raises(Problem) as caught:
        asyncio.run(collect())
    assert caught.value.code == "payload_too_large"
    assert seen <= 2 << 20
