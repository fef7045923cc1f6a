"""Models as KServe's clients know them: by name, ready or not."""

from api.dialects.kserve.errors import no_such_model, not_ready
from api.problems import Problem
from api.registry import ModelView, Target
from api.service import Service
from headway.registry import Version


def names(service: Service) -> list[str]:
    """All but those that an operator has unloaded."""
    return [name for name, view in service.registry.views.items() if not _gone(view)]


async def target_of(service: Service, name: str, version: str | None = None) -> tuple[Target, Version]:
    """Where a request goes. Raises Refused, Problem."""
    try:
        target = await service.registry.resolve(name, version)
    except Problem as problem:
        if problem.code in ("model_not_found", "version_not_found"):
            raise no_such_model(name if version is None else f"{name} and version {version}") from problem
        if problem.code == "unavailable" and name in service.registry.views:
            raise not_ready(name) from problem
        raise
    view = service.registry.views[target.model]
    if _gone(view):
        raise no_such_model(name)
    return target, view.versions[target.version]


async def ready(service: Service, name: str, version: str | None = None) -> None:
    """Raises Refused where it is not."""
    await service.registry.refresh()
    _, row = await target_of(service, name, version)
    if row.state != "ready":
        raise not_ready(name)


def _gone(view: ModelView) -> bool:
    return all(row.wish == "unload" for row in view.versions.values())
