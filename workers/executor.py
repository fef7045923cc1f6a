"""A device process, as the worker sees it: start it, send micro-batches, receive their outcomes, end it.

The rule: whatever the model does (crash, hang, print, fill its memory), the worker learns of it as one of three
exceptions and lives on. Nothing here imports a framework.
"""

import contextlib
import math
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import connection as connections
from multiprocessing.connection import Connection
from pathlib import Path

from headway import failpoints
from headway.manifest import Manifest
from workers import accelerator, frames
from workers.frames import Loaded, Reply, Said

__all__ = [
    "AcceleratorLost",
    "DeviceHung",
    "DeviceLost",
    "DiedLoading",
    "Executor",
    "LoadFailed",
    "Loaded",
    "Reply",
    "Said",
]

_ROOT = Path(__file__).resolve().parent.parent
#: -P and the path at the end: neither the working folder nor a model's folder can stand in for our packages.
_BOOT = "import sys; sys.path.append(sys.argv.pop(1)); from workers.device import main; main()"

_CLOSE_S = 5.0  # a polite end, before it is killed
_LOOK_S = 0.5  # how late a hang may be seen when a call was submitted while nothing was in flight
_AGAIN_S = 0.02  # between two tries to send a cancel to a process that has not read what was sent before

# The kernel ends a device process when the *thread* that started it ends, so that thread has to last as long as the
# worker itself.
_spawner = ThreadPoolExecutor(1, thread_name_prefix="spawner")


class LoadFailed(Exception):  # noqa: N818
    """The model could not be loaded; the message says why."""


class DiedLoading(LoadFailed):
    """The process ended before it could say anything: the model's doing, or somebody killed it."""


class DeviceLost(Exception):  # noqa: N818
    """The device process is gone, and with it every call in flight."""


class AcceleratorLost(DeviceLost):
    """The same, and not for what was computed: the device itself is gone, or broken."""


class DeviceHung(Exception):  # noqa: N818
    """The oldest call is over the model's `timeout_s`. The process still runs: kill it."""


