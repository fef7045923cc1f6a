"""A `model.py` of Triton's Python backend: `TritonPythonModel`, called as Triton calls it.

One prediction is one request, with its batch dimension; a micro-batch is what `execute` gets at once. It has ended when
each request has its last response, which a response sender may send long after `execute` has returned.
"""

import asyncio
import atexit
import contextlib
import importlib
import importlib.util
import inspect
import json
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from batching.outcomes import invalid, to_numpy
from headway.errors import ItemCode, ItemFailed
from headway.manifest import Manifest
from headway.model import Context, Item
from headway.triton import mapping
from workers.loaders import Unloadable, pb_utils, triton_answers
from workers.loaders.pb_utils import TritonError
from workers.loaders.python import read_sources_only
from workers.loaders.triton_answers import Answer, Answers, Several

_UTILS = "triton_python_backend_utils"

#: What Triton's codes of an error are here; those that are not said are the model's own failure.
_CODES = {
    TritonError.UNKNOWN: ItemCode.INVALID_INPUT,  # these four are a 400 of Triton's
    TritonError.INVALID_ARG: ItemCode.INVALID_INPUT,
    TritonError.ALREADY_EXISTS: ItemCode.INVALID_INPUT,
    TritonError.CANCELLED: ItemCode.INVALID_INPUT,
    TritonError.NOT_FOUND: ItemCode.NOT_FOUND,
    TritonError.UNAVAILABLE: ItemCode.UNAVAILABLE,
    TritonError.UNSUPPORTED: ItemCode.UNSUPPORTED,
}


class TritonModel:
    """A TritonPythonModel, initialized."""

    framework = "triton-python"

    def __init__(self, model: Any, manifest: Manifest, config: Mapping[str, Any], context: Context) -> None:
        self.inputs = manifest.inputs
        self.outputs = manifest.outputs
        self._execute = model.execute
        self._name = str(config["name"])
        self._version = int(context.path.name)
        self.decoupled = mapping.is_decoupled(config)
        #: (outputs, media type of the request) → the outputs as clients see them, or an exception.
        self.given: Callable[[object, str | None], object] = lambda outputs, content_type: outputs
        self._timeout_s = manifest.limits.timeout_s
        # Its own limit has to come before that of the process, which is ended with all that is under way.
        self._wait_s = self._timeout_s - min(1.0, self._timeout_s / 10)
        self._coroutines: asyncio.AbstractEventLoop | None = None

    def predict(self, inputs: list[Any], context: Context) -> object:
        answers = Answers(self._wait_s)
        each = [self._answer_of(answers, item) for item in context.items]
        requests = [
            pb_utils.InferenceRequest(
                [pb_utils.Tensor.of_input(name, array, self.inputs[name].dtype) for name, array in arrays.items()],
                item=item,
                answer=answer,
                outputs=list(self.outputs),
                model=self._name,
                version=self._version,
            )
            for arrays, item, answer in zip(inputs, context.items, each, strict=True)
        ]
        try:
            self._returned(self._execute(requests), requests, each, answers)
            answers.wait(each)
        except BaseException:
            for one in each:
                one.give_up()
            raise
        return triton_answers.outputs(each, self._timeout_s)

    def _answer_of(self, answers: Answers, item: Item) -> Answer:
        if not self.decoupled:
            return Answer(answers, item, self._shown)

        def shown(response: pb_utils.InferenceResponse) -> object:
            return self.given(self._shown(response), item.content_type)

        return Several(answers, item, shown, self.outputs)

    def _returned(
        self, returned: object, requests: Sequence[pb_utils.InferenceRequest], each: Sequence[Answer], answers: Answers
    ) -> None:
        """What `execute` has returned; a coroutine of a decoupled model goes on beside."""
        if inspect.iscoroutine(returned):
            running = asyncio.run_coroutine_threadsafe(returned, self._loop())
            if self.decoupled:
                running.add_done_callback(lambda done: answers.fail(None if done.cancelled() else done.exception()))
                return
            returned = running.result()
        if self.decoupled:
            if returned is not None:
                raise invalid(
                    f"the model {self._name!r} is decoupled, and execute returned {type(returned).__name__}: it should "
                    "return None"
                )
            return
        if returned is None and all(request.answered_by_sender for request in requests):
            return
        if not isinstance(returned, list | tuple):
            kind = type(returned).__name__
            raise invalid(f"execute returned {kind}, and should return a list of InferenceResponse")
        if len(returned) != len(requests):
            raise invalid(f"execute returned {len(returned)} responses for {len(requests)} requests")
        for response, request, answer in zip(returned, requests, each, strict=True):
            if response is not None or not request.answered_by_sender:
                answer.send(response if isinstance(response, pb_utils.InferenceResponse) else _wrong(response), True)

    def _loop(self) -> asyncio.AbstractEventLoop:
        """Where coroutines of the model run; begun by the first of them."""
        if self._coroutines is None:
            self._coroutines = asyncio.new_event_loop()
            threading.Thread(target=self._coroutines.run_forever, name="coroutines", daemon=True).start()
        return self._coroutines

    def _shown(self, response: pb_utils.InferenceResponse) -> object:
        """The outputs that are declared, by name, or the error of this response alone."""
        if isinstance(response, _Wrong):
            return response.why
        error = response.error()
        if error is not None:
            return ItemFailed(_CODES.get(error.code(), ItemCode.MODEL_ERROR), error.message())
        outputs = response.output_tensors()
        return {one.name(): _array(one) for one in outputs if not self.outputs or one.name() in self.outputs}


