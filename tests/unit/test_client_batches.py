"""Batches of the client without any server: what is sent, sent again and understood, step by step."""

import gzip
import json
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway import Line
from headway.client.batches import BatchVerbs
from headway.client.errors import ApiError, Timeout, Unreachable
from headway.client.ndjson import WholeLines
from headway.client.records import Batch, Failure, Result
from headway.client.steps import Answer, Body, Came, Give, Lost, Pause, Send, Step, Verb
from headway.client.upload import Upload

OPEN = Answer(200, {}, b"")
BUSY = Answer(503, {"retry-after": "3"}, b"")
LOST = Lost("cut")


class Server:
    """Answers in turn; of each upload it takes so many bytes. Time goes on when a verb pauses."""

    def __init__(self, retries: int = 3) -> None:
        self.now = 100.0
        self.sent: list[Send] = []
        self.bodies: list[bytes] = []
        self.pauses: list[float] = []
        self.given: list[Any] = []
        self.verbs = BatchVerbs(60, retries, clock=lambda: self.now, chance=lambda: 0.0)

    def run(self, verb: Verb[Any], *answers: Came, taken: Iterable[int] = ()) -> Any:
        left, taking = list(answers), iter(taken)
        came: Came = None
        while True:
            try:
                step: Step = verb.send(came)
            except StopIteration as end:
                assert not left
                return end.value
            came = None
            if isinstance(step, Pause):
                self.now += step.seconds
                self.pauses.append(step.seconds)
            elif isinstance(step, Give):
                self.given.append(step.value)
            else:
                if isinstance(step, Send):
                    self.sent.append(step)
                    if step.body is not None and not isinstance(step.body, bytes):
                        self.bodies.append(_taken(step.body, next(taking, 1 << 62)))
                came = left.pop(0)


def _taken(body: Body, most: int) -> bytes:
    """Block by block, as a connection takes them until it breaks."""
    taken = b""
    for block in body.blocks():
        taken += block
        if len(taken) >= most:
            break
    return taken


@pytest.fixture
def server() -> Server:
    return Server()


def shown(status: str = "in_progress", **counts: int) -> Answer:
    body = {"id": "b1", "model": "m", "version": "1", "revision": 1, "created_at": "2026-01-02T03:04:05Z"}
    return Answer(202, {}, json.dumps({**body, "status": status, "request_counts": counts, "to come": 1}).encode())


def lines(*numbers: int) -> bytes:
    return b"".join(b'{"line":%d,"custom_id":null,"output":{"n":%d}}\n' % (n, n) for n in numbers)


def inputs(body: bytes) -> list[Any]:
    return [json.loads(line)["input"] for line in body.splitlines()]


def test_a_file_is_sent_as_it_is_and_what_it_is_is_told_by_its_first_bytes(server: Server, tmp_path: Path) -> None:
    plain = b'{"input": 1}\n\n{"custom_id": "a", "input": 2}'
    told = {
        plain: {"content-type": "application/x-ndjson"},
        gzip.compress(plain): {"content-type": "application/x-ndjson", "content-encoding": "gzip"},
        b"PAR1 and so on": {"content-type": "application/vnd.apache.parquet"},
        b"": {"content-type": "application/x-ndjson"},
    }
    for number, (content, headers) in enumerate(told.items()):
        file = tmp_path / "any name"
        file.write_bytes(content)
        with Upload(file) as upload:
            batch = server.run(server.verbs.create(upload, "m", {"idempotency_key": "k", "priority": 0}), shown())
        assert isinstance(batch, Batch)
        assert (batch.id, batch.ended) == ("b1", False)
        assert server.bodies[number] == content
        assert server.sent[number].headers == {**headers, "idempotency-key": '"k"'}
        assert server.sent[number].query == {"model": "m", "priority": "0"}


