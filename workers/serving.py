"""One model version as this worker serves it: a window, and a runner for each instance."""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from headway.errors import StorageUnavailable
from headway.manifest import Found, Manifest, with_signature
from headway.notices import Ended
from headway.registry import State
from storage.models import Models
from storage.predictions import Predictions
from storage.workers import Served
from workers.claims import Claims
from workers.executor import Executor, Loaded
from workers.finisher import Finisher
from workers.materials import Materials
from workers.outputs import Outputs
from workers.progress import Progress
from workers.publisher import Publisher
from workers.runner import Runner
from workers.window import Window
from workers.yielding import Hurry

log = logging.getLogger(__name__)

#: How late a stop is noticed while models load.
_LOOK_S = 0.1


class Serving:
    """What a worker keeps per model version."""

    def __init__(
        self,
        found: Found,
        manifest: Manifest,
        *,
        worker_id: str,
        device: str,
        models: Models,
        predictions: Predictions,
        claims: Claims,
        finisher: Finisher,
        publisher: Publisher,
        progress: Progress,
        materials: Materials,
        outputs: Outputs,
        loading: threading.Semaphore,
        hurry: Hurry,
        on_ended: Callable[[dict[str, Ended], Sequence[str]], None],
    ) -> None:
        self.model, self.version = found.model, found.version
        self.window = Window(found.model, found.version, manifest, hurry)
        self._worker_id = worker_id
        self._device = device
        self._models = models
        self._manifest = manifest
        self._on_ended = on_ended
        self._lock = threading.Lock()
        self._states: dict[int, State] = {}
        self._total = 0
        self._rate = 0.0
        self._counted = (time.monotonic(), 0)
        self.runners = [
            Runner(
                worker_id=worker_id,
                window=self.window,
                make_executor=lambda instance=instance: Executor(  # type: ignore[misc]
                    model=found.model,
                    version=found.version,
                    path=found.path,
                    manifest=manifest,
                    device=device,
                    instance=instance,
                ),
                predictions=predictions,
                claims=claims,
                finisher=finisher,
                publisher=publisher,
                progress=progress,
                materials=materials,
                outputs=outputs,
                fetch=manifest.fetch,
                loading=loading,
                hurry=hurry,
                on_state=lambda state, reason, loaded, instance=instance: self._on_state(  # type: ignore[misc]
                    instance, state, reason, loaded
                ),
                on_ended=self._count,
            )
            for instance in range(manifest.instances)
        ]

    def start(self) -> None:
        for runner in self.runners:
            runner.start()

    def wait_loaded(self, asked_to_stop: threading.Event) -> bool:
        """Until every instance has loaded or failed, or the worker stops; whether any can serve."""
        for runner in self.runners:
            while not runner.wait_loaded(_LOOK_S) and not asked_to_stop.is_set():
                pass
        return any(runner.failed is None for runner in self.runners)

    def drain(self, deadline: float) -> None:
        """The window must be closed before."""
        for runner in self.runners:
            runner.drain(deadline)

    def cancel(self, canceling: Mapping[str, str]) -> None:
        """Prediction id → claim; those of other versions are passed over."""
        for runner in self.runners:
            runner.cancel(canceling)

    def served(self) -> Served:
        """Asked once a beat."""
        now, total = time.monotonic(), self._total
        since, before = self._counted
        if now > since:
            self._rate += 0.3 * ((total - before) / (now - since) - self._rate)
        self._counted = (now, total)
        return Served(model=self.model, version=self.version, ended=total, rate=self._rate)

    def _count(self, ended: dict[str, Ended], ids: Sequence[str]) -> None:
        with self._lock:
            self._total += len(ended)
        self._on_ended(ended, ids)

    def _on_state(self, instance: int, state: State, reason: str | None, loaded: Loaded | None) -> None:
        """The placement is ready while any instance is."""
        with self._lock:
            self._states[instance] = state
            shown: State = "ready" if "ready" in self._states.values() else state
        log.info(
            "%s@%s on %s: %s%s",
            self.model,
            self.version,
            self._device,
            state,
            f": {reason}" if reason else "",
            extra={"model": self.model, "version": self.version, "state": state},
        )
        try:
            if loaded is not None:
                self._models.describe(
                    self.model,
                    self.version,
                    loaded.framework,
                    with_signature(self._manifest, loaded.inputs, loaded.outputs),
                )
            self._models.place(
                self._worker_id,
                self._device,
                self.model,
                self.version,
                shown,
                reason=reason if shown == "failed" else None,
                memory_bytes=None if loaded is None else loaded.memory_bytes,
            )
        except StorageUnavailable as error:
            log.warning("sql is away, the state of %s@%s is not recorded: %s", self.model, self.version, error)
