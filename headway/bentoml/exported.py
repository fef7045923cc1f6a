"""`.bentomodel` and `.bento`: what `bentoml models export` and `bentoml export` pack, a tar each.

It becomes `NAME/VERSION` in the models folder, as its model.yaml or bento.yaml calls it, and what `NAME/latest` names.
"""

import os
import tempfile
from pathlib import Path

from headway import unpacking
from headway.bentoml import BENTO, LATEST, service, store, yaml_of
from headway.errors import ManifestError
from headway.manifest import NAME, NAME_RULE


def unpack(
    file: Path, models: Path, *, most_bytes: int = unpacking.MOST_BYTES, most_files: int = unpacking.MOST_FILES
) -> Path:
    """The version folder, which appears when it is complete. Raises ManifestError for what is none, or is there."""
    try:
        models.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=models, prefix=".unpacking-") as made:
            folder = Path(made, "version")
            folder.mkdir()
            unpacking.unpack_tar(file, unpacking.Room(folder, most_bytes, most_files))
            try:
                names = _named(folder)
            except ManifestError as error:
                raise ManifestError(str(error).replace(str(folder), str(file))) from error
            for name in names:
                if not NAME.fullmatch(name):
                    raise ManifestError(f"{file}: {name[:80]!r} is no name: {NAME_RULE}")
            target = models.joinpath(*names)
            if target.exists():
                raise ManifestError(f"{file}: {target} is there")
            target.parent.mkdir(exist_ok=True)
            folder.chmod(0o755)
            folder.rename(target)
            _point(target)
    except OSError as error:
        raise ManifestError(f"{file}: cannot be unpacked into {models}: {error.strerror or error}") from error
    return target


def _named(folder: Path) -> tuple[str, str]:
    """(name, version). Raises ManifestError."""
    if (folder / BENTO).is_file():
        service.read(folder)
        said = yaml_of(folder / BENTO)
        return str(said.get("name", "")), str(said.get("version", ""))
    described = store.read(folder)
    return described.name, described.version


def _point(version: Path) -> None:
    """Makes it the latest, at once for whoever looks."""
    handle, made = tempfile.mkstemp(dir=version.parent, prefix=".latest-")
    with os.fdopen(handle, "w") as stream:
        stream.write(version.name)
    os.chmod(made, 0o644)
    os.replace(made, version.parent / LATEST)
