"""What goes wrong, and when.

Each fault is a coroutine that breaks one thing, lasts as long as it says, and leaves it whole. They come by a seeded
schedule and may overlap; the same one never twice at once.
"""

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import redis

from headway import broker
from headway.clock import new_id
from headway.failpoints import POINTS
from headway.types import Hint
from tests.chaos.history import Writer
from tests.chaos.system import System

Run = Callable[[System, random.Random], Awaitable[str]]

#: A worker's claims are given back after 15 s without a beat, a webhook's lease is over after 10.
PAST_THE_LEASE_S = 19.0
PAST_THE_DELIVERY_S = 12.0
#: Where a worker can stop that has claimed something.
_WORKERS_POINTS = ("claim.committed", "finish.begin", "finish.committed")


@dataclass(frozen=True)
class Fault:
    name: str
    run: Run  # returns what was done, in a word or two
    stores: tuple[str, ...] = ("sqlite", "postgresql")


# Processes


def _killed(part: str, number: signal.Signals = signal.SIGKILL) -> Run:
    async def run(system: System, chance: random.Random) -> str:
        if not (pids := system.pids(part)):
            return "nobody there"
        _signal(pid := chance.choice(pids), number)
        return f"{part} {pid}"

    return run


def _stopped(part: str, seconds: float) -> Run:
    async def run(system: System, chance: random.Random) -> str:
        if not (pids := system.pids(part)):
            return "nobody there"
        _signal(pid := chance.choice(pids), signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            _signal(pid, signal.SIGCONT)
        return f"{part} {pid} for {seconds:g} s"

    return run


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


# Redis


@contextlib.contextmanager
def _redis(system: System) -> Iterator[Any]:
    client = system.valkey.client()
    try:
        yield client
    finally:
        client.close()


def _told(system: System, *words: str) -> None:
    with contextlib.suppress(redis.RedisError), _redis(system) as client:  # it may be down by another fault
        client.execute_command(*words)


async def _flush(system: System, chance: random.Random) -> str:
    await asyncio.to_thread(_told, system, "FLUSHALL")
    return "FLUSHALL"


async def _restart_redis(system: System, chance: random.Random) -> str:
    down = chance.choice((0.2, 1.0, 4.0))
    await asyncio.to_thread(system.valkey.kill)
    await asyncio.sleep(down)
    await asyncio.to_thread(system.valkey.start)
    return f"down {down:g} s"


async def _demote_redis(system: System, chance: random.Random) -> str:
    await asyncio.to_thread(_told, system, "REPLICAOF", "127.0.0.1", "1")
    try:
        await asyncio.sleep(6)
    finally:
        await asyncio.to_thread(_told, system, "REPLICAOF", "NO", "ONE")
    return "READONLY for 6 s"


async def _fill_redis(system: System, chance: random.Random) -> str:
    await asyncio.to_thread(_told, system, "CONFIG", "SET", "maxmemory", "1")
    try:
        await asyncio.sleep(6)
    finally:
        await asyncio.to_thread(_told, system, "CONFIG", "SET", "maxmemory", "0")
    return "maxmemory 1 for 6 s"


async def _stop_redis(system: System, chance: random.Random) -> str:
    pid = system.valkey.pid
    _signal(pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(4)
    finally:
        _signal(pid, signal.SIGCONT)
    return "4 s"


def _forge(system: System) -> int:
    """Into every line: what is there once more, ids that nobody has, and what is no message at all."""
    pushed = 0
    with contextlib.suppress(redis.RedisError), _redis(system) as client:
        for model in ("steady", "moody", "leaky"):
            line = broker.line(model, "1", 5)
            hints = [(5, Hint(id=new_id(), size=1, shape=None, position=0)) for _ in range(20)]
            wires = [wire for _, wire in broker.envelopes(line, hints, at_most=5)]
            wires += 3 * client.lrange(line, 0, 20)
            pickled = wires[0].replace(b"application/json", b"application/x-python-serialize")
            wires += [b"", b"\x80\x04.", b"[]", b'{"body": 1}', wires[0][:-20], pickled, b"{" * 5000]
            pushed += len(wires)
            client.rpush(line, *wires)
    return pushed


async def _forged(system: System, chance: random.Random) -> str:
    return f"{await asyncio.to_thread(_forge, system)} messages"


# The network


def _network(which: str, how: str, seconds: float = 0.0) -> Run:
    async def run(system: System, chance: random.Random) -> str:
        proxy = system.redis_proxy if which == "redis" else system.sql_proxy
        assert proxy is not None
        if how == "cut":
            return f"{proxy.cut()} connections"
        if how == "delay":
            proxy.delay_s = 0.2
        else:
            proxy.stall()
        try:
            await asyncio.sleep(seconds)
        finally:
            proxy.heal()
        if how == "lost":  # it heals, and nothing of what was under way has survived
            proxy.cut()
        return f"{seconds:g} s"

    return run


# SQL


async def _restart_postgres(system: System, chance: random.Random) -> str:
    assert system.postgres is not None
    await asyncio.to_thread(system.postgres.restart)
    return "immediate"


async def _cut_sessions(system: System, chance: random.Random) -> str:
    assert system.postgres is not None
    await asyncio.to_thread(system.postgres.cut)
    return "pg_terminate_backend"


def _failing(point: str) -> Run:
    async def run(system: System, chance: random.Random) -> str:
        share = chance.uniform(5, 10)
        file = system.failpoints / point
        file.write_text(f"error {share:.1f}%")
        try:
            await asyncio.sleep(5)
        finally:
            file.unlink(missing_ok=True)
        return f"{share:.1f} % for 5 s"

    return run


def _at_a_point(action: str, points: Sequence[str]) -> Run:
    """In whichever process comes by first."""

    async def run(system: System, chance: random.Random) -> str:
        file = system.failpoints / (point := chance.choice(points))
        fired = file.with_name(f"{point}.fired")
        file.write_text(action)
        try:
            for _ in range(100):
                await asyncio.sleep(0.1)
                if fired.exists():
                    return point
            return f"{point}, where nobody came by"
        finally:
            file.unlink(missing_ok=True)
            fired.unlink(missing_ok=True)

    return run


async def _crowded(system: System, chance: random.Random) -> str:
    assert system.postgres is not None
    held = await asyncio.to_thread(system.postgres.crowd)
    try:
        await asyncio.sleep(4)
    finally:
        for connection in held:
            await asyncio.to_thread(connection.close)
    return f"{len(held)} connections for 4 s"


async def _locked(system: System, chance: random.Random) -> str:
    """By a program that is none of ours."""
    seconds = chance.choice((1.5, 4.0))
    await asyncio.to_thread(system.hold_lock, seconds)
    return f"{seconds:g} s"


async def _fill_disk(system: System, chance: random.Random) -> str:
    ballast = system.data / "ballast"
    await asyncio.to_thread(system.fill_disk, ballast)
    try:
        await asyncio.sleep(5)
    finally:
        ballast.unlink(missing_ok=True)
    return "5 s"


async def _restart_all(system: System, chance: random.Random) -> str:
    await asyncio.to_thread(system.restart)
    return "headway up, and with it all its parts"


_PG, _LITE = ("postgresql",), ("sqlite",)

FAULTS = (
    Fault("api killed", _killed("api")),
    Fault("worker killed", _killed("worker")),
    Fault("device killed", _killed("device")),
    Fault("utility killed", _killed("utility")),
    Fault("api terminated", _killed("api", signal.SIGTERM)),
    Fault("worker terminated", _killed("worker", signal.SIGTERM)),
    Fault("utility terminated", _killed("utility", signal.SIGTERM)),
    Fault("worker stopped past its lease", _stopped("worker", PAST_THE_LEASE_S)),
    Fault("utility stopped past its leases", _stopped("utility", PAST_THE_DELIVERY_S)),
    Fault("api stopped", _stopped("api", 4)),
    Fault("device stopped", _stopped("device", 3)),
    Fault("redis flushed", _flush),
    Fault("redis restarted", _restart_redis),
    Fault("redis read only", _demote_redis),
    Fault("redis full", _fill_redis),
    Fault("redis stopped", _stop_redis),
    Fault("redis forged", _forged),
    Fault("redis cut", _network("redis", "cut")),
    Fault("redis blackholed", _network("redis", "lost", 5)),
    Fault("redis slow", _network("redis", "delay", 5)),
    Fault("sql fails", _failing("sql.execute")),
    Fault("sql commits and does not say so", _failing("sql.committed")),
    Fault("killed at a point", _at_a_point("kill", POINTS)),
    Fault("stalled at a point", _at_a_point("stall 3", POINTS)),
    Fault("failed at a point", _at_a_point("error", [point for point in POINTS if not point.startswith("compute")])),
    Fault("stopped at a point", _at_a_point(f"stop {PAST_THE_LEASE_S:g}", _WORKERS_POINTS)),
    Fault("sql locked", _locked),
    Fault("disk full", _fill_disk, _LITE),
    Fault("everything killed", _restart_all),
    Fault("postgresql restarted", _restart_postgres, _PG),
    Fault("postgresql sessions ended", _cut_sessions, _PG),
    Fault("postgresql crowded", _crowded, _PG),
    Fault("sql cut", _network("sql", "cut"), _PG),
    Fault("sql stalled", _network("sql", "stall", 3), _PG),
    Fault("sql blackholed", _network("sql", "lost", 4), _PG),
    Fault("sql slow", _network("sql", "delay", 4), _PG),
)


class Schedule:
    """Runs until told to stop; then waits until everything is whole again."""

    def __init__(
        self,
        system: System,
        log: Writer,
        *,
        store: str,
        seed: int,
        every_s: tuple[float, float],
        only: Sequence[str] = (),
    ) -> None:
        """`only`: faults whose names contain one of these words; all, where there are none."""
        self._system = system
        self._log = log
        self._random = random.Random(seed)
        self._every_s = every_s
        self._faults = [
            fault
            for fault in FAULTS
            if store in fault.stores
            and (not only or any(word in fault.name for word in only))
            and (system.disk or fault.name != "disk full")
        ]
        self._left: list[Fault] = []
        self._running: dict[str, asyncio.Task[None]] = {}
        self.count = 0

    async def run(self, seconds: float) -> None:
        """Every kind comes before one comes again, in an order of the seed's."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while (pause := self._random.uniform(*self._every_s)) < end - loop.time():
            await asyncio.sleep(pause)
            if self._faults:
                self._begin(self._next())
        await asyncio.sleep(end - loop.time())
        if self._running:
            await asyncio.wait(self._running.values())

    def _next(self) -> Fault:
        if not self._left:
            self._left = self._random.sample(self._faults, len(self._faults))
        for index, fault in enumerate(self._left):
            if fault.name not in self._running:
                return self._left.pop(index)
        return self._left.pop()

    def _begin(self, fault: Fault) -> None:
        if fault.name in self._running:
            return
        self.count += 1
        task = asyncio.create_task(self._break(fault))
        self._running[fault.name] = task
        task.add_done_callback(lambda _: self._running.pop(fault.name, None))

    async def _break(self, fault: Fault) -> None:
        self._log(type="fault", phase="begin", name=fault.name)
        try:
            what = await fault.run(self._system, self._random)
        except Exception as error:  # the fault itself went wrong: that is to be seen
            what = f"broken: {error!r}"
            self._log(type="broken", error=f"{fault.name}: {error!r}")
        self._log(type="fault", phase="end", name=fault.name, what=what)
