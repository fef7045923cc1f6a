"""Which model versions this worker has loaded, from its first moment to its last.

Four times a second, and whenever something happens: what lies in the folder (`workers.folder`), what operators want
(SQL, each second), who is asked for (Redis, and SQL where Redis cannot say) and what serves are put together; what is
to be loaded and unloaded is decided elsewhere (`workers.wanted`, `workers.placement`, both pure).

A version takes hints only while it is warm. When its files change, the new form is loaded beside the old one, which
serves until then; when the new form cannot be loaded, it goes on.
"""

import hashlib
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import msgspec
import redis

from headway import broker
from headway.clock import now_us
from headway.errors import StorageUnavailable
from headway.manifest import Artifact, Manifest, fits
from headway.registry import DeviceStats, Route, State, Version
from headway.versions import Found
from storage.routes import Routes
from storage.workers import Served
from workers import memory, metrics
from workers.demand import Demand
from workers.folder import Folder
from workers.intake import Intake
from workers.placement import Candidate, Load, Reason, Unload, decide
from workers.serving import Serving, Surroundings
from workers.tally import Tally
from workers.wanted import Known, wanted
from workers.watchdog import Life, Sign
from workers.window import Window

log = logging.getLogger(__name__)

_LOOK_S = 0.25
#: How often SQL is asked what operators want.
_READ_S = 1.0
#: A version that did not load is tried again after this, doubled each time. Seconds.
_RETRY_S = (15.0, 300.0)


class Form(NamedTuple):
    """A version as its files and its manifest are: with others, it is another one."""

    model: str
    version: str
    digest: str


@dataclass(slots=True, eq=False)
class _Resident:
    """A form of a version, loaded or not."""

    form: Form
    found: Found
    manifest: Manifest
    state: Literal["out", "loading", "in", "leaving", "failed"] = "out"
    since: float = field(default_factory=time.monotonic)
    serving: Serving | None = None
    reason: str | None = None  # why it is where it is
    load_s: float = 0.0
    needs: int | None = None  # bytes, once memory was found too small for what was guessed
    asked_at: int | None = None
    retry_at: float = 0.0
    retry_s: float = _RETRY_S[0]
    gone: bool = False  # from the folder, or another form stands there

    def turn(self, state: Literal["out", "loading", "in", "leaving", "failed"], reason: str | None = None) -> None:
        self.state, self.reason, self.since = state, reason, time.monotonic()


