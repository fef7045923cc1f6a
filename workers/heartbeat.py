"""The lease: proof, every two seconds, that this worker lives; and the end of it when SQL says it does not.

On a thread and a connection of its own, so that neither the model nor a slow transaction keeps it from beating. A
database that is away is no reason to die: the janitor counts beats on its own clock and starts again after a gap.
"""

import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence

from headway.errors import StorageUnavailable
from headway.registry import DeviceStats
from storage.predictions import Predictions
from storage.returning import Returned
from storage.tenants import Tenants
from storage.workers import Served, Workers
from workers import metrics
from workers.claims import Claims
from workers.publisher import Publisher
from workers.watchdog import Life

log = logging.getLogger(__name__)

BEAT_S = 2.0
#: Every so many beats SQL's claims are compared with ours.
_COMPARE_EVERY = 5


class Heartbeat:
    """Beats until closed."""

    def __init__(
        self,
        *,
        worker_id: str,
        workers: Workers,
        predictions: Predictions,
        claims: Claims,
        publisher: Publisher,
        look_for_cancels: Callable[[], None],
        served: Callable[[], Sequence[Served]],
        device: Callable[[], DeviceStats],
        tenants: Tenants,
        on_classes: Callable[[Mapping[int, float]], None],
    ) -> None:
        """`served`: what each model version has ended here, for its placement. `device`: what is to be seen of that.

        `look_for_cancels()`: lets go of what SQL says is being canceled; it may raise StorageUnavailable. `on_classes`
        hears at every beat of the classes of tenants and their weights.
        """
        self._worker_id = worker_id
        self._workers = workers
        self._predictions = predictions
        self._claims = claims
        self._publisher = publisher
        self._look_for_cancels = look_for_cancels
        self._served = served
        self._device = device
        self._tenants = tenants
        self._on_classes = on_classes
        self.life = Life("the heartbeat")
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._stopping.set()
        self._thread.join(5.0)

    def _run(self) -> None:
        beats = 0
        while not self._stopping.wait(BEAT_S):
            self.life.goes_on()
            beats += 1
            try:
                if not self._workers.beat(self._worker_id, self._served(), self._device()):
                    # Declared dead: the claims are given to others. Everything from here on would be turned away.
                    log.critical("this worker was declared dead; it ends")
                    os._exit(70)
                self._on_classes(self._tenants.classes())
                if beats % _COMPARE_EVERY == 0:
                    self._give_back_unknown()
                    self._look_for_cancels()
            except StorageUnavailable as error:
                log.warning("sql is away, no beat: %s", error)

    def _give_back_unknown(self) -> None:
        """Claims of ours in SQL that nobody here holds: their COMMIT was never answered."""
        for claim, ids in self._workers.claims(self._worker_id).items():
            if claim in self._claims:
                continue
            given = self._predictions.give_back(claim, [Returned(id=id_) for id_ in ids], True)
            self._publisher.ended(given.ended)
            self._publisher.requeue(given.queued)
            metrics.given_back(given)
            if given.queued:
                log.warning(
                    "a claim nobody here holds was given back", extra={"claim": claim, "ids": len(given.queued)}
                )
