"""Rounds: every side in turn, started anew each time and alone on the machine; then medians, ratios, a table, JSON.

A round of one side is a context: start, measure each part, stop. A side that fails is reported and left out of that
round; after two failures in a row it is not started again. Its mates go on.
"""

import argparse
import contextlib
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from bench.load import DEADLINE_S, Job, Measured
from bench.sides import ROOT, VENVS, Missing, Side, Start

RESULTS = Path(__file__).resolve().parent / "results"
FAILURES = 2  # in a row, and a side is given up

console = Console(highlight=False, width=160 if not sys.stdout.isatty() else None)

Parts = dict[str, Measured]  # what was measured in one round of one side, by the name of the part


@dataclass
class Contender:
    name: str
    start: Start
    measure: Callable[[Side], Parts]
    rounds: list[Parts] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    in_a_row: int = 0  # failures
    given_up: bool = False

    def run(self, folder: Path) -> None:
        """One round. What goes wrong is noted, and raised by nobody."""
        began = time.monotonic()
        try:
            with self.start(folder) as side:
                started = time.monotonic() - began
                parts = self.measure(side)
        except Missing as missing:
            self.failures.append(str(missing))
            self.given_up = True
            console.print(f"  [yellow]{self.name} is left out:[/] {missing}")
        except Exception as error:
            self.failures.append(f"{type(error).__name__}: {error}")
            self.in_a_row += 1
            self.given_up = self.in_a_row >= FAILURES
            console.print(f"  [red]{self.name} failed:[/]")
            console.print(traceback.format_exc()[-1200:], markup=False)
        else:
            self.in_a_row = 0
            self.rounds.append(parts)
            said = ", ".join(f"{part} {one.completed_per_s or one.per_s:,.0f}/s" for part, one in parts.items())
            console.print(f"  {self.name}: {said} (up in {started:.1f} s, all {time.monotonic() - began:.0f} s)")

    def median(self, part: str, column: str) -> float | None:
        """None where it has no such part, or never ended a round."""
        values = [float(getattr(parts[part], column)) for parts in self.rounds if part in parts]
        return statistics.median(values) if values else None


def parser(description: str, *, rounds: int = 5, seconds: float = 4.0) -> argparse.ArgumentParser:
    """With the options that all of them have."""
    parsed = argparse.ArgumentParser(description=description)
    parsed.add_argument("--rounds", type=int, default=rounds)
    parsed.add_argument("--seconds", type=float, default=seconds, help="of load, for each part of a round")
    parsed.add_argument("--quick", action="store_true", help="one round, short: whether everything runs")
    parsed.add_argument("--only", nargs="+", metavar="SIDE", help="these sides")
    parsed.add_argument("--venvs", type=Path, default=Path(os.environ.get("BENCH_VENVS", VENVS)), help="of the peers")
    return parsed


def parse(parsed: argparse.ArgumentParser) -> argparse.Namespace:
    options = parsed.parse_args()
    leave_in_order()
    if options.quick:
        options.rounds, options.seconds = 1, min(options.seconds, 1.5)
    return options


