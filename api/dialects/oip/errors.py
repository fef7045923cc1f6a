"""What goes wrong, in Triton's codes: of HTTP and of gRPC."""

import enum
import logging

import msgspec

from api.answers import Answer
from api.problems import TABLE, Problem, problem_of

log = logging.getLogger(__name__)

_HEADERS = ((b"content-type", b"application/json"),)


class Code(enum.Enum):
    """(HTTP status, gRPC status)."""

    INVALID_ARG = 400, "INVALID_ARGUMENT"
    UNAUTHENTICATED = 401, "UNAUTHENTICATED"
    FORBIDDEN = 403, "PERMISSION_DENIED"
    NOT_FOUND = 404, "NOT_FOUND"
    METHOD = 405, "UNIMPLEMENTED"
    TOO_LARGE = 413, "RESOURCE_EXHAUSTED"
    EXHAUSTED = 429, "RESOURCE_EXHAUSTED"
    INTERNAL = 500, "INTERNAL"
    UNSUPPORTED = 501, "UNIMPLEMENTED"
    UNAVAILABLE = 503, "UNAVAILABLE"

    @property
    def http(self) -> int:
        return self.value[0]

    @property
    def grpc(self) -> str:
        return self.value[1]


class Refused(Exception):  # noqa: N818  (what has happened to the request)
    """The message is the client's to read."""

    def __init__(self, code: Code, message: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        super().__init__(message)
        self.code = code
        self.headers = headers


_BY_STATUS = {code.http: code for code in Code}


def refused_of(error: Exception) -> Refused:
    """Any exception as a client of this protocol may see it."""
    if isinstance(error, Refused):
        return error
    problem: Problem = problem_of(error)
    if problem.code == "internal_error":
        log.error("unexpected error", exc_info=error)
    status = TABLE[problem.code][0]
    if problem.code == "queue_full":
        return Refused(Code.UNAVAILABLE, f"Exceeds maximum queue size: {problem.detail}", tuple(problem.headers))
    code = _BY_STATUS.get(status, Code.INVALID_ARG if status < 500 else Code.INTERNAL)
    return Refused(code, problem.detail, tuple(problem.headers))


def answer(error: Exception) -> Answer:
    refused = refused_of(error)
    return Answer(refused.code.http, msgspec.json.encode({"error": str(refused)}), (*_HEADERS, *refused.headers))
