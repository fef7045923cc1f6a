import asyncio

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """A coroutine that answers once for each number; a negative one raises."""

    async def execute(self, requests):
        await asyncio.gather(*(self.one(request) for request in requests))

    async def one(self, request):
        sender = request.get_response_sender()
        for number in pb_utils.get_input_tensor_by_name(request, "IN").as_numpy().tolist():
            await asyncio.sleep(0.01)
            if number < 0:
                raise ValueError("no number below zero")
            sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([number], np.int32))]))
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
