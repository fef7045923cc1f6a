"""A prediction as clients and receivers see it. The output's JSON is passed on byte for byte, never decoded here."""

import functools

import msgspec

from headway.clock import rfc3339
from headway.states import Status
from headway.types import BULK_PRIORITY, Prediction
from headway.webhooks import WebhookStatus


class ErrorBody(msgspec.Struct, frozen=True):
    """Why a prediction failed. `retryable`: sending the same input again could help."""

    code: str
    message: str
    retryable: bool


class Metrics(msgspec.Struct, frozen=True):
    """Times in seconds; null until they are known. The queue's is counted anew from an explicit retry."""

    queue_seconds: float | None
    predict_seconds: float | None
    batch_size: int | None


class Place(msgspec.Struct, frozen=True):
    """Where it stands while it is queued, as of a second ago at most. Null: beyond 10,000, or not known."""

    position: int | None  # how many are ahead of it, in its own line and in more urgent ones
    eta_seconds: float | None  # until it is done, if things go on as lately


class Progress(msgspec.Struct, frozen=True):
    """What the model last said of itself: the share that is done, 0 to 1."""

    fraction: float
    message: str | None


class Urls(msgspec.Struct, frozen=True):
    """Where to go on from here."""

    get: str
    cancel: str
    events: str
    output: str


class PredictionBody(msgspec.Struct, frozen=True, kw_only=True):
    """Field by field what contract and OpenAPI promise; times are RFC 3339, UTC."""

    id: str
    object: str = "prediction"
    model: str
    version: str
    alias: str | None
    status: str
    revision: int
    input: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET  # with ?include=input
    input_type: str | msgspec.UnsetType = msgspec.UNSET  # with an input that is no JSON, and null for that
    output: msgspec.Raw | msgspec.UnsetType | None = msgspec.UNSET  # left out of lists
    output_omitted: bool | msgspec.UnsetType = msgspec.UNSET  # it is at `urls.output`: too large, or no JSON
    error: ErrorBody | None
    attempt: int
    max_attempts: int
    priority: int
    metadata: dict[str, str]
    batch_id: str | None
    custom_id: str | None
    progress: Progress | msgspec.Raw | None
    queue: Place | None
    created_at: str
    started_at: str | None
    completed_at: str | None
    expires_at: str | None
    metrics: Metrics
    webhook_status: str
    urls: Urls


_encoder = msgspec.json.Encoder()
_LABELS = {status: status.label for status in Status}
_TOLD = {status: status.label for status in WebhookStatus}
_NOTHING_YET = Metrics(None, None, None)


def path_of(id_: str, public_url: str) -> str:
    return f"{public_url}/v1/predictions/{id_}"


def prediction_json(
    row: Prediction,
    public_url: str,
    input_: bytes | None = None,
    *,
    output_omitted: bool = False,
    listed: bool = False,
    place: Place | None = None,
    input_type: str | None = None,
) -> bytes:
    """`listed`: as a list shows it, without its output. `place`: where it stands in its line, if that is to be told."""
    path = path_of(row.id, public_url)
    error = row.error
    omitted = output_omitted or (row.output is None and row.output_bytes is not None and not listed)
    body = PredictionBody(
        id=row.id,
        model=row.model,
        version=row.version,
        alias=row.alias,
        status=_LABELS[row.status],
        revision=row.revision,
        input=msgspec.UNSET if input_ is None else msgspec.Raw(input_),
        input_type=msgspec.UNSET if input_type is None else input_type,
        output=msgspec.UNSET if listed else None if row.output is None else msgspec.Raw(row.output),
        output_omitted=True if omitted else msgspec.UNSET,
        error=None if error is None else ErrorBody(error.code, error.message, error.code.retryable),
        attempt=row.attempt,
        max_attempts=row.max_attempts,
        priority=row.priority if row.batch_id is None else row.priority - BULK_PRIORITY,
        metadata=row.metadata,
        batch_id=row.batch_id,
        custom_id=row.custom_id,
        progress=None if row.progress is None else msgspec.Raw(row.progress),
        queue=place,
        created_at=time_of(row.created_at),
        started_at=optional_time(row.started_at),
        completed_at=optional_time(row.completed_at),
        expires_at=optional_time(row.expires_at),
        metrics=_metrics(row),
        webhook_status=_TOLD[row.webhook_status],
        urls=Urls(path, f"{path}/cancel", f"{path}/events", f"{path}/output"),
    )
    return _encoder.encode(body)


def _metrics(row: Prediction) -> Metrics:
    if row.started_at is None:
        return _NOTHING_YET
    return Metrics(
        queue_seconds=(row.started_at - row.position) / 1e6,
        predict_seconds=None if row.predict_us is None else row.predict_us / 1e6,
        batch_size=row.batch_size,
    )


@functools.lru_cache(maxsize=64)
def _second(seconds: int) -> str:
    return rfc3339(seconds * 1_000_000)[:20]


def time_of(us: int) -> str:
    """`clock.rfc3339`, with the date made once a second."""
    seconds, rest = divmod(us, 1_000_000)
    return f"{_second(seconds)}{rest:06d}Z"


def optional_time(us: int | None) -> str | None:
    return None if us is None else time_of(us)
