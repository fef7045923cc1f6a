"""What goes wrong, as KServe's server says it: `{"error": …}`, and `{"detail": …}` of what its framework refuses."""

import logging
from typing import Any

import msgspec

from api.answers import Answer, Headers
from api.dialects.oip import errors as oip_errors
from api.dialects.values import Failed
from api.problems import TABLE, problem_of
from api.service import Service
from headway.errors import ItemCode

log = logging.getLogger(__name__)

JSON: Headers = ((b"content-type", b"application/json"),)


class Refused(Exception):  # noqa: N818  (what has happened to the request)
    """`body` is what the client reads."""

    def __init__(self, status: int, message: str, headers: Headers = (), *, body: Any = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers
        self.body = {"error": message} if body is None else body


def invalid(message: str) -> Refused:
    return Refused(400, message)


def no_such_model(name: str) -> Refused:
    return Refused(404, f"Model with name {name[:200]} does not exist.")


def not_ready(name: str, detail: str = "") -> Refused:
    return Refused(503, f"Model with name {name} is not ready.{' ' if detail else ''}{detail}")


def detailed(status: int, detail: Any, headers: Headers = ()) -> Refused:
    """As the framework below KServe's server says it."""
    return Refused(status, str(detail), headers, body={"detail": detail})


def failed(service: Service, error: Failed) -> Refused:
    """Of a prediction without an output."""
    end = error.end
    if end is None:
        return Refused(503, "Server is not ready." if service.draining else "the request was not done in time")
    if end.error is None:
        return Refused(503, f"the request was {end.status.label}")
    if end.error.code is ItemCode.INVALID_INPUT:
        return invalid(end.error.message)
    return Refused(500, end.error.message)


def answer(error: Exception) -> Answer:
    """Any exception as a client of this protocol may see it."""
    if isinstance(error, oip_errors.Refused):
        error = Refused(error.code.http, str(error), error.headers)
    if not isinstance(error, Refused):
        problem = problem_of(error)
        if problem.code == "internal_error":
            log.error("unexpected error", exc_info=error)
        status = TABLE[problem.code][0]
        error = Refused(400 if status == 422 else status, problem.detail, tuple(problem.headers))
    return Answer(error.status, msgspec.json.encode(error.body), (*JSON, *error.headers))
