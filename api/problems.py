"""Everything that goes wrong over HTTP, as RFC 9457 problems: one table of codes, and one way to answer each.

`type` is `/problems/{code}`, which the API serves. A problem never carries a stack trace, a path on disk or SQL, and
echoes little of what was sent.
"""

import http
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from api.answers import Answer, Headers
from headway.errors import BlobsUnavailable, StorageUnavailable

log = logging.getLogger(__name__)

#: code → (status, title, when it happens and what helps).
TABLE: dict[str, tuple[int, str, str]] = {
    "malformed_request": (
        400,
        "Malformed request",
        "The request or its JSON cannot be read; numbers out of range, bad UTF-8 and depth over 64 count as that.",
    ),
    "invalid_cursor": (
        400,
        "Invalid cursor",
        "`after` is no id that a list gave as its `last_id`.",
    ),
    "unauthenticated": (
        401,
        "Unauthenticated",
        "The request has no key that is valid. Send `Authorization: Bearer KEY`; `headway keys create` makes one.",
    ),
    "forbidden": (
        403,
        "Forbidden",
        "The key lacks the scope that this needs, or a page of another site calls.",
    ),
    "not_found": (
        404,
        "Not found",
        "There is nothing at this path. /docs lists what there is.",
    ),
    "model_not_found": (
        404,
        "Model not found",
        "No model of this name is registered. GET /v1/models lists them.",
    ),
    "version_not_found": (
        404,
        "Version not found",
        "The model has no such version. GET /v1/models/{model}/versions lists them.",
    ),
    "alias_not_found": (
        404,
        "Alias not found",
        "The model has no such alias. GET /v1/models/{model} lists them.",
    ),
    "prediction_not_found": (
        404,
        "Prediction not found",
        "No prediction has this id, or its retention has ended.",
    ),
    "delivery_not_found": (
        404,
        "Delivery not found",
        "No delivery has this id. GET /v1/predictions/{id}/deliveries lists those of a prediction.",
    ),
    "method_not_allowed": (
        405,
        "Method not allowed",
        "The path exists, and not with this method. The Allow header lists those it has.",
    ),
    "not_acceptable": (
        406,
        "Not acceptable",
        "The output cannot be given so. GET /v1/predictions/{id}/output without Accept gives it as it is.",
    ),
    "request_timeout": (
        408,
        "Request timeout",
        "The request came too slowly. By default: headers in 10 s, a body at 1 kB/s at least, a batch at 10 B/s.",
    ),
    "already_terminal": (
        409,
        "Already terminal",
        "It has ended, so it cannot be canceled.",
    ),
    "not_retryable": (
        409,
        "Not retryable",
        "Only what failed, expired or was canceled can be retried.",
    ),
    "not_terminal": (
        409,
        "Not terminal",
        "Only what has ended can be deleted, or has an output. Wait for it, or cancel it first.",
    ),
    "no_output": (
        409,
        "No output",
        "The prediction ended without an output. `error` says why, where it failed.",
    ),
    "batch_not_found": (
        404,
        "Batch not found",
        "There is no batch of this id, or its retention has ended.",
    ),
    "prediction_purged": (
        410,
        "Prediction purged",
        "The prediction was deleted. Its id is known until its retention ends.",
    ),
    "payload_too_large": (
        413,
        "Payload too large",
        "The body is over the limit, 8 MiB unless the operator set another.",
    ),
    "uri_too_long": (
        414,
        "URI too long",
        "The path and query are longer than 8 kB.",
    ),
    "unsupported_media_type": (
        415,
        "Unsupported media type",
        "Send application/json, without Content-Encoding; a create also takes image/*, audio/*, octet-stream or x-npy.",
    ),
    "validation_failed": (
        422,
        "Validation failed",
        "The request can be read and does not fit. `errors` says where, by JSON pointer, query parameter or header.",
    ),
    "idempotency_key_reused": (
        422,
        "Idempotency key reused",
        "A key is for one request: the same route and the same body. Another request needs another key.",
    ),
    "webhook_url_rejected": (
        422,
        "Webhook URL rejected",
        "Webhooks go to public https addresses, and to networks that the operator allows by HEADWAY_WEBHOOK_ALLOW.",
    ),
    "invalid_input": (
        422,
        "Invalid input",
        "The model refused one or more instances. `predictions` says which.",
    ),
    "output_invalid": (
        422,
        "Output invalid",
        "The model answered one or more instances with what is no finite JSON. `predictions` says which.",
    ),
    "queue_full": (
        429,
        "Queue full",
        "As many predictions wait for the model as its max_queue allows. Nothing was stored. Wait as Retry-After says.",
    ),
    "rate_limited": (
        429,
        "Rate limited",
        "The key makes more requests a second than it may. Retry-After says when it may again.",
    ),
    "headers_too_large": (
        431,
        "Request header fields too large",
        "The headers together are over 64 kB, or they are more than 100.",
    ),
    "internal_error": (
        500,
        "Internal error",
        "A defect in Headway. The log has the details under this request_id.",
    ),
    "prediction_failed": (
        500,
        "Prediction failed",
        "One or more instances ended without an output. `predictions` says which, and why.",
    ),
    "unavailable": (
        503,
        "Unavailable",
        "Something this needs cannot be used now. Try again after as many seconds as Retry-After says.",
    ),
    "wait_timeout": (
        504,
        "Wait timeout",
        "Not all instances were done in time. Those that were still queued have been canceled.",
    ),
}

