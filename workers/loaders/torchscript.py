"""`model.pt`, a TorchScript archive. It does not say what it takes, so model.toml has to."""

import re
import warnings
from collections.abc import Iterable
from typing import Any

import torch

from headway.manifest import Manifest, Tensor
from headway.model import Context
from workers.loaders import Unloadable, tensors

_NUMBERED = re.compile(r".+__([0-9]{1,4})")


class ScriptModel:
    """A TorchScript module on its device."""

    framework = "torchscript"

    def __init__(self, module: Any, manifest: Manifest, device: str) -> None:
        self.inputs: dict[str, Tensor] = manifest.inputs
        self.outputs: dict[str, Tensor] = manifest.outputs
        self._module = module
        arguments = [argument.name for argument in module.forward.schema.arguments[1:]]
        self._by_name = set(self.inputs) <= set(arguments)  # a traced module may have lost its names
        foreign = manifest.backend is not None
        self._order = (foreign and numbered(self.inputs)) or list(self.inputs)
        self._answers = numbered(self.outputs) if foreign else None
        self._graph = tensors.Graph(
            self._call,
            inputs=self.inputs,
            outputs=list(self._answers or self.outputs),
            manifest=manifest,
            device=device,
        )

    def predict(self, inputs: list[Any], context: Context) -> object:
        return self._graph.predict(inputs)

    def _call(self, named: dict[str, torch.Tensor]) -> object:
        if self._by_name:
            answer: object = self._module(**named)
        else:
            answer = self._module(*(named[name] for name in self._order))
        if self._answers is not None and isinstance(answer, list | tuple):
            places = [int(name.rpartition("__")[2]) for name in self._answers]
            if places[-1] >= len(answer):
                raise ValueError(f"the graph answers {len(answer)} outputs, and there should be {self._answers[-1]}")
            return tuple(answer[place] for place in places)
        return answer


def numbered(names: Iterable[str]) -> list[str] | None:
    """Triton's order of arguments and outputs, where each is called NAME__INDEX; None where one is not."""
    places = {name: _NUMBERED.fullmatch(name) for name in names}
    found = {name: int(match[1]) for name, match in places.items() if match is not None}
    if not found or len(found) < len(places) or len(set(found.values())) < len(found):
        return None
    return sorted(found, key=lambda name: found[name])


def load(manifest: Manifest, context: Context) -> ScriptModel:
    if not manifest.inputs:
        raise Unloadable("model.pt is TorchScript, which does not say what it takes: declare it, [inputs.NAME]")
    for name, tensor in manifest.inputs.items():
        if tensor.dtype == "string":
            raise Unloadable(f"the input {name!r} is text, and TorchScript takes numbers")
    if manifest.graph.compile:
        raise Unloadable("[graph] compile is set, and model.pt is TorchScript, which torch.compile does not take")
    with warnings.catch_warnings():
        # Every use of torch.jit warns that torch.export has replaced it. Archives from before still have to be served.
        warnings.filterwarnings("ignore", message=r"`torch\.jit\..*` is deprecated", category=DeprecationWarning)
        module = torch.jit.load(context.path / (manifest.file or "model.pt"), map_location=context.device)  # type: ignore[no-untyped-call]
    module.eval()
    return ScriptModel(module, manifest, context.device)
