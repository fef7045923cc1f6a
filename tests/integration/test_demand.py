"""Who waits for a version that is not loaded, as Redis and SQL tell it."""

import redis

from headway import broker
from headway.testing import new_prediction, wait_until
from headway.types import Hint
from tests.integration.conftest import Store
from workers.demand import Demand

LINE, URGENT = broker.line("digits", "1", 5), broker.line("digits", "1", 0)
OTHER = broker.line("digits", "2", 5)
LINES = {LINE: "one", URGENT: "one", OTHER: "two"}


def test_the_oldest_hint_of_all_lines_counts_and_what_redis_has_lost_is_found_in_sql(
    store: Store, fresh_redis_url: str
) -> None:
    with redis.Redis.from_url(fresh_redis_url) as client:
        demand = Demand(client, store.predictions)
        assert demand.oldest(LINES) == demand.oldest({}) == {}
        for line, at in ((LINE, 2_000), (LINE, 3_000), (URGENT, 1_000)):
            hint = Hint(id=new_prediction().id, size=1, shape=None, position=at)
            client.lpush(line, *[wire for _, wire in broker.envelopes(line, [(5, hint)], at_most=8)])
        assert demand.oldest(LINES) == {"one": 1_000}
        client.flushall()
        assert demand.oldest(LINES) == {}
        (id_,) = store.submitted(version="2", line=OTHER)
        first = wait_until(lambda: demand.oldest(LINES), 10, "a row that is a second old")
        assert list(first) == ["two"]
        assert first == demand.oldest(LINES)
        assert demand.oldest({}) == {}  # it is loaded now
        store.predictions.cancel_queued([id_], "default")
        assert demand.oldest(LINES) == {}
