"""What `make bench-all` runs: every benchmark in turn, each within its limit; one that fails does not stop the others.

    python -m bench.all [--quick] [--only NAME …] [--skip NAME …] [further options of those that play rounds]

Each writes its JSON to bench/results/ and what it printed to bench/results/NAME.txt; at the end there is a list of how
each ended and how long it took, and bench/results/all.json.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

from rich.table import Table

from bench.rounds import RESULTS, console, leave_in_order, write
from bench.sides import ROOT, VENVS


@dataclass(frozen=True)
class Benchmark:
    name: str  # of the module
    quick: tuple[str, ...] = ("--quick",)
    full: tuple[str, ...] = ()
    quick_limit_s: int = 600
    full_limit_s: int = 3600
    rounds: bool = True  # takes the options of `bench.rounds.parser`


#: Those that matter most come first.
BENCHMARKS = (
    Benchmark("durable"),
    Benchmark("sync"),
    Benchmark("device", quick_limit_s=900),
    Benchmark("scale"),
    Benchmark("polls"),
    Benchmark("minilm"),
    Benchmark("cpu"),
    Benchmark("gpu", (), (), 300, 1200, rounds=False),  # says so where there is none
    Benchmark("batch_file", ("--lines", "20000", "--waits", "50"), ("--lines", "300000"), 300, 1200, rounds=False),
    Benchmark("webhooks", ("--rounds", "1", "--count", "1000"), ("--count", "4000"), 300, 1200, rounds=False),
    Benchmark(
        "growth",
        ("--stored", "100000", "--queued", "10000", "--rounds", "10", "--stores", "sqlite"),
        ("--stored", "1000000", "--queued", "1000000", "--rounds", "50"),
        300,
        2400,
        rounds=False,
    ),
)


def main() -> int:
    names = [one.name for one in BENCHMARKS]
    parser = argparse.ArgumentParser(description="Every benchmark in turn.")
    parser.add_argument("--quick", action="store_true", help="short ones: whether everything runs")
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--skip", nargs="+", choices=names, default=[])
    parser.add_argument("--venvs", default=os.environ.get("BENCH_VENVS", str(VENVS)), help="of the peers")
    options, further = parser.parse_known_args()
    leave_in_order()
    ended: dict[str, dict[str, object]] = {}
    for one in BENCHMARKS:
        if one.name in options.only and one.name not in options.skip:
            ended[one.name] = run(one, options.quick, ["--venvs", options.venvs, *further])
    table = Table("", "ended", "minutes")
    for name, how in ended.items():
        table.add_row(name, str(how["ended"]), f"{how['seconds'] / 60:.1f}")  # type: ignore[operator]
    console.print(table)
    write("all", {"quick": options.quick, "further": further, "benchmarks": ended})
    return 0 if all(how["ended"] == "well" for how in ended.values()) else 1


def run(one: Benchmark, quick: bool, further: list[str]) -> dict[str, object]:
    """In a process of its own, what it prints shown and kept; killed with all its descendants at its limit."""
    limit_s = one.quick_limit_s if quick else one.full_limit_s
    command = [sys.executable, "-u", "-m", f"bench.{one.name}", *(one.quick if quick else one.full)]
    command += further if one.rounds else []
    console.print(f"[bold]{one.name}[/]: {' '.join(command[2:])}, {limit_s / 60:.0f} minutes at most")
    RESULTS.mkdir(exist_ok=True)
    began = time.monotonic()
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    tee = subprocess.Popen(["tee", RESULTS / f"{one.name}.txt"], stdin=process.stdout)
    try:
        code = process.wait(limit_s)
        said = "well" if code == 0 else f"with {code}"
    except subprocess.TimeoutExpired:
        said = f"at its limit of {limit_s} s"
    finally:
        stop(process)
        with contextlib.suppress(subprocess.TimeoutExpired):
            tee.wait(10)
        tee.kill()
    return {"ended": said, "seconds": round(time.monotonic() - began, 1)}


def stop(process: "subprocess.Popen[bytes]") -> None:
    """As Ctrl-C does, so that it stops what it has started."""
    for number, patience_s in ((signal.SIGINT, 60.0), (signal.SIGKILL, 5.0)):
        if process.poll() is None:
            os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(patience_s)


if __name__ == "__main__":
    sys.exit(main())
