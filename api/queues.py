"""A model's queue in an operator's hand: pause, resume, purge. What is paused is accepted, and waits."""

import time

from api import audit
from api.answers import Answer, json_answer
from api.exchange import Call, query_parameters
from api.models import queue_answer
from api.registry import ModelView
from api.service import Service
from api.versions import fresh
from headway import broker

#: Rows of a transaction, and how long a call goes on, seconds.
_PAGE = 500
_LONGEST_S = 20.0
_PATIENCE_S = 10.0
#: Positions of a group run ahead of the clock, microseconds.
_AHEAD_US = 1000


async def pause(service: Service, call: Call) -> Answer:
    """200 and the queue. Workers stop taking within a second; what they have taken ends."""
    return await _pause(service, call, True)


async def resume(service: Service, call: Call) -> Answer:
    """200 and the queue."""
    return await _pause(service, call, False)


async def _pause(service: Service, call: Call, paused: bool) -> Answer:
    query_parameters(call.query, {})
    view = await fresh(service, call)
    await service.threads.run(lambda: service.routes.pause(view.name, paused))
    audit.changed(call, f"{'pause' if paused else 'resume'} {view.name}", model=view.name)
    await service.registry.refresh()
    return await queue_answer(service, await service.registry.model(view.name))


async def purge(service: Service, call: Call) -> Answer:
    """200 and how many are canceled of what was queued when it was asked; items of batches are not."""
    query_parameters(call.query, {})
    view = await fresh(service, call)
    lines, before = await service.threads.run(lambda: _lines(service, view))
    deadline, purged, shadows = time.monotonic() + _LONGEST_S, 0, 0
    for line in lines:
        count = _PAGE
        while count == _PAGE and (began := time.monotonic()) < deadline:
            canceled = await service.threads.run(
                lambda line=line: service.predictions.cancel_line(line, before, _PAGE),  # type: ignore[misc]
                patience_s=_PATIENCE_S,
            )
            count = len(canceled)
            if broker.is_bulk(line):
                shadows += count
            else:
                purged += count
                service.publisher.notify(canceled)
            await service.submitter.make_way(began)
    audit.changed(call, f"purge {view.name}: {purged} predictions and {shadows} shadows", model=view.name)
    has_more = time.monotonic() >= deadline
    return json_answer(
        {"object": "purge", "model": view.name, "purged": purged, "shadows": shadows, "has_more": has_more}
    )


def _lines(service: Service, view: ModelView) -> tuple[list[str], int]:
    """Of all versions and tenants, and the position behind what is queued."""
    classes = service.tenants.classes()
    lines = [line for version in view.versions for line in broker.all_lines(view.name, version, classes)]
    return lines, service.predictions.now() + _AHEAD_US
