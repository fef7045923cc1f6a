"""Models, their versions and what waits for them."""

from typing import Any

import msgspec

from api.answers import Answer, json_answer
from api.exchange import Call, query_parameters
from api.registry import ModelView, drain_rate
from api.service import Service
from headway import broker
from headway.registry import Version
from headway.rendering import optional_time
from storage.predictions import Backlog


async def list_models(service: Service, call: Call) -> Answer:
    """All models, by name."""
    query_parameters(call.query, {})
    await service.registry.refresh()
    return json_answer({"object": "list", "data": [_model(view) for view in service.registry.views.values()]})


async def read_model(service: Service, call: Call) -> Answer:
    return json_answer(_model(await _fresh(service, call)))


async def list_versions(service: Service, call: Call) -> Answer:
    """Oldest first."""
    view = await _fresh(service, call)
    return json_answer({"object": "list", "data": [_version(row) for row in view.versions.values()]})


async def read_queue(service: Service, call: Call) -> Answer:
    """The backlog of a model and of each of its versions; no line is counted beyond 100,000."""
    view = await _fresh(service, call)
    backlog, now = await service.threads.run(lambda: _read_backlog(service, view))
    versions = []
    for version, row in view.versions.items():
        of_version = [one for line, one in backlog.items() if broker.parse_line(line).version == version]
        versions.append({"version": version, **_backlog(of_version, now, drain_rate(row))})
    total = _backlog(list(backlog.values()), now, view.drain_rate)
    return json_answer({"object": "queue", "model": view.name, **total, "versions": versions})


def _read_backlog(service: Service, view: ModelView) -> tuple[dict[str, Backlog], int]:
    """By line, and the database's clock."""
    classes = service.tenants.classes()
    lines = [line for version in view.versions for line in broker.lines(view.name, version, classes)]
    return service.predictions.backlog(lines), service.predictions.now()


async def _fresh(service: Service, call: Call) -> ModelView:
    query_parameters(call.query, {})
    await service.registry.refresh()
    return await service.registry.model(call.params["model"])


def _backlog(lines: list[Backlog], now: int, rate: float) -> dict[str, Any]:
    """`drain_rate`: predictions that end per second, over the workers that serve it."""
    oldest = min((line.oldest for line in lines if line.oldest is not None), default=None)
    return {
        "depth": sum(line.depth for line in lines),
        "oldest_age_seconds": None if oldest is None else max(0.0, (now - oldest) / 1e6),
        "drain_rate": rate,
    }


def _model(view: ModelView) -> dict[str, Any]:
    return {
        "object": "model",
        "name": view.name,
        "latest": view.latest,
        "state": view.versions[view.latest].state,
        "aliases": dict(view.aliases),
        "versions": [_version(row) for row in view.versions.values()],
    }


def _version(row: Version) -> dict[str, Any]:
    manifest = row.manifest
    return {
        "object": "model_version",
        "model": row.model,
        "version": row.version,
        "state": row.state,
        "reason": row.reason,
        "framework": row.framework,
        "sha256": row.sha256,
        "created_at": optional_time(row.created_at),
        "loaded_at": optional_time(row.loaded_at),
        "batching": msgspec.to_builtins(manifest.batching),
        "limits": msgspec.to_builtins(manifest.limits),
        "inputs": msgspec.to_builtins(manifest.inputs),
        "outputs": msgspec.to_builtins(manifest.outputs),
        "placements": [
            {
                "worker_id": placement.worker_id,
                "device": placement.device,
                "state": placement.state,
                "reason": placement.reason,
                "loaded_at": optional_time(placement.loaded_at),
                "memory_bytes": placement.memory_bytes,
                "ended": placement.ended,
                "rate": placement.rate,
            }
            for placement in row.placements
        ],
    }
