"""Model repositories of Triton, as they are: a folder with a `config.pbtxt` and no `model.toml` becomes a `Manifest`.

    pbtxt      the file's text → ModelConfig as JSON has it, with what Triton fills in
    mapping    that → Manifest, or why there is none

The rule: what would behave otherwise than it did is refused, with what to do instead, or noted; nothing is passed over
in silence. The configuration goes along as `manifest.config["triton"]`, for whoever asks for it.
"""

from pathlib import Path

from headway.errors import ManifestError
from headway.manifest import Manifest

#: What makes a model folder one of Triton's.
FILE = "config.pbtxt"


def is_one(model_folder: Path) -> bool:
    """A model.toml beside it comes first."""
    return (model_folder / FILE).is_file() and not (model_folder / "model.toml").exists()


def read(model_folder: Path) -> Manifest:
    """Raises ManifestError naming the file."""
    from headway.triton import mapping, pbtxt  # protobuf, only for who has such a file

    file = model_folder / FILE
    try:
        return mapping.manifest(pbtxt.read(file), model_folder)
    except ManifestError as error:
        raise ManifestError(f"{file}: {error}") from error
