"""The model repository extension: what lies there, and loading and unloading it at a client's word."""

import asyncio
import time

from api import audit
from api.dialects.oip.errors import Code, Refused
from api.dialects.oip.inference import resolve
from api.exchange import Call
from api.registry import ModelView
from api.service import Service
from headway.errors import StorageUnavailable
from headway.registry import Version, Wish

#: A load is waited for this long.
LOAD_S = 600.0
_LOOK_S = 0.1


def index(service: Service, *, ready: bool) -> list[dict[str, str]]:
    """Every version: `ready`, only those that are."""
    rows = [row for view in service.registry.views.values() for row in view.versions.values()]
    shown = [_shown(row) for row in rows]
    return [one for one in shown if one["state"] == "READY"] if ready else shown


_STATES = {"ready": "READY", "loading": "LOADING", "failed": "UNAVAILABLE", "unloaded": "UNAVAILABLE"}


def _shown(row: Version) -> dict[str, str]:
    shown = {"name": row.model, "version": row.version, "state": _STATES[row.state]}
    if row.state in ("failed", "unloaded"):
        shown["reason"] = row.reason or row.state
    return shown


async def is_ready(service: Service) -> bool:
    """It takes requests, and has read from SQL what there is."""
    if not service.registry.views:
        try:
            await service.registry.refresh()
        except StorageUnavailable:
            return False
    return not service.draining


async def version_of(service: Service, name: str, version: str | None) -> tuple[Version, list[str]]:
    """The version that is asked for, and all that can be. Raises Refused where there is none."""
    await service.registry.refresh()
    target, _ = await resolve(service, name, version)
    view = await service.registry.model(target.model)
    served = [version] if version else [each for each, row in view.versions.items() if row.state == "ready"]
    return view.versions[target.version], served or [target.version]


def counted(service: Service, name: str, version: str | None) -> list[Version]:
    """The version that is asked for, or all of the model's that are served: of statistics. Raises Refused."""
    view = service.registry.views.get(name)
    if view is None:
        raise Refused(Code.INVALID_ARG, f"requested model '{name}' is not available")
    if not version:
        return [row for row in view.versions.values() if row.state == "ready"]
    if version not in view.versions:
        raise Refused(Code.INVALID_ARG, f"requested model version is not available for model '{name}'")
    return [view.versions[version]]


async def load(service: Service, call: Call, name: str) -> None:
    """Returns once what the policy wants of it is loaded. Raises Refused."""
    await service.registry.refresh()
    view = service.registry.views.get(name)
    if view is None:
        raise Refused(Code.INTERNAL, f"failed to load '{name}', failed to poll from model repository")
    wanted = [row for row in view.versions.values() if view.wanted(row.version)]
    for row in _with_steps(service, wanted):
        await service.threads.run(lambda row=row: service.models.wish(row.model, row.version, _wish(service, row)))  # type: ignore[misc]
    audit.changed(call, f"load {name}", model=name)
    give_up = time.monotonic() + LOAD_S
    while True:
        await service.registry.refresh()
        states = [service.registry.views[name].versions[row.version] for row in wanted]
        if failed := next((row for row in states if row.state == "failed"), None):
            state = f"version {failed.version} is at UNAVAILABLE state: Internal: {failed.reason};"
            if failed.manifest.steps:
                state = f"{failed.reason}\n"
            raise Refused(Code.INVALID_ARG, f"load failed for model '{name}': {state}")
        if all(row.state == "ready" for row in states):
            return
        if time.monotonic() >= give_up:
            raise Refused(Code.UNAVAILABLE, f"model '{name}' is still loading")
        await asyncio.sleep(_LOOK_S)


def _with_steps(service: Service, rows: list[Version]) -> list[Version]:
    """And the versions that ensembles among them are made of."""
    found = {(row.model, row.version): row for row in rows}
    ahead = list(rows)
    while ahead:
        for step in ahead.pop().manifest.steps:
            view = service.registry.views.get(step.model)
            row = None if view is None else view.versions.get(step.version or view.latest)
            if row is not None and (row.model, row.version) not in found:
                found[row.model, row.version] = row
                ahead.append(row)
    return list(found.values())


def _wish(service: Service, row: Version) -> Wish | None:
    """What loads it, and keeps it loaded."""
    return None if service.registry.views[row.model].wanted(row.version) else "load"


def unconfigurable() -> Refused:
    """Of a load that brings a configuration or files."""
    return Refused(
        Code.UNSUPPORTED,
        "load: this server takes no configuration or files from clients; change the model folder",
    )


def no_region(kind: str, name: str) -> Refused:
    """Of shared memory, in which nobody has registered anything."""
    return Refused(Code.NOT_FOUND, f"Unable to find {kind} shared memory region: '{name[:200]}'")


async def unload(service: Service, call: Call, name: str) -> None:
    """Returns once workers are told; what is at it ends. An unknown model is unloaded already."""
    await service.registry.refresh()
    view: ModelView | None = service.registry.views.get(name)
    if view is None:
        return
    for version in view.versions:
        await service.threads.run(lambda version=version: service.models.wish(name, version, "unload"))  # type: ignore[misc]
    audit.changed(call, f"unload {name}", model=name)
    await service.registry.refresh()
