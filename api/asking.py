"""Predictions that are submitted together and waited for in the same call."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from api import tracing
from api.exchange import Call, Disconnected
from api.problems import Problem
from api.service import Service
from api.waiting import Waiter
from headway.errors import StorageUnavailable
from headway.notices import Ended
from headway.types import NewPrediction, Prediction

log = logging.getLogger(__name__)


class Answers(NamedTuple):
    """How those that have ended did, and which others could still be canceled when the time was up; by id."""

    ended: Mapping[str, Ended | Prediction]
    canceled: Mapping[str, Ended]
    reported: bool = False  # something may have been, so the wait was over before the end; nothing is canceled


async def ask(
    service: Service,
    call: Call,
    rows: Sequence[NewPrediction],
    at_most: int,
    *,
    within_s: float,
    accepted: Callable[[], None] = lambda: None,
    until_report: bool = False,
) -> Answers:
    """`at_most`: predictions of an envelope of their line. `accepted` is called once all are committed.

    `until_report`: no longer than until the model may have reported something; where none has ended then, this returns
    in the very step in which the wait was over, so that who goes on waiting misses nothing.
    What is queued still when the time is up, or the caller gone, is canceled. Raises Disconnected; Problem where SQL
    refuses a row; StorageUnavailable.
    """
    ids = [row.id for row in rows]
    waiter = service.waiting.register(ids, within_s, receive=call.receive, until_report=until_report, grace=True)
    try:
        if len(rows) == 1:
            await service.submitter.submit(rows[0], at_most)
        else:
            await service.submitter.submit_all(rows, at_most)
        tracing.accepted(call, ids)
        accepted()
        await waiter.wait()
    except Problem:
        await cancel(service, call, ids)  # SQL refused one; the others are nobody's now
        raise
    finally:
        waiter.close()
    if waiter.reported and not waiter.ended and not waiter.hung_up:
        return Answers({}, {}, reported=True)
    ended = await ended_of(service, waiter)
    canceled = await cancel(service, call, [id_ for id_ in ids if id_ not in ended])
    if waiter.hung_up and len(ended) < len(ids):
        raise Disconnected
    return Answers(ended, canceled)


async def ended_of(service: Service, waiter: Waiter) -> dict[str, Ended | Prediction]:
    """How each ended; those that have not are left out."""
    ended: dict[str, Ended | Prediction] = {id_: end for id_, end in waiter.ended.items() if end is not None}
    in_sql = [id_ for id_, end in waiter.ended.items() if end is None]
    if in_sql:
        ended |= {id_: row for id_, row in (await service.reader.read_all(in_sql)).items() if row.status.terminal}
    return ended


async def cancel(service: Service, call: Call, ids: list[str]) -> dict[str, Ended]:
    """Cancels those that are still queued, and tells whoever else waits for them."""
    if not ids:
        return {}
    try:
        canceled = await service.threads.run(lambda: service.predictions.cancel_queued(ids, call.tenant))
    except StorageUnavailable:
        log.warning("predictions of a call that ended early could not be canceled", extra={"count": len(ids)})
        return {}
    service.publisher.notify(canceled)
    return canceled
