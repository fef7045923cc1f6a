"""A model's queue in an operator's hand: pause and resume. What is paused is accepted, and waits."""

from api import audit
from api.answers import Answer
from api.exchange import Call, query_parameters
from api.models import queue_answer
from api.service import Service
from api.versions import fresh


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
