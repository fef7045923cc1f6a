"""Archives of strangers, unpacked with suspicion: zip, tar, or a folder.

The rule: nothing lands outside the folder, nothing is a link, sizes are bounded as they are unpacked and not by what an
archive says of itself. What has landed when it turns out to be broken, the caller takes away.
"""

import bz2
import contextlib
import gzip
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from headway.errors import ManifestError

#: Bytes and files that an archive may unpack to.
MOST_BYTES = 64 * 1024**3
MOST_FILES = 20_000
_LONGEST_NAME = 512
_BLOCK = 1 << 16
_MOST_PADDING = 16  # blocks behind the last file of a tar


class Room:
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
        path = inside(name)
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


def unpack(file: Path, room: Room) -> None:
    """Of a zip, a gzipped tar, or a folder. Raises ManifestError."""
    with _telling(file):
        if file.is_dir():
            _copy(file, room)
        elif zipfile.is_zipfile(file):
            _unzip(file, room)
        elif _begins(file, b"\x1f\x8b"):
            with _opened(file) as stream:
                _untar(stream, room)
        else:
            raise ManifestError("it is no zip, and no gzipped tar")


def unpack_tar(file: Path, room: Room) -> None:
    """Of a tar that is compressed by xz, gzip, bzip2 or not at all. Raises ManifestError."""
    with _telling(file), _opened(file) as stream:
        _untar(stream, room)


def _opened(file: Path) -> IO[bytes]:
    if _begins(file, b"\xfd7zXZ\x00"):
        return lzma.open(file)
    if _begins(file, b"\x1f\x8b"):
        return gzip.open(file)  # type: ignore[return-value]
    return bz2.open(file) if _begins(file, b"BZh") else file.open("rb")


@contextlib.contextmanager
def _telling(file: Path) -> Iterator[None]:
    """What goes wrong, with the archive's name. Raises ManifestError."""
    try:
        yield
    except ManifestError as error:
        raise ManifestError(f"{file}: {error}") from error
    except (
        zipfile.BadZipFile,
        tarfile.TarError,
        gzip.BadGzipFile,
        lzma.LZMAError,
        zlib.error,
        EOFError,
        NotImplementedError,
        RuntimeError,
    ) as error:
        raise ManifestError(f"{file}: the archive cannot be read: {error}") from error
    except (NotADirectoryError, FileExistsError) as error:
        raise ManifestError(f"{file}: a file and a folder have the same name in it") from error


def _unzip(file: Path, room: Room) -> None:
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            if info.is_dir():
                room.folder(info.filename)
            elif kind not in (0, stat.S_IFREG):
                raise ManifestError(f"it has {info.filename[:80]!r}, which is no plain file")
            else:
                room.put(info.filename, lambda info=info: archive.open(info))  # type: ignore[misc]


def _untar(stream: IO[bytes], room: Room) -> None:
    with tarfile.open(fileobj=stream, mode="r:") as archive:
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


def _copy(source: Path, room: Room) -> None:
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


def _begins(file: Path, magic: bytes) -> bool:
    with file.open("rb") as stream:
        return stream.read(len(magic)) == magic


def inside(name: str) -> PurePosixPath | None:
    """A path that stays in its folder, however it is read; None for any other."""
    if not name or len(name) > _LONGEST_NAME or not name.isprintable() or "\\" in name or ":" in name:
        return None
    path = PurePosixPath(name)
    return None if path.is_absolute() or ".." in path.parts else path
