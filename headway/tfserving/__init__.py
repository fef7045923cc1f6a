"""TF Serving's artifacts and configuration: what lies in a version folder, and what an operator's files say of it.

    savedmodel     saved_model.pb → the signatures in it, without TensorFlow
    tflite         model.tflite → the same
    served         those → Manifest, of one version
    text           protobuf text → a dict, with the line of what is wrong
    model_config   model.config: which models are served from where, which versions, and labels
    batching       batching.config and batching_params.pbtxt → [batching]
    setup          all that an operator has named, read once and again

The rule: what has no meaning here is told once, and what makes no sense is refused with its file and line.
"""

import re
from pathlib import Path

SAVED_MODEL = "saved_model.pb"
TFLITE = "model.tflite"
#: In a version folder: how its requests are batched.
BATCHING_PARAMS = "batching_params.pbtxt"
#: What such a version folder is read by, by its file.
FRAMEWORKS = {SAVED_MODEL: "savedmodel", TFLITE: "tflite"}

_DIGITS = re.compile(r"[0-9]+")
_LARGEST = (1 << 63) - 1


def number(name: str) -> str | None:
    """The version that a folder of this name is: `00000123` is 123. None where TF Serving passes it over."""
    if not _DIGITS.fullmatch(name) or (value := int(name[:40])) > _LARGEST:
        return None
    return str(value)


def is_version(folder: Path) -> bool:
    """Whether it holds what TF Serving loads."""
    return any((folder / name).is_file() for name in FRAMEWORKS)
