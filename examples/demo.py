"""What `make demo` runs: the whole system, started by one command, on real input.

Trains the digits model if it is not there, starts `headway up`, asks for the digits on images the net never saw
(synchronously, one image a request), submits 500 sentences to be embedded (asynchronously) and polls them to the end,
shows the micro-batches that formed, and stops everything. Exits with 0 only if all of it went right.
"""

import asyncio
import ssl
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import httpx
import numpy as np
import numpy.typing as npt
import rich.markup
import sqlalchemy
from rich.console import Console
from rich.table import Table

from examples import train_digits
from examples.sentences import standard_library_sentences
from headway.running import RunningHeadway
from storage.engine import Database

MODELS = Path(__file__).resolve().parent / "models"
CALLERS = 50
SENTENCES = 500
LEAST_ACCURACY = 0.95

#: What is asked → another way to say it, which should lie nearer to it than to any other question.
PROBES = {
    "Make a file smaller by squeezing it.": "Compress the data.",
    "Send an electronic letter to someone.": "Deliver an e-mail message.",
    "What is the time now?": "Tell the hour of the day.",
}

#: Made once: it is the slow part of a client, and over loopback nobody needs it.
TLS = ssl.create_default_context()

#: The last size of each column of the table.
SIZES = (1, 4, 8, 16, 32, 64)

Vectors = npt.NDArray[np.float32]
T = TypeVar("T")
R = TypeVar("R")

console = Console(highlight=False, width=min(Console().width, 110))


class Failed(Exception):  # noqa: N818  (reads as what happened: the demo failed)
    """Something came out wrong."""


def client_of(url: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url, timeout=90, trust_env=False, verify=TLS)


async def side_by_side(url: str, call: Callable[[httpx.AsyncClient, T], Awaitable[R]], values: Sequence[T]) -> list[R]:
    """`call` of every value, in the order of the values, by CALLERS callers with a connection each."""
    results: dict[int, R] = {}
    left = iter(enumerate(values))

    async def caller() -> None:
        async with client_of(url) as client:
            for number, value in left:
                results[number] = await call(client, value)

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return [results[number] for number in range(len(values))]


def content(response: httpx.Response) -> dict[str, Any]:
    if response.is_error:
        raise Failed(f"{response.request.method} {response.request.url.path}: {response.status_code} {response.text}")
    body: dict[str, Any] = response.json()
    return body


async def read_digits(url: str) -> None:
    """Every held-out image, synchronously, one image a request."""
    images, labels = train_digits.held_out()

    async def probabilities(client: httpx.AsyncClient, image: list[list[float]]) -> list[float]:
        response = await client.post("/v1/models/digits:predict", json={"instances": [image]})
        row: list[float] = content(response)["predictions"][0]["probabilities"]
        return row

    began = time.perf_counter()
    rows = np.array(await side_by_side(url, probabilities, images.tolist()))
    took = time.perf_counter() - began
    guessed = rows.argmax(axis=1)
    accuracy = float((guessed == labels).mean())
    console.print(f"\n[bold]digits[/]: {len(labels)} held-out images, {CALLERS} callers, {took:.1f} s, synchronously")
    draw(images[0], guessed[0], rows[0])
    console.print(f"accuracy {accuracy:.3f}")
    if accuracy < LEAST_ACCURACY:
        raise Failed(f"an accuracy of {accuracy:.3f} is under {LEAST_ACCURACY}")


