"""The plain application's front: FastAPI as its documentation writes it.

The routes are plain functions because Celery's client blocks: FastAPI runs them in its thread pool.
"""

from typing import Annotated, Any

from annotated_types import Len
from celery.result import AsyncResult
from fastapi import FastAPI
from pydantic import BaseModel

from bench.plain import tasks

app = FastAPI(title="FastAPI + plain Celery")


class Submission(BaseModel):
    features: Annotated[list[float], Len(10, 10)]


@app.post("/predictions", status_code=202)
def submit(submission: Submission) -> dict[str, str]:
    return {"id": tasks.predict.delay(submission.features).id}


@app.get("/predictions/{task_id}")
def read(task_id: str) -> dict[str, Any]:
    result: AsyncResult[list[float]] = AsyncResult(task_id, app=tasks.app)
    if not result.ready():
        return {"id": task_id, "status": "pending"}
    return {
        "id": task_id,
        "status": "succeeded" if result.successful() else "failed",
        "output": result.result if result.successful() else None,
        "completed_at": result.date_done,
    }


@app.post("/predict")
def predict(submission: Submission) -> dict[str, Any]:
    """Submit and wait on Redis's publish/subscribe: no polling interval in the way."""
    result = tasks.predict.delay(submission.features)
    return {"id": result.id, "status": "succeeded", "output": result.get(timeout=60)}
