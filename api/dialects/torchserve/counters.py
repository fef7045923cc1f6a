"""What the inference and management ports of this process have answered, for the metrics port.

Each API process counts its own, and says so to whoever asks it: with several of them a scrape finds one of them.
"""

import platform
import threading
import urllib.parse
from collections import defaultdict
from collections.abc import Sequence

from api.answers import Answer
from api.dialects.torchserve.errors import NO_CACHE
from api.exchange import Call
from api.service import Service
from headway.notices import Ended
from headway.types import Prediction

_CONTENT_TYPE = (b"content-type", b"text/plain; version=0.0.4; charset=utf-8")
_HOST = platform.node()
_MOST_MODELS = 1000  # labels that clients may make up: models and versions that were found

_lock = threading.Lock()
_answered: defaultdict[str, int] = defaultdict(int)  # by 2XX, 4XX, 5XX
_requests: defaultdict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
_last: dict[str, float] = {"QueueTime": 0.0, "WorkerThreadTime": 0.0}  # milliseconds
_predicted: dict[str, float] = {}  # model → milliseconds of its last call


def answered(status: int) -> None:
    if status // 100 in (2, 4, 5):
        _answered[f"{status // 100}XX"] += 1


def inferred(model: str, version: str | None, end: Ended | Prediction | None, seconds: float) -> None:
    """Of one request that was computed, or failed in being so. `seconds`: from its arrival to its end."""
    computed = (end.predict_us or 0) / 1e6 if end is not None else 0.0
    with _lock:
        key = (model, version or "default")
        if key not in _requests and len(_requests) >= _MOST_MODELS:
            return
        one = _requests[key]
        one[0] += 1
        one[1] += seconds * 1e6
        one[2] += max(0.0, seconds - computed) * 1e6
        _last["QueueTime"] = max(0.0, seconds - computed) * 1e3
        _last["WorkerThreadTime"] = max(0.0, seconds - computed) * 1e3
        _predicted[model] = computed * 1e3


async def metrics(service: Service, call: Call) -> Answer:
    """TorchServe's text, a comma behind the last label included. `name[]` picks series."""
    wanted = {value for name, value in _pairs(call.query) if name == "name[]"}
    lines: list[str] = []

    def family(name: str, kind: str, help_: str, samples: Sequence[tuple[dict[str, str], float]]) -> None:
        if wanted and name not in wanted:
            return
        lines.extend((f"# HELP {name} {help_}", f"# TYPE {name} {kind}"))
        for labels, value in samples:
            said = "".join(f'{label}="{_escaped(text)}",' for label, text in labels.items())
            lines.append(f"{name}{{{said}}} {float(value)}")

    host = {"Level": "Host", "Hostname": _HOST}
    for group in ("2XX", "4XX", "5XX"):
        family(f"Requests{group}", "counter", f"Answers {group} of this process.", [(host, _answered[group])])
    with _lock:
        of_models = [
            ({"model_name": model, "model_version": version, "hostname": _HOST}, list(numbers))
            for (model, version), numbers in _requests.items()
        ]
        predicted = [
            ({"ModelName": model, "Level": "Model", "Hostname": _HOST}, ms) for model, ms in _predicted.items()
        ]
        last = dict(_last)
    for at, (name, help_) in enumerate(
        (
            ("ts_inference_requests_total", "Inference requests."),
            ("ts_inference_latency_microseconds", "From arrival to reply, in all."),
            ("ts_queue_latency_microseconds", "Of that, what was not the model's, in all."),
        )
    ):
        family(name, "counter", help_, [(labels, numbers[at]) for labels, numbers in of_models])
    for name, value in last.items():
        family(name, "gauge", "Of the last request, milliseconds.", [(host, value)])
    family("PredictionTime", "gauge", "Of the last request's call, milliseconds.", predicted)
    return Answer(200, ("\n".join(lines) + "\n").encode(), (_CONTENT_TYPE, *NO_CACHE))


def _pairs(query: bytes) -> list[tuple[str, str]]:
    return urllib.parse.parse_qsl(query.decode("latin-1"))


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
