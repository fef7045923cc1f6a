"""`headway up` as its user meets it: one command, whole processes, a model in plain Python."""

import os
import signal
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from headway.running import RunningHeadway, children, command_line, descendants, gone
from headway.testing import wait_until

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads the processes from /proc")

MODEL = """
from headway import Model

class Double(Model):
    def predict(self, inputs):
        return [2 * number for number in inputs]
"""


def running(folder: Path, *options: str) -> Iterator[RunningHeadway]:
    version = folder / "models" / "double" / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(MODEL)
    up = RunningHeadway(folder, flower=True, options=options)
    try:
        up.wait_ready()
        yield up
    finally:
        up.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHeadway]:
    """For what ends as it began: the system is up."""
    yield from running(tmp_path_factory.mktemp("shared"), "--api-processes", "2")


@pytest.fixture
def own(tmp_path: Path) -> Iterator[RunningHeadway]:
    """For what ends it."""
    yield from running(tmp_path)


def predict(up: RunningHeadway, number: int) -> object:
    """The output, waited for."""
    answer = httpx.post(
        f"{up.data_url}/v1/models/double/predictions",
        json={"input": number},
        headers={"Prefer": "wait=30"},
        timeout=40,
    )
    return answer.json()["output"]


def parts(up: RunningHeadway) -> dict[str, set[int]]:
    """What the supervisor keeps alive: the last words of the command line → pids."""
    found: defaultdict[str, set[int]] = defaultdict(set)
    for pid in children(up.process.pid):
        found[" ".join(command_line(pid)[-3:])].add(pid)
    return found


def test_no_password_stands_in_a_command_line(shared: RunningHeadway) -> None:
    config = (shared.data / "valkey" / "valkey.conf").read_text()
    (password,) = [line.split()[1] for line in config.splitlines() if line.startswith("requirepass")]
    for pid in descendants(shared.process.pid):
        assert password not in " ".join(command_line(pid))


def test_a_second_up_on_the_same_data_is_refused(shared: RunningHeadway) -> None:
    second = shared.start()
    said, _ = second.communicate(timeout=30)
    assert (second.returncode, said) == (2, "")
    assert predict(shared, 1) == 2


def test_every_part_that_is_killed_comes_back(shared: RunningHeadway) -> None:
    found = parts(shared)
    assert sorted(map(len, found.values())) == [1, 1, 1, 1, 2]  # valkey, utility, flower, worker; two APIs
    for name, pid in [(name, pid) for name, pids in found.items() for pid in pids]:
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda name=name, pid=pid: len(parts(shared)[name] - {pid}) == len(found[name]), 15, f"a new {name}")  # type: ignore[misc]
        assert predict(shared, 4) == 8


def test_one_command_answers_predictions_and_leaves_nothing_behind(own: RunningHeadway) -> None:
    assert predict(own, 21) == 42
    assert httpx.get(f"{own.flower_url}/healthcheck").status_code == 200

    family = descendants(own.process.pid)
    assert len(family) >= 6  # the five parts and the worker's device process
    began = time.monotonic()
    assert own.close() == 0
    assert time.monotonic() - began < 15
    assert [pid for pid in family if not gone(pid)] == []
    assert [path.name for path in own.data.rglob("*") if not path.name.startswith("headway.db")] == []
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{own.data_url}/health")


def test_nothing_outlives_a_supervisor_that_is_killed_and_the_next_one_starts(own: RunningHeadway) -> None:
    family = descendants(own.process.pid)
    own.process.kill()
    own.process.communicate()
    wait_until(lambda: all(gone(pid) for pid in family), 10, "every process to be gone")
    own.process = own.start()
    own.wait_ready()
