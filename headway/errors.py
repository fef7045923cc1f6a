"""What can go wrong, and whose fault it is.

    HeadwayError
    ├── ManifestError        the operator's: model.toml or the version folder is wrong
    ├── SettingsError        the operator's: an option or environment variable is wrong
    ├── InputRefused         the caller's: an input does not fit what the model declares
    ├── StorageUnavailable   ours, passing: SQL cannot be reached now
    ├── ItemFailed           a prediction fails, as its model says
    ├── BlobsUnavailable     ours, passing: the blob store cannot be reached now
    └── BlobMissing          what should be in the blob store is gone

Problems of HTTP are in `api.problems`; what fails one prediction is an `ItemError`.
"""

import enum
from dataclasses import dataclass


class HeadwayError(Exception):
    """The root; the message is a sentence for whoever caused it."""


class ManifestError(HeadwayError):
    """A model.toml or a version folder that cannot be served as it is."""


class SettingsError(HeadwayError):
    """An option or environment variable with a value that makes no sense."""


class InputRefused(HeadwayError):  # noqa: N818  (the field says "refused")
    """An input that does not fit the declared shapes and dtypes.

    `pointer` is a JSON pointer into the input (`""` for all of it).
    """

    def __init__(self, pointer: str, detail: str) -> None:
        super().__init__(detail)
        self.pointer = pointer
        self.detail = detail


class StorageUnavailable(HeadwayError):  # noqa: N818
    """SQL cannot be reached now. Nothing is known of the statement that was under way."""


class BlobsUnavailable(HeadwayError):  # noqa: N818
    """The blob store cannot be read or written now."""


class BlobMissing(HeadwayError):  # noqa: N818
    """What should be in the blob store is not there."""


class ItemCode(enum.StrEnum):
    """Why one prediction failed."""

    INVALID_INPUT = "invalid_input"
    NOT_FOUND = "not_found"
    UNAVAILABLE = "unavailable"
    UNSUPPORTED = "unsupported"
    MODEL_ERROR = "model_error"
    OUTPUT_INVALID = "output_invalid"
    EXECUTION_TIMEOUT = "execution_timeout"
    OUT_OF_MEMORY = "out_of_memory"
    WORKER_LOST = "worker_lost"

    @property
    def retryable(self) -> bool:
        """Whether sending the same input again could help."""
        return self in (
            ItemCode.UNAVAILABLE,
            ItemCode.EXECUTION_TIMEOUT,
            ItemCode.OUT_OF_MEMORY,
            ItemCode.WORKER_LOST,
        )


@dataclass(frozen=True, slots=True)
class ItemError:
    """What a failed prediction shows as its `error`."""

    code: ItemCode
    message: str


class ItemFailed(HeadwayError):  # noqa: N818
    """Of a loader: one prediction fails with this code, and the message as it is."""

    def __init__(self, code: ItemCode, message: str, *, whole: bool = False) -> None:
        """`whole`: the message is no prose, and worth nothing when it is cut; its length is the loader's concern."""
        super().__init__(message)
        self.code = code
        self.whole = whole
