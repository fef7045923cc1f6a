"""Traffic as operators split it: to which versions go submissions that name none, and which are sent copies."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from api import audit
from api.answers import Answer, json_answer
from api.exchange import Call, query_parameters
from api.models import traffic_of
from api.problems import Problem
from api.registry import ModelView
from api.requests import read_body
from api.service import Service
from api.versions import fresh
from headway.registry import Traffic, Weight

_Version = Annotated[str, Meta(max_length=64)]

#: Each shadow is a prediction more for every one that is made.
_MOST_SHADOWS = 4


class TrafficBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """The body of a PUT: all of it, what is left out included."""

    versions: Annotated[dict[_Version, Weight], Meta(max_length=64)]
    shadow: Annotated[list[_Version | int], Meta(max_length=_MOST_SHADOWS)] = []
    sticky: Annotated[str, Meta(min_length=1, max_length=64)] | None = None


_decoder = msgspec.json.Decoder(TrafficBody)


async def read_traffic(service: Service, call: Call) -> Answer:
    """200."""
    query_parameters(call.query, {})
    return json_answer(_body(await fresh(service, call)))


async def put_traffic(service: Service, call: Call) -> Answer:
    """200 and the traffic as it is from now on; `{"versions": {}}` sends all to the latest."""
    query_parameters(call.query, {})
    body = await read_body(call, service.settings.max_body_bytes, _decoder)
    view = await fresh(service, call)
    traffic = _checked(view, body)
    await service.threads.run(lambda: service.routes.split(view.name, traffic))
    said = msgspec.json.encode(traffic).decode()
    audit.changed(call, f"traffic of {view.name} is {said}", model=view.name)
    await service.registry.refresh()
    return json_answer(_body(await service.registry.model(view.name)))


def _checked(view: ModelView, body: TrafficBody) -> Traffic:
    """Raises Problem with the place of what does not fit."""
    shadows = [str(version) for version in body.shadow]
    places = [(f"/versions/{_escaped(version)}", version) for version in body.versions]
    places += [(f"/shadow/{at}", version) for at, version in enumerate(shadows)]
    for pointer, version in places:
        if version not in view.versions:
            raise Problem.invalid(f"The model {view.name!r} has no version {version!r}.", pointer=pointer)
    for at, version in enumerate(shadows):
        if version in body.versions:
            raise Problem.invalid(f"Version {version!r} has a weight already.", pointer=f"/shadow/{at}")
        if version in shadows[:at]:
            raise Problem.invalid(f"Version {version!r} is given twice.", pointer=f"/shadow/{at}")
    if body.sticky is not None and "\0" in body.sticky:
        raise Problem.invalid("NUL characters cannot be stored.", pointer="/sticky")
    return Traffic(versions=body.versions, shadow=tuple(shadows), sticky=body.sticky)


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _body(view: ModelView) -> dict[str, Any]:
    return {"object": "traffic", "model": view.name, **traffic_of(view)}
