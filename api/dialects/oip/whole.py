"""Requests that stay whole: models of KServe's and MLServer's folders read the protocol's JSON themselves.

One request is one prediction, and its input is the request as JSON; its output is JSON with `outputs`.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from api.dialects.oip.errors import Code, Refused
from api.dialects.oip.requests import Inference
from api.dialects.rows import Given
from headway import tensors
from headway.errors import InputRefused
from headway.manifest import Manifest


def request_of(inference: Inference) -> dict[str, Any]:
    """As JSON has it. Raises Refused for bytes that JSON does not hold."""
    request: dict[str, Any] = {"inputs": [_input(one) for one in inference.inputs]}
    if inference.outputs:
        request["outputs"] = [{"name": one.name} for one in inference.outputs]
    request["parameters"] = {key: value for key, value in inference.parameters.items() if key != "binary_data_output"}
    return request


def _input(one: Given) -> dict[str, Any]:
    try:
        flat = tensors.to_array(one.datatype, one.shape, one.data).reshape(-1)
    except InputRefused as refused:
        raise Refused(Code.INVALID_ARG, f"input '{one.name}' {refused.detail}") from refused
    data = flat.tolist()
    if one.datatype == "BYTES":
        try:
            data = [value.decode() for value in data]
        except UnicodeDecodeError as error:
            raise Refused(
                Code.INVALID_ARG, f"input '{one.name}' has bytes that are no UTF-8, which this model does not take"
            ) from error
    elif flat.dtype.kind == "f" and not np.isfinite(flat).all():
        raise Refused(Code.INVALID_ARG, f"input '{one.name}' holds NaN or an infinite number, which JSON does not")
    return {"name": one.name, "datatype": one.datatype, "shape": list(one.shape), "data": data}


def declared(manifest: Manifest, key: str) -> dict[str, tuple[str, tuple[int, ...]]]:
    """name → (datatype, shape) of what the model's own settings say: `inputs` or `outputs`. KServe's say nothing."""
    said = manifest.config.get("mlserver", {}).get(key) or []
    return {one["name"]: (one["datatype"], tuple(one["shape"])) for one in said}


def outputs_of(value: Any) -> Iterator[tuple[str, str, np.ndarray[Any, Any]]]:
    """(name, datatype, array) of each of an answer's outputs. Raises Refused where it is no such answer."""
    outputs = value.get("outputs") if isinstance(value, dict) else None
    if outputs is None:
        raise Refused(Code.INTERNAL, "the model answers in another protocol than this")
    for one in outputs:
        dtype = object if one["datatype"] == "BYTES" else tensors.DTYPES[one["datatype"]]
        data = one["data"] if isinstance(one["data"], list) else [one["data"]]
        try:
            array = np.array(data, dtype).reshape(one["shape"])
        except (TypeError, ValueError) as error:
            raise Refused(Code.INTERNAL, f"the output '{one['name']}' is not of its shape and datatype") from error
        yield one["name"], one["datatype"], array
