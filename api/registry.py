"""The models as the API knows them: a view of SQL, read every second and when something is not in it.

`resolve` says which version a submission is for. It is fixed then, whatever becomes latest later. Whose turn it is
where traffic is split, each process knows for itself.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from api.ensembles import judged
from api.problems import Problem
from api.refreshing import keep_fresh, seen
from api.threads import PATIENCE_S, Threads
from api.traffic import Split, declared, readiness, weights_of
from headway import broker, npy
from headway.errors import InputRefused, StorageUnavailable
from headway.registry import Route, Version
from headway.signature import Checked, check, check_array, check_tensors
from headway.tensors import Entry
from storage.models import Models
from storage.routes import Routes


class Target:
    """A version with what the hot path asks of it, worked out once."""

    __slots__ = (
        "at_most",
        "checks",
        "fetches",
        "inputs",
        "items",
        "max_attempts",
        "max_queue",
        "model",
        "most_rows",
        "queue_timeout_us",
        "size_by",
        "state",
        "timeout_s",
        "version",
    )

    def __init__(self, row: Version) -> None:
        self.model = row.model
        self.version = row.version
        self.state = row.state
        self.at_most = row.manifest.batching.max_batch_size
        self.max_queue = row.manifest.batching.max_queue
        self.max_attempts = row.manifest.limits.max_attempts
        self.timeout_s = row.manifest.limits.timeout_s
        wait_s = row.manifest.limits.queue_timeout_s
        self.queue_timeout_us = None if wait_s is None else round(wait_s * 1e6)
        self.inputs = row.manifest.inputs
        self.items = row.manifest.items
        self.most_rows = row.manifest.batching.max_batch_cost or 1 << 31
        self.fetches = row.manifest.fetch is not None
        self.size_by = row.manifest.batching.size

    def line(self, priority: int, tenant_class: int) -> str:
        return broker.line(self.model, self.version, priority, tenant_class)

    def measure(self, value: object, body: bytes, pointer: str) -> tuple[int, str | None]:
        """(size, shape) of an input. Raises Problem where it does not fit; `pointer` is where it stands in the body."""
        try:
            checked = check(value, self.inputs, self.items) if self.inputs else Checked(None, 1)
            return self._size(checked, len(body)), checked.shape
        except InputRefused as refused:
            place = pointer + refused.pointer
            errors = [{"pointer": place, "detail": refused.detail}]
            raise Problem("validation_failed", f"{place} {refused.detail}.", errors=errors) from refused

    def measure_tensors(self, entries: Sequence[Entry], length: int) -> tuple[int, str | None]:
        """(size, shape) of an input that came as tensors, `length` bytes in all. Raises InputRefused."""
        checked = check_tensors(entries, self.inputs, self.items)
        return self._size(checked, length), checked.shape

    def _size(self, checked: Checked, length: int) -> int:
        if self.items == "joined":
            if checked.rows > self.most_rows:
                raise InputRefused("", f"has {checked.rows} rows, and the model takes {self.most_rows} at most")
            return checked.rows
        if self.size_by == "bytes":
            return length
        return checked.elements if self.size_by == "shape" else 1

    def measure_raw(self, header: npy.Header | None, length: int, type_: str) -> tuple[int, str | None]:
        """(size, shape) of an input that came as it is. Raises InputRefused where it does not fit."""
        checked = Checked(None, 1 if header is None else header.elements)
        if self.inputs:
            dtype, shape = (None, ()) if header is None else (header.dtype, header.shape)
            checked = check_array(dtype, shape, type_, self.inputs, self.items)
        return self._size(checked, length), checked.shape


@dataclass(frozen=True, slots=True)
class ModelView:
    """One model: its versions, oldest first, and what operators have said of it."""

    name: str
    versions: Mapping[str, Version]
    targets: Mapping[str, Target]
    aliases: Mapping[str, str]  # operators' before those of model.toml
    declared_aliases: Mapping[str, str]  # of model.toml
    latest: str  # what a submission without version or alias goes to where traffic is not split
    route: Route
    split: Split | None  # None: to the latest
    widest: Target  # whose queue may be the longest

    @property
    def drain_rate(self) -> float:
        """Predictions that end per second, lately, over all workers."""
        return sum(drain_rate(row) for row in self.versions.values())

    @property
    def shares(self) -> dict[str, float]:
        """Of each version that takes submissions now which name none; together 1."""
        weights = {self.latest: 1.0} if self.split is None else self.split.weights
        total = sum(weights.values())
        return {version: weight / total for version, weight in weights.items()}

    @property
    def shadows(self) -> list[Target]:
        """Versions that are sent copies now: those that have been warm, while nothing is paused."""
        if self.route.paused:
            return []
        there = [version for version in self.route.traffic.shadow if version in self.versions]
        return [self.targets[version] for version in there if self.versions[version].released]

    def wanted(self, version: str) -> bool:
        """By the policy of model.toml, an alias or traffic: it is loaded without anybody's word for it."""
        route, newest = self.route, list(self.versions.values())[-1]
        if version in (*self.aliases.values(), *route.traffic.versions, *route.traffic.shadow):
            return True
        policy = newest.manifest.policy
        if isinstance(policy, int):
            return version in list(self.versions)[-policy:]
        return policy == "all" or (version == newest.version if policy == "latest" else version in policy)

    @classmethod
    def of(
        cls, name: str, rows: Iterable[Version], route: Route | None = None, before: "ModelView | None" = None
    ) -> "ModelView":
        """`before`: the last view of the same model, whose turns go on while its weights stand."""
        rows = list(rows)
        named = {row.manifest.latest for row in rows}
        ordered = sorted(rows, key=lambda row: (row.version in named, *_age(row)))
        route = route or Route()
        versions = {row.version: row for row in ordered}
        own = ordered[-1].manifest.aliases
        said = {**own, **route.aliases}
        split = None
        traffic = route.traffic if route.traffic.versions else declared(ordered)
        if weights := weights_of(traffic, versions):
            split = Split(name, weights, traffic.sticky)
            if before is not None and split.same(before.split):
                split = before.split
        targets = {row.version: Target(row) for row in ordered}
        return cls(
            name=name,
            versions=versions,
            targets=targets,
            widest=max(targets.values(), key=lambda target: target.max_queue),
            aliases={alias: version for alias, version in said.items() if version is not None},
            declared_aliases=own,
            latest=max(ordered, key=lambda row: (readiness(row), row.version in named, *_age(row))).version,
            route=route,
            split=split,
        )


