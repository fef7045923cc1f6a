"""Models, their versions and what waits for them."""

from collections.abc import Mapping
from typing import Any

import msgspec

from api.answers import Answer, json_answer
from api.exchange import Call, query_parameters
from api.registry import ModelView, drain_rate
from api.service import Service
from api.versions import fresh
from headway import broker, quantiles
from headway.manifest import Tensor
from headway.registry import Version
from headway.rendering import optional_time
from storage.reading import Backlog


async def list_models(service: Service, call: Call) -> Answer:
    """All models, by name."""
    query_parameters(call.query, {})
    await service.registry.refresh()
    return json_answer({"object": "list", "data": [_model(view) for view in service.registry.views.values()]})


async def read_model(service: Service, call: Call) -> Answer:
    query_parameters(call.query, {})
    return json_answer(_model(await fresh(service, call)))


async def list_versions(service: Service, call: Call) -> Answer:
    """Oldest first."""
    query_parameters(call.query, {})
    view = await fresh(service, call)
    return json_answer({"object": "list", "data": [version_body(row) for row in view.versions.values()]})


async def read_queue(service: Service, call: Call) -> Answer:
    """The backlog of a model and of each of its versions; no line is counted beyond 100,000."""
    query_parameters(call.query, {})
    return await queue_answer(service, await fresh(service, call))


async def queue_answer(service: Service, view: ModelView) -> Answer:
    """200 and the queue object."""
    backlog, now = await service.threads.run(lambda: _read_backlog(service, view))
    versions = []
    for version, row in view.versions.items():
        of_version = [one for line, one in backlog.items() if broker.parse_line(line).version == version]
        versions.append({"version": version, **_backlog(of_version, now, drain_rate(row))})
    total = _backlog(list(backlog.values()), now, view.drain_rate)
    paused = view.route.paused
    return json_answer({"object": "queue", "model": view.name, "paused": paused, **total, "versions": versions})


def _read_backlog(service: Service, view: ModelView) -> tuple[dict[str, Backlog], int]:
    """By line, and the database's clock."""
    classes = service.tenants.classes()
    lines = [line for version in view.versions for line in broker.lines(view.name, version, classes)]
    return service.predictions.backlog(lines), service.predictions.now()


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
        "paused": view.route.paused,
        "aliases": dict(view.aliases),
        "traffic": traffic_of(view),
        "versions": [version_body(row) for row in view.versions.values()],
    }


def traffic_of(view: ModelView) -> dict[str, Any]:
    """Where submissions go that name no version. `now`: the share of each version that takes any."""
    traffic = view.route.traffic
    return {
        "versions": traffic.versions,
        "shadow": traffic.shadow,
        "sticky": traffic.sticky,
        "now": view.shares,
    }


def version_body(row: Version) -> dict[str, Any]:
    """`counts` since its workers started, the durations of their last minutes, from acceptance to the end."""
    manifest = row.manifest
    ended, failed, seconds = row.ended, row.failed, row.seconds
    return {
        "object": "model_version",
        "model": row.model,
        "version": row.version,
        "state": row.state,
        "reason": row.reason,
        "released": row.released,
        "wish": row.wish,
        "framework": row.framework,
        "sha256": row.sha256,
        "devices": [placement.device for placement in row.placements if placement.state == "ready"],
        "memory_bytes": row.memory_bytes,
        "counts": {"ended": ended, "failed": failed},
        "error_rate": failed / ended if ended else None,
        "p50_seconds": quantiles.quantile(seconds, 0.5),
        "p99_seconds": quantiles.quantile(seconds, 0.99),
        "created_at": optional_time(row.created_at),
        "loaded_at": optional_time(row.loaded_at),
        "batching": msgspec.to_builtins(manifest.batching),
        "limits": msgspec.to_builtins(manifest.limits),
        "inputs": _tensors(manifest.inputs),
        "outputs": _tensors(manifest.outputs),
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


def _tensors(declared: Mapping[str, Tensor]) -> dict[str, dict[str, Any]]:
    """With what is special about each: what it is not, is left out."""
    shown: dict[str, dict[str, Any]] = msgspec.to_builtins(declared)
    return {name: {key: value for key, value in one.items() if value is not False} for name, one in shown.items()}
