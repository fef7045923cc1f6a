"""What `make bench-batch` runs: a file through `headway batch` beside a bare loop over the same file, and what one
caller waits alone and beside it. See bench/README.md.
"""

import argparse
import contextlib
import itertools
import json
import os
import platform
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import msgspec
from rich.console import Console
from rich.table import Table

from bench import mlp
from headway.running import RunningHeadway

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results" / "batch_file.json"
#: When the processes' memory is looked at, and when each is killed, as shares of the file.
LOOKS = (0.1, 0.5, 0.9)
KILLS = {"utility": 0.25, "worker": 0.4, "api": 0.6}

console = Console(highlight=False)


def main() -> int:
    parser = argparse.ArgumentParser(description="A file of predictions, through `headway batch` and by a bare loop.")
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--kill", action="store_true", help="kill the utility worker, a worker and the API on the way")
    parser.add_argument(
        "--waits", type=int, default=400, help="predictions of the one caller, alone and beside the file"
    )
    parser.add_argument("--database-url", help="PostgreSQL instead of SQLite")
    options = parser.parse_args()
    scratch = ROOT / ".headway"
    scratch.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=scratch) as text:
        folder = Path(text)
        artifact = mlp.write(folder / "models")
        file = folder / "features.ndjson"
        write(file, options.lines)
        bare = bare_loop(artifact, file, folder / "bare.ndjson")
        console.print(f"bare loop: {options.lines / bare:,.0f} lines/s")
        measured = through_headway(folder, file, options)
        compare(folder / "bare.ndjson", folder / "results.ndjson", options.lines)
    report(measured | {"lines": options.lines, "bare_per_s": options.lines / bare}, vars(options))
    return 0


def write(path: Path, count: int) -> None:
    drawn = random.Random(0)
    with path.open("w") as file:
        for number in range(1, count + 1):
            features = [round(drawn.gauss(0, 1), 4) for _ in range(10)]
            file.write(json.dumps({"custom_id": f"row-{number}", "input": features}) + "\n")


def bare_loop(artifact: Path, file: Path, output: Path) -> float:
    """Seconds of a process of its own that reads, computes in batches and writes: no queue, no database."""
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "bench.bare_file", str(artifact), str(file), str(output)], cwd=ROOT, check=True
    )
    return time.perf_counter() - began


@dataclass
class Memory:
    """Resident bytes of each part, at shares of the file."""

    running: RunningHeadway
    seen: dict[str, dict[str, int]] = field(default_factory=dict)

    def look(self, share: float) -> None:
        row = {part: resident(self.running.pid_of(part)) for part in ("api", "worker", "utility")}
        self.seen[f"{share:.0%}"] = row
        console.print(f"{share:.0%}: " + ", ".join(f"{part} {size / 1e6:,.0f} MB" for part, size in row.items()))


