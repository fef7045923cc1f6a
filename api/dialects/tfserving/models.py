"""Which model, version and signature a request means, and what is said of them: status and metadata."""

import json
from typing import Any, NamedTuple

from api.dialects.tfserving.errors import Code, Refused, invalid
from api.dialects.tfserving.signatures import DEFAULT, Info, Signature, is_served, signatures_of
from api.problems import Problem
from api.registry import ModelView, Target
from api.service import Service
from headway.manifest import Manifest
from headway.registry import Version


class Asked(NamedTuple):
    """What a request says of the model that it is for."""

    name: str
    version: str | None = None
    label: str | None = None


class Found(NamedTuple):
    target: Target
    manifest: Manifest


async def find(service: Service, asked: Asked) -> Found:
    """Raises Refused, Problem."""
    if not asked.name:
        raise invalid("Missing ModelSpec")
    try:
        target = await service.registry.resolve(asked.name, asked.version, asked.label)
        if target.state == "loading":  # it may be loaded by now, and has said what it takes
            await service.registry.refresh()
            target = await service.registry.resolve(asked.name, asked.version, asked.label)
    except Problem as problem:
        if problem.code == "alias_not_found" or (problem.code == "model_not_found" and asked.label is not None):
            raise invalid(f"Unrecognized servable version label: {str(asked.label)[:200]}") from problem
        if problem.code in ("model_not_found", "version_not_found"):
            raise _not_found(asked) from problem
        if problem.code == "unavailable" and asked.name in service.registry.views:  # it does not load
            raise _not_found(asked) from problem
        raise
    row = (await service.registry.model(target.model)).versions[target.version]
    if row.wish == "unload":
        raise _not_found(asked)
    return Found(target, row.manifest)


def _not_found(asked: Asked) -> Refused:
    which = f"Latest({asked.name})" if asked.version is None else f"Specific({asked.name}, {asked.version})"
    return Refused(Code.NOT_FOUND, f"Servable not found for request: {which}")


def signature_of(found: Found, name: str) -> Signature:
    """`name`: "" is the default. Raises Refused where the model has none of this name, or is not loaded with it."""
    name = name or DEFAULT
    signature = signatures_of(found.manifest).get(name)
    if signature is None:
        raise invalid(f'Serving signature name: "{name[:200]}" not found in signature def')
    if not is_served(found.manifest, signature):
        raise Refused(
            Code.UNIMPLEMENTED,
            f'signature "{name}" of {found.target.model} is not computed here: its inputs are others than those of '
            f'"{DEFAULT}", with which the model is loaded',
        )
    return signature


# Status

#: Of ours → of a servable.
_STATES = {"loading": "LOADING", "ready": "AVAILABLE", "failed": "END", "unloaded": "END"}
STATES = {"UNKNOWN": 0, "START": 10, "LOADING": 20, "AVAILABLE": 30, "UNLOADING": 40, "END": 50}


class Status(NamedTuple):
    """Of one version."""

    version: str
    state: str
    error: str  # "" where there is none


async def statuses(service: Service, asked: Asked) -> list[Status]:
    """Of the version that is asked for, or of all that are served or were to be, the newest first. Raises Refused."""
    await service.registry.refresh()
    view = service.registry.views.get(asked.name)
    if view is None:
        if asked.label is not None:
            raise invalid(f"Unrecognized servable version label: {asked.label[:200]}")
        raise _no_version(asked)
    version = asked.version
    if asked.label is not None:
        version = view.aliases.get(asked.label)
        if version is None:
            raise invalid(f"Unrecognized servable version label: {asked.label[:200]}")
    rows = list(view.versions.values())[::-1]
    shown = [row for row in rows if (row.version == version if version is not None else _is_aspired(view, row))]
    if not shown:
        raise _no_version(asked)
    return [_status(row) for row in shown]


def _is_aspired(view: ModelView, row: Version) -> bool:
    return row.state in ("ready", "loading") or view.wanted(row.version)


def _status(row: Version) -> Status:
    return Status(row.version, _STATES[row.state], (row.reason or "") if row.state == "failed" else "")


def _no_version(asked: Asked) -> Refused:
    if asked.version is None:
        return Refused(Code.NOT_FOUND, f"Could not find any versions of model {asked.name[:200]}")
    return Refused(Code.NOT_FOUND, f"Could not find version {asked.version} of model {asked.name[:200]}")


def status_json(found: list[Status]) -> bytes:
    shown = [
        {
            "version": one.version,
            "state": one.state,
            "status": {"error_code": "UNKNOWN" if one.error else "OK", "error_message": one.error},
        }
        for one in found
    ]
    return _printed({"model_version_status": shown})


# Metadata


def metadata_json(found: Found) -> bytes:
    spec = {"name": found.target.model, "signature_name": "", "version": found.target.version}
    signatures = {name: _shown(one) for name, one in signatures_of(found.manifest).items()}
    return _printed({"model_spec": spec, "metadata": {"signature_def": {"signature_def": signatures}}})


def _shown(signature: Signature) -> dict[str, Any]:
    return {
        "inputs": {name: _tensor(info) for name, info in signature.inputs.items()},
        "outputs": {name: _tensor(info) for name, info in signature.outputs.items()},
        "method_name": signature.method_name,
        "defaults": {},
    }


def _tensor(info: Info) -> dict[str, Any]:
    lengths = [{"size": str(length), "name": ""} for length in info.shape or ()]
    return {
        "dtype": info.dtype,
        "tensor_shape": {"dim": lengths, "unknown_rank": info.shape is None},
        "name": info.name,
    }


def _printed(value: object) -> bytes:
    """As protobuf prints JSON."""
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()
