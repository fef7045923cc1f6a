"""Models of Triton's repositories: what stands between a request and the model, whatever loads it.

`reshape`, text that a backend wants as bytes or as str, and outputs that have to be of the declared type.
"""

import dataclasses
import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from batching.outcomes import array_of, invalid
from headway.manifest import Manifest, Tensor
from headway.model import Context, InvalidInput
from headway.tensors import DATATYPES
from headway.triton import mapping
from workers.loaders import LoadedModel, Unloadable

_MODULES = {
    "onnx": "workers.loaders.onnx",
    "torchscript": "workers.loaders.torchscript",
    "triton-python": "workers.loaders.triton_python",
}


class RepositoryModel:
    """A model that was loaded with the shapes it has within."""

    def __init__(self, model: LoadedModel, manifest: Manifest, within: Manifest) -> None:
        self.framework = model.framework
        self.inputs: dict[str, Tensor] = {**model.inputs, **manifest.inputs}
        self.outputs: dict[str, Tensor] = {**model.outputs, **manifest.outputs}
        self._model = model
        self._takes_bytes = manifest.backend == "triton-python"
        self._strict = manifest.backend == "torchscript"  # what it answers is known only then
        self._rows = 1 if manifest.items == "joined" else 0
        self._text = [name for name, tensor in self.inputs.items() if tensor.dtype == "string"]
        self._forms_in = _differing(manifest.inputs, within.inputs)
        self._forms_out = _differing(within.outputs, manifest.outputs)
        self._decoupled = getattr(model, "decoupled", False)
        if self._decoupled:
            model.given = self._given  # type: ignore[attr-defined]  # of each response, when it is sent

    def predict(self, inputs: list[Any], context: Context) -> object:
        if self._text or self._forms_in:
            inputs = [self._taken(arrays) for arrays in inputs]
        answers: Any = self._model.predict(inputs, context)
        if self._decoupled:
            return answers
        kinds = [item.content_type for item in context.items]
        return [self._given(answer, kind) for answer, kind in zip(answers, kinds, strict=True)]

    def _taken(self, arrays: dict[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        """Raises InvalidInput."""
        for name in self._text:
            if name in arrays:
                arrays[name] = _as_bytes(arrays[name]) if self._takes_bytes else _as_text(arrays[name], name)
        for name, shape in self._forms_in.items():
            if name in arrays:
                arrays[name] = self._reshaped(arrays[name], shape)
        return arrays

    def _reshaped(self, array: np.ndarray[Any, Any], shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        return array.reshape((*array.shape[: self._rows], *shape[self._rows :]))

    def _given(self, answer: object, content_type: str | None) -> object:
        if not isinstance(answer, Mapping):
            return answer
        try:
            arrays = {name: array_of(value) for name, value in answer.items()}
            for name, shape in self._forms_out.items():
                if name in arrays:
                    arrays[name] = self._reshaped(arrays[name], shape)
        except ValueError as error:
            return invalid(str(error))
        if self._strict and (why := self._unlike(arrays)) is not None:
            return invalid(why)
        if content_type is not None:
            return arrays
        try:
            return {
                name: _as_text(array, name) if array.dtype.kind in "OS" else array for name, array in arrays.items()
            }
        except InvalidInput:
            return invalid("an output has bytes that are no UTF-8 text, which JSON cannot hold: ask with tensors")

    def _unlike(self, arrays: Mapping[str, np.ndarray[Any, Any]]) -> str | None:
        for name, tensor in self.outputs.items():
            held = "float32" if tensor.dtype == "bfloat16" else tensor.dtype
            if name in arrays and arrays[name].dtype.name != held:
                found = DATATYPES.get(arrays[name].dtype.name, arrays[name].dtype.name)
                return f"the output {name!r} is {found}, and config.pbtxt says {DATATYPES[tensor.dtype]}"
        return None


def load(manifest: Manifest, context: Context) -> RepositoryModel:
    config = manifest.config["triton"]
    if mapping.computes_on_cpu(config):
        context = dataclasses.replace(context, device="cpu")
    within = mapping.within(manifest)
    model: LoadedModel = importlib.import_module(_MODULES[str(manifest.backend)]).load(within, context)
    if not (manifest.inputs or model.inputs):
        raise Unloadable("config.pbtxt declares no input, and the model does not say what it takes")
    return RepositoryModel(model, manifest, within)


def _differing(of: Mapping[str, Tensor], to: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: to[name].shape for name, tensor in of.items() if to[name].shape != tensor.shape}


def _as_bytes(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return _each(array, lambda value: value if isinstance(value, bytes) else str(value).encode())


def _as_text(array: np.ndarray[Any, Any], name: str) -> np.ndarray[Any, Any]:
    """Raises InvalidInput."""
    try:
        return _each(array, lambda value: value.decode() if isinstance(value, bytes) else value)
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{name} has text that is not UTF-8") from error


def _each(array: np.ndarray[Any, Any], of: Any) -> np.ndarray[Any, Any]:
    flat: list[Any] = array.reshape(-1).tolist()
    made = np.empty(len(flat), dtype=object)
    made[:] = [of(value) for value in flat]
    return made.reshape(array.shape)
