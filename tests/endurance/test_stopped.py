"""A part that is stopped, and so can do nothing about it itself, is replaced: with the times that operators have."""

import os
import signal
import time
from pathlib import Path

import httpx
import pytest

from headway.running import RunningHeadway, gone
from headway.testing import wait_until
from tests.endurance.submitting import submitted
from tests.receiver import Receiver

WORST_S = 45.0

ECHO = """
from headway import Model

class Echo(Model):
    def predict(self, inputs):
        return inputs
"""


#: Found by every Python of the system: a worker's event loop hangs once a file says so.
PLANT = """
import os, sys, threading, time

WEDGE = os.environ.get("WEDGE", "")

def plant():
    while not hasattr(sys.modules.get("workers.intake"), "Intake"):
        time.sleep(0.01)
    intake = sys.modules["workers.intake"].Intake
    tell = intake._tell

    def hang(self, consumer):
        try:
            os.rename(WEDGE, WEDGE + ".done")
        except OSError:
            return tell(self, consumer)
        time.sleep(1000)

    intake._tell = hang

if "\\0worker\\0" in open("/proc/self/cmdline").read():
    threading.Thread(target=plant, daemon=True).start()
"""


@pytest.mark.timeout(300)
def test_a_worker_whose_loop_hangs_is_replaced(tmp_path: Path, postgres_url: str) -> None:
    version = tmp_path / "models" / "echo" / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(ECHO)
    (tmp_path / "sitecustomize.py").write_text(PLANT)
    wedge = tmp_path / "wedge"
    path = os.pathsep.join(one for one in (str(tmp_path), os.environ.get("PYTHONPATH", "")) if one)
    environ = {"PYTHONPATH": path, "WEDGE": str(wedge)}
    with RunningHeadway(tmp_path, options=["--database-url", postgres_url], environ=environ) as headway:
        pid = headway.pid_of("worker")
        wedge.touch()
        wait_until(lambda: not wedge.exists(), 10, "the worker's loop to hang")
        began = time.monotonic()
        wait_until(lambda: gone(pid), 90, "the worker to be gone")
        left = time.monotonic() - began
        another = headway.pid_of("worker", 30)
        answer = httpx.post(
            f"{headway.data_url}/v1/models/echo/predictions",
            json={"input": 1},
            headers={"Prefer": "wait=30"},
            timeout=40,
        )
        assert answer.json()["output"] == 1
        took = time.monotonic() - began
        print(f"\na worker's loop hung: gone after {left:.1f} s, a prediction computed by another after {took:.1f} s")
        assert another != pid
        assert took <= WORST_S


@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", ["worker", "utility", "api"])
def test_a_part_that_is_stopped_is_replaced(part: str, tmp_path: Path, postgres_url: str) -> None:
    version = tmp_path / "models" / "echo" / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(ECHO)
    receiver = Receiver()
    try:
        with (
            RunningHeadway(
                tmp_path,
                options=["--database-url", postgres_url],
                environ={"HEADWAY_WEBHOOK_ALLOW": "127.0.0.0/8"},
            ) as headway,
            httpx.Client(base_url=headway.data_url, timeout=2) as client,
        ):

            def accepted() -> str:
                return submitted(client, "echo", receiver.url)

            def told(id_: str) -> bool:
                return any(one.event["data"]["id"] == id_ for one in receiver.got)

            first = wait_until(accepted, 30, "a prediction to be accepted")
            wait_until(lambda: told(first), 30, "its webhook")
            pid = headway.pid_of(part)
            os.kill(pid, signal.SIGSTOP)
            began = time.monotonic()
            after = wait_until(accepted, 90, "a prediction to be accepted")
            wait_until(lambda: told(after), 90, "its webhook")
            took = time.monotonic() - began
            wait_until(lambda: headway.pid_of(part) != pid, 20, f"another {part}")
            print(f"\n{part} stopped: {took:.1f} s until a prediction was accepted, computed and told")
            assert took <= WORST_S
    finally:
        receiver.close()
