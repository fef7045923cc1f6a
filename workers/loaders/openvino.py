"""`saved_model.pb` and `model.tflite`, by OpenVINO (the extra `tf`), on the processor and in full precision.

The signature that is loaded names the tensors; OpenVINO finds them by these names, or by those of the graph.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from headway.manifest import Items, Manifest, Tensor
from headway.model import Context, InvalidInput
from headway.tfserving import SAVED_MODEL
from workers.loaders import Unloadable, rowed

Array = np.ndarray[Any, Any]


class CompiledModel:
    """A signature, ready to be asked."""

    def __init__(
        self,
        compiled: Any,
        framework: str,
        inputs: dict[str, Tensor],
        outputs: dict[str, Tensor],
        ports: tuple[Mapping[str, int], Mapping[str, int]],
        items: Items,
        sizes: Sequence[int],
        most_rows: int | None,
    ) -> None:
        """`ports`: of inputs and outputs, by name. `sizes`: of rows that a call is filled up to; `most_rows` of one."""
        self.framework = framework
        self.inputs = inputs
        self.outputs = outputs
        self._request = compiled.create_infer_request()
        self._ports_in, self._ports_out = ports
        self._items: Items = items
        self._sizes = sizes
        self._most_rows = most_rows

    def predict(self, inputs: list[Any], context: Context) -> object:
        """Items whose free dimensions differ are called apart, since they make no array together."""
        answers: list[Any] = [None] * len(inputs)
        for indexes in rowed.groups(inputs, self.inputs, self._items):
            group = [inputs[index] for index in indexes]
            cuts = rowed.Cuts(group, self._items)
            arrays = {name: rowed.together([one[name] for one in group], self._items) for name in self.inputs}
            columns = self._rows(arrays, cuts.rows) if self._items == "joined" else self._run(arrays)
            for name, column in columns.items():
                if not cuts.fits(column):
                    raise ValueError(f"the graph's output {name!r} has no row for each of {cuts.rows} rows")
            parts = zip(*map(cuts.parts, columns.values()), strict=True)
            for index, part, item in zip(indexes, parts, (context.items[index] for index in indexes), strict=True):
                answer = dict(zip(columns, part, strict=True))
                answers[index] = answer if item.content_type is not None else {n: _text(a) for n, a in answer.items()}
        return answers

    def _rows(self, arrays: dict[str, Array], rows: int) -> dict[str, Array]:
        """In calls of so many rows as may be."""
        most = self._most_rows or rows
        made = [
            self._filled({name: array[at : at + most] for name, array in arrays.items()}, min(most, rows - at))
            for at in range(0, rows, most)
        ]
        return made[0] if len(made) == 1 else {name: np.concatenate([one[name] for one in made]) for name in made[0]}

    def _filled(self, arrays: dict[str, Array], rows: int) -> dict[str, Array]:
        size = next((size for size in self._sizes if size >= rows), rows)
        if size == rows:
            return self._run(arrays)
        filled = {name: np.concatenate([one, np.repeat(one[-1:], size - rows, 0)]) for name, one in arrays.items()}
        answer = self._run(filled)
        return {name: one[:rows] if one.ndim and len(one) == size else one for name, one in answer.items()}

    def _run(self, arrays: dict[str, Array]) -> dict[str, Array]:
        self._request.infer({self._ports_in[name]: _taken(array, name) for name, array in arrays.items()})
        return {name: _given(self._request.get_output_tensor(port)) for name, port in self._ports_out.items()}


def load(manifest: Manifest, context: Context) -> CompiledModel:
    openvino = _openvino()
    file = manifest.file or SAVED_MODEL
    said = manifest.config["tfserving"]
    signature = said["signatures"][said["loaded"]]
    core = openvino.Core()
    try:
        graph = core.read_model(context.path if file == SAVED_MODEL else context.path / file)
        compiled = core.compile_model(graph, "CPU", _settings())
    except RuntimeError as error:
        raise Unloadable(f"OpenVINO does not read {file}: {_reason(error)}") from error
    ports_in = _ports(file, "input", signature["inputs"], compiled.inputs)
    ports_out = _ports(file, "output", signature["outputs"], compiled.outputs)
    outputs = manifest.outputs or {name: _tensor(name, compiled.outputs[port]) for name, port in ports_out.items()}
    return CompiledModel(
        compiled,
        "savedmodel" if file == SAVED_MODEL else "tflite",
        manifest.inputs,
        outputs,
        (ports_in, ports_out),
        manifest.items,
        said.get("allowed_batch_sizes") or (),
        said.get("max_execution_batch_size"),
    )


def _openvino() -> Any:
    """Raises Unloadable."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # nothing is told to anybody
    try:
        import openvino
    except ImportError as error:
        raise Unloadable("TensorFlow's models need openvino: pip install 'headway[tf]'") from error
    return openvino


