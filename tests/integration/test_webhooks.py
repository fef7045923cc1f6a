"""Webhooks from the row that owes them to a real receiver, the same on both stores."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from standardwebhooks import Webhook

from headway.clock import now_us
from headway.egress import Egress, networks
from headway.errors import ItemCode, ItemError
from headway.testing import wait_until
from headway.types import Outcome
from headway.webhooks import Events, WebhookStatus, WebhookVerificationError, verify
from storage.deliveries import Attempt, Deliveries, Result, Secrets
from storage.predictions import Finished, Returned
from tests.receiver import Answer, Received, Receiver
from workers.webhooks import Deliverer

LOOPBACK = Egress(networks("127.0.0.0/8"))


@pytest.fixture
def new_receiver() -> Iterator[Callable[[], Receiver]]:
    with ExitStack() as made:

        def make() -> Receiver:
            receiver = Receiver()
            made.callback(receiver.close)
            return receiver

        yield make


@pytest.fixture
def receiver(new_receiver: Callable[[], Receiver]) -> Receiver:
    return new_receiver()


@pytest.fixture
def deliver(store: Any) -> Iterator[Callable[..., None]]:
    """Starts a deliverer; all are stopped when the test ends."""
    stopping = threading.Event()
    threads = []

    def start(*schedule: float, egress: Egress = LOOPBACK, timeout_s: float = 5.0) -> None:
        deliverer = Deliverer(
            Deliveries(store.database), Secrets(store.database), egress, schedule, timeout_s=timeout_s
        )
        threads.append(threading.Thread(target=deliverer.run, args=(stopping,)))
        threads[-1].start()

    yield start
    stopping.set()
    for thread in threads:
        thread.join()


def submitted(store: Any, url: str, count: int = 1, events: Events = Events.COMPLETED, **fields: Any) -> list[str]:
    ids: list[str] = store.submitted(count, webhook=url, webhook_events=events, **fields)
    return ids


def ended(store: Any, url: str, count: int = 1, **fields: Any) -> list[str]:
    ids = submitted(store, url, count, **fields)
    claim, _ = store.claimed(ids)
    assert store.finished(claim, ids) == set(ids)
    return ids


def status(store: Any, id_: str) -> WebhookStatus:
    told: WebhookStatus = store.predictions.read([id_])[id_].webhook_status
    return told


def becomes(store: Any, id_: str, wanted: WebhookStatus) -> None:
    wait_until(lambda: status(store, id_) is wanted, 15, f"webhook_status {wanted.label}")


def attempts(store: Any, id_: str) -> list[tuple[int | None, str | None]]:
    (delivery,) = Deliveries(store.database).of(id_, "default")
    return [(each.status_code, each.error) for each in delivery.log]


# The outbox


def end_by_finishing(store: Any, id_: str) -> None:
    claim, _ = store.claimed([id_])
    store.finished(claim, [id_])


def end_by_failing(store: Any, id_: str) -> None:
    claim, _ = store.claimed([id_])
    outcome = Outcome(id=id_, error=ItemError(ItemCode.MODEL_ERROR, "no"))
    store.predictions.finish([Finished(claim=claim, outcomes=[outcome], settled=True)])


def end_by_the_last_loss(store: Any, id_: str) -> None:
    claim, _ = store.claimed([id_])
    store.predictions.give_back(claim, [Returned(id=id_, charge=True)], True)


def end_by_dead_worker(store: Any, id_: str) -> None:
    store.claimed([id_])
    store.workers.mark_dead("w1")
    store.predictions.give_back_dead()


def end_by_cancel(store: Any, id_: str) -> None:
    store.predictions.cancel_queued([id_], "default")


def end_by_cancel_while_running(store: Any, id_: str) -> None:
    claim, _ = store.claimed([id_])
    store.execute("UPDATE predictions SET status = 2 WHERE status = 1")
    store.predictions.give_back(claim, [Returned(id=id_)], True)


def end_by_expiry(store: Any, id_: str) -> None:
    store.execute("UPDATE predictions SET expires_at = 1 WHERE status = 0")
    store.predictions.expire()


@pytest.mark.parametrize(
    ("end", "event"),
    [
        (end_by_finishing, "succeeded"),
        (end_by_failing, "failed"),
        (end_by_the_last_loss, "failed"),
        (end_by_dead_worker, "failed"),
        (end_by_cancel, "canceled"),
        (end_by_cancel_while_running, "canceled"),
        (end_by_expiry, "expired"),
    ],
)
def test_every_end_owes_one_event_that_shows_the_prediction_as_it_ended(
    store: Any, receiver: Receiver, deliver: Callable[..., None], end: Callable[[Any, str], None], event: str
) -> None:
    (id_,) = submitted(store, receiver.url, max_attempts=1, metadata={"ü": '"'})
    assert status(store, id_) is WebhookStatus.PENDING
    end(store, id_)
    row = store.predictions.read([id_])[id_]
    end(store, id_)  # again, as a zombie would

    deliver()
    becomes(store, id_, WebhookStatus.SUCCEEDED)

    (got,) = receiver.got
    assert got.event["type"] == f"prediction.{event}"
    assert got.headers["content-type"] == "application/json"
    data = got.event["data"]
    assert data["id"] == id_
    assert data["status"] == event
    assert data["revision"] == row.revision
    assert data["metadata"] == {"ü": '"'}
    assert data["webhook_status"] == "pending"
    assert data["output"] == (1 if event == "succeeded" else None)
    assert (data["error"] is not None) == (event == "failed")
    assert got.event["timestamp"] == data["completed_at"]
    assert store.predictions.read([id_])[id_].revision == row.revision + 1


def test_a_prediction_without_a_webhook_owes_nothing(store: Any) -> None:
    (id_,) = store.submitted()
    end_by_finishing(store, id_)

    assert store.count("deliveries") == 0
    assert status(store, id_) is WebhookStatus.NONE


def test_an_attempt_that_is_lost_owes_nothing_yet(store: Any, receiver: Receiver) -> None:
    (id_,) = submitted(store, receiver.url)
    claim, _ = store.claimed([id_])
    store.predictions.give_back(claim, [Returned(id=id_, charge=True)], True)

    assert store.count("deliveries") == 0


@pytest.mark.parametrize("size", [65_536, 65_537])
def test_a_large_output_is_left_out_and_the_body_says_so(
    store: Any, receiver: Receiver, deliver: Callable[..., None], size: int
) -> None:
    (id_,) = submitted(store, receiver.url)
    claim, _ = store.claimed([id_])
    output = b'"' + b"x" * (size - 2) + b'"'
    store.predictions.finish([Finished(claim=claim, outcomes=[Outcome(id=id_, output=output)], settled=True)])

    deliver()
    becomes(store, id_, WebhookStatus.SUCCEEDED)

    data = receiver.got[0].event["data"]
    if size > 65_536:
        assert data["output"] is None
        assert data["output_omitted"] is True
    else:
        assert data["output"] == "x" * (size - 2)
        assert "output_omitted" not in data


def test_started_comes_once_and_before_the_end(store: Any, receiver: Receiver, deliver: Callable[..., None]) -> None:
    (id_,) = submitted(store, receiver.url, events=Events.STARTED | Events.COMPLETED)
    claim, _ = store.claimed([id_])
    deliver()
    wait_until(lambda: receiver.got, 10, "the first event")
    store.predictions.give_back(claim, [Returned(id=id_)], True)
    assert status(store, id_) is WebhookStatus.PENDING
    claim, _ = store.claimed([id_])
    store.finished(claim, [id_])
    becomes(store, id_, WebhookStatus.SUCCEEDED)

    assert [got.event["type"] for got in receiver.got] == ["prediction.started", "prediction.succeeded"]
    assert receiver.got[0].event["data"]["status"] == "in_progress"
    assert receiver.got[0].id != receiver.got[1].id


def test_a_receiver_of_started_alone_is_told_nothing_else(
    store: Any, receiver: Receiver, deliver: Callable[..., None]
) -> None:
    (id_,) = ended(store, receiver.url, events=Events.STARTED)
    deliver()
    becomes(store, id_, WebhookStatus.SUCCEEDED)

    assert [got.event["type"] for got in receiver.got] == ["prediction.started"]


# Attempts


def test_one_id_for_an_event_over_all_its_attempts(
    store: Any, receiver: Receiver, deliver: Callable[..., None]
) -> None:
    seen: dict[str, int] = {}

    def third_time(received: Received) -> Answer:
        seen[received.id] = seen.get(received.id, 0) + 1
        return (200 if seen[received.id] == 3 else 500), {}

    receiver.answer = third_time
    ids = ended(store, receiver.url, 5)
    deliver(0.01, 0.01, 0.01)
    for id_ in ids:
        becomes(store, id_, WebhookStatus.SUCCEEDED)

    assert sorted(seen.values()) == [3] * 5
    assert {got.event["data"]["id"]: got.id for got in receiver.got}.keys() == set(ids)
    bodies = {(got.id, got.body) for got in receiver.got}
    assert len(bodies) == 5, "the body of an event changed between attempts"
    assert attempts(store, ids[0]) == [(500, "answered 500"), (500, "answered 500"), (200, None)]


def test_the_schedule_ends_and_redelivery_begins_it_again(
    store: Any, receiver: Receiver, deliver: Callable[..., None]
) -> None:
    receiver.answer = lambda _: (503, {})
    (id_,) = ended(store, receiver.url)
    deliver(0.01, 0.01)
    becomes(store, id_, WebhookStatus.FAILED)
    assert len(receiver.got) == 3
    revision = store.predictions.read([id_])[id_].revision

    receiver.answer = lambda _: (204, {})
    deliveries = Deliveries(store.database)
    (delivery,) = deliveries.of(id_, "default")
    assert deliveries.redeliver(delivery.id, "somebody else") is None
    redelivered = deliveries.redeliver(delivery.id, "default")
    assert redelivered is not None
    assert redelivered.status is WebhookStatus.PENDING
    becomes(store, id_, WebhookStatus.SUCCEEDED)

    assert len({got.id for got in receiver.got}) == 1
    assert len(receiver.got) == 4
    assert store.predictions.read([id_])[id_].revision == revision + 2


def test_gone_ends_the_schedule(store: Any, receiver: Receiver, deliver: Callable[..., None]) -> None:
    receiver.answer = lambda _: (410, {})
    (id_,) = ended(store, receiver.url)
    deliver(0.01, 0.01, 0.01)
    becomes(store, id_, WebhookStatus.FAILED)

    assert len(receiver.got) == 1


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirect_is_a_failure_and_never_followed(
    store: Any, new_receiver: Callable[[], Receiver], deliver: Callable[..., None], code: int
) -> None:
    receiver, elsewhere = new_receiver(), new_receiver()
    receiver.answer = lambda _: (code, {"location": elsewhere.url})
    (id_,) = ended(store, receiver.url)
    deliver()
    becomes(store, id_, WebhookStatus.FAILED)

    assert elsewhere.got == []
    assert attempts(store, id_) == [(code, f"answered {code}")]


def test_retry_after_is_honoured(store: Any, receiver: Receiver, deliver: Callable[..., None]) -> None:
    receiver.answer = lambda _: (429, {"retry-after": "1"}) if len(receiver.got) == 1 else (200, {})
    (id_,) = ended(store, receiver.url)
    deliver(0.01)
    becomes(store, id_, WebhookStatus.SUCCEEDED)

    first, second = receiver.got
    assert second.at - first.at >= 0.9


def test_dead_and_slow_receivers_do_not_delay_a_healthy_one(
    store: Any, new_receiver: Callable[[], Receiver], deliver: Callable[..., None]
) -> None:
    slow, dead, healthy = new_receiver(), new_receiver(), new_receiver()
    release = threading.Event()
    slow.answer = lambda _: (200 if release.wait(20) else 500, {})
    dead.close()
    ended(store, slow.url, 200)
    ended(store, dead.url, 200)
    deliver(0.01, 0.01, 60.0)
    wait_until(lambda: slow.got, 10, "the slow receiver to be called")
    started = time.monotonic()
    ids = ended(store, healthy.url, 100)
    for id_ in ids:
        becomes(store, id_, WebhookStatus.SUCCEEDED)
    took = time.monotonic() - started
    under_way = len(slow.got)
    release.set()

    assert took < 5
    assert under_way <= 4
    assert len({got.id for got in healthy.got}) == len(healthy.got) == 100


def test_many_deliverers_send_each_event_once(store: Any, receiver: Receiver, deliver: Callable[..., None]) -> None:
    for _ in range(3):
        deliver()
    ids = ended(store, receiver.url, 100)
    for id_ in ids:
        becomes(store, id_, WebhookStatus.SUCCEEDED)

    assert len({got.id for got in receiver.got}) == len(receiver.got) == 100


def test_what_a_lost_deliverer_sent_is_sent_again_under_the_same_id(
    store: Any, receiver: Receiver, deliver: Callable[..., None]
) -> None:
    """It dies between the POST and the record: as if leased, and never heard of again."""
    (id_,) = ended(store, receiver.url)
    deliveries = Deliveries(store.database)
    (leased,) = deliveries.lease(f"http://{receiver.host}", 10, 0.3)
    assert deliveries.due_receivers() == []

    deliver()
    becomes(store, id_, WebhookStatus.SUCCEEDED)

    (got,) = receiver.got
    assert got.id == leased.id


def test_what_is_sent_to_a_slow_receiver_is_not_sent_again_meanwhile(
    store: Any, receiver: Receiver, deliver: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.webhooks._LEASE_S", 0.6)
    monkeypatch.setattr("workers.webhooks._RENEW_S", 0.2)
    began = time.monotonic()
    receiver.answer = lambda _: (wait_until(lambda: 200 if time.monotonic() > began + 2 else 0), {})
    (id_,) = ended(store, receiver.url)
    deliver()
    deliver()
    becomes(store, id_, WebhookStatus.SUCCEEDED)

    assert len(receiver.got) == 1


def test_only_a_lease_that_still_holds_is_renewed(store: Any, receiver: Receiver) -> None:
    """Else a renewal that comes late would put off what was leased anew, or hurry a retry."""
    deliveries = Deliveries(store.database)
    (id_,) = ended(store, receiver.url)
    host = f"http://{receiver.host}"

    def due() -> int:
        (delivery,) = deliveries.of(id_, "default")
        return delivery.due_at

    (first,) = deliveries.lease(host, 1, 0.0)
    (second,) = deliveries.lease(host, 1, 0.0)
    before = due()
    deliveries.renew({first.id: first.attempts}, 60)
    assert due() == before
    deliveries.renew({second.id: second.attempts}, 60)
    assert due() > before + 50_000_000

    failed = Attempt(at=now_us(), seconds=0.1, status_code=500, error="answered 500")
    deliveries.record([Result(leased=second, state=WebhookStatus.PENDING, attempt=failed, delay_s=300)])
    before = due()
    deliveries.renew({second.id: second.attempts}, 60)
    assert due() == before


def test_a_receiver_that_never_answers_is_a_failure_in_time(
    store: Any, receiver: Receiver, deliver: Callable[..., None]
) -> None:
    release = threading.Event()
    receiver.answer = lambda _: (200 if release.wait(10) else 500, {})
    (id_,) = ended(store, receiver.url)
    deliver(timeout_s=0.3)
    becomes(store, id_, WebhookStatus.FAILED)
    release.set()

    assert attempts(store, id_) == [(None, "no answer within 0.3 s")]


def test_an_endless_answer_is_not_read_to_its_end(store: Any, receiver: Receiver, deliver: Callable[..., None]) -> None:
    receiver.answer = lambda _: (200, {"content-length": str(1 << 40), "content-encoding": "gzip"})
    (id_,) = ended(store, receiver.url)
    deliver(timeout_s=0.5)
    becomes(store, id_, WebhookStatus.FAILED)

    assert len(receiver.got) == 1


# Guard


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1", "[::ffff:127.0.0.1]"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_what_is_no_public_address_is_never_connected_to(
    store: Any, receiver: Receiver, deliver: Callable[..., None], scheme: str, host: str
) -> None:
    """Accepted once, as with a name that resolved to something else then, and refused when it is connected to."""
    url = f"{scheme}://{host}:{receiver.host.partition(':')[2]}/hook"
    (id_,) = ended(store, url)
    deliver(egress=Egress())
    becomes(store, id_, WebhookStatus.FAILED)

    assert receiver.got == []
    ((code, error),) = attempts(store, id_)
    assert code is None
    assert "not a public address" in (error or "")


class _OnlyWhenConnected(Egress):
    """A name that was harmless when it was accepted and is rebound when it is connected to."""

    def checked_url(self, url: str) -> str:
        return url


def test_a_name_that_is_rebound_is_refused_at_the_connection(
    store: Any, receiver: Receiver, deliver: Callable[..., None]
) -> None:
    (id_,) = ended(store, receiver.url)
    deliver(egress=_OnlyWhenConnected())
    becomes(store, id_, WebhookStatus.FAILED)

    assert receiver.got == []


# Signatures


def test_the_official_library_verifies_before_during_and_after_a_rotation(store: Any, receiver: Receiver) -> None:
    secrets = Secrets(store.database)
    old = secrets.valid("default")[0]

    def verified(received: Received, secret: str) -> bool:
        try:
            assert Webhook(secret).verify(received.body, received.headers) == received.event
            assert verify(secret, received.body, received.headers) == received.event
        except WebhookVerificationError:
            return False
        return True

    before = _sent(store, receiver)
    new = secrets.rotate("default")
    assert secrets.valid("default") == [new, old]
    during = _sent(store, receiver)
    store.execute(f"UPDATE webhook_secrets SET rotated_at = {now_us() - 86_400_000_001}")
    after = _sent(store, receiver)

    assert [verified(before, old), verified(before, new)] == [True, False]
    assert [verified(during, old), verified(during, new)] == [True, True]
    assert [verified(after, old), verified(after, new)] == [False, True]
    assert not verified(Received("/", after.headers, after.body + b" "), new)


def _sent(store: Any, receiver: Receiver) -> Received:
    """By a deliverer of its own: each remembers secrets for a while."""
    (id_,) = ended(store, receiver.url)
    stopping = threading.Event()
    deliverer = Deliverer(Deliveries(store.database), Secrets(store.database), LOOPBACK, ())
    thread = threading.Thread(target=deliverer.run, args=(stopping,))
    thread.start()
    becomes(store, id_, WebhookStatus.SUCCEEDED)
    stopping.set()
    thread.join()
    return receiver.got[-1]