def test_inputs_become_lines_and_those_with_names_keep_them(server: Server) -> None:
    values = [{"text": "é"}, None, "a string", np.array([1, 2]), Line([3], custom_id="mine"), Line(4)]
    with Upload(values) as upload:
        server.run(server.verbs.create(upload, "m", {}), shown())
    assert [json.loads(line) for line in server.bodies[0].splitlines()] == [
        {"input": {"text": "é"}},
        {"input": None},
        {"input": "a string"},
        {"input": [1, 2]},
        {"custom_id": "mine", "input": [3]},
        {"input": 4},
    ]


@pytest.mark.parametrize("source", [b"{}", {"input": 1}, 7, None])
def test_what_is_no_batch_is_refused_before_anything_is_sent(source: Any) -> None:
    with pytest.raises(TypeError, match="a path or an iterable of inputs"):
        Upload(source)


def test_an_upload_that_breaks_off_is_sent_from_its_beginning_under_the_same_key(
    server: Server, tmp_path: Path
) -> None:
    file = tmp_path / "large"
    file.write_bytes(bytes(range(256)) * 2000)
    sent: list[int] = []
    with Upload(file, sent.append) as upload:
        answers: list[Came] = [LOST, LOST, BUSY, shown()]
        server.run(server.verbs.create(upload, "m", {}), *answers, taken=[1, 200_000, 1])
    assert [len(body) for body in server.bodies] == [65536, 262144, 65536, 512_000]
    assert server.bodies[3] == file.read_bytes()
    assert len({send.headers["idempotency-key"] for send in server.sent}) == 1
    assert sent[-1] == 512_000
    assert server.pauses == [0.125, 0.125, 3.25]  # the second one came further than the first


def test_an_iterable_is_gone_through_once_however_often_it_is_sent(server: Server) -> None:
    made: list[int] = []

    def values() -> Iterator[str]:
        for number in range(3000):
            made.append(number)
            yield f"{number} {'x' * 100}"

    with Upload(values()) as upload:
        server.run(server.verbs.create(upload, "m", {}), LOST, BUSY, shown(), taken=[1, 150_000])
    assert made == list(range(3000))
    assert 0 < len(server.bodies[0]) < len(server.bodies[1]) < len(server.bodies[2])
    assert server.bodies[2].startswith(server.bodies[1])
    assert [text.split()[0] for text in inputs(server.bodies[2])] == [str(number) for number in made]


