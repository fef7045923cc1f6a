"""The whole system at a glance, for the operator's page: collected once a second while somebody watches, for all.

Its rules: nothing of it runs in the event loop; who reads slowly gets the newest and never a backlog; a database that
is away is said, and the last numbers stay. A snapshot is of the whole system, so every API process tells the same.
"""

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import msgspec

import headway
from api.answers import Write
from api.registry import ModelView, drain_rate
from api.threads import Threads
from headway import broker
from headway.batches import Batch, BatchStatus, batch_json
from headway.clock import now_us
from headway.errors import StorageUnavailable
from headway.quantiles import added, quantile
from headway.registry import Device, Placement, Version
from headway.rendering import time_of
from storage.failures import SCANNED_AT_MOST, Failures, Recent
from storage.reading import COUNTED_AT_MOST, Backlog

if TYPE_CHECKING:
    from api.service import Service

log = logging.getLogger(__name__)

_EVERY_S = 1.0
#: A collection that takes longer than its share of the time makes the next one come later.
_MOST_OF_THE_TIME = 0.25
#: A snapshot of this age is worth showing to who has just come.
_FRESH_S = 2.0
#: Then SQL is said to be away.
_PATIENCE_S = 3.0
_FAILURES, _BATCHES = 20, 12

#: The lanes of a version, most urgent first, as `broker.step` numbers them.
LANES = ("0-2", "3-6", "7-9", "batches")

OPENING = b"retry: 1000\n\n"


class Lane(msgspec.Struct, frozen=True):
    """What waits for a version at a step of priority; of batches all that has not ended."""

    lane: str
    depth: int  # counted up to 100,000, but for batches
    oldest_age_seconds: float | None


class VersionState(msgspec.Struct, frozen=True, kw_only=True):
    """A version: what it is, what goes there, what came of it since its workers loaded it."""

    version: str
    state: str
    reason: str | None
    released: bool
    wish: str | None
    latest: bool
    aliases: list[str]
    weight: float | None  # as the operator gave it; None: none was given
    share: float  # of the submissions that name neither version nor alias
    shadow: bool
    framework: str | None
    sha256: str
    devices: list[str]
    memory_bytes: int | None
    ended: int
    failed: int
    rate: float  # predictions that end per second, lately
    p50_seconds: float | None  # from acceptance to the end, of the last minutes
    p99_seconds: float | None
    depth: int
    lanes: list[Lane]


class ModelState(msgspec.Struct, frozen=True, kw_only=True):
    """A model, its versions newest first."""

    name: str
    paused: bool
    sticky: str | None
    split: bool  # operators have said where its traffic goes
    versions: list[VersionState]


class Loaded(msgspec.Struct, frozen=True):
    """A version on a device."""

    model: str
    version: str
    state: str
    memory_bytes: int | None


class DeviceState(msgspec.Struct, frozen=True, kw_only=True):
    """A live worker and its device."""

    worker_id: str
    device: str
    host: str
    started_at: str
    busy: float
    memory_bytes: int
    memory_budget: int | None
    loads: int
    unloads: int
    rate: float
    loaded: list[Loaded]
    batch_sizes: list[tuple[int, int]]  # (up to this many in a micro-batch, how many of those), rising


class FailureState(msgspec.Struct, frozen=True, kw_only=True):
    """A failed prediction."""

    id: str
    model: str
    version: str
    attempt: int
    code: str
    message: str
    at: str
    batch_id: str | None  # its items are not retried


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """Of the whole system."""

    rate: float
    queued: int
    oldest_age_seconds: float | None  # but for batches
    failed_last_hour: int  # counted up to `failed_at_most` a tenant
    failed_at_most: int = SCANNED_AT_MOST
    depth_at_most: int = COUNTED_AT_MOST


