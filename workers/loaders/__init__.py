"""A file a format: how a version folder becomes something that predicts. Runs in the device process only.

Two rules: a framework is imported when a model needs it, and not before; and what a file says is not run while it is
read, unless model.toml trusts it (`[artifact] trust`).
"""

import importlib
from typing import Any, Protocol

from headway import versions
from headway.manifest import Manifest, Tensor
from headway.model import Context

_MODULES = {
    "torchserve": "workers.loaders.torchserve",
    "python": "workers.loaders.python",
    "triton": "workers.loaders.triton",
    "torch.export": "workers.loaders.exported",
    "torchscript": "workers.loaders.torchscript",
    "onnx": "workers.loaders.onnx",
    "savedmodel": "workers.loaders.openvino",
    "tflite": "workers.loaders.openvino",
    "joblib": "workers.loaders.pickled",
    "pickle": "workers.loaders.pickled",
    "xgboost": "workers.loaders.xgboost",
    "lightgbm": "workers.loaders.lightgbm",
    "kserve": "workers.loaders.kserve",
    "mlserver": "workers.loaders.mlserver",
    "bentoml": "workers.loaders.bentoml",
    "bentoml.service": "workers.loaders.bentoml_service",
}


class Unloadable(Exception):  # noqa: N818
    """The version cannot be served as it is; the message says what to change."""


class LoadedModel(Protocol):
    """A model in memory, on its device."""

    framework: str
    inputs: dict[str, Tensor]  # empty: any JSON value
    outputs: dict[str, Tensor]

    def predict(self, inputs: list[Any], context: Context) -> object:
        """One answer per input; for typed inputs each is a dict of numpy arrays."""
        ...


def load(manifest: Manifest, context: Context) -> LoadedModel:
    """Reads the model file of `context.path`. Raises Unloadable, or whatever the model's own code raises."""
    if manifest.entry is not None:
        framework = "python"
    elif manifest.backend is not None:
        framework = manifest.backend if manifest.whole else "triton"
    elif manifest.file is not None:
        framework = versions.framework_of(context.path / manifest.file)
    elif (file := versions.artifact(context.path)) is not None:
        framework = versions.framework_of(file)
    else:
        raise Unloadable(f"no {', '.join(versions.ARTIFACTS)} in {context.path}")
    loader = importlib.import_module(_MODULES[framework])
    model: LoadedModel = loader.load(manifest, context)
    return model
