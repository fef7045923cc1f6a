"""Many predictions with the Python client: all submitted, then each printed as soon as it has ended.

    python examples/submit_many.py --model embed "A sentence." "Another one."

Each argument is an input: JSON where it is JSON, else a string. `submit_and_poll.py` does it in plain HTTP.
"""

import argparse
import asyncio
import json
import sys
from typing import Any

from headway import AsyncClient, NotSucceeded


async def ask(client: AsyncClient, model: str, value: Any) -> bool:
    job = await client.submit(model, value)  # from here on it is not lost, whatever dies
    try:
        output = json.dumps(await job.result())
        print(job.id, output if len(output) <= 100 else f"{output[:97]}…")
    except NotSucceeded as error:
        print(error)
    return job.status == "succeeded"


def value_of(argument: str) -> Any:
    try:
        return json.loads(argument)
    except json.JSONDecodeError:
        return argument


async def main() -> int:
    parser = argparse.ArgumentParser(description="Submit predictions and print how they end.")
    parser.add_argument("--url", help="the data plane; else HEADWAY_URL, else http://127.0.0.1:8000")
    parser.add_argument("--model", default="embed")
    parser.add_argument("inputs", nargs="+", type=value_of, metavar="INPUT", help="JSON, or else a string")
    options = parser.parse_args()
    async with AsyncClient(options.url) as client:
        return 0 if all(await asyncio.gather(*(ask(client, options.model, each) for each in options.inputs))) else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
