"""`model.pt2`, written by `torch.export.save`. The graph knows its inputs; [inputs] may repeat or narrow them."""

import contextlib
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, TensorArgument
from torch.export.passes import move_to_device_pass
from torch.utils import _pytree as pytree

from headway.manifest import DTYPES, Manifest, Tensor
from headway.model import Context
from workers.loaders import Unloadable, tensors
from workers.loaders.agreement import agreed
from workers.loaders.archives import no_code


class ExportedModel:
    """An exported graph on its device."""

    framework = "torch.export"

    def __init__(
        self,
        program: ExportedProgram,
        inputs: dict[str, Tensor],
        outputs: dict[str, Tensor],
        manifest: Manifest,
        device: str,
    ) -> None:
        self.inputs = inputs
        self.outputs = outputs
        self._module = program.module()
        self._order = _arguments(program)
        self._in_spec = program.call_spec.in_spec
        self._graph = tensors.Graph(self._call, inputs=inputs, outputs=list(outputs), manifest=manifest, device=device)

    def predict(self, inputs: list[Any], context: Context) -> object:
        return self._graph.predict(inputs)

    def _call(self, named: dict[str, torch.Tensor]) -> object:
        flat = [
            named[argument.name] if isinstance(argument, TensorArgument) else argument.value for argument in self._order
        ]
        args, kwargs = pytree.tree_unflatten(flat, self._in_spec)
        return self._module(*args, **kwargs)


def load(manifest: Manifest, context: Context) -> ExportedModel:
    with contextlib.nullcontext() if manifest.artifact.trust else no_code():
        program = torch.export.load(context.path / "model.pt2")
    graph = _graph_inputs(program, manifest.batching.max_batch_size)
    inputs = agreed(manifest.inputs, graph) if manifest.inputs else graph
    outputs = manifest.outputs or _graph_outputs(program)
    return ExportedModel(move_to_device_pass(program, context.device), inputs, outputs, manifest, context.device)


def _arguments(program: ExportedProgram) -> list[TensorArgument | ConstantArgument]:
    """What the graph was exported with, flat, in the order of its call: tensors, and constants that are baked in."""
    arguments: list[TensorArgument | ConstantArgument] = []
    for spec in program.graph_signature.input_specs:
        if spec.kind is InputKind.USER_INPUT:
            if not isinstance(spec.arg, TensorArgument | ConstantArgument):
                raise Unloadable(
                    f"model.pt2: the input {spec.arg.name!r} is no tensor; export it as a constant or a tensor"
                )
            arguments.append(spec.arg)
    return arguments


def _graph_inputs(program: ExportedProgram, max_batch_size: int) -> dict[str, Tensor]:
    """The tensors the graph takes, without their batch dimension."""
    values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    inputs = {}
    for argument in _arguments(program):
        if isinstance(argument, TensorArgument):
            value = values[argument.name]
            _check_batch_dimension(program, argument.name, value, max_batch_size)
            inputs[argument.name] = _tensor(argument.name, value)
    if not inputs:
        raise Unloadable("model.pt2: the graph takes no tensor")
    return inputs


def _check_batch_dimension(program: ExportedProgram, name: str, value: torch.Tensor, max_batch_size: int) -> None:
    shape = list(value.shape)
    if not shape or isinstance(shape[0], int):
        dynamic_shapes = f'{{{name!r}: {{0: torch.export.Dim("batch")}}}}'
        raise Unloadable(
            f"model.pt2 was exported with a fixed batch size: its input {name!r} has shape {shape}. "
            f"Export it with a free first dimension: torch.export.export(…, dynamic_shapes={dynamic_shapes})"
        )
    bounds = program.range_constraints.get(shape[0].node.expr)
    if bounds is None:
        raise Unloadable(f"model.pt2: the first dimension of {name!r} is {shape[0]}, and should be the batch alone")
    if bounds.lower > 2:  # torch writes 2 where nothing was asked for, and takes 1 all the same
        raise Unloadable(f"model.pt2 takes batches of {bounds.lower} and more; a queue also has single predictions")
    if bounds.upper < max_batch_size:
        raise Unloadable(
            f"model.pt2 takes batches of at most {bounds.upper}, and max_batch_size is {max_batch_size}: "
            f"set [batching] max_batch_size = {bounds.upper}"
        )


def _graph_outputs(program: ExportedProgram) -> dict[str, Tensor]:
    """What a flat dict of tensors says of itself; {} for any other answer, since nothing names its parts."""
    out_spec = program.call_spec.out_spec
    output = next(node for node in program.graph.nodes if node.op == "output")
    values: list[Any] = [getattr(leaf, "meta", {}).get("val") for leaf in output.args[0]]
    keys = out_spec.context if out_spec is not None and out_spec.type is dict else []
    if len(keys) != len(values) or not all(isinstance(v, torch.Tensor) and v.ndim for v in values):
        return {}
    return {str(key): _tensor(str(key), value) for key, value in zip(keys, values, strict=True)}


def _tensor(name: str, value: torch.Tensor) -> Tensor:
    dtype = str(value.dtype).removeprefix("torch.")
    if dtype not in DTYPES:
        raise Unloadable(f"model.pt2: {name!r} is {dtype}, which JSON cannot carry")
    return Tensor(dtype, tuple(length if isinstance(length, int) else -1 for length in value.shape[1:]))
