"""Where a model's files are."""

import os
import uuid
from collections.abc import Sequence
from urllib.parse import unquote, urlsplit

from .errors import InvalidModelURI
from .settings import ModelSettings

#: The folder of the version in this process, which a relative uri is of.
folder = "."


async def get_model_uri(settings: ModelSettings, wellknown_filenames: Sequence[str] = ()) -> str:
    """Of the file, or of the folder where none of these is in it. Raises InvalidModelURI."""
    uri = None if settings.parameters is None else settings.parameters.uri
    if not uri:
        raise InvalidModelURI(settings.name)
    parts = urlsplit(uri)
    path = os.path.normpath(os.path.join(folder, unquote(parts.path)))
    if parts.scheme not in ("", "file") or not os.path.exists(path):
        raise InvalidModelURI(settings.name, path)
    named = (os.path.join(path, name) for name in wellknown_filenames)
    return next(filter(os.path.isfile, named), path)


def to_absolute_path(settings: ModelSettings, uri: str) -> str:
    return os.path.normpath(os.path.join(folder, uri))


def generate_uuid() -> str:
    return str(uuid.uuid4())
