"""`python -m tests.chaos`: load, faults, drain, and the checker's verdict.

    python -m tests.chaos --store postgresql --seconds 600 --predictions 20000 --seed 7

Leaves what was seen in `tests/chaos/results/`, or where `--folder` says. Exits 1 where the checker found anything.
"""

import argparse
import asyncio
import contextlib
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import redis

from headway.webhooks import new_secret
from tests.chaos import evidence
from tests.chaos.callers import Callers
from tests.chaos.faults import Schedule
from tests.chaos.history import Clock, Writer
from tests.chaos.proxy import Proxy
from tests.chaos.receivers import REACHABLE, UNREACHABLE, Zoo
from tests.chaos.system import Postgres, System, Valkey, postgres
from workers.posting import new_event_loop

#: What is open must be gone so long after the last fault; and nothing may wait longer for its end, though faults go on.
DRAIN_S = 120.0
PATIENCE_S = 240.0
#: Callers wait while so many have not ended: recovery is measured, not how fast a backlog goes.
MOST_OPEN = 200
CONTROL = 100
COUNTED_OUT_S = 40.0
COUNTERS = ("headway_predictions_ended_total|", "headway_batch_size_sum|")


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__.partition("\n")[0])
    parser.add_argument("--store", choices=("sqlite", "postgresql"), default="postgresql")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--predictions", type=int, default=21_000)
    parser.add_argument("--seed", type=int, default=None, help="Of the load and the faults; a new one if not said.")
    parser.add_argument("--every", type=float, nargs=2, default=(3.0, 10.0), metavar=("LEAST", "MOST"))
    parser.add_argument("--workers", type=int, choices=(1, 2), default=2)
    parser.add_argument(
        "--only", nargs="*", default=(), metavar="WORD", help="Faults whose names contain one of these."
    )
    parser.add_argument("--folder", type=Path, default=None)
    return parser.parse_args()


async def run(asked: argparse.Namespace, folder: Path, server: Postgres | None, scratch: Path) -> None:
    """Everything but the verdict: afterwards the evidence is in `folder`."""
    clock = Clock()
    history, received = Writer(folder / "history.jsonl", clock), Writer(folder / "received.jsonl", clock)
    valkey = await asyncio.to_thread(Valkey, scratch)
    redis_proxy = Proxy(valkey.socket)
    sql_proxy = None if server is None else Proxy(server.socket)
    secret = new_secret()
    zoo = Zoo(received, secret, lambda id_: callers.heard(id_), asked.seed)
    system = System(scratch, valkey, server, redis_proxy, sql_proxy, secret, asked.workers)
    callers: Callers
    async with contextlib.AsyncExitStack() as cleanup:
        for log in (history, received):
            cleanup.callback(log.close)
        cleanup.callback(valkey.remove)
        for part in (redis_proxy, sql_proxy, zoo):
            if part is not None:
                await part.start()
                cleanup.callback(part.close)
        cleanup.push_async_callback(asyncio.to_thread, system.close)
        await asyncio.to_thread(system.start)
        hooks = {temper: zoo.url(temper) for temper in (*REACHABLE, *UNREACHABLE)}
        url = system.headway.data_url
        callers = Callers(url, system.keys, hooks, history, seed=asked.seed, most_open=MOST_OPEN)
        cleanup.callback(callers.close)
        schedule = Schedule(system, history, store=asked.store, seed=asked.seed, every_s=asked.every, only=asked.only)
        if asked.store == "sqlite" and not system.disk:
            _say("no disk will be full: this user may not mount one")
        began = clock()
        _say(f"ready after {began:.0f} s; {asked.predictions} predictions in {asked.seconds:g} s, seed {asked.seed}")
        faults = asyncio.create_task(schedule.run(asked.seconds))
        load = asyncio.create_task(callers.load(asked.predictions, asked.seconds))
        files = asyncio.create_task(callers.files(asked.seconds))
        while not faults.done():
            await asyncio.wait({faults}, timeout=15)
            _say(f"{clock() - began:4.0f} s: {callers.accepted} accepted, {callers.open} open, {schedule.count} faults")
        await load
        await faults
        healed = clock()
        reachable = [hooks[temper] for temper in REACHABLE]
        late = await callers.finish(DRAIN_S)
        late += len((await asyncio.wait({files}, timeout=max(0.1, healed + DRAIN_S - clock())))[1])
        left = await _drain(system, reachable, healed + DRAIN_S, clock)
        drained_s = None if late or any(left) else round(clock() - healed, 1)
        _say(f"drained in {drained_s} s" if drained_s is not None else f"NOT drained: {left}, {late} callers")
        metrics = await _metrics(system, callers)
        history.flush()
        received.flush()
        await asyncio.to_thread(evidence.dump_sql, system.database_url, folder / "sql.jsonl")
        lines = await asyncio.to_thread(_lines, valkey)
        facts = {
            "store": asked.store,
            "seed": asked.seed,
            "seconds": asked.seconds,
            "workers": asked.workers,
            "reachable": REACHABLE,
            "patience_s": PATIENCE_S,
            "healed": healed,
            "drained_s": drained_s,
            "left": left,
            "callers": late,
        }
        for name, what in (("run", facts), ("redis", lines), ("metrics", metrics)):
            (folder / f"{name}.json").write_text(json.dumps(what))
        for name in ("up.log", "worker.log"):
            if (scratch / name).exists():
                shutil.copy(scratch / name, folder / name)


