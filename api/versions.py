"""Model versions as endpoints name them."""

from api.exchange import Call
from api.problems import Problem
from api.registry import ModelView
from api.service import Service
from headway.registry import Version


async def fresh(service: Service, call: Call) -> ModelView:
    """The model in the path as it is now. Raises Problem model_not_found."""
    await service.registry.refresh()
    return await service.registry.model(call.params["model"])


def existing(view: ModelView, version: str) -> Version:
    """Raises Problem version_not_found."""
    row = view.versions.get(version)
    if row is None:
        raise Problem("version_not_found", f"The model {view.name!r} has no version {version[:80]!r}.")
    return row
