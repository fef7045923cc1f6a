"""What a model's signatures are: those it came with, or one that says what its manifest does.

`Manifest.config["tfserving"]["signatures"]` holds those of a SavedModel: name → inputs, outputs, method_name, and of
each tensor its dtype, its shape (None: of any rank) and the name that it has in the graph.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from api.dialects.rows import JSON_INPUT, JSON_OUTPUT, shape_of
from api.dialects.tfserving.types import BY_DTYPE, BY_NAME, Type
from headway.manifest import Manifest, Tensor

DEFAULT = "serving_default"
PREDICT = "tensorflow/serving/predict"
CLASSIFY = "tensorflow/serving/classify"
REGRESS = "tensorflow/serving/regress"


class Info(NamedTuple):
    """Of one tensor."""

    type: Type | None  # None: one that no model here takes or gives
    dtype: str  # as metadata has it
    shape: tuple[int, ...] | None
    name: str


class Signature(NamedTuple):
    inputs: Mapping[str, Info]
    outputs: Mapping[str, Info]
    method_name: str


def signatures_of(manifest: Manifest) -> dict[str, Signature]:
    """By name; never empty."""
    came = manifest.config.get("tfserving")
    given = came.get("signatures") if isinstance(came, Mapping) else None
    if isinstance(given, Mapping) and given:
        return {name: _signature(one) for name, one in given.items()}
    return {DEFAULT: _derived(manifest)}


def is_served(manifest: Manifest, signature: Signature) -> bool:
    """Whether the model as it is loaded computes it: a SavedModel may have several, of other tensors."""
    return not manifest.inputs or signature.inputs.keys() == manifest.inputs.keys()


def _signature(given: Mapping[str, Any]) -> Signature:
    return Signature(
        {name: _info(name, one) for name, one in (given.get("inputs") or {}).items()},
        {name: _info(name, one) for name, one in (given.get("outputs") or {}).items()},
        str(given.get("method_name") or PREDICT),
    )


def _info(name: str, given: Mapping[str, Any]) -> Info:
    dtype, shape = str(given.get("dtype") or "DT_INVALID"), given.get("shape")
    return Info(BY_NAME.get(dtype), dtype, None if shape is None else tuple(shape), str(given.get("name") or name))


def _derived(manifest: Manifest) -> Signature:
    inputs = {name: _declared(manifest, name, one) for name, one in manifest.inputs.items()}
    outputs = {name: _declared(manifest, name, one) for name, one in manifest.outputs.items()}
    text = BY_NAME["DT_STRING"]
    return Signature(
        inputs or {JSON_INPUT: Info(text, text.name, (-1,), f"{JSON_INPUT}:0")},
        outputs or {JSON_OUTPUT: Info(text, text.name, (-1,), f"{JSON_OUTPUT}:0")},
        PREDICT,
    )


def _declared(manifest: Manifest, name: str, tensor: Tensor) -> Info:
    type_ = BY_DTYPE[tensor.dtype]
    return Info(type_, type_.name, shape_of(manifest, tensor), f"{name}:0")
