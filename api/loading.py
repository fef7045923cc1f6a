"""Loading and unloading at an operator's word. Workers heed it within a second; nobody waits for it here."""

from collections.abc import Callable

from api import audit
from api.answers import Answer, json_answer
from api.exchange import Call, query_parameters
from api.models import version_body
from api.registry import ModelView
from api.service import Service
from api.versions import existing, fresh
from headway.registry import Wish


async def load(service: Service, call: Call) -> Answer:
    """202. What neither policy, alias nor traffic wants is kept loaded from now on; what they want is only unbarred."""
    return await _wish(service, call, lambda view, version: None if view.wanted(version) else "load")


async def unload(service: Service, call: Call) -> Answer:
    """202. It is not loaded again, whoever waits for it, before `load` or `reset`."""
    return await _wish(service, call, lambda view, version: "unload")


async def reset(service: Service, call: Call) -> Answer:
    """202. As the policy, the aliases and traffic have it."""
    return await _wish(service, call, lambda view, version: None)


async def _wish(service: Service, call: Call, wish_of: Callable[[ModelView, str], Wish | None]) -> Answer:
    query_parameters(call.query, {})
    view = await fresh(service, call)
    row = existing(view, call.params["version"])
    wish = wish_of(view, row.version)
    await service.threads.run(lambda: service.models.wish(row.model, row.version, wish))
    verb = call.path.rpartition("/")[2]
    audit.changed(call, f"{verb} {row.model} version {row.version}", model=row.model, version=row.version)
    await service.registry.refresh()
    return json_answer(version_body(existing(await service.registry.model(row.model), row.version)), 202)
