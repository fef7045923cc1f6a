"""The management port: archives are registered, scaled, described and unregistered; every change is an admin's.

What is registered is a version folder like any other, and a version's workers are the device processes of each device
that has it. Workers heed a change within a second or so; who asks to wait (`synchronous`) is answered then.
"""

import asyncio
import json
import time
import urllib.parse
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from api import audit
from api.answers import Answer
from api.asking import ask
from api.dialects import jobs
from api.dialects.torchserve import catalogue, description, store
from api.dialects.torchserve.errors import Refused, bad_request, pretty
from api.dialects.torchserve.requests import measured, stored
from api.exchange import Call
from api.registry import ModelView
from api.service import Service
from headway import broker, envelopes, mar
from headway.errors import ManifestError
from headway.registration import Registration
from headway.registry import Traffic, Version, Wish
from headway.rendering import optional_time
from headway.states import Status
from headway.types import Prediction

_RUNTIMES = ("python", "python3")
STARTUP_TIMEOUT_S = 120
#: Between two looks at a version that somebody waits for.
_LOOK_S = 0.1
#: A version's former state is told by SQL for so long after a change, at most.
_HEARD_S = 3.0
#: What is under way at a version that leaves is computed first.
_UNLOAD_S = 60.0
_DESCRIBE_S = 60.0
#: Archives may be large, and disks slow.
_FILES_S = 600.0
_MOST_BODY = 1024 * 1024
_UPDATING = {"status": "Processing worker updates..."}


async def describe_api(service: Service, call: Call) -> Answer:
    return pretty(description.management())


# ── looking ───────────────────────────────────────────────────────────────────────────────────────────────────


async def list_models(service: Service, call: Call) -> Answer:
    """By name, a page at a time."""
    await service.registry.refresh()
    given = _query(call)
    views = list(service.registry.views.values())
    found = await service.threads.run(lambda: [(view, catalogue.registered(service, view)) for view in views])
    named = sorted((_name_of(view, there), there[catalogue.default_of(view, there)]) for view, there in found if there)
    limit = _number(given, "limit", 100)
    limit = limit if 0 < limit <= 100 else 100
    first = max(0, _number(given, "next_page_token", 0))
    page = named[first : first + limit]
    answer: dict[str, Any] = {}
    if first + limit < len(named):
        answer["nextPageToken"] = str(first + limit)
    answer["models"] = [{"modelName": name, "modelUrl": _url(row, said)} for name, (row, said) in page]
    return pretty(answer)


async def describe(service: Service, call: Call) -> Answer:
    """A list of one version, or of all."""
    await service.registry.refresh()
    name, version = call.params["model"], call.params.get("version")
    if version == "all":
        _, there = await catalogue.view_of(service, name)
        rows = list(there.values())
    else:
        _, row, said = await catalogue.version_of(service, name, version)
        rows = [(row, said)]
    customized = _query(call).get("customized", "").lower() == "true"
    depths = await service.threads.run(lambda: [_depth(service, row) for row, _ in rows])
    described = [_described(row, said, depth) for (row, said), depth in zip(rows, depths, strict=True)]
    if customized:
        for one, (row, said) in zip(described, rows, strict=True):
            one["customizedMetadata"] = await _customized(service, call, row, said)
    return pretty(described)


def _described(row: Version, said: Registration, depth: int) -> dict[str, Any]:
    manifest = row.manifest
    least = _least(row, said)
    return {
        "modelName": said.model_name or row.model,
        "modelVersion": said.model_version or row.version,
        "modelUrl": _url(row, said),
        "runtime": "python",
        "minWorkers": least,
        "maxWorkers": max(least, said.max_workers or 0),
        "batchSize": manifest.batching.max_batch_size,
        "maxBatchDelay": round(manifest.batching.max_wait_ms),
        "responseTimeout": round(manifest.limits.timeout_s),
        "startupTimeout": said.startup_timeout or STARTUP_TIMEOUT_S,
        "maxRetryTimeoutInSec": 300,
        "clientTimeoutInMills": 0,
        "parallelType": "",
        "parallelLevel": 0,
        "deviceType": "gpu" if any(_is_gpu(one.device) for one in row.placements) else "cpu",
        "continuousBatching": False,
        "useJobTicket": False,
        "useVenv": False,
        "stateful": False,
        "sequenceMaxIdleMSec": 0,
        "sequenceTimeoutMSec": 0,
        "maxNumSequence": 0,
        "maxSequenceJobQueueSize": 0,
        "loadedAtStartup": not said.unpacked,
        "workers": _workers(row),
        "jobQueueStatus": {
            "remainingCapacity": max(0, manifest.batching.max_queue - depth),
            "pendingRequests": depth,
        },
    }


