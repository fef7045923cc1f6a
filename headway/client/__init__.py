"""The Python client: `headway.Client`, and `headway.AsyncClient` for asyncio.

verbs      what is asked, asked again, awaited and understood; no I/O
steps      the few things it asks of whoever does its I/O
blocking, awaiting    the two who do
"""

from headway.client.awaiting import AsyncClient, AsyncJob
from headway.client.blocking import Client, Job
from headway.client.errors import (
    ApiError,
    NotSucceeded,
    PredictionCanceled,
    PredictionExpired,
    PredictionFailed,
    Timeout,
    Unreachable,
)
from headway.client.records import (
    Emitted,
    Event,
    Failure,
    Metrics,
    Prediction,
    Progress,
    Progressed,
    Queue,
    Transition,
)

__all__ = [
    "ApiError",
    "AsyncClient",
    "AsyncJob",
    "Client",
    "Emitted",
    "Event",
    "Failure",
    "Job",
    "Metrics",
    "NotSucceeded",
    "Prediction",
    "PredictionCanceled",
    "PredictionExpired",
    "PredictionFailed",
    "Progress",
    "Progressed",
    "Queue",
    "Timeout",
    "Transition",
    "Unreachable",
]
