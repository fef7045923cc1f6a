"""A version folder of TensorFlow's → Manifest: its signature's tensors, whose first dimension counts rows."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from headway.errors import ManifestError, SettingsError
from headway.manifest import Batching, Manifest, Tensor
from headway.tfserving import BATCHING_PARAMS, SAVED_MODEL, batching, savedmodel, tflite
from headway.tfserving.batching import Parameters
from headway.tfserving.savedmodel import TensorInfo

DTYPES = {
    "DT_FLOAT": "float32", "DT_DOUBLE": "float64", "DT_HALF": "float16", "DT_BFLOAT16": "bfloat16",
    "DT_INT8": "int8", "DT_INT16": "int16", "DT_INT32": "int32", "DT_INT64": "int64",
    "DT_UINT8": "uint8", "DT_UINT16": "uint16", "DT_UINT32": "uint32", "DT_UINT64": "uint64",
    "DT_BOOL": "bool", "DT_STRING": "string",
}  # fmt: skip
_LONGEST_NAME = 256


def served(manifest: Manifest, version: Path, file: str, common: Parameters | None) -> Manifest:
    """`common`: how its requests are batched where its folder does not say. Raises ManifestError; OSError."""
    for section in ("inputs", "outputs"):
        if section in manifest.config:
            raise ManifestError(f"[{section}] of model.toml are in {file} already: leave them out")
    signatures = (savedmodel if file == SAVED_MODEL else tflite).signatures(version / file)
    try:
        loaded = savedmodel.chosen(signatures)
        signature = signatures[loaded]
        inputs = _tensors("input", signature.inputs)
        ranked = {name: info for name, info in signature.outputs.items() if info.shape is not None}
        outputs = _tensors("output", ranked)
    except ManifestError as error:
        raise ManifestError(f"{version / file}: {error}") from error
    if not inputs:
        raise ManifestError(f"{version / file}: the signature {loaded!r} takes no input")
    joined = all(one.shape[:1] == (-1,) for one in (*inputs.values(), *outputs.values()))
    parameters = _own(version) or common
    said: dict[str, Any] = {"signatures": msgspec.to_builtins(signatures), "loaded": loaded}
    if parameters is not None:
        said["allowed_batch_sizes"] = list(parameters.allowed_batch_sizes)
        said["max_execution_batch_size"] = parameters.max_execution_batch_size
    notes = [] if parameters in (None, common) else [f"{BATCHING_PARAMS}: {note}" for note in parameters.notes]
    return msgspec.structs.replace(
        manifest,
        batching=_batching(manifest, parameters),
        inputs=inputs,
        outputs=outputs if len(outputs) == len(signature.outputs) else {},  # then the model itself says them
        items="joined" if joined else "alone",
        file=file,
        config={**manifest.config, "tfserving": said, "notes": notes},
    )


def _own(version: Path) -> Parameters | None:
    file = version / BATCHING_PARAMS
    try:
        return batching.read(file) if file.is_file() else None
    except SettingsError as error:
        raise ManifestError(str(error)) from error


def _batching(manifest: Manifest, parameters: Parameters | None) -> Batching:
    """Of model.toml where it says something."""
    if parameters is None:
        return manifest.batching
    own = manifest.config.get("batching", {})
    return msgspec.structs.replace(parameters.rules, **{key: getattr(manifest.batching, key) for key in own})


def _tensors(kind: str, tensors: Mapping[str, TensorInfo]) -> dict[str, Tensor]:
    return {name: _tensor(kind, name, info) for name, info in tensors.items()}


def _tensor(kind: str, name: str, info: TensorInfo) -> Tensor:
    if not name or len(name) > _LONGEST_NAME or not name.isprintable():
        raise ManifestError(f"an {kind} has the name {name[:80]!r}: 1 to {_LONGEST_NAME} printable characters")
    if info.dtype not in DTYPES:
        raise ManifestError(f"its {kind} {name!r} is {info.dtype}; known are {', '.join(DTYPES)}")
    if not info.name:
        raise ManifestError(f"its {kind} {name!r} is sparse or made of several tensors, which no request can bring")
    if info.shape is None:
        raise ManifestError(f"its {kind} {name!r} has no rank: export it with an input_signature that says one")
    return Tensor(DTYPES[info.dtype], info.shape)