def _settings() -> dict[str, Any]:
    """On recent processors OpenVINO would else compute in bfloat16."""
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
    if threads := os.environ.get("OMP_NUM_THREADS"):
        settings["INFERENCE_NUM_THREADS"] = int(threads)
    return settings


def _reason(error: RuntimeError) -> str:
    """What OpenVINO says, without where in its sources."""
    lines = [line.strip() for line in str(error).splitlines()]
    noise = ("Exception from", "Check ", "FrontEnd API failed", "To facilitate", "Summary", "Model wasn't")
    told = [line.lstrip("- ") for line in lines if line and not line.startswith(noise)]
    return "; ".join(told or lines)[:500] or "it gives no reason"


def _ports(file: str, kind: str, said: Mapping[str, Mapping[str, Any]], ports: Sequence[Any]) -> dict[str, int]:
    """Where each tensor of the signature is. Raises Unloadable."""
    places = {name: place for place, port in enumerate(ports) for name in port.get_names()}
    found = {name: place for name, info in said.items() if (place := _place(name, info, said, places)) is not None}
    missing = [name for name in said if name not in found]
    free = [place for place in range(len(ports)) if place not in found.values()]
    if len(missing) == len(free) == 1:  # it was given another name on the way
        return {**found, missing[0]: free[0]}
    if missing or (kind == "input" and free):
        raise Unloadable(
            f"{file}: the signature has the {kind}s {', '.join(said)}, and OpenVINO finds {', '.join(sorted(places))}"
        )
    return found


def _place(
    name: str, info: Mapping[str, Any], said: Mapping[str, Mapping[str, Any]], places: Mapping[str, int]
) -> int | None:
    """By its name, that of its tensor, or that of another of the same tensor."""
    same = [other for other, its in said.items() if its["name"] == info["name"]]
    return next((places[one] for one in (name, info["name"], *same) if one in places), None)


def _tensor(name: str, port: Any) -> Tensor:
    shape = port.get_partial_shape()
    if shape.rank.is_dynamic:
        raise Unloadable(f"the output {name!r} has no rank, neither in its signature nor in the graph")
    dtype = "string" if str(port.get_element_type()).find("string") >= 0 else port.get_element_type().to_dtype().name
    return Tensor(dtype, tuple(-1 if one.is_dynamic else one.get_length() for one in shape))


def _taken(array: Array, name: str) -> Array:
    """Text as bytes, which is what TensorFlow's strings are. Raises InvalidInput."""
    if array.dtype.kind != "O":
        return array
    flat = [value.encode() if isinstance(value, str) else bytes(value) for value in array.reshape(-1).tolist()]
    if any(value.endswith(b"\0") for value in flat):
        raise InvalidInput(f"{name} has text that ends with NUL, which does not arrive in the graph")
    return np.array(flat, dtype=np.bytes_).reshape(array.shape)


def _given(tensor: Any) -> Array:
    """A copy: the next call writes to the same memory."""
    if "string" in str(tensor.get_element_type()):
        text: Array = tensor.bytes_data.astype(object)
        return text
    data: Array = tensor.data
    return data.copy()


def _text(array: Array) -> Array:
    if array.dtype.kind != "O":
        return array
    flat = np.empty(array.size, dtype=object)
    flat[:] = [value.decode("utf-8", "replace") for value in array.reshape(-1)]
    return flat.reshape(array.shape)
