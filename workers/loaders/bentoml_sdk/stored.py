"""Models of a model store that a service asks for by their tag: those that lie beside it in the models folder."""

import os
from pathlib import Path

from headway import bentoml, manifest
from headway.bentoml import store
from headway.errors import ManifestError
from headway.versions import UNTRUSTED
from workers.loaders.bentoml_sdk.exceptions import NotFound, Unsupported


class Place:
    """Where they lie; the loader says it."""

    models = Path()


place = Place()


class Tag(str):
    """name:version."""

    __slots__ = ()

    @property
    def name(self) -> str:
        return self.partition(":")[0]

    @property
    def version(self) -> str:
        return self.partition(":")[2]


class Model:
    """A version of the store."""

    def __init__(self, path: Path, described: store.Described) -> None:
        self.path = str(path)
        self.info = described
        self.tag = Tag(f"{described.name}:{described.version}")

    def path_of(self, item: str) -> str:
        return os.path.join(self.path, item)

    def resolve(self) -> "Model":
        return self


def get(tag: "str | Model") -> Model:
    """Of `name`, `name:latest` or `name:version`. Raises NotFound."""
    if isinstance(tag, Model):
        return tag
    name, _, version = str(tag).partition(":")
    folder = place.models / name
    if version in ("", "latest"):
        version = bentoml.latest(folder) or ""
    path = folder / version
    inside = bool(name and version) and "/" not in name + version and ".." not in (name, version)
    if not inside or not (path / bentoml.MODEL).is_file():
        raise NotFound(f"there is no model {tag!r} in {place.models}")
    try:
        return Model(path, store.read(path))
    except ManifestError as error:
        raise NotFound(str(error)) from error


def file_of(tag: "str | Model", module: str) -> Path:
    """The file of a model that this module has written. Raises NotFound; Unsupported for a pickle nobody trusts."""
    model = get(tag)
    if model.info.module != module:
        raise NotFound(f"{model.tag} was saved with {model.info.module}, and not with {module}")
    if module in store.PICKLED and not manifest.read(Path(model.path).parent).artifact.trust:
        raise Unsupported(f"{model.tag}: {UNTRUSTED}")
    return Path(model.path_of(store.FILES[module]))
