"""The utility worker: `headway utility`. It runs the janitor and sends webhooks; any number may run."""

import logging
import signal
import threading

import redis

from headway.egress import Egress
from headway.settings import Settings
from storage.deliveries import Deliveries, Secrets
from storage.engine import Database
from workers.janitor import Janitor
from workers.publisher import Publisher
from workers.webhooks import Deliverer

log = logging.getLogger(__name__)


def main(settings: Settings) -> int:
    """Until SIGTERM or SIGINT."""
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
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
    sending = threading.Thread(target=deliverer.run, args=(stopping,), name="webhooks")
    sending.start()
    try:
        Janitor(database, client, publisher).run(stopping)
    finally:
        stopping.set()
        sending.join()
        publisher.close()
        client.close()
        database.close()
    return 0