def drain_rate(row: Version) -> float:
    """Of one version."""
    return sum((placement.rate for placement in row.placements), 0.0)


def _age(row: Version) -> tuple[bool, int]:
    """Numbers outrank names, which follow by age."""
    number = row.version.isascii() and row.version.isdecimal()
    return number, int(row.version) if number else row.created_at


_ENSEMBLE = (
    "{!r} is an ensemble: each of its steps is a prediction of another model. The Open Inference Protocol's port "
    "answers for it (--dialect oip=PORT)."
)
_NO_METADATA: Mapping[str, str] = {}


class Registry:
    """`resolve` and `model` from any endpoint; `run` is the one task that refreshes."""

    def __init__(self, models: Models, routes: Routes) -> None:
        self._models = models
        self._routes = routes
        self._thread = Threads("registry", 1)
        self._views: dict[str, ModelView] = {}
        self._refresh: asyncio.Task[None] | None = None  # under way
        self._again: asyncio.Task[None] | None = None  # the one after it, which sees all committed until it starts

    @property
    def views(self) -> Mapping[str, ModelView]:
        """As of the last refresh, by name."""
        return self._views

    async def run(self) -> None:
        """Until canceled."""
        await keep_fresh(self.refresh, "the registry")

    async def refresh(self) -> None:
        """Sees everything that was committed before the call; calls at the same time share a read.

        Raises StorageUnavailable.
        """
        if self._again is None:
            self._again = asyncio.get_running_loop().create_task(self._after(self._refresh))
            self._again.add_done_callback(seen)
        done, _ = await asyncio.wait((self._again,), timeout=PATIENCE_S)
        if not done:
            raise StorageUnavailable("the registry cannot be read")
        for task in done:
            task.result()

    async def _after(self, previous: asyncio.Task[None] | None) -> None:
        if previous is not None:
            await asyncio.wait((previous,))
        self._refresh, self._again = asyncio.current_task(), None
        rows, routes = await self._thread.run(lambda: (self._models.all(), self._routes.all()))
        by_model: dict[str, list[Version]] = {}
        for row in rows:
            by_model.setdefault(row.model, []).append(row)
        views = {
            name: ModelView.of(name, of_model, routes.get(name), self._views.get(name))
            for name, of_model in sorted(by_model.items())
        }
        for name, of_model in judged(views).items():
            views[name] = ModelView.of(name, of_model, routes.get(name), self._views.get(name))
        self._views = views

    async def model(self, name: str) -> ModelView:
        """Raises Problem model_not_found."""
        view = self._views.get(name)
        if view is None:
            await self.refresh()
            view = self._views.get(name)
        if view is None:
            raise Problem("model_not_found", f"There is no model {name[:80]!r}.")
        return view

    async def resolve(
        self,
        name: str,
        version: str | None = None,
        alias: str | None = None,
        *,
        metadata: Mapping[str, str] = _NO_METADATA,
        whole: bool = False,
        ensembles: bool = False,
    ) -> Target:
        """Of what names neither version nor alias traffic decides; `whole`: it is much, and goes to the heaviest.

        `ensembles`: whether it may be one. Raises Problem: model, version or alias not found; unavailable with the
        reason where the version failed; validation_failed for an ensemble that it may not be.
        """
        view = await self.model(name)
        if not _known(view, version, alias):
            await self.refresh()
            view = await self.model(name)
        if alias is not None:
            version = view.aliases.get(alias)
            if version is None:
                raise Problem("alias_not_found", f"The model {name!r} has no alias {alias[:80]!r}.")
        elif version is None:
            version = _chosen(view, metadata, whole)
        target = view.targets.get(version)
        if target is None:
            raise Problem("version_not_found", f"The model {name!r} has no version {str(version)[:80]!r}.")
        if view.versions[target.version].manifest.steps and not ensembles:
            raise Problem("validation_failed", _ENSEMBLE.format(name))
        if target.state == "failed":
            reason = view.versions[target.version].reason or "its load failed"
            raise Problem.unavailable(f"{name} version {target.version} cannot run: {reason}", retry_after_s=10)
        return target

    def close(self) -> None:
        self._thread.close()


def _chosen(view: ModelView, metadata: Mapping[str, str], whole: bool) -> str:
    if view.split is None:
        return view.latest
    return view.split.heaviest if whole else view.split.choose(metadata)


def _known(view: ModelView, version: str | None, alias: str | None) -> bool:
    return view.aliases.get(alias) in view.targets if alias is not None else version is None or version in view.targets
