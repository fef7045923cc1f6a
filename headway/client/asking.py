"""How anything is asked, and asked again, without doing any I/O; and what a server's answers mean.

Its rule: what broke off, or was refused for now, is tried again a bounded number of times in a row, and never past the
caller's time.
"""

import dataclasses
import datetime
import http.client
import random
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec

from headway.client.backoff import PASSING, delay_s, retry_after_s
from headway.client.errors import ApiError, Timeout, Unreachable
from headway.client.records import BatchPage, Page
from headway.client.steps import Answer, Came, Give, Lost, Pause, Send, Verb

T = TypeVar("T")

_LARGEST_PAGE = 100


class Asking:
    """`timeout_s`: what a call may take in all, for those that do not wait for a model. `retries`: in a row."""

    def __init__(
        self,
        timeout_s: float,
        retries: int,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._timeout_s = timeout_s
        self._retries = retries
        self._clock = clock
        self._chance = chance

    def _act(self, method: str, path: str, done: int | None = None) -> Verb[Answer]:
        """`done`: the status which says, of a second sending, that the first has arrived."""
        return (yield from self._ask(Send(method=method, path=path), self._clock() + self._timeout_s, done))

    def _ask(self, send: Send, deadline: float | None, done: int | None = None) -> Verb[Answer]:
        """The answer of a server that could give one. Raises ApiError, Unreachable, Timeout."""
        failures = 0
        while True:
            came = yield self._bounded(send, deadline)
            if isinstance(came, Answer) and came.status not in PASSING:
                return came if failures and came.status == done else checked(came)
            trouble = passing(came)
            failures += 1
            delay = delay_s(failures, self._chance(), trouble.retry_after_s)
            late = deadline is not None and self._clock() + delay >= deadline
            if late and isinstance(trouble, Unreachable):
                raise Timeout(f"no answer in time; at last: {trouble}") from trouble
            if late or failures > self._retries:
                raise trouble
            yield Pause(delay)

    def _pages(
        self, path: str, narrowed: Mapping[str, Any], limit: int | None, type_: type[Page] | type[BatchPage]
    ) -> Verb[None]:
        """Gives what a list holds, a page at a time."""
        query = {name: str(value) for name, value in narrowed.items() if value is not None}
        left = limit
        while left is None or left > 0:
            query["limit"] = str(_LARGEST_PAGE if left is None else min(left, _LARGEST_PAGE))
            send = Send(method="GET", path=path, query=dict(query))
            page = decoded((yield from self._ask(send, self._clock() + self._timeout_s)), type_)
            for record in page.data:
                yield Give(record)
            if left is not None:
                left -= len(page.data)
            if not page.has_more or page.last_id is None:
                return
            query["after"] = page.last_id

    def _bounded(self, send: Send, deadline: float | None) -> Send:
        if deadline is None:
            return send
        left = max(deadline - self._clock(), 1.0)
        return dataclasses.replace(send, left_s=left, silence_s=min(send.silence_s, left))

    def _deadline(self, timeout_s: float | None) -> float | None:
        return None if timeout_s is None else self._clock() + timeout_s


def passing(came: Came) -> ApiError | Unreachable:
    """What is wrong now, and may not be another time."""
    if isinstance(came, Lost):
        return Unreachable(came.reason)
    assert isinstance(came, Answer)
    return _problem(came)


def checked(answer: Answer) -> Answer:
    if not 200 <= answer.status < 300:
        raise _problem(answer)
    return answer


def _problem(answer: Answer) -> ApiError:
    """Whoever wrote it: a proxy's page has a status and nothing else that we know."""
    try:
        told = _told.decode(answer.body)
    except msgspec.DecodeError:
        told = _Told(detail=http.client.responses.get(answer.status, "An answer without a reason"))
    return ApiError(
        answer.status,
        told.code,
        told.detail,
        errors=told.errors,
        request_id=told.request_id or answer.headers.get("x-request-id"),
        retry_after_s=retry_after_s(answer.headers.get("retry-after"), datetime.datetime.now(datetime.UTC)),
    )


class _Told(msgspec.Struct):
    detail: str
    code: str = "unknown"
    errors: list[dict[str, Any]] = []
    request_id: str | None = None


_told = msgspec.json.Decoder(_Told)


def decoded(answer: Answer, type_: type[T]) -> T:
    try:
        return msgspec.json.decode(answer.body, type=type_)
    except msgspec.DecodeError as error:
        raise foreign(answer.status, error) from error


def foreign(status: int, error: Exception) -> ApiError:
    return ApiError(status, "unknown", f"This is no answer of a Headway server: {error}")
