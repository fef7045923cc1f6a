"""`batching.config`, and `batching_params.pbtxt` in a version folder: how TF Serving counts, by rows, → [batching]."""

from pathlib import Path
from typing import Any

import msgspec

from headway.errors import SettingsError
from headway.manifest import Batching
from headway.tfserving import text

_MOST_ITEMS = 4096
_LONGEST_WAIT_MS = 60_000.0


class Parameters(msgspec.Struct, frozen=True, kw_only=True):
    """With TF Serving's own defaults."""

    max_batch_size: int = 1000  # rows, of a call and of a request
    batch_timeout_micros: int = 0
    max_enqueued_batches: int = 10
    allowed_batch_sizes: tuple[int, ...] = ()  # rows; a call is filled up to the next
    max_execution_batch_size: int | None = None  # rows of a call, where larger requests are split
    notes: tuple[str, ...] = ()  # what of the file is not heeded

    @property
    def rules(self) -> Batching:
        """When a call departs. A request of ten rows counts as ten."""
        return Batching(
            max_batch_size=min(self.max_batch_size, _MOST_ITEMS),
            max_wait_ms=min(self.batch_timeout_micros / 1000, _LONGEST_WAIT_MS),
            max_queue=max(1, self.max_enqueued_batches * self.max_batch_size),
            max_batch_cost=self.max_batch_size,
            size="none",
        )


def read(file: Path) -> Parameters:
    """Raises SettingsError, naming the file."""
    said = text.read(file, "BatchingParameters")
    try:
        return of(said)
    except SettingsError as error:
        raise SettingsError(f"{file}: {error}") from error


def of(said: dict[str, Any]) -> Parameters:
    """Of the decoded file. Raises SettingsError."""
    rows = _number(said, "max_batch_size", 1, 1000)
    splits = bool(said.get("enable_large_batch_splitting", {}).get("value", False))
    most = _number(said, "max_execution_batch_size", 1, rows) if splits else rows
    if most > rows:
        raise SettingsError(f"max_execution_batch_size is {most}, and max_batch_size {rows}: it should not be larger")
    sizes = tuple(said.get("allowed_batch_sizes", []))
    if sizes and (list(sizes) != sorted(set(sizes)) or sizes[0] < 1 or sizes[-1] != most):
        last = "max_execution_batch_size" if splits else "max_batch_size"
        raise SettingsError(
            f"allowed_batch_sizes are {list(sizes)}, and should ascend from 1 or more to {last}, {most}"
        )
    return Parameters(
        max_batch_size=rows,
        batch_timeout_micros=_number(said, "batch_timeout_micros", 0, 0),
        max_enqueued_batches=_number(said, "max_enqueued_batches", 0, 10),
        allowed_batch_sizes=sizes,
        max_execution_batch_size=most if splits else None,
        notes=tuple(_notes(said, splits=splits)),
    )


def _notes(said: dict[str, Any], *, splits: bool) -> list[str]:
    notes = {
        "num_batch_threads": "num_batch_threads is not heeded: so many processes a device say [resources] instances",
        "thread_pool_name": "thread_pool_name is not heeded: no threads are shared",
        "pad_variable_length_inputs": "pad_variable_length_inputs is not heeded: alike travels with alike, unpadded",
    }
    found = [note for key, note in notes.items() if said.get(key)]
    if "max_execution_batch_size" in said and not splits:
        found.append("max_execution_batch_size is not heeded without enable_large_batch_splitting")
    if said.get("batch_timeout_micros", {}).get("value", 0) / 1000 > _LONGEST_WAIT_MS:
        found.append("batch_timeout_micros is held to a minute")
    return found


def _number(said: dict[str, Any], key: str, least: int, default: int) -> int:
    if key not in said:
        return default
    value = int(said[key].get("value", 0))
    if value < least:
        raise SettingsError(f"{key} is {value}, and should be {least} or more")
    return min(value, 1 << 31)
