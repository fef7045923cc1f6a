"""What `make bench-overload` runs: three times as many submissions as the system can serve, and slow connections beside
good ones. See bench/README.md.

One process asks, the system under test is `headway up` with its defaults and a model that takes its time without using
the processor, as a device does. Submissions come at their times whether or not earlier ones were answered, and each is
timed from when it was due, so that what waits for a connection counts as well.
"""

import argparse
import asyncio
import contextlib
import json
import os
import sqlite3
import statistics
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import httpx
import msgspec
import uvloop
from rich.console import Console
from rich.table import Table

from bench.load import Connection
from bench.slow_clients import Seen
from headway.running import RunningHeadway, command_line, descendants

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results" / "overload.json"

MODEL = """
import time

from headway import Model


class Device(Model):
    def predict(self, inputs):
        time.sleep({seconds})
        return inputs
"""
BATCH, BATCH_S = 16, 0.04
TOML = f"""\
[batching]
max_batch_size = {BATCH}
max_queue = 2000
"""
#: Of the clock while it is measured; the first seconds of a load are left out.
WARM_UP_S = 5.0
DRAIN_S = 60.0
BODY = b'{"input": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]}'

#: The generator sleeps so long between two looks at what is due.
_STEP_S = 0.002
_PARTS = ("api", "worker", "utility")

console = Console(highlight=False)


def main() -> int:
    parser = argparse.ArgumentParser(description="Headway under three times its capacity, and among slow connections.")
    parser.add_argument("--seconds", type=float, default=120.0, help="of overload")
    parser.add_argument("--times", type=float, default=3.0, help="submissions a second, of the capacity")
    parser.add_argument("--connections", type=int, default=256, help="that submit")
    parser.add_argument("--slow", type=int, default=2000, help="slow connections")
    parser.add_argument("--slow-seconds", type=float, default=40.0)
    parser.add_argument("--crowd", type=int, default=2000, help="connections that submit again as soon as answered")
    parser.add_argument("--crowd-seconds", type=float, default=20.0)
    options = parser.parse_args()
    scratch = ROOT / ".headway"
    scratch.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="overload-", dir=scratch) as folder:
        version = Path(folder, "models", "device", "1")
        version.mkdir(parents=True)
        (version / "model.py").write_text(MODEL.format(seconds=BATCH_S), encoding="utf-8")
        (version.parent / "model.toml").write_text(TOML, encoding="utf-8")
        with RunningHeadway(Path(folder, "run"), models=version.parent.parent) as system:
            console.print("measuring …")
            measured = uvloop.run(measure(system, options))
    return report(measured, options)


