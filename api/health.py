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
    """200 while SQL can be reached and its schema is current: then submissions are accepted, whatever else is down.

    `checks` says of each part what is known of it now: `sql` and `broker` (up, down), `schema` (current, not current),
    `workers` (live; late, whose beat stands still; how old the oldest beat is), `utility` (whether anybody
    reconciles) and each model by the state of its latest version. `degraded`: not all of it is well.
    """
    broker = "up" if service.waiting.subscribed else "down"
    checks: dict[str, object] = {"sql": "up", "broker": broker}
    if service.draining:
        raise Problem.unavailable("This process is stopping.", members={"checks": checks})
    try:
        current = await service.threads.run(lambda: schema_current(service.database))
        checks["schema"] = "current" if current else "not current"
        if not current:
            raise Problem.unavailable("The schema is not current: run `headway migrate`.", members={"checks": checks})
        await service.beats.refresh()
        await service.access.refresh()
        await service.registry.refresh()
    except StorageUnavailable as error:
        checks["sql"] = "down"
        raise Problem.unavailable("The database cannot be reached now.", members={"checks": checks}) from error
    workers, utility = service.beats.workers(), service.beats.utility()
    models = {view.name: view.versions[view.latest].state for view in service.registry.views.values()}
    checks |= {"workers": workers, "utility": utility, "models": models}
    well = (
        broker == "up"
        and workers["live"] > workers["late"]
        and utility["state"] == "up"
        and "failed" not in models.values()
    )
    return json_answer({"status": "ready" if well else "degraded", "checks": checks})


async def problem(service: Service, call: Call) -> Answer:
    """What `type` of every problem points to."""
    return json_answer(describe(call.params["code"]))