class Executor:
    """One device process. `submit` and `hear` may be called from a thread each, the rest from any."""

    def __init__(
        self,
        *,
        model: str,
        version: str,
        path: Path,
        manifest: Manifest,
        device: str,
        instance: int = 0,
        sha256: str | None = None,
    ) -> None:
        """`device`: cpu, mps, cuda or cuda:N, N counting the GPUs that this process may see.

        `sha256`: the digest that the folder must have when it is loaded; None: it is not looked at.
        """
        self._name = f"{model}@{version}#{instance}"
        self._path = path.resolve()
        self._manifest = manifest
        self._device = device
        self._sha256 = sha256
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._connection: Connection | None = None  # over the same socket; None once all is released
        self._pidfd: int | None = None
        self._bell: tuple[int, int] | None = None  # a pipe that ends the wait of `hear`: (to read, to write)
        self._in_flight: deque[tuple[int, float]] = deque()  # (call id, when it was submitted)
        self._free_since = 0.0  # when the device sent its last reply
        self._cancels: deque[bytes] = deque()  # frames that are to be sent as soon as nobody need wait for it
        self._sending = threading.Lock()  # these three are held while the descriptors are in use:
        self._receiving = threading.Lock()  # whoever closes them takes all
        self._ringing = threading.Lock()

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def load(self, timeout_s: float = 600) -> Loaded:
        """Starts the process, loads the model and warms it up. Raises LoadFailed; the process is gone then."""
        try:
            self._start()
            return self._await_loaded(timeout_s)
        except LoadFailed:
            self.kill()
            raise
        except DeviceLost as error:
            self.kill()
            raise DiedLoading(str(error)) from error

    def _start(self) -> None:
        environment = _without_settings(os.environ) | _pinned(self._device, self._manifest.instances)
        ours, theirs = socket.socketpair()
        with theirs:
            fd = str(theirs.fileno())
            boot = [sys.executable, "-P", "-c", _BOOT, str(_ROOT), fd, str(os.getpid()), self._name, self._device]
            self._process = _spawner.submit(
                subprocess.Popen,
                boot,
                stdin=subprocess.DEVNULL,
                env=environment,
                pass_fds=[theirs.fileno()],
                process_group=0,  # a Ctrl-C at the terminal is the worker's to answer; and helpers die with it
            ).result()
        self._socket, self._connection = ours, Connection(os.dup(ours.fileno()))
        self._bell = os.pipe()
        for end in self._bell:
            os.set_blocking(end, False)
        with contextlib.suppress(AttributeError, OSError):  # Linux only; elsewhere the closed socket alone tells
            self._pidfd = os.pidfd_open(self._process.pid)

    def _await_loaded(self, timeout_s: float) -> Loaded:
        within = "cuda:0" if self._device.startswith("cuda") else self._device
        threads_free = "OMP_NUM_THREADS" not in os.environ
        self._send(frames.encode(frames.Load(str(self._path), within, self._manifest, self._sha256, threads_free)))
        with self._receiving:
            give_up = time.monotonic() + timeout_s
            while not self._readable(max(0.0, give_up - time.monotonic())):
                if time.monotonic() >= give_up:
                    raise LoadFailed(f"it did not load within {timeout_s:g} s")
            answer: Loaded | frames.NotLoaded = frames.decode_loaded(self._read())
        if isinstance(answer, frames.NotLoaded):
            raise LoadFailed(answer.reason)
        return answer

    def submit(self, call_id: int, items: Sequence[tuple[str, bytes]], types: Mapping[str, str] | None = None) -> None:
        """Sends a micro-batch of (prediction id, input); returns once it is written. Raises DeviceLost.

        `types`: the media types of inputs that are no JSON, by prediction id. Several calls may be in
        flight, so that the device finds the next one waiting; `workers.slots` bounds them.
        """
        frame = frames.encode(frames.Call(call_id, list(items), dict(types or ())))
        self._in_flight.append((call_id, time.monotonic()))
        self._send(frame)

    def cancel(self, call_id: int, ids: Sequence[str]) -> None:
        """Nobody wants these items of a submitted call any more: what has not begun never does, the model may ask.

        Never blocks: a process that hangs does not read, and whoever calls this has others to look after.
        """
        self._cancels.append(frames.encode(frames.Cancel(call_id, list(ids))))
        self._send_cancels()
        if self._cancels:
            self.wake()

    def wake(self) -> None:
        """Ends the wait of `hear`, now or the next one: whoever waits there has something new to wait for."""
        with self._ringing:
            if self._bell is not None:
                with contextlib.suppress(BlockingIOError):  # full: it rings
                    os.write(self._bell[1], b"!")

    def receive(self) -> Reply:
        """Blocks for the oldest call, also while there is none. Raises DeviceLost, DeviceHung."""
        while not isinstance(answer := self.hear(math.inf), Reply):
            pass
        return answer

    def hear(self, within_s: float) -> Reply | Said | None:
        """What the process says next; None after `within_s`, or a `wake`. Raises DeviceLost, DeviceHung."""
        if self._cancels:
            self._send_cancels()
            within_s = min(within_s, _AGAIN_S) if self._cancels else within_s
        with self._receiving:
            if not self._await_frame(within_s):
                return None
            answer: Reply | Said = frames.decode_answer(self._read())
            if isinstance(answer, Reply):
                self._in_flight.popleft()
                self._free_since = time.monotonic()
            elif (left := self._time_left()) is not None and left < -_LOOK_S:
                raise DeviceHung(self._too_long())  # it talks and talks, and no reply is behind that
        return answer

    def _await_frame(self, within_s: float) -> bool:
        left = self._time_left()
        if self._readable(min(within_s, _LOOK_S if left is None else max(left, 0.0))):
            return True
        left = self._time_left()
        if left is not None and left <= 0.0 and not self._readable(0.0):
            raise DeviceHung(self._too_long())
        return False

    def _too_long(self) -> str:
        limit = self._manifest.limits.timeout_s
        return f"the device process of {self._name} gave no answer within {limit:g} s (timeout_s)"

    def _time_left(self) -> float | None:
        """Of the oldest call in flight, counted from when the device could begin it; None without one."""
        if not self._in_flight:
            return None
        _, submitted = self._in_flight[0]
        return max(submitted, self._free_since) + self._manifest.limits.timeout_s - time.monotonic()

    def _send(self, frame: bytes) -> None:
        with self._sending:
            if self._connection is None:
                raise DeviceLost(f"the device process of {self._name} has been ended")
            try:
                self._connection.send_bytes(frame)
            except OSError as error:
                raise self._lost() from error
        self._send_cancels()

    def _send_cancels(self) -> None:
        """Whoever holds the lock comes by here once it is free, and `hear` where there was no room: none is left."""
        while self._cancels and self._sending.acquire(blocking=False):
            try:
                if self._connection is None or not self._writable(self._connection):
                    return
                with contextlib.suppress(OSError, IndexError):
                    self._connection.send_bytes(self._cancels.popleft())
            finally:
                self._sending.release()

    def _writable(self, connection: Connection) -> bool:
        poll = select.poll()
        poll.register(connection, select.POLLOUT)
        return bool(poll.poll(0))

    def _readable(self, timeout_s: float) -> bool:
        """Whether a frame, or the end, is there within this time, or until the bell rings.

        Raises DeviceLost at the end of the process.
        """
        if self._connection is None or self._bell is None:
            raise DeviceLost(f"the device process of {self._name} has been ended")
        bell = self._bell[0]
        watched: list[Connection | int] = [self._connection, bell]
        if self._pidfd is not None:  # a helper of the model may hold the other end open after the process is gone
            watched.append(self._pidfd)
        ready = connections.wait(watched, timeout_s)
        if bell in ready:
            os.read(bell, 4096)
        if self._connection in ready:
            return True
        if self._pidfd in ready and not self._connection.poll(0):
            raise self._lost()
        return self._pidfd in ready

    def _read(self) -> bytes:
        assert self._connection is not None
        try:
            return self._connection.recv_bytes()
        except (EOFError, OSError) as error:
            raise self._lost() from error

    def _lost(self) -> DeviceLost:
        """How the process ended. Waits for it, and kills one that has only closed its socket."""
        assert self._process is not None
        try:
            code = self._process.wait(_CLOSE_S)
        except subprocess.TimeoutExpired:
            self._kill_group()
            return DeviceLost(f"the device process of {self._name} closed its connection")
        if code < 0:
            return DeviceLost(
                f"the device process of {self._name} was ended by signal {-code} ({signal.strsignal(-code)})"
            )
        if code == accelerator.LOST:
            return AcceleratorLost(f"the device process of {self._name} has lost its device")
        return DeviceLost(f"the device process of {self._name} exited with code {code}")

    def kill(self) -> None:
        """Ends the process and its helpers at once; `receive` raises DeviceLost."""
        if self._process is not None:
            self._kill_group()
            self._release()

    def close(self) -> None:
        """Lets the process end by itself, for a few seconds, and then kills what is left."""
        if self._process is not None and self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_WR)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_CLOSE_S)
        self.kill()

    def _kill_group(self) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _release(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)  # wakes whoever still waits on it
            self._socket.close()
        with self._sending, self._receiving, self._ringing:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            if self._pidfd is not None:
                os.close(self._pidfd)
                self._pidfd = None
            if self._bell is not None:
                for end in self._bell:
                    os.close(end)
                self._bell = None


