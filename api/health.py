"""Is the process alive, and would a submission be accepted now."""

from api.answers import Answer, json_answer
from api.exchange import Call
from api.problems import Problem, describe
from api.service import Service
from headway.errors import StorageUnavailable
from storage.migrate import schema_current


async def health(service: Service, call: Call) -> Answer:
    """200 as long as the process answers."""
    return json_answer({"status": "ok"})


async def ready(service: Service, call: Call) -> Answer:
    """200 while SQL can be reached and its schema is current: then submissions are accepted, whatever else is down."""
    checks: dict[str, object] = {"sql": "up", "broker": "up" if service.waiting.subscribed else "down"}
    if service.draining:
        raise Problem.unavailable("This process is stopping.", members={"checks": checks})
    try:
        if not await service.threads.run(lambda: schema_current(service.database)):
            checks["sql"] = "schema is not current"
            raise Problem.unavailable("The schema is not current: run `headway migrate`.", members={"checks": checks})
        beats = await service.threads.run(service.workers.beats)
        await service.access.refresh()
        await service.registry.refresh()
    except StorageUnavailable as error:
        checks["sql"] = "down"
        raise Problem.unavailable("The database cannot be reached now.", members={"checks": checks}) from error
    models = {view.name: view.versions[view.latest].state for view in service.registry.views.values()}
    checks |= {"workers": len(beats), "models": models}
    degraded = checks["broker"] == "down" or not beats or "failed" in models.values()
    return json_answer({"status": "degraded" if degraded else "ready", "checks": checks})


async def problem(service: Service, call: Call) -> Answer:
    """What `type` of every problem points to."""
    return json_answer(describe(call.params["code"]))
