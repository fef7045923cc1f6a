"""Model versions as SQL knows them: what the folder declares, what the loaded model said, where it is loaded, and what
operators want of it."""

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec

from headway.manifest import Manifest
from headway.quantiles import added

State = Literal["loading", "ready", "failed", "unloaded"]
#: An operator's word, which outranks the policy of `model.toml`.
Wish = Literal["load", "unload"]


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker has measured of one version since it loaded it."""

    failed: int = 0  # of those that ended
    seconds: dict[int, int] = {}  # `headway.quantiles`: from acceptance to the end, of the last minutes
    sizes: dict[int, int] = {}  # micro-batches by size: a power of two, and all from the one before it


class DeviceStats(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker says of its device at every beat."""

    busy: float = 0.0  # share of the last seconds in which a model computed, 0 to 1
    memory_bytes: int = 0  # of all that is loaded
    memory_budget: int | None = None  # None: not bounded
    loads: int = 0  # since the worker started
    unloads: int = 0


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """A version on one live worker's device."""

    worker_id: str
    device: str
    state: State
    reason: str | None  # why it failed, or is not loaded
    loaded_at: int | None  # microseconds
    memory_bytes: int | None  # what it takes on the device
    ended: int  # predictions since the worker started
    rate: float  # predictions per second, lately
    stats: Stats = Stats()


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """A live worker and its device."""

    worker_id: str
    device: str
    host: str
    started_at: int  # microseconds
    stats: DeviceStats


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a model."""

    model: str
    version: str
    state: State
    reason: str | None  # why it failed, or is not loaded
    framework: str | None
    path: str
    sha256: str  # of its files (`headway.digests.digest_of`)
    manifest: Manifest
    created_at: int  # microseconds: when it was first seen
    loaded_at: int | None  # when it was last warm; None: never since its file changed
    placements: list[Placement]
    memory_bytes: int | None = None  # what one instance took when it was last loaded
    wish: Wish | None = None
    wished_at: int | None = None  # when that was said; None: never

    @property
    def ended(self) -> int:
        """Predictions, since the workers that have it started."""
        return sum(placement.ended for placement in self.placements)

    @property
    def failed(self) -> int:
        """Of those."""
        return sum(placement.stats.failed for placement in self.placements)

    @property
    def seconds(self) -> Mapping[int, int]:
        """From acceptance to the end, of the last minutes (`headway.quantiles`)."""
        return added(placement.stats.seconds for placement in self.placements)

    @property
    def released(self) -> bool:
        """It has been warm, so it takes traffic; one that was unloaded to make room since is loaded when asked."""
        if self.wish == "unload":  # at once, not only when workers have heeded it
            return False
        return self.state == "ready" or (self.state != "failed" and self.loaded_at is not None)


#: Of a version beside others; only the shares matter.
Weight = Annotated[float, msgspec.Meta(gt=0, le=1e9)]


class Traffic(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where submissions go that name neither version nor alias."""

    versions: dict[str, Weight] = {}  # empty: to the latest
    shadow: tuple[str, ...] = ()  # copies go there, whose outputs nobody is answered with
    sticky: str | None = None  # a key of `metadata`: what has the same value goes to the same version


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """What operators have said of a model."""

    traffic: Traffic = Traffic()
    paused: bool = False
    aliases: Mapping[str, str | None] = {}  # alias → version; None: taken away


def effective(placements: list[Placement], error: str | None) -> tuple[State, str | None]:
    """(state, reason) of a version: ready if it is so anywhere, failed only if nobody is still trying.

    `error` is what is wrong with the folder. A version that no live worker has is loading: what is submitted waits.
    """
    by_state = {state: [p for p in placements if p.state == state] for state in ("ready", "loading", "unloaded")}
    if by_state["ready"]:
        return "ready", None
    if by_state["loading"]:
        return "loading", None
    if by_state["unloaded"]:
        return "unloaded", next((p.reason for p in by_state["unloaded"] if p.reason), None)
    if placements or error is not None:
        return "failed", next((p.reason for p in placements if p.reason), error)
    return "loading", None
