"""TF Serving's gRPC port: PredictionService and ModelService."""

import asyncio
from typing import Any

import msgspec
from google.protobuf.message import Message

from api.dialects import jobs, rpc
from api.dialects.rpc import Method
from api.dialects.tfserving import inference, messages, models
from api.dialects.tfserving.errors import Code, Refused, invalid, refused_of
from api.dialects.tfserving.replies import Output
from api.dialects.tfserving.rest import no_examples
from api.dialects.tfserving.signatures import CLASSIFY, DEFAULT, REGRESS
from api.exchange import Call
from api.service import Service

_WORDS = rpc.Words(refused_of, unavailable=lambda said: Refused(Code.UNAVAILABLE, said), invalid=invalid)


async def run(service: Service, stopped: asyncio.Event, *, shared: bool, most: int) -> None:
    """As `rpc.run`."""
    answering = rpc.Answering(service, "tfserving", _WORDS)
    methods = _Methods(service)
    prediction = {
        "Predict": Method(methods.predict, "predict"),
        "GetModelMetadata": Method(methods.metadata, "read"),
        "Classify": Method(methods.classify, "predict"),
        "Regress": Method(methods.regress, "predict"),
        "MultiInference": Method(methods.multi, "predict"),
    }
    model = {
        "GetModelStatus": Method(methods.status, "read"),
        "HandleReloadConfigRequest": Method(methods.reload, "admin"),
    }
    answering.add(messages.PREDICTION_SERVICE, prediction)
    answering.add(messages.MODEL_SERVICE, model)
    port = service.settings.dialects["tfserving"]["grpc"]
    await rpc.run(service, answering, port, stopped, shared=shared, most=most)


class _Methods:
    """A message in, a message out. Raise Refused, Problem, Disconnected."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def predict(self, request: Any, call: Call) -> Message:
        service, spec = self._service, request.model_spec
        service.submitter.check_room()
        found = await models.find(service, messages.asked_of(spec))
        signature = models.signature_of(found, spec.signature_name)
        question = inference.of_tensors(found, signature, messages.inputs_of(request, signature))
        name = spec.signature_name or DEFAULT
        if jobs.is_job(call):
            answer = await inference.submit(service, call, question, request.SerializeToString(deterministic=True))
            return self._job(found, name, msgspec.json.decode(answer.body), dict(answer.headers)[b"location"].decode())
        outputs = inference.arrays(found, await inference.infer(service, call, question))
        return messages.response_of(found, name, outputs, request.output_filter)

    def _job(self, found: models.Found, name: str, accepted: Any, url: str) -> Message:
        """Three strings instead of the outputs, which will be where the URL says."""
        said = {"headway_job_id": accepted["id"], "headway_job_status": accepted["status"], "headway_job_url": url}
        outputs = [Output(key, "BYTES", inference.text(value)) for key, value in said.items()]
        return messages.response_of(found, name, outputs, ())

    async def metadata(self, request: Any, call: Call) -> Message:
        if not request.metadata_field:
            raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != "signature_def":
                raise invalid(f"Metadata field {field[:200]} is not supported")
        await self._service.registry.refresh()
        return messages.metadata_of(await models.find(self._service, messages.asked_of(request.model_spec)))

    async def status(self, request: Any, call: Call) -> Message:
        asked = messages.asked_of(request.model_spec)
        return messages.status_of(await models.statuses(self._service, asked))

    async def classify(self, request: Any, call: Call) -> Message:
        raise await self._no_examples(request, "classification", CLASSIFY)

    async def regress(self, request: Any, call: Call) -> Message:
        raise await self._no_examples(request, "regression", REGRESS)

    async def _no_examples(self, request: Any, kind: str, method: str) -> Refused:
        found = await models.find(self._service, messages.asked_of(request.model_spec))
        return no_examples(found, request.model_spec.signature_name, kind, method)

    async def multi(self, request: Any, call: Call) -> Message:
        raise Refused(Code.UNIMPLEMENTED, "MultiInference takes tf.Example, which only TensorFlow itself reads")

    async def reload(self, request: Any, call: Call) -> Message:
        raise messages.no_reload()
