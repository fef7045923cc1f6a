"""The API's own Prometheus series. What to do when one looks wrong stands in docs/operations.md, by its name."""

from prometheus_client import Counter, Gauge, Histogram, disable_created_metrics

disable_created_metrics()  # type: ignore[no-untyped-call]

REQUESTS = Counter(
    "headway_api_requests",
    "Requests answered, by route and status. Many 503: SQL is away or slow; many 4xx: a client is wrong.",
    ["route", "status"],
)
ACCEPTED = Counter("headway_api_accepted", "Predictions whose row is committed.")
BATCH_LINES = Counter("headway_api_batch_lines", "Lines of batches' files that were stored, bad ones included.")
GROUP_SIZE = Histogram(
    "headway_api_group_size",
    "Predictions in one group commit. Always 1 under load: commits are faster than requests, all is well.",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 500),
)
COMMIT_SECONDS = Histogram(
    "headway_api_commit_seconds",
    "One group's INSERT and fsync. Over 0.1 s: the disk or the database is the bottleneck.",
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2),
)
HINTS_PUBLISHED = Counter("headway_api_hints_published", "Hints handed to Redis.")
HINTS_DROPPED = Counter(
    "headway_api_hints_dropped",
    "Hints that Redis did not take. Their predictions are accepted and start seconds later, found in SQL.",
)
REFUSED = Counter(
    "headway_refused",
    "Requests turned away with 429, by reason: `queue_full` (max_queue), `rate_limited` (the rate of a key).",
    ["reason"],
)
WAITERS_FOUND_LATE = Counter(
    "headway_api_waiters_found_late",
    "Ended predictions that a waiting caller found in SQL, not by a notice. Rising: Redis is away or notices are lost.",
)
SHADOWS = Counter(
    "headway_api_shadows",
    "Copies for a version under comparison: sent, or skipped. Many skipped: it is slower than what it shadows.",
    ["model", "version", "outcome"],
)
EVENT_STREAMS = Gauge("headway_api_event_streams", "Streams of events that clients have open here.")

for _reason in ("queue_full", "rate_limited"):
    REFUSED.labels(_reason)  # shown from the start, so that a rate can be told from nothing

_requests: dict[tuple[str, int], Counter] = {}


def count_request(route: str, status: int) -> None:
    """`route` is one of our own path templates, never what a client sent."""
    key = (route, status)
    counter = _requests.get(key)
    if counter is None:
        counter = _requests[key] = REQUESTS.labels(route, str(status))
    counter.inc()


def refused(reason: str) -> None:
    """`queue_full` or `rate_limited`."""
    REFUSED.labels(reason).inc()
