"""A `model.py` of Triton's Python backend: `TritonPythonModel`, called as Triton calls it.

One prediction is one request, with its batch dimension; a micro-batch is what `execute` gets at once.
"""

import atexit
import contextlib
import importlib
import importlib.util
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from batching.outcomes import invalid, to_numpy
from headway.errors import ItemCode, ItemFailed
from headway.manifest import Manifest
from headway.model import Context
from headway.triton import mapping
from workers.loaders import Unloadable, pb_utils
from workers.loaders.pb_utils import TritonError
from workers.loaders.python import read_sources_only

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

    def predict(self, inputs: list[Any], context: Context) -> object:
        requests = [
            pb_utils.InferenceRequest(
                [pb_utils.Tensor.of_input(name, array, self.inputs[name].dtype) for name, array in arrays.items()],
                item=item,
                outputs=list(self.outputs),
                model=self._name,
                version=self._version,
            )
            for arrays, item in zip(inputs, context.items, strict=True)
        ]
        responses = self._execute(requests)
        if not isinstance(responses, list | tuple):
            raise invalid(f"execute returned {type(responses).__name__}, and should return a list of InferenceResponse")
        if len(responses) != len(requests):
            raise invalid(f"execute returned {len(responses)} responses for {len(requests)} requests")
        return [self._answer(response) for response in responses]

    def _answer(self, response: object) -> object:
        """The outputs that are declared, by name, or the error of this request alone."""
        if not isinstance(response, pb_utils.InferenceResponse):
            kind = type(response).__name__
            return invalid(f"execute returned {kind} for a request, and should return InferenceResponse")
        error = response.error()
        if error is not None:
            return ItemFailed(_CODES.get(error.code(), ItemCode.MODEL_ERROR), error.message())
        outputs = response.output_tensors()
        return {one.name(): _array(one) for one in outputs if not self.outputs or one.name() in self.outputs}


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
    if found.get("model_transaction_policy", {}).get("decoupled"):
        raise Unloadable("auto_complete_config makes the model decoupled, and a prediction has one output here")
    with contextlib.suppress(KeyError):
        del found["dynamic_batching"]  # how requests are batched is config.pbtxt's to say
    if "dynamic_batching" in config:
        found["dynamic_batching"] = config["dynamic_batching"]
    return mapping.completed(manifest, found), found
