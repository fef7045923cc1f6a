"""What a client may do to its prediction: cancel it, retry it, delete it.

Each is one statement on one row, so of two at once one wins and the other is told how it found things.
"""

from api.answers import Answer
from api.exchange import Call, query_parameters
from api.ownership import id_of, there
from api.predictions import RETRY_AFTER
from api.problems import Problem
from api.rendering import ended_of, prediction_answer
from api.service import Service
from headway import broker
from headway.rendering import path_of
from headway.states import Status
from headway.types import Prediction


async def cancel(service: Service, call: Call) -> Answer:
    """200 canceled, at once or before; 202 canceling, until the device is free of it."""
    query_parameters(call.query, {})
    row = await canceled(service, id_of(call), call.tenant)
    if row.status is Status.CANCELING:
        return prediction_answer(202, row, service.settings.public_url, (RETRY_AFTER,))
    return prediction_answer(200, row, service.settings.public_url, ())


async def canceled(service: Service, id_: str, tenant: str) -> Prediction:
    """A tenant's, once it is canceled or canceling. Raises Problem."""
    changed, found = await service.threads.run(lambda: service.predictions.cancel(id_, tenant))
    row = there(tenant, found)
    if row.status is Status.CANCELING:
        service.publisher.cancel([row.id])  # asked again, it is said again: the first word may be lost
    elif row.status is not Status.CANCELED:
        raise Problem("already_terminal", f"The prediction has {row.status.label} already.")
    elif changed:
        service.publisher.notify({row.id: ended_of(row)})
    return row


async def retry(service: Service, call: Call) -> Answer:
    """202: queued again under its id, last in its line."""
    query_parameters(call.query, {})
    return await retried(service, id_of(call), call.tenant)


async def retried(service: Service, id_: str, tenant: str) -> Answer:
    """The same of a tenant's. Raises Problem."""
    changed, found = await service.threads.run(lambda: service.predictions.retry(id_, tenant))
    row = there(tenant, found)
    if not changed and row.batch_id is not None:
        raise Problem("not_retryable", "An item of a batch has been counted; submit its input again.")
    if not changed:
        raise Problem("not_retryable", f"The prediction is {row.status.label.replace('_', ' ')}.")
    hint = await service.threads.run(lambda: service.predictions.hint(row.id))
    if hint is not None:  # else a worker has found it already
        service.publisher.hint(row.line, broker.envelopes(row.line, [(row.priority, hint)], at_most=1), 1)
    public_url = service.settings.public_url
    return prediction_answer(202, row, public_url, ((b"location", path_of(row.id, public_url).encode()), RETRY_AFTER))


async def delete(service: Service, call: Call) -> Answer:
    """204: its input, output and metadata are gone, and its id answers 410 until retention ends."""
    query_parameters(call.query, {})
    id_ = id_of(call)
    changed, row = await service.threads.run(lambda: service.predictions.delete(id_, call.tenant))
    if not changed:
        row = there(call.tenant, row)
        raise Problem("not_terminal", f"The prediction is {row.status.label.replace('_', ' ')}.")
    for one in (id_, *await service.threads.run(lambda: service.predictions.shadows_of(id_))):
        await service.forget_blobs(one)
    return Answer(204, b"", ((b"cache-control", b"private, no-cache"),))
