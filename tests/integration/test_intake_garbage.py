"""Anything may lie in a line: what is no message is dropped, and the next one is served."""

from collections.abc import Iterator
from typing import Any

import pytest
import redis
from kombu import Exchange, Queue

from headway import broker
from headway.clock import new_id
from headway.types import Hint
from workers.intake import Intake, LineOrder
from workers.publisher import Publisher


@pytest.fixture
def publisher(redis_url: str) -> Iterator[Publisher]:
    made = Publisher(redis_url)
    yield made
    made.close()


def test_what_is_no_message_does_not_end_the_connection_to_redis(redis_url: str, publisher: Publisher) -> None:
    line = broker.line(f"m{new_id()}", "1", 5)
    ((_, good),) = broker.envelopes(line, [(5, Hint(id=new_id(), size=1, shape=None, position=1))], at_most=1)
    garbage = [b"", b"\x80\x04.", b"\xff\xfe", b"[]", b"null", b'{"body": 1}', b'{"properties": {}}', good[:-20]]
    with redis.Redis.from_url(redis_url) as client:
        client.lpush(line, *garbage, good)  # served from the right: the good one last
    got: list[Any] = []

    def receive(message: Any) -> None:
        got.append(message)
        message.ack()

    app = Intake({0: 1.0}, redis_url, publisher).celery_app()
    app.conf.broker_transport_options = {
        **app.conf.broker_transport_options,
        "queue_order_strategy": LineOrder(lambda _: True),
    }
    with app.connection_for_read() as connection:
        queue = Queue(line, Exchange("", type="direct"), routing_key=line, durable=True)
        with connection.Consumer([queue], on_message=receive, accept=["json"]):
            while not got:
                connection.drain_events(timeout=5)
    assert broker.decode_body(got[0].body).line == line
