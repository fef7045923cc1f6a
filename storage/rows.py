"""Rows of predictions as records: what statements answer, in the order of their columns."""

from collections.abc import Sequence
from typing import Any

import msgspec

from headway.errors import ItemCode, ItemError
from headway.notices import Ended
from headway.states import Status
from headway.types import Claimed, Outcome, Prediction
from headway.webhooks import WebhookStatus

_metadata = msgspec.json.Decoder(dict[str, str])


def bytes_of(value: str | bytes) -> bytes:
    """SQLite answers whole pages as JSON, and bytes in it in hexadecimal."""
    return bytes.fromhex(value) if isinstance(value, str) else value


def item_error(code: str | None, message: str | None) -> ItemError | None:
    return None if code is None else ItemError(ItemCode(code), message or "")


def claimed_of(row: Sequence[Any]) -> Claimed:
    """The columns in the order of the record's fields."""
    *columns, body, content_type, blob_bytes = row
    return Claimed(*(*columns, bytes_of(body), content_type, blob_bytes))


def ended_of(
    outcome: Outcome,
    status: Status,
    claim: str,
    revision: int,
    attempt: int,
    started_at: int | None,
    completed_at: int,
) -> Ended:
    # By position, as in the record: names cost as much again, and this is made for every result.
    return Ended(
        *(status, revision, claim, attempt, started_at, completed_at),
        *(outcome.predict_us, outcome.batch_size, outcome.output, outcome.output_bytes is not None),
        None if status is Status.CANCELED else outcome.error,
    )


def never_begun(status: Status, revision: int, attempt: int, completed_at: int) -> Ended:
    """What became of a row that was queued when it ended."""
    return Ended(
        status=status,
        revision=revision,
        claim=None,
        attempt=attempt,
        started_at=None,
        completed_at=completed_at,
        predict_us=None,
        batch_size=None,
        output=None,
        output_omitted=False,
        error=None,
    )


def prediction_of(row: Sequence[Any]) -> Prediction:
    """A row of the statement `read`, or the same as a delivery has frozen it."""
    (id_, tenant_id, model, version, alias, line, position, priority, status, revision, attempt, *rest) = row
    (max_attempts, claim, metadata, output, code, message, created, started, completed, expires, *rest) = rest
    predict_us, batch_size, told, progress, *rest = rest
    log, deleted_at, batch_id, custom_id, output_type, output_bytes, *rest = rest or (None,) * 6
    return Prediction(
        id=id_,
        tenant_id=tenant_id,
        model=model,
        version=version,
        alias=alias,
        line=line,
        position=position,
        priority=priority,
        status=Status(status),
        revision=revision,
        attempt=attempt,
        max_attempts=max_attempts,
        claim=claim,
        metadata=_metadata.decode(metadata),
        output=None if output is None else bytes_of(output),
        error=item_error(code, message),
        created_at=created,
        started_at=started,
        completed_at=completed,
        expires_at=expires,
        predict_us=predict_us,
        batch_size=batch_size,
        webhook_status=WebhookStatus(told),
        progress=None if progress is None else progress.encode(),
        log=log,
        deleted_at=deleted_at,
        batch_id=batch_id,
        custom_id=custom_id,
        output_type=output_type,
        output_bytes=output_bytes,
        shadow_of=rest[0] if rest else None,
    )
