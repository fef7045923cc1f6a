"""A FastAPI route that stores nothing: it checks what was sent and answers 202 with an id. The least a front costs."""

import uuid
from typing import Annotated

from annotated_types import Len
from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI(title="FastAPI that stores nothing")


class Submission(BaseModel):
    features: Annotated[list[float], Len(10, 10)]


@app.post("/predictions", status_code=202)
async def submit(submission: Submission) -> dict[str, str]:
    return {"id": str(uuid.uuid4())}
