"""The process that owns a device and one model on it. The worker starts it; see `workers.executor` for the other side.

The rule: it lives no longer than its worker, and touches nothing but its model. It is pinned by the environment it is
started with, before anything could import a framework. What the model prints goes to stderr; what it says of its items
goes by `workers.reporter`.
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
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from batching import outcomes
from batching.outcomes import Fatal
from headway import failpoints, interpreter, logs, npy, signature, tensors
from headway.digests import digest_of
from headway.errors import ManifestError
from headway.manifest import Manifest
from headway.model import Context, Item
from headway.types import Outcome
from workers import accelerator, frames, memory
from workers.cores import choose_threads
from workers.loaders import LoadedModel, Unloadable, load
from workers.reporter import Hearing, Part, Reporter

logger = logging.getLogger(__name__)

#: A call in progress may end within this after the worker closed the pipe.
_LAST_CALL_S = 5.0
#: Bytes of a call whose decoding takes longer than to hand over what was decoded.
_LEAST_AHEAD = 32 * 1024
#: Of a call that waits, so many bytes are decoded ahead at most: what is large must not fill the memory that the call
#: before it may need, or its mates would pay for it.
_MOST_AHEAD = 16 * 1024 * 1024
#: Between two looks whether the model has begun.
_PAUSE_S = 0.001
#: How late a cancel may be heard for the sake of a call that waits.
_LOOK_S = 0.01
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
    orders = _Orders(connection)
    threading.Thread(target=orders.receive, name="pipe", daemon=True).start()
    load_order = orders.load.get()
    if load_order is None:
        return
    device = _load(load_order, connection)
    if device is not None:
        orders.device = device
        _serve(device, orders)


def _die_with(worker_pid: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != worker_pid:  # it died before the line above
        os._exit(1)


def _keep_to_stderr() -> None:
    os.dup2(2, 1)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]


class Raw(NamedTuple):
    """An input that is no JSON."""

    type: str
    body: bytes


class Ahead:
    """An input that was decoded while it waited. It is given once: a model may change what it is given."""

    __slots__ = ("body", "value")

    def __init__(self, body: "bytes | Raw", value: Any) -> None:
        self.body = body
        self.value = value

    def take(self) -> Any:
        value, self.value = self.value, _TAKEN
        return value


_TAKEN = object()


class Device:
    """One model, loaded on one device."""

    def __init__(self, model: LoadedModel, manifest: Manifest, context: Context) -> None:
        self.model = model
        self._decode_json: Callable[[bytes], Any] = (
            signature.Decoder(model.inputs) if model.inputs else msgspec.json.decode
        )
        self._context = context
        self._items_are = manifest.items
        self.computing = False  # the model is at a call

    @property
    def on_cpu(self) -> bool:
        return self._context.device == "cpu"

    def warm_up(self, items: Sequence[tuple[str, bytes]]) -> list[Outcome]:
        """An outcome per (id, input JSON). Nobody listens to what the model says of them. Raises Fatal."""
        return outcomes.settle(
            items,
            decode=self._decode,
            predict=lambda ids, inputs: self._predict(inputs, [Item(id_) for id_ in ids]),
            clock_ns=time.perf_counter_ns,
        )

    def run(self, call: Hearing) -> tuple[list[Outcome], int | None]:
        """An outcome per item, and the smallest part of several that memory was too small for. Raises Fatal."""
        too_many: list[int] = []

        def predict(ids: list[str], inputs: list[Any]) -> object:
            part = Part(call)
            try:
                answer = self._predict(inputs, part.items(ids))
            finally:
                part.close()
            return self._as_asked(answer, [call.types.get(id_) for id_ in ids]) if call.types else answer

        settled = outcomes.settle(
            self._items(call),
            decode=self._decode,
            predict=predict,
            clock_ns=time.perf_counter_ns,
            on_too_many=too_many.append,
            canceled=call.is_canceled,
        )
        return call.heard(settled), min(too_many, default=None)

    def prepare(self, call: Hearing, leave: Callable[[], bool]) -> None:
        """Decodes the inputs of a call that waits, as far as it comes until that one is run.

        On another thread than `run`, and only while the model is at another call: at any other time that thread needs
        the interpreter for itself. `leave`, asked now and then: there is something else to do.
        """
        if sum(len(body) for _, body in call.items) < _LEAST_AHEAD:
            return
        left = _MOST_AHEAD
        look = time.monotonic() + _LOOK_S
        for (_, given), (id_, body) in zip(call.items, self._typed(call), strict=True):
            left -= len(given)
            while not (self.computing or call.taken):
                time.sleep(_PAUSE_S)
                if leave():
                    return
            if call.taken or left < 0:
                return
            try:
                call.ahead.append((id_, Ahead(body, self._decode(body))))
            except Exception:
                call.ahead.append((id_, body))  # whoever runs the call learns why
            if (now := time.monotonic()) >= look:
                if leave():
                    return
                look = now + _LOOK_S

    def _items(self, call: Hearing) -> Sequence[tuple[str, "bytes | Raw | Ahead"]]:
        """With what was prepared, which goes no further from now on."""
        call.taken = True
        items = self._typed(call)
        ahead = call.ahead[:]
        return [*ahead, *items[len(ahead) :]] if ahead else items

    def _typed(self, call: Hearing) -> Sequence[tuple[str, "bytes | Raw"]]:
        """What is no JSON goes together with its type; where all is JSON, nothing is looked at."""
        if call.types:
            return [(id_, Raw(call.types[id_], body) if id_ in call.types else body) for id_, body in call.items]
        return call.items

    def _as_asked(self, answer: object, types: list[str | None]) -> object:
        """What was sent as tensors is answered as such where JSON could not hold it, or not well."""
        if tensors.MEDIA_TYPE not in types:
            return answer
        rows = outcomes.rows(answer, len(types))
        return [self._kept(row) if type_ == tensors.MEDIA_TYPE else row for row, type_ in zip(rows, types, strict=True)]

    def _kept(self, output: object) -> object:
        if isinstance(output, BaseException | bytes | bytearray | memoryview | outcomes.Raw):
            return output
        declared = self.model.outputs
        named = output if isinstance(output, Mapping) else {next(iter(declared), tensors.UNNAMED): output}
        try:
            arrays = {str(name): outcomes.array_of(value) for name, value in named.items()}
        except ValueError:
            return output  # rows of unequal length, which JSON holds
        if all(map(tensors.fits_json, arrays.values())):
            return output
        datatypes = {name: tensors.DATATYPES[tensor.dtype] for name, tensor in declared.items()}
        try:
            return outcomes.Raw(tensors.MEDIA_TYPE, tensors.dump(arrays, datatypes))
        except TypeError as error:
            return outcomes.invalid(str(error))

    def _decode(self, body: "bytes | Raw | Ahead") -> Any:
        if isinstance(body, Ahead):
            if (value := body.take()) is not _TAKEN:
                return value
            body = body.body
        if isinstance(body, Raw):
            return self._decode_raw(body)
        return self._decode_json(body)

    def _decode_raw(self, raw: "Raw") -> Any:
        if raw.type == tensors.MEDIA_TYPE:
            return signature.given_tensors(raw.body, self.model.inputs, self._items_are)
        array = npy.load(raw.body) if raw.type == npy.MEDIA_TYPE else None
        if self.model.inputs:
            return signature.given_array(array, raw.type, self.model.inputs)
        return raw.body if array is None else array

    def _predict(self, inputs: list[Any], items: Sequence[Item]) -> object:
        context = Context(
            path=self._context.path, device=self._context.device, config=self._context.config, items=items
        )
        self.computing = True
        try:
            answer = self.model.predict(inputs, context)
            accelerator.synchronize()
        except Exception as error:
            verdict = accelerator.verdict(error, self._context.device)
            if verdict is not None:
                raise (Gone if verdict == "gone" else Fatal)(outcomes.describe(error)) from error
            raise
        finally:
            self.computing = False
        return answer


class Gone(Fatal):
    """The device itself is lost, and not by what was computed."""


def _load(order: frames.Load, connection: Connection) -> Device | None:
    """Answers Loaded or NotLoaded."""
    context = Context(path=Path(order.path), device=order.device, config=order.manifest.config)
    sys.path.insert(0, order.path)
    began = time.perf_counter()
    try:
        _verify(order)
        device = Device(load(order.manifest, context), order.manifest, context)
        _warm_up(device, order.manifest, may_choose=order.threads_free)
        interpreter.keep_what_is_there()
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
                    said=getattr(device.model, "said", {}),
                )
            )
        )
        return device
    connection.send_bytes(frames.encode(frames.NotLoaded(reason)))
    return None


def _verify(order: frames.Load) -> None:
    """Here and now, since this is the process that reads the files next. Raises Unloadable."""
    if order.sha256 is None:
        return
    try:
        digest = digest_of(Path(order.path), root=Path("/"))
    except ManifestError as error:
        raise Unloadable(str(error)) from error
    if digest != order.sha256:
        raise Unloadable(f"its files have the sha256 {digest} now, and should have {order.sha256}")


def _warm_up(device: Device, manifest: Manifest, *, may_choose: bool) -> None:
    """The example alone, as a full batch, and in each size that a graph sees: the first real call finds all compiled.

    Raises Unloadable if the author's own example fails. Zeros made from the declared shapes may well be refused.
    """
    example = signature.example(device.model.inputs, manifest)
    if example is None or device.model.framework == "triton-python":  # it has never been called with what nobody sent
        return
    body = msgspec.json.encode(example)
    largest = manifest.batching.max_batch_size
    for size in sorted({1, largest, *manifest.graph.sizes(largest)}):
        settled = device.warm_up([("warm-up", body)] * size)
        failed = next((o.error for o in settled if o.error is not None), None)
        if failed is not None:
            reason = f"in a batch of {size}: {failed.code}: {failed.message}"
            if manifest.example is not None:
                raise Unloadable(f"[model] example fails {reason}")
            logger.warning("a warm-up with zeros failed %s; [model] example can name an input that works", reason)
            return
    if device.on_cpu and may_choose:
        threads = choose_threads(lambda: device.warm_up([("warm-up", body)] * largest))
        logger.debug("threads of torch: %s", threads)


def _where(error: BaseException, folder: str) -> str:
    """The last line of the model's own files that the error came through."""
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(folder)]
    return f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""