def _least(row: Version, said: Registration) -> int:
    if row.wish == "unload":
        return 0
    return said.min_workers if said.min_workers is not None else row.manifest.instances


_STATUS = {"ready": "READY", "loading": "UNLOADING", "failed": "UNLOADING"}


def _workers(row: Version) -> list[dict[str, Any]]:
    """The device processes of each device, as one would count TorchServe's workers."""
    placed = [one for one in row.placements if one.state in _STATUS]
    each = max(1, row.manifest.instances)
    return [
        {
            "id": str(9000 + nth * each + instance),
            "startTime": optional_time(one.loaded_at) or "",
            "status": _STATUS[one.state],
            "memoryUsage": (one.memory_bytes or 0) // each,
            "pid": 0,
            "gpu": _is_gpu(one.device),
            "gpuUsage": "N/A",
        }
        for nth, one in enumerate(placed)
        for instance in range(each)
    ]


def _is_gpu(device: str) -> bool:
    return device.startswith("cuda")


def _depth(service: Service, row: Version) -> int:
    lines = broker.lines(row.model, row.version, service.tenants.classes())
    return sum(one.depth for one in service.predictions.backlog(lines).values())


async def _customized(service: Service, call: Call, row: Version, said: Registration) -> Any:
    """What the handler says of itself: a request like any other, with a header that asks for it."""
    name = said.model_name or row.model
    unavailable = Refused(
        503,
        "ServiceUnavailableException",
        f'Model "{name}" has no worker to serve describe request. Please use scale workers API to add workers.',
    )
    if row.wish == "unload" or row.state == "failed":
        raise unavailable
    target = await service.registry.resolve(row.model, row.version)
    request = stored(call, b"", {"describe": "True"})
    new = await jobs.row_of(service, call, target, request.body, request.content_type, measured(target, request))
    answers = await ask(service, call, [new], target.at_most, within_s=_DESCRIBE_S)
    end = answers.ended.get(new.id)
    if end is None or end.status is not Status.SUCCEEDED:
        raise unavailable
    output = end.output or b"null"
    if isinstance(end, Prediction) and end.output_bytes is not None:
        claim = end.claim or ""
        output = await service.in_blobs(lambda: service.blobs.read(new.id, claim))
        if end.output_type == envelopes.RESPONSE:
            output = envelopes.unpack_response(output).body
    try:
        return json.loads(output)
    except ValueError:
        return output.decode("utf-8", "replace")


# ── changing ──────────────────────────────────────────────────────────────────────────────────────────────────


async def register(service: Service, call: Call) -> Answer:
    """200, or 202 where nobody waits for its workers."""
    given = await _given(call)
    url = given.get("url", "")
    if not url:
        raise bad_request("Parameter url is required.")
    runtime = given.get("runtime") or "python"
    if runtime.lower() not in _RUNTIMES:
        raise bad_request(f"Invalid RuntimeType value: {runtime}")
    models = service.settings.models
    archive = await service.threads.run(
        lambda: store.find(models, url, given.get("model_name", "")), patience_s=_FILES_S
    )
    workers = max(0, _number(given, "initial_workers", -1)) if "initial_workers" in given else None
    said = Registration(
        model_name=archive.name,
        model_version=archive.version,
        model_url=url,
        handler=given.get("handler", ""),
        unpacked=archive.file != archive.target(models).resolve(),
        batch_size=_positive(given, "batch_size"),
        max_batch_delay=_positive(given, "max_batch_delay"),
        response_timeout=_positive(given, "response_timeout"),
        startup_timeout=_positive(given, "startup_timeout"),
        min_workers=workers,
        max_workers=workers,
    )
    await _refuse_twice(service, archive)
    await _keep_default(service, archive.name)
    found = await service.threads.run(
        lambda: store.unpack(models, archive, said, service.torchserve), patience_s=_FILES_S
    )
    await service.threads.run(lambda: service.models.register(found))
    if workers is None:
        workers = await service.threads.run(lambda: _asked_for(found.path))
    await _wish(service, found.model, found.version, "load" if workers else "unload")
    audit.changed(call, f"{found.model} version {found.version} is registered from {url}", model=found.model)
    status = f'Model "{archive.name}" Version: {archive.version} registered with {workers} initial workers'
    if not workers:
        return pretty({"status": f"{status}. Use scale workers API to add workers for the model."})
    if not _truth(given, "synchronous", default=True):
        return pretty(_UPDATING, 202)
    within_s = said.startup_timeout or STARTUP_TIMEOUT_S
    if not await _until(service, found.model, found.version, lambda row: row.state == "ready", within_s):
        await _unregister(service, call, found.model, found.version, said)
        message = f"Failed to start workers for model {archive.name} version: {archive.version}"
        raise Refused(500, "InternalServerException", message)
    return pretty({"status": status})


