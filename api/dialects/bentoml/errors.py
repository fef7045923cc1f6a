"""What goes wrong, as BentoML says it: `{"error": …}`, or text where its router answers."""

import json
import logging
import os
from typing import Any
from urllib.parse import quote

from api.answers import Answer, Headers
from api.problems import TABLE, Problem, problem_of
from headway import envelopes
from headway.errors import ItemCode, ItemError
from headway.notices import Ended
from headway.states import Status
from headway.types import Prediction

log = logging.getLogger(__name__)

UNEXPECTED = {"error": "An unexpected error has occurred, please check the server log."}


class Refused(Exception):  # noqa: N818  (what has happened to the request)
    """`said`: JSON that is the client's to read, or a str that goes out as text."""

    def __init__(self, status: int, said: Any, headers: Headers = ()) -> None:
        super().__init__(str(said))
        self.answer = Answer(status, *_written(said, headers))


def _written(said: Any, headers: Headers) -> tuple[bytes, Headers]:
    if isinstance(said, str):
        return said.encode(), ((b"content-type", b"text/plain; charset=utf-8"), *headers)
    body = json.dumps(said, ensure_ascii=False, separators=(",", ":")).encode()
    return body, ((b"content-type", b"application/json"), *headers)


def said(said: Any, status: int = 200) -> Answer:
    """JSON of an API or of a task's verb, which have a request id each."""
    return identified(Answer(status, *_written(said, ())))


def identified(answer: Answer) -> Answer:
    return answer._replace(headers=(*answer.headers, (b"x-bentoml-request-id", os.urandom(8).hex().encode())))


def not_found() -> Refused:
    return Refused(404, "Not Found")


def not_allowed(methods: str) -> Refused:
    return Refused(405, "Method Not Allowed", ((b"allow", methods.encode()),))


def moved(path: str, query: bytes) -> Refused:
    """To the same without a slash at its end; the method stays."""
    refused = Refused(307, "")
    location = quote(path).encode() + (b"?" + query if query else b"")
    refused.answer = Answer(307, b"", ((b"location", location),))
    return refused


def too_late(seconds: float) -> Refused:
    return Refused(504, {"error": f"Not able to process the request in {seconds:g} seconds"})


def answer(error: Exception) -> Answer:
    """Any exception as a client of this protocol may see it."""
    if isinstance(error, Refused):
        return error.answer
    problem = problem_of(error)
    if problem.code == "internal_error":
        log.error("unexpected error", exc_info=error)
    status = TABLE[problem.code][0]
    headers = tuple(problem.headers)
    match status:
        case 401 | 403:
            return Refused(status, {"error": "Authorization error"}, headers).answer
        case 422:
            return Refused(400, _validation(problem), headers).answer
        case 429:
            return Refused(429, {"error": "Too many requests"}, headers).answer
    if status >= 500:
        return Refused(status, UNEXPECTED, headers).answer
    return Refused(status, {"error": problem.detail}, headers).answer


def _validation(problem: Problem) -> dict[str, Any]:
    """As pydantic counts and places what does not fit."""
    if not problem.errors:
        return {"error": problem.detail}
    detail = [
        {
            "type": "value_error",
            "loc": [int(part) if part.isdecimal() else part for part in one.get("pointer", "").split("/") if part],
            "msg": f"Value error, {one['detail']}",
        }
        for one in problem.errors
    ]
    return {"error": f"{len(detail)} validation error for Input", "detail": detail}


def failure(end: Ended | Prediction, timeout_s: float) -> Answer:
    """Of a prediction that has ended without an output, now or when somebody asks for it. `timeout_s`: of a call."""
    if end.status is Status.EXPIRED:  # as the dispatcher drops what it cannot do in time
        return Refused(503, UNEXPECTED).answer
    if end.error is None:
        return Refused(503, {"error": f"the prediction was {end.status.label}"}).answer
    return _of_item(end.error, timeout_s)


def _of_item(error: ItemError, timeout_s: float) -> Answer:
    if (refused := envelopes.refused_with(error.message)) is not None:
        return Refused(refused[0], _json(refused[1])).answer
    match error.code:
        case ItemCode.INVALID_INPUT:
            return Refused(400, [{"error": error.message}]).answer
        case ItemCode.NOT_FOUND:
            return Refused(404, [{"error": error.message}]).answer
        case ItemCode.UNAVAILABLE:
            return Refused(503, UNEXPECTED).answer
        case ItemCode.EXECUTION_TIMEOUT:
            return too_late(timeout_s).answer
    return Refused(500, UNEXPECTED).answer


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return {"error": text}
