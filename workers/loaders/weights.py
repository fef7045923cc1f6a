"""`model.safetensors` for a `torch.nn.Module` that `[model] entry` names: weights that are numbers and nothing else.

[model]
entry = "net:Net"       # Net(**config) with `[config]` of model.toml
[inputs.x]              # the arguments of its forward
"""

import inspect
from typing import Any

import torch

from headway.manifest import Manifest, Tensor
from headway.model import Context
from workers.loaders import Unloadable, tensors

FILE = "model.safetensors"


class WeightsModel:
    """A module on its device."""

    framework = "safetensors"

    def __init__(self, module: torch.nn.Module, manifest: Manifest, device: str) -> None:
        self.inputs: dict[str, Tensor] = manifest.inputs
        self.outputs: dict[str, Tensor] = manifest.outputs
        self._graph = tensors.Graph(
            lambda named: module(**named),
            inputs=self.inputs,
            outputs=list(self.outputs),
            manifest=manifest,
            device=device,
        )

    def predict(self, inputs: list[Any], context: Context) -> object:
        return self._graph.predict(inputs)


def load(cls: type[torch.nn.Module], manifest: Manifest, context: Context) -> WeightsModel:
    from safetensors.torch import load_file

    if not manifest.inputs:
        raise Unloadable(f"{FILE} does not say what {cls.__name__} takes: declare it, [inputs.NAME]")
    module = cls(**manifest.config.get("config", {}))
    try:
        inspect.signature(module.forward).bind(**dict.fromkeys(manifest.inputs))
    except TypeError as error:
        raise Unloadable(f"[inputs] does not fit {cls.__name__}.forward: {error}") from error
    try:
        module.load_state_dict(load_file(context.path / FILE))
    except RuntimeError as error:
        raise Unloadable(f"{FILE} does not fit {cls.__name__}: {' '.join(str(error).split())[:500]}") from error
    return WeightsModel(module.to(context.device).eval(), manifest, context.device)
