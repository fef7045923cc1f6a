"""The utility worker: `headway utility`. It runs the janitor, looks after batches and sends webhooks; any number may
run."""

import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import redis

from headway import interpreter, stopping
from headway.egress import Egress
from headway.settings import Settings
from storage.blobs import Blobs
from storage.deliveries import Deliveries, Secrets
from storage.engine import Database
from storage.predictions import Predictions
from workers import exposition
from workers.batches import BatchKeeper
from workers.janitor import Janitor
from workers.publisher import Publisher
from workers.sweeper import Sweeper
from workers.watchdog import Service, Watchdog
from workers.webhooks import Deliverer

log = logging.getLogger(__name__)


def main(settings: Settings, *, metrics_host: str = "127.0.0.1", metrics_port: int | None) -> int:
    """Until SIGTERM or SIGINT; answers the exit code.

    What ends one of its duties ends the others, too, and so does one that is stuck: whoever watches starts it again.
    """
    interpreter.yield_often()
    asked_to_stop = stopping.on_signals()
    watchdog = Watchdog(asked_to_stop, silent_s=settings.silent_s)
    watchdog.guard()
    exposition.serve(metrics_host, metrics_port)
    database = Database.open(settings.database_url)
    publisher = Publisher(settings.redis_url)
    client = redis.Redis.from_url(settings.redis_url, socket_timeout=5, socket_connect_timeout=2)
    deliverer = Deliverer(
        Deliveries(database),
        Secrets(database, settings.webhook_secret),
        Egress(settings.webhook_allow),
        settings.webhook_schedule,
        public_url=settings.public_url,
    )
    sweeper = Sweeper(Blobs(settings.blobs), Predictions(database))
    # A store that hangs must not keep the process from ending.
    threading.Thread(target=sweeper.run, args=(asked_to_stop,), name="sweeper", daemon=True).start()
    threads = ThreadPoolExecutor(2, "duty")
    keeper = BatchKeeper(database, client, publisher)
    duties = [threads.submit(deliverer.run, asked_to_stop), threads.submit(keeper.run, asked_to_stop)]
    for duty in duties:
        duty.add_done_callback(lambda _: asked_to_stop.set())
    janitor = Janitor(database, client, publisher, retention_s=settings.retention_s, sweeper=sweeper)
    sql = Service("sql", database.answers, silent_s=settings.silent_s)
    broker = Service("redis", client.ping, silent_s=settings.silent_s)
    watchdog.watch(deliverer.life.sign, sql)
    for life in (janitor.life, keeper.life, publisher.life):
        watchdog.watch(life.sign, sql, broker)
    watchdog.start()
    interpreter.calm_garbage_collection()
    try:
        janitor.run(asked_to_stop)
    finally:
        asked_to_stop.set()
        threads.shutdown()
        publisher.close()
        client.close()
        database.close()
    for duty in duties:
        duty.result()
    return watchdog.exit_code
