"""`context.metrics`: what a handler adds to it is kept while its process lives, and logged (debug)."""

import logging
from collections.abc import Sequence
from typing import Any

from .dimension import Dimension
from .metric_type_enum import MetricTypes

logger = logging.getLogger(__name__)


class Metric:
    """The last number of a gauge or histogram, the sum of a counter."""

    def __init__(self, name: str, type_: MetricTypes, unit: str, dimension_names: Sequence[str] = ()) -> None:
        self.metric_name = name
        self.metric_type = type_
        self.unit = unit
        self.dimension_names = list(dimension_names)
        self.value = 0.0

    def add_or_update(self, value: float, dimension_values: Sequence[str] = (), request_id: str | None = None) -> None:
        self.value = self.value + value if self.metric_type is MetricTypes.COUNTER else value
        logger.debug("%s %s %s %s", self.metric_name, value, self.unit, ",".join(map(str, dimension_values)))


class MetricsStore:
    """By name and type."""

    def __init__(self, model_name: str = "") -> None:
        self.model_name = model_name
        self.request_ids: dict[int, str] | None = None
        self.cache: dict[tuple[str, MetricTypes], Metric] = {}

    def set_request_ids(self, request_ids: dict[int, str]) -> None:
        self.request_ids = request_ids

    def add_metric_to_cache(
        self,
        metric_name: str,
        unit: str = "count",
        dimension_names: Sequence[str] = (),
        metric_type: MetricTypes = MetricTypes.COUNTER,
    ) -> Metric:
        return self.cache.setdefault(
            (metric_name, metric_type), Metric(metric_name, metric_type, unit, dimension_names)
        )

    def get_metric(self, metric_name: str, metric_type: MetricTypes = MetricTypes.COUNTER) -> Metric:
        """Raises KeyError."""
        return self.cache[metric_name, metric_type]

    def add_metric(
        self,
        name: str,
        value: float,
        unit: str | None = None,
        idx: str | None = None,
        dimensions: Sequence[Dimension] | None = None,
        metric_type: MetricTypes = MetricTypes.COUNTER,
    ) -> None:
        names = [dimension.name for dimension in dimensions or ()]
        metric = self.add_metric_to_cache(name, unit or "count", names, metric_type)
        metric.add_or_update(value, [dimension.value for dimension in dimensions or ()])

    def add_counter(self, name: str, value: float, idx: Any = None, dimensions: Any = None) -> None:
        self.add_metric(name, value, "count", idx, dimensions, MetricTypes.COUNTER)

    def add_time(self, name: str, value: float, idx: Any = None, unit: str = "ms", dimensions: Any = None) -> None:
        self.add_metric(name, value, unit, idx, dimensions, MetricTypes.GAUGE)

    def add_size(self, name: str, value: float, idx: Any = None, unit: str = "MB", dimensions: Any = None) -> None:
        self.add_metric(name, value, unit, idx, dimensions, MetricTypes.GAUGE)

    def add_percent(self, name: str, value: float, idx: Any = None, dimensions: Any = None) -> None:
        self.add_metric(name, value, "percent", idx, dimensions, MetricTypes.GAUGE)

    def add_error(self, name: str, value: Any, dimensions: Any = None) -> None:
        logger.info("%s: %s", name, value)