class _Wrong(pb_utils.InferenceResponse):
    """Stands for what is no response."""

    def __init__(self, why: Exception) -> None:
        super().__init__()
        self.why = why


def _wrong(response: object) -> _Wrong:
    kind = type(response).__name__
    return _Wrong(invalid(f"execute returned {kind} for a request, and should return InferenceResponse"))


def _array(tensor: pb_utils.Tensor) -> np.ndarray[Any, Any]:
    if tensor.is_cpu():
        return tensor.as_numpy()
    return to_numpy(tensor.exported())


def load(manifest: Manifest, context: Context) -> TritonModel:
    read_sources_only(context.path)
    if importlib.util.find_spec(_UTILS) is None:
        sys.modules[_UTILS] = pb_utils
    pb_utils.MODEL_FOLDER.append(str(context.path))
    sys.path.insert(1, str(context.path.parent))
    module = _import_file(context.path / str(manifest.file))
    cls = getattr(module, "TritonPythonModel", None)
    if not isinstance(cls, type):
        raise Unloadable(f"{manifest.file} has no class TritonPythonModel")
    if not callable(getattr(cls, "execute", None)):
        raise Unloadable("TritonPythonModel has no method execute(requests)")
    config = manifest.config["triton"]
    manifest, config = _completed(cls, manifest, config)
    model = cls()
    if callable(initialize := getattr(model, "initialize", None)):
        initialize(_arguments(config, context))
    if callable(finalize := getattr(model, "finalize", None)):
        atexit.register(finalize)
    return TritonModel(model, manifest, config, context)


def _import_file(file: Path) -> ModuleType:
    """As `VERSION.model`, which is how Triton imports it: `from .helper import …` finds what lies beside it."""
    package = ModuleType(file.parent.name)
    package.__path__ = [str(file.parent)]
    sys.modules[package.__name__] = package
    return importlib.import_module(f"{package.__name__}.{file.stem}")


def _arguments(config: Mapping[str, Any], context: Context) -> dict[str, str]:
    """The process sees one GPU at most, so its number is 0."""
    return {
        "model_config": json.dumps(config),
        "model_instance_kind": "CPU" if context.device == "cpu" else "GPU",
        "model_instance_name": f"{config['name']}_0_0",
        "model_instance_device_id": "0",
        "model_repository": str(context.path.parent),
        "model_version": context.path.name,
        "model_name": str(config["name"]),
    }


def _completed(cls: Any, manifest: Manifest, config: dict[str, Any]) -> tuple[Manifest, dict[str, Any]]:
    """With what `auto_complete_config` says of inputs and outputs. Raises Unloadable for what has to be written."""
    complete = getattr(cls, "auto_complete_config", None)
    if not callable(complete):
        return manifest, config
    asked = pb_utils.ModelConfig(config)
    completed = complete(asked) or asked
    found = completed.as_dict()
    if found["max_batch_size"] != config["max_batch_size"]:
        raise Unloadable(
            f"auto_complete_config sets max_batch_size to {found['max_batch_size']}, which has to be known before the "
            f"model is loaded: write max_batch_size: {found['max_batch_size']} into config.pbtxt"
        )
    if mapping.is_decoupled(found) != mapping.is_decoupled(config):
        raise Unloadable(
            "auto_complete_config makes the model decoupled, which has to be known before it is loaded: write "
            "model_transaction_policy { decoupled: true } into config.pbtxt"
        )
    with contextlib.suppress(KeyError):
        del found["dynamic_batching"]  # how requests are batched is config.pbtxt's to say
    if "dynamic_batching" in config:
        found["dynamic_batching"] = config["dynamic_batching"]
    return mapping.completed(manifest, found), found
