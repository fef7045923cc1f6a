"""`model.onnx`, by onnxruntime (the extra `onnx`). The graph knows its inputs and names its outputs.

Weights beside the model file (external data) are read from the version folder and from nowhere else.
"""

import mmap
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from headway import wire
from headway.manifest import Items, Manifest, Tensor
from headway.model import Context
from workers.loaders import Unloadable, rowed
from workers.loaders.agreement import agreed

_TYPES = {
    "float": "float32",
    "double": "float64",
    "float16": "float16",
    "bool": "bool",
    "string": "string",
    **{f"{sign}int{bits}": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}


#: An output with an object for each item, of numbers by class. No tensor, so it is answered and not declared.
_MAPS = re.compile(r"seq\(map\((string|int64),tensor\(float\)\)\)")


class OnnxModel:
    """A session on its device."""

    framework = "onnx"

    def __init__(
        self, session: Any, inputs: dict[str, Tensor], outputs: dict[str, Tensor], names: list[str], items: Items
    ) -> None:
        """`names`: of the outputs that are computed."""
        self.inputs = inputs
        self.outputs = outputs
        self._session = session
        self._names = names
        self._items: Items = items

    def predict(self, inputs: list[Any], context: Context) -> object:
        """Items whose free dimensions differ are called apart, since they make no array together."""
        answers: list[Any] = [None] * len(inputs)
        for indexes in rowed.groups(inputs, self.inputs, self._items):
            group = [inputs[index] for index in indexes]
            feeds = {name: rowed.together([arrays[name] for arrays in group], self._items) for name in self.inputs}
            columns = self._session.run(self._names, feeds)
            cuts = rowed.Cuts(group, self._items)
            for name, column in zip(self._names, columns, strict=True):
                # A list is one of maps: what scikit-learn's converters make of the probabilities of classes.
                if not isinstance(column, list | np.ndarray) or not cuts.fits(column):
                    raise ValueError(f"the graph's output {name!r} has no row for each of {cuts.rows} rows")
            parts = zip(*map(cuts.parts, columns), strict=True)
            for index, part in zip(indexes, parts, strict=True):
                answers[index] = dict(zip(self._names, part, strict=True))
        return answers


def load(manifest: Manifest, context: Context) -> OnnxModel:
    try:
        import onnxruntime
    except ImportError as error:
        raise Unloadable("model.onnx needs onnxruntime: pip install 'headway[onnx]', or onnxruntime-gpu") from error
    file = context.path / (manifest.file or "model.onnx")
    _check_external_data(file)
    provider = "CUDAExecutionProvider" if context.device.startswith("cuda") else "CPUExecutionProvider"
    if provider not in onnxruntime.get_available_providers():
        raise Unloadable(f"this onnxruntime has no {provider}: on GPUs it is onnxruntime-gpu that has")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), options, providers=[provider])
    items = manifest.items
    graph = {one.name: _tensor("input", one, items) for one in session.get_inputs()}
    if not graph:
        raise Unloadable("model.onnx: the graph takes no tensor")
    for one in session.get_inputs():
        if items != "alone" and (not one.shape or isinstance(one.shape[0], int)):
            raise Unloadable(
                f"model.onnx was exported with a fixed batch size: its input {one.name!r} has shape {one.shape}. "
                "Export it with a free first dimension (dynamic_axes)"
            )
    outputs = {
        one.name: _tensor("output", one, items) for one in session.get_outputs() if not _MAPS.fullmatch(one.type)
    }
    names = [one.name for one in session.get_outputs()]
    if manifest.outputs and manifest.backend is not None and set(manifest.outputs) < set(outputs):
        names = list(manifest.outputs)  # Triton computes those that are declared
    elif manifest.outputs and set(manifest.outputs) != set(outputs):
        raise Unloadable(f"[outputs] declares {', '.join(manifest.outputs)}, and the graph has {', '.join(outputs)}")
    inputs = agreed(manifest.inputs, graph) if manifest.inputs else graph
    return OnnxModel(session, inputs, manifest.outputs or outputs, names, items)


def _tensor(kind: str, one: Any, items: Items) -> Tensor:
    dtype = _TYPES.get(one.type.removeprefix("tensor(").removesuffix(")"))
    if dtype is None:
        raise Unloadable(f"model.onnx: its {kind} {one.name!r} is {one.type}, which is no tensor of numbers or strings")
    shape = tuple(length if isinstance(length, int) else -1 for length in one.shape)
    return Tensor(dtype, shape[1:] if items == "stacked" else shape)


# Where a graph says that its weights are. Of protobuf only this much is read: which fields hold what they may be in.

_GRAPH: dict[int, Any] = {}
_TENSOR: dict[int, Any] = {13: "location"}
_SPARSE: dict[int, Any] = {1: _TENSOR, 2: _TENSOR}
_ATTRIBUTE: dict[int, Any] = {5: _TENSOR, 6: _GRAPH, 10: _TENSOR, 11: _GRAPH, 22: _SPARSE, 23: _SPARSE}
_NODE: dict[int, Any] = {5: _ATTRIBUTE}
_GRAPH.update({1: _NODE, 5: _TENSOR, 15: _SPARSE})
_FUNCTION: dict[int, Any] = {7: _NODE, 11: _ATTRIBUTE}
_TRAINING: dict[int, Any] = {1: _GRAPH, 2: _GRAPH}
_MODEL: dict[int, Any] = {7: _GRAPH, 20: _TRAINING, 25: _FUNCTION}
_DEEPEST = 64


def _check_external_data(file: Path) -> None:
    """Raises Unloadable where the model names a file outside of its version folder."""
    folder = file.parent.resolve()
    with file.open("rb") as stream:
        if not file.stat().st_size:
            raise Unloadable("model.onnx is empty")
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                locations = set(_locations(data, 0, len(data), _MODEL, 0))
            except (ValueError, IndexError) as error:
                raise Unloadable("model.onnx is no ONNX model") from error
    for location in locations:
        target = (folder / location).resolve()
        if not target.is_relative_to(folder) or "\0" in location:
            raise Unloadable(f"model.onnx has weights in {location[:200]!r}, which is not in its version folder")


def _locations(data: mmap.mmap, start: int, end: int, known: dict[int, Any], depth: int) -> Iterator[str]:
    if depth > _DEEPEST:
        raise ValueError("too deep")
    for field, first, last in _fields(data, start, end):
        inner = known.get(field)
        if inner == "location":
            entry = {number: data[a:b] for number, a, b in _fields(data, first, last)}
            if entry.get(1) == b"location":
                yield entry.get(2, b"").decode("utf-8", "strict")
        elif inner is not None:
            yield from _locations(data, first, last, inner, depth + 1)


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(number, first byte, byte after the last) of the fields that have a length. Raises ValueError, IndexError."""
    for number, value in wire.fields(data, start, end):
        if isinstance(value, slice):
            yield number, value.start, value.stop
