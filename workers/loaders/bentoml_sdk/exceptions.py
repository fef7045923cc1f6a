"""What a method may raise: the HTTP status that its client gets."""

from http import HTTPStatus


class BentoMLException(Exception):  # noqa: N818  (its name)
    """The text is told to the client where the status is below 500, and 401 and 403 are none."""

    error_code = HTTPStatus.INTERNAL_SERVER_ERROR

    def __init__(self, message: str = "", *, error_code: HTTPStatus | int | None = None) -> None:
        super().__init__(message)
        self.message = message
        if error_code is not None:
            self.error_code = HTTPStatus(error_code)


class InternalServerError(BentoMLException):
    pass


class InvalidArgument(BentoMLException):
    error_code = HTTPStatus.BAD_REQUEST


class BadInput(InvalidArgument):
    error_code = HTTPStatus.BAD_REQUEST


class NotFound(BentoMLException):
    error_code = HTTPStatus.NOT_FOUND


class UnprocessableEntity(BentoMLException):
    error_code = HTTPStatus.UNPROCESSABLE_ENTITY


class ServiceUnavailable(BentoMLException):
    error_code = HTTPStatus.SERVICE_UNAVAILABLE


class MissingDependencyException(BentoMLException):
    pass


class BentoMLConfigException(BentoMLException):
    pass


class Unsupported(BentoMLException):
    """Something of BentoML that is not here; the message says what to do instead."""