def _memory_bytes(device: str) -> int | None:
    torch = sys.modules.get("torch")
    if device.startswith("cuda"):
        return None if torch is None else int(torch.cuda.memory_reserved())
    return memory.resident(os.getpid())


def _serve(device: Device, orders: "_Orders") -> None:
    """Until the worker closes the pipe."""
    while (call := orders.calls.get()) is not None:
        failpoints.hit("compute.begin")
        try:
            settled, too_many = device.run(call)
        except Fatal as error:
            logger.critical("the accelerator is lost to this process: %s", error)
            os._exit(accelerator.LOST if isinstance(error, Gone) else 1)
        failpoints.hit("compute.end")
        try:
            orders.reply(frames.Reply(call.call_id, settled, too_many))
        except OSError:  # the worker has gone
            return


class _Orders:
    """What the worker wants, read ahead: it never waits to hand over the next call, and its end is seen at once."""

    def __init__(self, connection: Connection) -> None:
        self.load: queue.SimpleQueue[frames.Load | None] = queue.SimpleQueue()
        self.calls: queue.SimpleQueue[Hearing | None] = queue.SimpleQueue()
        self.device: Device | None = None  # once it is loaded
        self._connection = connection
        self._reporter = Reporter(connection)
        self._unanswered: dict[int, Hearing] = {}

    def reply(self, reply: frames.Reply) -> None:
        """Raises OSError when the worker has gone."""
        self._unanswered.pop(reply.call_id, None)
        self._reporter.reply(reply)

    def receive(self) -> None:
        """On a thread of its own, so that a cancel is heard while the model computes."""
        try:
            self.load.put(frames.decode_load(self._connection.recv_bytes()))
            while True:
                self._take(frames.decode_order(self._connection.recv_bytes()))
        except (EOFError, OSError):
            self.load.put(None)
            self.calls.put(None)
        time.sleep(_LAST_CALL_S)
        os._exit(1)

    def _take(self, order: frames.Call | frames.Cancel) -> None:
        if isinstance(order, frames.Call):
            call = self._unanswered[order.call_id] = Hearing(order, self._reporter)
            self.calls.put(call)
            # One that finds the device idle is taken at once.
            if self.device is not None and len(self._unanswered) > 1:
                self.device.prepare(call, leave=self._connection.poll)
        elif (canceled := self._unanswered.get(order.call_id)) is not None:
            canceled.canceled.update(order.ids)
