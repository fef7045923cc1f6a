"""The models as TorchServe's clients know them: what is registered, by which name, and its default version.

A version that lies in the models folder is registered until the management API takes it away.
"""

from pathlib import Path

from api.dialects.torchserve.errors import no_such_model, no_such_version
from api.registry import ModelView
from api.service import Service
from headway import registration
from headway.errors import ManifestError
from headway.registration import Registration
from headway.registry import Version


def folder_of(service: Service, model: str, version: str) -> Path:
    return service.settings.models / model / version


def said_of(service: Service, row: Version) -> Registration | None:
    """What was registered of a version; None where it is not, or not any more. Reads the disk."""
    folder = folder_of(service, row.model, row.version)
    if not folder.is_dir():
        # A folder that this process does not see may be another host's.
        return None if row.wish == "unload" or service.settings.models.is_dir() else Registration()
    try:
        said = registration.read(folder)
    except ManifestError:
        said = Registration()
    return None if said.unregistered else said


def registered(service: Service, view: ModelView) -> dict[str, tuple[Version, Registration]]:
    """By version, the oldest first. Reads the disk."""
    found = {}
    for version, row in view.versions.items():
        if (said := said_of(service, row)) is not None:
            found[version] = (row, said)
    return found


def default_of(view: ModelView, there: dict[str, tuple[Version, Registration]]) -> str:
    """The version of requests that name none."""
    if view.split is not None and view.split.heaviest in there:
        return view.split.heaviest
    return view.latest if view.latest in there else next(iter(there))


async def view_of(service: Service, name: str) -> tuple[ModelView, dict[str, tuple[Version, Registration]]]:
    """A model with a version at least. Raises Refused."""
    view = service.registry.views.get(name)
    if view is None:
        await service.registry.refresh()
        view = service.registry.views.get(name)
    if view is None:
        raise no_such_model(name)
    known = view
    there = await service.threads.run(lambda: registered(service, known))
    if not there:
        raise no_such_model(name)
    return view, there


async def version_of(service: Service, name: str, version: str | None) -> tuple[ModelView, Version, Registration]:
    """The one that is named, else the default. Raises Refused."""
    view, there = await view_of(service, name)
    wanted = default_of(view, there) if version is None else version
    if wanted not in there:
        raise no_such_version(name, version or wanted)
    return view, *there[wanted]
