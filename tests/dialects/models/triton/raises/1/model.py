import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Fails in the ways in which Python does, each at a number of its own."""

    def execute(self, requests):
        responses = []
        for request in requests:
            numbers = pb_utils.get_input_tensor_by_name(request, "N").as_numpy()
            first = int(numbers.flatten()[0])
            if first < 0:
                raise ValueError(f"{first} is below zero")
            if first == 100:
                return []
            if first == 101:
                raise pb_utils.TritonModelException("the model says no")
            outputs = {
                102: lambda: [pb_utils.Tensor("ANOTHER", numbers)],
                103: lambda: [pb_utils.Tensor("TWICE", numbers.astype(np.float64))],
                104: lambda: [pb_utils.Tensor("TWICE", np.zeros((5, 5), np.int32))],
                105: list,
            }.get(first, lambda: [pb_utils.Tensor("TWICE", numbers * 2)])
            responses.append(pb_utils.InferenceResponse(output_tensors=outputs()))
        return responses
