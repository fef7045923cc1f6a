"""The verbs of tasks: a task is a prediction, and its id the prediction's. So it survives whatever happens.

A canceled task is let go of, at once or as soon as the device can; one that is tried again is a new one, with the same
input.
"""

import datetime
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from urllib.parse import parse_qs

import msgspec

from api import changes
from api.answers import Answer
from api.dialects import jobs
from api.dialects.bentoml import errors, replies, requests
from api.dialects.bentoml.requests import Asked
from api.dialects.bentoml.routes import Found
from api.exchange import Call
from api.ownership import own
from api.problems import Problem
from api.service import Service
from headway.states import Status
from headway.types import Prediction
from storage.blobs import INPUT
from storage.verbs import UUID

_STATUSES = MappingProxyType(
    {
        Status.QUEUED: "pending",
        Status.IN_PROGRESS: "in_progress",
        Status.CANCELING: "in_progress",
        Status.SUCCEEDED: "completed",
        Status.FAILED: "failed",
        Status.EXPIRED: "failed",
        Status.CANCELED: "canceled",
    }
)


def must_be_one(asked: Asked) -> None:
    """Raises Refused."""
    if len(asked.rows) > 1:
        raise errors.Refused(400, [{"error": f"a task is one prediction, and these are {len(asked.rows)} rows"}])


async def submit(service: Service, call: Call, found: Found) -> Answer:
    """Once it is committed. `X-Headway-Webhook` and `Idempotency-Key` do what they do everywhere."""
    service.submitter.check_room()
    body = await call.body(service.settings.max_body_bytes)
    asked = await requests.prepare(service, call, found, body)
    must_be_one(asked)
    accepted = await jobs.submit(service, call, asked.target, asked.rows[0], body)
    return _begun(msgspec.json.decode(accepted.body)["id"])


async def status(service: Service, call: Call, found: Found) -> Answer:
    row = await _task(service, call, found)
    begun = row.started_at
    return errors.said(
        {
            "task_id": row.id,
            "status": _STATUSES[row.status],
            "created_at": _time(row.created_at),
            "executed_at": None if begun is None else _time(begun),
        }
    )


async def get(service: Service, call: Call, found: Found) -> Answer:
    """The answer that a plain call would have had, errors too."""
    row = await _task(service, call, found)
    if row.status is Status.CANCELED:
        return errors.said({"error": f"task {row.id} is canceled"}, 400)
    if not row.status.terminal:
        return _not_yet(row)
    if row.status is not Status.SUCCEEDED:
        target = await service.registry.resolve(row.model)
        return errors.identified(errors.failure(row, target.timeout_s))
    output = await replies.output_of(service, row.id, row)
    return errors.identified(replies.reply(found, [output], single=True))


async def retry(service: Service, call: Call, found: Found) -> Answer:
    """Another task with the same input, for the version that takes requests now."""
    row = await _task(service, call, found)
    if not row.status.terminal:
        return _not_yet(row)
    stored = await service.threads.run(lambda: service.predictions.read_input(row.id, call.tenant))
    if stored is None:
        raise _unknown()
    body = stored.body
    if stored.blob_bytes is not None:
        body = await service.in_blobs(lambda: service.blobs.read(row.id, INPUT))
    target = await service.registry.resolve(row.model)
    size = requests.again(target, found, body, stored.content_type)
    new = await jobs.row_of(service, call, target, body, stored.content_type, size)
    await jobs.submit(service, call, target, new, body)
    return _begun(new.id)


async def cancel(service: Service, call: Call, found: Found) -> Answer:
    row = await _task(service, call, found)
    try:
        row = await changes.canceled(service, row.id, call.tenant)
    except Problem as problem:
        if problem.code != "already_terminal":
            raise
        row = await own(service, call, row.id)  # it may have ended meanwhile
        return errors.said({"error": f"task {row.id} is {_STATUSES[row.status]} already"}, 400)
    return errors.said({"task_id": row.id, "status": _STATUSES[row.status]})


VERBS: Mapping[str, Callable[[Service, Call, Found], Awaitable[Answer]]] = MappingProxyType(
    {"submit": submit, "status": status, "get": get, "retry": retry, "cancel": cancel}
)


def _begun(id_: str) -> Answer:
    return errors.said({"task_id": id_, "status": "in_progress"})


async def _task(service: Service, call: Call, found: Found) -> Prediction:
    """Raises Refused."""
    asked = parse_qs(call.query.decode("latin-1"), keep_blank_values=True).get("task_id")
    if asked is None:
        raise errors.Refused(400, {"error": "task_id is required"})
    id_ = asked[-1].lower()
    try:
        if not UUID.fullmatch(id_):
            raise _unknown()
        row = await own(service, call, id_)
    except Problem as problem:
        if problem.code not in ("prediction_not_found", "prediction_purged"):
            raise
        raise _unknown() from problem
    if row.model != found.model:
        raise _unknown()
    return row


def _unknown() -> errors.Refused:
    return errors.Refused(404, {"error": "task_id not found"})


def _not_yet(row: Prediction) -> Answer:
    return errors.said({"error": f"task {row.id} is not completed yet"}, 400)


def _time(microseconds: int) -> str:
    """UTC, without saying so, as BentoML writes it."""
    moment = datetime.datetime.fromtimestamp(microseconds / 1e6, datetime.UTC).replace(tzinfo=None)
    return moment.isoformat()
