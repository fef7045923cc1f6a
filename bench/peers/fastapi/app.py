"""FastAPI with the AsyncBatcher of the serving chapter, its limits and its lock as they stand there."""

import asyncio
from collections import deque
from contextlib import asynccontextmanager

import served
from fastapi import FastAPI
from pydantic import BaseModel, Field


class PredictionRequest(BaseModel):
    features: list[float] = Field(..., min_length=1, description="Input features")
    request_id: str | None = Field(None, description="Optional request ID for tracking")


class AsyncBatcher:
    """
    Collects individual requests and processes them in batches
    for higher GPU utilization.
    """

    def __init__(self, model, max_batch_size: int = 32, max_wait_ms: float = 10.0):
        self.model = model
        self.max_batch_size = max_batch_size
        self.max_wait_ms = max_wait_ms
        self.pending: deque = deque()
        self.lock = asyncio.Lock()
        self._batch_task = None

    async def predict(self, features: list[float]) -> dict:
        """Submit a prediction request and wait for result"""
        future = asyncio.Future()

        async with self.lock:
            self.pending.append((features, future))

            # Start batch processing if needed
            if len(self.pending) >= self.max_batch_size:
                await self._process_batch()
            elif self._batch_task is None:
                self._batch_task = asyncio.create_task(self._wait_and_process())

        return await future

    async def _wait_and_process(self):
        """Wait for max_wait_ms then process batch"""
        await asyncio.sleep(self.max_wait_ms / 1000)
        async with self.lock:
            if self.pending:
                await self._process_batch()
            self._batch_task = None

    async def _process_batch(self):
        """Process all pending requests as a batch"""
        if not self.pending:
            return

        # Collect batch
        batch_items = []
        while self.pending and len(batch_items) < self.max_batch_size:
            batch_items.append(self.pending.popleft())

        # Prepare batch input
        features_batch = [item[0] for item in batch_items]
        futures = [item[1] for item in batch_items]

        try:
            outputs = self.model(features_batch)
            for future, output in zip(futures, outputs, strict=True):
                future.set_result({"output": output})

        except Exception as e:
            # Propagate error to all futures
            for future in futures:
                if not future.done():
                    future.set_exception(e)


batcher = None


@asynccontextmanager
async def lifespan(app: FastAPI):
    global batcher
    batcher = AsyncBatcher(served.load(), max_batch_size=served.MAX_BATCH, max_wait_ms=served.WAIT_S * 1000)
    yield


app = FastAPI(title="ML Model Serving API", lifespan=lifespan)


@app.post("/predict/batched")
async def predict_with_batching(request: PredictionRequest):
    return await batcher.predict(request.features)
