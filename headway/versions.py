"""Which versions lie in the models folder, and what each consists of.

    models/sentiment/model.toml      optional: `headway.manifest`
    models/sentiment/1/model.py      or model.pt2, model.pt, model.onnx; or `[model] entry` names a class
    models/sentiment/config.pbtxt    instead of model.toml: a folder of Triton's (`headway.triton`)
    models/sentiment/1/MAR-INF/…     an archive of TorchServe's, unpacked: `headway.mar`
    models/sentiment/inferenceservice.yaml     KServe's word of the model: `headway.kserve`
    models/sentiment/model-settings.json       MLServer's, here or in a version folder: `headway.mlserver`
    models/sentiment/1/model.yaml    of BentoML's model store, or a service.py: `headway.bentoml`
    models/sentiment/1/saved_model.pb  TensorFlow's, as TF Serving has them: `headway.tfserving`

The rule: a folder that cannot be served as it is says why, in a sentence for whoever wrote it, and stops nobody else.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import msgspec

from headway import bentoml, kserve, mar, mlserver, tfserving, triton
from headway.bentoml import service, store
from headway.digests import digest_of, sha256_of
from headway.errors import ManifestError
from headway.manifest import NAME, NAME_RULE, Manifest, read
from headway.tfserving.model_config import Entry
from headway.tfserving.served import served
from headway.tfserving.setup import NOTHING, Setup

#: What a model folder says of itself, in one of these.
CONFIGURATIONS = ("model.toml", triton.FILE, kserve.FILE, bentoml.LATEST)
#: What a version folder may hold → its framework; the first that is there wins, so a model.py may bring weights, and
#: an archive both.
ARTIFACTS = {
    mar.MANIFEST: "torchserve",
    mlserver.FILE: "mlserver",
    "model.py": "python",
    "model.pt2": "torch.export",
    "model.pt": "torchscript",
    "model.onnx": "onnx",
    **tfserving.FRAMEWORKS,
    "model.joblib": "joblib",
    "model.pkl": "pickle",
    "model.pickle": "pickle",
    "model.ubj": "xgboost",
    "model.json": "xgboost",
    "model.txt": "lightgbm",
    bentoml.BENTO: "bentoml.service",
    bentoml.MODEL: "bentoml",
    bentoml.SERVICE: "bentoml.service",
}
#: What runs whatever its file says while it is read: only where model.toml says `[artifact] trust = true`.
UNPICKLED = ("joblib", "pickle")


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A version folder as it lies on the disk. With `error` it cannot be served."""

    model: str
    version: str  # "" where the error is of the whole folder and no version was found
    path: Path
    manifest: Manifest | None = None
    framework: str | None = None
    sha256: str = ""  # `digest_of` its folder: of all files, their names too
    file_sha256: str = ""  # of the model file alone, which is all that earlier releases compare
    error: str | None = None
    wanted: bool = True  # by the policy or an alias; the others are loaded when somebody asks for them


class Place(NamedTuple):
    """Where the versions of a model lie."""

    name: str
    folder: Path
    entry: Entry | None = None  # of TF Serving's model.config, where that names it


def scan(models: Path, setup: Setup = NOTHING) -> list[Found]:
    """Every version there is, by name and number. Raises ManifestError only if `models` is no folder."""
    return [
        found for place in places(models, setup) for found in scan_model(place.folder, entry=place.entry, setup=setup)
    ]


def places(models: Path, setup: Setup = NOTHING) -> list[Place]:
    """By name. What model.config names comes before what is called so, or lies there, in the models folder.

    Raises ManifestError if `models` is no folder.
    """
    named = {entry.name for entry in setup.entries}
    served_from = {entry.base_path.resolve() for entry in setup.entries}
    own = [
        Place(folder.name, folder)
        for folder in model_folders(models)
        if folder.name not in named and (not served_from or folder.resolve() not in served_from)
    ]
    return sorted([*own, *(Place(entry.name, entry.base_path, entry) for entry in setup.entries)])


def model_folders(models: Path) -> list[Path]:
    """Where the models are, by name. Raises ManifestError if `models` is no folder."""
    try:
        return sorted(entry for entry in models.iterdir() if entry.is_dir() and _may_be_model(entry))
    except OSError as error:
        raise ManifestError(f"the models folder {models} cannot be read: {error.strerror}") from error


def _may_be_model(folder: Path) -> bool:
    """Not what is hidden. Of what begins with _, as `__pycache__` does, only what has a version."""
    if folder.name[0] != "_":
        return folder.name[0] != "."
    try:
        return bool(_places(folder))
    except (OSError, ManifestError):
        return False


