"""What a client gets: predictions and the events of their lives, typed. Unknown fields are left out, never refused."""

import datetime
from typing import Any

import msgspec

#: Statuses that change no more, but by an explicit retry.
ENDED = frozenset({"succeeded", "failed", "canceled", "expired"})
BATCH_ENDED = frozenset({"completed", "failed", "canceled", "expired"})


class Failure(msgspec.Struct, frozen=True):
    """Why a prediction failed. `retryable`: sending the same input again could help."""

    code: str
    message: str
    retryable: bool = False


class Metrics(msgspec.Struct, frozen=True):
    """None until it is known."""

    queue_seconds: float | None = None
    predict_seconds: float | None = None
    batch_size: int | None = None


class Progress(msgspec.Struct, frozen=True):
    """The model's last word on how far it is: 0.0 … 1.0, and what it says to that."""

    fraction: float | None = None
    message: str | None = None


class Queue(msgspec.Struct, frozen=True):
    """Where a queued prediction stands, as far as it is known."""

    position: int | None = None
    eta_seconds: float | None = None


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """A prediction as the server last showed it. In lists it comes without `input` and `output`."""

    id: str
    model: str
    version: str
    alias: str | None = None
    status: str  # queued, in_progress, canceling, succeeded, failed, canceled, expired
    revision: int
    input: Any = None  # if it was asked for
    output: Any = None
    output_omitted: bool = False  # it is too large, or no JSON: `Client.output` has it
    error: Failure | None = None
    attempt: int = 0
    max_attempts: int | None = None
    priority: int | None = None
    metadata: dict[str, str] = {}
    progress: Progress | None = None
    queue: Queue | None = None  # while it is queued
    created_at: datetime.datetime
    started_at: datetime.datetime | None = None
    completed_at: datetime.datetime | None = None
    expires_at: datetime.datetime | None = None
    metrics: Metrics = Metrics()
    webhook_status: str = "none"  # pending, succeeded, failed

    @property
    def ended(self) -> bool:
        return self.status in ENDED


class Transition(msgspec.Struct, frozen=True, kw_only=True):
    """The prediction has another status. The last event is one of these, with the whole prediction."""

    id: int
    status: str
    attempt: int = 0
    at: datetime.datetime
    prediction: Prediction | None = None


class Progressed(msgspec.Struct, frozen=True, kw_only=True):
    """The model called `item.progress(fraction, message)`."""

    id: int
    fraction: float | None = None
    message: str | None = None
    attempt: int = 0
    at: datetime.datetime


class Emitted(msgspec.Struct, frozen=True, kw_only=True):
    """The model called `item.emit(output)`: a part of what will be, or a draft."""

    id: int
    output: Any = None
    attempt: int = 0
    at: datetime.datetime


Event = Transition | Progressed | Emitted

#: The word on the wire → what it becomes.
KINDS: dict[str, type[Transition] | type[Progressed] | type[Emitted]] = {
    "transition": Transition,
    "progress": Progressed,
    "output": Emitted,
}


class Page(msgspec.Struct, frozen=True):
    """One answer of a list."""

    data: list[Prediction]
    has_more: bool = False
    last_id: str | None = None


class Counts(msgspec.Struct, frozen=True):
    """Lines of a batch, empty ones not counted. `total` is exact once the whole file has arrived."""

    total: int = 0
    completed: int = 0
    failed: int = 0
    canceled: int = 0
    expired: int = 0

    @property
    def ended(self) -> int:
        return self.completed + self.failed + self.canceled + self.expired


class BatchProgress(msgspec.Struct, frozen=True):
    """`fraction`: 0.0 … 1.0; `rate`: lines a second. None where it is not known."""

    fraction: float | None = None
    rate: float | None = None
    eta_seconds: float | None = None


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """A batch as the server last showed it. What a single line came to is in its results."""

    id: str
    model: str
    version: str
    alias: str | None = None
    status: str  # validating, in_progress, canceling, completed, failed, canceled, expired
    revision: int
    priority: int | None = None
    request_counts: Counts = Counts()
    progress: BatchProgress | None = None
    error: Failure | None = None  # why all of it failed
    created_at: datetime.datetime
    in_progress_at: datetime.datetime | None = None
    completed_at: datetime.datetime | None = None
    expires_at: datetime.datetime | None = None

    @property
    def ended(self) -> bool:
        return self.status in BATCH_ENDED


class BatchPage(msgspec.Struct, frozen=True):
    """One answer of a list of batches."""

    data: list[Batch]
    has_more: bool = False
    last_id: str | None = None


class Result(msgspec.Struct, frozen=True):
    """What one line of a batch came to: an output, or an error."""

    line: int  # of the file, from 1
    custom_id: str | None = None
    output: Any = None
    output_at: str | None = None  # the path it is at instead: too large, or no JSON
    error: Failure | None = None


for _kind in (Prediction, Page, Batch, BatchPage, Result, Transition, Progressed, Emitted):
    # msgspec (0.22.0) puts together what it knows of a type when that is first used, and where two threads are the
    # first at once, the process dies. Here there is one.
    msgspec.json.Decoder(_kind)
