"""A client in plain httpx: submit predictions, then poll each until it has ended.

    python examples/submit_and_poll.py --model embed "A sentence." "Another one."

Each argument is an input: JSON where it is JSON, else a string. Submitting answers at once; polling with
`Prefer: wait` is held open until the prediction ends, so that nobody has to guess an interval.
"""

import argparse
import json
import sys
from typing import Any

import httpx

TERMINAL = {"succeeded", "failed", "canceled", "expired"}


def submit(client: httpx.Client, model: str, value: Any) -> str:
    """The id of the accepted prediction: from here on it will not be lost."""
    response = client.post(f"/v1/models/{model}/predictions", json={"input": value})
    response.raise_for_status()
    return str(response.json()["id"])


def poll(client: httpx.Client, id_: str) -> dict[str, Any]:
    """The prediction, once it has ended."""
    while True:
        response = client.get(f"/v1/predictions/{id_}", headers={"Prefer": "wait=30"})
        response.raise_for_status()
        prediction: dict[str, Any] = response.json()
        if prediction["status"] in TERMINAL:
            return prediction


def show(prediction: dict[str, Any]) -> None:
    if prediction["status"] == "succeeded":
        output = json.dumps(prediction["output"])
        print(prediction["id"], output if len(output) <= 100 else f"{output[:97]}…")
    else:
        print(prediction["id"], prediction["status"], prediction["error"])


def value_of(argument: str) -> Any:
    try:
        return json.loads(argument)
    except json.JSONDecodeError:
        return argument


def main() -> int:
    parser = argparse.ArgumentParser(description="Submit predictions and poll them to the end.")
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="the data plane")
    parser.add_argument("--model", default="embed")
    parser.add_argument("inputs", nargs="+", type=value_of, metavar="INPUT", help="JSON, or else a string")
    options = parser.parse_args()
    with httpx.Client(base_url=options.url, timeout=60) as client:
        ids = [submit(client, options.model, value) for value in options.inputs]
        predictions = [poll(client, id_) for id_ in ids]
    for prediction in predictions:
        show(prediction)
    return 0 if all(prediction["status"] == "succeeded" for prediction in predictions) else 1


if __name__ == "__main__":
    sys.exit(main())
