"""Which versions lie in the models folder, and what each consists of.

    models/sentiment/model.toml      optional: `headway.manifest`
    models/sentiment/1/model.py      or model.pt2, model.pt, model.onnx; or `[model] entry` names a class
    models/sentiment/config.pbtxt    instead of model.toml: a folder of Triton's (`headway.triton`)
    models/sentiment/1/MAR-INF/…     an archive of TorchServe's, unpacked: `headway.mar`
    models/sentiment/inferenceservice.yaml     KServe's word of the model: `headway.kserve`
    models/sentiment/model-settings.json       MLServer's, here or in a version folder: `headway.mlserver`
    models/sentiment/1/model.yaml    of BentoML's model store, or a service.py: `headway.bentoml`

The rule: a folder that cannot be served as it is says why, in a sentence for whoever wrote it, and stops nobody else.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import msgspec

from headway import bentoml, kserve, mar, mlserver, triton
from headway.bentoml import service, store
from headway.digests import digest_of, sha256_of
from headway.errors import ManifestError
from headway.manifest import NAME, NAME_RULE, Manifest, read

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


def scan(models: Path) -> list[Found]:
    """Every version there is, by name and number. Raises ManifestError only if `models` is no folder."""
    return [found for folder in model_folders(models) for found in scan_model(folder)]


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
) -> list[Found]:
    """The versions of one model; whatever is wrong is in there as `error`.

    `sha256`: as `sha256_of`, or what knows its answers from before.
    `settled`: whether a version folder may be read now. One that may not is what it was in `before`, or not there yet.
    """
    model = folder.name

    def broken(version: str, reason: str) -> Found:
        return Found(model=model, version=version, path=folder / version, error=reason)

    if not NAME.fullmatch(model):
        return [broken("", f"the folder name {model!r} is no model name: {NAME_RULE}")]
    try:
        places = _places(folder)
        versions = list(places)
        changing = {version for version in versions if not settled(places[version])}
        coming = changing - before.keys()
        versions = [version for version in versions if version not in coming]
        if coming and not versions:
            return []
        if not versions:
            return [broken("", f"no version in {folder}: a version is a folder such as 1/ with a model file in it")]
        try:
            manifest = read(folder)
        except ManifestError as error:
            return [broken(versions[-1], str(error))]
        if any(mlserver.is_one(place) for place in places.values()):
            manifest = mlserver.all_served(manifest)
        if (named := bentoml.latest(folder)) in versions:
            manifest = msgspec.structs.replace(manifest, latest=named)
            versions = [*(version for version in versions if version != named), named]
        wanted = _wanted(manifest, versions)
        missing = [
            broken(version, f"{_said_by(manifest)} names version {version}, and {folder} has no such folder")
            for version in wanted
            if version not in versions and version not in coming
        ]
        return missing + [
            msgspec.structs.replace(
                before[version], manifest=_of_before(before[version], manifest, folder), wanted=version in wanted
            )
            if version in changing
            else _found(folder, version, places[version], manifest, version in wanted, sha256)
            for version in versions
        ]
    except ManifestError as error:
        return [broken("", str(error))]
    except OSError as error:
        return [broken("", f"{folder} cannot be read: {error.strerror}")]


def _places(folder: Path) -> dict[str, Path]:
    """Version → where its files are, oldest first. Raises ManifestError."""
    if kserve.is_one(folder):
        return kserve.places(folder)
    if mlserver.is_one(folder):
        return {mlserver.version_of(folder) or "1": folder}
    entries = [folder / version for version in _versions(folder)]
    return {(mlserver.is_one(entry) and mlserver.version_of(entry)) or entry.name: entry for entry in entries}


def _versions(folder: Path) -> list[str]:
    """Folders that are versions, oldest first: those with a number for a name, and those that hold a model file.

    Of a folder of Triton's only numbers as they are counted: not 0, nor 01.
    """
    named = [entry for entry in folder.iterdir() if entry.is_dir() and NAME.fullmatch(entry.name)]
    if triton.is_one(folder):
        versions = [e for e in named if e.name.isdecimal() and e.name[0] != "0"]
    else:
        versions = [e for e in named if e.name.isdecimal() or artifact(e) is not None]
    return [entry.name for entry in sorted(versions, key=_age)]


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


def _said_by(manifest: Manifest) -> str:
    files = {kserve.BACKEND: kserve.FILE, None: "model.toml"}
    return files.get(manifest.backend, triton.FILE)


def _found(
    folder: Path, version: str, path: Path, manifest: Manifest, wanted: bool, sha256: Callable[[Sequence[Path]], str]
) -> Found:
    found = Found(model=folder.name, version=version, path=path, manifest=manifest, wanted=wanted)
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
    elif (file := artifact(path)) is not None:
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
        manifest = _served(manifest, framework, path, folder)
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
        error=_distrusted(manifest, version, reader, digest),
    )


def _served(manifest: Manifest, framework: str | None, path: Path, folder: Path) -> Manifest:
    """With what another server's files in a version folder say. Raises ManifestError."""
    match framework:
        case "torchserve":
            return mar.served(manifest, mar.read(path))
        case "mlserver":
            return mlserver.served(manifest, folder.name, path, folder.parent)
        case "bentoml":
            return store.served(manifest, path)
        case "bentoml.service":
            return service.served(manifest, path)
    return manifest


def _of_before(before: Found, manifest: Manifest, folder: Path) -> Manifest:
    """model.toml as it is now, for a version whose files are not to be read now."""
    try:
        return _served(manifest, before.framework, before.path, folder)
    except ManifestError:
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


def framework_of(artifact: Path) -> str:
    """Of a model file that `artifact` has found."""
    return next(framework for name, framework in ARTIFACTS.items() if artifact.as_posix().endswith(f"/{name}"))
