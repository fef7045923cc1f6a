"""The metrics port: counts and times under the names that Triton's have, in Prometheus' text format."""

import re
from collections.abc import Callable

from api.answers import Answer
from api.dialects.front import Dialect, Route
from api.dialects.oip import errors
from api.dialects.oip.errors import Code, Refused
from api.dialects.oip.statistics import REASONS, Counts, Statistics, statistics_of
from api.exchange import Call
from api.service import Service

_HEADERS = ((b"content-type", b"text/plain; version=0.0.4; charset=utf-8"),)

_COUNTERS: tuple[tuple[str, str, Callable[[Counts], float]], ...] = (
    ("request_success", "Requests that were answered.", lambda one: one.durations["success"].count),
    ("count", "Rows of those requests.", lambda one: one.inferences),
    ("exec_count", "Calls of the model for them; a share of a call that others were in as well.",
     lambda one: round(one.executions)),
    ("request_duration_us", "From the request's arrival to the end of its last prediction, in all.",
     lambda one: one.durations["success"].ns // 1000),
    ("queue_duration_us", "From the request's arrival to the start of its micro-batch, in all.",
     lambda one: one.durations["queue"].ns // 1000),
    ("compute_input_duration_us", "0: reading inputs is a part of the call here.",
     lambda one: one.durations["compute_input"].ns // 1000),
    ("compute_infer_duration_us", "In the model's calls, in all.",
     lambda one: one.durations["compute_infer"].ns // 1000),
    ("compute_output_duration_us", "From the end of the call to the result's commit, in all.",
     lambda one: one.durations["compute_output"].ns // 1000),
)  # fmt: skip


def front(service: Service) -> Dialect:
    statistics = statistics_of(service)

    async def metrics(service: Service, call: Call) -> Answer:
        return Answer(200, exposition(service, statistics).encode(), _HEADERS)

    routes = [Route(("GET",), re.compile("/metrics"), metrics, "metrics", "read")]
    return Dialect(service, "oip", routes, refuse=errors.answer, unknown=_unknown)


async def _unknown(service: Service, call: Call) -> Answer:
    raise Refused(Code.NOT_FOUND, "Not Found")


def exposition(service: Service, statistics: Statistics) -> str:
    """Of every version that is registered, counted or not."""
    known = [
        (f'model="{row.model}",version="{row.version}"', statistics.of(row.model, row.version))
        for view in service.registry.views.values()
        for row in view.versions.values()
    ]
    lines = []
    for name, help_, value in _COUNTERS:
        lines += _head(name, help_, "counter")
        lines += [f"nv_inference_{name}{{{labels}}} {value(counts)}" for labels, counts in known]
    lines += _head("request_failure", "Requests that were not answered with outputs, and why.", "counter")
    lines += [
        f'nv_inference_request_failure{{{labels},reason="{reason}"}} {counts.failures[reason]}'
        for labels, counts in known
        for reason in REASONS
    ]
    lines += _head("pending_request_count", "Requests under way.", "gauge")
    lines += [f"nv_inference_pending_request_count{{{labels}}} {counts.waiting}" for labels, counts in known]
    return "\n".join(lines) + "\n"


def _head(name: str, help_: str, type_: str) -> list[str]:
    return [f"# HELP nv_inference_{name} {help_}", f"# TYPE nv_inference_{name} {type_}"]
