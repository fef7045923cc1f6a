"""The plain application's worker: one Celery task, the model loaded once when the worker starts.

Settings are those of a careful user: late acknowledgement so that a killed worker loses no task, no events, Celery's
own prefetch. Broker and results are one Redis.
"""

import os
from typing import Any

import torch
from celery import Celery
from celery.signals import worker_init

URL = os.environ["PLAIN_REDIS_URL"]

app = Celery("plain", broker=URL, backend=URL)
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_serializer="json",
    result_serializer="json",
    accept_content=["json"],
    result_expires=3600,
    broker_connection_retry_on_startup=True,
)

_loaded: dict[str, Any] = {}


@worker_init.connect
def load(**_: object) -> None:
    torch.set_num_threads(1)
    _loaded["classifier"] = torch.export.load(os.environ["PLAIN_MODEL"]).module()


@app.task(name="plain.predict")
def predict(features: list[float]) -> list[float]:
    with torch.inference_mode():
        probabilities: list[float] = _loaded["classifier"](torch.tensor([features]))[0].tolist()
    return probabilities
