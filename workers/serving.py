"""One model version as this worker serves it, from its load to its unload: a window, and a runner for each instance."""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from headway.errors import StorageUnavailable
from headway.manifest import Limits, Manifest, with_signature
from headway.notices import Ended
from headway.registry import State
from headway.versions import Found
from storage.models import Models
from storage.predictions import Predictions
from workers.claims import Claims
from workers.executor import Executor, Loaded
from workers.finisher import Finisher
from workers.materials import Materials
from workers.memory import CONTEXT_BYTES
from workers.outputs import Outputs
from workers.progress import Progress
from workers.publisher import Publisher
from workers.runner import Runner
from workers.tally import Tally
from workers.window import Window
from workers.yielding import Hurry

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What all versions of a worker share."""

    worker_id: str
    device: str
    models: Models
    predictions: Predictions
    claims: Claims
    finisher: Finisher
    publisher: Publisher
    progress: Progress
    materials: Materials
    outputs: Outputs
    loading: threading.Semaphore
    pin: bool  # files are looked at again when they are loaded, and have to be those that are registered
    hurry: Hurry
    process_memory: int | None  # bytes that a device process may hold whose model says nothing of it
    on_ended: Callable[[dict[str, Ended], Sequence[str]], None]


class Serving:
    """What a worker keeps per model version that it has loaded, or is loading."""

    def __init__(
        self, found: Found, manifest: Manifest, shared: Surroundings, tally: Tally, on_change: Callable[[], None]
    ) -> None:
        """`on_change`: `state` is another, or the last instance has let go."""
        self.model, self.version = found.model, found.version
        self.manifest = manifest
        self.window = Window(found.model, found.version, manifest, shared.hurry)
        self.tally = tally
        self.reason: str | None = None  # why an instance failed, lately
        self.load_s = 0.0  # what the first load took
        self.gone = threading.Event()  # unloaded, and nothing of it is left
        self._shared = shared
        self._on_change = on_change
        self._lock = threading.Lock()
        self._states: dict[int, State] = {}
        self._memory: dict[int, int] = {}
        self._began = 0.0
        self._loaded: Loaded | None = None  # of one of the instances, which all say the same
        self._used_at = 0.0
        self.runners = [
            Runner(
                worker_id=shared.worker_id,
                window=self.window,
                make_executor=lambda instance=instance: Executor(  # type: ignore[misc]
                    model=found.model,
                    version=found.version,
                    path=found.path,
                    manifest=manifest,
                    device=shared.device,
                    instance=instance,
                    sha256=found.sha256 if shared.pin or manifest.pin(found.version) is not None else None,
                ),
                predictions=shared.predictions,
                claims=shared.claims,
                finisher=shared.finisher,
                publisher=shared.publisher,
                progress=shared.progress,
                materials=shared.materials,
                outputs=shared.outputs,
                fetch=manifest.fetch,
                limits=_limits(manifest, shared.process_memory),
                loading=shared.loading,
                hurry=shared.hurry,
                tally=tally,
                on_state=lambda state, reason, loaded, instance=instance: self._on_state(  # type: ignore[misc]
                    instance, state, reason, loaded
                ),
                on_ended=self._ended,
            )
            for instance in range(manifest.instances)
        ]

    @property
    def state(self) -> State:
        """Ready while any instance is."""
        with self._lock:
            states = set(self._states.values())
        return "ready" if "ready" in states else "failed" if states == {"failed"} else "loading"

    @property
    def memory_bytes(self) -> int | None:
        """What the loaded instances took on the device; None while none is known."""
        with self._lock:
            return sum(self._memory.values()) if self._memory else None

    @property
    def busy(self) -> bool:
        """Somebody waits here, or is on the device."""
        return not self.window.empty or any(runner.busy for runner in self.runners)

    def used_at(self) -> float:
        """When there was last something to do, monotonic; 0 for never."""
        if self.busy:
            self._used_at = time.monotonic()
        return max(self._used_at, self.window.offered_at)

    def start(self) -> None:
        self._began = time.monotonic()
        for runner in self.runners:
            runner.start()

    def close(self) -> None:
        """No more in: who still waits goes back to the head of the line, for whoever serves it next."""
        window = self.window
        waiting = window.close()
        self._shared.publisher.requeue(
            (line, item.priority, hint) for item in waiting for line, hint in [window.hint_of(item)]
        )

    def drain(self, deadline: float) -> None:
        """What is on the device is computed, up to `deadline` (monotonic). Closed before."""
        for runner in self.runners:
            runner.drain(deadline)

    def unload(self) -> None:
        """On a thread of its own: lets what is on the device end, and then the processes. `gone` is set at the end."""
        self.close()
        # Two calls may be under way; one that takes longer than it may is ended by its runner.
        deadline = time.monotonic() + 2 * self.manifest.limits.timeout_s + 10.0

        def run() -> None:
            try:
                self.drain(deadline)
            finally:
                self.gone.set()
                self._on_change()

        threading.Thread(target=run, name=f"unload {self.model}", daemon=True).start()

    def cancel(self, canceling: Mapping[str, str]) -> None:
        """Prediction id → claim; those of other versions are passed over."""
        for runner in self.runners:
            runner.cancel(canceling)

    def _ended(self, ended: dict[str, Ended], ids: Sequence[str]) -> None:
        self.tally.ended(ended)
        self._shared.on_ended(ended, ids)

    def _on_state(self, instance: int, state: State, reason: str | None, loaded: Loaded | None) -> None:
        with self._lock:
            self._states[instance] = state
            if state == "failed":
                self.reason = reason
            if loaded is not None:
                context = CONTEXT_BYTES if self._shared.device.startswith("cuda") else 0
                self._memory[instance] = (loaded.memory_bytes or 0) + context
                self.load_s = self.load_s or time.monotonic() - self._began
        log.info(
            "%s@%s on %s: %s%s",
            self.model,
            self.version,
            self._shared.device,
            state,
            f": {reason}" if reason else "",
            extra={"model": self.model, "version": self.version, "state": state},
        )
        if loaded is not None:
            self._loaded = loaded
            self._describe()
        self._on_change()

    def reroute(self, manifest: Manifest) -> None:
        """The same version's manifest with another routing: SQL knows that one, and not yet what the model said."""
        self.manifest = manifest
        self._describe()

    def _describe(self) -> None:
        """What the loaded model said of itself."""
        loaded = self._loaded
        if loaded is None:
            return
        manifest = with_signature(self.manifest, loaded.inputs, loaded.outputs, loaded.said)
        try:
            self._shared.models.describe(self.model, self.version, loaded.framework, manifest)
        except StorageUnavailable as error:
            log.warning("sql is away, what %s@%s says of itself is not recorded: %s", self.model, self.version, error)


def _limits(manifest: Manifest, process_memory: int | None) -> Limits:
    limits = manifest.limits
    return limits if limits.memory is not None else msgspec.structs.replace(limits, memory=process_memory)
