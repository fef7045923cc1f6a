"""KServe's first protocol: `{"instances": […]}` in, `{"predictions": […]}` out.

To a model that came with an InferenceService the body is one input as it is. Of a model of a Triton repository with a
batch dimension the instances become one request; for any other each instance is a prediction.
"""

from typing import Any

import msgspec

from api.answers import Answer
from api.dialects import jobs, values
from api.dialects.kserve import catalogue, events
from api.dialects.kserve.counters import counting
from api.dialects.kserve.errors import JSON, Refused, failed, invalid
from api.dialects.rows import MOST_ROWS
from api.exchange import Call
from api.registry import Target
from api.service import Service
from headway import kserve
from headway.manifest import Manifest


async def live(service: Service, call: Call) -> Answer:
    return _answer({"status": "alive"})


async def models(service: Service, call: Call) -> Answer:
    return _answer({"models": catalogue.names(service)})


async def model(service: Service, call: Call) -> Answer:
    name = call.params["model"]
    await catalogue.ready(service, name)
    return _answer({"name": name, "ready": True})


async def predict(service: Service, call: Call) -> Answer:
    service.submitter.check_room()
    target, row = await catalogue.target_of(service, call.params["model"])
    asked = await call.body(service.settings.max_body_bytes)
    payload = _payload(call, asked)
    given = inputs_of(payload, row.manifest)
    if jobs.is_job(call):
        return await _job(service, call, target, given, asked)
    with counting(target.model, "predict") as ends:
        try:
            answers = await values.compute(service, call, target, given)
        except values.Failed as error:
            raise failed(service, error) from error
        ends += answers.ends
    return events.answer(call.headers, target.model, reply_of(answers.outputs, row.manifest))


async def explain(service: Service, call: Call) -> Answer:
    """No model here has an explanation by this protocol, and KServe's words for one without are these."""
    await catalogue.target_of(service, call.params["model"])
    _payload(call, await call.body(service.settings.max_body_bytes))
    raise Refused(501, "Could not find explainer_host.")


def _answer(value: Any) -> Answer:
    return Answer(200, msgspec.json.encode(value), JSON)


async def _job(service: Service, call: Call, target: Target, given: list[Any], asked: bytes) -> Answer:
    if len(given) != 1:
        raise invalid(f"a job is one prediction, and these are {len(given)} instances for model {target.model}")
    (row,) = await values.rows_of(service, call, target, given)
    return await jobs.submit(service, call, target, row, asked)


def _payload(call: Call, body: bytes) -> dict[str, Any]:
    """The JSON object, out of its event where it comes in one. Raises Refused."""
    if binary := events.is_binary(call.headers):
        events.check(call.headers)
    try:
        payload = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        what = "Failed to decode or parse binary json cloudevent" if binary else "Unrecognized request format"
        raise invalid(f"{what}: {error}") from error
    payload = payload if binary else events.data_of(payload)
    if not isinstance(payload, dict):
        raise invalid("Unrecognized request format: expected a JSON object")
    if "instances" in payload and not isinstance(payload["instances"], list):
        raise invalid('Expected "instances" to be a list')
    return payload


def inputs_of(payload: dict[str, Any], manifest: Manifest) -> list[Any]:
    """The inputs of the predictions that it becomes. Raises Refused."""
    if manifest.backend == kserve.BACKEND:
        return [payload]
    if manifest.whole:
        raise invalid("this model takes the Open Inference Protocol: /v2/models/{model}/infer")
    rows = payload.get("inputs", payload.get("instances"))
    if not isinstance(rows, list):
        raise invalid('Expected "instances" to be a list')
    if len(rows) > MOST_ROWS:
        raise invalid(f"there are {len(rows)} instances, and may be {MOST_ROWS}")
    if manifest.items != "joined" or not rows:
        return rows
    if not all(isinstance(one, dict) for one in rows):
        if len(manifest.inputs) != 1:
            raise invalid(f"each of the instances should be an object with {', '.join(manifest.inputs)}")
        return [dict.fromkeys(manifest.inputs, rows)]
    if any(one.keys() != rows[0].keys() for one in rows):
        raise invalid("the instances have different names")
    return [{name: [one[name] for one in rows] for name in rows[0]}]


def reply_of(outputs: list[Any], manifest: Manifest) -> Any:
    if manifest.backend == kserve.BACKEND:
        return outputs[0]
    if manifest.items != "joined" or not outputs:
        return {"predictions": [_plain(output) for output in outputs]}
    columns = _plain(outputs[0])
    if not isinstance(columns, dict):
        return {"predictions": columns}
    if len(columns) == 1:
        return {"predictions": next(iter(columns.values()))}
    return {"predictions": [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]}


def _plain(output: Any) -> Any:
    """Arrays as lists. Raises Refused for bytes, which JSON does not hold."""
    if isinstance(output, bytes):
        raise Refused(500, "the output is no JSON: ask for a job, and read its output")
    if isinstance(output, dict):
        return {name: _plain(value) for name, value in output.items()}
    return output.tolist() if hasattr(output, "tolist") else output
