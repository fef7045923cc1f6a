"""Models as MLServer's clients know them: metadata, readiness, and loading at a client's word."""

from typing import Any

import msgspec
from pydantic import TypeAdapter

from api.answers import Answer
from api.dialects import framework
from api.dialects.mlserver.errors import JSON, Refused, detailed, no_such_model
from api.dialects.oip import metadata, repository
from api.dialects.oip.errors import Refused as OipRefused
from api.exchange import Call
from api.problems import Problem
from api.registry import Target
from api.service import Service
from headway import mlserver
from headway.mlserver.types import RepositoryIndexRequest
from headway.registry import Version

#: The release whose answers these are.
_VERSION = "1.7.1"
_STATES = {"ready": "READY", "loading": "LOADING", "failed": "UNAVAILABLE", "unloaded": "UNAVAILABLE"}

_index: TypeAdapter[RepositoryIndexRequest] = TypeAdapter(RepositoryIndexRequest)


async def target_of(service: Service, name: str, version: str | None) -> tuple[Target, Version]:
    """Where a request goes. Raises Refused, Problem."""
    try:
        target = await service.registry.resolve(name, version)
    except Problem as problem:
        if problem.code in ("model_not_found", "version_not_found"):
            raise no_such_model(name, version) from problem
        if problem.code == "unavailable" and name in service.registry.views:  # MLServer knows none that did not load
            raise no_such_model(name, version) from problem
        raise
    row = service.registry.views[target.model].versions[target.version]
    if row.wish == "unload":
        raise no_such_model(name, version)
    return target, row


async def server(service: Service, call: Call) -> Answer:
    return _answer({"name": "mlserver", "version": _VERSION, "extensions": []})


async def live(service: Service, call: Call) -> Answer:
    return Answer(200, b"", ())


async def ready(service: Service, call: Call) -> Answer:
    return Answer(200 if await repository.is_ready(service) else 400, b"", ())


async def model_ready(service: Service, call: Call) -> Answer:
    await service.registry.refresh()
    _, row = await target_of(service, call.params["model"], call.params.get("version"))
    return Answer(200 if row.state == "ready" else 400, b"", ())


async def model(service: Service, call: Call) -> Answer:
    await service.registry.refresh()
    _, row = await target_of(service, call.params["model"], call.params.get("version"))
    if row.manifest.backend == mlserver.BACKEND:
        said = row.manifest.config["mlserver"]
        content_type = (said.get("parameters") or {}).get("content_type")
        shown: dict[str, Any] = {
            "name": row.model,
            "versions": said.get("versions", []),
            "platform": said.get("platform", ""),
            "inputs": said.get("inputs", []),
            "outputs": said.get("outputs", []),
            "parameters": {} if content_type is None else {"content_type": content_type},
        }
        return _answer(shown)
    return _answer(metadata.model(row, [row.version]))


async def index(service: Service, call: Call) -> Answer:
    body = await call.body(service.settings.max_body_bytes)
    try:
        asked: RepositoryIndexRequest = framework.checked(_index, body)
    except framework.Unlike as error:
        raise detailed(422, error.detail) from error
    await service.registry.refresh()
    rows = [row for view in service.registry.views.values() for row in view.versions.values()]
    return _answer([_shown(row) for row in rows if row.state == "ready" or not asked.ready])


def _shown(row: Version) -> dict[str, str]:
    shown = {"name": row.model, "version": row.version}
    if row.manifest.backend == mlserver.BACKEND and not (row.manifest.config["mlserver"].get("parameters") or {}).get(
        "version"
    ):
        del shown["version"]
    return {**shown, "state": _STATES[row.state], "reason": "" if row.state == "ready" else row.reason or ""}


async def load(service: Service, call: Call) -> Answer:
    name = call.params["model"]
    await call.body(service.settings.max_body_bytes)
    await service.registry.refresh()
    if name not in service.registry.views:
        raise no_such_model(name, None)
    try:
        await repository.load(service, call, name)
    except OipRefused as refused:
        raise Refused(500, str(refused)) from refused
    return Answer(200, b"", ())


async def unload(service: Service, call: Call) -> Answer:
    name = call.params["model"]
    await call.body(service.settings.max_body_bytes)
    await service.registry.refresh()
    view = service.registry.views.get(name)
    if view is None or all(row.wish == "unload" for row in view.versions.values()):
        raise no_such_model(name, None)
    await repository.unload(service, call, name)
    return Answer(200, b"", ())


def _answer(value: Any) -> Answer:
    return Answer(200, msgspec.json.encode(value), JSON)