def test_an_upload_is_given_up_when_it_comes_no_further(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "large"
    file.write_bytes(b"x" * 300_000)
    with Upload(file) as upload, pytest.raises(Unreachable, match="cut"):
        server.run(server.verbs.create(upload, "m", {}), *[LOST] * 5, taken=[1, 70_000, 70_000, 70_000, 70_000])
    refused = Answer(404, {}, b'{"code": "model_not_found", "detail": "No."}')
    with Upload(file) as upload, pytest.raises(ApiError, match="model_not_found"):
        server.run(server.verbs.create(upload, "m", {}), LOST, refused)


def test_an_iterable_that_breaks_is_no_lost_connection(server: Server) -> None:
    def values() -> Iterator[int]:
        yield 1
        raise httpx.ReadError("the source is gone")

    with Upload(values()) as upload:
        verb = server.verbs.create(upload, "m", {})
        send = next(verb)
        assert isinstance(send, Send)
        assert isinstance(send.body, Upload)
        with pytest.raises(httpx.ReadError):
            list(send.body.blocks())
        with pytest.raises(httpx.ReadError, match="the source is gone"):
            verb.send(LOST)  # as which a client took it
    with Upload([1, {2}]) as upload, pytest.raises(TypeError, match="input 2: a set cannot be sent"):
        list(upload.blocks())
    with Upload([1, float("nan")]) as upload, pytest.raises(ValueError, match=r"input 2: .*not JSON compliant"):
        list(upload.blocks())


def test_results_are_typed_and_end_when_a_batch_that_has_ended_has_no_more(server: Server) -> None:
    failed = b'{"line":3,"custom_id":"c","error":{"code":"invalid_input","message":"no","retryable":false}}\n'
    server.run(server.verbs.results("b1", 0), OPEN, lines(1), b"\n", failed, b"", shown("completed"), OPEN, b"")
    assert server.given == [
        Result(1, output={"n": 1}),
        Result(3, "c", error=Failure("invalid_input", "no", retryable=False)),
    ]
    assert [(send.path, dict(send.query)) for send in server.sent] == [
        ("/v1/batches/b1/results", {}),
        ("/v1/batches/b1", {}),
        ("/v1/batches/b1/results", {"after": "3"}),
    ]


def test_results_go_on_after_the_last_whole_line_whatever_ends_a_stream(server: Server) -> None:
    told: list[Came] = [
        *(OPEN, lines(4, 5) + lines(6)[:9], LOST),
        *(OPEN, lines(6), b"", shown("in_progress")),  # a server that was stopped ends its streams properly
        *(BUSY, LOST),
        *(OPEN, lines(7)[:5], lines(7)[5:], lines(8)[:7], b"", shown("completed")),
        *(OPEN, lines(8), b"", shown("completed")),
        *(OPEN, b""),
    ]
    server.run(server.verbs.results("b1", 3), *told)
    assert [result.line for result in server.given] == [4, 5, 6, 7, 8]
    assert [send.query["after"] for send in server.sent if send.stream] == ["3", "5", "6", "6", "6", "7", "8"]
    assert server.pauses == [0.125, 0.125, 3.25, 0.5]


def test_results_that_break_off_again_and_again_without_a_word_are_given_up() -> None:
    answers: list[Came] = [OPEN, b"", shown()] * 4
    with pytest.raises(Unreachable, match="before the batch did"):
        Server(retries=0).run(Server().verbs.results("b1", 0), *answers)
    refused = Answer(404, {}, b'{"code": "batch_not_found", "detail": "No."}')
    with pytest.raises(ApiError, match="batch_not_found"):
        Server().run(Server().verbs.results("b1", 0), refused)
    with pytest.raises(ApiError, match="no answer of a Headway server"):
        Server().run(Server().verbs.results("b1", 0), OPEN, b"<html>\n")


def test_waiting_looks_less_and_less_often_and_never_past_the_callers_time(server: Server) -> None:
    batch = server.run(server.verbs.wait("b1", None), *[shown()] * 20, shown("completed", total=2, completed=1))
    assert (batch.status, batch.request_counts.total, batch.request_counts.ended) == ("completed", 2, 1)
    assert server.pauses[0] == 0.2
    assert server.pauses[-1] == 5.0
    at = server.now
    with pytest.raises(Timeout, match="still in_progress"):
        server.run(server.verbs.wait("b1", 1.0), *[shown()] * 5)
    assert server.now == pytest.approx(at + 1)


def test_batches_are_listed_page_by_page(server: Server) -> None:
    def page(count: int, last_id: str | None) -> Answer:
        data = [json.loads(shown().body)] * count
        return Answer(200, {}, json.dumps({"data": data, "has_more": last_id is not None, "last_id": last_id}).encode())

    server.run(server.verbs.list({"status": "in_progress"}, None), page(100, "x"), page(1, None))
    assert len(server.given) == 101
    assert server.sent[1].query == {"status": "in_progress", "limit": "100", "after": "x"}


STREAM = b'\n\n{"a": 1}\n\n\n{"b": "' + "é".encode() * 100 + b'"}\n{"c": 3}\n\n{"unfinished'


@given(st.lists(st.integers(0, len(STREAM))))
def test_lines_may_be_cut_anywhere(cuts: list[int]) -> None:
    places = sorted({*cuts, 0, len(STREAM)})
    whole = WholeLines()
    found = b"".join(whole.feed(STREAM[begin:end]) for begin, end in pairwise(places))
    assert found == b'{"a": 1}\n{"b": "' + "é".encode() * 100 + b'"}\n{"c": 3}\n'