async def _refuse_twice(service: Service, archive: store.Archive) -> None:
    row = None
    if (view := service.registry.views.get(archive.name)) is not None:
        row = view.versions.get(archive.version)
    if row is not None and await service.threads.run(lambda: catalogue.said_of(service, row)) is not None:
        message = f"Model version {archive.version} is already registered for model {archive.name}"
        raise Refused(409, "ConflictStatusException", message)


async def _keep_default(service: Service, model: str) -> None:
    """The first version stays the default until another is made so."""
    view = service.registry.views.get(model)
    if view is None or view.route.traffic.versions:
        return
    known = view
    there = await service.threads.run(lambda: catalogue.registered(service, known))
    if there:
        await _split(service, view, {catalogue.default_of(view, there): 1.0})


async def scale(service: Service, call: Call) -> Answer:
    """202, or 200 once it is done where it is waited for."""
    given = _query(call)
    await service.registry.refresh()
    name, version = call.params["model"], call.params.get("version")
    _, row, said = await catalogue.version_of(service, name, version)
    least = _number(given, "min_worker", 1)
    most = _number(given, "max_worker", least)
    if least < 0:
        raise bad_request(f"min_worker is {least}.")
    if most < least:
        raise bad_request("max_worker cannot be less than min_worker.")
    if least > 64:
        raise bad_request("min_worker may be 64 at most.")
    folder = catalogue.folder_of(service, row.model, row.version)
    changed = msgspec.structs.replace(said, min_workers=least, max_workers=most, by_properties=False)
    if changed != said:
        await service.threads.run(lambda: store.say(folder, changed))
    await _wish(service, row.model, row.version, "load" if least else "unload")
    audit.changed(call, f"{row.model} version {row.version} is scaled to {least}", model=row.model)
    if not _truth(given, "synchronous", default=False):
        return pretty(_UPDATING, 202)

    def done(row: Version) -> bool:
        ready = [one for one in row.placements if one.state == "ready"]
        return (bool(ready) and row.manifest.instances == least) if least else not ready

    within_s = _number(given, "timeout", -1)
    if not await _until(service, row.model, row.version, done, within_s if within_s > 0 else STARTUP_TIMEOUT_S):
        said_version = said.model_version or row.version
        raise Refused(
            500, "InternalServerException", f"Failed to start workers for model {name} version: {said_version}"
        )
    of_version = "" if version is None else f", version: {version}"
    return pretty({"status": f"Workers scaled to {least} for model: {name}{of_version}"})


async def set_default(service: Service, call: Call) -> Answer:
    await service.registry.refresh()
    name, version = call.params["model"], call.params["version"]
    view, there = await catalogue.view_of(service, name)
    if version not in there:
        message = f"Model version {version} does not exist for model {name}"
        raise Refused(404, "ModelVersionNotFoundException", message)
    await _split(service, view, {version: 1.0})
    audit.changed(call, f"the default of {view.name} is version {version}", model=view.name)
    return pretty({"status": f'Default version successfully updated for model "{name}" to "{version}"'})


