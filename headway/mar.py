"""TorchServe's model archives: what MAR-INF/MANIFEST.json says, and how a `.mar` becomes a version folder.

A `.mar` is a zip, a gzipped tar, or a folder. Unpacked it is a version folder as it lies:

    models/sentiment/1.0/MAR-INF/MANIFEST.json
    models/sentiment/1.0/handler.py, model.pt, index_to_name.json, …

The rule: an archive is a stranger's. Nothing of it lands outside its folder, nothing in it is a link, its size is
bounded as it is unpacked and not by what it says of itself, and what is cut off or no archive leaves nothing behind.
"""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

import msgspec

from headway import registration, unpacking
from headway.errors import ManifestError
from headway.manifest import Manifest
from headway.registration import Registration
from headway.unpacking import MOST_BYTES, MOST_FILES, Room, inside

#: Where an archive says what it is; what makes a version folder TorchServe's.
MANIFEST = "MAR-INF/MANIFEST.json"

_MOST_TEXT = 1024 * 1024  # bytes of a manifest, or of a model's YAML

T = TypeVar("T")

#: How TorchServe serves a model that says nothing of it: one request a call, and a call may take two minutes.
BATCH_SIZE = 1
MAX_BATCH_DELAY_MS = 100
RESPONSE_TIMEOUT_S = 120


class Described(msgspec.Struct, frozen=True, rename="camel"):
    """`model` of the manifest, as far as it is ours to know; the handler is shown all of it."""

    handler: str
    model_name: str = ""
    model_version: str = ""
    serialized_file: str | None = None
    model_file: str | None = None
    requirements_file: str | None = None
    config_file: str | None = None


class _Manifest(msgspec.Struct, frozen=True):
    model: Described
    runtime: str = "python"


class Archive(NamedTuple):
    """An unpacked archive that can be read."""

    model: Described
    said: dict[str, Any]  # MANIFEST.json, all of it
    config: dict[str, Any]  # the model's YAML; empty where there is none
    registered: Registration = Registration()


_Count = Annotated[int, msgspec.Meta(ge=1, le=4096)]
_Milliseconds = Annotated[float, msgspec.Meta(ge=0, le=60_000)]
_Seconds = Annotated[float, msgspec.Meta(gt=0, le=86_400)]
_Workers = Annotated[int, msgspec.Meta(ge=0, le=64)]


class _Config(msgspec.Struct, frozen=True, rename="camel"):
    """What the YAML may say that is ours to heed; the rest is the handler's."""

    min_workers: _Workers | None = None
    max_workers: _Workers | None = None
    batch_size: _Count | None = None
    max_batch_delay: _Milliseconds | None = None  # milliseconds
    response_timeout: _Seconds | None = None  # seconds


def read(folder: Path) -> Archive:
    """What an unpacked archive says of itself. Raises ManifestError."""
    file = folder / MANIFEST
    said = _json(file)
    try:
        manifest = msgspec.convert(said, _Manifest)
    except msgspec.ValidationError as error:
        raise ManifestError(f"{file}: {str(error)[:1].lower()}{str(error)[1:]}") from error
    if not manifest.runtime.lower().startswith("python"):
        raise ManifestError(f"{file}: its runtime is {manifest.runtime[:80]!r}, and only Python is run")
    registered = registration.read(folder)
    model = manifest.model
    if registered.handler:
        model = msgspec.structs.replace(model, handler=registered.handler)
    for key, name in (
        ("handler", model.handler.partition(":")[0]),
        ("serializedFile", model.serialized_file),
        ("modelFile", model.model_file),
        ("configFile", model.config_file),
        ("requirementsFile", model.requirements_file),
    ):
        if name is not None and inside(name) is None:
            raise ManifestError(f"{file}: {key} is {name[:80]!r}, and should be a file of the archive")
    for key, name in (("serializedFile", model.serialized_file), ("modelFile", model.model_file)):
        if name and not (folder / name).is_file():
            raise ManifestError(f"{file}: {key} is {name[:80]!r}, and there is no such file in {folder}")
    config = _yaml(folder / model.config_file) if model.config_file else {}
    return Archive(model, said, config, registered)


