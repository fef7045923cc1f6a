"""Several envelopes with one answer of Redis, and one with each of a Redis that cannot."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from kombu import Exchange, Queue

from headway import broker
from headway.testing import wait_until
from headway.types import Hint
from launch.embedded import EmbeddedValkey
from workers.channel import _Channel
from workers.intake import Intake, LineOrder
from workers.publisher import Publisher

LINE = broker.line("m", "1", 5)


class FourAtOnce(LineOrder):
    def consume(self, count: int) -> list[str]:
        names = super().consume(count)
        self.most = 4
        return names


@pytest.fixture(params=["allowed", "forbidden", "unknown"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A server with BLMPOP, one whose ACL is of the time before it was asked, and one that is too old to know it."""
    valkey = EmbeddedValkey.prepare(tmp_path)
    process = subprocess.Popen(
        [*valkey.argv, *(["--rename-command", "BLMPOP", ""] if request.param == "unknown" else [])]
    )
    try:
        wait_until(valkey.answers, 10, "Valkey to answer")
        if request.param == "forbidden":
            with redis.Redis.from_url(valkey.url) as client:
                client.execute_command("ACL", "SETUSER", "default", "-blmpop")
        yield valkey.url
    finally:
        process.kill()
        process.wait()
        valkey.remove()


def test_all_envelopes_come_and_in_their_order(
    url: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    several = "allowed" in request.node.name
    monkeypatch.setattr(_Channel, "_several", True)
    ids = [f"{n:032x}" for n in range(10)]
    hints = [(5, Hint(id=id_, size=1, shape=None, position=n)) for n, id_ in enumerate(ids)]
    wires = [wire for _, wire in broker.envelopes(LINE, hints, at_most=1)]
    publisher = Publisher(url)
    app = Intake({0: 1.0}, url, publisher).celery_app()
    app.conf.broker_transport_options["queue_order_strategy"] = FourAtOnce(lambda _: True)
    got: list[str] = []

    def receive(message: Any) -> None:
        got.extend(broker.decode_body(message.body).ids)
        message.ack()

    with redis.Redis.from_url(url) as client, app.connection_for_read() as connection:
        client.lpush(LINE, *wires[:5], b"no message", *wires[5:])
        seen = []
        with connection.Consumer([Queue(LINE, Exchange("", type="direct"), routing_key=LINE)], on_message=receive):
            while len(got) < 10:
                connection.drain_events(timeout=5)
                seen.append(len(got))
    publisher.close()
    assert got == ids
    assert seen == [4, 7, 10] if several else len(seen) >= 10
