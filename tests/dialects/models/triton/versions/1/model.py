import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Which version it is."""

    def initialize(self, args):
        self.version = int(args["model_version"])

    def execute(self, requests):
        return [
            pb_utils.InferenceResponse(
                output_tensors=[
                    pb_utils.Tensor("VERSION", np.full(request.inputs()[0].as_numpy().shape, self.version, np.int32))
                ]
            )
            for request in requests
        ]
