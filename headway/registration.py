"""What TorchServe's management API has said of a version: beside its files, and not one of them.

`models/NAME/VERSION/.torchserve.json`. A hidden file is in no digest, so the version is the same with another batch
size or number of workers. model.toml outranks it, and it outranks what the archive says.
"""

import contextlib
import os
import tempfile
from pathlib import Path

import msgspec

from headway.errors import ManifestError

FILE = ".torchserve.json"


class Registration(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """None: nothing was said."""

    model_name: str = ""  # as it was registered
    model_version: str = ""
    model_url: str = ""
    handler: str = ""  # in the place of the archive's
    unpacked: bool = False  # its folder was made of an archive, and goes when it is unregistered
    unregistered: bool = False
    batch_size: int | None = None
    max_batch_delay: int | None = None  # milliseconds
    response_timeout: int | None = None  # seconds
    startup_timeout: int | None = None  # seconds
    min_workers: int | None = None
    max_workers: int | None = None
    max_queue: int | None = None
    by_properties: bool = False  # at the start, as config.properties has it, and by nobody since


_decoder = msgspec.json.Decoder(Registration)


def read(version: Path) -> Registration:
    """Of a version folder; an empty one where nothing was said. Raises ManifestError."""
    try:
        return _decoder.decode((version / FILE).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return Registration()
    except (OSError, msgspec.DecodeError, UnicodeError) as error:
        raise ManifestError(f"{version / FILE}: cannot be read: {error}") from error


def write(version: Path, registration: Registration) -> None:
    """All of it or nothing. Raises OSError."""
    handle, made = tempfile.mkstemp(dir=version, prefix=".torchserve-", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(msgspec.json.encode(registration))
        os.chmod(made, 0o644)
        os.replace(made, version / FILE)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(made)
        raise
