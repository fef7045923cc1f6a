"""What this API process was asked by BentoML's protocol, under the names of BentoML's series; and batches of workers.

Routes are counted that are there, and never what clients make up.
"""

import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from api.answers import Answer
from api.dialects.bentoml.routes import Found, table
from api.exchange import Call
from api.service import Service

_CONTENT_TYPE = (b"content-type", b"text/plain; version=0.0.4; charset=utf-8")
#: Upper ends of the histogram of durations, in seconds.
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_VERSION = "not available"  # of a service that was never built

_Labels = tuple[str, str]  # endpoint, service

_lock = threading.Lock()
_under_way: defaultdict[_Labels, int] = defaultdict(int)
_seconds: dict[tuple[_Labels, int], list[float]] = {}  # by status: how many up to each end, all of them, and their sum
_last: dict[str, float] = {}


@contextlib.contextmanager
def counted(path: str, found: Found) -> Iterator[list[int]]:
    """Around a call; what is put into the list is its status."""
    labels = path, found.service or found.model
    began, status = time.perf_counter(), [500]
    with _lock:
        _under_way[labels] += 1
        _last[labels[1]] = time.time()
    try:
        yield status
    finally:
        seconds = time.perf_counter() - began
        with _lock:
            _under_way[labels] -= 1
            numbers = _seconds.setdefault((labels, status[-1]), [0.0] * (len(_BUCKETS) + 2))
            for at, end in enumerate(_BUCKETS):
                numbers[at] += seconds <= end
            numbers[-2] += 1
            numbers[-1] += seconds


async def metrics(service: Service, call: Call) -> Answer:
    with _lock:
        under_way, last = dict(_under_way), dict(_last)
        seconds = {key: list(numbers) for key, numbers in _seconds.items()}
    lines = _head("request_in_progress", "gauge", "Requests under way.")
    lines += [_line("request_in_progress", _named(labels), count) for labels, count in under_way.items()]
    lines += _head("request_total", "counter", "Requests that were answered.")
    for found in table(service).listed.values():  # from the start on, so that a rate is seen of the first
        for status in (200, 500):
            seconds.setdefault(((found.route.route, found.service or found.model), status), [0.0] * (len(_BUCKETS) + 2))
    for (labels, status), numbers in seconds.items():
        lines.append(_line("request_total", _named(labels, status), numbers[-2]))
    lines += _head("request_duration_seconds", "histogram", "From a request's arrival to its answer.")
    for (labels, status), numbers in seconds.items():
        lines += _histogram("request_duration_seconds", _named(labels, status), list(map(str, _BUCKETS)), numbers)
    lines += _head("last_request_timestamp_seconds", "gauge", "When the last request came.")
    lines += [_line("last_request_timestamp_seconds", _named(("", one)), at) for one, at in last.items()]
    lines += _head("adaptive_batch_size", "histogram", "Predictions of a call of the model, of the whole system.")
    for view in service.registry.views.values():
        sizes: defaultdict[int, int] = defaultdict(int)
        for row in view.versions.values():
            for placement in row.placements:
                for size, count in placement.stats.sizes.items():
                    sizes[size] += count
        lines += _batches(view.name, sizes)
    return Answer(200, ("\n".join(lines) + "\n").encode(), (_CONTENT_TYPE,))


def _batches(model: str, sizes: Mapping[int, int]) -> list[str]:
    """Their sum is at least so much: only a power of two is known of each."""
    ends, numbers, below = [], [], 0.0
    for size in sorted(sizes):
        below += sizes[size]
        ends.append(str(float(size)))
        numbers.append(below)
    total = float(sum(sizes.values()))
    least = float(sum((size // 2 + 1 if size > 1 else 1) * count for size, count in sizes.items()))
    labels = {"runner_name": model, "method_name": model, "service_name": model, "service_version": _VERSION}
    return _histogram("adaptive_batch_size", {**labels, "worker_index": "0"}, ends, [*numbers, total, least])


def _named(labels: _Labels, status: int | None = None) -> dict[str, str]:
    endpoint, name = labels
    named = {"endpoint": endpoint} if endpoint else {}
    named |= {"runner_name": name, "service_name": name, "service_version": _VERSION}
    return named if status is None else {**named, "http_response_code": str(status)}


def _histogram(name: str, labels: Mapping[str, str], ends: Sequence[str], numbers: Sequence[float]) -> list[str]:
    """`numbers`: up to each end, then all, then their sum."""
    lines = [_line(f"{name}_bucket", {**labels, "le": end}, value) for end, value in zip(ends, numbers, strict=False)]
    lines.append(_line(f"{name}_bucket", {**labels, "le": "+Inf"}, numbers[-2]))
    return [*lines, _line(f"{name}_count", labels, numbers[-2]), _line(f"{name}_sum", labels, numbers[-1])]


def _head(name: str, kind: str, help_: str) -> list[str]:
    return [f"# HELP bentoml_service_{name} {help_}", f"# TYPE bentoml_service_{name} {kind}"]


def _line(name: str, labels: Mapping[str, str], value: float) -> str:
    said = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
    return f"bentoml_service_{name}{{{said}}} {float(value)}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
