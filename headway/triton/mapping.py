"""ModelConfig → Manifest. What Triton fills in where nothing is said is filled in here too.

The manifest's inputs and outputs are those of requests: with `max_batch_size`, their first dimension is free, and
counts rows. Where `reshape` gives the model another form, `within` says which.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from headway.errors import ManifestError
from headway.manifest import Batching, Limits, Manifest, Tensor
from headway.triton import ensembles
from headway.triton.pbtxt import Config

#: `backend` → (what loads it here, its model file).
BACKENDS = {
    "onnxruntime": ("onnx", "model.onnx"),
    "pytorch": ("torchscript", "model.pt"),
    "python": ("triton-python", "model.py"),
}
_PLATFORMS = {"onnxruntime_onnx": "onnxruntime", "pytorch_libtorch": "pytorch"}
#: What cannot be loaded here, and what to give instead.
_INSTEAD = {
    "tensorrt": "an engine is of one GPU and one release of TensorRT: give the ONNX file it was built from "
    '(platform "onnxruntime_onnx")',
    "tensorflow": 'convert the model to ONNX with tf2onnx (platform "onnxruntime_onnx")',
    "openvino": 'convert the model to ONNX (platform "onnxruntime_onnx")',
    "dali": 'write the steps as a model.py (backend "python")',
    "fil": 'convert the trees to ONNX, or serve the booster\'s own file with a model.toml',
    "vllm": "Headway has no engine for it: put a server of its own beside it",
    "tensorrtllm": "Headway has no engine for it: put a server of its own beside it",
}  # fmt: skip

DTYPES = {
    "TYPE_BOOL": "bool",
    **{f"TYPE_{sign}INT{bits}": f"{sign.lower()}int{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)},
    "TYPE_FP16": "float16", "TYPE_BF16": "bfloat16", "TYPE_FP32": "float32", "TYPE_FP64": "float64",
    "TYPE_STRING": "string",
}  # fmt: skip

_DATA_TYPES = {dtype: data_type for data_type, dtype in DTYPES.items()}

#: A parameter of our own: seconds that a call may take, of a decoupled model up to its last response.
TIMEOUT = "headway_timeout_s"
_LONGEST_TIMEOUT_S = 86_400.0


def data_type_of(dtype: str) -> str:
    """As `config.pbtxt` calls it."""
    return _DATA_TYPES[dtype]


_MOST_ITEMS = 4096
_LONGEST_WAIT_US = 60_000_000
_LONGEST_QUEUE_TIMEOUT_S = 366 * 86_400
_LONGEST_NAME = 256
_LONGEST_LABELS = 1 << 18
_MOST_INSTANCES = 64


def manifest(config: Config, folder: Path) -> Manifest:
    """Of the model folder that the configuration lies in. Raises ManifestError."""
    notes: list[str] = []
    if config["name"] not in ("", folder.name):
        raise ManifestError(f"name is {config['name']!r}, and the folder is {folder.name!r}: they have to be the same")
    config = {**config, "name": folder.name}
    _refuse(config)
    if ensembles.is_one(config):
        return _ensemble(config, folder, notes)
    backend = _backend(config, folder)
    if is_decoupled(config) and backend != "python":
        raise ManifestError(f'model_transaction_policy is decoupled, which only backend "python" can be, not {backend}')
    loader, file = BACKENDS[backend]
    rows = config["max_batch_size"]
    if rows < 0:
        raise ManifestError(f"max_batch_size is {rows}, and should be 0 or more")
    config = _filled_in(config, backend, file)
    instances, devices = _instances(config["instance_group"], notes)
    _note_the_rest(config, notes)
    inputs, outputs = _signature(config, may_lack=backend == "python")
    labels = {one["name"]: _labels(folder, one["label_filename"]) for one in config["output"] if one["label_filename"]}
    return Manifest(
        batching=_batching(config, inputs, notes),
        limits=_limits(config),
        inputs=inputs,
        outputs=outputs,
        policy=_policy(config["version_policy"]),
        instances=instances,
        devices=devices,
        items="joined" if rows else "alone",
        backend=loader,
        file=_file(config["default_model_filename"]),
        config={"triton": config, "labels": labels, "notes": notes},
    )


def _ensemble(config: Config, folder: Path, notes: list[str]) -> Manifest:
    rows = config["max_batch_size"]
    if rows < 0:
        raise ManifestError(f"'max_batch_size' must be non-negative value for {config['name']}")
    steps = ensembles.steps(config)
    if config.get("response_cache", {}).get("enable"):
        notes.append("response_cache is not heeded: every request is computed")
    inputs, outputs = _signature(config, may_lack=True)
    labels = {one["name"]: _labels(folder, one["label_filename"]) for one in config["output"] if one["label_filename"]}
    config = {
        **config,
        "version_policy": config.get("version_policy") or {"latest": {"num_versions": 1}},
        "model_transaction_policy": config.get("model_transaction_policy", {"decoupled": False}),
    }
    return Manifest(
        batching=Batching(max_batch_size=1, max_wait_ms=0.0, max_batch_cost=rows or None, size="none"),
        inputs=inputs,
        outputs=outputs,
        policy=_policy(config["version_policy"]),
        items="joined" if rows else "alone",
        backend=ensembles.PLATFORM,
        steps=steps,
        config={"triton": config, "labels": labels, "notes": notes},
    )


def _refuse(config: Config) -> None:
    """What would not be served as it is meant."""
    if config.get("sequence_batching") is not None:
        raise ManifestError(
            "sequence_batching keeps the state of a sequence on one instance, which is not done here: give the model "
            "its state with each request"
        )
    if config.get("model_repository_agents", {}).get("agents"):
        raise ManifestError("model_repository_agents change files before they are loaded, which is not done here")
    if config["batch_input"] or config["batch_output"]:
        raise ManifestError("batch_input and batch_output are for backends of C++, and are not made here")


def is_decoupled(config: Mapping[str, Any]) -> bool:
    """Whether the model answers a request as often as it likes."""
    return bool(config.get("model_transaction_policy", {}).get("decoupled"))


def _backend(config: Config, folder: Path) -> str:
    platform, backend = config["platform"], config["backend"]
    said = backend or _PLATFORMS.get(platform, platform)
    if not said:
        names = [config["default_model_filename"]] if config["default_model_filename"] else []
        names += [path.name for version in _versions(folder) for path in sorted(version.iterdir())]
        said = next((name for name, (_, file) in BACKENDS.items() if file in names), "")
        if not said:
            raise ManifestError(f"says neither platform nor backend; known backends are {', '.join(BACKENDS)}")
    if said not in BACKENDS:
        key = "backend" if backend else "platform"
        instead = next((text for name, text in _INSTEAD.items() if said.startswith(name)), None)
        raise ManifestError(
            f"{key} is {said!r}, which is not loaded here: {instead}"
            if instead
            else f"{key} is {said!r}; known backends are {', '.join(BACKENDS)}"
        )
    if config["runtime"]:
        raise ManifestError(f"runtime is {config['runtime']!r}: a backend has one runtime here; leave it out")
    return said


def _versions(folder: Path) -> list[Path]:
    return sorted((path for path in folder.iterdir() if path.name.isdecimal() and path.is_dir()), key=lambda p: p.name)


def _filled_in(config: Config, backend: str, file: str) -> Config:
    """What Triton shows of a configuration once it has loaded the model."""
    rows = config["max_batch_size"]
    filled = {
        **config,
        "backend": backend,
        "default_model_filename": config["default_model_filename"] or file,
        "version_policy": config.get("version_policy") or {"latest": {"num_versions": 1}},
        "instance_group": [
            {**group, "name": group["name"] or f"{config['name']}_{number}", "count": group["count"] or 1}
            for number, group in enumerate(config["instance_group"] or [_AUTO])
        ],
        "optimization": {
            "priority": "PRIORITY_DEFAULT",
            "gather_kernel_buffer_threshold": 0,
            "eager_batching": False,
            **config.get("optimization", {}),
        },
    }
    for side in ("input_pinned_memory", "output_pinned_memory"):
        filled["optimization"].setdefault(side, {"enable": True})
    if "dynamic_batching" in config and rows:
        batching = config["dynamic_batching"]
        filled["dynamic_batching"] = {**batching, "preferred_batch_size": batching["preferred_batch_size"] or [rows]}
    return filled


_AUTO = {
    "name": "", "kind": "KIND_AUTO", "count": 1, "gpus": [], "secondary_devices": [], "profile": [], "passive": False,
    "host_policy": "",
}  # fmt: skip


def _batching(config: Config, inputs: Mapping[str, Tensor], notes: list[str]) -> Batching:
    rows, dynamic = config["max_batch_size"], config.get("dynamic_batching")
    batching = Batching(
        max_batch_size=min(max(rows, 1), _MOST_ITEMS) if dynamic is not None else 1,
        max_wait_ms=0.0,
        max_batch_cost=rows or None,
        size="none" if rows or not any(-1 in one.shape for one in inputs.values()) else "shape",
    )
    if dynamic is None:
        return batching
    wait_us = dynamic["max_queue_delay_microseconds"]
    if wait_us > _LONGEST_WAIT_US:
        notes.append("max_queue_delay_microseconds is held to a minute")
    if dynamic["priority_queue_policy"]:
        notes.append("priority_queue_policy is not heeded: a model has one queue, with one end")
    policy = dynamic.get("default_queue_policy", {})
    if policy.get("default_timeout_microseconds") and policy["timeout_action"] == "DELAY":
        notes.append("timeout_action DELAY is not heeded: what has waited long is not put behind the others")
    if most := policy.get("max_queue_size"):
        batching = msgspec.structs.replace(batching, max_queue=most)
    return msgspec.structs.replace(batching, max_wait_ms=min(wait_us, _LONGEST_WAIT_US) / 1000)


def _limits(config: Config) -> Limits:
    """How long a call may take, Triton does not ask: a minute, or what the parameter of our own says."""
    limits = Limits()
    if (said := config["parameters"].get(TIMEOUT)) is not None:
        limits = msgspec.structs.replace(limits, timeout_s=_seconds(said["string_value"]))
    policy = config.get("dynamic_batching", {}).get("default_queue_policy", {})
    wait_us = policy.get("default_timeout_microseconds", 0)
    if not wait_us or policy["timeout_action"] == "DELAY":
        return limits
    return msgspec.structs.replace(limits, queue_timeout_s=min(wait_us / 1e6, _LONGEST_QUEUE_TIMEOUT_S))


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= _LONGEST_TIMEOUT_S:
        raise ManifestError(
            f"parameters {TIMEOUT} is {text[:40]!r}, and should be seconds, up to {_LONGEST_TIMEOUT_S:g}"
        )
    return seconds


def _policy(policy: Mapping[str, Any]) -> Any:
    if "all" in policy:
        return "all"
    if "specific" in policy:
        return [str(version) for version in policy["specific"]["versions"]]
    count = policy.get("latest", {}).get("num_versions") or 1
    return "latest" if count == 1 else count


def _instances(groups: list[dict[str, Any]], notes: list[str]) -> tuple[int, tuple[str, ...]]:
    """(processes on each device, devices). A group of `gpus` has its count on each of them; others anywhere."""
    devices: dict[str, int] = {}
    for group in groups:
        if group["passive"]:
            continue
        where = [""]
        if group["kind"] in ("KIND_GPU", "KIND_AUTO") and group["gpus"]:
            where = [f"cuda:{number}" for number in group["gpus"]]
        elif group["kind"] == "KIND_GPU":
            where = ["cuda"]
        for device in where:
            devices[device] = devices.get(device, 0) + group["count"]
    most = max(devices.values(), default=1)
    if not 1 <= most <= _MOST_INSTANCES:
        raise ManifestError(f"instance_group has {most} instances on a device, and may have 1 to {_MOST_INSTANCES}")
    if len(set(devices.values())) > 1 or len({group["kind"] == "KIND_CPU" for group in groups}) > 1:
        notes.append(f"instance_group differs by device: each that is named has {most} instances")
    return most, () if "" in devices else tuple(devices)


def computes_on_cpu(config: Mapping[str, Any]) -> bool:
    """Whether every instance is to compute on the processor, on whatever device its worker has."""
    groups = config["instance_group"]
    return all(group["kind"] == "KIND_CPU" for group in groups)


_UNHEEDED = {
    "model_warmup": "model_warmup is not sent: the model is warmed up with zeros, a model.py not at all",
    "metric_tags": "metric_tags are not exported",
    "cc_model_filenames": "cc_model_filenames are not heeded: every device loads default_model_filename",
}


def _note_the_rest(config: Config, notes: list[str]) -> None:
    notes += [text for key, text in _UNHEEDED.items() if config[key]]
    if "EXECUTION_ENV_PATH" in config["parameters"]:
        notes.append("EXECUTION_ENV_PATH is not heeded: model.py runs in Headway's own environment, with what is in it")
    if config.get("response_cache", {}).get("enable"):
        notes.append("response_cache is not heeded: every request is computed")
    optimization = config["optimization"]
    if "execution_accelerators" in optimization:
        notes.append("optimization execution_accelerators are not heeded: onnxruntime runs on CUDA or the processor")
    if "cuda" in optimization or "graph" in optimization:
        notes.append("optimization cuda and graph are not heeded")
    if any("rate_limiter" in group for group in config["instance_group"]):
        notes.append("instance_group rate_limiter is not heeded")


def _signature(config: Config, *, may_lack: bool) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(inputs, outputs). `may_lack`: a request may leave out inputs that say so."""
    rows = config["max_batch_size"]
    inputs, outputs = (
        {one["name"]: _tensor(one, kind, rows, may_lack=may_lack) for one in _named(config[kind], kind)}
        for kind in ("input", "output")
    )
    return inputs, outputs


