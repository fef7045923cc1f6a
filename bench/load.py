"""The load: keep-alive HTTP/1.1 connections with requests encoded beforehand, in a process of its own.

It shares the machine with what it measures, so it does as little as it can while the clock runs: write bytes, find
the end of the answer, keep the bytes. Answers are decoded and judged after the clock has stopped.

    python -m bench.load plain|headway PORT --questions FILE [--count N] [--callers N] [--waits N]

prints one JSON object (`Measured`).
"""

import argparse
import asyncio
import datetime
import itertools
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, cast

import msgspec
import uvloop

DEADLINE_S = 120.0
POLL_S = 0.05
WARM_UP = 64


class Questions(msgspec.Struct):
    inputs: list[list[float]]
    answers: list[list[float]]


class Reply(msgspec.Struct):
    """What both sides answer, as far as it is judged here."""

    id: str
    status: str = "pending"
    output: list[float] | None = None
    completed_at: datetime.datetime | None = None

    @property
    def terminal(self) -> bool:
        return self.status in ("succeeded", "failed", "canceled", "expired")


class Measured(msgspec.Struct, kw_only=True):
    accepted_per_s: float  # answers 202 a second while all callers submit
    completed_per_s: float  # right answers a second, from the first submission to the last completion
    p50_ms: float  # one caller, submit and wait
    p95_ms: float
    right: int
    wrong: int  # wrong, failed, refused or never finished


class Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request on it."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.answer: asyncio.Future[tuple[int, bytes]] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.WriteTransport, transport)  # uvloop's is one without being a subclass

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, separator, body = self.received.partition(b"\r\n\r\n")
        if separator and len(body) >= content_length(head) and self.answer is not None:
            self.received.clear()
            self.answer.set_result((int(head[9:12]), bytes(body)))

    def connection_lost(self, exc: Exception | None) -> None:
        if self.answer is not None and not self.answer.done():
            self.answer.set_exception(exc or ConnectionResetError("the server closed the connection"))

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """(status, body)."""
        self.answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await self.answer


def content_length(head: bytearray) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line[15:])
    return 0


class Side:
    """The requests of one side, encoded."""

    def __init__(self, name: Literal["plain", "headway"], port: int, inputs: list[list[float]]) -> None:
        self.host = f"127.0.0.1:{port}"
        field = "features" if name == "plain" else "input"
        bodies = [msgspec.json.encode({field: features}) for features in inputs]
        if name == "plain":
            self.submits = [self._post("/predictions", body) for body in bodies]
            self.waits = [self._post("/predict", body) for body in bodies]
            self._read = "/predictions/"
        else:
            create = "/v1/models/mlp/predictions"
            self.submits = [self._post(create, body) for body in bodies]
            self.waits = [self._post(create, body, "Prefer: wait=60\r\n") for body in bodies]
            self._read = "/v1/predictions/"

    def _post(self, path: str, body: bytes, headers: str = "") -> bytes:
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {self.host}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n{headers}\r\n"
        )
        return head.encode() + body

    def read(self, id_: str) -> bytes:
        return f"GET {self._read}{id_} HTTP/1.1\r\nHost: {self.host}\r\n\r\n".encode()


_reply = msgspec.json.Decoder(Reply)


