"""`headway up` as its user meets it: one command, whole processes, a model in plain Python."""

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from headway.testing import wait_until

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads the processes from /proc")

MODEL = """
from headway import Model

class Double(Model):
    def predict(self, inputs):
        return [2 * number for number in inputs]
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


class Up:
    """A running `headway up` in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        version = folder / "models" / "double" / "1"
        version.mkdir(parents=True)
        (version / "model.py").write_text(MODEL)
        self.process = self.start()
        self.ready_line = self.read_line(90)
        urls = dict(word.split("=", 1) for word in self.ready_line.split()[1:])
        self.data_url, self.control_url, self.flower_url = urls["data"], urls["control"], urls["flower"]

    def start(self) -> "subprocess.Popen[bytes]":
        ports = ("--port", "0", "--admin-port", "0", "--flower-port", str(free_port()))
        return subprocess.Popen(
            [sys.executable, "-m", "launch", "up", "--data", str(self.data), "--devices", "cpu", *ports],
            cwd=self.folder,
            env={name: value for name, value in os.environ.items() if not name.startswith(("HEADWAY_", "FLOWER_"))},
            stdout=subprocess.PIPE,
        )

    def read_line(self, timeout_s: float) -> str:
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], timeout_s)
        assert readable, "no ready line in time"
        return self.process.stdout.readline().decode()

    def predict(self, number: int, wait_s: int = 30) -> dict[str, Any]:
        answer = httpx.post(
            f"{self.data_url}/v1/models/double/predictions",
            json={"input": number},
            headers={"Prefer": f"wait={wait_s}"},
            timeout=wait_s + 10,
        )
        prediction: dict[str, Any] = answer.json()
        return prediction

    def parts(self) -> dict[str, int]:
        """What the supervisor keeps alive: the last words of the command line → pid."""
        return {" ".join(command_line(pid)[-3:]): pid for pid in children(self.process.pid)}

    def close(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=20)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """For what ends as it began: the system is up."""
    running = Up(tmp_path_factory.mktemp("shared"))
    try:
        yield running
    finally:
        running.close()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Up]:
    """For what ends it."""
    running = Up(tmp_path)
    try:
        yield running
    finally:
        running.close()


def stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the name: state, parent, …; empty where there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def children(pid: int) -> list[int]:
    everyone = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]
    return [other for other in everyone if (fields := stat(other)) and fields[0] != "Z" and int(fields[1]) == pid]


def descendants(pid: int) -> list[int]:
    direct = children(pid)
    return direct + [below for child in direct for below in descendants(child)]


def gone(pid: int) -> bool:
    fields = stat(pid)
    return not fields or fields[0] == "Z"


def command_line(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0").split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return []


def test_no_password_stands_in_a_command_line(shared: Up) -> None:
    config = (shared.data / "valkey" / "valkey.conf").read_text()
    (password,) = [line.split()[1] for line in config.splitlines() if line.startswith("requirepass")]
    for pid in descendants(shared.process.pid):
        assert password not in " ".join(command_line(pid))


def test_a_second_up_on_the_same_data_is_refused(shared: Up) -> None:
    second = shared.start()
    assert second.wait(30) == 2
    said, _ = second.communicate()
    assert said == b""
    assert shared.predict(1)["output"] == 2


def test_every_part_that_is_killed_comes_back(shared: Up) -> None:
    parts = shared.parts()
    assert len(parts) == 5  # valkey, utility, flower, api, worker
    for name, pid in parts.items():
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda name=name, pid=pid: shared.parts().get(name, pid) != pid, 15, f"a new {name}")  # type: ignore[misc]
        assert shared.predict(4)["output"] == 8


def test_one_command_answers_predictions_and_leaves_nothing_behind(own: Up) -> None:
    assert own.predict(21)["output"] == 42
    assert httpx.get(f"{own.flower_url}/healthcheck").status_code == 200

    family = descendants(own.process.pid)
    assert len(family) >= 6  # the five parts and the worker's device process
    began = time.monotonic()
    own.process.send_signal(signal.SIGTERM)
    assert own.process.wait(20) == 0
    assert time.monotonic() - began < 15
    assert [pid for pid in family if not gone(pid)] == []
    assert [path.name for path in own.data.rglob("*") if not path.name.startswith("headway.db")] == []
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{own.data_url}/health")


def test_nothing_outlives_a_supervisor_that_is_killed_and_the_next_one_starts(own: Up) -> None:
    family = descendants(own.process.pid)
    own.close()
    wait_until(lambda: all(gone(pid) for pid in family), 10, "every process to be gone")
    own.process = own.start()
    assert own.read_line(60).startswith("ready ")
