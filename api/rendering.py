"""Answers that show a prediction, and the row as it stands between two reads of SQL."""

import functools
import re

import msgspec

from api.answers import JSON_HEADERS, Answer, Headers
from headway.clock import rfc3339
from headway.notices import Ended
from headway.rendering import Place, prediction_json, time_of
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


# What is answered to a create again and again differs in a few places only. The rest of its JSON is made once, by
# `prediction_json` itself from a row that has these values in those places, and kept with gaps for them.

_ID, _NAME = "01890000-0000-7000-8000-0000c0de0001", "01890000-0000-7000-8000-0000c0de0002"
_CREATED, _STARTED, _COMPLETED, _EXPIRES = 1_000_001, 123_457_000_790_124, 3_000_003, 4_000_004
_REVISION, _ATTEMPT, _BATCH_SIZE, _PREDICT_US = 1_234_567_101, 1_234_567_102, 1_234_567_103, 987_654_321
_WHILE_QUEUED = ("id", "metadata", "created", "expires", "id", "id", "id", "id")
_ONCE_ENDED = ("id", "revision", "output", "attempt", "metadata", "created", "started", "completed", "expires",
               "queue", "predict", "batch", "id", "id", "id", "id")  # fmt: skip
_GAPS = {
    "id": _ID,
    "metadata": f'{{"{_NAME}":""}}',
    "output": f'["{_NAME}"]',
    "created": rfc3339(_CREATED),
    "started": rfc3339(_STARTED),
    "completed": rfc3339(_COMPLETED),
    "expires": f'"{rfc3339(_EXPIRES)}"',
    "revision": str(_REVISION),
    "attempt": str(_ATTEMPT),
    "batch": str(_BATCH_SIZE),
    "queue": str((_STARTED - _CREATED) / 1e6),
    "predict": str(_PREDICT_US / 1e6),
}
_NAMES = {text.encode(): name for name, text in _GAPS.items()}
_GAP = re.compile(b"(" + b"|".join(re.escape(text) for text in _NAMES) + b")")


@functools.lru_cache(maxsize=1024)
def _form(
    model: str,
    version: str,
    alias: str | None,
    priority: int,
    max_attempts: int,
    told: bool,
    public_url: str,
    ended: bool,
) -> bytes:
    """JSON with `%b` in the places of `_WHILE_QUEUED` or, of one that has succeeded, `_ONCE_ENDED`."""
    new = NewPrediction(
        id=_ID,
        tenant_id="",
        model=model,
        version=version,
        alias=alias,
        line="",
        priority=priority,
        size=1,
        shape=None,
        max_attempts=max_attempts,
        metadata={_NAME: ""},
        queue_timeout_us=_EXPIRES - _CREATED,
        webhook="" if told else None,
        body=b"",
    )
    row = accepted(new, _CREATED)
    if ended:
        end = Ended(
            status=Status.SUCCEEDED,
            revision=_REVISION,
            claim=None,
            attempt=_ATTEMPT,
            started_at=_STARTED,
            completed_at=_COMPLETED,
            predict_us=_PREDICT_US,
            batch_size=_BATCH_SIZE,
            output=_GAPS["output"].encode(),
            output_omitted=False,
            error=None,
        )
        row = after(row, end)
    pieces = _GAP.split(prediction_json(row, public_url))
    gaps = tuple(_NAMES[text] for text in pieces[1::2])
    assert gaps == (_ONCE_ENDED if ended else _WHILE_QUEUED)  # the order that the two below fill them in
    return b"%b".join(piece.replace(b"%", b"%%") for piece in pieces[::2])


def _form_of(row: NewPrediction, public_url: str, *, ended: bool) -> bytes:
    told = row.webhook is not None
    return _form(row.model, row.version, row.alias, row.priority, row.max_attempts, told, public_url, ended)


def _number(value: float) -> bytes:
    return msgspec.json.encode(value)


def _time(us: int | None) -> bytes:
    return b"null" if us is None else b'"%b"' % time_of(us).encode()


def accepted_json(row: NewPrediction, position: int, public_url: str) -> bytes:
    """`prediction_json` of a row right after its INSERT."""
    id_ = row.id.encode()
    metadata = msgspec.json.encode(row.metadata) if row.metadata else b"{}"
    expires = b"null" if row.queue_timeout_us is None else _time(position + row.queue_timeout_us)
    form = _form_of(row, public_url, ended=False)
    return form % (id_, metadata, time_of(position).encode(), expires, id_, id_, id_, id_)


def ended_json(row: NewPrediction, position: int, ended: Ended, public_url: str) -> bytes:
    """`prediction_json` of a row that has ended with all that its notice says."""
    if (
        ended.status is not Status.SUCCEEDED
        or ended.error is not None
        or ended.output is None
        or ended.started_at is None
        or ended.predict_us is None
        or ended.batch_size is None
    ):
        return prediction_json(after(accepted(row, position), ended), public_url)
    id_ = row.id.encode()
    return _form_of(row, public_url, ended=True) % (
        *(id_, b"%d" % ended.revision, ended.output, b"%d" % ended.attempt),
        msgspec.json.encode(row.metadata) if row.metadata else b"{}",
        *(time_of(position).encode(), time_of(ended.started_at).encode(), time_of(ended.completed_at).encode()),
        b"null" if row.queue_timeout_us is None else _time(position + row.queue_timeout_us),
        *(_number((ended.started_at - position) / 1e6), _number(ended.predict_us / 1e6), b"%d" % ended.batch_size),
        *(id_, id_, id_, id_),
    )


def etag(row: Prediction | Ended) -> bytes:
    """The opaque part. The claim stands in it because an un-fsynced revision may be given twice after a crash."""
    return f"{row.revision}-{row.claim or ''}".encode()


def etag_header(row: Prediction | Ended) -> tuple[bytes, bytes]:
    return b"etag", b'W/"%b"' % etag(row)


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
    headers = (*JSON_HEADERS, etag_header(row), *extra)
    return Answer(status, prediction_json(row, public_url, input_, place=place, input_type=input_type), headers)


def not_modified(row: Prediction, extra: Headers) -> Answer:
    return Answer(304, b"", (JSON_HEADERS[1], etag_header(row), *extra))