class Residents:
    """One thread decides; everything else asks."""

    def __init__(
        self,
        folder: Folder,
        shared: Surroundings,
        intake: Intake,
        routes: Routes,
        client: "redis.Redis",
        wake: threading.Event,
        *,
        budget: int | None,
    ) -> None:
        """`wake`: set by whoever changes something. `budget`: bytes of the device's memory; None: not bounded."""
        self._folder = folder
        self._shared = shared
        self._intake = intake
        self._routes_in_sql = routes
        self._demand = Demand(client, shared.predictions)
        self._budget = budget
        self._residents: dict[Form, _Resident] = {}
        self._tallies: dict[tuple[str, str], Tally] = {}
        self._versions: dict[tuple[str, str], Version] = {}  # as SQL knows them
        self._routes: Mapping[str, Route] = {}
        self._broken: dict[tuple[str, str], str] = {}  # versions of the folder that cannot be loaded, and why
        self._registered: dict[tuple[str, str], Found] = {}
        self._refused: dict[tuple[str, str], str] = {}  # versions whose files are not those that SQL has, and why
        self._placed: dict[tuple[str, str], tuple[State, str | None, int | None]] = {}
        self._read_at = -1e9
        self._busy = (time.monotonic(), 0.0)
        self._loads = self._unloads = 0
        self._wake = wake
        self.life = Life("who loads and unloads")
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="residents", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Nothing is loaded or unloaded any more."""
        self._stopping.set()
        self._wake.set()
        self._thread.join(5.0)

    # What others ask, from any thread

    @property
    def servings(self) -> list[Serving]:
        """All that have processes, or are about to."""
        return [one.serving for one in list(self._residents.values()) if one.serving is not None]

    def windows(self) -> Sequence[Window]:
        """Of those that take hints."""
        return [one.serving.window for one in list(self._residents.values()) if one.serving and one.state == "in"]

    def signs(self) -> list[Sign]:
        """Of all that serve here."""
        return [sign for serving in self.servings for runner in serving.runners for sign in runner.signs()]

    def served(self) -> list[Served]:
        """Asked once a beat: what each version has ended here."""
        return [tally.served() for tally in list(self._tallies.values())]

    def device(self) -> DeviceStats:
        """Asked once a beat."""
        running = sum(runner.running_s for serving in self.servings for runner in serving.runners)
        now, total = time.monotonic(), running + sum(tally.busy_s for tally in list(self._tallies.values()))
        since, before = self._busy
        self._busy = (now, total)
        busy = min(1.0, max(0.0, total - before) / max(now - since, 1e-3))
        held = sum(self._memory_of(one) for one in list(self._residents.values()) if one.serving is not None)
        metrics.device(busy, held, self._budget)
        return DeviceStats(
            busy=round(busy, 3),
            memory_bytes=held,
            memory_budget=self._budget,
            loads=self._loads,
            unloads=self._unloads,
        )

    def cancel(self, canceling: Mapping[str, str]) -> None:
        """Prediction id → claim."""
        for serving in self.servings:
            serving.cancel(canceling)

    # The thread

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wake.clear()
            try:
                self.step()
                self.life.goes_on()
            except StorageUnavailable as error:
                self.life.goes_on()
                log.warning("sql is away, the versions here stay as they are: %s", error)
            except Exception:
                log.exception("what is to be loaded could not be decided")
            self._wake.wait(_LOOK_S)

    def step(self) -> None:
        """One look at everything. Raises StorageUnavailable after all that needs no SQL is done."""
        self._heed_servings()
        self._heed_folder()
        away = None
        try:
            self._register()
            self._read()
        except StorageUnavailable as error:
            away = error
        self._pause()
        self._ask()
        if self._read_at > 0:  # before it is known what operators want, nothing is loaded
            self._act()
        if away is not None:
            raise away
        self._report()

    def _heed_servings(self) -> None:
        for one in list(self._residents.values()):
            serving = one.serving
            if serving is None:
                continue
            state = serving.state
            if one.state == "leaving":
                if serving.gone.is_set():
                    one.serving = None
                    one.turn("out", one.reason)
            elif one.state == "loading" and state == "ready":
                self._came_in(one, serving)
            elif one.state == "in" and state == "failed":  # its process is gone, and no other can be had
                self._fell_out(one, serving)
            elif one.state == "loading" and state == "failed" and all(r.failed is not None for r in serving.runners):
                self._did_not_load(one, serving)

    def _came_in(self, one: _Resident, serving: Serving) -> None:
        one.turn("in")
        one.load_s, one.retry_s, one.asked_at = serving.load_s, _RETRY_S[0], None
        self._loads += 1
        metrics.loaded(one.form[:2], serving.load_s)
        serving.window.pause(self._is_paused(one))
        self._intake.serve(serving.window)
        for other in self._residents.values():
            if other is not one and other.form[:2] == one.form[:2] and other.state in ("in", "loading"):
                self._unload(other, "another form of it serves")

    def _fell_out(self, one: _Resident, serving: Serving) -> None:
        """Its device is lost, or its files are: whoever waits here goes to those who can, and it is tried again."""
        log.error("%s@%s is served no more: %s", *one.form[:2], serving.reason)
        serving.unload()
        one.serving = None
        self._unloads += 1
        metrics.unloaded(one.form[:2])
        self._fail(one, serving.reason)

    def _did_not_load(self, one: _Resident, serving: Serving) -> None:
        serving.unload()
        one.serving = None
        others = [other for other in self._residents.values() if other.serving is not None]
        if others and self._budget is not None and _is_of_memory(serving.reason):
            # What was guessed was too little: with that much room it had, it does not fit.
            room = self._budget - sum(self._memory_of(other) for other in others)
            one.needs = max(room + 1, self._memory_of(one) + self._memory_of(one) // 2)
            one.turn("out", serving.reason)
            return
        self._fail(one, serving.reason)

    def _fail(self, one: _Resident, reason: str | None) -> None:
        one.turn("failed", reason)
        one.retry_at = one.since + one.retry_s
        one.retry_s = min(one.retry_s * 2, _RETRY_S[1])

    def _heed_folder(self) -> None:
        broken: dict[tuple[str, str], str] = {}
        present: set[Form] = set()
        for found in self._folder.found:
            name = found.model, found.version
            if found.error is not None or found.manifest is None:
                broken[name] = found.error or "it has no manifest"
                continue
            if found.manifest.steps or not fits(found.manifest, self._shared.device):  # an ensemble is the API's
                continue
            form = Form(*name, _digest(found.sha256, found.manifest))
            present.add(form)
            one = self._residents.get(form)
            if one is None:
                self._residents[form] = _Resident(form, found, found.manifest)
                if any(other.form[:2] == name for other in self._residents.values() if other.form != form):
                    log.warning("%s@%s has other files or another model.toml: it is loaded anew", *name)
            else:
                one.found, one.gone = found, False
        self._broken = broken
        for form, one in list(self._residents.items()):
            one.gone = form not in present
            if one.gone and one.serving is None:
                del self._residents[form]

    def _register(self) -> None:
        """Raises StorageUnavailable."""
        due = time.monotonic() - self._read_at >= _READ_S
        present = {(found.model, found.version): found for found in self._folder.found}
        for name, found in present.items():
            if self._registered.get(name) == found or (name in self._refused and not due):
                continue
            if found.error is not None and name not in self._refused:
                log.error("%s@%s cannot be served: %s", *name, found.error)
            pinned = self._shared.pin and (found.manifest is None or found.manifest.pin(found.version) is None)
            other = self._shared.models.register(found, self._shared.worker_id, pinned=pinned)
            if other is None:
                self._refused.pop(name, None)
                before = self._registered.get(name)
                self._registered[name] = found
                if before is not None:
                    self._reroute(found)
                self._read_at = min(self._read_at, 0.0)
            else:
                self._registered.pop(name, None)
                self._refuse(name, found, other, pinned)
        for name in [name for name in (*self._registered, *self._refused) if name not in present]:
            self._shared.models.let_go(*name, self._shared.worker_id)
            self._registered.pop(name, None)
            self._refused.pop(name, None)

    def _reroute(self, found: Found) -> None:
        """Where only the routing of what is loaded has changed."""
        if found.error is None and found.manifest is not None:
            form = Form(found.model, found.version, _digest(found.sha256, found.manifest))
            if (one := self._residents.get(form)) is not None and one.serving is not None:
                one.serving.reroute(found.manifest)

    def _refuse(self, name: tuple[str, str], found: Found, registered: str, pinned: bool) -> None:
        reason = found.error or (
            f"its files have the sha256 {found.sha256}, and were registered with {registered}: HEADWAY_PIN takes no "
            "others. Give them a version of their own, or say [artifact] sha256 in model.toml"
            if pinned
            else f"its files have the sha256 {found.sha256} here, and {registered} on other workers: a version is the "
            "same on all hosts. It is taken as it is here once it is so everywhere"
        )
        if self._refused.get(name) != reason:
            log.error("%s@%s is not loaded: %s", *name, reason)
        self._refused[name] = reason

    def _is_admitted(self, one: _Resident) -> bool:
        """Its files are those that SQL has."""
        return self._registered.get(one.form[:2]) == one.found

    def _read(self) -> None:
        now = time.monotonic()
        if now - self._read_at < _READ_S:
            return
        versions = {(row.model, row.version): row for row in self._shared.models.all()}
        for name, row in versions.items():
            before = self._versions.get(name)
            if before is not None and before.wished_at != row.wished_at and row.wish != "unload":
                self._retry(name)
        self._versions, self._routes = versions, self._routes_in_sql.all()
        self._read_at = now

    def _retry(self, name: tuple[str, str]) -> None:
        """An operator wants it: what failed is tried again at once."""
        for one in self._residents.values():
            if one.form[:2] == name:
                one.retry_at = 0.0

    def _is_paused(self, one: _Resident) -> bool:
        route = self._routes.get(one.form.model)
        return route is not None and route.paused

    def _pause(self) -> None:
        for one in self._residents.values():
            if one.serving is not None:
                one.serving.window.pause(self._is_paused(one))

    def _ask(self) -> None:
        """Who waits for versions that are not loaded here, and since when."""
        asked = [
            one
            for one in self._residents.values()
            if one.state in ("out", "failed") and not one.gone and self._is_admitted(one)
            if not self._is_paused(one) and self._wish(one) != "unload"
        ]
        classes = list(self._intake.classes)
        oldest = self._demand.oldest(
            {line: one.form for one in asked for line in broker.all_lines(one.form.model, one.form.version, classes)}
        )
        for one in self._residents.values():
            one.asked_at = oldest.get(one.form)

    # Decisions

    def _act(self) -> None:
        now = time.monotonic()
        kept, urgent = self._wanted()
        candidates = []
        for one in self._residents.values():
            if one.state == "failed" and now >= one.retry_at and (one.form in kept or one.asked_at is not None):
                one.state = "out"  # its reason stands until it has loaded
            if one.state == "failed":
                continue
            if one.state == "out" and (one.gone or self._is_too_large(one) or not self._is_admitted(one)):
                continue
            candidates.append(self._candidate(one, kept, urgent, now))
        for step in decide(candidates, self._budget, now, now_us()):
            assert isinstance(step.key, Form)
            one = self._residents[step.key]
            if isinstance(step, Load):
                self._load(one)
            elif isinstance(step, Unload):
                self._unload(one, _REASONS[step.reason])

    def _candidate(self, one: _Resident, kept: set[Form], urgent: set[Form], now: float) -> Candidate:
        serving = one.serving
        used_at = serving.used_at() if serving is not None else 0.0
        assert one.state != "failed"
        return Candidate(
            key=one.form,
            state=one.state,
            kept=one.form in kept,
            urgent=one.form in urgent,
            barred=self._wish(one) == "unload",
            memory_bytes=self._memory_of(one),
            asked_at=one.asked_at,
            busy=serving is not None and serving.busy and not serving.window.paused,
            since=one.since,
            used_at=max(used_at, one.since),
            load_s=one.load_s,
        )

    def _wanted(self) -> tuple[set[Form], set[Form]]:
        by_model: dict[str, list[_Resident]] = {}
        for found in self._folder.found:  # in order, oldest first
            by_model.setdefault(found.model, [])
        for one in self._in_order():
            if not one.gone:
                by_model[one.form.model].append(one)
        kept: set[Form] = set()
        urgent: set[Form] = set()
        for model, some in by_model.items():
            known = [self._known(one) for one in some]
            route = self._routes.get(model, Route())
            policy = (some[-1].found.manifest or some[-1].manifest).policy if some else "all"
            latest_only = policy == "latest" or isinstance(policy, int)
            chosen = wanted(known, route, latest_only=latest_only)
            kept.update(one.form for one in some if one.form.version in chosen.kept)
            urgent.update(one.form for one in some if one.form.version in chosen.urgent)
        # The old form serves, so nobody is kept waiting for the new one; but it is what should serve.
        for one in self._residents.values():
            if one.gone and one.state == "in":
                new = [other for other in self._residents.values() if other.form[:2] == one.form[:2] and not other.gone]
                urgent.update(other.form for other in new if other.form in kept)
                if new and any(other.form in kept for other in new):
                    kept.add(one.form)
        return kept, urgent

    def _in_order(self) -> list[_Resident]:
        """As the folder has them: by model, oldest version first."""
        order = {(found.model, found.version): place for place, found in enumerate(self._folder.found)}
        return sorted(self._residents.values(), key=lambda one: order.get(one.form[:2], -1))

    def _known(self, one: _Resident) -> Known:
        row = self._versions.get(one.form[:2])
        return Known(
            version=one.form.version,
            wanted=one.found.wanted,
            warm=one.state == "in" or self._former_serves(one),
            failed=one.state == "failed" or self._is_too_large(one) or one.form[:2] in self._refused,
            released=row is not None and row.released,
            wish=None if row is None else row.wish,
        )

    def _former_serves(self, one: _Resident) -> bool:
        return any(other.form[:2] == one.form[:2] and other.state == "in" for other in self._residents.values())

    def _wish(self, one: _Resident) -> str | None:
        row = self._versions.get(one.form[:2])
        return None if row is None else row.wish

    def _memory_of(self, one: _Resident) -> int:
        """Of all instances: as it says itself, as it was measured, or as its files make likely."""
        if one.manifest.memory_bytes is not None:
            return one.manifest.memory_bytes * one.manifest.instances
        serving = one.serving
        if serving is not None and (measured := serving.memory_bytes) is not None:
            return measured
        if one.needs is None:
            row = self._versions.get(one.form[:2])
            if row is not None and row.memory_bytes is not None:
                return row.memory_bytes * one.manifest.instances
            one.needs = memory.guess(one.found.path) * one.manifest.instances if self._budget is not None else 0
        return one.needs

    def _is_too_large(self, one: _Resident) -> bool:
        declared = one.manifest.memory_bytes
        return declared is not None and self._budget is not None and declared * one.manifest.instances > self._budget

    def _load(self, one: _Resident) -> None:
        tally = self._tallies.setdefault(one.form[:2], Tally(*one.form[:2]))
        one.serving = Serving(one.found, one.manifest, self._shared, tally, self._wake.set)
        one.turn("loading", one.reason if one.retry_s > _RETRY_S[0] else None)
        one.serving.start()

    def _unload(self, one: _Resident, reason: str) -> None:
        assert one.serving is not None
        log.info("%s@%s on %s is unloaded: %s", *one.form[:2], self._shared.device, reason)
        one.turn("leaving", reason)
        self._unloads += 1
        metrics.unloaded(one.form[:2])
        one.serving.unload()

    # What SQL is told

    def _report(self) -> None:
        said: dict[tuple[str, str], tuple[State, str | None, int | None]] = {
            name: ("failed", reason, None) for name, reason in self._broken.items()
        }
        for one in sorted(self._residents.values(), key=lambda one: one.state == "in"):  # who serves has the last word
            state, reason, held = self._shown(one)
            # It goes on as it was; whoever looks at it is to see what is wrong with its folder since.
            refused = self._refused.get(one.form[:2])
            said[one.form[:2]] = state, reason or refused or self._folder.errors.get(one.form.model), held
        for name in self._placed:
            if name not in said:
                said[name] = ("failed", "its folder is gone", None)
        for (model, version), shown in said.items():
            if version and self._placed.get((model, version)) != shown:
                self._place(model, version, *shown)

    def _place(self, model: str, version: str, state: State, reason: str | None, held: int | None) -> None:
        serving = next((one.serving for one in self._residents.values() if one.form[:2] == (model, version)), None)
        self._shared.models.place(
            self._shared.worker_id,
            self._shared.device,
            model,
            version,
            state,
            reason=reason,
            memory_bytes=held,
            instances=1 if serving is None else serving.manifest.instances,
        )
        self._placed[model, version] = state, reason, held

    def _shown(self, one: _Resident) -> tuple[State, str | None, int | None]:
        """(state, reason, bytes) for operators."""
        serving = one.serving
        held = None if serving is None else serving.memory_bytes
        if one.state == "out" and (refused := self._refused.get(one.form[:2])) is not None:
            return "failed", refused, None
        if self._is_too_large(one) and serving is None:
            declared = (one.manifest.memory_bytes or 0) * one.manifest.instances
            return "failed", f"it needs {declared} bytes, and {self._shared.device} has {self._budget}", None
        if one.state == "in":
            state: State = serving.state if serving is not None else "ready"
            return state, serving.reason if serving is not None and state == "failed" else None, held
        if one.state == "failed" or one.retry_s > _RETRY_S[0]:
            return "failed", one.reason, None  # until a try succeeds
        if one.state == "loading":
            return "loading", None, None
        return "unloaded", one.reason or "nobody has asked for it yet", None


_REASONS = {
    Reason.BARRED: "an operator has unloaded it",
    Reason.IDLE: "nobody asks for it any more",
    Reason.ROOM: "it made room for another, and is loaded when it is asked for",
}


def _digest(sha256: str, manifest: Manifest) -> str:
    """Of the files and of what the manifest says of loading and running them: routing is not a new form."""
    config = {key: value for key, value in manifest.config.items() if key not in ("versions", "aliases", "artifact")}
    if "triton" in config:
        config["triton"] = {key: value for key, value in config["triton"].items() if key != "version_policy"}
    artifact = Artifact(trust=manifest.artifact.trust)
    loaded = msgspec.structs.replace(
        manifest, policy="latest", aliases={}, latest=None, artifact=artifact, config=config
    )
    return hashlib.sha256(sha256.encode() + msgspec.json.encode(loaded)).hexdigest()


def _is_of_memory(reason: str | None) -> bool:
    return reason is not None and ("OutOfMemory" in reason or "out of memory" in reason)
