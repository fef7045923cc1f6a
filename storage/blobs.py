"""Inputs and outputs that are too large for a row, in a folder or wherever fsspec reaches: `{day}/{prediction}/{name}`.

The day is that of the prediction's id, so that what was forgotten is found without asking for all there is. The rules:
a blob is there in full or not at all, and it is written before the row that tells of it. Whatever is left without a row
(a process that died in between) is swept away later; a prediction's blobs go together.
"""

import contextlib
import datetime
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from headway.clock import new_id
from headway.errors import BlobMissing, BlobsUnavailable

#: The name of a prediction's input; an output has its claim's.
INPUT = "input"
_CHUNK = 1 << 20
_DAY = re.compile(r"\d{4}-\d\d-\d\d")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def day_of(id_: str) -> str:
    """The UTC day on which a UUIDv7 was made, yyyy-mm-dd."""
    seconds = int(id_[:8] + id_[9:13], 16) / 1000
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).date().isoformat()


class Blobs:
    """One store. Every verb blocks, may be called from any thread, and raises BlobsUnavailable."""

    def __init__(self, url: str) -> None:
        """A folder, made when something is first put into it, or a URL of fsspec's: `s3://bucket/prefix`."""
        self._url = url
        self._files: Any = None
        self._local = len(urlsplit(url).scheme) < 2  # a single letter is a drive of Windows
        self._root = str(Path(url).absolute()) if self._local else ""

    def write(self, id_: str, name: str, data: bytes) -> None:
        with self._trouble():
            path = self._path(id_, name)
            if self._local:
                _write(Path(path), data)
            else:  # an object appears when it is complete
                self._system().pipe_file(path, data)

    def read(self, id_: str, name: str) -> bytes:
        """Raises BlobMissing."""
        return b"".join(self.chunks(id_, name))

    def chunks(self, id_: str, name: str) -> Iterator[bytes]:
        """A megabyte at a time. Raises BlobMissing before the first."""
        with self._trouble(), self._open(id_, name) as file:
            while chunk := file.read(_CHUNK):
                yield chunk

    def remove(self, id_: str, name: str) -> None:
        """One of a prediction's blobs, if it is there."""
        with self._trouble(), contextlib.suppress(FileNotFoundError):
            self._system().rm_file(self._path(id_, name))

    def forget(self, id_: str) -> None:
        """All of a prediction's blobs, if there are any."""
        with self._trouble(), contextlib.suppress(FileNotFoundError):
            self._system().rm(self._path(id_), recursive=True)

    def days(self) -> Sequence[str]:
        """That have something, oldest first. What else may lie there is not ours."""
        return [name for name in self._names("") if _DAY.fullmatch(name)]

    def of_day(self, day: str) -> Sequence[str]:
        """Ids of predictions that have something."""
        return [name for name in self._names(day) if _UUID.fullmatch(name) and day_of(name) == day]

    def forget_day(self, day: str) -> None:
        """Of which nothing is left: an empty folder, where there are folders."""
        if self._local:
            with contextlib.suppress(OSError):
                Path(self._root, day).rmdir()

    def _names(self, folder: str) -> Sequence[str]:
        with self._trouble():
            system = self._system()
            path = "/".join(filter(None, (self._root, folder)))
            try:
                return sorted(found.rstrip("/").rpartition("/")[2] for found in system.ls(path, detail=False))
            except FileNotFoundError:
                return []

    def _path(self, id_: str, name: str = "") -> str:
        self._system()
        return "/".join(filter(None, (self._root, day_of(id_), id_, name)))

    def _open(self, id_: str, name: str) -> IO[bytes]:
        try:
            opened: IO[bytes] = self._system().open(self._path(id_, name), "rb", cache_type="none")
        except FileNotFoundError:
            raise BlobMissing(f"{id_}/{name} is not in the blob store") from None
        return opened

    def _system(self) -> Any:
        """fsspec's file system, imported and connected to when something is large for the first time."""
        if self._files is None:
            import fsspec

            if self._local:
                self._files = fsspec.filesystem("file")
            else:
                files, root = fsspec.core.url_to_fs(self._url, use_listings_cache=False)
                self._root = root.rstrip("/")
                self._files = files
        return self._files

    @contextlib.contextmanager
    def _trouble(self) -> Iterator[None]:
        """Whatever a driver raises (each has its own) is that the store cannot be used now."""
        try:
            yield
        except BlobMissing:
            raise
        except Exception as error:
            raise BlobsUnavailable(f"the blob store {self._url}: {type(error).__name__}: {error}"[:500]) from error


def _write(path: Path, data: bytes) -> None:
    """In full or not at all, and still there after a crash: beside its place first, then renamed."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}-{new_id()}")
    try:
        with beside.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    for folder in (path.parent, path.parent.parent, path.parent.parent.parent):  # the names lead to it, too
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
