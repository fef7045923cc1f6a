"""The promise, shortly: parts of a loaded system die, and nothing is lost, doubled, wrong or untold.

A seeded run of `tests/chaos` on PostgreSQL, judged by its checker. `make chaos` has the long ones, on both stores.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the processes in /proc")

SECONDS = 32
#: At a third of what two quiet cores do meanwhile: a busy machine is to pass as well.
PREDICTIONS = 500
SEED = 20
#: In an order of the seed's, each once: nine of them have their turn, more or less.
BROKEN = (
    *("api killed", "worker killed", "device killed", "utility killed", "killed at a point"),
    *("redis restarted", "redis flushed", "postgresql restarted", "sql fails", "say so"),
)


@pytest.mark.timeout(240)
def test_whatever_is_broken_under_load_all_that_was_accepted_ends_right_and_is_told_under_one_id(
    tmp_path: Path,
) -> None:
    command = [sys.executable, "-m", "tests.chaos", "--store", "postgresql", "--workers", "1"]
    command += ["--seconds", str(SECONDS), "--predictions", str(PREDICTIONS), "--seed", str(SEED)]
    command += ["--folder", str(tmp_path), "--every", "2", "4", "--only", *BROKEN]
    run = subprocess.run(command, capture_output=True, text=True, timeout=230)
    assert run.stdout, run.stderr
    report = json.loads(run.stdout)
    assert not any(report["verdicts"].values()), (report["examples"], run.stderr)
    assert run.returncode == 0
    assert report["accepted"] >= PREDICTIONS / 2
    assert report["faults"] >= 8
    assert report["drained_s"] <= 60
    print(run.stderr)
