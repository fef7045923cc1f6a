"""What this process has answered of each model, under the names of KServe's own series.

Each API process counts its own: with several of them a scrape finds one.
"""

from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager

from api.answers import Answer
from api.exchange import Call
from api.service import Service
from headway.clock import now_us
from headway.notices import Ended
from headway.types import Prediction

#: Upper ends of the histograms, seconds.
_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_SERIES = (
    ("preprocess", "From the request's arrival to the start of its micro-batch."),
    ("postprocess", "From the end of its micro-batch to the reply."),
    ("predict", "In the model's call, of its slowest row."),
    ("explain", "In the model's call, of an explanation."),
)
_MOST_MODELS = 1000
_TYPE = (b"content-type", b"text/plain; version=0.0.4; charset=utf-8")


class _Histogram:
    __slots__ = ("counts", "seconds")

    def __init__(self) -> None:
        self.counts = [0] * (len(_BOUNDS) + 1)
        self.seconds = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(_BOUNDS, seconds)] += 1
        self.seconds += seconds


_counted: dict[str, dict[str, _Histogram]] = {}  # model → series


@contextmanager
def counting(model: str, verb: str) -> Iterator[list[Ended | Prediction]]:
    """While a request is computed; it appends how its predictions have ended. One that raises is not counted."""
    ends: list[Ended | Prediction] = []
    began = now_us()
    yield ends
    if model not in _counted and len(_counted) >= _MOST_MODELS:
        return
    series = _counted.setdefault(model, {name: _Histogram() for name, _ in _SERIES})
    spent = now_us() - began
    waited = min(spent, max((max(0, (end.started_at or began) - began) for end in ends), default=0))
    computed = min(spent - waited, max((end.predict_us or 0 for end in ends), default=0))
    for name, us in (("preprocess", waited), (verb, computed), ("postprocess", spent - waited - computed)):
        series[name].add(us / 1e6)


async def metrics(service: Service, call: Call) -> Answer:
    lines: list[str] = []
    for name, help_ in _SERIES:
        full = f"request_{name}_seconds"
        lines += [f"# HELP {full} {help_}", f"# TYPE {full} histogram"]
        for model, series in _counted.items():
            lines += _lines(full, model, series[name])
    return Answer(200, ("\n".join(lines) + "\n").encode(), (_TYPE,))


def _lines(name: str, model: str, histogram: _Histogram) -> Iterator[str]:
    total = 0
    for bound, count in zip((*_BOUNDS, "+Inf"), histogram.counts, strict=True):
        total += count
        yield f'{name}_bucket{{le="{bound}",model_name="{model}"}} {float(total)}'
    yield f'{name}_count{{model_name="{model}"}} {float(total)}'
    yield f'{name}_sum{{model_name="{model}"}} {histogram.seconds}'
