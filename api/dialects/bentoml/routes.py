"""What there is to be called: the APIs of services, models of a model store by their methods, and every other model.

    a service's API           at its route, and at /MODEL/ROUTE
    a stored model's method   /MODEL/METHOD; the usual one at /MODEL; at /METHOD where no other has it
    any other model           /MODEL

Two services with the same route: the first by name has it. All but a service's plain APIs are tasks as well.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from api.registry import ModelView
from api.service import Service
from headway import bentoml
from headway.bentoml import store
from headway.manifest import Manifest, Tensor
from headway.registry import Version

#: Task's verbs and their methods.
VERBS = {"submit": "POST", "status": "GET", "get": "GET", "retry": "POST", "cancel": "PUT"}


class Found(NamedTuple):
    """A route, and what is behind it."""

    route: bentoml.Route
    model: str
    manifest: Manifest
    api: str | None = None  # of a service
    method: str | None = None  # of a stored model
    timeout_s: float = bentoml.TIMEOUT_S
    service: str = ""  # its name


class Table(NamedTuple):
    """`paths`: all that are answered; `listed`: each once, by name."""

    paths: Mapping[str, Found]
    listed: Mapping[str, Found]


_kept: tuple[Any, Table] | None = None


def table(service: Service) -> Table:
    """As of the registry's last look."""
    global _kept
    views = service.registry.views
    if _kept is None or _kept[0] is not views:
        _kept = views, _made(views)
    return _kept[1]


def find(service: Service, path: str) -> tuple[Found, str] | None:
    """(what is behind a path, the verb of a task or "")."""
    paths = table(service).paths
    if (found := paths.get(path)) is not None:
        return found, ""
    base, _, verb = path.rpartition("/")
    found = paths.get(base)
    return (found, verb) if found is not None and found.route.is_task and verb in VERBS else None


def _made(views: Mapping[str, ModelView]) -> Table:
    paths: dict[str, Found] = {}
    listed: dict[str, Found] = {}
    rows = {name: view.versions[view.latest] for name, view in views.items()}
    for name, row in rows.items():
        for found in _of_service(name, row):
            own = f"/{name}{found.route.route}"
            listing = found.route
            if listing.route in paths or listing.name in listed:
                listing = msgspec.structs.replace(listing, name=f"{name}_{listing.name}", route=own)
            found = found._replace(route=listing)
            listed.setdefault(listing.name, found)
            paths.setdefault(listing.route, found)
            paths.setdefault(own, found)
    stored = {name: store.call_of(row.manifest) for name, row in rows.items() if store.CALL in row.manifest.config}
    having = Counter(method for call in stored.values() for method in call.methods)
    for name, row in rows.items():
        if row.framework == "bentoml.service":
            continue
        found = _of_model(name, row.manifest, None)
        paths.setdefault(found.route.route, found)
        listed.setdefault(found.route.name, found)
        call = stored.get(name)
        for method in () if call is None else call.methods:
            one = _of_model(name, row.manifest, method)
            paths.setdefault(one.route.route, one)
            if call is not None and len(call.methods) > 1:
                listed.setdefault(one.route.name, one)
            if having[method] == 1 and f"/{method}" not in paths and method not in listed:
                alone = one._replace(route=msgspec.structs.replace(one.route, name=method, route=f"/{method}"))
                listed[method] = paths[f"/{method}"] = alone
    return Table(paths, dict(sorted(listed.items())))


def _of_service(name: str, row: Version) -> list[Found]:
    said = row.manifest.config.get("bentoml")
    if row.framework != "bentoml.service" or said is None:
        return []
    service = msgspec.convert(said, bentoml.Routes)
    return [
        Found(route, name, row.manifest, api=route.name, timeout_s=service.timeout_s, service=service.name)
        for route in service.routes
    ]


def _of_model(name: str, manifest: Manifest, method: str | None) -> Found:
    route = bentoml.Route(
        name=name if method is None else f"{name}_{method}",
        route=f"/{name}" if method is None else f"/{name}/{method}",
        input=_input(manifest),
        output=_output(manifest),
        batchable=manifest.items == "joined" or manifest.batching.max_batch_size > 1,
        is_task=True,
    )
    return Found(route, name, manifest, method=method)


def _input(manifest: Manifest) -> dict[str, Any]:
    """Of a model that declares nothing, the whole body."""
    inputs = {name: tensor for name, tensor in manifest.inputs.items() if name != store.METHOD}
    if not inputs:
        return {"root_input": True}
    properties = {name: {"title": name, **_tensor(tensor)} for name, tensor in inputs.items()}
    required = [name for name, tensor in inputs.items() if not tensor.optional]
    return {"properties": properties, "required": required, "title": "Input", "type": "object"}


def _output(manifest: Manifest) -> dict[str, Any]:
    if not manifest.outputs:
        return {}
    if len(manifest.outputs) == 1:
        return _tensor(next(iter(manifest.outputs.values())))
    properties = {name: _tensor(tensor) for name, tensor in manifest.outputs.items()}
    return {"properties": properties, "title": "Output", "type": "object"}


def _tensor(tensor: Tensor) -> dict[str, Any]:
    """Without a shape, into which clients would force it: a request may have a row or several."""
    if tensor.dtype == "string":
        return {"type": "array"} if tensor.shape else {}
    if not tensor.shape and not tensor.nullable:
        return {"format": "numpy-array", "type": "tensor"}
    dtype = "float32" if tensor.dtype == "bfloat16" else tensor.dtype
    return {"dtype": dtype, "format": "numpy-array", "type": "tensor"}
