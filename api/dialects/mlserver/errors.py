"""What goes wrong, as MLServer says it: `{"error": …}`, and `{"detail": …}` of what its framework refuses."""

import logging
from typing import Any

import msgspec

from api.answers import Answer, Headers
from api.dialects.oip import errors as oip_errors
from api.dialects.values import Failed
from api.problems import TABLE, problem_of
from api.service import Service
from headway import envelopes
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


def no_such_model(name: str, version: str | None) -> Refused:
    said = (
        f"Model {name[:200]} not found" if version is None else f"Model {name[:200]} with version {version} not found"
    )
    return Refused(404, said)


def detailed(status: int, detail: Any, headers: Headers = ()) -> Refused:
    """As the framework below MLServer says it."""
    return Refused(status, str(detail), headers, body={"detail": detail})


def failed(service: Service, error: Failed) -> Refused:
    """Of a prediction without an output. A model's exception is told, which MLServer keeps to itself."""
    end = error.end
    if end is None:
        return Refused(503, "the server is stopping" if service.draining else "the request was not done in time")
    if end.error is None:
        return Refused(503, f"the request was {end.status.label}")
    if (said := envelopes.refused_with(end.error.message)) is not None:
        return Refused(*said)
    return Refused(400 if end.error.code is ItemCode.INVALID_INPUT else 500, end.error.message)


def answer(error: Exception) -> Answer:
    """Any exception as a client of this protocol may see it."""
    if isinstance(error, oip_errors.Refused):
        error = Refused(error.code.http, str(error), error.headers)
    if not isinstance(error, Refused):
        problem = problem_of(error)
        if problem.code == "internal_error":
            log.error("unexpected error", exc_info=error)
        error = Refused(TABLE[problem.code][0], problem.detail, tuple(problem.headers))
    return Answer(error.status, msgspec.json.encode(error.body), (*JSON, *error.headers))
