"""`headway init NAME`: a model that works as it is, to be replaced line by line."""

from pathlib import Path

from headway.errors import ManifestError
from headway.manifest import NAME, NAME_RULE

_MODEL_TOML = """\
# Every key has a default; without this file the model takes any JSON value.

[model]
example = { features = [5.1, 3.5, 1.4, 0.2] }  # for the warm-up, `headway check` and the API's documentation

# What a client sends as `input`: {"features": [four numbers]}. Anything else is refused before it is queued.
[inputs.features]
dtype = "float32"
shape = [4]  # without the batch dimension; -1 where a length is free

[batching]
max_batch_size = 32
max_wait_ms = 5  # how long the first one waits for company when more is known to be coming
"""

_MODEL_PY = '''\
"""A weighted sum of four numbers. Put your own model in `load` and `predict`."""

import numpy as np

from headway import InvalidInput, Model


class {name}(Model):
    def load(self, context):
        """Once, in a process of its own. Files beside this one are under context.path, the device is context.device."""
        self.weights = np.array([0.5, -0.25, 0.125, 1.0], dtype=np.float32)

    def predict(self, inputs):
        """A list in, a list of the same length out, in the same order.

        These are predictions of many clients: compute them in one go, that is what they travel together for. An output
        that is an exception fails that one alone.
        """
        scores = np.stack([item["features"] for item in inputs]) @ self.weights
        return [
            {{"score": score}} if item["features"].any() else InvalidInput("the features are all zero")
            for item, score in zip(inputs, scores, strict=True)
        ]
'''


def create(models: Path, name: str) -> Path:
    """Writes `models/name` and returns it. Raises ManifestError for a bad name, and where something is already."""
    if not NAME.fullmatch(name):
        raise ManifestError(f"{name!r} is no model name: {NAME_RULE}")
    folder = models / name
    try:
        models.mkdir(parents=True, exist_ok=True)
        folder.mkdir()
        (folder / "1").mkdir()
        (folder / "model.toml").write_text(_MODEL_TOML, encoding="utf-8")
        (folder / "1" / "model.py").write_text(_MODEL_PY.format(name=_class_name(name)), encoding="utf-8")
    except FileExistsError as error:
        raise ManifestError(f"{folder} exists already, and nothing was written") from error
    except OSError as error:
        raise ManifestError(f"{folder} cannot be written: {error.strerror}") from error
    return folder


def _class_name(name: str) -> str:
    """`my-model.v2` → `MyModelV2`; a class name may not begin with a digit."""
    words = "".join(char if char.isalnum() else " " for char in name).split()
    joined = "".join(word[0].upper() + word[1:] for word in words)
    return joined if joined[0].isalpha() else f"Model{joined}"
