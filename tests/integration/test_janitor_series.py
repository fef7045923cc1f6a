"""What the utility worker's series say of the dead, the lost, the expired, and of what it ended for the dead."""

import redis
from prometheus_client import REGISTRY

from headway import broker
from headway.testing import wait_until
from tests.integration.conftest import Store
from workers.janitor import Janitor
from workers.publisher import Publisher


def counted() -> dict[str, float]:
    of = {"model": "digits", "version": "1"}
    names = {
        "dead": ("headway_dead_workers_total", {}),
        "lost": ("headway_lost_attempts_total", {**of, "reason": "worker_dead"}),
        "expired": ("headway_expired_total", {}),
        "failed": ("headway_predictions_ended_total", {**of, "status": "failed"}),
        "canceled": ("headway_predictions_ended_total", {**of, "status": "canceled"}),
        "worker_lost": ("headway_failures_total", {**of, "code": "worker_lost"}),
    }
    return {key: REGISTRY.get_sample_value(name, labels) or 0.0 for key, (name, labels) in names.items()}


def test_the_dead_and_all_that_they_leave_behind_are_counted(store: Store, fresh_redis_url: str) -> None:
    store.claimed(store.submitted(5))
    store.claimed(store.submitted(max_attempts=1))  # alone, and for the last time
    (canceling,) = store.submitted()
    store.claimed([canceling])
    store.predictions.cancel(canceling, "default")
    store.submitted(2, queue_timeout_us=-1)
    before = counted()
    now = 0.0
    publisher = Publisher(fresh_redis_url)
    with redis.Redis.from_url(fresh_redis_url) as client:
        janitor = Janitor(store.database, client, publisher, clock=lambda: now)
        for _ in range(10):
            janitor.step()
            now += 2.0
        wait_until(lambda: client.llen(broker.line("digits", "1", 5)), 10, "what was given back to be published")
        publisher.close()
    assert {key: value - before[key] for key, value in counted().items()} == {
        "dead": 1,
        "lost": 5,
        "expired": 2,
        "failed": 1,
        "canceled": 1,
        "worker_lost": 1,
    }
