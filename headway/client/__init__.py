"""The Python client: `headway.Client`, and `headway.AsyncClient` for asyncio.

verbs, batches   what is asked, awaited and understood; no I/O
asking     how anything is asked, and asked again; none either
steps      the few things it asks of whoever does its I/O
blocking, awaiting    the two who do
"""

from headway.client.awaiting import AsyncBatchJob, AsyncClient, AsyncJob
from headway.client.blocking import BatchJob, Client, Job
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
    Batch,
    BatchProgress,
    Counts,
    Emitted,
    Event,
    Failure,
    Metrics,
    Prediction,
    Progress,
    Progressed,
    Queue,
    Result,
    Transition,
)
from headway.client.upload import Line

__all__ = [
    "ApiError",
    "AsyncBatchJob",
    "AsyncClient",
    "AsyncJob",
    "Batch",
    "BatchJob",
    "BatchProgress",
    "Client",
    "Counts",
    "Emitted",
    "Event",
    "Failure",
    "Job",
    "Line",
    "Metrics",
    "NotSucceeded",
    "Prediction",
    "PredictionCanceled",
    "PredictionExpired",
    "PredictionFailed",
    "Progress",
    "Progressed",
    "Queue",
    "Result",
    "Timeout",
    "Transition",
    "Unreachable",
]
