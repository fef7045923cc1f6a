"""`model.joblib`, `model.pkl`: an estimator such as scikit-learn's. Only where model.toml trusts the file.

To read it is to run what it says. Its `predict` gets one array, an item a row: of one declared input its values, of
several (each a single number) the columns in their order. `[config] method` names another method, as "predict_proba".
"""

import logging
import pickle
from typing import Any

import numpy as np

from headway.manifest import Manifest, Tensor
from headway.model import Context
from headway.versions import UNTRUSTED, artifact
from workers.loaders import Unloadable

logger = logging.getLogger(__name__)


class Estimator:
    """An object with a method that takes an array of rows."""

    def __init__(self, framework: str, call: Any, manifest: Manifest) -> None:
        self.framework = framework
        self.inputs: dict[str, Tensor] = manifest.inputs
        self.outputs: dict[str, Tensor] = manifest.outputs
        self._call = call

    def predict(self, inputs: list[Any], context: Context) -> object:
        if len(self.inputs) == 1:
            (name,) = self.inputs
            rows = np.stack([arrays[name] for arrays in inputs])
        else:
            rows = np.array([[arrays[name] for name in self.inputs] for arrays in inputs])
        answer = list(self._call(rows))
        if not self.outputs:
            return answer
        (name,) = self.outputs
        return [{name: row} for row in answer]


def load(manifest: Manifest, context: Context) -> Estimator:
    file = artifact(context.path)
    if not manifest.artifact.trust or file is None:
        raise Unloadable(UNTRUSTED)
    if not manifest.inputs or (len(manifest.inputs) > 1 and any(tensor.shape for tensor in manifest.inputs.values())):
        raise Unloadable(f"{file.name} does not say what it takes: declare it, [inputs.NAME], or a number a column")
    if len(manifest.outputs) > 1:
        raise Unloadable(f"{file.name} answers one array: declare one of [outputs.NAME], or none")
    logger.warning("%s is unpickled, since model.toml trusts it: it runs what it likes", file)
    if file.suffix == ".joblib":
        try:
            import joblib
        except ImportError as error:
            raise Unloadable("model.joblib needs joblib: pip install joblib, and what it was made with") from error
        estimator = joblib.load(file)
    else:
        with file.open("rb") as stream:
            estimator = pickle.load(stream)  # noqa: S301 the operator trusts it, and the log says so
    method = manifest.config.get("config", {}).get("method", "predict")
    call = getattr(estimator, method, None) if isinstance(method, str) else None
    if not callable(call):
        raise Unloadable(f"{file.name} holds a {type(estimator).__name__}, which has no method {method!r}")
    return Estimator("joblib" if file.suffix == ".joblib" else "pickle", call, manifest)
