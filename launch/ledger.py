"""What a `headway batch` remembers, so that the same command goes on after whatever ended it.

Two files: the results, whose last whole line says how far they have come, and beside them a small one with what was
sent under which key. Its rule: nothing is noted before it is true, and what is noted survives a `kill -9`.
"""

import contextlib
import fcntl
import hashlib
import os
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

import msgspec

from headway.client.ndjson import last_line
from headway.errors import SettingsError

_ENDS_BYTES = 1 << 20
_BACK_BYTES = 1 << 16


class File(msgspec.Struct, frozen=True):
    """What tells one file from another without reading all of it."""

    size: int
    modified: int | None  # ns since 1970; None for what came through a pipe
    digest: str  # of its first and its last MiB

    @classmethod
    def of(cls, path: Path, *, piped: bool) -> "File":
        with path.open("rb") as file:
            stat = os.fstat(file.fileno())
            digest = hashlib.sha256(file.read(_ENDS_BYTES))
            file.seek(max(0, stat.st_size - _ENDS_BYTES))
            digest.update(file.read(_ENDS_BYTES))
        return cls(stat.st_size, None if piped else stat.st_mtime_ns, digest.hexdigest())


class _Noted(msgspec.Struct):
    file: File
    request: dict[str, str]
    key: str
    batch_id: str | None = None  # once all of the file has arrived


class Ledger:
    """Of the batch of `file` with those options, begun now or before."""

    def __init__(self, path: Path, file: File, request: Mapping[str, str]) -> None:
        """Raises SettingsError where another batch is noted there."""
        self.path = path
        found = _read(path)
        self.new = found is None  # begun by this process
        self._noted = found or _Noted(file, dict(request), str(uuid.uuid4()))
        anew = f"remove {path} and the results to begin anew, or name another --output"
        if self._noted.file != file:
            raise SettingsError(f"the file is not what it was when this batch was begun: {anew}")
        if self._noted.request != request:
            raise SettingsError(f"this batch was begun with {_told(self._noted.request)}: {anew}")

    @property
    def key(self) -> str:
        """The same for ever, by which the server knows the upload again."""
        return self._noted.key

    @property
    def batch_id(self) -> str | None:
        return self._noted.batch_id

    def note(self, batch_id: str | None = None) -> None:
        """The batch, once it is known; without one, that it has begun."""
        self._noted.batch_id = batch_id or self._noted.batch_id
        beside = self.path.with_name(f"{self.path.name}.new")
        with beside.open("wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(self._noted)) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self.path)

    def forget(self) -> None:
        """It was refused, and so was never begun."""
        self.path.unlink(missing_ok=True)


def _read(path: Path) -> _Noted | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Noted)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise SettingsError(f"{path} was not written by `headway batch`: {error}") from error


def _told(request: Mapping[str, str]) -> str:
    return " ".join(f"--{name.replace('_', '-')} {value}" for name, value in request.items())


class Results:
    """The file of results, held by one process at a time. `after` is the number of its last whole line."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self._file = file
        self._path = path
        line = _cut(file)
        try:
            self.after = _number(line) if line else 0
        except msgspec.DecodeError as error:
            raise SettingsError(f"{path} holds something else than results") from error

    def write(self, block: bytes) -> None:
        """Whole lines; who reads the file sees them at once. Raises SettingsError."""
        try:
            self._file.write(block)
            self._file.flush()
        except OSError as error:
            raise SettingsError(f"cannot write {self._path}: {error.strerror}") from error
        self.after = _number(last_line(block)) if block else self.after

    def sync(self) -> None:
        """They are there whatever becomes of the machine."""
        os.fsync(self._file.fileno())


@contextlib.contextmanager
def results(path: Path) -> Iterator[Results]:
    """Raises SettingsError where nobody, or another process, can write there."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise SettingsError(f"cannot write {path}: {error.strerror}") from error
    with os.fdopen(descriptor, "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SettingsError(f"another `headway batch` is writing {path}") from None
        yield Results(file, path)


class _Place(msgspec.Struct):
    line: int


def _number(line: bytes) -> int:
    return msgspec.json.decode(line, type=_Place).line


def _cut(file: IO[bytes]) -> bytes:
    """Takes off the line that a kill left unfinished. The last whole one, "" where there is none."""
    end = file.seek(0, os.SEEK_END)
    tail, start, back = b"", end, _BACK_BYTES
    while start and tail.count(b"\n") < 2:
        start = max(0, end - back)
        file.seek(start)
        tail = file.read(end - start)
        back *= 4
    whole = tail[: tail.rfind(b"\n") + 1]
    file.truncate(start + len(whole))
    file.seek(0, os.SEEK_END)
    return last_line(whole)
