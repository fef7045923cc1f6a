"""Live workers as operators see them: what their devices do, and what is loaded there."""

from api.answers import Answer, json_answer
from api.exchange import Call, query_parameters
from api.service import Service
from headway.clock import rfc3339


async def list_devices(service: Service, call: Call) -> Answer:
    """By host and device."""
    query_parameters(call.query, {})
    devices = await service.threads.run(service.workers.devices)
    await service.registry.refresh()
    rows = [row for view in service.registry.views.values() for row in view.versions.values()]
    data = [
        {
            "object": "device",
            "worker_id": device.worker_id,
            "device": device.device,
            "host": device.host,
            "started_at": rfc3339(device.started_at),
            "busy": device.stats.busy,
            "memory_bytes": device.stats.memory_bytes,
            "memory_budget": device.stats.memory_budget,
            "loads": device.stats.loads,
            "unloads": device.stats.unloads,
            "versions": [
                {
                    "model": row.model,
                    "version": row.version,
                    "state": placement.state,
                    "reason": placement.reason,
                    "memory_bytes": placement.memory_bytes,
                }
                for row in rows
                for placement in row.placements
                if placement.worker_id == device.worker_id
            ],
        }
        for device in devices
    ]
    return json_answer({"object": "list", "data": data})
