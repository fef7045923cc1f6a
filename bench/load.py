"""The load: keep-alive HTTP/1.1 connections with requests encoded beforehand, in a process of its own.

It shares the machine with what it measures, so it does as little as it can while the clock runs: write bytes, find
the end of the answer, keep the bytes, send the next. Answers are decoded and judged after the clock has stopped.

    python -m bench.load < JOB

reads one `Job` and prints one `Measured`, both JSON.
"""

import asyncio
import datetime
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, Literal, cast

import msgspec
import uvloop

from bench.processes import by_name, spent

DEADLINE_S = 120.0
POLL_S = 0.05
#: A side that closes so many connections on its askers is not measured any further.
RESETS_AT_MOST = 2000


class Questions(msgspec.Struct):
    inputs: list[Any]
    answers: list[list[float]]


class Dialect(msgspec.Struct, frozen=True):
    """How a side is asked over HTTP."""

    ask: str  # the POST that is answered with the output
    submit: str = ""  # the POST that is answered with an id
    read: str = ""  # the path of a prediction, up to its id; none where nothing is kept, which is then not read back
    field: str = "features"  # of the body
    headers: str = ""  # of `ask`, a line each
    listed: bool = False  # `ask` takes and answers a list of one
    tensor: str = ""  # `ask` takes and answers tensors of the Open Inference Protocol, and this is the input's name


class Job(msgspec.Struct, kw_only=True):
    """`submit`: as fast as all callers can, until `count` or `seconds`, then until all have ended.
    `ask`: each caller asks, waits for the output and asks again.
    `poll`: 64 predictions are submitted; then each caller reads one after another, when they have ended or, where
    `waiting`, at once."""

    kind: Literal["submit", "ask", "poll"]
    port: int
    dialect: Dialect
    questions: Questions
    callers: int = 64
    count: int = 1_000_000
    seconds: float = 60.0
    warm_up: int = 64
    warm_up_s: float = 3.0  # at most
    waiting: bool = False
    tolerance: float = 1e-4
    pids: list[int] = []  # whose processor time is looked at, with their descendants
    judge_all: bool = True  # else a thousand of what was submitted are read back, and of the last one when it ended


class Measured(msgspec.Struct, kw_only=True):
    """Of one round of one side. What a kind does not measure is 0."""

    per_s: float = 0.0  # accepted, or rightly answered, a second
    completed_per_s: float = 0.0  # from the first submission to the last completion
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    right: int = 0
    wrong: int = 0  # wrong, failed, refused or never finished
    refused: int = 0  # of these, answers of another status than 2xx
    resets: int = 0  # connections closed under a question, which was asked again
    processor_us: dict[str, float] = {}  # of each process of the side, for each prediction
    generator_us: float = 0.0  # of this one

    @property
    def all_processor_us(self) -> float:
        return sum(self.processor_us.values())


class Tensor(msgspec.Struct):
    data: list[float]


class Reply(msgspec.Struct):
    """What the sides answer, as far as it is judged here."""

    id: str = ""
    task_id: str = ""
    status: str = ""
    output: list[float] | None = None
    outputs: list[Tensor] = []
    completed_at: datetime.datetime | None = None

    @property
    def terminal(self) -> bool:
        return self.output is not None or self.status in ("succeeded", "failed", "canceled", "expired")


_reply = msgspec.json.Decoder(Reply)
_bare = msgspec.json.Decoder(list[float])
_listed = msgspec.json.Decoder(list[list[float]])


class Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request on it."""

    def __init__(self) -> None:
        self.received = b""
        self.answer: asyncio.Future[tuple[int, bytes]] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.WriteTransport, transport)  # uvloop's is one without being a subclass

    def data_received(self, data: bytes) -> None:
        self.received += data
        if complete(self.received) and self.answer is not None:
            answer, self.received = self.received, b""
            self.answer.set_result(parted(answer))

    def connection_lost(self, exc: Exception | None) -> None:
        if self.answer is not None and not self.answer.done():
            self.answer.set_exception(exc or ConnectionResetError("the server closed the connection"))

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """(status, body)."""
        self.answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await self.answer


def complete(answer: bytes) -> bool:
    """Whether all of it is there, by its Content-Length or its last chunk."""
    end = answer.find(b"\r\n\r\n")
    if end < 0:
        return False
    at = answer.find(b"ontent-length:", 0, end)
    if at < 0:
        at = answer.find(b"ontent-Length:", 0, end)
    if at < 0:
        return answer.endswith(b"0\r\n\r\n") if b"chunked" in answer[:end].lower() else True
    stop = answer.find(b"\r\n", at)
    return len(answer) - end - 4 >= int(answer[at + 14 : stop])


def parted(answer: bytes) -> tuple[int, bytes]:
    """(status, body) of a complete answer."""
    head, _, body = answer.partition(b"\r\n\r\n")
    if b"transfer-encoding: chunked" in head.lower():
        body = unchunked(body)
    return int(head[9:12]), body


def unchunked(body: bytes) -> bytes:
    parts = []
    while body:
        size, _, body = body.partition(b"\r\n")
        length = int(size, 16)
        parts.append(body[:length])
        body = body[length + 2 :]
    return b"".join(parts)


class Load:
    """All callers and what they were told, while the clock runs."""

    def __init__(self, port: int, requests: Sequence[bytes]) -> None:
        self.port = port
        self.requests = requests
        self.callers: list[Caller] = []
        self.resets = 0

    async def connect(self, count: int) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(count):
            _, caller = await loop.create_connection(lambda: Caller(self), "127.0.0.1", self.port)
            self.callers.append(caller)

    async def run(self, count: int, seconds: float) -> float:
        """All ask until `count` are asked or `seconds` are over, and every answer is there; how long that took.

        Raises TimeoutError where answers do not come, ConnectionResetError where the side closes on its askers.
        """
        loop = asyncio.get_running_loop()
        self.answers: list[tuple[int, float, bytes]] = []  # which request, how long it took, what was answered
        self.numbers = iter(range(count))
        self.asking = len(self.callers)
        self.done: asyncio.Future[None] = loop.create_future()
        began = time.perf_counter()
        self.until = began + seconds
        for caller in self.callers:
            caller.ask()
        await asyncio.wait_for(self.done, seconds + DEADLINE_S)
        return time.perf_counter() - began

    def next(self, now: float) -> int:
        """The number of a request, -1 when there are no more."""
        number = next(self.numbers, -1) if now < self.until else -1
        if number < 0:
            self.asking -= 1
            if not self.asking and not self.done.done():
                self.done.set_result(None)
        return number

    def lost(self, caller: "Caller") -> None:
        """A side may close a connection after an answer (gunicorn does at each restart): asked again on a new one."""
        self.resets += 1
        if self.resets > RESETS_AT_MOST and not self.done.done():
            self.done.set_exception(ConnectionResetError(f"the server closed {RESETS_AT_MOST} connections"))
        elif not self.done.done():
            connecting = asyncio.get_running_loop().create_task(self.again(caller))
            connecting.add_done_callback(self.connected)

    async def again(self, caller: "Caller") -> None:
        await asyncio.sleep(0.001)
        await asyncio.get_running_loop().create_connection(lambda: caller, "127.0.0.1", self.port)
        caller.transport.write(self.requests[caller.number % len(self.requests)])

    def connected(self, task: "asyncio.Task[None]") -> None:
        error = task.exception()
        if error is not None and not self.done.done():
            self.done.set_exception(error)

    def close(self) -> None:
        for caller in self.callers:
            caller.number = -1
            caller.transport.close()


class Caller(asyncio.Protocol):
    """One connection: asks, keeps the answer, asks again. No task and no future a request."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.received = b""
        self.number = -1
        self.began = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.WriteTransport, transport)
        self.received = b""

    def ask(self) -> None:
        self.began = time.perf_counter()
        self.number = self.load.next(self.began)
        if self.number >= 0 and not self.transport.is_closing():
            self.transport.write(self.load.requests[self.number % len(self.load.requests)])

    def data_received(self, data: bytes) -> None:
        if self.received:
            data = self.received + data
        if not complete(data):
            self.received = data
            return
        self.received = b""
        self.load.answers.append((self.number, time.perf_counter() - self.began, data))
        self.ask()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.number >= 0:
            self.load.lost(self)