def _named(tensors: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    seen: set[str] = set()
    for one in tensors:
        name = one["name"]
        if not name or len(name) > _LONGEST_NAME or not name.isprintable():
            raise ManifestError(f"{kind} has the name {name[:80]!r}: 1 to {_LONGEST_NAME} printable characters")
        if name in seen:
            raise ManifestError(f"{kind} {name!r} is there twice")
        seen.add(name)
    return tensors


def _tensor(one: Mapping[str, Any], kind: str, rows: int, *, may_lack: bool) -> Tensor:
    where = f"{kind} {one['name']!r}"
    if one["data_type"] not in DTYPES:
        raise ManifestError(f"{where} has the data_type {one['data_type']}; known are {', '.join(DTYPES)}")
    if one.get("allow_ragged_batch"):
        raise ManifestError(
            f"{where} has allow_ragged_batch: requests of unlike lengths are never put into one array here. Leave it "
            "out, and alike travels with alike"
        )
    if one.get("optional") and not may_lack:
        raise ManifestError(f"{where} is optional, which only a model.py is served with")
    if one.get("is_shape_tensor") or one.get("is_non_linear_format_io"):
        raise ManifestError(f"{where} is of TensorRT's kinds, which nothing here takes")
    for key, lengths in (("dims", one["dims"]), ("reshape", one.get("reshape", {}).get("shape", []))):
        if len(lengths) > 15 or any(length < 1 and length != -1 for length in lengths):
            raise ManifestError(f"{where} has the {key} {lengths}: up to 15 lengths of 1 or more, -1 where it is free")
    if "reshape" in one and [length for length in (one["dims"], one["reshape"]["shape"]) if length.count(-1) > 1]:
        raise ManifestError(f"{where} has a reshape with several free lengths, which nobody could tell apart")
    return Tensor(
        DTYPES[one["data_type"]], ((-1,) if rows else ()) + tuple(one["dims"]), optional=one.get("optional", False)
    )


def completed(manifest: Manifest, config: Config) -> Manifest:
    """With the inputs and outputs of a configuration that the model has filled in."""
    inputs, outputs = _signature(config, may_lack=True)
    return msgspec.structs.replace(manifest, inputs=inputs, outputs=outputs)


def said_by_the_model(
    manifest: Manifest, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]
) -> Mapping[str, Any]:
    """The configuration with the inputs and outputs that it left to the model, as Triton shows it."""
    first = 1 if manifest.items == "joined" else 0
    config: dict[str, Any] = dict(manifest.config["triton"])
    for kind, found in (("input", inputs), ("output", outputs)):
        if not config[kind]:
            config[kind] = [
                {"name": name, "data_type": _DATA_TYPES[one.dtype], "dims": list(one.shape[first:])}
                for name, one in found.items()
            ]
    return config


