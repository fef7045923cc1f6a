"""By what the files of a version are known: one SHA-256 over all of them, and their names."""

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from headway.errors import ManifestError


def sha256_of(files: Iterable[Path]) -> str:
    """SHA-256 in hex of the files one after the other."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def digest_of(version: Path, sha256: Callable[[Sequence[Path]], str] = sha256_of, *, root: Path | None = None) -> str:
    """Of a version folder: SHA-256 of what `sha256sum` prints of its files, in the order of their names' bytes.

    `root`: what links must not lead out of; the models folder, if not said. Raises ManifestError for what is no part
    of a model: such a link, a name with control characters.
    """
    files = sorted(_files(version, root or version.parent.parent.resolve()), key=lambda one: os.fsencode(one[0]))
    lines = [f"{sha256([path])}  {name}\n" for name, path in files]
    return hashlib.sha256(os.fsencode("".join(lines))).hexdigest()


#: What editors, copiers and Python itself leave beside the files of a model.
_PASSING = re.compile(r"\..*|__pycache__|.*~|.*\.(tmp|part|partial|swp)")


def _files(version: Path, root: Path) -> Iterator[tuple[str, Path]]:
    """(name from the version folder on, path) of all that the digest is of."""
    _contain(version, root)
    seen: set[str] = set()  # folders: a link may lead to one of those above it
    for folder, folders, names in os.walk(version, followlinks=True, onerror=_raise):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not _PASSING.fullmatch(name)]
        for name in (*folders, *names):
            path = Path(folder, name)
            if _PASSING.fullmatch(name):
                continue
            if not name.isprintable():
                raise ManifestError(f"{path.parent} has a file or folder {name!r}: its name has control characters")
            if path.is_symlink():
                _contain(path, root)
            if name in folders:
                continue
            if not path.is_file():
                raise ManifestError(f"{path} is neither a file nor a folder")
            yield path.relative_to(version).as_posix(), path


def _contain(path: Path, root: Path) -> None:
    try:
        target = path.resolve(strict=True)
    except RuntimeError as error:
        raise ManifestError(f"{path} is a link that leads to itself") from error
    if not target.is_relative_to(root):
        raise ManifestError(
            f"{path} is a link out of the models folder, to {target}: copy what it leads to, or mount it there"
        )


def _raise(error: OSError) -> None:
    raise error
