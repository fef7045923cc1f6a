"""The supervisor with real processes: small Python programs that write down what happens to them."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from headway.testing import wait_until

#: A part: notes its start and its SIGTERM in `diary`; what else it does stands in its arguments.
PART = """
import os, signal, socket, subprocess, sys, time
name, *ways = sys.argv[1:]

def note(what):
    with open("diary", "a") as diary:
        diary.write(f"{name} {what} {os.getpid()}\\n")

def on_sigterm(*_):
    note("term")
    if "stubborn" not in ways:
        sys.exit(0)

signal.signal(signal.SIGTERM, on_sigterm)
if "serving" in ways:
    listening = socket.socket(fileno=int(os.environ["FD"]))
if "parent" in ways:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    with open("diary", "a") as diary:
        diary.write(f"{name}-child start {child.pid}\\n")
note("start")
if "serving" in ways:
    while True:
        connection, _ = listening.accept()
        connection.sendall(b"served")
        connection.close()
if "pulsing" in ways:
    pulse = int(os.environ["HEADWAY_PULSE_FD"])
    while True:
        os.write(pulse, b".")
        time.sleep(0.2)
while True:
    time.sleep(60)
"""

#: The supervisor, in a process of its own, over the groups given as Python.
SUPERVISOR = """
import asyncio, os, socket, sys
from launch.supervisor import Part, Supervisor

def part(name, *ways, **more):
    return Part(name=name, argv=[sys.executable, "part.py", name, *ways], **more)

async def then():
    print("up", flush=True)

async def main():
    listening = socket.create_server(("127.0.0.1", 0))
    fd = listening.fileno()
    print(listening.getsockname()[1], flush=True)
    return await Supervisor([GROUPS], drain_s=DRAIN_S, before_drain=listening.close).run(then)

