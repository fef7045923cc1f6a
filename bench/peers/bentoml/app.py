"""BentoML, as its documentation writes it: a batchable API, and a task for what is asked for later."""

import datetime
from typing import Any

import bentoml
import served


@bentoml.service(
    workers=1,
    traffic={"timeout": 120, "concurrency": 1024, "max_concurrency": 100000},
    logging={"access": {"enabled": False}},
)
class Classifier:
    def __init__(self) -> None:
        self.model = served.load()

    @bentoml.api(batchable=True, max_batch_size=served.MAX_BATCH, max_latency_ms=1000)
    def predict(self, features: list[Any]) -> list[Any]:
        return self.model(features)

    @bentoml.task
    def later(self, features: list[float]) -> dict[str, Any]:
        (output,) = self.model([features])
        return {"output": output, "completed_at": datetime.datetime.now(datetime.UTC).isoformat()}
