"""BentoML's own clients against a server of ours: run by the Python that has bentoml, with the server's URL.

Prints a line of JSON a step.
"""

import asyncio
import json
import sys
from typing import Any

import bentoml
import numpy as np


def say(step: str, value: Any) -> None:
    print(json.dumps({step: value.tolist() if isinstance(value, np.ndarray) else value}), flush=True)


async def ended(task: Any, *statuses: str) -> str:
    for _ in range(400):
        status: str = (await task.get_status()).value
        if status in statuses:
            return status
        await asyncio.sleep(0.05)
    raise TimeoutError(f"{task.id} is {status}, and not {statuses}")


async def asynchronous(url: str) -> None:
    async with bentoml.AsyncHTTPClient(url) as client:
        say("add", await client.add(a=1))
        say("greet", await client.greet(person={"name": "Ada", "age": 36}))
        say("double", await client.double(array=np.array([[1, 2]])))
        say("whole", await client.total([1, 2.5]))
        say("text", await client.echo("héy"))
        say("stored", await client.iris(data=np.array([[0.0, 0.0], [3.0, 3.0]])))
        task = await client.slow.submit(seconds=0.1)
        say("completed", await ended(task, "completed"))
        say("result", await task.get())
        again = await task.retry()
        say("retried", [again.id != task.id, await ended(again, "completed")])
        long = await client.slow.submit(seconds=60)
        await ended(long, "in_progress")
        await long.cancel()
        say("canceled", await ended(long, "canceled"))
        bad = await client.slow.submit(seconds=0, then="bad")
        say("failed", await ended(bad, "failed"))
        try:
            await bad.get()
        except bentoml.exceptions.InvalidArgument as error:
            say("why", json.loads(str(error)))
        own = await client.times.submit(3)
        say("own", [await ended(own, "completed"), await own.get()])


def synchronous(url: str) -> None:
    with bentoml.SyncHTTPClient(url) as client:
        say("sync", [client.add(1, b=2), client.squares(rows=np.array([1, 2])).tolist(), client.is_ready()])
        try:
            client.add(a="x")
        except bentoml.exceptions.InvalidArgument as error:
            say("refused", json.loads(str(error))["error"])


asyncio.run(asynchronous(sys.argv[1]))
synchronous(sys.argv[1])
