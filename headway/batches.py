"""A batch: predictions that came as one file. Its life, its row, and how clients and receivers see it."""

import enum

import msgspec

from headway.rendering import ErrorBody, optional_time, time_of

#: What an upload that was never completed leaves behind, after so long without a word.
ABANDONED_S = 24 * 3600


class BatchStatus(enum.IntEnum):
    """The numbers are what SQL stores, and of the last four those of a prediction's `Status`."""

    VALIDATING = 0  # its file is coming in; nothing of it runs
    IN_PROGRESS = 1
    CANCELING = 2  # what had begun has not ended yet
    COMPLETED = 3  # every item has ended, however
    FAILED = 4  # its file never was complete
    CANCELED = 5
    EXPIRED = 6  # not all of it had begun when its completion window was over

    @property
    def label(self) -> str:
        """The word clients see."""
        return self.name.lower()

    @property
    def terminal(self) -> bool:
        return self >= BatchStatus.COMPLETED


class Counts(msgspec.Struct, frozen=True, array_like=True):
    """Items that have ended."""

    succeeded: int = 0
    failed: int = 0
    canceled: int = 0
    expired: int = 0

    @property
    def total(self) -> int:
        return self.succeeded + self.failed + self.canceled + self.expired

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.succeeded + other.succeeded,
            self.failed + other.failed,
            self.canceled + other.canceled,
            self.expired + other.expired,
        )


class Batch(msgspec.Struct, kw_only=True, frozen=True):
    """A row. Times are microseconds since 1970 by the database's clock, lines are counted from 1."""

    id: str
    tenant_id: str
    model: str
    version: str
    alias: str | None
    line: str  # of Redis, that its items wait in
    priority: int  # 0 first … 9, among batches
    max_attempts: int  # of each item
    status: BatchStatus
    ending: BatchStatus | None  # what it will have ended as: its items that have not begun are not to begin any more
    error: str | None  # why it failed
    revision: int
    created_at: int
    touched_at: int
    sealed_at: int | None  # when its file was complete
    completed_at: int | None
    expires_at: int | None
    window_us: int | None
    blocks: int  # of its file, that are stored
    digest: str  # of all those
    last_line: int
    total: int  # items; lines may be empty
    fed: int  # the last line whose hint was published
    counted: int  # up to this line every item has ended, and is in these:
    counts: Counts
    ahead: Counts  # of items beyond, as far as they were looked at
    rate: float | None  # items a second, lately
    webhook: str | None
    idempotency_digest: str | None


class RequestCounts(msgspec.Struct, frozen=True):
    """Items by how they ended. The total is exact once the file is complete."""

    total: int
    completed: int
    failed: int
    canceled: int
    expired: int


class BatchProgress(msgspec.Struct, frozen=True):
    """`rate` in items a second and `eta_seconds` are null until they are known."""

    fraction: float
    rate: float | None
    eta_seconds: float | None


class BatchError(msgspec.Struct, frozen=True):
    """Why a batch failed as a whole; what is wrong with a line is in its result."""

    code: str
    message: str


class BatchUrls(msgspec.Struct, frozen=True):
    """Where to go on from here."""

    get: str
    results: str
    cancel: str


class BatchBody(msgspec.Struct, frozen=True, kw_only=True):
    """Field by field what contract and OpenAPI promise; times are RFC 3339, UTC."""

    id: str
    object: str = "batch"
    model: str
    version: str
    alias: str | None
    status: str
    revision: int
    priority: int
    request_counts: RequestCounts
    progress: BatchProgress
    error: BatchError | None
    created_at: str
    in_progress_at: str | None
    completed_at: str | None
    expires_at: str | None
    urls: BatchUrls


class BatchResult(msgspec.Struct, frozen=True, kw_only=True):
    """How a line ended: with an output or an error."""

    line: int
    custom_id: str | None
    output: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    output_at: str | msgspec.UnsetType = msgspec.UNSET  # where it is instead of here: too large, or no JSON
    error: ErrorBody | msgspec.UnsetType = msgspec.UNSET


def path_of(id_: str, public_url: str) -> str:
    return f"{public_url}/v1/batches/{id_}"


def batch_json(row: Batch, public_url: str) -> bytes:
    path = path_of(row.id, public_url)
    ended = row.counts + row.ahead
    left = row.total - ended.total
    running = row.status in (BatchStatus.IN_PROGRESS, BatchStatus.CANCELING)
    return msgspec.json.encode(
        BatchBody(
            id=row.id,
            model=row.model,
            version=row.version,
            alias=row.alias,
            status=row.status.label,
            revision=row.revision,
            priority=row.priority,
            request_counts=RequestCounts(row.total, ended.succeeded, ended.failed, ended.canceled, ended.expired),
            progress=BatchProgress(
                fraction=ended.total / row.total if row.sealed_at is not None and row.total else 0.0,
                rate=round(row.rate, 1) if running and row.rate else None,
                eta_seconds=round(left / row.rate, 1) if running and row.rate else None,
            ),
            error=None if row.error is None else BatchError("upload_incomplete", row.error),
            created_at=time_of(row.created_at),
            in_progress_at=optional_time(row.sealed_at),
            completed_at=optional_time(row.completed_at),
            expires_at=optional_time(row.expires_at),
            urls=BatchUrls(path, f"{path}/results", f"{path}/cancel"),
        )
    )