sys.exit(asyncio.run(main()))
"""


class Supervised:
    """A supervisor process in `folder`, and the diary of its parts."""

    def __init__(self, folder: Path, groups: str, drain_s: float) -> None:
        self.folder = folder
        (folder / "part.py").write_text(PART)
        self.process = subprocess.Popen(
            [sys.executable, "-c", SUPERVISOR.replace("GROUPS", groups).replace("DRAIN_S", str(drain_s))],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())
        assert self.process.stdout.readline() == "up\n"

    def diary(self, what: str) -> list[tuple[str, int]]:
        """(part, pid) of every such note, oldest first."""
        path = self.folder / "diary"
        notes = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        return [(name, int(pid)) for name, noted, pid in notes if noted == what]

    def started(self, name: str, times: int = 1) -> int:
        """Its pid, once it has started that often."""
        pids: list[int] = []

        def often_enough() -> bool:
            pids[:] = [pid for part, pid in self.diary("start") if part == name]
            return len(pids) >= times

        wait_until(often_enough, 15, f"{name} to have started {times} times")
        return pids[-1]

    def stop(self, *signals: signal.Signals, within_s: float = 20) -> int:
        for number in signals:
            self.process.send_signal(number)
        return self.process.wait(within_s)


Supervise = Callable[..., Supervised]


@pytest.fixture
def supervise(tmp_path: Path) -> Iterator[Supervise]:
    running: list[Supervised] = []

    def start(groups: str, drain_s: float = 10) -> Supervised:
        running.append(Supervised(tmp_path, groups, drain_s))
        return running[-1]

    yield start
    for supervised in running:
        supervised.process.kill()
        supervised.process.communicate(timeout=10)


def gone(pid: int) -> bool:
    """Whether the process has ended; one that only waits for init to reap it has."""
    try:
        os.kill(pid, 0)
        status = Path(f"/proc/{pid}/stat")
        return status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z"
    except (ProcessLookupError, FileNotFoundError):
        return True


def ask(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        return connection.recv(100)


def test_a_part_that_is_killed_comes_back_and_what_it_left_behind_does_not(supervise: Supervise) -> None:
    supervised = supervise("[part('a', 'parent'), part('b')]")
    first = supervised.started("a")
    child = supervised.started("a-child")
    bystander = supervised.started("b")
    os.kill(first, signal.SIGKILL)
    assert supervised.started("a", times=2) != first
    wait_until(lambda: gone(child), 5, "the child of the killed part to be gone")
    assert not gone(bystander)
    assert supervised.stop(signal.SIGTERM) == 0


def test_the_drain_goes_backwards_through_the_groups_and_leaves_nobody(supervise: Supervise) -> None:
    supervised = supervise("[part('broker')], [part('watcher')], [part('api'), part('worker', 'parent')]")
    pids = [supervised.started(name) for name in ("broker", "watcher", "api", "worker", "worker-child")]
    assert supervised.stop(signal.SIGTERM) == 0
    order = [name for name, _ in supervised.diary("term")]
    assert set(order[:2]) == {"api", "worker"}
    assert order[2:] == ["watcher", "broker"]
    assert all(gone(pid) for pid in pids)


def test_a_part_that_will_not_stop_is_killed_when_the_time_is_up(supervise: Supervise) -> None:
    supervised = supervise("[part('a')], [part('b', 'stubborn')]", drain_s=1)
    pid = supervised.started("b")
    assert supervised.stop(signal.SIGINT) == 1
    assert gone(pid)
    assert [name for name, _ in supervised.diary("term")] == ["b", "a"]


def test_a_second_signal_kills_at_once(supervise: Supervise) -> None:
    supervised = supervise("[part('a', 'stubborn', 'parent')]", drain_s=600)
    pids = [supervised.started("a"), supervised.started("a-child")]
    supervised.process.send_signal(signal.SIGTERM)
    wait_until(lambda: bool(supervised.diary("term")), 10, "the part to have been asked")
    assert supervised.stop(signal.SIGTERM, within_s=10) == 1
    assert all(gone(pid) for pid in pids)


@pytest.mark.skipif(sys.platform != "linux", reason="only the Linux kernel tells a child that its parent is gone")
def test_no_part_outlives_a_supervisor_that_is_killed(supervise: Supervise) -> None:
    supervised = supervise("[part('a')], [part('b', 'stubborn')]")
    pids = [supervised.started("a"), supervised.started("b")]
    supervised.process.kill()
    wait_until(lambda: all(gone(pid) for pid in pids), 5, "the parts to be gone")


def test_a_connection_waits_while_the_part_that_answers_is_replaced(supervise: Supervise) -> None:
    supervised = supervise("[part('api', 'serving', pass_fds=(fd,), environ={**os.environ, 'FD': str(fd)})]")
    first = supervised.started("api")
    assert ask(supervised.port) == b"served"
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: gone(first), 5, "the part to be gone, so that it does not take the connection with it")
    assert ask(supervised.port) == b"served"
    assert supervised.started("api", times=2) != first
    assert supervised.stop(signal.SIGTERM) == 0
    with pytest.raises(ConnectionRefusedError):
        ask(supervised.port)


def test_a_part_without_a_pulse_is_replaced_and_one_with_a_pulse_is_not(supervise: Supervise) -> None:
    supervised = supervise(
        "[part('a', 'pulsing', pulse=True, silent_s=2), part('b', 'pulsing', pulse=True, silent_s=2)]"
    )
    stopped, bystander = supervised.started("a"), supervised.started("b")
    began = time.monotonic()
    wait_until(lambda: time.monotonic() - began > 3, 10, "longer than one may be silent")
    os.kill(stopped, signal.SIGSTOP)
    assert supervised.started("a", times=2) != stopped
    assert gone(stopped)
    assert sorted(pid for name, pid in supervised.diary("start") if name == "b") == [bystander]
    assert supervised.stop(signal.SIGTERM) == 0


def test_the_next_group_waits_until_the_one_before_is_ready(supervise: Supervise) -> None:
    supervised = supervise(
        "[part('broker', ready=lambda: 'broker start' in open('diary').read() if os.path.exists('diary') else False)],"
        "[part('api')]"
    )
    supervised.started("api")
    assert [name for name, _ in supervised.diary("start")] == ["broker", "api"]


def test_every_life_of_a_part_has_its_own_environment_and_its_death_is_told(supervise: Supervise) -> None:
    supervised = supervise(
        "[part('a', fresh=lambda: {'LIFE': os.urandom(4).hex()},"
        " died=lambda fresh: open('deaths', 'a').write(fresh['LIFE'] + chr(10)))]"
    )
    for life in (1, 2):
        os.kill(supervised.started("a", times=life), signal.SIGKILL)
    supervised.started("a", times=3)
    deaths = (supervised.folder / "deaths").read_text().split()
    assert len(set(deaths)) == len(deaths) == 2
