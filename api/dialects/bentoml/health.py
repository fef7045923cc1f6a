"""Whether it lives, and whether it can be called."""

from api.answers import Answer
from api.dialects.bentoml.errors import Refused
from api.exchange import Call
from api.service import Service

_TEXT = ((b"content-type", b"text/plain; charset=utf-8"),)


async def live(service: Service, call: Call) -> Answer:
    return Answer(200, b"\n", _TEXT)


async def ready(service: Service, call: Call) -> Answer:
    """Once what should be loaded has been tried: who asks for the schema then finds all that there is."""
    loading = any(
        row.state == "loading" and row.loaded_at is None and row.wish != "unload" and view.wanted(row.version)
        for view in service.registry.views.values()
        for row in view.versions.values()
    )
    if loading or service.draining or not service.registry.views:
        raise Refused(500, "Internal Server Error")
    return Answer(200, b"\n", _TEXT)
