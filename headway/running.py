"""A whole Headway in processes of its own: `headway up` as a context manager, for tests, demos and benchmarks."""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

from headway.testing import wait_until


class RunningHeadway:
    """`headway up` on free ports, with `folder/models` (or `models`) and its data in `folder`."""

    def __init__(self, folder: Path, *, models: Path | None = None, options: Sequence[str] = ()) -> None:
        """`options`: further ones of `headway up`; they come last, so they win."""
        self.folder = folder
        self.data = folder / "data"
        self._models = models or folder / "models"
        self._options = options
        self.process = self.start()

    def start(self) -> "subprocess.Popen[bytes]":
        """Another `headway up` of the same folder."""
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "launch", "up"),
                *("--models", str(self._models.resolve()), "--data", str(self.data), "--devices", "cpu"),
                *("--port", "0", "--admin-port", "0", "--flower-port", "0", *self._options),
            ],
            cwd=self.folder,
            env={name: value for name, value in os.environ.items() if not name.startswith(("HEADWAY_", "FLOWER_"))},
            stdout=subprocess.PIPE,
        )

    def __enter__(self) -> "RunningHeadway":
        self.wait_ready()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def wait_ready(self, timeout_s: float = 90.0) -> None:
        """Until the ready line, which names the URLs. Raises TimeoutError, or RuntimeError if it ended instead."""
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], timeout_s)
        if not readable:
            self.process.kill()
            raise TimeoutError(f"`headway up` was not ready within {timeout_s} s")
        line = self.process.stdout.readline().decode()
        if not line.startswith("ready "):
            raise RuntimeError(f"`headway up` ended with {self.process.wait()} before it was ready")
        urls = dict(word.split("=", 1) for word in line.split()[1:] if "=" in word)
        self.data_url, self.control_url, self.flower_url = urls["data"], urls["control"], urls["flower"]

    def pid_of(self, part: str, timeout_s: float = 20.0) -> int:
        """The process of a part: api, worker, utility, flower, valkey, or device (the model's). Linux only."""
        return wait_until(lambda: self._find(part), timeout_s, f"a process of {part}")

    def _find(self, part: str) -> int:
        """0 where there is none."""
        for pid in descendants(self.process.pid):
            words = command_line(pid)
            if part == "valkey":
                found = any(name in word for name in ("valkey-server", "redis-server") for word in words[:1])
            elif part == "device":
                found = any("workers.device" in word for word in words)
            else:
                found = part in words and "launch" in words
            if found:
                return pid
        return 0

    def stop(self, timeout_s: float = 20.0) -> int:
        """SIGTERM, and the exit code after the drain."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)

    def close(self) -> None:
        """Stops it if it still runs."""
        if self.process.poll() is None:
            try:
                self.stop()
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.communicate(timeout=20)


def descendants(pid: int) -> list[int]:
    """Every living process below `pid`, from /proc."""
    parents = dict(_parents())
    below: list[int] = []
    frontier = [pid]
    while frontier:
        frontier = [child for child, parent in parents.items() if parent in frontier]
        below += frontier
    return below


def command_line(pid: int) -> list[str]:
    """The words it was started with; none if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0").split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return []


def _parents() -> Iterator[tuple[int, int]]:
    for path in Path("/proc").iterdir():
        if path.name.isdecimal():
            try:
                state, parent, *_ = (path / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if state != "Z":
                yield int(path.name), int(parent)
