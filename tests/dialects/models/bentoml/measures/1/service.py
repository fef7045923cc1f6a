"""What both are given: plain calls, a batch, arrays, a task, and what goes wrong."""

import asyncio
import pathlib
import tempfile
import time
import typing as t
from http import HTTPStatus

import bentoml
import numpy as np
from bentoml.exceptions import BadInput, BentoMLException, NotFound, ServiceUnavailable
from pydantic import BaseModel, Field


class Person(BaseModel):
    name: str
    age: int = Field(ge=0)
    tags: list[str] = []


class Greeting(BaseModel):
    text: str
    years: int


@bentoml.service(name="measures", traffic={"timeout": 2})
class Measures:
    def __init__(self) -> None:
        self.seen: list[int] = []

    @bentoml.api
    def add(self, a: int, b: float = 2.5) -> float:
        """The sum of two numbers."""
        return a + b

    @bentoml.api
    def greet(self, person: Person, loud: bool = False) -> Greeting:
        text = f"Hello {person.name}"
        return Greeting(text=text.upper() if loud else text, years=person.age)

    @bentoml.api
    def shout(self, text: str) -> str:
        return text.upper() + "é"

    @bentoml.api
    def anything(self, value: t.Any = None) -> t.Any:
        return {"type": type(value).__name__, "value": value}

    @bentoml.api(route="/lists/join")
    def join(self, words: list[str], parts: dict[str, int] | None = None) -> list[str]:
        return [*words, *(parts or {})]

    @bentoml.api
    def double(self, array: np.ndarray) -> np.ndarray:
        return array * 2

    @bentoml.api
    def shaped(
        self, array: t.Annotated[np.ndarray, bentoml.validators.DType("float32"), bentoml.validators.Shape((2, 2))]
    ) -> dict[str, t.Any]:
        return {"dtype": str(array.dtype), "shape": list(array.shape)}

    @bentoml.api
    def total(self, numbers: list[float], /) -> float:
        return sum(numbers)

    @bentoml.api
    def echo(self, text: str, /) -> str:
        return text

    @bentoml.api(batchable=True, max_batch_size=4, max_latency_ms=5000)
    def squares(self, rows: np.ndarray) -> np.ndarray:
        self.seen.append(len(rows))
        if (rows < 0).any():
            raise ValueError("negative")
        return rows**2

    @bentoml.api(batchable=True, max_batch_size=8)
    def lengths(self, texts: list[str]) -> list[int]:
        return [len(text) for text in texts]

    @bentoml.api
    async def waits(self, seconds: float) -> str:
        await asyncio.sleep(seconds)
        return f"{seconds}"

    @bentoml.api
    def sizes(self, file: pathlib.Path, name: str = "none") -> dict[str, t.Any]:
        return {"size": len(file.read_bytes()), "suffix": file.suffix, "name": name}

    @bentoml.api
    def bytes_of(self, text: str) -> bytes:
        return text.encode()

    @bentoml.api
    def file_of(self, text: str) -> pathlib.Path:
        file = pathlib.Path(tempfile.gettempdir()) / "headway-dialects-said.txt"
        file.write_text(text)
        return file

    @bentoml.api
    def pieces(self, count: int) -> t.Generator[str, None, None]:
        for number in range(count):
            yield f"piece {number}\n"

    @bentoml.api
    def heard(self, ctx: bentoml.Context) -> str:
        return str(ctx.request.headers.get("x-name"))

    @bentoml.api
    def fails(self, how: str) -> int:
        if how == "bad":
            raise BadInput("that is no good")
        if how == "missing":
            raise NotFound("there is none")
        if how == "type":
            return t.cast(int, "no number")
        if how == "forbidden":
            raise BentoMLException("not for you", error_code=HTTPStatus.FORBIDDEN)
        if how == "overloaded":
            raise ServiceUnavailable("too much")
        if how == "slow":
            time.sleep(3)
        raise ValueError("broken on purpose")

    @bentoml.api
    def with_context(self, x: int, ctx: bentoml.Context) -> dict[str, int]:
        ctx.response.status_code = 202
        ctx.response.headers["x-said"] = "yes"
        return {"x": x}

    @bentoml.task
    def slow(self, seconds: float, then: str = "done") -> dict[str, t.Any]:
        time.sleep(seconds)
        if then == "raise":
            raise ValueError("asked to")
        if then == "bad":
            raise BadInput("asked to be bad")
        return {"slept": seconds, "then": then}

    @bentoml.task(route="/jobs/text")
    def text_job(self, text: str) -> str:
        return text[::-1]
