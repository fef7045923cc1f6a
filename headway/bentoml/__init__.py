"""BentoML's model store and services: what their files say of a version folder, as a `Manifest`.

    store      a version of the model store: model.yaml, saved_model.*, and `latest` beside the versions
    service    service.py with a class of @bentoml.service, or a Bento, as far as it can be read without being run
    configuration    bentoml_configuration.yaml
    exported   a `.bentomodel` or `.bento` becomes a version folder

The rule: nothing of theirs is run or unpickled here, and nothing of it needs bentoml. What is known only once the code
has run, a loaded model says (`Routes`), and it stands in `manifest.config["bentoml"]`.
"""

from pathlib import Path
from typing import Any

import msgspec

from headway.errors import ManifestError
from headway.manifest import NAME

#: What makes a version folder one of the model store's, or one of a service: as it was written, or as it was built.
MODEL = "model.yaml"
SERVICE = "service.py"
BENTO = "bento.yaml"
#: Beside the versions of a model: the name of the one that is meant where nobody says which.
LATEST = "latest"

#: Seconds that a caller waits for an answer, where the service says nothing else: BentoML's own.
TIMEOUT_S = 60.0

_MOST_TEXT = 1024 * 1024


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """One API of a service, as `/schema.json` shows it."""

    name: str
    route: str  # begins with a slash
    input: dict[str, Any]
    output: dict[str, Any]
    batchable: bool = False
    is_task: bool = False
    is_async: bool = False  # requests may run side by side
    doc: str | None = None
    media_type: str = "application/json"  # of a reply that is text or bytes


class Routes(msgspec.Struct, frozen=True, kw_only=True):
    """What a service that was loaded says of itself: `manifest.config["bentoml"]`."""

    name: str
    routes: list[Route]
    timeout_s: float = TIMEOUT_S


def latest(model_folder: Path) -> str | None:
    """The version that the folder's `latest` names, if it has one that could be."""
    try:
        name = (model_folder / LATEST).read_bytes()[:256].decode().strip()
    except (OSError, UnicodeDecodeError):
        return None
    return name if NAME.fullmatch(name) and (model_folder / name).is_dir() else None


def yaml_of(file: Path) -> dict[str, Any]:
    """A mapping. Raises ManifestError."""
    try:
        import yaml
    except ImportError as error:
        raise ManifestError(f"{file}: needs PyYAML to be read: pip install 'headway[bentoml]'") from error
    try:
        with file.open("rb") as stream:
            text = stream.read(_MOST_TEXT + 1)
    except OSError as error:
        raise ManifestError(f"{file}: cannot be read: {error.strerror}") from error
    if len(text) > _MOST_TEXT:
        raise ManifestError(f"{file}: is larger than {_MOST_TEXT} bytes")
    try:
        said = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeError, RecursionError, ValueError) as error:
        raise ManifestError(f"{file}: not valid YAML: {' '.join(str(error).split())[:300]}") from error
    if not isinstance(said, dict):
        raise ManifestError(f"{file}: should be a mapping")
    return said
