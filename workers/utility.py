"""The utility worker: `headway utility`. It runs the janitor; any number may run."""

import logging
import signal
import threading

import redis

from headway.settings import Settings
from storage.engine import Database
from workers import exposition
from workers.janitor import Janitor
from workers.publisher import Publisher

log = logging.getLogger(__name__)


def main(settings: Settings, *, metrics_host: str = "127.0.0.1", metrics_port: int | None) -> int:
    """Until SIGTERM or SIGINT."""
    exposition.serve(metrics_host, metrics_port)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    database = Database.open(settings.database_url)
    publisher = Publisher(settings.redis_url)
    client = redis.Redis.from_url(settings.redis_url, socket_timeout=5, socket_connect_timeout=2)
    try:
        Janitor(database, client, publisher).run(stopping)
    finally:
        publisher.close()
        client.close()
        database.close()
    return 0
