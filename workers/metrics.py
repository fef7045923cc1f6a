"""The Prometheus series of workers and of the utility worker, and the few functions that move them.

What to do when one looks wrong stands in docs/operations.md, by its name.
"""

from collections import Counter as Counts
from collections.abc import Sequence

from prometheus_client import Counter, Gauge, disable_created_metrics

from batching.policy import Take
from headway import broker
from headway.notices import Ended
from headway.types import Claimed, Outcome
from headway.webhooks import WebhookStatus
from storage.returning import GivenBack
from workers.histogram import Histogram

disable_created_metrics()  # type: ignore[no-untyped-call]

_VERSION = ("model", "version")
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)

#: How large micro-batches are. Small while the backlog is deep: max_batch_size, max_batch_cost or unlike sizes bind.
BATCH_SIZE = Histogram(
    "headway_batch_size", "Predictions in a micro-batch.", _VERSION, buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
)
#: Why they departed. Mostly `overdue`: max_wait_ms is too short for how requests arrive.
DEPARTURES = Counter("headway_batch_departures_total", "Micro-batches formed, by reason.", (*_VERSION, "reason"))
#: Time in this worker's window. Grows with the device's business only; otherwise it stays under max_wait_ms.
WINDOW_SECONDS = Histogram("headway_window_seconds", "Wait between intake and departure.", _VERSION, buckets=_SECONDS)
#: What the device takes for one micro-batch.
PREDICT_SECONDS = Histogram("headway_predict_seconds", "Device time of a micro-batch.", _VERSION, buckets=_SECONDS)
#: From acceptance to the claim. Grows when there are too few devices.
QUEUE_SECONDS = Histogram("headway_queue_seconds", "Wait between acceptance and claim.", _VERSION, buckets=_SECONDS)
#: How predictions ended; `status` is the terminal one.
ENDED = Counter("headway_predictions_ended_total", "Predictions that became terminal here.", (*_VERSION, "status"))
#: Hints whose row was not to be had any more. A few are normal after a recovery.
DEAD_HINTS = Counter("headway_dead_hints_total", "Hints that could not be claimed.", _VERSION)
#: Device processes that died or hung. Any steady rate: look at the log for the model's crash.
DEVICE_DEATHS = Counter("headway_device_deaths_total", "Device processes that died or were killed.", _VERSION)
#: Device processes that had come to hold more memory than they may. Often: the model leaks.
RECYCLES = Counter("headway_device_recycles_total", "Device processes loaded anew because of their memory.", _VERSION)

#: Claims that ended without a result; `reason` is device_lost, device_hung, handed_back or worker_dead.
LOST_ATTEMPTS = Counter("headway_lost_attempts_total", "Claimed predictions that came back.", (*_VERSION, "reason"))
#: How single predictions failed, by the code their caller sees.
FAILURES = Counter("headway_failures_total", "Predictions that failed here, by code.", (*_VERSION, "code"))

#: Loads that succeeded, and how long they took. Often, of the same few: the device is too small for all that is asked.
LOADS = Counter("headway_model_loads_total", "Versions loaded and warmed up.", _VERSION)
LOAD_SECONDS = Histogram("headway_model_load_seconds", "What a load took.", _VERSION, buckets=_SECONDS)
UNLOADS = Counter("headway_model_unloads_total", "Versions unloaded, for whatever reason.", _VERSION)
#: Of all instances together; near 1 the device is the limit.
DEVICE_BUSY = Gauge("headway_device_busy_ratio", "Share of the last seconds in which a model computed.")
DEVICE_MEMORY = Gauge("headway_device_memory_bytes", "What the loaded versions take on the device.")
DEVICE_BUDGET = Gauge("headway_device_memory_budget_bytes", "What they may take; 0: not bounded.")