def scan_model(
    folder: Path,
    *,
    sha256: Callable[[Sequence[Path]], str] = sha256_of,
    settled: Callable[[Path], bool] = lambda _: True,
    before: Mapping[str, Found] = MappingProxyType({}),
    entry: Entry | None = None,
    setup: Setup = NOTHING,
) -> list[Found]:
    """The versions of one model; whatever is wrong is in there as `error`.

    `entry`: what TF Serving's model.config says of it, its name too. `setup`: what its other files say.
    `sha256`: as `sha256_of`, or what knows its answers from before.
    `settled`: whether a version folder may be read now. One that may not is what it was in `before`, or not there yet.
    """
    model = folder.name if entry is None else entry.name

    def broken(version: str, reason: str) -> Found:
        return Found(model=model, version=version, path=paths.get(version, folder / version), error=reason)

    def found(version: str, manifest: Manifest, wanted: bool) -> Found:
        return Found(model=model, version=version, path=paths[version], manifest=manifest, wanted=wanted)

    paths: Mapping[str, Path] = {}
    if not NAME.fullmatch(model):
        return [broken("", f"the folder name {model!r} is no model name: {NAME_RULE}")]
    try:
        paths = _places(folder, numbers_only=entry is not None)
        versions = list(paths)
        changing = {version for version in versions if not settled(paths[version])}
        coming = changing - before.keys()
        versions = [version for version in versions if version not in coming]
        if coming and not versions:
            return []
        if not versions:
            return [broken("", f"no version in {folder}: a version is a folder such as 1/ with a model file in it")]
        try:
            manifest = read(folder) if entry is None else entry.applied(read(folder))
        except ManifestError as error:
            return [broken(versions[-1], str(error))]
        if any(mlserver.is_one(place) for place in paths.values()):
            manifest = mlserver.all_served(manifest)
        if (named := bentoml.latest(folder)) in versions:
            manifest = msgspec.structs.replace(manifest, latest=named)
            versions = [*(version for version in versions if version != named), named]
        wanted = _wanted(manifest, versions)
        missing = [
            broken(version, f"{_said_by(manifest, entry)} names version {version}, and {folder} has no such folder")
            for version in wanted
            if version not in versions and version not in coming
        ]
        return missing + [
            msgspec.structs.replace(
                before[version], manifest=_of_before(before[version], manifest, folder, setup), wanted=version in wanted
            )
            if version in changing
            else _found(found(version, manifest, version in wanted), folder, sha256, setup)
            for version in versions
        ]
    except ManifestError as error:
        return [broken("", str(error))]
    except OSError as error:
        return [broken("", f"{folder} cannot be read: {error.strerror}")]


def _places(folder: Path, *, numbers_only: bool = False) -> dict[str, Path]:
    """Version → where its files are, oldest first. Raises ManifestError."""
    if kserve.is_one(folder):
        return kserve.places(folder)
    if mlserver.is_one(folder):
        return {mlserver.version_of(folder) or "1": folder}
    entries = _versions(folder, numbers_only=numbers_only)
    return {(mlserver.is_one(entry) and mlserver.version_of(entry)) or name: entry for name, entry in entries.items()}


def _versions(folder: Path, *, numbers_only: bool) -> dict[str, Path]:
    """Folders that are versions, oldest first: those with a number for a name, and those that hold a model file.

    Of a folder of Triton's only numbers as they are counted: not 0, nor 01. Of TensorFlow's, and with `numbers_only`,
    what TF Serving takes for one: 00000123 is 123, unless there is a 123 as well.
    """
    named = [entry for entry in folder.iterdir() if entry.is_dir() and NAME.fullmatch(entry.name)]
    if triton.is_one(folder) and not numbers_only:
        return {e.name: e for e in sorted(named, key=_age) if e.name.isdecimal() and e.name[0] != "0"}
    found: dict[str, Path] = {}
    for entry in sorted(named, key=_age):
        version: str | None = entry.name
        if numbers_only or (artifact(entry) or entry).name in tfserving.FRAMEWORKS:
            version = tfserving.number(entry.name)
        elif not entry.name.isdecimal() and artifact(entry) is None:
            version = None
        if version is not None and (version not in found or version == entry.name):
            found[version] = entry
    return found


def _age(version: Path) -> tuple[bool, int, str]:
    number = version.name.isdecimal()
    return number, int(version.name) if number else version.stat().st_mtime_ns, version.name


def _wanted(manifest: Manifest, versions: list[str]) -> list[str]:
    """The versions the policy asks for, and those that aliases point to."""
    policy = manifest.policy
    if isinstance(policy, list):
        wanted = policy
    else:
        wanted = versions if policy == "all" else versions[-(1 if policy == "latest" else policy) :]
    return list(dict.fromkeys([*wanted, *manifest.aliases.values()]))


def _said_by(manifest: Manifest, entry: Entry | None) -> str:
    if entry is not None:
        return "model.config"
    files = {kserve.BACKEND: kserve.FILE, None: "model.toml"}
    return files.get(manifest.backend, triton.FILE)


