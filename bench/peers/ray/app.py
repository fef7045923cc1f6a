"""Ray Serve, as its documentation writes it: dynamic batching behind HTTP, and its async inference on Celery.

The async part is there where BENCH_REDIS_URL is set.
"""

import datetime
import os
import signal

import ray
import served
from fastapi import FastAPI
from pydantic import BaseModel
from ray import serve

REDIS_URL = os.environ.get("BENCH_REDIS_URL", "")


class Submission(BaseModel):
    features: list[float]


@serve.deployment(num_replicas=1, max_ongoing_requests=1000)
class Classifier:
    def __init__(self) -> None:
        self.model = served.load()

    @serve.batch(max_batch_size=served.MAX_BATCH, batch_wait_timeout_s=served.WAIT_S)
    async def predict(self, features: list[list[float]]) -> list[list[float]]:
        return self.model(features)

    async def __call__(self, request) -> dict:
        return {"output": await self.predict((await request.json())["features"])}


def asynchronous() -> serve.Application:
    """A route that enqueues, one that reads, and the consumer."""
    from ray.serve.schema import CeleryAdapterConfig, TaskProcessorConfig
    from ray.serve.task_consumer import instantiate_adapter_from_config, task_consumer, task_handler

    config = TaskProcessorConfig(
        queue_name="bench", adapter_config=CeleryAdapterConfig(broker_url=REDIS_URL, backend_url=REDIS_URL)
    )

    @serve.deployment(num_replicas=1, max_ongoing_requests=1000)
    @task_consumer(task_processor_config=config)
    class Consumer:
        def __init__(self) -> None:
            self.model = served.load()

        @task_handler(name="predict")
        def predict(self, features: list[float]) -> dict:
            (output,) = self.model([features])
            return {"output": output, "completed_at": datetime.datetime.now(datetime.UTC).isoformat()}

    api = FastAPI()

    @serve.deployment(num_replicas=1, max_ongoing_requests=1000)
    @serve.ingress(api)
    class Front:
        def __init__(self, consumer) -> None:  # bound, so that both are deployed
            self.adapter = instantiate_adapter_from_config(config)

        @api.post("/predictions", status_code=202)
        def submit(self, submission: Submission) -> dict:
            return {"id": self.adapter.enqueue_task_sync(task_name="predict", args=[submission.features]).id}

        @api.get("/predictions/{task_id}")
        def read(self, task_id: str) -> dict:
            task = self.adapter.get_task_status_sync(task_id)
            return {"id": task_id, **(task.result if task.status == "SUCCESS" else {"status": "pending"})}

    return Front.bind(Consumer.bind())


if __name__ == "__main__":
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": served.PORT})
    serve.run(asynchronous() if REDIS_URL else Classifier.bind(), route_prefix="/")
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
    ray.shutdown()