def leave_in_order() -> None:
    """Who is asked to end stops what it has started before."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def play(contenders: Sequence[Contender], rounds: int, only: Sequence[str] | None = None) -> list[Contender]:
    """All rounds; those that took part. Each round begins with another side, so that a busy minute hits all."""
    playing = [one for one in contenders if not only or one.name in only]
    with scratch() as folder:
        for number in range(rounds):
            console.print(f"round {number + 1} of {rounds}")
            shift = number % len(playing)
            for one in [*playing[shift:], *playing[:shift]]:
                if not one.given_up:
                    one.run(Path(tempfile.mkdtemp(prefix="side-", dir=folder)))
    return playing


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Beside the checkout and not in /tmp, which may be memory: an fsync should cost what it costs."""
    base = ROOT / ".headway"
    base.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=base, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def load(job: Job) -> Measured:
    """By a load generator in a process of its own. Raises RuntimeError with what it said."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.load"],
        cwd=ROOT,
        input=msgspec.json.encode(job),
        capture_output=True,
        timeout=job.seconds + 2 * DEADLINE_S,
    )
    if done.returncode:
        raise RuntimeError(f"the load generator: {done.stderr.decode(errors='replace')[-600:]}")
    return msgspec.json.decode(done.stdout, type=Measured)


#: Column of `Measured` → its title and its digits.
COLUMNS = {
    "per_s": ("answers/s ↑", 0),
    "completed_per_s": ("completed/s ↑", 0),
    "p50_ms": ("p50 ms ↓", 1),
    "p99_ms": ("p99 ms ↓", 1),
    "all_processor_us": ("CPU µs each ↓", 0),
    "generator_us": ("of the load", 0),
    "wrong": ("wrong ↓", 0),
}


def report(
    name: str,
    contenders: Sequence[Contender],
    options: argparse.Namespace,
    *,
    ratios: Sequence[str] = ("per_s",),
    columns: Sequence[str] = ("per_s", "p50_ms", "p99_ms", "all_processor_us", "generator_us", "wrong"),
    ours: str = "Headway",
    inverse: bool = False,
    extra: Mapping[str, object] | None = None,
) -> int:
    """Tables and `bench/results/NAME.json`; the exit code: 1 where our side failed or an answer was wrong."""
    parts = list(dict.fromkeys(part for one in contenders for parts in one.rounds for part in parts))
    us = next((one for one in contenders if one.name == ours), None)
    over: dict[str, dict[str, dict[str, float]]] = {}
    meaning = f"÷: its divided by that of {ours}" if inverse else f"÷: that of {ours} divided by its"
    for part in parts:
        titles = [COLUMNS[column][0] for column in columns]
        titles += [f"÷ {COLUMNS[column][0].removesuffix(' ↑')}" for column in ratios]
        table = Table("", *titles, title=f"{part} ({meaning})", title_justify="left")
        for title in table.columns[1:]:
            title.justify = "right"
        for one in contenders:
            if one.median(part, "per_s") is None:
                continue
            cells = [shown(one.median(part, column), COLUMNS[column][1]) for column in columns]
            for column in ratios:
                mine, its = us.median(part, column) if us else None, one.median(part, column)
                if mine and its:
                    ratio = its / mine if inverse else mine / its
                    over.setdefault(part, {}).setdefault(column, {})[one.name] = ratio
                cells.append(f"{ratio:.2f} ×" if mine and its else "–")
            table.add_row(one.name, *cells)
        console.print(table)
    for one in contenders:
        for failure in one.failures:
            console.print(f"[yellow]{one.name}:[/] {failure.strip().splitlines()[-1][:300]}")
    wrong = {one.name: sum(int(m.wrong) for parts in one.rounds for m in parts.values()) for one in contenders}
    write(
        name,
        {
            "options": vars(options),
            "medians": {
                part: {
                    one.name: {column: one.median(part, column) for column in COLUMNS}
                    for one in contenders
                    if one.median(part, "per_s") is not None
                }
                for part in parts
            },
            "ratios": over,
            "wrong": wrong,
            "failures": {one.name: one.failures for one in contenders if one.failures},
            "rounds": {one.name: msgspec.to_builtins(one.rounds) for one in contenders},
            **(extra or {}),
        },
    )
    bad = [one for one in contenders if one.name.startswith("Headway") and (wrong[one.name] or not one.rounds)]
    for one in bad:
        console.print(f"[red]{one.name}: {wrong[one.name]} answers were wrong or missing, {len(one.rounds)} rounds[/]")
    return 1 if bad else 0


def shown(value: float | None, digits: int) -> str:
    return f"{value:,.{digits}f}" if value else "–"


def write(name: str, content: Mapping[str, object]) -> None:
    """bench/results/NAME.json, with what is to be known of the machine."""
    RESULTS.mkdir(exist_ok=True)
    machine = {
        "cpus": os.cpu_count(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "load_after": os.getloadavg(),
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": machine, **content}, indent=2, default=str) + "\n", encoding="utf-8")
    console.print(f"wrote {path.relative_to(ROOT)}")
