"""`model.pt`, a TorchScript archive. It does not say what it takes, so model.toml has to."""

import warnings
from typing import Any

import torch

from headway.manifest import Manifest, Tensor
from headway.model import Context
from workers.loaders import Unloadable, tensors


class ScriptModel:
    """A TorchScript module on its device."""

    framework = "torchscript"

    def __init__(self, module: Any, manifest: Manifest, device: str) -> None:
        self.inputs: dict[str, Tensor] = manifest.inputs
        self.outputs: dict[str, Tensor] = manifest.outputs
        self._module = module
        arguments = [argument.name for argument in module.forward.schema.arguments[1:]]
        self._by_name = set(self.inputs) <= set(arguments)  # a traced module may have lost its names
        self._graph = tensors.Graph(
            self._call, inputs=self.inputs, outputs=list(self.outputs), manifest=manifest, device=device
        )

    def predict(self, inputs: list[Any], context: Context) -> object:
        return self._graph.predict(inputs)

    def _call(self, named: dict[str, torch.Tensor]) -> object:
        answer: object = self._module(**named) if self._by_name else self._module(*named.values())
        return answer


def load(manifest: Manifest, context: Context) -> ScriptModel:
    if not manifest.inputs:
        raise Unloadable("model.pt is TorchScript, which does not say what it takes: declare it, [inputs.NAME]")
    for name, tensor in manifest.inputs.items():
        if tensor.dtype == "string":
            raise Unloadable(f"[inputs.{name}] is string, and TorchScript takes numbers")
    if manifest.graph.compile:
        raise Unloadable("[graph] compile is set, and model.pt is TorchScript, which torch.compile does not take")
    with warnings.catch_warnings():
        # Every use of torch.jit warns that torch.export has replaced it. Archives from before still have to be served.
        warnings.filterwarnings("ignore", message=r"`torch\.jit\..*` is deprecated", category=DeprecationWarning)
        module = torch.jit.load(context.path / "model.pt", map_location=context.device)  # type: ignore[no-untyped-call]
    module.eval()
    return ScriptModel(module, manifest, context.device)
