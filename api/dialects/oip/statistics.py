"""Counts and times of each version since this process began, as Triton has them: in nanoseconds, by the request.

Every API process counts what it has answered itself.
"""

import contextlib
import weakref
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from api.exchange import Disconnected
from api.problems import Problem
from api.service import Service
from headway.clock import now_us
from headway.notices import Ended
from headway.states import Status
from headway.types import Prediction


@dataclass(slots=True)
class Duration:
    count: int = 0
    ns: int = 0

    def add(self, us: int) -> None:
        self.count += 1
        self.ns += max(0, us) * 1000


_KINDS = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")

#: Why a request failed: it was turned away; its caller left; the model, or whatever else, failed.
REASONS = ("REJECTED", "CANCELED", "BACKEND", "OTHER")


@dataclass(slots=True)
class Counts:
    """Of one version."""

    inferences: int = 0  # rows
    executions: float = 0.0  # each item's share of its micro-batch's call
    last_ms: int = 0
    waiting: int = 0  # requests under way
    failures: dict[str, int] = field(default_factory=lambda: dict.fromkeys(REASONS, 0))
    durations: dict[str, Duration] = field(default_factory=lambda: {kind: Duration() for kind in _KINDS})
    batches: dict[int, Duration] = field(default_factory=lambda: defaultdict(Duration))  # calls, by their items


class Statistics:
    """Of all the ports of this dialect."""

    def __init__(self) -> None:
        self.versions: dict[tuple[str, str], Counts] = defaultdict(Counts)

    def of(self, model: str, version: str) -> Counts:
        return self.versions.get((model, version)) or Counts()

    @contextlib.contextmanager
    def waiting(self, model: str, version: str, began: int) -> Iterator[None]:
        """While a request is under way; one that ends by an exception has failed."""
        counts = self.versions[model, version]
        counts.waiting += 1
        try:
            yield
        except Exception as error:
            reason = "OTHER"
            if isinstance(error, Disconnected):
                reason = "CANCELED"
            elif isinstance(error, Problem):
                reason = "REJECTED"
            counts.failures[reason] += 1
            counts.durations["fail"].add(now_us() - began)
            raise
        finally:
            counts.waiting -= 1

    def add(
        self,
        model: str,
        version: str,
        rows: int,
        ended: Sequence[Ended | Prediction | None],
        began: int,
    ) -> None:
        """A request of so many rows, and how its predictions have ended; `began`: when it came, microseconds."""
        counts = self.versions[model, version]
        counts.last_ms = now_us() // 1000
        there = [one for one in ended if one is not None]
        succeeded = len(there) == len(ended) and all(one.status is Status.SUCCEEDED for one in there)
        finished = max((one.completed_at or 0 for one in there), default=0) or now_us()
        started = min((one.started_at or finished for one in there), default=finished)
        counts.durations["success" if succeeded else "fail"].add(finished - began)
        if not succeeded:
            failed = any(one.status is Status.FAILED for one in there)
            counts.failures["BACKEND" if failed else "CANCELED" if there else "OTHER"] += 1
            return
        counts.inferences += rows
        computed = max((one.predict_us or 0 for one in there), default=0)
        counts.durations["queue"].add(started - began)
        counts.durations["compute_input"].add(0)  # reading and writing are part of the call here
        counts.durations["compute_infer"].add(computed)
        counts.durations["compute_output"].add(max(0, finished - started - computed))
        for one in there:
            counts.executions += 1 / max(1, one.batch_size or 1)
            size = one.batch_size or 1
            batch = counts.batches[size]
            batch.count += 1
            batch.ns += (one.predict_us or 0) * 1000

    def add_whole(self, model: str, version: str, rows: int, began: int) -> None:
        """A request that an ensemble has answered; what its steps took is counted of them."""
        counts = self.versions[model, version]
        counts.last_ms = now_us() // 1000
        counts.inferences += rows
        counts.executions += 1
        counts.durations["success"].add(now_us() - began)
        for kind in ("queue", "compute_input", "compute_infer", "compute_output"):
            counts.durations[kind].add(0)

    def shown(self, model: str, version: str) -> Mapping[str, object]:
        """A member of `model_stats`."""
        counts = self.of(model, version)
        nothing = {"count": 0, "ns": 0}
        stats = {kind: {"count": one.count, "ns": one.ns} for kind, one in counts.durations.items()}
        return {
            "name": model,
            "version": version,
            "last_inference": counts.last_ms,
            "inference_count": counts.inferences,
            "execution_count": round(counts.executions),
            "inference_stats": {**stats, "cache_hit": nothing, "cache_miss": nothing},
            "response_stats": {},
            "batch_stats": [
                {
                    "batch_size": size,
                    "compute_input": {"count": max(1, round(one.count / size)), "ns": 0},
                    "compute_infer": {"count": max(1, round(one.count / size)), "ns": one.ns // size},
                    "compute_output": {"count": max(1, round(one.count / size)), "ns": 0},
                }
                for size, one in sorted(counts.batches.items())
            ],
            "memory_usage": [],
        }


_OF: "weakref.WeakKeyDictionary[Service, Statistics]" = weakref.WeakKeyDictionary()


def statistics_of(service: Service) -> Statistics:
    """Those of an API process, whichever of its ports asks."""
    return _OF.setdefault(service, Statistics())