async def _drain(system: System, reachable: list[str], until: float, clock: Clock) -> list[int]:
    """What is open at last: predictions, claims, batches, deliveries, envelopes."""
    while True:
        left = [
            *await asyncio.to_thread(evidence.open_work, system.database_url, reachable),
            sum((await asyncio.to_thread(_lines, system.valkey)).values()),
        ]
        if not any(left) or clock() > until:
            return left
        await asyncio.sleep(0.3)


def _lines(valkey: Valkey) -> dict[str, int]:
    client: redis.Redis = valkey.client()
    try:
        return evidence.lines(client)
    finally:
        client.close()


async def _metrics(system: System, callers: Callers) -> dict[str, object]:
    """/metrics of the API between two looks at SQL, and those of the workers around a group that nothing disturbs."""
    before = await _counted(system)
    await asyncio.wait_for(callers.control(CONTROL), 60)
    after = await _counted(system)
    pending = [(await asyncio.to_thread(evidence.open_work, system.database_url, []))[3]]
    api = await _settled(system)
    pending.append((await asyncio.to_thread(evidence.open_work, system.database_url, []))[3])
    return {"before": before, "after": after, "control": CONTROL, "api": api, "pending": pending}


async def _counted(system: System) -> evidence.Samples:
    """What the workers say once they have counted all: they do so after they have told whoever waits."""
    deadline = time.monotonic() + COUNTED_OUT_S
    said = await asyncio.to_thread(_workers_say, system)
    while True:
        await asyncio.sleep(1.0)
        last, said = said, await asyncio.to_thread(_workers_say, system)
        still = all(last.get(name) == value for name, value in said.items() if name.startswith(COUNTERS))
        if still or time.monotonic() > deadline:
            return said


async def _settled(system: System) -> evidence.Samples:
    """Once those workers are counted out that were killed at the very end and that nobody but the janitor saw die."""
    deadline = time.monotonic() + COUNTED_OUT_S
    while True:
        api = await asyncio.to_thread(evidence.scrape, f"{system.headway.control_url}/metrics", system.admin_key)
        if api.get("headway_workers") == system.workers or time.monotonic() > deadline:
            return api
        await asyncio.sleep(0.5)


def _workers_say(system: System) -> dict[str, float]:
    """The sums of all workers' samples. One that has just been started has none yet."""
    total: dict[str, float] = {}
    for port in system.metrics_ports:
        deadline = time.monotonic() + 20
        while True:
            try:
                samples = evidence.scrape(f"http://127.0.0.1:{port}/metrics")
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
        for name, value in samples.items():
            total[name] = total.get(name, 0.0) + value
    return total


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def main() -> int:
    asked = options()
    asked.seed = random.randrange(1_000_000) if asked.seed is None else asked.seed
    name = f"{asked.store}-{asked.seed}-{time.strftime('%H%M%S')}"
    folder = asked.folder or Path(__file__).with_name("results") / name
    folder.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="hw-chaos-"))
    try:
        with (
            postgres() if asked.store == "postgresql" else contextlib.nullcontext() as server,
            asyncio.Runner(loop_factory=new_event_loop) as runner,
        ):
            runner.run(run(asked, folder, server, scratch))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    judged = subprocess.run([sys.executable, "-m", "tests.chaos.checker", str(folder)], stdout=subprocess.PIPE)
    (folder / "report.json").write_bytes(judged.stdout)
    print(judged.stdout.decode(), flush=True)
    _say(f"seen: {folder}")
    return judged.returncode


if __name__ == "__main__":
    sys.exit(main())
