"""Create and read a prediction, at once or once something has happened to it."""

import functools
import operator
from collections.abc import Iterable

from api import idempotency, inputs, outputs, tracing
from api.answers import JSON_HEADERS, Answer, Headers
from api.exchange import Call, Disconnected, etag_matches, preference_applied, preferred_wait, query_parameters
from api.ownership import id_of, own
from api.problems import Problem
from api.raw import media_type, read_raw, refusal
from api.registry import Target
from api.rendering import (
    accepted_json,
    after,
    ended_json,
    etag,
    etag_header,
    not_modified,
    prediction_answer,
)
from api.requests import Submission, read_create
from api.service import Service
from api.waiting import Waiter
from api.webhooks import receiver
from headway.clock import new_id
from headway.errors import InputRefused
from headway.rendering import path_of
from headway.states import Status
from headway.types import LARGE, NewPrediction, Prediction
from headway.webhooks import Events
from storage.submitting import Held

#: What a client should let pass before it polls.
RETRY_AFTER = (b"retry-after", b"1")
_REPLAYED = (b"idempotency-replayed", b"true")


async def create(service: Service, call: Call) -> Answer:
    """202 once the row is committed; with `Prefer: wait`, 200 if it ends in time."""
    service.submitter.check_room()
    media = media_type(call.headers.get(b"content-type", b""))
    if media is None:
        query_parameters(call.query, {})
    wait = preferred_wait(call.headers.get(b"prefer", b""))
    key = idempotency.key_of(call)
    if key is None:
        service.capacity.check(await service.registry.model(call.params["model"]))  # before its body is read
    limit = service.settings.max_body_bytes
    submission = await (read_create(call, limit) if media is None else read_raw(call, limit, media))
    digest = None if key is None else await _digest(service, call, submission)
    try:
        target = await _target(service, call, submission)
        line = target.line(submission.body.priority, await service.classes.of(call.tenant))
        row = _row(service, call, target, line, submission, key, digest)
        await service.capacity.admit(target)
    except Problem:
        # What was accepted once stays so, whatever has become of the model since.
        if key is None or digest is None or (held := await _holder(service, call, key, digest)) is None:
            raise
        return await _replayed(service, call, held, wait)
    if len(row.body) > LARGE:
        row = await inputs.kept(service, row)
    if not wait:
        position = await service.submitter.submit(row, target.at_most)
        if isinstance(position, Held):
            return await _replayed(service, call, position, wait, row)
        tracing.accepted(call, (row.id,))
        service.shadows.copy(row, submission.input, submission.value)
        return _accepted(service, row, position, wait)
    waiter = service.waiting.register((row.id,), wait, receive=call.receive)
    try:
        position = await service.submitter.submit(row, target.at_most)
        if isinstance(position, Held):
            return await _replayed(service, call, position, wait, row)
        tracing.accepted(call, (row.id,))
        service.shadows.copy(row, submission.input, submission.value)
        await waiter.wait()
    finally:
        waiter.close()
    if waiter.hung_up:
        raise Disconnected
    ended = waiter.ended.get(row.id)
    if ended is not None:
        body = ended_json(row, position, ended, service.settings.public_url)
        headers = (*JSON_HEADERS, etag_header(ended), _location(service, row.id), *preference_applied(wait))
        return Answer(200, body, headers)
    present = await current(service, waiter, row.id)
    return _accepted(service, row, position, wait) if present is None else _created(service, present, wait)


async def _digest(service: Service, call: Call, submission: Submission) -> str:
    """What makes another request the same as this one."""
    if submission.content_type is None:
        return idempotency.digest(call, submission.data)
    asked = (submission.content_type.encode(), call.query, submission.data)
    return await service.threads.run(lambda: idempotency.digest(call, *asked))


async def _holder(service: Service, call: Call, key: str, digest: str) -> Held | None:
    return await service.threads.run(lambda: service.predictions.holder(call.tenant, key, digest))


async def _replayed(
    service: Service, call: Call, held: Held, wait: int | None, ours: NewPrediction | None = None
) -> Answer:
    """The prediction that the first such submission made, at whatever state it is in. `ours` is no row."""
    if ours is not None and ours.blob_bytes is not None:
        await service.forget_blobs(ours.id)
    if not held.same:
        raise idempotency.reused()
    row = await (_awaited(service, call, held.id, None, wait) if wait else own(service, call, held.id))
    row = await outputs.shown(service, row)
    return _created(service, row, wait, (_REPLAYED,))


async def _target(service: Service, call: Call, submission: Submission) -> Target:
    body = submission.body
    version = call.params.get("version")
    if version is not None and (body.version is not None or body.alias is not None):
        field = "version" if body.version is not None else "alias"
        raise Problem.invalid("The version is already in the path.", **submission.where(field))
    if body.version is not None:
        version = str(body.version)
    return await service.registry.resolve(call.params["model"], version, body.alias, metadata=body.metadata)