def _without_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """A model needs neither the addresses and passwords of databases nor keys, so it is not given any."""
    ours = ("HEADWAY_", "FLOWER_")
    return {name: value for name, value in environ.items() if not name.startswith(ours) or name == failpoints.VARIABLE}


def _pinned(device: str, instances: int) -> dict[str, str]:
    """The environment that makes a process see this device and no other. Raises LoadFailed for an unknown one."""
    match = re.fullmatch(r"cpu|mps|cuda(?::(\d+))?", device)
    if match is None:
        raise LoadFailed(f"the device is {device!r}, and should be cpu, mps or cuda:N")
    if device == "mps":
        return {}
    if device == "cpu":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        defaults = {
            "OMP_NUM_THREADS": str(max(1, cores // instances)),
            # The cores are shared with the API and the worker. Threads that spin while one of their team is not
            # scheduled burn what it waits for: with two busy neighbours on two cores a small convolution took 80 ms
            # spinning, 3 ms sleeping, and the two were alike on quiet cores.
            "OMP_WAIT_POLICY": "PASSIVE",
        }
        return {name: os.environ.get(name, default) for name, default in defaults.items()} | {
            "CUDA_VISIBLE_DEVICES": ""
        }
    index = int(match[1] or 0)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": str(index)}
    names = [name for name in visible.split(",") if name]  # a scheduler gave us these: N counts among them
    if index >= len(names):
        raise LoadFailed(f"{device} is not there: CUDA_VISIBLE_DEVICES is {visible!r}")
    return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": names[index]}
