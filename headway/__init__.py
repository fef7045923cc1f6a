"""Headway: a queue for model predictions that batches by itself.

What a model author and a client import stands here; nothing in this package imports torch, Celery or the other
packages. The client comes with the first use of its names: a model's process has no need of HTTP.
"""

import importlib
from typing import TYPE_CHECKING, Any

from headway.errors import HeadwayError
from headway.model import Context, InvalidInput, Item, Model

if TYPE_CHECKING:
    from headway.client import ApiError, AsyncClient, Client, Line, NotSucceeded, Timeout, Unreachable

__version__ = "0.1.0"
__all__ = [
    "ApiError",
    "AsyncClient",
    "Client",
    "Context",
    "HeadwayError",
    "InvalidInput",
    "Item",
    "Line",
    "Model",
    "NotSucceeded",
    "Timeout",
    "Unreachable",
    "__version__",
]

_OF_THE_CLIENT = {"ApiError", "AsyncClient", "Client", "Line", "NotSucceeded", "Timeout", "Unreachable"}


def __getattr__(name: str) -> Any:
    if name in _OF_THE_CLIENT:
        return getattr(importlib.import_module("headway.client"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
