"""Model versions as SQL knows them: what the folder declares, what the loaded model said, and where it is loaded."""

from typing import Literal

import msgspec

from headway.manifest import Manifest

State = Literal["loading", "ready", "failed", "unloaded"]


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """A version on one live worker's device."""

    worker_id: str
    device: str
    state: State
    reason: str | None  # why it failed
    loaded_at: int | None  # microseconds
    memory_bytes: int | None  # what it takes on the device
    ended: int  # predictions since the worker started
    rate: float  # predictions per second, lately


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a model."""

    model: str
    version: str
    state: State
    reason: str | None  # why it failed
    framework: str | None
    path: str
    sha256: str  # of the model file
    manifest: Manifest
    created_at: int  # microseconds: when it was first seen
    loaded_at: int | None
    placements: list[Placement]


def effective(placements: list[Placement], error: str | None) -> tuple[State, str | None]:
    """(state, reason) of a version: ready if it is so anywhere, failed only if nobody is still trying.

    `error` is what is wrong with the folder. A version that no live worker has is loading: what is submitted waits.
    """
    states = {placement.state for placement in placements}
    if "ready" in states:
        return "ready", None
    if "loading" in states:
        return "loading", None
    if "failed" in states or error is not None:
        reasons = [placement.reason for placement in placements if placement.state == "failed"]
        return "failed", next((reason for reason in reasons if reason), error)
    return ("unloaded" if states else "loading"), None