def resident(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


def through_headway(folder: Path, file: Path, options: argparse.Namespace) -> dict[str, object]:
    up = ["--database-url", options.database_url] if options.database_url else []
    with RunningHeadway(folder, options=up) as running:
        alone = waits(running.data_url, options.waits)
        memory = Memory(running)
        memory.look(0.0)
        killed = threading.Thread(target=along, args=(running, memory, options), daemon=True)
        killed.start()
        beside: list[float] = []
        asking = threading.Thread(target=lambda: beside.extend(while_it_runs(running.data_url, options.waits)))
        asking.start()
        began = time.perf_counter()
        command = [sys.executable, "-m", "launch", "batch", str(file), "--model", "mlp", "--output"]
        subprocess.run(
            [*command, str(folder / "results.ndjson")],
            env={**os.environ, "HEADWAY_URL": running.data_url},
            cwd=ROOT,
            check=True,
        )
        seconds = time.perf_counter() - began
        asking.join()
        killed.join(10)
        (batch,) = httpx.get(f"{running.data_url}/v1/batches").json()["data"]
    uploaded = parsed(batch["in_progress_at"]) - parsed(batch["created_at"])
    ran = parsed(batch["completed_at"]) - parsed(batch["in_progress_at"])
    return {
        "headway_per_s": options.lines / seconds,
        "uploaded_per_s": options.lines / uploaded,
        "ran_per_s": options.lines / ran,
        "counts": batch["request_counts"],
        "memory": memory.seen,
        "alone_ms": quantiles(alone),
        "beside_ms": quantiles(beside),
    }


def parsed(moment: str) -> float:
    import datetime

    return datetime.datetime.fromisoformat(moment).timestamp()


def along(running: RunningHeadway, memory: Memory, options: argparse.Namespace) -> None:
    """Looks and kills, each when so much of the file has ended."""
    todo: list[tuple[float, str | None]] = [(share, None) for share in LOOKS]
    if options.kill:
        todo += [(share, part) for part, share in KILLS.items()]
    with httpx.Client(base_url=running.data_url, timeout=30) as client:
        for share, part in sorted(todo, key=lambda one: one[0]):
            while done(client) < share * options.lines:
                time.sleep(0.2)
            if part is None:
                memory.look(share)
            else:
                console.print(f"{share:.0%}: SIGKILL of the {part}")
                os.kill(running.pid_of(part), signal.SIGKILL)


def done(client: httpx.Client) -> int:
    try:
        data = client.get("/v1/batches").json()["data"]
    except httpx.TransportError:
        return 0
    return sum(data[0]["request_counts"][key] for key in ("completed", "failed")) if data else 0


def waits(url: str, count: int) -> list[float]:
    """Milliseconds of each of one caller's predictions; those that a killed API left without an answer are left out."""
    times = []
    with httpx.Client(base_url=url, timeout=60) as client:
        for number in range(count):
            began = time.perf_counter()
            with contextlib.suppress(httpx.TransportError):
                answer = client.post(
                    "/v1/models/mlp/predictions", json={"input": [number / 100] * 10}, headers={"Prefer": "wait=60"}
                )
                if answer.status_code == 200:
                    times.append((time.perf_counter() - began) * 1000)
            time.sleep(0.02)
    return times


def while_it_runs(url: str, count: int) -> list[float]:
    """The same once the batch has begun to end."""
    with httpx.Client(base_url=url, timeout=60) as client:
        while not done(client):
            time.sleep(0.2)
    return waits(url, count)


def quantiles(times: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(times, n=100)
    return {"p50": cuts[49], "p99": cuts[98], "count": len(times)}


def compare(bare: Path, results: Path, count: int) -> None:
    """Every line of the two, in order. Raises AssertionError."""
    with bare.open("rb") as one, results.open("rb") as other:
        for number, (left, right) in enumerate(itertools.zip_longest(one, other), 1):
            assert left is not None, f"more than {count} results"
            assert right is not None, f"only {number - 1} results"
            expected, got = msgspec.json.decode(left), msgspec.json.decode(right)
            assert (got["line"], got["custom_id"]) == (number, f"row-{number}")
            assert all(abs(a - b) < 1e-4 for a, b in zip(expected["output"], got["output"], strict=True))
    assert number == count
    console.print(f"{count:,} results, each once, in the order of the file, and what the bare loop says")


def report(measured: dict[str, object], options: dict[str, object]) -> None:
    table = Table("", "lines/s")
    table.add_row("bare loop, no queue, nothing stored", f"{measured['bare_per_s']:,.0f}")
    table.add_row("headway batch, all of it", f"{measured['headway_per_s']:,.0f}")
    table.add_row("  coming in, while nothing runs", f"{measured['uploaded_per_s']:,.0f}")
    table.add_row("  running", f"{measured['ran_per_s']:,.0f}")
    console.print(table)
    console.print(f"one caller alone {measured['alone_ms']}, beside the file {measured['beside_ms']}")
    RESULTS.parent.mkdir(exist_ok=True)
    about = {"options": options, "python": platform.python_version(), "cpus": os.cpu_count(), "load": os.getloadavg()}
    RESULTS.write_text(json.dumps({**about, **measured}, indent=2, default=str) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
