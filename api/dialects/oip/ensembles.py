"""Ensembles: each step of a request is a prediction of its own model, in that model's queue and micro-batches.

A step begins as soon as what it reads is there, so that steps beside one another run at once. What one step writes
goes to the next as the bytes that it came as. Where a step fails, or the caller leaves, what still waits in a queue is
canceled.
"""

import asyncio
import contextlib
import math
from collections.abc import Mapping
from typing import Any

from api.dialects.oip import inference as models
from api.dialects.oip.errors import Code, Refused
from api.dialects.oip.inference import Output, Reply, checked, resolve
from api.dialects.oip.requests import Inference
from api.dialects.oip.statistics import Statistics
from api.dialects.rows import Given
from api.exchange import Call, Disconnected
from api.registry import Target
from api.service import Service
from headway import tensors
from headway.clock import now_us
from headway.errors import InputRefused
from headway.manifest import Manifest, Step
from headway.triton.mapping import within

Shape = tuple[int, ...]

_NO_STEP = "a decoupled model is no step of an ensemble here: it may answer several times"


async def infer(service: Service, call: Call, inference: Inference, statistics: Statistics, *, once: str = "") -> Reply:
    """Of a model, or of an ensemble. `once`: how a model is refused that may answer several times.

    Raises Refused, Problem, Disconnected.
    """
    target, manifest = await resolve(service, call.params["model"], call.params.get("version"))
    if not manifest.steps:
        return await models.infer(service, call, target, manifest, inference, statistics, once=once)
    began = now_us()
    inputs = checked(target, manifest, inference)
    _check_outputs(target, manifest, inference)
    with statistics.waiting(target.model, target.version, began):
        run = _Run(service, call, target, manifest, inference, statistics)
        found = await run.outputs(_inside(manifest, inputs))
    rows = inputs[0].shape[0] if inputs and manifest.items == "joined" else 1
    statistics.add_whole(target.model, target.version, rows, began)
    return Reply(target.model, target.version, inference.id, found)


class _Run:
    """One request."""

    def __init__(
        self,
        service: Service,
        call: Call,
        target: Target,
        manifest: Manifest,
        inference: Inference,
        statistics: Statistics,
    ) -> None:
        self._service = service
        self._call = call
        self._target = target
        self._manifest = manifest
        self._inference = inference
        self._statistics = statistics
        self._left = asyncio.Event()  # nobody waits for the steps any more

    async def outputs(self, there: dict[str, Given | None]) -> list[Output]:
        """`there`: the ensemble's inputs, None for one that was left out. Raises Refused, Problem, Disconnected."""
        listener = asyncio.create_task(self._listen())
        running: dict[asyncio.Task[dict[str, Given | None]], Step] = {}
        rest = list(self._manifest.steps)
        try:
            while rest or running:
                for step in [step for step in rest if there.keys() >= set(step.inputs.values())]:
                    rest.remove(step)
                    running[asyncio.create_task(self._step(step, there))] = step
                done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    del running[task]
                    there |= task.result()
        except Refused as refused:
            message = f"in ensemble '{self._target.model}', {refused}"
            raise Refused(refused.code, message, refused.headers) from refused
        finally:
            self._left.set()
            listener.cancel()
            if running:  # each cancels what waits in a queue still
                await asyncio.wait(running)
                for task in running:
                    task.exception()
            with contextlib.suppress(asyncio.CancelledError):
                await listener
        return self._shown(there)

    async def _listen(self) -> None:
        while (await self._call.receive())["type"] != "http.disconnect":
            pass
        self._left.set()

    async def _receive(self) -> dict[str, Any]:
        """Of a step: it has a caller as long as the ensemble does."""
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _step(self, step: Step, there: Mapping[str, Given | None]) -> dict[str, Given | None]:
        """What it writes; None for an output that its model left out."""
        if self._left.is_set():
            raise Disconnected
        params = {"model": step.model} | ({} if step.version is None else {"version": step.version})
        call = self._call.part(params, self._receive)
        given = [
            one._replace(name=inner) for inner, tensor in step.inputs.items() if (one := there[tensor]) is not None
        ]
        asked = Inference(self._inference.id, given, [], binary=True, parameters=self._inference.parameters)
        reply = await infer(self._service, call, asked, self._statistics, once=_NO_STEP)
        written = {output.name: output for output in reply.outputs}
        return {tensor: _given(tensor, written.get(inner)) for inner, tensor in step.outputs.items()}

    def _shown(self, there: Mapping[str, Given | None]) -> list[Output]:
        wanted = {one.name for one in self._inference.outputs} or self._manifest.outputs.keys()
        labels = self._manifest.config.get("labels") or {}
        reshaped = _reshaped(self._manifest, "output")
        shown = []
        for name, declared in self._manifest.outputs.items():
            one = there[name] if name in wanted else None
            if one is None:
                continue
            shape = _formed(self._manifest, one.shape, declared.shape) if name in reshaped else one.shape
            try:
                array = tensors.to_array(one.datatype, shape, one.data)
            except InputRefused as refused:  # it is an input as well, and no step has read it
                raise Refused(Code.INVALID_ARG, f"input '{name}' {refused.detail}") from refused
            shown.append(Output(name, one.datatype, array, labels.get(name, ())))
        return shown


def _check_outputs(target: Target, manifest: Manifest, inference: Inference) -> None:
    for one in inference.outputs:
        if one.name not in manifest.outputs:
            message = f"unexpected inference output '{one.name[:200]}' for model '{target.model}'"
            raise Refused(Code.INVALID_ARG, message)


def _given(tensor: str, output: Output | None) -> Given | None:
    if output is None:
        return None
    datatype, shape, data = tensors.from_array(output.array, output.datatype)
    return Given(tensor, datatype, shape, data)


# `reshape`: what a request has in one form, the steps have in another


def _inside(manifest: Manifest, inputs: list[Given]) -> dict[str, Given | None]:
    given = {one.name: one for one in inputs}
    there: dict[str, Given | None] = {name: given.get(name) for name in manifest.inputs}
    for name, tensor in _reshaped(manifest, "input").items():
        if (one := there[name]) is not None:
            there[name] = one._replace(shape=_formed(manifest, one.shape, tensor))
    return there


def _reshaped(manifest: Manifest, side: str) -> dict[str, Shape]:
    """Name → the form within, of those that say one."""
    inner = within(manifest)
    forms = inner.inputs if side == "input" else inner.outputs
    return {one["name"]: forms[one["name"]].shape for one in manifest.config["triton"][side] if "reshape" in one}


def _formed(manifest: Manifest, shape: Shape, form: Shape) -> Shape:
    """As many elements, and rows, in the other form. Raises Refused."""
    if manifest.items == "joined":
        form = (shape[0], *form[1:])
    known = math.prod(length for length in form if length != -1)
    free = math.prod(shape) // known if known else 0
    formed = tuple(free if length == -1 else length for length in form)
    if math.prod(formed) != math.prod(shape):
        raise Refused(Code.INVALID_ARG, f"a tensor of the shape {list(shape)} has no form {list(form)}")
    return formed