def _row(
    service: Service,
    call: Call,
    target: Target,
    line: str,
    submission: Submission,
    key: str | None,
    digest: str | None,
) -> NewPrediction:
    body = submission.body
    input_ = submission.input
    if submission.content_type is not None:
        size, shape = _measure_raw(target, submission)
    elif target.fetches:
        size, shape = inputs.measured(service, target, submission.value, input_, "/input")
    else:
        size, shape = target.measure(submission.value, input_, "/input")
    if (limit := body.execution_timeout_seconds) is not None and limit > target.timeout_s:
        detail = f"The model has {target.timeout_s:g} s at most."
        raise Problem.invalid(detail, **submission.where("execution_timeout_seconds"))
    webhook = None if body.webhook is None else receiver(service, body.webhook, submission.where("webhook"))
    return NewPrediction(
        id=new_id(),
        tenant_id=call.tenant,
        model=target.model,
        version=target.version,
        alias=body.alias,
        line=line,
        priority=body.priority,
        size=size,
        shape=shape,
        max_attempts=body.max_attempts or target.max_attempts,
        metadata=body.metadata,
        queue_timeout_us=_microseconds(body.queue_timeout_seconds) or target.queue_timeout_us,
        execution_timeout_us=_microseconds(limit),
        webhook=webhook,
        webhook_events=None if webhook is None else _events(body.webhook_events or ("completed",)),
        idempotency_key=key,
        idempotency_digest=digest,
        traceparent=tracing.traceparent(call),
        body=input_,
        content_type=submission.content_type,
    )


def _measure_raw(target: Target, submission: Submission) -> tuple[int, str | None]:
    try:
        return target.measure_raw(submission.value, len(submission.data), submission.content_type or "")
    except InputRefused as refused:
        raise refusal(refused) from refused


def _microseconds(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1e6)


def _events(names: Iterable[str]) -> Events:
    return functools.reduce(operator.or_, (Events[name.upper()] for name in names))


async def current(service: Service, waiter: Waiter, id_: str) -> Prediction | None:
    """The row after a wait that no notice has ended: as SQL last showed it. None: it did not."""
    present = waiter.present.get(id_)
    if id_ in waiter.ended and (present is None or not present.status.terminal):
        present = await service.reader.read(id_)  # the notice left the output out
    return None if present is None else await outputs.shown(service, present)


def _location(service: Service, id_: str) -> tuple[bytes, bytes]:
    return b"location", path_of(id_, service.settings.public_url).encode()


_QUEUED = (*JSON_HEADERS, (b"etag", b'W/"1-"'))


def _accepted(service: Service, row: NewPrediction, position: int, wait: int | None) -> Answer:
    """The row as it stands right after its INSERT."""
    body = accepted_json(row, position, service.settings.public_url)
    return Answer(202, body, (*_QUEUED, _location(service, row.id), RETRY_AFTER, *preference_applied(wait)))


def _created(service: Service, row: Prediction, wait: int | None, extra: Headers = ()) -> Answer:
    public_url = service.settings.public_url
    location = _location(service, row.id)
    if row.status.terminal:
        return prediction_answer(200, row, public_url, (location, *preference_applied(wait), *extra))
    return prediction_answer(202, row, public_url, (location, RETRY_AFTER, *preference_applied(wait), *extra))


async def read(service: Service, call: Call) -> Answer:
    """200, or 304 where the client has it already; with `Prefer: wait`, once it ended or is no longer what it was."""
    id_ = id_of(call)
    with_input = "include" in query_parameters(call.query, {"include": ("input",)})
    known = call.headers.get(b"if-none-match")
    wait = preferred_wait(call.headers.get(b"prefer", b""))
    row = await (own(service, call, id_) if not wait else _awaited(service, call, id_, known, wait))
    extra = preference_applied(wait)
    if known is not None and etag_matches(known, etag(row)):
        return not_modified(row, extra)
    if row.output_bytes is not None and row.output is None:
        row = await outputs.shown(service, row)
    input_ = input_type = None
    if with_input:
        found = await service.threads.run(lambda: service.predictions.read_input(id_, call.tenant))
        if found is not None:
            input_, input_type = await inputs.shown(service, id_, found), found.content_type
    place = await service.places.of(row) if row.status is Status.QUEUED else None
    return prediction_answer(200, row, service.settings.public_url, extra, input_, place, input_type=input_type)


async def _awaited(service: Service, call: Call, id_: str, known: bytes | None, wait: int) -> Prediction:
    # Registered before it is read: what happens in between is not missed.
    waiter = service.waiting.register((id_,), wait, receive=call.receive)
    try:
        row = await own(service, call, id_)
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
    if waiter.hung_up:
        raise Disconnected
    if (ended := waiter.ended.get(id_)) is not None:
        return after(row, ended)
    return await current(service, waiter, id_) or row
