"""Histograms that are told of many values at once."""

import prometheus_client
from prometheus_client import CollectorRegistry, generate_latest

from workers.histogram import Histogram

BUCKETS = (0.5, 1, 2.5)


def test_what_is_served_is_what_the_library_would_serve() -> None:
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
    theirs = CollectorRegistry()
    labeled = prometheus_client.Histogram("seconds", "Of a thing.", ("model",), registry=theirs, buckets=BUCKETS)
    plain = prometheus_client.Histogram("other_seconds", "Of all.", registry=theirs, buckets=BUCKETS)
    ours = CollectorRegistry()
    for value in (0.1, 0.5, 0.6, 2.5, 3.0):
        labeled.labels("a").observe(value)
        labeled.labels('"b"').observe(2 * value)
    mine = Histogram("seconds", "Of a thing.", ("model",), buckets=BUCKETS, registry=ours)
    mine.observe(("a",), [0.1, 0.5, 0.6])
    mine.observe(("a",), (value for value in (2.5, 3.0)))
    mine.observe(('"b"',), [0.2, 1.0, 1.2, 5.0, 6.0])
    other = Histogram("other_seconds", "Of all.", (), buckets=BUCKETS, registry=ours)
    assert generate_latest(ours) == generate_latest(theirs)
    other.observe((), [0.7])
    plain.observe(0.7)
    assert generate_latest(ours) == generate_latest(theirs)