async def measure(system: RunningHeadway, options: argparse.Namespace) -> dict[str, object]:
    port = int(system.data_url.rpartition(":")[2])
    await loaded(system)
    callers = Callers(port, options.connections)
    await callers.connect()
    capacity = await measure_capacity(system, callers)
    console.print(f"capacity: {capacity:,.0f} completed/s")
    unloaded = await callers.submit(capacity / 10, 10.0)
    await drained(system)

    memory = Memory(system.process.pid)
    watching = asyncio.create_task(memory.watch())
    began = time.time()
    api = system.pid_of("api")
    spent_s = processor_s(api)
    load = await callers.submit(capacity * options.times, options.seconds)
    spent_s = processor_s(api) - spent_s
    goodput = completed(system, began + WARM_UP_S, began + options.seconds) / (options.seconds - WARM_UP_S)
    await drained(system)
    watching.cancel()
    accepted = load.statuses[202]
    unfinished = accepted - completed(system, began, time.time())

    quiet = await callers.submit(50, 20.0)
    slow_clients = [sys.executable, "-m", "bench.slow_clients", str(port), "--count", str(options.slow)]
    slowing = await asyncio.create_subprocess_exec(
        *slow_clients, "--seconds", str(options.slow_seconds), cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    await asyncio.sleep(WARM_UP_S)
    beside = await callers.submit(50, options.slow_seconds - WARM_UP_S)
    said, _ = await slowing.communicate()
    slow = msgspec.json.decode(said, type=Seen)
    await drained(system)

    crowd = await crowded(port, options.crowd, options.crowd_seconds)
    await drained(system)
    callers.close()
    return {
        "capacity_per_s": capacity,
        "offered_per_s": capacity * options.times,
        "statuses": dict(load.statuses),
        "without_retry_after": load.without_retry_after,
        "goodput_per_s": goodput,
        "goodput_share": goodput / capacity,
        "unloaded_p99_ms": p99(unloaded.accepted_ms),
        "accepted_p50_ms": statistics.median(load.accepted_ms),
        "accepted_p99_ms": p99(load.accepted_ms),
        "accepted_p99_ms_since_sent": p99(load.answered_ms),
        "api_processor_ms_per_answer": spent_s * 1000 / sum(load.statuses.values()),
        "generator_late_p99_ms": p99(load.late_ms),
        "refused_p99_ms": p99(load.refused_ms),
        "accepted_and_unfinished": unfinished,
        "memory_mb": memory.summary(),
        "slow_connections": options.slow,
        "slow_opened": slow.opened,
        "slow_longest_s": slow.longest_s,
        "slow_left_open": slow.left_open,
        "good_p99_ms_alone": p99(quiet.accepted_ms),
        "good_p99_ms_beside_slow": p99(beside.accepted_ms),
        "good_statuses_beside_slow": dict(beside.statuses),
        "crowd": options.crowd,
        "crowd_statuses": dict(crowd.statuses),
        "crowd_accepted_p99_ms": p99(crowd.accepted_ms),
        "crowd_refused_p50_ms": statistics.median(crowd.refused_ms or [0.0]),
        "load_average": os.getloadavg(),
    }


class Load:
    """What was answered."""

    def __init__(self) -> None:
        self.statuses: Counter[int] = Counter()
        self.accepted_ms: list[float] = []  # since it was due
        self.answered_ms: list[float] = []  # the same, since it was sent
        self.refused_ms: list[float] = []
        self.without_retry_after = 0
        self.late_ms: list[float] = []  # how late the generator itself was, each time that it slept

    def add(self, status: int, took_ms: float, retry_after: bool) -> None:
        self.statuses[status] += 1
        (self.accepted_ms if status == 202 else self.refused_ms).append(took_ms)
        self.without_retry_after += not retry_after


class Answers(Connection):
    """Says of an answer only what is counted."""

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, separator, body = self.received.partition(b"\r\n\r\n")
        if separator and self.answer is not None:
            lines = head.lower()
            at = lines.find(b"content-length: ")
            if len(body) >= int(lines[at + 16 :].split(b"\r\n", 1)[0]):
                answered, self.answer = self.answer, None
                self.received = b""
                answered.set_result((int(lines[9:12]), b"retry-after" if b"\r\nretry-after: " in lines else b""))


class Callers:
    """Keep-alive connections that submit at a rate."""

    def __init__(self, port: int, count: int) -> None:
        self._port = port
        self._count = count
        self.all: list[Answers] = []
        host = f"127.0.0.1:{port}".encode()
        self.request = (
            b"POST /v1/models/device/predictions HTTP/1.1\r\nHost: %b\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (host, len(BODY), BODY)
        )

    async def connect(self) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(self._count):
            self.all.append((await loop.create_connection(Answers, "127.0.0.1", self._port))[1])

    def close(self) -> None:
        for connection in self.all:
            connection.transport.close()

    async def submit(self, per_s: float, seconds: float) -> Load:
        """`per_s * seconds` submissions, each at its time."""
        load, loop = Load(), asyncio.get_running_loop()
        due: deque[float] = deque()
        wake, answered = asyncio.Semaphore(0), asyncio.Event()
        count = int(per_s * seconds)
        began = loop.time()

        async def caller(connection: Answers) -> None:
            while True:
                await wake.acquire()
                if not due:
                    return
                at = due.popleft()
                if connection.transport.is_closing():  # idle for long, or refused
                    connection = (await loop.create_connection(Answers, "127.0.0.1", self._port))[1]
                    self.all.append(connection)
                sent_at = loop.time()
                try:
                    status, retry_after = await connection.ask(self.request)
                except OSError:
                    status, retry_after = 0, b""
                load.add(status, (loop.time() - at) * 1000, bool(retry_after))
                if status == 202:
                    load.answered_ms.append((loop.time() - sent_at) * 1000)
                if sum(load.statuses.values()) == count:
                    answered.set()

        callers = [asyncio.create_task(caller(connection)) for connection in self.all[: self._count]]
        sent = 0
        while sent < count:
            now = loop.time()
            while sent < count and began + sent / per_s <= now:
                due.append(began + sent / per_s)
                wake.release()
                sent += 1
            await asyncio.sleep(_STEP_S)
            load.late_ms.append((loop.time() - now - _STEP_S) * 1000)
        await answered.wait()
        for _ in callers:
            wake.release()
        await asyncio.gather(*callers)
        self.all = [connection for connection in self.all if not connection.transport.is_closing()]
        while len(self.all) < self._count:
            self.all.append((await loop.create_connection(Answers, "127.0.0.1", self._port))[1])
        return load


async def crowded(port: int, count: int, seconds: float) -> Load:
    """Each of so many connections submits, and again when it is answered; one that is refused waits as it is told."""
    callers, load, loop = Callers(port, count), Load(), asyncio.get_running_loop()
    await callers.connect()
    end = loop.time() + seconds

    async def caller(connection: Answers) -> None:
        while (began := loop.time()) < end and not connection.transport.is_closing():
            status, retry_after = await connection.ask(callers.request)
            load.add(status, (loop.time() - began) * 1000, bool(retry_after))
            if status != 202:
                await asyncio.sleep(1.0)

    await asyncio.gather(*map(caller, callers.all))
    callers.close()
    return load


class Memory:
    """Resident memory of every process, each second."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._seen: dict[str, list[float]] = {}

    async def watch(self) -> None:
        while True:
            for pid in descendants(self._pid):
                words = command_line(pid)
                named = (word for word in words if word in _PARTS or word.startswith("device@"))
                name = next(named, None)
                with contextlib.suppress(OSError, IndexError, ValueError):
                    if name is not None:
                        self._seen.setdefault(name, []).append(resident_mb(pid))
            await asyncio.sleep(1.0)

    def summary(self) -> dict[str, dict[str, float]]:
        """At the beginning, halfway, at the most."""
        return {
            name: {"first": values[0], "half": values[len(values) // 2], "most": max(values)}
            for name, values in self._seen.items()
        }


def processor_s(pid: int) -> float:
    times = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK")


def resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


async def loaded(system: RunningHeadway) -> None:
    async with httpx.AsyncClient(base_url=system.data_url, trust_env=False) as client:
        headers = {"Prefer": "wait=30"}
        answer = await client.post("/v1/models/device/predictions", json={"input": 1}, headers=headers, timeout=40)
        assert answer.json()["output"] == 1, answer.text


async def measure_capacity(system: RunningHeadway, callers: Callers) -> float:
    """Predictions completed a second while some always wait and nothing else is asked."""
    began = time.time()
    await callers.submit(1000, 1.9)
    await drained(system)
    times = [at for (at,) in query(system, "SELECT completed_at FROM predictions WHERE completed_at > ?", began)]
    times.sort()
    middle = times[len(times) // 5 : len(times) * 9 // 10]
    return (len(middle) - 1) / (middle[-1] - middle[0]) * 1e6


async def drained(system: RunningHeadway) -> None:
    """Until everything accepted has ended. Raises TimeoutError."""
    give_up = time.monotonic() + DRAIN_S
    while query(system, "SELECT count(*) FROM predictions WHERE completed_at IS NULL")[0][0]:
        if time.monotonic() > give_up:
            raise TimeoutError("what was accepted did not end")
        await asyncio.sleep(0.25)


def completed(system: RunningHeadway, since: float, until: float) -> int:
    """Predictions that ended with success in between, by the database's clock."""
    statement = "SELECT count(*) FROM predictions WHERE status = 3 AND completed_at BETWEEN ? AND ?"
    return query(system, statement, since, until)[0][0]


def query(system: RunningHeadway, statement: str, *moments: float) -> list[tuple[int, ...]]:
    with contextlib.closing(sqlite3.connect(f"file:{system.database}?mode=ro", uri=True)) as connection:
        return connection.execute(statement, [int(moment * 1e6) for moment in moments]).fetchall()


def p99(values: list[float]) -> float:
    return statistics.quantiles(values, n=100)[-1] if len(values) > 1 else 0.0


def report(measured: dict[str, object], options: argparse.Namespace) -> int:
    """The table, all of it as JSON, and what was promised and not kept."""
    table = Table("", "measured", title=f"{options.times:g} times capacity for {options.seconds:g} s")
    for name, value in measured.items():
        table.add_row(name, f"{value:,.2f}" if isinstance(value, float) else str(value))
    console.print(table)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
    broken = [words for words, kept in judged(measured) if not kept]
    for words in broken:
        console.print(f"[red]not kept: {words}[/]")
    return 1 if broken else 0


def judged(measured: dict[str, object]) -> Iterator[tuple[str, bool]]:
    """(a promise, whether it was kept)"""
    number = cast(dict[str, float], measured)
    statuses = cast(dict[int, int], measured["statuses"])
    yield "every answer is 202, 429 or 503", set(statuses) <= {202, 429, 503}
    yield "every answer has Retry-After", not measured["without_retry_after"]
    yield (
        "accepted p99 is at most 250 ms, besides what the generator was late",
        number["accepted_p99_ms_since_sent"] <= 250 + number["generator_late_p99_ms"],
    )
    yield "goodput is 90 % of capacity", number["goodput_share"] >= 0.9
    yield "what was accepted ends", not measured["accepted_and_unfinished"]
    memory = cast(dict[str, dict[str, float]], measured["memory_mb"])
    yield "memory is bounded", all(each["most"] - each["half"] < 50 for each in memory.values())
    yield "slow connections are closed within 30 s", not measured["slow_left_open"] and number["slow_longest_s"] <= 30
    yield (
        "they do not slow good ones down",
        number["good_p99_ms_beside_slow"] <= max(2 * number["good_p99_ms_alone"], 50),
    )


if __name__ == "__main__":
    sys.exit(main())
