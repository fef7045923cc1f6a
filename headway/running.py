"""A whole Headway in processes of its own: `headway up` as a context manager, for tests, demos and benchmarks."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from headway.testing import wait_until

_READY_S = 120.0
_STOP_S = 30.0
_LOG_TAIL = 40  # lines


class RunningHeadway:
    """Serves `folder/models`, or `models`, on free ports; its data and its log are in `folder`."""

    def __init__(
        self,
        folder: Path,
        *,
        models: Path | None = None,
        flower: bool = False,
        options: Sequence[str] = (),
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """`options`: further ones of `headway up`; they come last, so they win. `environ`: further settings."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.data = folder / "data"
        self.database = self.data / "headway.db"
        self.log = folder / "up.log"
        self._command = [
            *(sys.executable, "-m", "launch", "up"),
            *("--models", str((models or folder / "models").resolve()), "--data", str(self.data)),
            *("--port", "0", "--admin-port", "0", "--flower-port", str(free_port() if flower else 0)),
            *options,
        ]
        self._environ = dict(environ or {})
        self.process = self.start()

    def start(self) -> "subprocess.Popen[str]":
        """Another `headway up` of the same folder."""
        # Nothing of the surroundings decides what is tested or measured here.
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("HEADWAY_", "FLOWER_"))}
        with self.log.open("a") as log:
            return subprocess.Popen(
                self._command,
                cwd=self.folder,
                env=environ | self._environ,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def __enter__(self) -> "RunningHeadway":
        try:
            self.wait_ready()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        code = self.close()
        if code != 0 and kind is None:  # while another exception is on its way, that one is the news
            raise RuntimeError(f"`headway up` ended with {code}:\n{self.tail()}")

    def wait_ready(self) -> None:
        """Until the ready line, which names the URLs. Raises RuntimeError with the log's tail."""
        # A timer and not a timeout on the read: a pipe's end is what shows that the process died, too.
        late = threading.Timer(_READY_S, self.process.kill)
        late.start()
        try:
            assert self.process.stdout is not None
            line = self.process.stdout.readline()
        finally:
            late.cancel()
        if not line.startswith("ready"):
            raise RuntimeError(f"`headway up` did not become ready:\n{self.tail()}")
        self.urls: dict[str, str] = dict(re.findall(r"([\w.]+)=(\S+)", line))
        self.data_url, self.control_url = self.urls["data"], self.urls["control"]
        self.flower_url = self.urls["flower"]

    def tail(self) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-_LOG_TAIL:])

    def pid_of(self, part: str, timeout_s: float = 20.0) -> int:
        """The process of a part: api, worker, utility, flower, valkey, or of a model: `echo@1`. Linux only."""
        return wait_until(lambda: self._find(part), timeout_s, f"a process of {part}")

    def _find(self, part: str) -> int:
        """0 where there is none."""
        for pid in descendants(self.process.pid):
            words = command_line(pid)
            if part == "valkey":
                found = any(name in word for name in ("valkey-server", "redis-server") for word in words[:1])
            elif "@" in part:
                found = any(word.startswith(f"{part}#") for word in words)
            else:
                found = part in words and "launch" in words
            if found:
                return pid
        return 0

    def close(self) -> int:
        """Asks it to drain, and ends it if it does not; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_STOP_S)
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        return self.process.returncode


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


def children(pid: int) -> list[int]:
    """The living processes that `pid` started. Linux only, like all that follows."""
    return [child for child, parent in _parents() if parent == pid]


def descendants(pid: int) -> list[int]:
    """Every living process below `pid`."""
    parents = dict(_parents())
    below: list[int] = []
    frontier = [pid]
    while frontier:
        frontier = [child for child, parent in parents.items() if parent in frontier]
        below += frontier
    return below


def gone(pid: int) -> bool:
    """Whether it has ended, collected or not."""
    state, _ = _stat(Path(f"/proc/{pid}"))
    return state in ("", "Z")


def command_line(pid: int) -> list[str]:
    """The words it was started with; none if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0").split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return []


def _parents() -> Iterator[tuple[int, int]]:
    for path in Path("/proc").iterdir():
        if path.name.isdecimal():
            state, parent = _stat(path)
            if state not in ("", "Z"):
                yield int(path.name), parent


def _stat(process: Path) -> tuple[str, int]:
    """(state, parent) from /proc; an empty state where there is no such process."""
    try:
        state, parent, *_ = (process / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return "", 0
    return state, int(parent)
