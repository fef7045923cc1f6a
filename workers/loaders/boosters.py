"""Trees that a library has learnt, whatever library that is: rows of features in, a row of numbers for each out.

A file says how many features there are, and mostly what they are called. Without [inputs] in model.toml a model takes
one array `x` of them, in the order of the file; with an input for each feature they are found by name. A value that is
missing is null in JSON and NaN in here, which is how both libraries write it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from headway.manifest import Manifest, Tensor
from headway.model import Context
from workers.loaders import Unloadable

Array = np.ndarray[Any, Any]

INPUT, OUTPUT = "x", "y"  # what they are called where model.toml does not say


class BoosterModel:
    """A booster in main memory. It computes on the processor, on whatever device its process is."""

    def __init__(
        self,
        framework: str,
        call: Callable[[Array], Array],
        *,
        features: int,
        names: Sequence[str] | None,
        dtype: str,
        manifest: Manifest,
    ) -> None:
        """`call`: rows of `dtype`, shape [rows, features] → [rows, …]. `names`: of the features, where it has any.

        Raises Unloadable for [inputs] and [outputs] that are not those of the file.
        """
        self.framework = framework
        self.inputs = manifest.inputs or {INPUT: Tensor(dtype, (features,), nullable=True)}
        self._call = call
        self._dtype = dtype
        self._columns = _columns(self.inputs, features, names)
        answer = call(np.zeros((1, features), dtype))
        if answer.ndim == 0 or len(answer) != 1:
            raise Unloadable(f"it answers an array of shape {list(answer.shape)} for one row")
        known = Tensor(answer.dtype.name, answer.shape[1:])
        self.outputs = manifest.outputs or {OUTPUT: known}
        if len(self.outputs) != 1:
            raise Unloadable(f"[outputs] declares {', '.join(self.outputs)}, and it answers one array")
        ((self._output, declared),) = self.outputs.items()
        if declared != known:
            raise Unloadable(
                f"[outputs.{self._output}] declares {declared.dtype} {list(declared.shape)}, "
                f"and it answers {known.dtype} {list(known.shape)}"
            )

    def predict(self, inputs: list[Any], context: Context) -> object:
        if self._columns is None:
            (name,) = self.inputs
            rows = np.stack([arrays[name] for arrays in inputs]).astype(self._dtype, copy=False)
        else:
            rows = np.array([[arrays[name] for name in self._columns] for arrays in inputs], self._dtype)
        answer = self._call(rows)
        return [{self._output: row} for row in answer]


def _columns(inputs: dict[str, Tensor], features: int, names: Sequence[str] | None) -> list[str] | None:
    """The inputs in the order of the features; None where one input has them all. Raises Unloadable."""
    strings = [name for name, tensor in inputs.items() if tensor.dtype == "string"]
    if strings:
        raise Unloadable(f"[inputs.{strings[0]}] is string, and its features are numbers: categories are their codes")
    if len(inputs) == 1 and [tensor.shape for tensor in inputs.values()] == [(features,)]:
        return None
    if len(inputs) != features or any(tensor.shape for tensor in inputs.values()):
        raise Unloadable(
            f"the file has {features} features: [inputs] declares none, one array of shape [{features}], "
            f"or a number for each of them"
        )
    if names is None:
        return list(inputs)
    if set(names) != set(inputs):
        wrong = next(name for name in inputs if name not in names)
        raise Unloadable(f"[inputs.{wrong}] is no feature of the file, whose features are {', '.join(names)[:500]}")
    return list(names)


def option(manifest: Manifest, name: str, choices: Sequence[str]) -> str:
    """A choice in [config]; the first where none is made. Raises Unloadable."""
    value = manifest.config.get("config", {}).get(name, choices[0])
    if value not in choices:
        raise Unloadable(f"[config] {name} is {value!r}, and should be one of {', '.join(choices)}")
    return str(value)