class Load:
    def __init__(self, side: Side, questions: Questions, connections: list[Connection]) -> None:
        self.side = side
        self.questions = questions
        self.connections = connections

    async def submit(self, count: int) -> list[tuple[int, int, bytes]]:
        """All callers submit until `count` are sent; (number, status, body) each."""
        numbers = iter(range(count))
        answers: list[tuple[int, int, bytes]] = []
        submits = self.side.submits

        async def caller(connection: Connection) -> None:
            for number in numbers:
                status, body = await connection.ask(submits[number % len(submits)])
                answers.append((number, status, body))

        await asyncio.gather(*map(caller, self.connections))
        return answers

    async def read_all(self, ids: list[tuple[int, str]]) -> list[tuple[int, Reply]]:
        """(number, its terminal reply) of each that ends before the deadline."""
        left = iter(ids)
        deadline = time.monotonic() + DEADLINE_S
        replies: list[tuple[int, Reply]] = []

        async def reader(connection: Connection) -> None:
            for number, id_ in left:
                reply = await self.until_terminal(connection, id_, deadline)
                if reply is not None:
                    replies.append((number, reply))

        # The last one first, alone: reading the others while they are still being computed would slow them down.
        await self.until_terminal(self.connections[0], ids[-1][1], deadline)
        await asyncio.gather(*map(reader, self.connections))
        return replies

    async def until_terminal(self, connection: Connection, id_: str, deadline: float) -> Reply | None:
        request = self.side.read(id_)
        while time.monotonic() < deadline:
            _, body = await connection.ask(request)
            reply = _reply.decode(body)
            if reply.terminal:
                return reply
            await asyncio.sleep(POLL_S)
        return None

    async def wait_one_by_one(self, count: int) -> tuple[list[float], int]:
        """(milliseconds of each, how many answers were right) of one caller who submits and waits."""
        times, right = [], 0
        for number, request in zip(range(count), itertools.cycle(self.side.waits), strict=False):
            began = time.perf_counter()
            _, body = await self.connections[0].ask(request)
            times.append((time.perf_counter() - began) * 1000)
            right += self.is_right(number, _reply.decode(body))
        return times, right

    def is_right(self, number: int, reply: Reply) -> bool:
        answer = self.questions.answers[number % len(self.questions.answers)]
        return (
            reply.status == "succeeded"
            and reply.output is not None
            and len(reply.output) == len(answer)
            and all(abs(got - right) < 1e-4 for got, right in zip(reply.output, answer, strict=True))
        )

    async def measure(self, count: int, waits: int) -> Measured:
        warm = await self.submit(WARM_UP)
        await self.read_all(list(accepted(warm)))

        began_wall, began = time.time(), time.perf_counter()
        answers = await self.submit(count)
        submitting_s = time.perf_counter() - began
        ids = list(accepted(answers))
        replies = await self.read_all(ids)

        right = [reply for number, reply in replies if self.is_right(number, reply)]
        # Both sides note when each one ended, by the clock of this machine; reading them back costs neither anything.
        ended = [reply.completed_at.timestamp() for reply in right if reply.completed_at is not None]
        times, waited_right = await self.wait_one_by_one(waits)
        return Measured(
            accepted_per_s=len(ids) / submitting_s,
            completed_per_s=len(ended) / (max(ended) - began_wall) if ended else 0.0,
            p50_ms=statistics.median(times),
            p95_ms=statistics.quantiles(times, n=20)[-1],
            right=len(right) + waited_right,
            wrong=count + waits - len(right) - waited_right,
        )


def accepted(answers: list[tuple[int, int, bytes]]) -> Iterator[tuple[int, str]]:
    """(number, id) of those that were accepted, in order of acceptance."""
    return ((number, _reply.decode(body).id) for number, status, body in answers if status == 202)


async def run(options: argparse.Namespace) -> Measured:
    questions = msgspec.json.decode(options.questions.read_bytes(), type=Questions)
    loop = asyncio.get_running_loop()
    connections = [
        (await loop.create_connection(Connection, "127.0.0.1", options.port))[1] for _ in range(options.callers)
    ]
    try:
        load = Load(Side(options.side, options.port, questions.inputs), questions, connections)
        return await load.measure(options.count, options.waits)
    finally:
        for connection in connections:
            connection.transport.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="Load one side of the benchmark and print what was measured, as JSON.")
    parser.add_argument("side", choices=["plain", "headway"])
    parser.add_argument("port", type=int)
    parser.add_argument("--questions", type=Path, required=True)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--callers", type=int, default=64)
    parser.add_argument("--waits", type=int, default=200)
    options = parser.parse_args()
    measured = uvloop.run(run(options))
    sys.stdout.write(msgspec.json.encode(measured).decode() + "\n")


if __name__ == "__main__":
    main()
