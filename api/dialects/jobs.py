"""What dialects submit: rows like those of the data port, and calls that are answered with a job instead of a result.

Any predict call of any dialect may ask for that, by `X-Headway-Async: true` or `Prefer: respond-async`: 202 and the
prediction's URL at the data port. `X-Headway-Webhook` names who is to be told; `Idempotency-Key` makes it safe to
repeat.
"""

import asyncio

import msgspec

from api import idempotency, inputs, tracing
from api.answers import JSON_HEADERS, Answer
from api.exchange import Call
from api.problems import Problem
from api.registry import Target
from api.rendering import accepted_json, prediction_answer
from api.service import Service
from api.webhooks import receiver
from headway.clock import new_id
from headway.rendering import path_of
from headway.types import NewPrediction
from headway.webhooks import Events
from storage.submitting import Held

PRIORITY = 5
#: A caller of another server's waits as long as it likes; whoever hangs up is let go.
LONGEST_WAIT_S = 86_400.0

_RETRY_AFTER = (b"retry-after", b"1")


def is_job(call: Call) -> bool:
    """Whether the answer should be a job."""
    if call.headers.get(b"x-headway-async", b"").strip().lower() in (b"true", b"1"):
        return True
    preferences = call.headers.get(b"prefer", b"").lower().split(b",")
    return any(each.partition(b";")[0].strip() == b"respond-async" for each in preferences)


async def row_of(
    service: Service,
    call: Call,
    target: Target,
    body: bytes,
    content_type: str | None,
    measured: tuple[int, str | None],
    *,
    priority: int = PRIORITY,
    queue_timeout_us: int | None = None,
) -> NewPrediction:
    """A row of one request; `measured`: its size and shape."""
    size, shape = measured
    row = NewPrediction(
        id=new_id(),
        tenant_id=call.tenant,
        model=target.model,
        version=target.version,
        alias=None,
        line=target.line(priority, await service.classes.of(call.tenant)),
        priority=priority,
        size=size,
        shape=shape,
        max_attempts=target.max_attempts,
        queue_timeout_us=queue_timeout_us or target.queue_timeout_us,
        traceparent=tracing.traceparent(call),
        body=body,
        content_type=content_type,
    )
    return await inputs.kept(service, row)


async def submit(service: Service, call: Call, target: Target, row: NewPrediction, asked: bytes) -> Answer:
    """202 once it is committed, or as it stands where its idempotency key came before. `asked`: the request's body."""
    key = idempotency.key_of(call)
    webhook = None
    if url := call.headers.get(b"x-headway-webhook", b"").decode("latin-1").strip():
        webhook = receiver(service, url, {"header": "X-Headway-Webhook"})
    row = msgspec.structs.replace(
        row,
        webhook=webhook,
        webhook_events=None if webhook is None else Events.COMPLETED,
        idempotency_key=key,
        idempotency_digest=None
        if key is None
        else await asyncio.to_thread(idempotency.digest, call, call.query, asked),
    )
    await service.capacity.admit(target)
    position = await service.submitter.submit(row, target.at_most)
    if isinstance(position, Held):
        if row.blob_bytes is not None:
            await service.forget_blobs(row.id)
        if not position.same:
            raise idempotency.reused()
        present = await service.reader.read(position.id)
        if present is None:
            raise Problem.of("prediction_purged")
        headers = ((b"location", url_of(service, position.id)), (b"idempotency-replayed", b"true"))
        return prediction_answer(202, present, _base(service), headers)
    tracing.accepted(call, (row.id,))
    body = accepted_json(row, position, _base(service))
    return Answer(202, body, (*JSON_HEADERS, (b"location", url_of(service, row.id)), _RETRY_AFTER))


def url_of(service: Service, id_: str) -> bytes:
    """At the data port, which is another than the dialect's."""
    return path_of(id_, _base(service)).encode()


def _base(service: Service) -> str:
    settings = service.settings
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host  # noqa: S104
    return settings.public_url or f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"