_PROBLEM_HEADERS = ((b"content-type", b"application/problem+json"), (b"cache-control", b"no-store"))

#: What a framework error of this status is called here.
_CODES_BY_STATUS = {
    400: "malformed_request",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "payload_too_large",
    414: "uri_too_long",
    415: "unsupported_media_type",
    422: "validation_failed",
    431: "headers_too_large",
    503: "unavailable",
}


class Problem(Exception):  # noqa: N818  (the RFC's word)
    """Raise it anywhere below an endpoint; `code` is a key of TABLE."""

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        errors: Sequence[Mapping[str, str]] = (),
        headers: Headers = (),
        members: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.errors = errors
        self.headers = headers
        self.members = members or {}

    @classmethod
    def of(cls, code: str) -> "Problem":
        """A problem that needs no more words than the table has."""
        return cls(code, TABLE[code][2])

    @classmethod
    def invalid(cls, detail: str, **where: str) -> "Problem":
        """422 with one error; `where` is pointer=…, parameter=… or header=…."""
        return cls("validation_failed", detail, errors=[{**where, "detail": detail}])

    @classmethod
    def unavailable(cls, detail: str, *, retry_after_s: int = 1, members: Mapping[str, Any] | None = None) -> "Problem":
        return cls("unavailable", detail, headers=((b"retry-after", b"%d" % retry_after_s),), members=members)


def problem_of(error: Exception) -> Problem:
    """Any exception as the problem a client may see."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, StorageUnavailable):
        return Problem.unavailable("The database cannot be reached now.")
    if isinstance(error, BlobsUnavailable):
        return Problem.unavailable("The store of large inputs and outputs cannot be reached now.")
    if isinstance(error, SQLAlchemyError):
        log.error("the database refused a statement", exc_info=error)
        return Problem.unavailable("The database cannot serve this now; is its schema current?")
    if isinstance(error, HTTPException):
        return _of_framework(error)
    return Problem("internal_error", "Something went wrong here, and it has been logged.")


def _of_framework(error: HTTPException) -> Problem:
    code = _CODES_BY_STATUS.get(error.status_code)
    if code is None:
        code = "malformed_request" if error.status_code < 500 else "internal_error"
    headers = [(name.lower().encode(), value.encode()) for name, value in (error.headers or {}).items()]
    return Problem(code, TABLE[code][2], headers=headers)


def answer(error: Exception, *, path: str, request_id: str) -> Answer:
    """The one way a failure becomes a response. What is our own fault is logged with its stack."""
    problem = problem_of(error)
    if problem.code == "internal_error":
        log.error("unexpected error", exc_info=error, extra={"request_id": request_id, "path": path[:200]})
    status, title, _ = TABLE[problem.code]
    body: dict[str, Any] = {
        "type": f"/problems/{problem.code}",
        "title": title,
        "status": status,
        "detail": problem.detail[:500],
        "instance": path[:200],
        "code": problem.code,
        "request_id": request_id,
    }
    if problem.errors:
        body["errors"] = problem.errors
    return Answer(status, msgspec.json.encode(body | dict(problem.members)), (*_PROBLEM_HEADERS, *problem.headers))


def describe(code: str) -> dict[str, Any]:
    """What GET /problems/{code} shows. Raises Problem for a code that does not exist."""
    if code not in TABLE:
        raise Problem("not_found", "There is no problem of this name.")
    status, title, text = TABLE[code]
    return {"type": f"/problems/{code}", "code": code, "status": status, "title": title, "description": text}


def allow(methods: set[str]) -> str:
    """The Allow header: HEAD stands beside every GET."""
    return ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set())))


assert all(http.HTTPStatus(status) for status, _, _ in TABLE.values())
