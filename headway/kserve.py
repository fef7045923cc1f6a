"""KServe's InferenceServices: `models/NAME/inferenceservice.yaml` says what the model is, and how it is served.

    models/iris/inferenceservice.yaml
    models/iris/1/model.joblib        what storageUri names: a version of it; or files beside the manifest

The rule: nothing is fetched. A storageUri is followed into the models folder (`pvc://CLAIM/PATH`, `file://PATH`), and
is a name for what lies in version folders otherwise. What would behave otherwise than it did is refused, or noted; what
`model.toml` says beside it outranks it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import unquote, urlsplit

import msgspec

from headway.errors import ManifestError
from headway.manifest import NAME, Manifest

FILE = "inferenceservice.yaml"
BACKEND = "kserve"

_MOST_BYTES = 1024 * 1024

#: modelFormat → what its model file may end in; the first that is there in this order, then by name.
FORMATS: Mapping[str, tuple[str, ...]] = {
    "sklearn": (".joblib", ".pkl", ".pickle"),
    "xgboost": (".bst", ".json", ".ubj"),
    "lightgbm": (".bst", ".txt"),
}
_FRAMEWORKS = {".joblib": "joblib", ".pkl": "pickle", ".pickle": "pickle"}
#: What is served otherwise here.
_INSTEAD = {
    "pytorch": "put TorchServe's archive into the models folder, unpacked as a version",
    "triton": "take the model repository itself, with its config.pbtxt",
    "onnx": "put the file into a version folder as model.onnx, with no manifest or Triton's config.pbtxt",
    "tensorflow": "convert it to ONNX with tf2onnx",
    "mlflow": "take the model that is in it, in its own format",
    "huggingface": "write a model.py that loads it",
}
#: Kinds of models that stand as a key of the predictor, as it was written before modelFormat.
_OLD = (*FORMATS, *_INSTEAD, "pmml", "paddle")


class _Batcher(msgspec.Struct, rename="camel"):
    max_batch_size: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 32
    max_latency: Annotated[float, msgspec.Meta(ge=0, le=60_000)] = 5000  # milliseconds
    timeout: Annotated[float, msgspec.Meta(gt=0, le=86_400)] | None = None  # seconds


class _Format(msgspec.Struct):
    name: str
    version: str | int | float | None = None


class _Variable(msgspec.Struct):
    name: str
    value: str | None = None


class _Resources(msgspec.Struct, frozen=True):
    limits: dict[str, Any] = {}
    requests: dict[str, Any] = {}


class _Model(msgspec.Struct, rename="camel"):
    storage_uri: str | None = None
    model_format: _Format | None = None
    protocol_version: str | None = None
    runtime: str | None = None
    runtime_version: str | None = None
    env: list[_Variable] = []
    resources: _Resources = _Resources()
    name: str | None = None


class _Predictor(msgspec.Struct, rename="camel"):
    model: _Model | None = None
    batcher: _Batcher | None = None
    min_replicas: Annotated[int, msgspec.Meta(ge=0)] | None = None
    timeout: Annotated[float, msgspec.Meta(gt=0, le=86_400)] | None = None  # seconds
    canary_traffic_percent: Annotated[int, msgspec.Meta(ge=0, le=100)] | None = None


class Service(msgspec.Struct):
    """What a manifest says that is heeded, and notes on what is not."""

    format: str
    storage_uri: str | None
    method: str
    predictor: _Predictor
    gpu: bool
    notes: list[str]


def is_one(model_folder: Path) -> bool:
    return (model_folder / FILE).is_file()


def read(model_folder: Path) -> Service:
    """Raises ManifestError naming the key."""
    file = model_folder / FILE
    try:
        return _service(_document(file), model_folder.name)
    except ManifestError as error:
        raise ManifestError(f"{file}: {error}") from error


def served(manifest: Manifest, model_folder: Path) -> Manifest:
    """The manifest with what the InferenceService says, where model.toml does not. Raises ManifestError."""
    service = read(model_folder)
    if manifest.inputs or manifest.outputs or manifest.entry:
        raise ManifestError(
            f"{model_folder / 'model.toml'}: [inputs], [outputs] and entry are for models of Headway's own: a request "
            f"to one that has {FILE} is its input as it is"
        )
    predictor = service.predictor
    written = {section: manifest.config.get(section, {}) for section in ("batching", "limits", "resources", "versions")}
    batching, limits, instances, devices = manifest.batching, manifest.limits, manifest.instances, manifest.devices
    batcher = predictor.batcher
    if "max_batch_size" not in written["batching"]:
        batching = msgspec.structs.replace(batching, max_batch_size=batcher.max_batch_size if batcher else 1)
    if batcher is not None and "max_wait_ms" not in written["batching"]:
        batching = msgspec.structs.replace(batching, max_wait_ms=float(batcher.max_latency))
    timeout = (batcher and batcher.timeout) or predictor.timeout
    if timeout is not None and "timeout_s" not in written["limits"]:
        limits = msgspec.structs.replace(limits, timeout_s=float(timeout))
    if predictor.min_replicas and "instances" not in written["resources"]:
        instances = min(predictor.min_replicas, 64)
    if service.gpu and "devices" not in written["resources"]:
        devices = ("cuda",)
    policy, canary = manifest.policy, predictor.canary_traffic_percent
    if canary is not None and "policy" not in written["versions"]:
        policy = 2
    return msgspec.structs.replace(
        manifest,
        batching=batching,
        limits=limits,
        instances=instances,
        devices=devices,
        policy=policy,
        canary_percent=canary,
        backend=BACKEND,
        config={
            **manifest.config,
            "kserve": {"format": service.format, "method": service.method},
            "notes": service.notes,
        },
    )


def places(model_folder: Path) -> dict[str, Path]:
    """Version → its folder, the oldest first: the numbered ones, else where storageUri leads, else beside the manifest.

    Raises ManifestError where there is none.
    """
    numbered = [entry for entry in model_folder.iterdir() if entry.is_dir() and entry.name.isdecimal()]
    if numbered:
        return {entry.name: entry for entry in sorted(numbered, key=lambda entry: int(entry.name))}
    service = read(model_folder)
    where = _inside(service.storage_uri, model_folder)
    if where is not None:
        own = where.parent == model_folder and NAME.fullmatch(where.name)
        return {where.name if own else "1": where}
    if _file(model_folder, service.format) is not None:
        return {"1": model_folder}
    said = f"storageUri is {service.storage_uri[:200]!r}, and nothing is fetched here" if service.storage_uri else ""
    raise ManifestError(
        f"{model_folder / FILE}: {said or 'there is no storageUri'}: put the model's files into {model_folder / '1'}"
    )


def artifact(version_folder: Path, manifest: Manifest) -> Path | None:
    """The model file of a version."""
    return _file(version_folder, manifest.config["kserve"]["format"])


def framework_of(file: Path, manifest: Manifest) -> str:
    """As it is shown; those that unpickle are told apart."""
    return _FRAMEWORKS.get(file.suffix) or str(manifest.config["kserve"]["format"])


def _file(folder: Path, format_: str) -> Path | None:
    try:
        there = sorted(entry for entry in folder.iterdir() if entry.is_file() and entry.name[0] != ".")
    except OSError:
        return None
    found = (entry for suffix in FORMATS[format_] for entry in there if entry.suffix == suffix)
    return next(found, None)


def _inside(uri: str | None, model_folder: Path) -> Path | None:
    """Where a storageUri leads, if that is a folder below the models folder. Raises ManifestError for one outside."""
    parts = urlsplit(uri or "")
    models = model_folder.parent.resolve()
    path = unquote(parts.path)
    if parts.scheme == "pvc":
        target = models / path.lstrip("/")
    elif parts.scheme == "file":
        target = Path(path)
    else:
        return None
    target = target.resolve()
    if target == models or not target.is_relative_to(models):
        raise ManifestError(
            f"{model_folder / FILE}: storageUri is {uri!r}, which is not below the models folder: copy what is there"
        )
    if target == model_folder.resolve() or not target.is_dir():
        return None
    return model_folder.parent / target.relative_to(models)


def _document(file: Path) -> dict[str, Any]:
    try:
        import yaml
    except ImportError as error:
        raise ManifestError("needs PyYAML to be read: pip install 'headway[kserve]'") from error
    try:
        with file.open("rb") as stream:
            text = stream.read(_MOST_BYTES + 1)
        if len(text) > _MOST_BYTES:
            raise ManifestError(f"is larger than {_MOST_BYTES} bytes")
        documents = list(yaml.safe_load_all(text))
    except OSError as error:
        raise ManifestError(f"cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeError, RecursionError, ValueError) as error:
        raise ManifestError(f"not valid YAML: {' '.join(str(error).split())[:300]}") from error
    found = [one for one in documents if isinstance(one, dict) and one.get("kind") == "InferenceService"]
    if len(found) != 1:
        raise ManifestError(f"has {len(found)} documents of kind InferenceService, and should have one")
    return found[0]


def _service(document: dict[str, Any], folder: str) -> Service:
    spec = document.get("spec")
    predictor = spec.get("predictor") if isinstance(spec, dict) else None
    if not isinstance(spec, dict) or not isinstance(predictor, dict):
        raise ManifestError("spec.predictor is missing")
    metadata = document.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    if name not in (None, folder):
        raise ManifestError(f"metadata.name is {name!r}, and the folder is {folder!r}: they have to be the same")
    if "transformer" in spec:
        raise ManifestError("spec.transformer is not served: write what it does as a model.py, or do it in the client")
    notes = [f"{FILE}: spec.{key} is not heeded" for key in spec if key != "predictor"]
    if "containers" in predictor:
        raise ManifestError(
            "spec.predictor.containers is an image of its own, which is not run: write its model as a model.py"
        )
    model = _model(predictor, notes)
    said = _convert("spec.predictor", {**predictor, "model": model}, _Predictor)
    assert said.model is not None
    if said.model.model_format is None:
        raise ManifestError("spec.predictor.model.modelFormat is missing")
    format_ = said.model.model_format.name
    if format_ not in FORMATS:
        instead = _INSTEAD.get(format_, "write a model.py that loads it")
        raise ManifestError(
            f"modelFormat is {format_[:80]!r}, and {', '.join(FORMATS)} are served from here: {instead}"
        )
    _check_runtime(said.model)
    method = "predict"
    for one in said.model.env:
        if one.name == "PREDICT_PROBA":
            method = "predict_proba" if (one.value or "").lower() in ("true", "1", "yes", "y", "t", "on") else method
        else:
            notes.append(f"{FILE}: env {one.name} is not set: models run in Headway's own environment")
    gpus = said.model.resources.limits.get("nvidia.com/gpu", 0)
    return Service(format_, said.model.storage_uri, method, said, str(gpus) not in ("0", ""), notes)


def _model(predictor: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    """`model`, or what was written before there was one: a key that is the format itself."""
    old = [key for key in _OLD if key in predictor]
    if ("model" in predictor) + len(old) != 1:
        raise ManifestError(f"spec.predictor has {'several models' if old else 'no model'}, and should have one")
    said = predictor["model"] if not old else predictor[old[0]]
    where = f"spec.predictor.{old[0] if old else 'model'}"
    if not isinstance(said, dict):
        raise ManifestError(f"{where} should be a mapping")
    heeded = {field.encode_name for field in msgspec.structs.fields(_Model)}
    notes += [f"{FILE}: {where}.{key} is not heeded" for key in said if key not in heeded]
    heeded = {field.encode_name for field in msgspec.structs.fields(_Predictor)} | set(old)
    notes += [f"{FILE}: spec.predictor.{key} is not heeded" for key in predictor if key not in heeded]
    if predictor.get("minReplicas") == 0:
        notes.append(f"{FILE}: minReplicas is 0: a version that is served stays loaded, unless the device is full")
    return {**said, "modelFormat": {"name": old[0]}} if old else said


def _check_runtime(model: _Model) -> None:
    if "mlserver" in (model.runtime or ""):
        raise ManifestError(
            f"runtime is {model.runtime!r}: what MLServer is told stands in a model-settings.json beside the model file"
        )
    if model.protocol_version not in (None, "v1", "v2", "grpc-v2"):
        raise ManifestError(f"protocolVersion is {model.protocol_version!r}, and should be v1 or v2")


def _convert(where: str, raw: object, kind: type[_Predictor]) -> _Predictor:
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        wanted, _, path = str(error).partition(" - at `$")
        raise ManifestError(f"{where}{path.rstrip('`')}: {wanted[:1].lower()}{wanted[1:]}") from error