async def unregister(service: Service, call: Call) -> Answer:
    """Once nothing of it runs any more."""
    await service.registry.refresh()
    name = call.params["model"]
    view, there = await catalogue.view_of(service, name)
    default = catalogue.default_of(view, there)
    version = call.params.get("version", default)
    if version not in there:
        await catalogue.version_of(service, name, call.params.get("version"))
    if version == default and len(there) > 1:
        message = f"Cannot remove default version for model {name}"
        raise Refused(403, "InvalidModelVersionException", message)
    row, said = there[version]
    await _unregister(service, call, row.model, row.version, said)
    return pretty({"status": f'Model "{name}" unregistered'})


async def _unregister(service: Service, call: Call, model: str, version: str, said: Registration) -> None:
    await _wish(service, model, version, "unload")
    await _until(
        service,
        model,
        version,
        lambda row: not any(one.state in ("ready", "loading") for one in row.placements),
        _UNLOAD_S,
        failed_too=True,
    )
    folder = catalogue.folder_of(service, model, version)
    try:
        await service.threads.run(lambda: store.forget(folder, said), patience_s=_FILES_S)
    except OSError as error:
        raise Refused(500, "InternalServerException", f"{folder} cannot be removed: {error.strerror}") from error
    view = service.registry.views.get(model)
    if view is not None and set(view.route.traffic.versions) == {version}:
        await _split(service, view, {})
    audit.changed(call, f"{model} version {version} is unregistered", model=model)
    await service.registry.refresh()


async def _split(service: Service, view: ModelView, weights: dict[str, float]) -> None:
    traffic: Traffic = msgspec.structs.replace(view.route.traffic, versions=weights)
    await service.threads.run(lambda: service.routes.split(view.name, traffic))
    await service.registry.refresh()


async def _wish(service: Service, model: str, version: str, wish: Wish) -> None:
    await service.threads.run(lambda: service.models.wish(model, version, wish))
    await service.registry.refresh()


async def _until(
    service: Service,
    model: str,
    version: str,
    done: Callable[[Version], bool],
    within_s: float,
    *,
    failed_too: bool = False,
) -> bool:
    """Whether it came to that. A failure ends the wait, once what SQL says can be of the present."""
    began = time.monotonic()
    seen = False
    while (now := time.monotonic()) < began + within_s:
        await service.registry.refresh()
        view = service.registry.views.get(model)
        row = None if view is None else view.versions.get(version)
        if row is None:
            return failed_too
        if done(row):
            return True
        seen = seen or row.state == "loading"
        if row.state == "failed" and not failed_too and (seen or now - began > _HEARD_S):
            return False
        await asyncio.sleep(_LOOK_S)
    return False


def _asked_for(folder: Any) -> int:
    """The workers that the archive itself asks for, or config.properties."""
    try:
        archive = mar.read(folder)
    except ManifestError:
        return 0
    said = archive.config.get("minWorkers", archive.registered.min_workers or 0)
    return said if isinstance(said, int) else 0


# ── parameters: what cannot be read counts as not given, as in TorchServe ─────────────────────────────────────


async def _given(call: Call) -> dict[str, str]:
    """Of the query, and of a JSON body."""
    given = _query(call)
    body = await call.body(_MOST_BODY)
    if body and call.headers.get(b"content-type", b"").partition(b";")[0].strip().lower() == b"application/json":
        try:
            said = msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise Refused(500, "JsonSyntaxException", str(error)) from error
        if not isinstance(said, dict):
            raise Refused(500, "JsonSyntaxException", "The body should be a JSON object.")
        given |= {str(name): _as_text(value) for name, value in said.items() if value is not None}
    return given


def _as_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _query(call: Call) -> dict[str, str]:
    return dict(urllib.parse.parse_qsl(call.query.decode("latin-1"), keep_blank_values=True))


def _number(given: Mapping[str, str], name: str, default: int) -> int:
    try:
        return int(given[name])
    except (KeyError, ValueError):
        return default


def _positive(given: Mapping[str, str], name: str) -> int | None:
    number = _number(given, name, 0)
    return number if 0 < number <= 86_400 else None


def _truth(given: Mapping[str, str], name: str, *, default: bool) -> bool:
    return given[name].strip().lower() == "true" if name in given else default


def _name_of(view: ModelView, there: Mapping[str, tuple[Version, Registration]]) -> str:
    return next((said.model_name for _, said in there.values() if said.model_name), view.name)


def _url(row: Version, said: Registration) -> str:
    return said.model_url or f"{row.model}/{row.version}"
