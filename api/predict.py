"""`:predict`: several instances in, their outputs out, in one call. Each instance is a prediction like any other."""

import logging
from collections.abc import Mapping
from typing import Any

from api import inputs, outputs
from api.answers import JSON_HEADERS, Answer
from api.asking import ask
from api.exchange import LONGEST_WAIT_S, Call, preference_applied, preferred_wait, query_parameters
from api.problems import Problem
from api.registry import Target
from api.requests import read_predict
from api.service import Service
from headway.clock import new_id
from headway.errors import ItemCode
from headway.notices import Ended
from headway.states import Status
from headway.types import LARGE, NewPrediction, Prediction

log = logging.getLogger(__name__)

_PRIORITY = 5

#: What a client can put right; anything else that fails is 500.
_CALLERS_FAULT = (ItemCode.INVALID_INPUT, ItemCode.OUTPUT_INVALID)


async def predict(service: Service, call: Call) -> Answer:
    """200 with all outputs, or a problem that lists the instances without one."""
    service.submitter.check_room()
    query_parameters(call.query, {})
    wait = preferred_wait(call.headers.get(b"prefer", b""))
    target = await service.registry.resolve(call.params["model"], call.params.get("version"), call.params.get("alias"))
    instances = await read_predict(call, service.settings.max_body_bytes)
    line = target.line(_PRIORITY, await service.classes.of(call.tenant))
    rows = [_row(service, call, target, line, i, bytes(raw), value) for i, (raw, value) in enumerate(instances)]
    await service.capacity.admit(target, len(rows))
    if any(len(row.body) > LARGE for row in rows):
        rows = [await inputs.kept(service, row) for row in rows]
    ids = [row.id for row in rows]

    def copied() -> None:
        for row, (raw, value) in zip(rows, instances, strict=True):
            service.shadows.copy(row, bytes(raw), value)

    within_s = LONGEST_WAIT_S if wait is None else wait
    answers = await ask(service, call, rows, target.at_most, within_s=within_s, accepted=copied)
    ended, canceled = answers.ended, answers.canceled
    if len(ended) == len(ids) and all(end.status is Status.SUCCEEDED for end in ended.values()):
        given = {id_: end.output or b"null" for id_, end in ended.items()}
        if apart := [end for end in ended.values() if isinstance(end, Prediction) and end.output_bytes is not None]:
            given |= await _from_blobs(service, ids, apart)
        joined = b",".join([given[id_] for id_ in ids])
        return Answer(200, b'{"predictions":[%b]}' % joined, (*JSON_HEADERS, *preference_applied(wait)))
    raise _problem(service, ids, ended, canceled)


async def _from_blobs(service: Service, ids: list[str], rows: list[Prediction]) -> dict[str, bytes]:
    """Outputs that do not lie in SQL, as JSON. Raises Problem not_acceptable, which lists those that are none."""
    given = {row.id: await outputs.as_json(service, row) for row in rows}
    listed = [
        {"index": index, "id": id_, "code": "output_omitted"}
        for index, id_ in enumerate(ids)
        if id_ in given and given[id_] is None
    ]
    if listed:
        detail = (
            f"{len(listed)} of {len(ids)} outputs are no JSON, or larger than {outputs.MOST_INLINE} bytes; "
            "all are computed: GET /v1/predictions/{id}/output has each."
        )
        raise Problem("not_acceptable", detail, members={"predictions": listed})
    return {id_: output for id_, output in given.items() if output is not None}


def _row(
    service: Service, call: Call, target: Target, line: str, index: int, body: bytes, value: object
) -> NewPrediction:
    pointer = f"/instances/{index}"
    if target.fetches:
        size, shape = inputs.measured(service, target, value, body, pointer)
    else:
        size, shape = target.measure(value, body, pointer)
    return NewPrediction(
        id=new_id(),
        tenant_id=call.tenant,
        model=target.model,
        version=target.version,
        alias=call.params.get("alias"),
        line=line,
        priority=_PRIORITY,
        size=size,
        shape=shape,
        max_attempts=target.max_attempts,
        queue_timeout_us=target.queue_timeout_us,
        body=body,
    )


def _problem(
    service: Service, ids: list[str], ended: Mapping[str, Ended | Prediction], canceled: Mapping[str, Ended]
) -> Problem:
    """Every instance without an output, by index."""
    listed: list[dict[str, Any]] = []
    codes = []
    for index, id_ in enumerate(ids):
        end = ended.get(id_)
        if end is not None and end.status is Status.SUCCEEDED:
            continue
        if end is None:
            code = Status.CANCELED.label if id_ in canceled else "unfinished"
        else:
            code = end.status.label if end.error is None else end.error.code
            codes.append(code)
        listed.append({"index": index, "id": id_, "code": code})
    members = {"predictions": listed}
    if len(ended) < len(ids):
        detail = f"{len(ids) - len(ended)} of {len(ids)} instances were not done in time."
        if service.draining:
            return Problem.unavailable(f"The API is stopping; {detail}", members=members)
        return Problem("wait_timeout", detail, members=members)
    detail = f"{len(listed)} of {len(ids)} instances failed."
    if all(code in _CALLERS_FAULT for code in codes):
        return Problem(codes[0], detail, members=members)
    return Problem("prediction_failed", detail, members=members)