def _found(found: Found, folder: Path, sha256: Callable[[Sequence[Path]], str], setup: Setup) -> Found:
    """With all that the files say. `found`: which it is, with the manifest of its model's folder."""
    path, manifest = found.path, found.manifest or Manifest()
    if manifest.entry is not None:
        files = sorted(path.rglob("*.py"))
        framework = "python"
    elif manifest.steps:
        files = []
        framework = manifest.backend or ""
    elif manifest.backend is not None and manifest.file is not None:
        files = [path / manifest.file]
        framework = manifest.backend
        if not files[0].is_file():
            return msgspec.structs.replace(found, error=f"no {manifest.file} in {path}")
    elif manifest.backend == kserve.BACKEND:
        if (file := kserve.artifact(path, manifest)) is None:
            suffixes = ", ".join(kserve.FORMATS[manifest.config["kserve"]["format"]])
            return msgspec.structs.replace(found, error=f"no file in {path} ends in one of {suffixes}")
        files = [file]
        framework = kserve.framework_of(file, manifest)
    elif (file := _preferred(path, setup)) is not None:
        files = [file]
        framework = framework_of(file)
    else:
        weights = (path / "model.safetensors").is_file()
        hint = "; what its weights are of, [model] entry says" if weights else ""
        return msgspec.structs.replace(found, error=f"no {', '.join(ARTIFACTS)} in {path}{hint}")
    reader: str | None = framework
    try:
        digest = digest_of(path, sha256, root=folder.parent.resolve())
        file_digest = sha256(files)
        manifest = _served(manifest, framework, path, folder, setup)
        if framework == "mlserver":
            reader = mlserver.unpickled(path, mlserver.read(path)[0])
    except ManifestError as error:
        return msgspec.structs.replace(found, error=str(error))
    return msgspec.structs.replace(
        found,
        manifest=manifest,
        framework=framework,
        sha256=digest,
        file_sha256=file_digest,
        error=_distrusted(manifest, found.version, reader, digest),
    )


def _served(manifest: Manifest, framework: str | None, path: Path, folder: Path, setup: Setup) -> Manifest:
    """With what another server's files in a version folder say. Raises ManifestError; OSError."""
    match framework:
        case "torchserve":
            return mar.served(manifest, mar.read(path))
        case "mlserver":
            return mlserver.served(manifest, folder.name, path, folder.parent)
        case "bentoml":
            return store.served(manifest, path)
        case "bentoml.service":
            return service.served(manifest, path)
    file = next((file for file, reads in tfserving.FRAMEWORKS.items() if reads == framework), None)
    return manifest if file is None else served(manifest, path, file, setup.parameters)


def _of_before(before: Found, manifest: Manifest, folder: Path, setup: Setup) -> Manifest:
    """model.toml as it is now, for a version whose files are not to be read now."""
    try:
        return _served(manifest, before.framework, before.path, folder, setup)
    except (ManifestError, OSError):
        return before.manifest or manifest


def _distrusted(manifest: Manifest, version: str, framework: str | None, digest: str) -> str | None:
    """Why these files are not to be loaded, if so."""
    pin = manifest.pin(version)
    if pin is not None and pin != digest:
        return f"its files have the sha256 {digest}, and model.toml says [artifact] sha256 = {pin}"
    pickled = framework in UNPICKLED or (framework == "bentoml" and store.is_pickled(manifest))
    if pickled and not manifest.artifact.trust:
        return UNTRUSTED
    return None


#: Why a file that unpickles is refused.
UNTRUSTED = (
    "to read its model file is to unpickle it, which runs whatever code is in there: if you trust whoever made it, say "
    "[artifact] trust = true in model.toml; else ask for .pt2, .onnx or .safetensors"
)


def has_model(version_folder: Path, manifest: Manifest) -> bool:
    """Whether the file is there that makes it a model."""
    if manifest.entry is not None:
        return any(version_folder.rglob("*.py"))
    if manifest.steps:  # its configuration is all there is
        return True
    if manifest.file is not None:
        return (version_folder / manifest.file).is_file()
    if manifest.backend == kserve.BACKEND:
        return kserve.artifact(version_folder, manifest) is not None
    return artifact(version_folder) is not None


def artifact(version_folder: Path) -> Path | None:
    """The model file of a version folder."""
    files = (version_folder / name for name in ARTIFACTS)
    return next((file for file in files if file.is_file()), None)


def _preferred(version_folder: Path, setup: Setup) -> Path | None:
    """The model file, of TensorFlow's two the one that the operator prefers."""
    file = artifact(version_folder)
    lite = version_folder / tfserving.TFLITE
    if setup.prefer_tflite and file is not None and file.name == tfserving.SAVED_MODEL and lite.is_file():
        return lite
    return file


def framework_of(artifact: Path) -> str:
    """Of a model file that `artifact` has found."""
    return next(framework for name, framework in ARTIFACTS.items() if artifact.as_posix().endswith(f"/{name}"))
