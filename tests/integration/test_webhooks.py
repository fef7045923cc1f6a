"""Webhooks from the row that owes them to a real receiver, the same on both stores."""

import datetime
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import trustme
from prometheus_client import REGISTRY
from standardwebhooks import Webhook

from headway.clock import now_us
from headway.egress import Egress, networks
from headway.errors import ItemCode, ItemError
from headway.running import free_port
from headway.settings import WEBHOOK_SCHEDULE
from headway.testing import wait_until
from headway.types import Outcome
from headway.webhooks import Events, WebhookStatus, WebhookVerificationError, verify
from storage.deliveries import Attempt, Deliveries, Result, Secrets
from storage.returning import Returned
from storage.running import Finished
from tests.receiver import Answer, Received, Receiver
from workers.webhooks import Deliverer

LOOPBACK = Egress(networks("127.0.0.0/8"))


@pytest.fixture
def new_receiver() -> Iterator[Callable[..., Receiver]]:
    with ExitStack() as made:

        def make(**how: Any) -> Receiver:
            receiver = Receiver(**how)
            made.callback(receiver.close)
            return receiver

        yield make


@pytest.fixture
def receiver(new_receiver: Callable[..., Receiver]) -> Receiver:
    return new_receiver()


@pytest.fixture
def deliver(store: Any) -> Iterator[Callable[..., None]]:
    """Starts a deliverer; all are stopped when the test ends."""
    stopping = threading.Event()
    threads = []

    def start(
        *schedule: float, egress: Egress = LOOPBACK, timeout_s: float = 5.0, tls: ssl.SSLContext | None = None
    ) -> None:
        deliverer = Deliverer(
            Deliveries(store.database), Secrets(store.database), egress, schedule, timeout_s=timeout_s, tls=tls
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
    # While it is recorded its prediction is locked, and who gives back does not wait for locks.
    wait_until(lambda: attempts(store, id_), 10, "the first event")
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


#: Two days of the schedule become three and a half seconds.
_SHRUNK = 50_000


def test_a_receiver_that_was_down_for_two_days_gets_every_event_once(
    store: Any, new_receiver: Callable[..., Receiver], deliver: Callable[..., None]
) -> None:
    port = free_port()
    ids = ended(store, f"http://127.0.0.1:{port}/hook", 40)
    down_until = time.monotonic() + 2 * 86_400 / _SHRUNK
    deliver(*(delay / _SHRUNK for delay in WEBHOOK_SCHEDULE))
    wait_until(lambda: len(attempts(store, ids[0])) >= 3, 10, "refused connections")
    receiver = new_receiver(port=port)
    taken: list[Received] = []
    refused: list[Received] = []

    def answer(received: Received) -> Answer:
        if time.monotonic() < down_until or not refused:
            refused.append(received)
            return 500, {}
        taken.append(received)
        return 200, {}

    receiver.answer = answer
    for id_ in ids:
        becomes(store, id_, WebhookStatus.SUCCEEDED)

    assert sorted(received.event["data"]["id"] for received in taken) == sorted(ids)
    assert set(Counter(received.id for received in taken).values()) == {1}
    assert {received.id for received in receiver.got} == {received.id for received in taken}
    (secret,) = Secrets(store.database).valid("default")
    for received in receiver.got:
        assert Webhook(secret).verify(received.body, received.headers) == received.event
    for id_ in ids:
        codes = [code for code, _ in attempts(store, id_)]
        assert len(codes) <= 10
        assert codes[0] is None
        assert codes[-1] == 200
        assert 200 not in codes[:-1]
    assert any(code == 500 for id_ in ids for code, _ in attempts(store, id_))


def test_gone_for_one_event_closes_that_delivery_and_no_other_of_the_tenant(
    store: Any, receiver: Receiver, deliver: Callable[..., None]
) -> None:
    ids = ended(store, receiver.url, 10)
    receiver.answer = lambda received: (410 if received.event["data"]["id"] == ids[3] else 200, {})
    deliver(0.01, 0.01)
    for id_ in ids:
        becomes(store, id_, WebhookStatus.FAILED if id_ == ids[3] else WebhookStatus.SUCCEEDED)
    (later,) = ended(store, receiver.url)
    becomes(store, later, WebhookStatus.SUCCEEDED)

    assert Counter(received.event["data"]["id"] for received in receiver.got) == dict.fromkeys([*ids, later], 1)
    receiver.answer = lambda _: (200, {})
    deliveries = Deliveries(store.database)
    (delivery,) = deliveries.of(ids[3], "default")
    assert delivery.status is WebhookStatus.FAILED
    assert deliveries.redeliver(delivery.id, "default") is not None
    becomes(store, ids[3], WebhookStatus.SUCCEEDED)


def test_attempts_are_counted_by_outcome_and_deliveries_timed_from_their_event(
    store: Any, receiver: Receiver, deliver: Callable[..., None]
) -> None:
    def seen(name: str, **labels: str) -> float:
        return REGISTRY.get_sample_value(f"headway_webhook_{name}", labels) or 0.0

    def counted() -> list[float]:
        outcomes = ("delivered", "retried", "given_up")
        attempts = [seen("attempts_total", outcome=outcome) for outcome in outcomes]
        return [*attempts, seen("delivery_seconds_count"), seen("delivery_seconds_sum")]

    before = counted()
    receiver.answer = lambda received: (500 if received.path == "/down" or len(receiver.got) == 1 else 200, {})
    (id_,) = ended(store, receiver.url)
    deliver(0.3)
    becomes(store, id_, WebhookStatus.SUCCEEDED)
    (lost,) = ended(store, receiver.url.replace("/hook", "/down"))
    becomes(store, lost, WebhookStatus.FAILED)

    *counts, seconds = (now - then for now, then in zip(counted(), before, strict=True))
    assert counts == [1, 2, 1, 1]
    assert 0.2 < seconds < 15


def test_gone_ends_the_schedule(store: Any, receiver: Receiver, deliver: Callable[..., None]) -> None:
    receiver.answer = lambda _: (410, {})
    (id_,) = ended(store, receiver.url)
    deliver(0.01, 0.01, 0.01)
    becomes(store, id_, WebhookStatus.FAILED)

    assert len(receiver.got) == 1


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirect_is_a_failure_and_never_followed(
    store: Any, new_receiver: Callable[..., Receiver], deliver: Callable[..., None], code: int
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
    store: Any, new_receiver: Callable[..., Receiver], deliver: Callable[..., None]
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
    (leased,) = deliveries.lease({f"http://{receiver.host}": 10}, 0.3)
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

    (first,) = deliveries.lease({host: 1}, 0.0)
    (second,) = deliveries.lease({host: 1}, 0.0)
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


# TLS


class _Named(Egress):
    """`hooks.example` is a name of this machine. Its address is checked like any."""

    def resolve(self, host: str, port: int, *, secure: bool) -> list[str]:
        assert host == "hooks.example"
        return super().resolve("127.0.0.1", port, secure=secure)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def serving(certificate: trustme.LeafCert, asked_for: list[str | None] | None = None) -> ssl.SSLContext:
    """`asked_for`: the names of TLS's SNI."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    if asked_for is not None:
        context.sni_callback = lambda _socket, name, _context: asked_for.append(name)
    return context


def https_url(receiver: Receiver) -> str:
    return f"https://hooks.example:{receiver.host.partition(':')[2]}/hook?a=b"


def test_over_tls_the_name_stays_and_the_address_is_the_checked_one(
    store: Any, new_receiver: Callable[..., Receiver], deliver: Callable[..., None], authority: trustme.CA
) -> None:
    asked_for: list[str | None] = []
    receiver = new_receiver(tls=serving(authority.issue_cert("hooks.example"), asked_for))
    ids = ended(store, https_url(receiver), 3)
    deliver(egress=_Named(networks("127.0.0.0/8")), tls=trusting(authority))
    for id_ in ids:
        becomes(store, id_, WebhookStatus.SUCCEEDED)

    assert set(asked_for) == {"hooks.example"}
    assert {got.headers["host"] for got in receiver.got} == {https_url(receiver).split("/")[2]}
    assert {got.path for got in receiver.got} == {"/hook?a=b"}
    (secret,) = Secrets(store.database).valid("default")
    assert {Webhook(secret).verify(got.body, got.headers)["data"]["id"] for got in receiver.got} == set(ids)


def _another_name(authority: trustme.CA) -> trustme.LeafCert:
    return authority.issue_cert("other.example")


def _expired(authority: trustme.CA) -> trustme.LeafCert:
    return authority.issue_cert("hooks.example", not_after=datetime.datetime.now(datetime.UTC) - datetime.timedelta(1))


def _of_another_authority(_: trustme.CA) -> trustme.LeafCert:
    return trustme.CA().issue_cert("hooks.example")


@pytest.mark.parametrize(
    ("certificate", "why"),
    [(_another_name, "hooks.example"), (_expired, "expired"), (_of_another_authority, "unable to get local issuer")],
)
def test_a_certificate_that_is_not_the_receivers_fails_the_attempt_and_says_why(
    store: Any,
    new_receiver: Callable[..., Receiver],
    deliver: Callable[..., None],
    authority: trustme.CA,
    certificate: Callable[[trustme.CA], trustme.LeafCert],
    why: str,
) -> None:
    receiver = new_receiver(tls=serving(certificate(authority)))
    (id_,) = ended(store, https_url(receiver))
    deliver(egress=_Named(networks("127.0.0.0/8")), tls=trusting(authority))
    becomes(store, id_, WebhookStatus.FAILED)

    assert receiver.got == []
    ((code, error),) = attempts(store, id_)
    assert code is None
    assert (error or "").startswith("its TLS certificate is not valid: ")
    assert why in (error or "")


def test_a_receiver_that_speaks_no_tls_fails_the_attempt(
    store: Any, receiver: Receiver, deliver: Callable[..., None], authority: trustme.CA
) -> None:
    (id_,) = ended(store, https_url(receiver))
    deliver(egress=_Named(networks("127.0.0.0/8")), tls=trusting(authority))
    becomes(store, id_, WebhookStatus.FAILED)

    assert receiver.got == []
    ((_, error),) = attempts(store, id_)
    assert (error or "").startswith("TLS failed: ")


def test_an_operators_own_authority_is_trusted_by_its_file(
    store: Any,
    new_receiver: Callable[..., Receiver],
    deliver: Callable[..., None],
    authority: trustme.CA,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    receiver = new_receiver(tls=serving(authority.issue_cert("hooks.example")))
    with authority.cert_pem.tempfile() as file:
        monkeypatch.setenv("SSL_CERT_FILE", file)
        deliver(egress=_Named(networks("127.0.0.0/8")))
    (id_,) = ended(store, https_url(receiver))
    becomes(store, id_, WebhookStatus.SUCCEEDED)


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
