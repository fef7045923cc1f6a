"""Answers each input under its name, decoded and encoded again; some inputs by their name something else."""

import json
from datetime import datetime, timedelta

import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.errors import MLServerError
from mlserver.types import InferenceRequest, InferenceResponse, Parameters, ResponseOutput


class Echo(MLModel):
    async def load(self) -> bool:
        self._word = self.settings.parameters.extra["word"]
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        outputs = [self._output(one) for one in payload.inputs]
        return InferenceResponse(
            model_name=self.name,
            model_version=self.version,
            parameters=Parameters(word=self._word),
            outputs=outputs,
        )

    def _output(self, given):
        if given.name == "refuse":
            raise MLServerError("no such thing", 409)
        if given.name == "fail":
            raise ValueError("this went wrong")
        value = self.decode(given, default_codec=NumpyCodec)
        if given.name == "what":
            return StringCodec.encode_output("what", [type(value).__name__, str(value)])
        if isinstance(value, np.ndarray):
            return NumpyCodec.encode_output(given.name, value)
        if value and isinstance(value[0], datetime):
            value = [one + timedelta(days=1) for one in value]
            return ResponseOutput(
                name=given.name, shape=[len(value), 1], datatype="BYTES", data=[one.isoformat() for one in value]
            )
        if value and isinstance(value[0], bytes):
            value = [json.dumps(list(one)) for one in value]
        return StringCodec.encode_output(given.name, list(value))
