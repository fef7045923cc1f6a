"""TorchServe's model archives: what MAR-INF/MANIFEST.json says, and how a `.mar` becomes a version folder.

A `.mar` is a zip, a gzipped tar, or a folder. Unpacked it is a version folder as it lies:

    models/sentiment/1.0/MAR-INF/MANIFEST.json
    models/sentiment/1.0/handler.py, model.pt, index_to_name.json, …

The rule: an archive is a stranger's. Nothing of it lands outside its folder, nothing in it is a link, its size is
bounded as it is unpacked and not by what it says of itself, and what is cut off or no archive leaves nothing behind.
"""

import contextlib
import gzip
import os
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Annotated, Any, NamedTuple, TypeVar

import msgspec

from headway import registration
from headway.errors import ManifestError
from headway.manifest import Manifest
from headway.registration import Registration

#: Where an archive says what it is; what makes a version folder TorchServe's.
MANIFEST = "MAR-INF/MANIFEST.json"

#: Bytes and files that an archive may unpack to.
MOST_BYTES = 64 * 1024**3
MOST_FILES = 20_000
_MOST_TEXT = 1024 * 1024  # bytes of a manifest, or of a model's YAML
_LONGEST_NAME = 512
_BLOCK = 1 << 16
_MOST_PADDING = 16  # blocks behind the last file of a tar

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
        if name is not None and _inside(name) is None:
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
        _unpack(file, _Room(folder, most_bytes, most_files))
        archive = read(folder)
        finish(folder)
        folder.chmod(0o755)
        folder.rename(target)
    return archive


def peek(file: Path, target: Path) -> Described:
    """What an archive says it is, without unpacking the rest. `target`: a folder to work in. Raises ManifestError."""
    with tempfile.TemporaryDirectory(dir=target, prefix=".unpacking-") as made:
        folder = Path(made)
        _unpack(file, _Room(folder, _MOST_TEXT, MOST_FILES, wanted=lambda name: name == MANIFEST))
        said = _json(folder / MANIFEST)
        try:
            return msgspec.convert(said, _Manifest).model
        except msgspec.ValidationError as error:
            raise ManifestError(f"{MANIFEST}: {str(error)[:1].lower()}{str(error)[1:]}") from error


class _Room:
    """A folder that an archive's files are put into, and how much of it is left."""

    def __init__(
        self, folder: Path, most_bytes: int, most_files: int, wanted: Callable[[str], bool] = lambda name: True
    ) -> None:
        self._folder = folder
        self._bytes = self._most_bytes = most_bytes
        self._files = self._most_files = most_files
        self._wanted = wanted

    def put(self, name: str, stream: Callable[[], IO[bytes]]) -> None:
        """Raises ManifestError where it does not fit, or leads elsewhere."""
        path = self._path(name)
        self._files -= 1
        if self._files < 0:
            raise ManifestError(f"it has more than {self._most_files} files")
        if not self._wanted(path.as_posix()):
            return
        place = self._folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        with stream() as source, _new(place, name) as sink:
            while piece := source.read(1 << 20):
                self._bytes -= len(piece)
                if self._bytes < 0:
                    raise ManifestError(f"it unpacks to more than {self._most_bytes} bytes")
                sink.write(piece)

    def folder(self, name: str) -> None:
        path = self._path(name.rstrip("/") or ".")
        if path.parts:
            (self._folder / path).mkdir(parents=True, exist_ok=True)

    def _path(self, name: str) -> PurePosixPath:
        path = _inside(name)
        if path is None:
            raise ManifestError(f"it has a file named {name[:80]!r}, which is no place in a folder")
        return path


@contextlib.contextmanager
def _new(place: Path, name: str) -> Iterator[IO[bytes]]:
    try:
        with place.open("xb") as sink:
            yield sink
    except (FileExistsError, IsADirectoryError, NotADirectoryError) as error:
        raise ManifestError(f"it has two files named {name[:80]!r}") from error


def _unpack(file: Path, room: _Room) -> None:
    try:
        if file.is_dir():
            _copy(file, room)
        elif zipfile.is_zipfile(file):
            _unzip(file, room)
        elif _is_gzip(file):
            _untar(file, room)
        else:
            raise ManifestError("it is no zip, and no gzipped tar")
    except ManifestError as error:
        raise ManifestError(f"{file}: {error}") from error
    except (
        zipfile.BadZipFile,
        tarfile.TarError,
        gzip.BadGzipFile,
        zlib.error,
        EOFError,
        NotImplementedError,
        RuntimeError,
    ) as error:
        raise ManifestError(f"{file}: the archive cannot be read: {error}") from error
    except (NotADirectoryError, FileExistsError) as error:
        raise ManifestError(f"{file}: a file and a folder have the same name in it") from error


def _unzip(file: Path, room: _Room) -> None:
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            if info.is_dir():
                room.folder(info.filename)
            elif kind not in (0, stat.S_IFREG):
                raise ManifestError(f"it has {info.filename[:80]!r}, which is no plain file")
            else:
                room.put(info.filename, lambda info=info: archive.open(info))  # type: ignore[misc]


def _untar(file: Path, room: _Room) -> None:
    with gzip.open(file) as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
        for member in archive:
            if member.isdir():
                room.folder(member.name)
            elif not member.isreg():
                raise ManifestError(f"it has {member.name[:80]!r}, which is no plain file")
            else:
                room.put(member.name, lambda member=member: archive.extractfile(member) or _nothing())  # type: ignore[misc]
        for _ in range(_MOST_PADDING):  # its checksum stands at its end
            if not stream.read(_BLOCK):
                return
        raise ManifestError("there is too much behind its last file")


def _copy(source: Path, room: _Room) -> None:
    for folder, folders, names in os.walk(source):
        for name in (*folders, *names):
            path = Path(folder, name)
            if path.is_symlink() or not (path.is_dir() or path.is_file()):
                raise ManifestError(f"it has {path.relative_to(source).as_posix()[:80]!r}, which is no plain file")
        folders[:] = [name for name in folders if name != "__pycache__"]
        for name in names:
            path = Path(folder, name)
            room.put(path.relative_to(source).as_posix(), lambda path=path: path.open("rb"))  # type: ignore[misc]


def _nothing() -> IO[bytes]:
    raise ManifestError("it has a file without content")


def _is_gzip(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(2) == b"\x1f\x8b"


def _inside(name: str) -> PurePosixPath | None:
    """A path that stays in its folder, however it is read; None for any other."""
    if not name or len(name) > _LONGEST_NAME or not name.isprintable() or "\\" in name or ":" in name:
        return None
    path = PurePosixPath(name)
    return None if path.is_absolute() or ".." in path.parts else path


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
