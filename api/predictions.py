"""Create and read a prediction, at once or once something has happened to it."""

import functools
import operator
import re
from collections.abc import Iterable

from api import tracing
from api.answers import Answer
from api.exchange import Call, etag_matches, preference_applied, preferred_wait, query_parameters
from api.problems import Problem
from api.registry import Target
from api.rendering import accepted, after, etag, not_modified, prediction_answer
from api.requests import CreateBody, read_create
from api.service import Service
from api.waiting import Waiter
from api.webhooks import receiver
from headway.clock import new_id, now_us
from headway.rendering import path_of
from headway.types import NewPrediction, Prediction
from headway.webhooks import Events

_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")

#: What a client should let pass before it polls.
_RETRY_AFTER = (b"retry-after", b"1")


async def create(service: Service, call: Call) -> Answer:
    """202 once the row is committed; with `Prefer: wait`, 200 if it ends in time."""
    query_parameters(call.query, {})
    wait = preferred_wait(call.headers.get(b"prefer", b""))
    await service.registry.model(call.params["model"])
    body, value = await read_create(call, service.settings.max_body_bytes)
    target = await _target(service, call, body)
    row = _row(service, call, target, body, value)
    if not wait:
        position = await service.submitter.submit(row, target.at_most)
        tracing.accepted(call, (row.id,))
        return _created(service, accepted(row, position), wait)
    waiter = service.waiting.register((row.id,), wait)
    try:
        position = await service.submitter.submit(row, target.at_most)
        tracing.accepted(call, (row.id,))
        await waiter.wait()
    finally:
        waiter.close()
    return _created(service, await current(service, waiter, accepted(row, position)), wait)


async def _target(service: Service, call: Call, body: CreateBody) -> Target:
    version = call.params.get("version")
    if version is not None and (body.version is not None or body.alias is not None):
        field = "version" if body.version is not None else "alias"
        raise Problem.invalid("The version is already in the path.", pointer=f"/{field}")
    if body.version is not None:
        version = str(body.version)
    return await service.registry.resolve(call.params["model"], version, body.alias)


def _row(service: Service, call: Call, target: Target, body: CreateBody, value: object) -> NewPrediction:
    input_ = bytes(body.input)
    size, shape = target.measure(value, input_, "/input")
    timeout = body.queue_timeout_seconds
    webhook = None if body.webhook is None else receiver(service, body.webhook)
    return NewPrediction(
        id=new_id(),
        tenant_id=call.tenant,
        model=target.model,
        version=target.version,
        alias=body.alias,
        line=target.lines[body.priority],
        priority=body.priority,
        size=size,
        shape=shape,
        max_attempts=body.max_attempts or target.max_attempts,
        metadata=body.metadata,
        expires_at=None if timeout is None else now_us() + round(timeout * 1e6),
        webhook=webhook,
        webhook_events=None if webhook is None else _events(body.webhook_events or ("completed",)),
        body=input_,
    )


def _events(names: Iterable[str]) -> Events:
    return functools.reduce(operator.or_, (Events[name.upper()] for name in names))


async def current(service: Service, waiter: Waiter, row: Prediction) -> Prediction:
    """The row after its wait: how it ended, else as SQL last showed it, else as it was before."""
    ended = waiter.ended.get(row.id)
    if ended is not None:
        return after(row, ended)
    present = waiter.present.get(row.id)
    if row.id in waiter.ended and (present is None or not present.status.terminal):
        present = await service.reader.read(row.id)  # the notice left the output out
    return present or row


def _created(service: Service, row: Prediction, wait: int | None) -> Answer:
    public_url = service.settings.public_url
    location = (b"location", path_of(row.id, public_url).encode())
    if row.status.terminal:
        return prediction_answer(200, row, public_url, (location, *preference_applied(wait)))
    return prediction_answer(202, row, public_url, (location, _RETRY_AFTER, *preference_applied(wait)))


async def read(service: Service, call: Call) -> Answer:
    """200, or 304 where the client has it already; with `Prefer: wait`, once it ended or is no longer what it was."""
    id_ = call.params["id"].lower()
    if not _ID.fullmatch(id_):
        raise _not_found()
    with_input = "include" in query_parameters(call.query, {"include": ("input",)})
    known = call.headers.get(b"if-none-match")
    wait = preferred_wait(call.headers.get(b"prefer", b""))
    row = await (_own(service, call, id_) if not wait else _awaited(service, call, id_, known, wait))
    extra = preference_applied(wait)
    if known is not None and etag_matches(known, etag(row)):
        return not_modified(row, extra)
    input_ = None
    if with_input:
        input_ = await service.threads.run(lambda: service.predictions.read_input(id_, call.tenant))
    return prediction_answer(200, row, service.settings.public_url, extra, input_)


async def _awaited(service: Service, call: Call, id_: str, known: bytes | None, wait: int) -> Prediction:
    # Registered before it is read: what happens in between is not missed.
    waiter = service.waiting.register((id_,), wait)
    try:
        row = await _own(service, call, id_)
        if known is None:
            if row.status.terminal:
                return row
        elif etag_matches(known, etag(row)):
            waiter.unlike = (row.revision, row.claim)
        else:
            return row
        await waiter.wait()
    finally:
        waiter.close()
    return await current(service, waiter, row)


async def _own(service: Service, call: Call, id_: str) -> Prediction:
    row = await service.reader.read(id_)
    if row is None or row.tenant_id != call.tenant:
        raise _not_found()
    return row


def _not_found() -> Problem:
    return Problem("prediction_not_found", "There is no prediction of this id.")