def post(port: int, path: str, body: bytes, headers: str = "") -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n{headers}\r\n"
    )
    return head.encode() + body


def get(port: int, path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()


def decoded(body: bytes) -> Reply:
    """A bare list is an output, or of one output. What cannot be read is a reply without one."""
    try:
        if body[:2] == b"[[":
            return Reply(output=_listed.decode(body)[0])
        if body[:1] == b"[":
            return Reply(output=_bare.decode(body))
        reply = _reply.decode(body)
        if reply.outputs:
            reply.output = reply.outputs[0].data
        return reply
    except (msgspec.DecodeError, IndexError):
        return Reply()


def _tensors(name: str, value: Any) -> bytes:
    """A batch of one."""
    tensor = {"name": name, "shape": [1, len(value)], "datatype": "FP32", "data": value}
    return msgspec.json.encode({"inputs": [tensor]})


class Round:
    """One job."""

    def __init__(self, job: Job) -> None:
        self.job = job
        dialect = job.dialect
        bodies = [msgspec.json.encode({dialect.field: value}) for value in job.questions.inputs]
        self.submits = [post(job.port, dialect.submit, body) for body in bodies]
        if dialect.listed:
            bodies = [msgspec.json.encode({dialect.field: [value]}) for value in job.questions.inputs]
        if dialect.tensor:
            bodies = [_tensors(dialect.tensor, value) for value in job.questions.inputs]
        self.asks = [post(job.port, dialect.ask, body, dialect.headers) for body in bodies]

    async def measure(self) -> Measured:
        return await {"submit": self.submit, "ask": self.ask, "poll": self.poll}[self.job.kind]()

    async def ask(self) -> Measured:
        load = await self.load(self.asks)
        measured = await self.timed(load)
        for number, _, answer in load.answers:
            self.judge(measured, number, answer)
        self.only_right(measured)
        load.close()
        return measured

    @staticmethod
    def only_right(measured: Measured) -> None:
        """A quick refusal is not an answer."""
        measured.per_s *= measured.right / (measured.right + measured.wrong)

    async def submit(self) -> Measured:
        load = await self.load(self.submits)
        await self.read_all(list(accepted(load.answers)))  # the warm-up's
        before, used, began = spent(self.job.pids), time.process_time(), time.time()
        took = await load.run(self.job.count, self.job.seconds)
        used = time.process_time() - used
        answers = load.answers
        ids = list(accepted(answers))
        if not ids:
            raise RuntimeError(f"nothing was accepted; the last answer: {answers[-1][2][:300]!r}")
        if not self.job.dialect.read:
            measured = self.summed(answers, took, before, used)
            measured.right, measured.wrong = len(ids), len(answers) - len(ids)
            load.close()
            return measured
        await self.read_all(ids[-1:])
        measured = self.summed(answers, took, before, used)
        step = 1 if self.job.judge_all else max(1, len(ids) // 1000)
        some = ids[::step] if step == 1 else [*ids[::step], *ids[-64:]]
        replies = await self.read_all(some)
        right = [reply for number, reply in replies if self.is_right(number, reply)]
        # The sides note when each one ended, by the clock of this machine; reading back costs none of them anything.
        ended = [reply.completed_at.timestamp() for reply in right if reply.completed_at is not None]
        measured.completed_per_s = len(ids) / (max(ended) - began) if ended else 0.0
        measured.right = len(right)
        measured.refused = len(answers) - len(ids)
        measured.wrong = measured.refused + len(some) - len(right)
        load.close()
        return measured

    async def poll(self) -> Measured:
        submitting = await self.load(self.submits)
        ids = list(accepted(submitting.answers))[:64]
        submitting.close()
        if not self.job.waiting:
            await self.read_all(ids)
        load = Load(self.job.port, [self.read(id_) for _, id_ in ids])
        await load.connect(self.job.callers)
        measured = await self.timed(load)
        for at, _, answer in load.answers:
            if self.job.waiting:
                status, body = parted(answer)
                good = status == 200 and not decoded(body).terminal
                measured.right += good
                measured.wrong += not good
            else:
                self.judge(measured, ids[at % len(ids)][0], answer)
        self.only_right(measured)
        load.close()
        return measured

    async def load(self, requests: Sequence[bytes]) -> Load:
        """Connected and warm."""
        load = Load(self.job.port, requests)
        await load.connect(self.job.callers)
        await load.run(self.job.warm_up, self.job.warm_up_s)
        return load

    async def timed(self, load: Load) -> Measured:
        before, used = spent(self.job.pids), time.process_time()
        took = await load.run(self.job.count, self.job.seconds)
        used = time.process_time() - used
        measured = self.summed(load.answers, took, before, used)
        measured.resets = load.resets
        return measured

    def summed(
        self, answers: list[tuple[int, float, bytes]], took: float, before: dict[str, float], used: float
    ) -> Measured:
        count = len(answers)
        times = sorted(took * 1000 for _, took, _ in answers)
        processors = by_name(before, spent(self.job.pids))
        return Measured(
            per_s=count / took,
            p50_ms=statistics.median(times),
            p99_ms=times[min(count - 1, int(count * 0.99))],
            processor_us={name: round(s / count * 1e6, 1) for name, s in processors.items() if s > 0},
            generator_us=round(used / count * 1e6, 1),
        )

    def judge(self, measured: Measured, number: int, answer: bytes) -> None:
        status, body = parted(answer)
        good = 200 <= status < 300 and self.is_right(number, decoded(body))
        measured.right += good
        measured.wrong += not good
        measured.refused += not 200 <= status < 300

    def is_right(self, number: int, reply: Reply) -> bool:
        expected = self.job.questions.answers[number % len(self.job.questions.answers)]
        return (
            reply.status in ("", "succeeded")
            and reply.output is not None
            and len(reply.output) == len(expected)
            and all(abs(got - right) < self.job.tolerance for got, right in zip(reply.output, expected, strict=True))
        )

    def read(self, id_: str) -> bytes:
        return get(self.job.port, f"{self.job.dialect.read}{id_}")

    async def read_all(self, ids: list[tuple[int, str]]) -> list[tuple[int, Reply]]:
        """(number, its terminal reply) of each that ends before the deadline."""
        if not ids or not self.job.dialect.read:
            return []
        left = iter(ids)
        deadline = time.monotonic() + DEADLINE_S
        replies: list[tuple[int, Reply]] = []
        loop = asyncio.get_running_loop()
        connections = [
            (await loop.create_connection(Connection, "127.0.0.1", self.job.port))[1] for _ in range(min(64, len(ids)))
        ]

        async def reader(connection: Connection) -> None:
            for number, id_ in left:
                reply = await self.until_terminal(connection, id_, deadline)
                if reply is not None:
                    replies.append((number, reply))

        # The last one first, alone: reading the others while they are still being computed would slow them down.
        await self.until_terminal(connections[0], ids[-1][1], deadline)
        await asyncio.gather(*map(reader, connections))
        for connection in connections:
            connection.transport.close()
        return replies

    async def until_terminal(self, connection: Connection, id_: str, deadline: float) -> Reply | None:
        request = self.read(id_)
        while time.monotonic() < deadline:
            _, body = await connection.ask(request)
            reply = decoded(body)
            if reply.terminal:
                return reply
            await asyncio.sleep(POLL_S)
        return None


def accepted(answers: list[tuple[int, float, bytes]]) -> Iterator[tuple[int, str]]:
    """(number, id) of those that were accepted, in order of acceptance."""
    for number, _, answer in answers:
        status, body = parted(answer)
        if 200 <= status < 300:
            reply = decoded(body)
            yield number, reply.id or reply.task_id


def main() -> None:
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    measured = uvloop.run(Round(job).measure())
    sys.stdout.write(msgspec.json.encode(measured).decode() + "\n")


if __name__ == "__main__":
    main()
