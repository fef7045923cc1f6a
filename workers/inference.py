"""The worker of one device: `headway worker`.

This process takes hints from Redis, claims rows, and writes results; it never imports torch. Each model version runs
in device processes of its own (`workers.device`), loaded and warm before the first of its hints is fetched.
"""

import contextlib
import logging
import os
import platform
import threading
import time
import warnings

import celery.worker.state
import redis
from celery.apps.worker import Worker
from celery.exceptions import SecurityWarning

from headway import interpreter, stopping
from headway.clock import new_id
from headway.egress import INPUT, Egress
from headway.errors import StorageUnavailable
from headway.settings import Settings
from storage.blobs import Blobs
from storage.engine import Database
from storage.models import Models
from storage.predictions import Predictions
from storage.routes import Routes
from storage.tenants import Tenants
from storage.workers import Workers
from workers import exposition, memory
from workers.cancels import Cancels
from workers.claims import Claims
from workers.fetching import Fetcher
from workers.finisher import Finisher
from workers.folder import Folder
from workers.heartbeat import Heartbeat
from workers.intake import Intake
from workers.materials import Materials
from workers.outputs import Outputs
from workers.places import Places
from workers.progress import Progress
from workers.publisher import Publisher
from workers.residents import Residents
from workers.serving import Surroundings
from workers.stragglers import Stragglers
from workers.watchdog import Service, Watchdog
from workers.yielding import Hurry

log = logging.getLogger(__name__)

#: Seconds from the signal that a stopping worker gives the device for what it has begun.
DRAIN_S = 8.0
#: One that is stuck gives it less: it may never come, and somebody else is to begin.
_FAILED_DRAIN_S = 3.0
#: Celery leaves its event loop within a second or so; a worker that stops does not wait longer for it than this.
_LEAVE_S = 3.0


def main(
    settings: Settings,
    *,
    device: str,
    worker_id: str | None = None,
    node: str | None = None,
    metrics_host: str = "127.0.0.1",
    metrics_port: int | None,
) -> int:
    """Serves until SIGTERM or SIGINT, at whatever moment of its start, or until it is stuck, then drains.

    `node`: the name Flower shows. Answers the exit code: 0 where it was asked to stop.
    """
    asked_to_stop = stopping.on_signals()
    watchdog = Watchdog(asked_to_stop, silent_s=settings.silent_s)
    watchdog.guard()
    interpreter.yield_often()
    exposition.serve(metrics_host, metrics_port)
    worker_id = worker_id or new_id()
    database = Database.open(settings.database_url)
    workers, predictions = Workers(database), Predictions(database)
    tenants = Tenants(database)
    workers.register(worker_id, device, platform.node(), os.getpid())
    publisher = Publisher(settings.redis_url)
    finisher = Finisher(predictions, publisher)
    progress = Progress(predictions)
    progress.start()
    blobs = Blobs(settings.blobs)
    materials = Materials(blobs, Fetcher(Egress(settings.fetch_allow, INPUT)))
    outputs = Outputs(blobs, watchdog.fail)
    claims = Claims()
    intake = Intake(tenants.classes(), settings.redis_url, publisher)
    wake = threading.Event()
    folder = Folder(Places(settings.models, settings.tfserving), on_change=wake.set)
    folder.look()  # a folder that is not there is the operator's mistake
    shared = Surroundings(
        worker_id=worker_id,
        device=device,
        models=Models(database),
        predictions=predictions,
        claims=claims,
        finisher=finisher,
        publisher=publisher,
        progress=progress,
        materials=materials,
        outputs=outputs,
        loading=threading.BoundedSemaphore(os.cpu_count() or 1),
        pin=settings.pin,
        hurry=Hurry(),
        process_memory=settings.process_memory,
        on_ended=intake.ended,
    )
    client = redis.Redis.from_url(settings.redis_url, socket_timeout=2, socket_connect_timeout=1)
    budget = memory.budget(device, settings.device_memory)
    residents = Residents(folder, shared, intake, Routes(database), client, wake, budget=budget)
    cancels = Cancels(settings.redis_url, predictions=predictions, claims=claims, cancel=residents.cancel)
    cancels.start()
    heartbeat = Heartbeat(
        worker_id=worker_id,
        workers=workers,
        predictions=predictions,
        claims=claims,
        publisher=publisher,
        look_for_cancels=cancels.look,
        served=residents.served,
        device=residents.device,
        tenants=tenants,
        on_classes=intake.learn,
    )
    heartbeat.start()
    stragglers = Stragglers(residents.windows, predictions, lambda: intake.classes)
    consumer = threading.Thread(
        target=consume,
        args=(intake, node or f"{device.replace(':', '')}@{platform.node()}", watchdog),
        name="celery",
        daemon=True,
    )
    folder.start()
    residents.start()
    stragglers.start()
    consumer.start()
    sql = Service("sql", database.answers, silent_s=settings.silent_s)
    broker = Service("redis", intake.knock, silent_s=settings.silent_s)
    watchdog.watch(intake.signs, broker)
    watchdog.watch(publisher.life.sign, broker)
    for life in (heartbeat.life, residents.life, stragglers.life):
        watchdog.watch(life.sign, sql, broker)
    watchdog.watch(finisher.life.sign, sql)
    watchdog.watch(residents.signs, sql)
    watchdog.start()
    interpreter.calm_garbage_collection()
    log.info("serving on %s", device, extra={"worker_id": worker_id, "memory_budget": budget})
    asked_to_stop.wait()

    log.info("draining")
    deadline = time.monotonic() + (DRAIN_S if watchdog.failed is None else _FAILED_DRAIN_S)
    # Read by Celery before each step of its loop, the first one too.
    celery.worker.state.should_stop = os.EX_OK  # type: ignore[assignment]
    folder.close()
    residents.stop()
    stragglers.close()
    consumer.join(_LEAVE_S)
    for serving in residents.servings:
        serving.close()
    for serving in residents.servings:
        serving.drain(deadline)
    written = outputs.close(max(1.0, deadline - time.monotonic()))
    if not finisher.close(max(1.0, deadline - time.monotonic())) or not written:
        log.error("not every result was written; their claims will be given back")
    intake.close()
    cancels.close()
    progress.close()
    publisher.close()
    client.close()
    heartbeat.close()
    with contextlib.suppress(StorageUnavailable):  # the janitor will bury it
        workers.retire(worker_id)
    database.close()
    fetched = materials.close()
    if consumer.is_alive() or not fetched:
        log.warning(
            "%s hangs; leaving without it", "what an input is fetched from" if not fetched else "celery's redis"
        )
        logging.shutdown()
        os._exit(watchdog.exit_code)
    return watchdog.exit_code


class _Consuming(Worker):
    """Signals are `main`'s, which heeds them before Celery runs, too; and this is not the main thread."""

    def install_platform_tweaks(self, worker: object) -> None:
        pass


def consume(intake: Intake, node: str, watchdog: Watchdog) -> None:
    """Celery's event loop, until its `should_stop`. Whatever ends it ends the worker."""
    # Celery warns root of pickle; nothing here accepts pickle.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    try:
        _Consuming(
            app=intake.celery_app(),
            hostname=node,
            pool="solo",
            loglevel=logging.WARNING,
            quiet=True,
            without_gossip=True,
            without_mingle=True,
            events=True,
        ).start()
    except SystemExit:
        log.debug("celery's loop has ended")  # how Celery reports it to a program that embeds it
    except Exception:
        log.exception("celery's loop has ended")
    watchdog.fail("celery's loop has ended")