class Links(msgspec.Struct, frozen=True):
    """Absolute, or from the port on, to be read beside the host of the page. None: not known."""

    flower: str | None
    docs: str | None
    metrics: str = "/metrics"


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The data of an event. While SQL is away, all but the first six fields is as of `as_of`, or null."""

    headway: str = headway.__version__
    started_at: str  # this API process
    at: str
    sql: bool
    broker: bool
    links: Links
    as_of: str | None = None
    workers: int | None = None
    totals: Totals | None = None
    models: list[ModelState] | None = None
    devices: list[DeviceState] | None = None
    failures: list[FailureState] | None = None
    batches: list[msgspec.Raw] | None = None  # as the data plane shows them


class _Read(msgspec.Struct, frozen=True):
    """What SQL said."""

    now: int
    backlog: Mapping[str, Backlog]  # by line
    devices: list[Device]
    recent: Recent
    open: list[Batch]
    ended: list[Batch]


class Overview:
    """`watch` from any number of streams; `stop` ends them."""

    def __init__(self, service: "Service") -> None:
        self._service = service
        self._failures = Failures(service.database)
        self._thread = Threads("overview", 1)  # its own: a database that hangs holds nobody else's up
        self._started_at = time_of(now_us())
        self._watchers = 0
        self._task: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self._stopped = False
        self._number = 0  # of the last snapshot
        self._last: Snapshot | None = None
        self._event = b""
        self._made_at = -_FRESH_S

    async def watch(self, write: Write) -> None:
        """Writes every snapshot, or the newest where the reader is slow. Until canceled, or the API stops."""
        self._watchers += 1
        if self._task is None:
            self._task = asyncio.create_task(self._collect_on(), name="overview")
        try:
            await write(OPENING)
            seen = self._number if time.monotonic() - self._made_at > _FRESH_S else 0
            while not self._stopped:
                if seen == self._number:
                    await self._news.wait()
                else:
                    seen = self._number
                    await write(self._event)
        finally:
            self._watchers -= 1
            if self._watchers == 0 and self._task is not None:
                self._task.cancel()
                self._task = None

    def stop(self) -> None:
        """Every stream ends, and none begins."""
        self._stopped = True
        self._tell()

    def close(self) -> None:
        self._thread.close()

    @property
    def stopped(self) -> bool:
        return self._stopped

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def _collect_on(self) -> None:
        pause = self._made_at + _EVERY_S - time.monotonic()
        while True:
            await asyncio.sleep(pause)
            began = time.monotonic()
            try:
                await self._collect()
            except Exception:
                log.exception("the overview could not be made")
            took = time.monotonic() - began
            pause = max(_EVERY_S - took, took / _MOST_OF_THE_TIME - took)

    async def _collect(self) -> None:
        service = self._service
        views = service.registry.views
        at = time_of(now_us())
        # Short, and the same whether SQL is there or not.
        now = Snapshot(
            started_at=self._started_at, at=at, sql=False, broker=service.waiting.subscribed, links=_links(service)
        )
        try:
            read = await self._thread.run(lambda: self._read(views), patience_s=_PATIENCE_S)
        except StorageUnavailable:
            if self._last is not None:
                now = msgspec.structs.replace(self._last, at=at, sql=False, broker=now.broker)
        else:
            now = _snapshot(now, views, read)
        self._last = now
        self._number += 1
        self._event = b"id: %d\nevent: overview\ndata: %b\n\n" % (self._number, msgspec.json.encode(now))
        self._made_at = time.monotonic()
        self._tell()

    def _read(self, views: Mapping[str, ModelView]) -> _Read:
        service = self._service
        classes = service.tenants.classes()
        lines = [
            line for view in views.values() for version in view.versions for line in
            broker.lines(view.name, version, classes)
        ]  # fmt: skip
        return _Read(
            now=service.predictions.now(),
            backlog=service.predictions.backlog(lines),
            devices=service.workers.devices(),
            recent=self._failures.recent(_FAILURES),
            open=service.batches.open(),
            ended=service.batches.ended(_BATCHES),
        )


def _links(service: "Service") -> Links:
    settings = service.settings
    flower = settings.flower_url or (f":{settings.flower_port}/" if settings.flower_port else None)
    if settings.public_url:
        return Links(flower, f"{settings.public_url}/docs")
    return Links(flower, f":{settings.port}/docs" if settings.port else None)


def _snapshot(now: Snapshot, views: Mapping[str, ModelView], read: _Read) -> Snapshot:
    models = [_model(view, read) for view in views.values()]
    versions = [version for model in models for version in model.versions]
    ages = [lane.oldest_age_seconds for one in versions for lane in one.lanes if lane.lane != LANES[broker.BULK]]
    return msgspec.structs.replace(
        now,
        sql=True,
        as_of=now.at,
        workers=len(read.devices),
        totals=Totals(
            rate=sum(one.rate for one in versions),
            queued=sum(one.depth for one in versions),
            oldest_age_seconds=max((age for age in ages if age is not None), default=None),
            failed_last_hour=read.recent.lately,
        ),
        models=models,
        devices=[_device(device, views) for device in read.devices],
        failures=[
            FailureState(
                id=one.id,
                model=one.model,
                version=one.version,
                attempt=one.attempt,
                code=one.code,
                message=one.message,
                at=time_of(one.completed_at),
                batch_id=one.batch_id,
            )
            for one in read.recent.failures
        ],
        batches=[msgspec.Raw(batch_json(row, "")) for row in [*read.open[:_BATCHES], *read.ended]],
    )


def _model(view: ModelView, read: _Read) -> ModelState:
    traffic = view.route.traffic
    shares = view.shares
    lanes = _lanes(view, read)
    return ModelState(
        name=view.name,
        paused=view.route.paused,
        sticky=traffic.sticky,
        split=bool(traffic.versions),
        versions=[
            _version(
                row,
                lanes[row.version],
                latest=row.version == view.latest,
                aliases=sorted(alias for alias, version in view.aliases.items() if version == row.version),
                weight=traffic.versions.get(row.version),
                share=shares.get(row.version, 0.0),
                shadow=row.version in traffic.shadow,
            )
            for row in reversed([*view.versions.values()])
        ],
    )


def _lanes(view: ModelView, read: _Read) -> dict[str, list[Lane]]:
    """By version; the lines of all classes of tenants together. Items of batches are in no count of a line."""
    depths: dict[tuple[str, int], int] = {}
    firsts: dict[tuple[str, int], int] = {}
    for name, backlog in read.backlog.items():
        line = broker.parse_line(name)
        if line.model == view.name and backlog.depth:
            key = line.version, line.step
            depths[key] = depths.get(key, 0) + backlog.depth
            if backlog.oldest is not None:
                firsts[key] = min(firsts.get(key, backlog.oldest), backlog.oldest)

    for batch in read.open:
        left = batch.total - (batch.counts + batch.ahead).total
        if left and batch.model == view.name and batch.status is not BatchStatus.VALIDATING:
            key = batch.version, broker.BULK
            depths[key] = depths.get(key, 0) + left
            firsts[key] = min(firsts.get(key, batch.created_at), batch.created_at)

    def lane(version: str, step: int) -> Lane:
        first = firsts.get((version, step))
        age = None if first is None else max(0.0, (read.now - first) / 1e6)
        return Lane(LANES[step], depths.get((version, step), 0), age)

    return {version: [lane(version, step) for step in range(len(LANES))] for version in view.versions}


def _version(
    row: Version,
    lanes: list[Lane],
    *,
    latest: bool,
    aliases: list[str],
    weight: float | None,
    share: float,
    shadow: bool,
) -> VersionState:
    seconds = row.seconds
    return VersionState(
        version=row.version,
        state=row.state,
        reason=row.reason,
        released=row.released,
        wish=row.wish,
        latest=latest,
        aliases=aliases,
        weight=weight,
        share=share,
        shadow=shadow,
        framework=row.framework,
        sha256=row.sha256[:12],
        devices=sorted({one.device for one in row.placements if one.state in ("ready", "loading")}),
        memory_bytes=_memory(row),
        ended=row.ended,
        failed=row.failed,
        rate=drain_rate(row),
        p50_seconds=quantile(seconds, 0.5),
        p99_seconds=quantile(seconds, 0.99),
        depth=sum(lane.depth for lane in lanes),
        lanes=lanes,
    )


def _memory(row: Version) -> int | None:
    """What it takes on all its devices; where it is on none, what an instance took when it was last loaded."""
    held = [one.memory_bytes for one in row.placements if one.state == "ready" and one.memory_bytes is not None]
    return sum(held) if held else row.memory_bytes


def _device(device: Device, views: Mapping[str, ModelView]) -> DeviceState:
    here = [
        (row, placement)
        for view in views.values()
        for row in view.versions.values()
        for placement in row.placements
        if placement.worker_id == device.worker_id
    ]
    return DeviceState(
        worker_id=device.worker_id,
        device=device.device,
        host=device.host,
        started_at=time_of(device.started_at),
        busy=device.stats.busy,
        memory_bytes=device.stats.memory_bytes,
        memory_budget=device.stats.memory_budget,
        loads=device.stats.loads,
        unloads=device.stats.unloads,
        rate=sum((placement.rate for _, placement in here), 0.0),
        loaded=[
            Loaded(row.model, row.version, placement.state, placement.memory_bytes)
            for row, placement in here
            if placement.state in ("ready", "loading")
        ],
        batch_sizes=_sizes(placement for _, placement in here),
    )


def _sizes(placements: Iterable[Placement]) -> list[tuple[int, int]]:
    return sorted(added(placement.stats.sizes for placement in placements).items())
