"""MLServer's model folders: `model-settings.json` says what loads the files beside it, and how it is batched.

    models/iris/model-settings.json      one version, with its files beside it
    models/iris/v1/model-settings.json   or one in each version folder
    models/settings.json                 the server's own: parallel_workers

The rule: what a version's settings name lies in its folder, so that its digest is of all that is loaded. What
`model.toml` says outranks them.
"""

import re
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import unquote, urlsplit

import msgspec

from headway.errors import ManifestError
from headway.manifest import NAME, NAME_RULE, Manifest

FILE = "model-settings.json"
SERVER_FILE = "settings.json"
BACKEND = "mlserver"

_MOST_BYTES = 1024 * 1024
_MOST_INSTANCES = 64

#: implementation → (what reads its file here, which file it is where uri names a folder or nothing).
RUNTIMES: dict[str, tuple[str, tuple[str, ...]]] = {
    "mlserver_sklearn.SKLearnModel": ("sklearn", ("model.joblib", "model.pickle", "model.pkl")),
    "mlserver_xgboost.XGBoostModel": ("xgboost", ("model.bst", "model.json", "model.ubj")),
    "mlserver_lightgbm.LightGBMModel": ("lightgbm", ("model.bst", "model.txt")),
}
#: What is not here, and what to do instead.
_INSTEAD = {
    "mlserver_mlflow": "take the model that is in it, in its own format",
    "mlserver_huggingface": "write a model.py that loads the pipeline",
    "mlserver_catboost": "write a model.py that loads it",
    "mlserver_alibi": "write a model.py that loads it",
    "mlserver_mllib": "write a model.py that loads it",
}
_UNPICKLED = {".joblib": "joblib", ".pickle": "pickle", ".pkl": "pickle"}
#: Parameters that say where a model runs, which is in Headway's own environment.
_ELSEWHERE = ("environment_path", "environment_tarball", "inference_pool_gid", "autogenerate_inference_pool_gid")
_IMPLEMENTATION = re.compile(r"\w+(\.\w+)+")

Datatype = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BYTES"
]  # fmt: skip


class Tensor(msgspec.Struct, frozen=True):
    """Of `inputs` and `outputs`, as metadata shows it; its content type is that of inputs that name none."""

    name: str
    datatype: Datatype
    shape: list[int]
    parameters: dict[str, Any] | None = None


class Parameters(msgspec.Struct, frozen=True):
    """What is heeded of `parameters`; a custom model is shown all of them."""

    uri: str | None = None
    version: str | None = None
    content_type: str | None = None
    extra: dict[str, Any] | None = None


class Settings(msgspec.Struct, frozen=True):
    """model-settings.json, as far as it is heeded."""

    implementation: str
    name: str = ""
    platform: str = ""
    versions: list[str] = []
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []
    max_batch_size: Annotated[int, msgspec.Meta(ge=0, le=4096)] = 0  # requests; 0 and 1: each by itself
    max_batch_time: Annotated[float, msgspec.Meta(ge=0, le=60)] = 0.0  # seconds
    parallel_workers: Annotated[int, msgspec.Meta(ge=0)] | None = None
    parameters: Parameters = Parameters()

    @property
    def kind(self) -> str | None:
        """What reads its file; None where its class is the model's own."""
        known = RUNTIMES.get(self.implementation)
        return None if known is None else known[0]


class _Server(msgspec.Struct):
    """settings.json, as far as it is heeded."""

    parallel_workers: Annotated[int, msgspec.Meta(ge=0)] | None = None


def is_one(folder: Path) -> bool:
    """Of a model folder, or of a version folder."""
    return (folder / FILE).is_file()


def version_of(folder: Path) -> str | None:
    """What the settings in a folder call their version; None where they do not, or cannot be read."""
    try:
        return read(folder)[0].parameters.version or None
    except ManifestError:
        return None


def read(folder: Path) -> tuple[Settings, dict[str, Any]]:
    """As far as they are heeded, and all of them. Raises ManifestError."""
    file = folder / FILE
    said = _json(file)
    said = {**said, "parameters": said.get("parameters") or {}}
    try:
        settings = msgspec.convert(said, Settings)
    except msgspec.ValidationError as error:
        raise ManifestError(f"{file}: {_lower(str(error))}") from error
    if settings.implementation not in RUNTIMES:
        for package, instead in _INSTEAD.items():
            if settings.implementation.startswith(package):
                raise ManifestError(
                    f"{file}: implementation is {settings.implementation}, which is not here: {instead}"
                )
        if not _IMPLEMENTATION.fullmatch(settings.implementation):
            raise ManifestError(
                f"{file}: implementation is {settings.implementation[:80]!r}, and should be module.Class"
            )
    version = settings.parameters.version
    if version and not NAME.fullmatch(version):
        raise ManifestError(f"{file}: version is {version[:80]!r}: a version is {NAME_RULE}")
    return settings, said


