"""The inference port: predictions, explanations, and whether the server is well."""

import sys
import time
import urllib.parse
from collections.abc import Mapping

from api.answers import Answer, Streamed
from api.asking import ask
from api.dialects import jobs
from api.dialects.torchserve import catalogue, counters, description
from api.dialects.torchserve.errors import (
    Refused,
    bad_request,
    no_such_model,
    no_such_version,
    no_workers,
    pretty,
)
from api.dialects.torchserve.parts import Parts
from api.dialects.torchserve.replies import reply_of
from api.dialects.torchserve.requests import measured, stored
from api.exchange import Call
from api.problems import Problem
from api.raw import refusal
from api.registry import Target
from api.service import Service
from headway import envelopes
from headway.errors import InputRefused, ItemCode, ItemError
from headway.notices import Ended
from headway.states import Status
from headway.types import Prediction


async def predict(service: Service, call: Call) -> Answer | Streamed:
    """What the handler answers, in parts where it does so; or 202 and a job where one was asked for."""
    return await _infer(service, call, {})


async def explain(service: Service, call: Call) -> Answer | Streamed:
    return await _infer(service, call, {"explain": "True"})


async def ping(service: Service, call: Call) -> Answer:
    """Unhealthy while a version that should run cannot."""
    failed = any(
        row.state == "failed" and row.wish != "unload" and view.wanted(row.version)
        for view in service.registry.views.values()
        for row in view.versions.values()
    )
    if failed or service.draining:
        return pretty({"status": "Unhealthy"}, 500)
    return pretty({"status": "Healthy"})


async def describe_api(service: Service, call: Call) -> Answer:
    return pretty(description.inference())


async def describe_model(service: Service, call: Call) -> Answer:
    _, row, said = await catalogue.version_of(service, call.params["model"], call.params.get("version"))
    return pretty(description.of_model(said.model_name or row.model))


async def _infer(service: Service, call: Call, asking: Mapping[str, str]) -> Answer | Streamed:
    began = time.perf_counter()
    service.submitter.check_room()
    name = call.params.get("model") or _parameters(call).get("model_name")
    if not name:
        raise bad_request("Parameter model_name is required.")
    version = call.params.get("version")
    if rest := call.params.get("rest"):
        asking = {**asking, "url_path": rest}
    target = await _target(service, name, version)
    body = await call.body(min(service.settings.max_body_bytes, service.torchserve.max_request_size or sys.maxsize))
    request = stored(call, body, asking)
    try:
        size = measured(target, request)
    except InputRefused as refused:
        raise refusal(refused) from refused
    row = await jobs.row_of(service, call, target, request.body, request.content_type, size)
    if jobs.is_job(call):
        return await jobs.submit(service, call, target, row, body)
    await service.capacity.admit(target)

    def copied() -> None:
        service.shadows.copy(row, request.body, request.value)

    async def ended(end: Ended | Prediction | None) -> Answer:
        counters.inferred(name, version, end, time.perf_counter() - began)
        if end is None or end.status is not Status.SUCCEEDED:
            raise _failure(service, end)
        return await reply_of(service, row.id, end)

    answers = await ask(
        service,
        call,
        [row],
        target.at_most,
        within_s=jobs.LONGEST_WAIT_S,
        accepted=copied,
        until_report=call.takes_pieces and _is_archive(service, target),
    )
    if answers.reported:
        return await Parts(service, call, row.id, jobs.LONGEST_WAIT_S, ended).answer()
    return await ended(answers.ended.get(row.id))


def _is_archive(service: Service, target: Target) -> bool:
    """Whether what it emits are the parts of its reply: those of other models may be drafts, or anything."""
    view = service.registry.views.get(target.model)
    row = None if view is None else view.versions.get(target.version)
    return row is not None and row.framework == "torchserve"


def _parameters(call: Call) -> dict[str, str]:
    return dict(urllib.parse.parse_qsl(call.query.decode("latin-1"), keep_blank_values=True))


async def _target(service: Service, name: str, version: str | None) -> Target:
    """Raises Refused."""
    try:
        target = await service.registry.resolve(name, version)
    except Problem as problem:
        if problem.code == "model_not_found":
            raise no_such_model(name) from problem
        if problem.code == "version_not_found":
            raise no_such_version(name, version or "") from problem
        if problem.code == "unavailable" and name in service.registry.views:
            await catalogue.version_of(service, name, version)
            raise no_workers(name) from problem
        raise
    if service.registry.views[name].versions[target.version].wish == "unload":
        _, row, _ = await catalogue.version_of(service, name, version)
        if row.version == target.version:
            raise no_workers(name)
        return service.registry.views[name].targets[row.version]
    return target


def _failure(service: Service, end: Ended | Prediction | None) -> Refused:
    """In the words of TorchServe, whose clients match on them."""
    if end is None:
        why = "The server is stopping." if service.draining else "The request was not done in time."
        return Refused(503, "ServiceUnavailableException", why)
    if end.error is None:
        return Refused(503, "InternalServerException", f"The prediction was {end.status.label}.")
    return _of_item(end.error)


def _of_item(error: ItemError) -> Refused:
    code, message = 503, "Prediction failed"
    match error.code:
        case ItemCode.OUT_OF_MEMORY:
            code, message = 507, "Out of resources"
        case ItemCode.EXECUTION_TIMEOUT | ItemCode.WORKER_LOST:
            code, message = 500, "Worker died."
        case ItemCode.OUTPUT_INVALID if " outputs for " in error.message:
            message = "number of batch response mismatched"
        case ItemCode.OUTPUT_INVALID if error.message.endswith("should return a list"):
            message = "Invalid model predict output"
        case ItemCode.OUTPUT_INVALID:
            message = "Unsupported model output data type."
        case ItemCode.INVALID_INPUT | ItemCode.MODEL_ERROR:
            if (said := envelopes.refused_with(error.message)) is not None:
                code, message = said
            elif "CUDA" in error.message:  # as TorchServe tells it, too, from the text
                code, message = 507, "Out of resources"
            elif error.code is ItemCode.INVALID_INPUT:  # of a body that cannot be read, or of no archive's model
                return bad_request(error.message)
    return Refused(code, "InternalServerException", message)
