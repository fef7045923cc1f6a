"""The utility worker: `headway utility`. It runs the janitor; any number may run."""

import logging

import redis

from headway import stopping
from headway.settings import Settings
from storage.engine import Database
from workers import exposition
from workers.janitor import Janitor
from workers.publisher import Publisher

log = logging.getLogger(__name__)


def main(settings: Settings, *, metrics_host: str = "127.0.0.1", metrics_port: int | None) -> int:
    """Until SIGTERM or SIGINT."""
    asked_to_stop = stopping.on_signals()
    exposition.serve(metrics_host, metrics_port)
    database = Database.open(settings.database_url)
    publisher = Publisher(settings.redis_url)
    client = redis.Redis.from_url(settings.redis_url, socket_timeout=5, socket_connect_timeout=2)
    try:
        Janitor(database, client, publisher, retention_s=settings.retention_s).run(asked_to_stop)
    finally:
        publisher.close()
        client.close()
        database.close()
    return 0