def draw(image: npt.NDArray[np.float32], digit: int, probabilities: Vectors) -> None:
    for row in image:
        console.print("  " + "".join(" ░▒▓█"[int(grey) * 4 // 16] * 2 for grey in row))
    console.print(f"is a {digit} ({probabilities[digit]:.1%})")


async def embed_sentences(url: str) -> None:
    """500 sentences submitted at once and polled to the end, then a look at what lies near what."""
    sentences = standard_library_sentences(SENTENCES)
    began = time.perf_counter()
    ids = await side_by_side(url, submit, sentences)
    accepted = time.perf_counter() - began
    vectors = np.array(await side_by_side(url, poll, ids), dtype=np.float32)
    took = time.perf_counter() - began
    lengths = [len(sentence) for sentence in sentences]
    console.print(
        f"\n[bold]embed[/]: {len(ids)} sentences of {min(lengths)} to {max(lengths)} characters out of docstrings,\n"
        f"accepted in {accepted:.1f} s, all embedded after {took:.1f} s"
    )
    if not np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3):
        raise Failed("an embedding is not of unit length")
    async with client_of(url) as client:
        answer = await client.post("/v1/models/embed:predict", json={"instances": [*PROBES, *PROBES.values()]})
    asked, reworded = np.split(np.array(content(answer)["predictions"], dtype=np.float32), 2)
    if ((asked @ reworded.T).argmax(axis=1) != np.arange(len(PROBES))).any():
        raise Failed("sentences that mean the same do not lie near each other")
    show_neighbours(sentences, vectors, asked)


async def submit(client: httpx.AsyncClient, sentence: str) -> str:
    response = await client.post("/v1/models/embed/predictions", json={"input": sentence})
    return str(content(response)["id"])


async def poll(client: httpx.AsyncClient, id_: str) -> list[float]:
    """The output, once there is one."""
    while True:
        response = await client.get(f"/v1/predictions/{id_}", headers={"Prefer": "wait=30"})
        prediction = content(response)
        if prediction["status"] == "succeeded":
            output: list[float] = prediction["output"]
            return output
        if prediction["status"] not in ("queued", "in_progress"):
            raise Failed(f"prediction {id_} {prediction['status']}: {prediction['error']}")


def show_neighbours(sentences: Sequence[str], vectors: Vectors, asked: Vectors) -> None:
    table = Table("asked", "nearest of the 500", "cosine")
    for probe, vector in zip(PROBES, asked, strict=True):
        cosines = vectors @ vector
        nearest = int(cosines.argmax())
        table.add_row(probe, sentences[nearest], f"{cosines[nearest]:.2f}")
    console.print(table)


def show_batches(database: Path) -> None:
    """Each row in SQL knows the size of the micro-batch it was computed in."""
    console.print("\n[bold]micro-batches that formed[/], and how many of which size")
    table = Table("model", "in all", "mean size", "1")
    for least, most in pairwise(SIZES):
        table.add_column(f"{least + 1}–{most}")
    for column in table.columns[1:]:
        column.justify = "right"
    for model, rows in micro_batches(database).items():
        batches = {size: predictions // size for size, predictions in rows}
        mean = sum(size * count for size, count in batches.items()) / sum(batches.values())
        ranges = pairwise((0, *SIZES))
        counts = [sum(batches[size] for size in batches if least < size <= most) for least, most in ranges]
        table.add_row(model, str(sum(batches.values())), f"{mean:.1f}", *map(str, counts))
    console.print(table)


def micro_batches(database: Path) -> dict[str, list[tuple[int, int]]]:
    """model → [(size, predictions that were computed in one of that size)], largest first."""
    store = Database.open(f"sqlite:///{database}")
    try:
        with store.read() as connection:
            rows: Iterable[Any] = connection.execute(
                sqlalchemy.text(
                    "SELECT model, batch_size, count(*) FROM predictions WHERE batch_size IS NOT NULL"
                    " GROUP BY model, batch_size ORDER BY model, batch_size DESC"
                )
            )
            found: dict[str, list[tuple[int, int]]] = {}
            for model, size, predictions in rows:
                found.setdefault(model, []).append((size, predictions))
    finally:
        store.close()
    return found


async def use(system: RunningHeadway) -> None:
    await read_digits(system.data_url)
    await embed_sentences(system.data_url)


def main() -> int:
    if not train_digits.MODEL.exists():
        console.print("training the digits model …")
        console.print(f"accuracy on held-out images {train_digits.build():.3f}")
    console.print("starting `headway up` …")
    began = time.perf_counter()
    try:
        with tempfile.TemporaryDirectory(prefix="headway-demo-") as data:
            with RunningHeadway(Path(data), models=MODELS, flower=True) as system:
                console.print(
                    f"ready after {time.perf_counter() - began:.1f} s at {system.data_url}, the models loaded"
                )
                asyncio.run(use(system))
                show_batches(system.database)
            console.print("\nstopped; all went right")
    except (Failed, RuntimeError, httpx.HTTPError) as error:
        console.print(f"[red]failed[/]: {rich.markup.escape(str(error))}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
