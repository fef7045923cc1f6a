"""What goes wrong, as TorchServe says it: a code, the name of an exception, a message."""

import json
import logging
from typing import Any

from api.answers import Answer, Headers
from api.problems import TABLE, problem_of

log = logging.getLogger(__name__)

NO_CACHE: Headers = (
    (b"pragma", b"no-cache"),
    (b"cache-control", b"no-cache; no-store, must-revalidate, private"),
    (b"expires", b"Thu, 01 Jan 1970 00:00:00 UTC"),
)

#: HTTP status → the exception's name, where the problem says no more.
_TYPES = {
    400: "BadRequestException",
    401: "InvalidKeyException",
    403: "InvalidKeyException",
    404: "ResourceNotFoundException",
    405: "MethodNotAllowedException",
    409: "ConflictStatusException",
    413: "RequestEntityTooLargeException",
    503: "ServiceUnavailableException",
}


class Refused(Exception):  # noqa: N818  (what has happened to the request)
    """The message is the client's to read."""

    def __init__(self, code: int, type_: str, message: str, headers: Headers = ()) -> None:
        super().__init__(message)
        self.code = code
        self.type = type_
        self.headers = headers


def bad_request(message: str) -> Refused:
    return Refused(400, "BadRequestException", message)


def no_such_model(name: str) -> Refused:
    return Refused(404, "ModelNotFoundException", f"Model not found: {name}")


def no_such_version(name: str, version: str) -> Refused:
    message = f"Model version: {version} does not exist for model: {name}"
    return Refused(404, "ModelVersionNotFoundException", message)


def no_workers(name: str) -> Refused:
    return Refused(
        503,
        "ServiceUnavailableException",
        f'Model "{name}" has no worker to serve inference request. Please use scale workers API to add workers.',
    )


def pretty(value: Any, status: int = 200, headers: Headers = ()) -> Answer:
    """JSON as the server itself writes it."""
    body = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    return Answer(status, body.encode(), ((b"content-type", b"application/json"), *NO_CACHE, *headers))


def answer(error: Exception) -> Answer:
    """Any exception as a client of this protocol may see it."""
    if not isinstance(error, Refused):
        problem = problem_of(error)
        if problem.code == "internal_error":
            log.error("unexpected error", exc_info=error)
        status = TABLE[problem.code][0]
        if problem.code == "queue_full":  # of which TorchServe's clients expect this
            status = 503
        if status == 422:
            status = 400
        error = Refused(status, _TYPES.get(status, "InternalServerException"), problem.detail, tuple(problem.headers))
    said = {"code": error.code, "type": error.type, "message": str(error)}
    return pretty(said, error.code, error.headers)
