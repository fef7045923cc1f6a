import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """What came, of whatever type."""

    def execute(self, requests):
        return [
            pb_utils.InferenceResponse(
                output_tensors=[pb_utils.Tensor(f"{one.name()}_OUT", one.as_numpy()) for one in request.inputs()]
            )
            for request in requests
        ]
