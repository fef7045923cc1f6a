"""A part that is stopped, and so can do nothing about it itself, is replaced: with the times that operators have."""

import os
import signal
import time
from pathlib import Path

import httpx
import pytest

from headway.running import RunningHeadway
from headway.testing import wait_until
from tests.receiver import Receiver

WORST_S = 45.0

ECHO = """
from headway import Model

class Echo(Model):
    def predict(self, inputs):
        return inputs
"""


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
                try:
                    answer = client.post("/v1/models/echo/predictions", json={"input": 1, "webhook": receiver.url})
                except httpx.TransportError:
                    return ""
                return str(answer.json()["id"]) if answer.status_code == 202 else ""

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
