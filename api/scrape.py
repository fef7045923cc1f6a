"""GET /metrics: the series of this process, and what only SQL knows, read at the moment Prometheus asks.

Its rule: nothing of it runs in the event loop, and a database that is away leaves its series out instead of failing
the rest. Every API process answers the same for the whole system, so a query takes the `max` of them, never the sum.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, Metric, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from api.answers import Answer
from api.exchange import Call
from api.registry import ModelView
from api.service import Service
from headway import broker
from headway.errors import StorageUnavailable
from headway.registry import State, Version
from storage.deliveries import Owed
from storage.reading import Backlog

#: A few deep lines, counted as far as they are, take less.
_PATIENCE_S = 5.0

#: The priorities that share a line.
_PRIORITIES = ("0-2", "3-6", "7-9")


Lane = tuple[str, str, int]  # model, version, step


async def metrics(service: Service, call: Call) -> Answer:
    """In Prometheus' text format."""
    views = list(service.registry.views.values())
    try:
        state = await service.threads.run(lambda: _read(service, _versions(views)), patience_s=_PATIENCE_S)
    except StorageUnavailable:
        state = None
    body = await asyncio.to_thread(_exposition, WholeSystem(service.waiting.subscribed, views, state))
    return Answer(200, body, ((b"content-type", CONTENT_TYPE_LATEST.encode()),))


def _versions(views: Sequence[ModelView]) -> list[Version]:
    return [row for view in views for row in view.versions.values()]


@dataclass(frozen=True, slots=True)
class _State:
    """What SQL said."""

    workers: int
    backlog: Mapping[Lane, Backlog]  # of all tenants: a label for each could be any number
    webhooks: Owed
    now: int  # the database's clock, microseconds

    def age(self, moment: int | None) -> float:
        """Seconds; 0 for what is to come and for what is not there."""
        return 0.0 if moment is None else max(0.0, (self.now - moment) / 1e6)


def _read(service: Service, versions: Sequence[Version]) -> _State:
    classes = service.tenants.classes()
    lines = [line for row in versions for line in broker.lines(row.model, row.version, classes)]
    backlog: dict[Lane, Backlog] = {}
    for line, one in service.predictions.backlog(lines).items():
        model, version, step, _ = broker.parse_line(line)
        before = backlog.get((model, version, step), Backlog(0, None))
        oldest = min((at for at in (before.oldest, one.oldest) if at is not None), default=None)
        backlog[model, version, step] = Backlog(before.depth + one.depth, oldest)
    return _State(len(service.workers.beats()), backlog, service.deliveries.owed(), service.predictions.now())


def _exposition(whole: "WholeSystem") -> bytes:
    registry = CollectorRegistry()
    registry.register(whole)
    return generate_latest(REGISTRY) + generate_latest(registry)


class WholeSystem(Collector):
    """The series of the whole system; made for one answer, so that what is gone leaves no series behind."""

    def __init__(self, broker_up: bool, views: Sequence[ModelView], state: _State | None) -> None:
        self._broker_up = broker_up
        self._views = views
        self._state = state

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("headway_broker_up", "1 while this API process hears from Redis.", self._broker_up)
        yield GaugeMetricFamily("headway_sql_up", "1 if SQL answered this scrape.", self._state is not None)
        yield self._placements()
        paused = GaugeMetricFamily("headway_model_paused", "1 while an operator has paused it.", labels=["model"])
        for view in self._views:
            paused.add_metric([view.name], view.route.paused)
        yield paused
        workers = GaugeMetricFamily("headway_workers", "Live workers.")
        if self._state is not None:
            workers.add_metric([], self._state.workers)
        yield workers
        yield from self._backlog()
        yield from self._webhooks()

    def _placements(self) -> Metric:
        family = GaugeMetricFamily(
            "headway_placements", "Workers that have a model version, by state.", labels=["model", "version", "state"]
        )
        for row in _versions(self._views):
            states = [placement.state for placement in row.placements]
            for state in get_args(State):
                family.add_metric([row.model, row.version, state], states.count(state))
        return family

    def _backlog(self) -> Iterator[Metric]:
        labels = ["model", "version", "priority"]
        depth = GaugeMetricFamily("headway_backlog_predictions", "Queued predictions of a line.", labels=labels)
        age = GaugeMetricFamily("headway_backlog_oldest_age_seconds", "Age of a line's oldest queued.", labels=labels)
        if self._state is not None:
            for (model, version, step), backlog in self._state.backlog.items():
                values = [model, version, _PRIORITIES[step]]
                depth.add_metric(values, backlog.depth)
                age.add_metric(values, self._state.age(backlog.oldest))
        yield depth
        yield age

    def _webhooks(self) -> Iterator[Metric]:
        pending = GaugeMetricFamily("headway_webhooks_pending", "Webhooks not delivered yet, 10,000 at most.")
        age = GaugeMetricFamily("headway_webhooks_oldest_due_age_seconds", "How long one has been due, at most.")
        if self._state is not None:
            pending.add_metric([], self._state.webhooks.pending)
            age.add_metric([], self._state.age(self._state.webhooks.due_at))
        yield pending
        yield age
