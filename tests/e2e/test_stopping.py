"""SIGTERM at any moment of a start ends a process soon: a supervisor's patience is for work, not for a lost signal."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from headway import broker
from headway.running import gone
from headway.states import Status
from headway.testing import new_prediction, wait_until
from storage.engine import Database
from storage.predictions import Predictions
from storage.workers import Workers
from workers.inference import DRAIN_S

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads the processes from /proc")

MODEL = """
from headway import Model

class Echo(Model):
    def predict(self, inputs):
        return inputs
"""
#: On busy cores a start takes its time; the drain of an idle process does not.
PROMPT_S = 6.0

PARTS = {
    "worker": ["worker", "--device", "cpu"],
    "api": ["api", "--port", "0", "--admin-port", "0"],
    "utility": ["utility"],
}


@pytest.fixture
def environ(tmp_path: Path, sqlite_url: str, redis_url: str) -> dict[str, str]:
    version = tmp_path / "models" / "echo" / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(MODEL)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HEADWAY_")}
    return {
        **clean,
        "HEADWAY_REDIS_URL": redis_url,
        "HEADWAY_DATABASE_URL": sqlite_url,
        "HEADWAY_MODELS": str(tmp_path / "models"),
    }


def stopped_after(delay_s: float, part: str, environ: dict[str, str], log: Path) -> tuple[float, int]:
    """(seconds from SIGTERM to the end, exit code) of a part that lived for `delay_s`."""
    with log.open("w") as stderr:
        process = subprocess.Popen([sys.executable, "-m", "launch", *PARTS[part]], env=environ, stderr=stderr)
    try:
        try:
            process.wait(delay_s)  # the moment is the point: whatever it is doing then
            raise AssertionError(f"{part} ended by itself:\n{log.read_text()}")
        except subprocess.TimeoutExpired:
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
        code = process.wait(20)
        return time.monotonic() - began, code
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(("part", "moments"), [("worker", 12), ("api", 12), ("utility", 6)])
def test_sigterm_at_any_moment_of_a_start_ends_it_soon(
    environ: dict[str, str], tmp_path: Path, part: str, moments: int
) -> None:
    delays = [0.05 + 4.0 * n / moments for n in range(moments)]
    with ThreadPoolExecutor(4) as pool:
        ends = list(
            pool.map(lambda n: stopped_after(delays[n], part, environ, tmp_path / f"{part}{n}.log"), range(moments))
        )
    print([f"{delay:.2f}: {took:.2f} s, {code}" for delay, (took, code) in zip(delays, ends, strict=True)])
    assert max(took for took, _ in ends) < PROMPT_S
    # Before it can have heard of signals the default ends it; from then on it ends well.
    assert {code for _, code in ends} <= {0, -signal.SIGTERM}


def test_a_worker_that_is_stopped_while_its_model_loads_leaves_nothing_behind(
    environ: dict[str, str], sqlite_url: str, tmp_path: Path
) -> None:
    loading = tmp_path / "loading"
    (tmp_path / "models" / "echo" / "1" / "model.py").write_text(
        f"import os, pathlib, time\npathlib.Path({str(loading)!r}).write_text(str(os.getpid()))\ntime.sleep(600)\n"
    )
    with (tmp_path / "log").open("w") as stderr:
        worker = subprocess.Popen([sys.executable, "-m", "launch", *PARTS["worker"]], env=environ, stderr=stderr)
    try:
        wait_until(lambda: loading.exists() and loading.read_text(), 30, "the model to load")
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(PROMPT_S) == 0
    finally:
        worker.kill()
        worker.wait()
    assert gone(int(loading.read_text()))
    database = Database.open(sqlite_url)
    assert Workers(database).beats() == {}
    database.close()


def test_what_a_hanging_device_has_begun_is_handed_back_before_anybody_loses_patience(
    environ: dict[str, str], sqlite_url: str, tmp_path: Path
) -> None:
    hanging = MODEL.replace("return inputs", "import time; time.sleep(600)")
    (tmp_path / "models" / "echo" / "1" / "model.py").write_text(hanging)
    database = Database.open(sqlite_url)
    predictions = Predictions(database)
    row = new_prediction(model="echo", line=broker.line("echo", "1", 5))

    def status() -> Status:
        return predictions.read([row.id])[row.id].status

    with (tmp_path / "log").open("w") as stderr:
        worker = subprocess.Popen([sys.executable, "-m", "launch", *PARTS["worker"]], env=environ, stderr=stderr)
    try:
        predictions.insert([row])
        wait_until(lambda: status() is Status.IN_PROGRESS, 30, "the claim")
        began = time.monotonic()
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(20) == 0, (tmp_path / "log").read_text()
        took = time.monotonic() - began
    finally:
        worker.kill()
        worker.wait()
    print(f"drained in {took:.1f} s")
    assert DRAIN_S - 1 < took < 11
    assert status() is Status.QUEUED
    assert Workers(database).beats() == {}
    database.close()
