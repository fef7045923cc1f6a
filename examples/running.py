"""`headway up` as the child of a script: start it, wait for its ready line, stop it.

Its rule: whatever happens in between, nothing is left running, and what went wrong is shown.
"""

import contextlib
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

READY_S = 120.0
STOP_S = 30.0
LOG_TAIL = 40  # lines


@dataclass(frozen=True)
class System:
    """A Headway that accepts predictions."""

    data_url: str
    control_url: str
    flower_url: str  # "off" where there is none
    database: Path
    process: "subprocess.Popen[str]"


@contextlib.contextmanager
def headway_up(models: Path, data: Path, *, flower: bool = False) -> Iterator[System]:
    """Serves `models` on free ports with everything it writes in `data`. Raises RuntimeError with its log's tail."""
    data.mkdir(parents=True, exist_ok=True)
    log = data / "up.log"
    command = [sys.executable, "-m", "launch", "up", "--models", str(models), "--data", str(data)]
    command += ["--port", "0", "--admin-port", "0", "--flower-port", str(free_port() if flower else 0)]
    with log.open("w") as stderr:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)
    try:
        urls = dict(re.findall(r"(\w+)=(\S+)", ready_line(process, log)))
        yield System(urls["data"], urls["control"], urls["flower"], data / "headway.db", process)
    finally:
        stop(process, log)


def ready_line(process: "subprocess.Popen[str]", log: Path) -> str:
    """The one line on its stdout. Raises RuntimeError where it does not come."""
    # A timer and not a timeout on the read: a pipe's end is what shows that the process died, too.
    late = threading.Timer(READY_S, process.kill)
    late.start()
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
    finally:
        late.cancel()
    if not line.startswith("ready"):
        raise RuntimeError(f"`headway up` did not become ready:\n{tail(log)}")
    return line


def stop(process: "subprocess.Popen[str]", log: Path) -> None:
    """Ask it to drain. Raises RuntimeError where it does not end by itself, or not with 0."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise RuntimeError(f"`headway up` did not stop within {STOP_S:.0f} s:\n{tail(log)}") from None
    finally:
        if process.stdout is not None:
            process.stdout.close()
    # While another exception is on its way, that one is the news.
    if process.returncode != 0 and sys.exc_info()[0] is None:
        raise RuntimeError(f"`headway up` ended with {process.returncode}:\n{tail(log)}")


def tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-LOG_TAIL:])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
