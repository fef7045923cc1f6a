"""What goes wrong, in the codes of TF Serving: those of gRPC, and what its REST port makes of them."""

import enum
import json
import logging

from api.answers import Answer, Headers
from api.problems import TABLE, Problem, problem_of

log = logging.getLogger(__name__)

JSON: Headers = ((b"content-type", b"application/json"),)


class Code(enum.Enum):
    """(status of the REST port, status of gRPC)."""

    INVALID_ARGUMENT = 400, "INVALID_ARGUMENT"
    FAILED_PRECONDITION = 400, "FAILED_PRECONDITION"
    UNAUTHENTICATED = 401, "UNAUTHENTICATED"
    PERMISSION_DENIED = 403, "PERMISSION_DENIED"
    NOT_FOUND = 404, "NOT_FOUND"
    ALREADY_EXISTS = 409, "ALREADY_EXISTS"
    TOO_LARGE = 413, "RESOURCE_EXHAUSTED"  # HTTP has a word of its own for a body
    RESOURCE_EXHAUSTED = 429, "RESOURCE_EXHAUSTED"
    INTERNAL = 500, "INTERNAL"
    UNIMPLEMENTED = 501, "UNIMPLEMENTED"
    UNAVAILABLE = 503, "UNAVAILABLE"
    DEADLINE_EXCEEDED = 504, "DEADLINE_EXCEEDED"

    @property
    def http(self) -> int:
        return self.value[0]

    @property
    def grpc(self) -> str:
        return self.value[1]


class Refused(Exception):  # noqa: N818  (what has happened to the request)
    """The message is the client's to read."""

    def __init__(self, code: Code, message: str, headers: Headers = ()) -> None:
        super().__init__(message)
        self.code = code
        self.headers = headers


def invalid(message: str) -> Refused:
    return Refused(Code.INVALID_ARGUMENT, message)


_BY_STATUS = {
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.NOT_FOUND,
    409: Code.ALREADY_EXISTS,
    413: Code.TOO_LARGE,
    429: Code.RESOURCE_EXHAUSTED,
    501: Code.UNIMPLEMENTED,
    503: Code.UNAVAILABLE,
    504: Code.DEADLINE_EXCEEDED,
}


def refused_of(error: Exception) -> Refused:
    """Any exception as a client of TF Serving may see it."""
    if isinstance(error, Refused):
        return error
    problem: Problem = problem_of(error)
    if problem.code == "internal_error":
        log.error("unexpected error", exc_info=error)
    status = TABLE[problem.code][0]
    if problem.code == "queue_full":
        full = f"The batch scheduling queue to which this task was submitted is full; {problem.detail}"
        return Refused(Code.UNAVAILABLE, full, tuple(problem.headers))
    code = _BY_STATUS.get(status, Code.INVALID_ARGUMENT if status < 500 else Code.INTERNAL)
    return Refused(code, problem.detail, tuple(problem.headers))


def answer(error: Exception) -> Answer:
    refused = refused_of(error)
    body = json.dumps({"error": str(refused)}, indent=4, ensure_ascii=False)
    return Answer(refused.code.http, body.encode("utf-8", "replace"), (*JSON, *refused.headers))
