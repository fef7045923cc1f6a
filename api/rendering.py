"""Answers that show a prediction, and the row as it stands between two reads of SQL."""

import msgspec

from api.answers import JSON_HEADERS, Answer, Headers
from headway.notices import Ended
from headway.rendering import Place, prediction_json
from headway.states import Status
from headway.types import NewPrediction, Prediction
from headway.webhooks import WebhookStatus


def accepted(row: NewPrediction, position: int) -> Prediction:
    """The row as it stands right after its INSERT."""
    return Prediction(
        id=row.id,
        tenant_id=row.tenant_id,
        model=row.model,
        version=row.version,
        alias=row.alias,
        line=row.line,
        position=position,
        priority=row.priority,
        status=Status.QUEUED,
        revision=1,
        attempt=0,
        max_attempts=row.max_attempts,
        claim=None,
        metadata=row.metadata,
        output=None,
        error=None,
        created_at=position,
        started_at=None,
        completed_at=None,
        expires_at=None if row.queue_timeout_us is None else position + row.queue_timeout_us,
        predict_us=None,
        batch_size=None,
        webhook_status=WebhookStatus.NONE if row.webhook is None else WebhookStatus.PENDING,
    )


def after(row: Prediction, ended: Ended) -> Prediction:
    """The row as it stands once it ended; not for an output that the notice left out."""
    return msgspec.structs.replace(
        row,
        status=ended.status,
        revision=ended.revision,
        claim=ended.claim,
        attempt=ended.attempt,
        started_at=ended.started_at,
        completed_at=ended.completed_at,
        predict_us=ended.predict_us,
        batch_size=ended.batch_size,
        output=ended.output,
        error=ended.error,
    )


def ended_of(row: Prediction) -> Ended:
    """What others who wait for it are told of a row that has ended."""
    return Ended(
        status=row.status,
        revision=row.revision,
        claim=row.claim,
        attempt=row.attempt,
        started_at=row.started_at,
        completed_at=row.completed_at or 0,
        predict_us=row.predict_us,
        batch_size=row.batch_size,
        output=row.output,
        output_omitted=False,
        error=row.error,
    )


def etag(row: Prediction) -> bytes:
    """The opaque part. The claim stands in it because an un-fsynced revision may be given twice after a crash."""
    return f"{row.revision}-{row.claim or ''}".encode()


def prediction_answer(
    status: int,
    row: Prediction,
    public_url: str,
    extra: Headers,
    input_: bytes | None = None,
    place: Place | None = None,
    *,
    input_type: str | None = None,
) -> Answer:
    headers = (*JSON_HEADERS, (b"etag", b'W/"%b"' % etag(row)), *extra)
    return Answer(status, prediction_json(row, public_url, input_, place=place, input_type=input_type), headers)


def not_modified(row: Prediction, extra: Headers) -> Answer:
    return Answer(304, b"", (JSON_HEADERS[1], (b"etag", b'W/"%b"' % etag(row)), *extra))