def within(manifest: Manifest) -> Manifest:
    """The manifest as the model itself sees it: with the shapes after `reshape`."""
    config = manifest.config["triton"]

    def reshaped(tensors: Mapping[str, Tensor], said: list[dict[str, Any]]) -> dict[str, Tensor]:
        first = (-1,) if manifest.items == "joined" else ()
        forms = {one["name"]: (*first, *one["reshape"]["shape"]) for one in said if "reshape" in one}
        return {
            name: msgspec.structs.replace(tensor, shape=forms.get(name, tensor.shape))
            for name, tensor in tensors.items()
        }

    return msgspec.structs.replace(
        manifest,
        inputs=reshaped(manifest.inputs, config["input"]),
        outputs=reshaped(manifest.outputs, config["output"]),
    )


_FILE = re.compile(r"[\w+-][\w.+-]{0,127}")


def _file(name: str) -> str:
    if not _FILE.fullmatch(name):
        raise ManifestError(f"default_model_filename is {name[:80]!r}, and should name a file of the version folder")
    return name


def _labels(folder: Path, name: str) -> list[str]:
    """The lines of a label file, which lies beside the configuration."""
    if not _FILE.fullmatch(name):
        raise ManifestError(f"label_filename is {name[:80]!r}, and should name a file beside config.pbtxt")
    try:
        with (folder / name).open("rb") as stream:
            raw = stream.read(_LONGEST_LABELS + 1)
        text = raw.decode("utf-8")
    except OSError as error:
        raise ManifestError(f"label_filename {name} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ManifestError(f"label_filename {name} is not UTF-8") from error
    if len(raw) > _LONGEST_LABELS:
        raise ManifestError(f"label_filename {name} is longer than {_LONGEST_LABELS} bytes")
    return text.splitlines()
