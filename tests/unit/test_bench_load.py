"""The load generator: where an answer ends, what it says, who is asked again."""

import asyncio
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from bench.load import Dialect, Job, Load, Questions, Round, accepted, complete, decoded, get, parted
from bench.processes import by_name, name_of
from bench.queued import rate
from bench.rounds import Contender
from bench.sides import Missing, Side

LENGTH = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "whole"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-le", False),
        (LENGTH + b"1234", False),
        (LENGTH + b"12345", True),
        (LENGTH.replace(b"content-length", b"Content-Length") + b"1234", False),
        (CHUNKED + b"2\r\n[1\r\n", False),
        (CHUNKED + b"2\r\n[1\r\n1\r\n]\r\n0\r\n\r\n", True),
    ],
)
def test_an_answer_is_complete_when_its_length_or_its_last_chunk_is_there(answer: bytes, whole: bool) -> None:
    assert complete(answer) is whole


def test_chunks_are_put_together() -> None:
    assert parted(CHUNKED + b"2\r\n[1\r\n1\r\n]\r\n0\r\n\r\n") == (200, b"[1]")


@pytest.mark.parametrize(
    ("body", "output"),
    [
        (b"[1.0, 2.0]", [1.0, 2.0]),
        (b"[[1.0, 2.0]]", [1.0, 2.0]),
        (b'{"output": [1.0, 2.0], "status": "succeeded"}', [1.0, 2.0]),
        (b'{"error": "no"}', None),
        (b"Bad Gateway", None),
        (b"[]]", None),
    ],
)
def test_the_output_is_found_in_every_side_s_answer(body: bytes, output: list[float] | None) -> None:
    assert decoded(body).output == output


def test_only_the_accepted_count_and_by_either_name_of_the_id() -> None:
    told = [
        b'HTTP/1.1 202 OK\r\n\r\n{"id": "a"}',
        b"HTTP/1.1 429 No\r\n\r\n{}",
        b'HTTP/1.1 200 OK\r\n\r\n{"task_id": "b"}',
    ]
    assert list(accepted([(number, 0.0, answer) for number, answer in enumerate(told)])) == [(0, "a"), (2, "b")]


def job(port: int) -> Job:
    questions = Questions([[0.0], [1.0]], [[0.0], [1.0]])
    return Job(kind="ask", port=port, dialect=Dialect(ask="/"), questions=questions, callers=2, count=10, warm_up=2)


async def serve(answers: list[bytes]) -> tuple[asyncio.Server, int]:
    """Answers in turn; an empty one closes the connection instead."""
    turn = iter(range(1_000_000))

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]))
                answer = answers[next(turn) % len(answers)]
                if not answer:
                    return
                writer.write(answer)
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    return server, server.sockets[0].getsockname()[1]


def test_every_answer_is_judged_and_wrong_ones_are_counted() -> None:
    async def measured() -> tuple[int, int]:
        body = b'{"output": [0.0]}'
        server, port = await serve([b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)])
        async with server:
            result = await Round(job(port)).measure()
        return result.right, result.wrong

    assert asyncio.run(measured()) == (5, 5)  # every second question has another answer


def test_a_question_whose_connection_was_closed_is_asked_again() -> None:
    async def measured() -> tuple[int, int]:
        body = b"[0.0]"
        good = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
        server, port = await serve([good, b"", good])
        async with server:
            load = Load(port, [Round(job(port)).asks[0]])
            await load.connect(2)
            await load.run(20, 10.0)
            load.close()
        return len(load.answers), load.resets

    answers, resets = asyncio.run(measured())
    assert answers == 20
    assert resets > 0


def test_a_read_is_one_request() -> None:
    assert get(80, "/x") == b"GET /x HTTP/1.1\r\nHost: 127.0.0.1:80\r\n\r\n"


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["python", "-m", "launch", "api"], "api"),
        (["python", "-m", "launch", "up"], "up"),
        (["echo@1#0"], "device"),
        (["/usr/bin/valkey-server", "*:1"], "valkey"),
        (["/venv/bin/mosec"], "mosec"),
        ([], "gone"),
    ],
)
def test_processes_have_names(words: list[str], name: str) -> None:
    assert name_of(words) == name


def test_processor_time_is_summed_by_name() -> None:
    assert by_name({"api:1": 1.0, "api:2": 2.0, "old:3": 1.0}, {"api:1": 1.5, "api:2": 3.0, "new:4": 0.25}) == {
        "api": 1.5,
        "new": 0.25,
    }


def test_a_side_that_fails_twice_is_given_up_and_a_missing_one_at_once(tmp_path: Path) -> None:
    def broken(folder: Path) -> AbstractContextManager[Side]:
        raise OSError("no port")

    def missing(folder: Path) -> AbstractContextManager[Side]:
        raise Missing("not installed")

    one, other = Contender("one", broken, lambda side: {}), Contender("other", missing, lambda side: {})
    one.run(tmp_path)
    assert not one.given_up
    one.run(tmp_path)
    assert one.given_up
    other.run(tmp_path)
    assert other.given_up
    assert one.failures == ["OSError: no port"] * 2


def test_a_rate_counts_whole_micro_batches_between_two_of_them() -> None:
    moments = [second * 100_000 for second in range(40) for _ in range(32)]
    assert rate(moments) == pytest.approx(320)
