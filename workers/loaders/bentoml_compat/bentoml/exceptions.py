"""What a method may raise."""

from workers.loaders.bentoml_sdk.exceptions import (
    BadInput,
    BentoMLConfigException,
    BentoMLException,
    InternalServerError,
    InvalidArgument,
    MissingDependencyException,
    NotFound,
    ServiceUnavailable,
    UnprocessableEntity,
)

__all__ = [
    "BadInput", "BentoMLConfigException", "BentoMLException", "InternalServerError", "InvalidArgument",
    "MissingDependencyException", "NotFound", "ServiceUnavailable", "UnprocessableEntity",
]  # fmt: skip