# Of the utility worker.
DEAD_WORKERS = Counter("headway_dead_workers_total", "Workers declared dead because their beat stood still.")
RECOVERED_HINTS = Counter("headway_recovered_hints_total", "Hints that had left Redis unclaimed.", _VERSION)
EXPIRED = Counter("headway_expired_total", "Predictions whose queue timeout passed.")
#: Files that are coming in, or whose items have not all ended.
OPEN_BATCHES = Gauge("headway_batches_open", "Batches that have not ended.")
ENDED_BATCHES = Counter("headway_batches_ended_total", "Batches that have ended, by status.", ("status",))
#: What came of POSTs; `outcome` is delivered, retried (again after a while) or given_up.
WEBHOOK_ATTEMPTS = Counter("headway_webhook_attempts_total", "Attempts to deliver a webhook, by outcome.", ("outcome",))
#: From the event to the answer that took it, over all its attempts.
WEBHOOK_SECONDS = Histogram(
    "headway_webhook_delivery_seconds",
    "Wait between an event and its delivery.",
    (),
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200, 36_000, 86_400, 259_200),
)
_WEBHOOK_OUTCOMES = {
    WebhookStatus.SUCCEEDED: WEBHOOK_ATTEMPTS.labels("delivered"),
    WebhookStatus.PENDING: WEBHOOK_ATTEMPTS.labels("retried"),
    WebhookStatus.FAILED: WEBHOOK_ATTEMPTS.labels("given_up"),
}

Version = tuple[str, str]


def formed(version: Version, take: Take, began: float) -> None:
    """`began`: when it departed, by the clock of its items' `arrived`. Items of batches wait because they may."""
    DEPARTURES.labels(*version, take.reason.value).inc()
    WINDOW_SECONDS.observe(version, (began - item.arrived for item in take.items if not item.bulk))


def computed(version: Version, outcomes: Sequence[Outcome]) -> None:
    BATCH_SIZE.observe(version, [len(outcomes)])
    PREDICT_SECONDS.observe(version, [max(one.predict_us for one in outcomes) / 1e6])


def finished(version: Version, rows: Sequence[Claimed], ended: dict[str, Ended]) -> None:
    heard = (row for row in rows if row.id in ended and not broker.is_bulk(row.line))
    QUEUE_SECONDS.observe(version, ((row.started_at - row.position) / 1e6 for row in heard))
    became_terminal(version, ended)


def became_terminal(version: Version, ended: dict[str, Ended]) -> None:
    for status, count in Counts(one.status for one in ended.values()).items():
        ENDED.labels(*version, status.label).inc(count)
    for code, count in Counts(one.error.code for one in ended.values() if one.error is not None).items():
        FAILURES.labels(*version, code).inc(count)


def given_back(given: GivenBack) -> None:
    """What others had claimed: some became terminal by being given back."""
    for id_, one in given.ended.items():
        model, version, *_ = broker.parse_line(given.lines[id_])
        became_terminal((model, version), {id_: one})


def loaded(version: Version, seconds: float) -> None:
    LOADS.labels(*version).inc()
    LOAD_SECONDS.observe(version, [seconds])


def unloaded(version: Version) -> None:
    UNLOADS.labels(*version).inc()


def device(busy: float, memory_bytes: int, budget: int | None) -> None:
    DEVICE_BUSY.set(busy)
    DEVICE_MEMORY.set(memory_bytes)
    DEVICE_BUDGET.set(budget or 0)


def dead_hints(version: Version, count: int) -> None:
    DEAD_HINTS.labels(*version).inc(count)


def device_deaths(version: Version) -> None:
    DEVICE_DEATHS.labels(*version).inc()


def recycled(version: Version) -> None:
    RECYCLES.labels(*version).inc()


def lost_attempts(version: Version, reason: str, count: int) -> None:
    LOST_ATTEMPTS.labels(*version, reason).inc(count)


def recovered_hints(version: Version, count: int) -> None:
    RECOVERED_HINTS.labels(*version).inc(count)


def webhook_attempt(state: WebhookStatus, seconds: float) -> None:
    """`state`: of the delivery after it; `seconds`: since the event."""
    _WEBHOOK_OUTCOMES[state].inc()
    if state is WebhookStatus.SUCCEEDED:
        WEBHOOK_SECONDS.observe((), [seconds])
