"""The process that owns a device and one model on it. The worker starts it; see `workers.executor` for the other side.

The rule: it lives no longer than its worker, and touches nothing but its model. It is pinned by the environment it is
started with, before anything could import a framework. What the model prints goes to stderr.
"""

import ctypes
import faulthandler
import logging
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec

from batching import outcomes
from batching.outcomes import Fatal
from headway import logs, signature
from headway.manifest import Manifest
from headway.model import Context, Item
from headway.types import Outcome
from workers import frames
from workers.loaders import LoadedModel, Unloadable, load

logger = logging.getLogger(__name__)

#: A call in progress may end within this after the worker closed the pipe.
_LAST_CALL_S = 5.0
_PR_SET_PDEATHSIG = 1


def main() -> None:
    """argv: the descriptor of the socket to the worker, and the worker's pid."""
    fd, worker_pid = int(sys.argv[1]), int(sys.argv[2])
    _die_with(worker_pid)
    _keep_to_stderr()
    os.set_inheritable(fd, False)  # or a helper process of the model would hold the pipe open
    # Ctrl-C and a stop of the whole group are the worker's to answer: it drains, and then closes the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    faulthandler.enable()
    logs.configure("device")
    connection = Connection(fd)
    frames_in: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(connection, frames_in), name="pipe", daemon=True).start()
    order = frames_in.get()
    if order is None:
        return
    device = _load(frames.decode_load(order), connection)
    if device is not None:
        _serve(device, frames_in, connection)


def _die_with(worker_pid: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != worker_pid:  # it died before the line above
        os._exit(1)


def _keep_to_stderr() -> None:
    os.dup2(2, 1)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]


class Device:
    """One model, loaded on one device."""

    def __init__(self, model: LoadedModel, manifest: Manifest, context: Context) -> None:
        self.model = model
        self._context = context
        self._limits = manifest.limits

    def run(self, items: Sequence[tuple[str, bytes]]) -> tuple[list[Outcome], int | None]:
        """An outcome per (id, input JSON), and the smallest part of several that memory was too small for.

        Raises Fatal.
        """
        too_many: list[int] = []
        settled = outcomes.settle(
            items,
            decode=self._decode,
            predict=self._predict,
            clock_ns=time.perf_counter_ns,
            on_too_many=too_many.append,
        )
        return settled, min(too_many, default=None)

    def _decode(self, body: bytes) -> Any:
        value = msgspec.json.decode(body)
        return signature.to_arrays(value, self.model.inputs) if self.model.inputs else value

    def _predict(self, ids: list[str], inputs: list[Any]) -> object:
        context = Context(
            path=self._context.path,
            device=self._context.device,
            config=self._context.config,
            items=[Item(id_) for id_ in ids],
        )
        try:
            answer = self.model.predict(inputs, context)
            self._synchronize()
        except Exception as error:
            self._check_accelerator(error)
            raise
        return answer

    def _synchronize(self) -> None:
        """Kernels run behind the call; what goes wrong in them should be this call's error, and their time its time."""
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            torch.cuda.synchronize()

    def _check_accelerator(self, error: Exception) -> None:
        """After some errors of CUDA (a device-side assert) every later call fails: only a new process helps."""
        torch = sys.modules.get("torch")
        if torch is None or not torch.cuda.is_initialized() or not isinstance(error, torch.AcceleratorError):
            return
        try:
            torch.cuda.synchronize()
        except Exception:
            raise Fatal(outcomes.describe(error)) from error


def _load(order: frames.Load, connection: Connection) -> Device | None:
    """Answers Loaded or NotLoaded."""
    context = Context(path=Path(order.path), device=order.device, config=order.manifest.config)
    sys.path.insert(0, order.path)
    began = time.perf_counter()
    try:
        device = Device(load(order.manifest, context), order.manifest, context)
        _warm_up(device, order.manifest)
    except Unloadable as error:
        reason = str(error)
    except (Exception, SystemExit) as error:
        logger.exception("%s does not load", order.path)
        reason = outcomes.describe(error) + _where(error, order.path)
    else:
        connection.send_bytes(
            frames.encode(
                frames.Loaded(
                    framework=device.model.framework,
                    inputs=device.model.inputs,
                    outputs=device.model.outputs,
                    memory_bytes=_memory_bytes(order.device),
                    seconds=time.perf_counter() - began,
                )
            )
        )
        return device
    connection.send_bytes(frames.encode(frames.NotLoaded(reason)))
    return None


def _warm_up(device: Device, manifest: Manifest) -> None:
    """The example once alone and once as a full batch, so that the first real call finds everything compiled.

    Raises Unloadable if the author's own example fails. Zeros made from the declared shapes may well be refused.
    """
    example = signature.example(device.model.inputs, manifest)
    if example is None:
        return
    body = msgspec.json.encode(example)
    for size in sorted({1, manifest.batching.max_batch_size}):
        settled, _ = device.run([("warm-up", body)] * size)
        failed = next((o.error for o in settled if o.error is not None), None)
        if failed is not None:
            reason = f"in a batch of {size}: {failed.code}: {failed.message}"
            if manifest.example is not None:
                raise Unloadable(f"[model] example fails {reason}")
            logger.warning("a warm-up with zeros failed %s; [model] example can name an input that works", reason)
            return


def _where(error: BaseException, folder: str) -> str:
    """The last line of the model's own files that the error came through."""
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(folder)]
    return f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""


def _memory_bytes(device: str) -> int | None:
    torch = sys.modules.get("torch")
    if device.startswith("cuda"):
        return None if torch is None else int(torch.cuda.memory_reserved())
    try:
        resident_pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return None
    return resident_pages * os.sysconf("SC_PAGESIZE")


def _serve(device: Device, frames_in: "queue.SimpleQueue[bytes | None]", connection: Connection) -> None:
    """Until the worker closes the pipe."""
    while (frame := frames_in.get()) is not None:
        call = frames.decode_call(frame)
        try:
            settled, too_many = device.run(call.items)
        except Fatal as error:
            logger.critical("the accelerator is lost to this process: %s", error)
            os._exit(1)
        try:
            connection.send_bytes(frames.encode(frames.Reply(call.call_id, settled, too_many)))
        except OSError:  # the worker has gone
            return


def _receive(connection: Connection, frames_in: "queue.SimpleQueue[bytes | None]") -> None:
    """Reads ahead, so that the worker never waits to hand over the next call, and an end is seen at once."""
    try:
        while True:
            frames_in.put(connection.recv_bytes())
    except (EOFError, OSError):
        frames_in.put(None)
    time.sleep(_LAST_CALL_S)
    os._exit(1)
