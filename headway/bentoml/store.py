"""A version of BentoML's model store: model.yaml says which library wrote its file, and what it is called with."""

from pathlib import Path
from typing import Any

import msgspec

from headway.bentoml import MODEL, configuration, yaml_of
from headway.errors import ManifestError
from headway.manifest import Items, Manifest, Tensor

#: Whose module wrote it → its file.
FILES = {
    "bentoml.sklearn": "saved_model.pkl",
    "bentoml.picklable_model": "saved_model.pkl",
    "bentoml.xgboost": "saved_model.ubj",
    "bentoml.lightgbm": "saved_model.ubj",  # so it is called, and it is LightGBM's text
    "bentoml.onnx": "saved_model.onnx",
    "bentoml.torchscript": "saved_model.pt",
    "bentoml.pytorch": "saved_model.pt",
}
#: Whose files run what they say while they are read.
PICKLED = frozenset({"bentoml.sklearn", "bentoml.picklable_model", "bentoml.pytorch"})
#: Before BentoML 1.4 the modules were written so.
_FORMER = ("bentoml._internal.frameworks.", "_bentoml_impl.frameworks.")

#: What is called where nobody says which, the first that is there.
_USUAL = ("predict", "__call__", "run", "forward")
#: Rows of requests that travel together: BentoML's own.
MAX_BATCH_SIZE = 100

#: Where the call stands in `manifest.config`.
CALL = "bentoml_model"
#: What a model with several methods takes beside its arrays: the name of one, for each row.
METHOD = "method"


class Signature(msgspec.Struct, frozen=True):
    """How a method takes requests."""

    batchable: bool = False
    batch_dim: int | list[int] = 0  # or of what goes in, and of what comes out

    @property
    def along_rows(self) -> bool:
        dims = self.batch_dim if isinstance(self.batch_dim, list) else [self.batch_dim]
        return not any(dims)


class Described(msgspec.Struct, frozen=True):
    """model.yaml, as far as it is ours to know."""

    name: str
    version: str
    module: str = ""
    signatures: dict[str, Signature] = {}
    options: dict[str, Any] = {}


class Call(msgspec.Struct, frozen=True):
    """What the loader does with it."""

    module: str  # a key of FILES
    method: str  # where a request names none
    methods: list[str]
    options: dict[str, Any] = {}

    @property
    def file(self) -> str:
        return FILES[self.module]


def read(version: Path) -> Described:
    """Raises ManifestError."""
    file = version / MODEL
    try:
        described = msgspec.convert(yaml_of(file), Described, strict=False)
    except msgspec.ValidationError as error:
        raise ManifestError(f"{file}: {str(error)[:1].lower()}{str(error)[1:]}") from error
    module = described.module
    for former in _FORMER:
        module = module.replace(former, "bentoml.")
    if module not in FILES:
        raise ManifestError(
            f"{file}: its module is {module[:80]!r}, and known are {', '.join(FILES)}: "
            "export it to ONNX or TorchScript, or load it in a model.py"
        )
    if not (version / FILES[module]).is_file():
        raise ManifestError(f"no {FILES[module]} in {version}, where {module} has its model")
    return msgspec.structs.replace(described, module=module)


def served(manifest: Manifest, version: Path) -> Manifest:
    """The manifest with what model.yaml says of calls and batches; model.toml outranks it. Raises ManifestError."""
    described = read(version)
    signatures = described.signatures or {_USUAL[0]: Signature()}
    method = manifest.config.get("config", {}).get("method")
    if method is None:
        method = next((name for name in _USUAL if name in signatures), next(iter(signatures)))
    elif method not in signatures:
        raise ManifestError(f"[config] method is {method!r}, and {version / MODEL} has {', '.join(signatures)}")
    items, size = _batched(signatures, method, version)
    said = configuration.of_model(version).batching
    if said.enabled is False:
        items, size = "alone", 1
    batching, limits = manifest.batching, manifest.limits
    if "max_batch_size" not in manifest.config.get("batching", {}):
        most = said.max_batch_size if items == "joined" else None
        batching = msgspec.structs.replace(batching, max_batch_size=most or size)
    if "queue_timeout_s" not in manifest.config.get("limits", {}) and said.max_latency_ms is not None:
        limits = msgspec.structs.replace(limits, queue_timeout_s=said.max_latency_ms / 1000)
    call = Call(described.module, method, list(signatures), described.options)
    config = {**manifest.config, CALL: msgspec.to_builtins(call)}
    return msgspec.structs.replace(
        manifest,
        items=items,
        batching=batching,
        limits=limits,
        config=config,
        inputs=_with_rows(manifest.inputs),
        outputs=_with_rows(manifest.outputs),
    )


def _with_rows(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """As model.toml declares them, and with the dimension that counts rows."""
    return {name: msgspec.structs.replace(tensor, shape=(-1, *tensor.shape)) for name, tensor in tensors.items()}


def call_of(manifest: Manifest) -> Call:
    """Of a manifest that `served` has made."""
    return msgspec.convert(manifest.config[CALL], Call)


def is_pickled(manifest: Manifest) -> bool:
    """Whether to read its file is to run it."""
    return CALL in manifest.config and call_of(manifest).module in PICKLED


def _batched(signatures: dict[str, Signature], method: str, version: Path) -> tuple[Items, int]:
    """How requests become a call, and how many rows it has at most."""
    signature = signatures[method]
    if not signature.batchable:
        return "alone", 1
    if not signature.along_rows:
        raise ManifestError(
            f"{version / MODEL}: batch_dim of {method} is {signature.batch_dim}, and rows are joined along the first "
            "dimension only: save it with batch_dim 0, or batchable false"
        )
    return "joined", MAX_BATCH_SIZE
