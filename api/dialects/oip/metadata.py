"""What is said of the server and of its models: metadata, and configurations as Triton's `config.pbtxt` has them."""

from collections.abc import Mapping
from typing import Any

import headway
from api.dialects.rows import JSON_INPUT, JSON_OUTPUT, shape_of
from headway import tensors
from headway.manifest import Manifest, Tensor
from headway.registry import Version

#: What is understood of the protocol's extensions.
EXTENSIONS = (
    "classification", "model_repository", "model_configuration", "binary_tensor_data", "parameters", "statistics",
)  # fmt: skip

#: Of ours → (platform, backend) as Triton calls it.
_PLATFORMS = {
    "onnx": ("onnxruntime_onnx", "onnxruntime"),
    "torchscript": ("pytorch_libtorch", "pytorch"),
    "torch.export": ("pytorch_export", "pytorch"),
}
_DATA_TYPES = {datatype: f"TYPE_{'STRING' if datatype == 'BYTES' else datatype}" for datatype in tensors.DTYPES}


def server() -> dict[str, Any]:
    return {"name": "headway", "version": headway.__version__, "extensions": list(EXTENSIONS)}


def inputs_of(manifest: Manifest) -> dict[str, tuple[str, tuple[int, ...]]]:
    """name → (datatype, shape)."""
    return _tensors(manifest, manifest.inputs) if manifest.inputs else {JSON_INPUT: ("BYTES", (-1,))}


def outputs_of(manifest: Manifest) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Of a model that declares none, one is shown whose datatype is what its answers are."""
    return _tensors(manifest, manifest.outputs) if manifest.outputs else {JSON_OUTPUT: ("BYTES", (-1,))}


def _tensors(manifest: Manifest, declared: Mapping[str, Tensor]) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {name: (tensors.DATATYPES[one.dtype], shape_of(manifest, one)) for name, one in declared.items()}


def model(row: Version, versions: list[str]) -> dict[str, Any]:
    """Of one version; `versions`: all that can be asked."""

    def listed(named: Mapping[str, tuple[str, tuple[int, ...]]]) -> list[dict[str, Any]]:
        return [{"name": name, "datatype": type_, "shape": list(shape)} for name, (type_, shape) in named.items()]

    return {
        "name": row.model,
        "versions": versions,
        "platform": platform_of(row)[0],
        "inputs": listed(inputs_of(row.manifest)),
        "outputs": listed(outputs_of(row.manifest)),
    }


def platform_of(row: Version) -> tuple[str, str]:
    """(platform, backend)."""
    given = triton_config(row.manifest)
    if given is not None:
        backend = str(given.get("backend") or "")
        return str(given.get("platform") or backend), backend
    return _PLATFORMS.get(row.framework or "", (row.framework or "headway", row.framework or "headway"))


def triton_config(manifest: Manifest) -> Mapping[str, Any] | None:
    """The model's own configuration, where it came with one of Triton's."""
    found = manifest.config.get("triton")
    return found if isinstance(found, Mapping) else None


def config(row: Version) -> Mapping[str, Any]:
    """A ModelConfig."""
    given = triton_config(row.manifest)
    return given if given is not None else _config(row)


def _config(row: Version) -> dict[str, Any]:
    """What Triton would have been told of a model of our own."""
    manifest, batching = row.manifest, row.manifest.batching
    platform, backend = platform_of(row)
    # `dims` has one length at least: rows of single values are shown as they are sent, with nothing in front.
    batched = manifest.items != "alone" and all(len(shape) > 1 for _, shape in inputs_of(manifest).values())

    def listed(named: Mapping[str, tuple[str, tuple[int, ...]]]) -> list[dict[str, Any]]:
        return [
            {"name": name, "data_type": _DATA_TYPES[type_], "dims": list(shape[1:] if batched else shape)}
            for name, (type_, shape) in named.items()
        ]

    policy: dict[str, Any] = {"latest": {"num_versions": 1}}
    if manifest.policy == "all":
        policy = {"all": {}}
    elif isinstance(manifest.policy, list):
        policy = {"specific": {"versions": list(manifest.policy)}}
    return {
        "name": row.model,
        "platform": platform,
        "backend": backend,
        "version_policy": policy,
        "max_batch_size": batching.max_batch_size if batched else 0,
        "input": listed(inputs_of(manifest)),
        "output": listed(outputs_of(manifest)),
        "batch_input": [],
        "batch_output": [],
        "dynamic_batching": {
            "preferred_batch_size": [batching.max_batch_size],
            "max_queue_delay_microseconds": round(batching.max_wait_ms * 1000),
        },
        "instance_group": [{"name": row.model, "count": manifest.instances, "kind": "KIND_AUTO"}],
        "parameters": {},
    }
