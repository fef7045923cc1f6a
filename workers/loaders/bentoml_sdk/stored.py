"""Models of a model store that a service asks for by their tag: those that lie beside it in the models folder."""

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from headway import bentoml, manifest
from headway.bentoml import store
from headway.errors import ManifestError
from headway.versions import UNTRUSTED
from workers.loaders.bentoml_sdk.exceptions import NotFound, Unsupported


class Place:
    """Where they lie, the first that has one: in the Bento itself, or beside it. The loader says it.

    With each, whether all in it is trusted; else model.toml beside a model's versions says so.
    """

    folders: Mapping[Path, bool] = MappingProxyType({})


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
    for models in place.folders:
        wanted = (bentoml.latest(models / name) or "") if version in ("", "latest") else version
        inside = bool(name and wanted) and "/" not in name + wanted and ".." not in (name, wanted)
        if inside and (models / name / wanted / bentoml.MODEL).is_file():
            try:
                return Model(models / name / wanted, store.read(models / name / wanted))
            except ManifestError as error:
                raise NotFound(str(error)) from error
    raise NotFound(f"there is no model {tag!r} in {' or '.join(map(str, place.folders))}")


def file_of(tag: "str | Model", module: str) -> Path:
    """The file of a model that this module has written. Raises NotFound; Unsupported for a pickle nobody trusts."""
    model = get(tag)
    if model.info.module != module:
        raise NotFound(f"{model.tag} was saved with {model.info.module}, and not with {module}")
    folder = Path(model.path).parent
    if module in store.PICKLED and not place.folders[folder.parent] and not manifest.read(folder).artifact.trust:
        raise Unsupported(f"{model.tag}: {UNTRUSTED}")
    return Path(model.path_of(store.FILES[module]))
