"""What a client can be told instead of an answer.

HeadwayError
├── ApiError                 the server answered, and refused
├── Unreachable              nobody answered, however often it was asked
├── Timeout                  the caller's time is over; the prediction goes on
└── NotSucceeded             the prediction ended in another way
    ├── PredictionFailed
    ├── PredictionCanceled
    └── PredictionExpired
"""

from collections.abc import Sequence
from typing import Any

from headway.client.records import Prediction
from headway.errors import HeadwayError


class ApiError(HeadwayError):
    """A problem as the server told it (RFC 9457). `code` is stable; `errors` says where in a body that did not fit."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        errors: Sequence[dict[str, Any]] = (),
        request_id: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        places = [str(place) for error in errors for name, place in error.items() if name != "detail"]
        where = f" ({', '.join(places)})" if any(places) else ""
        super().__init__(f"{detail.rstrip('.')}{where} [{status} {code}]")
        self.status = status
        self.code = code
        self.detail = detail
        self.errors = list(errors)
        self.request_id = request_id
        self.retry_after_s = retry_after_s


class Unreachable(HeadwayError):  # noqa: N818  (reads as what it is)
    """No server could be reached, or none answered to the end. What was sent may have arrived all the same."""

    retry_after_s: float | None = None


class Timeout(HeadwayError):  # noqa: N818  (the field's word)
    """The time that the caller gave is over. `prediction`, where one is known, goes on all the same."""

    def __init__(self, message: str, prediction: Prediction | None = None) -> None:
        super().__init__(message)
        self.prediction = prediction


class NotSucceeded(HeadwayError):  # noqa: N818  (reads as what happened)
    """There is no output and there will be none, but by a retry."""

    def __init__(self, prediction: Prediction) -> None:
        error = prediction.error
        why = f": {error.message} [{error.code}]" if error is not None else ""
        super().__init__(f"prediction {prediction.id} {_ENDS.get(prediction.status, prediction.status)}{why}")
        self.prediction = prediction


class PredictionFailed(NotSucceeded):
    """`prediction.error` says why."""


class PredictionCanceled(NotSucceeded):
    """Somebody canceled it."""


class PredictionExpired(NotSucceeded):
    """Its queue timeout passed before a device was spent on it."""


_ENDS = {"canceled": "was canceled", "expired": "expired in the queue"}
_BY_STATUS = {"failed": PredictionFailed, "canceled": PredictionCanceled, "expired": PredictionExpired}


def not_succeeded(prediction: Prediction) -> NotSucceeded:
    """The exception for a prediction that ended without an output."""
    return _BY_STATUS.get(prediction.status, NotSucceeded)(prediction)