def all_served(manifest: Manifest) -> Manifest:
    """Of a model folder that has such versions: MLServer loads them all, unless model.toml says which."""
    if "policy" in manifest.config.get("versions", {}):
        return manifest
    return msgspec.structs.replace(manifest, policy="all")


def served(manifest: Manifest, model: str, folder: Path, models: Path) -> Manifest:
    """The manifest with what a version's settings say, where model.toml does not. Raises ManifestError."""
    settings, said = read(folder)
    if settings.name not in ("", model):
        raise ManifestError(
            f"{folder / FILE}: name is {settings.name!r}, and the folder is {model!r}: they have to be the same"
        )
    if manifest.inputs or manifest.outputs or manifest.entry:
        raise ManifestError(
            f"model.toml: [inputs], [outputs] and entry are for models of Headway's own: a request to one that has "
            f"{FILE} is its input as it is"
        )
    artifact(folder, settings)
    server = _server(models)
    written = {section: manifest.config.get(section, {}) for section in ("batching", "resources")}
    batching, instances = manifest.batching, manifest.instances
    if "max_batch_size" not in written["batching"]:
        batching = msgspec.structs.replace(batching, max_batch_size=max(1, settings.max_batch_size))
    if "max_wait_ms" not in written["batching"]:
        batching = msgspec.structs.replace(batching, max_wait_ms=settings.max_batch_time * 1000)
    workers = server.parallel_workers if settings.parallel_workers is None else settings.parallel_workers
    if workers and "instances" not in written["resources"]:
        instances = min(workers, _MOST_INSTANCES)
    return msgspec.structs.replace(
        manifest,
        batching=batching,
        instances=instances,
        backend=BACKEND,
        config={**manifest.config, "mlserver": {**said, "name": model}, "notes": _notes(said)},
    )


def _notes(said: dict[str, Any]) -> list[str]:
    """What of the settings has no meaning here."""
    known = {field.encode_name for field in msgspec.structs.fields(Settings)}
    notes = [f"{FILE}: {key} is not heeded" for key in said if key not in known]
    parameters = said.get("parameters") or {}
    return notes + [f"{FILE}: parameters.{key} is not heeded" for key in _ELSEWHERE if parameters.get(key)]


def artifact(folder: Path, settings: Settings) -> Path | None:
    """The file that a runtime reads; None for a model of its own class. Raises ManifestError where there is none."""
    known = RUNTIMES.get(settings.implementation)
    uri = settings.parameters.uri
    if known is None and not uri:
        return None
    place = _place(folder, uri or ".")
    if known is None:
        return None
    if place.is_file():
        return place
    for name in known[1]:
        if (place / name).is_file():
            return place / name
    raise ManifestError(f"{folder / FILE}: uri is {uri!r}, and there is no {', '.join(known[1])} in {place}")


def unpickled(folder: Path, settings: Settings) -> str | None:
    """What a runtime's file is read by, if that may run what stands in it. Raises ManifestError."""
    file = artifact(folder, settings)
    return None if file is None else _UNPICKLED.get(file.suffix, "joblib" if settings.kind == "sklearn" else None)


def _place(folder: Path, uri: str) -> Path:
    parts = urlsplit(uri)
    if parts.scheme not in ("", "file"):
        raise ManifestError(
            f"{folder / FILE}: uri is {uri[:200]!r}, and nothing is fetched here: put it beside the file"
        )
    place = (folder / unquote(parts.path)).resolve()
    if not place.is_relative_to(folder.resolve()):
        raise ManifestError(f"{folder / FILE}: uri is {uri[:200]!r}, which leads out of {folder}")
    if not place.exists():
        raise ManifestError(f"{folder / FILE}: uri is {uri[:200]!r}, and there is nothing of that name in {folder}")
    return folder / place.relative_to(folder.resolve())


def _server(models: Path) -> _Server:
    file = models / SERVER_FILE
    if not file.is_file():
        return _Server()
    try:
        return msgspec.convert(_json(file), _Server)
    except msgspec.ValidationError as error:
        raise ManifestError(f"{file}: {_lower(str(error))}") from error


def _json(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            text = stream.read(_MOST_BYTES + 1)
        said = msgspec.json.decode(text)
    except OSError as error:
        raise ManifestError(f"{file}: cannot be read: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise ManifestError(f"{file}: not valid JSON: {error}") from error
    if len(text) > _MOST_BYTES:
        raise ManifestError(f"{file}: is larger than {_MOST_BYTES} bytes")
    if not isinstance(said, dict):
        raise ManifestError(f"{file}: should be a JSON object")
    return said


def _lower(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]
