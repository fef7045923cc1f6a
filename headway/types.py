"""Records that pass between the packages. Times are microseconds since 1970 by the database's clock."""

from typing import NamedTuple

import msgspec

from headway.errors import ItemError
from headway.states import Status
from headway.webhooks import WebhookStatus

#: Bytes of an input or output; what is larger goes to the blob store, not into a row.
LARGE = 262_144

#: Where the priorities of batches' items begin, behind everybody's: 10 to 19.
BULK_PRIORITY = 10


class NewPrediction(msgspec.Struct, kw_only=True, frozen=True):
    """A submission that passed every check: one row to be."""

    id: str  # UUIDv7, canonical
    tenant_id: str
    model: str
    version: str
    alias: str | None
    line: str  # `broker.line(model, version, priority, tenant_class)`
    priority: int  # 0 first … 9
    size: int  # bytes of the input, elements of its arrays, or 1: what the lane's cost counts
    shape: str | None  # the free dimensions of typed inputs; unequal shapes never share a micro-batch
    max_attempts: int
    metadata: dict[str, str] = {}
    queue_timeout_us: int | None = None  # expired, if no device has begun it by then
    execution_timeout_us: int | None = None  # failed, if the device has not done it by then
    webhook: str | None = None  # a URL as `egress.Egress.checked_url` has made it
    webhook_events: int | None = None  # `webhooks.Events`, with a webhook only
    idempotency_key: str | None = None
    idempotency_digest: str | None = None  # of what was asked, with a key only
    traceparent: str | None = None  # the caller's (W3C Trace Context), passed on to webhooks
    shadow_of: str | None = None  # the prediction that this is a copy of, for another version; nobody is told of it
    body: bytes  # the input as it was received; empty where it lies in the blob store
    content_type: str | None = None  # its media type; None: JSON
    blob_bytes: int | None = None  # its length in the blob store


class Prediction(msgspec.Struct, kw_only=True, frozen=True):
    """A row as it is read back, without its input."""

    id: str
    tenant_id: str
    model: str
    version: str
    alias: str | None
    line: str
    position: int
    priority: int
    status: Status
    revision: int
    attempt: int
    max_attempts: int
    claim: str | None
    metadata: dict[str, str]
    output: bytes | None  # JSON
    error: ItemError | None
    created_at: int
    started_at: int | None
    completed_at: int | None
    expires_at: int | None
    predict_us: int | None  # the device's share, microseconds
    batch_size: int | None  # predictions in the micro-batch it was computed with
    webhook_status: WebhookStatus = WebhookStatus.NONE
    progress: bytes | None = None  # JSON: {fraction, message}, the model's last word
    log: str | None = None  # see `states.history`
    deleted_at: int | None = None
    batch_id: str | None = None
    custom_id: str | None = None  # what its line in the batch's file is called there
    output_type: str | None = None  # its media type; None: JSON
    output_bytes: int | None = None  # where it lies in the blob store, and `output` is None
    shadow_of: str | None = None


class Hint(msgspec.Struct, frozen=True, kw_only=True):
    """A queued row as the broker's messages know it."""

    id: str
    size: int
    shape: str | None
    position: int


class Claimed(msgspec.Struct, frozen=True):
    """A row that this claim now owns."""

    id: str
    line: str
    size: int
    shape: str | None
    position: int
    created_at: int
    started_at: int
    attempt: int
    revision: int
    charged: int
    losses: int
    max_attempts: int
    execution_timeout_us: int | None
    body: bytes  # the input; empty where it lies in the blob store
    content_type: str | None = None  # its media type; None: JSON
    blob_bytes: int | None = None  # its length in the blob store


class Input(NamedTuple):
    """What a prediction was asked with."""

    body: bytes
    content_type: str | None  # None: JSON
    blob_bytes: int | None  # in the blob store; `body` is empty then


class Outcome(msgspec.Struct, kw_only=True, frozen=True):
    """How one prediction of a micro-batch ended: an output or an error, never both.

    `canceled`: neither, because the model, or whoever drives it, has heeded a cancel.
    """

    id: str
    output: bytes | None = None  # None, too, once it is in the blob store
    output_type: str | None = None  # its media type; None: JSON
    output_bytes: int | None = None  # its length in the blob store
    error: ItemError | None = None
    predict_us: int = 0
    batch_size: int = 1
    canceled: bool = False

    @property
    def status(self) -> Status:
        if self.canceled:
            return Status.CANCELED
        return Status.SUCCEEDED if self.error is None else Status.FAILED