def served(manifest: Manifest, archive: Archive) -> Manifest:
    """The manifest with what is said elsewhere of batches, timeouts and workers.

    model.toml outranks what was registered, that the archive, and the archive TorchServe's defaults. Raises
    ManifestError naming the key.
    """
    try:
        said = msgspec.convert(archive.config, _Config)
    except msgspec.ValidationError as error:
        raise ManifestError(f"{archive.model.config_file}: {str(error)[:1].lower()}{str(error)[1:]}") from error
    written = {section: manifest.config.get(section, {}) for section in ("batching", "limits", "resources")}
    batching, limits, instances = manifest.batching, manifest.limits, manifest.instances
    registered = archive.registered
    size = _first(registered.batch_size, said.batch_size)
    delay = _first(registered.max_batch_delay, said.max_batch_delay)
    if "max_batch_size" not in written["batching"]:
        batching = msgspec.structs.replace(batching, max_batch_size=size or BATCH_SIZE)
        delay = MAX_BATCH_DELAY_MS if delay is None else delay
    if "max_wait_ms" not in written["batching"] and delay is not None:
        batching = msgspec.structs.replace(batching, max_wait_ms=float(delay))
    if "max_queue" not in written["batching"] and registered.max_queue is not None:
        batching = msgspec.structs.replace(batching, max_queue=registered.max_queue)
    if "timeout_s" not in written["limits"]:
        timeout = _first(registered.response_timeout, said.response_timeout)
        limits = msgspec.structs.replace(limits, timeout_s=float(timeout or RESPONSE_TIMEOUT_S))
    if "instances" not in written["resources"]:
        instances = registered.min_workers or said.min_workers or 1
    return msgspec.structs.replace(manifest, batching=batching, limits=limits, instances=instances)


def _first(*values: T | None) -> T | None:
    return next((value for value in values if value is not None), None)


def unpack(
    file: Path,
    target: Path,
    *,
    most_bytes: int = MOST_BYTES,
    most_files: int = MOST_FILES,
    finish: Callable[[Path], None] = lambda folder: None,
) -> Archive:
    """Makes `target`, which must not be there, of an archive; it appears when it is complete, and `finish` has seen it.

    Raises ManifestError for what is no archive, is cut off, or leads out of its folder; OSError where `target` cannot
    be written, FileExistsError where it is there.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        raise FileExistsError(f"{target} is there")
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".unpacking-") as made:
        folder = Path(made, "version")
        folder.mkdir()
        unpacking.unpack(file, Room(folder, most_bytes, most_files))
        archive = read(folder)
        finish(folder)
        folder.chmod(0o755)
        folder.rename(target)
    return archive


def peek(file: Path, target: Path) -> Described:
    """What an archive says it is, without unpacking the rest. `target`: a folder to work in. Raises ManifestError."""
    with tempfile.TemporaryDirectory(dir=target, prefix=".unpacking-") as made:
        folder = Path(made)
        unpacking.unpack(file, Room(folder, _MOST_TEXT, MOST_FILES, wanted=lambda name: name == MANIFEST))
        said = _json(folder / MANIFEST)
        try:
            return msgspec.convert(said, _Manifest).model
        except msgspec.ValidationError as error:
            raise ManifestError(f"{MANIFEST}: {str(error)[:1].lower()}{str(error)[1:]}") from error


def _json(file: Path) -> dict[str, Any]:
    try:
        said = msgspec.json.decode(_text(file))
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise ManifestError(f"{file}: not valid JSON: {error}") from error
    if not isinstance(said, dict):
        raise ManifestError(f"{file}: should be a JSON object")
    return said


def _yaml(file: Path) -> dict[str, Any]:
    try:
        import yaml
    except ImportError as error:
        raise ManifestError(f"{file}: needs PyYAML to be read: pip install 'headway[torchserve]'") from error
    try:
        said = yaml.safe_load(_text(file))
    except (yaml.YAMLError, UnicodeError, RecursionError, ValueError) as error:
        raise ManifestError(f"{file}: not valid YAML: {' '.join(str(error).split())[:300]}") from error
    if said is None:
        return {}
    if not isinstance(said, dict):
        raise ManifestError(f"{file}: should be a mapping")
    return said


def _text(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            text = stream.read(_MOST_TEXT + 1)
    except FileNotFoundError as error:
        raise ManifestError(f"{file}: there is no such file in the archive") from error
    except OSError as error:
        raise ManifestError(f"{file}: cannot be read: {error.strerror}") from error
    if len(text) > _MOST_TEXT:
        raise ManifestError(f"{file}: is larger than {_MOST_TEXT} bytes")
    return text


def remove(version: Path) -> None:
    """Takes a version folder away, at once for whoever looks: it is renamed first. Raises OSError."""
    gone = Path(tempfile.mkdtemp(dir=version.parent, prefix=".removed-"))
    version.rename(gone / version.name)
    shutil.rmtree(gone)
