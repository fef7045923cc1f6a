"""Records that pass between the packages. Times are microseconds since 1970 by the database's clock."""

from dataclasses import dataclass, field

import msgspec

from headway.errors import ItemError
from headway.states import Status
from headway.webhooks import WebhookStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class NewPrediction:
    """A submission that passed every check: one row to be."""

    id: str  # UUIDv7, canonical
    tenant_id: str
    model: str
    version: str
    alias: str | None
    line: str  # `broker.line(model, version, priority)`
    priority: int  # 0 first … 9
    size: int  # bytes of the input, elements of its arrays, or 1: what the lane's cost counts
    shape: str | None  # the free dimensions of typed inputs; unequal shapes never share a micro-batch
    max_attempts: int
    metadata: dict[str, str] = field(default_factory=dict)
    expires_at: int | None = None
    webhook: str | None = None  # a URL as `egress.Egress.checked_url` has made it
    webhook_events: int | None = None  # `webhooks.Events`, with a webhook only
    body: bytes  # the input's JSON, as it was received


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Hint:
    """A queued row as the broker's messages know it."""

    id: str
    size: int
    shape: str | None
    position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
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
    body: bytes


class Outcome(msgspec.Struct, kw_only=True, frozen=True):
    """How one prediction of a micro-batch ended: an output (JSON) or an error, never both."""

    id: str
    output: bytes | None = None
    error: ItemError | None = None
    predict_us: int = 0
    batch_size: int = 1

    @property
    def status(self) -> Status:
        return Status.SUCCEEDED if self.error is None else Status.FAILED
