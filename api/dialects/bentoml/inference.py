"""A call of a route, and an answer that is waited for."""

from api.answers import Answer, Streamed
from api.asking import ask
from api.dialects import jobs
from api.dialects.bentoml import counters, errors, replies, requests, streams, tasks
from api.dialects.bentoml.routes import VERBS, Found, find
from api.endpoint import EndpointFunction
from api.exchange import Call
from api.problems import Problem
from api.service import Service
from headway.states import Status


def called_by(method: str) -> EndpointFunction:
    """What answers at every path that is none of the server's own, for one method."""

    async def answer(service: Service, call: Call) -> Answer | Streamed:
        return await _answer(service, call, method)

    return answer


async def _answer(service: Service, call: Call, method: str) -> Answer | Streamed:
    """Raises Refused."""
    found = find(service, call.path)
    if found is None:
        await service.registry.refresh()
        found = find(service, call.path)
    if found is None:
        if call.path.endswith("/") and find(service, call.path.rstrip("/")) is not None:
            raise errors.moved(call.path.rstrip("/"), call.query)
        raise errors.not_found()
    route, verb = found
    wanted = VERBS.get(verb, "POST")
    if method != wanted:
        raise errors.not_allowed("HEAD, GET" if wanted == "GET" else wanted)
    with counters.counted(call.path, route) as status:
        answer: Answer | Streamed
        try:
            answer = await (tasks.VERBS[verb](service, call, route) if verb else predict(service, call, route))
        except (errors.Refused, Problem) as refused:
            answer = errors.answer(refused)
            if answer.status not in (429, 504):  # which BentoML answers before a request has its id
                answer = errors.identified(answer)
        status.append(answer.status)
        return answer


async def predict(service: Service, call: Call, found: Found) -> Answer | Streamed:
    """What the model answers, piece by piece where it yields; or 202 and a job where one was asked for."""
    service.submitter.check_room()
    body = await call.body(service.settings.max_body_bytes)
    asked = await requests.prepare(service, call, found, body)
    if jobs.is_job(call):
        tasks.must_be_one(asked)
        return await jobs.submit(service, call, asked.target, asked.rows[0], body)
    await service.capacity.admit(asked.target, len(asked.rows))

    def copied() -> None:
        for row, given in zip(asked.rows, asked.inputs, strict=True):
            service.shadows.copy(row, given.body, given.value)

    answers = await ask(
        service,
        call,
        asked.rows,
        asked.target.at_most,
        within_s=found.timeout_s,
        accepted=copied,
        until_report=call.takes_pieces and bool(found.route.output.get("is_stream")),
    )
    if answers.reported:
        return await streams.streamed(service, call, found, asked.rows[0].id, asked.target.timeout_s)
    outputs = []
    for row in asked.rows:
        end = answers.ended.get(row.id)
        if end is None:
            raise errors.Refused(503, errors.UNEXPECTED) if service.draining else errors.too_late(found.timeout_s)
        if end.status is not Status.SUCCEEDED:
            return errors.identified(errors.failure(end, asked.target.timeout_s))
        outputs.append(await replies.output_of(service, row.id, end))
    return errors.identified(replies.reply(found, outputs, single=asked.single))
