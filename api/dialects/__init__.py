"""Other servers' protocols over the one engine: a folder a dialect, a listener a port.

A dialect translates, and does nothing else: what it is sent becomes a prediction like everybody's, in the same lanes
and micro-batches, and its status codes, headers and errors are those of the server that it stands for.
"""

import asyncio
from collections.abc import Coroutine, Iterable, Mapping
from typing import Any

from api.dialects import bentoml, kserve, mlserver, torchserve
from api.dialects.front import Dialect
from api.dialects.oip import http as oip_http
from api.dialects.oip import metrics as oip_metrics
from api.dialects.tfserving import rest as tfserving_rest
from api.dialects.torchserve import startup
from api.service import Service

#: (dialect, role) → the front of what is HTTP.
_HTTP = {
    ("oip", "http"): oip_http.front,
    ("oip", "metrics"): oip_metrics.front,
    ("tfserving", "rest"): tfserving_rest.front,
    **torchserve.FRONTS,
    ("kserve", "http"): kserve.front,
    ("mlserver", "http"): mlserver.front,
    ("bentoml", "http"): bentoml.front,
}


def fronts(service: Service, spoken: Mapping[tuple[str, str], object]) -> list[Dialect]:
    """One for each of the HTTP ports, in their order."""
    return [_HTTP[key](service) for key in spoken]


def prepare(service: Service) -> None:
    """Blocks, with what is done before anything is listened for."""
    if "torchserve" in service.settings.dialects:
        startup.warn(service)
        startup.load(service)


def others(service: Service, stopped: asyncio.Event, *, shared: bool, most: int) -> Iterable[Coroutine[Any, Any, None]]:
    """What serves the ports that are no HTTP, each until `stopped` is set.

    `shared`: further API processes may listen at the same. `most`: connections of a port.
    """
    for dialect in ("oip", "kserve", "mlserver"):
        if "grpc" in service.settings.dialects.get(dialect, ()):
            from api.dialects.oip import grpc  # of an extra

            yield grpc.run(service, stopped, dialect=dialect, shared=shared, most=most)
    if "grpc" in service.settings.dialects.get("tfserving", ()):
        from api.dialects.tfserving import grpc as tfserving_grpc

        yield tfserving_grpc.run(service, stopped, shared=shared, most=most)
