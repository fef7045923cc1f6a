"""The model store: archives in the models folder, and the version folders that are made of them. All of it blocks.

The rule: an archive comes from the models folder and from nowhere else, whatever the URL says.
"""

from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from api.dialects.torchserve.errors import Refused, bad_request
from headway import mar, registration
from headway.errors import ManifestError
from headway.manifest import NAME, NAME_RULE
from headway.properties import Properties
from headway.registration import Registration
from headway.versions import Found, scan_model


class Archive(NamedTuple):
    """An archive that can be registered."""

    file: Path
    name: str  # as it was asked for, or as the archive says
    version: str
    described: mar.Described

    def target(self, models: Path) -> Path:
        return models / self.name / self.version


def find(models: Path, url: str, name: str) -> Archive:
    """Raises Refused."""
    file = _file(models, url)
    try:
        described = mar.peek(file, models)
    except ManifestError as error:
        raise Refused(400, "InvalidModelException", str(error).replace(f"{file}: ", "")) from error
    except OSError as error:
        raise Refused(500, "InternalServerException", f"Failed to save model: {url}: {error.strerror}") from error
    archive = Archive(
        file, name or described.model_name or file.name.partition(".")[0], described.model_version or "1.0", described
    )
    for what, said in (("model", archive.name), ("version", archive.version)):
        if not NAME.fullmatch(said):
            raise bad_request(f"The {what} {said[:80]!r} cannot be a folder's name: {NAME_RULE}")
    return archive


def _file(models: Path, url: str) -> Path:
    if ".." in url:
        raise Refused(404, "ModelNotFoundException", f"Relative path is not allowed in url: {url}")
    parts = urlsplit(url)
    if parts.scheme in ("http", "https", "s3") or parts.netloc:
        raise Refused(
            400,
            "DownloadArchiveException",
            f"Failed to download archive from: {url}: archives are taken from the models folder, copy it there",
        )
    path = Path(unquote(parts.path)) if parts.scheme == "file" else Path(url)
    root = models.resolve()
    try:
        file = (root / path).resolve(strict=True)
    except (OSError, RuntimeError, ValueError):
        file = root
    if file == root or not file.is_relative_to(root):
        raise Refused(404, "ModelNotFoundException", f"Model not found at: {url}")
    return file


def unpack(models: Path, archive: Archive, said: Registration, properties: Properties) -> Found:
    """The version, with its folder made. Raises Refused; nothing of it is left then.

    `properties` has the word where neither `said` nor the archive says anything.
    """
    target = archive.target(models)

    def write(folder: Path) -> None:
        registration.write(folder, properties.fill(said, mar.read(folder).config))

    if archive.file == target.resolve():  # an operator's own folder, which was unregistered
        write(target)
        return _found(target)
    conflict = Refused(
        409,
        "ConflictStatusException",
        f"Model version {archive.version} is already registered for model {archive.name}",
    )
    try:
        mar.unpack(archive.file, target, finish=write)
    except ManifestError as error:
        raise Refused(400, "InvalidModelException", str(error)) from error
    except FileExistsError as error:
        raise conflict from error
    except OSError as error:
        if target.exists():
            raise conflict from error
        raise Refused(500, "InternalServerException", f"Failed to save model: {error.strerror}") from error
    found = _found(target)
    if found.error is not None:
        mar.remove(target)
        raise Refused(400, "InvalidModelException", found.error)
    return found


def _found(target: Path) -> Found:
    return next(one for one in scan_model(target.parent) if one.version in (target.name, ""))


def say(version: Path, said: Registration) -> None:
    """Another word of a version that is there. Raises Refused."""
    try:
        registration.write(version, said)
    except OSError as error:
        raise Refused(
            500, "InternalServerException", f"{version} cannot be written to by this process: {error.strerror}"
        ) from error


def forget(version: Path, said: Registration) -> None:
    """Takes away what registering has made; of an operator's own folder it is only noted."""
    if said.unpacked:
        mar.remove(version)
        try:
            version.parent.rmdir()
        except OSError:
            return  # there are other versions, or a model.toml
    else:
        registration.write(version, Registration(unregistered=True))
